/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an application may ask of a queue: the arguments of each request are
 * checked here, all of them, so that nothing that the device would refuse gets as
 * far as the ring. What happens to a request then is in queue.c.
 */
#include "blk/plain.h"
#include "blk/queue.h"

#include "util/checked.h"
#include "util/error.h"

#include <errno.h>
#include <inttypes.h>

/* The words for a type in errors. */
static const char *name_of(uint32_t type)
{
	switch (type) {
	case VIRTIO_BLK_T_IN:
		return "read";
	case VIRTIO_BLK_T_OUT:
		return "write";
	case VIRTIO_BLK_T_DISCARD:
		return "discard";
	case VIRTIO_BLK_T_WRITE_ZEROES:
		return "write zeroes";
	case VIRTIO_BLK_T_FLUSH:
		return "flush";
	default:
		return "get-id";
	}
}

/* Whether the queue takes a request at all: it works and has room. */
static int check_queue(const struct vublk_blk_queue *queue, uint32_t type,
		       struct vublk_error *error)
{
	if (queue->state != VUBLK_BLK_QUEUE_WORKS)
		return vublk_error_set(error, queue->failure.code, "%s: %s", name_of(type),
				       queue->failure.text);
	if (!queue->free)
		return vublk_error_set(error, EAGAIN, "%s: queue %u has %u requests in flight, as "
				       "many as its size: take completions first",
				       name_of(type), queue->index, queue->in_flight);
	return 0;
}

static int check_writable(const struct vublk_blk_queue *queue, uint32_t type,
			  struct vublk_error *error)
{
	if (queue->features & VUBLK_BIT(VIRTIO_BLK_F_RO))
		return vublk_error_set(error, EROFS, "%s: the disk is read-only", name_of(type));
	return 0;
}

/*
 * The protocol counts in sectors, and a capacity need not be a multiple of the block size: only
 * what ends at the disk's end may have part of a block.
 */
static bool is_whole_blocks(uint64_t offset, uint64_t bytes, uint64_t capacity, uint32_t block)
{
	return !(offset & (block - 1)) && (!(bytes & (block - 1)) || bytes == capacity - offset);
}

static int check_range(const struct vublk_blk_queue *queue, uint32_t type, uint64_t offset,
		       uint64_t bytes, struct vublk_error *error)
{
	uint64_t capacity = vublk_load_relaxed(queue->capacity_bytes);
	uint32_t block = queue->limits.block_bytes;

	if (!bytes)
		return vublk_error_set(error, EINVAL, "%s of 0 bytes at byte %" PRIu64
				       ": there is nothing to do", name_of(type), offset);
	if (!is_whole_blocks(offset, bytes, capacity, block))
		return vublk_error_set(error, EINVAL, "%s of %" PRIu64 " bytes at byte %" PRIu64
				       ": both must be multiples of the block size %u%s",
				       name_of(type), bytes, offset, block,
				       capacity & (block - 1) ?
				       ", except for the bytes up to the end of the disk" : "");
	if (!vublk_range_within(offset, bytes, capacity))
		return vublk_error_set(error, EINVAL, "%s of %" PRIu64 " bytes at byte %" PRIu64
				       ": the disk ends at byte %" PRIu64,
				       name_of(type), bytes, offset, capacity);
	return 0;
}

/* --- read and write ------------------------------------------------------------------ */

static int sum_iov(uint32_t type, const struct iovec *iov, int iovcnt, uint64_t *sum,
		   struct vublk_error *error)
{
	uint64_t bytes = 0;

	if (iovcnt < 0 || (iovcnt && !iov))
		return vublk_error_set(error, EINVAL, "%s: an iovec of %d elements is none",
				       name_of(type), iovcnt);
	for (int i = 0; i < iovcnt; i++) {
		if (iov[i].iov_len > VUBLK_BLK_MAX_REQUEST_BYTES - bytes)
			return vublk_error_set(error, EINVAL, "%s of more than %" PRIu64
					       " bytes: make it several requests",
					       name_of(type), VUBLK_BLK_MAX_REQUEST_BYTES);
		bytes += iov[i].iov_len;
	}
	*sum = bytes;
	return 0;
}

