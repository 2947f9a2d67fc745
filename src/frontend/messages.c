/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The messages that more than one step sends, each as part of a batch. A message that only one step
 * sends is in that step's file. The wire format and its checks are in proto/vhost-user.
 *
 * Key idea: the payload of most requests is a number, or a queue index and a number. The parts of a
 * message that concern the dirty log depend only on frontend->dirty_log, so a step does not have to
 * know whether the log is on.
 *
 * Specification: "Front-end message types".
 */
#include "frontend/frontend.h"

#include "util/checked.h"

void vublk_frontend_send_u64(struct vublk_frontend_batch *batch, uint32_t request, uint64_t value)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, request);
	message.header.size = sizeof(message.payload.u64);
	message.payload.u64 = value;
	vublk_frontend_batch_send_confirmed(batch, &message);
}

void vublk_frontend_send_state(struct vublk_frontend_batch *batch, uint32_t request, unsigned index,
			       unsigned num)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, request);
	message.header.size = sizeof(message.payload.state);
	message.payload.state.index = index;
	message.payload.state.num = num;
	if (request == VUBLK_VU_SET_VRING_ENABLE)
		vublk_frontend_batch_send_confirmed(batch, &message);
	else
		vublk_frontend_batch_send(batch, &message);
}

void vublk_frontend_send_features(struct vublk_frontend_batch *batch, uint64_t features)
{
	features |= VUBLK_BIT(VUBLK_VU_VIRTIO_F_PROTOCOL_FEATURES);
	if (batch->frontend && batch->frontend->dirty_log)
		features |= VUBLK_BIT(VHOST_F_LOG_ALL);
	vublk_frontend_send_u64(batch, VUBLK_VU_SET_FEATURES, features);
}

/*
 * The log address of a used ring is its guest address. This front-end also sends the guest address
 * as the user address (memory.c).
 */
void vublk_frontend_send_addresses(struct vublk_frontend_batch *batch,
				   const struct vublk_frontend_queue *queue)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, VUBLK_VU_SET_VRING_ADDR);
	message.header.size = sizeof(message.payload.addr);
	message.payload.addr.index = queue->index;
	message.payload.addr.desc_user_addr = queue->desc_addr;
	message.payload.addr.avail_user_addr = queue->avail_addr;
	message.payload.addr.used_user_addr = queue->used_addr;
	if (batch->frontend && batch->frontend->dirty_log) {
		message.payload.addr.flags = 1u << VHOST_VRING_F_LOG;
		message.payload.addr.log_guest_addr = queue->used_addr;
	}
	vublk_frontend_batch_send_confirmed(batch, &message);
}
