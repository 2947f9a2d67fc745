/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file makes chains and completions visible to the other end of their ring.
 *
 * Key idea: they are published in batches, with one store of an index and at most one notification
 * for each ring. The kernel is entered only for a peer that wants to be notified.
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
		vublk_eventfd_write(fd); /* vublk_eventfd_unblock() frees it */
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

void vublk_plane_publish(struct vublk_plane *plane)
{
	for (unsigned i = 0; i < plane->num_queues; i++)
		publish_queue(plane, &plane->queues[i]);
	for (unsigned i = 0; plane->side && i < plane->side->num_queues; i++) {
		struct vublk_plane_side_queue *queue = &plane->side->queues[i];

		if (queue->ring.size && vublk_driver_ring_publish(&queue->ring))
			notify(plane, queue->kick_fd);
	}
}

void vublk_plane_push(struct vublk_plane *plane, struct vublk_plane_queue *queue, uint16_t head,
		      uint32_t bytes)
{
	/* A driver that reuses entries too early must not make the batch longer than the ring. */
	if (queue->pushed >= queue->ring.size)
		publish_queue(plane, queue);
	vublk_inflight_queue_push(&queue->inflight, head);
	vublk_device_ring_push(&queue->ring, head, bytes);
	queue->pushed++;
}
