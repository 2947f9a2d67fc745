/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file manages the states of a mirror's regions, and the pool of memory for the data of
 * writes; see mirror.h. mirror-copy.c copies regions, and mirror-write.c handles the driver's
 * requests.
 *
 * Key idea: a source with a write cache may lose completed writes that no flush has made stable,
 * while the target keeps them. So each region stores the epoch of its last write, and each flush
 * begins a new epoch. After a loss of the source, the regions that were written since the last
 * flush that succeeded are copied again.
 */
#include "plane/plane.h"

#include "util/checked.h"
#include "util/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NS_PER_MS UINT64_C(1000000)
#define BURST_NS (100 * NS_PER_MS)

/* --- life --------------------------------------------------------------------- */

static void free_mirror(struct vublk_plane_mirror *mirror)
{
	for (unsigned i = 0; mirror->chains && i < mirror->num_queues; i++)
		free(mirror->chains[i]);
	free(mirror->chains);
	free(mirror->states);
	free(mirror->epochs);
	free(mirror->unclear);
	free(mirror->segments);
	free(mirror);
}

static int make_chains(struct vublk_plane_mirror *mirror)
{
	const struct vublk_plane_side *target = mirror->target;

	mirror->num_queues = target->num_queues;
	mirror->chains = calloc(mirror->num_queues, sizeof(struct vublk_plane_mirror_chain *));
	for (unsigned i = 0; mirror->chains && i < mirror->num_queues; i++) {
		unsigned size = target->queues[i].ring.size;

		mirror->chains[i] = calloc(size ? size : 1, sizeof(*mirror->chains[i]));
		if (!mirror->chains[i])
			return -ENOMEM;
	}
	return mirror->chains ? 0 : -ENOMEM;
}

/* Makes the regions, which are all dirty at first. */
static int make_regions(struct vublk_plane_mirror *mirror)
{
	if (!mirror->region_bytes)
		mirror->region_bytes = VUBLK_PLANE_MIRROR_REGION_BYTES;
	while (mirror->bytes / mirror->region_bytes >= VUBLK_PLANE_MIRROR_MAX_REGIONS)
		mirror->region_bytes *= 2;
	mirror->num_regions = (size_t)((mirror->bytes + mirror->region_bytes - 1) /
				       mirror->region_bytes);
	mirror->count[VUBLK_PLANE_MIRROR_DIRTY] = mirror->num_regions;
	mirror->states = calloc(mirror->num_regions + 1, sizeof(*mirror->states));
	mirror->epochs = calloc(mirror->num_regions + 1, sizeof(*mirror->epochs));
	return mirror->states && mirror->epochs ? 0 : -ENOMEM;
}

/* The regions that are not marked in the state file become SYNCED. The others stay DIRTY. */
static int take_marks(struct vublk_plane_mirror *mirror, struct vublk_error *error)
{
	struct vublk_mirror_state_info info;

	vublk_mirror_state_get_info(mirror->state, &info);
	if (info.region_bytes != mirror->region_bytes || info.num_regions != mirror->num_regions)
		return vublk_error_set(error, EINVAL, "the mirror's state file has marks for a disk of "
				       "another size");
	mirror->unclear = calloc(mirror->num_regions / 64 + 1, sizeof(*mirror->unclear));
	if (!mirror->unclear)
		return vublk_error_set_errno(error, ENOMEM, "cannot make a mirror");
	for (size_t i = 0; i < mirror->num_regions; i++)
		if (!vublk_mirror_state_is_marked(mirror->state, i))
			vublk_plane_mirror_set_state(mirror, i, VUBLK_PLANE_MIRROR_SYNCED);
	return 0;
}

int vublk_plane_mirror_begin(struct vublk_plane *plane, const struct vublk_plane_mirror_setup *setup,
			     struct vublk_error *error)
{
	struct vublk_plane_mirror *mirror;

	int r;

