/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The control socket: its thread, its clients, and the exchange of tasks with the owner's thread;
 * see control.h. client.c has the bytes of a connection, request.c the format of a line.
 *
 * Key idea: each client has one task, and the client's next line is read only when the answer to
 * the task has been sent. So the number of clients bounds the number of tasks, copies and answers.
 * The owner's thread never waits for the control thread: it holds the lock only to move a task from
 * one list to another.
 */
#include "cli/control/control.h"

#include "cli/cli.h"
#include "cli/control/client.h"
#include "cli/control/socket.h"

#include <vublk/version.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_CLIENTS 16
#define AGAIN_MS 1000  /* until a command that waits is run again */
#define ACCEPT_MS 100  /* until the next accept() after a failure */

struct task {
	/* the control thread's */
	bool is_busy; /* posted, and not answered yet */
	struct vublk_control_request request;

	/* the control thread's, and the owner's thread's while the task is busy and not done */
	const struct vublk_control_command *command;
	void *copy;
	int result;
	struct vublk_error error;
	struct task *next; /* of the owner's list */

	/* under the lock */
	bool is_done;
};

struct slot {
	struct vublk_control_client client;
	struct task task;
};

struct vublk_control {
	/* constant */
	const char *role;
	const struct vublk_control_command *commands;
	void *owner;
	int control_fd, owner_fd; /* eventfds that wake the two threads */

	/* the control thread's */
	pthread_t thread;
	bool has_thread;
	struct vublk_control_socket listener;
	bool pauses_accept; /* accept() failed, because there was no descriptor, for example */
	struct slot slots[MAX_CLIENTS];

	/* the owner's thread's */
	struct task *waiting; /* commands to run again */

	/* under the lock */
	pthread_mutex_t lock;
	struct task *posted, **posted_end;
	bool quits;
};

/* --- waking ------------------------------------------------------------------------ */

