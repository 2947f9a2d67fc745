/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a VMM's messages mean ("Front-end message types" of the vhost-user specification).
 * A table has two functions a message: one notes what it says, at once; the other does what
 * can only be done, or known, when the device is settled, and fills relay->reply.
 *
 * A note that fails has changed nothing.
 */
#include "bus/relay/relay.h"

#include "proto/vhost-user/server.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "virtio/blk-format.h"
#include "virtio/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/virtio_config.h>
#include <string.h>
#include <sys/stat.h>

#define ALWAYS_OFFERED                                                                        \
	(VUBLK_BIT(VUBLK_VU_F_MQ) | VUBLK_BIT(VUBLK_VU_F_REPLY_ACK) |                         \
	 VUBLK_BIT(VUBLK_VU_F_BACKEND_REQ) | VUBLK_BIT(VUBLK_VU_F_CONFIG) |                   \
	 VUBLK_BIT(VUBLK_VU_F_RESET_DEVICE) | VUBLK_BIT(VUBLK_VU_F_CONFIGURE_MEM_SLOTS) |     \
	 VUBLK_BIT(VUBLK_VU_F_STATUS))
/* Offered if the back-end has them, and the device took them. */
#define PASSED_ON                                                                             \
	(INFLIGHT_WITHOUT_DRAIN | VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_SKIP_DRAIN) |           \
	 VUBLK_BIT(VUBLK_VU_F_LOG_SHMFD))
#define INFLIGHT_WITHOUT_DRAIN                                                                \
	(VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD) | VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_INFLIGHT))

/* --- features and status ----------------------------------------------------- */

/* What the VMM may accept is what it was told last, whoever is the back-end by then. */
void vublk_relay_make_offer(struct vublk_relay *relay)
{
	const struct vublk_device_info *backend = &relay->bus->backend;
	bool logs = backend->backend_features & VUBLK_BIT(VHOST_F_LOG_ALL) &&
		    backend->protocol_features & VUBLK_BIT(VUBLK_VU_F_LOG_SHMFD);

	relay->offered_features = vublk_device_features(relay->device) |
				  (VUBLK_RELAY_OWN_FEATURES & ~VUBLK_BIT(VHOST_F_LOG_ALL));
	relay->offered_protocol_features =
		ALWAYS_OFFERED | (backend->protocol_features & PASSED_ON);
	if (logs)
		relay->offered_features |= VUBLK_BIT(VHOST_F_LOG_ALL);
}

static int get_features(struct vublk_relay *relay, struct vublk_error *error)
{
	vublk_relay_make_offer(relay);
	vublk_vu_reply_u64(&relay->reply, relay->offered_features);
	return 0;
}

/* LOG_ALL means something as soon as SET_LOG_BASE has said where to log. */
static int set_features(struct vublk_relay *relay, struct vublk_error *error)
{
	uint64_t features = relay->request.payload.u64;
	int r = vublk_vu_refuse_unknown_bits("SET_FEATURES", features, relay->offered_features,
					     error);

	if (r < 0)
		return r;
	if (!relay->has_features || (features ^ relay->features) & ~VUBLK_RELAY_OWN_FEATURES)
		relay->changes |= VUBLK_RELAY_FEATURES;
	relay->features = features;
	relay->has_features = true;
	if (features & VUBLK_BIT(VUBLK_VU_VIRTIO_F_PROTOCOL_FEATURES))
		return 0;
	for (unsigned i = 0; i < relay->num_queues; i++)
		relay->queues[i].enabled = true;
	return 0;
}

static int get_protocol_features(struct vublk_relay *relay, struct vublk_error *error)
{
	vublk_relay_make_offer(relay);
	vublk_vu_reply_u64(&relay->reply, relay->offered_protocol_features);
	return 0;
}

/*
 * Where the back-end leaves requests in the area at each stop, a VMM has to know: it would
 * take them for complete otherwise. With GET_VRING_BASE_SKIP_DRAIN the back-end can be told.
 */
static int check_undrained(const struct vublk_relay *relay, uint64_t features,
			   struct vublk_error *error)
{
	uint64_t offered = relay->offered_protocol_features;

