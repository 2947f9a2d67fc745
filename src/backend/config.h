/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_CONFIG_H
#define VUBLK_BACKEND_CONFIG_H

/* The disk as the driver sees it: features and configuration space. */
#include "backend/engine/engine.h"
#include "virtio/blk-format.h"
#include "virtio/ring.h"

#include <linux/virtio_blk.h>

/*
 * The largest value of the option `seg-max`. Its default is 126, because a ring of the most common
 * size, 128, has room for 126 data segments, a header and a status. Whatever the option says, the
 * back-end serves requests of up to this many data segments.
 */
#define VUBLK_BACKEND_SEG_MAX (VUBLK_RING_MAX_INDIRECT - VUBLK_BACKEND_CHAIN_OVERHEAD)
/* The number of segments that a request has in addition to its data: the header and the status. */
#define VUBLK_BACKEND_CHAIN_OVERHEAD 2

/* The largest number of ranges in one discard or write-zeroes request, and the longest range. */
#define VUBLK_BACKEND_MAX_RANGES 32
#define VUBLK_BACKEND_MAX_RANGE_SECTORS ((UINT32_C(1) << 31) / VUBLK_SECTOR_BYTES)

/*
 * The properties of the disk that are needed to execute requests. A queue gets a copy at each
 * start.
 */
struct vublk_disk {
	uint64_t capacity_sectors;
	uint64_t features; /* negotiated */
	bool read_only;
	bool write_through; /* a write completes only when it is stable */
	char serial[VUBLK_BLK_ID_BYTES]; /* padded with NULs; without a NUL if all bytes are used */
};

/*
 * Returns the feature bits that the back-end offers: those of virtio, and two bits of vhost (26 and
 * 30).
 */
uint64_t vublk_backend_features(const struct vublk_engine_geometry *geometry);

/*
 * Fills the configuration space. Its fields are little-endian; they need no conversion, because
 * vublk supports only little-endian machines.
 */
void vublk_backend_config_fill(const struct vublk_engine_geometry *geometry,
			       unsigned num_queues, unsigned seg_max, bool write_cache,
			       struct virtio_blk_config *config);

#endif
