/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Determines how many regions of the back-end's memory table are left for the guest's memory. The
 * plane's rings need a region of their own, at an address above the guest's memory.
 *
 * Key idea: the plane's region stays in the table until the connection closes, because some
 * back-ends break if a region is removed. So once a connection has used the plane, the region takes
 * a slot on the direct path, too. The exception is a start with the dirty log (start-stop.c), which
 * removes the region.
 */
#include "device/device.h"

#include "util/error.h"

#include <errno.h>
#include <inttypes.h>

int vublk_device_memory_check_plane(const struct vublk_frontend_memory *memory, struct vublk_error *error)
{
	for (unsigned i = 0; i < memory->num_regions; i++) {
		const struct vublk_memory_region *region = &memory->regions[i].region;

		if (region->guest_addr + (region->size_bytes - 1) >= VUBLK_PLANE_REGION_ADDR)
			return vublk_error_set(error, EINVAL,
					       "memory region %u (at 0x%" PRIx64 ", %" PRIu64
					       " bytes) overlaps the addresses of the shadow rings, "
					       "which start at 0x%" PRIx64, i, region->guest_addr,
					       region->size_bytes, VUBLK_PLANE_REGION_ADDR);
	}
	return 0;
}

unsigned vublk_device_memory_slots(const struct vublk_device *device)
{
	unsigned slots = vublk_frontend_memory_slots(&device->frontend);

	/* One slot is reserved for the plane's region. */
	return device->settings.shadow != VUBLK_SHADOW_OFF && slots ? slots - 1 : slots;
}

bool vublk_device_plane_needs_slot(const struct vublk_device *device)
{
	return device->settings.shadow == VUBLK_SHADOW_ON || device->shadow.side;
}

bool vublk_device_plane_will_need_slot(const struct vublk_device *device)
{
	return vublk_device_plane_needs_slot(device) || vublk_device_shadow_is_attached(device) ||
	       vublk_device_replay_has_writes(device);
}

unsigned vublk_device_memory_room(const struct vublk_device *device)
{
	unsigned slots = vublk_frontend_memory_slots(&device->frontend);

	return vublk_device_plane_needs_slot(device) && slots ? slots - 1 : slots;
}

int vublk_device_too_many_regions(unsigned num_regions, unsigned slots, bool has_plane,
				  struct vublk_error *error)
{
	return vublk_error_set(error, ENOSPC, "the guest's memory has %u regions, but the back-end accepts "
			       "only %u%s; use fewer, larger regions", num_regions, slots,
			       has_plane ? ", because the shadow rings need one more" : "");
}

int vublk_device_memory_check_shadow(const struct vublk_device *device, struct vublk_error *error)
{
	unsigned slots = vublk_frontend_memory_slots(&device->frontend);

	if (device->memory.num_regions >= slots)
		return vublk_error_set(error, ENOSPC, "the guest's memory has %u regions, but the "
				       "back-end accepts only %u, and the shadow rings need one of "
				       "them; configure the VMM to use fewer, larger regions",
				       device->memory.num_regions, slots);
	return vublk_device_memory_check_plane(&device->memory, error);
}
