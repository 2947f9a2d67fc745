/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_DRIVER_RING_H
#define VUBLK_VIRTIO_DRIVER_RING_H

#include "virtio/ring.h"

/* What the driver keeps of each descriptor, for what the device can write is not trusted. */
struct vublk_driver_slot {
	uint64_t serial; /* of the chain that begins here; UINT64_MAX: none does */
	uint16_t next;   /* of the free list, and of a chain in use */
	uint16_t tail;   /* the rest is about the chain that begins here */
	uint16_t count;
	uint16_t token;
};

/*
 * The fields are the ring's own; see virtio/ring.h for the calls. The counters
 * begin at the base and never wrap; their low 16 bits are the ring's indices.
 *
 *   taken <= completed <= published <= added
 */
struct vublk_driver_ring {
	struct vublk_split_ring memory;
	struct vublk_driver_slot *slots;
	unsigned size;
	uint16_t mask; /* size - 1 */
	uint16_t free_head;
	uint16_t num_free;
	bool has_event_idx;
	bool has_indirect;
	uint64_t taken;     /* completions given to the caller */
	uint64_t completed; /* the device's used index as last looked at */
	uint64_t published; /* chains that the device can see */
	uint64_t added;     /* chains that the caller added */
	uint16_t used_event;  /* as written to the ring, like the flags below */
	uint16_t avail_flags;
	bool kicked;        /* since init: the first publish always kicks */
	struct vublk_error broken; /* code 0: the device has kept the rules */
};

#endif
