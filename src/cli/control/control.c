/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The control socket: its thread, its clients, and the exchange of tasks with the owner's thread;
 * see control.h. client.c handles the bytes of a connection, request.c the format of a line, and
 * events.c the ring of events.
 *
 * Key idea: each client has one task. The next line of the client is handled only when the answer
 * to the previous one has been sent. So the number of clients limits the number of tasks, copies
 * and answers.
 */
#include "cli/control/control.h"

#include "cli/cli.h"
#include "cli/control/ask.h"
#include "cli/control/client.h"
#include "cli/control/commands.h"
#include "cli/control/events.h"
#include "cli/control/json.h"
#include "cli/control/socket.h"

#include <vublk/version.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_CLIENTS 16
#define ACCEPT_MS 100  /* pause before accept() is called again after a failure */

/* A client, and the task for its command. */
struct slot {
	struct vublk_control *control;
	struct vublk_control_client client;
	struct vublk_control_request request; /* of the task */
	struct vublk_control_task task; /* shared with the owner's thread while is_busy */
	bool is_busy; /* the task was posted, and its answer has not been made yet */
	uint64_t next_event; /* number of the next event; 0: the client has not asked for events */

	/* protected by the lock */
	bool is_done;
};

struct vublk_control {
	/* constant */
	const char *role;
	const struct vublk_control_command *commands;
	void *owner;
	struct vublk_control_events *events;
	int control_fd; /* an eventfd that wakes the control thread */
	struct vublk_control_tasks tasks;

	/* used by the control thread */
	pthread_t thread;
	bool has_thread;
	struct vublk_control_socket listener;
	bool pauses_accept; /* accept() has failed, for example because no descriptor was left */
	struct slot slots[MAX_CLIENTS];

	/* protected by the lock */
	pthread_mutex_t lock;
	bool quits;
};

/* --- the owner's thread --------------------------------------------------------------- */

static void on_task_done(void *opaque)
{
	struct slot *slot = opaque;
	struct vublk_control *control = slot->control;

	pthread_mutex_lock(&control->lock);
	slot->is_done = true;
	pthread_mutex_unlock(&control->lock);
	vublk_control_wake(control->control_fd);
}

void vublk_control_notice(void *opaque, const struct vublk_notice *notice, size_t notice_bytes)
{
	struct vublk_control *control = opaque;

	vublk_control_events_add(control->events, notice, notice_bytes);
	vublk_control_wake(control->control_fd);
}

/* Records the command of `task` as the cause of the events that follow; NULL: no command. */
static void on_command(void *opaque, const struct vublk_control_task *task)
{
	struct vublk_control *control = opaque;
	struct vublk_control_cause cause = { NULL };

	if (task)
		cause = (struct vublk_control_cause){ task->command->name, task->client_pid };
	vublk_control_events_set_cause(control->events, &cause);
}

int vublk_control_run(struct vublk_control *control, const struct vublk_control_loop *loop,
		      struct vublk_error *error)
{
	return vublk_control_tasks_run(&control->tasks, loop, error);
}

/* --- events, on the control thread --------------------------------------------------------- */

struct events_copy {
	bool has_since;
	uint64_t since;
};

static int check_events(struct json_object *arguments, void *copy, struct vublk_error *error)
{
	struct events_copy *events = copy;
	struct json_object *value;

	if (!json_object_object_get_ex(arguments, "since", &value))
		return 0;
	if (!json_object_is_type(value, json_type_int) || json_object_get_int64(value) < 0)
		return vublk_cli_error(error, EINVAL, "'since' must be the sequence number of an "
				       "event, or 0 for all stored events");
	events->has_since = true;
	events->since = json_object_get_uint64(value);
	return 0;
}

static const char *const events_arguments[] = { "since", NULL };

/*
 * The command `events`, which every control socket has. The table of the served object has the
 * other commands.
 */
const struct vublk_control_command vublk_events_command = {
	"events", events_arguments, sizeof(struct events_copy), check_events, NULL, NULL,
};

/*
 * Executes `events`: returns the result, after which the client gets events. On failure returns
 * NULL; slot->task.result is then the error, or 0 if there is no memory.
 */
static struct json_object *begin_events(struct vublk_control *control, struct slot *slot)
{
	const struct events_copy *copy = slot->task.copy;
	uint64_t next = vublk_control_events_next(control->events);
	struct json_object *result;