	if (!(offered & VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_INFLIGHT)) ||
	    offered & VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_SKIP_DRAIN) ||
	    (features & INFLIGHT_WITHOUT_DRAIN) == INFLIGHT_WITHOUT_DRAIN)
		return 0;
	return vublk_error_set(error, ENOTSUP,
			       "the VMM does not accept GET_VRING_BASE_INFLIGHT, which this device was "
			       "told to use: turn inflight-migration on in the VMM, or off here");
}

static int set_protocol_features(struct vublk_relay *relay, struct vublk_error *error)
{
	uint64_t features = relay->request.payload.u64;
	int r = vublk_vu_refuse_unknown_bits("SET_PROTOCOL_FEATURES", features,
					     relay->offered_protocol_features, error);

	if (!r)
		r = vublk_vu_check_skip_drain(features, error);
	if (!r)
		r = check_undrained(relay, features, error);
	if (r < 0)
		return r;
	relay->protocol_features = features;
	relay->back_channel.has_ack = features & VUBLK_BIT(VUBLK_VU_F_REPLY_ACK);
	return 0;
}

/* A connection is a session already; RESET_OWNER is deprecated. */
static int note_nothing(struct vublk_relay *relay, struct vublk_error *error)
{
	return 0;
}

/* Memory and notifiers are the VMM's, and stay. */
static int reset_device(struct vublk_relay *relay, struct vublk_error *error)
{
	vublk_relay_reset(relay);
	return 0;
}

static int get_status(struct vublk_relay *relay, struct vublk_error *error)
{
	vublk_vu_reply_u64(&relay->reply, relay->status | relay->device_status);
	return 0;
}

/*
 * Status 0 comes when a driver resets the device and when a VM is merely paused. In both
 * cases the rings are set up again before they run.
 */
static int set_status(struct vublk_relay *relay, struct vublk_error *error)
{
	uint64_t status = relay->request.payload.u64;

	if (status > UINT8_MAX)
		return vublk_error_set(error, EPROTO, "SET_STATUS has 0x%" PRIx64
				       ", which is more than a byte", status);
	relay->status = (uint8_t)status;
	if (!status) {
		vublk_relay_withdraw_all(relay);
		relay->device_status = 0;
	}
	if (status & VIRTIO_CONFIG_S_DRIVER_OK)
		vublk_relay_release(relay);
	return 0;
}

/* --- memory -------------------------------------------------------------------- */

static int get_max_mem_slots(struct vublk_relay *relay, struct vublk_error *error)
{
	vublk_vu_reply_u64(&relay->reply, vublk_relay_memory_slots(relay));
	return 0;
}

/* --- the dirty log --------------------------------------------------------------- */

/* What is in it stays. Rings that log into another one stand still for the change. */
static int set_log_base(struct vublk_relay *relay, struct vublk_error *error)
{
	const struct vublk_vu_log *wire = &relay->request.payload.log;

	if (!(relay->protocol_features & VUBLK_BIT(VUBLK_VU_F_LOG_SHMFD)) ||
	    relay->request.header.size != sizeof(*wire) || relay->request.num_fds != 1)
		return vublk_error_set(error, EPROTO, "SET_LOG_BASE came with %u bytes and %u "
				       "descriptors; expected %zu and one, and the protocol "
				       "feature LOG_SHMFD", relay->request.header.size,
				       relay->request.num_fds, sizeof(*wire));
	vublk_fd_close(&relay->log.fd);
	relay->log = (struct vublk_device_dirty_log){
		.fd = vublk_vu_message_take_fd(&relay->request, 0),
		.offset = wire->offset,
		.size_bytes = wire->size_bytes,
	};
	if (relay->is_logging)
		relay->changes |= VUBLK_RELAY_LOG;
	return 0;
}

/* --- queues -------------------------------------------------------------------- */

static int get_queue_num(struct vublk_relay *relay, struct vublk_error *error)
{
	vublk_vu_reply_u64(&relay->reply, relay->num_queues);
	return 0;
}

static int refuse_running(const struct vublk_relay *relay, const char *name,
			  struct vublk_error *error)
{
	if (!vublk_relay_is_handed(relay->concerned) || relay->changes & VUBLK_RELAY_RESET)
		return 0;
	return vublk_error_set(error, EBUSY, "%s for queue %u, which runs; GET_VRING_BASE stops "
			       "it", name, relay->concerned->index);
}

