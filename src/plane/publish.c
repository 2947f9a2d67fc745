/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file makes chains and completions visible to the other end of their ring.
 *
 * Key idea: for each ring, a batch costs one store of an index and at most one notification. A
 * notification is a system call, and is sent only if the other end wants it.
 */
#include "plane/plane.h"

#include "util/atomic.h"
#include "util/compiler.h"
#include "util/fd.h"

static void notify(const struct vublk_plane *plane, int fd)
{
	if (VUBLK_UNLIKELY(vublk_load_relaxed(&plane->is_careful)))
		vublk_eventfd_signal(fd);
	else
		vublk_eventfd_write(fd); /* may block until vublk_eventfd_unblock() (thread.c) */
}

static void publish_queue(const struct vublk_plane *plane, struct vublk_plane_queue *queue)
{
	bool call;

	if (!queue->pushed)
		return;
	queue->pushed = 0;
	call = vublk_device_ring_publish(&queue->ring);
	vublk_inflight_queue_publish(&queue->inflight, vublk_device_ring_used(&queue->ring));
	if (call && queue->setup.call_fd >= 0)
		notify(plane, queue->setup.call_fd);
}

static void publish_side(const struct vublk_plane *plane, struct vublk_plane_side *side)
{
	for (unsigned i = 0; i < side->num_queues; i++) {
		struct vublk_plane_side_queue *queue = &side->queues[i];

		if (queue->ring.size && vublk_driver_ring_publish(&queue->ring))
			notify(plane, queue->kick_fd);
	}
}

void vublk_plane_publish(struct vublk_plane *plane)
{
	for (unsigned i = 0; i < plane->num_queues; i++)
		publish_queue(plane, &plane->queues[i]);
	if (plane->side)
		publish_side(plane, plane->side);
	if (VUBLK_UNLIKELY(vublk_plane_mirror_is_active(plane->mirror)))
		publish_side(plane, plane->mirror->target);
}

static VUBLK_ALWAYS_INLINE void push(struct vublk_plane_queue *queue, uint16_t head, uint32_t bytes)
{
	vublk_inflight_queue_push(&queue->inflight, head);
	vublk_device_ring_push_inline(&queue->ring, head, bytes);
	queue->pushed++;
}

/*
 * Publishes a batch that fills the ring, and begins the next one. A batch fills the ring only if
 * the driver reuses descriptors before it has seen their completions.
 */
static VUBLK_NOINLINE void publish_and_push(struct vublk_plane *plane,
					    struct vublk_plane_queue *queue, uint16_t head,
					    uint32_t bytes)
{
	publish_queue(plane, queue);
	push(queue, head, bytes);
}

/* The usual path calls no other function, so it has no registers to save. */
void vublk_plane_push(struct vublk_plane *plane, struct vublk_plane_queue *queue, uint16_t head,
		      uint32_t bytes)
{
	if (VUBLK_UNLIKELY(queue->pushed >= queue->ring.size))
		publish_and_push(plane, queue, head, bytes);
	else
		push(queue, head, bytes);
}
