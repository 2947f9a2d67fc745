/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The disk's own flushes, which the application did not submit (replay.h).
 *
 * Key idea: each queue has one request for these flushes, own_flush, which is in none of the
 * queue's lists. That request has a state of its own, OWN, so the application never gets its
 * completion.
 */
#include "blk/piece.h"
#include "blk/replay.h"

/*
 * After own_flush has failed, it is not issued again until the disk's thread clears
 * own_flush_failed.
 */
void vublk_blk_own_flush(struct vublk_blk_queue *queue)
{
	struct vublk_blk_request *request = &queue->own_flush;

	if (request->pieces || queue->own_flush_failed)
		return;
	*request = (struct vublk_blk_request){
		.type = VIRTIO_BLK_T_FLUSH,
		.state = VUBLK_BLK_REQUEST_OWN,
		.failures_before = vublk_blk_flush_failures(queue->flushes),
	};
	queue->wants_flush = vublk_blk_piece_issue(queue, request) != 1;
}
