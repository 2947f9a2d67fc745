/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file sends the driver's writes and flushes to both back-ends (mirror.h), and ends mirrors.
 *
 * Key idea: the plane puts a mirrored request on both rings or on neither. If the source is lost,
 * the request is held until the target has completed it. Then the data is copied from the driver's
 * buffers again, and both the next source and the target get the request.
 */
#include "plane/plane.h"

#include "util/atomic.h"
#include "util/checked.h"
#include "util/error.h"
#include "virtio/blk-format.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* --- admission ------------------------------------------------------------------- */

static unsigned count_chunks(uint64_t bytes)
{
	return (unsigned)((bytes + VUBLK_PLANE_MIRROR_CHUNK - 1) / VUBLK_PLANE_MIRROR_CHUNK);
}

/* Returns how long a segment of a write to this side may be. */
static uint32_t longest_segment(const struct vublk_plane_side *side)
{
	return side->max_segment_bytes ? side->max_segment_bytes : UINT32_MAX;
}

/* Returns the number of segments of a mirrored write at this side. */
static uint64_t count_segments(const struct vublk_plane_slot *slot,
			       const struct vublk_plane_side *side)
{
	return (slot->bytes + longest_segment(side) - 1) / longest_segment(side);
}

/*
 * Returns whether a mirrored write fits in an empty ring. The + 2 stands for the header and the
 * status.
 */
static bool fits(const struct vublk_plane *plane, const struct vublk_plane_slot *slot,
		 const struct vublk_plane_side *side)
{
	const struct vublk_driver_ring *ring = &side->queues[slot->queue].ring;
	uint64_t count = count_segments(slot, side);

	return count <= plane->mirror->max_segments &&
	       (ring->has_indirect || count + 2 <= ring->size);
}

static bool has_room(const struct vublk_plane_slot *slot, const struct vublk_plane_side *side)
{
	const struct vublk_driver_ring *ring = &side->queues[slot->queue].ring;

	return ring->num_free >= (ring->has_indirect ? 1 : count_segments(slot, side) + 2);
}

/* Copies the data to the memory of both sides. Returns false if a buffer is no longer mapped. */
static bool copy_data(struct vublk_plane *plane, const struct vublk_plane_slot *slot,
		      unsigned chunk)
{
	size_t at = (size_t)chunk * VUBLK_PLANE_MIRROR_CHUNK;
	char *to = plane->side->region.chunks + at;

	for (unsigned i = 0; i < slot->num_segments; i++) {
		const struct vublk_ring_buffer *segment = &slot->segments[i];
		const void *from = vublk_memory_map_guest(plane->map, segment->addr, segment->bytes);

		if (!from)
			return false;
		memcpy(to, from, segment->bytes);
		to += segment->bytes;
	}
	memcpy(plane->mirror->target->region.chunks + at, plane->side->region.chunks + at,
	       slot->bytes);
	return true;
}

static bool is_far_behind(const struct vublk_plane *plane)
{
	return plane->takes &&
	       vublk_plane_mirror_num_behind(plane->mirror) >= plane->mirror->max_behind;
}

/* Returns whether a later write, or a copy, waits for this write. */
static bool has_waiters(const struct vublk_plane_slot *slot)
{
	return slot->order.first;
}

/*
 * Admits a write that only the source gets. If the target is far behind, a write to a synced region
 * waits for copies, unless the plane takes no chains, because then these copies may never begin. A
 * write with waiters does not wait, because one of them may be a copy, or a write that a copy waits
 * for.
 */
static enum vublk_plane_mirror_admission admit_to_source(struct vublk_plane *plane,
							 struct vublk_plane_slot *slot)
{
	if (is_far_behind(plane) && !has_waiters(slot) &&
	    vublk_plane_mirror_has_synced(plane->mirror, slot)) {
		plane->mirror->awaits_copies = slot->mirrored.awaits_copies = true;
		return VUBLK_PLANE_MIRROR_PARK;
	}
	vublk_plane_mirror_fall_behind(plane, slot);
	return VUBLK_PLANE_MIRROR_SOURCE_ONLY;
}

