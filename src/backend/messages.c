/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the front-end's messages mean ("Front-end message types" of the vhost-user
 * specification). A table has a row a message: which queues must stand still for
 * it, and the function that does it. The functions run between the two, when no
 * worker touches what they change; they answer by filling session->reply.
 *
 * What is refused is refused with a sentence in the log. The front-end learns of
 * it by a non-zero acknowledgement when it asked for one; else the connection is
 * closed, for it would go on as if all were well.
 */
#include "backend/session.h"

#include "proto/vhost-user/server.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define ALWAYS_OFFERED                                                                        \
	(VUBLK_BIT(VUBLK_VU_F_MQ) | VUBLK_BIT(VUBLK_VU_F_LOG_SHMFD) |                         \
	 VUBLK_BIT(VUBLK_VU_F_REPLY_ACK) |                                                    \
	 VUBLK_BIT(VUBLK_VU_F_BACKEND_REQ) | VUBLK_BIT(VUBLK_VU_F_CONFIG) |                   \
	 VUBLK_BIT(VUBLK_VU_F_RESET_DEVICE) | VUBLK_BIT(VUBLK_VU_F_CONFIGURE_MEM_SLOTS) |     \
	 VUBLK_BIT(VUBLK_VU_F_STATUS))

#define OFFERED_WITH_INFLIGHT                                                                 \
	(VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD) |                                               \
	 VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_INFLIGHT) |                                      \
	 VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_SKIP_DRAIN))

/* --- helpers --------------------------------------------------------------- */

static const struct vublk_engine_geometry *geometry_of(const struct vublk_session *session)
{
	return &session->owner->engine->geometry;
}

/* The index has been checked by begin_message(). */
static struct vublk_queue *state_queue(struct vublk_session *session)
{
	return &session->queues[session->request.payload.state.index];
}

static struct vublk_queue *u64_queue(struct vublk_session *session)
{
	return &session->queues[session->request.payload.u64 & VUBLK_VU_VRING_INDEX_MASK];
}

static void reply_u64(struct vublk_session *session, uint64_t value)
{
	vublk_vu_reply_u64(&session->reply, value);
}

/* --- features and status --------------------------------------------------- */

static int get_features(struct vublk_session *session, struct vublk_error *error)
{
	reply_u64(session, vublk_backend_features(geometry_of(session)));
	return 0;
}

static void stop_if_features_change(struct vublk_session *session)
{
	if (session->request.payload.u64 != session->features)
		vublk_session_stop_all(session);
}

static int set_features(struct vublk_session *session, struct vublk_error *error)
{
	uint64_t features = session->request.payload.u64;
	int r = vublk_vu_refuse_unknown_bits("SET_FEATURES", features,
				    vublk_backend_features(geometry_of(session)), error);

	if (r)
		return r;
	session->features = features;
	if (features & VUBLK_BIT(VUBLK_VU_VIRTIO_F_PROTOCOL_FEATURES))
		return 0;
	session->enables_all = true;
	for (unsigned i = 0; i < session->num_used; i++)
		session->queues[i].setup.enabled = true;
	return 0;
}

static uint64_t offered_protocol_features(const struct vublk_session *session)
{
	return ALWAYS_OFFERED | (session->owner->inflight ? OFFERED_WITH_INFLIGHT : 0);
}

static int get_protocol_features(struct vublk_session *session, struct vublk_error *error)
{
	reply_u64(session, offered_protocol_features(session));
	return 0;
}

static int set_protocol_features(struct vublk_session *session, struct vublk_error *error)
{
	uint64_t features = session->request.payload.u64;
	int r = vublk_vu_refuse_unknown_bits("SET_PROTOCOL_FEATURES", features,
				    offered_protocol_features(session), error);

	if (!r)
		r = vublk_vu_check_skip_drain(features, error);
	if (r)
		return r;
	session->protocol_features = features;
	session->back_channel.has_ack = features & VUBLK_BIT(VUBLK_VU_F_REPLY_ACK);
	return 0;
}

/*
 * SET_OWNER begins a session, which a connection is already; RESET_OWNER is deprecated.
 * SET_LOG_FD's descriptor may be used to tell that the log has changed; who wants to
 * know looks at the log.
 */
static int do_nothing(struct vublk_session *session, struct vublk_error *error)
{
	return 0;
}

static void reset_queues(struct vublk_session *session)
{
	session->enables_all = false;
	for (unsigned i = 0; i < session->num_used; i++)
		vublk_queue_reset(&session->queues[i]);
}

