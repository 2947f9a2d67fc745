/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copies completed writes into the log (replay.h).
 *
 * Key idea: room is reserved before a write is submitted, so that there is room when it completes.
 * A write for which there is no room waits, and later writes wait behind it, so that they cannot
 * delay it forever. A write that is larger than the whole log is submitted without a reservation,
 * and the driver sees its completion only after a flush has made the write stable. All writes of a
 * driver that has not accepted FLUSH are handled in this way, too, because such a driver relies on
 * a completed write being stable.
 */
#include "plane/plane.h"
#include "plane/replay.h"

#include "util/error.h"
#include "util/loop.h"
#include "virtio/blk-format.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define FLUSH_AFTER_NS UINT64_C(5000000000) /* a flush is due at most this long after a copy */

/* --- life ------------------------------------------------------------------------ */

int vublk_plane_keep_writes(struct vublk_plane *plane, uint64_t bytes, struct vublk_error *error)
{
	struct vublk_plane_replay *replay = calloc(1, sizeof(*replay));
	int r;

	if (!replay)
		return vublk_error_set_errno(error, ENOMEM, "cannot allocate memory for copies of "
					     "writes");
	r = vublk_write_log_init(&replay->log, 1, bytes, error);
	if (r < 0) {
		free(replay);
		return r;
	}
	plane->replay = replay;
	return 0;
}

void vublk_plane_keep_deinit(struct vublk_plane *plane)
{
	if (plane->replay)
		vublk_write_log_deinit(&plane->replay->log);
	free(plane->replay);
	plane->replay = NULL;
}

uint64_t vublk_plane_keep_end(struct vublk_plane *plane)
{
	return plane->replay ? vublk_write_log_end_of_disk(&plane->replay->log) : 0;
}

/* --- room -------------------------------------------------------------------------- */

static struct vublk_write_log_stream *stream_of(struct vublk_plane_replay *replay)
{
	return &replay->log.streams[0];
}

static uint64_t room_of(const struct vublk_plane_slot *slot)
{
	if (slot->num_ranges)
		return slot->num_ranges * vublk_write_log_room(slot->type, 0);
	return vublk_write_log_room(slot->type, slot->bytes);
}

bool vublk_plane_keep_reserve(struct vublk_plane *plane, struct vublk_plane_slot *slot)
{
	struct vublk_plane_replay *replay = plane->replay;
	struct vublk_write_log_stream *stream = stream_of(replay);
	uint64_t room = room_of(slot);

	if (slot->copy == VUBLK_PLANE_COPY_RESERVED)
		return true; /* an attempt that found the ring full has reserved the room already */
	if (replay->waiting && replay->waiting != slot)
		return false;
	if (room > stream->size_bytes || !plane->driver_flushes) {
		slot->copy = VUBLK_PLANE_COPY_TOO_LARGE;
	} else if (vublk_write_log_reserve(stream, room)) {
		slot->copy = VUBLK_PLANE_COPY_RESERVED;
	} else {
		replay->waiting = slot;
		return false;
	}
	replay->waiting = NULL;
	return true;
}

void vublk_plane_keep_forget(struct vublk_plane *plane, struct vublk_plane_slot *slot)
{
	struct vublk_plane_replay *replay = plane->replay;

	if (slot->copy == VUBLK_PLANE_COPY_RESERVED)
		vublk_write_log_release(stream_of(replay), room_of(slot));
	if (slot->copy >= VUBLK_PLANE_COPY_AWAITS_FLUSH)
		replay->num_awaiting--;
	slot->copy = VUBLK_PLANE_COPY_NONE;
	if (replay->waiting == slot)
		replay->waiting = NULL;
}

void vublk_plane_keep_reset(struct vublk_plane *plane)
{
	for (struct vublk_plane_slot *slot = plane->first; slot; slot = slot->next)
		vublk_plane_keep_forget(plane, slot);
}

/*
 * Returns whether the request can have the state slot->copy. A flush has no copy, so it can only
 * wait for the plane's flush.
 */
static bool may_have_copy(const struct vublk_plane_slot *slot)
{
	return slot->is_write || (slot->type == VIRTIO_BLK_T_FLUSH &&
				  slot->copy == VUBLK_PLANE_COPY_IN_FLUSH);
}

