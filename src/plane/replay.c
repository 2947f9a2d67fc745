/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file submits the plane's own requests: flushes, and the writes of the log (replay.h) after
 * the loss of a back-end.
 *
 * Key idea: all these requests go to the queue with the largest ring. src/virtio/write-replay.c
 * divides the writes into pieces and keeps them in order. If a piece fails, or the back-end is
 * lost, the replay starts again from the beginning.
 */
#include "plane/plane.h"
#include "plane/replay.h"

#include "util/atomic.h"
#include "util/compiler.h"
#include "util/error.h"
#include "util/loop.h"
#include "util/sections.h"
#include "virtio/blk-format.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define FLUSH_SLOT (VUBLK_PLANE_NUM_OWN - 1)
#define FIRST_PAUSE_NS UINT64_C(100000000)
#define LONGEST_PAUSE_NS UINT64_C(5000000000)
#define NS_PER_MS UINT64_C(1000000)
#define WRITE_BUFFERS 3 /* the header, the data or the range, and the status */

static struct vublk_write_log_stream *stream_of(struct vublk_plane_replay *replay)
{
	return &replay->log.streams[0];
}

/*
 * Returns whether the back-end may keep completed writes in a cache. The config's `wce` field is
 * not used, because some back-ends have a cache although the field says that they write through.
 */
static bool has_cache(const struct vublk_plane *plane)
{
	return plane->side->features & VUBLK_BIT(VIRTIO_BLK_F_FLUSH);
}

/* --- the plane's own requests ---------------------------------------------------------- */

/* Returns the queue for the plane's own requests: the first one with the largest ring. */
static struct vublk_plane_side_queue *queue_of(const struct vublk_plane *plane)
{
	struct vublk_plane_side_queue *queues = plane->side->queues, *largest = queues;

	for (unsigned i = 1; i < plane->side->num_queues; i++)
		if (queues[i].ring.size > largest->ring.size)
			largest = &queues[i];
	return largest;
}

/* Fills in the header and the range of one of the plane's own requests, and resets its status. */
static void fill_own(struct vublk_plane_shared_own *shared,
		     const struct vublk_write_replay_piece *piece)
{
	uint64_t sector = piece->offset >> VUBLK_SECTOR_SHIFT;

	shared->header = (struct virtio_blk_outhdr){
		.type = piece->type,
		.sector = piece->type == VIRTIO_BLK_T_OUT ? sector : 0,
	};
	shared->range = (struct virtio_blk_discard_write_zeroes){
		.sector = sector,
		.num_sectors = (uint32_t)(piece->bytes >> VUBLK_SECTOR_SHIFT),
		.flags = piece->flags,
	};
	vublk_store_relaxed(&shared->status, VUBLK_PLANE_NO_STATUS);
}

/*
 * Puts `piece` on the ring as own[i]. If the piece has data, a copy of it must be in the bounce
 * memory of own[i]. Returns false if the ring is full.
 */
static bool submit_own(struct vublk_plane *plane, unsigned i,
		       const struct vublk_write_replay_piece *piece)
{
	const struct vublk_plane_region *region = &plane->side->region;
	struct vublk_plane_own *own = &plane->replay->own[i];
	struct vublk_plane_side_queue *queue = queue_of(plane);
	struct vublk_plane_shared_own *shared = &region->own[i];
	uint64_t addr = region->own_addr + i * sizeof(*shared);
	const struct vublk_ring_indirect indirect = {
		shared->table, addr + offsetof(struct vublk_plane_shared_own, table),
	};
	struct vublk_ring_buffer buffers[WRITE_BUFFERS] = {
		{ addr + offsetof(struct vublk_plane_shared_own, header), sizeof(shared->header) },
	};
	unsigned n = 1;

	fill_own(shared, piece);
	if (piece->data)
		buffers[n++] = (struct vublk_ring_buffer){
			region->bounce_addr + i * VUBLK_PLANE_BOUNCE_BYTES, (uint32_t)piece->bytes,
		};
	else if (piece->type != VIRTIO_BLK_T_FLUSH)
		buffers[n++] = (struct vublk_ring_buffer){
			addr + offsetof(struct vublk_plane_shared_own, range), sizeof(shared->range),
		};
	buffers[n] = (struct vublk_ring_buffer){
		addr + offsetof(struct vublk_plane_shared_own, status), 1,
	};
	own->token = vublk_driver_ring_next_head(&queue->ring);
	if (vublk_driver_ring_add(&queue->ring, buffers, n, 1,
				  queue->ring.has_indirect ? &indirect : NULL, own->token))
		return false;
	own->is_submitted = true;
	plane->replay->num_own++;
	return true;
}

