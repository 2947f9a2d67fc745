/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_PLANE_END_H
#define VUBLK_TESTS_PLANE_END_H

/*
 * The back-end's end of the plane's ring of queue 0, for a test that executes the requests itself.
 * The mock back-end only answers messages.
 */
#include "mock/device-rig.h"

#include "virtio/device-ring.h"
#include "virtio/memory-map.h"

/* All zero: stopped. */
struct rig_plane_end {
	struct vublk_device_ring ring; /* size 0: stopped */
	struct vublk_memory_map map;
	struct vublk_memory_map_region regions[2];
};

/* Begins, or begins again, at index 0 of the ring. The device must have shadow rings. */
void rig_plane_end_start(struct rig_plane_end *end, struct device_rig *rig);
/* Idempotent. */
void rig_plane_end_stop(struct rig_plane_end *end);

#endif
