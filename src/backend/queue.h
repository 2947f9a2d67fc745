/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_QUEUE_H
#define VUBLK_BACKEND_QUEUE_H

/*
 * A virtqueue of the disk. The control thread sets the queue up and a worker runs it; the two
 * threads never touch the same fields at the same time. The control thread owns all fields while
 * the queue is stopped, and otherwise only `setup` and `state`.
 */
#include "backend/config.h"
#include "backend/engine/engine.h"
#include "backend/statistics.h"
#include "backend/inflight-area.h"
#include "util/atomic.h"
#include "util/log.h"
#include "util/loop.h"
#include "virtio/device-ring.h"
#include "virtio/ring.h"
#include "worker/inflight.h"

#include <linux/vhost_types.h>

struct vublk_backend_worker;

/* The number of segments of the longest chain, plus some for segments that cross memory regions. */
#define VUBLK_REQUEST_MAX_IOV (VUBLK_RING_MAX_INDIRECT + 14)

/* A virtio-blk request, from the ring to the engine and back. request.c */
struct vublk_request {
	struct vublk_engine_io io; /* first, because the engine returns &request->io */
	struct vublk_queue *queue;
	struct vublk_request *next_free;
	struct vublk_chain chain;
	uint8_t *status;
	uint32_t written_bytes; /* on success, including the status */

	/* statistics.c */
	struct vublk_backend_stats *stats; /* NULL: the request is not counted */
	uint64_t begun_ns, begun_bytes;

	/* where its data was written, for the dirty log; the engine consumes the chain's iovecs */
	struct iovec *dirty;
	unsigned num_dirty;

	/* DISCARD, WRITE_ZEROES: a copy of the ranges, and the next one to execute */
	unsigned num_ranges, next_range;
	struct virtio_blk_discard_write_zeroes ranges[VUBLK_BACKEND_MAX_RANGES];
};

/* The session's objects that a queue uses; they do not change while it runs. */
struct vublk_queue_resources {
	const struct vublk_memory_map *map;
	const struct vublk_inflight_area *inflight;
	const struct vublk_dirty_log *dirty_log;
	const struct vublk_fault *fault; /* of the session's mappings */
	int peer_fd; /* the front-end's socket: a worker watches it for a disconnection */
	struct vublk_log_limit *limit; /* the control thread's, during the start */
};

/* The front-end's settings of the queue. */
struct vublk_queue_setup {
	unsigned size; /* 0: not set */
	uint16_t base;
	bool has_addr;
	bool has_kick;
	bool enabled;
	struct vhost_vring_addr addr; /* front-end addresses, except the log's: a guest address */
	int kick_fd; /* -1: none: the queue is polled */
	int call_fd; /* -1: none */
	int err_fd;  /* -1: none */
};

/* The control thread's view. */
enum vublk_queue_state {
	VUBLK_QUEUE_STOPPED,
	VUBLK_QUEUE_STARTING, /* a worker has the order to start and has not answered */
	VUBLK_QUEUE_RUNNING,
	VUBLK_QUEUE_STOPPING, /* a worker has the order to stop and has not answered */
};

/* The worker's view, while it has the queue. */
enum vublk_queue_phase {
	VUBLK_QUEUE_TAKING,
	VUBLK_QUEUE_BROKEN,   /* the ring is broken or its memory was removed: no chain is taken */
	VUBLK_QUEUE_LEFT,     /* the front-end has disconnected: no chain is taken */
	VUBLK_QUEUE_DRAINING, /* is to stop when its requests are complete */
};

struct vublk_queue {
	/* constant */
	unsigned index;
	struct vublk_backend_worker *worker;
	const struct vublk_log *log;
	struct vublk_loop *control; /* where answers are posted */
	void (*answered)(struct vublk_queue *queue, void *opaque);
	void *opaque;
	struct vublk_queue_statistics *statistics;

	/* the control thread's */
	enum vublk_queue_state state;
	struct vublk_queue_setup setup;

	/* messages between the two threads */
	struct vublk_loop_task start_task, stop_task, suspend_task, answer_task;
	int result; /* of the start, with the answer */
	struct vublk_error error;

