/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Frees a driver that its back-end blocks.
 *
 * Key idea: the driver kicks by write(2) on an eventfd that the back-end has, too, because
 * nothing else is as fast. A back-end that clears O_NONBLOCK and fills the counter blocks the
 * application's thread in it. No honest one ever fills a counter of 64 bits. So the bus's
 * thread looks now and then, and where it finds a full counter, clears it, which frees the
 * writer, and leaves the back-end.
 */
#include "inproc/private.h"

#include "util/error.h"
#include "util/fd.h"
#include "util/log.h"

#include <errno.h>
#include <sched.h>

#define LOOK_NS UINT64_C(1000000000)
#define LOOK_AGAIN_NS UINT64_C(1000000) /* while the back-end is left */
#define UNBLOCKS_AT_ONCE 16

/* The first queue whose kicks were blocked; -1: none. */
static int unblock_kicks(const struct vublk_inproc *inproc)
{
	int found = -1;

	for (unsigned i = 0; i < inproc->num_queues; i++)
		if (vublk_eventfd_unblock(inproc->queues[i].kick_fd) && found < 0)
			found = (int)i;
	return found;
}

static void leave_back_end(struct vublk_inproc *inproc, int queue)
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

	for (unsigned i = 1; i < UNBLOCKS_AT_ONCE && queue >= 0 && unblock_kicks(inproc) >= 0; i++)
		sched_yield();
	if (queue >= 0 && inproc->link == VUBLK_INPROC_UP)
		leave_back_end(inproc, queue);
	vublk_loop_timer_arm(&inproc->loop, &inproc->kick_timer,
			     vublk_now_ns() + (queue >= 0 ? LOOK_AGAIN_NS : LOOK_NS));
}

void vublk_inproc_watch_kicks(struct vublk_inproc *inproc)
{
	if (!inproc->kick_timer.loop)
		vublk_loop_timer_arm(&inproc->loop, &inproc->kick_timer, vublk_now_ns() + LOOK_NS);
}
