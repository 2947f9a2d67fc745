/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finds out whether a piece of a request has taken longer than request-deadline-ms.
 * src/inproc/deadline.c decides what happens in that case.
 *
 * Key idea: requests have no time stamps. The disk's thread checks the queue several times per
 * deadline, and records each time how many pieces have been published so far. A piece is overdue
 * if it still has its slot and had been published at the check one deadline ago. So deadlines
 * cost the owner nothing, and an overdue piece is found at most one check late. A piece keeps its
 * sequence when it is issued again to the next back-end, so its time runs from the submission, over
 * all back-ends.
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

/* Does not count the pieces that are not published yet, because the back-end cannot see them. */
static uint64_t count_published(const struct vublk_blk_queue *queue)
{
	return queue->sequence - (queue->ring.added - queue->ring.published);
}

/*
 * If the check takes completed pieces, there may be room for other pieces, or the write of a
 * request with FUA may be complete, so that its flush is due. The owner issues these pieces and the
 * flush. The check wakes the owner, because the ring may have no completion left that would wake
 * it.
 */
bool vublk_blk_queue_is_overdue(struct vublk_blk_queue *queue)
{
	uint64_t *note, taken;
	bool overdue, took;

	vublk_blk_gate_close(&queue->gate);
	note = &queue->published_notes[queue->next_note];
	taken = queue->ring.taken;
	overdue = queue->state == VUBLK_BLK_QUEUE_WORKS && has_piece_before(queue, *note);
	if (overdue) { /* the piece may be complete, with a completion that has not been taken */
		vublk_blk_queue_take_all(queue);
		overdue = queue->state == VUBLK_BLK_QUEUE_WORKS && has_piece_before(queue, *note);
	}
	*note = count_published(queue);
	queue->next_note = (queue->next_note + 1) % VUBLK_INPROC_LOOKS_PER_DEADLINE;
	took = queue->ring.taken != taken;
	vublk_blk_gate_open(&queue->gate);
	if (took)
		vublk_eventfd_signal(queue->inproc->call_fd);
	return overdue;
}
