/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file takes completions from the back-end's rings and returns them to the driver.
 *
 * Key idea: of a completion, only the status and a disk identifier come from the back-end, and each
 * is read once. The used length that the driver sees is computed from the request.
 */
#include "plane/plane.h"

#include "util/atomic.h"
#include "util/checked.h"
#include "util/compiler.h"
#include "util/error.h"

#include <string.h>

static void copy_id(struct vublk_plane *plane, const struct vublk_plane_slot *slot,
		    const struct vublk_plane_shared_slot *shared)
{
	char id[VUBLK_BLK_ID_BYTES];
	size_t at = 0;

	memcpy(id, shared->id, sizeof(id));
	for (unsigned i = 0; i < slot->num_segments && at < sizeof(id); i++) {
		size_t n = VUBLK_MIN((size_t)slot->segments[i].bytes, sizeof(id) - at);
		void *to = vublk_memory_map_guest(plane->map, slot->segments[i].addr, n);

		if (to)
			memcpy(to, id + at, n);
		at += n;
	}
}

/* A status that the specification does not define is a failure. */
static uint8_t read_status(struct vublk_plane *plane, const struct vublk_plane_slot *slot,
			   const struct vublk_plane_shared_slot *shared)
{
	uint8_t status = vublk_load_relaxed(&shared->status);

	if (VUBLK_UNLIKELY(vublk_fault_happened(plane->fault)))
		return VIRTIO_BLK_S_IOERR;
	if (VUBLK_UNLIKELY(status > VIRTIO_BLK_S_UNSUPP)) {
		vublk_log_limited(plane->log, plane->limit, VUBLK_LOG_WARNING,
				  "queue %u: the back-end completed a request of type %u with the "
				  "unknown status %u; the driver is told of an I/O error",
				  slot->queue, slot->type, status);
		return VIRTIO_BLK_S_IOERR;
	}
	return status;
}

static void complete(struct vublk_plane *plane, struct vublk_plane_side_queue *queue,
		     struct vublk_plane_slot *slot)
{
	const struct vublk_plane_shared_slot *shared = &queue->memory->slots[slot->head];
	uint8_t status = read_status(plane, slot, shared);

	if (VUBLK_UNLIKELY(slot->type == VIRTIO_BLK_T_GET_ID) && status == VIRTIO_BLK_S_OK)
		copy_id(plane, slot, shared);
	vublk_plane_end(plane, slot, status);
}

static unsigned complete_queue(struct vublk_plane *plane, unsigned index, unsigned max)
{
	struct vublk_plane_side_queue *queue = &plane->side->queues[index];
	struct vublk_error error;
	uint16_t token = 0;
	uint32_t bytes;
	unsigned n = 0;
	int r = 0;

	if (!queue->ring.size)
		return 0;
	while (n < max && (r = vublk_driver_ring_take_inline(&queue->ring, &token, &bytes,
							     &error)) == 1) {
		complete(plane, queue, &plane->queues[index].slots[token]);
		n++;
	}
	if (VUBLK_UNLIKELY(r < 0)) {
		plane->side->is_broken = true;
		vublk_error_prepend(&error, "queue %u", index);
		plane->ops->side_broke(plane->opaque, &error);
	}
	return n;
}

unsigned vublk_plane_complete(struct vublk_plane *plane, unsigned max)
{
	unsigned n = 0;

	for (unsigned i = 0; plane->side && !plane->side->is_broken && i < plane->side->num_queues;
	     i++)
		n += complete_queue(plane, i, max);
	return n;
}
