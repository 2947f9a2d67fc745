/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_QUEUE_H
#define VUBLK_BACKEND_QUEUE_H

/*
 * A virtqueue of the disk. It is set up by the control thread and run by a
 * worker; the two never touch it at the same time. The control thread owns all
 * of it while it is stopped, and only `setup` and `state` otherwise.
 */
#include "backend/config.h"
#include "backend/engine/engine.h"
#include "backend/inflight.h"
#include "util/atomic.h"
#include "util/log.h"
#include "util/loop.h"
#include "virtio/device-ring.h"
#include "virtio/ring.h"

#include <linux/vhost_types.h>

struct vublk_worker;

/* Room for a chain's segments: the longest, and some that cross memory regions. */
#define VUBLK_REQUEST_MAX_IOV (VUBLK_RING_MAX_INDIRECT + 14)

/* A virtio-blk request from the ring to the engine and back. request.c */
struct vublk_request {
	struct vublk_engine_io io; /* first: the engine gives back &request->io */
	struct vublk_queue *queue;
	struct vublk_request *next_free;
	struct vublk_chain chain;
	uint8_t *status;
	uint32_t written_bytes; /* on success, with the status */

	/* where its data was written, for the dirty log: the engine uses the chain's up */
	struct iovec *dirty;
	unsigned num_dirty;

	/* DISCARD, WRITE_ZEROES: the ranges, copied, and the next to be done */
	unsigned num_ranges, next_range;
	struct virtio_blk_discard_write_zeroes ranges[VUBLK_BACKEND_MAX_RANGES];
};

/* What a queue borrows while it runs; none of it changes meanwhile. */
struct vublk_queue_loan {
	const struct vublk_memory_map *map;
	const struct vublk_inflight_area *inflight;
	const struct vublk_dirty_log *dirty_log;
	const struct vublk_fault *fault; /* of the session's mappings */
	int peer_fd; /* the front-end's socket, of which workers want to know that it is closed */
	struct vublk_log_limit *limit; /* the control thread's, during the start */
};

/* What the front-end said of the queue. */
struct vublk_queue_setup {
	unsigned size; /* 0: not said */
	uint16_t base;
	bool has_addr;
	bool has_kick;
	bool enabled;
	struct vhost_vring_addr addr; /* in the front-end's addresses; the log's in the guest's */
	int kick_fd; /* -1: none: the queue is polled */
	int call_fd; /* -1: none */
	int err_fd;  /* -1: none */
};

/* The control thread's view. */
enum vublk_queue_state {
	VUBLK_QUEUE_STOPPED,
	VUBLK_QUEUE_STARTING, /* a worker was told, and has not answered */
	VUBLK_QUEUE_RUNNING,
	VUBLK_QUEUE_STOPPING, /* the same */
};

/* The worker's view, while it has the queue. */
enum vublk_queue_phase {
	VUBLK_QUEUE_GOING,
	VUBLK_QUEUE_BROKEN,   /* the ring is broken, or its memory was removed: nothing is taken */
	VUBLK_QUEUE_LEFT,     /* the front-end is gone: the same */
	VUBLK_QUEUE_DRAINING, /* is to stop, and has requests in the engine */
};

struct vublk_queue {
	/* for ever */
	unsigned index;
	struct vublk_worker *worker;
	const struct vublk_log *log;
	struct vublk_loop *control; /* where answers are posted */
	void (*answered)(struct vublk_queue *queue, void *opaque);
	void *opaque;

	/* the control thread's */
	enum vublk_queue_state state;
	struct vublk_queue_setup setup;

	/* posted from one to the other */
	struct vublk_loop_task start_task, stop_task, suspend_task, answer_task;
	int result; /* of the start, with the answer */
	struct vublk_error error;

