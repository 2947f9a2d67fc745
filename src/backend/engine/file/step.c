/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Turns a request to the file engine into a series of system calls.
 *
 * Key idea: a request is always in one stage. vublk_file_next() gets the result of the stage's last
 * call. It repeats the stage (after a short transfer), enters the next stage, or ends the request.
 * So the same few lines serve io_uring and blocking calls, short transfers, buffers that O_DIRECT
 * cannot use, and file systems that cannot punch holes.
 */
#include "backend/engine/file/file.h"

#include "util/atomic.h"
#include "util/checked.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_RETRIES 1000

enum stage {
	STAGE_DONE,
	STAGE_TRANSFER,   /* read or write, from and to the request's own buffers */
	STAGE_BOUNCE,     /* read or write through the engine's own aligned buffer */
	STAGE_PUNCH,      /* a hole: discard, or zeroes that may be unmapped */
	STAGE_ZERO_RANGE, /* zeroes whose blocks stay allocated */
	STAGE_ZEROS,      /* zeroes written as data */
	STAGE_DISCARD,    /* a discard on a block device */
	STAGE_SYNC,
};

static struct vublk_file *file_of(const struct vublk_file_queue *queue)
{
	return (struct vublk_file *)queue->queue.engine;
}

static const char *op_name(enum vublk_engine_op op)
{
	static const char *const names[] = {
		[VUBLK_OP_READ] = "read",
		[VUBLK_OP_WRITE] = "write",
		[VUBLK_OP_FLUSH] = "flush",
		[VUBLK_OP_DISCARD] = "discard",
		[VUBLK_OP_WRITE_ZEROES] = "write zeroes",
	};

	return names[op];
}

#define ADVICE_BYTES 128

/*
 * Returns the cause of the error `result`, or what to do about it, or an empty text if only the
 * error itself is known.
 */
static const char *advice(const struct vublk_file *file, const struct vublk_engine_io *io,
			  int result, char text[ADVICE_BYTES])
{
	struct stat st;

	if (result == -ENOSPC)
		return "; free some space on its file system";
	if (result == -EFAULT)
		return "; the request's data is in guest memory that cannot be accessed, probably "
		       "because the front-end truncated the file of that memory";
	if (result == -EINVAL && file->direct &&
	    ((io->offset | io->bytes) & (file->offset_align - 1)))
		return "; the request does not consist of whole blocks, which O_DIRECT requires "
		       "(cache=buffered can serve it)";
	if (result == -EIO && !file->block_device && !fstat(file->fd, &st) &&
	    (uint64_t)st.st_size < io->offset + io->bytes) {
		snprintf(text, ADVICE_BYTES, "; the image now has only %" PRIu64 " bytes",
			 (uint64_t)st.st_size);
		return text;
	}
	return "";
}

static void log_failure(struct vublk_file_queue *queue, const struct vublk_engine_io *io,
			int result)
{
	const struct vublk_file *file = file_of(queue);
	char range[64] = "", text[ADVICE_BYTES];

	if (io->op != VUBLK_OP_FLUSH)
		snprintf(range, sizeof(range), " of %" PRIu64 " bytes at offset %" PRIu64,
			 io->bytes, io->offset);
	vublk_log_limited(file->engine.host->log, &queue->limit, VUBLK_LOG_ERROR,
			  "%s%s of %s failed: %s%s", op_name(io->op), range,
			  file->engine.description, strerrordesc_np(-result),
			  advice(file, io, result, text));
}

/*
 * Ends a request and logs a failure. A request that makes data stable fails if writes were lost.
 * This failure is not logged, because the loss was logged when it was found.
 */
static int finish(struct vublk_file_queue *queue, struct vublk_engine_io *io, int result)
{
	const struct vublk_file *file = file_of(queue);
	bool is_refused = vublk_file_makes_stable(io) && vublk_file_has_lost_writes(file);

	free(state_of(io)->bounce);
	state_of(io)->bounce = NULL;
	state_of(io)->stage = STAGE_DONE;
	io->result = is_refused && !result ? -EIO : result;
	if (result && !is_refused)
		log_failure(queue, io, result);
	return 0;
}

/* --- the call that a stage needs ------------------------------------------- */

static bool is_durable(const struct vublk_engine_io *io)
{
	return io->flags & VUBLK_IO_DURABLE;
}

static int write_flags(const struct vublk_file *file, const struct vublk_engine_io *io)
{
	return is_durable(io) && file->dsync && !state_of(io)->durable_error ? RWF_DSYNC : 0;
}

