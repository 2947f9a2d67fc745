/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file implements the plane's thread and the calls by which the owner (the device) controls
 * it.
 *
 * Key idea: the owner's thread hands the plane's thread one call at a time and waits until the call
 * is done. If the plane's thread is blocked because a peer keeps an eventfd full, the waiting
 * thread clears the eventfd. The plane's thread reports events as tasks that it posts to the
 * owner's loop. A call that makes an event meaningless cancels the event's task.
 */
#include "plane/thread-private.h"

#include "util/atomic.h"
#include "util/checked.h"
#include "util/compiler.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>

/*
 * How long the owner waits for the end of a call before it looks for full eventfds. A call usually
 * takes some microseconds.
 */
#define PATIENCE_NS 10000000
/*
 * The shortest time for which the timer of the rate limits is set. Requests that the limits would
 * let pass one by one during this time pass together after it, which saves wake-ups.
 */
#define SHORTEST_PASS_NS 200000

/* --- calls ---------------------------------------------------------------------- */

static void on_call(void *opaque)
{
	struct vublk_plane_thread_call *call = opaque;

	call->result = call->fn(call->thread, call);
	vublk_store_release(&call->is_done, true);
	sem_post(&call->done); /* after sem_post(), `call` may no longer exist */
}

/*
 * Unblocks the plane's thread if it is blocked in a write because a peer has filled an eventfd. The
 * peer may fill the eventfd again, so from then on the thread signals all eventfds without
 * blocking.
 */
static void unblock(struct vublk_plane_thread *thread)
{
	bool was_full = false;

	for (unsigned i = 0; i < thread->num_queues; i++) {
		was_full |= vublk_eventfd_unblock(thread->queues[i].call_fd);
		if (thread->side)
			was_full |= vublk_eventfd_unblock(thread->side->queues[i].kick_fd);
		if (thread->target)
			was_full |= vublk_eventfd_unblock(thread->target->queues[i].kick_fd);
	}
	if (was_full)
		vublk_store_relaxed(&thread->plane.is_careful, true);
}

void vublk_plane_thread_wait_for(struct vublk_plane_thread *thread, sem_t *done)
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

int vublk_plane_thread_execute(struct vublk_plane_thread *thread,
			       struct vublk_plane_thread_call *call, vublk_plane_thread_fn *fn)
{
	call->task = (struct vublk_loop_task){ .fn = on_call, .opaque = call };
	call->thread = thread;
	call->fn = fn;
	if (thread->is_parked)
		return fn(thread, call);
	sem_init(&call->done, 0, 0);
	vublk_loop_post(&thread->worker.loop, &call->task);
	vublk_plane_thread_wait_for(thread, &call->done);
	(void)vublk_load_acquire(&call->is_done);
	sem_destroy(&call->done);
	return call->result;
}

/* --- events ---------------------------------------------------------------------- */

static void on_side_broke(void *opaque, const struct vublk_error *error)
{
	struct vublk_plane_thread *thread = opaque;

	thread->side_broke = *error;
	vublk_loop_post(thread->owner, &thread->side_broke_task);
}

static void on_queue_broke(void *opaque, unsigned index, const struct vublk_error *error)
{
	struct vublk_plane_thread *thread = opaque;

	thread->queues[index].broke = *error;
	vublk_loop_post(thread->owner, &thread->queues[index].broke_task);
}

static void on_flush_failed(void *opaque)
{
	struct vublk_plane_thread *thread = opaque;

	vublk_loop_post(thread->owner, &thread->flush_failed_task);
}

static void on_flush_must_fail(void *opaque)
{
	struct vublk_plane_thread *thread = opaque;

	vublk_loop_post(thread->owner, &thread->flush_must_fail_task);
}

static void on_mirror_failed(void *opaque, const struct vublk_error *error)
{
	struct vublk_plane_thread *thread = opaque;

	for (unsigned i = 0; i < thread->num_queues; i++)
		vublk_loop_remove(&thread->queues[i].target_source);
	thread->mirror_failed = *error;
	vublk_loop_post(thread->owner, &thread->mirror_failed_task);
}

static void on_mirror_synced(void *opaque)
{
	struct vublk_plane_thread *thread = opaque;

	vublk_loop_post(thread->owner, &thread->mirror_synced_task);
}

static void on_replay_ended(void *opaque)
{
	struct vublk_plane_thread *thread = opaque;

	vublk_loop_post(thread->owner, &thread->replay_task);
}

