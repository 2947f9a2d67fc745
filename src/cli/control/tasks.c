/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tasks for the thread of the served object; see tasks.h. */
#include "cli/control/tasks.h"

#include "cli/cli.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define AGAIN_MS 1000 /* the longest time until a command that is not done is run again */

/* --- waking ------------------------------------------------------------------------ */

void vublk_control_wake(int fd)
{
	uint64_t one = 1;

	/*
	 * The write does not block, because the eventfd's counter cannot become full: only this
	 * process writes to it.
	 */
	while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

void vublk_control_clear(int fd)
{
	uint64_t count;

	while (read(fd, &count, sizeof(count)) < 0 && errno == EINTR)
		;
}

/* --- life -------------------------------------------------------------------------- */

int vublk_control_tasks_init(struct vublk_control_tasks *tasks, void *owner,
			     struct vublk_error *error)
{
	*tasks = (struct vublk_control_tasks){ .owner = owner };
	tasks->posted_end = &tasks->posted;
	tasks->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (tasks->fd < 0)
		return vublk_cli_error_errno(error, errno, "cannot create an eventfd");
	pthread_mutex_init(&tasks->lock, NULL);
	return 0;
}

void vublk_control_tasks_deinit(struct vublk_control_tasks *tasks)
{
	if (tasks->fd < 0)
		return;
	close(tasks->fd);
	tasks->fd = -1;
	pthread_mutex_destroy(&tasks->lock);
}

/* --- any thread -------------------------------------------------------------------- */

int vublk_control_tasks_post(struct vublk_control_tasks *tasks, struct vublk_control_task *task)
{
	bool has_ended;

	task->next = NULL;
	pthread_mutex_lock(&tasks->lock);
	has_ended = tasks->has_ended;
	if (!has_ended) {
		*tasks->posted_end = task;
		tasks->posted_end = &task->next;
	}
	pthread_mutex_unlock(&tasks->lock);
	if (has_ended)
		return vublk_cli_error(&task->error, ENOTCONN, "the process is ending");
	vublk_control_wake(tasks->fd);
	return 0;
}

/* --- the owner's thread --------------------------------------------------------------- */

static int run_command(struct vublk_control_tasks *tasks, struct vublk_control_task *task)
{
	int r;

	if (tasks->runs)
		tasks->runs(tasks->opaque, task);
	r = task->command->run(tasks->owner, task->copy, &task->error);
	if (tasks->runs)
		tasks->runs(tasks->opaque, NULL);
	return r;
}

/*
 * Runs each task of a list once. Moves the tasks that are not done yet to the list of waiting
 * tasks.
 */
static void run_list(struct vublk_control_tasks *tasks, struct vublk_control_task *task)
{
	while (task) {
		struct vublk_control_task *next = task->next;
		int r = run_command(tasks, task);

		if (r == 1) {
			task->next = tasks->waiting;
			tasks->waiting = task;
		} else {
			task->result = r;
			task->done(task->opaque);
		}
		task = next;
	}
}

static struct vublk_control_task *take_posted(struct vublk_control_tasks *tasks, bool ends)
{
	struct vublk_control_task *posted;

	pthread_mutex_lock(&tasks->lock);
	posted = tasks->posted;
	tasks->posted = NULL;
	tasks->posted_end = &tasks->posted;
	tasks->has_ended |= ends;
	pthread_mutex_unlock(&tasks->lock);
	return posted;
}

static void run_posted(struct vublk_control_tasks *tasks)
{
	vublk_control_clear(tasks->fd);
	run_list(tasks, take_posted(tasks, false));
}

static void run_waiting(struct vublk_control_tasks *tasks)
{
	struct vublk_control_task *waiting = tasks->waiting;

	tasks->waiting = NULL;
	run_list(tasks, waiting);
}

/*
 * Called after the object has ended. Runs the command once more if it waits for that end. Returns 1
 * if the command is not done.
 */
static int run_at_end(struct vublk_control_tasks *tasks, struct vublk_control_task *task)
{
	return task->command->is_about_the_end ? run_command(tasks, task) : 1;
}

static void end_list(struct vublk_control_tasks *tasks, struct vublk_control_task *task)
{
	while (task) {
		struct vublk_control_task *next = task->next;

		task->result = run_at_end(tasks, task);
		if (task->result == 1)
			task->result = vublk_cli_error(&task->error, ENOTCONN, "the process is ending");
		task->done(task->opaque);
		task = next;
	}
}

/* Returns how long to wait, in milliseconds; -1: no limit. */
static int find_timeout(const struct vublk_control_tasks *tasks,
			const struct vublk_control_loop *loop)
{
	int timeout = loop->timeout_ms ? loop->timeout_ms(loop->opaque) : -1;

	if (!tasks->waiting)
		return timeout;
	return timeout < 0 ? AGAIN_MS : VUBLK_CLI_MIN(timeout, AGAIN_MS);
}

int vublk_control_tasks_run(struct vublk_control_tasks *tasks,
			    const struct vublk_control_loop *loop, struct vublk_error *error)
{
	struct pollfd fds[] = {
		{ .fd = loop->fd, .events = POLLIN }, { .fd = tasks->fd, .events = POLLIN },
	};
	int r;

	do {
		if (poll(fds, VUBLK_CLI_ARRAY_SIZE(fds), find_timeout(tasks, loop)) < 0)
			fds[0].revents = fds[1].revents = 0; /* poll() failed and has set nothing */
		r = loop->process(loop->opaque, error);
		if (r == 1 && tasks->waiting)
			run_waiting(tasks);
		if (r == 1 && fds[1].revents)
			run_posted(tasks);
	} while (r == 1);
	end_list(tasks, take_posted(tasks, true));
	end_list(tasks, tasks->waiting);
	tasks->waiting = NULL;
	return r;
}
