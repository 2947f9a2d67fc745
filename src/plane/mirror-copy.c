/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file copies regions of the disk from the source to the target (mirror.h).
 *
 * Key idea: a copy of a region takes its place in the order of writes (order.h), as if it were a
 * write of the driver. So the copy begins when the earlier writes to the region have ended, and
 * later writes wait until it has ended. A copy reads and writes one piece at a time.
 */
#include "plane/plane.h"

#include "util/atomic.h"
#include "util/checked.h"
#include "util/error.h"
#include "virtio/blk-format.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* --- requests --------------------------------------------------------------------- */

/* Returns the queue for the mirror's own requests; NULL if no queue is in use. */
static struct vublk_plane_side_queue *queue_of(const struct vublk_plane_side *side)
{
	for (unsigned i = 0; i < side->num_queues; i++)
		if (side->queues[i].ring.size)
			return &side->queues[i];
	return NULL;
}

/* Returns the memory for the data of copy `index`, and stores its guest address. */
static char *data_of(const struct vublk_plane_side *side, unsigned index, uint64_t *addr)
{
	uint64_t at = (uint64_t)(VUBLK_PLANE_MIRROR_CHUNKS + index) * VUBLK_PLANE_MIRROR_CHUNK;

	*addr = side->region.chunks_addr + at;
	return side->region.chunks + at;
}

/*
 * Puts a request of copy `index` on the ring: a read or a write of the current piece, or a flush.
 * Returns false if the ring is full.
 */
static bool put(const struct vublk_plane_side *side, struct vublk_plane_side_queue *queue,
		const struct vublk_plane_mirror_copy *copy, unsigned index, uint32_t type,
		uint16_t *token)
{
	struct vublk_plane_shared_own *shared = &side->region.copies[index];
	uint64_t addr = side->region.copies_addr + index * sizeof(*shared), data;
	const struct vublk_ring_indirect indirect = {
		shared->table, addr + offsetof(struct vublk_plane_shared_own, table),
	};
	struct vublk_ring_buffer buffers[3] = {
		{ addr + offsetof(struct vublk_plane_shared_own, header), sizeof(shared->header) },
	};
	unsigned num_in = type == VIRTIO_BLK_T_IN ? 2 : 1, num_out = 1;

	data_of(side, index, &data);
	if (type != VIRTIO_BLK_T_FLUSH)
		buffers[num_out++] = (struct vublk_ring_buffer){ data, copy->bytes };
	buffers[num_out] = (struct vublk_ring_buffer){
		addr + offsetof(struct vublk_plane_shared_own, status), 1,
	};
	num_out -= type == VIRTIO_BLK_T_IN;
	shared->header = (struct virtio_blk_outhdr){
		.type = type, .sector = copy->offset >> VUBLK_SECTOR_SHIFT,
	};
	vublk_store_relaxed(&shared->status, VUBLK_PLANE_NO_STATUS);
	*token = vublk_driver_ring_next_head(&queue->ring);
	return !vublk_driver_ring_add(&queue->ring, buffers, num_out, num_in,
				      queue->ring.has_indirect ? &indirect : NULL, *token);
}

/* Puts a request of the copy on the source's ring. Returns false if there is no room. */
static bool send_to_source(struct vublk_plane *plane, struct vublk_plane_mirror_copy *copy,
			   unsigned index, uint32_t type)
{
	struct vublk_plane_side_queue *queue = queue_of(plane->side);

	if (!queue || !put(plane->side, queue, copy, index, type, &copy->token))
		return false;
	copy->phase = VUBLK_PLANE_MIRROR_COPY_READING;
	copy->is_reading = true;
	return true;
}

/* Puts a request of the copy on the target's ring. Returns false if there is no room. */
static bool send_to_target(struct vublk_plane *plane, struct vublk_plane_mirror_copy *copy,
			   unsigned index, uint32_t type)
{
	struct vublk_plane_mirror *mirror = plane->mirror;
	struct vublk_plane_side_queue *queue = queue_of(mirror->target);
	uint16_t token;

	if (!queue || !put(mirror->target, queue, copy, index, type, &token))
		return false;
	copy->phase = VUBLK_PLANE_MIRROR_COPY_WRITING;
	mirror->chains[queue - mirror->target->queues][token] = (struct vublk_plane_mirror_chain){
		.copy = (int)index,
	};
	if (!mirror->num_on_target++)
		mirror->progress_ns = plane->now_ns();
	return true;
}

