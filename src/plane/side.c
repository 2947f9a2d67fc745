/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file implements the back-end's side of the plane. It makes the side's memory and rings, and
 * holds the requests when the back-end is lost.
 *
 * Key idea: a side belongs to one connection. Its back-end may stop the rings and start them again,
 * but when the connection is lost, no part of the side is used again.
 */
#include "plane/plane.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* --- life -------------------------------------------------------------------- */

static int make_queue(struct vublk_plane_side *side, unsigned index, unsigned size,
		      struct vublk_error *error)
{
	struct vublk_plane_side_queue *queue = &side->queues[index];

	queue->memory = &side->region.queues[index];
	queue->slots = calloc(size, sizeof(struct vublk_plane_slot *));
	return queue->slots ? 0 : vublk_error_set_errno(error, ENOMEM, "cannot create shadow rings");
}

static int make_notifiers(struct vublk_plane_side_queue *queue, struct vublk_error *error)
{
	int bad;

	queue->kick_fd = vublk_eventfd_new();
	queue->call_fd = vublk_eventfd_new();
	bad = VUBLK_MIN(queue->kick_fd, queue->call_fd);
	if (bad < 0)
		return vublk_error_set_errno(error, -bad, "cannot create an eventfd for a shadow "
					     "ring");
	return 0;
}

static int make_queues(struct vublk_plane_side *side, unsigned num_queues, unsigned size,
		       unsigned max_segments, bool has_own, int fd, struct vublk_error *error)
{
	int r;

	side->region.fd = fd;
	side->queues = calloc(num_queues, sizeof(*side->queues));
	if (!side->queues)
		return vublk_error_set_errno(error, ENOMEM, "cannot create shadow rings");
	for (unsigned i = 0; i < num_queues; i++)
		side->queues[i].kick_fd = side->queues[i].call_fd = -1;
	side->num_queues = num_queues;
	side->size = size;
	/* + 2: a table also has entries for the header and the status */
	r = vublk_plane_region_adopt(&side->region, num_queues, size, max_segments + 2, has_own, fd,
				     error);
	for (unsigned i = 0; i < num_queues && !r; i++)
		r = make_queue(side, i, size, error);
	return r;
}

int vublk_plane_side_adopt(unsigned num_queues, unsigned size, unsigned max_segments, bool has_own,
			   int fd, struct vublk_plane_side **result, struct vublk_error *error)
{
	struct vublk_plane_side *side = calloc(1, sizeof(*side));
	int r;

	if (!side) {
		vublk_fd_close(&fd);
		return vublk_error_set_errno(error, ENOMEM, "cannot create shadow rings");
	}
	r = make_queues(side, num_queues, size, max_segments, has_own, fd, error);
	if (r < 0) {
		vublk_plane_side_free(side);
		return r;
	}
	*result = side;
	return 0;
}

int vublk_plane_side_new(unsigned num_queues, unsigned size, unsigned max_segments, bool has_own,
			 struct vublk_plane_side **result, struct vublk_error *error)
{
	struct vublk_plane_side *side;
	int r = vublk_plane_side_adopt(num_queues, size, max_segments, has_own, -1, &side, error);

	for (unsigned i = 0; i < num_queues && !r; i++) {
		r = make_notifiers(&side->queues[i], error);
		if (r < 0)
			vublk_plane_side_free(side);
	}
	if (!r)
		*result = side;
	return r;
}

void vublk_plane_side_free(struct vublk_plane_side *side)
{
	if (!side)
		return;
	for (unsigned i = 0; i < side->num_queues; i++) {
		vublk_driver_ring_deinit(&side->queues[i].ring);
		free(side->queues[i].slots);
		vublk_fd_close(&side->queues[i].kick_fd);
		vublk_fd_close(&side->queues[i].call_fd);
	}
	vublk_plane_region_deinit(&side->region);
	free(side->queues);
	free(side);
}

void vublk_plane_side_clear(struct vublk_plane_side *side)
{
	struct vublk_plane_region *region = &side->region;

	if (madvise(region->host, region->bytes, MADV_REMOVE) < 0)
		memset(region->host, 0, region->bytes);
}

int vublk_plane_side_reset(struct vublk_plane_side *side, const uint16_t *sizes, uint64_t features,
			   struct vublk_error *error)
{
	int r = 0;

	side->is_broken = false;
	side->features = features;
	for (unsigned i = 0; i < side->num_queues && !r; i++) {
		struct vublk_plane_side_queue *queue = &side->queues[i];

		vublk_driver_ring_deinit(&queue->ring); /* also sets ring.size to 0: not used */
		if (!sizes[i])
			continue;
		r = vublk_driver_ring_init(&queue->ring, &queue->memory->ring, sizes[i], 0, features,
					   error);
		if (!r)
			vublk_driver_ring_disable_calls(&queue->ring);
	}
	return r;
}

/* --- start and loss ----------------------------------------------------------- */

void vublk_plane_set_side(struct vublk_plane *plane, struct vublk_plane_side *side)
{
	plane->side = side;
	if (plane->mirror)
		vublk_plane_mirror_set_source(plane);
	if (plane->replay)
		vublk_plane_replay_begin(plane);
	plane->has_ended = true; /* all held requests may be ready */
	vublk_plane_submit_held(plane);
	vublk_plane_publish(plane);
}

void vublk_plane_lose_side(struct vublk_plane *plane)
{
	if (!plane->side)
		return;
	while (vublk_plane_complete(plane, VUBLK_RING_MAX_SIZE))
		;
	if (plane->mirror) {
		vublk_plane_mirror_take(plane);
		vublk_plane_mirror_lose_source(plane);
	}
	for (struct vublk_plane_slot *slot = plane->first; slot; slot = slot->next)
		if (slot->state == VUBLK_PLANE_SLOT_SUBMITTED)
			slot->state = VUBLK_PLANE_SLOT_HELD;
	plane->num_held += plane->num_submitted;
	plane->num_submitted = 0;
	if (plane->replay)
		vublk_plane_replay_end(plane);
	plane->side = NULL;
	vublk_plane_sort_held(plane);
	vublk_plane_publish(plane);
}
