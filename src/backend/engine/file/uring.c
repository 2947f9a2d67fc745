/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Makes the file engine's calls with io_uring. Each worker's thread creates its own ring, and no
 * other thread uses it, so the ring can have the flags for a single issuer.
 *
 * Key idea: issue() gets the next step of a request. If the call does not wait, issue() makes it;
 * otherwise issue() puts it into the submission queue. A sync is put into that queue only when
 * sync.c permits it. A completion ends the request or leads to issue() again.
 *
 * A ring whose completions are deferred to its thread does not wake a thread that polls the ring's
 * own descriptor (seen with Linux 6.18). Such a ring does signal an eventfd that is registered with
 * it, so each ring has an eventfd.
 *
 * The image is not registered with the ring, although that would save some 30 ns per call. The
 * kernel releases registered files late, and with them the lock of the image, so the image would
 * stay locked for 35 ms after the process has ended.
 */
#include "backend/engine/file/file.h"

#include "util/atomic.h"
#include "util/checked.h"
#include "util/compiler.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <limits.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RING_ENTRIES 256
#define BATCH 64
#define MAX_SUBMIT_TRIES 10
#define RETRY_MS 1

/*
 * When a thread has moved this many bytes itself since the last poll, it defers further instant
 * calls, because its other queues are waiting.
 */
#define INSTANT_BYTES (UINT64_C(256) << 10)

struct uring_queue {
	struct vublk_file_queue file_queue; /* must be the first member, because it is the
					       engine's queue */
	struct io_uring ring;
	struct vublk_engine_list again; /* requests to try again, because the submission queue was
					   full */
	unsigned prepared;              /* how many entries of the submission queue the kernel has
					   not accepted yet */
	bool woken;                     /* the eventfd was signalled, so it has to be cleared */

	struct vublk_engine_list later; /* requests whose instant calls have to wait for the next
					   poll */
	uint64_t instant_bytes;         /* how many bytes the thread has moved itself since the
					   last poll */
	struct vublk_engine_list unsynced; /* requests that need a sync and have no number yet */
	struct vublk_engine_list syncing;  /* requests that wait for the sync with their number, in
					      the order of the numbers */
	struct vublk_engine_io *leader;    /* the request whose sync is running; NULL: this queue
					      leads no sync */
	struct vublk_file_waiter waiter;

	struct vublk_file_batch batches[2]; /* one of reads and one of writes, not executed yet */

	struct vublk_engine_io *alone; /* the first request since the last commit(), held back until
					  it is clear whether a second request follows; NULL:
					  none */
	unsigned num_submitted;        /* requests since the last commit() */
	struct vublk_file_tries tries;
};

static struct uring_queue *uring_of(struct vublk_engine_queue *queue)
{
	return (struct uring_queue *)queue;
}

static struct vublk_file_syncs *syncs_of(const struct uring_queue *uring)
{
	return &((struct vublk_file *)uring->file_queue.queue.engine)->syncs;
}

/*
 * Creates the ring. An older kernel refuses unknown flags with EINVAL; in that case fewer flags are
 * tried.
 */
static int init_ring(struct io_uring *ring)
{
	static const unsigned flags[] = {
		IORING_SETUP_CLAMP | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
			IORING_SETUP_TASKRUN_FLAG,
		IORING_SETUP_CLAMP | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
		IORING_SETUP_CLAMP,
	};
	int r = -EINVAL;

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(flags) && r == -EINVAL; i++)
		r = io_uring_queue_init(RING_ENTRIES, ring, flags[i]);
	return r;
}

static const int needed_ops[] = {
	IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_READ, IORING_OP_WRITE,
	IORING_OP_FSYNC, IORING_OP_FALLOCATE,
};

int vublk_file_uring_probe(void)
{
	struct io_uring_probe *probe;
	struct io_uring ring;
	int r = init_ring(&ring);

	if (r)
		return r;
	probe = io_uring_get_probe_ring(&ring);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(needed_ops); i++)
		if (!probe || !io_uring_opcode_supported(probe, needed_ops[i]))
			r = -ENOSYS;
	if (!(ring.features & IORING_FEAT_NODROP))
		r = -ENOSYS;
	io_uring_free_probe(probe);
	io_uring_queue_exit(&ring);
	return r;
}

