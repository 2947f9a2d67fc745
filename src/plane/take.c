/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file takes chains from the driver's rings and turns them into requests (virtio 1.3, section
 * 5.2.6).
 *
 * Key idea: header and ranges are copied, and only the copies are checked and passed on. A chain
 * that is no valid request is completed here, and the back-end does not see it. The capacity is not
 * checked, because the back-end knows it best.
 */
#include "plane/plane.h"

#include "util/checked.h"
#include "util/compiler.h"
#include "virtio/blk-format.h"
#include "virtio/blk-frame.h"

#include <errno.h>

#define RANGE_BYTES sizeof(struct virtio_blk_discard_write_zeroes)

/* No disk is larger, and byte offsets below it cannot overflow. */
#define MAX_SECTOR (UINT64_C(1) << (63 - VUBLK_SECTOR_SHIFT))

/* More ranges count as the whole disk, which bounds the comparisons per request. */
#define MAX_EXACT_RANGES 4

/* The request is for the back-end. */
#define SUBMIT VUBLK_PLANE_NO_STATUS

/* --- data ------------------------------------------------------------------ */

static int keep_segments(struct vublk_plane *plane, struct vublk_plane_slot *slot,
			 const struct vublk_blk_buffers *data)
{
	struct vublk_plane_queue *queue = &plane->queues[slot->queue];

	if (VUBLK_UNLIKELY(data->num > plane->max_segments))
		return -E2BIG;
	slot->segments = data->num <= VUBLK_PLANE_SHORT_SEGMENTS ? slot->short_segments :
			 &queue->segments[(size_t)slot->head * plane->max_segments];
	slot->num_segments = data->num;
	for (unsigned i = 0; i < data->num; i++)
		slot->segments[i] = (struct vublk_ring_buffer){
			data->guest_addrs[i], (uint32_t)data->iov[i].iov_len,
		};
	return 0;
}

static uint8_t begin_transfer(struct vublk_plane *plane, struct vublk_plane_slot *slot,
			      const struct vublk_blk_buffers *data, uint64_t bytes)
{
	if (bytes % VUBLK_SECTOR_BYTES || slot->sector > MAX_SECTOR ||
	    keep_segments(plane, slot, data) < 0)
		return VIRTIO_BLK_S_IOERR;
	slot->offset = slot->sector << VUBLK_SECTOR_SHIFT;
	slot->bytes = bytes;
	return bytes ? SUBMIT : VIRTIO_BLK_S_OK;
}

static uint8_t begin_ranges(struct vublk_plane *plane, struct vublk_plane_slot *slot,
			    struct vublk_blk_buffers *readable, uint64_t bytes)
{
	struct vublk_plane_queue *queue = &plane->queues[slot->queue];
	struct virtio_blk_discard_write_zeroes *ranges =
		&queue->ranges[(size_t)slot->head * VUBLK_PLANE_MAX_RANGES];

	if (!bytes || bytes % RANGE_BYTES || bytes / RANGE_BYTES > VUBLK_PLANE_MAX_RANGES)
		return VIRTIO_BLK_S_IOERR;
	vublk_blk_take_front(readable, ranges, bytes);
	slot->num_ranges = (unsigned)(bytes / RANGE_BYTES);
	slot->is_write = true;
	slot->is_wide = slot->num_ranges > MAX_EXACT_RANGES;
	for (unsigned i = 0; i < slot->num_ranges; i++)
		if (ranges[i].sector > MAX_SECTOR)
			return VIRTIO_BLK_S_IOERR;
	return SUBMIT;
}

/* --- requests -------------------------------------------------------------- */

/* Fills the slot; SUBMIT, or the status with which the request ends. */
static uint8_t parse(struct vublk_plane *plane, struct vublk_plane_slot *slot,
		     const struct vublk_chain *chain, struct vublk_blk_buffers *readable,
		     const struct vublk_blk_buffers *writable)
{
	uint64_t out_bytes = chain->out_bytes - VUBLK_BLK_HEADER_BYTES;
	uint64_t in_bytes = chain->in_bytes - 1;

	switch (slot->type) {
	case VIRTIO_BLK_T_IN:
		slot->written_bytes = (uint32_t)chain->in_bytes;
		return begin_transfer(plane, slot, writable, in_bytes);
	case VIRTIO_BLK_T_OUT:
		slot->is_write = true;
		return begin_transfer(plane, slot, readable, out_bytes);
	case VIRTIO_BLK_T_FLUSH:
		return SUBMIT;
	case VIRTIO_BLK_T_GET_ID:
		slot->written_bytes = (uint32_t)VUBLK_MIN(in_bytes, (uint64_t)VUBLK_BLK_ID_BYTES) + 1;
		return keep_segments(plane, slot, writable) < 0 ? VIRTIO_BLK_S_IOERR : SUBMIT;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
	case VIRTIO_BLK_T_SECURE_ERASE:
		return begin_ranges(plane, slot, readable, out_bytes);
	default:
		return VIRTIO_BLK_S_UNSUPP;
	}
}

