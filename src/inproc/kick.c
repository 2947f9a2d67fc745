/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Unblocks threads of the driver that a malicious back-end blocks in a kick.
 *
 * Key idea: the driver kicks with write(2) on an eventfd that it shares with the back-end, because
 * nothing else is as fast. A back-end that clears O_NONBLOCK and fills the counter blocks the
 * application's thread in this write. An honest back-end never fills a counter of 64 bits, so a
 * full counter shows a malicious one. The bus's thread checks the counters at intervals. If a
 * counter is full, the bus's thread clears it, which unblocks the application's thread, and
 * disconnects the back-end.
 */
#include "inproc/private.h"

#include "util/error.h"
#include "util/fd.h"
#include "util/log.h"

#include <errno.h>
#include <sched.h>

#define LOOK_NS UINT64_C(1000000000)
#define LOOK_AGAIN_NS UINT64_C(1000000) /* the interval after a counter was full */
#define UNBLOCKS_PER_LOOK 16

/*
 * Clears every kick eventfd whose counter is full. Returns the index of the first such queue, or -1
 * if there was none.
 */
static int unblock_kicks(const struct vublk_inproc *inproc)
{
	int found = -1;

	for (unsigned i = 0; i < inproc->num_queues; i++)
		if (vublk_eventfd_unblock(inproc->queues[i].kick_fd) && found < 0)
			found = (int)i;
	return found;
}

static void disconnect_back_end(struct vublk_inproc *inproc, int queue)
{
	struct vublk_error error;

	if (inproc->failure.code)
		return;
	vublk_error_set(&error, EPROTO, "the back-end keeps the kick descriptor of queue %d full, "
			"which blocks the threads that submit requests", queue);
	vublk_log_limited(&inproc->handlers.log, &inproc->limit, VUBLK_LOG_ERROR, "%s", error.text);
	vublk_inproc_on_broken_ring(inproc, &error);
}

void vublk_inproc_on_kick_timer(void *opaque)
{
	struct vublk_inproc *inproc = opaque;
	int queue = unblock_kicks(inproc);

	for (unsigned i = 1; i < UNBLOCKS_PER_LOOK && queue >= 0 && unblock_kicks(inproc) >= 0; i++)
		sched_yield();
	if (queue >= 0 && inproc->link == VUBLK_INPROC_UP)
		disconnect_back_end(inproc, queue);
	vublk_loop_timer_arm(&inproc->loop, &inproc->kick_timer,
			     vublk_now_ns() + (queue >= 0 ? LOOK_AGAIN_NS : LOOK_NS));
}

void vublk_inproc_watch_kicks(struct vublk_inproc *inproc)
{
	if (!inproc->kick_timer.loop)
		vublk_loop_timer_arm(&inproc->loop, &inproc->kick_timer, vublk_now_ns() + LOOK_NS);
}
