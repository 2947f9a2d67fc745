/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finds out whether a piece of a request has taken longer than request-deadline-ms.
 * src/inproc/deadline.c decides what happens then.
 *
 * Key idea: no request needs a time stamp. The disk's thread checks the queue several times per
 * deadline, and records each time how many pieces have been published so far. A piece is overdue if
 * it still has its slot and had already been published at the check one deadline ago. So a deadline
 * adds no work to a request, and an overdue piece is found at most one interval between checks too
 * late. A piece keeps its sequence number when the next back-end gets it, so its time runs from the
 * submission, over all back-ends.
 */
#include "blk/queue.h"

#include "util/fd.h"

static bool has_piece_before(const struct vublk_blk_queue *queue, uint64_t sequence)
{
	for (unsigned i = 0; i < queue->size; i++)
		if (queue->slots[i].request && queue->slots[i].sequence < sequence)
			return true;
	return false;
}

/* Returns how many pieces have been published. The back-end cannot see any other piece. */
static uint64_t count_published(const struct vublk_blk_queue *queue)
{
	return queue->sequence - (queue->ring.added - queue->ring.published);
}

/*
 * The check may take completed pieces off the ring. Afterwards other pieces may fit on the ring, or
 * a request with FUA may need its flush. Only the owner issues pieces and flushes. So this function
 * wakes the owner, because the ring may have no completion left that would wake it.
 */
bool vublk_blk_queue_is_overdue(struct vublk_blk_queue *queue)
{
	uint64_t *note, taken;
	bool overdue, took;

	vublk_blk_gate_close(&queue->gate);
	note = &queue->published_notes[queue->next_note];
	taken = queue->ring.taken;
	overdue = queue->state <= VUBLK_BLK_QUEUE_REPLAYS && has_piece_before(queue, *note);
	if (overdue) { /* the piece may have completed, but not been taken */
		vublk_blk_queue_take_all(queue);
		overdue = queue->state <= VUBLK_BLK_QUEUE_REPLAYS && has_piece_before(queue, *note);
	}
	*note = count_published(queue);
	queue->next_note = (queue->next_note + 1) % VUBLK_INPROC_LOOKS_PER_DEADLINE;
	took = queue->ring.taken != taken;
	vublk_blk_gate_open(&queue->gate);
	if (took)
		vublk_eventfd_signal(queue->inproc->call_fd);
	return overdue;
}
