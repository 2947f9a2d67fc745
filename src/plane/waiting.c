/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The lists of requests that wait for the limits; see limit.h. */
#include "plane/plane.h"

enum vublk_plane_kind vublk_plane_kind(const struct vublk_plane_slot *slot)
{
	return slot->type == VIRTIO_BLK_T_IN ? VUBLK_PLANE_READ :
	       slot->type == VIRTIO_BLK_T_OUT ? VUBLK_PLANE_WRITE : VUBLK_PLANE_NO_DATA;
}

void vublk_plane_waiting_add(struct vublk_plane *plane, struct vublk_plane_slot *slot)
{
	enum vublk_plane_kind kind = vublk_plane_kind(slot);
	struct vublk_plane_queue *queue = &plane->queues[slot->queue];
	struct vublk_plane_waiting *waiting = &queue->waiting[kind];

	slot->state = VUBLK_PLANE_SLOT_WAITING;
	plane->num_held--;
	plane->limits.num_waiting++;
	plane->limits.num_of_kind[kind]++;
	queue->waiters[slot->head].number = plane->limits.next_number++;
	if (waiting->count++)
		queue->waiters[waiting->last].next = slot->head;
	else
		waiting->first = slot->head;
	waiting->last = slot->head;
}

static void unlink_waiting(struct vublk_plane_waiting *waiting, struct vublk_plane_waiter *waiters,
			   uint16_t head)
{
	uint16_t before = waiting->first;

	waiting->count--;
	if (before == head) {
		waiting->first = waiters[head].next;
		return;
	}
	while (waiters[before].next != head)
		before = waiters[before].next;
	waiters[before].next = waiters[head].next;
	if (waiting->last == head)
		waiting->last = before;
}

void vublk_plane_waiting_remove(struct vublk_plane *plane, struct vublk_plane_slot *slot)
{
	enum vublk_plane_kind kind = vublk_plane_kind(slot);
	struct vublk_plane_queue *queue = &plane->queues[slot->queue];

	unlink_waiting(&queue->waiting[kind], queue->waiters, slot->head);
	slot->state = VUBLK_PLANE_SLOT_HELD;
	plane->num_held++;
	plane->limits.num_waiting--;
	plane->limits.num_of_kind[kind]--;
}