static int step_transfer(const struct vublk_file *file, struct vublk_engine_io *io,
			 struct vublk_file_step *step)
{
	*step = (struct vublk_file_step){
		.call = io->op == VUBLK_OP_READ ? VUBLK_FILE_READ : VUBLK_FILE_WRITE,
		.flags = io->op == VUBLK_OP_WRITE ? write_flags(file, io) : 0,
		.offset = io->offset + state_of(io)->done_bytes,
		.bytes = io->bytes - state_of(io)->done_bytes,
		.iov = io->iov,
		.num_iov = io->num_iov,
	};
	return 1;
}

static void copy_from_iov(char *to, const struct iovec *iov, uint64_t bytes)
{
	for (; bytes; iov++) {
		size_t n = VUBLK_MIN((uint64_t)iov->iov_len, bytes);

		memcpy(to, iov->iov_base, n);
		to += n;
		bytes -= n;
	}
}

static void copy_to_iov(const struct iovec *iov, const char *from, uint64_t bytes)
{
	for (; bytes; iov++) {
		size_t n = VUBLK_MIN((uint64_t)iov->iov_len, bytes);

		memcpy(iov->iov_base, from, n);
		from += n;
		bytes -= n;
	}
}

static int step_bounce(const struct vublk_file *file, struct vublk_engine_io *io,
		       struct vublk_file_step *step)
{
	uint64_t piece = VUBLK_MIN(io->bytes - state_of(io)->done_bytes, VUBLK_FILE_PIECE_BYTES);

	step_transfer(file, io, step);
	if (io->op == VUBLK_OP_WRITE)
		copy_from_iov(state_of(io)->bounce, io->iov, piece);
	state_of(io)->own_iov.iov_base = state_of(io)->bounce;
	state_of(io)->own_iov.iov_len = piece;
	step->iov = &state_of(io)->own_iov;
	step->num_iov = 1;
	step->bytes = piece;
	return 1;
}

static int step_zeros(const struct vublk_file *file, struct vublk_engine_io *io,
		      struct vublk_file_step *step)
{
	uint64_t piece = VUBLK_MIN(io->bytes - state_of(io)->done_bytes, VUBLK_FILE_PIECE_BYTES);

	state_of(io)->own_iov = (struct iovec){ .iov_base = file->zeros, .iov_len = piece };
	*step = (struct vublk_file_step){
		.call = VUBLK_FILE_WRITE,
		.flags = write_flags(file, io),
		.offset = io->offset + state_of(io)->done_bytes,
		.bytes = piece,
		.iov = &state_of(io)->own_iov,
		.num_iov = 1,
	};
	return 1;
}

static int step_range(const struct vublk_engine_io *io, enum vublk_file_call call, int flags,
		      struct vublk_file_step *step)
{
	*step = (struct vublk_file_step){
		.call = call,
		.flags = flags,
		.offset = io->offset,
		.bytes = io->bytes,
	};
	return 1;
}

int vublk_file_step(struct vublk_file_queue *queue, struct vublk_engine_io *io,
		    struct vublk_file_step *step)
{
	switch (state_of(io)->stage) {
	case STAGE_TRANSFER:
		return step_transfer(file_of(queue), io, step);
	case STAGE_BOUNCE:
		return step_bounce(file_of(queue), io, step);
	case STAGE_PUNCH:
		return step_range(io, VUBLK_FILE_FALLOCATE,
				  FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, step);
	case STAGE_ZERO_RANGE:
		return step_range(io, VUBLK_FILE_FALLOCATE,
				  FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, step);
	case STAGE_ZEROS:
		return step_zeros(file_of(queue), io, step);
	case STAGE_DISCARD:
		return step_range(io, VUBLK_FILE_DISCARD, 0, step);
	case STAGE_SYNC:
		return step_range(io, VUBLK_FILE_SYNC, 0, step);
	default:
		return finish(queue, io, 0);
	}
}

/* --- from stage to stage --------------------------------------------------- */

/* Returns whether O_DIRECT can use the request's own buffers. */
static bool is_aligned(const struct vublk_file *file, const struct vublk_engine_io *io)
{
	uintptr_t addresses = 0, lengths = 0;

	for (unsigned i = 0; i < io->num_iov; i++) {
		addresses |= (uintptr_t)io->iov[i].iov_base;
		lengths |= io->iov[i].iov_len;
	}
	return !(addresses & (file->memory_align - 1)) && !(lengths & (file->offset_align - 1));
}

/* Makes the request use a buffer of its own, which O_DIRECT can use, for pieces of `bytes`. */
static int begin_bounce(const struct vublk_file *file, struct vublk_engine_io *io, uint64_t bytes)
{
	state_of(io)->stage = STAGE_BOUNCE;
	return -posix_memalign(&state_of(io)->bounce, VUBLK_MAX(file->memory_align, 4096u), bytes);
}