/*
 * Memory and notifiers are the front-end's and stay, and so does the write cache's
 * setting: the config that the next driver sees may be a copy that the front-end made
 * before the reset. The rest is as at the beginning.
 */
static int reset_device(struct vublk_session *session, struct vublk_error *error)
{
	reset_queues(session);
	vublk_inflight_area_unmap(&session->inflight);
	session->features = 0;
	session->status = 0;
	return 0;
}

static int get_status(struct vublk_session *session, struct vublk_error *error)
{
	reply_u64(session, session->status);
	return 0;
}

static void stop_if_status_is_zero(struct vublk_session *session)
{
	if (!session->request.payload.u64)
		vublk_session_stop_all(session);
}

/*
 * Status 0 comes when a driver resets the device and when a VM is merely paused or
 * migrated, so no more is forgotten than what is said again at each start; and not
 * the base, which QEMU 7.2 asks for afterwards.
 */
static void rest_queues(struct vublk_session *session)
{
	session->enables_all = false;
	for (unsigned i = 0; i < session->num_used; i++) {
		uint16_t base = session->queues[i].setup.base;

		vublk_queue_reset(&session->queues[i]);
		session->queues[i].setup.base = base;
	}
}

static int set_status(struct vublk_session *session, struct vublk_error *error)
{
	uint64_t status = session->request.payload.u64;

	if (status > UINT8_MAX)
		return vublk_error_set(error, EPROTO, "SET_STATUS has 0x%" PRIx64
				       ", which is more than a byte", status);
	session->status = (uint8_t)status;
	if (!status)
		rest_queues(session);
	return 0;
}

/* --- memory ---------------------------------------------------------------- */

static int set_mem_table(struct vublk_session *session, struct vublk_error *error)
{
	return vublk_backend_memory_set(&session->memory, &session->request, error);
}

static int add_mem_reg(struct vublk_session *session, struct vublk_error *error)
{
	return vublk_backend_memory_add(&session->memory, &session->request, error);
}

static int rem_mem_reg(struct vublk_session *session, struct vublk_error *error)
{
	return vublk_backend_memory_remove(&session->memory, &session->request, error);
}

static int get_max_mem_slots(struct vublk_session *session, struct vublk_error *error)
{
	reply_u64(session, VUBLK_BACKEND_MEMORY_SLOTS);
	return 0;
}

/* --- the dirty log --------------------------------------------------------- */

static int set_log_base(struct vublk_session *session, struct vublk_error *error)
{
	if (!(session->protocol_features & VUBLK_BIT(VUBLK_VU_F_LOG_SHMFD)))
		return vublk_error_set(error, EPROTO, "SET_LOG_BASE needs the protocol feature "
				       "LOG_SHMFD, which was not accepted");
	return vublk_backend_dirty_log_set(&session->dirty_log, &session->request, error);
}

/* --- queues ---------------------------------------------------------------- */

static int get_queue_num(struct vublk_session *session, struct vublk_error *error)
{
	reply_u64(session, session->owner->num_queues);
	return 0;
}

static int refuse_running(const struct vublk_queue *queue, const char *name,
			  struct vublk_error *error)
{
	if (!vublk_session_runs(queue))
		return 0;
	return vublk_error_set(error, EBUSY, "%s for queue %u, which runs; GET_VRING_BASE stops "
			       "it", name, queue->index);
}

static int set_vring_num(struct vublk_session *session, struct vublk_error *error)
{
	struct vublk_queue *queue = state_queue(session);
	uint32_t size = session->request.payload.state.num;
	int r = refuse_running(queue, "SET_VRING_NUM", error);

	if (r)
		return r;
	if (!vublk_is_power_of_two(size) || size > VUBLK_RING_MAX_SIZE)
		return vublk_error_set(error, EPROTO, "SET_VRING_NUM gives queue %u %u entries; "
				       "expected a power of two up to %u", queue->index, size,
				       VUBLK_RING_MAX_SIZE);
	queue->setup.size = size;
	return 0;
}

static int set_vring_addr(struct vublk_session *session, struct vublk_error *error)
{
	const struct vhost_vring_addr *addr = &session->request.payload.addr;
	struct vublk_queue *queue = state_queue(session);

	if (addr->flags & ~VUBLK_BIT(VHOST_VRING_F_LOG))
		return vublk_error_set(error, EPROTO, "SET_VRING_ADDR of queue %u has the unknown "
				       "flags 0x%x", queue->index, addr->flags);
	queue->setup.addr = *addr;
	queue->setup.has_addr = true;
	return 0;
}