static void wake(int fd)
{
	uint64_t one = 1;

	/* No other process has the descriptor, so it is not full, and the write does not block. */
	while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

static void clear(int fd)
{
	uint64_t count;

	while (read(fd, &count, sizeof(count)) < 0 && errno == EINTR)
		;
}

/* --- the owner's thread --------------------------------------------------------------- */

static void finish_task(struct vublk_control *control, struct task *task, int result)
{
	pthread_mutex_lock(&control->lock);
	task->result = result;
	task->is_done = true;
	pthread_mutex_unlock(&control->lock);
	wake(control->control_fd);
}

/* Runs a list of tasks, and puts those that are not complete on the list of waiting tasks. */
static void run_tasks(struct vublk_control *control, struct task *task)
{
	while (task) {
		struct task *next = task->next;
		int r = task->command->run(control->owner, task->copy, &task->error);

		if (r == 1) {
			task->next = control->waiting;
			control->waiting = task;
		} else {
			finish_task(control, task, r);
		}
		task = next;
	}
}

static void run_posted(struct vublk_control *control)
{
	struct task *tasks;

	clear(control->owner_fd);
	pthread_mutex_lock(&control->lock);
	tasks = control->posted;
	control->posted = NULL;
	control->posted_end = &control->posted;
	pthread_mutex_unlock(&control->lock);
	run_tasks(control, tasks);
}

static void run_waiting(struct vublk_control *control)
{
	struct task *tasks = control->waiting;

	control->waiting = NULL;
	run_tasks(control, tasks);
}

int vublk_control_run(struct vublk_control *control, int fd,
		      int (*process)(void *owner, struct vublk_error *error),
		      struct vublk_error *error)
{
	struct pollfd fds[] = {
		{ .fd = fd, .events = POLLIN }, { .fd = control->owner_fd, .events = POLLIN },
	};
	int r;

	do {
		if (poll(fds, VUBLK_CLI_ARRAY_SIZE(fds), control->waiting ? AGAIN_MS : -1) < 0)
			fds[0].revents = fds[1].revents = 0; /* a signal, or no memory for a moment */
		r = process(control->owner, error);
		if (r == 1 && control->waiting)
			run_waiting(control);
		if (r == 1 && fds[1].revents)
			run_posted(control);
	} while (r == 1);
	return r;
}

/* --- commands, on the control thread ----------------------------------------------------- */

static const struct vublk_control_command *find_command(const struct vublk_control *control,
							const char *name)
{
	for (const struct vublk_control_command *c = control->commands; c->name; c++)
		if (!strcmp(c->name, name))
			return c;
	return NULL;
}

static int unknown_command(const struct vublk_control *control, const char *name,
			   struct vublk_error *error)
{
	char names[256] = "";

	for (const struct vublk_control_command *c = control->commands; c->name; c++) {
		strncat(names, names[0] ? ", " : "", sizeof(names) - strlen(names) - 1);
		strncat(names, c->name, sizeof(names) - strlen(names) - 1);
	}
	return vublk_cli_error(error, EINVAL, "there is no command '%s'; the commands are %s", name,
			       names);
}

static void post_task(struct vublk_control *control, struct task *task)
{
	task->is_busy = true;
	task->next = NULL;
	pthread_mutex_lock(&control->lock);
	*control->posted_end = task;
	control->posted_end = &task->next;
	pthread_mutex_unlock(&control->lock);
	wake(control->owner_fd);
}

/* Checks the request and makes the copy. 0, or a negative errno. */
static int prepare_task(struct vublk_control *control, struct task *task)
{
	const char *name = task->request.command;
	int r;

	task->command = find_command(control, name);
	if (!task->command)
		return unknown_command(control, name, &task->error);
	r = vublk_control_request_check(&task->request, task->command->arguments, &task->error);
	if (r)
		return r;
	task->copy = calloc(1, task->command->copy_bytes + 1);
	if (!task->copy)
		return vublk_cli_error(&task->error, ENOMEM, "no memory for the command '%s'", name);
	if (!task->command->check || !task->request.arguments)
		return 0;
	return task->command->check(task->request.arguments, task->copy, &task->error);
}

/* Answers the task and makes it idle again. */
static int answer_task(struct vublk_control *control, struct slot *slot)
{
	struct task *task = &slot->task;
	struct json_object *result = NULL;
	int r = 0;

	if (!task->result && task->command->format) {
		result = task->command->format(control->owner, task->copy);
		if (!result)
			task->result = vublk_cli_error(&task->error, ENOMEM, "no memory for the answer");
	}
	if (slot->client.fd >= 0)
		r = vublk_control_client_put(&slot->client, task->result ?
			vublk_control_error_line(&task->request, &task->error) :
			vublk_control_result_line(&task->request, result));
	else
		json_object_put(result);
	vublk_control_request_deinit(&task->request);
	free(task->copy);
	*task = (struct task){ .is_busy = false };
	return r;
}

static int handle_line(struct vublk_control *control, struct slot *slot, const char *line,
		       size_t bytes)
{
	struct task *task = &slot->task;
	int r = vublk_control_request_parse(line, bytes, &task->request, &task->error);

	if (!r)
		return 0;
	task->result = r < 0 ? r : prepare_task(control, task);
	if (task->result || !task->command->run)
		return answer_task(control, slot);
	post_task(control, task);
	return 0;
}

static int refuse_long_line(struct slot *slot)
{
	struct vublk_control_request request = { .id = NULL };
	struct vublk_error error;

	vublk_cli_error(&error, EMSGSIZE, "the line is longer than %d bytes and is skipped",
			VUBLK_CONTROL_LINE_BYTES);
	return vublk_control_client_put(&slot->client, vublk_control_error_line(&request, &error));
}

/* --- clients ------------------------------------------------------------------------ */

/* Whether the next line may be handled. */
static bool is_ready(const struct slot *slot)
{
	return !slot->task.is_busy && vublk_control_client_is_flushed(&slot->client);
}

/* Handles lines until one has to wait. A negative errno: the connection is over. */
static int handle_lines(struct vublk_control *control, struct slot *slot)
{
	const char *line;
	size_t bytes;
	int r = 0;

	while (!r && is_ready(slot)) {
		int found = vublk_control_client_next_line(&slot->client, &line, &bytes);

		if (!found)
			return slot->client.is_eof ? -ENOTCONN : 0;
		r = found < 0 ? refuse_long_line(slot) : handle_line(control, slot, line, bytes);
		if (!r)
			r = vublk_control_client_flush(&slot->client);
	}
	return r;
}

static void serve_client(struct vublk_control *control, struct slot *slot, short revents)
{
	int r = 0;

	if (revents & (POLLHUP | POLLERR | POLLNVAL) && !(revents & POLLIN))
		r = -ENOTCONN;
	if (!r && revents & POLLIN && is_ready(slot))
		r = vublk_control_client_receive(&slot->client);
	if (!r)
		r = vublk_control_client_flush(&slot->client);
	if (!r)
		r = handle_lines(control, slot);
	if (r)
		vublk_control_client_close(&slot->client);
}

static int greet(struct vublk_control *control, struct slot *slot)
{
	struct json_object *greeting = json_object_new_object();
	struct json_object *names = json_object_new_array();

	if (!greeting || !names) {
		json_object_put(greeting);
		json_object_put(names);
		return -ENOMEM;
	}
	for (const struct vublk_control_command *c = control->commands; c->name; c++)
		json_object_array_add(names, json_object_new_string(c->name));
	json_object_object_add(greeting, "vublk", json_object_new_string(vublk_version()));
	json_object_object_add(greeting, "protocol",
			       json_object_new_int(VUBLK_CONTROL_PROTOCOL));
	json_object_object_add(greeting, "role", json_object_new_string(control->role));
	json_object_object_add(greeting, "pid", json_object_new_int(getpid()));
	json_object_object_add(greeting, "commands", names);
	return vublk_control_client_put(&slot->client, vublk_control_line(greeting));
}

/* A task of a client that has disconnected keeps its slot until the owner's thread returns it. */
static struct slot *find_free_slot(struct vublk_control *control)
{
	for (unsigned i = 0; i < MAX_CLIENTS; i++)
		if (control->slots[i].client.fd < 0 && !control->slots[i].task.is_busy)
			return &control->slots[i];
	return NULL;
}

/* The line is lost if the socket has no room for it, because nothing must wait for the client. */
static void refuse_client(int fd)
{
	struct vublk_control_request request = { .id = NULL };
	struct vublk_error error;
	char *line;

	vublk_cli_error(&error, EBUSY, "%d control clients are connected already; disconnect one of "
			"them", MAX_CLIENTS);
	line = vublk_control_error_line(&request, &error);
	if (line)
		send(fd, line, strlen(line), MSG_DONTWAIT | MSG_NOSIGNAL);
	free(line);
	close(fd);
}

static void accept_client(struct vublk_control *control)
{
	int fd = accept4(control->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct slot *slot;

	control->pauses_accept = fd < 0 && errno != EAGAIN && errno != EINTR &&
				 errno != ECONNABORTED;
	if (fd < 0)
		return;
	slot = find_free_slot(control);
	if (!slot) {
		refuse_client(fd);
		return;
	}
	vublk_control_client_open(&slot->client, fd);
	if (greet(control, slot))
		vublk_control_client_close(&slot->client);
	else
		serve_client(control, slot, 0);
}

/* --- the control thread ------------------------------------------------------------------ */

/* Answers tasks that the owner's thread has returned. Returns false at the end. */
static bool take_done(struct vublk_control *control)
{
	bool is_done[MAX_CLIENTS], quits;

	clear(control->control_fd);
	pthread_mutex_lock(&control->lock);
	quits = control->quits;
	for (unsigned i = 0; i < MAX_CLIENTS; i++)
		is_done[i] = control->slots[i].task.is_done;
	pthread_mutex_unlock(&control->lock);
	for (unsigned i = 0; i < MAX_CLIENTS && !quits; i++)
		if (is_done[i] && answer_task(control, &control->slots[i]))
			vublk_control_client_close(&control->slots[i].client);
	return !quits;
}

static short wanted_events(const struct slot *slot)
{
	if (!vublk_control_client_is_flushed(&slot->client))
		return POLLOUT;
	return is_ready(slot) && !slot->client.is_eof ? POLLIN : 0;
}

#define FIRST_CLIENT 2 /* in the array of pollfd */

static void fill_fds(struct vublk_control *control, struct pollfd *fds)
{
	fds[0] = (struct pollfd){ .fd = control->control_fd, .events = POLLIN };
	fds[1] = (struct pollfd){
		.fd = control->pauses_accept ? -1 : control->listener.fd, .events = POLLIN,
	};
	for (unsigned i = 0; i < MAX_CLIENTS; i++) {
		struct slot *slot = &control->slots[i];

		fds[FIRST_CLIENT + i] = (struct pollfd){
			.fd = slot->client.fd, .events = wanted_events(slot),
		};
	}
}

static void *control_main(void *opaque)
{
	struct vublk_control *control = opaque;
	struct pollfd fds[FIRST_CLIENT + MAX_CLIENTS];

	for (;;) {
		fill_fds(control, fds);
		if (poll(fds, VUBLK_CLI_ARRAY_SIZE(fds), control->pauses_accept ? ACCEPT_MS : -1) < 0)
			continue;
		if (!take_done(control))
			return NULL;
		for (unsigned i = 0; i < MAX_CLIENTS; i++)
			if (fds[FIRST_CLIENT + i].fd >= 0 && control->slots[i].client.fd >= 0)
				serve_client(control, &control->slots[i],
					     fds[FIRST_CLIENT + i].revents);
		if (fds[1].revents || control->pauses_accept)
			accept_client(control);
	}
}

/* --- life ------------------------------------------------------------------------------ */

/* Blocks signals in the control thread, so that the owner's thread handles them. */
static int start_thread(struct vublk_control *control, struct vublk_error *error)
{
	sigset_t all, before;
	int code;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	code = pthread_create(&control->thread, NULL, control_main, control);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (code)
		return vublk_cli_error_errno(error, code, "cannot start the control thread");
	control->has_thread = true;
	return 0;
}

static int set_up(struct vublk_control *control, const char *path, mode_t mode,
		  struct vublk_error *error)
{
	int r;

	control->control_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	control->owner_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (control->control_fd < 0 || control->owner_fd < 0)
		return vublk_cli_error_errno(error, errno, "cannot create an eventfd");
	r = vublk_control_socket_listen(path, mode, &control->listener, error);
	return r ? r : start_thread(control, error);
}

int vublk_control_open(const char *path, mode_t mode, const char *role,
		       const struct vublk_control_command *commands, void *owner,
		       struct vublk_control **result, struct vublk_error *error)
{
	struct vublk_control *control = calloc(1, sizeof(*control));
	int r;

	if (!control)
		return vublk_cli_error(error, ENOMEM, "no memory for the control socket");
	control->role = role;
	control->commands = commands;
	control->owner = owner;
	control->listener.fd = control->control_fd = control->owner_fd = -1;
	control->posted_end = &control->posted;
	pthread_mutex_init(&control->lock, NULL);
	for (unsigned i = 0; i < MAX_CLIENTS; i++)
		control->slots[i].client.fd = -1;
	r = set_up(control, path, mode, error);
	if (r) {
		vublk_control_close(control);
		return r;
	}
	*result = control;
	return 0;
}

static void end_thread(struct vublk_control *control)
{
	if (!control->has_thread)
		return;
	pthread_mutex_lock(&control->lock);
	control->quits = true;
	pthread_mutex_unlock(&control->lock);
	wake(control->control_fd);
	pthread_join(control->thread, NULL);
}

void vublk_control_close(struct vublk_control *control)
{
	if (!control)
		return;
	end_thread(control);
	vublk_control_socket_close(&control->listener);
	for (unsigned i = 0; i < MAX_CLIENTS; i++) {
		struct slot *slot = &control->slots[i];

		vublk_control_client_close(&slot->client);
		vublk_control_request_deinit(&slot->task.request);
		free(slot->task.copy);
	}
	if (control->control_fd >= 0)
		close(control->control_fd);
	if (control->owner_fd >= 0)
		close(control->owner_fd);
	pthread_mutex_destroy(&control->lock);
	free(control);
}

void vublk_control_take_mode(struct argp_state *state, const char *text, mode_t *mode)
{
	size_t digits = strspn(text, "01234567");
	unsigned long value = digits ? strtoul(text, NULL, 8) : 0;

	if (!digits || text[digits] || value > 0777)
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "--control-mode must be octal permissions "
			     "from 0 to 0777, such as 0660, not '%s'", text);
	*mode = (mode_t)value;
}
