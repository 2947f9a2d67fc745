/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_GATE_H
#define VUBLK_BLK_GATE_H

/*
 * The gate keeps a queue's owner out while the disk's thread uses the queue.
 *
 * Key idea: the cost is asymmetric. The owner, which passes the gate in every call, pays two plain
 * stores and a load. The disk's thread, which closes the gate rarely, for example in an outage, pays
 * for the memory barriers of both threads.
 *
 * The pairs of accesses, by letter:
 *   E  the owner stores `inside` and then loads `closed`; the disk's thread stores `closed` and
 *      then loads `inside`. At least one of them sees the other's store. If the kernel has
 *      membarrier(2), the owner needs no barrier between its store and its load. Instead, the
 *      disk's thread makes every thread of the process execute a barrier, after the store of
 *      `closed` and before the load of `inside`.
 *   F  the disk's thread stores 0 in `closed` after its last access to the queue; the owner loads
 *      that 0 before its first access.
 *   G  the owner stores 0 in `inside` after its last access to the queue; the disk's thread loads
 *      that 0 before its first access.
 */

#include "util/atomic.h"

#include <pthread.h>
#include <stdbool.h>

struct vublk_blk_gate {
	/* constant after vublk_blk_gate_init() */
	bool asymmetric; /* the kernel has membarrier(2), so only closing needs barriers */
	/* read by the owner, rarely written */
	unsigned closed;
	int kick_fd; /* the owner writes to it inside the gate; the write may block */
	pthread_mutex_t lock; /* held by the disk's thread while the gate is closed */
	/* written by the owner */
	unsigned inside __attribute__((aligned(VUBLK_CACHE_LINE)));
};

/*
 * Makes an open gate. The owner writes to `kick_fd` inside the gate, so closing the gate may
 * require unblocking that write. `kick_fd` is borrowed.
 */
void vublk_blk_gate_init(struct vublk_blk_gate *gate, int kick_fd);
void vublk_blk_gate_deinit(struct vublk_blk_gate *gate);

/*
 * Called by the disk's thread: waits until the owner is outside, and keeps the owner outside until
 * vublk_blk_gate_open().
 */
void vublk_blk_gate_close(struct vublk_blk_gate *gate);
void vublk_blk_gate_open(struct vublk_blk_gate *gate);

/*
 * Called by an owner that has found the gate closed. Waits until the gate is open, and enters the
 * gate.
 */
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

/*
 * The owner must call vublk_blk_gate_enter() before each access to the queue, and
 * vublk_blk_gate_leave() afterwards. These calls must not nest.
 */
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
