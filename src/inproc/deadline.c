/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Acts on requests that take longer than the option request-deadline-ms permits. src/blk/deadline.c
 * finds these requests.
 *
 * Key idea: only the driver knows its requests. The bus's thread asks it at intervals whether a
 * request is overdue, so that the deadline adds no cost to each request. A request's time runs from
 * its submission, also across a change of back-ends. If a request is overdue, there are three
 * cases:
 *   - The connected back-end has had the rings for the whole deadline, so it counts as hung. It has
 *     to return the rings, and is disconnected if it does not. In both cases the disk fails
 *     permanently.
 *   - The connected back-end has had the rings for less time. Earlier back-ends or an outage used
 *     up the rest of the request's time. The back-end has to return the rings, and the requests
 *     fail. The back-end then executes new requests.
 *   - In an outage no connected back-end has the requests, so they fail as they do after
 *     fail-after-ms.
 * If a back-end is connected, the requests fail only after it has returned the rings or was
 * disconnected, so that a well-behaved back-end no longer uses their buffers.
 */
#include "inproc/private.h"

#include "util/error.h"
#include "util/log.h"

#include <errno.h>

static void arm(struct vublk_inproc *inproc)
{
	uint64_t period_ns = inproc->request_deadline_ms * UINT64_C(1000000) /
			     VUBLK_INPROC_LOOKS_PER_DEADLINE;

	vublk_loop_timer_arm(&inproc->loop, &inproc->deadline_timer, vublk_now_ns() + period_ns);
}

static void give_up_requests(struct vublk_inproc *inproc)
{
	bool connected = inproc->link == VUBLK_INPROC_UP;
	bool hung = connected && inproc->num_looks > VUBLK_INPROC_LOOKS_PER_DEADLINE;
	struct vublk_error error;

	vublk_error_set(&error, ETIME, "a request did not complete within %u ms "
			"(request-deadline-ms), %s; the requests that fail may or may not have "
			"been executed",
			(unsigned)inproc->request_deadline_ms,
			hung ? "so the back-end counts as hung" :
			connected ? "because connections to back-ends were lost" :
				    "because no back-end is connected");
	vublk_log_limited(&inproc->handlers.log, &inproc->limit, VUBLK_LOG_ERROR, "%s", error.text);
	if (hung)
		vublk_inproc_on_broken_ring(inproc, &error);
	else if (connected)
		vublk_inproc_expire_requests(inproc, &error);
	else
		vublk_inproc_fail_requests(inproc, &error);
}

/*
 * Returns whether the bus may act on an overdue request. It must not do so while it is already
 * reclaiming the rings, nor during a start, because the start has a deadline of its own, and the
 * requests are checked again after it.
 */
static bool may_give_up(const struct vublk_inproc *inproc)
{
	if (inproc->failure.code || inproc->expiry.code)
		return false;
	return inproc->link == VUBLK_INPROC_UP ||
	       (inproc->link == VUBLK_INPROC_OUTAGE && !vublk_device_has_rings_out(inproc->device));
}

void vublk_inproc_on_deadline_timer(void *opaque)
{
	struct vublk_inproc *inproc = opaque;

	inproc->num_looks++;
	if (inproc->handlers.is_overdue(inproc->handlers.opaque) && may_give_up(inproc))
		give_up_requests(inproc);
	if (inproc->link != VUBLK_INPROC_DEAD)
		arm(inproc);
}

void vublk_inproc_watch_deadline(struct vublk_inproc *inproc)
{
	inproc->num_looks = 0;
	if (inproc->request_deadline_ms && inproc->handlers.is_overdue && !inproc->deadline_timer.loop)
		arm(inproc);
}
