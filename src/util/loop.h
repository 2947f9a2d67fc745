/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_LOOP_H
#define VUBLK_UTIL_LOOP_H

#include <vublk/error.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * An event loop: descriptors, timers and tasks behind one pollable descriptor. Only the thread
 * that calls vublk_loop_process() may make the other calls, except vublk_loop_post(), which any
 * thread may call. A callback may add and remove any source, timer or task, including its own.
 */

#define VUBLK_LOOP_BATCH 32

struct vublk_loop_source {
	struct vublk_loop *loop; /* NULL: not in a loop */
	int fd;                  /* borrowed */
	uint32_t events;         /* EPOLLIN, EPOLLOUT */
	void (*fn)(void *opaque, uint32_t events);
	void *opaque;
};

struct vublk_loop_timer {
	struct vublk_loop *loop; /* NULL: not armed */
	struct vublk_loop_timer *next;
	uint64_t deadline_ns;
	void (*fn)(void *opaque);
	void *opaque;
};

/* A piece of work, called once each time it is posted. */
struct vublk_loop_task {
	struct vublk_loop_task *next;
	bool queued; /* under the loop's lock */
	void (*fn)(void *opaque);
	void *opaque;
};

struct vublk_loop {
	/* the loop's thread */
	int epoll_fd;
	int timer_fd;
	int wake_fd;
	struct vublk_loop_source timer_source;
	struct vublk_loop_source wake_source;
	struct vublk_loop_timer *timers; /* sorted by deadline */
	uint64_t armed_ns;               /* the setting of timer_fd; 0: off */
	struct vublk_loop_source *ready[VUBLK_LOOP_BATCH];
	unsigned num_ready;

	/* under lock */
	pthread_mutex_t lock;
	struct vublk_loop_task *tasks;
	struct vublk_loop_task **tasks_end;
};

int vublk_loop_init(struct vublk_loop *loop, struct vublk_error *error);

/* The loop must have no sources, timers or tasks. */
void vublk_loop_deinit(struct vublk_loop *loop);

/* The loop's descriptor, which is readable when vublk_loop_process() has work. Borrowed. */
int vublk_loop_fd(const struct vublk_loop *loop);

/*
 * Runs the callbacks that are ready, after waiting up to `timeout_ms` for one (0: do not wait,
 * -1: no limit). Returns the number of callbacks run, or a negative errno.
 */
int vublk_loop_process(struct vublk_loop *loop, int timeout_ms);

/* The caller has set source->fn and source->opaque. `fd` is borrowed until the removal. */
int vublk_loop_add(struct vublk_loop *loop, struct vublk_loop_source *source, int fd,
		   uint32_t events, struct vublk_error *error);
void vublk_loop_modify(struct vublk_loop_source *source, uint32_t events);
/*
 * A no-op if the source is in no loop. The source's callback does not run after the call returns.
 */
void vublk_loop_remove(struct vublk_loop_source *source);

/* Arms the timer or changes its deadline, a time of vublk_now_ns(). The callback runs once. */
void vublk_loop_timer_arm(struct vublk_loop *loop, struct vublk_loop_timer *timer,
			  uint64_t deadline_ns);
void vublk_loop_timer_disarm(struct vublk_loop_timer *timer);

/* May be called on any thread. A no-op for a task that is already posted. */
void vublk_loop_post(struct vublk_loop *loop, struct vublk_loop_task *task);
/* After this call the task does not run unless it is posted again. */
void vublk_loop_cancel(struct vublk_loop *loop, struct vublk_loop_task *task);

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t vublk_now_ns(void);

#endif
