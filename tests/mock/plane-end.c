/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mock/plane-end.h"

#include "harness.h"

#include "device/device.h"

void rig_plane_end_start(struct rig_plane_end *end, struct device_rig *rig)
{
	const struct vublk_plane_side *side = rig->device->shadow.side;

	rig_plane_end_stop(end);
	end->regions[0] = (struct vublk_memory_map_region){
		RIG_GUEST_ADDR, RIG_GUEST_ADDR, RIG_MEMORY_BYTES, rig->memory,
	};
	end->regions[1] = (struct vublk_memory_map_region){
		VUBLK_PLANE_REGION_ADDR, VUBLK_PLANE_REGION_ADDR, side->region.bytes,
		side->region.host,
	};
	end->map = (struct vublk_memory_map){ 2, end->regions };
	assert_int_equal(vublk_device_ring_init(&end->ring, &side->queues[0].memory->ring,
						RIG_QUEUE_SIZE, 0,
						vublk_device_session_features(rig->device), NULL), 0);
}

void rig_plane_end_stop(struct rig_plane_end *end)
{
	vublk_device_ring_deinit(&end->ring);
}
