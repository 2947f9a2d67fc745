/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file marks the regions of writes in the mirror's state file (mirror-state.h), and later
 * removes the marks. The rules are in mirror.h.
 *
 * Key idea: a write that waits for its marks is in no ready list, so other requests may overtake
 * it. All marks of a round are synced together. Once per second, marks are removed in three steps:
 * all regions that are stable on both sides become clear, the regions of all outstanding writes are
 * marked again, and then the marks age. So the plane need not count the writes per region.
 */
#include "plane/plane.h"

#include "util/checked.h"
#include "util/error.h"
#include "virtio/blk-format.h"

#include <errno.h>
#include <stdlib.h>

#define TICK_NS UINT64_C(1000000000)

/* --- marks ---------------------------------------------------------------------- */

/* Marks a part of the disk. Returns whether the marks are stable. If not, requests a sync. */
static bool mark(struct vublk_plane_mirror *mirror, uint64_t offset, uint64_t bytes)
{
	vublk_mirror_state_ticket ticket = vublk_mirror_state_mark(mirror->state, offset, bytes);

	if (vublk_mirror_state_is_stable(mirror->state, ticket))
		return true;
	mirror->wants_sync = true;
	if (!mirror->awaits_marks)
		mirror->ticket = ticket;
	mirror->awaits_marks = true;
	return false;
}

bool vublk_plane_mirror_is_marked(struct vublk_plane *plane, struct vublk_plane_slot *slot)
{
	const struct virtio_blk_discard_write_zeroes *ranges =
		&plane->queues[slot->queue].ranges[(size_t)slot->head * VUBLK_PLANE_MAX_RANGES];
	bool are_stable = true;

	if (plane->mirror->is_closed)
		return false;
	if (!slot->num_ranges)
		return mark(plane->mirror, slot->offset, slot->bytes);
	for (unsigned i = 0; i < slot->num_ranges; i++)
		are_stable &= mark(plane->mirror, ranges[i].sector << VUBLK_SECTOR_SHIFT,
				   (uint64_t)ranges[i].num_sectors << VUBLK_SECTOR_SHIFT);
	return are_stable;
}

/* --- removal of marks -------------------------------------------------------------- */

/*
 * Clears the regions of one word of `unclear` that are stable on both sides. If other regions lack
 * only a flush, sets wants_flush.
 */
static void clear_word(struct vublk_plane_mirror *mirror, size_t word)
{
	for (uint64_t left = mirror->unclear[word]; left; left &= left - 1) {
		unsigned bit = (unsigned)__builtin_ctzll(left);
		size_t region = word * 64 + bit;

		if (mirror->states[region] != VUBLK_PLANE_MIRROR_SYNCED)
			continue;
		if (mirror->epochs[region] > mirror->flushed) {
			mirror->wants_flush = true;
			continue;
		}
		vublk_mirror_state_clear(mirror->state, region);
		mirror->unclear[word] &= ~(UINT64_C(1) << bit);
	}
}

static void remove_marks(struct vublk_plane *plane)
{
	struct vublk_plane_mirror *mirror = plane->mirror;

	for (size_t i = 0; i < mirror->num_regions / 64 + 1; i++)
		if (mirror->unclear[i])
			clear_word(mirror, i);
	for (struct vublk_plane_slot *slot = plane->first; slot; slot = slot->next)
		if (slot->is_write)
			vublk_plane_mirror_is_marked(plane, slot);
	vublk_mirror_state_age(mirror->state);
	mirror->wants_sync = true; /* a sync also detects that the file was truncated or replaced */
}

/* --- rounds ------------------------------------------------------------------------- */

/*
 * Makes the mirror fail if a sync has failed. No mark becomes stable after a failure, so writes
 * wait until the owner ends the mirror.
 */
static void check_failure(struct vublk_plane *plane)
{
	struct vublk_error error;

	if (!plane->mirror->failure.code && vublk_mirror_state_has_failed(plane->mirror->state) &&
	    vublk_mirror_state_take_result(plane->mirror->state, &error) < 0)
		vublk_plane_mirror_fail(plane, &error);
}

unsigned vublk_plane_mirror_record_work(struct vublk_plane *plane)
{
	struct vublk_plane_mirror *mirror = plane->mirror;
	unsigned n = 0;

	check_failure(plane);
	if (mirror->awaits_marks && vublk_mirror_state_is_stable(mirror->state, mirror->ticket)) {
		mirror->awaits_marks = false;
		vublk_plane_mirror_unpark(plane);
		n++;
	}
	if (mirror->target && !mirror->failure.code && plane->now_ns() >= mirror->tick_ns) {
		mirror->tick_ns = plane->now_ns() + TICK_NS;
		remove_marks(plane);
	}
	if (mirror->wants_sync) {
		mirror->wants_sync = false;
		vublk_mirror_state_start_sync(mirror->state);
		n++;
	}
	return n;
}

/* --- the beginning and the end --------------------------------------------------------- */

int vublk_plane_mirror_record(struct vublk_plane *plane, struct vublk_mirror_state *state,
			      struct vublk_error *error)
{
	if (plane->mirror)
		return vublk_error_set(error, EBUSY, "the disk is mirrored already; end that mirror first");
	plane->mirror = calloc(1, sizeof(*plane->mirror));
	if (!plane->mirror)
		return vublk_error_set_errno(error, ENOMEM, "cannot record writes for a mirror");
	plane->mirror->state = state;
	plane->hooks |= VUBLK_PLANE_HOOK_MIRROR;
	return 0;
}

void vublk_plane_mirror_close(struct vublk_plane *plane)
{
	if (!plane->mirror || !plane->mirror->state)
		return;
	plane->mirror->state = NULL;
	plane->mirror->is_closed = true;
}

void vublk_plane_mirror_release(struct vublk_plane *plane)
{
	if (!plane->mirror || !plane->mirror->is_closed)
		return;
	plane->mirror->is_closed = false;
	vublk_plane_sort_held(plane);
	plane->has_ended = true; /* the next round also frees the mirror */
}
