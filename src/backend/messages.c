/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The table of the messages that a front-end may send, and the functions for messages that are not
 * about one queue.
 *
 * Key idea: a row of the table has one or two functions. stop(), if the row has it, stops the
 * queues that must not run while the message is executed. When they have stopped, run() executes
 * the message and fills the reply. So no worker touches the data that the message changes.
 *
 * A refusal is logged. If the message has an answer that can express a refusal, the front-end gets
 * that answer. Otherwise the connection is closed, because the front-end would continue as if the
 * message had succeeded.
 *
 * Specification: "Front-end message types".
 */
#include "backend/messages.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
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

/* --- features and status --------------------------------------------------- */

static const struct vublk_engine_geometry *geometry_of(const struct vublk_session *session)
{
	return &session->owner->engine->geometry;
}

static int get_features(struct vublk_session *session, struct vublk_error *error)
{
	vublk_vu_reply_u64(&session->server.reply, vublk_backend_features(geometry_of(session)));
	return 0;
}

static void stop_if_features_change(struct vublk_session *session)
{
	if (session->server.request.payload.u64 != session->features)
		vublk_session_stop_all(session);
}

static int set_features(struct vublk_session *session, struct vublk_error *error)
{
	uint64_t features = session->server.request.payload.u64;
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

void vublk_session_make_offer(struct vublk_session *session)
{
	session->server.offered_protocol_features =
		ALWAYS_OFFERED | (session->owner->inflight ? OFFERED_WITH_INFLIGHT : 0);
}

static int get_protocol_features(struct vublk_session *session, struct vublk_error *error)
{
	vublk_vu_reply_u64(&session->server.reply, session->server.offered_protocol_features);
	return 0;
}

static int set_protocol_features(struct vublk_session *session, struct vublk_error *error)
{
	int r = vublk_vu_server_check_features(&session->server, error);

	if (!r)
		vublk_vu_server_accept_features(&session->server);
	return r;
}

/*
 * Executes the messages that have no effect here. SET_OWNER begins a session, but a session here
 * begins with the connection. RESET_OWNER is deprecated. The descriptor of SET_LOG_FD would signal
 * changes of the log, but the front-end can read the log without such a signal.
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
 * Resets the features, the status, the queues and the in-flight area. The memory, the dirty log,
 * and the call and error descriptors stay, because they belong to the front-end. The setting of the
 * write cache also stays, because the config that the next driver sees may be a copy that the
 * front-end made before the reset.
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
	vublk_vu_reply_u64(&session->server.reply, session->status);
	return 0;
}

static void stop_if_status_is_zero(struct vublk_session *session)
{
	if (!session->server.request.payload.u64)
		vublk_session_stop_all(session);
}

/*
 * A front-end sends SET_STATUS 0 when a driver resets the device, but also when a VM is paused or
 * migrated. So this function clears only the settings that the front-end sends again at each start.
 * It keeps the base, because QEMU 7.2 asks for the base afterwards.
 */
static void pause_queues(struct vublk_session *session)
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
	int r = vublk_vu_check_status(&session->server.request, error);

	if (r)
		return r;
	session->status = (uint8_t)session->server.request.payload.u64;
	if (!session->status)
		pause_queues(session);
	return 0;
}

static int get_queue_num(struct vublk_session *session, struct vublk_error *error)
{
	vublk_vu_reply_u64(&session->server.reply, session->owner->num_queues);
	return 0;
}

/* --- memory and dirty log -------------------------------------------------- */

static int set_mem_table(struct vublk_session *session, struct vublk_error *error)
{
	return vublk_backend_memory_set(&session->memory, &session->server.request, error);
}

static int add_mem_reg(struct vublk_session *session, struct vublk_error *error)
{
	return vublk_backend_memory_add(&session->memory, &session->server.request, error);
}

