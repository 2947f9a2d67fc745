/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_PIECE_H
#define VUBLK_BLK_PIECE_H

#include "blk/queue.h"

#include <stdint.h>

/*
 * Cuts the next piece off the request and adds it to the ring, not yet published.
 * 1: done; 0: the ring has no room now, nothing has changed; a negative errno:
 * this request cannot be put on the ring.
 */
int vublk_blk_piece_issue(struct vublk_blk_queue *queue, struct vublk_blk_request *request);

/*
 * Takes a piece that the back-end completed: gives its slot back and notes its
 * result in the request, which is returned.
 */
struct vublk_blk_request *vublk_blk_piece_complete(struct vublk_blk_queue *queue, uint16_t token);

#endif