static int set_vring_base(struct vublk_session *session, struct vublk_error *error)
{
	struct vublk_queue *queue = state_queue(session);
	uint32_t base = session->request.payload.state.num;
	int r = refuse_running(queue, "SET_VRING_BASE", error);

	if (r)
		return r;
	if (base > UINT16_MAX)
		return vublk_error_set(error, EPROTO, "SET_VRING_BASE of queue %u is %u; a split "
				       "ring's index has 16 bits", queue->index, base);
	queue->setup.base = (uint16_t)base;
	return 0;
}

/*
 * A stop that skips the drain leaves requests in the in-flight area and does not wait for
 * them, if they can be suspended. Requests that an engine already has cannot be: the
 * kernel would still write to the driver's memory, or an old write would reach the disk
 * after a newer one of the next back-end. The stop waits for those.
 */
static void stop_for_base(struct vublk_session *session)
{
	if (vublk_vu_skips_drain(session->request.header.request, session->protocol_features))
		vublk_session_suspend_queue(session, state_queue(session));
	else
		vublk_session_stop_queue(session, state_queue(session));
}

/* The queue has drained; it starts again with the next kick descriptor. */
static int get_vring_base(struct vublk_session *session, struct vublk_error *error)
{
	struct vublk_queue *queue = state_queue(session);

	vublk_fd_close(&queue->setup.kick_fd);
	queue->setup.has_kick = false;
	session->reply.payload.state.index = queue->index;
	session->reply.payload.state.num = queue->setup.base;
	session->reply.header.size = sizeof(session->reply.payload.state);
	return 0;
}

static void stop_if_enable_changes(struct vublk_session *session)
{
	struct vublk_queue *queue = state_queue(session);

	if (queue->setup.enabled != !!session->request.payload.state.num)
		vublk_session_stop_queue(session, queue);
}

static int set_vring_enable(struct vublk_session *session, struct vublk_error *error)
{
	struct vublk_queue *queue = state_queue(session);
	uint32_t enable = session->request.payload.state.num;

	if (enable > 1)
		return vublk_error_set(error, EPROTO, "SET_VRING_ENABLE of queue %u is %u; "
				       "expected 0 or 1", queue->index, enable);
	queue->setup.enabled = enable;
	return 0;
}

static int set_vring_kick(struct vublk_session *session, struct vublk_error *error)
{
	struct vublk_queue *queue = u64_queue(session);
	int r = vublk_vu_take_vring_fd(&session->request, &queue->setup.kick_fd, error);

	if (!r)
		queue->setup.has_kick = true;
	return r;
}

static int set_vring_call(struct vublk_session *session, struct vublk_error *error)
{
	return vublk_vu_take_vring_fd(&session->request, &u64_queue(session)->setup.call_fd,
				      error);
}

static int set_vring_err(struct vublk_session *session, struct vublk_error *error)
{
	return vublk_vu_take_vring_fd(&session->request, &u64_queue(session)->setup.err_fd,
				      error);
}

static void stop_state_queue(struct vublk_session *session)
{
	vublk_session_stop_queue(session, state_queue(session));
}

static void stop_u64_queue(struct vublk_session *session)
{
	vublk_session_stop_queue(session, u64_queue(session));
}

/* --- config ---------------------------------------------------------------- */

static bool tells_wce(const struct vublk_vu_config *config)
{
	return config->offset <= VUBLK_BLK_WCE_OFFSET &&
	       VUBLK_BLK_WCE_OFFSET - config->offset < config->size_bytes;
}

/* The answer tells a front-end that resumes of wce, and it may rely on that. */
static void stop_if_doubts_end(struct vublk_session *session)
{
	const struct vublk_vu_config *asked = &session->request.payload.config;

	if (vublk_session_doubts_write_cache(session) && tells_wce(asked))
		vublk_session_stop_all(session);
}

/* An answer without payload says that the request was refused. */
static int get_config(struct vublk_session *session, struct vublk_error *error)
{
	const struct vublk_vu_config *asked = &session->request.payload.config;
	struct vublk_vu_config *config = &session->reply.payload.config;
	uint8_t space[VUBLK_VU_MAX_CONFIG_BYTES] = { 0 };
	struct virtio_blk_config fields;
	int r = vublk_vu_check_get_config(&session->request, error);

	if (r)
		return r;
	vublk_backend_config_fill(geometry_of(session), session->owner->num_queues,
				  session->owner->seg_max, session->write_cache, &fields);
	memcpy(space, &fields, sizeof(fields));
	config->offset = asked->offset;
	config->size_bytes = asked->size_bytes;
	config->flags = asked->flags;
	memcpy(config->data, space + asked->offset, asked->size_bytes);
	session->reply.header.size = VUBLK_VU_CONFIG_HEADER_BYTES + asked->size_bytes;
	vublk_back_channel_config_was_read(&session->back_channel);
	session->knows_write_cache |= tells_wce(asked);
	return 0;
}

