/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The flush before a back-end is left on purpose; see last-flush.h.
 *
 * Key idea: all requests are complete, so the ring is empty. The flush's header and status go to
 * slot 0 of the shared memory, which no request uses.
 */
#include "plane/last-flush.h"

#include "util/atomic.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <stddef.h>

/* Returns the first queue that is in use; NULL if there is none. */
static struct vublk_plane_side_queue *queue_of(struct vublk_plane_side *side)
{
	for (unsigned i = 0; i < side->num_queues; i++)
		if (side->queues[i].ring.size)
			return &side->queues[i];
	return NULL;
}

int vublk_plane_last_flush_begin(struct vublk_plane_side *side)
{
	struct vublk_plane_side_queue *queue = queue_of(side);
	struct vublk_plane_shared_slot *shared;
	struct vublk_ring_buffer buffers[2];
	uint64_t addr;

	if (!queue || !(side->features & VUBLK_BIT(VIRTIO_BLK_F_FLUSH)))
		return -ENOENT;
	shared = &queue->memory->slots[0];
	addr = queue->memory->slots_addr;
	shared->header = (struct virtio_blk_outhdr){ .type = VIRTIO_BLK_T_FLUSH };
	vublk_store_relaxed(&shared->status, VUBLK_PLANE_NO_STATUS);
	buffers[0] = (struct vublk_ring_buffer){
		addr + offsetof(struct vublk_plane_shared_slot, header), sizeof(shared->header),
	};
	buffers[1] = (struct vublk_ring_buffer){
		addr + offsetof(struct vublk_plane_shared_slot, status), 1,
	};
	vublk_driver_ring_enable_calls(&queue->ring);
	vublk_driver_ring_add(&queue->ring, buffers, 1, 1, NULL,
			      vublk_driver_ring_next_head(&queue->ring));
	if (vublk_driver_ring_publish(&queue->ring))
		vublk_eventfd_signal(queue->kick_fd);
	return queue->call_fd;
}

int vublk_plane_last_flush_end(struct vublk_plane_side *side, struct vublk_error *error)
{
	struct vublk_plane_side_queue *queue = queue_of(side);
	uint32_t bytes;
	uint16_t token;
	uint8_t status;
	int r;

	vublk_eventfd_clear(queue->call_fd);
	r = vublk_driver_ring_take(&queue->ring, &token, &bytes, error);
	if (!r && !vublk_driver_ring_enable_calls(&queue->ring))
		r = vublk_driver_ring_take(&queue->ring, &token, &bytes, error);
	if (r <= 0)
		return r;
	status = vublk_load_relaxed(&queue->memory->slots[0].status);
	if (status == VIRTIO_BLK_S_OK)
		return 1;
	return vublk_error_set(error, EIO, "the final flush of a switch failed with virtio status "
			       "%u, so completed writes may be lost", status);
}
