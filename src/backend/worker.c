/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The back-end's part of a worker: what the thread of worker/worker.c does with queues and the
 * engine. The thread's loop watches the kick descriptors and the engine's descriptor, and executes
 * posted tasks.
 *
 * The loop also watches the front-end's socket. If the front-end disconnected while this process
 * was suspended (SIGSTOP), the worker must not take chains that are meant for the next back-end.
 * The control thread might notice the disconnection too late.
 */
#include "backend/worker.h"

#include "util/atomic.h"
#include "util/compiler.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>

#define COMPLETION_BATCH 64

/*
 * The largest number of chains that are taken from a queue per round. A larger batch needs fewer
 * system calls of the engine, and fewer calls to a driver that sleeps.
 */
#define TAKE_BATCH 64
/*
 * Like TAKE_BATCH, for an engine that has no descriptor, because it serves requests within
 * submit(). These batches are smaller, because while the engine serves a batch, the driver can
 * handle the completions of the previous batch and make new requests. If the driver seems to share
 * the worker's core, TAKE_BATCH applies instead.
 */
#define TAKE_BATCH_IN_SUBMIT 16

/* How often a sleeping worker checks for requests that came without a kick. */
#define UNKICKED_NS UINT64_C(1000000000)
#define UNKICKED_LOOKS 10 /* after this many checks in a row without a request, the worker stops
			     checking */

struct vublk_backend_worker {
	struct vublk_worker common; /* must be the first member, because worker_ops get
				       &worker->common */

	/* constant */
	struct vublk_engine *engine;

	/* used by the worker's thread */
	struct vublk_loop_source engine_source;
	struct vublk_engine_queue *engine_queue;
	struct vublk_queue *queues; /* all of one session */
	struct vublk_backend_flush *flush; /* the flush that the engine has; NULL: none */
	struct vublk_loop_source peer_source; /* in the loop while there are queues, until the
						 front-end disconnects */
	struct vublk_loop_timer unkicked_timer;
	unsigned unkicked_looks; /* how many checks remain */
	unsigned polled_queues;  /* how many queues have no kick descriptor */
};

struct vublk_loop *vublk_backend_worker_loop(struct vublk_backend_worker *worker)
{
	return &worker->common.loop;
}

struct vublk_log_limit *vublk_backend_worker_log_limit(struct vublk_backend_worker *worker)
{
	return &worker->common.limit;
}

/* Ends a batch of submitted requests, which the engine may have delayed until this call. */
static void commit(struct vublk_backend_worker *worker)
{
	if (worker->engine_queue->ops->commit)
		worker->engine_queue->ops->commit(worker->engine_queue);
}

/* --- adding and removing queues ---------------------------------------------------- */

static void on_kick(void *opaque, uint32_t events)
{
	struct vublk_queue *queue = opaque;

	/*
	 * A kick only wakes the worker; the ring says what is new. A descriptor that can deliver no
	 * more kicks, such as a pipe without a writer, would stay readable, so it is removed.
	 */
	vublk_queue_kicked(queue, queue->kick_source.loop);
	queue->unkicked = 0;
	if (!(events & EPOLLIN) || vublk_eventfd_clear(queue->kick_source.fd) < 0)
		vublk_loop_remove(&queue->kick_source);
}

static void look_for_unkicked_later(struct vublk_backend_worker *worker)
{
	if (worker->unkicked_looks && worker->queues && worker->common.poll != VUBLK_POLL_BUSY)
		vublk_loop_timer_arm(&worker->common.loop, &worker->unkicked_timer,
				     vublk_now_ns() + UNKICKED_NS);
}

/* Checks for requests without a kick, while the worker sleeps. The next round takes them. */
static void on_unkicked_timer(void *opaque)
{
	struct vublk_backend_worker *worker = opaque;

	worker->unkicked_looks--;
	for (struct vublk_queue *queue = worker->queues; queue && worker->common.is_asleep;
	     queue = queue->next)
		if (vublk_queue_is_unkicked(queue))
			worker->unkicked_looks = UNKICKED_LOOKS;
	look_for_unkicked_later(worker);
}

/*
 * Called when the front-end has disconnected. Stops taking chains. The control thread stops the
 * queues later.
 */
static void on_peer(void *opaque, uint32_t events)
{
	struct vublk_backend_worker *worker = opaque;

	vublk_loop_remove(&worker->peer_source);
	for (struct vublk_queue *queue = worker->queues; queue; queue = queue->next) {
		if (queue->phase != VUBLK_QUEUE_TAKING)
			continue;
		vublk_log(queue->log, VUBLK_LOG_DEBUG, "queue %u: stopped taking requests, because "
			  "the front-end closed the connection", queue->index);
		queue->phase = VUBLK_QUEUE_LEFT;
	}
}

static int watch_peer(struct vublk_backend_worker *worker, int fd, struct vublk_error *error)
{
	if (worker->peer_source.loop)
		return 0;
	worker->peer_source = (struct vublk_loop_source){ .fn = on_peer, .opaque = worker };
	return vublk_loop_add(&worker->common.loop, &worker->peer_source, fd, EPOLLRDHUP, error);
}

