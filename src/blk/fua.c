/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A write that is stable when it completes (force unit access), made of what virtio-blk
 * has: the write, and then a flush. Not the choice whether a flush is needed: that is in
 * request.c.
 *
 * Key idea: it is one request that changes its type. When the last piece of the write has
 * completed, the same request becomes a flush and queues for the ring again; the
 * application sees one request and one completion. The state FUA_ISSUED keeps such
 * requests off the path on which other requests complete.
 *
 * If the back-end is lost, the halves differ. A write of which no piece had completed is
 * executed again as a whole and then flushed, so nothing of it is lost. A write of which a
 * piece had completed may have lost that piece, as an unflushed write (recover.c).
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