	/* the worker's, unless the queue is stopped; on no cache line with other threads' fields */
	struct vublk_queue *next __attribute__((aligned(VUBLK_CACHE_LINE))); /* of its list */
	enum vublk_queue_phase phase;
	bool suspends; /* while it drains: it leaves requests that the engine does not have */
	struct vublk_device_ring ring;
	const struct vublk_memory_map *map;
	const struct vublk_fault *fault;
	struct vublk_disk disk;
	struct vublk_inflight_queue inflight;
	struct vublk_inflight_pending pending;
	struct vublk_loop_source kick_source;
	uint16_t first;      /* avail index at the start */
	bool was_kicked;     /* since the start */
	struct vublk_loop_timer quiet_timer; /* from the first kick on */
	int call_fd, err_fd, peer_fd;
	bool is_muted; /* set by the control thread if the peer blocks the worker with call_fd */
	struct vublk_request *requests; /* as many as the ring has entries */
	struct iovec *iovs;
	struct iovec *dirty_iovs; /* NULL until there is a log */
	const struct vublk_dirty_log *dirty_log; /* NULL: what requests write is not logged */
	unsigned num_requests;
	struct vublk_request *free_requests;
	unsigned outstanding; /* requests that are taken and not pushed yet */
	unsigned pushed;      /* completions that are pushed and not published yet */
	unsigned unkicked;    /* successive looks that found requests without a kick */
	struct vublk_log_limit *limit; /* the worker's, which outlives the queue */
};

/* The control thread's; queue.c. */

void vublk_queue_init(struct vublk_queue *queue, unsigned index,
		      struct vublk_backend_worker *worker, const struct vublk_log *log,
		      struct vublk_loop *control);
/* The queue is stopped. Closes its descriptors. */
void vublk_queue_deinit(struct vublk_queue *queue);

/* Whether the queue is fully described and is to run. */
bool vublk_queue_wants_to_run(const struct vublk_queue *queue);

/*
 * Prepares the queue and hands it to its worker; `answered` is called on the control thread
 * when the worker runs it, or cannot (`result`). Copies `disk`.
 */
int vublk_queue_start(struct vublk_queue *queue, const struct vublk_disk *disk,
		      const struct vublk_queue_resources *resources, struct vublk_error *error);
/*
 * Reclaims the queue from its worker when its requests are complete, and then calls `answered`.
 */
void vublk_queue_stop(struct vublk_queue *queue);
/*
 * Like vublk_queue_stop(), but a request with ranges that the engine does not have yet may stay in
 * the in-flight area; the back-end that starts the ring next takes this request again.
 */
void vublk_queue_suspend(struct vublk_queue *queue);

/*
 * If the worker is blocked in a call of this running queue, because the front-end keeps the call
 * descriptor full, frees the worker; the queue makes no more calls. Returns whether the worker was
 * blocked. The caller may have to repeat this until the worker answers.
 */
bool vublk_queue_unblock(struct vublk_queue *queue);

/* Clears the settings, except notifiers that outlast a start. */
void vublk_queue_reset(struct vublk_queue *queue);

/* The worker's; queue-take.c. */

/* The driver kicked; `loop` is the worker's. */
void vublk_queue_kicked(struct vublk_queue *queue, struct vublk_loop *loop);

/* Starts the queue: takes again the requests that the previous back-end left. */
void vublk_queue_begin(struct vublk_queue *queue, struct vublk_engine_queue *engine);
/* Takes and submits available chains, at most `max`; returns how many. */
unsigned vublk_queue_take(struct vublk_queue *queue, struct vublk_engine_queue *engine,
			  unsigned max);
/*
 * Called while the worker sleeps with kicks enabled. Returns whether the driver has made requests
 * available without a kick, and logs the missing kick when it is certain. Without this function
 * nothing would wake the worker.
 */
bool vublk_queue_is_unkicked(struct vublk_queue *queue);

/* The worker's; queue-complete.c. */

static inline void vublk_queue_free_request(struct vublk_queue *queue,
					    struct vublk_request *request)
{
	request->next_free = queue->free_requests;
	queue->free_requests = request;
}

/* Publishes the pushed completions, and calls the driver if it wants a call. */
void vublk_queue_publish(struct vublk_queue *queue);

/* Puts a completion into the ring without publishing it, and frees the request. */
void vublk_queue_push(struct vublk_queue *queue, struct vublk_request *request, uint32_t bytes);
/* Frees the request without a completion; the request stays recorded in the in-flight area. */
void vublk_queue_leave(struct vublk_queue *queue, struct vublk_request *request);

/* The worker's; request.c. */

/* Serves the request in request->chain: submits it, or completes it immediately. */
void vublk_request_begin(struct vublk_request *request, struct vublk_engine_queue *engine);
/* The engine has completed request->io. */
void vublk_request_done(struct vublk_request *request, struct vublk_engine_queue *engine);

#endif
