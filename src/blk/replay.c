/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes the log of completed writes to the next back-end (replay.h), on the disk's thread.
 *
 * Key idea: while a queue holds its requests, its owner does not touch the ring. So the disk's
 * thread can use the ring of queue 0 without closing the gate of that queue. It polls that ring
 * with a short timer, because the call descriptor belongs to the owner. Between replays, the same
 * timer expires once per second, and a flush is started if a write has been unflushed for some
 * seconds.
 */
#include "blk/replay.h"

#include "blk/disk.h"
#include "blk/piece.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/loop.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define POLL_NS UINT64_C(50000)
#define TICK_NS UINT64_C(1000000000)
#define FIRST_PAUSE_NS UINT64_C(100000000)
#define LONGEST_PAUSE_NS UINT64_C(5000000000)
#define FLUSH_TOKEN 0 /* the token may be that of any slot, because the flush is alone on the
			 ring */

/* --- life --------------------------------------------------------------------------- */

/* The smallest share of a queue in the log of writes, in blocks of the disk. */
#define LEAST_BLOCKS 8

int vublk_blk_replay_init(struct vublk_blk *blk, uint64_t bytes, uint32_t block_bytes,
			  struct vublk_error *error)
{
	uint64_t least = (uint64_t)blk->num_queues * LEAST_BLOCKS * block_bytes;
	int r;

	if (!(blk->features & VUBLK_BIT(VIRTIO_BLK_F_FLUSH))) {
		vublk_log_limited(&blk->handlers.log, &blk->limit, VUBLK_LOG_WARNING,
				  "unflushed=replay has no effect, because the back-end does not "
				  "offer FLUSH; a write counts as stable when it completes");
		return 0;
	}
	blk->replay = calloc(1, sizeof(*blk->replay));
	if (!blk->replay)
		return vublk_error_set_errno(error, ENOMEM, "cannot allocate memory for copies of "
					     "writes");
	r = vublk_write_log_init(&blk->replay->log, blk->num_queues,
				 VUBLK_MAX(bytes, least), error);
	if (!r)
		vublk_inproc_set_timer(blk->inproc, TICK_NS);
	return r;
}

void vublk_blk_replay_deinit(struct vublk_blk *blk)
{
	if (blk->replay)
		vublk_write_log_deinit(&blk->replay->log);
	free(blk->replay);
	blk->replay = NULL;
}

/* --- the ring of queue 0 --------------------------------------------------------------- */

/*
 * Returns the offset, in the shared memory next to the ring, at which a slot has the data of its
 * piece.
 */
static uint64_t bounce_offset(const struct vublk_blk_queue *queue, unsigned slot)
{
	return vublk_blk_queue_shared_bytes(queue->size, queue->has_indirect) +
	       slot * VUBLK_WRITE_REPLAY_BYTES;
}

/* Adds a piece to the ring. Returns false if the ring is full, or the queue has no slot `token`. */
static bool send(struct vublk_blk_queue *queue, uint16_t token,
		 const struct vublk_write_replay_piece *piece)
{
	struct vublk_blk_shared_slot *shared = &queue->shared[token];
	uint64_t addr = queue->shared_addr + token * sizeof(*shared);
	const struct vublk_ring_indirect indirect = {
		shared->table, addr + offsetof(struct vublk_blk_shared_slot, table),
	};
	struct vublk_ring_buffer buffers[3] = {
		{ addr + offsetof(struct vublk_blk_shared_slot, header), sizeof(shared->header) },
	};
	uint64_t sector = piece->offset >> VUBLK_SECTOR_SHIFT;
	unsigned n = 1;

	if (token >= queue->size || queue->ring.num_free < (queue->has_indirect ? 1 : 3))
		return false;
	vublk_blk_fill_header(shared, piece->type, piece->data ? sector : 0);
	shared->segment.sector = htole64(sector);
	shared->segment.num_sectors = htole32((uint32_t)(piece->bytes >> VUBLK_SECTOR_SHIFT));
	shared->segment.flags = htole32(piece->flags);
	if (piece->data) {
		memcpy(queue->inproc->extra + bounce_offset(queue, token), piece->data,
		       piece->bytes);
		buffers[n++] = (struct vublk_ring_buffer){
			queue->inproc->extra_addr + bounce_offset(queue, token),
			(uint32_t)piece->bytes,
		};
	} else if (piece->type != VIRTIO_BLK_T_FLUSH) {
		buffers[n++] = (struct vublk_ring_buffer){
			addr + offsetof(struct vublk_blk_shared_slot, segment),
			sizeof(shared->segment),
		};
	}
	buffers[n] = (struct vublk_ring_buffer){
		addr + offsetof(struct vublk_blk_shared_slot, status), 1,
	};
	return !vublk_driver_ring_add(&queue->ring, buffers, n, 1,
				      queue->has_indirect ? &indirect : NULL, token);
}

