/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Executes virtio-blk requests (virtio 1.3, section 5.2.6): turns a chain into a request to the
 * engine, and the result into the status byte.
 *
 * Key idea: the driver can change its memory at any time. So the header and the ranges are copied,
 * and only the copies are checked and used. virtio/blk-frame.h finds them in the chain.
 */
#include "backend/queue.h"

#include "util/checked.h"
#include "util/compiler.h"
#include "util/kill-point.h"
#include "util/probe.h"
#include "virtio/blk-frame.h"

#include <errno.h>
#include <string.h>

#define RANGE_BYTES sizeof(struct virtio_blk_discard_write_zeroes)

_Static_assert(RANGE_BYTES == 16, "wire size");

/* --- the dirty log --------------------------------------------------------- */

/* If there is a dirty log, stores in the request which buffers it is going to write. */
static void note_written(struct vublk_request *request)
{
	const struct vublk_chain *chain = &request->chain;

	if (!request->queue->dirty_log)
		return;
	memcpy(request->dirty, &chain->iov[chain->num_out], chain->num_in * sizeof(*chain->iov));
	request->num_dirty = chain->num_in;
}

/*
 * Marks in the dirty log the status byte and the buffers that note_written() stored, even if they
 * were written only in part.
 */
static void mark_written(const struct vublk_request *request)
{
	const struct vublk_queue *queue = request->queue;
	struct iovec status = { .iov_base = request->status, .iov_len = 1 };

	vublk_dirty_log_mark_iov(queue->dirty_log, queue->map, request->dirty, request->num_dirty);
	vublk_dirty_log_mark_iov(queue->dirty_log, queue->map, &status, 1);
}

/*
 * Completes a request. If a page of shared memory was lost, the data may be wrong, so the request
 * fails.
 */
static void complete(struct vublk_request *request, uint8_t status)
{
	if (VUBLK_UNLIKELY(vublk_fault_happened(request->queue->fault)))
		status = VIRTIO_BLK_S_IOERR;
	*request->status = status;
	vublk_kill_point("after-status");
	VUBLK_PROBE3(backend_complete, request->queue->index, request->chain.head, status);
	if (request->queue->dirty_log)
		mark_written(request);
	if (VUBLK_UNLIKELY(request->stats))
		vublk_statistics_end(request, status);
	vublk_queue_push(request->queue, request,
			 status == VIRTIO_BLK_S_OK ? request->written_bytes : 1);
}

/* --- the kinds of request -------------------------------------------------- */

static bool is_within(const struct vublk_disk *disk, uint64_t sector, uint64_t bytes)
{
	return !(bytes % VUBLK_SECTOR_BYTES) &&
	       vublk_range_within(sector, bytes >> VUBLK_SECTOR_SHIFT, disk->capacity_sectors);
}

/*
 * Submits a request to the engine. Fails the request if a page of shared memory was lost, because
 * the copied header or ranges may then not be the driver's.
 */
static void submit(struct vublk_request *request, struct vublk_engine_queue *engine)
{
	if (VUBLK_UNLIKELY(vublk_fault_happened(request->queue->fault))) {
		complete(request, VIRTIO_BLK_S_IOERR);
		return;
	}
	engine->ops->submit(engine, &request->io);
}

static void transfer(struct vublk_request *request, struct vublk_engine_queue *engine,
		     enum vublk_engine_op op, uint64_t sector, uint64_t bytes)
{
	const struct vublk_disk *disk = &request->queue->disk;

	if (!is_within(disk, sector, bytes) || (op == VUBLK_OP_WRITE && disk->read_only)) {
		complete(request, VIRTIO_BLK_S_IOERR);
		return;
	}
	if (!bytes) {
		complete(request, VIRTIO_BLK_S_OK);
		return;
	}
	request->io.op = op;
	request->io.flags = op == VUBLK_OP_WRITE && disk->write_through ? VUBLK_IO_DURABLE : 0;
	request->io.offset = sector << VUBLK_SECTOR_SHIFT;
	request->io.bytes = bytes;
	submit(request, engine);
}