static int set_vring_num(struct vublk_relay *relay, struct vublk_error *error)
{
	struct vublk_relay_queue *queue = relay->concerned;
	unsigned max = vublk_device_queue_size(relay->device);
	uint32_t size = relay->request.payload.state.num;
	int r = refuse_running(relay, "SET_VRING_NUM", error);

	if (r < 0)
		return r;
	if (!vublk_is_power_of_two(size) || size < VUBLK_MIN_QUEUE_SIZE || size > max)
		return vublk_error_set(error, EPROTO, "SET_VRING_NUM gives queue %u %u entries; "
				       "expected a power of two from %u to %u", queue->index, size,
				       VUBLK_MIN_QUEUE_SIZE, max);
	queue->size = size;
	return 0;
}

static bool is_same_place(const struct vhost_vring_addr *a, const struct vhost_vring_addr *b)
{
	return a->desc_user_addr == b->desc_user_addr &&
	       a->avail_user_addr == b->avail_user_addr && a->used_user_addr == b->used_user_addr;
}

static int set_vring_addr(struct vublk_relay *relay, struct vublk_error *error)
{
	const struct vhost_vring_addr *addr = &relay->request.payload.addr;
	struct vublk_relay_queue *queue = relay->concerned;

	/* With the log on, the device has the used rings logged in any case. */
	if (addr->flags & ~(1u << VHOST_VRING_F_LOG))
		return vublk_error_set(error, EPROTO, "SET_VRING_ADDR of queue %u has the unknown "
				       "flags 0x%x", queue->index, addr->flags);
	if (!is_same_place(addr, &queue->addr))
		vublk_relay_begin_anew(relay, queue);
	queue->addr = *addr;
	queue->has_addr = true;
	return 0;
}

static int set_vring_base(struct vublk_relay *relay, struct vublk_error *error)
{
	struct vublk_relay_queue *queue = relay->concerned;
	uint32_t base = relay->request.payload.state.num;
	int r = refuse_running(relay, "SET_VRING_BASE", error);

	if (r < 0)
		return r;
	if (base > UINT16_MAX)
		return vublk_error_set(error, EPROTO, "SET_VRING_BASE of queue %u is %u; a split "
				       "ring's index has 16 bits", queue->index, base);
	if (base != queue->base)
		vublk_relay_begin_anew(relay, queue);
	queue->base = (uint16_t)base;
	return 0;
}

/* With STATUS rings are started together, when the driver is ready. */
static void note_start(struct vublk_relay *relay)
{
	bool waits = relay->protocol_features & VUBLK_BIT(VUBLK_VU_F_STATUS) &&
		     !(relay->status & VIRTIO_CONFIG_S_DRIVER_OK);

	if (waits)
		vublk_relay_hold(relay);
	else
		vublk_relay_release(relay);
}

static bool skips_drain(const struct vublk_relay *relay)
{
	return vublk_vu_skips_drain(relay->request.header.request, relay->protocol_features);
}

static int withdraw_vring(struct vublk_relay *relay, struct vublk_error *error)
{
	vublk_relay_hold(relay);
	if (skips_drain(relay))
		vublk_relay_withdraw_queue(relay, relay->concerned);
	else
		vublk_relay_withdraw_drained(relay, relay->concerned);
	return 0;
}

/*
 * A VM that is being moved would go on elsewhere from the used index, without the area that
 * has the rest: better that the move fails.
 */
static int check_move(const struct vublk_relay *relay, struct vublk_error *error)
{
	const struct vublk_relay_queue *queue = relay->concerned;
	unsigned count = queue->outstanding ? queue->outstanding : queue->undrained;

	if (!count || !relay->is_logging || skips_drain(relay))
		return 0;
	return vublk_error_set(error, EIO, "queue %u cannot be stopped for a migration: its "
			       "back-end %s %u requests outstanding, and the VMM does not take "
			       "the in-flight area along; wait until they are completed",
			       queue->index, queue->outstanding ? "was lost with" : "stopped with",
			       count);
}

/* Requests that another back-end had left in the area, and for which there is none now. */
static int check_drained(const struct vublk_relay *relay, struct vublk_error *error)
{
	const struct vublk_relay_queue *queue = relay->concerned;

	if (!vublk_relay_has_left(relay, queue) || skips_drain(relay))
		return 0;
	return vublk_error_set(error, EIO, "queue %u cannot be stopped with its requests complete: "
			       "%u of them are in the in-flight area, and no back-end executed "
			       "them; wait until there is a back-end", queue->index, queue->undrained);
}

