/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Decides whether the device and the back-end use an in-flight area. Only back-ends record requests
 * in the area; handover.c checks the areas that a bus gives, and makes areas for the bus.
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
	return wants_inflight(device) && !device->settings.shadow &&
	       vublk_frontend_has(&device->frontend, VUBLK_VU_F_INFLIGHT_SHMFD);
}

bool vublk_device_records_requests(const struct vublk_device *device)
{
	return vublk_device_uses_inflight(device) ||
	       (wants_inflight(device) && device->settings.shadow);
}

void vublk_device_ask_for_inflight(struct vublk_device *device)
{
	bool is_for_backend = !device->settings.shadow;

	device->frontend.wants_inflight = wants_inflight(device) && is_for_backend;
	device->frontend.wants_undrained_stops = device->settings.inflight_migration &&
						 is_for_backend;
}

void vublk_device_drop_inflight(struct vublk_device *device)
{
	vublk_fd_close(&device->inflight.fd);
}

/*
 * If the area exists, the lost back-end recorded its requests there, and the new back-end, or the
 * plane, will read them.
 */
bool vublk_device_is_tracked(const struct vublk_device *device)
{
	return vublk_device_records_requests(device) && device->inflight.fd >= 0;
}