/*
 * Takes chunks for the data from the pool and copies the data to them. While a write waits for
 * room, later writes wait behind it, so that they cannot delay it forever.
 */
static enum vublk_plane_mirror_admission admit_write(struct vublk_plane *plane,
						     struct vublk_plane_slot *slot)
{
	struct vublk_plane_mirror *mirror = plane->mirror;
	unsigned count = count_chunks(slot->bytes);
	int chunk;

	if (!has_room(slot, plane->side) || !has_room(slot, mirror->target) ||
	    (mirror->waiting && mirror->waiting != slot))
		return VUBLK_PLANE_MIRROR_WAIT;
	chunk = vublk_plane_mirror_take_chunks(mirror, count);
	mirror->waiting = chunk < 0 ? slot : NULL;
	if (chunk < 0)
		return VUBLK_PLANE_MIRROR_WAIT;
	if (!copy_data(plane, slot, (unsigned)chunk)) {
		vublk_plane_mirror_return_chunks(mirror, (unsigned)chunk, count);
		return admit_to_source(plane, slot);
	}
	slot->mirrored.chunk = (uint16_t)chunk;
	slot->mirrored.num_chunks = (uint16_t)count;
	return VUBLK_PLANE_MIRROR_BOTH;
}

static enum vublk_plane_mirror_admission admit_flush(struct vublk_plane *plane,
						     struct vublk_plane_slot *slot)
{
	struct vublk_plane_mirror *mirror = plane->mirror;

	slot->mirrored.mark = mirror->epoch++;
	if (!(mirror->target->features & VUBLK_BIT(VIRTIO_BLK_F_FLUSH)))
		return VUBLK_PLANE_MIRROR_SOURCE_ONLY;
	return has_room(slot, plane->side) && has_room(slot, mirror->target) ?
		       VUBLK_PLANE_MIRROR_BOTH : VUBLK_PLANE_MIRROR_WAIT;
}

enum vublk_plane_mirror_admission vublk_plane_mirror_admit(struct vublk_plane *plane,
							   struct vublk_plane_slot *slot)
{
	struct vublk_plane_mirror *mirror = plane->mirror;

	if (slot->is_write && (mirror->state || mirror->is_closed) &&
	    !vublk_plane_mirror_is_marked(plane, slot))
		return VUBLK_PLANE_MIRROR_PARK;
	if (slot->type == VIRTIO_BLK_T_FLUSH && vublk_plane_mirror_flushes(mirror))
		return VUBLK_PLANE_MIRROR_PARK;
	if (!mirror->target || mirror->failure.code)
		return slot->mirrored.is_on_target ? VUBLK_PLANE_MIRROR_WAIT :
						     VUBLK_PLANE_MIRROR_SOURCE_ONLY;
	if (slot->mirrored.is_on_target) /* the target got the request before the previous source
					    was lost */
		return VUBLK_PLANE_MIRROR_WAIT;
	if (slot->type == VIRTIO_BLK_T_FLUSH)
		return admit_flush(plane, slot);
	if (!slot->is_write)
		return VUBLK_PLANE_MIRROR_SOURCE_ONLY;
	if (slot->num_ranges || slot->bytes > VUBLK_PLANE_MIRROR_MAX_WRITE ||
	    !fits(plane, slot, plane->side) || !fits(plane, slot, mirror->target))
		return admit_to_source(plane, slot);
	if (!vublk_plane_mirror_has_synced(mirror, slot))
		return VUBLK_PLANE_MIRROR_SOURCE_ONLY;
	return admit_write(plane, slot);
}

void vublk_plane_mirror_view(struct vublk_plane *plane, const struct vublk_plane_slot *slot,
			     const struct vublk_plane_side *side, struct vublk_plane_slot *view)
{
	struct vublk_ring_buffer *segments = plane->mirror->segments;
	uint64_t addr = side->region.chunks_addr +
			(uint64_t)slot->mirrored.chunk * VUBLK_PLANE_MIRROR_CHUNK;
	uint64_t left = slot->bytes;
	unsigned n = 0;

	for (; left; n++) {
		uint32_t bytes = (uint32_t)VUBLK_MIN(left, (uint64_t)longest_segment(side));

		segments[n] = (struct vublk_ring_buffer){ addr, bytes };
		addr += bytes;
		left -= bytes;
	}
	*view = (struct vublk_plane_slot){
		.queue = slot->queue,
		.head = slot->head,
		.header = slot->header,
		.segments = segments,
		.num_segments = n,
	};
}

