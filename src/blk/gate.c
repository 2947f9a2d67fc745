/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The slow side of the gate, which the disk's thread uses; the owner's side is in gate.h.
 */
#include "blk/gate.h"

#include "util/fd.h"

#include <linux/membarrier.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#define YIELDS_BETWEEN_LOOKS 64 /* at the kick descriptor, while the owner is inside the gate */

static bool membarrier(int command)
{
	return !syscall(__NR_membarrier, command, 0, 0);
}

/* A process registers once; registering again has no effect. */
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
 * The owner is never inside for long: it sleeps outside, and if a peer blocks it in a kick, it is
 * unblocked here. membarrier() worked when the queue was made. If it fails now, the system-wide
 * variant does the same, slowly.
 */
void vublk_blk_gate_close(struct vublk_blk_gate *gate)
{
	pthread_mutex_lock(&gate->lock);
	vublk_store_seq(&gate->closed, 1); /* E */
	if (gate->asymmetric && !membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED))
		membarrier(MEMBARRIER_CMD_GLOBAL);
	for (unsigned i = 1; vublk_load_seq(&gate->inside); i++) { /* E, G */
		if (i % YIELDS_BETWEEN_LOOKS == 0)
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
		pthread_mutex_lock(&gate->lock); /* until it is opened */
		pthread_mutex_unlock(&gate->lock);
	} while (!vublk_blk_gate_try_enter(gate));
}