/* --- flushes ----------------------------------------------------------------------------- */

static void change_copies(struct vublk_plane *plane, enum vublk_plane_copy from,
			  enum vublk_plane_copy to)
{
	for (struct vublk_plane_slot *slot = plane->first; slot; slot = slot->next)
		if (slot->copy == from)
			slot->copy = to;
}

static unsigned submit_flush(struct vublk_plane *plane)
{
	const struct vublk_write_replay_piece flush = { .type = VIRTIO_BLK_T_FLUSH };
	struct vublk_plane_replay *replay = plane->replay;

	replay->mark = vublk_write_log_mark(&replay->log);
	replay->wants_ring = !submit_own(plane, FLUSH_SLOT, &flush);
	if (replay->wants_ring)
		return 0;
	replay->is_old = false;
	if (replay->num_awaiting)
		change_copies(plane, VUBLK_PLANE_COPY_AWAITS_FLUSH, VUBLK_PLANE_COPY_IN_FLUSH);
	return 1;
}

/* Ends, with `status`, the requests that waited for the plane's flush. */
static void end_flushed(struct vublk_plane *plane, uint8_t status)
{
	struct vublk_plane_slot *next;

	for (struct vublk_plane_slot *slot = plane->first; slot && plane->replay->num_awaiting;
	     slot = next) {
		next = slot->next;
		if (slot->copy == VUBLK_PLANE_COPY_IN_FLUSH)
			vublk_plane_end(plane, slot, status);
	}
}

static void trim(struct vublk_plane *plane, uint64_t mark)
{
	struct vublk_plane_replay *replay = plane->replay;

	replay->has_flushed = true;
	vublk_write_log_trim(&replay->log, mark);
	vublk_write_log_collect(&replay->log, stream_of(replay));
	plane->has_ended = true; /* writes that waited for room may be ready */
}

static void set_pause(struct vublk_plane_replay *replay)
{
	replay->pause_ns = VUBLK_MIN(replay->pause_ns ? 2 * replay->pause_ns : FIRST_PAUSE_NS,
				     LONGEST_PAUSE_NS);
	replay->retry_ns = vublk_now_ns() + replay->pause_ns;
}

/*
 * Clears retry_ns and deadline_ns when their time has come. At the deadline, also sets is_old.
 * Reads the clock only if one of the two times is set.
 */
static void look_at_clock(struct vublk_plane_replay *replay)
{
	uint64_t now;

	if (!replay->retry_ns && !replay->deadline_ns)
		return;
	now = vublk_now_ns();
	if (now >= replay->retry_ns)
		replay->retry_ns = 0;
	if (replay->deadline_ns && now >= replay->deadline_ns) {
		replay->deadline_ns = 0;
		replay->is_old = true;
	}
}

static bool flush_is_due(struct vublk_plane *plane)
{
	struct vublk_plane_replay *replay = plane->replay;
	bool is_empty = vublk_write_log_stream_is_empty(stream_of(replay));

	if (is_empty)
		replay->is_old = false;
	if (replay->own[FLUSH_SLOT].is_submitted || replay->retry_ns || !has_cache(plane) ||
	    (is_empty && !replay->num_awaiting))
		return false;
	return replay->num_awaiting || replay->waiting || replay->is_old || !plane->takes ||
	       vublk_write_log_is_half_full(stream_of(replay));
}

/* --- the replay ---------------------------------------------------------------------------- */

