/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The public calls that add a request to a queue. queue.c puts requests on the ring and completes
 * them.
 *
 * Key idea: all arguments are checked here, where the call can still fail, so the ring never has a
 * request that the device would have to refuse.
 */
#include "blk/plain.h"
#include "blk/queue.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/probe.h"

#include <errno.h>
#include <inttypes.h>

/* Returns the name of a type for error texts. */
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

/*
 * Refuses flags that are unknown or not in `allowed`. To ignore them would be wrong, because the
 * caller may rely on their effect.
 */
static int check_flags(uint32_t type, uint32_t flags, uint32_t allowed, struct vublk_error *error)
{
	uint32_t known = VUBLK_BLK_FUA | VUBLK_BLK_NO_UNMAP;

	if (flags & ~known)
		return vublk_error_set(error, EINVAL, "%s: flag 0x%x is unknown to this version of "
				       "libvublk", name_of(type), flags & ~known);
	if (flags & ~allowed)
		return vublk_error_set(error, EINVAL, "%s: flag %s is not allowed", name_of(type),
				       flags & ~allowed & VUBLK_BLK_FUA ? "VUBLK_BLK_FUA" :
									  "VUBLK_BLK_NO_UNMAP");
	return 0;
}

/*
 * Sets `fua` of a new request if the request has to be followed by a flush. Without FLUSH, every
 * write is stable when it completes, so the flag VUBLK_BLK_FUA has no effect.
 */
static void set_fua(const struct vublk_blk_queue *queue, struct vublk_blk_request *request,
		    uint32_t flags)
{
	if (!(flags & VUBLK_BLK_FUA) || !(queue->features & VUBLK_BIT(VIRTIO_BLK_F_FLUSH)))
		return;
	request->fua = VUBLK_BLK_FUA_WRITE;
	request->failures_before = vublk_blk_flush_failures(queue->flushes);
}

/* Checks that the queue accepts requests and that a request is free. */
static int check_queue(const struct vublk_blk_queue *queue, uint32_t type,
		       struct vublk_error *error)
{
	if (queue->state > VUBLK_BLK_QUEUE_REPLAYS)
		return vublk_error_set(error, queue->failure.code, "%s: %s", name_of(type),
				       queue->failure.text);
	if (!queue->free)
		return vublk_error_set(error, EAGAIN, "%s: queue %u already has %u requests in "
				       "flight, as many as it has entries; take completions first",
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
 * Returns whether the range consists of whole blocks, or of whole blocks up to the end of the disk.
 * The capacity need not be a multiple of the block size, so the disk may end inside a block.
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
		return vublk_error_set(error, EINVAL, "%s of 0 bytes at byte %" PRIu64 ": expected "
				       "at least 1 byte", name_of(type), offset);
	if (!is_whole_blocks(offset, bytes, capacity, block))
		return vublk_error_set(error, EINVAL, "%s of %" PRIu64 " bytes at byte "
				       "%" PRIu64 ": expected multiples of the block size, %u "
				       "bytes, for both numbers%s",
				       name_of(type), bytes, offset, block,
				       capacity & (block - 1) ?
				       " (a request up to the end of the disk may be "
				       "shorter)" : "");
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
		return vublk_error_set(error, EINVAL, "%s: the iovec count is %d, but %s",
				       name_of(type), iovcnt, iovcnt < 0 ? "must be at least 0" :
				       "the array of iovecs is NULL");
	for (int i = 0; i < iovcnt; i++) {
		if (iov[i].iov_len > VUBLK_BLK_MAX_REQUEST_BYTES - bytes)
			return vublk_error_set(error, EINVAL, "%s of more than %" PRIu64 " bytes, "
					       "which is the maximum; split it into several "
					       "requests",
					       name_of(type), VUBLK_BLK_MAX_REQUEST_BYTES);
		bytes += iov[i].iov_len;
	}
	*sum = bytes;
	return 0;
}

/*
 * Checks the buffers of a request by cutting the whole request without issuing it. Fails if a
 * buffer cannot be used.
 */
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
					       "%s: a block of %u bytes is spread over too many "
					       "buffers, because the back-end accepts at most %u "
					       "segment%s per request; use larger buffers",
					       name_of(type), queue->limits.block_bytes,
					       queue->limits.max_segments,
					       queue->limits.max_segments == 1 ? "" : "s");
	}
	return 0;
}

static int check_data(struct vublk_blk_queue *queue, uint32_t type, uint64_t offset,
		      const struct iovec *iov, int iovcnt, uint32_t flags, uint64_t *bytes,
		      struct vublk_error *error)
{
	int r = check_flags(type, flags, type == VIRTIO_BLK_T_OUT ? VUBLK_BLK_FUA : 0, error);

