/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_INPROC_PRIVATE_H
#define VUBLK_INPROC_PRIVATE_H

/*
 * Declares the bus and its calls for the files of this folder; the driver's interface is inproc.h.
 */

#include "inproc/inproc.h"
#include "inproc/memory.h"
#include "util/log.h"
#include "util/loop.h"
#include "virtio/blk-format.h"

#include <pthread.h>

/* The event of the device that ends the present call. */
enum vublk_inproc_await {
	VUBLK_INPROC_AWAIT_NOTHING,
	VUBLK_INPROC_AWAIT_STARTED,
	VUBLK_INPROC_AWAIT_STOPPED,
	VUBLK_INPROC_AWAIT_MEMORY,
	VUBLK_INPROC_AWAIT_CONFIG,
	VUBLK_INPROC_AWAIT_SETTLED, /* no start or stop is under way: the call runs again */
};

/* The state of the link to the back-end. */
enum vublk_inproc_link {
	VUBLK_INPROC_OPENING, /* not started yet; a loss fails the open */
	VUBLK_INPROC_UP,
	VUBLK_INPROC_OUTAGE,  /* the device looks for another back-end; requests wait */
	VUBLK_INPROC_FAILING, /* like OUTAGE, but requests fail */
	VUBLK_INPROC_DEAD,    /* no request completes any more */
	VUBLK_INPROC_NUM_LINKS,
};

enum vublk_inproc_link_event {
	VUBLK_INPROC_EVENT_STARTED,   /* the rings run */
	VUBLK_INPROC_EVENT_LOST,      /* the connection broke */
	VUBLK_INPROC_EVENT_TIMED_OUT, /* fail-after-ms */
	VUBLK_INPROC_EVENT_ENDED,     /* the device does not look for a back-end any more */
	VUBLK_INPROC_NUM_EVENTS,
};

/*
 * Whether a lost back-end is trusted to have kept writes that it completed and no flush made
 * stable.
 */
enum vublk_inproc_unflushed {
	VUBLK_INPROC_UNFLUSHED_AUTO, /* if it has an in-flight area */
	VUBLK_INPROC_UNFLUSHED_TRUST,
	VUBLK_INPROC_UNFLUSHED_FAIL,
	VUBLK_INPROC_NUM_UNFLUSHED,
};

struct vublk_inproc_set_up {
	uint64_t features;
	uint64_t extra_bytes;
};

struct vublk_inproc {
	/* constant after open; queues and set_up: after set_up */
	struct vublk_inproc_handlers handlers;
	struct vublk_log_limit limit; /* used by the bus's thread */
	pthread_t thread;
	bool has_thread;
	unsigned num_queues;
	unsigned queue_size;
	uint64_t features;
	struct vublk_device_info info;
	struct vublk_inproc_queue *queues;
	struct vublk_inproc_set_up set_up;
	uint64_t fail_after_ms; /* 0: requests wait without limit */
	uint64_t request_deadline_ms; /* 0: no deadline */
	bool statistics; /* the driver's queues have statistics */
	char serial[VUBLK_BLK_ID_BYTES + 1]; /* empty: the back-end's */
	enum vublk_inproc_unflushed unflushed;

	/* the bus's thread */
	struct vublk_loop loop;
	struct vublk_loop_source device_source;
	struct vublk_device *device;
	enum vublk_inproc_await await;
	enum vublk_inproc_link link;
	struct vublk_loop_timer fail_timer;
	struct vublk_loop_timer kick_timer;
	struct vublk_loop_timer deadline_timer;
	bool quit;
	struct vublk_error failure; /* why the rings are being reclaimed; code 0: they are not */
	struct vublk_error expiry;  /* like failure, but the rings will start again */
	unsigned num_looks;         /* checks of the deadline since the rings of this back-end started */
	struct vublk_inproc_memory memory; /* any thread may read its table of regions */

	struct vublk_inproc_call *call; /* the present call; NULL: no call is running */

	struct vublk_loop_task call_task; /* posted when there may be a call to run */

