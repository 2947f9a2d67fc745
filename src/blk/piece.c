/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Puts one piece of a request on the ring, from its header to its status byte, and interprets the
 * status (virtio 1.3, section 5.2.6). queue.c decides when a piece is put on the ring.
 *
 * Key idea: header, data and status have separate descriptors, because some back-ends understand no
 * other framing. The header and the status of a slot have a fixed place in shared memory, so they
 * need no allocation and no address translation. The status is set to 0xff before the piece is
 * published. A piece that completes with 0xff therefore got no status, and counts as failed.
 */
#include "blk/piece.h"
#include "blk/replay.h"

#include "util/checked.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

/*
 * Where a piece begins, on the disk and in the buffers, and how many bytes of its request are not
 * cut yet.
 */
struct place {
	uint64_t offset, left;
	struct vublk_blk_cursor *cursor;
};

/* A piece that is ready for the ring. Its buffers are in queue->buffers. */
struct chain {
	unsigned num_out, num_in;
	uint64_t bytes; /* on the disk; 0 for a flush or get-id */
};

/*
 * Cuts a piece off a discard or write zeroes, and describes the piece in shared->segment. Returns
 * its number of bytes.
 */
static uint64_t cut_range(struct vublk_blk_queue *queue, const struct vublk_blk_request *request,
			  const struct place *place, struct vublk_blk_shared_slot *shared)
{
	bool discard = request->type == VIRTIO_BLK_T_DISCARD;
	uint64_t max = discard ? queue->limits.max_discard_bytes :
				 queue->limits.max_write_zeroes_bytes;
	uint64_t bytes = vublk_blk_split_range(place->offset, place->left, max,
					       discard ? queue->limits.discard_alignment_bytes : 1);

	shared->segment.sector = htole64(place->offset >> VUBLK_SECTOR_SHIFT);
	shared->segment.num_sectors = htole32((uint32_t)(bytes >> VUBLK_SECTOR_SHIFT));
	shared->segment.flags = htole32(request->flags);
	return bytes;
}

/*
 * Cuts a piece off a request of any type. Fills queue->buffers from index 1 on with the data, and
 * counts these buffers in `chain`. Returns the number of bytes on the disk, or a negative errno.
 */
static int64_t cut_data(struct vublk_blk_queue *queue, const struct vublk_blk_request *request,
			const struct place *place, struct vublk_blk_shared_slot *shared,
			uint64_t shared_addr, struct chain *chain)
{
	struct vublk_ring_buffer *data = &queue->buffers[1];
	unsigned num = 0;
	int64_t bytes = 0;

	switch (request->type) {
	case VIRTIO_BLK_T_IN:
	case VIRTIO_BLK_T_OUT:
		bytes = vublk_blk_split_next(&queue->limits, queue->regions, &queue->cache,
					     place->cursor, place->left, data, &num);
		*(request->type == VIRTIO_BLK_T_IN ? &chain->num_in : &chain->num_out) += num;
		break;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		bytes = (int64_t)cut_range(queue, request, place, shared);
		data->addr = shared_addr + offsetof(struct vublk_blk_shared_slot, segment);
		data->bytes = sizeof(shared->segment);
		chain->num_out++;
		break;
	case VIRTIO_BLK_T_GET_ID:
		data->addr = shared_addr + offsetof(struct vublk_blk_shared_slot, id);
		data->bytes = VUBLK_BLK_ID_BYTES;
		chain->num_in++;
		break;
	}
	return bytes;
}

static void fill_header(const struct vublk_blk_request *request, const struct place *place,
			struct vublk_blk_shared_slot *shared)
{
	bool has_sector = request->type == VIRTIO_BLK_T_IN || request->type == VIRTIO_BLK_T_OUT;

	vublk_blk_fill_header(shared, request->type,
			      has_sector ? place->offset >> VUBLK_SECTOR_SHIFT : 0);
}

/*
 * Returns whether an earlier write on the ring overlaps the range of a new write. If so, the new
 * write waits until the earlier write is complete. If it did not wait, the next back-end could
 * repeat the earlier write, after a loss, although the new write had already completed.
 */
