/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_INPROC_PRIVATE_H
#define VUBLK_INPROC_PRIVATE_H

/* The bus and its calls, for the files of this folder. The driver's interface is inproc.h. */

#include "inproc/inproc.h"
#include "inproc/memory.h"
#include "util/log.h"
#include "util/loop.h"
#include "virtio/blk-format.h"

#include <pthread.h>

/*
 * The event of the device that the bus awaits: for the current call or, with AWAIT_STARTED, for the
 * start that the driver requested.
 */
enum vublk_inproc_await {
	VUBLK_INPROC_AWAIT_NOTHING,
	VUBLK_INPROC_AWAIT_STARTED,
	VUBLK_INPROC_AWAIT_STOPPED,
	VUBLK_INPROC_AWAIT_MEMORY,
	VUBLK_INPROC_AWAIT_CONFIG,
	VUBLK_INPROC_AWAIT_SETTLED, /* the end of a start or stop; then the call runs again */
};

/* The states of the link to the back-end. */
enum vublk_inproc_link {
	VUBLK_INPROC_OPENING, /* the rings have not run yet; a loss fails the opening */
	VUBLK_INPROC_UP,
	VUBLK_INPROC_OUTAGE,  /* the device looks for another back-end; requests wait */
	VUBLK_INPROC_FAILING, /* like OUTAGE, but requests fail */
	VUBLK_INPROC_DEAD,    /* no further request completes */
	VUBLK_INPROC_NUM_LINKS,
};

enum vublk_inproc_link_event {
	VUBLK_INPROC_EVENT_STARTED,   /* the rings run */
	VUBLK_INPROC_EVENT_LOST,      /* the connection ended */
	VUBLK_INPROC_EVENT_TIMED_OUT, /* fail-after-ms or request-deadline-ms has passed */
	VUBLK_INPROC_EVENT_ENDED,     /* the device no longer looks for a back-end, or the rings
					 were reclaimed permanently */
	VUBLK_INPROC_NUM_EVENTS,
};

/*
 * Whether a lost back-end is trusted to have kept completed writes that no flush had made stable.
 */
enum vublk_inproc_unflushed {
	VUBLK_INPROC_UNFLUSHED_AUTO, /* trusted if it has an in-flight area */
	VUBLK_INPROC_UNFLUSHED_TRUST,
	VUBLK_INPROC_UNFLUSHED_FAIL,
	VUBLK_INPROC_UNFLUSHED_REPLAY, /* trusted, because the driver has copies of these writes */
};

struct vublk_inproc_set_up {
	uint64_t features;
	uint64_t extra_bytes;
};

struct vublk_inproc {
	/*
	 * constant after realized(), within which the driver calls vublk_inproc_set_up(); only the
	 * rings in `queues` may be replaced later
	 */
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
	char serial[VUBLK_BLK_ID_BYTES + 1]; /* empty: the back-end's serial is used */
	enum vublk_inproc_unflushed unflushed;
	uint64_t replay_bytes; /* 0: unflushed is not replay */

	/* used by the bus's thread */
	struct vublk_loop loop;
	struct vublk_loop_source device_source;
	struct vublk_device *device;
	enum vublk_inproc_await await;
	enum vublk_inproc_link link;
	struct vublk_loop_timer fail_timer;
	struct vublk_loop_timer kick_timer;
	struct vublk_loop_timer deadline_timer;
	struct vublk_loop_timer driver_timer;
	bool quit;
	struct vublk_error failure; /* why the rings are or were reclaimed permanently; code 0:
				       they were not */
	struct vublk_error expiry;  /* why the rings are being reclaimed, if they will start again
				       afterwards; code 0: they are not */
	unsigned num_looks;         /* how many times the timer of the deadline has fired since
				       the rings started */
	struct vublk_inproc_memory memory; /* any thread may read its table of regions */

	struct vublk_inproc_call *call; /* the current call, which has begun and not ended; NULL:
					   there is none */

	struct vublk_loop_task call_task; /* posted when there may be a call to run */

	/* protected by the lock */
	pthread_mutex_t lock;
	pthread_cond_t call_ended; /* signalled when a caller that waits may continue */
	struct vublk_inproc_call *calls; /* calls that have not begun, in order */
	struct vublk_inproc_call **calls_end;
	struct vublk_error asked_failure; /* the error that was passed to vublk_inproc_fail() */
	struct vublk_loop_task fail_task; /* posted by vublk_inproc_fail() */
};

