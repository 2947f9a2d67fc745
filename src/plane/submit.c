/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file puts requests on the back-end's rings.
 *
 * Key idea: a write waits while an earlier write to the same place is outstanding, on any queue. So
 * no incomplete request can overwrite a later write that has completed. After a loss, all
 * incomplete requests can therefore be submitted again. The plane submits them in the order in
 * which it has taken them.
 *
 * The back-end's ring may be smaller than the driver's. If the back-end's ring has no room for a
 * request, later requests of the queue do not overtake this request. The plane then takes no more
 * chains from the queue, so further chains wait in the driver's ring; vublk_plane_takes_all() is
 * the exception. The token of a request on the back-end's ring is the number of the first
 * descriptor of its chain there.
 */
#include "plane/plane.h"

#include "util/atomic.h"
#include "util/checked.h"
#include "util/compiler.h"
#include "util/probe.h"
#include "virtio/blk-format.h"
#include "virtio/split.h"

/* --- the chain --------------------------------------------------------------- */

/* A chain that is being built in an indirect `table` or in `buffers`. One of the two is NULL. */
struct build {
	uint16_t token;
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

/* Copies the ranges to memory that is shared with the back-end. Returns their guest address. */
static uint64_t share_ranges(const struct vublk_plane *plane, const struct vublk_plane_slot *slot,
			     const struct vublk_plane_region_queue *memory, uint16_t token)
{
	const struct virtio_blk_discard_write_zeroes *ranges =
		&plane->queues[slot->queue].ranges[(size_t)slot->head * VUBLK_PLANE_MAX_RANGES];
	size_t first = (size_t)token * VUBLK_PLANE_MAX_RANGES;

	for (unsigned i = 0; i < slot->num_ranges; i++)
		memory->ranges[first + i] = ranges[i];
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
		add(build, share_ranges(plane, slot, memory, build->token),
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

/* Returns whether the segments are all the request's data: it has no ranges and is not a GET_ID. */
static VUBLK_ALWAYS_INLINE bool is_plain(const struct vublk_plane_slot *slot)
{
	return !slot->num_ranges && slot->type != VIRTIO_BLK_T_GET_ID;
}

static VUBLK_ALWAYS_INLINE void share_header(const struct vublk_plane_slot *slot,
					     struct vublk_plane_shared_slot *shared)
{
	shared->header = slot->header;
	vublk_store_relaxed(&shared->status, VUBLK_PLANE_NO_STATUS);
}

/* Builds the indirect table, with `count` entries, of a request for which is_plain() is true. */
static VUBLK_ALWAYS_INLINE void build_plain(const struct vublk_plane_slot *slot,
					    struct vublk_plane_shared_slot *shared,
					    uint64_t shared_addr, struct vring_desc *table,
					    unsigned count)
{
	const struct vublk_ring_buffer *segment = slot->segments;
	struct vring_desc *last = &table[count - 1];
	uint16_t next = 2, flags = slot->type == VIRTIO_BLK_T_IN ?
				   VRING_DESC_F_NEXT | VRING_DESC_F_WRITE : VRING_DESC_F_NEXT;

	share_header(slot, shared);
	vublk_split_write_desc(table, shared_addr + offsetof(struct vublk_plane_shared_slot, header),
			       sizeof(shared->header), VRING_DESC_F_NEXT, 1);
	for (table++; table < last; table++, segment++)
		vublk_split_write_desc(table, segment->addr, segment->bytes, flags, next++);
	vublk_split_write_desc(last, shared_addr + offsetof(struct vublk_plane_shared_slot, status),
			       1, VRING_DESC_F_WRITE, 0);
}

/*
 * Builds the chain of any request. The function is inlined, so that the compiler makes one copy of
 * the code for tables and one for buffers.
 */
static VUBLK_ALWAYS_INLINE void build_chain(const struct vublk_plane *plane,
					    const struct vublk_plane_slot *slot,
					    const struct vublk_plane_region_queue *memory,
					    struct build *build)
{
	struct vublk_plane_shared_slot *shared = &memory->slots[build->token];
	uint64_t shared_addr = shared_addr_of(memory, build->token);

	share_header(slot, shared);
	add(build, shared_addr + offsetof(struct vublk_plane_shared_slot, header),
	    sizeof(shared->header), VRING_DESC_F_NEXT);
	add_data(plane, slot, memory, shared_addr, build);
	add(build, shared_addr + offsetof(struct vublk_plane_shared_slot, status), 1,
	    VRING_DESC_F_WRITE);
}

/* Returns the number of buffers in the request's chain. */
static inline unsigned count_buffers(const struct vublk_plane_slot *slot)
{
	return VUBLK_UNLIKELY(!is_plain(slot)) ? 3 : slot->num_segments + 2;
}

/* --- the ring ------------------------------------------------------------------ */

/*
 * Returns the indirect table for the request with this token and `count` buffers. Stores the guest
 * address of the table in `addr`.
 */
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

/*
 * Adds the chain of a request with an indirect table of `count` entries. The ring must have a free
 * entry. `owner` gets the completion. It is `slot` itself or, if `slot` is a view
 * (vublk_plane_mirror_view()), the slot that the view was made from.
 */
static VUBLK_ALWAYS_INLINE void add_indirect(struct vublk_plane *plane,
					     const struct vublk_plane_side *side,
					     const struct vublk_plane_slot *slot,
					     struct vublk_plane_slot *owner,
					     struct vublk_plane_side_queue *queue, bool plain,
					     unsigned count)
{
	const struct vublk_plane_region_queue *memory = queue->memory;
	uint16_t token = vublk_driver_ring_next_head(&queue->ring);
	struct vring_desc *table;
	uint64_t addr;

	table = table_of(side, memory, token, count, &addr);
	if (plain) {
		build_plain(slot, &memory->slots[token], shared_addr_of(memory, token), table, count);
	} else {
		struct build build = { .token = token, .table = table };

		build_chain(plane, slot, memory, &build);
	}
	queue->slots[token] = owner;
	vublk_driver_ring_add_table(&queue->ring, addr, count, token);
}

/*
 * Adds the chain of a request without an indirect table. Returns false if the ring does not have a
 * free entry for each buffer.
 */
static VUBLK_NOINLINE bool add_direct(struct vublk_plane *plane,
				      const struct vublk_plane_slot *slot,
				      struct vublk_plane_slot *owner,
				      struct vublk_plane_side_queue *queue, unsigned count)
{
	struct vublk_ring_buffer buffers[VUBLK_RING_MAX_SIZE];
	struct build build = {
		.token = vublk_driver_ring_next_head(&queue->ring), .buffers = buffers,
	};
	unsigned num_in = slot->type == VIRTIO_BLK_T_IN ? slot->num_segments + 1 :
			  slot->type == VIRTIO_BLK_T_GET_ID ? 2 : 1;

	if (count > queue->ring.num_free)
		return false;
	build_chain(plane, slot, queue->memory, &build);
	queue->slots[build.token] = owner;
	return !vublk_driver_ring_add(&queue->ring, buffers, count - num_in, num_in, NULL,
				      build.token);
}

/*
 * Fails a request that is too long for the back-end's ring. A request can be too long only if the
 * back-end does not support indirect descriptors.
 */
static VUBLK_COLD void refuse(struct vublk_plane *plane, struct vublk_plane_slot *slot,
			      unsigned count, unsigned size)
{
	vublk_log_limited(plane->log, plane->limit, VUBLK_LOG_WARNING,
			  "queue %u: a request of %u buffers fails, because the back-end's ring "
			  "has only %u entries and no indirect descriptors",
			  slot->queue, count, size);
	vublk_plane_end(plane, slot, VIRTIO_BLK_S_IOERR);
}

static VUBLK_ALWAYS_INLINE void count_submitted(struct vublk_plane *plane, struct vublk_plane_slot *slot)
{
	slot->state = VUBLK_PLANE_SLOT_SUBMITTED;
	if (VUBLK_UNLIKELY(plane->hooks & VUBLK_PLANE_HOOK_TRACE))
		vublk_plane_trace_submit(plane, slot);
	plane->num_held--;
	plane->num_submitted++;
	VUBLK_PROBE4(plane_submit, slot->queue, slot->head, slot->type, slot->sector);
}

/* Puts a mirrored request on a ring of `side`, which must have room. Returns its token there. */
static uint16_t put_view(struct vublk_plane *plane, struct vublk_plane_side *side,
			 struct vublk_plane_slot *slot)
{
	struct vublk_plane_side_queue *queue = &side->queues[slot->queue];
	uint16_t token = vublk_driver_ring_next_head(&queue->ring);
	struct vublk_plane_slot view;

	vublk_plane_mirror_view(plane, slot, side, &view);
	if (queue->ring.has_indirect)
		add_indirect(plane, side, &view, slot, queue, true, count_buffers(&view));
	else
		add_direct(plane, &view, slot, queue, count_buffers(&view));
	return token;
}

static void put_both(struct vublk_plane *plane, struct vublk_plane_slot *slot)
{
	put_view(plane, plane->side, slot);
	vublk_plane_mirror_sent(plane, slot, put_view(plane, plane->mirror->target, slot));
	count_submitted(plane, slot);
}

static bool put_on_source(struct vublk_plane *plane, struct vublk_plane_slot *slot)
{
	struct vublk_plane_side_queue *queue = &plane->side->queues[slot->queue];
	unsigned count = count_buffers(slot);
	bool is_added;

	if (!queue->ring.has_indirect && count > queue->ring.size) {
		refuse(plane, slot, count, queue->ring.size);
		return true;
	}
	if (queue->ring.has_indirect) {
		is_added = queue->ring.num_free;
		if (is_added)
			add_indirect(plane, plane->side, slot, slot, queue, is_plain(slot), count);
	} else {
		is_added = add_direct(plane, slot, slot, queue, count);
	}
	if (is_added)
		count_submitted(plane, slot);
	return is_added;
}

/*
 * Puts a held request on the ring, if possible. Returns false if the request has to be in a ready
 * list; true if it is on the ring, has failed, or is parked by the mirror.
 */
static bool put(struct vublk_plane *plane, struct vublk_plane_slot *slot)
{
	if (!plane->side || plane->side->is_broken)
		return false;
	if (plane->replay && !vublk_plane_replay_admits(plane, slot))
		return false;
	if (!plane->mirror)
		return put_on_source(plane, slot);
	switch (vublk_plane_mirror_admit(plane, slot)) {
	case VUBLK_PLANE_MIRROR_WAIT:
		return false;
	case VUBLK_PLANE_MIRROR_PARK:
		slot->mirrored.is_parked = true;
		return true;
	case VUBLK_PLANE_MIRROR_BOTH:
		put_both(plane, slot);
		return true;
	case VUBLK_PLANE_MIRROR_SOURCE_ONLY:
		break;
	}
	return put_on_source(plane, slot);
}

/* --- requests that are held ------------------------------------------------------ */

static VUBLK_NOINLINE void submit_any(struct vublk_plane *plane, struct vublk_plane_slot *slot)
{
	if (plane->queues[slot->queue].first_ready || !put(plane, slot))
		vublk_plane_add_ready(plane, slot);
}

/*
 * The path of most requests calls no function, so it has few registers to save. A write with
 * blockers is left alone, because it becomes ready when the last of them ends.
 */
void vublk_plane_submit(struct vublk_plane *plane, struct vublk_plane_slot *slot)
{
	struct vublk_plane_side *side = plane->side;
	struct vublk_plane_side_queue *queue;

	if (VUBLK_UNLIKELY(slot->order.num_blockers))
		return;
	if (VUBLK_UNLIKELY(!side || side->is_broken || plane->replay || plane->mirror ||
			   !is_plain(slot) || plane->queues[slot->queue].first_ready)) {
		submit_any(plane, slot);
		return;
	}
	queue = &side->queues[slot->queue];
	if (VUBLK_UNLIKELY(!queue->ring.has_indirect || !queue->ring.num_free)) {
		submit_any(plane, slot);
		return;
	}
	if (slot->num_segments == 1) /* a copy of the code in which the count is constant */
		add_indirect(plane, side, slot, slot, queue, true, 3);
	else
		add_indirect(plane, side, slot, slot, queue, true, slot->num_segments + 2);
	count_submitted(plane, slot);
}

/*
 * Puts the queue's ready requests on the ring, as far as there is room. A request that is too long
 * for the ring fails. When it ends, requests of any queue may become ready, and has_ended is set.
 */
static void put_ready(struct vublk_plane *plane, struct vublk_plane_queue *queue)
{
	while (queue->first_ready && put(plane, queue->first_ready))
		queue->first_ready = queue->first_ready->next_ready;
}

void vublk_plane_submit_held(struct vublk_plane *plane)
{
	while (plane->has_ended && plane->num_held) {
		plane->has_ended = false;
		for (unsigned i = 0; i < plane->num_queues; i++)
			put_ready(plane, &plane->queues[i]);
	}
}
