/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* This file has a round of the plane's thread, and what it does before and after a sleep. */
#include "plane/plane.h"

/* A larger batch means fewer notifications; a smaller one begins the first request earlier. */
#define BATCH 64

void vublk_plane_stop(struct vublk_plane *plane)
{
	plane->takes = false;
	for (unsigned i = 0; i < plane->num_queues; i++)
		if (plane->queues[i].phase != VUBLK_PLANE_QUEUE_UNUSED)
			vublk_device_ring_enable_kicks(&plane->queues[i].ring);
}

void vublk_plane_resume(struct vublk_plane *plane)
{
	plane->takes = true;
}

static unsigned take_all(struct vublk_plane *plane)
{
	unsigned n = 0;

	if (!plane->takes || !plane->side)
		return 0;
	for (unsigned i = 0; i < plane->num_queues; i++)
		if (plane->queues[i].phase == VUBLK_PLANE_QUEUE_TAKING)
			n += vublk_plane_take(plane, &plane->queues[i], BATCH);
	return n;
}

bool vublk_plane_work(struct vublk_plane *plane)
{
	unsigned n = vublk_plane_complete(plane, BATCH);

	if (plane->num_held)
		vublk_plane_submit_held(plane);
	n += take_all(plane);
	if (n)
		vublk_plane_publish(plane);
	return n;
}

/* --- sleeping ------------------------------------------------------------------------ */

/* Without a back-end the chains stay in the rings, and their kicks are of no interest. */
static bool wants_kicks(const struct vublk_plane *plane, const struct vublk_plane_queue *queue)
{
	return plane->takes && plane->side && queue->phase == VUBLK_PLANE_QUEUE_TAKING;
}

bool vublk_plane_enable_notifications(struct vublk_plane *plane)
{
	bool quiet = true;

	for (unsigned i = 0; i < plane->num_queues; i++)
		if (wants_kicks(plane, &plane->queues[i]) &&
		    !vublk_device_ring_enable_kicks(&plane->queues[i].ring))
			quiet = false;
	if (!plane->side || plane->side->is_broken)
		return quiet;
	for (unsigned i = 0; i < plane->side->num_queues; i++) {
		struct vublk_driver_ring *ring = &plane->side->queues[i].ring;

		if (ring->size && !vublk_driver_ring_enable_calls(ring))
			quiet = false;
	}
	return quiet;
}

void vublk_plane_disable_notifications(struct vublk_plane *plane)
{
	for (unsigned i = 0; i < plane->num_queues; i++)
		if (wants_kicks(plane, &plane->queues[i]))
			vublk_device_ring_disable_kicks(&plane->queues[i].ring);
	for (unsigned i = 0; plane->side && i < plane->side->num_queues; i++)
		if (plane->side->queues[i].ring.size)
			vublk_driver_ring_disable_calls(&plane->side->queues[i].ring);
}
