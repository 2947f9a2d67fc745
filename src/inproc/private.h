/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_INPROC_PRIVATE_H
#define VUBLK_INPROC_PRIVATE_H

/* For the files of this folder: the object, and how calls get onto its thread. */

#include "inproc/inproc.h"
#include "inproc/memory.h"
#include "util/log.h"
#include "util/loop.h"

#include <pthread.h>

/* The end that a call waits for. */
enum vublk_inproc_await {
	VUBLK_INPROC_AWAIT_NOTHING,
	VUBLK_INPROC_AWAIT_REALIZED,
	VUBLK_INPROC_AWAIT_STARTED,
	VUBLK_INPROC_AWAIT_STOPPED,
	VUBLK_INPROC_AWAIT_MEMORY,
	VUBLK_INPROC_AWAIT_CONFIG,
	VUBLK_INPROC_AWAIT_SETTLED, /* the call is made once more when the device has */
};

/* What there is at the other end. */
enum vublk_inproc_link {
	VUBLK_INPROC_OPENING, /* a loss now fails the open */
	VUBLK_INPROC_UP,
	VUBLK_INPROC_OUTAGE,  /* another back-end is looked for; requests wait */
	VUBLK_INPROC_FAILING, /* the same, and they do not wait any more */
	VUBLK_INPROC_DEAD,    /* nothing is completed any more */
	VUBLK_INPROC_NUM_LINKS,
};

enum vublk_inproc_link_event {
	VUBLK_INPROC_EVENT_STARTED,   /* the rings run */
	VUBLK_INPROC_EVENT_LOST,      /* the connection broke */
	VUBLK_INPROC_EVENT_TIMED_OUT, /* fail-after-ms */
	VUBLK_INPROC_EVENT_ENDED,     /* no other back-end will be looked for */
	VUBLK_INPROC_NUM_EVENTS,
};

/* Whether a lost back-end is trusted with writes that it completed and did not flush. */
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

/* On the bus's thread. 0: done; 1: the device ends it, see bus->await; or a negative errno. */
typedef int vublk_inproc_call_fn(struct vublk_inproc *inproc, void *args, struct vublk_error *error);

struct vublk_inproc_call {
	vublk_inproc_call_fn *fn;
	void *args;
	bool finished; /* under bus->lock, like the rest */
	int result;
	struct vublk_error error;
};

struct vublk_inproc {
	/* constant after open, the queues after set_up */
	struct vublk_inproc_handlers handlers;
	struct vublk_log_limit limit; /* the thread's */
	pthread_t thread;
	bool has_thread;
	unsigned num_queues;
	unsigned queue_size;
	uint64_t features;
	struct vublk_device_info info;
	struct vublk_inproc_queue *queues;
	struct vublk_inproc_set_up set_up;
	uint64_t fail_after_ms; /* 0: requests wait as long as it takes */
	uint64_t request_deadline_ms; /* 0: none */
	bool statistics; /* of the driver's queues */
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
	struct vublk_inproc_memory memory; /* its table of regions: read by any thread */

	/* held by a caller for the whole of its call */
	pthread_mutex_t call_lock;
	struct vublk_loop_task call_task;

	/* under lock */
	pthread_mutex_t lock;
	pthread_cond_t call_finished;
	struct vublk_inproc_call *call;
	struct vublk_error asked_failure; /* what vublk_inproc_fail() says */
	struct vublk_loop_task fail_task; /* posted with it */
};

/* Has `fn` called on the bus's thread and waits for its end. EBUSY: on that thread itself. */
int vublk_inproc_make_call(struct vublk_inproc *inproc, vublk_inproc_call_fn *fn, void *args,
			   struct vublk_error *error);

/* --- calls.c ---------------------------------------------------------------- */

/* The bus's thread: the end of the call under way. `error` NULL: it has its own, or none. */
void vublk_inproc_finish_call(struct vublk_inproc *inproc, int result,
			      const struct vublk_error *error);
/* ... if it awaits this. */
void vublk_inproc_finish_awaited(struct vublk_inproc *inproc, enum vublk_inproc_await await,
				 const struct vublk_error *error);
/* The device is neither starting nor stopping any more: a call that waited is made again. */
void vublk_inproc_settled(struct vublk_inproc *inproc);
void vublk_inproc_on_call(void *opaque);

/* --- driver.c ---------------------------------------------------------------- */

/* A driver's way from a device that was reset to one that may start. */
int vublk_inproc_set_up_device(struct vublk_inproc *inproc, struct vublk_error *error);

/* --- outage.c ---------------------------------------------------------------- */

/* The only way to another link; false: the event means nothing in this one. */
bool vublk_inproc_change_link(struct vublk_inproc *inproc, enum vublk_inproc_link_event event,
			      const char *why);
/* Whether requests outlive the back-end that is there, or was. */
bool vublk_inproc_goes_on(const struct vublk_inproc *inproc);
/* What the device says. */
void vublk_inproc_on_started(struct vublk_inproc *inproc);
void vublk_inproc_on_lost(struct vublk_inproc *inproc, const struct vublk_error *error);
void vublk_inproc_on_needs_reset(struct vublk_inproc *inproc, const struct vublk_error *error);
/* ... or the driver: the back-end broke a ring. */
void vublk_inproc_on_broken_ring(struct vublk_inproc *inproc, const struct vublk_error *error);
/* Nothing is completed any more; the driver is told once. */
void vublk_inproc_end(struct vublk_inproc *inproc, const struct vublk_error *error);
void vublk_inproc_on_fail_timer(void *opaque);
/* In an outage: what is in flight fails, and what comes, until a back-end is found. */
void vublk_inproc_fail_requests(struct vublk_inproc *inproc, const struct vublk_error *error);

/* --- deadline.c ---------------------------------------------------------------- */

/* From now on the driver is asked whether a request is overdue. */
void vublk_inproc_watch_deadline(struct vublk_inproc *inproc);
void vublk_inproc_on_deadline_timer(void *opaque);

/* --- kick.c ---------------------------------------------------------------- */

/* From now on a driver that the back-end blocks in a kick is freed within a second. */
void vublk_inproc_watch_kicks(struct vublk_inproc *inproc);
void vublk_inproc_on_kick_timer(void *opaque);

#endif