/* --- one copy ------------------------------------------------------------------------ */

/*
 * Frees the struct of a flush, or of a copy that has left the order of writes. Sets has_ended,
 * because waiting requests may now be ready.
 */
static void free_copy(struct vublk_plane *plane, struct vublk_plane_mirror_copy *copy)
{
	copy->phase = VUBLK_PLANE_MIRROR_COPY_FREE;
	if (copy->is_flush)
		vublk_plane_mirror_unpark(plane);
	plane->has_ended = true;
}

/* Ends the copy of a region, and puts the region in `state`. */
static void end(struct vublk_plane *plane, struct vublk_plane_mirror_copy *copy,
		enum vublk_plane_mirror_state state)
{
	vublk_plane_mirror_set_state(plane->mirror, copy->region, state);
	vublk_plane_end_order(plane, &copy->order);
	free_copy(plane, copy);
}

/* Returns the longest piece that this side permits: whole sectors, at most a chunk. */
static uint64_t longest_piece(const struct vublk_plane_side *side)
{
	uint64_t bytes = side->max_segment_bytes & ~(uint32_t)(VUBLK_SECTOR_BYTES - 1);

	if (!side->max_segment_bytes || bytes > VUBLK_PLANE_MIRROR_CHUNK)
		return VUBLK_PLANE_MIRROR_CHUNK;
	return bytes ? bytes : VUBLK_SECTOR_BYTES;
}

static uint32_t next_piece(const struct vublk_plane *plane,
			   const struct vublk_plane_mirror_copy *copy)
{
	uint64_t bytes = VUBLK_MIN(longest_piece(plane->side),
				   longest_piece(plane->mirror->target));

	return (uint32_t)VUBLK_MIN(bytes, copy->end - copy->offset);
}

/* Returns whether a request of a copy fits in the ring when the ring is empty. */
static bool fits(const struct vublk_driver_ring *ring)
{
	return ring->has_indirect || ring->size >= 3;
}

/* Makes the mirror fail, because the source's rings are too small for a copy. */
static void fail_small(struct vublk_plane *plane, const struct vublk_driver_ring *ring)
{
	struct vublk_error error;

	vublk_error_set(&error, ENOSPC, "the mirror's reads need 3 ring entries each, because the back-end has "
			"no indirect descriptors, and the shadow ring has %u; set shadow-queue-size to "
			"4 or more", ring->size);
	vublk_plane_mirror_fail(plane, &error);
}

static bool read_piece(struct vublk_plane *plane, struct vublk_plane_mirror_copy *copy,
		       unsigned index)
{
	const struct vublk_plane_side_queue *queue = queue_of(plane->side);

	if (queue && !fits(&queue->ring))
		fail_small(plane, &queue->ring);
	copy->bytes = next_piece(plane, copy);
	return send_to_source(plane, copy, index, VIRTIO_BLK_T_IN);
}

static void fail(struct vublk_plane *plane, struct vublk_plane_mirror_copy *copy, const char *what,
		 uint8_t status)
{
	struct vublk_error error;

	copy->phase = VUBLK_PLANE_MIRROR_COPY_TO_READ;
	vublk_error_set(&error, EIO, "%s failed with virtio status %u (%u bytes at offset %" PRIu64 ")",
			what, status, copy->bytes, copy->offset);
	vublk_plane_mirror_fail(plane, &error);
}

/*
 * Called when the source has completed the read of a piece. Copies the data from the source's
 * memory to the target's. The source may change its memory during the copy. That does no harm,
 * because the source could have returned any data in the first place.
 */
