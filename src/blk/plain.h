/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_PLAIN_H
#define VUBLK_BLK_PLAIN_H

/*
 * The fast path, for a read or write that has one buffer in one region and fits into one piece. It
 * applies only while the queue works, has room, and has no request that waits to be cut.
 *
 * Key idea: the fast path has the same effect as request.c, queue.c and piece.c together, so no
 * other code can tell which path a request took (test-blk-paths.c compares the two). All conditions
 * are checked first. If one of them is not met, the fast path changes nothing, and the general path
 * handles the request and reports errors. The functions are inline so that reads and writes each
 * get a copy in which the type is a constant.
 */
#include "blk/piece.h"
#include "blk/queue.h"
#include "util/checked.h"
#include "util/probe.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Returns whether the queue works, no request waits to be cut, and a request, a slot and a
 * descriptor are free.
 */
static inline bool vublk_blk_plain_has_room(const struct vublk_blk_queue *queue)
{
	return queue->state == VUBLK_BLK_QUEUE_WORKS && !queue->cutting.first && queue->free &&
	       queue->num_free_slots && queue->ring.num_free;
}

static inline bool vublk_blk_plain_is_within(const struct vublk_blk_queue *queue,
					     uint64_t offset, size_t bytes)
{
	uint64_t capacity = vublk_load_relaxed(queue->capacity_bytes);

	/*
	 * max_plain_bytes is 0 if the queue cannot use this path, for example because it has no
	 * indirect tables.
	 */
	return bytes && bytes <= queue->max_plain_bytes &&
	       !((offset | bytes) & (queue->limits.block_bytes - 1)) && bytes <= capacity &&
	       offset <= capacity - bytes;
}

static inline bool vublk_blk_plain_may_write(struct vublk_blk_queue *queue, uint64_t offset,
					     size_t bytes)
{
	return !(queue->features & VUBLK_BIT(VIRTIO_BLK_F_RO)) &&
	       !vublk_blk_overlap_is_possible(&queue->overlap, offset, bytes);
}

/*
 * Takes a free request, and fills it in as if its only piece were already on the ring. `end` is the
 * end of the request's range of the disk.
 */
static inline struct vublk_blk_request *vublk_blk_plain_take_request(
	struct vublk_blk_queue *queue, uint32_t type, uint64_t end, void *buffer, size_t bytes,
	void *user_data)
{
	struct vublk_blk_request *request = queue->free;

	queue->free = request->next;
	queue->in_flight++;
	request->state = VUBLK_BLK_REQUEST_ISSUED;
	request->type = type;
	request->result = 0;
	request->pieces = 1;
	request->offset = end;
	request->left = 0;
	request->single.iov_base = buffer;
	request->single.iov_len = bytes;
	request->user_data = user_data;
	return request;
}

static inline uint16_t vublk_blk_plain_take_slot(struct vublk_blk_queue *queue,
						 struct vublk_blk_request *request,
						 uint64_t offset, size_t bytes)
{
	uint16_t token = queue->free_slots[--queue->num_free_slots];
	struct vublk_blk_slot *slot = &queue->slots[token];

	slot->request = request;
	slot->sequence = queue->sequence++;
	slot->offset = offset;
	slot->bytes = bytes;
	slot->cursor = (struct vublk_blk_cursor){ &request->single, 1, 0, 0 };
	return token;
}

/* Fills the slot's indirect table, unless an earlier request left the same content in it. */
static inline void vublk_blk_plain_fill_table(struct vublk_blk_slot *slot,
					      struct vring_desc *table, uint64_t shared_addr,
					      uint64_t addr, uint32_t bytes, bool is_write)
{
	if (slot->table_addr == addr && slot->table_bytes == bytes &&
	    slot->table_writes == is_write)
		return;
	slot->table_addr = addr;
	slot->table_bytes = bytes;
	slot->table_writes = is_write;
	/*
	 * The last descriptor has no successor. Its field `next` gets the value that the general
	 * path writes.
	 */
	vublk_split_write_desc(&table[0],
			       shared_addr + offsetof(struct vublk_blk_shared_slot, header),
			       sizeof(struct virtio_blk_outhdr), VRING_DESC_F_NEXT, 1);
	vublk_split_write_desc(&table[1], addr, bytes,
			       VRING_DESC_F_NEXT | (is_write ? 0 : VRING_DESC_F_WRITE), 2);
	vublk_split_write_desc(&table[2],
			       shared_addr + offsetof(struct vublk_blk_shared_slot, status), 1,
			       VRING_DESC_F_WRITE, 3);
}

static VUBLK_ALWAYS_INLINE void vublk_blk_plain_put_on_ring(
	struct vublk_blk_queue *queue, uint16_t token, uint32_t type, uint64_t offset,
	uint64_t addr, uint32_t bytes)
{
	struct vublk_blk_shared_slot *shared = &queue->shared[token];
	uint64_t shared_addr = queue->shared_addr + token * sizeof(*shared);

	vublk_blk_fill_header(shared, type, offset >> VUBLK_SECTOR_SHIFT);
	vublk_blk_plain_fill_table(&queue->slots[token], shared->table, shared_addr, addr, bytes,
				   type == VIRTIO_BLK_T_OUT);
	vublk_driver_ring_add_table(&queue->ring,
				    shared_addr + offsetof(struct vublk_blk_shared_slot, table),
				    VUBLK_BLK_SLOT_TABLE, token);
	queue->unpublished = true;
}

/*
 * Puts a read or a write (VIRTIO_BLK_T_IN, _OUT) on the ring, without publishing it. Returns false,
 * and changes nothing, if the request needs the general path or is invalid. Must be called inside
 * the gate.
 */
static VUBLK_ALWAYS_INLINE bool vublk_blk_plain_start(struct vublk_blk_queue *queue, uint32_t type,
					 uint64_t offset, void *buffer, size_t bytes,
					 void *user_data)
{
	struct vublk_blk_request *request;
	uint64_t addr;
	uint16_t token;

	if (!vublk_blk_plain_has_room(queue) || !vublk_blk_plain_is_within(queue, offset, bytes) ||
	    (type == VIRTIO_BLK_T_OUT && !vublk_blk_plain_may_write(queue, offset, bytes)) ||
	    vublk_inproc_regions_find(queue->regions, &queue->cache, buffer, &addr) < bytes)
		return false;
	request = vublk_blk_plain_take_request(queue, type, offset + bytes, buffer, bytes,
					       user_data);
	token = vublk_blk_plain_take_slot(queue, request, offset, bytes);
	vublk_blk_plain_put_on_ring(queue, token, type, offset, addr, (uint32_t)bytes);
	if (type == VIRTIO_BLK_T_OUT)
		vublk_blk_overlap_add(&queue->overlap, offset, bytes);
	VUBLK_PROBE5(blk_submit, queue->index, type, offset, bytes, user_data);
	return true;
}

#endif
