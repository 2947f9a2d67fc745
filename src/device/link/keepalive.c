/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A back-end that hangs while the rings run: nothing is asked of it then, so nothing
 * would have a deadline. It is asked every now and then for what it has said already
 * (its features), and answers or counts as gone like with any other message.
 */
#include "device/device.h"

#define NS_A_MS UINT64_C(1000000)

/* For a device that can do something about it: it looks for another back-end. */
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
			     vublk_now_ns() + interval_ms(device) * NS_A_MS);
}

void vublk_device_on_keepalive_timer(void *opaque)
{
	struct vublk_device *device = opaque;

	if (device->state != VUBLK_DEVICE_RUNNING)
		return;
	/* What is under way has a deadline of its own. */
	if (vublk_frontend_is_idle(&device->frontend))
		vublk_frontend_ping(&device->frontend);
	vublk_device_keepalive_begin(device);
}
