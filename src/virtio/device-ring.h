/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_DEVICE_RING_H
#define VUBLK_VIRTIO_DEVICE_RING_H

#include "virtio/dirty-log.h"
#include "virtio/ring.h"

#define VUBLK_DEVICE_RING_NEAR 4

/* The fields are private; see virtio/ring.h for the calls. */
struct vublk_device_ring {
	struct vublk_split_ring memory;
	uint8_t *taken;           /* per head: taken, not pushed yet */
	struct vring_desc *table; /* the copy of an indirect table; VUBLK_RING_MAX_INDIRECT */
	unsigned size;
	uint16_t mask; /* size - 1 */
	uint16_t next; /* avail index of the chain to take next */
	uint16_t seen; /* the driver's avail index when it was last read */
	uint16_t used; /* used index of the completion to push next */
	uint16_t used_published;
	uint16_t avail_event; /* as written to the ring, like the flags below */
	uint16_t used_flags;
	/* the memory regions of the last chain's buffers, by number */
	unsigned near[VUBLK_DEVICE_RING_NEAR];
	const struct vublk_dirty_log *dirty_log; /* NULL: writes to the used ring are not logged */
	uint64_t log_addr; /* the guest address as which the used ring's first byte is logged */
	bool has_event_idx;
	bool has_indirect;
	bool has_notify_on_empty;
	bool called; /* a publish has happened since init; the first one always calls */
	struct vublk_error broken; /* code 0: the driver has kept the rules */
};

#endif
