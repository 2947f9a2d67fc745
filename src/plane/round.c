/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One round of the plane's thread, and the steps before and after a sleep. */
#include "plane/plane.h"

#include "util/compiler.h"

/*
 * The largest number of chains or completions that a round takes per queue. A larger batch needs
 * fewer notifications. In a smaller batch, the first request begins earlier.
 */
#define BATCH 64

void vublk_plane_stop(struct vublk_plane *plane)
{
	plane->takes = false;
	for (unsigned i = 0; i < plane->num_queues; i++)
		if (plane->queues[i].phase != VUBLK_PLANE_QUEUE_UNUSED)
			vublk_device_ring_enable_kicks(&plane->queues[i].ring);
	vublk_plane_pass_all(plane);
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

static unsigned work_on_replay(struct vublk_plane *plane)
{
	unsigned n = vublk_plane_replay_work(plane);

	if (VUBLK_UNLIKELY(plane->replay->fails_flushes) &&
	    (plane->num_held || plane->limits.num_waiting) &&
	    vublk_plane_fail_held_flushes(plane)) {
		vublk_plane_sort_held(plane);
		n++;
	}
	return n;
}

bool vublk_plane_work(struct vublk_plane *plane)
{
	unsigned n = vublk_plane_complete(plane, BATCH);

	if (VUBLK_UNLIKELY(plane->replay))
		n += work_on_replay(plane);
	if (VUBLK_UNLIKELY(plane->mirror))
		n += vublk_plane_mirror_work(plane);
	if (plane->num_held) {
		n += plane->has_ended; /* so that the requests submitted here are published */
		vublk_plane_submit_held(plane);
	}
	n += take_all(plane);
	if (VUBLK_UNLIKELY(plane->limits.num_waiting))
		n += vublk_plane_pass(plane);
	if (n)
		vublk_plane_publish(plane);
	return n;
}

/* --- sleeping ------------------------------------------------------------------------ */

/* Returns false if the back-end has completed a request already. */
static bool enable_calls(struct vublk_plane_side *side)
{
	bool quiet = true;

	for (unsigned i = 0; i < side->num_queues; i++)
		if (side->queues[i].ring.size &&
		    !vublk_driver_ring_enable_calls(&side->queues[i].ring))
			quiet = false;
	return quiet;
}

static void disable_calls(struct vublk_plane_side *side)
{
	for (unsigned i = 0; i < side->num_queues; i++)
		if (side->queues[i].ring.size)
			vublk_driver_ring_disable_calls(&side->queues[i].ring);
}

/* Returns false if the plane takes no chains from the queue, for example without a back-end. */
static bool wants_kicks(const struct vublk_plane *plane, const struct vublk_plane_queue *queue)
{
	return plane->takes && plane->side && queue->phase == VUBLK_PLANE_QUEUE_TAKING;
}

/*
 * Does not enable the kicks of a queue without room on the back-end's ring. Such a queue waits for
 * a completion, so a kick would be of no use.
 */
bool vublk_plane_enable_notifications(struct vublk_plane *plane)
{
	bool quiet = true;

	for (unsigned i = 0; i < plane->num_queues; i++)
		if (wants_kicks(plane, &plane->queues[i]) &&
		    vublk_plane_room(plane, &plane->queues[i]) &&
		    !vublk_device_ring_enable_kicks(&plane->queues[i].ring))
			quiet = false;
	if (plane->side && !plane->side->is_broken)
		quiet &= enable_calls(plane->side);
	if (VUBLK_UNLIKELY(vublk_plane_mirror_is_active(plane->mirror)))
		quiet &= enable_calls(plane->mirror->target);
	return quiet;
}

void vublk_plane_disable_notifications(struct vublk_plane *plane)
{
	for (unsigned i = 0; i < plane->num_queues; i++)
		if (wants_kicks(plane, &plane->queues[i]))
			vublk_device_ring_disable_kicks(&plane->queues[i].ring);
	if (plane->side)
		disable_calls(plane->side);
	if (VUBLK_UNLIKELY(vublk_plane_mirror_is_active(plane->mirror)))
		disable_calls(plane->mirror->target);
}