void vublk_plane_mirror_sent(struct vublk_plane *plane, struct vublk_plane_slot *slot,
			     uint16_t token)
{
	struct vublk_plane_mirror *mirror = plane->mirror;
	struct vublk_plane_mirrored *mirrored = &slot->mirrored;

	mirrored->was_sent = mirrored->is_on_source = mirrored->is_on_target = true;
	mirrored->token = token;
	mirror->chains[slot->queue][token] = (struct vublk_plane_mirror_chain){
		.slot = slot, .copy = -1,
	};
	if (!mirror->num_on_target++)
		mirror->progress_ns = plane->now_ns();
}

/* --- completions -------------------------------------------------------------------- */

bool vublk_plane_mirror_completed(struct vublk_plane *plane, struct vublk_plane_slot *slot,
				  uint8_t status)
{
	slot->mirrored.is_on_source = false;
	slot->mirrored.status = status;
	return !slot->mirrored.is_on_target;
}

static void finish(struct vublk_plane *plane, struct vublk_plane_slot *slot)
{
	uint8_t status = slot->mirrored.status;

	if (!plane->replay || vublk_plane_replay_completed(plane, slot, status))
		vublk_plane_end(plane, slot, status);
}

static void fail_request(struct vublk_plane *plane, const struct vublk_plane_slot *slot,
			 uint8_t status)
{
	struct vublk_error error;

	if (slot->type == VIRTIO_BLK_T_FLUSH)
		vublk_error_set(&error, EIO, "a flush of the target failed with virtio status %u", status);
	else
		vublk_error_set(&error, EIO, "the write to the target failed with virtio status "
				"%u (%" PRIu64 " bytes at offset %" PRIu64 ")", status, slot->bytes,
				slot->offset);
	vublk_plane_mirror_fail(plane, &error);
}

/* Handles the target's completion of a request. */
static void complete_request(struct vublk_plane *plane, struct vublk_plane_slot *slot,
			     uint8_t status)
{
	struct vublk_plane_mirrored *mirrored = &slot->mirrored;

	if (status != VIRTIO_BLK_S_OK)
		fail_request(plane, slot, status);
	mirrored->is_on_target = false;
	if (slot->state == VUBLK_PLANE_SLOT_SUBMITTED) {
		if (!mirrored->is_on_source)
			finish(plane, slot);
		return;
	}
	/* The source was lost after the request was submitted, so both back-ends get it again. */
	vublk_plane_mirror_return_chunks(plane->mirror, mirrored->chunk, mirrored->num_chunks);
	mirrored->num_chunks = 0;
}

static void complete_chain(struct vublk_plane *plane, unsigned queue, uint16_t token)
{
	struct vublk_plane_mirror *mirror = plane->mirror;
	struct vublk_plane_mirror_chain chain = mirror->chains[queue][token];
	const struct vublk_plane_region *region = &mirror->target->region;

	mirror->num_on_target--;
	mirror->progress_ns = plane->now_ns();
	plane->has_ended = true; /* requests that waited for room may be ready */
	if (chain.copy >= 0) {
		vublk_plane_mirror_copy_written(
			plane, (unsigned)chain.copy,
			vublk_load_relaxed(&region->copies[chain.copy].status));
	} else if (chain.slot) {
		complete_request(plane, chain.slot,
				 vublk_load_relaxed(&region->queues[queue].slots[token].status));
	} else {
		mirror->num_dropped--;
		vublk_plane_mirror_return_chunks(mirror, chain.chunk, chain.num_chunks);
	}
}