static void stop_if_write_cache_changes(struct vublk_session *session)
{
	if (vublk_vu_check_set_config(&session->request, VUBLK_BLK_WCE_OFFSET, NULL))
		return;
	if (session->request.payload.config.data[0] != session->write_cache ||
	    vublk_session_doubts_write_cache(session))
		vublk_session_stop_all(session);
}

static int set_config(struct vublk_session *session, struct vublk_error *error)
{
	int r = vublk_vu_check_set_config(&session->request, VUBLK_BLK_WCE_OFFSET, error);

	if (r)
		return r;
	session->write_cache = session->request.payload.config.data[0];
	session->knows_write_cache = true;
	return 0;
}

/* --- in-flight area and back-end channel ----------------------------------- */

static int get_inflight_fd(struct vublk_session *session, struct vublk_error *error)
{
	const struct vublk_vu_inflight *asked = &session->request.payload.inflight;
	struct vublk_vu_inflight *given = &session->reply.payload.inflight;
	int r;

	if (asked->num_queues > session->owner->num_queues)
		return vublk_error_set(error, EPROTO, "GET_INFLIGHT_FD asks for %u queues; this "
				       "disk has %u", asked->num_queues,
				       session->owner->num_queues);
	vublk_fd_close(&session->reply_fd);
	r = vublk_inflight_area_new(&session->inflight, asked->num_queues, asked->queue_size,
				    &session->reply_fd, error);
	if (r)
		return r;
	*given = (struct vublk_vu_inflight){
		.mmap_size = session->inflight.mapping_bytes,
		.num_queues = asked->num_queues,
		.queue_size = asked->queue_size,
	};
	/* Front-ends differ in whether the padding is sent; the answer is as the question. */
	session->reply.header.size = session->request.header.size;
	session->reply.fds[0] = session->reply_fd;
	session->reply.num_fds = 1;
	return 0;
}

static int set_inflight_fd(struct vublk_session *session, struct vublk_error *error)
{
	int r = vublk_inflight_area_map(&session->inflight, &session->request.payload.inflight,
					session->request.fds[0], session->owner->num_queues, error);

	session->resumes |= !r && vublk_inflight_area_is_used(&session->inflight);
	return r;
}

static int set_backend_req_fd(struct vublk_session *session, struct vublk_error *error)
{
	return vublk_back_channel_open(&session->back_channel,
				       vublk_vu_message_take_fd(&session->request, 0), error);
}

/* --- the table ------------------------------------------------------------- */

struct message {
	int (*run)(struct vublk_session *session, struct vublk_error *error);
	void (*stop)(struct vublk_session *session); /* NULL: workers may go on */
};

static const struct message messages[VUBLK_VU_REQUEST_END] = {
	[VUBLK_VU_GET_FEATURES] = { get_features },
	[VUBLK_VU_SET_FEATURES] = { set_features, stop_if_features_change },
	[VUBLK_VU_GET_PROTOCOL_FEATURES] = { get_protocol_features },
	[VUBLK_VU_SET_PROTOCOL_FEATURES] = { set_protocol_features },
	[VUBLK_VU_SET_OWNER] = { do_nothing },
	[VUBLK_VU_RESET_OWNER] = { do_nothing },
	[VUBLK_VU_RESET_DEVICE] = { reset_device, vublk_session_stop_all },
	[VUBLK_VU_GET_STATUS] = { get_status },
	[VUBLK_VU_SET_STATUS] = { set_status, stop_if_status_is_zero },
	[VUBLK_VU_SET_MEM_TABLE] = { set_mem_table, vublk_session_stop_all },
	[VUBLK_VU_ADD_MEM_REG] = { add_mem_reg, vublk_session_stop_all },
	[VUBLK_VU_REM_MEM_REG] = { rem_mem_reg, vublk_session_stop_all },
	[VUBLK_VU_SET_LOG_BASE] = { set_log_base, vublk_session_stop_all },
	[VUBLK_VU_SET_LOG_FD] = { do_nothing },
	[VUBLK_VU_GET_MAX_MEM_SLOTS] = { get_max_mem_slots },
	[VUBLK_VU_GET_QUEUE_NUM] = { get_queue_num },
	[VUBLK_VU_SET_VRING_NUM] = { set_vring_num },
	[VUBLK_VU_SET_VRING_ADDR] = { set_vring_addr, stop_state_queue },
	[VUBLK_VU_SET_VRING_BASE] = { set_vring_base },
	[VUBLK_VU_GET_VRING_BASE] = { get_vring_base, stop_for_base },
	[VUBLK_VU_GET_VRING_BASE_SKIP_DRAIN] = { get_vring_base, stop_for_base },
	[VUBLK_VU_SET_VRING_ENABLE] = { set_vring_enable, stop_if_enable_changes },
	[VUBLK_VU_SET_VRING_KICK] = { set_vring_kick, stop_u64_queue },
	[VUBLK_VU_SET_VRING_CALL] = { set_vring_call, stop_u64_queue },
	[VUBLK_VU_SET_VRING_ERR] = { set_vring_err, stop_u64_queue },
	[VUBLK_VU_GET_CONFIG] = { get_config, stop_if_doubts_end },
	[VUBLK_VU_SET_CONFIG] = { set_config, stop_if_write_cache_changes },
	[VUBLK_VU_GET_INFLIGHT_FD] = { get_inflight_fd, vublk_session_stop_all },
	[VUBLK_VU_SET_INFLIGHT_FD] = { set_inflight_fd, vublk_session_stop_all },
	[VUBLK_VU_SET_BACKEND_REQ_FD] = { set_backend_req_fd },
};