static int begin_transfer(struct vublk_file_queue *queue, struct vublk_engine_io *io)
{
	const struct vublk_file *file = file_of(queue);

	if (!file->direct || is_aligned(file, io)) {
		state_of(io)->stage = STAGE_TRANSFER;
		return 0;
	}
	return begin_bounce(file, io, VUBLK_MIN(io->bytes, VUBLK_FILE_PIECE_BYTES));
}

static enum stage first_stage_of_zeroes(const struct vublk_file *file,
					const struct vublk_engine_io *io)
{
	if ((io->flags & VUBLK_IO_MAY_UNMAP) && !vublk_load_relaxed(&file->no_punch))
		return STAGE_PUNCH;
	return vublk_load_relaxed(&file->no_zero_range) ? STAGE_ZEROS : STAGE_ZERO_RANGE;
}

static int begin_stage(struct vublk_file_queue *queue, struct vublk_engine_io *io)
{
	const struct vublk_file *file = file_of(queue);

	switch (io->op) {
	case VUBLK_OP_READ:
	case VUBLK_OP_WRITE:
		return begin_transfer(queue, io);
	case VUBLK_OP_FLUSH:
		state_of(io)->stage = file->engine.geometry.read_only ? STAGE_DONE : STAGE_SYNC;
		return 0;
	case VUBLK_OP_DISCARD:
		state_of(io)->stage = file->block_device ? STAGE_DISCARD :
			    vublk_load_relaxed(&file->no_punch) ? STAGE_DONE : STAGE_PUNCH;
		return 0;
	case VUBLK_OP_WRITE_ZEROES:
		state_of(io)->stage = first_stage_of_zeroes(file, io);
		return 0;
	}
	return -EINVAL;
}

int vublk_file_begin(struct vublk_file_queue *queue, struct vublk_engine_io *io,
		     struct vublk_file_step *step)
{
	int r;

	state_of(io)->done_bytes = 0;
	state_of(io)->retries = 0;
	state_of(io)->durable_error = 0;
	state_of(io)->sync = 0;
	state_of(io)->bounce = NULL;
	if (vublk_file_makes_stable(io) && vublk_file_has_lost_writes(file_of(queue)))
		return finish(queue, io, -EIO);
	r = begin_stage(queue, io);
	return r ? finish(queue, io, r) : vublk_file_step(queue, io, step);
}

static bool is_range_stage(const struct vublk_engine_io *io)
{
	return state_of(io)->stage == STAGE_PUNCH || state_of(io)->stage == STAGE_ZERO_RANGE ||
	       state_of(io)->stage == STAGE_DISCARD;
}

static bool is_write_stage(const struct vublk_engine_io *io)
{
	unsigned stage = state_of(io)->stage;

	return io->op != VUBLK_OP_READ && (stage == STAGE_TRANSFER || stage == STAGE_BOUNCE ||
					   stage == STAGE_ZEROS);
}

/* Returns the stage after the last call that changes data. */
static enum stage stage_after_data(const struct vublk_file_queue *queue,
				   const struct vublk_engine_io *io)
{
	return is_durable(io) && !(is_write_stage(io) && file_of(queue)->dsync) ? STAGE_SYNC :
										  STAGE_DONE;
}

/* Removes the first `bytes` from the request's buffers. */
static void advance(struct vublk_engine_io *io, uint64_t bytes)
{
	while (bytes && io->num_iov) {
		size_t n = VUBLK_MIN((uint64_t)io->iov->iov_len, bytes);

		io->iov->iov_base = (char *)io->iov->iov_base + n;
		io->iov->iov_len -= n;
		bytes -= n;
		if (!io->iov->iov_len) {
			io->iov++;
			io->num_iov--;
		}
	}
}

/*
 * Continues after a transfer, which may be short. With O_DIRECT, a short transfer ends at a block
 * boundary, except at the end of a file. If it ends elsewhere, the rest goes through a bounce
 * buffer.
 */
static int advance_transfer(struct vublk_file_queue *queue, struct vublk_engine_io *io,
			  uint64_t moved)
{
	advance(io, moved);
	state_of(io)->done_bytes += moved;
	if (state_of(io)->done_bytes >= io->bytes) {
		state_of(io)->stage = stage_after_data(queue, io);
		return 0;
	}
	if (file_of(queue)->direct && !is_aligned(file_of(queue), io))
		return begin_bounce(file_of(queue), io, VUBLK_FILE_PIECE_BYTES);
	return 0;
}

static void advance_bounce(struct vublk_file_queue *queue, struct vublk_engine_io *io,
			   uint64_t moved)
{
	if (io->op == VUBLK_OP_READ)
		copy_to_iov(io->iov, state_of(io)->bounce, moved);
	advance(io, moved);
	state_of(io)->done_bytes += moved;
	if (state_of(io)->done_bytes >= io->bytes)
		state_of(io)->stage = stage_after_data(queue, io);
}

