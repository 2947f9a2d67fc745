/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file puts requests on the back-end's rings.
 *
 * Key idea: a write waits while an earlier write to the same place is outstanding, on any queue.
 * So, after a loss, all requests that were not completed can be submitted again: none of them can
 * overwrite what a completed request has written. The list of outstanding requests is in the order
 * in which they were taken, and it is walked in that order.
 */
#include "plane/plane.h"

#include "util/atomic.h"
#include "util/checked.h"
#include "util/compiler.h"
#include "virtio/blk-format.h"
#include "virtio/split.h"

/* --- the chain --------------------------------------------------------------- */

/* Where the chain of a request is built; one of `table` and `buffers` is NULL. */
struct build {
	struct vring_desc *table;
	struct vublk_ring_buffer *buffers;
	unsigned count;
};

static VUBLK_ALWAYS_INLINE void add(struct build *build, uint64_t addr, uint32_t bytes,
				    uint16_t flags)
{
	unsigned i = build->count++;

	if (!build->buffers)
		vublk_split_write_desc(&build->table[i], addr, bytes, flags, (uint16_t)(i + 1));
	else
		build->buffers[i] = (struct vublk_ring_buffer){ addr, bytes };
}

/* Copies the ranges to memory that the back-end reads. Returns their address there. */
static uint64_t share_ranges(const struct vublk_plane *plane, const struct vublk_plane_slot *slot,
			     const struct vublk_plane_region_queue *memory)
{
	size_t first = (size_t)slot->head * VUBLK_PLANE_MAX_RANGES;

	for (unsigned i = 0; i < slot->num_ranges; i++)
		memory->ranges[first + i] = plane->queues[slot->queue].ranges[first + i];
	return memory->ranges_addr + first * sizeof(memory->ranges[0]);
}

static VUBLK_ALWAYS_INLINE void add_data(const struct vublk_plane *plane,
					 const struct vublk_plane_slot *slot,
					 const struct vublk_plane_region_queue *memory,
					 uint64_t shared_addr, struct build *build)
{
	uint16_t flags = VRING_DESC_F_NEXT |
			 (slot->type == VIRTIO_BLK_T_IN ? VRING_DESC_F_WRITE : 0);

	if (VUBLK_UNLIKELY(slot->num_ranges)) {
		add(build, share_ranges(plane, slot, memory),
		    (uint32_t)(slot->num_ranges * sizeof(memory->ranges[0])), VRING_DESC_F_NEXT);
		return;
	}
	if (VUBLK_UNLIKELY(slot->type == VIRTIO_BLK_T_GET_ID)) {
		add(build, shared_addr + offsetof(struct vublk_plane_shared_slot, id),
		    VUBLK_BLK_ID_BYTES, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE);
		return;
	}
	for (unsigned i = 0; i < slot->num_segments; i++)
		add(build, slot->segments[i].addr, slot->segments[i].bytes, flags);
}

static uint64_t shared_addr_of(const struct vublk_plane_region_queue *memory, uint16_t token)
{
	return memory->slots_addr + token * sizeof(struct vublk_plane_shared_slot);
}

/* Inline, so that each caller gets a copy for its kind of chain. */
static VUBLK_ALWAYS_INLINE void build_chain(const struct vublk_plane *plane,
					    const struct vublk_plane_slot *slot,
					    const struct vublk_plane_region_queue *memory,
					    struct build *build)
{
	struct vublk_plane_shared_slot *shared = &memory->slots[slot->head];
	uint64_t shared_addr = shared_addr_of(memory, slot->head);

	shared->header = (struct virtio_blk_outhdr){
		.type = slot->type,
		.ioprio = slot->priority,
		.sector = slot->sector,
	};
	vublk_store_relaxed(&shared->status, VUBLK_PLANE_NO_STATUS);
	add(build, shared_addr + offsetof(struct vublk_plane_shared_slot, header),
	    sizeof(shared->header), VRING_DESC_F_NEXT);
	add_data(plane, slot, memory, shared_addr, build);
	add(build, shared_addr + offsetof(struct vublk_plane_shared_slot, status), 1,
	    VRING_DESC_F_WRITE);
}

