/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One worker of a copy: a thread with slots of its own, and a queue of its own on the source or the
 * destination, or on both if both are disks. run.c sets up the buffers and threads.
 *
 * Key idea: a slot is a state machine that carries one piece at a time from the source to the
 * destination. Requests to a disk are asynchronous; files are read and written synchronously. The
 * workers take the pieces in order, under one lock, and may finish them in any order. The buffers
 * are shared memory that is registered with both disks. So between two disks this process copies no
 * data; it only searches the data for zeroes.
 *
 * The first worker also flushes a destination that may lose completed writes.
 *
 * Zeroes: a destination file begins as one large hole, so zeroes are written only with --allocated.
 * A destination disk has old content, which WRITE ZEROES overwrites; with the permission to unmap,
 * this request may also free space. A discard would not suffice, because it does not guarantee
 * zeroes.
 */
#include "cli/copy/worker.h"

#include "cli/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define WAIT_MS 100 /* the longest sleep before the worker checks `stop` again */
#define MAX_HOLE_BYTES (UINT64_C(64) << 20) /* per piece, so that the progress advances in a large
					       hole */

static bool is_stopped(const struct vublk_copy_run *run)
{
	return __atomic_load_n(&run->stop, __ATOMIC_RELAXED);
}

static unsigned in_flight(const struct vublk_copy_worker *worker)
{
	return (worker->from ? vublk_blk_in_flight(worker->from) : 0) +
	       (worker->to ? vublk_blk_in_flight(worker->to) : 0);
}

/* --- pieces ------------------------------------------------------------------- */

static uint64_t round_up(uint64_t bytes, uint32_t unit)
{
	return (bytes + unit - 1) / unit * unit;
}

/* Returns the size of a request for a piece: whole blocks, but not past the end of the disk. */
static uint64_t whole_blocks(const struct vublk_copy_end *end, const struct vublk_extent *piece)
{
	uint64_t bytes = round_up(piece->bytes, end->block_bytes);

	return VUBLK_CLI_MIN(bytes, end->bytes - piece->offset);
}

/*
 * Takes the next piece to copy, and stores it in `slot`. Returns 1 if there is a piece, 0 if none
 * is left or the copy was stopped, or a negative errno.
 */
static int next_piece(struct vublk_copy_worker *worker, struct vublk_copy_slot *slot)
{
	struct vublk_copy_run *run = worker->run;
	struct vublk_extent *piece = &slot->piece;
	uint64_t request = run->copy->request_bytes;
	int ret;

	if (is_stopped(run))
		return 0;
	pthread_mutex_lock(&run->lock);
	slot->losses = run->unflushed.losses;
	ret = vublk_copy_unflushed_take_again(&run->unflushed, piece) ? 1 :
	      vublk_sparse_next(&run->pieces, request, run->zeroes ? MAX_HOLE_BYTES : request,
				piece, &worker->error);
	pthread_mutex_unlock(&run->lock);
	return ret;
}

/*
 * Called when the piece of the slot has been written. Counts the piece as copied, unless it has to
 * be copied again.
 */
static int finish(struct vublk_copy_worker *worker, struct vublk_copy_slot *slot)
{
	struct vublk_copy_run *run = worker->run;
	int ret;

	slot->state = VUBLK_COPY_SLOT_IDLE;
	pthread_mutex_lock(&run->lock);
	ret = vublk_copy_unflushed_add(&run->unflushed, &slot->piece, slot->losses);
	pthread_mutex_unlock(&run->lock);
	if (ret < 0)
		return vublk_cli_error_errno(&worker->error, -ret, "cannot allocate memory to "
					     "track unflushed pieces");
	if (ret)
		__atomic_fetch_add(&run->copy->done, slot->piece.bytes, __ATOMIC_RELAXED);
	return 0;
}

/* --- reading ------------------------------------------------------------------ */