static void piece_read(struct vublk_plane *plane, struct vublk_plane_mirror_copy *copy, unsigned index,
		       uint8_t status)
{
	uint64_t addr;
	char *to = data_of(plane->mirror->target, index, &addr);

	if (status != VIRTIO_BLK_S_OK) {
		fail(plane, copy, "the mirror's read", status);
		return;
	}
	memcpy(to, data_of(plane->side, index, &addr), copy->bytes);
	copy->phase = VUBLK_PLANE_MIRROR_COPY_TO_WRITE;
}

static void piece_written(struct vublk_plane *plane, struct vublk_plane_mirror_copy *copy,
			  uint8_t status)
{
	struct vublk_plane_mirror *mirror = plane->mirror;

	if (status != VIRTIO_BLK_S_OK) {
		fail(plane, copy, "the write to the target", status);
		return;
	}
	copy->phase = VUBLK_PLANE_MIRROR_COPY_TO_READ;
	copy->offset += copy->bytes;
	if (copy->offset < copy->end)
		return;
	/*
	 * The source may have the data only in its cache, so the region counts as written in this
	 * epoch.
	 */
	mirror->epochs[copy->region] = mirror->epoch;
	vublk_plane_mirror_note_unclear(mirror, copy->region);
	end(plane, copy, VUBLK_PLANE_MIRROR_SYNCED);
}

/* --- the flush ----------------------------------------------------------------------- */

/*
 * A flush of both sides uses a free element of `copies`. First the source flushes, then the target.
 * A side without FLUSH has no cache, and is skipped.
 */

static bool can_flush(const struct vublk_plane_side *side)
{
	return side->features & VUBLK_BIT(VIRTIO_BLK_F_FLUSH);
}

static void end_flush(struct vublk_plane *plane, struct vublk_plane_mirror_copy *copy)
{
	plane->mirror->flushed = VUBLK_MAX(plane->mirror->flushed, copy->mark);
	free_copy(plane, copy);
}

static bool flush_source(struct vublk_plane *plane, struct vublk_plane_mirror_copy *copy,
			 unsigned index)
{
	if (can_flush(plane->side))
		return send_to_source(plane, copy, index, VIRTIO_BLK_T_FLUSH);
	copy->phase = VUBLK_PLANE_MIRROR_COPY_TO_WRITE;
	return true;
}

static bool flush_target(struct vublk_plane *plane, struct vublk_plane_mirror_copy *copy,
			 unsigned index)
{
	if (can_flush(plane->mirror->target))
		return send_to_target(plane, copy, index, VIRTIO_BLK_T_FLUSH);
	end_flush(plane, copy);
	return true;
}

static void fail_flush(struct vublk_plane *plane, struct vublk_plane_mirror_copy *copy,
		       const char *side, uint8_t status)
{
	struct vublk_error error;

	copy->phase = VUBLK_PLANE_MIRROR_COPY_TO_READ;
	vublk_error_set(&error, EIO, "the mirror's flush of the %s failed with virtio status %u", side,
			status);
	vublk_plane_mirror_fail(plane, &error);
}

/*
 * Called when the source has failed a flush of the mirror, even an abandoned flush. Fails the
 * driver's flushes that wait or, if none waits, the driver's next flush, because the source may
 * have dropped completed writes and may not report the loss to a later flush.
 */
static void fail_flushes_of_driver(struct vublk_plane *plane)
{
	vublk_plane_fail_next_flush(plane);
	if (vublk_plane_fail_held_flushes(plane))
		vublk_plane_sort_held(plane);
	if (plane->hooks & VUBLK_PLANE_HOOK_FAIL_FLUSH && plane->ops->flush_must_fail)
		plane->ops->flush_must_fail(plane->opaque);
}

static void source_flushed(struct vublk_plane *plane, struct vublk_plane_mirror_copy *copy,
			   uint8_t status)
{
	if (status == VIRTIO_BLK_S_OK)
		copy->phase = VUBLK_PLANE_MIRROR_COPY_TO_WRITE;
	else
		fail_flush(plane, copy, "source", status);
}