static bool is_disabled(void)
{
	FILE *file = fopen("/proc/sys/kernel/io_uring_disabled", "re");
	int value = 0;

	if (!file)
		return false;
	if (fscanf(file, "%d", &value) != 1)
		value = 0;
	fclose(file);
	return value != 0;
}

const char *vublk_file_uring_cause(int code)
{
	switch (code) {
	case ENOMEM:
		return "RLIMIT_MEMLOCK is probably too low; raise it (ulimit -l)";
	case EMFILE:
		return "RLIMIT_NOFILE is too low; raise it (ulimit -n)";
	case ENFILE:
		return "the sysctl fs.file-max is too low; raise it";
	case EPERM:
	case EACCES:
		return is_disabled() ? "the sysctl kernel.io_uring_disabled forbids it; set it to "
				       "0" :
				       "a seccomp filter or a security module probably forbids it; "
				       "allow it there";
	case ENOSYS:
		return "the kernel is too old or a seccomp filter hides io_uring; use a newer "
		       "kernel or another filter";
	default:
		return "the cause is unknown; see the kernel's log";
	}
}

static int add_eventfd(struct uring_queue *uring)
{
	int fd = vublk_eventfd_new();

	uring->file_queue.queue.fd = uring->waiter.fd = fd;
	return fd < 0 ? fd : io_uring_register_eventfd(&uring->ring, fd);
}

/* --- calls by io_uring ----------------------------------------------------- */

/*
 * Submits the prepared entries. EBUSY: completions have to be taken first, which poll() does.
 * EAGAIN: the kernel is short of memory, and there may be no completion to wait for, so this
 * function tries a few more times. If all tries fail, note_refused() requests another poll(), which
 * submits again.
 */
static void submit_prepared(struct uring_queue *uring)
{
	int n, tries = MAX_SUBMIT_TRIES;

	if (!uring->prepared)
		return;
	do
		n = io_uring_submit(&uring->ring);
	while ((n == -EAGAIN || n == -EINTR) && --tries);
	if (n > 0)
		uring->prepared -= VUBLK_MIN((unsigned)n, uring->prepared);
}

/*
 * Returns a free entry, or NULL if there is none. If the submission queue is full, submits the
 * prepared entries first.
 */
static struct io_uring_sqe *get_sqe(struct uring_queue *uring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);

	if (!sqe) {
		submit_prepared(uring);
		sqe = io_uring_get_sqe(&uring->ring);
	}
	return sqe;
}

static void prepare_transfer(struct io_uring_sqe *sqe, int fd, const struct vublk_file_step *step)
{
	unsigned num_iov = VUBLK_MIN(step->num_iov, (unsigned)IOV_MAX);
	unsigned bytes = (unsigned)VUBLK_MIN(step->bytes, UINT64_C(1) << 30);

	if (step->call == VUBLK_FILE_READ && num_iov == 1)
		io_uring_prep_read(sqe, fd, step->iov->iov_base, bytes, step->offset);
	else if (step->call == VUBLK_FILE_READ)
		io_uring_prep_readv(sqe, fd, step->iov, num_iov, step->offset);
	else if (num_iov == 1)
		io_uring_prep_write(sqe, fd, step->iov->iov_base, bytes, step->offset);
	else
		io_uring_prep_writev(sqe, fd, step->iov, num_iov, step->offset);
	sqe->rw_flags = step->flags;
}

static void prepare(struct uring_queue *uring, struct io_uring_sqe *sqe,
		    struct vublk_engine_io *io, const struct vublk_file_step *step)
{
	int fd = ((struct vublk_file *)uring->file_queue.queue.engine)->fd;

