/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file has the back-end's side of the plane: its memory, its rings, and what happens to the
 * requests when the back-end is lost.
 *
 * Key idea: a side belongs to one connection. After a loss nothing of it is used again.
 */
#include "plane/plane.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <stdlib.h>

/* --- life -------------------------------------------------------------------- */

static int make_queue(struct vublk_plane_side *side, unsigned index, struct vublk_error *error)
{
	struct vublk_plane_side_queue *queue = &side->queues[index];
	int bad;

	queue->memory = &side->region.queues[index];
	queue->kick_fd = vublk_eventfd_new();
	queue->call_fd = vublk_eventfd_new();
	bad = VUBLK_MIN(queue->kick_fd, queue->call_fd);
	if (bad < 0)
		return vublk_error_set_errno(error, -bad, "cannot make an eventfd for a ring");
	return 0;
}

static int make_queues(struct vublk_plane_side *side, unsigned num_queues, unsigned size,
		       unsigned max_segments, struct vublk_error *error)
{
	int r;

	side->queues = calloc(num_queues, sizeof(*side->queues));
	if (!side->queues)
		return vublk_error_set_errno(error, ENOMEM, "cannot make shadow rings");
	for (unsigned i = 0; i < num_queues; i++)
		side->queues[i].kick_fd = side->queues[i].call_fd = -1;
	side->num_queues = num_queues;
	/* header and status are in the table, too */
	r = vublk_plane_region_init(&side->region, num_queues, size, max_segments + 2, error);
	for (unsigned i = 0; i < num_queues && !r; i++)
		r = make_queue(side, i, error);
	return r;
}

int vublk_plane_side_new(unsigned num_queues, unsigned size, unsigned max_segments,
			 struct vublk_plane_side **result, struct vublk_error *error)
{
	struct vublk_plane_side *side = calloc(1, sizeof(*side));
	int r;

	if (!side)
		return vublk_error_set_errno(error, ENOMEM, "cannot make shadow rings");
	side->region.fd = -1;
	r = make_queues(side, num_queues, size, max_segments, error);
	if (r < 0) {
		vublk_plane_side_free(side);
		return r;
	}
	*result = side;
	return 0;
}

void vublk_plane_side_free(struct vublk_plane_side *side)
{
	if (!side)
		return;
	for (unsigned i = 0; i < side->num_queues; i++) {
		vublk_driver_ring_deinit(&side->queues[i].ring);
		vublk_fd_close(&side->queues[i].kick_fd);
		vublk_fd_close(&side->queues[i].call_fd);
	}
	vublk_plane_region_deinit(&side->region);
	free(side->queues);
	free(side);
}

int vublk_plane_side_reset(struct vublk_plane_side *side, const uint16_t *sizes, uint64_t features,
			   struct vublk_error *error)
{
	int r = 0;

	side->is_broken = false;
	for (unsigned i = 0; i < side->num_queues && !r; i++) {
		struct vublk_plane_side_queue *queue = &side->queues[i];

		vublk_driver_ring_deinit(&queue->ring); /* and size 0: the queue is not used */
		if (!sizes[i])
			continue;
		r = vublk_driver_ring_init(&queue->ring, &queue->memory->ring, sizes[i], 0, features,
					   error);
		if (!r)
			vublk_driver_ring_disable_calls(&queue->ring);
	}
	return r;
}

/* --- coming and going --------------------------------------------------------- */

void vublk_plane_set_side(struct vublk_plane *plane, struct vublk_plane_side *side)
{
	plane->side = side;
	plane->has_ended = true; /* nothing was submitted before */
	vublk_plane_submit_held(plane);
	vublk_plane_publish(plane);
}

void vublk_plane_lose_side(struct vublk_plane *plane)
{
	if (!plane->side)
		return;
	while (vublk_plane_complete(plane, VUBLK_RING_MAX_SIZE))
		;
	for (struct vublk_plane_slot *slot = plane->first; slot; slot = slot->next)
		slot->state = VUBLK_PLANE_SLOT_HELD;
	plane->num_held += plane->num_submitted;
	plane->num_submitted = 0;
	plane->side = NULL;
	vublk_plane_publish(plane);
}
