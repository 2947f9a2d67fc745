/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The requests of a queue after the loss of its back-end. The disk's thread executes the code here
 * while the gate is closed. So recovery does not depend on the owner, which may be idle.
 *
 * Key idea: a slot has, in private memory, everything that is needed to issue its piece again.
 * First the disk's thread takes the completions of the lost back-end, so the completed pieces are
 * not issued again. Then it makes new rings in memory that no earlier back-end has mapped, so a
 * lost back-end that is still alive cannot change them. It adds the other pieces to the new rings
 * in their original order. A piece may be executed twice, which does no harm because the ring never
 * has two writes that overlap (piece.c).
 *
 * With an in-flight area the rings are not replaced, and the next back-end resumes the requests
 * that the lost one had begun.
 *
 * Writes that the lost back-end completed may be lost if no flush made them stable (unflushed.h).
 * If there may be such writes, the next flush fails.
 */
#include "blk/fua.h"
#include "blk/piece.h"
#include "blk/replay.h"

#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void wake_owner(struct vublk_blk_queue *queue)
{
	vublk_blk_gate_open(&queue->gate);
	vublk_eventfd_signal(queue->inproc->call_fd);
}

static void forget_tables(struct vublk_blk_queue *queue)
{
	for (unsigned i = 0; i < queue->size; i++)
		queue->slots[i].table_bytes = 0;
}

/*
 * Makes the driver write all tables, descriptors and avail entries again before it uses them,
 * because the lost back-end may have overwritten them.
 */
void vublk_blk_queue_lost(struct vublk_blk_queue *queue)
{
	vublk_blk_queue_suspend(queue);
	forget_tables(queue);
	vublk_driver_ring_forget(&queue->ring);
}

/*
 * Fails the flushes in flight, and the writes with FUA of which a part may be lost. Returns whether
 * a flush was in flight. The failed flush tells the application of the loss. A failed write with
 * FUA does not count as a flush, because it reports only its own loss.
 */
static bool fail_flushes(struct vublk_blk_queue *queue)
{
	bool found = false;

	for (unsigned i = 0; i < queue->size; i++) {
		struct vublk_blk_request *request = &queue->requests[i];
		bool is_flush = request->type == VIRTIO_BLK_T_FLUSH && !request->fua;

		if (!vublk_blk_queue_is_in_flight(request) ||
		    (!is_flush && !vublk_blk_fua_is_unflushed(request)))
			continue;
		request->result = -EOWNERDEAD; /* the request keeps this result, whatever status
						  the next back-end returns */
		found = found || is_flush;
	}
	return found;
}

void vublk_blk_queue_after_loss(struct vublk_blk_queue *queue, bool writes_lost)
{
	if (writes_lost) {
		queue->flush_fails = !fail_flushes(queue);
		queue->covering_flush = 0; /* each loss is reported only once */
	}
	if (queue->state == VUBLK_BLK_QUEUE_WORKS)
		vublk_blk_queue_pump_for_owner(queue); /* issues the flush of a FUA write */
	wake_owner(queue);
}

void vublk_blk_queue_suspend(struct vublk_blk_queue *queue)
{
	vublk_blk_gate_close(&queue->gate);
	vublk_blk_queue_take_all(queue);
}

/* --- issuing again ---------------------------------------------------------------------------- */

static int compare_sequence(const void *a, const void *b, void *slots_opaque)
{
	const struct vublk_blk_slot *slots = slots_opaque;
	uint64_t x = slots[*(const uint16_t *)a].sequence;
	uint64_t y = slots[*(const uint16_t *)b].sequence;

	return x < y ? -1 : x > y;
}

static unsigned collect_pieces(struct vublk_blk_queue *queue, uint16_t *tokens)
{
	unsigned n = 0;

	for (unsigned i = 0; i < queue->size; i++)
		if (queue->slots[i].request)
			tokens[n++] = (uint16_t)i;
	qsort_r(tokens, n, sizeof(tokens[0]), compare_sequence, queue->slots);
	return n;
}

/*
 * Drops a piece that cannot be issued again, because the application has unregistered the piece's
 * memory. The request of the piece fails with `result`.
 */
static void drop_piece(struct vublk_blk_queue *queue, uint16_t token, int result)
{
	struct vublk_blk_request *request = queue->slots[token].request;

	vublk_log_limited(queue->log, &queue->log_limit, VUBLK_LOG_ERROR,
		  "queue %u: cannot send a request of type %u at byte %llu to the new back-end, "
		  "because the request's memory was unregistered while the request was in flight "
		  "(%s)",
		  queue->index, request->type, (unsigned long long)queue->slots[token].offset,
		  strerrordesc_np(-result));
	if (queue->write_log)
		vublk_blk_keep_release(queue, request->type, queue->slots[token].bytes);
	queue->slots[token].request = NULL;
	queue->free_slots[queue->num_free_slots++] = token;
	request->pieces--;
	if (!request->result)
		request->result = result;
	vublk_blk_queue_piece_ended(queue, request);
}

