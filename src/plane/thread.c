/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file is the thread of a plane, and the calls of its owner.
 *
 * Key idea: the owner's thread hands the plane's thread one call at a time and waits for it. While
 * it waits, it frees the plane's thread from a write to an eventfd that a peer keeps full. Events
 * travel the other way as tasks of the owner's loop; a call that makes an event meaningless cancels
 * it.
 */
#include "plane/thread.h"

#include "util/atomic.h"
#include "util/checked.h"
#include "util/compiler.h"
#include "util/error.h"
#include "util/fd.h"
#include "worker/worker.h"

#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>

/* How long the owner waits before it looks for full eventfds. A call takes some microseconds. */
#define PATIENCE_NS 10000000

struct queue_thread {
	struct vublk_plane_thread *thread;
	unsigned index;

	/* the plane's thread */
	struct vublk_loop_source kick_source, call_source; /* of the driver, of the back-end */

	/* both, by the task */
	struct vublk_loop_task broke_task;
	struct vublk_error broke;

	/* the owner's */
	int call_fd; /* the driver's; -1: none */
};

struct vublk_plane_thread {
	struct vublk_worker worker; /* first */

	/* constant */
	struct vublk_loop *owner;
	const struct vublk_plane_thread_ops *ops;
	void *opaque;

	/* the plane's thread */
	struct vublk_plane plane __attribute__((aligned(VUBLK_CACHE_LINE)));
	bool drains; /* drained_task is posted when no request is left */
	unsigned num_polled; /* queues without a kick descriptor */

	/* from the plane's thread to the owner */
	struct vublk_loop_task drained_task, side_broke_task;
	struct vublk_error side_broke;

	/* the owner's */
	bool is_attached;
	struct vublk_plane_side *side; /* NULL: none */
	unsigned num_queues;
	struct queue_thread *queues;
};

/* --- calls ---------------------------------------------------------------------- */

struct call {
	struct vublk_loop_task task;
	struct vublk_plane_thread *thread;
	int (*fn)(struct vublk_plane_thread *thread, struct call *call);
	sem_t done;
	bool is_done; /* atomic, because TSan does not know sem_clockwait() */
	int result;
	struct vublk_error *error;

	/* arguments, as the function needs them */
	const struct vublk_plane_setup *setups;
	const struct vublk_plane_memory *memory;
	const struct vublk_fault *fault;
	const struct vublk_dirty_log *log;
	struct vublk_plane_side *side;
	uint64_t features;
	unsigned index;
	int kick_fd, call_fd;
};

static void on_call(void *opaque)
{
	struct call *call = opaque;

	call->result = call->fn(call->thread, call);
	vublk_store_release(&call->is_done, true);
	sem_post(&call->done); /* the owner may free the call from here on */
}

/* A peer that fills an eventfd once may do so for each of the thread's next writes. */
static void unblock(struct vublk_plane_thread *thread)
{
	bool was_full = false;

	for (unsigned i = 0; i < thread->num_queues; i++) {
		was_full |= vublk_eventfd_unblock(thread->queues[i].call_fd);
		if (thread->side)
			was_full |= vublk_eventfd_unblock(thread->side->queues[i].kick_fd);
	}
	if (was_full)
		vublk_store_relaxed(&thread->plane.is_careful, true);
}

static void wait_for(struct vublk_plane_thread *thread, sem_t *done)
{
	struct timespec until;

	for (;;) {
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_nsec += PATIENCE_NS;
		if (until.tv_nsec >= 1000000000) {
			until.tv_nsec -= 1000000000;
			until.tv_sec++;
		}
		if (!sem_clockwait(done, CLOCK_MONOTONIC, &until))
			return;
		if (errno == ETIMEDOUT)
			unblock(thread);
	}
}

static int execute(struct vublk_plane_thread *thread, struct call *call,
		   int (*fn)(struct vublk_plane_thread *thread, struct call *call))
{
	call->task = (struct vublk_loop_task){ .fn = on_call, .opaque = call };
	call->thread = thread;
	call->fn = fn;
	sem_init(&call->done, 0, 0);
	vublk_loop_post(&thread->worker.loop, &call->task);
	wait_for(thread, &call->done);
	(void)vublk_load_acquire(&call->is_done);
	sem_destroy(&call->done);
	return call->result;
}

/* --- events ---------------------------------------------------------------------- */

static void on_side_broke(void *opaque, const struct vublk_error *error)
{
	struct vublk_plane_thread *thread = opaque;

	thread->side_broke = *error; /* once for each side */
	vublk_loop_post(thread->owner, &thread->side_broke_task);
}