static int read_file(struct vublk_copy_worker *worker, struct vublk_copy_slot *slot)
{
	const struct vublk_copy_end *from = &worker->run->copy->from;
	uint64_t done = 0;

	while (done < slot->piece.bytes) {
		ssize_t n = pread(from->fd, slot->buffer + done, slot->piece.bytes - done,
				  (off_t)(slot->piece.offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return vublk_cli_error_errno(&worker->error, errno, "cannot read '%s' at "
						     "offset %" PRIu64, from->path,
						     slot->piece.offset + done);
		if (!n)
			return vublk_cli_error(&worker->error, EIO, "'%s' ends at offset "
					       "%" PRIu64 ", because it became smaller during the "
					       "copy",
					       from->path, slot->piece.offset + done);
		done += (uint64_t)n;
	}
	slot->state = VUBLK_COPY_SLOT_WRITE;
	return 0;
}

static int read_piece(struct vublk_copy_worker *worker, struct vublk_copy_slot *slot)
{
	const struct vublk_copy_end *from = &worker->run->copy->from;
	int ret;

	if (slot->piece.hole) {
		slot->state = VUBLK_COPY_SLOT_WRITE;
		if (!worker->run->zeroes)
			memset(slot->buffer, 0, slot->piece.bytes);
		return 0;
	}
	if (!worker->from)
		return read_file(worker, slot);
	ret = vublk_blk_read(worker->from, slot->piece.offset, slot->buffer,
			     whole_blocks(from, &slot->piece), 0, slot, &worker->error);
	if (ret)
		return ret;
	slot->state = VUBLK_COPY_SLOT_READING;
	if (!worker->to)
		vublk_blk_submit(worker->from); /* the disk works while this thread handles the
						   file */
	return 0;
}

/* --- writing ------------------------------------------------------------------ */

static int write_all(struct vublk_copy_worker *worker, const unsigned char *data, uint64_t bytes,
		     uint64_t offset)
{
	const struct vublk_copy_end *to = &worker->run->copy->to;

	while (bytes) {
		ssize_t n = pwrite(to->fd, data, bytes, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return vublk_cli_error_errno(&worker->error, errno, "cannot write to '%s' "
						     "at offset %" PRIu64, to->path, offset);
		data += n;
		bytes -= (uint64_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

/*
 * Zeroes a range of the destination file or block device. A file needs no action, because it has a
 * hole there. On a block device the length is rounded up, because BLKZEROOUT zeroes only whole
 * sectors.
 */
static int zero_file(struct vublk_copy_worker *worker, uint64_t offset, uint64_t bytes)
{
	const struct vublk_copy_end *to = &worker->run->copy->to;
	uint64_t range[2] = { offset, round_up(bytes, to->block_bytes) };

	if (!to->block_device || !ioctl(to->fd, BLKZEROOUT, range))
		return 0;
	return vublk_cli_error_errno(&worker->error, errno, "cannot write %" PRIu64 " zeroes to "
				     "'%s' at offset %" PRIu64, bytes, to->path, offset);
}

/*
 * Writes data to the destination file or block device. Ranges that contain only zeroes are left out
 * of a file and zeroed on a block device.
 */
static int write_sparsely(struct vublk_copy_worker *worker, const unsigned char *data,
			  uint64_t bytes, uint64_t offset)
{
	int ret = 0;

	while (bytes && !ret) {
		bool zero;
		uint64_t n = vublk_zero_run(data, bytes, VUBLK_COPY_ZERO_UNIT_BYTES, &zero);

		ret = zero ? zero_file(worker, offset, n) : write_all(worker, data, n, offset);
		data += n;
		offset += n;
		bytes -= n;
	}
	return ret;
}

static int write_file(struct vublk_copy_worker *worker, struct vublk_copy_slot *slot)
{
	const struct vublk_extent *piece = &slot->piece;
	int ret;

	if (!worker->run->zeroes)
		ret = write_all(worker, slot->buffer, piece->bytes, piece->offset);
	else if (piece->hole)
		ret = zero_file(worker, piece->offset, piece->bytes);
	else
		ret = write_sparsely(worker, slot->buffer, piece->bytes, piece->offset);
	return ret ? ret : finish(worker, slot);
}

/*
 * Writes the piece of the slot to the destination disk. If the data ends within a block, zeroes
 * fill the rest of that block.
 */
static int write_disk(struct vublk_copy_worker *worker, struct vublk_copy_slot *slot)
{
	const struct vublk_copy *copy = worker->run->copy;
	uint64_t bytes = whole_blocks(&copy->to, &slot->piece);
	bool zero = worker->run->zeroes &&
		    (slot->piece.hole || vublk_is_zero(slot->buffer, slot->piece.bytes));
	int ret;

	if (zero) {
		ret = vublk_blk_write_zeroes(worker->to, slot->piece.offset, bytes,
					     copy->allocated ? VUBLK_BLK_NO_UNMAP : 0, slot,
					     &worker->error);
	} else {
		memset(slot->buffer + slot->piece.bytes, 0, bytes - slot->piece.bytes);
		ret = vublk_blk_write(worker->to, slot->piece.offset, slot->buffer, bytes, 0, slot,
				      &worker->error);
	}
	if (ret)
		return ret;
	slot->state = VUBLK_COPY_SLOT_WRITING;
	if (!worker->from)
		vublk_blk_submit(worker->to); /* the disk works while this thread handles the
						 file */
	return 0;
}

/* --- flushing ----------------------------------------------------------------- */

int vublk_copy_redo_unflushed(struct vublk_copy_run *run, struct vublk_error *error)
{
	int64_t bytes;

	pthread_mutex_lock(&run->lock);
	bytes = vublk_copy_unflushed_lose(&run->unflushed);
	pthread_mutex_unlock(&run->lock);
	if (bytes < 0)
		return vublk_cli_error_errno(error, (int)-bytes, "cannot allocate memory to track "
					     "unflushed pieces");
	__atomic_fetch_sub(&run->copy->done, (uint64_t)bytes, __ATOMIC_RELAXED);
	vublk_cli_say_limited("copy", &run->loss_limit, "the connection to the back-end of '%s' "
			      "was lost before all writes were flushed; copying at least %" PRId64
			      " bytes again",
			      run->copy->to.path, bytes);
	return 0;
}

/*
 * Begins a flush if one is due. Must be called under the lock, so that no piece is counted as
 * written between the start of the flush and vublk_copy_unflushed_begin().
 */
static int begin_flush(struct vublk_copy_worker *worker)
{
	struct vublk_copy_run *run = worker->run;
	int ret;

	if (!vublk_copy_unflushed_wants_flush(&run->unflushed))
		return 0;
	ret = vublk_blk_flush(worker->to, 0, &run->flush, &worker->error);
	if (ret)
		return ret;
	run->flush.state = VUBLK_COPY_SLOT_FLUSHING;
	vublk_copy_unflushed_begin(&run->unflushed);
	return 0;
}

/*
 * Begins a flush if one is due. Only the first worker flushes: after a back-end is lost with
 * unflushed writes, the next flush of each queue reports the loss, and one report is enough.
 */
static void flush_if_due(struct vublk_copy_worker *worker)
{
	struct vublk_copy_run *run = worker->run;
	int ret;

	if (worker != run->workers || !worker->to || worker->error.code)
		return;
	pthread_mutex_lock(&run->lock);
	ret = begin_flush(worker);
	pthread_mutex_unlock(&run->lock);
	if (ret == -EAGAIN && in_flight(worker))
		worker->error.code = 0; /* the queue is full, so the flush begins later */
	if (ret != -EOWNERDEAD)
		return;
	worker->error.code = 0;
	vublk_copy_redo_unflushed(run, &worker->error);
}

static void end_flush(struct vublk_copy_worker *worker, int result)
{
	struct vublk_copy_run *run = worker->run;

	run->flush.state = VUBLK_COPY_SLOT_IDLE;
	if (result == -EOWNERDEAD) {
		vublk_copy_redo_unflushed(run, &worker->error);
		return;
	}
	if (result) {
		vublk_cli_error_errno(&worker->error, -result, "cannot flush '%s'",
				      run->copy->to.path);
		return;
	}
	pthread_mutex_lock(&run->lock);
	vublk_copy_unflushed_succeeded(&run->unflushed);
	pthread_mutex_unlock(&run->lock);
}

/* --- slots -------------------------------------------------------------------- */

/*
 * Advances the slot as far as possible without waiting for a disk. Returns 1 if the slot has a
 * piece or has just finished one, 0 if there are no more pieces, or a negative errno; -EAGAIN means
 * that a queue is full.
 */
static int advance(struct vublk_copy_worker *worker, struct vublk_copy_slot *slot)
{
	int ret = 0;

	if (slot->state == VUBLK_COPY_SLOT_IDLE) {
		ret = next_piece(worker, slot);
		if (ret <= 0)
			return ret;
		slot->state = VUBLK_COPY_SLOT_READ;
		ret = 0;
	}
	if (slot->state == VUBLK_COPY_SLOT_READ)
		ret = read_piece(worker, slot);
	if (slot->state == VUBLK_COPY_SLOT_WRITE && !ret)
		ret = worker->to ? write_disk(worker, slot) : write_file(worker, slot);
	return ret ? ret : 1;
}

/*
 * Advances all slots. Returns whether at least one slot has finished a piece and can take the next
 * one. Returns false if a slot failed or a queue is full.
 */
static bool advance_all(struct vublk_copy_worker *worker)
{
	bool again = false;

	for (unsigned i = 0; i < worker->run->copy->num_requests; i++) {
		struct vublk_copy_slot *slot = &worker->slots[i];
		int ret = advance(worker, slot);

		if (ret == -EAGAIN && in_flight(worker))
			worker->error.code = 0; /* a full queue is not an error while requests
						   are in flight */
		if (ret < 0)
			return false;
		again |= ret && slot->state == VUBLK_COPY_SLOT_IDLE;
	}
	return again;
}

static void fail(struct vublk_copy_worker *worker, const struct vublk_copy_slot *slot, int result)
{
	const struct vublk_copy *copy = worker->run->copy;
	bool reading = slot->state == VUBLK_COPY_SLOT_READING;
	const struct vublk_copy_end *end = reading ? &copy->from : &copy->to;

	if (worker->error.code)
		return;
	if (result == -ENOTCONN)
		vublk_cli_error(&worker->error, -result, "the back-end of '%s' disconnected",
				end->path);
	else
		vublk_cli_error_errno(&worker->error, -result, "cannot %s '%s' at offset %" PRIu64,
				      reading ? "read" : "write to", end->path,
				      slot->piece.offset);
}

static unsigned poll_queue(struct vublk_copy_worker *worker, struct vublk_blk_queue *queue)
{
	struct vublk_copy *copy = worker->run->copy;
	struct vublk_blk_completion completions[32];
	int n = queue ? vublk_blk_poll(queue, completions, VUBLK_CLI_ARRAY_SIZE(completions)) : 0;

	for (int i = 0; i < n; i++) {
		struct vublk_copy_slot *slot = completions[i].user_data;

		if (vublk_disk_watch_take(&copy->from.watch, &completions[i]) ||
		    vublk_disk_watch_take(&copy->to.watch, &completions[i]))
			continue;
		if (slot->state == VUBLK_COPY_SLOT_FLUSHING && worker->error.code)
			slot->state = VUBLK_COPY_SLOT_IDLE; /* only the first error is reported */
		else if (slot->state == VUBLK_COPY_SLOT_FLUSHING)
			end_flush(worker, completions[i].result);
		else if (completions[i].result)
			fail(worker, slot, completions[i].result);
		else if (slot->state == VUBLK_COPY_SLOT_READING)
			slot->state = VUBLK_COPY_SLOT_WRITE;
		else
			finish(worker, slot);
	}
	return n > 0 ? (unsigned)n : 0;
}

/*
 * Requests the serials of the disks. Only the first worker requests them, because a disk has only
 * one serial.
 */
static void ask_for_serials(struct vublk_copy_worker *worker)
{
	struct vublk_copy_run *run = worker->run;

	if (worker != run->workers)
		return;
	if (worker->from)
		vublk_disk_watch_poll(&run->copy->from.watch, worker->from);
	if (worker->to)
		vublk_disk_watch_poll(&run->copy->to.watch, worker->to);
}

/* Sleeps until a queue with requests in flight has completions, or WAIT_MS have passed. */
static void sleep_on_queues(struct vublk_copy_worker *worker)
{
	struct vublk_blk_queue *queues[] = { worker->from, worker->to };
	struct pollfd fds[2];
	unsigned count = 0;

	for (unsigned i = 0; i < 2; i++) {
		if (!queues[i] || !vublk_blk_in_flight(queues[i]))
			continue;
		if (vublk_blk_arm(queues[i]))
			return;
		fds[count++] = (struct pollfd){ .fd = vublk_blk_queue_fd(queues[i]),
						.events = POLLIN };
	}
	poll(fds, count, WAIT_MS);
}

/*
 * Submits the requests and processes completions. If no request has completed yet, waits up to
 * WAIT_MS. Returns false if no request has completed for stall_ms.
 */
static bool take_completions(struct vublk_copy_worker *worker)
{
	char text[VUBLK_CLI_TEXT_BYTES];
	const struct vublk_copy *copy = worker->run->copy;
	uint64_t now;

	if (worker->from)
		vublk_blk_submit(worker->from);
	if (worker->to)
		vublk_blk_submit(worker->to);
	if (!poll_queue(worker, worker->from) && !poll_queue(worker, worker->to)) {
		sleep_on_queues(worker);
		if (!poll_queue(worker, worker->from) && !poll_queue(worker, worker->to)) {
			now = vublk_cli_now_ns();
			if (now - worker->moved_ns <= (uint64_t)copy->stall_ms * 1000000)
				return true;
			if (!worker->error.code)
				vublk_cli_error(&worker->error, ETIMEDOUT, "no request completed "
						"within %s; requests in flight: %u",
						vublk_cli_format_ns(text, copy->stall_ms * 1e6),
						in_flight(worker));
			return false;
		}
	}
	worker->moved_ns = vublk_cli_now_ns();
	ask_for_serials(worker);
	return true;
}

void vublk_copy_work(void *member)
{
	struct vublk_copy_worker *worker = member;

	worker->moved_ns = vublk_cli_now_ns();
	for (;;) {
		bool again = !worker->error.code && advance_all(worker);

		flush_if_due(worker);
		if (again && !worker->error.code)
			continue;
		/* A stopped copy has failed, so its requests in flight do not matter. */
		if (!in_flight(worker) || is_stopped(worker->run) || !take_completions(worker))
			break;
	}
	if (worker->error.code)
		__atomic_store_n(&worker->run->stop, 1, __ATOMIC_RELAXED);
}
