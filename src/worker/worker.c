/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The thread of a worker: its rounds, its polling and its sleep; see worker.h.
 *
 * Key idea: while there is work, notifications are disabled and the worker polls the rings. The
 * event loop, which handles descriptors and posted tasks, runs only every few rounds. Before the
 * worker sleeps, it enables notifications and looks at the rings once more. How long it polls
 * before it sleeps is adaptive (poller.h), within a budget (budget.h).
 */
#include "worker/worker.h"

#include "util/atomic.h"
#include "util/error.h"

#include <errno.h>
#include <semaphore.h>
#include <signal.h>

#define ROUNDS_BETWEEN_LOOKS 32 /* rounds between two runs of the event loop */
#define PAUSES_BETWEEN_LOOKS 4  /* CPU pause instructions after a check that has found no request */

/* --- polling --------------------------------------------------------------- */

static struct vublk_poller *poller_of(struct vublk_worker *worker, enum vublk_worker_wait wait)
{
	return wait == VUBLK_WAIT_DISK ? &worker->for_disk : &worker->for_driver;
}

/* Returns whether the worker continues to poll after a round without work. */
static bool keeps_looking(struct vublk_worker *worker, enum vublk_worker_wait wait)
{
	struct vublk_poller *poller;
	uint64_t now_ns;

	if (wait == VUBLK_WAIT_UNSIGNALLED)
		return true;
	if (wait == VUBLK_WAIT_NOTHING || worker->poll == VUBLK_POLL_OFF)
		return false;
	if (worker->poll == VUBLK_POLL_BUSY)
		return true;
	poller = worker->looking ? worker->looking : poller_of(worker, wait);
	if (!poller->window_ns)
		return false;
	now_ns = vublk_now_ns();
	if (!worker->looking && !vublk_poll_budget_permits(&worker->budget, now_ns))
		return false;
	worker->looking = poller;
	return vublk_poller_looks(poller, now_ns);
}

/*
 * Pauses briefly between two checks of the rings. Without a pause, polling would keep taking the
 * cache line of a ring's index away from the driver, which writes the index.
 */
static void pause_for_a_moment(void)
{
	for (unsigned i = 0; i < PAUSES_BETWEEN_LOOKS; i++)
		vublk_cpu_relax();
}

/* Ends adaptive polling, and charges its window to the budget. */
static void stop_looking(struct vublk_worker *worker, bool is_found)
{
	struct vublk_poller *poller = worker->looking;
	uint64_t wasted_ns;

	if (!poller)
		return;
	wasted_ns = is_found ? vublk_poller_found(poller) : vublk_poller_missed(poller);
	if (wasted_ns)
		vublk_poll_budget_charge(&worker->budget, wasted_ns, poller->looked_ns);
	worker->looking = NULL;
}

/* --- sleep ----------------------------------------------------------------- */

static void sleep_until_needed(struct vublk_worker *worker, enum vublk_worker_wait wait)
{
	struct vublk_poller *poller =
		worker->poll == VUBLK_POLL_ADAPTIVE ? poller_of(worker, wait) : NULL;
	uint64_t before;

	stop_looking(worker, false);
	if (worker->ops->enable_notifications(worker)) {
		before = poller ? vublk_now_ns() : 0;
		worker->is_asleep = true;
		/*
		 * The wait can end without an event, for example after SIGCONT, so look once more
		 * without waiting.
		 */
		if (!vublk_loop_process(&worker->loop,
					worker->retry_ms ? (int)worker->retry_ms : -1))
			vublk_loop_process(&worker->loop, 0);
		worker->is_asleep = false;
		if (poller)
			vublk_poller_slept(poller, vublk_now_ns() - before);
	}
	worker->ops->disable_notifications(worker);
}

static void run(struct vublk_worker *worker)
{
	while (!worker->quit) {
		if (worker->ops->work(worker)) {
			stop_looking(worker, true);
		} else {
			enum vublk_worker_wait wait = worker->ops->waits_for(worker);

			if (!keeps_looking(worker, wait)) {
				sleep_until_needed(worker, wait);
				continue;
			}
			pause_for_a_moment();
		}
		if (++worker->rounds % ROUNDS_BETWEEN_LOOKS == 0)
			vublk_loop_process(&worker->loop, 0);
	}
}

/* --- life ------------------------------------------------------------------ */

/*
 * The arguments of the new thread. They are on the stack of the starting thread, so the new thread
 * must not use them after it has posted `done`.
 */
struct start {
	struct vublk_worker *worker;
	struct vublk_error *error;
	int result;
	sem_t done;
};

static void on_quit(void *opaque)
{
	((struct vublk_worker *)opaque)->quit = true;
}

static void *worker_main(void *opaque)
{
	struct start *start = opaque;
	struct vublk_worker *worker = start->worker;
	int r = worker->ops->set_up(worker, start->error);

	start->result = r;
	sem_post(&start->done);
	if (r)
		return NULL;
	run(worker);
	worker->ops->tear_down(worker);
	return NULL;
}

/*
 * Creates the worker's thread with signals blocked, so that the application's own threads handle
 * them.
 */
static int create_thread(struct start *start)
{
	sigset_t all, before;
	int r;

	sigfillset(&all);
	sigdelset(&all, SIGBUS); /* a fault while SIGBUS is blocked ends the process */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&start->worker->thread, NULL, worker_main, start);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -r;
}

static int start_thread(struct vublk_worker *worker, struct vublk_error *error)
{
	struct start start = { .worker = worker, .error = error };
	int r;

	sem_init(&start.done, 0, 0);
	r = create_thread(&start);
	if (r) {
		sem_destroy(&start.done);
		return vublk_error_set_errno(error, -r, "cannot start a thread");
	}
	while (sem_wait(&start.done) < 0 && errno == EINTR)
		;
	sem_destroy(&start.done);
	if (start.result)
		pthread_join(worker->thread, NULL);
	return start.result;
}

int vublk_worker_start(struct vublk_worker *worker, const struct vublk_worker_ops *ops,
		       enum vublk_poll_mode poll, unsigned budget_percent,
		       struct vublk_error *error)
{
	int r;

	*worker = (struct vublk_worker){
		.ops = ops,
		.poll = poll,
		.quit_task = { .fn = on_quit, .opaque = worker },
		.for_driver.last_ns = VUBLK_POLLER_DRIVER_NS,
		.for_disk.last_ns = VUBLK_POLLER_DISK_NS,
	};
	vublk_poll_budget_init(&worker->budget, budget_percent);
	r = vublk_loop_init(&worker->loop, error);
	if (r)
		return r;
	r = start_thread(worker, error);
	if (r)
		vublk_loop_deinit(&worker->loop);
	return r;
}

void vublk_worker_stop(struct vublk_worker *worker)
{
	vublk_loop_post(&worker->loop, &worker->quit_task);
	pthread_join(worker->thread, NULL);
	vublk_loop_deinit(&worker->loop);
}