	if (copy->has_since && copy->since >= next) {
		slot->task.result = vublk_cli_error(&slot->task.error, EINVAL, "there is no event "
						    "%" PRIu64 " yet (the last one is %" PRIu64
						    "); if the process was restarted, ask "
						    "again with since=0", copy->since, next - 1);
		return NULL;
	}
	result = json_object_new_object();
	if (!result)
		return NULL;
	slot->next_event = copy->has_since ? copy->since + 1 : next;
	vublk_json_add_bool(result, "stream", true);
	vublk_json_add_u64(result, "next", slot->next_event);
	return result;
}

/* --- commands, on the control thread ----------------------------------------------------- */

/* Returns the command after `command` (NULL: the first one), or NULL if there are no more. */
static const struct vublk_control_command *
next_command(const struct vublk_control *control, const struct vublk_control_command *command)
{
	if (command == &vublk_events_command)
		return NULL;
	command = command ? command + 1 : control->commands;
	return command->name ? command : &vublk_events_command;
}

#define for_each_command(command, control)                                                    \
	for (const struct vublk_control_command *command = next_command(control, NULL);       \
	     command; command = next_command(control, command))

static const struct vublk_control_command *find_command(const struct vublk_control *control,
							const char *name)
{
	for_each_command(c, control)
		if (!strcmp(c->name, name))
			return c;
	return NULL;
}

static int unknown_command(const struct vublk_control *control, const char *name,
			   struct vublk_error *error)
{
	char names[256] = "";

	for_each_command(c, control) {
		strncat(names, names[0] ? ", " : "", sizeof(names) - strlen(names) - 1);
		strncat(names, c->name, sizeof(names) - strlen(names) - 1);
	}
	return vublk_cli_error(error, EINVAL, "there is no command '%s'; the commands are %s", name,
			       names);
}

/*
 * Stores the client's connection and the control socket of this process in the copy, for a command
 * that takes the connection. Returns 0 or a negative errno.
 */
static int give_connection(const struct vublk_control *control, struct slot *slot)
{
	struct vublk_control_connection *connection = slot->task.copy;

	vublk_control_socket_give(&control->listener, &connection->extra);
	connection->fd = fcntl(slot->client.fd, F_DUPFD_CLOEXEC, 0);
	if (connection->fd >= 0)
		return 0;
	return vublk_cli_error_errno(&slot->task.error, errno, "cannot pass the connection to the "
				     "command '%s'", slot->request.command);
}

/*
 * Finds the command of the request, allocates the copy and checks the arguments. Returns 0 or a
 * negative errno.
 */
static int prepare_task(struct vublk_control *control, struct slot *slot)
{
	struct vublk_control_task *task = &slot->task;
	const char *name = slot->request.command;
	int r;

	task->command = find_command(control, name);
	if (!task->command)
		return unknown_command(control, name, &task->error);
	r = vublk_control_request_check(&slot->request, task->command->arguments, &task->error);
	if (r)
		return r;
	task->copy = calloc(1, task->command->copy_bytes + 1);
	if (!task->copy)
		return vublk_cli_error(&task->error, ENOMEM, "cannot allocate memory for the "
				       "command '%s'", name);
	if (task->command->takes_connection)
		return give_connection(control, slot);
	if (!task->command->check || !slot->request.arguments)
		return 0;
	return task->command->check(slot->request.arguments, task->copy, &task->error);
}

/*
 * Appends the answer to the client's output, if the client is still connected, and resets the task.
 * Returns a negative errno if the client has to be closed.
 */
static int answer_task(struct vublk_control *control, struct slot *slot)
{
	struct vublk_control_task *task = &slot->task;
	bool leaves = !task->result && task->command->takes_connection;
	struct json_object *result = NULL;
	int r = 0;

	if (!task->result && (task->command->format || task->command == &vublk_events_command)) {
		result = task->command->format ? task->command->format(control->owner, task->copy) :
						 begin_events(control, slot);
		if (!result && !task->result)
			task->result = vublk_cli_error(&task->error, ENOMEM, "cannot allocate "
						       "memory for the answer");
	}
	if (slot->client.fd >= 0)
		r = vublk_control_client_put(&slot->client, task->result ?
			vublk_control_error_line(&slot->request, &task->error) :
			vublk_control_result_line(&slot->request, result));
	else
		json_object_put(result);
	vublk_control_request_deinit(&slot->request);
	free(task->copy);
	*task = (struct vublk_control_task){ .done = on_task_done, .opaque = slot };
	slot->is_busy = slot->is_done = false;
	/* The line is short, and the client waits for it, so the socket has room for it. */
	if (leaves && !r && !vublk_control_client_flush(&slot->client))
		return -ENOTCONN;
	return r;
}

