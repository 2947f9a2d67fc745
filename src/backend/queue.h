/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_QUEUE_H
#define VUBLK_BACKEND_QUEUE_H

/*
 * A virtqueue of the disk. The control thread sets the queue up and a worker runs it. While the
 * queue is stopped, the control thread owns all fields. At all other times the worker owns the
 * fields below "used by the worker", and no thread changes `setup`.
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

/*
 * The largest number of iovecs of a chain: one per descriptor, and a few more, because a buffer
 * that crosses a border between memory regions is split.
 */
#define VUBLK_REQUEST_MAX_IOV (VUBLK_RING_MAX_INDIRECT + 14)

/* A virtio-blk request, from the ring to the engine and back. request.c executes it. */
struct vublk_request {
	struct vublk_engine_io io; /* must be the first member, because the engine returns
				      &request->io */
	struct vublk_queue *queue;
	struct vublk_request *next_free;
	struct vublk_chain chain;
	uint8_t *status;
	uint32_t written_bytes; /* the used length if the request succeeds; includes the status
				   byte */

	/* set by statistics.c */
	struct vublk_request_stats *stats; /* NULL: the request is not counted */
	uint64_t begun_ns, begun_bytes;

	/*
	 * for the dirty log: a copy of the iovecs of the buffers that the request writes, because
	 * the engine modifies the chain's iovecs
	 */
	struct iovec *dirty;
	unsigned num_dirty;

	/*
	 * for DISCARD and WRITE_ZEROES: a copy of the ranges, and the index of the next one to
	 * execute
	 */
	unsigned num_ranges, next_range;
	struct virtio_blk_discard_write_zeroes ranges[VUBLK_BACKEND_MAX_RANGES];
};

/*
 * The session's objects that a queue uses. The session does not change them while the queue runs.
 */
struct vublk_queue_resources {
	const struct vublk_memory_map *map;
	const struct vublk_inflight_area *inflight;
	const struct vublk_dirty_log *dirty_log;
	const struct vublk_fault *fault; /* set when a page of the session's memory was lost */
	int peer_fd; /* the front-end's socket, at which a worker notices a disconnection */
	struct vublk_log_limit *limit; /* the control thread's limit of log lines, used only in
					  vublk_queue_start() */
};

/* The queue's settings, which the front-end sends. */
struct vublk_queue_setup {
	unsigned size; /* 0: not set */
	uint16_t base;
	bool has_addr;
	bool has_kick;
	bool enabled;
	struct vhost_vring_addr addr; /* addresses in the front-end's process, except the address
					 of the log, which is a guest address */
	int kick_fd; /* -1: there is none, and the queue is polled */
	int call_fd; /* -1: there is none */
	int err_fd;  /* -1: there is none */
};

/* The state that the control thread sees. */
enum vublk_queue_state {
	VUBLK_QUEUE_STOPPED,
	VUBLK_QUEUE_STARTING, /* the worker was told to start the queue, and has not answered */
	VUBLK_QUEUE_RUNNING,
	VUBLK_QUEUE_STOPPING, /* the worker was told to stop the queue, and has not answered */
};

/* The state that the worker sees, while it has the queue. */
enum vublk_queue_phase {
	VUBLK_QUEUE_TAKING,
	VUBLK_QUEUE_BROKEN,   /* the ring is broken, or a page of memory was lost, so the worker
				 takes no chain */
	VUBLK_QUEUE_LEFT,     /* the front-end has disconnected, so the worker takes no chain */
	VUBLK_QUEUE_DRAINING, /* the worker takes no chain, and removes the queue when its
				 requests are complete */
	VUBLK_QUEUE_REMOVED,  /* the worker no longer has the queue */
};

struct vublk_queue {
	/* constant */
	unsigned index;
	struct vublk_backend_worker *worker;
	const struct vublk_log *log;
	struct vublk_loop *control; /* the loop to which answers are posted */
	void (*answered)(struct vublk_queue *queue, void *opaque);
	void *opaque;
	struct vublk_queue_statistics *statistics;

	/* used by the control thread */
	enum vublk_queue_state state;
	struct vublk_queue_setup setup;

	/* messages between the two threads */
	struct vublk_loop_task start_task, stop_task, suspend_task, answer_task;
	struct vublk_loop_task continue_task, continue_answer_task;
	bool is_continued; /* the stop was undone; part of the answer */
	int result; /* the result of the start; part of the answer */
	struct vublk_error error;

