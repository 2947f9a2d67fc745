/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_CONFIG_H
#define VUBLK_BACKEND_CONFIG_H

/* What the disk looks like to the driver: features and configuration space. */
#include "backend/engine/engine.h"
#include "virtio/blk-format.h"
#include "virtio/ring.h"

#include <linux/virtio_blk.h>

/*
 * The largest `seg-max`. The default is 126, because a ring of the most common size, 128, has room
 * for that many data segments, a header and a status. Longer chains are also served.
 */
#define VUBLK_BACKEND_SEG_MAX (VUBLK_RING_MAX_INDIRECT - VUBLK_BACKEND_CHAIN_OVERHEAD)
/* The segments of a request in addition to its data. */
#define VUBLK_BACKEND_CHAIN_OVERHEAD 2

/* Ranges in one discard or write-zeroes request, and the longest range. */
#define VUBLK_BACKEND_MAX_RANGES 32
#define VUBLK_BACKEND_MAX_RANGE_SECTORS ((UINT32_C(1) << 31) / VUBLK_SECTOR_BYTES)

/* The properties of the disk that requests need. Each queue gets a copy when it starts. */
struct vublk_disk {
	uint64_t capacity_sectors;
	uint64_t features; /* negotiated */
	bool read_only;
	bool write_through; /* a write is complete only when it is stable */
	char serial[VUBLK_BLK_ID_BYTES]; /* NUL-padded, not terminated when full */
};

/* The virtio feature bits on offer, including two of vhost (26 and 30). */
uint64_t vublk_backend_features(const struct vublk_engine_geometry *geometry);

/* The configuration space; its fields are little-endian, like the hosts that we build for. */
void vublk_backend_config_fill(const struct vublk_engine_geometry *geometry,
			       unsigned num_queues, unsigned seg_max, bool write_cache,
			       struct virtio_blk_config *config);

#endif