int vublk_backend_worker_add_queue(struct vublk_backend_worker *worker,
				   struct vublk_queue *queue, struct vublk_error *error)
{
	bool is_polled = queue->setup.kick_fd < 0;
	int r = 0;

	queue->kick_source = (struct vublk_loop_source){ .fn = on_kick, .opaque = queue };
	if (!is_polled)
		r = vublk_loop_add(&worker->common.loop, &queue->kick_source, queue->setup.kick_fd,
				   EPOLLIN, error);
	if (!r)
		r = watch_peer(worker, queue->peer_fd, error);
	if (r) {
		vublk_loop_remove(&queue->kick_source);
		return r;
	}
	if (is_polled)
		worker->polled_queues++;
	queue->next = worker->queues;
	worker->queues = queue;
	worker->unkicked_looks = UNKICKED_LOOKS;
	look_for_unkicked_later(worker);
	vublk_device_ring_disable_kicks(&queue->ring);
	vublk_queue_begin(queue, worker->engine_queue);
	commit(worker);
	return 0;
}

void vublk_backend_worker_drain_queue(struct vublk_backend_worker *worker,
				      struct vublk_queue *queue)
{
	queue->phase_before = queue->phase;
	queue->phase = VUBLK_QUEUE_DRAINING;
}

bool vublk_backend_worker_continue_queue(struct vublk_backend_worker *worker,
					 struct vublk_queue *queue)
{
	if (queue->phase != VUBLK_QUEUE_DRAINING)
		return false;
	queue->phase = queue->phase_before;
	return true;
}

static void remove_queue(struct vublk_backend_worker *worker, struct vublk_queue *queue)
{
	if (!worker->queues) {
		vublk_loop_remove(&worker->peer_source);
		vublk_loop_timer_disarm(&worker->unkicked_timer);
	}
	if (queue->kick_source.loop)
		vublk_loop_remove(&queue->kick_source);
	vublk_loop_timer_disarm(&queue->quiet_timer);
	if (queue->setup.kick_fd < 0)
		worker->polled_queues--;
	queue->phase = VUBLK_QUEUE_REMOVED;
	vublk_loop_post(queue->control, &queue->answer_task);
}

/* Removes the queues that have drained, and posts their answers. */
static void remove_drained(struct vublk_backend_worker *worker)
{
	struct vublk_queue **link = &worker->queues;

	while (*link) {
		struct vublk_queue *queue = *link;

		if (queue->phase != VUBLK_QUEUE_DRAINING || queue->outstanding) {
			link = &queue->next;
			continue;
		}
		*link = queue->next;
		remove_queue(worker, queue);
	}
}

/* --- work ------------------------------------------------------------------ */

static unsigned take_all(struct vublk_backend_worker *worker)
{
	bool is_small = worker->engine_queue->fd < 0 &&
			!vublk_worker_polling_is_useless(&worker->common);
	unsigned batch = is_small ? TAKE_BATCH_IN_SUBMIT : TAKE_BATCH;
	unsigned n = 0;

	for (struct vublk_queue *queue = worker->queues; queue; queue = queue->next)
		n += vublk_queue_take(queue, worker->engine_queue, batch);
	if (n)
		commit(worker);
	return n;
}

static void end_flush(struct vublk_backend_worker *worker)
{
	struct vublk_backend_flush *flush = worker->flush;

	worker->flush = NULL;
	vublk_loop_post(flush->control, &flush->answer_task);
}

static unsigned complete_all(struct vublk_backend_worker *worker)
{
	const struct vublk_engine_io *flush = worker->flush ? &worker->flush->io : NULL;
	struct vublk_engine_io *ios[COMPLETION_BATCH];
	unsigned n = worker->engine_queue->ops->poll(worker->engine_queue, ios, COMPLETION_BATCH);

	for (unsigned i = 0; i < n; i++)
		if (VUBLK_UNLIKELY(ios[i] == flush))
			end_flush(worker);
		else
			vublk_request_done((struct vublk_request *)ios[i], worker->engine_queue);
	if (n)
		commit(worker); /* submits the next range of each request that has several ranges */
	return n;
}

static bool work(struct vublk_worker *common)
{
	struct vublk_backend_worker *worker = (struct vublk_backend_worker *)common;
	unsigned n = take_all(worker);

	n += complete_all(worker);
	for (struct vublk_queue *queue = worker->queues; queue; queue = queue->next)
		vublk_queue_publish(queue);
	remove_drained(worker);
	return n;
}

/* --- sleep ----------------------------------------------------------------- */

static enum vublk_worker_wait waits_for(const struct vublk_worker *common)
{
	const struct vublk_backend_worker *worker = (const struct vublk_backend_worker *)common;