	if (plane->mirror && !(plane->mirror->is_closed && !plane->mirror->states))
		return vublk_error_set(error, EBUSY, "the back-end has not completed a request of the "
				       "previous mirror; try again");
	mirror = calloc(1, sizeof(*mirror));
	if (!mirror)
		return vublk_error_set_errno(error, ENOMEM, "cannot make a mirror");
	mirror->target = setup->target;
	mirror->state = setup->state;
	mirror->bytes = setup->bytes;
	mirror->region_bytes = setup->region_bytes;
	mirror->timeout_ns = setup->timeout_ms * NS_PER_MS;
	mirror->epoch = 1;
	mirror->max_behind = VUBLK_PLANE_MIRROR_MAX_BEHIND;
	mirror->max_segments = plane->max_segments;
	mirror->segments = calloc(plane->max_segments, sizeof(*mirror->segments));
	if (!mirror->segments || make_chains(mirror) < 0 || make_regions(mirror) < 0) {
		free_mirror(mirror);
		return vublk_error_set_errno(error, ENOMEM, "cannot make a mirror");
	}
	r = mirror->state ? take_marks(mirror, error) : 0;
	if (r < 0) {
		free_mirror(mirror);
		return r;
	}
	vublk_bucket_init(&mirror->bucket, setup->rate, BURST_NS, plane->now_ns());
	vublk_plane_mirror_free(plane);
	plane->mirror = mirror;
	plane->hooks |= VUBLK_PLANE_HOOK_MIRROR;
	vublk_plane_sort_held(plane); /* writes may have waited since vublk_plane_mirror_close() */
	plane->has_ended = true;
	return 0;
}

void vublk_plane_mirror_free(struct vublk_plane *plane)
{
	if (plane->mirror)
		free_mirror(plane->mirror);
	plane->mirror = NULL;
	plane->hooks &= ~VUBLK_PLANE_HOOK_MIRROR;
}

void vublk_plane_mirror_set_rate(struct vublk_plane *plane, uint64_t rate)
{
	if (plane->mirror)
		vublk_bucket_init(&plane->mirror->bucket, rate, BURST_NS, plane->now_ns());
}

void vublk_plane_mirror_fail(struct vublk_plane *plane, const struct vublk_error *error)
{
	if (!plane->mirror->failure.code)
		plane->mirror->failure = *error;
}

/* Returns how many bytes of the disk have this state. The last region may be shorter. */
static uint64_t bytes_in(const struct vublk_plane_mirror *mirror,
			 enum vublk_plane_mirror_state state)
{
	uint64_t bytes = mirror->count[state] * mirror->region_bytes;
	uint64_t excess = mirror->num_regions * mirror->region_bytes - mirror->bytes;
	bool has_last = mirror->num_regions && mirror->states[mirror->num_regions - 1] == state;

	return has_last ? bytes - excess : bytes;
}

void vublk_plane_mirror_get_info(const struct vublk_plane *plane,
				 struct vublk_plane_mirror_info *info)
{
	const struct vublk_plane_mirror *mirror = plane->mirror;

	*info = (struct vublk_plane_mirror_info){ 0 };
	if (!vublk_plane_mirror_is_active(mirror) || mirror->failure.code)
		return;
	*info = (struct vublk_plane_mirror_info){
		.is_active = true,
		.is_idle = !mirror->num_on_target,
		.bytes = mirror->bytes,
		.synced_bytes = mirror->bytes - bytes_in(mirror, VUBLK_PLANE_MIRROR_DIRTY) -
				bytes_in(mirror, VUBLK_PLANE_MIRROR_COPYING),
		.behind_bytes = bytes_in(mirror, VUBLK_PLANE_MIRROR_BEHIND) +
				bytes_in(mirror, VUBLK_PLANE_MIRROR_COPYING_AGAIN),
		.rate = mirror->bucket.rate,
	};
}

