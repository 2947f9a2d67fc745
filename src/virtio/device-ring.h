/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_DEVICE_RING_H
#define VUBLK_VIRTIO_DEVICE_RING_H

#include "util/atomic.h"
#include "virtio/dirty-log.h"
#include "virtio/ring.h"

/* The kinds of address in a chain. For each kind, the ring remembers a memory region. */
enum vublk_device_ring_near {
	VUBLK_NEAR_HEAD,   /* the address in the head descriptor: an indirect table's or the first
			      buffer's */
	VUBLK_NEAR_FIRST,  /* the first buffer in an indirect table */
	VUBLK_NEAR_MIDDLE, /* a buffer that is neither the first nor the last */
	VUBLK_NEAR_LAST,   /* the last buffer, which usually is the status */
	VUBLK_NUM_NEARS,
};

/* The device end of a ring. The fields are private; see virtio/ring.h for the functions. */
struct vublk_device_ring {
	struct vublk_split_ring memory;
	uint8_t *taken;           /* for each head, 1 while its chain is taken and not pushed */
	struct vring_desc *table; /* room to copy an indirect table of VUBLK_RING_MAX_INDIRECT
				     descriptors */
	unsigned size;
	uint16_t mask; /* size - 1 */
	uint16_t next; /* the avail index of the chain to take next */
	uint16_t seen; /* the driver's avail index when it was last read */
	uint16_t used; /* the used index of the completion to push next */
	uint16_t used_published;
	uint16_t avail_event; /* avail_event and used_flags are the values that this end last stored
				 in the ring */
	uint16_t used_flags;
	/*
	 * For each kind of address, the region of the latest address of that kind. The pointers
	 * point into `near_regions`, the array of `near_count` regions of the map that was in use,
	 * or to an empty region if that map had no regions.
	 */
	const struct vublk_memory_map_region *near[VUBLK_NUM_NEARS];
	const struct vublk_memory_map_region *near_regions;
	unsigned near_count;
	const struct vublk_dirty_log *dirty_log; /* NULL: writes to the used ring are not logged */
	uint64_t log_addr; /* the guest address at which the used ring is logged */
	bool has_event_idx;
	bool has_indirect;
	bool has_notify_on_empty;
	bool called; /* completions have been published; the first publish always needs a call */
	struct vublk_error broken; /* code 0: the ring is not broken */
};

/* Like vublk_device_ring_push(), but inline for a caller that pushes many completions in a loop. */
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
