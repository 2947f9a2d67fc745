/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The handshake, which finds out what the back-end offers. SET_FEATURES is not part of the
 * handshake, because no driver has accepted features yet.
 *
 * Key idea: there are three rounds: one for the features, one for the protocol features, and one
 * for everything that depends on these. Each takes one round trip, unless the config has to be
 * requested again. Only protocol features that are implemented here are accepted.
 *
 * Specification: "Feature negotiation", "Multiple queue support".
 */
#include "frontend/frontend.h"

#include "util/checked.h"
#include "util/error.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_config.h>

#define ACCEPTED_PROTOCOL_FEATURES                                              \
	(VUBLK_BIT(VUBLK_VU_F_MQ) | VUBLK_BIT(VUBLK_VU_F_REPLY_ACK) |           \
	 VUBLK_BIT(VUBLK_VU_F_BACKEND_REQ) | VUBLK_BIT(VUBLK_VU_F_CONFIG) |     \
	 VUBLK_BIT(VUBLK_VU_F_CONFIGURE_MEM_SLOTS) | VUBLK_BIT(VUBLK_VU_F_STATUS) | \
	 VUBLK_BIT(VUBLK_VU_F_LOG_SHMFD))

static void fail(struct vublk_frontend *frontend, int code, const char *text)
{
	struct vublk_error error;

	vublk_error_set(&error, code, "%s", text);
	vublk_frontend_fail(frontend, &error);
}

static void ask(struct vublk_frontend *frontend, uint32_t request, vublk_frontend_reply_fn *fn)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, request);
	vublk_frontend_ask(frontend, &message, sizeof(uint64_t), fn, frontend, 0);
}

/* --- third round: everything that depends on the protocol features -------------------- */

static void on_queue_num(void *opaque, unsigned tag, struct vublk_vu_message *reply)
{
	struct vublk_frontend *frontend = opaque;

	if (!reply->payload.u64) {
		fail(frontend, EPROTO, "the back-end reports 0 queues (GET_QUEUE_NUM)");
		return;
	}
	frontend->info.max_queues = (uint32_t)VUBLK_MIN(reply->payload.u64, (uint64_t)UINT32_MAX);
}

static void on_memory_slots(void *opaque, unsigned tag, struct vublk_vu_message *reply)
{
	struct vublk_frontend *frontend = opaque;

	if (!reply->payload.u64) {
		fail(frontend, EPROTO,
		     "the back-end reports 0 memory slots (GET_MAX_MEM_SLOTS)");
		return;
	}
	frontend->info.memory_slots = (uint32_t)VUBLK_MIN(reply->payload.u64,
							  (uint64_t)UINT32_MAX);
}

/* Called with the last answer of the handshake. */
static void on_config(void *opaque, const uint8_t *config, unsigned bytes,
		      const struct vublk_error *error)
{
	struct vublk_frontend *frontend = opaque;

	if (error) {
		vublk_frontend_fail(frontend, error);
		return;
	}
	for (unsigned i = 0; i < VUBLK_BLK_CONFIG_BYTES; i++)
		frontend->config[i] = i < bytes ? config[i] : 0;
	vublk_frontend_set_negotiated(frontend);
}

static void accept_protocol_features(struct vublk_frontend *frontend)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, VUBLK_VU_SET_PROTOCOL_FEATURES);
	message.header.size = sizeof(uint64_t);
	message.payload.u64 = frontend->info.accepted_protocol_features;
	vublk_frontend_send(frontend, &message);
}

static void ask_for_everything(struct vublk_frontend *frontend)
{
	accept_protocol_features(frontend);
	if (vublk_frontend_has(frontend, VUBLK_VU_F_MQ))
		ask(frontend, VUBLK_VU_GET_QUEUE_NUM, on_queue_num);
	if (vublk_frontend_has(frontend, VUBLK_VU_F_CONFIGURE_MEM_SLOTS))
		ask(frontend, VUBLK_VU_GET_MAX_MEM_SLOTS, on_memory_slots);
	if (vublk_frontend_has(frontend, VUBLK_VU_F_BACKEND_REQ))
		vublk_frontend_open_back_channel(frontend);
	vublk_frontend_read_config(frontend, on_config, frontend);
}

/* --- second round: the protocol features ------------------------------------------------ */

static void on_protocol_features(void *opaque, unsigned tag, struct vublk_vu_message *reply)
{
	struct vublk_frontend *frontend = opaque;
	uint64_t offered = reply->payload.u64;

	if (!(offered & VUBLK_BIT(VUBLK_VU_F_CONFIG))) {
		fail(frontend, ENOTSUP,
		     "the back-end does not offer the protocol feature CONFIG (bit 9), which is "
		     "needed to read the size of the disk; check that it is a back-end for block "
		     "devices");
		return;
	}
	frontend->info.protocol_features = offered;
	frontend->info.accepted_protocol_features = offered & ACCEPTED_PROTOCOL_FEATURES;
	if (frontend->wants_inflight)
		frontend->info.accepted_protocol_features |=
			offered & VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD);
	/* Without an in-flight area, a stop must not leave requests incomplete. */
	if (frontend->wants_undrained_stops &&
	    vublk_frontend_has(frontend, VUBLK_VU_F_INFLIGHT_SHMFD))
		frontend->info.accepted_protocol_features |=
			offered & VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_INFLIGHT);
	if (vublk_frontend_has(frontend, VUBLK_VU_F_GET_VRING_BASE_INFLIGHT))
		frontend->info.accepted_protocol_features |=
			offered & VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_SKIP_DRAIN);
	frontend->info.max_queues = 1;
	frontend->info.memory_slots = VUBLK_VU_MAX_TABLE_REGIONS;
	ask_for_everything(frontend);
}

/* --- first round: owner and features ------------------------------------------------------ */

static void on_features(void *opaque, unsigned tag, struct vublk_vu_message *reply)
{
	struct vublk_frontend *frontend = opaque;
	uint64_t offered = reply->payload.u64;

	frontend->info.features = offered;
	if (!(offered & VUBLK_BIT(VUBLK_VU_VIRTIO_F_PROTOCOL_FEATURES))) {
		fail(frontend, ENOTSUP,
		     "the back-end does not offer protocol features (feature bit 30), which are "
		     "needed to read the disk's configuration");
		return;
	}
	if (!(offered & VUBLK_BIT(VIRTIO_F_VERSION_1))) {
		fail(frontend, ENOTSUP,
		     "the back-end does not offer VIRTIO_F_VERSION_1 (feature bit 32), and legacy "
		     "back-ends are not supported");
		return;
	}
	ask(frontend, VUBLK_VU_GET_PROTOCOL_FEATURES, on_protocol_features);
}

void vublk_frontend_negotiate(struct vublk_frontend *frontend)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, VUBLK_VU_SET_OWNER);
	vublk_frontend_send(frontend, &message);
	ask(frontend, VUBLK_VU_GET_FEATURES, on_features);
}
