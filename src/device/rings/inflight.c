/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The in-flight area as the device uses it: whether it is asked for, whether the back-end has
 * it, and its end. What is in the area is read by the back-ends; handover.c takes areas from
 * the bus and makes areas for it.
 *
 * Key idea: the area belongs to the session of the driver. It outlives connections, and a
 * reset drops it.
 *
 * Specification: "Inflight I/O tracking".
 */
#include "device/device.h"

#include "util/fd.h"

static bool wants_inflight(const struct vublk_device *device)
{
	const struct vublk_device_settings *settings = &device->settings;

	return settings->inflight &&
	       (vublk_device_will_reconnect(settings) || settings->inflight_migration);
}

bool vublk_device_uses_inflight(const struct vublk_device *device)
{
	return wants_inflight(device) &&
	       vublk_frontend_has(&device->frontend, VUBLK_VU_F_INFLIGHT_SHMFD);
}

void vublk_device_ask_for_inflight(struct vublk_device *device)
{
	device->frontend.wants_inflight = wants_inflight(device);
	device->frontend.wants_undrained_stops = device->settings.inflight_migration;
}

void vublk_device_drop_inflight(struct vublk_device *device)
{
	vublk_fd_close(&device->inflight.fd);
}

/* Both back-ends: the lost one wrote into the area, and the new one will read it. */
bool vublk_device_is_tracked(const struct vublk_device *device)
{
	return vublk_device_uses_inflight(device) && device->inflight.fd >= 0;
}
