/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_FUA_H
#define VUBLK_BLK_FUA_H

#include "blk/queue.h"

#include <stdbool.h>

/*
 * Called when a piece of a request with `fua` has completed. Returns true if the request is
 * complete, and false if other pieces or the request's flush have not completed yet.
 * vublk_blk_queue_pump() issues the flush.
 */
bool vublk_blk_fua_piece_completed(struct vublk_blk_queue *queue,
				   struct vublk_blk_request *request);

/*
 * Called when a piece of a request with `fua` has left the ring without a completion. Returns the
 * same as vublk_blk_fua_piece_completed().
 */
bool vublk_blk_fua_has_ended(struct vublk_blk_queue *queue, struct vublk_blk_request *request);

/*
 * Returns whether at least one piece of the request's write has completed, but the flush after the
 * write has not.
 */
static inline bool vublk_blk_fua_is_unflushed(const struct vublk_blk_request *request)
{
	return request->fua > VUBLK_BLK_FUA_WRITE;
}

#endif
