/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file parks a plane's thread, so that the owner can hand the plane to another process
 * (handover.h), or fill it with the state of a plane in another process.
 *
 * Key idea: a parked thread waits between two rounds, has published everything that it has done,
 * and reads no descriptor. A signal that a peer sends to a parked thread stays in the eventfd, so
 * the other process does not miss it.
 */
#include "plane/handover.h"
#include "plane/thread-private.h"

#include "util/atomic.h"
#include "util/error.h"


static void on_park(void *opaque)
{
	((struct vublk_plane_thread *)opaque)->parks = true;
}

void vublk_plane_thread_park(struct vublk_plane_thread *thread)
{
	if (thread->is_parked)
		return;
	thread->park_task = (struct vublk_loop_task){ .fn = on_park, .opaque = thread };
	vublk_loop_post(&thread->worker.loop, &thread->park_task);
	vublk_plane_thread_wait_for(thread, &thread->parked);
	(void)vublk_load_acquire(&thread->has_parked);
	thread->is_parked = true;
}

void vublk_plane_thread_unpark(struct vublk_plane_thread *thread)
{
	if (!thread->is_parked)
		return;
	thread->is_parked = false;
	sem_post(&thread->unpark);
}

bool vublk_plane_thread_is_parked(const struct vublk_plane_thread *thread)
{
	return thread->is_parked;
}

struct vublk_plane *vublk_plane_thread_plane(struct vublk_plane_thread *thread)
{
	return &thread->plane;
}

/* Counts the queues whose rings the driver broke. */
static unsigned count_broken(const struct vublk_plane_thread *thread)
{
	unsigned count = 0;

	for (unsigned i = 0; i < thread->num_queues; i++)
		count += thread->plane.queues[i].phase == VUBLK_PLANE_QUEUE_BROKEN;
	return count;
}

const char *vublk_plane_thread_obstacle(const struct vublk_plane_thread *thread,
					unsigned num_broken)
{
	if (count_broken(thread) != num_broken)
		return "the driver has broken a ring";
	return vublk_plane_handover_obstacle(&thread->plane);
}

void vublk_plane_thread_abandon(struct vublk_plane_thread *thread)
{
	for (unsigned i = 0; i < thread->num_queues; i++)
		vublk_loop_remove(&thread->queues[i].call_source);
	thread->plane.side = NULL;
	thread->side = NULL;
	vublk_loop_cancel(thread->owner, &thread->side_broke_task);
	vublk_plane_thread_detach(thread);
	vublk_plane_thread_unpark(thread);
}

int vublk_plane_thread_adopt_side(struct vublk_plane_thread *thread, struct vublk_plane_side *side,
				  struct vublk_error *error)
{
	int r = 0;

	for (unsigned i = 0; i < thread->num_queues && !r; i++)
		r = vublk_plane_thread_watch(thread, &thread->queues[i].call_source,
					     side->queues[i].call_fd, error);
	thread->side = thread->plane.side = side;
	return r;
}

int vublk_plane_thread_adopt(struct vublk_plane_thread *thread,
			     const struct vublk_plane_setup *setups, uint64_t features,
			     const struct vublk_plane_memory *memory,
			     const struct vublk_fault *fault, struct vublk_error *error)
{
	int r = vublk_plane_adopt(&thread->plane, setups, features, &memory->map, fault, error);

	if (!r)
		thread->is_attached = true;
	return r;
}

int vublk_plane_thread_adopt_notifiers(struct vublk_plane_thread *thread, unsigned index,
				       int kick_fd, int call_fd, struct vublk_error *error)
{
	struct vublk_plane_setup *setup = &thread->plane.queues[index].setup;

	setup->kick_fd = kick_fd;
	setup->call_fd = thread->queues[index].call_fd = call_fd;
	vublk_plane_thread_count_polled(thread);
	return vublk_plane_thread_watch(thread, &thread->queues[index].kick_source, kick_fd, error);
}