	/* used by the worker while it has the queue; shares no cache line with the fields above */
	struct vublk_queue *next __attribute__((aligned(VUBLK_CACHE_LINE))); /* in the worker's
										list */
	enum vublk_queue_phase phase, phase_before; /* `phase_before`: the phase before the drain */
	bool suspends; /* while the queue drains, requests with more ranges to execute stay in the
			  in-flight area */
	struct vublk_device_ring ring;
	const struct vublk_memory_map *map;
	const struct vublk_fault *fault;
	struct vublk_disk disk;
	struct vublk_inflight_queue inflight;
	struct vublk_inflight_pending pending;
	struct vublk_loop_source kick_source;
	uint16_t first;      /* the avail index at the start */
	bool was_kicked;     /* the driver has kicked since the start */
	struct vublk_loop_timer quiet_timer; /* armed by the first kick */
	int call_fd, err_fd, peer_fd;
	bool is_muted; /* the queue makes no calls; set by the control thread if the front-end has
			  kept call_fd full; relaxed */
	struct vublk_request *requests; /* one per entry of the ring */
	struct iovec *iovs;
	struct iovec *dirty_iovs; /* NULL until requests are logged for the first time */
	const struct vublk_dirty_log *dirty_log; /* NULL: the data that requests write is not
						    logged */
	unsigned num_requests;
	struct vublk_request *free_requests;
	unsigned outstanding; /* how many requests are taken, but not pushed yet */
	unsigned pushed;      /* how many completions are pushed, but not published yet */
	unsigned unkicked;    /* how many checks have found requests since the last kick */
	struct vublk_log_limit *limit; /* the worker's, so it outlives the queue */
};

/* These functions are for the control thread; they are in queue.c. */

void vublk_queue_init(struct vublk_queue *queue, unsigned index,
		      struct vublk_backend_worker *worker, const struct vublk_log *log,
		      struct vublk_loop *control);
/* Closes the descriptors and frees the memory of a queue, which must be stopped. */
void vublk_queue_deinit(struct vublk_queue *queue);

/*
 * Returns whether the queue should run: it is enabled, and the front-end has sent its size, its
 * addresses and SET_VRING_KICK.
 */
bool vublk_queue_wants_to_run(const struct vublk_queue *queue);

/*
 * Prepares the queue and hands it to its worker. On success, queue->answered() is called later on
 * the control thread, when the worker runs the queue or cannot run it (queue->result). Copies
 * `disk`.
 */
int vublk_queue_start(struct vublk_queue *queue, const struct vublk_disk *disk,
		      const struct vublk_queue_resources *resources, struct vublk_error *error);
/*
 * Tells the worker to return the queue when its requests are complete. Then queue->answered() is
 * called on the control thread. The queue must be running.
 */
void vublk_queue_stop(struct vublk_queue *queue);
/*
 * Like vublk_queue_stop(), but a request may stay in the in-flight area if the engine has not yet
 * received all of its ranges. The back-end that starts the ring next takes this request again.
 */
void vublk_queue_suspend(struct vublk_queue *queue);

/*
 * Tells the worker to undo a stop whose answer has not arrived yet. queue->answered() is called
 * once for this call and once for the stop. After both, the queue is either stopped or running
 * again.
 */
void vublk_queue_continue(struct vublk_queue *queue);

/*
 * Unblocks the worker if it is blocked in a call to this queue's driver, because the front-end
 * keeps the call descriptor full. Returns whether the descriptor was full; if so, the queue makes
 * no more calls. The caller may have to repeat the call until the worker answers.
 */
bool vublk_queue_unblock(struct vublk_queue *queue);

/* Clears the settings, except the call and error descriptors. */
void vublk_queue_reset(struct vublk_queue *queue);

/* These functions are for the worker; they are in queue-take.c. */

/* Called when the driver has kicked. `loop` is the worker's. */
void vublk_queue_kicked(struct vublk_queue *queue, struct vublk_loop *loop);

/*
 * Begins to run the queue: takes again the requests that the previous back-end left, and calls the
 * driver.
 */
void vublk_queue_begin(struct vublk_queue *queue, struct vublk_engine_queue *engine);
/* Takes at most `max` available chains and begins their requests. Returns the number of chains. */
unsigned vublk_queue_take(struct vublk_queue *queue, struct vublk_engine_queue *engine,
			  unsigned max);
/*
 * Called from time to time while the worker sleeps with kicks enabled, because a driver that sends
 * no kicks does not wake the worker. Returns whether the driver has made requests available without
 * a kick. Logs a warning when it is certain that the driver sends no kicks.
 */
bool vublk_queue_is_unkicked(struct vublk_queue *queue);

/* These functions are for the worker; they are in queue-complete.c. */

static inline void vublk_queue_free_request(struct vublk_queue *queue,
					    struct vublk_request *request)
{
	request->next_free = queue->free_requests;
	queue->free_requests = request;
}

/* Publishes the pushed completions, and calls the driver if it wants a call. */
void vublk_queue_publish(struct vublk_queue *queue);

/* Puts a completion into the used ring without publishing it, and frees the request. */
void vublk_queue_push(struct vublk_queue *queue, struct vublk_request *request, uint32_t bytes);
/* Frees a request without completing it. The request stays in the in-flight area. */
void vublk_queue_leave(struct vublk_queue *queue, struct vublk_request *request);

/* These functions are for the worker; they are in request.c. */

/* Begins the request in request->chain: submits it to the engine, or completes it immediately. */
void vublk_request_begin(struct vublk_request *request, struct vublk_engine_queue *engine);
/* Called when the engine has completed request->io. */
void vublk_request_done(struct vublk_request *request, struct vublk_engine_queue *engine);

#endif
