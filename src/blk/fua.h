/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_FUA_H
#define VUBLK_BLK_FUA_H

#include "blk/queue.h"

#include <stdbool.h>

/*
 * A piece of a request with `fua` has completed. True: the request is complete. False: other
 * pieces, or the flush, have not completed yet. The next vublk_blk_queue_pump() issues the flush.
 */
bool vublk_blk_fua_piece_completed(struct vublk_blk_queue *queue,
				   struct vublk_blk_request *request);

/*
 * A piece of a request with `fua` has left the ring without completing. Returns the same as
 * vublk_blk_fua_piece_completed().
 */
bool vublk_blk_fua_has_ended(struct vublk_blk_queue *queue, struct vublk_blk_request *request);

/* Whether part of the write has completed, and no flush has made it stable yet. */
static inline bool vublk_blk_fua_is_unflushed(const struct vublk_blk_request *request)
{
	return request->fua > VUBLK_BLK_FUA_WRITE;
}

#endif
