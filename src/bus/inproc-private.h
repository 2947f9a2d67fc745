/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BUS_INPROC_PRIVATE_H
#define VUBLK_BUS_INPROC_PRIVATE_H

/* Of the in-process bus's own files: the bus itself, and how calls get onto its thread. */

#include "bus/inproc.h"
#include "bus/inproc-memory.h"
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
};

/* On the bus's thread. 0: done; 1: the device ends it, see bus->await; or a negative errno. */
typedef int vublk_inproc_call_fn(struct vublk_inproc *bus, void *args, struct vublk_error *error);

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
	pthread_t thread;
	bool has_thread;
	unsigned num_queues;
	unsigned queue_size;
	uint64_t features;
	struct vublk_device_info info;
	struct vublk_inproc_queue *queues;

	/* the bus's thread */
	struct vublk_loop loop;
	struct vublk_loop_source device_source;
	struct vublk_device *device;
	enum vublk_inproc_await await;
	bool quit;
	struct vublk_error failure; /* why the rings are being taken back; code 0: they are not */
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
int vublk_inproc_make_call(struct vublk_inproc *bus, vublk_inproc_call_fn *fn, void *args,
			   struct vublk_error *error);

#endif