static const struct vublk_plane_ops plane_ops = {
	.side_broke = on_side_broke,
	.queue_broke = on_queue_broke,
	.flush_failed = on_flush_failed,
	.flush_must_fail = on_flush_must_fail,
	.mirror_failed = on_mirror_failed,
	.mirror_synced = on_mirror_synced,
	.replay_ended = on_replay_ended,
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

static void tell_flush_failed(void *opaque)
{
	struct vublk_plane_thread *thread = opaque;

	thread->ops->flush_failed(thread->opaque);
}

static void tell_flush_must_fail(void *opaque)
{
	struct vublk_plane_thread *thread = opaque;

	thread->ops->flush_must_fail(thread->opaque);
}

static void tell_queue_broke(void *opaque)
{
	struct vublk_plane_thread_queue *queue = opaque;
	struct vublk_error error = queue->broke;

	queue->thread->ops->queue_broke(queue->thread->opaque, queue->index, &error);
}

static void tell_mirror_failed(void *opaque)
{
	struct vublk_plane_thread *thread = opaque;
	struct vublk_error error = thread->mirror_failed;

	thread->ops->mirror_failed(thread->opaque, &error);
}

static void tell_mirror_synced(void *opaque)
{
	struct vublk_plane_thread *thread = opaque;

	thread->ops->mirror_synced(thread->opaque);
}

static void tell_replay_ended(void *opaque)
{
	struct vublk_plane_thread *thread = opaque;

	thread->ops->replay_ended(thread->opaque);
}

/* --- the plane's thread ------------------------------------------------------------ */

static struct vublk_plane_thread *thread_of(struct vublk_worker *worker)
{
	return (struct vublk_plane_thread *)worker;
}

/* Waits until the owner lets the thread continue (park.c). */
static VUBLK_COLD void wait_parked(struct vublk_plane_thread *thread)
{
	if (!thread->begins_parked) {
		vublk_plane_publish(&thread->plane);
		vublk_store_release(&thread->has_parked, true);
		sem_post(&thread->parked);
	}
	thread->begins_parked = false;
	while (sem_wait(&thread->unpark) < 0 && errno == EINTR)
		;
	thread->parks = false;
}

static bool work(struct vublk_worker *worker)
{
	struct vublk_plane_thread *thread = thread_of(worker);
	bool worked;

	if (VUBLK_UNLIKELY(thread->parks))
		wait_parked(thread);
	worked = vublk_plane_work(&thread->plane);
	if (VUBLK_UNLIKELY(thread->drains) && vublk_plane_is_settled(&thread->plane)) {
		thread->drains = false;
		vublk_loop_post(thread->owner, &thread->drained_task);
	}
	return worked;
}

/* The timer only ends the sleep. The next round does the work that is due. */
static void on_pass_timer(void *opaque)
{
}

static void arm_pass_timer(struct vublk_plane_thread *thread)
{
	uint64_t next = vublk_plane_next_pass_ns(&thread->plane);

	if (thread->plane.mirror)
		next = VUBLK_MIN(next, vublk_plane_mirror_next_ns(&thread->plane));

	if (next == UINT64_MAX)
		vublk_loop_timer_disarm(&thread->pass_timer);
	else
		vublk_loop_timer_arm(&thread->worker.loop, &thread->pass_timer,
				     VUBLK_MAX(next, vublk_now_ns() + SHORTEST_PASS_NS));
}

static bool enable_notifications(struct vublk_worker *worker)
{
	struct vublk_plane_thread *thread = thread_of(worker);

	if (VUBLK_UNLIKELY(thread->plane.limits.num_waiting || thread->plane.mirror ||
			   thread->pass_timer.loop))
		arm_pass_timer(thread);
	if (VUBLK_UNLIKELY(thread->plane.replay))
		thread->worker.retry_ms = vublk_plane_replay_sleep_ms(&thread->plane);
	return vublk_plane_enable_notifications(&thread->plane);
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
	if (thread->plane.num_submitted)
		return VUBLK_WAIT_DISK;
	/* The limits make the driver wait, so its next request is not urgent. */
	return thread->plane.limits.num_waiting ? VUBLK_WAIT_NOTHING : VUBLK_WAIT_DRIVER;
}

/* Has nothing to do, because the owner's thread sets everything up. */
static int set_up(struct vublk_worker *worker, struct vublk_error *error)
{
	return 0;
}

static void tear_down(struct vublk_worker *worker)
{
	vublk_loop_timer_disarm(&thread_of(worker)->pass_timer);
}

static const struct vublk_worker_ops worker_ops = {
	.set_up = set_up,
	.tear_down = tear_down,
	.work = work,
	.enable_notifications = enable_notifications,
	.disable_notifications = disable_notifications,
	.waits_for = waits_for,
};

/* A notification only wakes the thread. The next round looks at the rings. */
void vublk_plane_thread_notified(struct vublk_loop_source *source, uint32_t events)
{
	/*
	 * Stop watching a descriptor that is always readable (a pipe without a writer), because it
	 * would keep the thread awake.
	 */
	if (!(events & EPOLLIN) || vublk_eventfd_clear(source->fd) < 0)
		vublk_loop_remove(source);
}

static void on_kick(void *opaque, uint32_t events)
{
	vublk_plane_thread_notified(&((struct vublk_plane_thread_queue *)opaque)->kick_source, events);
}

static void on_call_signal(void *opaque, uint32_t events)
{
	vublk_plane_thread_notified(&((struct vublk_plane_thread_queue *)opaque)->call_source, events);
}

int vublk_plane_thread_watch(struct vublk_plane_thread *thread, struct vublk_loop_source *source,
			     int fd, struct vublk_error *error)
{
	vublk_loop_remove(source);
	if (fd < 0)
		return 0;
	return vublk_loop_add(&thread->worker.loop, source, fd, EPOLLIN, error);
}

void vublk_plane_thread_count_polled(struct vublk_plane_thread *thread)
{
	thread->num_polled = 0;
	for (unsigned i = 0; i < thread->num_queues; i++)
		if (thread->plane.queues[i].setup.size && thread->plane.queues[i].setup.kick_fd < 0)
			thread->num_polled++;
}

static int do_detach(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	for (unsigned i = 0; i < thread->num_queues; i++)
		vublk_loop_remove(&thread->queues[i].kick_source);
	vublk_plane_detach(&thread->plane);
	thread->drains = false;
	thread->num_polled = 0;
	return 0;
}

static int do_attach(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	int r = vublk_plane_attach(&thread->plane, call->setups, call->features,
				   &call->memory->map, call->fault, call->error);

	for (unsigned i = 0; i < thread->num_queues && !r; i++)
		if (call->setups[i].size)
			r = vublk_plane_thread_watch(thread, &thread->queues[i].kick_source,
						     call->setups[i].kick_fd, call->error);
	if (r < 0)
		do_detach(thread, call);
	vublk_plane_thread_count_polled(thread);
	return r;
}

static int do_set_memory(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	return vublk_plane_set_map(&thread->plane, &call->memory->map, call->fault, call->error);
}

static int do_set_log(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	vublk_plane_set_dirty_log(&thread->plane, call->log);
	return 0;
}

static int do_set_kick(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	struct vublk_plane_setup *setup = &thread->plane.queues[call->index].setup;
	struct vublk_loop_source *source = &thread->queues[call->index].kick_source;
	int r = vublk_plane_thread_watch(thread, source, call->fd, call->error);

	if (r < 0) {
		vublk_plane_thread_watch(thread, source, setup->kick_fd, NULL);
		return r;
	}
	/* A kick on the old descriptor is not lost, because the next round looks at the rings. */
	setup->kick_fd = call->fd;
	vublk_plane_thread_count_polled(thread);
	return 0;
}

static int do_set_call(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	thread->plane.queues[call->index].setup.call_fd = call->fd;
	if (call->fd >= 0)
		vublk_eventfd_signal(call->fd);
	return 0;
}

static int do_lose_side(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	for (unsigned i = 0; i < thread->num_queues; i++)
		vublk_loop_remove(&thread->queues[i].call_source);
	vublk_plane_lose_side(&thread->plane);
	return 0;
}

static int do_set_side(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	int r = 0;

	for (unsigned i = 0; i < thread->num_queues && !r; i++)
		r = vublk_plane_thread_watch(thread, &thread->queues[i].call_source,
					     call->side->queues[i].call_fd, call->error);
	if (r < 0) {
		do_lose_side(thread, call);
		return r;
	}
	vublk_plane_set_side(&thread->plane, call->side);
	return 0;
}

static int do_stop(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	vublk_plane_mirror_catch_up(&thread->plane, false);
	vublk_plane_stop(&thread->plane);
	thread->drains = true;
	return 0;
}

static int do_resume(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	vublk_plane_mirror_catch_up(&thread->plane, false);
	vublk_plane_resume(&thread->plane);
	thread->drains = false;
	return 0;
}

static int do_set_limits(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	vublk_plane_set_limits(&thread->plane, call->limits);
	return 0;
}

static int do_set_policy(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	vublk_plane_set_policy(&thread->plane, call->policy);
	return 0;
}

static int do_set_trace(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	vublk_plane_set_trace(&thread->plane, call->trace);
	return 0;
}

static int do_fail_next_flush(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	vublk_plane_fail_next_flush(&thread->plane);
	return 0;
}

static int do_count_waiting(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	return (int)thread->plane.limits.num_waiting;
}

static int do_count(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	return (int)vublk_plane_outstanding(&thread->plane);
}

static int do_set_counts(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	vublk_plane_set_counts(&thread->plane, call->statistics, call->slow_ns);
	return 0;
}

static int do_find_slow(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
{
	return vublk_plane_find_slow(&thread->plane, call->slow);
}

static int do_get_base(struct vublk_plane_thread *thread, struct vublk_plane_thread_call *call)
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
	struct vublk_plane_thread_call call = {
		.setups = setups, .features = features, .memory = memory, .fault = fault,
		.error = error,
	};
	int r = vublk_plane_thread_execute(thread, &call, do_attach);

	if (r < 0)
		return r;
	thread->is_attached = true;
	for (unsigned i = 0; i < thread->num_queues; i++)
		thread->queues[i].call_fd = setups[i].size ? setups[i].call_fd : -1;
	return 0;
}

void vublk_plane_thread_detach(struct vublk_plane_thread *thread)
{
	struct vublk_plane_thread_call call = { 0 };

	if (!thread->is_attached)
		return;
	vublk_plane_thread_execute(thread, &call, do_detach);
	cancel_events(thread);
	thread->is_attached = false;
	for (unsigned i = 0; i < thread->num_queues; i++)
		thread->queues[i].call_fd = -1;
}

int vublk_plane_thread_set_memory(struct vublk_plane_thread *thread,
				  const struct vublk_plane_memory *memory,
				  const struct vublk_fault *fault, struct vublk_error *error)
{
	struct vublk_plane_thread_call call = { .memory = memory, .fault = fault, .error = error };

	return vublk_plane_thread_execute(thread, &call, do_set_memory);
}

void vublk_plane_thread_set_dirty_log(struct vublk_plane_thread *thread,
				      const struct vublk_dirty_log *log)
{
	struct vublk_plane_thread_call call = { .log = log };

	vublk_plane_thread_execute(thread, &call, do_set_log);
}

int vublk_plane_thread_set_kick(struct vublk_plane_thread *thread, unsigned index, int fd,
				struct vublk_error *error)
{
	struct vublk_plane_thread_call call = { .index = index, .fd = fd, .error = error };

	return vublk_plane_thread_execute(thread, &call, do_set_kick);
}

void vublk_plane_thread_set_call(struct vublk_plane_thread *thread, unsigned index, int fd)
{
	struct vublk_plane_thread_call call = { .index = index, .fd = fd };

	vublk_plane_thread_execute(thread, &call, do_set_call);
	thread->queues[index].call_fd = fd;
}

int vublk_plane_thread_set_side(struct vublk_plane_thread *thread, struct vublk_plane_side *side,
				struct vublk_error *error)
{
	struct vublk_plane_thread_call call = { .side = side, .error = error };
	int r;

	thread->side = side; /* set first, because unblock() needs it if a kick blocks */
	r = vublk_plane_thread_execute(thread, &call, do_set_side);
	if (r < 0)
		thread->side = NULL;
	return r;
}

void vublk_plane_thread_lose_side(struct vublk_plane_thread *thread)
{
	struct vublk_plane_thread_call call = { 0 };

	if (!thread->side)
		return;
	vublk_plane_thread_execute(thread, &call, do_lose_side);
	vublk_loop_cancel(thread->owner, &thread->side_broke_task);
	thread->side = NULL;
}

bool vublk_plane_thread_has_side(const struct vublk_plane_thread *thread)
{
	return thread->side;
}

void vublk_plane_thread_stop(struct vublk_plane_thread *thread)
{
	struct vublk_plane_thread_call call = { 0 };

	vublk_plane_thread_execute(thread, &call, do_stop);
}

void vublk_plane_thread_resume(struct vublk_plane_thread *thread)
{
	struct vublk_plane_thread_call call = { 0 };

	vublk_plane_thread_execute(thread, &call, do_resume);
	vublk_loop_cancel(thread->owner, &thread->drained_task);
}

unsigned vublk_plane_thread_outstanding(struct vublk_plane_thread *thread)
{
	struct vublk_plane_thread_call call = { 0 };

	return (unsigned)vublk_plane_thread_execute(thread, &call, do_count);
}

void vublk_plane_thread_set_limits(struct vublk_plane_thread *thread,
				   const struct vublk_limits *limits)
{
	struct vublk_plane_thread_call call = { .limits = limits };

	vublk_plane_thread_execute(thread, &call, do_set_limits);
}

void vublk_plane_thread_set_policy(struct vublk_plane_thread *thread,
				   const struct vublk_plane_policy *policy)
{
	struct vublk_plane_thread_call call = { .policy = policy };

	vublk_plane_thread_execute(thread, &call, do_set_policy);
}

void vublk_plane_thread_set_trace(struct vublk_plane_thread *thread,
				  struct vublk_plane_trace *trace)
{
	struct vublk_plane_thread_call call = { .trace = trace };

	vublk_plane_thread_execute(thread, &call, do_set_trace);
}

void vublk_plane_thread_fail_next_flush(struct vublk_plane_thread *thread)
{
	struct vublk_plane_thread_call call = { 0 };

	vublk_loop_cancel(thread->owner, &thread->flush_failed_task); /* of an earlier failure */
	vublk_plane_thread_execute(thread, &call, do_fail_next_flush);
}

unsigned vublk_plane_thread_waiting(struct vublk_plane_thread *thread)
{
	struct vublk_plane_thread_call call = { 0 };

	return (unsigned)vublk_plane_thread_execute(thread, &call, do_count_waiting);
}

void vublk_plane_thread_set_counts(struct vublk_plane_thread *thread,
				   struct vublk_statistics *statistics, uint64_t slow_ns)
{
	struct vublk_plane_thread_call call = { .statistics = statistics, .slow_ns = slow_ns };

	vublk_plane_thread_execute(thread, &call, do_set_counts);
}

bool vublk_plane_thread_find_slow(struct vublk_plane_thread *thread, struct vublk_plane_slow *slow)
{
	struct vublk_plane_thread_call call = { .slow = slow };

	return vublk_plane_thread_execute(thread, &call, do_find_slow);
}

uint16_t vublk_plane_thread_base(struct vublk_plane_thread *thread, unsigned index)
{
	struct vublk_plane_thread_call call = { .index = index };

	return (uint16_t)vublk_plane_thread_execute(thread, &call, do_get_base);
}

/* --- life ---------------------------------------------------------------------------- */

static void init_queue(struct vublk_plane_thread *thread, unsigned index)
{
	struct vublk_plane_thread_queue *queue = &thread->queues[index];

	*queue = (struct vublk_plane_thread_queue){
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
	sem_destroy(&thread->parked);
	sem_destroy(&thread->unpark);
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
		return vublk_error_set_errno(error, ENOMEM, "cannot allocate %u queues",
					     num_queues);
	for (unsigned i = 0; i < num_queues; i++)
		init_queue(thread, i);
	return 0;
}

int vublk_plane_thread_new(unsigned num_queues, unsigned max_segments, bool is_parked,
			   struct vublk_loop *loop, const struct vublk_plane_thread_ops *ops,
			   void *opaque, const struct vublk_log *log,
			   struct vublk_plane_thread **result, struct vublk_error *error)
{
	struct vublk_plane_thread *thread = aligned_alloc(VUBLK_CACHE_LINE, sizeof(*thread));
	int r;

	if (!thread)
		return vublk_error_set_errno(error, ENOMEM, "cannot allocate memory for the thread "
					     "of the shadow rings");
	*thread = (struct vublk_plane_thread){
		.owner = loop,
		.ops = ops,
		.opaque = opaque,
		.num_queues = num_queues,
		.is_parked = is_parked,
		.parks = is_parked,
		.begins_parked = is_parked,
		.drained_task = { .fn = tell_drained, .opaque = thread },
		.side_broke_task = { .fn = tell_side_broke, .opaque = thread },
		.flush_failed_task = { .fn = tell_flush_failed, .opaque = thread },
		.flush_must_fail_task = { .fn = tell_flush_must_fail, .opaque = thread },
		.mirror_failed_task = { .fn = tell_mirror_failed, .opaque = thread },
		.mirror_synced_task = { .fn = tell_mirror_synced, .opaque = thread },
		.replay_task = { .fn = tell_replay_ended, .opaque = thread },
		.pass_timer.fn = on_pass_timer,
	};
	sem_init(&thread->parked, 0, 0);
	sem_init(&thread->unpark, 0, 0);
	r = init(thread, num_queues, max_segments, log, error);
	if (!r)
		r = vublk_worker_start(&thread->worker, &worker_ops, VUBLK_POLL_ADAPTIVE,
				       VUBLK_POLL_BUDGET_DEFAULT, error);
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
	vublk_loop_cancel(thread->owner, &thread->flush_failed_task);
	vublk_loop_cancel(thread->owner, &thread->flush_must_fail_task);
	vublk_loop_cancel(thread->owner, &thread->replay_task);
	free_thread(thread);
}
