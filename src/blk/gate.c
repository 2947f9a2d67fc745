/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The functions with which the disk's thread closes and opens the gate, and the one in which the
 * owner waits at a closed gate. The owner's other functions are inline in gate.h, which explains
 * the key idea.
 */
#include "blk/gate.h"

#include "util/fd.h"

#include <linux/membarrier.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * While the owner is inside the gate, the disk's thread yields this many times between two checks
 * of the kick descriptor.
 */
#define YIELDS_PER_CHECK 64

static bool membarrier(int command)
{
	return !syscall(__NR_membarrier, command, 0, 0);
}

/* Registers the process for membarrier(). A second registration has no effect. */
void vublk_blk_gate_init(struct vublk_blk_gate *gate, int kick_fd)
{
	gate->kick_fd = kick_fd;
	gate->asymmetric = membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
	gate->closed = 0;
	gate->inside = 0;
	pthread_mutex_init(&gate->lock, NULL);
}

void vublk_blk_gate_deinit(struct vublk_blk_gate *gate)
{
	pthread_mutex_destroy(&gate->lock);
}

/*
 * The wait for the owner is short: the owner sleeps only outside the gate, and if the back-end
 * blocks the owner in a kick, the loop below unblocks it. membarrier() worked when the gate was
 * made. If it fails now, MEMBARRIER_CMD_GLOBAL has the same effect, but is slow.
 */
void vublk_blk_gate_close(struct vublk_blk_gate *gate)
{
	pthread_mutex_lock(&gate->lock);
	vublk_store_seq(&gate->closed, 1); /* E */
	if (gate->asymmetric && !membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED))
		membarrier(MEMBARRIER_CMD_GLOBAL);
	for (unsigned i = 1; vublk_load_seq(&gate->inside); i++) { /* E, G */
		if (i % YIELDS_PER_CHECK == 0)
			vublk_eventfd_unblock(gate->kick_fd);
		sched_yield();
	}
}

void vublk_blk_gate_open(struct vublk_blk_gate *gate)
{
	vublk_store_release(&gate->closed, 0); /* F */
	pthread_mutex_unlock(&gate->lock);
}

void vublk_blk_gate_wait(struct vublk_blk_gate *gate)
{
	do {
		vublk_blk_gate_leave(gate);
		pthread_mutex_lock(&gate->lock); /* held until the gate is opened */
		pthread_mutex_unlock(&gate->lock);
	} while (!vublk_blk_gate_try_enter(gate));
}
