/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_PIECE_H
#define VUBLK_BLK_PIECE_H

#include "blk/queue.h"

#include <stdint.h>

/*
 * Cuts the next piece off the request and adds it to the ring, not yet published.
 * 1: done; 0: not now, for the ring has no room or an earlier write to the same place is
 * on it; nothing has changed; a negative errno: this request cannot be put on the ring.
 */
int vublk_blk_piece_issue(struct vublk_blk_queue *queue, struct vublk_blk_request *request);

/*
 * Adds the piece that the slot holds to a ring that was set up anew, as it was added to
 * the one before. 0, or a negative errno: it cannot be made any more.
 */
int vublk_blk_piece_issue_again(struct vublk_blk_queue *queue, uint16_t token);

/*
 * Takes a piece that the back-end completed: gives its slot back and notes its
 * result in the request, which is returned.
 */
struct vublk_blk_request *vublk_blk_piece_complete(struct vublk_blk_queue *queue, uint16_t token);

#endif
