/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The loop consists of an epoll instance, one timerfd for all timers, and one eventfd for all
 * posted tasks.
 *
 * Key idea: a callback may remove any object, including its own. So the batch that epoll returned
 * is kept in loop->ready, and the removal of a source clears its entry there. A timer or task
 * leaves its list before its callback runs.
 */
#include "util/loop.h"

#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>

uint64_t vublk_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

/* --- timers --------------------------------------------------------------- */

static void set_timer_fd(struct vublk_loop *loop)
{
	uint64_t ns = loop->timers ? loop->timers->deadline_ns : 0;
	struct itimerspec spec = {
		.it_value = { (time_t)(ns / 1000000000), (long)(ns % 1000000000) },
	};

	if (ns == loop->armed_ns)
		return;
	timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
	loop->armed_ns = ns;
}

static void unlink_timer(struct vublk_loop_timer *timer)
{
	struct vublk_loop_timer **link = &timer->loop->timers;

	while (*link != timer)
		link = &(*link)->next;
	*link = timer->next;
	timer->next = NULL;
	timer->loop = NULL;
}

void vublk_loop_timer_arm(struct vublk_loop *loop, struct vublk_loop_timer *timer,
			  uint64_t deadline_ns)
{
	struct vublk_loop_timer **link = &loop->timers;

	if (timer->loop)
		unlink_timer(timer);
	timer->deadline_ns = deadline_ns ? deadline_ns : 1;
	while (*link && (*link)->deadline_ns <= timer->deadline_ns)
		link = &(*link)->next;
	timer->next = *link;
	timer->loop = loop;
	*link = timer;
	set_timer_fd(loop);
}

void vublk_loop_timer_disarm(struct vublk_loop_timer *timer)
{
	struct vublk_loop *loop = timer->loop;

	if (!loop)
		return;
	unlink_timer(timer);
	set_timer_fd(loop);
}

static void on_timer_fd(void *opaque, uint32_t events)
{
	struct vublk_loop *loop = opaque;
	uint64_t now;

	(void)events;
	vublk_eventfd_clear(loop->timer_fd);
	loop->armed_ns = 0;
	now = vublk_now_ns();
	while (loop->timers && loop->timers->deadline_ns <= now) {
		struct vublk_loop_timer *timer = loop->timers;

		unlink_timer(timer);
		timer->fn(timer->opaque);
	}
	set_timer_fd(loop);
}

/* --- tasks ---------------------------------------------------------------- */

void vublk_loop_post(struct vublk_loop *loop, struct vublk_loop_task *task)
{
	pthread_mutex_lock(&loop->lock);
	if (!task->queued) {
		task->queued = true;
		task->next = NULL;
		*loop->tasks_end = task;
		loop->tasks_end = &task->next;
		vublk_eventfd_write(loop->wake_fd);
	}
	pthread_mutex_unlock(&loop->lock);
}

void vublk_loop_cancel(struct vublk_loop *loop, struct vublk_loop_task *task)
{
	pthread_mutex_lock(&loop->lock);
	for (struct vublk_loop_task **link = &loop->tasks; *link; link = &(*link)->next) {
		if (*link != task)
			continue;
		*link = task->next;
		if (!*link)
			loop->tasks_end = link;
		task->next = NULL;
		task->queued = false;
		break;
	}
	pthread_mutex_unlock(&loop->lock);
}

static struct vublk_loop_task *take_task(struct vublk_loop *loop)
{
	struct vublk_loop_task *task;

	pthread_mutex_lock(&loop->lock);
	task = loop->tasks;
	if (task) {
		loop->tasks = task->next;
		if (!loop->tasks)
			loop->tasks_end = &loop->tasks;
		task->next = NULL;
		task->queued = false;
	}
	pthread_mutex_unlock(&loop->lock);
	return task;
}

/*
 * Runs at most VUBLK_LOOP_BATCH tasks per call, so that the descriptors get their turn even if
 * tasks post themselves again.
 */
