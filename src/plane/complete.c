/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file takes completions from the back-end's rings and returns them to the driver.
 *
 * Key idea: when the back-end has completed a request of the driver, the plane reads only the
 * status and, for GET_ID, the disk identifier from the shared memory, each once. The plane ignores
 * the used length that the back-end reports. It computes the driver's used length from the request.
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

	memcpy(id, shared->id, sizeof(id));
	vublk_plane_write_id(plane, slot, id);
}

/*
 * Returns the back-end's status; IOERR if virtio does not define the status, or if the guest's
 * memory was truncated.
 */
static uint8_t read_status(struct vublk_plane *plane, const struct vublk_plane_slot *slot,
			   const struct vublk_plane_shared_slot *shared)
{
	uint8_t status = vublk_load_relaxed(&shared->status);

	if (VUBLK_UNLIKELY(vublk_fault_happened(plane->fault)))
		return VIRTIO_BLK_S_IOERR;
	if (VUBLK_UNLIKELY(status > VIRTIO_BLK_S_UNSUPP)) {
		vublk_log_limited(plane->log, plane->limit, VUBLK_LOG_WARNING,
				  "queue %u: the back-end completed a request of type %u with the "
				  "unknown status %u; the driver gets an I/O error",
				  slot->queue, slot->type, status);
		return VIRTIO_BLK_S_IOERR;
	}
	return status;
}

/* Completes a request while completed writes are kept, or while there is a mirror. */
static VUBLK_NOINLINE void complete_guarded(struct vublk_plane *plane, struct vublk_plane_slot *slot,
					    uint8_t status)
{
	if (plane->mirror && !vublk_plane_mirror_completed(plane, slot, status))
		return;
	if (plane->replay && !vublk_plane_replay_completed(plane, slot, status))
		return;
	vublk_plane_end(plane, slot, status);
}

static VUBLK_ALWAYS_INLINE void complete(struct vublk_plane *plane,
					 struct vublk_plane_side_queue *queue, uint16_t token,
					 bool is_guarded)
{
	const struct vublk_plane_shared_slot *shared = &queue->memory->slots[token];
	struct vublk_plane_slot *slot = queue->slots[token];
	uint8_t status = read_status(plane, slot, shared);

	if (VUBLK_UNLIKELY(slot->type == VIRTIO_BLK_T_GET_ID) && status == VIRTIO_BLK_S_OK)
		copy_id(plane, slot, shared);
	if (VUBLK_UNLIKELY(is_guarded))
		complete_guarded(plane, slot, status);
	else
		vublk_plane_end(plane, slot, status);
}

/*
 * If `token` belongs to one of the plane's own requests, handles its completion and returns true.
 */
static bool took_own(struct vublk_plane *plane, const struct vublk_plane_side_queue *queue,
		     uint16_t token)
{
	if (plane->replay && vublk_plane_replay_took(plane, queue, token))
		return true;
	return plane->mirror && vublk_plane_mirror_copies_took(plane, queue, token);
}

static unsigned complete_queue(struct vublk_plane *plane, unsigned index, unsigned max)
{
	struct vublk_plane_side_queue *queue = &plane->side->queues[index];
	const bool is_guarded = plane->replay || plane->mirror;
	struct vublk_error error;
	uint16_t token = 0;
	uint32_t bytes;
	unsigned n = 0;
	int r = 0;

	if (!queue->ring.size)
		return 0;
	while (n < max && (r = vublk_driver_ring_take_inline(&queue->ring, &token, &bytes,
							     &error)) == 1) {
		n++;
		if (VUBLK_UNLIKELY(is_guarded) && took_own(plane, queue, token))
			continue;
		complete(plane, queue, token, is_guarded);
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
