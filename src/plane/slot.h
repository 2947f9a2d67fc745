/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PLANE_SLOT_H
#define VUBLK_PLANE_SLOT_H

/*
 * A slot is the plane's record of one request. The plane fills it when it takes the request from
 * the driver's ring, and frees it when it completes the request.
 *
 * Key idea: a slot has, in private memory, everything that is needed to submit the request again to
 * another back-end. A slot contains guest addresses and no pointers into the guest's memory, so the
 * guest's memory can be mapped elsewhere between two submissions.
 */
#include "plane/mirror.h"
#include "plane/order.h"
#include "plane/replay.h"
#include "virtio/ring.h"

#include <linux/virtio_blk.h>
#include <stdbool.h>
#include <stdint.h>

/* How many data segments fit in the slot. Requests with more of them use the queue's array. */
#define VUBLK_PLANE_SHORT_SEGMENTS 4

enum vublk_plane_slot_state {
	VUBLK_PLANE_SLOT_FREE,
	VUBLK_PLANE_SLOT_HELD,      /* taken from the driver; to be submitted as soon as possible */
	VUBLK_PLANE_SLOT_WAITING,   /* taken from the driver; waits for the limits (limit.h) */
	VUBLK_PLANE_SLOT_SUBMITTED, /* on the back-end's ring, or already executed by the back-end
				       but waiting for a flush (replay.h) or for the target
				       (mirror.h) */
};

struct vublk_plane_slot {
	/* The list of all slots that are not free, in the order in which they were taken. */
	struct vublk_plane_slot *next, *previous;
	struct vublk_plane_slot *next_ready; /* the next request in the queue's ready list */
	enum vublk_plane_slot_state state;
	uint16_t queue;
	uint16_t head; /* of the driver's chain; also the number of the slot */
	bool is_write; /* the request changes the disk, at `offset` */

	union {
		struct virtio_blk_outhdr header; /* a copy of the driver's header */
		struct {
			uint32_t type, priority;
			uint64_t sector;
		};
	};
	uint64_t offset, bytes;  /* the place on the disk of the data, or of all ranges and the gaps
				    between them; bytes 0: none */
	uint32_t written_bytes;  /* the used length if the request succeeds */
	uint64_t status_addr;

	unsigned num_ranges; /* the number of ranges of a DISCARD, WRITE_ZEROES or SECURE_ERASE */
	unsigned num_segments;
	struct vublk_ring_buffer *segments; /* the data's guest addresses */
	enum vublk_plane_copy copy; /* state of the copy in the log of completed writes */
	uint64_t flush_mark;        /* for a flush, its position in that log
				       (vublk_write_log_mark()) */
	struct vublk_ring_buffer short_segments[VUBLK_PLANE_SHORT_SEGMENTS];
	struct vublk_order_write order; /* valid if is_write is set */
	struct vublk_plane_mirrored mirrored;
};

#endif
