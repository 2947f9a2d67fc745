/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reports the current state of a bus, and passes settings and commands on to the device; see
 * <vublk/bus.h> and the public headers that are included here.
 */
#include "bus/bus.h"

#include "device/device.h"
#include "util/error.h"
#include "util/struct.h"
#include "virtio/blk-format.h"

#include <vublk/limit.h>
#include <vublk/shadow.h>
#include <vublk/trace.h>

#include <errno.h>
#include <stdio.h>

#define NS_PER_MS UINT64_C(1000000)

const struct vublk_device *vublk_bus_device(const struct vublk_bus *bus)
{
	return bus->device;
}

int vublk_bus_set_limits(struct vublk_bus *bus, const struct vublk_limits *limits,
			 size_t limits_bytes, struct vublk_error *error)
{
	return vublk_device_set_limits(bus->device, limits, limits_bytes, error);
}

int vublk_bus_set_shadow(struct vublk_bus *bus, enum vublk_shadow shadow,
			 struct vublk_error *error)
{
	char serial[VUBLK_BLK_ID_BYTES + 1] = "";

	vublk_device_get_property(bus->device, "serial", serial, sizeof(serial), NULL);
	if (shadow != VUBLK_SHADOW_ON && serial[0])
		return vublk_error_set(error, EINVAL,
				       "shadow rings cannot be turned off, because they answer the "
				       "guest's request for the serial '%s'", serial);
	return vublk_device_set_shadow(bus->device, shadow, error);
}

void vublk_bus_set_paused(struct vublk_bus *bus, bool paused)
{
	vublk_device_set_paused(bus->device, paused);
}

int vublk_bus_start_trace(struct vublk_bus *bus, struct vublk_error *error)
{
	return vublk_device_start_trace(bus->device, error);
}

void vublk_bus_stop_trace(struct vublk_bus *bus)
{
	vublk_device_stop_trace(bus->device);
}

void vublk_bus_get_info(const struct vublk_bus *bus, struct vublk_bus_info *info, size_t info_bytes)
{
	struct vublk_bus_info own = {
		.state = vublk_bus_state_name(bus->state),
		.has_vmm = bus->client,
		.vmm_pid = bus->client ? bus->client_pid : 0,
		.outages = bus->outages,
		.reconnects = bus->reconnects,
		.is_pausing = vublk_device_is_pausing(bus->device),
		.is_paused = vublk_device_is_paused(bus->device),
	};
	uint64_t outage_ns = bus->lost_ns ? vublk_now_ns() - bus->lost_ns : 0;

	own.outage_ms = outage_ns / NS_PER_MS;
	own.outage_total_ms = (bus->ended_outages_ns + outage_ns) / NS_PER_MS;
	if (bus->lost_ns || bus->state == VUBLK_BUS_REALIZING)
		snprintf(own.reason, sizeof(own.reason), "%s", bus->refusal.text);
	vublk_struct_out(info, info_bytes, &own, sizeof(own));
}

int vublk_bus_mirror(struct vublk_bus *bus, const char *target, uint64_t rate,
		     struct vublk_error *error)
{
	return vublk_device_mirror(bus->device, target, rate, error);
}

void vublk_bus_stop_mirror(struct vublk_bus *bus)
{
	vublk_device_stop_mirror(bus->device);
}

void vublk_bus_get_mirror(struct vublk_bus *bus, struct vublk_device_mirror_info *info,
			  size_t info_bytes)
{
	vublk_device_get_mirror(bus->device, info, info_bytes);
}

int vublk_bus_switch(struct vublk_bus *bus, const char *chardev, struct vublk_error *error)
{
	return vublk_device_switch(bus->device, chardev, error);
}