static void begin_replay(struct vublk_plane *plane)
{
	struct vublk_plane_replay *replay = plane->replay;

	vublk_write_replay_begin(&replay->writes, &replay->log);
	replay->phase = VUBLK_PLANE_REPLAY_WRITING;
}

static void report(const struct vublk_plane *plane)
{
	if (plane->ops->replay_ended)
		plane->ops->replay_ended(plane->opaque);
}

/* Counts a replay that has succeeded with `writes` writes. */
static void count_replay(struct vublk_plane *plane, uint64_t writes, uint64_t bytes)
{
	struct vublk_plane_replay *replay = plane->replay;

	replay->failure = NULL;
	replay->replays++;
	replay->last_writes = writes;
	replay->last_bytes = bytes;
	replay->total_writes += writes;
	replay->total_bytes += bytes;
	report(plane);
}

static void end_replay(struct vublk_plane *plane)
{
	struct vublk_plane_replay *replay = plane->replay;

	replay->phase = VUBLK_PLANE_REPLAY_READY;
	replay->pause_ns = replay->retry_ns = 0;
	replay->fails_flushes = false;
	count_replay(plane, replay->writes.num_writes, replay->writes.num_bytes);
	trim(plane, vublk_write_log_mark(&replay->log));
	vublk_log_limited(plane->log, plane->limit, VUBLK_LOG_INFO,
			  "repeated %u write%s (%" PRIu64 " bytes) that had completed but were not "
			  "flushed", replay->writes.num_writes,
			  replay->writes.num_writes == 1 ? "" : "s", replay->writes.num_bytes);
}

/*
 * `why` must be static. Logs each failure, but reports only the first one since the last successful
 * replay to the owner.
 */
static void fail_replay(struct vublk_plane *plane, const char *why)
{
	struct vublk_plane_replay *replay = plane->replay;
	bool is_first = !replay->failure;

	replay->failure = why;
	if (is_first)
		report(plane);
	replay->phase = VUBLK_PLANE_REPLAY_FAILED;
	replay->fails_flushes = true;
	set_pause(replay);
	vublk_log_limited(plane->log, plane->limit, VUBLK_LOG_ERROR,
			  "%s; requests wait and flushes fail until the writes that had completed "
			  "without a flush are repeated; next attempt in %" PRIu64 " ms",
			  why, replay->pause_ns / NS_PER_MS);
}

static uint64_t largest_piece(const struct vublk_plane_side *side)
{
	if (!side->max_segment_bytes)
		return VUBLK_PLANE_BOUNCE_BYTES;
	return VUBLK_MAX(side->max_segment_bytes, (uint32_t)VUBLK_SECTOR_BYTES);
}

/* Submits piece `i` of the writes. Returns false if the ring is full. */
static bool submit_piece(struct vublk_plane *plane, unsigned i)
{
	struct vublk_write_replay *writes = &plane->replay->writes;
	const struct vublk_write_replay_piece *piece = &writes->pieces[i];

	if (piece->data)
		memcpy(plane->side->region.bounce + i * VUBLK_PLANE_BOUNCE_BYTES, piece->data,
		       piece->bytes);
	if (!submit_own(plane, i, piece))
		return false;
	vublk_write_replay_sent(writes, i);
	return true;
}

static unsigned finish_writes(struct vublk_plane *plane)
{
	unsigned n;

	if (!has_cache(plane)) {
		end_replay(plane);
		return 0;
	}
	n = submit_flush(plane);
	if (n)
		plane->replay->phase = VUBLK_PLANE_REPLAY_FLUSHING;
	return n;
}

static unsigned submit_writes(struct vublk_plane *plane)
{
	struct vublk_write_replay *writes = &plane->replay->writes;
	enum vublk_write_replay_step step;
	unsigned n = 0, i;

	while ((step = vublk_write_replay_next(writes, largest_piece(plane->side), &i)) ==
	       VUBLK_WRITE_REPLAY_PIECE) {
		if (!submit_piece(plane, i))
			return n;
		n++;
	}
	if (step == VUBLK_WRITE_REPLAY_FAILED)
		fail_replay(plane, "the new back-end failed a completed write that was repeated");
	else if (step == VUBLK_WRITE_REPLAY_DONE)
		n += finish_writes(plane);
	return n;
}