	if (worker->polled_queues)
		return VUBLK_WAIT_UNSIGNALLED;
	if (!worker->queues)
		return VUBLK_WAIT_NOTHING;
	for (const struct vublk_queue *queue = worker->queues; queue; queue = queue->next)
		if (queue->outstanding)
			return VUBLK_WAIT_DISK;
	return VUBLK_WAIT_DRIVER;
}

/*
 * Enables the kicks of all queues from which the worker takes chains. Returns false if a chain is
 * available and a request is free for it.
 */
static bool enable_kicks(struct vublk_worker *common)
{
	struct vublk_backend_worker *worker = (struct vublk_backend_worker *)common;
	bool quiet = true;

	common->retry_ms = worker->engine_queue->retry_ms;
	for (struct vublk_queue *queue = worker->queues; queue; queue = queue->next)
		if (queue->phase == VUBLK_QUEUE_TAKING &&
		    !vublk_device_ring_enable_kicks(&queue->ring) && queue->free_requests)
			quiet = false;
	return quiet;
}

static void disable_kicks(struct vublk_worker *common)
{
	struct vublk_backend_worker *worker = (struct vublk_backend_worker *)common;

	for (struct vublk_queue *queue = worker->queues; queue; queue = queue->next)
		if (queue->phase == VUBLK_QUEUE_TAKING)
			vublk_device_ring_disable_kicks(&queue->ring);
}

/* --- a flush for the back-end itself --------------------------------------- */

static void on_flush(void *opaque)
{
	struct vublk_backend_flush *flush = opaque;
	struct vublk_backend_worker *worker = flush->worker;

	worker->flush = flush;
	worker->engine_queue->ops->submit(worker->engine_queue, &flush->io);
	commit(worker);
}

static void on_flush_answer(void *opaque)
{
	struct vublk_backend_flush *flush = opaque;

	flush->is_busy = false;
	flush->done(flush->opaque, flush->io.result);
}

void vublk_backend_worker_flush(struct vublk_backend_worker *worker,
				struct vublk_backend_flush *flush)
{
	flush->io = (struct vublk_engine_io){ .op = VUBLK_OP_FLUSH };
	flush->worker = worker;
	flush->task = (struct vublk_loop_task){ .fn = on_flush, .opaque = flush };
	flush->answer_task = (struct vublk_loop_task){ .fn = on_flush_answer, .opaque = flush };
	flush->is_busy = true;
	vublk_loop_post(&worker->common.loop, &flush->task);
}

/* --- life ------------------------------------------------------------------ */

static void on_engine(void *opaque, uint32_t events)
{
	struct vublk_backend_worker *worker = opaque;

	/* The next round takes the completions. */
	if (worker->engine_queue->ops->woken)
		worker->engine_queue->ops->woken(worker->engine_queue);
}

/*
 * Called on the worker's thread, because an engine's queue belongs to the thread that creates it.
 */
static int set_up(struct vublk_worker *common, struct vublk_error *error)
{
	struct vublk_backend_worker *worker = (struct vublk_backend_worker *)common;
	int r = worker->engine->ops->queue_new(worker->engine, &worker->engine_queue, error);

	if (r)
		return r;
	if (worker->engine_queue->fd >= 0)
		r = vublk_loop_add(&common->loop, &worker->engine_source,
				   worker->engine_queue->fd, EPOLLIN, error);
	if (r)
		worker->engine_queue->ops->free(worker->engine_queue);
	return r;
}

static void tear_down(struct vublk_worker *common)
{
	struct vublk_backend_worker *worker = (struct vublk_backend_worker *)common;

	if (worker->engine_source.loop)
		vublk_loop_remove(&worker->engine_source);
	worker->engine_queue->ops->free(worker->engine_queue);
}

static const struct vublk_worker_ops worker_ops = {
	.set_up = set_up,
	.tear_down = tear_down,
	.work = work,
	.waits_for = waits_for,
	.enable_notifications = enable_kicks,
	.disable_notifications = disable_kicks,
};

int vublk_backend_worker_new(struct vublk_engine *engine, enum vublk_poll_mode poll,
			     unsigned budget_percent, struct vublk_backend_worker **result,
			     struct vublk_error *error)
{
	struct vublk_backend_worker *worker = aligned_alloc(VUBLK_CACHE_LINE, sizeof(*worker));
	int r;

	if (!worker)
		return vublk_error_set(error, ENOMEM, "cannot allocate memory for a worker");
	*worker = (struct vublk_backend_worker){ .engine = engine };
	worker->unkicked_timer = (struct vublk_loop_timer){ .fn = on_unkicked_timer,
							    .opaque = worker };
	worker->engine_source = (struct vublk_loop_source){ .fn = on_engine, .opaque = worker };
	r = vublk_worker_start(&worker->common, &worker_ops, poll, budget_percent,
			       error);
	if (r) {
		free(worker);
		return r;
	}
	*result = worker;
	return 0;
}

void vublk_backend_worker_free(struct vublk_backend_worker *worker)
{
	if (!worker)
		return;
	vublk_worker_stop(&worker->common);
	free(worker);
}
