/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* This file ends a request: it writes the status for the driver and frees the request's slot. */
#include "plane/plane.h"

#include "util/compiler.h"
#include "util/probe.h"

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
	if (VUBLK_UNLIKELY(slot->state == VUBLK_PLANE_SLOT_WAITING))
		vublk_plane_waiting_remove(plane, slot);
	if (VUBLK_UNLIKELY(slot->state == VUBLK_PLANE_SLOT_HELD))
		plane->num_held--;
	else
		plane->num_submitted--;
	slot->state = VUBLK_PLANE_SLOT_FREE;
}

/*
 * Marks the status byte and, for a read or GET_ID, the buffers in the dirty log. Buffers are marked
 * even if the request has failed, because the back-end may have written to them.
 */
static void mark_written(const struct vublk_plane *plane, const struct vublk_plane_slot *slot)
{
	if (slot->type == VIRTIO_BLK_T_IN || slot->type == VIRTIO_BLK_T_GET_ID)
		for (unsigned i = 0; i < slot->num_segments; i++)
			vublk_dirty_log_mark(plane->dirty_log, slot->segments[i].addr,
					     slot->segments[i].bytes);
	vublk_dirty_log_mark(plane->dirty_log, slot->status_addr, 1);
}

/*
 * Writes the status for the driver. Returns false if the status byte lies in guest memory that was
 * removed.
 */
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

static VUBLK_NOINLINE void note_end(struct vublk_plane *plane, struct vublk_plane_slot *slot,
				    uint8_t status)
{
	if (plane->hooks & VUBLK_PLANE_HOOK_TIME)
		vublk_plane_count_end(plane, slot, status);
	if (plane->hooks & VUBLK_PLANE_HOOK_TRACE)
		vublk_plane_trace_complete(plane, slot, status);
	if (plane->hooks & VUBLK_PLANE_HOOK_MIRROR)
		vublk_plane_mirror_end_request(plane, slot, status);
}

void vublk_plane_end(struct vublk_plane *plane, struct vublk_plane_slot *slot, uint8_t status)
{
	uint32_t written = status == VIRTIO_BLK_S_OK ? slot->written_bytes : 1;

	VUBLK_PROBE4(plane_complete, slot->queue, slot->head, slot->type, status);
	if (!write_status(plane, slot, status))
		written = 0;
	if (VUBLK_UNLIKELY(plane->dirty_log))
		mark_written(plane, slot);
	if (slot->is_write)
		vublk_plane_end_write(plane, slot);
	if (VUBLK_UNLIKELY(plane->replay))
		vublk_plane_keep_forget(plane, slot);
	if (VUBLK_UNLIKELY(plane->hooks & VUBLK_PLANE_HOOKS_OF_END))
		note_end(plane, slot, status);
	unlink_slot(plane, slot);
	plane->has_ended = true;
	vublk_plane_push(plane, &plane->queues[slot->queue], slot->head, written);
}