static void publish(struct vublk_blk_queue *queue)
{
	if (vublk_driver_ring_publish(&queue->ring))
		vublk_eventfd_signal(queue->inproc->kick_fd);
}

/* --- the ends of a replay ----------------------------------------------------------------- */

/*
 * Sets or clears `replay_fails` of each queue. Closes the queue's gate for this, because the owner
 * reads the flag inside the gate.
 */
static void fail_flushes(struct vublk_blk *blk, bool on)
{
	for (unsigned i = 0; i < blk->num_queues; i++) {
		vublk_blk_gate_close(&blk->queues[i].gate);
		blk->queues[i].replay_fails = on;
		if (!on) /* earlier failures of flushes no longer matter, because the replay has
			    repeated the writes */
			blk->queues[i].told_failures = vublk_blk_flush_failures(&blk->flushes);
		vublk_blk_gate_open(&blk->queues[i].gate);
	}
}

static void end(struct vublk_blk *blk)
{
	struct vublk_blk_replay *replay = blk->replay;

	replay->phase = VUBLK_BLK_REPLAY_IDLE;
	replay->pause_ns = 0;
	vublk_write_log_trim(&replay->log, vublk_write_log_mark(&replay->log));
	vublk_log_limited(&blk->handlers.log, &blk->limit, VUBLK_LOG_INFO,
			  "repeated %u write%s (%" PRIu64 " bytes) that an earlier back-end had "
			  "completed but not flushed", replay->writes.num_writes,
			  replay->writes.num_writes == 1 ? "" : "s", replay->writes.num_bytes);
	fail_flushes(blk, false);
	for (unsigned i = 0; i < blk->num_queues; i++)
		vublk_blk_queue_release(&blk->queues[i]);
}

static void pause_replay(struct vublk_blk *blk, const char *why)
{
	struct vublk_blk_replay *replay = blk->replay;

	replay->phase = VUBLK_BLK_REPLAY_FAILED;
	replay->pause_ns = VUBLK_MIN(replay->pause_ns ? 2 * replay->pause_ns : FIRST_PAUSE_NS,
				     LONGEST_PAUSE_NS);
	vublk_log_limited(&blk->handlers.log, &blk->limit, VUBLK_LOG_ERROR,
			  "%s; requests wait and flushes fail until the writes that had completed "
			  "without a flush are repeated; next attempt in %" PRIu64 " ms", why,
			  replay->pause_ns / UINT64_C(1000000));
	fail_flushes(blk, true);
}

/*
 * Called when the back-end has broken the ring of queue 0. Ends the replay. The bus reclaims the
 * rings, and then calls gave_up().
 */
static void break_ring(struct vublk_blk *blk, struct vublk_error *error)
{
	blk->replay->phase = VUBLK_BLK_REPLAY_IDLE;
	vublk_error_prepend(error, "queue 0");
	vublk_inproc_fail(blk->inproc, error);
}

/* --- the course of a replay ------------------------------------------------------------------ */