static bool overlaps_write(struct vublk_blk_queue *queue, uint64_t offset, uint64_t bytes)
{
	if (!vublk_blk_overlap_is_possible(&queue->overlap, offset, bytes))
		return false;
	for (unsigned i = 0; i < queue->size; i++) {
		const struct vublk_blk_slot *slot = &queue->slots[i];

		if (slot->request && vublk_blk_type_is_write(slot->request->type) &&
		    vublk_ranges_overlap(slot->offset, slot->bytes, offset, bytes))
			return true;
	}
	return false;
}

static struct vublk_ring_indirect table_of(struct vublk_blk_queue *queue, unsigned count,
					   uint16_t token)
{
	unsigned first = token * queue->table_entries;

	if (!queue->has_indirect)
		return (struct vublk_ring_indirect){ NULL, 0 };
	if (count <= VUBLK_BLK_SLOT_TABLE)
		return (struct vublk_ring_indirect){
			queue->shared[token].table,
			queue->shared_addr + token * sizeof(queue->shared[0]) +
				offsetof(struct vublk_blk_shared_slot, table),
		};
	return (struct vublk_ring_indirect){
		&queue->tables[first], queue->tables_addr + first * sizeof(struct vring_desc),
	};
}

static int add_chain(struct vublk_blk_queue *queue, const struct chain *chain, uint16_t token)
{
	struct vublk_ring_indirect indirect = table_of(queue, chain->num_out + chain->num_in,
						       token);

	return vublk_driver_ring_add(&queue->ring, queue->buffers, chain->num_out, chain->num_in,
				     &indirect, token);
}

static int prepare(struct vublk_blk_queue *queue, const struct vublk_blk_request *request,
		   const struct place *place, uint16_t token, struct chain *chain)
{
	struct vublk_blk_shared_slot *shared = &queue->shared[token];
	uint64_t shared_addr = queue->shared_addr + token * sizeof(*shared);
	int64_t bytes;

	*chain = (struct chain){ .num_out = 1, .num_in = 1 };
	queue->buffers[0] = (struct vublk_ring_buffer){
		shared_addr + offsetof(struct vublk_blk_shared_slot, header),
		sizeof(shared->header),
	};
	bytes = cut_data(queue, request, place, shared, shared_addr, chain);
	if (bytes < 0)
		return (int)bytes;
	chain->bytes = (uint64_t)bytes;
	queue->buffers[chain->num_out + chain->num_in - 1] = (struct vublk_ring_buffer){
		shared_addr + offsetof(struct vublk_blk_shared_slot, status), 1,
	};
	fill_header(request, place, shared);
	return 0;
}

static int put_on_ring(struct vublk_blk_queue *queue, const struct vublk_blk_request *request,
		       uint64_t offset, uint16_t token, const struct chain *chain)
{
	int r = add_chain(queue, chain, token);

	if (r)
		return r;
	if (vublk_blk_type_is_write(request->type))
		vublk_blk_overlap_add(&queue->overlap, offset, chain->bytes);
	queue->unpublished = true;
	return 0;
}

/*
 * Puts a piece on the ring of a queue that has a log. A write needs room in the log (-ENOSPC: the
 * log is full), and a flush records the log's mark.
 */
static int put_logged(struct vublk_blk_queue *queue, struct vublk_blk_request *request,
		      uint64_t offset, uint16_t token, const struct chain *chain)
{
	int r;

	if (!vublk_blk_keep_reserve(queue, request, chain->bytes))
		return -ENOSPC;
	if (request->type == VIRTIO_BLK_T_FLUSH)
		request->log_mark = vublk_write_log_mark(queue->write_log);
	r = put_on_ring(queue, request, offset, token, chain);
	if (r)
		vublk_blk_keep_release(queue, request->type, chain->bytes);
	return r;
}

/*
 * Numbers a flush before it is published. If it is the queue's own flush, flushes of the
 * application may have to wait for it.
 */
static void note_flush(struct vublk_blk_queue *queue, struct vublk_blk_request *request)
{
	request->flush_number = vublk_blk_flush_begin(queue->flushes);
	if (request == &queue->own_flush)
		vublk_store_seq(&queue->own_in_flight, request->flush_number);
}

