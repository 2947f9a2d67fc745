/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The in-process bus when a back-end is lost: the driver's requests wait, go to the
 * next back-end, or fail; one of these, never two.
 *
 * The idea to read it by: the device finds the next back-end by itself. What the bus
 * adds is what a driver does that owns its requests: where the rings do not tell what
 * the lost back-end had begun (no in-flight area), it resets the device and sets it up
 * anew, with rings in memory that no back-end has seen, and the driver puts on them
 * what was not completed. From then on the old rings are not read: a
 * back-end that is still alive may write there without effect.
 */
#include "inproc/private.h"

#include "util/error.h"
#include "util/fd.h"
#include "util/log.h"

#include <errno.h>
#include <linux/virtio_config.h>

/* How often it is looked whether a start has ended that the time-out came in. */
#define STARTING_PAUSE_MS 10

static const char *const link_names[VUBLK_INPROC_NUM_LINKS] = {
	[VUBLK_INPROC_OPENING] = "opening",
	[VUBLK_INPROC_UP] = "up",
	[VUBLK_INPROC_OUTAGE] = "outage",
	[VUBLK_INPROC_FAILING] = "failing",
	[VUBLK_INPROC_DEAD] = "dead",
};

static const char *const event_names[VUBLK_INPROC_NUM_EVENTS] = {
	[VUBLK_INPROC_EVENT_STARTED] = "started",
	[VUBLK_INPROC_EVENT_LOST] = "lost",
	[VUBLK_INPROC_EVENT_TIMED_OUT] = "timed out",
	[VUBLK_INPROC_EVENT_ENDED] = "ended",
};

#define ON(event, link) [VUBLK_INPROC_EVENT_##event] = VUBLK_INPROC_##link + 1

/* An entry is the next link and one; 0: the event means nothing. */
static const unsigned char transitions[VUBLK_INPROC_NUM_LINKS][VUBLK_INPROC_NUM_EVENTS] = {
	[VUBLK_INPROC_OPENING] = {
		ON(STARTED, UP),
		ON(ENDED, DEAD),
	},
	[VUBLK_INPROC_UP] = {
		ON(LOST, OUTAGE),
		ON(ENDED, DEAD),
	},
	[VUBLK_INPROC_OUTAGE] = {
		ON(STARTED, UP),
		ON(TIMED_OUT, FAILING),
		ON(ENDED, DEAD),
	},
	[VUBLK_INPROC_FAILING] = {
		ON(STARTED, UP),
		ON(ENDED, DEAD),
	},
};

bool vublk_inproc_change_link(struct vublk_inproc *inproc, enum vublk_inproc_link_event event,
			      const char *why)
{
	int next = transitions[inproc->link][event] - 1;

	if (next < 0)
		return false;
	vublk_log(&inproc->handlers.log, VUBLK_LOG_DEBUG, "disk: %s, %s -> %s%s%s",
		  link_names[inproc->link], event_names[event], link_names[next], why ? ": " : "",
		  why ? why : "");
	inproc->link = next;
	return true;
}

static void call(void (*handler)(void *opaque), void *opaque)
{
	if (handler)
		handler(opaque);
}

static void call_with(void (*handler)(void *opaque, const struct vublk_error *error), void *opaque,
		      const struct vublk_error *error)
{
	if (handler)
		handler(opaque, error);
}

void vublk_inproc_end(struct vublk_inproc *inproc, const struct vublk_error *error)
{
	if (!vublk_inproc_change_link(inproc, VUBLK_INPROC_EVENT_ENDED, error->text))
		return;
	vublk_loop_timer_disarm(&inproc->fail_timer);
	call_with(inproc->handlers.gave_up, inproc->handlers.opaque, error);
}

/* --- rings anew ------------------------------------------------------------------------- */

static int renew_device(struct vublk_inproc *inproc, struct vublk_error *error)
{
	int r = vublk_device_set_status(inproc->device, 0, error);

	if (!r)
		r = vublk_inproc_memory_renew_rings(&inproc->memory, error);
	return r ? r : vublk_inproc_set_up_device(inproc, error);
}

/*
 * `refusal`: what the driver's requests fail with; NULL: they go on the new rings, which
 * the device hands to the next back-end, or to the one that it has just found.
 */
static void renew_rings(struct vublk_inproc *inproc, const struct vublk_error *refusal)
{
	struct vublk_error error = { 0 };
	int r;

	call(inproc->handlers.rings_leave, inproc->handlers.opaque);
	r = renew_device(inproc, &error);
	call_with(inproc->handlers.rings_came, inproc->handlers.opaque, r ? &error : refusal);
	if (!r)
		r = vublk_device_set_status(inproc->device, vublk_device_status(inproc->device) |
					    VIRTIO_CONFIG_S_DRIVER_OK, &error);
	if (!r)
		return;
	vublk_error_prepend(&error, "the rings cannot be set up for another back-end");
	vublk_log_limited(&inproc->handlers.log, &inproc->limit, VUBLK_LOG_ERROR, "%s", error.text);
	vublk_inproc_end(inproc, &error);
}

