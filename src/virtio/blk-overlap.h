/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_BLK_OVERLAP_H
#define VUBLK_VIRTIO_BLK_OVERLAP_H

/*
 * A coarse filter that says whether any of the current writes may touch a given range of the disk.
 * The user of the filter decides which writes are current, for example those on a ring.
 *
 * Key idea: the disk is divided into units of 4 KiB, and units share buckets. A narrow write
 * increments the bucket of each unit that it touches. If all buckets of a range are 0, no narrow
 * write touches the range. A wide write would increment too many buckets, so it is only counted.
 * While there is a wide write, the filter says "possible" for every range, and its user has to
 * search the writes. That search is cheap compared with transferring the data of a wide write.
 */

#include <stdbool.h>
#include <stdint.h>

#define VUBLK_BLK_OVERLAP_SHIFT 12
#define VUBLK_BLK_OVERLAP_BUCKETS 4096 /* neighbouring units have neighbouring buckets */
#define VUBLK_BLK_OVERLAP_MAX_UNITS 16 /* a write with more units is wide */

struct vublk_blk_overlap {
	unsigned num_wide;
	uint32_t narrow[VUBLK_BLK_OVERLAP_BUCKETS];
};

struct vublk_blk_overlap_units {
	uint64_t first, count;
};

static inline struct vublk_blk_overlap_units vublk_blk_overlap_units(uint64_t offset,
								     uint64_t bytes)
{
	uint64_t first = offset >> VUBLK_BLK_OVERLAP_SHIFT;
	uint64_t last = (offset + bytes - 1) >> VUBLK_BLK_OVERLAP_SHIFT;

	return (struct vublk_blk_overlap_units){ first, last - first + 1 };
}

static inline uint32_t *vublk_blk_overlap_bucket(struct vublk_blk_overlap *overlap, uint64_t unit)
{
	return &overlap->narrow[unit % VUBLK_BLK_OVERLAP_BUCKETS];
}

static inline void vublk_blk_overlap_count(struct vublk_blk_overlap *overlap, uint64_t offset,
					   uint64_t bytes, int change)
{
	struct vublk_blk_overlap_units units = vublk_blk_overlap_units(offset, bytes);

	if (units.count > VUBLK_BLK_OVERLAP_MAX_UNITS) {
		overlap->num_wide += (unsigned)change;
		return;
	}
	for (uint64_t i = 0; i < units.count; i++)
		*vublk_blk_overlap_bucket(overlap, units.first + i) += (uint32_t)change;
}

/*
 * These functions add a write when it begins and remove it when it is complete. `bytes` must not be
 * 0.
 */
static inline void vublk_blk_overlap_add(struct vublk_blk_overlap *overlap, uint64_t offset,
					 uint64_t bytes)
{
	vublk_blk_overlap_count(overlap, offset, bytes, 1);
}

static inline void vublk_blk_overlap_remove(struct vublk_blk_overlap *overlap, uint64_t offset,
					    uint64_t bytes)
{
	vublk_blk_overlap_count(overlap, offset, bytes, -1);
}

/*
 * Returns false only if no current write touches the range. Always returns true for a range of more
 * than VUBLK_BLK_OVERLAP_MAX_UNITS units.
 */
static inline bool vublk_blk_overlap_is_possible(struct vublk_blk_overlap *overlap,
						 uint64_t offset, uint64_t bytes)
{
	struct vublk_blk_overlap_units units = vublk_blk_overlap_units(offset, bytes);

	if (overlap->num_wide || units.count > VUBLK_BLK_OVERLAP_MAX_UNITS)
		return true;
	for (uint64_t i = 0; i < units.count; i++)
		if (*vublk_blk_overlap_bucket(overlap, units.first + i))
			return true;
	return false;
}

#endif
