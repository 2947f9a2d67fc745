/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes with FUA (force unit access), which are stable when they complete. virtio-blk has no FUA,
 * so such a request is a write, discard or write zeroes followed by a flush. request.c decides
 * whether the flush is needed.
 *
 * Key idea: the write and the flush share one request. When the last piece of the write has
 * completed, the request becomes a flush and waits for room on the ring again. The application sees
 * one request and one completion. Such requests have a state of their own, FUA_ISSUED, so that the
 * completion of other requests needs no further check.
 *
 * After the loss of a back-end, a write of which no piece had completed is executed again as a
 * whole and then flushed, so no data is lost. If a piece had completed, its data may be lost, as
 * with any unflushed write (recover.c).
 */
#include "blk/fua.h"

static void start_flush(struct vublk_blk_queue *queue, struct vublk_blk_request *request)
{
	request->fua = VUBLK_BLK_FUA_FLUSH;
	request->type = VIRTIO_BLK_T_FLUSH;
	request->offset = 0;
	request->state = VUBLK_BLK_REQUEST_CUTTING;
	vublk_blk_list_append(&queue->cutting, request);
}

bool vublk_blk_fua_has_ended(struct vublk_blk_queue *queue, struct vublk_blk_request *request)
{
	if (request->pieces || request->state != VUBLK_BLK_REQUEST_FUA_ISSUED)
		return false;
	if (request->fua != VUBLK_BLK_FUA_FLUSH && !request->result) {
		start_flush(queue, request);
		return false;
	}
	request->fua = VUBLK_BLK_FUA_NONE;
	return true;
}

bool vublk_blk_fua_piece_completed(struct vublk_blk_queue *queue,
				   struct vublk_blk_request *request)
{
	if (request->fua == VUBLK_BLK_FUA_WRITE)
		request->fua = VUBLK_BLK_FUA_WRITE_PARTLY_DONE;
	return vublk_blk_fua_has_ended(queue, request);
}
