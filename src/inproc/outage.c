/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Decides, after the loss of a back-end, whether the driver's requests wait for the next back-end,
 * are issued again, or fail. The device itself looks for the next back-end (src/device/link).
 *
 * Key idea: the driver keeps its requests, so it can issue them again. Without an in-flight area
 * the rings do not say which requests the lost back-end had begun. In that case the bus resets the
 * device and sets it up with rings in memory that no back-end has seen, and the driver adds the
 * requests that have not completed. The old rings are never read again, so a lost back-end that is
 * still alive can write to them without effect.
 */
#include "inproc/private.h"

#include "util/error.h"
#include "util/fd.h"
#include "util/log.h"

#include <errno.h>
#include <linux/virtio_config.h>

/*
 * If fail-after-ms passes during a start, the bus checks at this interval whether the start is
 * done.
 */
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

/* An entry is the next state of the link plus 1; 0: the event has no effect in this state. */
static const unsigned char transitions[VUBLK_INPROC_NUM_LINKS][VUBLK_INPROC_NUM_EVENTS] = {
	[VUBLK_INPROC_OPENING] = {
		ON(STARTED, UP),
		ON(ENDED, DEAD),
	},
	[VUBLK_INPROC_UP] = {
		ON(LOST, OUTAGE),
		ON(TIMED_OUT, FAILING), /* by request-deadline-ms: the rings were reclaimed */
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

/* --- new rings -------------------------------------------------------------------------- */

/*
 * Resets the device and sets it up with new rings. If requests have expired, the back-end has
 * returned the rings and no longer uses their memory, so the bus clears and keeps that memory. In
 * all other cases the rings get new memory.
 */
static int renew_device(struct vublk_inproc *inproc, struct vublk_error *error)
{
	int r = vublk_device_set_status(inproc->device, 0, error);

	if (inproc->expiry.code)
		vublk_inproc_memory_clear_rings(&inproc->memory);
	else if (!r)
		r = vublk_inproc_memory_renew_rings(&inproc->memory, error);
	return r ? r : vublk_inproc_set_up_device(inproc, error);
}

/*
 * Replaces the rings and tells the driver. `refusal` is the error with which the driver has to fail
 * its requests. NULL: the driver adds its requests to the new rings, for the next back-end or for
 * one that has just been found.
 */
static void renew_rings(struct vublk_inproc *inproc, const struct vublk_error *refusal)
{
	struct vublk_error error = { 0 };
	int r;

	call(inproc->handlers.rings_suspend, inproc->handlers.opaque);
	r = renew_device(inproc, &error);
	call_with(inproc->handlers.rings_replaced, inproc->handlers.opaque, r ? &error : refusal);
	if (!r)
		r = vublk_device_set_status(inproc->device, vublk_device_status(inproc->device) |
					    VIRTIO_CONFIG_S_DRIVER_OK, &error);
	if (!r)
		return;
	vublk_error_prepend(&error, "cannot set up the rings for another back-end");
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

void vublk_inproc_expire_requests(struct vublk_inproc *inproc, const struct vublk_error *error)
{
	inproc->expiry = *error;
	vublk_device_set_status(inproc->device, 0, NULL);
}

bool vublk_inproc_restart_expired(struct vublk_inproc *inproc)
{
	struct vublk_error error = inproc->expiry;

	if (!error.code)
		return false;
	if (vublk_inproc_change_link(inproc, VUBLK_INPROC_EVENT_TIMED_OUT, error.text))
		renew_rings(inproc, &error);
	inproc->expiry.code = 0;
	return true;
}

/*
 * Called when fail-after-ms has passed. A start that is under way is not interrupted, because its
 * own deadline ends it.
 */
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
			"no back-end has been connected for %u ms (fail-after-ms), and the device "
			"still tries to reconnect; the requests that fail may or may not have "
			"been executed",
			(unsigned)inproc->fail_after_ms);
	vublk_log_limited(&inproc->handlers.log, &inproc->limit, VUBLK_LOG_WARNING, "%s", error.text);
	vublk_inproc_fail_requests(inproc, &error);
}

bool vublk_inproc_keeps_requests(const struct vublk_inproc *inproc)
{
	return inproc->link != VUBLK_INPROC_OPENING && inproc->link != VUBLK_INPROC_DEAD &&
	       !inproc->failure.code && vublk_device_reconnects(inproc->device);
}

/* Called when a back-end is lost. If this back-end never ran the rings, no new outage begins. */
void vublk_inproc_on_lost(struct vublk_inproc *inproc, const struct vublk_error *error)
{
	bool was_reset = inproc->expiry.code;
	bool begins;

	inproc->expiry.code = 0;
	if (!vublk_inproc_keeps_requests(inproc)) {
		vublk_inproc_end(inproc, inproc->failure.code ? &inproc->failure : error);
		return;
	}
	begins = vublk_inproc_change_link(inproc, VUBLK_INPROC_EVENT_LOST, error->text);
	if (begins && inproc->fail_after_ms)
		arm_fail_timer(inproc, inproc->fail_after_ms);
	if (was_reset || !vublk_device_is_tracked(inproc->device))
		renew_rings(inproc, NULL);
	if (begins && inproc->link == VUBLK_INPROC_OUTAGE)
		call_with(inproc->handlers.lost, inproc->handlers.opaque, error);
}

void vublk_inproc_on_started(struct vublk_inproc *inproc)
{
	bool was_out = inproc->link == VUBLK_INPROC_OUTAGE || inproc->link == VUBLK_INPROC_FAILING;

	vublk_loop_timer_disarm(&inproc->fail_timer);
	vublk_inproc_change_link(inproc, VUBLK_INPROC_EVENT_STARTED, NULL);
	/*
	 * The lost back-end may have published a completion without having signalled the eventfd.
	 */
	for (unsigned i = 0; i < inproc->num_queues && was_out; i++)
		vublk_eventfd_signal(inproc->queues[i].call_fd);
	if (was_out)
		call(inproc->handlers.reconnected, inproc->handlers.opaque);
}

/*
 * Reclaims the rings before it tells the driver, so that the back-end no longer touches the buffers
 * when the driver fails the requests.
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
 * Called when the device needs a reset. If no back-end has the rings and the driver's requests
 * wait, the new back-end cannot continue the rings as they are, so the driver issues its requests
 * again on new rings. Otherwise the event is handled like a broken ring.
 */
void vublk_inproc_on_needs_reset(struct vublk_inproc *inproc, const struct vublk_error *error)
{
	if (!vublk_device_has_rings_out(inproc->device) && vublk_inproc_keeps_requests(inproc))
		renew_rings(inproc, NULL);
	else
		vublk_inproc_on_broken_ring(inproc, error);
}
