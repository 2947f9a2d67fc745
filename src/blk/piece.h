/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_PIECE_H
#define VUBLK_BLK_PIECE_H

#include "blk/queue.h"

#include <endian.h>
#include <stdbool.h>
#include <stdint.h>

/* The status of a slot before the back-end has written a status. */
#define VUBLK_BLK_STATUS_UNTOUCHED 0xff

_Static_assert(VIRTIO_BLK_T_OUT & VIRTIO_BLK_T_DISCARD & VIRTIO_BLK_T_WRITE_ZEROES & 1,
	       "types that change the disk are odd");

/*
 * Whether the request changes the disk. The types of requests that do not (read, flush, get-id) are
 * even.
 */
static inline bool vublk_blk_type_is_write(uint32_t type)
{
	return type & 1;
}

static inline void vublk_blk_fill_header(struct vublk_blk_shared_slot *shared, uint32_t type,
					 uint64_t sector)
{
	shared->header.type = htole32(type);
	shared->header.ioprio = 0;
	shared->header.sector = htole64(sector);
	shared->status = VUBLK_BLK_STATUS_UNTOUCHED;
}

/*
 * Cuts the next piece off the request and adds it to the ring, without publishing it. Returns 1:
 * the piece was added; 0: nothing has changed, because the ring has no room or an earlier write to
 * the same place is on the ring; a negative errno: the request cannot be put on the ring.
 */
int vublk_blk_piece_issue(struct vublk_blk_queue *queue, struct vublk_blk_request *request);

/*
 * Adds the piece of a slot to a new ring, as it was on the previous ring. Returns 0, or a negative
 * errno: the piece cannot be issued again.
 */
int vublk_blk_piece_issue_again(struct vublk_blk_queue *queue, uint16_t token);

/*
 * Stores the result of a piece in its request: the slow part of vublk_blk_piece_complete(), not
 * needed for a read or write that succeeded.
 */
void vublk_blk_piece_judge(struct vublk_blk_queue *queue, uint16_t token, uint8_t status);

/*
 * Ends a piece that the back-end has completed: frees its slot, stores its result in the request,
 * and returns the request.
 */
static inline struct vublk_blk_request *vublk_blk_piece_complete(struct vublk_blk_queue *queue,
								 uint16_t token)
{
	struct vublk_blk_slot *slot = &queue->slots[token];
	struct vublk_blk_request *request = slot->request;
	uint8_t status = vublk_load_relaxed(&queue->shared[token].status);

	if (VUBLK_UNLIKELY(status != VIRTIO_BLK_S_OK || request->type > VIRTIO_BLK_T_OUT))
		vublk_blk_piece_judge(queue, token, status);
	if (vublk_blk_type_is_write(request->type)) {
		vublk_blk_overlap_remove(&queue->overlap, slot->offset, slot->bytes);
		queue->covering_flush = vublk_blk_flush_covering(queue->flushes);
	}
	request->pieces--;
	slot->request = NULL;
	queue->free_slots[queue->num_free_slots++] = token;
	return request;
}

#endif
