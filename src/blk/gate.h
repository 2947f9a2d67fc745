/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_GATE_H
#define VUBLK_BLK_GATE_H

/*
 * Keeps a queue's owner out while the disk's thread uses the queue.
 *
 * Key idea: it costs the owner two plain stores and a load per call. The disk's thread, which
 * closes the gate a few times per outage, bears the rest of the cost.
 *
 * The pairs of accesses, by letter:
 *   E  the owner stores `inside` and then loads `closed`; the disk's thread stores
 *      `closed` and then loads `inside`; one of them sees the other. Where the
 *      kernel has membarrier(2) the owner's two need no barrier: the disk's thread
 *      has every thread of the process pass one between its own two.
 *   F  the disk's thread is done: what it did to the queue, before `closed` is 0;
 *      the owner loads that before it touches the queue.
 *   G  the owner is done: what it did, before `inside` is 0; the disk's thread
 *      loads that before it touches the queue.
 */

#include "util/atomic.h"

#include <pthread.h>
#include <stdbool.h>

struct vublk_blk_gate {
	/* constant */
	bool asymmetric; /* the disk's thread has membarrier(2) */
	/* read by the owner, seldom written */
	unsigned closed;
	int kick_fd; /* the owner may block in a write to it while it is inside */
	pthread_mutex_t lock; /* held by the disk's thread from close to open */
	/* the owner's */
	unsigned inside __attribute__((aligned(VUBLK_CACHE_LINE)));
};

/* `kick_fd` is borrowed: the descriptor that the owner writes to inside the gate. */
void vublk_blk_gate_init(struct vublk_blk_gate *gate, int kick_fd);
void vublk_blk_gate_deinit(struct vublk_blk_gate *gate);

/* The disk's thread: returns when the owner is outside, and keeps it there. */
void vublk_blk_gate_close(struct vublk_blk_gate *gate);
void vublk_blk_gate_open(struct vublk_blk_gate *gate);

/* The owner: enters when the gate, which it found closed, is open again. */
void vublk_blk_gate_wait(struct vublk_blk_gate *gate);

static inline bool vublk_blk_gate_try_enter(struct vublk_blk_gate *gate)
{
	if (__builtin_expect(gate->asymmetric, 1)) {
		vublk_store_relaxed(&gate->inside, 1); /* E */
		__atomic_signal_fence(__ATOMIC_SEQ_CST);
	} else {
		vublk_store_seq(&gate->inside, 1); /* E */
	}
	return !vublk_load_seq(&gate->closed); /* E, F */
}

/* The owner: around all access to the queue. Not nested. */
static inline void vublk_blk_gate_enter(struct vublk_blk_gate *gate)
{
	if (__builtin_expect(!vublk_blk_gate_try_enter(gate), 0))
		vublk_blk_gate_wait(gate);
}

static inline void vublk_blk_gate_leave(struct vublk_blk_gate *gate)
{
	vublk_store_release(&gate->inside, 0); /* G */
}

#endif
