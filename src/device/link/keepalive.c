/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Detects a back-end that hangs while the rings run.
 *
 * Key idea: usually no message is outstanding while the rings run, so no deadline would expire. So
 * the device regularly asks the back-end for its features. As with any other request, the back-end
 * answers in time or counts as lost.
 */
#include "device/device.h"

#define NS_PER_MS UINT64_C(1000000)

/* The default of keepalive-ms for a device that can look for another back-end. */
#define AUTO_MS 5000

static uint64_t interval_ms(const struct vublk_device *device)
{
	if (device->settings.keepalive_ms != VUBLK_DEVICE_AUTO)
		return device->settings.keepalive_ms;
	return vublk_device_will_reconnect(&device->settings) ? AUTO_MS : 0;
}

void vublk_device_keepalive_begin(struct vublk_device *device)
{
	if (!interval_ms(device))
		return;
	vublk_loop_timer_arm(&device->loop, &device->keepalive_timer,
			     vublk_now_ns() + interval_ms(device) * NS_PER_MS);
}

void vublk_device_on_keepalive_timer(void *opaque)
{
	struct vublk_device *device = opaque;

	if (device->state != VUBLK_DEVICE_RUNNING)
		return;
	/* A request that is under way has its own deadline. */
	if (vublk_frontend_is_idle(&device->frontend))
		vublk_frontend_ping(&device->frontend);
	vublk_device_keepalive_begin(device);
}