static void flush(struct vublk_request *request, struct vublk_engine_queue *engine)
{
	request->io.op = VUBLK_OP_FLUSH;
	request->io.flags = 0;
	request->io.offset = 0;
	request->io.bytes = 0;
	submit(request, engine);
}

static void get_id(struct vublk_request *request, const struct iovec *iov, uint64_t bytes)
{
	const char *from = request->queue->disk.serial;
	size_t left = VUBLK_MIN(bytes, (uint64_t)VUBLK_BLK_ID_BYTES);

	request->written_bytes = (uint32_t)left + 1;
	for (; left; iov++) {
		size_t n = VUBLK_MIN(iov->iov_len, left);

		memcpy(iov->iov_base, from, n);
		from += n;
		left -= n;
	}
	complete(request, VIRTIO_BLK_S_OK);
}

/* --- discard and write zeroes ---------------------------------------------- */

static bool is_negotiated(const struct vublk_disk *disk, uint32_t type)
{
	return disk->features & (type == VIRTIO_BLK_T_DISCARD ?
				 VUBLK_BIT(VIRTIO_BLK_F_DISCARD) :
				 VUBLK_BIT(VIRTIO_BLK_F_WRITE_ZEROES));
}

/*
 * Returns the status of one range. UNSUPP is for unknown flags, and for a discard with the flag
 * unmap (virtio 1.3, section 5.2.6.2); IOERR is for a range that is too long or not within the
 * disk.
 */
static uint8_t check_range(const struct vublk_disk *disk, uint32_t type,
			   const struct virtio_blk_discard_write_zeroes *range)
{
	uint32_t known = type == VIRTIO_BLK_T_DISCARD ? 0 : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;

	if (range->flags & ~known)
		return VIRTIO_BLK_S_UNSUPP;
	if (range->num_sectors > VUBLK_BACKEND_MAX_RANGE_SECTORS ||
	    !vublk_range_within(range->sector, range->num_sectors, disk->capacity_sectors))
		return VIRTIO_BLK_S_IOERR;
	return VIRTIO_BLK_S_OK;
}

/*
 * Submits the next range that is not empty, or completes the request after the last range. If the
 * queue is suspended, leaves the request for the next back-end, which may execute earlier ranges
 * again. Executing a range twice is harmless while the request is not complete.
 */
static void next_range(struct vublk_request *request, struct vublk_engine_queue *engine)
{
	while (request->next_range < request->num_ranges) {
		const struct virtio_blk_discard_write_zeroes *range =
			&request->ranges[request->next_range++];

		if (!range->num_sectors)
			continue;
		if (request->queue->suspends) {
			if (request->stats)
				vublk_statistics_leave(request);
			vublk_queue_leave(request->queue, request);
			return;
		}
		if (range->flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP)
			request->io.flags |= VUBLK_IO_MAY_UNMAP;
		else
			request->io.flags &= ~VUBLK_IO_MAY_UNMAP;
		request->io.offset = range->sector << VUBLK_SECTOR_SHIFT;
		request->io.bytes = (uint64_t)range->num_sectors << VUBLK_SECTOR_SHIFT;
		submit(request, engine);
		return;
	}
	complete(request, VIRTIO_BLK_S_OK);
}

static void begin_ranges(struct vublk_request *request, struct vublk_engine_queue *engine,
			 uint32_t type, struct vublk_blk_buffers *readable, uint64_t bytes)
{
	const struct vublk_disk *disk = &request->queue->disk;
	uint8_t status = VIRTIO_BLK_S_OK;

	if (!is_negotiated(disk, type)) {
		complete(request, VIRTIO_BLK_S_UNSUPP);
		return;
	}
	if (disk->read_only || !bytes || bytes % RANGE_BYTES ||
	    bytes / RANGE_BYTES > VUBLK_BACKEND_MAX_RANGES) {
		complete(request, VIRTIO_BLK_S_IOERR);
		return;
	}
	vublk_blk_take_front(readable, request->ranges, bytes);
	request->num_ranges = (unsigned)(bytes / RANGE_BYTES);
	request->next_range = 0;
	for (unsigned i = 0; i < request->num_ranges && status == VIRTIO_BLK_S_OK; i++)
		status = check_range(disk, type, &request->ranges[i]);
	if (status != VIRTIO_BLK_S_OK) {
		complete(request, status);
		return;
	}
	request->io.op = type == VIRTIO_BLK_T_DISCARD ? VUBLK_OP_DISCARD : VUBLK_OP_WRITE_ZEROES;
	request->io.flags = disk->write_through ? VUBLK_IO_DURABLE : 0;
	next_range(request, engine);
}