/*
 * Begins the replay again after the pause. Does nothing until the back-end has completed the
 * requests that were submitted before the failure, because the replay must not overtake them. Some
 * of them may be writes without a copy. The replay could overwrite such a write with an older copy,
 * and the back-end may have failed the flush because it lost such a write. So these writes fail. If
 * there are no copies afterwards, nothing has to be repeated.
 */
static unsigned try_again(struct vublk_plane *plane)
{
	struct vublk_plane_replay *replay = plane->replay;

	if (replay->retry_ns || plane->num_submitted > replay->num_awaiting)
		return 0;
	change_copies(plane, VUBLK_PLANE_COPY_AWAITS_FLUSH, VUBLK_PLANE_COPY_IN_FLUSH);
	end_flushed(plane, VIRTIO_BLK_S_IOERR);
	if (vublk_write_log_is_empty(&replay->log)) {
		replay->phase = VUBLK_PLANE_REPLAY_READY;
		replay->fails_flushes = false;
		count_replay(plane, 0, 0);
		plane->has_ended = true; /* held requests that waited for the replay may be ready */
		return 1;
	}
	begin_replay(plane);
	return 1 + submit_writes(plane);
}

/* --- completions ------------------------------------------------------------------------- */

/*
 * After a failed flush, a back-end may have dropped writes, and its next flush may succeed without
 * them. The driver does not know of the plane's own flush, so the plane writes the copies again.
 * Writes that waited for the plane's flush have no copies, so they fail. The replay waits for the
 * pause even if there are no copies now, because the back-end may have completed more writes before
 * the flush, and the plane may not have taken these completions yet. If no flush has succeeded so
 * far, writes may have completed before the plane kept copies, so the driver's next flush fails,
 * too.
 */
static void fail_own_flush(struct vublk_plane *plane)
{
	struct vublk_plane_replay *replay = plane->replay;

	if (!replay->has_flushed)
		vublk_plane_fail_next_flush(plane);
	fail_replay(plane, "the back-end failed a flush that the device sent");
}

static void complete_flush(struct vublk_plane *plane, uint8_t status)
{
	struct vublk_plane_replay *replay = plane->replay;
	bool is_good = status == VIRTIO_BLK_S_OK;

	if (replay->phase == VUBLK_PLANE_REPLAY_FLUSHING) {
		if (is_good)
			end_replay(plane);
		else
			fail_replay(plane, "the back-end failed the flush after the repeated "
				    "writes");
		return;
	}
	if (is_good) {
		replay->pause_ns = 0;
		trim(plane, replay->mark);
	} else {
		fail_own_flush(plane);
	}
	end_flushed(plane, is_good ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR);
	replay->is_old = !is_good;
}

bool vublk_plane_replay_took(struct vublk_plane *plane, const struct vublk_plane_side_queue *queue,
			     uint16_t token)
{
	struct vublk_plane_replay *replay = plane->replay;
	unsigned i = 0;
	uint8_t status;

	if (!replay->num_own || queue != queue_of(plane))
		return false;
	while (i < VUBLK_PLANE_NUM_OWN &&
	       !(replay->own[i].is_submitted && replay->own[i].token == token))
		i++;
	if (i == VUBLK_PLANE_NUM_OWN)
		return false;
	status = vublk_load_relaxed(&plane->side->region.own[i].status);
	replay->own[i].is_submitted = false;
	replay->num_own--;
	if (i == FLUSH_SLOT)
		complete_flush(plane, status);
	else
		vublk_write_replay_returned(&replay->writes, i, status);
	return true;
}

/*
 * Called when a flush of the driver has succeeded while the plane's own flush is outstanding. The
 * back-end may report the loss of a write to only one of the two flushes, which may be the plane's.
 * So the driver's flush ends together with the plane's flush, and with the same status.
 */
static bool await_own_flush(struct vublk_plane *plane, struct vublk_plane_slot *slot)
{
	struct vublk_plane_replay *replay = plane->replay;

	slot->copy = VUBLK_PLANE_COPY_IN_FLUSH;
	replay->num_awaiting++;
	replay->mark = VUBLK_MAX(replay->mark, slot->flush_mark);
	return false;
}

