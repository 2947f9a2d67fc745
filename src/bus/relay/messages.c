/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The table of the messages that a VMM may send, and the functions for the messages about features,
 * status, log and config. The functions for rings, memory and the in-flight area are in files of
 * their own.
 *
 * Key idea: each message has one or two functions. The first one checks the message and records
 * what it says. The optional second one runs once the device matches the set-up: it does the rest
 * of the work and fills the reply.
 *
 * Specification: "Front-end message types".
 */
#include "bus/relay/messages.h"

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
/* The VMM has to accept both features if stops may leave requests in the in-flight area. */
#define INFLIGHT_WITHOUT_DRAIN                                                                \
	(VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD) | VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_INFLIGHT))

/* --- features and status ----------------------------------------------------- */

/*
 * The offer is recorded, because the VMM may accept what it was offered last even if the back-end
 * has been replaced since then.
 */
void vublk_relay_make_offer(struct vublk_relay *relay)
{
	const struct vublk_device_info *backend = &relay->bus->backend;
	bool logs = backend->bus_protocol_features & VUBLK_BIT(VUBLK_VU_F_LOG_SHMFD);

	relay->offered_features = vublk_device_features(relay->device) |
				  (VUBLK_RELAY_OWN_FEATURES & ~VUBLK_BIT(VHOST_F_LOG_ALL));
	relay->server.offered_protocol_features =
		ALWAYS_OFFERED | backend->bus_protocol_features;
	if (logs)
		relay->offered_features |= VUBLK_BIT(VHOST_F_LOG_ALL);
}

static int get_features(struct vublk_relay *relay, struct vublk_error *error)
{
	vublk_relay_make_offer(relay);
	vublk_vu_reply_u64(&relay->server.reply, relay->offered_features);
	return 0;
}

/* LOG_ALL has no effect before SET_LOG_BASE has said where the log is. */
static int set_features(struct vublk_relay *relay, struct vublk_error *error)
{
	uint64_t features = relay->server.request.payload.u64;
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
	vublk_vu_reply_u64(&relay->server.reply, relay->server.offered_protocol_features);
	return 0;
}

/*
 * Refuses the VMM's features if a stop may leave requests in the in-flight area and the VMM would
 * assume that they are complete. If the back-end has GET_VRING_BASE_SKIP_DRAIN, there are no such
 * stops, because the relay can ask the back-end to complete all requests.
 */
static int check_undrained(const struct vublk_relay *relay, uint64_t features,
			   struct vublk_error *error)
{
	uint64_t offered = relay->server.offered_protocol_features;

	if (!(offered & VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_INFLIGHT)) ||
	    offered & VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_SKIP_DRAIN) ||
	    (features & INFLIGHT_WITHOUT_DRAIN) == INFLIGHT_WITHOUT_DRAIN)
		return 0;
	return vublk_error_set(error, ENOTSUP,
			       "the VMM did not accept GET_VRING_BASE_INFLIGHT, which "
			       "inflight-migration=on requires; turn inflight-migration on in the "
			       "VMM, or off in this device");
}

static int set_protocol_features(struct vublk_relay *relay, struct vublk_error *error)
{
	int r = vublk_vu_server_check_features(&relay->server, error);

	if (!r)
		r = check_undrained(relay, relay->server.request.payload.u64, error);
	if (!r)
		vublk_vu_server_accept_features(&relay->server);
	return r;
}

/*
 * The first function of messages that record nothing. Three of these messages have no effect at
 * all: SET_OWNER, because the session begins with the connection; RESET_OWNER, which is deprecated;
 * and SET_LOG_FD, because the VMM can read the log without being signalled.
 */
static int note_nothing(struct vublk_relay *relay, struct vublk_error *error)
{
	return 0;
}

/* The memory and the call and error descriptors belong to the VMM, so a reset keeps them. */
static int reset_device(struct vublk_relay *relay, struct vublk_error *error)
{
	vublk_relay_reset(relay);
	return 0;
}

static int get_status(struct vublk_relay *relay, struct vublk_error *error)
{
	vublk_vu_reply_u64(&relay->server.reply, relay->status | relay->device_status);
	return 0;
}

/*
 * A VMM sends SET_STATUS 0 not only when a driver resets the device, but also when the VM is
 * paused. In both cases the VMM sets the rings up again before they run, so it is enough to
 * withdraw them.
 */
static int set_status(struct vublk_relay *relay, struct vublk_error *error)
{
	uint64_t status = relay->server.request.payload.u64;
	int r = vublk_vu_check_status(&relay->server.request, error);

	if (r < 0)
		return r;
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
	vublk_vu_reply_u64(&relay->server.reply, vublk_relay_memory_slots(relay));
	return 0;
}

/* --- the dirty log --------------------------------------------------------------- */

/*
 * Does not clear the new log, which may already have bits set. If logging is on, the relay later
 * stops the rings to switch to the new log.
 */
