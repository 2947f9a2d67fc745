/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One flush at a time for all connections; see flush.h.
 *
 * Key idea: a call of vublk_nbdkit_flush() needs a flush that begins after the start of the call. If
 * no flush is in flight, the call begins one. Otherwise the call waits, and the next flush serves
 * all calls that have waited. A flush does not belong to the call that began it: if that call
 * returns early, the flush stays in flight.
 *
 * All flushes use the same queue. After a loss of writes, the block API lets one flush fail on each
 * queue, so this file sees only one failure. It counts failures, so that each connection can find
 * out whether a flush has failed since the connection's last flush.
 */
#include "plugins/nbdkit/flush.h"

#include "plugins/nbdkit/wait.h"

#include <errno.h>

static void finish(struct vublk_nbdkit_flusher *flusher, int result)
{
	flusher->finished = flusher->begun;
	if (result)
		flusher->failures++;
	pthread_cond_broadcast(&flusher->ended);
}

static void flush_completed(struct vublk_nbdkit_queue *queue, struct vublk_nbdkit_piece *piece,
			    const struct vublk_blk_completion *completion)
{
	struct vublk_nbdkit_flusher *flusher = (struct vublk_nbdkit_flusher *)piece;

	_Static_assert(!offsetof(struct vublk_nbdkit_flusher, piece), "the cast above needs this");
	finish(flusher, vublk_blk_completion_error(queue->queue, completion, &flusher->error));
}

void vublk_nbdkit_flusher_init(struct vublk_nbdkit_flusher *flusher,
			       struct vublk_nbdkit_queue *queue)
{
	*flusher = (struct vublk_nbdkit_flusher){
		.piece.completed = flush_completed, .queue = queue,
	};
	pthread_cond_init(&flusher->ended, NULL);
}

uint64_t vublk_nbdkit_flusher_failures(struct vublk_nbdkit_flusher *flusher)
{
	uint64_t failures;

	pthread_mutex_lock(&flusher->queue->lock);
	failures = flusher->failures;
	pthread_mutex_unlock(&flusher->queue->lock);
	return failures;
}

/* Begins a flush. If the queue is full, waits for room instead, and the caller has to try again. */
static int begin(struct vublk_nbdkit_flusher *flusher)
{
	struct vublk_blk_queue *queue = flusher->queue->queue;
	struct vublk_error error = { 0 };
	int r = vublk_blk_flush(queue, 0, &flusher->piece, &error);

	if (r == -EAGAIN)
		return vublk_nbdkit_wait(&flusher->queue->room, &flusher->queue->lock);
	flusher->begun++;
	if (r) {
		flusher->error = error;
		finish(flusher, r);
	} else {
		vublk_blk_submit(queue);
	}
	return 0;
}

int vublk_nbdkit_flush(struct vublk_nbdkit_flusher *flusher, uint64_t *known,
		       struct vublk_error *error)
{
	uint64_t wanted, before;
	int r = 0;

	pthread_mutex_lock(&flusher->queue->lock);
	before = *known;
	wanted = flusher->begun + 1;
	while (flusher->finished < wanted && !r) {
		if (flusher->finished == flusher->begun)
			r = begin(flusher);
		else
			r = vublk_nbdkit_wait(&flusher->ended, &flusher->queue->lock);
	}
	if (flusher->finished >= wanted) {
		r = flusher->failures != before ? -EIO : 0;
		*known = flusher->failures;
		*error = flusher->error;
	}
	pthread_mutex_unlock(&flusher->queue->lock);
	return r;
}
