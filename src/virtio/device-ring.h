/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_DEVICE_RING_H
#define VUBLK_VIRTIO_DEVICE_RING_H

#include "util/atomic.h"
#include "virtio/dirty-log.h"
#include "virtio/ring.h"

/* For each of these addresses in a chain, the ring remembers a memory region. */
enum vublk_device_ring_near {
	VUBLK_NEAR_HEAD,   /* the address in the descriptor at the head: of a table, or of the
			      first buffer */
	VUBLK_NEAR_FIRST,  /* of the first buffer in a table */
	VUBLK_NEAR_MIDDLE, /* of the other buffers */
	VUBLK_NEAR_LAST,   /* of the last buffer, which usually is the status */
	VUBLK_NUM_NEARS,
};

/* The device end of a ring. The fields are private; see virtio/ring.h for the functions. */
struct vublk_device_ring {
	struct vublk_split_ring memory;
	uint8_t *taken;           /* for each head: whether its chain was taken, but not pushed
				     yet */
	struct vring_desc *table; /* a copy of an indirect table; room for
				     VUBLK_RING_MAX_INDIRECT */
	unsigned size;
	uint16_t mask; /* size - 1 */
	uint16_t next; /* the avail index of the chain to take next */
	uint16_t seen; /* the driver's avail index when it was last read */
	uint16_t used; /* the used index of the completion to push next */
	uint16_t used_published;
	uint16_t avail_event; /* what the ring has in this field; the same holds for the flags
				 below */
	uint16_t used_flags;
	/*
	 * The region in which each of the addresses of enum vublk_device_ring_near last was. The
	 * pointers point into the array `near_regions` of `near_count` elements, which was the
	 * map's array at that time.
	 */
	const struct vublk_memory_map_region *near[VUBLK_NUM_NEARS];
	const struct vublk_memory_map_region *near_regions;
	unsigned near_count;
	const struct vublk_dirty_log *dirty_log; /* NULL: writes to the used ring are not logged */
	uint64_t log_addr; /* the guest address of the used ring in the log */
	bool has_event_idx;
	bool has_indirect;
	bool has_notify_on_empty;
	bool called; /* completions were published before; the first publish always wants a call */
	struct vublk_error broken; /* code 0: the driver has kept the rules */
};

/* Does what vublk_device_ring_push() does, for a caller that pushes many completions in a loop. */
static inline void vublk_device_ring_push_inline(struct vublk_device_ring *ring, uint16_t head,
						 uint32_t bytes)
{
	struct vring_used_elem *element = &ring->memory.used->ring[ring->used & ring->mask];

	vublk_store_relaxed(&element->id, head);
	vublk_store_relaxed(&element->len, bytes);
	ring->taken[head & ring->mask] = 0;
	ring->used++;
}

#endif
