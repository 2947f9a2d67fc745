/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_WORKER_H
#define VUBLK_BACKEND_WORKER_H

/* A worker (worker/worker.h) that runs a group of queues. */
#include "backend/engine/engine.h"
#include "backend/queue.h"
#include "util/loop.h"
#include "worker/worker.h"

struct vublk_backend_worker;

/*
 * Makes a worker for `engine` and starts its thread. vublk_worker_start() explains `poll` and
 * `budget_percent`.
 */
int vublk_backend_worker_new(struct vublk_engine *engine, enum vublk_poll_mode poll,
			     unsigned budget_percent, struct vublk_backend_worker **worker,
			     struct vublk_error *error);
/* Ends the thread and waits for its end. The worker must have no queues. NULL is a no-op. */
void vublk_backend_worker_free(struct vublk_backend_worker *worker);

/* Returns the worker's loop, to which any thread may post tasks. */
struct vublk_loop *vublk_backend_worker_loop(struct vublk_backend_worker *worker);

/*
 * Returns the limit for log lines that the drivers of the worker's queues can cause. Only the
 * worker's thread may use the limit.
 */
struct vublk_log_limit *vublk_backend_worker_log_limit(struct vublk_backend_worker *worker);

/*
 * A flush of the disk that the back-end itself submits. The caller sets `control`, `done` and
 * `opaque`. From vublk_backend_worker_flush() on, the struct belongs to the worker, until done() is
 * called on the loop `control` with 0 or a negative errno.
 */
struct vublk_backend_flush {
	struct vublk_engine_io io; /* must be the first member, because the engine returns it */
	struct vublk_backend_worker *worker;
	struct vublk_loop_task task, answer_task;
	struct vublk_loop *control;
	void (*done)(void *opaque, int result);
	void *opaque;
	bool is_busy; /* used by the control thread */
};

/* Begins `flush`, which must not be busy. Works even if the worker has no queues. Never waits. */
void vublk_backend_worker_flush(struct vublk_backend_worker *worker,
				struct vublk_backend_flush *flush);

/* These functions are called on the worker's thread. */

/* Begins to run a queue. */
int vublk_backend_worker_add_queue(struct vublk_backend_worker *worker,
				   struct vublk_queue *queue, struct vublk_error *error);
/*
 * From this call on, the worker takes no more chains from the queue. It posts the queue's answer
 * when none of the queue's requests is outstanding.
 */
void vublk_backend_worker_drain_queue(struct vublk_backend_worker *worker,
				      struct vublk_queue *queue);
/*
 * Undoes vublk_backend_worker_drain_queue(), unless the queue's answer was posted already. Returns
 * whether the worker runs the queue.
 */
bool vublk_backend_worker_continue_queue(struct vublk_backend_worker *worker,
					 struct vublk_queue *queue);

#endif
