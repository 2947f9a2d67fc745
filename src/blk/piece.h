/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_PIECE_H
#define VUBLK_BLK_PIECE_H

#include "blk/queue.h"

#include <endian.h>
#include <stdbool.h>
#include <stdint.h>

/* The status of a slot before the back-end has written one. */
#define VUBLK_BLK_STATUS_UNTOUCHED 0xff

_Static_assert(VIRTIO_BLK_T_OUT & VIRTIO_BLK_T_DISCARD & VIRTIO_BLK_T_WRITE_ZEROES & 1,
	       "what changes the disk is odd");

/* Whether the request changes the disk; a read, a flush and a get-id are even. */
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
 * Cuts the next piece off the request and adds it to the ring, unpublished. 1: done; 0: nothing
 * has changed, because the ring has no room or an earlier write to the same place is on it; a
 * negative errno: this request cannot be put on the ring.
 */
int vublk_blk_piece_issue(struct vublk_blk_queue *queue, struct vublk_blk_request *request);

/*
 * Adds the piece of a slot to a new ring, as it was added to the previous one. 0, or a negative
 * errno: the piece cannot be issued any more.
 */
int vublk_blk_piece_issue_again(struct vublk_blk_queue *queue, uint16_t token);

/*
 * Notes the result of a piece in its request. For all outcomes except a successful read or write.
 */
void vublk_blk_piece_judge(struct vublk_blk_queue *queue, uint16_t token, uint8_t status);

/*
 * Takes a piece that the back-end completed: frees its slot and notes its result in the request,
 * which is returned.
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
