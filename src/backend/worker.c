/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file is the thread of a worker. In each round over its queues the thread takes, submits,
 * completes and publishes requests in batches; after a round without work it sleeps.
 *
 * Key idea: while there is work, kicks are disabled and the rings are polled; the event loop, which
 * has the kicks, the engine's descriptor and the posted tasks, runs only every few rounds. Before
 * it sleeps, the worker enables kicks and looks at the rings once more. The time for which the
 * worker polls before it sleeps is adaptive (poller.h).
 *
 * The loop also watches the front-end's socket. If the front-end disconnected while this process
 * was suspended (SIGSTOP), the worker must not take chains that are meant for the next back-end.
 * The control thread would notice the disconnection too late.
 */
#include "backend/worker.h"

#include "util/atomic.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "worker/poller.h"

#include <errno.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>

#define COMPLETION_BATCH 64

/*
 * Chains taken from a queue per round. A larger batch means fewer system calls of the engine,
 * and fewer calls to a driver that sleeps.
 */
#define TAKE_BATCH 64
/*
 * The batch of an engine that serves requests in submit(). With small batches the driver can handle
 * completions and make new requests while the next batch is served, unless the driver has to share
 * our core.
 */
#define TAKE_BATCH_IN_SUBMIT 16

#define ROUNDS_BETWEEN_LOOKS 32 /* at the event loop, while there is work */
#define PAUSES_BETWEEN_LOOKS 4  /* at the rings, while there is none */

/* After a start, a sleeping worker looks for a driver that sends no kicks. */
#define UNKICKED_NS UINT64_C(1000000000)
#define UNKICKED_LOOKS 10 /* without a result; afterwards it sleeps without looking */

/* On cache lines of its own, because several run at the same time. */
struct vublk_worker {
	/* the control thread's */
	pthread_t thread __attribute__((aligned(VUBLK_CACHE_LINE)));

	/* constant */
	struct vublk_engine *engine;
	enum vublk_poll_mode poll;

	/* the worker's; `loop` takes posts from any thread */
	struct vublk_loop loop;
	struct vublk_loop_task quit_task;
	struct vublk_loop_source engine_source;
	struct vublk_engine_queue *engine_queue;
	struct vublk_queue *queues; /* of one session */
	struct vublk_loop_source peer_source; /* in the loop while there are queues */
	struct vublk_loop_timer unkicked_timer;
	unsigned unkicked_looks; /* still to come */
	bool is_asleep;          /* kicks are enabled, and the thread waits in the loop */
	bool quit;
	unsigned polled_queues; /* queues without a kick descriptor */
	unsigned rounds;
	struct vublk_poller for_driver, for_disk; /* named after what it waits for */
	struct vublk_poller *looking;             /* the one in use; NULL: it does not poll */
	struct vublk_log_limit limit;

	/* while it starts */
	sem_t *started;
	int result;
	struct vublk_error *error;
};

struct vublk_loop *vublk_worker_loop(struct vublk_worker *worker)
{
	return &worker->loop;
}

struct vublk_log_limit *vublk_worker_log_limit(struct vublk_worker *worker)
{
	return &worker->limit;
}

/* An engine may hold back submitted requests until the end of the batch. */
static void commit(struct vublk_worker *worker)
{
	if (worker->engine_queue->ops->commit)
		worker->engine_queue->ops->commit(worker->engine_queue);
}

/* --- adding and removing queues ---------------------------------------------------- */

static void on_kick(void *opaque, uint32_t events)
{
	struct vublk_queue *queue = opaque;

	/*
	 * A kick has no content; the ring says what is new. A descriptor that can give no
	 * more kicks, such as the end of a pipe, would stay readable, so it is removed.
	 */
	vublk_queue_kicked(queue, queue->kick_source.loop);
	queue->unkicked = 0;
	if (!(events & EPOLLIN) || vublk_eventfd_clear(queue->kick_source.fd) < 0)
		vublk_loop_remove(&queue->kick_source);
}

static void look_for_unkicked_later(struct vublk_worker *worker)
{
	if (worker->unkicked_looks && worker->queues && worker->poll != VUBLK_POLL_BUSY)
		vublk_loop_timer_arm(&worker->loop, &worker->unkicked_timer,
				     vublk_now_ns() + UNKICKED_NS);
}

/* The worker takes the requests that this function finds when the loop returns. */
static void on_unkicked_timer(void *opaque)
{
	struct vublk_worker *worker = opaque;

	worker->unkicked_looks--;
	for (struct vublk_queue *queue = worker->queues; queue && worker->is_asleep;
	     queue = queue->next)
		if (vublk_queue_is_unkicked(queue))
			worker->unkicked_looks = UNKICKED_LOOKS;
	look_for_unkicked_later(worker);
}

/* The front-end has disconnected; the control thread will stop the queues. */
static void on_peer(void *opaque, uint32_t events)
{
	struct vublk_worker *worker = opaque;

	vublk_loop_remove(&worker->peer_source);
	for (struct vublk_queue *queue = worker->queues; queue; queue = queue->next) {
		if (queue->phase != VUBLK_QUEUE_TAKING)
			continue;
		vublk_log(queue->log, VUBLK_LOG_DEBUG, "queue %u: nothing more is taken (the "
			  "front-end closed the connection)", queue->index);
		queue->phase = VUBLK_QUEUE_LEFT;
	}
}