	/* the worker's, unless stopped; on no line with what another thread writes */
	struct vublk_queue *next __attribute__((aligned(VUBLK_CACHE_LINE))); /* of its list */
	enum vublk_queue_phase phase;
	bool suspends; /* draining, what is not in the engine is left to the next start */
	struct vublk_device_ring ring;
	const struct vublk_memory_map *map;
	const struct vublk_fault *fault;
	struct vublk_disk disk;
	struct vublk_inflight_queue inflight;
	struct vublk_inflight_rest rest;
	struct vublk_loop_source kick_source;
	uint16_t first;      /* where taking began */
	bool was_kicked;     /* since then */
	struct vublk_loop_timer quiet_timer; /* from the first kick on */
	int call_fd, err_fd, peer_fd;
	bool is_muted; /* by the control thread: the peer blocks the worker with call_fd */
	struct vublk_request *requests; /* as many as the ring has entries */
	struct iovec *iovs;
	struct iovec *dirty_iovs; /* NULL until there was a log */
	const struct vublk_dirty_log *dirty_log; /* NULL: what requests write is not logged */
	unsigned num_requests;
	struct vublk_request *free_requests;
	unsigned outstanding; /* taken, and not pushed */
	unsigned pushed;      /* and not published */
	unsigned unkicked;    /* looks in a row that found requests without a kick */
	struct vublk_log_limit *limit; /* the worker's, which outlives the queue */
};

/* The control thread's; queue.c. */

void vublk_queue_init(struct vublk_queue *queue, unsigned index, struct vublk_worker *worker,
		      const struct vublk_log *log, struct vublk_loop *control);
/* Stopped. Closes its descriptors. */
void vublk_queue_deinit(struct vublk_queue *queue);

/* Whether all that a start needs was said, and the queue is to run. */
bool vublk_queue_wants_to_run(const struct vublk_queue *queue);

/*
 * Makes the queue ready and hands it to its worker; `answered` is called on the
 * control thread when the worker has it, or could not take it (`result`). `disk` is
 * copied.
 */
int vublk_queue_start(struct vublk_queue *queue, const struct vublk_disk *disk,
		      const struct vublk_queue_loan *loan, struct vublk_error *error);
/* Takes it back when its requests are complete; `answered` is called then. */
void vublk_queue_stop(struct vublk_queue *queue);
/*
 * The same, but a request with ranges that the engine was not given yet may be left
 * as the in-flight area has it, to be taken again by whoever starts the ring next.
 */
void vublk_queue_suspend(struct vublk_queue *queue);

/*
 * Frees the worker if it is blocked in a call of this queue, which runs, because the
 * front-end keeps the descriptor full; there are no calls from then on. Whether it was: it
 * may have to be repeated until the worker answers.
 */
bool vublk_queue_unblock(struct vublk_queue *queue);

/* Forgets what was said, save the notifiers that are not of one start. */
void vublk_queue_reset(struct vublk_queue *queue);

/* The worker's; queue-take.c. */

/* The driver kicked; `loop` is the worker's. */
void vublk_queue_kicked(struct vublk_queue *queue, struct vublk_loop *loop);

/* Begins: what the previous back-end left undone is taken again. */
void vublk_queue_begin(struct vublk_queue *queue, struct vublk_engine_queue *engine);
/* Takes what the driver made available, `max` chains at most, and submits it. How many. */
unsigned vublk_queue_take(struct vublk_queue *queue, struct vublk_engine_queue *engine,
			  unsigned max);
/*
 * The worker sleeps, and the driver was asked for kicks: whether it has made requests
 * available without one. Said once it is certain, because nothing else wakes the worker.
 */
bool vublk_queue_is_unkicked(struct vublk_queue *queue);

/* The worker's; queue-complete.c. */

static inline void vublk_queue_free_request(struct vublk_queue *queue,
					    struct vublk_request *request)
{
	request->next_free = queue->free_requests;
	queue->free_requests = request;
}

/* Publishes what was pushed, and calls the driver if it wants a call. */
void vublk_queue_publish(struct vublk_queue *queue);

/* A chain's completion: into the ring, not published; the request is free again. */
void vublk_queue_push(struct vublk_queue *queue, struct vublk_request *request, uint32_t bytes);
/* No completion, and no change in the in-flight area; the request is free again. */
void vublk_queue_leave(struct vublk_queue *queue, struct vublk_request *request);

/* The worker's; request.c. */

/* Serves the request in request->chain: submits it, or completes it at once. */
void vublk_request_begin(struct vublk_request *request, struct vublk_engine_queue *engine);
/* The engine has completed request->io. */
void vublk_request_done(struct vublk_request *request, struct vublk_engine_queue *engine);

#endif