static int set_log_base(struct vublk_relay *relay, struct vublk_error *error)
{
	const struct vublk_vu_log *wire = &relay->server.request.payload.log;
	struct vublk_memory_file file;
	int r = vublk_vu_check_log_base(&relay->server.request, relay->server.protocol_features,
					&file, error);

	if (r < 0)
		return r;
	vublk_fd_close(&relay->log.fd);
	relay->log = (struct vublk_device_dirty_log){
		.fd = vublk_vu_message_take_fd(&relay->server.request, 0),
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
	vublk_vu_reply_u64(&relay->server.reply, relay->num_queues);
	return 0;
}

/* --- config -------------------------------------------------------------------- */

static int get_config(struct vublk_relay *relay, struct vublk_error *error)
{
	const struct vublk_vu_config *asked = &relay->server.request.payload.config;
	struct vublk_vu_config *config = &relay->server.reply.payload.config;
	int r = vublk_vu_check_get_config(&relay->server.request, error);

	if (r < 0)
		return r;
	config->offset = asked->offset;
	config->size_bytes = asked->size_bytes;
	config->flags = asked->flags;
	vublk_device_config_read(relay->device, asked->offset, config->data, asked->size_bytes);
	relay->server.reply.header.size = VUBLK_VU_CONFIG_HEADER_BYTES + asked->size_bytes;
	vublk_back_channel_config_was_read(&relay->server.back_channel);
	relay->knows_write_cache |= vublk_vu_config_includes(&relay->server.request,
							     VUBLK_BLK_WCE_OFFSET);
	return 0;
}

static int note_config(struct vublk_relay *relay, struct vublk_error *error)
{
	return vublk_vu_check_set_config(&relay->server.request, VUBLK_BLK_WCE_OFFSET, error);
}

static int set_config(struct vublk_relay *relay, struct vublk_error *error)
{
	const struct vublk_vu_config *config = &relay->server.request.payload.config;
	int r = vublk_device_config_write(relay->device, config->offset, config->data,
					  config->size_bytes, error);

	if (r > 0)
		relay->asked = VUBLK_RELAY_ASKED_CONFIG;
	relay->knows_write_cache |= r >= 0;
	return r;
}

/* --- the back-end channel ----------------------------------------------------- */

static int set_backend_req_fd(struct vublk_relay *relay, struct vublk_error *error)
{
	return vublk_back_channel_open(&relay->server.back_channel,
				       vublk_vu_message_take_fd(&relay->server.request, 0), error);
}

/* --- the table ----------------------------------------------------------------- */

struct message {
	int (*note)(struct vublk_relay *relay, struct vublk_error *error);
	int (*act)(struct vublk_relay *relay, struct vublk_error *error); /* may be NULL */
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
	[VUBLK_VU_SET_LOG_FD] = { note_nothing },
	[VUBLK_VU_GET_QUEUE_NUM] = { note_nothing, get_queue_num },
	[VUBLK_VU_SET_VRING_NUM] = { vublk_relay_set_vring_num },
	[VUBLK_VU_SET_VRING_ADDR] = { vublk_relay_set_vring_addr },
	[VUBLK_VU_SET_VRING_BASE] = { vublk_relay_set_vring_base },
	[VUBLK_VU_GET_VRING_BASE] = { vublk_relay_withdraw_vring, vublk_relay_get_vring_base },
	[VUBLK_VU_GET_VRING_BASE_SKIP_DRAIN] = { vublk_relay_withdraw_vring, vublk_relay_get_vring_base },
	[VUBLK_VU_SET_VRING_ENABLE] = { vublk_relay_set_vring_enable },
	[VUBLK_VU_SET_VRING_KICK] = { vublk_relay_set_vring_kick },
	[VUBLK_VU_SET_VRING_CALL] = { vublk_relay_set_vring_call },
	[VUBLK_VU_SET_VRING_ERR] = { vublk_relay_set_vring_err },
	[VUBLK_VU_GET_CONFIG] = { note_nothing, get_config },
	[VUBLK_VU_SET_CONFIG] = { note_config, set_config },
	[VUBLK_VU_GET_INFLIGHT_FD] = { note_nothing, vublk_relay_get_inflight_fd },
	[VUBLK_VU_SET_INFLIGHT_FD] = { vublk_relay_set_inflight_fd },
	[VUBLK_VU_SET_BACKEND_REQ_FD] = { set_backend_req_fd },
};

bool vublk_relay_has_message(uint32_t request)
{
	return request < VUBLK_VU_REQUEST_END && messages[request].note;
}

int vublk_relay_note_message(struct vublk_relay *relay, struct vublk_error *error)
{
	int r = vublk_vu_server_check(&relay->server, error);

	return r < 0 ? r : messages[relay->server.request.header.request].note(relay, error);
}

int vublk_relay_act_on_message(struct vublk_relay *relay, struct vublk_error *error)
{
	const struct message *message = &messages[relay->server.request.header.request];

	return message->act ? message->act(relay, error) : 0;
}
