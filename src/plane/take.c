/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file takes chains from the driver's rings and turns them into requests (virtio 1.3, section
 * 5.2.6).
 *
 * Key idea: the plane copies the header and the ranges, then checks the copies and passes on only
 * the copies. A chain that is not a valid request is completed here, and the back-end does not see
 * it. The plane does not check requests against the disk's capacity, because the back-end does.
 */
#include "plane/plane.h"

#include "util/checked.h"
#include "util/compiler.h"
#include "virtio/blk-format.h"
#include "virtio/blk-frame.h"

#include <errno.h>

#define RANGE_BYTES sizeof(struct virtio_blk_discard_write_zeroes)

/* No disk is larger than this, and byte offsets up to this limit cannot overflow. */
#define MAX_SECTOR (UINT64_C(1) << (63 - VUBLK_SECTOR_SHIFT))

/* The result of parse() for a request that the back-end has to execute. */
#define SUBMIT VUBLK_PLANE_NO_STATUS

/* --- data ------------------------------------------------------------------ */

static VUBLK_ALWAYS_INLINE int keep_segments(struct vublk_plane *plane,
					     struct vublk_plane_slot *slot,
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

static VUBLK_ALWAYS_INLINE uint8_t begin_transfer(struct vublk_plane *plane,
						  struct vublk_plane_slot *slot,
						  const struct vublk_blk_buffers *data,
						  uint64_t bytes)
{
	if (bytes % VUBLK_SECTOR_BYTES || slot->sector > MAX_SECTOR ||
	    keep_segments(plane, slot, data) < 0)
		return VIRTIO_BLK_S_IOERR;
	slot->offset = slot->sector << VUBLK_SECTOR_SHIFT;
	slot->bytes = bytes;
	return bytes ? SUBMIT : VIRTIO_BLK_S_OK;
}

/*
 * Stores in the slot the part of the disk from the start of the lowest range to the end of the
 * highest. Because the ranges count as one part, the number of ranges does not matter for the order
 * of writes (order.h), but later writes to the gaps wait, too. Returns false if a range begins
 * after MAX_SECTOR.
 */
static bool find_place(struct vublk_plane_slot *slot,
		       const struct virtio_blk_discard_write_zeroes *ranges)
{
	uint64_t start = UINT64_MAX, end = 0;

	for (unsigned i = 0; i < slot->num_ranges; i++) {
		uint64_t first = ranges[i].sector;

		if (first > MAX_SECTOR)
			return false;
		if (!ranges[i].num_sectors)
			continue;
		start = VUBLK_MIN(start, first);
		end = VUBLK_MAX(end, first + ranges[i].num_sectors);
	}
	if (end) {
		slot->offset = start << VUBLK_SECTOR_SHIFT;
		slot->bytes = (end - start) << VUBLK_SECTOR_SHIFT;
	}
	return true;
}

static VUBLK_NOINLINE uint8_t begin_ranges(struct vublk_plane *plane, struct vublk_plane_slot *slot,
					   struct vublk_blk_buffers readable, uint64_t bytes)
{
	struct vublk_plane_queue *queue = &plane->queues[slot->queue];
	struct virtio_blk_discard_write_zeroes *ranges =
		&queue->ranges[(size_t)slot->head * VUBLK_PLANE_MAX_RANGES];

	if (!bytes || bytes % RANGE_BYTES || bytes / RANGE_BYTES > VUBLK_PLANE_MAX_RANGES)
		return VIRTIO_BLK_S_IOERR;
	vublk_blk_take_front(&readable, ranges, bytes);
	slot->num_ranges = (unsigned)(bytes / RANGE_BYTES);
	slot->is_write = true;
	return find_place(slot, ranges) ? SUBMIT : VIRTIO_BLK_S_IOERR;
}

/* --- requests -------------------------------------------------------------- */

/*
 * Fills the slot. Returns SUBMIT, or the status with which the request ends. The buffers are passed
 * by value, so that the compiler can keep them in registers.
 */
static VUBLK_ALWAYS_INLINE uint8_t parse(struct vublk_plane *plane, struct vublk_plane_slot *slot,
					 const struct vublk_chain *chain,
					 struct vublk_blk_buffers readable,
					 struct vublk_blk_buffers writable)
{
	uint64_t out_bytes = chain->out_bytes - VUBLK_BLK_HEADER_BYTES;
	uint64_t in_bytes = chain->in_bytes - 1;

	/* A read is handled before the switch, because a jump table costs more. */
	if (slot->type == VIRTIO_BLK_T_IN) {
		slot->written_bytes = (uint32_t)chain->in_bytes;
		return begin_transfer(plane, slot, &writable, in_bytes);
	}
	switch (slot->type) {
	case VIRTIO_BLK_T_OUT:
		slot->is_write = true;
		return begin_transfer(plane, slot, &readable, out_bytes);
	case VIRTIO_BLK_T_FLUSH:
		return SUBMIT;
	case VIRTIO_BLK_T_GET_ID:
		slot->written_bytes = (uint32_t)VUBLK_MIN(in_bytes, (uint64_t)VUBLK_BLK_ID_BYTES) + 1;
		return keep_segments(plane, slot, &writable) < 0 ? VIRTIO_BLK_S_IOERR : SUBMIT;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
	case VIRTIO_BLK_T_SECURE_ERASE:
		return begin_ranges(plane, slot, readable, out_bytes);
	default:
		return VIRTIO_BLK_S_UNSUPP;
	}
}

void vublk_plane_append(struct vublk_plane *plane, struct vublk_plane_slot *slot)
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

/* Begins a request that ends without the back-end, or any request while a hook is set. */
static VUBLK_NOINLINE void begin_other(struct vublk_plane *plane, struct vublk_plane_slot *slot,
				       uint8_t status)
{
	if (plane->hooks & VUBLK_PLANE_HOOK_TIME)
		vublk_plane_count_begin(plane, slot);
	if (plane->hooks & VUBLK_PLANE_HOOK_TRACE)
		vublk_plane_trace_take(plane, slot);
	if (plane->hooks & VUBLK_PLANE_HOOK_POLICY)
		status = vublk_plane_apply_policy(plane, slot, status);
	if (plane->hooks & VUBLK_PLANE_HOOK_FAIL_FLUSH && slot->type == VIRTIO_BLK_T_FLUSH)
		status = vublk_plane_fail_flush(plane);
	if (status != SUBMIT) {
		slot->is_write = false;
		slot->num_segments = 0;
		vublk_plane_end(plane, slot, status);
		return;
	}
	if (slot->is_write)
		vublk_plane_begin_write(plane, slot);
	if (plane->hooks & VUBLK_PLANE_HOOK_LIMIT)
		vublk_plane_waiting_add(plane, slot);
	else
		vublk_plane_submit(plane, slot);
}

static VUBLK_ALWAYS_INLINE void begin(struct vublk_plane *plane, struct vublk_plane_queue *queue,
				      const struct vublk_chain *chain)
{
	struct vublk_plane_slot *slot = &queue->slots[chain->head];
	/*
	 * chain->iov and chain->guest_addrs point to the same arrays. The offsets of the arrays in
	 * `plane` are constant, so the code need not load these pointers.
	 */
	struct vublk_blk_buffers readable = { plane->iov, plane->guest_addrs, chain->num_out };
	struct vublk_blk_buffers writable = {
		&plane->iov[chain->num_out], &plane->guest_addrs[chain->num_out], chain->num_in,
	};
	unsigned last = chain->num_in - 1;
	uint8_t status;

	vublk_blk_take_status(&writable);
	slot->status_addr = writable.guest_addrs[last] + writable.iov[last].iov_len;
	slot->is_write = false;
	slot->num_segments = slot->num_ranges = 0;
	slot->written_bytes = 1;
	slot->bytes = 0;
	vublk_plane_append(plane, slot);
	if (chain->out_bytes < VUBLK_BLK_HEADER_BYTES) {
		slot->type = VUBLK_PLANE_NO_TYPE;
		vublk_plane_end(plane, slot, VIRTIO_BLK_S_IOERR);
		return;
	}
	vublk_blk_take_header(&readable, &slot->header);
	status = parse(plane, slot, chain, readable, writable);
	/*
	 * If the guest's memory was truncated, the plane may have read zeroes instead of the
	 * driver's data.
	 */
	if (VUBLK_UNLIKELY(vublk_fault_happened(plane->fault)))
		status = VIRTIO_BLK_S_IOERR;
	if (VUBLK_UNLIKELY(plane->hooks || status != SUBMIT)) {
		begin_other(plane, slot, status);
		return;
	}
	if (slot->is_write)
		vublk_plane_begin_write(plane, slot);
	vublk_plane_submit(plane, slot);
}

/* --- another process ------------------------------------------------------------ */

static uint64_t sum_of_segments(const struct vublk_plane_slot *slot)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < slot->num_segments; i++)
		bytes += slot->segments[i].bytes;
	return bytes;
}