	if (!r)
		r = check_queue(queue, type, error);
	if (!r && type == VIRTIO_BLK_T_OUT)
		r = check_writable(queue, type, error);
	if (!r)
		r = sum_iov(type, iov, iovcnt, bytes, error);
	if (!r)
		r = check_range(queue, type, offset, *bytes, error);
	return r ? r : check_memory(queue, type, iov, iovcnt, *bytes, error);
}

/* Starts a read or write. If `single` is not NULL, it is the only buffer, and `iov` is not used. */
static void start_data(struct vublk_blk_queue *queue, uint32_t type, uint64_t offset,
		       uint64_t bytes, const struct iovec *iov, int iovcnt,
		       const struct iovec *single, uint32_t flags, void *user_data)
{
	struct vublk_blk_request *request = vublk_blk_queue_get_request(queue);

	request->type = type;
	request->offset = offset;
	request->left = bytes;
	set_fua(queue, request, flags);
	request->user_data = user_data;
	if (single) {
		request->single = *single;
		iov = &request->single;
		iovcnt = 1;
	}
	request->cursor = (struct vublk_blk_cursor){ iov, iovcnt, 0, 0 };
	VUBLK_PROBE5(blk_submit, queue->index, type, offset, bytes, user_data);
	if (queue->statistics)
		vublk_blk_statistics_begin(queue, request);
	vublk_blk_queue_start(queue, request);
}

static VUBLK_COLD int transfer_any(struct vublk_blk_queue *queue, uint32_t type, uint64_t offset,
				   void *buffer, size_t length, uint32_t flags, void *user_data,
				   struct vublk_error *error)
{
	const struct iovec single = { buffer, length };
	uint64_t bytes;
	int r = check_data(queue, type, offset, &single, 1, flags, &bytes, error);

	if (!r)
		start_data(queue, type, offset, bytes, NULL, 0, &single, flags, user_data);
	return r;
}

static VUBLK_ALWAYS_INLINE int transfer(struct vublk_blk_queue *queue, uint32_t type,
					uint64_t offset, void *buffer, size_t length,
					uint32_t flags, void *user_data,
					struct vublk_error *error)
{
	int r = 0;

	vublk_blk_gate_enter(&queue->gate);
	if (VUBLK_UNLIKELY(flags || !vublk_blk_plain_start(queue, type, offset, buffer, length,
							    user_data)))
		r = transfer_any(queue, type, offset, buffer, length, flags, user_data, error);
	vublk_blk_gate_leave(&queue->gate);
	return r;
}

static int transferv(struct vublk_blk_queue *queue, uint32_t type, uint64_t offset,
		     const struct iovec *iov, int iovcnt, uint32_t flags, void *user_data,
		     struct vublk_error *error)
{
	uint64_t bytes;
	int r;

	vublk_blk_gate_enter(&queue->gate);
	r = check_data(queue, type, offset, iov, iovcnt, flags, &bytes, error);
	if (!r)
		start_data(queue, type, offset, bytes, iov, iovcnt, NULL, flags, user_data);
	vublk_blk_gate_leave(&queue->gate);
	return r;
}

int vublk_blk_read(struct vublk_blk_queue *queue, uint64_t offset, void *buffer, size_t bytes,
		   uint32_t flags, void *user_data, struct vublk_error *error)
{
	return transfer(queue, VIRTIO_BLK_T_IN, offset, buffer, bytes, flags, user_data, error);
}

int vublk_blk_write(struct vublk_blk_queue *queue, uint64_t offset, const void *buffer,
		    size_t bytes, uint32_t flags, void *user_data, struct vublk_error *error)
{
	return transfer(queue, VIRTIO_BLK_T_OUT, offset, (void *)(uintptr_t)buffer, bytes,
			flags, user_data, error);
}

int vublk_blk_readv(struct vublk_blk_queue *queue, uint64_t offset, const struct iovec *iov,
		    int iovcnt, uint32_t flags, void *user_data, struct vublk_error *error)
{
	return transferv(queue, VIRTIO_BLK_T_IN, offset, iov, iovcnt, flags, user_data, error);
}

int vublk_blk_writev(struct vublk_blk_queue *queue, uint64_t offset, const struct iovec *iov,
		     int iovcnt, uint32_t flags, void *user_data, struct vublk_error *error)
{
	return transferv(queue, VIRTIO_BLK_T_OUT, offset, iov, iovcnt, flags, user_data, error);
}

/* --- the others ------------------------------------------------------------------------ */

/* The arguments of a request without a data buffer: flush, discard, write zeroes, or get-id. */
struct command {
	uint32_t type;
	uint32_t allowed_flags;
	uint64_t max_bytes; /* of one piece of a discard or write zeroes; 0: the disk does not
			       support the request */
	uint32_t range_flags; /* the flags of the segment on the ring */
	uint64_t offset, bytes;
	char *id;
};

