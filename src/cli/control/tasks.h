/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_TASKS_H
#define VUBLK_CLI_CONTROL_TASKS_H

/*
 * Tasks: commands that the thread of the served object (the owner's thread) has to execute. Any
 * thread may post a task, and the owner's thread executes it between two calls of the object's
 * process() function.
 *
 * Key idea: the owner's thread never waits for another thread. Each thread holds the lock only
 * while it adds a task to a list or removes tasks from it.
 */
#include "cli/control/control.h"

#include <pthread.h>

struct vublk_control_task {
	/* set before the task is posted */
	const struct vublk_control_command *command; /* must have a run() function */
	void *copy;
	void (*done)(void *opaque); /* called on the owner's thread when the task is done; the
				       thread that posted the task may then use it again */
	void *opaque;
	int64_t client_pid; /* the process that sent the command; 0: unknown */

	/* set when the task is done */
	int result;
	struct vublk_error error;

	struct vublk_control_task *next; /* the next task in the same list */
};

struct vublk_control_tasks {
	/* constant */
	void *owner;
	/*
	 * Called on the owner's thread before a command runs, with its task, and afterwards with
	 * NULL. May be NULL.
	 */
	void (*runs)(void *opaque, const struct vublk_control_task *task);
	void *opaque;
	int fd;      /* an eventfd that wakes the owner's thread; -1: the struct is not
			initialized */

	/* used by the owner's thread */
	struct vublk_control_task *waiting; /* tasks that are not done; their commands have to be
					       run again */

	/* protected by the lock */
	pthread_mutex_t lock;
	struct vublk_control_task *posted, **posted_end;
	bool has_ended; /* no further task is accepted */
};

int vublk_control_tasks_init(struct vublk_control_tasks *tasks, void *owner,
			     struct vublk_error *error);
/* Frees what the struct owns. Idempotent. */
void vublk_control_tasks_deinit(struct vublk_control_tasks *tasks);

/*
 * Hands a task to the owner's thread. Returns 0, or -ENOTCONN with a message in task->error if the
 * object has ended. Any thread may call this function.
 */
int vublk_control_tasks_post(struct vublk_control_tasks *tasks, struct vublk_control_task *task);

/*
 * Runs the object and the tasks until process() returns something other than 1. Then runs each
 * remaining command with is_about_the_end once more. A task that is still not done fails with
 * -ENOTCONN. Returns the last value of process(); see vublk_control_run().
 */
int vublk_control_tasks_run(struct vublk_control_tasks *tasks,
			    const struct vublk_control_loop *loop, struct vublk_error *error);

/* --- eventfds, for the threads of a control socket ------------------------------------------- */

void vublk_control_wake(int fd);
void vublk_control_clear(int fd);

#endif
