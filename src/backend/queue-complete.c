/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Handles the completions of a virtqueue, on the queue's worker: puts them into the used ring,
 * records them in the in-flight area, and calls the driver. queue-take.c takes the chains.
 *
 * Key idea: completions are pushed one by one and published as a batch, with one store of the used
 * index and at most one call. Calling the driver costs a system call, so the worker does it only if
 * the driver wants a call.
 */
#include "backend/queue.h"

#include "util/fd.h"
#include "util/kill-point.h"

void vublk_queue_push(struct vublk_queue *queue, struct vublk_request *request, uint32_t bytes)
{
	/* The batch must not exceed the ring, even if a driver reuses entries too early. */
	if (queue->pushed >= queue->ring.size)
		vublk_queue_publish(queue);
	vublk_inflight_queue_push(&queue->inflight, request->chain.head);
	vublk_device_ring_push(&queue->ring, request->chain.head, bytes);
	vublk_kill_point("after-used-element");
	queue->pushed++;
	queue->outstanding--;
	vublk_queue_free_request(queue, request);
}

void vublk_queue_leave(struct vublk_queue *queue, struct vublk_request *request)
{
	queue->outstanding--;
	vublk_queue_free_request(queue, request);
}

void vublk_queue_publish(struct vublk_queue *queue)
{
	bool call;

	if (!queue->pushed)
		return;
	queue->pushed = 0;
	call = vublk_device_ring_publish(&queue->ring);
	vublk_kill_point("after-used-index");
	vublk_inflight_queue_publish(&queue->inflight, vublk_device_ring_used(&queue->ring));
	if (!call || queue->call_fd < 0 || vublk_load_relaxed(&queue->is_muted))
		return;
	vublk_kill_point("before-call");
	vublk_eventfd_write(queue->call_fd); /* may block; vublk_queue_unblock() ends that */
}
