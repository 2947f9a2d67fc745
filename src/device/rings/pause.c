/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The operator's pause, which is independent of the VMM's pause: new requests stay in the driver's
 * rings, and the rings stop when the outstanding requests are complete.
 *
 * Key idea: while pause.stops is true, the rings must not run. With the plane, pause.stops becomes
 * true when the plane has completed its requests. Without the plane it becomes true as soon as no
 * change of the memory and no exchange is under way, because the stop makes the back-end complete
 * the requests that it has begun. If a back-end was lost with requests outstanding, the rings first
 * run again, so that the next back-end completes these requests.
 */
#include "device/device.h"

/* Returns whether the next back-end may have to complete requests that the last one has left. */
static bool has_unfinished(const struct vublk_device *device)
{
	return device->resume == VUBLK_DEVICE_RESUME_RINGS ||
	       device->resume == VUBLK_DEVICE_RESUME_INFLIGHT;
}

static bool is_exchanging(const struct vublk_device *device)
{
	return device->exchange.phase != VUBLK_DEVICE_EXCHANGE_NONE &&
	       device->exchange.phase != VUBLK_DEVICE_EXCHANGE_REFUSED;
}

static bool may_stop_running(struct vublk_device *device)
{
	if (device->memory_change_under_way || is_exchanging(device) ||
	    vublk_device_switch_holds(device))
		return false;
	if (!vublk_device_shadow_is_attached(device))
		return true;
	vublk_device_shadow_hold(device);
	return false;
}

void vublk_device_pause_apply(struct vublk_device *device)
{
	struct vublk_device_pause *pause = &device->pause;

	if (!pause->is_wanted || !device->num_queues)
		return;
	if (pause->stops)
		pause->stops = vublk_device_has_rings_out(device) || !has_unfinished(device);
	else if (device->state == VUBLK_DEVICE_RUNNING)
		pause->stops = may_stop_running(device);
	else
		pause->stops = !vublk_device_has_rings_out(device) && !has_unfinished(device);
}

/*
 * Returns whether the plane has the rings, and no change of the memory, no exchange and no stop of
 * the rings has stopped the plane. The plane is resumed when the change or the exchange ends, or by
 * the start that follows the stop.
 */
static bool may_resume(const struct vublk_device *device)
{
	return vublk_device_shadow_is_attached(device) && !device->memory_change_under_way &&
	       !is_exchanging(device) && device->state != VUBLK_DEVICE_STOPPING;
}

void vublk_device_set_paused(struct vublk_device *device, bool paused)
{
	struct vublk_device_pause *pause = &device->pause;

	if (pause->is_wanted == paused)
		return;
	pause->is_wanted = paused;
	pause->stops = false;
	device->notices.is_paused = false;
	vublk_device_notify_pause(device, paused);
	if (!paused && may_resume(device) && vublk_device_should_run(device))
		vublk_device_shadow_resume(device);
	vublk_device_post_update(device);
}

bool vublk_device_is_pausing(const struct vublk_device *device)
{
	return device->pause.is_wanted;
}

bool vublk_device_is_paused(const struct vublk_device *device)
{
	return device->pause.is_wanted && !vublk_device_has_rings_out(device) &&
	       (device->pause.stops || !device->num_queues);
}

void vublk_device_report_pause(struct vublk_device *device)
{
	if (device->notices.is_paused || !vublk_device_is_paused(device))
		return;
	device->notices.is_paused = true;
	vublk_device_notify_reason(device, VUBLK_NOTICE_PAUSED, NULL);
}