static void on_queue_broke(void *opaque, unsigned index, const struct vublk_error *error)
{
	struct vublk_plane_thread *thread = opaque;

	thread->queues[index].broke = *error; /* once until the queue is attached again */
	vublk_loop_post(thread->owner, &thread->queues[index].broke_task);
}

static const struct vublk_plane_ops plane_ops = {
	.side_broke = on_side_broke,
	.queue_broke = on_queue_broke,
};

static void tell_drained(void *opaque)
{
	struct vublk_plane_thread *thread = opaque;

	thread->ops->drained(thread->opaque);
}

static void tell_side_broke(void *opaque)
{
	struct vublk_plane_thread *thread = opaque;
	struct vublk_error error = thread->side_broke;

	thread->ops->side_broke(thread->opaque, &error);
}

static void tell_queue_broke(void *opaque)
{
	struct queue_thread *queue = opaque;
	struct vublk_error error = queue->broke;

	queue->thread->ops->queue_broke(queue->thread->opaque, queue->index, &error);
}

/* --- the plane's thread ------------------------------------------------------------ */

static struct vublk_plane_thread *thread_of(struct vublk_worker *worker)
{
	return (struct vublk_plane_thread *)worker;
}

static bool work(struct vublk_worker *worker)
{
	struct vublk_plane_thread *thread = thread_of(worker);
	bool worked = vublk_plane_work(&thread->plane);

	if (VUBLK_UNLIKELY(thread->drains) && !vublk_plane_outstanding(&thread->plane)) {
		thread->drains = false;
		vublk_loop_post(thread->owner, &thread->drained_task);
	}
	return worked;
}

static bool enable_notifications(struct vublk_worker *worker)
{
	return vublk_plane_enable_notifications(&thread_of(worker)->plane);
}

static void disable_notifications(struct vublk_worker *worker)
{
	vublk_plane_disable_notifications(&thread_of(worker)->plane);
}

static enum vublk_worker_wait waits_for(const struct vublk_worker *worker)
{
	const struct vublk_plane_thread *thread = (const struct vublk_plane_thread *)worker;

	if (!thread->plane.side)
		return VUBLK_WAIT_NOTHING;
	if (thread->num_polled && thread->plane.takes)
		return VUBLK_WAIT_UNSIGNALLED;
	return thread->plane.num_submitted ? VUBLK_WAIT_DISK : VUBLK_WAIT_DRIVER;
}

/* The owner's thread sets everything up. */
static int set_up(struct vublk_worker *worker, struct vublk_error *error)
{
	return 0;
}

static void tear_down(struct vublk_worker *worker)
{
}

static const struct vublk_worker_ops worker_ops = {
	.set_up = set_up,
	.tear_down = tear_down,
	.work = work,
	.enable_notifications = enable_notifications,
	.disable_notifications = disable_notifications,
	.waits_for = waits_for,
};

/* A notification has no content; the next round looks at the rings. */
static void on_notification(struct vublk_loop_source *source, uint32_t events)
{
	/* A descriptor that can give no more of them, such as the end of a pipe, stays readable. */
	if (!(events & EPOLLIN) || vublk_eventfd_clear(source->fd) < 0)
		vublk_loop_remove(source);
}

static void on_kick(void *opaque, uint32_t events)
{
	on_notification(&((struct queue_thread *)opaque)->kick_source, events);
}

static void on_call_signal(void *opaque, uint32_t events)
{
	on_notification(&((struct queue_thread *)opaque)->call_source, events);
}

static int watch(struct vublk_plane_thread *thread, struct vublk_loop_source *source, int fd,
		 struct vublk_error *error)
{
	vublk_loop_remove(source);
	if (fd < 0)
		return 0;
	return vublk_loop_add(&thread->worker.loop, source, fd, EPOLLIN, error);
}

static void count_polled(struct vublk_plane_thread *thread)
{
	thread->num_polled = 0;
	for (unsigned i = 0; i < thread->num_queues; i++)
		if (thread->plane.queues[i].setup.size && thread->plane.queues[i].setup.kick_fd < 0)
			thread->num_polled++;
}

static int do_detach(struct vublk_plane_thread *thread, struct call *call)
{
	for (unsigned i = 0; i < thread->num_queues; i++)
		vublk_loop_remove(&thread->queues[i].kick_source);
	vublk_plane_detach(&thread->plane);
	thread->drains = false;
	thread->num_polled = 0;
	return 0;
}

static int do_attach(struct vublk_plane_thread *thread, struct call *call)
{
	int r = vublk_plane_attach(&thread->plane, call->setups, call->features,
				   &call->memory->map, call->fault, call->error);

	for (unsigned i = 0; i < thread->num_queues && !r; i++)
		if (call->setups[i].size)
			r = watch(thread, &thread->queues[i].kick_source, call->setups[i].kick_fd,
				  call->error);
	if (r < 0)
		do_detach(thread, call);
	count_polled(thread);
	return r;
}

