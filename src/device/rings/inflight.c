/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Decides whether the back-end and the plane use in-flight areas. The device itself records no
 * requests. handover.c checks the areas that a bus gives, and makes areas for the bus.
 *
 * Key idea: an area belongs to the session of the driver. The area outlives connections, and a
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

bool vublk_device_backend_records(const struct vublk_device *device)
{
	return wants_inflight(device) &&
	       vublk_frontend_has(&device->frontend, VUBLK_VU_F_INFLIGHT_SHMFD);
}

bool vublk_device_uses_inflight(const struct vublk_device *device)
{
	return vublk_device_backend_records(device) && !vublk_device_is_shadowed(device);
}

bool vublk_device_records_requests(const struct vublk_device *device)
{
	return vublk_device_uses_inflight(device) ||
	       (wants_inflight(device) && vublk_device_is_shadowed(device));
}

/*
 * Asks for areas even with the plane, because the same connection may serve the direct path later.
 */
void vublk_device_ask_for_inflight(struct vublk_device *device)
{
	device->frontend.wants_inflight = wants_inflight(device);
	device->frontend.wants_undrained_stops = device->settings.inflight_migration &&
						 device->settings.shadow != VUBLK_SHADOW_ON;
}

void vublk_device_drop_inflight(struct vublk_device *device)
{
	vublk_fd_close(&device->inflight.fd);
}

/*
 * Returns whether the requests are recorded in the session's area. If so, the next back-end or the
 * plane resumes the recorded requests after a loss.
 */
bool vublk_device_is_tracked(const struct vublk_device *device)
{
	return vublk_device_records_requests(device) && device->inflight.fd >= 0;
}
