/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The dirty log is a bitmap in which the back-end marks each page of the guest's memory that it
 * writes, so that a VM can be copied while it runs. This file switches the log on and off while the
 * rings run. If the log is on when rings are started, vring.c sends it with the start.
 *
 * Key idea: the order matters. The back-end first gets the bitmap, then the feature that makes it
 * log its writes, and then, for each queue, the flag that makes it log the used ring. To switch the
 * log off, first the feature and then the flags are cleared. The back-end keeps the bitmap, but no
 * longer writes to it.
 *
 * Specification: "Migration", "VHOST_USER_SET_LOG_BASE".
 */
#include "frontend/frontend.h"

#include <errno.h>
#include <inttypes.h>

/*
 * Called when the back-end has answered SET_LOG_BASE. A back-end that accepts the bitmap answers
 * with the number 0, with an empty payload or, if it uses libvhost-user (as qemu-storage-daemon
 * does), with the first number of the request, which is the size of the bitmap.
 */
static void on_base_set(void *opaque, unsigned tag, struct vublk_vu_message *reply)
{
	struct vublk_frontend_batch *batch = opaque;
	const struct vublk_device_dirty_log *dirty_log =
		batch->frontend ? batch->frontend->dirty_log : NULL;

	if (reply->header.size >= sizeof(reply->payload.u64) && reply->payload.u64 &&
	    !(dirty_log && reply->payload.u64 == dirty_log->size_bytes))
		vublk_frontend_batch_refuse(batch, EIO,
					    "the back-end refused SET_LOG_BASE (it replied "
					    "%" PRIu64 ")", reply->payload.u64);
	vublk_frontend_batch_answered(batch);
}

void vublk_frontend_send_log_base(struct vublk_frontend_batch *batch,
				  const struct vublk_device_dirty_log *dirty_log)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, VUBLK_VU_SET_LOG_BASE);
	message.header.size = sizeof(message.payload.log);
	message.payload.log.size_bytes = dirty_log->size_bytes;
	message.payload.log.offset = dirty_log->offset;
	message.fds[0] = dirty_log->fd;
	message.num_fds = 1;
	vublk_frontend_batch_ask(batch, &message, 0, on_base_set);
}

/*
 * Sends a piece of the batch: first the bitmap if the log is on, then the features, then each
 * queue's addresses.
 */
static void send_piece(void *owner, unsigned index)
{
	struct vublk_frontend_dirty_log_change *change = owner;
	struct vublk_frontend *frontend = change->batch.frontend;
	unsigned first_queue = frontend->dirty_log ? 2 : 1;

	if (index >= first_queue)
		vublk_frontend_send_addresses(&change->batch, &change->queues[index - first_queue]);
	else if (index == first_queue - 1)
		vublk_frontend_send_features(&change->batch, change->features);
	else
		vublk_frontend_send_log_base(&change->batch, frontend->dirty_log);
}

void vublk_frontend_set_dirty_log(struct vublk_frontend *frontend,
				  const struct vublk_device_dirty_log *dirty_log,
				  uint64_t features, const struct vublk_frontend_queue *queues,
				  unsigned num_queues,
				  void (*done)(void *opaque, const struct vublk_error *error),
				  void *opaque)
{
	struct vublk_frontend_dirty_log_change *change = &frontend->dirty_log_change;

	frontend->dirty_log = dirty_log;
	change->features = features;
	change->queues = queues;
	change->batch.owner = change;
	change->batch.send_piece = send_piece;
	change->batch.refused = NULL;
	vublk_frontend_batch_begin(frontend, &change->batch, num_queues + (dirty_log ? 2 : 1),
				   done, opaque);
}