static bool derive_transfer(struct vublk_plane_slot *slot)
{
	slot->bytes = sum_of_segments(slot);
	slot->offset = slot->sector << VUBLK_SECTOR_SHIFT;
	return slot->bytes && !(slot->bytes % VUBLK_SECTOR_BYTES) && slot->sector <= MAX_SECTOR &&
	       !slot->num_ranges;
}

static bool derive_ranges(const struct vublk_plane *plane, struct vublk_plane_slot *slot)
{
	const struct virtio_blk_discard_write_zeroes *ranges =
		&plane->queues[slot->queue].ranges[(size_t)slot->head * VUBLK_PLANE_MAX_RANGES];

	slot->is_write = true;
	return slot->num_ranges && !slot->num_segments && find_place(slot, ranges);
}

bool vublk_plane_derive(const struct vublk_plane *plane, struct vublk_plane_slot *slot)
{
	slot->is_write = false;
	slot->bytes = 0;
	slot->written_bytes = 1;
	switch (slot->type) {
	case VIRTIO_BLK_T_IN:
		slot->written_bytes = (uint32_t)sum_of_segments(slot) + 1;
		return derive_transfer(slot);
	case VIRTIO_BLK_T_OUT:
		slot->is_write = true;
		return derive_transfer(slot);
	case VIRTIO_BLK_T_FLUSH:
		return !slot->num_segments && !slot->num_ranges;
	case VIRTIO_BLK_T_GET_ID:
		slot->written_bytes = (uint32_t)VUBLK_MIN(sum_of_segments(slot),
							  (uint64_t)VUBLK_BLK_ID_BYTES) + 1;
		return !slot->num_ranges;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
	case VIRTIO_BLK_T_SECURE_ERASE:
		return derive_ranges(plane, slot);
	default:
		return false;
	}
}

