/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file keeps writes to the same place of the disk in order, across all queues. order.c
 * implements the map that shows which earlier writes a write has to wait for.
 */
#include "plane/plane.h"

#include "util/checked.h"
#include "util/compiler.h"

void vublk_plane_begin_write(struct vublk_plane *plane, struct vublk_plane_slot *slot)
{
	vublk_order_begin(&plane->order, &slot->order, slot->offset, slot->bytes);
}

void vublk_plane_end_order(struct vublk_plane *plane, struct vublk_order_write *ended)
{
	struct vublk_order_write *write, *next;

	for (write = vublk_order_end(&plane->order, ended); write; write = next) {
		struct vublk_plane_slot *free_slot =
			vublk_container_of(write, struct vublk_plane_slot, order);

		next = write->next_free;
		if (VUBLK_UNLIKELY(vublk_plane_mirror_owns(plane->mirror, write)))
			continue; /* the next round continues the copy */
		if (free_slot->state == VUBLK_PLANE_SLOT_HELD) /* a write that the limits hold
								  back becomes ready later */
			vublk_plane_add_ready(plane, free_slot);
	}
}

void vublk_plane_end_write(struct vublk_plane *plane, struct vublk_plane_slot *slot)
{
	vublk_plane_end_order(plane, &slot->order);
}

void vublk_plane_forget_writes(struct vublk_plane *plane)
{
	vublk_order_reset(&plane->order);
	for (struct vublk_plane_slot *slot = plane->first; slot; slot = slot->next)
		slot->order = (struct vublk_order_write){ 0 };
	for (unsigned i = 0; plane->mirror && i < VUBLK_PLANE_MIRROR_COPIES; i++)
		plane->mirror->copies[i].order = (struct vublk_order_write){ 0 };
}

void vublk_plane_begin_writes_again(struct vublk_plane *plane)
{
	for (struct vublk_plane_slot *slot = plane->first; slot; slot = slot->next)
		if (slot->is_write)
			vublk_plane_begin_write(plane, slot);
	for (unsigned i = 0; plane->mirror && i < VUBLK_PLANE_MIRROR_COPIES; i++) {
		struct vublk_plane_mirror_copy *copy = &plane->mirror->copies[i];

		if (copy->phase == VUBLK_PLANE_MIRROR_COPY_BLOCKED)
			vublk_order_begin(&plane->order, &copy->order, copy->offset,
					  copy->end - copy->offset);
	}
}

/*
 * Clears `waiting` of the replay and of the mirror, because while it is set, only the write to
 * which it points gets room for its data. In the new lists, that write may be behind another write
 * of the same queue, and then neither could continue. The next write that finds no room sets
 * `waiting` again.
 */
void vublk_plane_sort_held(struct vublk_plane *plane)
{
	if (plane->replay)
		plane->replay->waiting = NULL;
	if (plane->mirror)
		plane->mirror->waiting = NULL;
	for (unsigned i = 0; i < plane->num_queues; i++)
		plane->queues[i].first_ready = NULL;
	for (struct vublk_plane_slot *slot = plane->first; slot; slot = slot->next) {
		slot->mirrored.is_parked = slot->mirrored.awaits_copies = false;
		if (slot->state == VUBLK_PLANE_SLOT_HELD && !slot->order.num_blockers)
			vublk_plane_add_ready(plane, slot);
	}
}
