/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PLANE_SLOT_H
#define VUBLK_PLANE_SLOT_H

/*
 * A request of the plane, from the driver's ring to the back-end's and back.
 *
 * Key idea: a slot has, in private memory, everything that is needed to submit the request again to
 * another back-end. It holds guest addresses only, so it does not depend on where the guest's
 * memory is mapped.
 */
#include "virtio/ring.h"

#include <linux/virtio_blk.h>
#include <stdbool.h>
#include <stdint.h>

/* Data segments within the slot; longer requests use the queue's array. */
#define VUBLK_PLANE_SHORT_SEGMENTS 4

enum vublk_plane_slot_state {
	VUBLK_PLANE_SLOT_FREE,
	VUBLK_PLANE_SLOT_HELD,      /* taken from the driver, and not on the back-end's ring */
	VUBLK_PLANE_SLOT_SUBMITTED, /* on the back-end's ring */
};

struct vublk_plane_slot {
	/* all requests that are not free, in the order in which they were taken */
	struct vublk_plane_slot *next, *previous;
	enum vublk_plane_slot_state state;
	uint16_t queue;
	uint16_t head; /* of the driver's chain; also the number of the slot */
	bool is_write; /* it changes the disk, at `offset`, or at `ranges` */
	bool is_wide;  /* it may change any part of the disk */
	bool may_wait; /* an earlier write to the same place may be outstanding */

	uint32_t type;
	uint32_t priority;
	uint64_t sector;
	uint64_t offset, bytes;  /* of the disk, if is_write and there are no ranges */
	uint32_t written_bytes;  /* the used length if it succeeds */
	uint64_t status_addr;

	unsigned num_ranges; /* DISCARD, WRITE_ZEROES, SECURE_ERASE */
	unsigned num_segments;
	struct vublk_ring_buffer *segments; /* data, in guest addresses */
	struct vublk_ring_buffer short_segments[VUBLK_PLANE_SHORT_SEGMENTS];
};

#endif