static void complete(struct vublk_blk *blk, uint16_t token)
{
	struct vublk_blk_replay *replay = blk->replay;
	uint8_t status = vublk_load_relaxed(&blk->queues[0].shared[token].status);

	if (replay->phase == VUBLK_BLK_REPLAY_WRITING)
		vublk_write_replay_returned(&replay->writes, token, status);
	else if (status == VIRTIO_BLK_S_OK)
		end(blk);
	else
		pause_replay(blk, "the new back-end failed the flush after the repeated writes");
}

/* Takes the completions of queue 0. Returns whether more pieces can be sent. */
static bool take_completions(struct vublk_blk *blk)
{
	struct vublk_error error;
	uint16_t token;
	uint32_t bytes;
	int r = 1;

	while (blk->replay->phase != VUBLK_BLK_REPLAY_IDLE &&
	       (r = vublk_driver_ring_take(&blk->queues[0].ring, &token, &bytes, &error)) > 0)
		complete(blk, token);
	if (r < 0)
		break_ring(blk, &error);
	return blk->replay->phase == VUBLK_BLK_REPLAY_WRITING;
}

static void send_flush(struct vublk_blk *blk)
{
	const struct vublk_write_replay_piece flush = { .type = VIRTIO_BLK_T_FLUSH };

	if (send(&blk->queues[0], FLUSH_TOKEN, &flush))
		blk->replay->phase = VUBLK_BLK_REPLAY_FLUSHING;
}

static void send_pieces(struct vublk_blk *blk)
{
	struct vublk_write_replay *writes = &blk->replay->writes;
	struct vublk_blk_queue *queue = &blk->queues[0];
	uint32_t max = VUBLK_MIN(queue->limits.max_segment_bytes, queue->limits.max_piece_bytes);
	enum vublk_write_replay_step step;
	unsigned slot;

	if (max < VUBLK_SECTOR_BYTES)
		max = VUBLK_SECTOR_BYTES;
	while ((step = vublk_write_replay_next(writes, max, &slot)) == VUBLK_WRITE_REPLAY_PIECE) {
		if (!send(queue, (uint16_t)slot, &writes->pieces[slot]))
			break;
		vublk_write_replay_sent(writes, slot);
	}
	if (step == VUBLK_WRITE_REPLAY_FAILED)
		pause_replay(blk, "the new back-end failed to repeat a completed write");
	else if (step == VUBLK_WRITE_REPLAY_DONE)
		send_flush(blk);
	publish(queue);
}

static void start(struct vublk_blk *blk)
{
	struct vublk_blk_replay *replay = blk->replay;
	uint64_t end_of_log = vublk_write_log_end_of_disk(&replay->log);
	struct virtio_blk_config config = { 0 };
	uint32_t generation;

	vublk_inproc_read_config(blk->inproc, &config, sizeof(config), &generation);
	if (end_of_log >> VUBLK_SECTOR_SHIFT > le64toh(config.capacity)) {
		pause_replay(blk, "the new back-end's disk is too small to repeat completed "
			     "writes");
		return;
	}
	replay->phase = VUBLK_BLK_REPLAY_WRITING;
	vublk_write_replay_begin(&replay->writes, &replay->log);
	send_pieces(blk);
}

static void set_timer(struct vublk_blk *blk)
{
	const struct vublk_blk_replay *replay = blk->replay;
	uint64_t delay_ns = POLL_NS;

	if (replay->phase == VUBLK_BLK_REPLAY_IDLE)
		delay_ns = TICK_NS;
	else if (replay->phase == VUBLK_BLK_REPLAY_FAILED)
		delay_ns = replay->pause_ns;
	vublk_inproc_set_timer(blk->inproc, delay_ns);
}

/* --- calls of the disk's thread --------------------------------------------------------------- */

bool vublk_blk_replay_is_due(struct vublk_blk *blk)
{
	return blk->replay && !vublk_write_log_is_empty(&blk->replay->log);
}

void vublk_blk_replay_suspend(struct vublk_blk *blk)
{
	if (!blk->replay)
		return;
	blk->replay->phase = VUBLK_BLK_REPLAY_IDLE;
	blk->replay->pause_ns = 0;
}

/*
 * This function needs no lock for the log, because the owner of a queue that holds or fails its
 * requests does not use the log.
 */