static void on_wake_fd(void *opaque, uint32_t events)
{
	struct vublk_loop *loop = opaque;
	struct vublk_loop_task *task = NULL;

	(void)events;
	vublk_eventfd_clear(loop->wake_fd);
	for (unsigned i = 0; i < VUBLK_LOOP_BATCH; i++) {
		task = take_task(loop);
		if (!task)
			return;
		task->fn(task->opaque);
	}
	vublk_eventfd_write(loop->wake_fd);
}

/* --- descriptors ---------------------------------------------------------- */

int vublk_loop_add(struct vublk_loop *loop, struct vublk_loop_source *source, int fd,
		   uint32_t events, struct vublk_error *error)
{
	struct epoll_event event = { .events = events, .data.ptr = source };

	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		return vublk_error_set_errno(error, errno, "cannot watch descriptor %d", fd);
	source->loop = loop;
	source->fd = fd;
	source->events = events;
	return 0;
}

void vublk_loop_modify(struct vublk_loop_source *source, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = source };

	if (!source->loop || source->events == events)
		return;
	epoll_ctl(source->loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &event);
	source->events = events;
}

void vublk_loop_remove(struct vublk_loop_source *source)
{
	struct vublk_loop *loop = source->loop;

	if (!loop)
		return;
	epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
	for (unsigned i = 0; i < loop->num_ready; i++)
		if (loop->ready[i] == source)
			loop->ready[i] = NULL;
	source->loop = NULL;
	source->fd = -1;
}

int vublk_loop_process(struct vublk_loop *loop, int timeout_ms)
{
	struct epoll_event events[VUBLK_LOOP_BATCH];
	int n, called = 0;

	n = epoll_wait(loop->epoll_fd, events, VUBLK_LOOP_BATCH, timeout_ms);
	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	for (int i = 0; i < n; i++)
		loop->ready[i] = events[i].data.ptr;
	loop->num_ready = (unsigned)n;
	for (int i = 0; i < n; i++) {
		struct vublk_loop_source *source = loop->ready[i];

		if (!source)
			continue;
		source->fn(source->opaque, events[i].events);
		called++;
	}
	loop->num_ready = 0;
	return called;
}

int vublk_loop_fd(const struct vublk_loop *loop)
{
	return loop->epoll_fd;
}

int vublk_loop_init(struct vublk_loop *loop, struct vublk_error *error)
{
	int r;

	*loop = (struct vublk_loop){ .epoll_fd = -1, .timer_fd = -1, .wake_fd = -1 };
	pthread_mutex_init(&loop->lock, NULL);
	loop->tasks_end = &loop->tasks;
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	loop->wake_fd = vublk_eventfd_new();
	if (loop->epoll_fd < 0 || loop->timer_fd < 0 || loop->wake_fd < 0) {
		r = vublk_error_set_errno(error, errno, "cannot create an event loop");
		vublk_loop_deinit(loop);
		return r;
	}
	loop->timer_source = (struct vublk_loop_source){ .fn = on_timer_fd, .opaque = loop };
	loop->wake_source = (struct vublk_loop_source){ .fn = on_wake_fd, .opaque = loop };
	r = vublk_loop_add(loop, &loop->timer_source, loop->timer_fd, EPOLLIN, error);
	if (!r)
		r = vublk_loop_add(loop, &loop->wake_source, loop->wake_fd, EPOLLIN, error);
	if (r)
		vublk_loop_deinit(loop);
	return r;
}

void vublk_loop_deinit(struct vublk_loop *loop)
{
	vublk_loop_remove(&loop->timer_source);
	vublk_loop_remove(&loop->wake_source);
	vublk_fd_close(&loop->timer_fd);
	vublk_fd_close(&loop->wake_fd);
	vublk_fd_close(&loop->epoll_fd);
	pthread_mutex_destroy(&loop->lock);
}