/* Cuts the whole request once for the sake of the answer: a later failure has no caller. */
static int check_memory(struct vublk_blk_queue *queue, uint32_t type, const struct iovec *iov,
			int iovcnt, uint64_t bytes, struct vublk_error *error)
{
	struct vublk_blk_cursor cursor = { iov, iovcnt, 0, 0 };
	unsigned num;
	int64_t n;

	for (; bytes; bytes -= (uint64_t)n) {
		n = vublk_blk_split_next(&queue->limits, queue->regions, &queue->cache, &cursor,
					 bytes, queue->buffers, &num);
		if (n == -EFAULT)
			return vublk_error_set(error, EINVAL,
					       "%s: the buffer at %p is not in memory from "
					       "vublk_blk_alloc() or vublk_blk_register()",
					       name_of(type),
					       (char *)iov[cursor.index].iov_base + cursor.offset);
		if (n < 0)
			return vublk_error_set(error, EINVAL,
					       "%s: a block of %u bytes is scattered over more than "
					       "the %u segments that the device takes: use larger "
					       "pieces", name_of(type), queue->limits.block_bytes,
					       queue->limits.max_segments);
	}
	return 0;
}

static int check_data(struct vublk_blk_queue *queue, uint32_t type, uint64_t offset,
		      const struct iovec *iov, int iovcnt, uint64_t *bytes,
		      struct vublk_error *error)
{
	int r = check_queue(queue, type, error);

	if (!r && type == VIRTIO_BLK_T_OUT)
		r = check_writable(queue, type, error);
	if (!r)
		r = sum_iov(type, iov, iovcnt, bytes, error);
	if (!r)
		r = check_range(queue, type, offset, *bytes, error);
	return r ? r : check_memory(queue, type, iov, iovcnt, *bytes, error);
}

/* `iov` NULL: the single buffer is the request's iovec. */
static void start_data(struct vublk_blk_queue *queue, uint32_t type, uint64_t offset,
		       uint64_t bytes, const struct iovec *iov, int iovcnt,
		       const struct iovec *single, void *user_data)
{
	struct vublk_blk_request *request = vublk_blk_queue_get_request(queue);

	request->type = type;
	request->offset = offset;
	request->left = bytes;
	request->user_data = user_data;
	if (single) {
		request->single = *single;
		iov = &request->single;
		iovcnt = 1;
	}
	request->cursor = (struct vublk_blk_cursor){ iov, iovcnt, 0, 0 };
	vublk_blk_queue_start(queue, request);
}

static VUBLK_COLD int transfer_any(struct vublk_blk_queue *queue, uint32_t type, uint64_t offset,
			void *buffer, size_t length, void *user_data, struct vublk_error *error)
{
	const struct iovec single = { buffer, length };
	uint64_t bytes;
	int r = check_data(queue, type, offset, &single, 1, &bytes, error);

	if (!r)
		start_data(queue, type, offset, bytes, NULL, 0, &single, user_data);
	return r;
}

static VUBLK_ALWAYS_INLINE int transfer(struct vublk_blk_queue *queue, uint32_t type,
					uint64_t offset, void *buffer, size_t length,
					void *user_data, struct vublk_error *error)
{
	int r = 0;

	vublk_blk_gate_enter(&queue->gate);
	if (VUBLK_UNLIKELY(!vublk_blk_plain_start(queue, type, offset, buffer, length, user_data)))
		r = transfer_any(queue, type, offset, buffer, length, user_data, error);
	vublk_blk_gate_leave(&queue->gate);
	return r;
}

static int transferv(struct vublk_blk_queue *queue, uint32_t type, uint64_t offset,
		     const struct iovec *iov, int iovcnt, void *user_data,
		     struct vublk_error *error)
{
	uint64_t bytes;
	int r;

	vublk_blk_gate_enter(&queue->gate);
	r = check_data(queue, type, offset, iov, iovcnt, &bytes, error);
	if (!r)
		start_data(queue, type, offset, bytes, iov, iovcnt, NULL, user_data);
	vublk_blk_gate_leave(&queue->gate);
	return r;
}

int vublk_blk_read(struct vublk_blk_queue *queue, uint64_t offset, void *buffer, size_t bytes,
		   void *user_data, struct vublk_error *error)
{
	return transfer(queue, VIRTIO_BLK_T_IN, offset, buffer, bytes, user_data, error);
}

int vublk_blk_write(struct vublk_blk_queue *queue, uint64_t offset, const void *buffer,
		    size_t bytes, void *user_data, struct vublk_error *error)
{
	return transfer(queue, VIRTIO_BLK_T_OUT, offset, (void *)(uintptr_t)buffer, bytes,
			user_data, error);
}

int vublk_blk_readv(struct vublk_blk_queue *queue, uint64_t offset, const struct iovec *iov,
		    int iovcnt, void *user_data, struct vublk_error *error)
{
	return transferv(queue, VIRTIO_BLK_T_IN, offset, iov, iovcnt, user_data, error);
}