static unsigned take_queue(struct vublk_plane *plane, unsigned index)
{
	struct vublk_driver_ring *ring = &plane->mirror->target->queues[index].ring;
	struct vublk_error error;
	uint16_t token = 0;
	uint32_t bytes;
	unsigned n = 0;
	int r;

	if (!ring->size)
		return 0;
	while ((r = vublk_driver_ring_take_inline(ring, &token, &bytes, &error)) == 1) {
		complete_chain(plane, index, token);
		n++;
	}
	if (r < 0) {
		vublk_error_prepend(&error, "queue %u", index);
		vublk_plane_mirror_fail(plane, &error);
	}
	return n;
}

unsigned vublk_plane_mirror_take(struct vublk_plane *plane)
{
	struct vublk_plane_mirror *mirror = plane->mirror;
	unsigned n = 0;

	if (!vublk_plane_mirror_is_active(mirror))
		return 0;
	for (unsigned i = 0; i < mirror->num_queues && !mirror->failure.code; i++)
		n += take_queue(plane, i);
	return n;
}

/* --- the end ----------------------------------------------------------------------------- */

/* Makes a request stop waiting for the target. Ends the request if the source has completed it. */
static void let_go(struct vublk_plane *plane, struct vublk_plane_slot *slot)
{
	bool is_complete = slot->state == VUBLK_PLANE_SLOT_SUBMITTED &&
			   slot->mirrored.is_on_target && !slot->mirrored.is_on_source;

	slot->mirrored = (struct vublk_plane_mirrored){
		.is_on_source = slot->mirrored.is_on_source, .status = slot->mirrored.status,
	};
	if (is_complete)
		finish(plane, slot);
}

/*
 * Returns whether the mirror has ended and the source no longer uses the mirror's memory, which the
 * next mirror will use.
 */
static bool is_idle(const struct vublk_plane *plane)
{
	if (plane->mirror->target || !vublk_plane_mirror_copies_are_idle(plane))
		return false;
	for (const struct vublk_plane_slot *slot = plane->first; slot; slot = slot->next)
		if (slot->mirrored.is_on_source)
			return false;
	return true;
}

/*
 * Frees a mirror that has ended, unless the source still uses the mirror's memory, writes need
 * marks, or writes wait until the state file has been changed.
 */
static void free_when_idle(struct vublk_plane *plane)
{
	const struct vublk_plane_mirror *mirror = plane->mirror;

	if (!mirror->state && !mirror->is_closed && is_idle(plane))
		vublk_plane_mirror_free(plane);
}

/* Rebuilds the order of writes without the copies of regions, so that no write waits for a copy. */
void vublk_plane_mirror_end(struct vublk_plane *plane)
{
	struct vublk_plane_slot *slot, *next;

	if (!vublk_plane_mirror_is_active(plane->mirror))
		return;
	vublk_plane_mirror_copies_drop(plane);
	vublk_plane_mirror_copies_lose_target(plane);
	plane->mirror->target = NULL;
	vublk_plane_forget_writes(plane);
	vublk_plane_begin_writes_again(plane);
	for (slot = plane->first; slot; slot = next) {
		next = slot->next;
		let_go(plane, slot);
	}
	vublk_plane_sort_held(plane);
	plane->has_ended = true;
	free_when_idle(plane);
}

void vublk_plane_mirror_lose_source(struct vublk_plane *plane)
{
	struct vublk_plane_mirror *mirror = plane->mirror;

	vublk_plane_mirror_copies_lose_source(plane);
	mirror->waiting = NULL;
	for (struct vublk_plane_slot *slot = plane->first; slot; slot = slot->next) {
		struct vublk_plane_mirrored *mirrored = &slot->mirrored;

		mirrored->is_on_source = false;
		if (!mirrored->num_chunks || mirrored->is_on_target)
			continue;
		vublk_plane_mirror_return_chunks(mirror, mirrored->chunk, mirrored->num_chunks);
		mirrored->num_chunks = 0;
	}
	free_when_idle(plane);
}

void vublk_plane_mirror_detach(struct vublk_plane *plane)
{
	vublk_plane_mirror_copies_drop(plane);
	for (struct vublk_plane_slot *slot = plane->first; slot; slot = slot->next)
		vublk_plane_mirror_end_request(plane, slot, VIRTIO_BLK_S_IOERR);
	free_when_idle(plane);
}

