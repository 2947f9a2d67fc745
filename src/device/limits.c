/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sets the limits of <vublk/limit.h>. The request plane enforces them; see plane/limit.h.
 *
 * Key idea: the limits are stored with the values of the properties, so a plane that is made later
 * starts with the current limits.
 */
#include "device/device.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/struct.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *name;
	size_t offset;
} rates[] = {
	{ "iops", offsetof(struct vublk_limits, iops) },
	{ "iops-read", offsetof(struct vublk_limits, iops_read) },
	{ "iops-write", offsetof(struct vublk_limits, iops_write) },
	{ "bps", offsetof(struct vublk_limits, bps) },
	{ "bps-read", offsetof(struct vublk_limits, bps_read) },
	{ "bps-write", offsetof(struct vublk_limits, bps_write) },
};

int vublk_device_check_limits(const struct vublk_limits *limits, struct vublk_error *error)
{
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(rates); i++) {
		uint64_t rate = *(const uint64_t *)((const char *)limits + rates[i].offset);

		if (rate > VUBLK_DEVICE_MAX_RATE)
			return vublk_error_set(error, EINVAL, "%s is %" PRIu64 "; the maximum is "
					       "%" PRIu64, rates[i].name, rate,
					       VUBLK_DEVICE_MAX_RATE);
	}
	if (limits->burst_ms > VUBLK_DEVICE_MAX_BURST_MS)
		return vublk_error_set(error, EINVAL, "burst-ms is %" PRIu64 "; the maximum is %d",
				       limits->burst_ms, VUBLK_DEVICE_MAX_BURST_MS);
	return 0;
}

static void give(const struct vublk_device *device)
{
	if (device->shadow.thread)
		vublk_plane_thread_set_limits(device->shadow.thread, &device->settings.limits);
}

int vublk_device_set_limits(struct vublk_device *device, const struct vublk_limits *limits,
			    size_t limits_bytes, struct vublk_error *error)
{
	struct vublk_limits own;
	int r = vublk_struct_in(&own, sizeof(own), limits, limits_bytes, "limits", error);

	if (!r)
		r = vublk_device_check_limits(&own, error);
	if (r < 0)
		return r;
	if (!own.burst_ms)
		own.burst_ms = strtoull(VUBLK_DEVICE_BURST_MS, NULL, 10);
	if (!memcmp(&device->settings.limits, &own, sizeof(own)))
		return 0;
	device->settings.limits = own;
	vublk_device_notify_limits(device);
	give(device);
	vublk_device_reconsider_path(device);
	return 0;
}

void vublk_device_get_limits(const struct vublk_device *device, struct vublk_limits *limits,
			     size_t limits_bytes)
{
	vublk_struct_out(limits, limits_bytes, &device->settings.limits,
			 sizeof(device->settings.limits));
}

unsigned vublk_device_count_limited(const struct vublk_device *device)
{
	return device->shadow.thread ? vublk_plane_thread_waiting(device->shadow.thread) : 0;
}