bool vublk_plane_replay_completed(struct vublk_plane *plane, struct vublk_plane_slot *slot,
				  uint8_t status)
{
	if (status != VIRTIO_BLK_S_OK)
		return true;
	if (slot->is_write)
		return vublk_plane_keep_copy(plane, slot);
	if (slot->type != VIRTIO_BLK_T_FLUSH)
		return true;
	if (plane->replay->phase == VUBLK_PLANE_REPLAY_FAILED ||
	    plane->hooks & VUBLK_PLANE_HOOK_FAIL_FLUSH) { /* see fail_own_flush() */
		vublk_plane_end(plane, slot, plane->hooks & VUBLK_PLANE_HOOK_FAIL_FLUSH ?
				vublk_plane_fail_flush(plane) : VIRTIO_BLK_S_IOERR);
		return false;
	}
	if (plane->replay->own[FLUSH_SLOT].is_submitted)
		return await_own_flush(plane, slot);
	trim(plane, slot->flush_mark);
	return true;
}

/* --- rounds -------------------------------------------------------------------------------- */

bool vublk_plane_replay_admits(struct vublk_plane *plane, struct vublk_plane_slot *slot)
{
	struct vublk_plane_replay *replay = plane->replay;

	/* While the plane's own flush waits for room on the ring, no request is submitted. */
	if (replay->phase != VUBLK_PLANE_REPLAY_READY || replay->wants_ring)
		return false;
	if (slot->type == VIRTIO_BLK_T_FLUSH)
		slot->flush_mark = vublk_write_log_mark(&replay->log);
	return !slot->is_write || !has_cache(plane) || vublk_plane_keep_reserve(plane, slot);
}

/* Returns whether a write of the log fits in the back-end's largest ring. */
static bool fits(const struct vublk_plane *plane)
{
	const struct vublk_driver_ring *ring = &queue_of(plane)->ring;

	return ring->has_indirect || ring->size >= WRITE_BUFFERS;
}

static void refuse_side(struct vublk_plane *plane)
{
	struct vublk_error error;

	vublk_error_set(&error, ENOSPC, "the completed writes that were not flushed cannot be "
			"repeated to the back-end: a write needs %u entries of a ring without "
			"indirect descriptors, and the largest shadow ring has %u; set "
			"shadow-queue-size to 4 or more, or use a back-end with indirect "
			"descriptors", WRITE_BUFFERS, queue_of(plane)->ring.size);
	plane->side->is_broken = true;
	plane->ops->side_broke(plane->opaque, &error);
}

void vublk_plane_replay_begin(struct vublk_plane *plane)
{
	struct vublk_plane_replay *replay = plane->replay;

	if (vublk_write_log_is_empty(&replay->log))
		replay->phase = VUBLK_PLANE_REPLAY_READY;
	else if (fits(plane))
		begin_replay(plane);
	else
		refuse_side(plane);
}

void vublk_plane_replay_end(struct vublk_plane *plane)
{
	struct vublk_plane_replay *replay = plane->replay;

	replay->phase = VUBLK_PLANE_REPLAY_IDLE;
	memset(replay->own, 0, sizeof(replay->own));
	replay->num_own = 0;
	replay->retry_ns = replay->pause_ns = 0;
	replay->fails_flushes = replay->wants_ring = false;
	vublk_plane_keep_reset(plane);
}

unsigned vublk_plane_replay_work(struct vublk_plane *plane)
{
	struct vublk_plane_replay *replay = plane->replay;

	if (!plane->side || plane->side->is_broken)
		return 0;
	look_at_clock(replay);
	switch (replay->phase) {
	case VUBLK_PLANE_REPLAY_READY:
		if (!flush_is_due(plane))
			return 0;
		plane->has_ended = true; /* requests that waited for this flush may be ready */
		return submit_flush(plane);
	case VUBLK_PLANE_REPLAY_WRITING:
		return submit_writes(plane);
	case VUBLK_PLANE_REPLAY_FAILED:
		return try_again(plane);
	default:
		return 0;
	}
}