static int do_set_memory(struct vublk_plane_thread *thread, struct call *call)
{
	return vublk_plane_set_map(&thread->plane, &call->memory->map, call->fault, call->error);
}

static int do_set_log(struct vublk_plane_thread *thread, struct call *call)
{
	vublk_plane_set_dirty_log(&thread->plane, call->log);
	return 0;
}

static int do_set_notifiers(struct vublk_plane_thread *thread, struct call *call)
{
	struct vublk_plane_setup *setup = &thread->plane.queues[call->index].setup;
	int r = watch(thread, &thread->queues[call->index].kick_source, call->kick_fd, call->error);

	if (r < 0) {
		watch(thread, &thread->queues[call->index].kick_source, setup->kick_fd, NULL);
		return r;
	}
	setup->kick_fd = call->kick_fd;
	setup->call_fd = call->call_fd;
	count_polled(thread);
	/* The old call descriptor may have been signalled meanwhile; kicks are looked for anyway. */
	if (call->call_fd >= 0)
		vublk_eventfd_signal(call->call_fd);
	return 0;
}

static int do_lose_side(struct vublk_plane_thread *thread, struct call *call)
{
	for (unsigned i = 0; i < thread->num_queues; i++)
		vublk_loop_remove(&thread->queues[i].call_source);
	vublk_plane_lose_side(&thread->plane);
	return 0;
}

static int do_set_side(struct vublk_plane_thread *thread, struct call *call)
{
	int r = 0;

	for (unsigned i = 0; i < thread->num_queues && !r; i++)
		r = watch(thread, &thread->queues[i].call_source, call->side->queues[i].call_fd,
			  call->error);
	if (r < 0) {
		do_lose_side(thread, call);
		return r;
	}
	vublk_plane_set_side(&thread->plane, call->side);
	return 0;
}

static int do_stop(struct vublk_plane_thread *thread, struct call *call)
{
	vublk_plane_stop(&thread->plane);
	thread->drains = true;
	return 0;
}

static int do_resume(struct vublk_plane_thread *thread, struct call *call)
{
	vublk_plane_resume(&thread->plane);
	thread->drains = false;
	return 0;
}

static int do_count(struct vublk_plane_thread *thread, struct call *call)
{
	return (int)vublk_plane_outstanding(&thread->plane);
}

static int do_get_base(struct vublk_plane_thread *thread, struct call *call)
{
	return vublk_plane_base(&thread->plane, call->index);
}

/* --- the owner's calls ------------------------------------------------------------- */

static void cancel_events(struct vublk_plane_thread *thread)
{
	vublk_loop_cancel(thread->owner, &thread->drained_task);
	for (unsigned i = 0; i < thread->num_queues; i++)
		vublk_loop_cancel(thread->owner, &thread->queues[i].broke_task);
}

int vublk_plane_thread_attach(struct vublk_plane_thread *thread,
			      const struct vublk_plane_setup *setups, uint64_t features,
			      const struct vublk_plane_memory *memory,
			      const struct vublk_fault *fault, struct vublk_error *error)
{
	struct call call = {
		.setups = setups, .features = features, .memory = memory, .fault = fault,
		.error = error,
	};
	int r = execute(thread, &call, do_attach);

	if (r < 0)
		return r;
	thread->is_attached = true;
	for (unsigned i = 0; i < thread->num_queues; i++)
		thread->queues[i].call_fd = setups[i].size ? setups[i].call_fd : -1;
	return 0;
}

void vublk_plane_thread_detach(struct vublk_plane_thread *thread)
{
	struct call call = { 0 };

	if (!thread->is_attached)
		return;
	execute(thread, &call, do_detach);
	cancel_events(thread);
	thread->is_attached = false;
	for (unsigned i = 0; i < thread->num_queues; i++)
		thread->queues[i].call_fd = -1;
}

int vublk_plane_thread_set_memory(struct vublk_plane_thread *thread,
				  const struct vublk_plane_memory *memory,
				  const struct vublk_fault *fault, struct vublk_error *error)
{
	struct call call = { .memory = memory, .fault = fault, .error = error };

	return execute(thread, &call, do_set_memory);
}

void vublk_plane_thread_set_dirty_log(struct vublk_plane_thread *thread,
				      const struct vublk_dirty_log *log)
{
	struct call call = { .log = log };

	execute(thread, &call, do_set_log);
}