static int check_command(const struct vublk_blk_queue *queue, const struct command *command,
			 uint32_t flags, struct vublk_error *error)
{
	int r = check_flags(command->type, flags, command->allowed_flags, error);

	if (!r)
		r = check_queue(queue, command->type, error);
	if (r || command->type == VIRTIO_BLK_T_FLUSH || command->type == VIRTIO_BLK_T_GET_ID)
		return r;
	r = check_writable(queue, command->type, error);
	if (!r && !command->max_bytes)
		r = vublk_error_set(error, ENOTSUP, "%s: the back-end does not support this "
				    "request",
				    name_of(command->type));
	return r ? r : check_range(queue, command->type, command->offset, command->bytes, error);
}

/*
 * Returns whether the request need not be sent. Without FLUSH a write is stable when it completes,
 * so a flush has nothing to do. With FLUSH a flush is always sent, because some back-ends have a
 * cache although their config says "write-through".
 */
static bool is_done_already(const struct vublk_blk_queue *queue, const struct command *command)
{
	return command->type == VIRTIO_BLK_T_FLUSH &&
	       !(queue->features & VUBLK_BIT(VIRTIO_BLK_F_FLUSH));
}

static void start_command(struct vublk_blk_queue *queue, const struct command *command,
			  uint32_t flags, void *user_data)
{
	struct vublk_blk_request *request = vublk_blk_queue_get_request(queue);

	request->type = command->type;
	request->flags = command->range_flags;
	set_fua(queue, request, flags);
	request->offset = command->offset;
	request->left = command->bytes;
	request->id = command->id;
	request->user_data = user_data;
	VUBLK_PROBE5(blk_submit, queue->index, command->type, command->offset, command->bytes,
		     user_data);
	if (queue->statistics)
		vublk_blk_statistics_begin(queue, request);
	if (is_done_already(queue, command))
		vublk_blk_queue_finish(queue, request, 0);
	else if (command->type == VIRTIO_BLK_T_FLUSH && queue->replay_fails)
		vublk_blk_queue_finish(queue, request, -EIO);
	else
		vublk_blk_queue_start(queue, request);
}

/*
 * Fails the first flush after a loss in which completed writes may have been lost. Writes after the
 * loss are not affected, so later flushes may succeed.
 */
static int check_lost_writes(struct vublk_blk_queue *queue, const struct command *command,
			     struct vublk_error *error)
{
	if (command->type != VIRTIO_BLK_T_FLUSH || !queue->flush_fails)
		return 0;
	queue->flush_fails = false;
	return vublk_error_set(error, EOWNERDEAD,
			       "flush: the connection to a back-end was lost before completed "
			       "writes were flushed, so these writes may be lost; write them again "
			       "(or set unflushed=trust if the back-end keeps completed writes)");
}

static int add_command(struct vublk_blk_queue *queue, const struct command *command,
		       uint32_t flags, void *user_data, struct vublk_error *error)
{
	int r;

	vublk_blk_gate_enter(&queue->gate);
	r = check_command(queue, command, flags, error);
	if (!r)
		r = check_lost_writes(queue, command, error);
	if (!r)
		start_command(queue, command, flags, user_data);
	vublk_blk_gate_leave(&queue->gate);
	return r;
}

int vublk_blk_flush(struct vublk_blk_queue *queue, uint32_t flags, void *user_data,
		    struct vublk_error *error)
{
	const struct command command = { .type = VIRTIO_BLK_T_FLUSH };

	return add_command(queue, &command, flags, user_data, error);
}

int vublk_blk_discard(struct vublk_blk_queue *queue, uint64_t offset, uint64_t bytes,
		      uint32_t flags, void *user_data, struct vublk_error *error)
{
	const struct command command = {
		.type = VIRTIO_BLK_T_DISCARD,
		.allowed_flags = VUBLK_BLK_FUA,
		.max_bytes = queue->limits.max_discard_bytes,
		.offset = offset,
		.bytes = bytes,
	};

	return add_command(queue, &command, flags, user_data, error);
}

int vublk_blk_write_zeroes(struct vublk_blk_queue *queue, uint64_t offset, uint64_t bytes,
			   uint32_t flags, void *user_data, struct vublk_error *error)
{
	bool unmap = !(flags & VUBLK_BLK_NO_UNMAP) && queue->may_unmap;
	const struct command command = {
		.type = VIRTIO_BLK_T_WRITE_ZEROES,
		.allowed_flags = VUBLK_BLK_FUA | VUBLK_BLK_NO_UNMAP,
		.max_bytes = queue->limits.max_write_zeroes_bytes,
		.range_flags = unmap ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0,
		.offset = offset,
		.bytes = bytes,
	};

	return add_command(queue, &command, flags, user_data, error);
}

int vublk_blk_get_id(struct vublk_blk_queue *queue, char id[VUBLK_BLK_ID_SIZE], uint32_t flags,
		     void *user_data, struct vublk_error *error)
{
	const struct command command = { .type = VIRTIO_BLK_T_GET_ID, .id = id };

	return add_command(queue, &command, flags, user_data, error);
}
