/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_WORKER_WORKER_H
#define VUBLK_WORKER_WORKER_H

/*
 * A worker: a thread that runs rings. In each round it takes, submits, completes and publishes
 * requests in batches. After a round without work it polls for a while, and then it sleeps.
 *
 * The thread, its loop, its polling and its sleep are the same for every kind of worker. The owner
 * embeds `struct vublk_worker` as the first member of its own struct, and supplies the functions
 * that differ. They are called at most once per round, never once per request. Other threads
 * communicate with a worker only through tasks that they post to its loop.
 */
#include "util/atomic.h"
#include "util/log.h"
#include "util/loop.h"
#include "worker/budget.h"
#include "worker/poller.h"

#include <pthread.h>

enum vublk_poll_mode {
	VUBLK_POLL_ADAPTIVE, /* polls for a while, unless polling has been useless lately */
	VUBLK_POLL_OFF,      /* never polls: sleeps when there is no work */
	VUBLK_POLL_BUSY,     /* always polls while it waits for something */
};

/* What a worker waits for after a round without work. */
enum vublk_worker_wait {
	VUBLK_WAIT_NOTHING,     /* nothing urgent: the worker sleeps immediately */
	VUBLK_WAIT_DRIVER,      /* the next request of a driver */
	VUBLK_WAIT_DISK,        /* the completion of a request that was submitted */
	VUBLK_WAIT_UNSIGNALLED, /* something that no descriptor signals, so the worker polls in
				   every mode */
};

struct vublk_worker;

/*
 * The functions of the owner. The worker's thread calls them, but never from a callback of its
 * loop.
 */
struct vublk_worker_ops {
	/* Called once, before the first round. If it fails, no other function is called. */
	int (*set_up)(struct vublk_worker *worker, struct vublk_error *error);
	/* Called once, after the last round. Must leave no source and no timer in the loop. */
	void (*tear_down)(struct vublk_worker *worker);
	/* Does one round over the rings, in batches. Returns whether there was work. */
	bool (*work)(struct vublk_worker *worker);
	/* Called after a round without work. */
	enum vublk_worker_wait (*waits_for)(const struct vublk_worker *worker);
	/*
	 * Called before a sleep. Makes the other end of each ring send notifications, and then
	 * looks at the rings once more. Returns false if there is work; the worker then does not
	 * sleep.
	 */
	bool (*enable_notifications)(struct vublk_worker *worker);
	/*
	 * Called after each enable_notifications(): after the sleep, or immediately if it returned
	 * false.
	 */
	void (*disable_notifications)(struct vublk_worker *worker);
};

/* Each worker has cache lines of its own, because several workers run at the same time. */
struct vublk_worker {
	/* used by the thread that starts and stops the worker */
	pthread_t thread __attribute__((aligned(VUBLK_CACHE_LINE)));

	/* constant */
	const struct vublk_worker_ops *ops;
	enum vublk_poll_mode poll;

	/*
	 * for the owner's functions, on the worker's thread; but any thread may post tasks to
	 * `loop`
	 */
	struct vublk_loop loop;
	struct vublk_log_limit limit; /* for log lines that the drivers of its rings can cause */
	unsigned retry_ms; /* the time limit of a sleep, which the owner may change before each
			      sleep; 0: no limit */
	bool is_asleep;    /* the thread is waiting in the loop, and notifications are enabled */

	/* private to worker.c, on the worker's thread */
	struct vublk_loop_task quit_task;
	bool quit;
	unsigned rounds;
	struct vublk_poller for_driver, for_disk; /* one per kind of wait */
	struct vublk_poller *looking;             /* the poller whose window is open; NULL: the
						     worker is not polling adaptively */
	struct vublk_poll_budget budget;          /* shared by both pollers */
};

/*
 * Initializes the worker, starts its thread, and waits until the thread has executed ops->set_up().
 * `worker` must be aligned to VUBLK_CACHE_LINE, and `ops` must outlive it. `budget_percent`, at most
 * VUBLK_POLL_BUDGET_MAX, is the budget of adaptive polling (budget.h); other modes ignore it.
 * Returns 0, the error of set_up(), or another negative errno; after an error the thread does not
 * run.
 */
int vublk_worker_start(struct vublk_worker *worker, const struct vublk_worker_ops *ops,
		       enum vublk_poll_mode poll, unsigned budget_percent,
		       struct vublk_error *error);
/*
 * Ends the thread after it has executed the tasks that were posted before this call, and waits for
 * its end. The worker must not have any ring to run.
 */
void vublk_worker_stop(struct vublk_worker *worker);

/*
 * Returns whether polling for the driver has been useless lately. The usual reason is that the
 * driver runs on the worker's core. Must be called on the worker's thread.
 */
static inline bool vublk_worker_polling_is_useless(const struct vublk_worker *worker)
{
	return vublk_poller_is_useless(&worker->for_driver);
}

#endif
