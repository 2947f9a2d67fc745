/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whether the back-end keeps a piece of a request for longer than request-deadline-ms.
 *
 * Key idea: no request carries a time. The disk's thread checks the queue several times per
 * deadline, and notes how many pieces have been published so far. A piece is overdue if it still
 * has its slot and was published before the note of one deadline ago. So the owner pays nothing,
 * and an overdue piece is found at most one check late.
 */
#include "blk/queue.h"

static bool has_piece_before(const struct vublk_blk_queue *queue, uint64_t sequence)
{
	for (unsigned i = 0; i < queue->size; i++)
		if (queue->slots[i].request && queue->slots[i].sequence < sequence)
			return true;
	return false;
}

/* Pieces that the application has not submitted are not counted: the back-end cannot see them. */
static uint64_t count_published(const struct vublk_blk_queue *queue)
{
	return queue->sequence - (queue->ring.added - queue->ring.published);
}

bool vublk_blk_queue_is_overdue(struct vublk_blk_queue *queue)
{
	uint64_t *note = &queue->published_notes[queue->next_note];
	bool overdue;

	vublk_blk_gate_close(&queue->gate);
	overdue = queue->state == VUBLK_BLK_QUEUE_WORKS && has_piece_before(queue, *note);
	if (overdue) { /* it may be complete, and not yet taken by the application */
		vublk_blk_queue_take_all(queue);
		overdue = queue->state == VUBLK_BLK_QUEUE_WORKS && has_piece_before(queue, *note);
	}
	*note = count_published(queue);
	queue->next_note = (queue->next_note + 1) % VUBLK_INPROC_LOOKS_PER_DEADLINE;
	vublk_blk_gate_open(&queue->gate);
	return overdue;
}