/* --- rounds ----------------------------------------------------------------------------------- */

static void check_time(struct vublk_plane *plane)
{
	const struct vublk_plane_mirror *mirror = plane->mirror;
	struct vublk_error error;

	if (!mirror->num_on_target || plane->now_ns() < mirror->progress_ns + mirror->timeout_ns)
		return;
	vublk_error_set(&error, ETIMEDOUT, "the target has completed no request for %" PRIu64
			" ms, and %u request%s outstanding", mirror->timeout_ns / 1000000,
			mirror->num_on_target, mirror->num_on_target == 1 ? " is" : "s are");
	vublk_plane_mirror_fail(plane, &error);
}

static void end_failed(struct vublk_plane *plane)
{
	struct vublk_error error = plane->mirror->failure;

	plane->mirror->was_reported = true;
	vublk_plane_mirror_end(plane); /* may free the mirror */
	plane->ops->mirror_failed(plane->opaque, &error);
}

/* Returns whether at least one of the writes that wait for copies can continue. */
static bool may_unpark(const struct vublk_plane *plane)
{
	if (!is_far_behind(plane))
		return true;
	for (const struct vublk_plane_slot *slot = plane->first; slot; slot = slot->next)
		if (slot->mirrored.awaits_copies && has_waiters(slot))
			return true;
	return false;
}

/* Continues the copies and the writes that wait for them, and reports the end of the first pass. */
static unsigned work_on_copies(struct vublk_plane *plane)
{
	struct vublk_plane_mirror *mirror = plane->mirror;
	unsigned n = vublk_plane_mirror_copies_work(plane);

	if (mirror->awaits_copies && may_unpark(plane)) {
		mirror->awaits_copies = false;
		vublk_plane_mirror_unpark(plane);
		n++;
	}
	if (!vublk_plane_mirror_num_missing(mirror) && !mirror->was_synced) {
		mirror->was_synced = true;
		plane->ops->mirror_synced(plane->opaque);
	}
	return n;
}

unsigned vublk_plane_mirror_work(struct vublk_plane *plane)
{
	struct vublk_plane_mirror *mirror = plane->mirror;
	unsigned n = mirror->state ? vublk_plane_mirror_record_work(plane) : 0;

	if (!mirror->target) {
		if (mirror->failure.code && !mirror->was_reported)
			end_failed(plane);
		else
			free_when_idle(plane);
		return n;
	}
	n += vublk_plane_mirror_take(plane);
	check_time(plane);
	if (mirror->failure.code) {
		end_failed(plane);
		return n + 1;
	}
	return n + work_on_copies(plane);
}

void vublk_plane_mirror_catch_up(struct vublk_plane *plane, bool on)
{
	if (plane->mirror)
		plane->mirror->catches_up = on;
}

bool vublk_plane_mirror_is_settled(const struct vublk_plane *plane)
{
	const struct vublk_plane_mirror *mirror = plane->mirror;

	if (!vublk_plane_mirror_copies_are_idle(plane))
		return false;
	return !mirror->catches_up || !mirror->target || mirror->failure.code ||
	       !vublk_plane_mirror_num_behind(mirror);
}

uint64_t vublk_plane_mirror_next_ns(const struct vublk_plane *plane)
{
	const struct vublk_plane_mirror *mirror = plane->mirror;
	uint64_t next = UINT64_MAX;

	if (!vublk_plane_mirror_is_active(mirror))
		return next;
	if (mirror->state)
		next = mirror->tick_ns;
	if (mirror->num_on_target)
		next = VUBLK_MIN(next, mirror->progress_ns + mirror->timeout_ns);
	if (plane->takes && plane->side && !mirror->num_dropped &&
	    mirror->count[VUBLK_PLANE_MIRROR_DIRTY] && vublk_plane_mirror_has_free_copy(mirror))
		next = VUBLK_MIN(next, vublk_bucket_ready_ns(&mirror->bucket));
	return next;
}