/* --- regions -------------------------------------------------------------------- */

void vublk_plane_mirror_set_state(struct vublk_plane_mirror *mirror, size_t region,
				  enum vublk_plane_mirror_state state)
{
	mirror->count[mirror->states[region]]--;
	mirror->states[region] = (uint8_t)state;
	mirror->count[state]++;
}

/* Finds the regions of a part of the disk: those from `*first` to `*end` - 1. */
static void find_regions(const struct vublk_plane_mirror *mirror, uint64_t offset, uint64_t bytes,
			 size_t *first, size_t *end)
{
	uint64_t last = (offset + bytes + mirror->region_bytes - 1) / mirror->region_bytes;

	*end = (size_t)VUBLK_MIN(last, (uint64_t)mirror->num_regions);
	*first = (size_t)VUBLK_MIN(offset / mirror->region_bytes, (uint64_t)*end);
}

static void fall_behind(struct vublk_plane_mirror *mirror, uint64_t offset, uint64_t bytes)
{
	size_t region, end;

	find_regions(mirror, offset, bytes, &region, &end);
	for (; region < end && bytes; region++)
		if (mirror->states[region] == VUBLK_PLANE_MIRROR_SYNCED)
			vublk_plane_mirror_set_state(mirror, region, VUBLK_PLANE_MIRROR_BEHIND);
}

void vublk_plane_mirror_fall_behind(struct vublk_plane *plane, const struct vublk_plane_slot *slot)
{
	const struct virtio_blk_discard_write_zeroes *ranges =
		&plane->queues[slot->queue].ranges[(size_t)slot->head * VUBLK_PLANE_MAX_RANGES];

	if (!slot->num_ranges)
		fall_behind(plane->mirror, slot->offset, slot->bytes);
	for (unsigned i = 0; i < slot->num_ranges; i++)
		fall_behind(plane->mirror, ranges[i].sector << VUBLK_SECTOR_SHIFT,
			    (uint64_t)ranges[i].num_sectors << VUBLK_SECTOR_SHIFT);
}

bool vublk_plane_mirror_has_synced(const struct vublk_plane_mirror *mirror,
				   const struct vublk_plane_slot *slot)
{
	size_t region, end;

	find_regions(mirror, slot->offset, slot->bytes, &region, &end);
	for (; region < end; region++)
		if (mirror->states[region] == VUBLK_PLANE_MIRROR_SYNCED)
			return true;
	return false;
}

void vublk_plane_mirror_note_loss(struct vublk_plane *plane)
{
	if (plane->mirror && plane->side)
		plane->mirror->is_lost = true;
}

void vublk_plane_mirror_set_source(struct vublk_plane *plane)
{
	struct vublk_plane_mirror *mirror = plane->mirror;
	bool is_lost = mirror->is_lost;

	mirror->is_lost = false;
	if (!is_lost || !(plane->side->features & VUBLK_BIT(VIRTIO_BLK_F_FLUSH)))
		return;
	for (size_t i = 0; i < mirror->num_regions; i++)
		if (mirror->states[i] == VUBLK_PLANE_MIRROR_SYNCED &&
		    mirror->epochs[i] > mirror->flushed)
			vublk_plane_mirror_set_state(mirror, i, VUBLK_PLANE_MIRROR_DIRTY);
}

/* --- the pool ---------------------------------------------------------------------- */

static bool is_free(const struct vublk_plane_mirror *mirror, unsigned chunk)
{
	return !(mirror->used_chunks[chunk / 64] >> chunk % 64 & 1);
}

static void mark_chunks(struct vublk_plane_mirror *mirror, unsigned chunk, unsigned count)
{
	for (; count; chunk++, count--)
		mirror->used_chunks[chunk / 64] ^= UINT64_C(1) << chunk % 64;
}