static void target_flushed(struct vublk_plane *plane, struct vublk_plane_mirror_copy *copy,
			   uint8_t status)
{
	if (status == VIRTIO_BLK_S_OK)
		end_flush(plane, copy);
	else
		fail_flush(plane, copy, "target", status);
}

/* --- completions ---------------------------------------------------------------------- */

/* Returns the index of the copy whose request has this token on the source's ring; -1: none. */
static int find_reading(const struct vublk_plane_mirror *mirror, uint16_t token)
{
	for (unsigned i = 0; i < VUBLK_PLANE_MIRROR_COPIES; i++)
		if (mirror->copies[i].is_reading && mirror->copies[i].token == token)
			return (int)i;
	return -1;
}

bool vublk_plane_mirror_copies_took(struct vublk_plane *plane,
				    const struct vublk_plane_side_queue *queue, uint16_t token)
{
	int i = queue == queue_of(plane->side) ? find_reading(plane->mirror, token) : -1;
	struct vublk_plane_mirror_copy *copy;
	uint8_t status;

	if (i < 0)
		return false;
	copy = &plane->mirror->copies[i];
	status = vublk_load_relaxed(&plane->side->region.copies[i].status);
	copy->is_reading = false;
	if (copy->is_flush && status != VIRTIO_BLK_S_OK)
		fail_flushes_of_driver(plane);
	if (copy->phase == VUBLK_PLANE_MIRROR_COPY_ABANDONED)
		free_copy(plane, copy);
	else if (copy->is_flush)
		source_flushed(plane, copy, status);
	else
		piece_read(plane, copy, (unsigned)i, status);
	return true;
}

void vublk_plane_mirror_copy_written(struct vublk_plane *plane, unsigned index, uint8_t status)
{
	struct vublk_plane_mirror_copy *copy = &plane->mirror->copies[index];

	if (copy->phase == VUBLK_PLANE_MIRROR_COPY_ABANDONED) {
		free_copy(plane, copy);
		plane->mirror->num_dropped--;
	} else if (copy->is_flush) {
		target_flushed(plane, copy, status);
	} else {
		piece_written(plane, copy, status);
	}
}

/* --- all copies --------------------------------------------------------------------- */

static bool may_copy(const struct vublk_plane *plane)
{
	const struct vublk_plane_mirror *mirror = plane->mirror;

	return plane->takes && mirror->count[VUBLK_PLANE_MIRROR_DIRTY] &&
	       vublk_bucket_ready_ns(&mirror->bucket) <= plane->now_ns();
}

/* The rate limit does not apply here, because writes of the driver may wait for these copies. */
static bool may_copy_again(const struct vublk_plane *plane)
{
	return (plane->takes || plane->mirror->catches_up) &&
	       plane->mirror->count[VUBLK_PLANE_MIRROR_BEHIND];
}

/*
 * Returns the state of the regions that copy `index` may begin to copy now: DIRTY or BEHIND, or
 * SYNCED if there is no such region. If regions of both states can be copied, half of the copies
 * take DIRTY regions and half take BEHIND regions, so that neither kind has to wait for the other,
 * under any load.
 */
static enum vublk_plane_mirror_state choose(const struct vublk_plane *plane, unsigned index)
{
	bool copies = may_copy(plane), again = may_copy_again(plane);

	if (plane->mirror->num_dropped || !(copies || again))
		return VUBLK_PLANE_MIRROR_SYNCED;
	if (copies && again)
		again = index % 2;
	return again ? VUBLK_PLANE_MIRROR_BEHIND : VUBLK_PLANE_MIRROR_DIRTY;
}

/* Returns the next region in this state. There must be such a region. */
static size_t find(struct vublk_plane_mirror *mirror, enum vublk_plane_mirror_state state)
{
	const uint8_t *found = memchr(mirror->states + mirror->next, (int)state,
				      mirror->num_regions - mirror->next);

	if (!found)
		found = memchr(mirror->states, (int)state, mirror->num_regions);
	return (size_t)(found - mirror->states);
}

