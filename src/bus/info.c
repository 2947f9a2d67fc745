/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* This file answers what a bus does at the moment; <vublk/bus.h> describes the answers. */
#include "bus/bus.h"

#include "util/struct.h"

#include <stdio.h>

#define NS_PER_MS UINT64_C(1000000)

const struct vublk_device *vublk_bus_device(const struct vublk_bus *bus)
{
	return bus->device;
}

void vublk_bus_get_info(const struct vublk_bus *bus, struct vublk_bus_info *info, size_t info_bytes)
{
	struct vublk_bus_info own = {
		.state = vublk_bus_state_name(bus->state),
		.has_vmm = bus->client,
		.vmm_pid = bus->client ? bus->client_pid : 0,
		.outages = bus->outages,
	};

	if (bus->lost_ns)
		own.outage_ms = (vublk_now_ns() - bus->lost_ns) / NS_PER_MS;
	if (bus->lost_ns || bus->state == VUBLK_BUS_REALIZING)
		snprintf(own.reason, sizeof(own.reason), "%s", bus->refusal.text);
	vublk_struct_out(info, info_bytes, &own, sizeof(own));
}