/* --- the course of an outage --------------------------------------------------------------- */

static void arm_fail_timer(struct vublk_inproc *inproc, uint64_t ms)
{
	vublk_loop_timer_arm(&inproc->loop, &inproc->fail_timer, vublk_now_ns() + ms * 1000000);
}

void vublk_inproc_fail_requests(struct vublk_inproc *inproc, const struct vublk_error *error)
{
	if (vublk_inproc_change_link(inproc, VUBLK_INPROC_EVENT_TIMED_OUT, NULL))
		renew_rings(inproc, error);
}

/* A start that is under way ends first, well or badly; its own deadline sees to that. */
void vublk_inproc_on_fail_timer(void *opaque)
{
	struct vublk_inproc *inproc = opaque;
	struct vublk_error error;

	if (vublk_device_has_rings_out(inproc->device)) {
		arm_fail_timer(inproc, STARTING_PAUSE_MS);
		return;
	}
	if (inproc->link != VUBLK_INPROC_OUTAGE)
		return;
	vublk_error_set(&error, ETIMEDOUT,
			"no back-end has been connected for %u ms (fail-after-ms), and it is not "
			"known which requests were executed; another is still looked for",
			(unsigned)inproc->fail_after_ms);
	vublk_log_limited(&inproc->handlers.log, &inproc->limit, VUBLK_LOG_WARNING, "%s", error.text);
	vublk_inproc_fail_requests(inproc, &error);
}

bool vublk_inproc_goes_on(const struct vublk_inproc *inproc)
{
	return inproc->link != VUBLK_INPROC_OPENING && inproc->link != VUBLK_INPROC_DEAD &&
	       !inproc->failure.code && vublk_device_reconnects(inproc->device);
}

/* One that is lost before its rings ran does not begin another outage. */
void vublk_inproc_on_lost(struct vublk_inproc *inproc, const struct vublk_error *error)
{
	bool begins;

	if (!vublk_inproc_goes_on(inproc)) {
		vublk_inproc_end(inproc, inproc->failure.code ? &inproc->failure : error);
		return;
	}
	begins = vublk_inproc_change_link(inproc, VUBLK_INPROC_EVENT_LOST, error->text);
	if (begins && inproc->fail_after_ms)
		arm_fail_timer(inproc, inproc->fail_after_ms);
	if (!vublk_device_is_tracked(inproc->device))
		renew_rings(inproc, NULL);
	if (begins && inproc->link == VUBLK_INPROC_OUTAGE)
		call_with(inproc->handlers.lost, inproc->handlers.opaque, error);
}

void vublk_inproc_on_started(struct vublk_inproc *inproc)
{
	bool was_out = inproc->link == VUBLK_INPROC_OUTAGE || inproc->link == VUBLK_INPROC_FAILING;

	vublk_loop_timer_disarm(&inproc->fail_timer);
	vublk_inproc_change_link(inproc, VUBLK_INPROC_EVENT_STARTED, NULL);
	vublk_inproc_watch_kicks(inproc);
	/* The call of a completion may have been lost with the back-end. */
	for (unsigned i = 0; i < inproc->num_queues && was_out; i++)
		vublk_eventfd_signal(inproc->queues[i].call_fd);
	if (was_out)
		call(inproc->handlers.reconnected, inproc->handlers.opaque);
}

/*
 * The rings are reclaimed before the driver is told, so that the back-end does not touch the
 * buffers of requests that the driver then abandons.
 */
void vublk_inproc_on_broken_ring(struct vublk_inproc *inproc, const struct vublk_error *error)
{
	if (inproc->failure.code)
		return;
	inproc->failure = *error;
	if (vublk_device_state(inproc->device) != VUBLK_DEVICE_STOPPING)
		vublk_device_set_status(inproc->device, 0, NULL);
	if (!vublk_device_has_rings_out(inproc->device))
		vublk_inproc_end(inproc, error);
}

/*
 * Either a back-end was found that cannot resume the rings as they are, which the
 * driver can; or one that works on them reports that it cannot.
 */
void vublk_inproc_on_needs_reset(struct vublk_inproc *inproc, const struct vublk_error *error)
{
	if (!vublk_device_has_rings_out(inproc->device) && vublk_inproc_goes_on(inproc))
		renew_rings(inproc, NULL);
	else
		vublk_inproc_on_broken_ring(inproc, error);
}