int vublk_plane_thread_set_notifiers(struct vublk_plane_thread *thread, unsigned index, int kick_fd,
				     int call_fd, struct vublk_error *error)
{
	struct call call = {
		.index = index, .kick_fd = kick_fd, .call_fd = call_fd, .error = error,
	};
	int r = execute(thread, &call, do_set_notifiers);

	if (!r)
		thread->queues[index].call_fd = call_fd;
	return r;
}

int vublk_plane_thread_set_side(struct vublk_plane_thread *thread, struct vublk_plane_side *side,
				struct vublk_error *error)
{
	struct call call = { .side = side, .error = error };
	int r;

	thread->side = side; /* the plane's thread may be blocked in its first kick */
	r = execute(thread, &call, do_set_side);
	if (r < 0)
		thread->side = NULL;
	return r;
}

void vublk_plane_thread_lose_side(struct vublk_plane_thread *thread)
{
	struct call call = { 0 };

	if (!thread->side)
		return;
	execute(thread, &call, do_lose_side);
	vublk_loop_cancel(thread->owner, &thread->side_broke_task);
	thread->side = NULL;
}

bool vublk_plane_thread_has_side(const struct vublk_plane_thread *thread)
{
	return thread->side;
}

void vublk_plane_thread_stop(struct vublk_plane_thread *thread)
{
	struct call call = { 0 };

	execute(thread, &call, do_stop);
}

void vublk_plane_thread_resume(struct vublk_plane_thread *thread)
{
	struct call call = { 0 };

	execute(thread, &call, do_resume);
	vublk_loop_cancel(thread->owner, &thread->drained_task);
}

unsigned vublk_plane_thread_outstanding(struct vublk_plane_thread *thread)
{
	struct call call = { 0 };

	return (unsigned)execute(thread, &call, do_count);
}

uint16_t vublk_plane_thread_base(struct vublk_plane_thread *thread, unsigned index)
{
	struct call call = { .index = index };

	return (uint16_t)execute(thread, &call, do_get_base);
}

/* --- life ---------------------------------------------------------------------------- */

static void init_queue(struct vublk_plane_thread *thread, unsigned index)
{
	struct queue_thread *queue = &thread->queues[index];

	*queue = (struct queue_thread){
		.thread = thread,
		.index = index,
		.kick_source = { .fn = on_kick, .opaque = queue },
		.call_source = { .fn = on_call_signal, .opaque = queue },
		.broke_task = { .fn = tell_queue_broke, .opaque = queue },
		.call_fd = -1,
	};
}

static void free_thread(struct vublk_plane_thread *thread)
{
	vublk_plane_deinit(&thread->plane);
	free(thread->queues);
	free(thread);
}

static int init(struct vublk_plane_thread *thread, unsigned num_queues, unsigned max_segments,
		const struct vublk_log *log, struct vublk_error *error)
{
	int r = vublk_plane_init(&thread->plane, num_queues, max_segments, &plane_ops, thread, log,
				 &thread->worker.limit, error);

	if (r < 0)
		return r;
	thread->queues = calloc(num_queues, sizeof(*thread->queues));
	if (!thread->queues)
		return vublk_error_set_errno(error, ENOMEM, "cannot keep %u queues", num_queues);
	for (unsigned i = 0; i < num_queues; i++)
		init_queue(thread, i);
	return 0;
}

int vublk_plane_thread_new(unsigned num_queues, unsigned max_segments, struct vublk_loop *loop,
			   const struct vublk_plane_thread_ops *ops, void *opaque,
			   const struct vublk_log *log, struct vublk_plane_thread **result,
			   struct vublk_error *error)
{
	struct vublk_plane_thread *thread = aligned_alloc(VUBLK_CACHE_LINE, sizeof(*thread));
	int r;

	if (!thread)
		return vublk_error_set_errno(error, ENOMEM, "cannot start a thread");
	*thread = (struct vublk_plane_thread){
		.owner = loop,
		.ops = ops,
		.opaque = opaque,
		.num_queues = num_queues,
		.drained_task = { .fn = tell_drained, .opaque = thread },
		.side_broke_task = { .fn = tell_side_broke, .opaque = thread },
	};
	r = init(thread, num_queues, max_segments, log, error);
	if (!r)
		r = vublk_worker_start(&thread->worker, &worker_ops, VUBLK_POLL_ADAPTIVE, error);
	if (r < 0) {
		free_thread(thread);
		return r;
	}
	*result = thread;
	return 0;
}

void vublk_plane_thread_free(struct vublk_plane_thread *thread)
{
	if (!thread)
		return;
	vublk_plane_thread_lose_side(thread);
	vublk_plane_thread_detach(thread);
	vublk_worker_stop(&thread->worker);
	cancel_events(thread);
	free_thread(thread);
}