/* Begins to copy the next region in the state `from`. */
static void begin(struct vublk_plane *plane, struct vublk_plane_mirror_copy *copy,
		  enum vublk_plane_mirror_state from)
{
	struct vublk_plane_mirror *mirror = plane->mirror;
	bool again = from == VUBLK_PLANE_MIRROR_BEHIND;
	size_t region = find(mirror, from);
	uint64_t offset = region * mirror->region_bytes;
	uint64_t end = VUBLK_MIN(offset + mirror->region_bytes, mirror->bytes);

	*copy = (struct vublk_plane_mirror_copy){
		.phase = VUBLK_PLANE_MIRROR_COPY_BLOCKED,
		.region = region,
		.offset = offset,
		.end = end,
	};
	mirror->next = region + 1;
	vublk_plane_mirror_set_state(mirror, region, again ? VUBLK_PLANE_MIRROR_COPYING_AGAIN :
							     VUBLK_PLANE_MIRROR_COPYING);
	vublk_order_begin(&plane->order, &copy->order, offset, end - offset);
	if (!again)
		vublk_bucket_pay(&mirror->bucket, end - offset, plane->now_ns());
}

bool vublk_plane_mirror_flushes(const struct vublk_plane_mirror *mirror)
{
	for (unsigned i = 0; i < VUBLK_PLANE_MIRROR_COPIES; i++)
		if (mirror->copies[i].is_flush &&
		    mirror->copies[i].phase != VUBLK_PLANE_MIRROR_COPY_FREE)
			return true;
	return false;
}

static bool driver_flushes(const struct vublk_plane *plane)
{
	for (const struct vublk_plane_slot *slot = plane->first; slot; slot = slot->next)
		if (slot->type == VIRTIO_BLK_T_FLUSH && slot->state == VUBLK_PLANE_SLOT_SUBMITTED)
			return true;
	return false;
}

/*
 * Begins to flush both sides, so that the marks of regions that differ can be removed. Returns
 * whether a flush has begun. None begins while a flush request of the driver is outstanding, because
 * that request has the same effect.
 */
static bool begin_flush(struct vublk_plane *plane, struct vublk_plane_mirror_copy *copy)
{
	struct vublk_plane_mirror *mirror = plane->mirror;

	if (!mirror->wants_flush || !plane->takes || driver_flushes(plane))
		return false;
	mirror->wants_flush = false;
	*copy = (struct vublk_plane_mirror_copy){
		.phase = VUBLK_PLANE_MIRROR_COPY_TO_READ, .is_flush = true, .mark = mirror->epoch++,
	};
	return true;
}

/* Does the next step of a copy, if that is possible. Returns whether it did a step. */
static bool step(struct vublk_plane *plane, struct vublk_plane_mirror_copy *copy, unsigned index)
{
	enum vublk_plane_mirror_state from;

	switch (copy->phase) {
	case VUBLK_PLANE_MIRROR_COPY_FREE:
		if (begin_flush(plane, copy))
			return true;
		from = choose(plane, index);
		if (from == VUBLK_PLANE_MIRROR_SYNCED)
			return false;
		begin(plane, copy, from);
		return true;
	case VUBLK_PLANE_MIRROR_COPY_BLOCKED:
		if (copy->order.num_blockers)
			return false;
		copy->phase = VUBLK_PLANE_MIRROR_COPY_TO_READ;
		return true;
	case VUBLK_PLANE_MIRROR_COPY_TO_READ:
		return copy->is_flush ? flush_source(plane, copy, index) :
					read_piece(plane, copy, index);
	case VUBLK_PLANE_MIRROR_COPY_TO_WRITE:
		return copy->is_flush ? flush_target(plane, copy, index) :
					send_to_target(plane, copy, index, VIRTIO_BLK_T_OUT);
	default:
		return false;
	}
}

unsigned vublk_plane_mirror_copies_work(struct vublk_plane *plane)
{
	unsigned n = 0;

	if (!plane->side || plane->side->is_broken ||
	    (plane->replay && plane->replay->phase != VUBLK_PLANE_REPLAY_READY))
		return 0;
	for (unsigned i = 0; i < VUBLK_PLANE_MIRROR_COPIES; i++)
		while (step(plane, &plane->mirror->copies[i], i))
			n++;
	return n;
}

