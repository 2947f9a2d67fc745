/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_PIECE_H
#define VUBLK_BLK_PIECE_H

#include "blk/queue.h"
#include "util/compiler.h"

#include <endian.h>
#include <stdbool.h>
#include <stdint.h>

/* The status byte of a slot until the back-end writes a status. */
#define VUBLK_BLK_STATUS_UNTOUCHED 0xff

_Static_assert(VIRTIO_BLK_T_OUT & VIRTIO_BLK_T_DISCARD & VIRTIO_BLK_T_WRITE_ZEROES & 1,
	       "types that change the disk are odd");

/*
 * Returns whether requests of this type change the disk. The other types (read, flush, get-id) are
 * even numbers.
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
 * Cuts the next piece off the request and adds it to the ring, without publishing it. Returns 1 if
 * the piece was added. Returns 0 if the piece has to wait: for room on the ring or in the log of
 * writes, for an earlier write to an overlapping range, or for the end of a replay. Negative errno:
 * the request cannot be put on the ring.
 */
int vublk_blk_piece_issue(struct vublk_blk_queue *queue, struct vublk_blk_request *request);

/*
 * Adds the piece in slot `token` to the new ring, with the same range and buffers as before.
 * Returns 0, or a negative errno if the piece cannot be issued again.
 */
int vublk_blk_piece_issue_again(struct vublk_blk_queue *queue, uint16_t token);

/*
 * The slow part of vublk_blk_piece_complete(), for every piece except a successful piece of a read
 * or write. Stores the result of the piece in its request.
 */
void vublk_blk_piece_judge(struct vublk_blk_queue *queue, uint16_t token, uint8_t status);

/*
 * Called with unflushed=replay when a piece that changes the disk has completed with `status`.
 * Copies the piece to the log if it has succeeded; otherwise frees its reservation. In keep.c.
 */
void vublk_blk_keep_copy(struct vublk_blk_queue *queue, const struct vublk_blk_slot *slot,
			 uint8_t status);

/*
 * Called when the back-end has completed the piece with this token. Frees the piece's slot, stores
 * the result in the piece's request, and returns this request.
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
		if (VUBLK_UNLIKELY(queue->write_log))
			vublk_blk_keep_copy(queue, slot, status);
	}
	request->pieces--;
	slot->request = NULL;
	queue->free_slots[queue->num_free_slots++] = token;
	return request;
}

#endif