	switch (step->call) {
	case VUBLK_FILE_READ:
	case VUBLK_FILE_WRITE:
		prepare_transfer(sqe, fd, step);
		break;
	case VUBLK_FILE_SYNC:
		io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
		break;
	default:
		io_uring_prep_fallocate(sqe, fd, step->flags, (off_t)step->offset,
					(off_t)step->bytes);
		break;
	}
	/* After EAGAIN or EINTR, a kernel thread has to make the call, because it may block. */
	if (state_of(io)->retries)
		sqe->flags |= IOSQE_ASYNC;
	io_uring_sqe_set_data(sqe, io);
	uring->prepared++;
}

static void give_to_ring(struct uring_queue *uring, struct vublk_engine_io *io,
		      const struct vublk_file_step *step)
{
	struct io_uring_sqe *sqe = get_sqe(uring);

	if (sqe)
		prepare(uring, sqe, io, step);
	else
		vublk_engine_list_add(&uring->again, io);
}

/*
 * Makes the worker call the engine's poll() soon, if requests are left that the kernel has not
 * accepted, or for which the submission queue had no room.
 */
static void note_refused(struct uring_queue *uring)
{
	uring->file_queue.queue.retry_ms = uring->prepared || uring->again.head ? RETRY_MS : 0;
}

/* --- a request's next step ------------------------------------------------- */

/*
 * Makes the call of `step`, puts it into the submission queue, or adds the request to a list that
 * waits for the next poll or for a sync. `r` is 1, or 0 if the request is done. BLKDISCARD is never
 * put into the submission queue, because io_uring has no operation for it before Linux 6.12.
 */
static void issue(struct uring_queue *uring, struct vublk_engine_io *io, int r,
		  struct vublk_file_step *step)
{
	struct vublk_file_queue *queue = &uring->file_queue;
	const struct vublk_file *file = (const struct vublk_file *)queue->queue.engine;

	while (r && (step->call == VUBLK_FILE_DISCARD || vublk_file_is_instant(file, io, step))) {
		if (uring->later.head || uring->instant_bytes >= INSTANT_BYTES) {
			vublk_engine_list_add(&uring->later, io);
			return;
		}
		uring->instant_bytes += step->bytes;
		r = vublk_file_next(queue, io, vublk_file_call_instant(file, step), step);
	}
	if (!r)
		vublk_engine_list_add(&queue->done, io);
	else if (step->call == VUBLK_FILE_SYNC && io != uring->leader)
		vublk_engine_list_add(&uring->unsynced, io);
	else
		give_to_ring(uring, io, step);
}

/*
 * Executes a batch with one call, and then issues each request that this call did not execute. The
 * first request of a batch of writes is always issued alone.
 */
static void end_batch(struct uring_queue *uring, struct vublk_file_batch *batch)
{
	struct vublk_file_queue *queue = &uring->file_queue;
	unsigned n = batch->num_ios, moved;
	struct vublk_file_step step;

	if (!n)
		return;
	if (batch->is_write)
		issue(uring, batch->ios[0], vublk_file_step(queue, batch->ios[0], &step), &step);
	moved = vublk_file_batch_move(batch);
	for (unsigned i = batch->is_write; i < n; i++) {
		struct vublk_engine_io *io = batch->ios[i];
		int64_t bytes = (int64_t)io->bytes;
		int r = i < batch->is_write + moved ? vublk_file_next(queue, io, bytes, &step) :
						      vublk_file_step(queue, io, &step);

		issue(uring, io, r, &step);
	}
	batch->num_ios = batch->num_iov = 0;
}

static void join_batch(struct uring_queue *uring, struct vublk_engine_io *io,
		       const struct vublk_file_step *step)
{
	const struct vublk_file *file = (const struct vublk_file *)uring->file_queue.queue.engine;
	struct vublk_file_batch *batch = &uring->batches[step->call == VUBLK_FILE_WRITE];

	if (vublk_file_batch_add(batch, file, io, step))
		return;
	end_batch(uring, batch);
	vublk_file_batch_add(batch, file, io, step);
}

/*
 * Issues the request that was held back. If no other request has arrived, the page cache may serve
 * it with one system call. Several requests would cost one call each here. So they go to io_uring,
 * which takes them all with one call and also uses the page cache.
 */
