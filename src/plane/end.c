/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* This file ends a request: the driver gets its status, and the slot is free. */
#include "plane/plane.h"

#include "util/compiler.h"

static void unlink_slot(struct vublk_plane *plane, struct vublk_plane_slot *slot)
{
	if (slot->previous)
		slot->previous->next = slot->next;
	else
		plane->first = slot->next;
	if (slot->next)
		slot->next->previous = slot->previous;
	else
		plane->last = slot->previous;
	if (slot->state == VUBLK_PLANE_SLOT_HELD)
		plane->num_held--;
	else
		plane->num_submitted--;
	slot->state = VUBLK_PLANE_SLOT_FREE;
}

/* The back-end may have written to the buffers of a read that failed, too. */
static void mark_written(const struct vublk_plane *plane, const struct vublk_plane_slot *slot)
{
	if (slot->type == VIRTIO_BLK_T_IN || slot->type == VIRTIO_BLK_T_GET_ID)
		for (unsigned i = 0; i < slot->num_segments; i++)
			vublk_dirty_log_mark(plane->dirty_log, slot->segments[i].addr,
					     slot->segments[i].bytes);
	vublk_dirty_log_mark(plane->dirty_log, slot->status_addr, 1);
}

/* False: the driver has removed the memory of the status byte. */
static bool write_status(struct vublk_plane *plane, const struct vublk_plane_slot *slot,
			 uint8_t status)
{
	uint8_t *host = vublk_memory_map_guest_in(plane->map, plane->near, slot->status_addr, 1);

	if (VUBLK_UNLIKELY(!host))
		host = vublk_memory_map_guest_find(plane->map, &plane->near, slot->status_addr, 1);
	if (!host)
		return false;
	*host = status;
	return true;
}

void vublk_plane_end(struct vublk_plane *plane, struct vublk_plane_slot *slot, uint8_t status)
{
	uint32_t written = status == VIRTIO_BLK_S_OK ? slot->written_bytes : 1;

	if (!write_status(plane, slot, status))
		written = 0;
	if (VUBLK_UNLIKELY(plane->dirty_log))
		mark_written(plane, slot);
	if (slot->is_write)
		vublk_plane_end_write(plane, slot);
	unlink_slot(plane, slot);
	plane->has_ended = true;
	vublk_plane_push(plane, &plane->queues[slot->queue], slot->head, written);
}