void vublk_blk_replay_begin(struct vublk_blk *blk)
{
	bool holds = false;

	for (unsigned i = 0; blk->replay && i < blk->num_queues; i++)
		holds |= blk->queues[i].state == VUBLK_BLK_QUEUE_REPLAYS ||
			 blk->queues[i].state == VUBLK_BLK_QUEUE_FAILS;
	if (!holds || !vublk_blk_replay_is_due(blk))
		return;
	for (unsigned i = 0; i < blk->num_queues; i++)
		vublk_blk_queue_hold_failed(&blk->queues[i]);
	start(blk);
	set_timer(blk);
}

/*
 * Starts a flush if the queue's stream has an entry from before `mark` that is not stable. Returns
 * whether the stream has any entries.
 */
static bool flush_old(struct vublk_blk_queue *queue, uint64_t mark)
{
	uint64_t oldest;
	bool has_entries;

	vublk_blk_gate_close(&queue->gate);
	if (queue->state == VUBLK_BLK_QUEUE_WORKS) {
		vublk_blk_queue_take_all(queue); /* an idle owner does not take completions */
		vublk_write_log_collect(queue->write_log, queue->stream);
		queue->own_flush_failed = false;
		if (vublk_write_log_oldest(queue->stream, &oldest) && oldest < mark)
			queue->wants_flush = true;
		vublk_blk_queue_pump_for_owner(queue);
	}
	has_entries = !vublk_write_log_stream_is_empty(queue->stream);
	if (queue->num_done)
		vublk_eventfd_signal(queue->inproc->call_fd);
	vublk_blk_gate_open(&queue->gate);
	return has_entries;
}

static void age(struct vublk_blk *blk)
{
	struct vublk_blk_replay *replay = blk->replay;
	uint64_t mark = replay->marks[replay->next_mark], now = vublk_write_log_mark(&replay->log);
	bool has_entries = false;

	if (replay->is_quiet && now == vublk_load_acquire(&replay->log.stable) &&
	    !vublk_blk_flush_own_in_flight(&blk->flushes, UINT64_MAX))
		return; /* closing the gates would slow the owners down, and there is nothing to
			   flush */
	replay->marks[replay->next_mark] = now;
	replay->next_mark = (replay->next_mark + 1) % VUBLK_BLK_FLUSH_AFTER_S;
	for (unsigned i = 0; i < blk->num_queues; i++)
		has_entries |= flush_old(&blk->queues[i], mark);
	replay->is_quiet = !has_entries;
}

void vublk_blk_replay_tick(struct vublk_blk *blk)
{
	struct vublk_blk_replay *replay = blk->replay;

	if (!replay)
		return;
	if (replay->phase == VUBLK_BLK_REPLAY_IDLE) {
		if (vublk_blk_is_running(blk))
			age(blk);
	} else if (replay->phase == VUBLK_BLK_REPLAY_FAILED) {
		start(blk);
	} else if (take_completions(blk)) {
		send_pieces(blk);
	}
	set_timer(blk);
}

/* --- closing ---------------------------------------------------------------------------------- */

int vublk_blk_replay_close(struct vublk_blk *blk, uint64_t deadline_ns, struct vublk_error *error)
{
	struct vublk_blk_queue *queue = &blk->queues[0];
	struct vublk_blk_completion completion;
	int r;

	if (!blk->replay || vublk_write_log_mark(&blk->replay->log) <=
			    vublk_load_acquire(&blk->replay->log.stable))
		return 0;
	r = vublk_blk_flush(queue, 0, NULL, error);
	if (!r)
		r = vublk_blk_wait(queue, &completion, 1, 1, vublk_blk_left_ms(deadline_ns), error);
	if (!r)
		return vublk_error_set(error, ETIMEDOUT, "completed writes were not flushed before "
				       "the time limit of the close and may be lost");
	if (r == 1)
		r = vublk_blk_completion_error(queue, &completion, error);
	if (r < 0)
		vublk_error_prepend(error, "completed writes may be lost, because the flush of the "
				    "close failed");
	return r;
}