static int watch_peer(struct vublk_worker *worker, int fd, struct vublk_error *error)
{
	if (worker->peer_source.loop)
		return 0;
	worker->peer_source = (struct vublk_loop_source){ .fn = on_peer, .opaque = worker };
	return vublk_loop_add(&worker->loop, &worker->peer_source, fd, EPOLLRDHUP, error);
}

int vublk_worker_add_queue(struct vublk_worker *worker, struct vublk_queue *queue,
			   struct vublk_error *error)
{
	bool is_polled = queue->setup.kick_fd < 0;
	int r = 0;

	queue->kick_source = (struct vublk_loop_source){ .fn = on_kick, .opaque = queue };
	if (!is_polled)
		r = vublk_loop_add(&worker->loop, &queue->kick_source, queue->setup.kick_fd,
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

void vublk_worker_drain_queue(struct vublk_worker *worker, struct vublk_queue *queue)
{
	queue->phase = VUBLK_QUEUE_DRAINING;
}

static void remove_queue(struct vublk_worker *worker, struct vublk_queue *queue)
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
	vublk_loop_post(queue->control, &queue->answer_task);
}

/* Returns the queues that are to stop and have no requests outstanding. */
static void remove_drained(struct vublk_worker *worker)
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

static unsigned take_all(struct vublk_worker *worker)
{
	bool is_small = worker->engine_queue->fd < 0 &&
			!vublk_poller_is_useless(&worker->for_driver);
	unsigned batch = is_small ? TAKE_BATCH_IN_SUBMIT : TAKE_BATCH;
	unsigned n = 0;

	for (struct vublk_queue *queue = worker->queues; queue; queue = queue->next)
		n += vublk_queue_take(queue, worker->engine_queue, batch);
	if (n)
		commit(worker);
	return n;
}

static unsigned complete_all(struct vublk_worker *worker)
{
	struct vublk_engine_io *ios[COMPLETION_BATCH];
	unsigned n = worker->engine_queue->ops->poll(worker->engine_queue, ios, COMPLETION_BATCH);

	for (unsigned i = 0; i < n; i++)
		vublk_request_done((struct vublk_request *)ios[i], worker->engine_queue);
	if (n)
		commit(worker); /* a request of several ranges submits its next one */
	return n;
}

/* One round; returns whether there was work. */
static bool work(struct vublk_worker *worker)
{
	unsigned n = take_all(worker);

	n += complete_all(worker);
	for (struct vublk_queue *queue = worker->queues; queue; queue = queue->next)
		vublk_queue_publish(queue);
	remove_drained(worker);
	return n;
}

/* --- sleep ----------------------------------------------------------------- */

/*
 * Returns the poller for the next expected event: an answer of the engine, or a request of a
 * driver.
 */
static struct vublk_poller *poller_of(struct vublk_worker *worker)
{
	for (const struct vublk_queue *queue = worker->queues; queue; queue = queue->next)
		if (queue->outstanding)
			return &worker->for_disk;
	return &worker->for_driver;
}

/* Returns whether to stay awake although there was no work. */
static bool keeps_looking(struct vublk_worker *worker)
{
	struct vublk_poller *poller;

	if (worker->polled_queues || (worker->queues && worker->poll == VUBLK_POLL_BUSY))
		return true;
	if (!worker->queues || worker->poll == VUBLK_POLL_OFF)
		return false;
	poller = worker->looking ? worker->looking : poller_of(worker);
	if (!poller->window_ns)
		return false;
	worker->looking = poller;
	return vublk_poller_looks(poller, vublk_now_ns());
}

/* Polling without a pause would take the index's cache line from the driver that writes it. */
static void pause_for_a_moment(void)
{
	for (unsigned i = 0; i < PAUSES_BETWEEN_LOOKS; i++)
		vublk_cpu_relax();
}

/* Enables the kicks of all queues; false if a driver has made chains available meanwhile. */
static bool enable_kicks(struct vublk_worker *worker)
{
	bool quiet = true;

	for (struct vublk_queue *queue = worker->queues; queue; queue = queue->next)
		if (queue->phase == VUBLK_QUEUE_TAKING &&
		    !vublk_device_ring_enable_kicks(&queue->ring) && queue->free_requests)
			quiet = false;
	return quiet;
}

static void disable_kicks(struct vublk_worker *worker)
{
	for (struct vublk_queue *queue = worker->queues; queue; queue = queue->next)
		if (queue->phase == VUBLK_QUEUE_TAKING)
			vublk_device_ring_disable_kicks(&queue->ring);
}

/* Ends polling, with or without a result. */
static void stop_looking(struct vublk_worker *worker, void (*ends)(struct vublk_poller *poller))
{
	if (worker->looking)
		ends(worker->looking);
	worker->looking = NULL;
}

static void sleep_until_needed(struct vublk_worker *worker)
{
	struct vublk_poller *poller = worker->poll == VUBLK_POLL_ADAPTIVE ? poller_of(worker) : NULL;
	unsigned retry_ms = worker->engine_queue->retry_ms;
	uint64_t before;

	stop_looking(worker, vublk_poller_missed);
	if (enable_kicks(worker)) {
		before = poller ? vublk_now_ns() : 0;
		worker->is_asleep = true;
		/* A process that was suspended (SIGSTOP) returns from the wait without an event. */
		if (!vublk_loop_process(&worker->loop, retry_ms ? (int)retry_ms : -1))
			vublk_loop_process(&worker->loop, 0);
		worker->is_asleep = false;
		if (poller)
			vublk_poller_slept(poller, vublk_now_ns() - before);
	}
	disable_kicks(worker);
}

static void run(struct vublk_worker *worker)
{
	while (!worker->quit) {
		if (work(worker)) {
			stop_looking(worker, vublk_poller_found);
		} else if (keeps_looking(worker)) {
			pause_for_a_moment();
		} else {
			sleep_until_needed(worker);
			continue;
		}
		if (++worker->rounds % ROUNDS_BETWEEN_LOOKS == 0)
			vublk_loop_process(&worker->loop, 0);
	}
}

/* --- life ------------------------------------------------------------------ */

static void on_engine(void *opaque, uint32_t events)
{
	struct vublk_worker *worker = opaque;

	/* The next round takes the completions. */
	if (worker->engine_queue->ops->woken)
		worker->engine_queue->ops->woken(worker->engine_queue);
}

static void on_quit(void *opaque)
{
	((struct vublk_worker *)opaque)->quit = true;
}

/* On the worker's thread, because an engine's queue belongs to the thread that creates it. */
static int set_up(struct vublk_worker *worker, struct vublk_error *error)
{
	int r = worker->engine->ops->queue_new(worker->engine, &worker->engine_queue, error);

	if (r)
		return r;
	if (worker->engine_queue->fd >= 0)
		r = vublk_loop_add(&worker->loop, &worker->engine_source,
				   worker->engine_queue->fd, EPOLLIN, error);
	if (r)
		worker->engine_queue->ops->free(worker->engine_queue);
	return r;
}

static void *worker_main(void *opaque)
{
	struct vublk_worker *worker = opaque;

	worker->result = set_up(worker, worker->error);
	if (worker->result) {
		sem_post(worker->started);
		return NULL;
	}
	sem_post(worker->started);
	run(worker);
	if (worker->engine_source.loop)
		vublk_loop_remove(&worker->engine_source);
	worker->engine_queue->ops->free(worker->engine_queue);
	return NULL;
}

/* The application's own threads handle signals. */
static int start_thread(struct vublk_worker *worker)
{
	sigset_t all, before;
	int r;

	sigfillset(&all);
	sigdelset(&all, SIGBUS); /* a fault while it is blocked ends the process */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&worker->thread, NULL, worker_main, worker);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -r;
}

