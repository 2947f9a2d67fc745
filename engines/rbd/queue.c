/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Executes requests with the asynchronous calls of librbd, all on one handle of the image.
 *
 * Key idea: librbd reports a completion by a callback on one of its own threads. The callback adds
 * the request to a list without a lock, and makes an eventfd readable if the list was empty. The
 * worker's thread then takes the whole list.
 *
 * librbd copies the data of a write before the call returns, so a driver that changes its memory
 * later cannot make the copies of the cluster differ. librbd keeps the iovec of a read until the
 * completion, and writes to the driver's memory on its own threads.
 */
#include "engines/rbd/rbd.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct rbd_queue {
	struct vublk_engine_queue queue; /* must be the first member */

	/* used by the worker's thread */
	struct vublk_engine_io *done, **done_end; /* complete requests, oldest completion first */

	/* used by the worker's thread and the callbacks */
	struct vublk_engine_io *arrived; /* complete requests, the latest completion first */
	unsigned callbacks;              /* how many callbacks have not returned yet */
};

/* The elements of vublk_engine_io.scratch that this engine uses. */
enum { SCRATCH_QUEUE, SCRATCH_FLUSHING };

static struct vublk_rbd *engine_of(struct rbd_queue *queue)
{
	return (struct vublk_rbd *)queue->queue.engine;
}

/* --- completions ------------------------------------------------------------------- */

static void finish(struct rbd_queue *queue, struct vublk_engine_io *io)
{
	io->next = NULL;
	*queue->done_end = io;
	queue->done_end = &io->next;
}

/*
 * Hands a request to the worker. After the exchange, the worker may reuse the request. After the
 * last statement, the worker may free the queue. The exchange pairs with the one in take_arrived(),
 * and the last statement with the load in free_queue().
 */
static void arrive(struct rbd_queue *queue, struct vublk_engine_io *io)
{
	struct vublk_engine_io *before = __atomic_load_n(&queue->arrived, __ATOMIC_RELAXED);

	do
		io->next = before;
	while (!__atomic_compare_exchange_n(&queue->arrived, &before, io, true,
					    __ATOMIC_RELEASE, __ATOMIC_RELAXED));
	if (!before)
		eventfd_write(queue->queue.fd, 1);
	__atomic_sub_fetch(&queue->callbacks, 1, __ATOMIC_RELEASE);
}

/* Called on a thread of librbd. */
static void on_complete(rbd_completion_t completion, void *opaque)
{
	struct vublk_engine_io *io = opaque;
	struct rbd_queue *queue = io->scratch[SCRATCH_QUEUE].pointer;
	ssize_t r = rbd_aio_get_return_value(completion);
	/* A short read has left a part of the buffers unchanged, so it counts as failed. */
	bool is_short = io->op == VUBLK_OP_READ && r >= 0 && (uint64_t)r != io->bytes;

	rbd_aio_release(completion);
	io->result = r < 0 ? (int)r : is_short ? -EIO : 0;
	arrive(queue, io);
}

/* --- submission -------------------------------------------------------------------- */

static int call(rbd_image_t image, struct vublk_engine_io *io, rbd_completion_t completion)
{
	bool thick = !(io->flags & VUBLK_IO_MAY_UNMAP);

	if (io->op == VUBLK_OP_FLUSH || io->scratch[SCRATCH_FLUSHING].number)
		return rbd_aio_flush(image, completion);
	switch (io->op) {
	case VUBLK_OP_READ:
		return rbd_aio_readv(image, io->iov, (int)io->num_iov, io->offset, completion);
	case VUBLK_OP_WRITE:
		return rbd_aio_writev(image, io->iov, (int)io->num_iov, io->offset, completion);
	case VUBLK_OP_DISCARD:
		return rbd_aio_discard(image, io->offset, io->bytes, completion);
	case VUBLK_OP_WRITE_ZEROES:
		return rbd_aio_write_zeroes(image, io->offset, io->bytes, completion,
					    thick ? RBD_WRITE_ZEROES_FLAG_THICK_PROVISION : 0, 0);
	default:
		return -EOPNOTSUPP;
	}
}

static void start(struct rbd_queue *queue, struct vublk_engine_io *io)
{
	rbd_completion_t completion;
	int r = rbd_aio_create_completion(io, on_complete, &completion);

	if (!r) {
		__atomic_add_fetch(&queue->callbacks, 1, __ATOMIC_RELAXED);
		r = call(engine_of(queue)->image, io, completion);
		if (r >= 0)
			return;
		__atomic_sub_fetch(&queue->callbacks, 1, __ATOMIC_RELAXED);
		rbd_aio_release(completion);
	}
	io->result = r;
	finish(queue, io);
}