static int get_vring_base(struct vublk_relay *relay, struct vublk_error *error)
{
	struct vublk_relay_queue *queue = relay->concerned;
	int r = check_move(relay, error);

	if (!r)
		r = check_drained(relay, error);
	if (r < 0)
		return r;
	if (queue->outstanding)
		vublk_log_limited(&relay->bus->log, &relay->bus->limit, VUBLK_LOG_WARNING,
				  "queue %u is stopped without a back-end: %u requests are "
				  "outstanding, which %s", queue->index, queue->outstanding,
				  relay->area_is_vmms ? "the VMM's in-flight area has" :
				  "the driver has to give up by a reset");
	relay->reply.payload.state.index = queue->index;
	relay->reply.payload.state.num = queue->base;
	relay->reply.header.size = sizeof(relay->reply.payload.state);
	return 0;
}

static int set_vring_enable(struct vublk_relay *relay, struct vublk_error *error)
{
	struct vublk_relay_queue *queue = relay->concerned;
	uint32_t enable = relay->request.payload.state.num;

	if (enable > 1)
		return vublk_error_set(error, EPROTO, "SET_VRING_ENABLE of queue %u is %u; "
				       "expected 0 or 1", queue->index, enable);
	queue->enabled = enable;
	if (enable)
		note_start(relay);
	else
		vublk_relay_hold(relay);
	return 0;
}

static int set_vring_kick(struct vublk_relay *relay, struct vublk_error *error)
{
	struct vublk_relay_queue *queue = relay->concerned;
	int r = vublk_vu_take_vring_fd(&relay->request, &queue->kick_fd, error);

	if (r < 0)
		return r;
	vublk_relay_change_ring(relay, queue, VUBLK_RELAY_RING_START);
	queue->kick_changed = vublk_relay_is_handed(queue);
	note_start(relay);
	return 0;
}

static int set_vring_call(struct vublk_relay *relay, struct vublk_error *error)
{
	struct vublk_relay_queue *queue = relay->concerned;
	int r = vublk_vu_take_vring_fd(&relay->request, &queue->call_fd, error);

	if (!r)
		queue->call_changed = vublk_relay_is_handed(queue);
	return r;
}

static int set_vring_err(struct vublk_relay *relay, struct vublk_error *error)
{
	return vublk_vu_take_vring_fd(&relay->request, &relay->concerned->err_fd, error);
}

/* --- config -------------------------------------------------------------------- */

static int get_config(struct vublk_relay *relay, struct vublk_error *error)
{
	const struct vublk_vu_config *asked = &relay->request.payload.config;
	struct vublk_vu_config *config = &relay->reply.payload.config;
	int r = vublk_vu_check_get_config(&relay->request, error);

	if (r < 0)
		return r;
	config->offset = asked->offset;
	config->size_bytes = asked->size_bytes;
	config->flags = asked->flags;
	vublk_device_config_read(relay->device, asked->offset, config->data, asked->size_bytes);
	relay->reply.header.size = VUBLK_VU_CONFIG_HEADER_BYTES + asked->size_bytes;
	vublk_back_channel_config_was_read(&relay->back_channel);
	relay->knows_write_cache |= asked->offset <= VUBLK_BLK_WCE_OFFSET &&
				    VUBLK_BLK_WCE_OFFSET - asked->offset < asked->size_bytes;
	return 0;
}

static int note_config(struct vublk_relay *relay, struct vublk_error *error)
{
	return vublk_vu_check_set_config(&relay->request, VUBLK_BLK_WCE_OFFSET, error);
}

static int set_config(struct vublk_relay *relay, struct vublk_error *error)
{
	const struct vublk_vu_config *config = &relay->request.payload.config;
	int r = vublk_device_config_write(relay->device, config->offset, config->data,
					  config->size_bytes, error);

	if (r > 0)
		relay->asked = VUBLK_RELAY_ASKED_CONFIG;
	relay->knows_write_cache |= r >= 0;
	return r;
}

/* --- in-flight area and back-end channel --------------------------------------- */