int vublk_blk_writev(struct vublk_blk_queue *queue, uint64_t offset, const struct iovec *iov,
		     int iovcnt, void *user_data, struct vublk_error *error)
{
	return transferv(queue, VIRTIO_BLK_T_OUT, offset, iov, iovcnt, user_data, error);
}

/* --- the others ------------------------------------------------------------------------ */

/* What an application asked for besides data. */
struct wish {
	uint32_t type;
	uint64_t max_bytes; /* of a range: 0: not negotiated */
	uint32_t flags;
	uint64_t offset, bytes;
	char *id;
};

static int check_wish(const struct vublk_blk_queue *queue, const struct wish *wish,
		      struct vublk_error *error)
{
	int r = check_queue(queue, wish->type, error);

	if (r || wish->type == VIRTIO_BLK_T_FLUSH || wish->type == VIRTIO_BLK_T_GET_ID)
		return r;
	r = check_writable(queue, wish->type, error);
	if (!r && !wish->max_bytes)
		r = vublk_error_set(error, ENOTSUP, "%s: the back-end does not offer it",
				    name_of(wish->type));
	return r ? r : check_range(queue, wish->type, wish->offset, wish->bytes, error);
}

/*
 * A back-end that has FLUSH may hold data back whatever its config says of the
 * write cache (some say "write-through" and are not), so the flush always goes
 * out. One without FLUSH completes a write when it is stable: nothing to do.
 */
static bool is_done_already(const struct vublk_blk_queue *queue, const struct wish *wish)
{
	return wish->type == VIRTIO_BLK_T_FLUSH &&
	       !(queue->features & VUBLK_BIT(VIRTIO_BLK_F_FLUSH));
}

static void start_wish(struct vublk_blk_queue *queue, const struct wish *wish, void *user_data)
{
	struct vublk_blk_request *request = vublk_blk_queue_get_request(queue);

	request->type = wish->type;
	request->flags = wish->flags;
	request->offset = wish->offset;
	request->left = wish->bytes;
	request->id = wish->id;
	request->user_data = user_data;
	if (is_done_already(queue, wish))
		vublk_blk_queue_finish(queue, request, 0);
	else
		vublk_blk_queue_start(queue, request);
}

/* Once: the application knows then, and what it writes from here on is another matter. */
static int check_lost_writes(struct vublk_blk_queue *queue, const struct wish *wish,
			     struct vublk_error *error)
{
	if (wish->type != VIRTIO_BLK_T_FLUSH || !queue->flush_fails)
		return 0;
	queue->flush_fails = false;
	return vublk_error_set(error, EOWNERDEAD,
			       "flush: a back-end was lost that had completed writes, and no flush "
			       "had made them stable, so they may be lost: write them again (or set "
			       "unflushed=trust if the back-end keeps them)");
}

static int ask(struct vublk_blk_queue *queue, const struct wish *wish, void *user_data,
	       struct vublk_error *error)
{
	int r;

	vublk_blk_gate_enter(&queue->gate);
	r = check_wish(queue, wish, error);
	if (!r)
		r = check_lost_writes(queue, wish, error);
	if (!r)
		start_wish(queue, wish, user_data);
	vublk_blk_gate_leave(&queue->gate);
	return r;
}

int vublk_blk_flush(struct vublk_blk_queue *queue, void *user_data, struct vublk_error *error)
{
	const struct wish wish = { .type = VIRTIO_BLK_T_FLUSH };

	return ask(queue, &wish, user_data, error);
}

int vublk_blk_discard(struct vublk_blk_queue *queue, uint64_t offset, uint64_t bytes,
		      void *user_data, struct vublk_error *error)
{
	const struct wish wish = {
		.type = VIRTIO_BLK_T_DISCARD,
		.max_bytes = queue->limits.max_discard_bytes,
		.offset = offset,
		.bytes = bytes,
	};

	return ask(queue, &wish, user_data, error);
}

int vublk_blk_write_zeroes(struct vublk_blk_queue *queue, uint64_t offset, uint64_t bytes,
			   bool unmap, void *user_data, struct vublk_error *error)
{
	const struct wish wish = {
		.type = VIRTIO_BLK_T_WRITE_ZEROES,
		.max_bytes = queue->limits.max_write_zeroes_bytes,
		.flags = unmap && queue->may_unmap ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0,
		.offset = offset,
		.bytes = bytes,
	};

	return ask(queue, &wish, user_data, error);
}

int vublk_blk_get_id(struct vublk_blk_queue *queue, char id[VUBLK_BLK_ID_SIZE], void *user_data,
		     struct vublk_error *error)
{
	const struct wish wish = { .type = VIRTIO_BLK_T_GET_ID, .id = id };

	return ask(queue, &wish, user_data, error);
}
