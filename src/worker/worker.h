/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_WORKER_WORKER_H
#define VUBLK_WORKER_WORKER_H

/*
 * A thread that runs rings. In each round it takes, submits, completes and publishes requests in
 * batches; after a round without work it polls for a while, and then it sleeps.
 *
 * The thread, its loop, polling and sleep are the same for every kind of worker. The owner embeds
 * `struct vublk_worker` first in a struct of its own and gives the functions that differ; they are
 * called per round, never per request. Other threads communicate with a worker only by tasks that
 * they post to its loop.
 */
#include "util/atomic.h"
#include "util/log.h"
#include "util/loop.h"
#include "worker/poller.h"

#include <pthread.h>

enum vublk_poll_mode {
	VUBLK_POLL_ADAPTIVE, /* for a while, if polling has found work lately */
	VUBLK_POLL_OFF,      /* never: sleep when there is no work */
	VUBLK_POLL_BUSY,     /* always, while the worker waits for something */
};

/* What a worker waits for after a round without work. */
enum vublk_worker_wait {
	VUBLK_WAIT_NOTHING,     /* it runs no ring: it sleeps immediately */
	VUBLK_WAIT_DRIVER,      /* the next request of a driver */
	VUBLK_WAIT_DISK,        /* the completion of a request that was submitted */
	VUBLK_WAIT_UNSIGNALLED, /* something that no descriptor signals: it polls in every mode */
};

struct vublk_worker;

/* All are called on the worker's thread, outside the callbacks of its loop. */
struct vublk_worker_ops {
	/* Once, before the first round; if it fails, no other function is called. */
	int (*set_up)(struct vublk_worker *worker, struct vublk_error *error);
	/* Once, after the last round. Leaves no source and no timer in the loop. */
	void (*tear_down)(struct vublk_worker *worker);
	/* One round over the rings, in batches; returns whether there was work. */
	bool (*work)(struct vublk_worker *worker);
	/* After a round without work. */
	enum vublk_worker_wait (*waits_for)(const struct vublk_worker *worker);
	/*
	 * Before a sleep: makes the other end of each ring send notifications, and then looks at
	 * the rings once more. False: there is work, so the worker does not sleep.
	 */
	bool (*enable_notifications)(struct vublk_worker *worker);
	/* After the sleep, and after enable_notifications() returned false. */
	void (*disable_notifications)(struct vublk_worker *worker);
};

/* On cache lines of its own, because several run at the same time. */
struct vublk_worker {
	/* used by the thread that starts and stops the worker */
	pthread_t thread __attribute__((aligned(VUBLK_CACHE_LINE)));

	/* constant */
	const struct vublk_worker_ops *ops;
	enum vublk_poll_mode poll;

	/* the worker's, for the owner's functions; `loop` takes posts from any thread */
	struct vublk_loop loop;
	struct vublk_log_limit limit; /* of lines that the drivers of its rings cause */
	unsigned retry_ms; /* the longest sleep, set by the owner before it; 0: no limit */
	bool is_asleep;    /* notifications are enabled, and the thread waits in the loop */

	/* the worker's, private */
	struct vublk_loop_task quit_task;
	bool quit;
	unsigned rounds;
	struct vublk_poller for_driver, for_disk; /* named after what it waits for */
	struct vublk_poller *looking;             /* the one in use; NULL: it does not poll */
};

/*
 * Starts the thread, which has executed ops->set_up() when this returns. The memory of the worker
 * is aligned to VUBLK_CACHE_LINE, and this call fills it; `ops` outlives the worker. Returns the
 * error of set_up(), or one of its own; after an error the thread does not run.
 */
int vublk_worker_start(struct vublk_worker *worker, const struct vublk_worker_ops *ops,
		       enum vublk_poll_mode poll, struct vublk_error *error);
/* Ends the thread after the tasks posted so far, and waits for its end. It must not run a ring. */
void vublk_worker_stop(struct vublk_worker *worker);

/*
 * Called on the worker's thread. Whether polling for the driver has been useless lately; the driver
 * then probably runs on the same core.
 */
static inline bool vublk_worker_polling_is_useless(const struct vublk_worker *worker)
{
	return vublk_poller_is_useless(&worker->for_driver);
}

#endif