/* --- chains ------------------------------------------------------------------ */

static void ring_broke(struct vublk_plane *plane, struct vublk_plane_queue *queue,
		       const struct vublk_error *error)
{
	queue->phase = VUBLK_PLANE_QUEUE_BROKEN;
	plane->ops->queue_broke(plane->opaque, queue->index, error);
}

/* Completes a taken chain that is malformed or has no room for a status. Its used length is 0. */
static void refuse(struct vublk_plane *plane, struct vublk_plane_queue *queue, uint16_t head,
		   const char *why)
{
	vublk_inflight_queue_take(&queue->inflight, head);
	vublk_log_limited(plane->log, plane->limit, VUBLK_LOG_WARNING,
			  "queue %u: rejected a malformed request: %s", queue->index, why);
	vublk_plane_push(plane, queue, head, 0);
}

/* Handles the result `r` of taking a chain. Returns whether there may be another chain. */
static VUBLK_ALWAYS_INLINE bool took(struct vublk_plane *plane, struct vublk_plane_queue *queue,
				     int r, const struct vublk_chain *chain,
				     const struct vublk_error *error)
{
	if (!VUBLK_UNLIKELY(r != 1 || !chain->in_bytes)) {
		vublk_inflight_queue_take(&queue->inflight, chain->head);
		begin(plane, queue, chain);
	} else if (r == 1 || r == -EBADMSG) {
		refuse(plane, queue, chain->head,
		       r == 1 ? "it has no room for a status" : error->text);
	} else {
		if (r < 0)
			ring_broke(plane, queue, error);
		return false;
	}
	return true;
}

unsigned vublk_plane_take(struct vublk_plane *plane, struct vublk_plane_queue *queue, unsigned max)
{
	struct vublk_chain chain = {
		.max_iov = VUBLK_PLANE_MAX_IOV,
		.iov = plane->iov,
		.guest_addrs = plane->guest_addrs,
	};
	const bool takes_all = vublk_plane_takes_all(plane);
	struct vublk_error error;
	unsigned n = 0;

	error.code = 0;
	error.text[0] = '\0'; /* clearing all of `error` would cost too much, because most calls
				 find no chain */
	/*
	 * Each request needs at least one entry of the back-end's ring. If a request needs more
	 * entries than are free, it joins the ready list, which ends the loop.
	 */
	for (max = VUBLK_MIN(max, vublk_plane_room(plane, queue));
	     n < max && (takes_all || !queue->first_ready); n++) {
		int r = vublk_device_ring_take(&queue->ring, plane->map, &chain, &error);

		if (!took(plane, queue, r, &chain, &error))
			break;
	}
	return n;
}

/* The requests are taken in the order in which the earlier process took them. */
void vublk_plane_take_again(struct vublk_plane *plane, struct vublk_plane_queue *queue)
{
	struct vublk_chain chain = {
		.max_iov = VUBLK_PLANE_MAX_IOV,
		.iov = plane->iov,
		.guest_addrs = plane->guest_addrs,
	};
	struct vublk_error error = { 0 };

	vublk_log_limited(plane->log, plane->limit, VUBLK_LOG_INFO,
			  "queue %u: repeating %u request%s that the previous process did not "
			  "complete", queue->index, queue->pending.count,
			  queue->pending.count == 1 ? "" : "s");
	for (unsigned i = 0; i < queue->pending.count; i++) {
		int r = vublk_device_ring_take_again(&queue->ring, plane->map,
						     queue->pending.heads[i], &chain, &error);

		if (!took(plane, queue, r, &chain, &error))
			break;
	}
}