static void submit(struct vublk_engine_queue *engine_queue, struct vublk_engine_io *io)
{
	struct rbd_queue *queue = (struct rbd_queue *)engine_queue;

	io->scratch[SCRATCH_QUEUE].pointer = queue;
	io->scratch[SCRATCH_FLUSHING].number = 0;
	start(queue, io);
}

/* --- the worker's side of completions ---------------------------------------------- */

/* Returns a hint about the cause of an errno value, or an empty string. */
static const char *hint_of(int code)
{
	switch (code) {
	case ESHUTDOWN:
		return "; the cluster has blocklisted this client, usually because another client "
		       "has broken its lock; make sure that no other client uses the image, then "
		       "restart this program";
	case EROFS:
		return "; another client keeps the exclusive lock of the image";
	case ETIMEDOUT:
		return "; the cluster has not executed the request within rados_osd_op_timeout";
	default:
		return "";
	}
}

static void report_failure(struct rbd_queue *queue, const struct vublk_engine_io *io)
{
	struct vublk_rbd *rbd = engine_of(queue);

	vublk_engine_log(rbd->host, VUBLK_LOG_WARNING, "a request to %s failed (%s)%s",
			 rbd->engine.description, strerrordesc_np(-io->result),
			 hint_of(-io->result));
}

/* A durable request is followed by a flush, because the image may have a cache of its own. */
static bool needs_flush(const struct vublk_engine_io *io)
{
	return io->flags & VUBLK_IO_DURABLE && !io->result &&
	       (io->op == VUBLK_OP_WRITE || io->op == VUBLK_OP_WRITE_ZEROES) &&
	       !io->scratch[SCRATCH_FLUSHING].number;
}

static void take_arrived(struct rbd_queue *queue)
{
	struct vublk_engine_io *io = __atomic_exchange_n(&queue->arrived, NULL,
							 __ATOMIC_ACQUIRE);
	struct vublk_engine_io *first = NULL;

	while (io) { /* reverse the list, because it begins with the latest completion */
		struct vublk_engine_io *next = io->next;

		io->next = first;
		first = io;
		io = next;
	}
	for (io = first; io; io = first) {
		first = io->next;
		if (needs_flush(io)) {
			io->scratch[SCRATCH_FLUSHING].number = 1;
			start(queue, io);
		} else {
			finish(queue, io);
		}
	}
}

static void woken(struct vublk_engine_queue *engine_queue)
{
	eventfd_t count;

	eventfd_read(engine_queue->fd, &count);
}

static unsigned poll(struct vublk_engine_queue *engine_queue, struct vublk_engine_io **ios,
		     unsigned max)
{
	struct rbd_queue *queue = (struct rbd_queue *)engine_queue;
	unsigned n = 0;

	if (__atomic_load_n(&queue->arrived, __ATOMIC_RELAXED))
		take_arrived(queue);
	while (n < max && queue->done) {
		struct vublk_engine_io *io = queue->done;

		queue->done = io->next;
		if (!queue->done)
			queue->done_end = &queue->done;
		if (io->result)
			report_failure(queue, io);
		ios[n++] = io;
	}
	return n;
}

/* --- life -------------------------------------------------------------------------- */

static void free_queue(struct vublk_engine_queue *engine_queue)
{
	struct rbd_queue *queue = (struct rbd_queue *)engine_queue;

	/*
	 * Waits for the callbacks, because the callback of the last request may still write to the
	 * eventfd.
	 */
	while (__atomic_load_n(&queue->callbacks, __ATOMIC_ACQUIRE))
		sched_yield();
	close(queue->queue.fd);
	free(queue);
}

static const struct vublk_engine_queue_ops queue_ops = {
	.free = free_queue,
	.submit = submit,
	.woken = woken,
	.poll = poll,
};

int vublk_rbd_queue_new(struct vublk_engine *engine, struct vublk_engine_queue **result,
		  struct vublk_error *error)
{
	struct rbd_queue *queue = calloc(1, sizeof(*queue));

	if (!queue)
		return vublk_engine_fail(error, ENOMEM, "cannot allocate memory for a queue of the "
					 "engine rbd");
	queue->queue.ops = &queue_ops;
	queue->queue.engine = engine;
	queue->done_end = &queue->done;
	queue->queue.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (queue->queue.fd < 0) {
		int r = -errno;

		free(queue);
		return vublk_engine_fail(error, -r, "cannot create an eventfd for a queue of the engine "
					 "rbd: %s", strerrordesc_np(-r));
	}
	*result = &queue->queue;
	return 0;
}