int vublk_plane_mirror_take_chunks(struct vublk_plane_mirror *mirror, unsigned count)
{
	unsigned found = 0;

	for (unsigned i = 0; i < VUBLK_PLANE_MIRROR_CHUNKS; i++) {
		found = is_free(mirror, i) ? found + 1 : 0;
		if (found == count) {
			mark_chunks(mirror, i + 1 - count, count);
			return (int)(i + 1 - count);
		}
	}
	return -1;
}

void vublk_plane_mirror_return_chunks(struct vublk_plane_mirror *mirror, unsigned chunk,
				      unsigned count)
{
	mark_chunks(mirror, chunk, count);
}

/* --- requests that are parked --------------------------------------------------------- */

void vublk_plane_mirror_unpark(struct vublk_plane *plane)
{
	for (struct vublk_plane_slot *slot = plane->first; slot; slot = slot->next) {
		if (!slot->mirrored.is_parked)
			continue;
		slot->mirrored.is_parked = slot->mirrored.awaits_copies = false;
		if (slot->state == VUBLK_PLANE_SLOT_HELD && !slot->order.num_blockers)
			vublk_plane_add_ready(plane, slot);
	}
	plane->has_ended = true;
}

/* --- the end of a request ------------------------------------------------------------- */

/*
 * Records that the source has executed a write. Until a later flush, the source may have the data
 * only in its cache.
 */
static void note_write(struct vublk_plane *plane, const struct vublk_plane_slot *slot)
{
	struct vublk_plane_mirror *mirror = plane->mirror;
	struct vublk_error error;
	size_t region, end;

	if (slot->num_ranges)
		return; /* the regions of a discard or write zeroes are copied again */
	find_regions(mirror, slot->offset, slot->bytes, &region, &end);
	for (; region < end; region++) {
		mirror->epochs[region] = mirror->epoch;
		vublk_plane_mirror_note_unclear(mirror, region);
	}
	if (vublk_range_within(slot->offset, slot->bytes, mirror->bytes))
		return;
	vublk_error_set(&error, ENOSPC, "the disk has become larger; mirror it again");
	vublk_plane_mirror_fail(plane, &error);
}

/*
 * Drops a request that the target still has. No copy of a region begins until the target completes
 * the request.
 */
static void drop_chain(struct vublk_plane_mirror *mirror, const struct vublk_plane_slot *slot)
{
	const struct vublk_plane_mirrored *mirrored = &slot->mirrored;

	mirror->chains[slot->queue][mirrored->token] = (struct vublk_plane_mirror_chain){
		.chunk = mirrored->chunk, .num_chunks = mirrored->num_chunks, .copy = -1,
	};
	mirror->num_dropped++;
}

void vublk_plane_mirror_end_request(struct vublk_plane *plane, struct vublk_plane_slot *slot,
				    uint8_t status)
{
	struct vublk_plane_mirror *mirror = plane->mirror;
	struct vublk_plane_mirrored *mirrored = &slot->mirrored;

	if (!vublk_plane_mirror_is_active(mirror)) {
		*mirrored = (struct vublk_plane_mirrored){ 0 };
		return;
	}
	if (mirror->waiting == slot)
		mirror->waiting = NULL;
	if (slot->is_write && mirrored->was_sent && status != VIRTIO_BLK_S_OK)
		vublk_plane_mirror_fall_behind(plane, slot);
	else if (slot->is_write && status == VIRTIO_BLK_S_OK)
		note_write(plane, slot);
	else if (slot->type == VIRTIO_BLK_T_FLUSH && status == VIRTIO_BLK_S_OK)
		mirror->flushed = VUBLK_MAX(mirror->flushed, mirrored->mark);
	if (mirrored->is_on_target)
		drop_chain(mirror, slot);
	else if (mirrored->num_chunks)
		vublk_plane_mirror_return_chunks(mirror, mirrored->chunk, mirrored->num_chunks);
	*mirrored = (struct vublk_plane_mirrored){ 0 };
}