/* --- beginning and end ----------------------------------------------------- */

static void dispatch(struct vublk_request *request, struct vublk_engine_queue *engine,
		     const struct virtio_blk_outhdr *header, struct vublk_blk_buffers *readable)
{
	struct vublk_chain *chain = &request->chain;
	uint64_t out_bytes = chain->out_bytes - VUBLK_BLK_HEADER_BYTES;
	uint64_t in_bytes = chain->in_bytes - 1;

	request->written_bytes = 1;
	switch (header->type) {
	case VIRTIO_BLK_T_IN:
		request->written_bytes = (uint32_t)in_bytes + 1;
		request->io.iov = &chain->iov[chain->num_out];
		request->io.num_iov = chain->num_in;
		note_written(request);
		transfer(request, engine, VUBLK_OP_READ, header->sector, in_bytes);
		break;
	case VIRTIO_BLK_T_OUT:
		request->io.iov = readable->iov;
		request->io.num_iov = readable->num;
		transfer(request, engine, VUBLK_OP_WRITE, header->sector, out_bytes);
		break;
	case VIRTIO_BLK_T_FLUSH:
		flush(request, engine);
		break;
	case VIRTIO_BLK_T_GET_ID:
		note_written(request);
		get_id(request, &chain->iov[chain->num_out], in_bytes);
		break;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		begin_ranges(request, engine, header->type, readable, out_bytes);
		break;
	default:
		complete(request, VIRTIO_BLK_S_UNSUPP);
		break;
	}
}

void vublk_request_begin(struct vublk_request *request, struct vublk_engine_queue *engine)
{
	struct vublk_chain *chain = &request->chain;
	/* guest_addrs stays NULL, because the guest addresses of the buffers are not needed. */
	struct vublk_blk_buffers readable = { .iov = chain->iov, .num = chain->num_out };
	struct vublk_blk_buffers writable = {
		.iov = &chain->iov[chain->num_out], .num = chain->num_in,
	};
	struct virtio_blk_outhdr header;

	if (!chain->in_bytes) {
		if (!vublk_fault_happened(request->queue->fault))
			vublk_log_limited(request->queue->log, request->queue->limit,
					  VUBLK_LOG_WARNING, "queue %u: the request at descriptor "
					  "%u has no room for a status", request->queue->index,
					  chain->head);
		vublk_queue_push(request->queue, request, 0);
		return;
	}
	request->num_dirty = 0;
	request->num_ranges = 0;
	request->stats = NULL;
	request->status = vublk_blk_take_status(&writable);
	chain->num_in = writable.num;
	if (chain->out_bytes < VUBLK_BLK_HEADER_BYTES) {
		complete(request, VIRTIO_BLK_S_IOERR);
		return;
	}
	vublk_blk_take_header(&readable, &header);
	VUBLK_PROBE4(backend_submit, request->queue->index, chain->head, header.type, header.sector);
	if (VUBLK_UNLIKELY(vublk_load_relaxed(request->queue->statistics->is_on)))
		vublk_statistics_begin(request, header.type, header.type == VIRTIO_BLK_T_IN ?
				       chain->in_bytes - 1 : header.type == VIRTIO_BLK_T_OUT ?
				       chain->out_bytes - VUBLK_BLK_HEADER_BYTES : 0);
	dispatch(request, engine, &header, &readable);
}

void vublk_request_done(struct vublk_request *request, struct vublk_engine_queue *engine)
{
	bool has_ranges = request->io.op == VUBLK_OP_DISCARD ||
			  request->io.op == VUBLK_OP_WRITE_ZEROES;

	vublk_kill_point("after-io");
	if (request->io.result)
		complete(request, VIRTIO_BLK_S_IOERR);
	else if (has_ranges)
		next_range(request, engine);
	else
		complete(request, VIRTIO_BLK_S_OK);
}
