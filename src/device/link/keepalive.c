/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Detects a back-end that hangs while the rings run.
 *
 * Key idea: usually no message is outstanding while the rings run, so no deadline can expire. The
 * device therefore asks the back-end for its features at regular intervals. A back-end that does
 * not answer in time counts as lost.
 */
#include "device/device.h"

#define NS_PER_MS UINT64_C(1000000)

/* The default of keepalive-ms, for a device that looks for another back-end after a loss. */
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
	/* If a message is under way, it already has a deadline. */
	if (vublk_frontend_is_idle(&device->frontend))
		vublk_frontend_ping(&device->frontend);
	vublk_device_keepalive_begin(device);
}