bool vublk_plane_mirror_has_free_copy(const struct vublk_plane_mirror *mirror)
{
	for (unsigned i = 0; i < VUBLK_PLANE_MIRROR_COPIES; i++)
		if (mirror->copies[i].phase == VUBLK_PLANE_MIRROR_COPY_FREE)
			return true;
	return false;
}

bool vublk_plane_mirror_copies_are_idle(const struct vublk_plane *plane)
{
	for (unsigned i = 0; i < VUBLK_PLANE_MIRROR_COPIES; i++)
		if (plane->mirror->copies[i].phase != VUBLK_PLANE_MIRROR_COPY_FREE)
			return false;
	return true;
}

/* Returns the state that the copy's region had before the copy began. */
static enum vublk_plane_mirror_state state_before(const struct vublk_plane_mirror *mirror,
						  const struct vublk_plane_mirror_copy *copy)
{
	return mirror->states[copy->region] == VUBLK_PLANE_MIRROR_COPYING_AGAIN ?
		       VUBLK_PLANE_MIRROR_BEHIND : VUBLK_PLANE_MIRROR_DIRTY;
}

/*
 * Stops the work on a copy that is not free. If a back-end has a piece of the copy, the copy's
 * memory is in use until the back-end completes the piece. While the target has such a piece, no
 * copy begins, because the old data of the piece could overwrite newer data.
 */
static void abandon(struct vublk_plane_mirror *mirror, struct vublk_plane_mirror_copy *copy)
{
	bool is_on_target = copy->phase == VUBLK_PLANE_MIRROR_COPY_WRITING;

	copy->phase = is_on_target || copy->is_reading ? VUBLK_PLANE_MIRROR_COPY_ABANDONED :
							  VUBLK_PLANE_MIRROR_COPY_FREE;
	mirror->num_dropped += is_on_target;
}

void vublk_plane_mirror_copies_lose_source(struct vublk_plane *plane)
{
	for (unsigned i = 0; i < VUBLK_PLANE_MIRROR_COPIES; i++) {
		struct vublk_plane_mirror_copy *copy = &plane->mirror->copies[i];
		enum vublk_plane_mirror_copy_phase phase = copy->phase;
		bool was_reading = copy->is_reading;

		copy->is_reading = false;
		if (phase == VUBLK_PLANE_MIRROR_COPY_ABANDONED) {
			if (was_reading)
				copy->phase = VUBLK_PLANE_MIRROR_COPY_FREE;
		} else if (phase > VUBLK_PLANE_MIRROR_COPY_BLOCKED) {
			if (copy->is_flush)
				free_copy(plane, copy);
			else
				end(plane, copy, state_before(plane->mirror, copy));
			copy->phase = phase;
			abandon(plane->mirror, copy);
		}
	}
}

void vublk_plane_mirror_copies_drop(struct vublk_plane *plane)
{
	for (unsigned i = 0; i < VUBLK_PLANE_MIRROR_COPIES; i++) {
		struct vublk_plane_mirror_copy *copy = &plane->mirror->copies[i];

		if (copy->phase == VUBLK_PLANE_MIRROR_COPY_FREE ||
		    copy->phase == VUBLK_PLANE_MIRROR_COPY_ABANDONED)
			continue;
		if (!copy->is_flush)
			vublk_plane_mirror_set_state(plane->mirror, copy->region,
						     state_before(plane->mirror, copy));
		copy->order = (struct vublk_order_write){ 0 };
		abandon(plane->mirror, copy);
	}
}

void vublk_plane_mirror_copies_lose_target(struct vublk_plane *plane)
{
	for (unsigned i = 0; i < VUBLK_PLANE_MIRROR_COPIES; i++) {
		struct vublk_plane_mirror_copy *copy = &plane->mirror->copies[i];

		if (!copy->is_reading)
			copy->phase = VUBLK_PLANE_MIRROR_COPY_FREE;
	}
}
