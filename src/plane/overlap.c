/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file finds out which writes touch the same place of the disk.
 *
 * Key idea: a filter says quickly that no other write is near, which is the usual case. Otherwise
 * the outstanding requests are compared one by one.
 */
#include "plane/plane.h"

#include "util/checked.h"
#include "virtio/blk-format.h"

/* A part of the disk, in bytes. */
struct extent {
	uint64_t offset, bytes;
};

static unsigned count_extents(const struct vublk_plane_slot *slot)
{
	return slot->num_ranges ? slot->num_ranges : 1;
}

static struct extent extent_of(const struct vublk_plane *plane,
			       const struct vublk_plane_slot *slot, unsigned i)
{
	const struct virtio_blk_discard_write_zeroes *range;

	if (!slot->num_ranges)
		return (struct extent){ slot->offset, slot->bytes };
	range = &plane->queues[slot->queue].ranges[(size_t)slot->head * VUBLK_PLANE_MAX_RANGES + i];
	return (struct extent){
		range->sector << VUBLK_SECTOR_SHIFT,
		(uint64_t)range->num_sectors << VUBLK_SECTOR_SHIFT,
	};
}

static void count_write(struct vublk_plane *plane, const struct vublk_plane_slot *slot, int change)
{
	if (slot->is_wide) {
		plane->overlap.num_wide += (unsigned)change;
		return;
	}
	for (unsigned i = 0; i < count_extents(slot); i++) {
		struct extent extent = extent_of(plane, slot, i);

		if (extent.bytes)
			vublk_blk_overlap_count(&plane->overlap, extent.offset, extent.bytes,
						change);
	}
}

/* Exact, except for requests that count as the whole disk. */
static bool overlap(const struct vublk_plane *plane, const struct vublk_plane_slot *a,
		    const struct vublk_plane_slot *b)
{
	if (a->is_wide || b->is_wide)
		return true;
	for (unsigned i = 0; i < count_extents(a); i++)
		for (unsigned k = 0; k < count_extents(b); k++) {
			struct extent x = extent_of(plane, a, i), y = extent_of(plane, b, k);

			if (vublk_ranges_overlap(x.offset, x.bytes, y.offset, y.bytes))
				return true;
		}
	return false;
}

bool vublk_plane_must_wait(const struct vublk_plane *plane, const struct vublk_plane_slot *slot)
{
	for (const struct vublk_plane_slot *other = slot->previous; other; other = other->previous)
		if (other->is_write && overlap(plane, other, slot))
			return true;
	return false;
}

/* What the filter said before the write itself was added to it. */
static bool may_overlap(struct vublk_plane *plane, const struct vublk_plane_slot *slot)
{
	if (slot->is_wide)
		return true;
	for (unsigned i = 0; i < count_extents(slot); i++) {
		struct extent extent = extent_of(plane, slot, i);

		if (extent.bytes && vublk_blk_overlap_is_possible(&plane->overlap, extent.offset,
								  extent.bytes))
			return true;
	}
	return false;
}

void vublk_plane_begin_write(struct vublk_plane *plane, struct vublk_plane_slot *slot)
{
	slot->may_wait = may_overlap(plane, slot);
	count_write(plane, slot, 1);
}

void vublk_plane_end_write(struct vublk_plane *plane, struct vublk_plane_slot *slot)
{
	count_write(plane, slot, -1);
}