static int check_inflight(const struct vublk_relay *relay, struct vublk_error *error)
{
	const struct vublk_vu_inflight *asked = &relay->request.payload.inflight;
	unsigned max = vublk_device_queue_size(relay->device);

	if (!(relay->offered_protocol_features & VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD)))
		return vublk_error_set(error, ENOTSUP, "the in-flight area needs INFLIGHT_SHMFD, "
				       "which the back-end does not offer");
	if (asked->num_queues && asked->num_queues <= relay->num_queues && asked->queue_size &&
	    asked->queue_size <= max)
		return 0;
	return vublk_error_set(error, EPROTO, "the in-flight area is to be for %u queues of %u "
			       "entries; this disk has %u, of up to %u", asked->num_queues,
			       asked->queue_size, relay->num_queues, max);
}

/* Front-ends differ in whether the padding is sent; the answer is as the question. */
static void answer_area(struct vublk_relay *relay, const struct vublk_device_inflight *area)
{
	vublk_fd_close(&relay->reply_fd);
	relay->reply_fd = area->fd;
	relay->reply.payload.inflight = (struct vublk_vu_inflight){
		.mmap_size = area->size_bytes,
		.mmap_offset = area->offset,
		.num_queues = area->num_queues,
		.queue_size = area->queue_size,
	};
	relay->reply.header.size = relay->request.header.size;
	relay->reply.fds[0] = relay->reply_fd;
	relay->reply.num_fds = 1;
}

/*
 * The layout is the back-end's, so the area is, too: a back-end may accept no other. Without
 * one the device makes it, so that a VMM need not wait for a back-end.
 */
static int get_inflight_fd(struct vublk_relay *relay, struct vublk_error *error)
{
	const struct vublk_vu_inflight *asked = &relay->request.payload.inflight;
	struct vublk_device_inflight area = {
		.num_queues = asked->num_queues,
		.queue_size = asked->queue_size,
	};
	int r = check_inflight(relay, error);

	if (!r)
		r = vublk_device_make_inflight(relay->device, &area, error);
	if (!r)
		answer_area(relay, &area);
	if (r > 0)
		relay->asked = VUBLK_RELAY_ASKED_AREA;
	return r;
}

void vublk_relay_on_area_made(struct vublk_relay *relay, const struct vublk_device_inflight *made,
			      const struct vublk_error *refusal)
{
	struct vublk_device_inflight area;
	struct vublk_error error;
	int r;

	if (!made && vublk_device_state(relay->device) == VUBLK_DEVICE_DISCONNECTED) {
		r = get_inflight_fd(relay, &error);
	} else if (!made) {
		error = *refusal;
		r = -error.code;
	} else {
		area = *made;
		area.fd = r = fcntl(made->fd, F_DUPFD_CLOEXEC, 0);
		if (r < 0)
			vublk_error_set_errno(&error, errno, "cannot keep the in-flight area");
		else
			answer_area(relay, &area);
	}
	if (r < 0)
		vublk_relay_fail(relay, &error);
}

static bool is_same_file(int a, int b)
{
	struct stat x, y;

	return a >= 0 && !fstat(a, &x) && !fstat(b, &y) && x.st_dev == y.st_dev &&
	       x.st_ino == y.st_ino;
}

static int set_inflight_fd(struct vublk_relay *relay, struct vublk_error *error)
{
	const struct vublk_vu_inflight *wire = &relay->request.payload.inflight;
	int r = check_inflight(relay, error);

	if (r < 0)
		return r;
	/* Another area says that it is another driver, whatever its rings are. */
	if (!is_same_file(relay->area.fd, relay->request.fds[0]))
		relay->changes |= VUBLK_RELAY_RESET;
	vublk_relay_drop_area(relay);
	relay->area = (struct vublk_device_inflight){
		.fd = vublk_vu_message_take_fd(&relay->request, 0),
		.offset = wire->mmap_offset,
		.size_bytes = wire->mmap_size,
		.num_queues = wire->num_queues,
		.queue_size = wire->queue_size,
	};
	relay->area_is_vmms = true;
	relay->changes |= VUBLK_RELAY_AREA;
	return 0;
}

static int set_backend_req_fd(struct vublk_relay *relay, struct vublk_error *error)
{
	return vublk_back_channel_open(&relay->back_channel,
				       vublk_vu_message_take_fd(&relay->request, 0), error);
}

/* --- the table ----------------------------------------------------------------- */