static void issue_alone(struct uring_queue *uring, bool still_alone)
{
	struct vublk_engine_io *io = uring->alone;
	struct vublk_file_step step;
	int r;

	if (!io)
		return;
	uring->alone = NULL;
	r = vublk_file_step(&uring->file_queue, io, &step);
	if (still_alone)
		r = vublk_file_try(&uring->file_queue, &uring->tries, io, &step);
	issue(uring, io, r, &step);
}

static void uring_submit(struct vublk_engine_queue *queue, struct vublk_engine_io *io)
{
	const struct vublk_file *file = (const struct vublk_file *)queue->engine;
	struct uring_queue *uring = uring_of(queue);
	struct vublk_file_step step;
	int r = vublk_file_begin(&uring->file_queue, io, &step);

	issue_alone(uring, false);
	if (r && !uring->num_submitted++ && vublk_file_may_be_cached(file, io, &step))
		uring->alone = io;
	else if (r && vublk_file_mapping_takes(file, io, &step))
		join_batch(uring, io, &step);
	else
		issue(uring, io, r, &step);
}

/* --- syncs ----------------------------------------------------------------- */

/* Continues the requests whose sync has ended. If the sync failed, vublk_file_next() fails them. */
static void continue_synced(struct uring_queue *uring)
{
	uint64_t ended = vublk_file_syncs_ended(syncs_of(uring));
	struct vublk_engine_io *io;
	struct vublk_file_step step;

	while ((io = uring->syncing.head) && state_of(io)->sync <= ended) {
		vublk_engine_list_take(&uring->syncing);
		issue(uring, io, vublk_file_next(&uring->file_queue, io, 0, &step), &step);
	}
}

/*
 * Gives the new requests the number of the sync that covers them. Returns whether this queue leads
 * that sync.
 */
static bool number_unsynced(struct uring_queue *uring)
{
	uint64_t number = 0;
	bool leads = vublk_file_syncs_begin(syncs_of(uring), &number, &uring->waiter);
	struct vublk_engine_io *io;

	while ((io = vublk_engine_list_take(&uring->unsynced))) {
		state_of(io)->sync = number;
		vublk_engine_list_add(&uring->syncing, io);
	}
	return leads;
}

/*
 * Continues the requests whose sync has ended, and begins the sync for the others, unless a sync is
 * running.
 */
static void begin_sync(struct uring_queue *uring)
{
	struct vublk_file_step step;
	bool leads = false;

	if (uring->syncing.head)
		continue_synced(uring);
	if (uring->unsynced.head)
		leads = number_unsynced(uring);
	else if (uring->syncing.head && !uring->leader &&
		 !vublk_load_relaxed(&uring->waiter.is_listed))
		leads = vublk_file_syncs_begin(syncs_of(uring), &state_of(uring->syncing.head)->sync,
					       &uring->waiter);
	if (!leads)
		return;
	uring->leader = vublk_engine_list_take(&uring->syncing);
	vublk_file_step(&uring->file_queue, uring->leader, &step);
	give_to_ring(uring, uring->leader, &step);
}

/*
 * Called when the leader's sync has completed, after vublk_file_next() has recorded the failure, if
 * the sync failed.
 */
static void end_sync(struct uring_queue *uring)
{
	uring->leader = NULL;
	vublk_file_syncs_end(syncs_of(uring), &uring->waiter);
}

static void uring_commit(struct vublk_engine_queue *queue)
{
	struct uring_queue *uring = uring_of(queue);

	issue_alone(uring, true);
	end_batch(uring, &uring->batches[0]);
	end_batch(uring, &uring->batches[1]);
	if (VUBLK_UNLIKELY(uring->unsynced.head || uring->syncing.head))
		begin_sync(uring);
	uring->num_submitted = 0;
	submit_prepared(uring);
	note_refused(uring);
}