static const char *request_name(const struct vublk_session *session)
{
	return vublk_vu_request_name(VUBLK_VU_TO_BACKEND, session->request.header.request);
}

/* NULL: the message has no row, or needs a protocol feature that was not offered. */
static const struct message *find_message(const struct vublk_session *session)
{
	uint32_t request = session->request.header.request;
	const struct vublk_vu_request_info *info =
		vublk_vu_request_info(VUBLK_VU_TO_BACKEND, request);

	if (!info || request >= VUBLK_VU_REQUEST_END || !messages[request].run)
		return NULL;
	if (info->protocol_feature >= 0 &&
	    !(offered_protocol_features(session) & VUBLK_BIT(info->protocol_feature)))
		return NULL;
	return &messages[request];
}

/* Notes the queue that the message is about, if it is about one. */
static int check_queue(struct vublk_session *session, struct vublk_error *error)
{
	int index;
	int r = vublk_vu_check_queue(&session->request, session->owner->num_queues, &index, error);

	session->concerned = r || index < 0 ? NULL :
			     vublk_session_use_queue(session, (unsigned)index);
	return r;
}

static int run_message(struct vublk_session *session, struct vublk_error *error)
{
	return messages[session->request.header.request].run(session, error);
}

int vublk_session_begin_message(struct vublk_session *session,
				const struct vublk_session_operation **operation,
				struct vublk_error *error)
{
	const struct message *message;
	int r;

	*operation = &vublk_session_message;
	vublk_vu_reply_init(&session->reply, &session->request);
	r = vublk_vu_check_request(VUBLK_VU_TO_BACKEND, &session->request, error);
	if (r)
		return r;
	message = find_message(session);
	if (!message)
		return vublk_error_set(error, ENOTSUP, "%s needs what this disk does not offer",
				       request_name(session));
	r = vublk_vu_check_accepted(&session->request, session->protocol_features, error);
	if (!r)
		r = check_queue(session, error);
	if (!r && message->stop)
		message->stop(session);
	return r;
}

/* --- the answer ------------------------------------------------------------ */

static void answer_message(struct vublk_session *session, int result,
			   const struct vublk_error *error)
{
	struct vublk_error failed = { 0 };
	bool has_answer = vublk_vu_make_answer(&session->reply, &session->request,
					       session->protocol_features, result);

	if (result)
		vublk_log_limited(session->owner->log, session->owner->limit, VUBLK_LOG_ERROR,
				  "%s%s", error->text,
				  has_answer ? "" : "; the connection is closed");
	else
		vublk_log(session->owner->log, VUBLK_LOG_DEBUG, "%s", request_name(session));
	if (result && !has_answer)
		session->wants_end = true;
	if (has_answer && vublk_channel_send(&session->channel, &session->reply, &failed)) {
		vublk_log_limited(session->owner->log, session->owner->limit,
				  failed.code == ENOTCONN ? VUBLK_LOG_DEBUG : VUBLK_LOG_ERROR,
				  "the connection is closed: %s", failed.text);
		session->wants_end = true;
	}
	vublk_fd_close(&session->reply_fd);
	vublk_vu_message_deinit(&session->request);
}

const struct vublk_session_operation vublk_session_message = {
	"message", run_message, answer_message,
};