static int handle_line(struct vublk_control *control, struct slot *slot, const char *line,
		       size_t bytes)
{
	struct vublk_control_task *task = &slot->task;
	int r = vublk_control_request_parse(line, bytes, &slot->request, &task->error);

	if (!r)
		return 0;
	task->result = r < 0 ? r : prepare_task(control, slot);
	if (!task->result && task->command->run) {
		task->client_pid = slot->client.pid;
		slot->is_busy = true;
		/*
		 * This call gives the task to the owner's thread, which may already have run it
		 * when the call returns.
		 */
		r = vublk_control_tasks_post(&control->tasks, task);
		if (!r)
			return 0;
		task->result = r;
	}
	return answer_task(control, slot);
}

static int refuse_long_line(struct slot *slot)
{
	struct vublk_control_request request = { .id = NULL };
	struct vublk_error error;

	vublk_cli_error(&error, EMSGSIZE, "the line is longer than %d bytes, so it was skipped",
			VUBLK_CONTROL_LINE_BYTES);
	return vublk_control_client_put(&slot->client, vublk_control_error_line(&request, &error));
}

/* --- clients ------------------------------------------------------------------------ */

static void close_client(struct slot *slot)
{
	vublk_control_client_close(&slot->client);
	slot->next_event = 0;
}

/* Returns whether the client's next line may be handled. */
static bool is_ready(const struct slot *slot)
{
	return !slot->is_busy && vublk_control_client_is_flushed(&slot->client);
}

/*
 * Handles the client's lines until no complete line is left, the client's task is busy, or its
 * output has not been sent yet. Returns a negative errno if the client has to be closed.
 */
static int handle_lines(struct vublk_control *control, struct slot *slot)
{
	const char *line;
	size_t bytes;
	int r = 0;

	while (!r && is_ready(slot)) {
		int found = vublk_control_client_next_line(&slot->client, &line, &bytes);

		if (!found)
			return slot->client.is_eof && !slot->next_event ? -ENOTCONN : 0;
		r = found < 0 ? refuse_long_line(slot) : handle_line(control, slot, line, bytes);
		if (!r)
			r = vublk_control_client_flush(&slot->client);
	}
	return r;
}

/*
 * Sends events to a client that has asked for them, until there are no more or the socket is full.
 * Returns a negative errno if the client has to be closed.
 */
static int send_events(struct vublk_control *control, struct slot *slot)
{
	int r = 0;

	while (!r && slot->next_event && is_ready(slot)) {
		char *line = vublk_control_events_take(control->events, &slot->next_event);

		if (!line)
			return 0;
		r = vublk_control_client_put(&slot->client, line);
		if (!r)
			r = vublk_control_client_flush(&slot->client);
	}
	return r;
}

static void send_events_to_all(struct vublk_control *control)
{
	for (unsigned i = 0; i < MAX_CLIENTS; i++)
		if (control->slots[i].client.fd >= 0 && send_events(control, &control->slots[i]))
			close_client(&control->slots[i]);
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
	if (!r)
		r = send_events(control, slot);
	if (r)
		close_client(slot);
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
	for_each_command(c, control)
		json_object_array_add(names, json_object_new_string(c->name));
	json_object_object_add(greeting, "vublk", json_object_new_string(vublk_version()));
	json_object_object_add(greeting, "protocol",
			       json_object_new_int(VUBLK_CONTROL_PROTOCOL));
	json_object_object_add(greeting, "role", json_object_new_string(control->role));
	json_object_object_add(greeting, "pid", json_object_new_int(getpid()));
	json_object_object_add(greeting, "commands", names);
	return vublk_control_client_put(&slot->client, vublk_control_line(greeting));
}

/*
 * Returns a free slot, or NULL. The slot of a client that has disconnected is not free until its
 * task has been answered.
 */
static struct slot *find_free_slot(struct vublk_control *control)
{
	for (unsigned i = 0; i < MAX_CLIENTS; i++)
		if (control->slots[i].client.fd < 0 && !control->slots[i].is_busy)
			return &control->slots[i];
	return NULL;
}

/*
 * Tells a client that too many clients are connected, and closes the connection. If the socket has
 * no room for the line, the line is dropped, because the control thread must not wait for a client.
 */
static void refuse_client(int fd)
{
	struct vublk_control_request request = { .id = NULL };
	struct vublk_error error;
	char *line;

	vublk_cli_error(&error, EBUSY, "all %d control connections are in use; disconnect another "
			"client", MAX_CLIENTS);
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
		close_client(slot);
	else
		serve_client(control, slot, 0);
}

/* --- the control thread ------------------------------------------------------------------ */

/*
 * Answers the tasks that are done, and sends new events. Returns false if the control thread has to
 * end.
 */
