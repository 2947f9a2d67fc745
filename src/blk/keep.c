/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The copies of a queue's completed writes (replay.h).
 *
 * Key idea: room is reserved before a piece is put on the ring, so each piece can be copied when it
 * completes. A piece is never larger than a quarter of the queue's stream, so it fits once flushes
 * have freed room. While there is no room for a piece, its request stays in the list `cutting`, and
 * later requests wait behind it.
 */
#include "blk/replay.h"

#include "blk/piece.h"

#include <errno.h>
#include <string.h>

bool vublk_blk_keep_reserve(struct vublk_blk_queue *queue, const struct vublk_blk_request *request,
			    uint64_t bytes)
{
	uint64_t room = vublk_write_log_room(request->type, bytes);

	if (!vublk_blk_type_is_write(request->type))
		return true;
	if (vublk_write_log_reserve(queue->stream, room))
		return true;
	vublk_write_log_collect(queue->write_log, queue->stream);
	if (vublk_write_log_reserve(queue->stream, room))
		return true;
	queue->wants_flush = true;
	return false;
}

void vublk_blk_keep_release(struct vublk_blk_queue *queue, uint32_t type, uint64_t bytes)
{
	if (vublk_blk_type_is_write(type))
		vublk_write_log_release(queue->stream, vublk_write_log_room(type, bytes));
}

/* Copies `bytes` bytes of data to `to`, beginning at the position of `cursor`. */
static void copy_data(char *to, struct vublk_blk_cursor cursor, uint64_t bytes)
{
	while (bytes) {
		const struct iovec *iov = &cursor.iov[cursor.index];
		uint64_t n = VUBLK_MIN(bytes, (uint64_t)(iov->iov_len - cursor.offset));

		memcpy(to, (const char *)iov->iov_base + cursor.offset, n);
		to += n;
		bytes -= n;
		cursor.index++;
		cursor.offset = 0;
	}
}

void vublk_blk_keep_copy(struct vublk_blk_queue *queue, const struct vublk_blk_slot *slot,
			 uint8_t status)
{
	const struct vublk_blk_request *request = slot->request;
	void *to;

	if (status != VIRTIO_BLK_S_OK) {
		vublk_blk_keep_release(queue, request->type, slot->bytes);
		return;
	}
	to = vublk_write_log_append(queue->write_log, queue->stream, request->type, request->flags,
				    slot->offset, slot->bytes);
	if (request->type == VIRTIO_BLK_T_OUT)
		copy_data(to, slot->cursor, slot->bytes);
	if (!vublk_write_log_is_half_full(queue->stream))
		return;
	vublk_write_log_collect(queue->write_log, queue->stream); /* flushes of other queues may
								     have made entries stable */
	queue->wants_flush = vublk_write_log_is_half_full(queue->stream);
}

void vublk_blk_keep_flushed(struct vublk_blk_queue *queue, const struct vublk_blk_request *request,
			    int result)
{
	if (request == &queue->own_flush)
		queue->own_flush_failed = result;
	if (result)
		return;
	vublk_write_log_trim(queue->write_log, request->log_mark);
	vublk_write_log_collect(queue->write_log, queue->stream);
}

void vublk_blk_keep_reset(struct vublk_blk_queue *queue)
{
	queue->stream->reserved_bytes = 0;
	queue->own_flush = (struct vublk_blk_request){ 0 };
	queue->own_flush_failed = queue->wants_flush = false;
}