struct message {
	int (*note)(struct vublk_relay *relay, struct vublk_error *error);
	int (*act)(struct vublk_relay *relay, struct vublk_error *error); /* NULL: nothing */
};

static const struct message messages[VUBLK_VU_REQUEST_END] = {
	[VUBLK_VU_GET_FEATURES] = { note_nothing, get_features },
	[VUBLK_VU_SET_FEATURES] = { set_features },
	[VUBLK_VU_GET_PROTOCOL_FEATURES] = { note_nothing, get_protocol_features },
	[VUBLK_VU_SET_PROTOCOL_FEATURES] = { set_protocol_features },
	[VUBLK_VU_SET_OWNER] = { note_nothing },
	[VUBLK_VU_RESET_OWNER] = { note_nothing },
	[VUBLK_VU_RESET_DEVICE] = { reset_device },
	[VUBLK_VU_GET_STATUS] = { note_nothing, get_status },
	[VUBLK_VU_SET_STATUS] = { set_status },
	[VUBLK_VU_SET_MEM_TABLE] = { vublk_relay_memory_set },
	[VUBLK_VU_ADD_MEM_REG] = { vublk_relay_memory_add },
	[VUBLK_VU_REM_MEM_REG] = { vublk_relay_memory_remove },
	[VUBLK_VU_GET_MAX_MEM_SLOTS] = { note_nothing, get_max_mem_slots },
	[VUBLK_VU_SET_LOG_BASE] = { set_log_base },
	[VUBLK_VU_SET_LOG_FD] = { note_nothing }, /* who wants to know looks at the log */
	[VUBLK_VU_GET_QUEUE_NUM] = { note_nothing, get_queue_num },
	[VUBLK_VU_SET_VRING_NUM] = { set_vring_num },
	[VUBLK_VU_SET_VRING_ADDR] = { set_vring_addr },
	[VUBLK_VU_SET_VRING_BASE] = { set_vring_base },
	[VUBLK_VU_GET_VRING_BASE] = { withdraw_vring, get_vring_base },
	[VUBLK_VU_GET_VRING_BASE_SKIP_DRAIN] = { withdraw_vring, get_vring_base },
	[VUBLK_VU_SET_VRING_ENABLE] = { set_vring_enable },
	[VUBLK_VU_SET_VRING_KICK] = { set_vring_kick },
	[VUBLK_VU_SET_VRING_CALL] = { set_vring_call },
	[VUBLK_VU_SET_VRING_ERR] = { set_vring_err },
	[VUBLK_VU_GET_CONFIG] = { note_nothing, get_config },
	[VUBLK_VU_SET_CONFIG] = { note_config, set_config },
	[VUBLK_VU_GET_INFLIGHT_FD] = { note_nothing, get_inflight_fd },
	[VUBLK_VU_SET_INFLIGHT_FD] = { set_inflight_fd },
	[VUBLK_VU_SET_BACKEND_REQ_FD] = { set_backend_req_fd },
};

/* NULL: nothing that is offered has such a message. */
static const struct message *find_message(const struct vublk_relay *relay)
{
	uint32_t request = relay->request.header.request;

	return request < VUBLK_VU_REQUEST_END && messages[request].note ? &messages[request] : NULL;
}

int vublk_relay_note_message(struct vublk_relay *relay, struct vublk_error *error)
{
	const struct message *message;
	int index, r;

	vublk_vu_reply_init(&relay->reply, &relay->request);
	r = vublk_vu_check_request(VUBLK_VU_TO_BACKEND, &relay->request, error);
	if (r < 0)
		return r;
	message = find_message(relay);
	if (!message)
		return vublk_error_set(error, ENOTSUP, "%s needs what this disk does not offer",
				       vublk_vu_request_name(VUBLK_VU_TO_BACKEND,
							     relay->request.header.request));
	r = vublk_vu_check_accepted(&relay->request, relay->protocol_features, error);
	if (!r)
		r = vublk_vu_check_queue(&relay->request, relay->num_queues, &index, error);
	if (r < 0)
		return r;
	relay->concerned = index < 0 ? NULL : &relay->queues[index];
	return message->note(relay, error);
}

int vublk_relay_act_on_message(struct vublk_relay *relay, struct vublk_error *error)
{
	const struct message *message = find_message(relay);

	return message->act ? message->act(relay, error) : 0;
}