bool vublk_plane_keep_adopt(struct vublk_plane *plane, struct vublk_plane_slot *slot)
{
	struct vublk_plane_replay *replay = plane->replay;

	if (slot->copy == VUBLK_PLANE_COPY_NONE)
		return true;
	if (!replay || !may_have_copy(slot))
		return false;
	switch (slot->copy) {
	case VUBLK_PLANE_COPY_RESERVED:
		return vublk_write_log_reserve(stream_of(replay), room_of(slot));
	case VUBLK_PLANE_COPY_TOO_LARGE:
		return room_of(slot) > stream_of(replay)->size_bytes || !plane->driver_flushes;
	case VUBLK_PLANE_COPY_AWAITS_FLUSH:
	case VUBLK_PLANE_COPY_IN_FLUSH:
		replay->num_awaiting++;
		return slot->state == VUBLK_PLANE_SLOT_SUBMITTED;
	default:
		return false;
	}
}

/* --- copies ------------------------------------------------------------------------- */

/* Returns false if the guest's memory with the data was removed. */
static bool has_data(const struct vublk_plane *plane, const struct vublk_plane_slot *slot)
{
	for (unsigned i = 0; i < slot->num_segments; i++)
		if (!vublk_memory_map_guest(plane->map, slot->segments[i].addr,
					    slot->segments[i].bytes))
			return false;
	return true;
}

/*
 * Copies the data of a write to the log. If a page of the data was lost, keeps no copy and returns
 * false. The copy would have zeroes in place of the data, and a replay would write these to the
 * disk.
 */
static bool copy_data(struct vublk_plane *plane, const struct vublk_plane_slot *slot)
{
	struct vublk_plane_replay *replay = plane->replay;
	char *to = vublk_write_log_append(&replay->log, stream_of(replay), slot->type, 0,
					  slot->offset, slot->bytes);

	if (slot->mirrored.num_chunks) { /* the copy must be the same as the target's data */
		memcpy(to, plane->side->region.chunks +
		       (size_t)slot->mirrored.chunk * VUBLK_PLANE_MIRROR_CHUNK, slot->bytes);
		return true;
	}
	for (unsigned i = 0; i < slot->num_segments; i++) {
		const struct vublk_ring_buffer *segment = &slot->segments[i];

		memcpy(to, vublk_memory_map_guest(plane->map, segment->addr, segment->bytes),
		       segment->bytes);
		to += segment->bytes;
	}
	if (!vublk_fault_happened(plane->fault))
		return true;
	vublk_write_log_retract(stream_of(replay), slot->type, slot->bytes);
	vublk_log_limited(plane->log, plane->limit, VUBLK_LOG_WARNING,
			  "queue %u: cannot keep a copy of a write of %" PRIu64 " bytes, because the "
			  "VMM truncated the file of the guest's memory; the guest sees the write's "
			  "completion only after a flush", slot->queue, slot->bytes);
	return false;
}

static void copy_ranges(struct vublk_plane *plane, const struct vublk_plane_slot *slot)
{
	const struct virtio_blk_discard_write_zeroes *ranges =
		&plane->queues[slot->queue].ranges[(size_t)slot->head * VUBLK_PLANE_MAX_RANGES];

	for (unsigned i = 0; i < slot->num_ranges; i++)
		vublk_write_log_append(&plane->replay->log, stream_of(plane->replay), slot->type,
				       ranges[i].flags, ranges[i].sector << VUBLK_SECTOR_SHIFT,
				       (uint64_t)ranges[i].num_sectors << VUBLK_SECTOR_SHIFT);
}

static bool await_flush(struct vublk_plane *plane, struct vublk_plane_slot *slot)
{
	slot->copy = VUBLK_PLANE_COPY_AWAITS_FLUSH;
	plane->replay->num_awaiting++;
	return false;
}

bool vublk_plane_keep_copy(struct vublk_plane *plane, struct vublk_plane_slot *slot)
{
	struct vublk_plane_replay *replay = plane->replay;
	bool is_copied = true;

	if (slot->copy == VUBLK_PLANE_COPY_NONE)
		return true; /* the back-end has no write cache, so the write is stable already */
	if (slot->copy == VUBLK_PLANE_COPY_TOO_LARGE || !has_data(plane, slot)) {
		if (slot->copy == VUBLK_PLANE_COPY_RESERVED)
			vublk_plane_keep_forget(plane, slot);
		return await_flush(plane, slot);
	}
	if (slot->num_ranges)
		copy_ranges(plane, slot);
	else
		is_copied = copy_data(plane, slot);
	slot->copy = VUBLK_PLANE_COPY_NONE; /* the reservation is used up */
	if (!is_copied)
		return await_flush(plane, slot);
	if (!replay->deadline_ns)
		replay->deadline_ns = vublk_now_ns() + FLUSH_AFTER_NS;
	return true;
}