static int start(struct vublk_worker *worker, struct vublk_error *error)
{
	sem_t started;
	int r;

	sem_init(&started, 0, 0);
	worker->started = &started;
	worker->error = error;
	r = start_thread(worker);
	if (r) {
		sem_destroy(&started);
		return vublk_error_set_errno(error, -r, "cannot start a thread");
	}
	while (sem_wait(&started) < 0 && errno == EINTR)
		;
	sem_destroy(&started);
	if (worker->result)
		pthread_join(worker->thread, NULL);
	return worker->result;
}

int vublk_worker_new(struct vublk_engine *engine, enum vublk_poll_mode poll,
		     struct vublk_worker **result, struct vublk_error *error)
{
	struct vublk_worker *worker = aligned_alloc(VUBLK_CACHE_LINE, sizeof(*worker));
	int r;

	if (!worker)
		return vublk_error_set(error, ENOMEM, "no memory for a worker");
	*worker = (struct vublk_worker){ 0 };
	r = vublk_loop_init(&worker->loop, error);
	if (r) {
		free(worker);
		return r;
	}
	worker->engine = engine;
	worker->poll = poll;
	worker->for_driver.last_ns = VUBLK_POLLER_DRIVER_NS;
	worker->for_disk.last_ns = VUBLK_POLLER_DISK_NS;
	worker->quit_task = (struct vublk_loop_task){ .fn = on_quit, .opaque = worker };
	worker->unkicked_timer = (struct vublk_loop_timer){ .fn = on_unkicked_timer,
							    .opaque = worker };
	worker->engine_source = (struct vublk_loop_source){ .fn = on_engine, .opaque = worker };
	r = start(worker, error);
	if (r) {
		vublk_loop_deinit(&worker->loop);
		free(worker);
		return r;
	}
	*result = worker;
	return 0;
}

void vublk_worker_free(struct vublk_worker *worker)
{
	if (!worker)
		return;
	vublk_loop_post(&worker->loop, &worker->quit_task);
	pthread_join(worker->thread, NULL);
	vublk_loop_deinit(&worker->loop);
	free(worker);
}
