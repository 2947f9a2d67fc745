/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_FUA_H
#define VUBLK_BLK_FUA_H

#include "blk/queue.h"

#include <stdbool.h>

/*
 * A piece of a request with `fua` has completed. True: that completes the request. False: other
 * pieces, or the flush, are still to complete. A flush is issued by the next
 * vublk_blk_queue_pump().
 */
bool vublk_blk_fua_piece_completed(struct vublk_blk_queue *queue,
				   struct vublk_blk_request *request);

/* The same for a piece that left the ring without completing. */
bool vublk_blk_fua_has_ended(struct vublk_blk_queue *queue, struct vublk_blk_request *request);

/* Whether part of the write has completed, and no flush has made it stable yet. */
static inline bool vublk_blk_fua_is_unflushed(const struct vublk_blk_request *request)
{
	return request->fua > VUBLK_BLK_FUA_WRITE;
}

#endif
