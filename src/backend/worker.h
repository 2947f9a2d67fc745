/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_WORKER_H
#define VUBLK_BACKEND_WORKER_H

/* A worker (worker/worker.h) that runs a group of queues. */
#include "backend/engine/engine.h"
#include "backend/queue.h"
#include "util/loop.h"
#include "worker/worker.h"

struct vublk_backend_worker;

/* A worker of `engine`; its thread runs when this returns. */
int vublk_backend_worker_new(struct vublk_engine *engine, enum vublk_poll_mode poll,
			     struct vublk_backend_worker **worker, struct vublk_error *error);
/* Ends the thread and waits for its end; the worker must have no queues. NULL is a no-op. */
void vublk_backend_worker_free(struct vublk_backend_worker *worker);

/* Where tasks are posted. */
struct vublk_loop *vublk_backend_worker_loop(struct vublk_backend_worker *worker);

/* The limit of log lines that the drivers of its queues cause; for the worker's thread only. */
struct vublk_log_limit *vublk_backend_worker_log_limit(struct vublk_backend_worker *worker);

/* The worker's thread. */

/* Begins to run a queue. */
int vublk_backend_worker_add_queue(struct vublk_backend_worker *worker,
				   struct vublk_queue *queue, struct vublk_error *error);
/* Takes no more chains; posts the queue's answer when all requests are complete. */
void vublk_backend_worker_drain_queue(struct vublk_backend_worker *worker,
				      struct vublk_queue *queue);

#endif