/* Issues the requests of a list. Some of them may be put into the same list again. */
static void issue_list(struct uring_queue *uring, struct vublk_engine_list *list)
{
	struct vublk_engine_list ios = *list;
	struct vublk_file_step step;
	struct vublk_engine_io *io;

	*list = (struct vublk_engine_list){ 0 };
	while ((io = vublk_engine_list_take(&ios)))
		issue(uring, io, vublk_file_step(&uring->file_queue, io, &step), &step);
}

static void take_completions(struct uring_queue *uring)
{
	struct io_uring_cqe *cqes[BATCH];
	struct vublk_file_step step;
	unsigned n = io_uring_peek_batch_cqe(&uring->ring, cqes, BATCH);

	for (unsigned i = 0; i < n; i++) {
		struct vublk_engine_io *io = io_uring_cqe_get_data(cqes[i]);
		int r = vublk_file_next(&uring->file_queue, io, cqes[i]->res, &step);

		if (VUBLK_UNLIKELY(io == uring->leader))
			end_sync(uring);
		issue(uring, io, r, &step);
	}
	io_uring_cq_advance(&uring->ring, n);
}

/*
 * Clears the eventfd after completions were taken. A deferred completion signals the eventfd when
 * the completion is due and again when it is taken, so clearing the eventfd earlier would cause a
 * second wake-up. Completions that arrive before the eventfd is cleared are taken afterwards.
 */
static void clear_wake_up(struct uring_queue *uring)
{
	uring->woken = false;
	vublk_eventfd_clear(uring->file_queue.queue.fd);
	take_completions(uring);
}

static unsigned uring_poll(struct vublk_engine_queue *queue, struct vublk_engine_io **ios,
			   unsigned max)
{
	struct uring_queue *uring = uring_of(queue);
	unsigned n;

	take_completions(uring);
	if (uring->woken)
		clear_wake_up(uring);
	issue_list(uring, &uring->again);
	issue_list(uring, &uring->later);
	uring_commit(queue);
	n = vublk_engine_list_take_many(&uring->file_queue.done, ios, max);
	uring->instant_bytes = 0;
	return n;
}

/* --- life ------------------------------------------------------------------ */

static void uring_free(struct vublk_engine_queue *queue)
{
	struct uring_queue *uring = uring_of(queue);

	vublk_file_syncs_leave(syncs_of(uring), &uring->waiter);
	io_uring_queue_exit(&uring->ring);
	vublk_fd_close(&queue->fd);
	free(uring);
}

static void uring_woken(struct vublk_engine_queue *queue)
{
	uring_of(queue)->woken = true;
}

static const struct vublk_engine_queue_ops uring_ops = {
	.free = uring_free,
	.submit = uring_submit,
	.commit = uring_commit,
	.woken = uring_woken,
	.poll = uring_poll,
};

int vublk_file_uring_queue_new(struct vublk_file *file, struct vublk_engine_queue **queue,
			       struct vublk_error *error)
{
	struct uring_queue *uring = calloc(1, sizeof(*uring));
	int r;

	if (!uring)
		return vublk_error_set(error, ENOMEM, "cannot allocate memory for a queue of the "
				       "engine 'file'");
	uring->file_queue.queue.ops = &uring_ops;
	uring->file_queue.queue.engine = &file->engine;
	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(uring->batches); i++) {
		uring->batches[i].is_write = i;
		uring->batches[i].pid = getpid();
	}
	r = init_ring(&uring->ring);
	if (r) {
		free(uring);
		return vublk_error_set(error, -r, "cannot create an io_uring (%s): %s",
				       strerrordesc_np(-r), vublk_file_uring_cause(-r));
	}
	r = add_eventfd(uring);
	if (r) {
		uring_free(&uring->file_queue.queue);
		return vublk_error_set_errno(error, -r, "cannot register an eventfd with an "
					     "io_uring");
	}
	/*
	 * Registering the ring's descriptor saves a lookup per call. It is optional, so the result
	 * is ignored.
	 */
	io_uring_register_ring_fd(&uring->ring);
	*queue = &uring->file_queue.queue;
	return 0;
}
