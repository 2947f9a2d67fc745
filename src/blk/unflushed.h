/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_UNFLUSHED_H
#define VUBLK_BLK_UNFLUSHED_H

/*
 * Tracks whether there are completed writes that no flush has made stable yet. A back-end may keep
 * such writes in its own memory, and loses them when it dies.
 *
 * Key idea: the flushes of a disk are numbered when they are put on a ring. When a queue takes the
 * completion of a write, it records the number of the first flush that certainly covers the write:
 * one more than the newest flush so far. When flush N has succeeded, all writes are stable whose
 * recorded number is at most N. So a write costs one load of a number that changes only when a
 * flush begins, and one store to a cache line that only its own queue writes. Whether the disk has
 * unflushed writes is computed only when a back-end is lost.
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

/* The numbers of a disk's flushes. */
struct vublk_blk_flushes {
	uint64_t begun;  /* how many flushes were put on a ring */
	uint64_t stable; /* the number of the newest flush that succeeded */
};

/* Numbers a flush that is about to be put on a ring. */
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

/* The number of the first flush that certainly covers a write whose completion was just taken. */
static inline uint64_t vublk_blk_flush_covering(const struct vublk_blk_flushes *flushes)
{
	return vublk_load_relaxed(&flushes->begun) + 1; /* H */
}

#endif