static int rem_mem_reg(struct vublk_session *session, struct vublk_error *error)
{
	return vublk_backend_memory_remove(&session->memory, &session->server.request, error);
}

static int get_max_mem_slots(struct vublk_session *session, struct vublk_error *error)
{
	vublk_vu_reply_u64(&session->server.reply, VUBLK_BACKEND_MEMORY_SLOTS);
	return 0;
}

static int set_log_base(struct vublk_session *session, struct vublk_error *error)
{
	return vublk_backend_dirty_log_set(&session->dirty_log, &session->server.request,
					   session->server.protocol_features, error);
}

/* --- config ---------------------------------------------------------------- */

static bool tells_wce(const struct vublk_session *session)
{
	return vublk_vu_config_includes(&session->server.request, VUBLK_BLK_WCE_OFFSET);
}

/*
 * Called for GET_CONFIG. Stops the queues if the reply contains wce while
 * vublk_session_doubts_write_cache() is true. From then on the front-end relies on the value that
 * it reads, so the queues must start again with this value.
 */
static void stop_if_doubts_end(struct vublk_session *session)
{
	if (vublk_session_doubts_write_cache(session) && tells_wce(session))
		vublk_session_stop_all(session);
}

/* Answers GET_CONFIG. A refused request gets an answer without payload. */
static int get_config(struct vublk_session *session, struct vublk_error *error)
{
	const struct vublk_vu_config *asked = &session->server.request.payload.config;
	struct vublk_vu_config *config = &session->server.reply.payload.config;
	uint8_t space[VUBLK_VU_MAX_CONFIG_BYTES] = { 0 };
	struct virtio_blk_config fields;
	int r = vublk_vu_check_get_config(&session->server.request, error);

	if (r)
		return r;
	vublk_backend_config_fill(geometry_of(session), session->owner->num_queues,
				  session->owner->seg_max, session->write_cache, &fields);
	memcpy(space, &fields, sizeof(fields));
	config->offset = asked->offset;
	config->size_bytes = asked->size_bytes;
	config->flags = asked->flags;
	memcpy(config->data, space + asked->offset, asked->size_bytes);
	session->server.reply.header.size = VUBLK_VU_CONFIG_HEADER_BYTES + asked->size_bytes;
	vublk_back_channel_config_was_read(&session->server.back_channel);
	session->knows_write_cache |= tells_wce(session);
	return 0;
}

static void stop_if_write_cache_changes(struct vublk_session *session)
{
	if (vublk_vu_check_set_config(&session->server.request, VUBLK_BLK_WCE_OFFSET, NULL))
		return;
	if (session->server.request.payload.config.data[0] != session->write_cache ||
	    vublk_session_doubts_write_cache(session))
		vublk_session_stop_all(session);
}

static int set_config(struct vublk_session *session, struct vublk_error *error)
{
	int r = vublk_vu_check_set_config(&session->server.request, VUBLK_BLK_WCE_OFFSET, error);

	if (r)
		return r;
	session->write_cache = session->server.request.payload.config.data[0];
	session->knows_write_cache = true;
	return 0;
}

/* --- in-flight area and back-end channel ----------------------------------- */

static int check_inflight(const struct vublk_session *session, struct vublk_error *error)
{
	return vublk_vu_check_inflight(&session->server.request, session->owner->num_queues,
				       VUBLK_RING_MAX_SIZE, error);
}

static int get_inflight_fd(struct vublk_session *session, struct vublk_error *error)
{
	const struct vublk_vu_inflight *asked = &session->server.request.payload.inflight;
	struct vublk_vu_inflight *given = &session->server.reply.payload.inflight;
	int r = check_inflight(session, error);

	if (r)
		return r;
	vublk_fd_close(&session->server.reply_fd);
	r = vublk_inflight_area_new(&session->inflight, asked->num_queues, asked->queue_size,
				    &session->server.reply_fd, error);
	if (r)
		return r;
	*given = (struct vublk_vu_inflight){
		.mmap_size = session->inflight.part.mapping_bytes,
		.num_queues = asked->num_queues,
		.queue_size = asked->queue_size,
	};
	/*
	 * The reply has the size of the request, because front-ends differ in whether they send the
	 * padding.
	 */
	session->server.reply.header.size = session->server.request.header.size;
	session->server.reply.fds[0] = session->server.reply_fd;
	session->server.reply.num_fds = 1;
	return 0;
}

