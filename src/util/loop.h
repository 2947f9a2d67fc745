/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_LOOP_H
#define VUBLK_UTIL_LOOP_H

#include <vublk/error.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * An event loop: descriptors, timers and tasks behind one descriptor that can be polled. Only the
 * thread that calls vublk_loop_process() may make the other calls, except vublk_loop_post(), which
 * any thread may call. A callback may add and remove any source, timer or task, including its own.
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

/* A task: a function that is called once each time the task is posted. */
struct vublk_loop_task {
	struct vublk_loop_task *next;
	bool queued; /* protected by the loop's lock */
	void (*fn)(void *opaque);
	void *opaque;
};

struct vublk_loop {
	/* used by the loop's thread */
	int epoll_fd;
	int timer_fd;
	int wake_fd;
	struct vublk_loop_source timer_source;
	struct vublk_loop_source wake_source;
	struct vublk_loop_timer *timers; /* sorted by deadline */
	uint64_t armed_ns;               /* what timer_fd is set to; 0: off, or expired */
	struct vublk_loop_source *ready[VUBLK_LOOP_BATCH];
	unsigned num_ready;

	/* protected by the lock */
	pthread_mutex_t lock;
	struct vublk_loop_task *tasks;
	struct vublk_loop_task **tasks_end;
};

int vublk_loop_init(struct vublk_loop *loop, struct vublk_error *error);

/* Frees what the loop owns. The loop must have no sources, timers or tasks. */
void vublk_loop_deinit(struct vublk_loop *loop);

/*
 * Returns the loop's descriptor, which polls readable when vublk_loop_process() has work. The loop
 * owns the descriptor.
 */
int vublk_loop_fd(const struct vublk_loop *loop);

/*
 * Runs the callbacks that are ready. If no callback is ready, waits up to `timeout_ms` for one (0:
 * does not wait, -1: no limit). Returns the number of sources whose callback ran, or a negative
 * errno.
 */
int vublk_loop_process(struct vublk_loop *loop, int timeout_ms);

/*
 * Adds a descriptor. The caller must have set source->fn and source->opaque. `fd` is borrowed until
 * vublk_loop_remove().
 */
int vublk_loop_add(struct vublk_loop *loop, struct vublk_loop_source *source, int fd,
		   uint32_t events, struct vublk_error *error);
void vublk_loop_modify(struct vublk_loop_source *source, uint32_t events);
/*
 * Removes a source. Its callback does not run after this call. A no-op if the source is in no loop.
 */
void vublk_loop_remove(struct vublk_loop_source *source);

/*
 * Arms the timer, or changes its deadline, which is on the clock of vublk_now_ns(). The callback
 * runs once.
 */
void vublk_loop_timer_arm(struct vublk_loop *loop, struct vublk_loop_timer *timer,
			  uint64_t deadline_ns);
void vublk_loop_timer_disarm(struct vublk_loop_timer *timer);

/*
 * Posts a task: the loop's thread calls the task's function once. Any thread may call this. A no-op
 * if the task is already posted.
 */
void vublk_loop_post(struct vublk_loop *loop, struct vublk_loop_task *task);
/* Cancels a task, which then does not run unless it is posted again. */
void vublk_loop_cancel(struct vublk_loop *loop, struct vublk_loop_task *task);

/* Returns CLOCK_MONOTONIC in nanoseconds. */
uint64_t vublk_now_ns(void);

#endif