/* --- for the thread -------------------------------------------------------------------------- */

unsigned vublk_plane_replay_sleep_ms(const struct vublk_plane *plane)
{
	const struct vublk_plane_replay *replay = plane->replay;
	uint64_t until = replay->retry_ns ? replay->retry_ns : replay->deadline_ns, now;

	if (!until || !plane->side)
		return 0;
	now = vublk_now_ns();
	return until > now ? (unsigned)((until - now) / NS_PER_MS) + 1 : 1;
}

bool vublk_plane_replay_is_settled(const struct vublk_plane *plane)
{
	return vublk_write_log_is_empty(&plane->replay->log);
}

/* --- another process -------------------------------------------------------------------------- */

bool vublk_plane_replay_may_move(const struct vublk_plane *plane)
{
	enum vublk_plane_replay_phase phase = plane->replay->phase;

	return phase != VUBLK_PLANE_REPLAY_WRITING && phase != VUBLK_PLANE_REPLAY_FLUSHING;
}

int vublk_plane_replay_fields(struct vublk_plane *plane, struct vublk_fields *fields,
			      struct vublk_error *error)
{
	struct vublk_plane_replay *replay = plane->replay;
	struct vublk_plane_own *flush = &replay->own[FLUSH_SLOT];
	int r = vublk_write_log_fields(&replay->log, fields, error);

	VUBLK_FIELD(fields, replay->phase);
	VUBLK_FIELD(fields, flush->is_submitted);
	VUBLK_FIELD(fields, flush->token);
	VUBLK_FIELD(fields, replay->mark);
	VUBLK_FIELD(fields, replay->deadline_ns);
	VUBLK_FIELD(fields, replay->is_old);
	VUBLK_FIELD(fields, replay->retry_ns);
	VUBLK_FIELD(fields, replay->pause_ns);
	VUBLK_FIELD(fields, replay->fails_flushes);
	VUBLK_FIELD(fields, replay->replays);
	VUBLK_FIELD(fields, replay->total_writes);
	VUBLK_FIELD(fields, replay->total_bytes);
	VUBLK_FIELD(fields, replay->last_writes);
	VUBLK_FIELD(fields, replay->last_bytes);
	replay->num_own = flush->is_submitted;
	if (r < 0)
		return r;
	if (replay->phase <= VUBLK_PLANE_REPLAY_FAILED && vublk_plane_replay_may_move(plane) &&
	    replay->mark <= vublk_write_log_mark(&replay->log) &&
	    (!flush->is_submitted || replay->phase == VUBLK_PLANE_REPLAY_READY))
		return 0;
	return vublk_error_set(error, EINVAL, "the state of the completed writes is inconsistent");
}

void vublk_plane_replay_get_info(const struct vublk_plane *plane,
				 struct vublk_plane_replay_info *info)
{
	const struct vublk_plane_replay *replay = plane->replay;
	const struct vublk_write_log_stream *stream;

	*info = (struct vublk_plane_replay_info){ 0 };
	if (!replay)
		return;
	stream = &replay->log.streams[0];
	*info = (struct vublk_plane_replay_info){
		.is_replaying = replay->phase == VUBLK_PLANE_REPLAY_WRITING ||
				replay->phase == VUBLK_PLANE_REPLAY_FLUSHING,
		.failure = replay->failure,
		.kept_bytes = stream->tail - stream->head, .max_bytes = stream->size_bytes,
		.replays = replay->replays,
		.total_writes = replay->total_writes, .total_bytes = replay->total_bytes,
		.last_writes = replay->last_writes, .last_bytes = replay->last_bytes,
	};
}

bool vublk_plane_replay_owns(const struct vublk_plane *plane,
			     const struct vublk_plane_side_queue *queue, uint16_t token)
{
	const struct vublk_plane_replay *replay = plane->replay;

	return replay && replay->own[FLUSH_SLOT].is_submitted && queue == queue_of(plane) &&
	       replay->own[FLUSH_SLOT].token == token;
}
