/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_UNFLUSHED_H
#define VUBLK_BLK_UNFLUSHED_H

/*
 * Whether there are completed writes that no flush has made stable yet. A back-end may keep
 * such writes in its own memory, and loses them when it dies.
 *
 * Key idea: flushes are numbered, one sequence per disk, when they go on a ring. A queue
 * notes for its last completed write the first flush number that is certain to cover it:
 * the one after the newest that had been begun when the completion was taken. Flush N makes
 * everything stable whose note is not above N. So a write costs a load of a number that
 * changes only when a flush begins, and a store to a line that only its own queue writes;
 * the answer for the disk is computed when a back-end is lost.
 *
 * The pairs of accesses, by letter:
 *   H  the owner of a queue counts a flush in `begun` before it publishes it on the ring; the
 *      owner of another queue takes a completed write off its ring before it loads `begun`.
 *      If the back-end completed the write after it began the flush, the load sees the flush.
 *   I  the owner of a queue raises `stable` while it is inside the gate; the disk's thread loads
 *      it when it has closed all gates.
 */

#include "util/atomic.h"

#include <stdint.h>

/* Of the disk. */
struct vublk_blk_flushes {
	uint64_t begun;  /* how many went on a ring */
	uint64_t stable; /* the newest that succeeded */
};

/* The number of a flush that is about to go on a ring. */
static inline uint64_t vublk_blk_flush_begin(struct vublk_blk_flushes *flushes)
{
	return __atomic_add_fetch(&flushes->begun, 1, __ATOMIC_ACQ_REL); /* H */
}

/* Flush `number` has succeeded. */
static inline void vublk_blk_flush_succeeded(struct vublk_blk_flushes *flushes, uint64_t number)
{
	uint64_t before = vublk_load_relaxed(&flushes->stable);

	while (before < number &&
	       !__atomic_compare_exchange_n(&flushes->stable, &before, number, false,
					    __ATOMIC_RELEASE, __ATOMIC_RELAXED)) /* I */
		;
}

/* The first flush that is certain to cover a write whose completion has just been taken. */
static inline uint64_t vublk_blk_flush_covering(const struct vublk_blk_flushes *flushes)
{
	return vublk_load_relaxed(&flushes->begun) + 1; /* H */
}

#endif