/* The number of buffers of the chain. */
static inline unsigned count_buffers(const struct vublk_plane_slot *slot)
{
	if (VUBLK_UNLIKELY(slot->num_ranges || slot->type == VIRTIO_BLK_T_GET_ID))
		return 3;
	return slot->num_segments + 2;
}

/* --- the ring ------------------------------------------------------------------ */

/* Where the table of a slot is. */
static inline struct vring_desc *table_of(const struct vublk_plane_side *side,
					  const struct vublk_plane_region_queue *memory,
					  uint16_t token, unsigned count, uint64_t *addr)
{
	size_t first;

	if (count <= VUBLK_PLANE_SHORT_TABLE) {
		*addr = shared_addr_of(memory, token) +
			offsetof(struct vublk_plane_shared_slot, table);
		return memory->slots[token].table;
	}
	first = (size_t)token * side->region.long_table;
	*addr = memory->tables_addr + first * sizeof(memory->tables[0]);
	return &memory->tables[first];
}

/* A chain with an indirect table takes one entry of the ring. */
static inline bool add_indirect(struct vublk_plane *plane, const struct vublk_plane_slot *slot,
				struct vublk_plane_side_queue *queue, unsigned count)
{
	struct build build = { 0 };
	uint64_t addr;

	if (!queue->ring.num_free)
		return false;
	build.table = table_of(plane->side, queue->memory, slot->head, count, &addr);
	build_chain(plane, slot, queue->memory, &build);
	vublk_driver_ring_add_table(&queue->ring, addr, count, slot->head);
	return true;
}

/* Without indirect tables, a chain takes an entry of the ring for each buffer. */
static bool add_direct(struct vublk_plane *plane, const struct vublk_plane_slot *slot,
		       struct vublk_plane_side_queue *queue, unsigned count)
{
	struct vublk_ring_buffer buffers[VUBLK_RING_MAX_SIZE];
	struct build build = { .buffers = buffers };
	unsigned num_in = slot->type == VIRTIO_BLK_T_IN ? slot->num_segments + 1 :
			  slot->type == VIRTIO_BLK_T_GET_ID ? 2 : 1;

	if (count > queue->ring.num_free)
		return false;
	build_chain(plane, slot, queue->memory, &build);
	return !vublk_driver_ring_add(&queue->ring, buffers, count - num_in, num_in, NULL,
				      slot->head);
}

void vublk_plane_submit(struct vublk_plane *plane, struct vublk_plane_slot *slot)
{
	struct vublk_plane_side_queue *queue;
	unsigned count = count_buffers(slot);
	bool is_added;

	if (!plane->side || plane->side->is_broken)
		return;
	queue = &plane->side->queues[slot->queue];
	if (VUBLK_UNLIKELY(slot->may_wait)) {
		if (vublk_plane_must_wait(plane, slot))
			return;
		slot->may_wait = false;
	}
	if (VUBLK_UNLIKELY(!queue->ring.has_indirect)) {
		if (count > queue->ring.size) {
			vublk_plane_end(plane, slot, VIRTIO_BLK_S_IOERR);
			return;
		}
		is_added = add_direct(plane, slot, queue, count);
	} else {
		is_added = add_indirect(plane, slot, queue, count);
	}
	if (!is_added)
		return; /* the ring is full */
	slot->state = VUBLK_PLANE_SLOT_SUBMITTED;
	plane->num_held--;
	plane->num_submitted++;
}

static void submit_all(struct vublk_plane *plane)
{
	struct vublk_plane_slot *next;

	for (struct vublk_plane_slot *slot = plane->first; slot && plane->num_held; slot = next) {
		next = slot->next;
		if (slot->state == VUBLK_PLANE_SLOT_HELD)
			vublk_plane_submit(plane, slot);
	}
}

/* A request that is too long for the ring ends here, and others may have waited for it. */
void vublk_plane_submit_held(struct vublk_plane *plane)
{
	while (plane->has_ended && plane->num_held) {
		plane->has_ended = false;
		submit_all(plane);
	}
}