static int set_inflight_fd(struct vublk_session *session, struct vublk_error *error)
{
	int r = check_inflight(session, error);

	if (!r)
		r = vublk_inflight_area_map(&session->inflight, &session->server.request, error);
	session->resumes |= !r && vublk_inflight_area_is_used(&session->inflight);
	return r;
}

static int set_backend_req_fd(struct vublk_session *session, struct vublk_error *error)
{
	return vublk_back_channel_open(&session->server.back_channel,
				       vublk_vu_message_take_fd(&session->server.request, 0), error);
}

/* --- the table ------------------------------------------------------------- */

struct message {
	int (*run)(struct vublk_session *session, struct vublk_error *error);
	void (*stop)(struct vublk_session *session); /* NULL: the queues continue to run */
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
	[VUBLK_VU_SET_VRING_NUM] = { vublk_session_set_vring_num },
	[VUBLK_VU_SET_VRING_ADDR] = { vublk_session_set_vring_addr, vublk_session_stop_concerned },
	[VUBLK_VU_SET_VRING_BASE] = { vublk_session_set_vring_base },
	[VUBLK_VU_GET_VRING_BASE] = { vublk_session_get_vring_base, vublk_session_stop_for_base },
	[VUBLK_VU_GET_VRING_BASE_SKIP_DRAIN] = { vublk_session_get_vring_base, vublk_session_stop_for_base },
	[VUBLK_VU_SET_VRING_ENABLE] = { vublk_session_set_vring_enable, vublk_session_stop_if_enable_changes },
	[VUBLK_VU_SET_VRING_KICK] = { vublk_session_set_vring_kick, vublk_session_stop_concerned },
	[VUBLK_VU_SET_VRING_CALL] = { vublk_session_set_vring_call, vublk_session_stop_concerned },
	[VUBLK_VU_SET_VRING_ERR] = { vublk_session_set_vring_err, vublk_session_stop_concerned },
	[VUBLK_VU_GET_CONFIG] = { get_config, stop_if_doubts_end },
	[VUBLK_VU_SET_CONFIG] = { set_config, stop_if_write_cache_changes },
	[VUBLK_VU_GET_INFLIGHT_FD] = { get_inflight_fd, vublk_session_stop_all },
	[VUBLK_VU_SET_INFLIGHT_FD] = { set_inflight_fd, vublk_session_stop_all },
	[VUBLK_VU_SET_BACKEND_REQ_FD] = { set_backend_req_fd },
};

bool vublk_session_has_message(uint32_t request)
{
	return request < VUBLK_VU_REQUEST_END && messages[request].run;
}

static int run_message(struct vublk_session *session, struct vublk_error *error)
{
	return messages[session->server.request.header.request].run(session, error);
}

int vublk_session_begin_message(struct vublk_session *session, struct vublk_error *error)
{
	const struct message *message;
	int r = vublk_vu_server_check(&session->server, error);

	if (r)
		return r;
	if (session->server.queue_index >= 0)
		session->concerned = vublk_session_use_queue(session,
							     (unsigned)session->server.queue_index);
	message = &messages[session->server.request.header.request];
	if (message->stop)
		message->stop(session);
	return 0;
}

static void answer_message(struct vublk_session *session, int result,
			   const struct vublk_error *error)
{
	vublk_vu_server_answer(&session->server, result, error);
}

const struct vublk_session_operation vublk_session_message = {
	"message", run_message, answer_message, .is_message = true,
};