/* Adds a slot as the newest. */
static void append(struct vublk_plane *plane, struct vublk_plane_slot *slot)
{
	slot->state = VUBLK_PLANE_SLOT_HELD;
	slot->next = NULL;
	slot->previous = plane->last;
	if (plane->last)
		plane->last->next = slot;
	else
		plane->first = slot;
	plane->last = slot;
	plane->num_held++;
}

static void begin(struct vublk_plane *plane, struct vublk_plane_queue *queue,
		  const struct vublk_chain *chain)
{
	struct vublk_plane_slot *slot = &queue->slots[chain->head];
	struct vublk_blk_buffers readable = vublk_blk_readable(chain);
	struct vublk_blk_buffers writable = vublk_blk_writable(chain);
	struct virtio_blk_outhdr header;
	unsigned last = chain->num_in - 1;
	uint8_t status;

	vublk_blk_take_status(&writable);
	slot->status_addr = chain->guest_addrs[chain->num_out + last] +
			    chain->iov[chain->num_out + last].iov_len;
	slot->is_write = slot->is_wide = slot->may_wait = false;
	slot->num_segments = slot->num_ranges = 0;
	slot->written_bytes = 1;
	slot->bytes = 0;
	slot->type = UINT32_MAX;
	append(plane, slot);
	if (chain->out_bytes < VUBLK_BLK_HEADER_BYTES) {
		vublk_plane_end(plane, slot, VIRTIO_BLK_S_IOERR);
		return;
	}
	vublk_blk_take_header(&readable, &header);
	slot->type = header.type;
	slot->priority = header.ioprio;
	slot->sector = header.sector;
	status = parse(plane, slot, chain, &readable, &writable);
	/* A request that was read from a lost page is not the one that the driver made. */
	if (VUBLK_UNLIKELY(vublk_fault_happened(plane->fault)))
		status = VIRTIO_BLK_S_IOERR;
	if (status == SUBMIT) {
		if (slot->is_write)
			vublk_plane_begin_write(plane, slot);
		vublk_plane_submit(plane, slot);
		return;
	}
	slot->is_write = false;
	slot->num_segments = 0;
	vublk_plane_end(plane, slot, status);
}

/* --- chains ------------------------------------------------------------------ */

static void ring_broke(struct vublk_plane *plane, struct vublk_plane_queue *queue,
		       const struct vublk_error *error)
{
	queue->phase = VUBLK_PLANE_QUEUE_BROKEN;
	plane->ops->queue_broke(plane->opaque, queue->index, error);
}

/* Handles the outcome of taking a chain; returns whether there may be another. */
static bool took(struct vublk_plane *plane, struct vublk_plane_queue *queue, int r,
		 const struct vublk_chain *chain, const struct vublk_error *error)
{
	if (r < 0 && r != -EBADMSG)
		ring_broke(plane, queue, error);
	if (r != 1 && r != -EBADMSG)
		return false;
	vublk_inflight_queue_take(&queue->inflight, chain->head);
	if (r == 1 && chain->in_bytes) {
		begin(plane, queue, chain);
		return true;
	}
	vublk_log_limited(plane->log, plane->limit, VUBLK_LOG_WARNING,
			  "queue %u: a malformed request is refused: %s", queue->index,
			  r == 1 ? "it has no room for a status" : error->text);
	vublk_plane_push(plane, queue, chain->head, 0);
	return true;
}

unsigned vublk_plane_take(struct vublk_plane *plane, struct vublk_plane_queue *queue, unsigned max)
{
	struct vublk_chain chain = {
		.max_iov = VUBLK_PLANE_MAX_IOV,
		.iov = plane->iov,
		.guest_addrs = plane->guest_addrs,
	};
	struct vublk_error error;
	unsigned n = 0;

	error.code = 0;
	error.text[0] = '\0'; /* clearing all of it would cost too much if there is no chain */
	while (n < max) {
		int r = vublk_device_ring_take(&queue->ring, plane->map, &chain, &error);

		if (!took(plane, queue, r, &chain, &error))
			break;
		n++;
	}
	return n;
}

/* The next process after one that died: the requests keep their order within the queue. */
void vublk_plane_take_again(struct vublk_plane *plane, struct vublk_plane_queue *queue)
{
	struct vublk_chain chain = {
		.max_iov = VUBLK_PLANE_MAX_IOV,
		.iov = plane->iov,
		.guest_addrs = plane->guest_addrs,
	};
	struct vublk_error error = { 0 };

	vublk_log_limited(plane->log, plane->limit, VUBLK_LOG_INFO,
			  "queue %u: repeating the %u requests that the previous process did not "
			  "complete", queue->index, queue->pending.count);
	for (unsigned i = 0; i < queue->pending.count; i++) {
		int r = vublk_device_ring_take_again(&queue->ring, plane->map,
						     queue->pending.heads[i], &chain, &error);

		if (!took(plane, queue, r, &chain, &error))
			break;
	}
}