int vublk_blk_piece_issue(struct vublk_blk_queue *queue, struct vublk_blk_request *request)
{
	struct vublk_blk_cursor before = request->cursor;
	struct place place = { request->offset, request->left, &request->cursor };
	struct chain chain;
	uint16_t token;
	int r;

	if (!queue->num_free_slots ||
	    (queue->write_log && queue->state != VUBLK_BLK_QUEUE_WORKS))
		return 0; /* with a log, the disk's thread may be using the ring for a replay */
	token = queue->free_slots[queue->num_free_slots - 1];
	r = prepare(queue, request, &place, token, &chain);
	if (!r && vublk_blk_type_is_write(request->type) &&
	    overlaps_write(queue, place.offset, chain.bytes))
		r = -ENOSPC;
	if (!r && queue->write_log)
		r = put_logged(queue, request, place.offset, token, &chain);
	else if (!r)
		r = put_on_ring(queue, request, place.offset, token, &chain);
	if (r) {
		request->cursor = before;
		return r == -ENOSPC ? 0 : r;
	}
	if (request->type == VIRTIO_BLK_T_FLUSH)
		note_flush(queue, request);
	queue->num_free_slots--;
	queue->slots[token] = (struct vublk_blk_slot){
		.request = request,
		.sequence = queue->sequence++,
		.offset = request->offset,
		.bytes = chain.bytes,
		.cursor = before,
	};
	request->pieces++;
	request->offset += chain.bytes;
	request->left -= chain.bytes;
	return 1;
}

int vublk_blk_piece_issue_again(struct vublk_blk_queue *queue, uint16_t token)
{
	const struct vublk_blk_slot *slot = &queue->slots[token];
	struct vublk_blk_cursor cursor = slot->cursor;
	struct place place = { slot->offset, slot->bytes, &cursor };
	struct chain chain;
	int r = prepare(queue, slot->request, &place, token, &chain);

	if (!r && chain.bytes != slot->bytes)
		r = -EFAULT;
	return r ? r : put_on_ring(queue, slot->request, slot->offset, token, &chain);
}

static int result_of(struct vublk_blk_queue *queue, const struct vublk_blk_slot *slot,
		     uint8_t status)
{
	switch (status) {
	case VIRTIO_BLK_S_OK:
		return 0;
	case VIRTIO_BLK_S_IOERR:
		return -EIO;
	case VIRTIO_BLK_S_UNSUPP:
		return -ENOTSUP;
	case VUBLK_BLK_STATUS_UNTOUCHED:
		vublk_log_limited(queue->log, &queue->log_limit, VUBLK_LOG_ERROR,
				  "queue %u: the back-end completed a request of type %u at byte "
				  "%" PRIu64 " without writing a status; the request fails",
				  queue->index, slot->request->type, slot->offset);
		return -EPROTO;
	default:
		vublk_log_limited(queue->log, &queue->log_limit, VUBLK_LOG_ERROR,
				  "queue %u: the back-end completed a request of type %u at byte "
				  "%" PRIu64 " with the invalid status %u; the request fails",
				  queue->index, slot->request->type, slot->offset, status);
		return -EPROTO;
	}
}

/*
 * Returns the result of a get-id, and copies the identifier for the application. If the property
 * serial is set, its value replaces any answer of the back-end, even an error, unless the status is
 * invalid.
 */
static int judge_id(const struct vublk_blk_queue *queue, struct vublk_blk_request *request,
		    const struct vublk_blk_shared_slot *shared, int result)
{
	bool has_own = queue->serial[0] && result != -EPROTO;

	if (result && !has_own)
		return result;
	memcpy(request->id, has_own ? (const void *)queue->serial : shared->id,
	       VUBLK_BLK_ID_BYTES);
	request->id[VUBLK_BLK_ID_BYTES] = '\0';
	return 0;
}

void vublk_blk_piece_judge(struct vublk_blk_queue *queue, uint16_t token, uint8_t status)
{
	const struct vublk_blk_shared_slot *shared = &queue->shared[token];
	struct vublk_blk_slot *slot = &queue->slots[token];
	struct vublk_blk_request *request = slot->request;
	int result = result_of(queue, slot, status);

	if (request->type == VIRTIO_BLK_T_GET_ID)
		result = judge_id(queue, request, shared, result);
	if (request->type == VIRTIO_BLK_T_FLUSH)
		vublk_blk_flush_completed(queue, request, result);
	else if (!request->result)
		request->result = result;
}