static bool take_done(struct vublk_control *control)
{
	bool is_done[MAX_CLIENTS], quits;

	vublk_control_clear(control->control_fd);
	pthread_mutex_lock(&control->lock);
	quits = control->quits;
	for (unsigned i = 0; i < MAX_CLIENTS; i++)
		is_done[i] = control->slots[i].is_done;
	pthread_mutex_unlock(&control->lock);
	for (unsigned i = 0; i < MAX_CLIENTS; i++) {
		struct slot *slot = &control->slots[i];

		/* Before the thread ends, it sends the answers for which the sockets have room. */
		if (is_done[i] && (answer_task(control, slot) ||
				   (quits && vublk_control_client_flush(&slot->client))))
			close_client(slot);
	}
	send_events_to_all(control);
	return !quits;
}

static short wanted_events(const struct slot *slot)
{
	if (!vublk_control_client_is_flushed(&slot->client))
		return POLLOUT;
	return is_ready(slot) && !slot->client.is_eof ? POLLIN : 0;
}

#define FIRST_CLIENT 2 /* the index of the first client in the array of pollfd */

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

/* Starts the control thread with signals blocked, so that the owner's thread handles them. */
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
		  struct vublk_upgrade_extra *extra, struct vublk_error *error)
{
	int r;

	control->control_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (control->control_fd < 0)
		return vublk_cli_error_errno(error, errno, "cannot create an eventfd");
	r = vublk_control_tasks_init(&control->tasks, control->owner, error);
	if (r)
		return r;
	control->tasks.runs = on_command;
	control->tasks.opaque = control;
	if (!path && !extra)
		return 0;
	r = extra ? vublk_control_socket_adopt(&control->listener, extra, error) :
		    vublk_control_socket_listen(path, mode, &control->listener, error);
	return r ? r : start_thread(control, error);
}

static void init_slot(struct vublk_control *control, struct slot *slot)
{
	slot->control = control;
	slot->client.fd = -1;
	slot->task.done = on_task_done;
	slot->task.opaque = slot;
}

/*
 * Creates a control socket that listens at `path`, or that uses the socket in `extra`. If both are
 * NULL, there is no socket and no control thread.
 */
static int open_control(const char *path, mode_t mode, struct vublk_upgrade_extra *extra,
			const char *role, const struct vublk_control_command *commands, void *owner,
			struct vublk_control **result, struct vublk_error *error)
{
	struct vublk_control *control = calloc(1, sizeof(*control));
	int r;

	if (!control)
		return vublk_cli_error(error, ENOMEM, "cannot allocate memory for the control "
				       "socket");
	control->role = role;
	control->commands = commands;
	control->owner = owner;
	control->listener.fd = control->control_fd = control->tasks.fd = -1;
	control->events = vublk_control_events_new();
	pthread_mutex_init(&control->lock, NULL);
	for (unsigned i = 0; i < MAX_CLIENTS; i++)
		init_slot(control, &control->slots[i]);
	r = control->events ? set_up(control, path, mode, extra, error) :
			      vublk_cli_error(error, ENOMEM, "cannot allocate memory for the "
					      "control socket");
	if (r) {
		vublk_control_close(control);
		return r;
	}
	*result = control;
	return 0;
}

int vublk_control_open(const char *path, mode_t mode, const char *role,
		       const struct vublk_control_command *commands, void *owner,
		       struct vublk_control **control, struct vublk_error *error)
{
	return open_control(path, mode, NULL, role, commands, owner, control, error);
}

int vublk_control_adopt(struct vublk_upgrade_extra *extra, const char *role,
			const struct vublk_control_command *commands, void *owner,
			struct vublk_control **control, struct vublk_error *error)
{
	return open_control(NULL, 0, extra, role, commands, owner, control, error);
}

void vublk_control_disown(struct vublk_control *control)
{
	if (control)
		vublk_control_socket_disown(&control->listener);
}

struct json_object *vublk_control_ask(struct vublk_control *control, const char *command,
				      unsigned timeout_ms, struct vublk_error *error)
{
	return vublk_control_ask_tasks(&control->tasks, find_command(control, command), timeout_ms,
				       error);
}

static void end_thread(struct vublk_control *control)
{
	if (!control->has_thread)
		return;
	pthread_mutex_lock(&control->lock);
	control->quits = true;
	pthread_mutex_unlock(&control->lock);
	vublk_control_wake(control->control_fd);
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
		vublk_control_request_deinit(&slot->request);
		free(slot->task.copy);
	}
	if (control->control_fd >= 0)
		close(control->control_fd);
	vublk_control_tasks_deinit(&control->tasks);
	vublk_control_events_free(control->events);
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