static bool is_unsupported(int64_t result)
{
	return result == -EOPNOTSUPP || result == -ENOSYS || result == -ENOTTY;
}

/*
 * Called when a call for a range has failed. If the call is not supported, enters another stage
 * with the same effect, or ends a discard; otherwise returns the error. EINVAL means that the call
 * does not support this range, because the range does not consist of whole blocks. The call may
 * support other ranges.
 */
static int try_other_way(struct vublk_file_queue *queue, struct vublk_engine_io *io, int64_t result)
{
	struct vublk_file *file = file_of(queue);

	if (!is_unsupported(result) && result != -EINVAL)
		return (int)result;
	if (state_of(io)->stage == STAGE_PUNCH && result != -EINVAL)
		vublk_store_relaxed(&file->no_punch, true);
	if (state_of(io)->stage == STAGE_ZERO_RANGE && result != -EINVAL)
		vublk_store_relaxed(&file->no_zero_range, true);
	if (io->op == VUBLK_OP_DISCARD)
		state_of(io)->stage = STAGE_DONE; /* a discard is only a hint */
	else if (state_of(io)->stage == STAGE_PUNCH && !vublk_load_relaxed(&file->no_zero_range))
		state_of(io)->stage = STAGE_ZERO_RANGE;
	else
		state_of(io)->stage = STAGE_ZEROS;
	return 0;
}

static int advance_stage(struct vublk_file_queue *queue, struct vublk_engine_io *io, int64_t result)
{
	if (state_of(io)->durable_error) {
		if (state_of(io)->stage != STAGE_SYNC)
			vublk_file_lose_writes(file_of(queue), state_of(io)->durable_error);
		return state_of(io)->durable_error;
	}
	switch (state_of(io)->stage) {
	case STAGE_TRANSFER:
		return result > 0 ? advance_transfer(queue, io, (uint64_t)result) : -EIO;
	case STAGE_BOUNCE:
		if (result <= 0)
			return -EIO;
		advance_bounce(queue, io, (uint64_t)result);
		return 0;
	case STAGE_ZEROS:
		if (result <= 0)
			return -EIO;
		state_of(io)->done_bytes += (uint64_t)result;
		if (state_of(io)->done_bytes >= io->bytes)
			state_of(io)->stage = stage_after_data(queue, io);
		return 0;
	case STAGE_PUNCH:
	case STAGE_ZERO_RANGE:
	case STAGE_DISCARD:
		state_of(io)->stage = stage_after_data(queue, io);
		return 0;
	default:
		state_of(io)->stage = STAGE_DONE;
		return 0;
	}
}

/*
 * Called when a call has failed. Returns the error, or 0 if the request enters or repeats a stage.
 * If a write with RWF_DSYNC fails, it is unknown whether the write or its sync has failed. So the
 * write is repeated without the sync. If the repeated write succeeds, or fails with another error,
 * the sync had failed. If it fails with the same error, either the write or the sync may have
 * failed the first time, for example because the disk is dead. A separate sync then decides.
 */
static int fail(struct vublk_file_queue *queue, struct vublk_engine_io *io, int64_t result)
{
	if (is_range_stage(io))
		return try_other_way(queue, io, result);
	if (state_of(io)->stage == STAGE_SYNC) {
		vublk_file_lose_writes(file_of(queue), (int)result);
		return (int)result;
	}
	if (state_of(io)->durable_error == (int)result) {
		state_of(io)->stage = STAGE_SYNC;
		return 0;
	}
	if (state_of(io)->durable_error)
		vublk_file_lose_writes(file_of(queue), state_of(io)->durable_error);
	if (!is_write_stage(io) || !write_flags(file_of(queue), io))
		return (int)result;
	state_of(io)->durable_error = (int)result;
	return 0;
}

/*
 * Returns whether a failed call is repeated. A sync is never repeated: it may have consumed the
 * report of a lost write, so it counts as failed.
 */
static bool is_repeated(const struct vublk_engine_io *io, int64_t result)
{
	return (result == -EINTR || result == -EAGAIN) && state_of(io)->stage != STAGE_SYNC;
}

int vublk_file_next(struct vublk_file_queue *queue, struct vublk_engine_io *io, int64_t result,
		    struct vublk_file_step *step)
{
	int r;

	if (is_repeated(io, result) && state_of(io)->retries++ < MAX_RETRIES)
		return vublk_file_step(queue, io, step);
	r = result < 0 ? fail(queue, io, result) : advance_stage(queue, io, result);
	return r ? finish(queue, io, r) : vublk_file_step(queue, io, step);
}