static void issue_again(struct vublk_blk_queue *queue)
{
	uint16_t tokens[VUBLK_RING_MAX_SIZE];
	unsigned n = collect_pieces(queue, tokens);

	for (unsigned i = 0; i < n; i++) {
		int r = vublk_blk_piece_issue_again(queue, tokens[i]);

		if (r < 0)
			drop_piece(queue, tokens[i], r);
	}
	if (n)
		vublk_log(queue->log, VUBLK_LOG_DEBUG, "queue %u: sending %u pieces of requests to "
			  "the new back-end", queue->index, n);
	vublk_blk_queue_pump_for_owner(queue);
}

static void empty_ring(struct vublk_blk_queue *queue)
{
	vublk_blk_queue_bind(queue);
	vublk_driver_ring_reset(&queue->ring, &queue->inproc->ring);
	forget_tables(queue); /* the tables in the new memory are empty */
	if (!queue->calls_enabled)
		vublk_driver_ring_disable_calls(&queue->ring);
	queue->overlap = (struct vublk_blk_overlap){ 0 };
	queue->unpublished = false;
}

static void fail(struct vublk_blk_queue *queue, const struct vublk_error *error,
		 enum vublk_blk_queue_state state)
{
	if (queue->state <= VUBLK_BLK_QUEUE_REPLAYS)
		queue->failure = *error;
	vublk_blk_queue_fail_all(queue, state);
}

/*
 * If the lost back-end broke this ring, the state of the queue's requests is unknown. So these
 * requests fail, and the queue is dead from then on. The other queues continue with the next
 * back-end.
 */
void vublk_blk_queue_resume(struct vublk_blk_queue *queue, const struct vublk_error *error)
{
	empty_ring(queue);
	if (queue->state == VUBLK_BLK_QUEUE_BROKEN)
		vublk_blk_queue_fail_all(queue, VUBLK_BLK_QUEUE_DEAD);
	else if (error && queue->state <= VUBLK_BLK_QUEUE_REPLAYS)
		fail(queue, error, VUBLK_BLK_QUEUE_FAILS);
	else if (queue->state == VUBLK_BLK_QUEUE_WORKS)
		issue_again(queue);
	wake_owner(queue);
}

/*
 * Clears calls_enabled, because the owner must not touch the ring while the queue holds its
 * requests, not even to disable calls.
 */
void vublk_blk_queue_hold(struct vublk_blk_queue *queue)
{
	queue->calls_enabled = false;
	empty_ring(queue);
	if (queue->state == VUBLK_BLK_QUEUE_BROKEN)
		vublk_blk_queue_fail_all(queue, VUBLK_BLK_QUEUE_DEAD);
	else if (queue->state == VUBLK_BLK_QUEUE_WORKS)
		queue->state = VUBLK_BLK_QUEUE_REPLAYS;
	wake_owner(queue);
}

void vublk_blk_queue_hold_failed(struct vublk_blk_queue *queue)
{
	vublk_blk_gate_close(&queue->gate);
	if (queue->state == VUBLK_BLK_QUEUE_FAILS)
		queue->state = VUBLK_BLK_QUEUE_REPLAYS;
	wake_owner(queue);
}

/*
 * Makes the driver fill all tables again before it uses them, because the replay has used the
 * tables of queue 0.
 */
void vublk_blk_queue_release(struct vublk_blk_queue *queue)
{
	vublk_blk_gate_close(&queue->gate);
	forget_tables(queue);
	if (queue->state == VUBLK_BLK_QUEUE_REPLAYS) {
		queue->state = VUBLK_BLK_QUEUE_WORKS;
		issue_again(queue);
	}
	wake_owner(queue);
}

void vublk_blk_queue_revive(struct vublk_blk_queue *queue)
{
	vublk_blk_gate_close(&queue->gate);
	if (queue->state == VUBLK_BLK_QUEUE_FAILS)
		queue->state = VUBLK_BLK_QUEUE_WORKS;
	wake_owner(queue);
}

void vublk_blk_queue_give_up(struct vublk_blk_queue *queue, const struct vublk_error *error)
{
	vublk_blk_queue_suspend(queue);
	if (queue->state == VUBLK_BLK_QUEUE_FAILS)
		queue->failure = *error;
	if (queue->state != VUBLK_BLK_QUEUE_DEAD)
		fail(queue, error, VUBLK_BLK_QUEUE_DEAD);
	wake_owner(queue);
}