	/* under lock */
	pthread_mutex_t lock;
	pthread_cond_t call_ended; /* a caller that waits may continue */
	struct vublk_inproc_call *calls; /* those that wait for their turn, in order */
	struct vublk_inproc_call **calls_end;
	struct vublk_error asked_failure; /* the error given to vublk_inproc_fail() */
	struct vublk_loop_task fail_task; /* posted by vublk_inproc_fail() */
};

/*
 * Runs `fn` on the bus's thread and waits until the call has ended. `fn` returns 0: the call is
 * done; 1: an event of the device ends the call (inproc->await); or a negative errno. EBUSY: the
 * caller is on that thread.
 */
int vublk_inproc_make_call(struct vublk_inproc *inproc, vublk_inproc_call_fn *fn, void *args,
			   struct vublk_error *error);

/* --- calls.c ---------------------------------------------------------------- */

void vublk_inproc_calls_init(struct vublk_inproc *inproc);
/*
 * Queues a call, whose ended() is set; `ahead`: before all calls that have not begun. Any thread;
 * does not wait.
 */
void vublk_inproc_begin_call(struct vublk_inproc *inproc, struct vublk_inproc_call *call,
			     bool ahead, vublk_inproc_call_fn *fn, void *args);
/*
 * Called on the bus's thread: ends the present call. `error` may be NULL. Does nothing if there is
 * no call.
 */
void vublk_inproc_finish_call(struct vublk_inproc *inproc, int result,
			      const struct vublk_error *error);
/* Ends the present call if it waits for this event. */
void vublk_inproc_finish_awaited(struct vublk_inproc *inproc, enum vublk_inproc_await await,
				 const struct vublk_error *error);
/* No start or stop is under way any more: runs a call again that waited for that. */
void vublk_inproc_settled(struct vublk_inproc *inproc);
void vublk_inproc_on_call(void *opaque);

/* --- driver.c ---------------------------------------------------------------- */

/*
 * Called after a reset: sets features, memory and queues, so that the device is ready for
 * DRIVER_OK.
 */
int vublk_inproc_set_up_device(struct vublk_inproc *inproc, struct vublk_error *error);

/* --- outage.c ---------------------------------------------------------------- */

/* The only function that changes the link. False: the event has no effect in this state. */
bool vublk_inproc_change_link(struct vublk_inproc *inproc, enum vublk_inproc_link_event event,
			      const char *why);
/* Whether the requests wait for another back-end after the loss of a back-end. */
bool vublk_inproc_keeps_requests(const struct vublk_inproc *inproc);
/* Events that the device reports. */
void vublk_inproc_on_started(struct vublk_inproc *inproc);
void vublk_inproc_on_lost(struct vublk_inproc *inproc, const struct vublk_error *error);
void vublk_inproc_on_needs_reset(struct vublk_inproc *inproc, const struct vublk_error *error);
/* Reported by the driver: the back-end broke a ring. */
void vublk_inproc_on_broken_ring(struct vublk_inproc *inproc, const struct vublk_error *error);
/*
 * Called while a back-end is connected: the requests in flight fail, and the same back-end executes
 * later requests.
 */
void vublk_inproc_expire_requests(struct vublk_inproc *inproc, const struct vublk_error *error);
/*
 * The back-end has returned the rings. True: the bus had reclaimed them because requests expired,
 * and now starts the rings again.
 */
bool vublk_inproc_restart_expired(struct vublk_inproc *inproc);
/* Called when no request completes any more; tells the driver, but only once. */
void vublk_inproc_end(struct vublk_inproc *inproc, const struct vublk_error *error);
void vublk_inproc_on_fail_timer(void *opaque);
/*
 * Called during an outage: requests in flight fail, and new requests fail until a back-end is
 * found.
 */
void vublk_inproc_fail_requests(struct vublk_inproc *inproc, const struct vublk_error *error);

/* --- deadline.c ---------------------------------------------------------------- */

/* Starts to ask the driver, at regular intervals, whether a request is overdue. */
void vublk_inproc_watch_deadline(struct vublk_inproc *inproc);
void vublk_inproc_on_deadline_timer(void *opaque);

/* --- kick.c ---------------------------------------------------------------- */

/* Starts to unblock, within a second, driver threads that the back-end blocks in a kick. */
void vublk_inproc_watch_kicks(struct vublk_inproc *inproc);
void vublk_inproc_on_kick_timer(void *opaque);

#endif
