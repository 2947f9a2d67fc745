/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_UNFLUSHED_H
#define VUBLK_BLK_UNFLUSHED_H

/*
 * Tracks whether there are completed writes that no flush has made stable yet. A back-end may keep
 * such writes in its own memory, and they are lost when it dies.
 *
 * Key idea: the flushes of a disk are numbered when they are put on a ring. When a queue takes the
 * completion of a write, it records the number of the first flush that certainly covers the write:
 * one more than the newest flush so far. When flush N has succeeded, all writes whose recorded
 * number is at most N are stable. So a write costs one load of a number that changes only when a
 * flush begins, and one store to a cache line that only the write's queue writes. The numbers are
 * compared only when a back-end is lost.
 *
 * A back-end may report a storage error to one flush only, drop the writes, and complete the next
 * flush without an error. If the flush that failed was one of the disk's own, or a part of a write
 * with FUA, the application would not learn that other writes were dropped. So these failures are
 * counted, and they cause later flushes to fail:
 *   - the application's next flush on each queue,
 *   - the flush of each write with FUA that was issued before the failure.
 *
 * A flush may also succeed before the failure of a concurrent flush is seen. The application sees
 * all of its own requests, so it can judge their results together (<vublk/blk.h>). But it does not
 * see the disk's own flushes (own-flush.c). So a flush of the application that succeeds while the
 * disk's own flushes are in flight waits until these are answered, and fails if one of them fails.
 * It does not wait for flushes that begin later. If the owner of a queue is idle, the disk's thread
 * takes the completions of that queue's own flushes, once per second.
 *
 * The pairs of accesses, by letter:
 *   H  the owner of a queue counts a flush in `begun` before it publishes the flush; the owner of
 *      another queue takes a completed write off its own ring before it loads `begun`. If the
 *      back-end completed the write after it had begun the flush, the load sees the flush.
 *   I  the owner of a queue raises `stable` while it is inside the gate; the disk's thread loads
 *      `stable` when it has closed all gates.
 *   K  the owner of a queue adds to `unseen_failures` when it takes the completion of a flush that
 *      has failed; the owner of another queue loads the number when it takes the completion of a
 *      flush, and before it issues a write with FUA.
 *   L  the owner of a queue stores 0 in `own_in_flight`, after K, when it takes the completion of
 *      the disk's own flush, and then loads the `awaits_own` of other queues; the owner of another
 *      queue stores `awaits_own` and then loads `own_in_flight`. At least one of them sees the
 *      other's store.
 */

#include "util/atomic.h"

#include <stdbool.h>
#include <stdint.h>

struct vublk_blk_queue;
struct vublk_blk_request;

/* The numbers of a disk's flushes. */
struct vublk_blk_flushes {
	uint64_t begun;  /* how many flushes have been put on a ring; atomic */
	uint64_t stable; /* the highest number of a flush that has succeeded; atomic */
	uint64_t unseen_failures; /* the number of failed flushes that the application does not see;
				     atomic */
	/* constant */
	struct vublk_blk_queue *queues; /* of the disk */
	unsigned num_queues;
};

/* Counts a flush that is about to be published, and returns its number. */
static inline uint64_t vublk_blk_flush_begin(struct vublk_blk_flushes *flushes)
{
	return __atomic_add_fetch(&flushes->begun, 1, __ATOMIC_ACQ_REL); /* H */
}

/* Records that flush `number` has succeeded. */
static inline void vublk_blk_flush_succeeded(struct vublk_blk_flushes *flushes, uint64_t number)
{
	uint64_t before = vublk_load_relaxed(&flushes->stable);

	while (before < number &&
	       !__atomic_compare_exchange_n(&flushes->stable, &before, number, false,
					    __ATOMIC_RELEASE, __ATOMIC_RELAXED)) /* I */
		;
}

/*
 * Returns the number of the first flush that certainly covers a write whose completion has just
 * been taken.
 */
static inline uint64_t vublk_blk_flush_covering(const struct vublk_blk_flushes *flushes)
{
	return vublk_load_relaxed(&flushes->begun) + 1; /* H */
}

/* Returns the number of failed flushes that the application does not see. */
static inline uint64_t vublk_blk_flush_failures(const struct vublk_blk_flushes *flushes)
{
	return vublk_load_acquire(&flushes->unseen_failures); /* K */
}

/*
 * Returns whether one of the disk's own flushes whose number is at most `newest` is in flight on
 * any queue.
 */
bool vublk_blk_flush_own_in_flight(const struct vublk_blk_flushes *flushes, uint64_t newest);

/*
 * The functions from here on must be called inside the gate, or on the disk's thread while the gate
 * is closed.
 */

/*
 * Called when the back-end has completed a flush with `result`. Stores the request's result, or
 * puts the request into the list `awaiting`. The result is also an error if the flush has succeeded
 * after an unseen flush failed, because the back-end may have reported an error of this flush's
 * writes only to the unseen flush.
 */
void vublk_blk_flush_completed(struct vublk_blk_queue *queue, struct vublk_blk_request *request,
			       int result);
/*
 * Removes the first request from `awaiting` if it no longer has to wait, stores its result, and
 * returns it; otherwise returns NULL.
 */
struct vublk_blk_request *vublk_blk_flush_take_awaited(struct vublk_blk_queue *queue);
/*
 * Called when the queue's own flush is answered or dropped. Wakes the owners of the queues whose
 * flushes wait for it.
 */
void vublk_blk_flush_own_ended(struct vublk_blk_queue *queue);

#endif