/*
 * Runs `fn` on the bus's thread and waits until the call has ended. `fn` returns 0 if the call is
 * done, 1 if the event in inproc->await will end the call (AWAIT_SETTLED: run `fn` again), or a
 * negative errno. EBUSY: the caller is on the bus's thread.
 */
int vublk_inproc_make_call(struct vublk_inproc *inproc, vublk_inproc_call_fn *fn, void *args,
			   struct vublk_error *error);

/* --- calls.c ---------------------------------------------------------------- */

void vublk_inproc_calls_init(struct vublk_inproc *inproc);
/*
 * Adds a call, whose ended() must be set, to the end of the list of calls that have not begun; if
 * `ahead`, to the beginning of the list. Any thread may call this function, which does not wait.
 */
void vublk_inproc_begin_call(struct vublk_inproc *inproc, struct vublk_inproc_call *call,
			     bool ahead, vublk_inproc_call_fn *fn, void *args);
/*
 * Ends the current call, if there is one. Called on the bus's thread. `error` may be NULL if
 * `result` is 0.
 */
void vublk_inproc_finish_call(struct vublk_inproc *inproc, int result,
			      const struct vublk_error *error);
/*
 * Ends the current call if the call waits for the event `await`. `error` NULL: the call succeeds.
 */
void vublk_inproc_finish_awaited(struct vublk_inproc *inproc, enum vublk_inproc_await await,
				 const struct vublk_error *error);
/* Called when a start or stop has ended. Runs the current call again if it awaits this end. */
void vublk_inproc_settled(struct vublk_inproc *inproc);
void vublk_inproc_on_call(void *opaque);

/* --- driver.c ---------------------------------------------------------------- */

/*
 * Called after realize or a reset. Sets features, memory and queues, so that only DRIVER_OK remains
 * to be set.
 */
int vublk_inproc_set_up_device(struct vublk_inproc *inproc, struct vublk_error *error);

/* --- outage.c ---------------------------------------------------------------- */

/*
 * The only function that changes the state of the link. Returns false if the event has no effect.
 */
bool vublk_inproc_change_link(struct vublk_inproc *inproc, enum vublk_inproc_link_event event,
			      const char *why);
/* Returns whether requests wait for another back-end after a loss. */
bool vublk_inproc_keeps_requests(const struct vublk_inproc *inproc);
/* These functions are called for events that the device reports. */
void vublk_inproc_on_started(struct vublk_inproc *inproc);
void vublk_inproc_on_lost(struct vublk_inproc *inproc, const struct vublk_error *error);
void vublk_inproc_on_needs_reset(struct vublk_inproc *inproc, const struct vublk_error *error);
/*
 * Called when a ring is broken, or the back-end counts as hung or hostile. Reclaims the rings
 * permanently.
 */
void vublk_inproc_on_broken_ring(struct vublk_inproc *inproc, const struct vublk_error *error);
/*
 * Called while a back-end is connected. Begins to fail the requests in flight: they fail when the
 * back-end has returned the rings. The back-end then executes new requests on zeroed rings.
 */
void vublk_inproc_expire_requests(struct vublk_inproc *inproc, const struct vublk_error *error);
/*
 * Called when the back-end has returned the rings. If the bus had reclaimed them because requests
 * expired, fails these requests, starts new rings and returns true.
 */
bool vublk_inproc_restart_expired(struct vublk_inproc *inproc);
/* Makes the link DEAD: no further request completes. Calls the handler gave_up(), but only once. */
void vublk_inproc_end(struct vublk_inproc *inproc, const struct vublk_error *error);
void vublk_inproc_on_fail_timer(void *opaque);
/*
 * Called during an outage. Fails the requests in flight, and new requests until a back-end is
 * found.
 */
void vublk_inproc_fail_requests(struct vublk_inproc *inproc, const struct vublk_error *error);

/* --- deadline.c ---------------------------------------------------------------- */

/*
 * Called when a back-end has started the rings. If there is a deadline, begins to ask the driver at
 * intervals whether a request is overdue.
 */
void vublk_inproc_watch_deadline(struct vublk_inproc *inproc);
void vublk_inproc_on_deadline_timer(void *opaque);

/* --- kick.c ---------------------------------------------------------------- */

/*
 * Begins to check at intervals whether the back-end blocks threads of the driver in a kick. The
 * check unblocks such threads within about a second.
 */
void vublk_inproc_watch_kicks(struct vublk_inproc *inproc);
void vublk_inproc_on_kick_timer(void *opaque);

#endif
