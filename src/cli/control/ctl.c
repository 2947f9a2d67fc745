/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vublk ctl: sends one command to a control socket (docs/control.md) and prints the answer.
 *
 * Key idea: this client knows the protocol but not the commands (except `trace`), so it works with
 * servers of any version. The server refuses commands that it does not know.
 */
#include "cli/cli.h"
#include "cli/control/ctl-trace.h"
#include "cli/control/request.h"
#include "cli/control/socket.h"
#include "cli/text.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define COMMAND "ctl"
#define DEFAULT_TIMEOUT_MS 15000
#define GREETING_MS 3000 /* without --timeout; the greeting does not wait for the disk */
#define DEFAULT_WATCH_MS 1000
#define MAX_LINE_BYTES (UINT64_C(64) << 20)
#define FIRST_ROOM_BYTES 4096

struct arguments {
	const char *socket;
	const char *command;
	struct json_object *values; /* the arguments; NULL: there are none */
	unsigned timeout_ms; /* 0: the default */
	unsigned watch_ms; /* the pause before the command is sent again; 0: the command is sent
			      once */
	struct vublk_ctl_trace_options trace;
	bool has_trace_options;
};

enum key {
	KEY_TIMEOUT = 256,
	KEY_WATCH,
	KEY_FORMAT,
	KEY_MAX,
};

static const struct argp_option argp_options[] = {
	{ "timeout", KEY_TIMEOUT, "TIME", 0,
	  "Time limit for the greeting of the process (default: 3s) and for its answer (default: 15s), "
	  "in seconds or with a suffix ms, s, m or h" },
	{ "watch", KEY_WATCH, "TIME", OPTION_ARG_OPTIONAL,
	  "Send the command again every TIME (default: 1s), until it fails" },
	{ NULL, 0, NULL, 0, "Options of the command trace:", 1 },
	{ "format", KEY_FORMAT, "text|json|pcapng", 0, "Format of the records (default: text)", 1 },
	{ "max", KEY_MAX, "N", 0, "End after N requests (default: on a signal)", 1 },
	{ "output", 'o', "FILE", 0, "Write to FILE (default: standard output)", 1 },
	{ 0 },
};

/* --- arguments ---------------------------------------------------------------------- */

/*
 * Returns the JSON value for an argument: the value of `text` if the text is valid JSON, otherwise
 * a string.
 */
static struct json_object *value_of(const char *text)
{
	struct json_tokener *tokener = json_tokener_new();
	size_t bytes = strlen(text);
	struct json_object *value = NULL;

	if (tokener && bytes < INT_MAX)
		value = json_tokener_parse_ex(tokener, text, (int)bytes + 1);
	if (value && json_tokener_get_parse_end(tokener) < bytes) { /* "10M" begins like a number */
		json_object_put(value);
		value = NULL;
	}
	if (tokener)
		json_tokener_free(tokener);
	return value ? value : json_object_new_string(text);
}

/* Adds an argument NAME=VALUE or NAME of the command. A NAME alone has the value true. */
static void add_value(struct argp_state *state, struct arguments *arguments, const char *pair)
{
	const char *end = strchrnul(pair, '=');
	char name[VUBLK_CONTROL_NAME_BYTES];

	if (end == pair || (size_t)(end - pair) >= sizeof(name))
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "an argument of a command must be "
			     "NAME or NAME=VALUE, with a NAME of 1 to %zu bytes, not '%s'",
			     sizeof(name) - 1, pair);
	snprintf(name, sizeof(name), "%.*s", (int)(end - pair), pair);
	if (!arguments->values)
		arguments->values = json_object_new_object();
	if (json_object_object_get_ex(arguments->values, name, NULL))
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "the argument '%s' is given twice", name);
	json_object_object_add(arguments->values, name,
			       *end ? value_of(end + 1) : json_object_new_boolean(1));
}

/*
 * Returns whether to run a trace, which needs repeated requests for records. With arguments, the
 * command `trace` is sent once, like any other command.
 */
static bool is_trace(const struct arguments *arguments)
{
	return !strcmp(arguments->command, "trace") && !arguments->values;
}

static void check(struct argp_state *state, const struct arguments *arguments)
{
	if (!arguments->command)
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "the path of a control socket or a "
			     "command such as 'status' is missing; see --help");
	if (!strcmp(arguments->command, "upgrade"))
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "the command upgrade is sent by the "
			     "process that takes over; start that process with --take-over PATH "
			     "(see 'vublk device --help' or 'vublk serve --help')");
	if (arguments->has_trace_options && !is_trace(arguments))
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "--format, --max and --output can be "
			     "used only with the command 'trace', and only if no other "
			     "argument follows it");
	if (arguments->watch_ms && is_trace(arguments))
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "--watch cannot be used with the "
			     "command trace, which prints requests until a signal ends it");
	if (arguments->trace.format && !vublk_ctl_trace_has_format(arguments->trace.format))
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "--format must be text, json or pcapng, "
			     "not '%s'", arguments->trace.format);
}

static error_t parse(int key, char *value, struct argp_state *state)
{
	struct arguments *arguments = state->input;

	switch (key) {
	case KEY_TIMEOUT:
		arguments->timeout_ms = vublk_cli_stall_ms(state, "timeout", value);
		break;
	case KEY_WATCH:
		arguments->watch_ms = value ? vublk_cli_stall_ms(state, "watch", value) :
					      DEFAULT_WATCH_MS;
		break;
	case KEY_FORMAT:
		arguments->trace.format = value;
		arguments->has_trace_options = true;
		break;
	case KEY_MAX:
		arguments->trace.max = vublk_cli_number(state, "max", value, 1, UINT64_MAX);
		arguments->has_trace_options = true;
		break;
	case 'o':
		arguments->trace.output = value;
		arguments->has_trace_options = true;
		break;
	case ARGP_KEY_ARG:
		if (!arguments->socket)
			arguments->socket = value;
		else if (!arguments->command)
			arguments->command = value;
		else
			add_value(state, arguments, value);
		break;
	case ARGP_KEY_END:
		check(state, arguments);
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static const struct argp argp = {
	.options = argp_options,
	.parser = parse,
	.args_doc = "SOCKET COMMAND [NAME[=VALUE]...]",
	.doc = "Send a command to the control socket of vublk serve or vublk device, and print its "
	       "result as JSON.\vEach control socket supports the command 'status'; the answer to "
	       "an unknown command lists the commands that are supported.",
};

/* --- lines --------------------------------------------------------------------------- */

struct connection {
	const char *path;
	int fd;
	char *data;
	size_t bytes, room, line_bytes;
	unsigned greeting_ms, timeout_ms; /* the time limits of the greeting and of each answer */
	uint64_t deadline_ns; /* of the current line */
	bool is_greeted;
};

static int grow(struct connection *connection, struct vublk_error *error)
{
	size_t room = connection->room ? 2 * connection->room : FIRST_ROOM_BYTES;
	char *data;

	if (connection->bytes < connection->room)
		return 0;
	data = room <= MAX_LINE_BYTES ? realloc(connection->data, room) : NULL;
	if (!data)
		return vublk_cli_error(error, ENOMEM, "cannot store an answer of more than %zu "
				       "bytes; the limit is %zu bytes, or less if memory is short",
				       connection->room, (size_t)MAX_LINE_BYTES);
	connection->data = data;
	connection->room = room;
	return 0;
}

static int closed(const struct connection *connection, struct vublk_error *error)
{
	if (!connection->is_greeted)
		return vublk_cli_error(error, ENOTCONN, "the process at '%s' closed the connection "
				       "without a greeting, so this is probably not a control "
				       "socket; pass the path that was given to vublk as --control",
				       connection->path);
	return vublk_cli_error(error, ENOTCONN, "the process at '%s' closed the connection; it may "
			       "have ended", connection->path);
}

static int receive_more(struct connection *connection, struct vublk_error *error)
{
	ssize_t n;
	int r = grow(connection, error);

	if (r)
		return r;
	n = vublk_control_socket_receive(connection->fd, connection->data + connection->bytes,
					 connection->room - connection->bytes,
					 connection->deadline_ns);
	if (n > 0) {
		connection->bytes += (size_t)n;
		return 0;
	}
	if (!n || n == -ECONNRESET)
		return closed(connection, error);
	if (n == -ETIMEDOUT && connection->is_greeted)
		return vublk_cli_error(error, ETIMEDOUT, "the process at '%s' has not answered within "
				       "%u ms; it may still carry out the command, so look at its "
				       "status, or raise --timeout",
				       connection->path, connection->timeout_ms);
	if (n == -ETIMEDOUT)
		return vublk_cli_error(error, ETIMEDOUT, "the process at '%s' sent no greeting "
				       "within %u ms; either this is not a control socket (pass "
				       "the path that was given to vublk as --control), or the "
				       "process hangs, or --timeout is too short",
				       connection->path, connection->greeting_ms);
	return vublk_cli_error_errno(error, (int)-n, "cannot read from the control socket '%s'",
				     connection->path);
}

/*
 * Returns the first newline in the received bytes, or NULL. The buffer is NULL before the first
 * bytes arrive.
 */
static char *find_newline(const struct connection *connection)
{
	return connection->bytes ? memchr(connection->data, '\n', connection->bytes) : NULL;
}

static void drop_line(struct connection *connection)
{
	connection->bytes -= connection->line_bytes;
	if (connection->bytes)
		memmove(connection->data, connection->data + connection->line_bytes,
			connection->bytes);
	connection->line_bytes = 0;
}

/* Receives and parses the next line. The caller must free `object`. */
static int receive_line(struct connection *connection, struct json_object **object,
			struct vublk_error *error)
{
	struct vublk_error cause;
	char *end;
	int r;

	drop_line(connection);
	while (!(end = find_newline(connection))) {
		r = receive_more(connection, error);
		if (r)
			return r;
	}
	connection->line_bytes = (size_t)(end - connection->data) + 1;
	if (vublk_control_parse(connection->data, connection->line_bytes - 1,
				VUBLK_CONTROL_ANSWER_DEPTH, object, &cause) < 0)
		return vublk_cli_error(error, EPROTO, "the process at '%s' sent a line that cannot be "
				       "used (%s); this is not a control socket", connection->path,
				       cause.text);
	if (json_object_is_type(*object, json_type_object))
		return 0;
	json_object_put(*object);
	return vublk_cli_error(error, EPROTO, "the process at '%s' sent a line that is not a JSON "
			       "object; this is not a control socket", connection->path);
}

static int check_greeting(struct connection *connection, struct vublk_error *error)
{
	struct json_object *greeting, *member;
	int64_t protocol = 0;
	int r;

	connection->deadline_ns = vublk_control_deadline(connection->greeting_ms);
	r = receive_line(connection, &greeting, error);
	if (r)
		return r;
	if (json_object_object_get_ex(greeting, "error", &member)) {
		vublk_cli_error(error, EBUSY, "%s", vublk_control_error_message(member));
		json_object_put(greeting);
		return -EBUSY;
	}
	if (json_object_object_get_ex(greeting, "protocol", &member))
		protocol = json_object_get_int64(member);
	json_object_put(greeting);
	connection->is_greeted = true;
	if (protocol == VUBLK_CONTROL_PROTOCOL)
		return 0;
	return vublk_cli_error(error, EPROTO, "the process at '%s' does not support version %d of "
			       "the control protocol; use the vublk program that it was started from", connection->path, VUBLK_CONTROL_PROTOCOL);
}

static int send_line(struct connection *connection, char *line, struct vublk_error *error)
{
	size_t bytes = line ? strlen(line) : 0;
	ssize_t n = line ? send(connection->fd, line, bytes, MSG_NOSIGNAL) : -1;
	int code = line ? errno : ENOMEM;

	free(line);
	if (n == (ssize_t)bytes)
		return 0;
	if (n < 0 && (code == EPIPE || code == ECONNRESET))
		return closed(connection, error);
	return vublk_cli_error_errno(error, n < 0 ? code : EMSGSIZE,
				     "cannot send to the control socket '%s'", connection->path);
}

static int send_request(struct connection *connection, const char *command,
			struct json_object *values, struct vublk_error *error)
{
	struct json_object *request = json_object_new_object();

	json_object_object_add(request, "command", json_object_new_string(command));
	if (values)
		json_object_object_add(request, "arguments", json_object_get(values));
	connection->deadline_ns = vublk_control_deadline(connection->timeout_ms);
	return send_line(connection, vublk_control_line(request), error);
}

/* --- the command --------------------------------------------------------------------- */

/*
 * Prints the result of a command as JSON. If the result has a content type, like that of `metrics`,
 * prints the lines of its text instead.
 */
static void print_result(struct json_object *result)
{
	struct json_object *text;

	if (json_object_object_get_ex(result, "content_type", NULL) &&
	    json_object_object_get_ex(result, "text", &text) &&
	    json_object_is_type(text, json_type_string))
		vublk_cli_put_lines(stdout, json_object_get_string(text));
	else
		vublk_cli_put_json(stdout, json_object_to_json_string_ext(result,
			JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED |
			JSON_C_TO_STRING_NOSLASHESCAPE));
}

static bool is_stream(struct json_object *result)
{
	struct json_object *value;

	return json_object_object_get_ex(result, "stream", &value) && json_object_get_boolean(value);
}

/*
 * Prints each further object as one line of JSON, until the connection ends or printing fails.
 * Returns a negative errno.
 */
static int print_stream(struct connection *connection, struct vublk_error *error)
{
	struct json_object *object;
	int r;

	connection->deadline_ns = UINT64_MAX;
	while (!(r = receive_line(connection, &object, error))) {
		vublk_cli_put_json(stdout, json_object_to_json_string_ext(object,
			JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
		json_object_put(object);
		if (fflush(stdout))
			return vublk_cli_error_errno(error, errno, "cannot print an event");
	}
	return r;
}

/*
 * Receives an answer. Stores the result in `result`; the caller must free it. Returns 0, -EIO if
 * the server answers with an error, or another negative errno.
 */
static int receive_result(struct connection *connection, struct json_object **result,
			  struct vublk_error *error)
{
	struct json_object *answer, *value;
	int r = receive_line(connection, &answer, error);

	if (r)
		return r;
	if (json_object_object_get_ex(answer, "result", &value)) {
		*result = json_object_get(value);
	} else if (json_object_object_get_ex(answer, "error", &value)) {
		r = vublk_cli_error(error, EIO, "%s", vublk_control_error_message(value));
	} else {
		r = vublk_cli_error(error, EPROTO, "the process at '%s' sent an answer that has "
				    "neither a result nor an error", connection->path);
	}
	json_object_put(answer);
	return r;
}

static int print_answer(struct connection *connection, struct vublk_error *error)
{
	struct json_object *result;
	int r = receive_result(connection, &result, error);

	if (r)
		return r;
	if (is_stream(result))
		r = print_stream(connection, error);
	else
		print_result(result);
	json_object_put(result);
	return r;
}

static int ask_trace(void *opaque, struct json_object *arguments, struct json_object **result,
		     struct vublk_error *error)
{
	int r = send_request(opaque, "trace", arguments, error);

	json_object_put(arguments);
	return r ? r : receive_result(opaque, result, error);
}

static int talk(struct connection *connection, const struct arguments *arguments,
		struct vublk_error *error)
{
	struct timespec pause = {
		arguments->watch_ms / 1000, arguments->watch_ms % 1000 * 1000000,
	};
	int r = check_greeting(connection, error);

	if (!r && is_trace(arguments))
		return vublk_ctl_trace(ask_trace, connection, &arguments->trace, error);
	while (!r) {
		r = send_request(connection, arguments->command, arguments->values, error);
		if (!r)
			r = print_answer(connection, error);
		if (!r && fflush(stdout))
			return vublk_cli_error_errno(error, errno, "cannot print the result");
		if (!arguments->watch_ms)
			break;
		if (!r)
			nanosleep(&pause, NULL);
	}
	return r;
}

int vublk_cmd_ctl(int argc, char **argv)
{
	struct arguments arguments = { 0 };
	struct connection connection = { .fd = -1 };
	struct vublk_error error = { 0 };
	int r;

	vublk_cli_parse(&argp, argc, argv, &arguments);
	connection.path = arguments.socket;
	connection.timeout_ms = arguments.timeout_ms ? arguments.timeout_ms : DEFAULT_TIMEOUT_MS;
	connection.greeting_ms = arguments.timeout_ms ? arguments.timeout_ms : GREETING_MS;
	connection.fd = vublk_control_socket_connect(arguments.socket, connection.timeout_ms, &error);
	r = connection.fd < 0 ? connection.fd : talk(&connection, &arguments, &error);
	if (r)
		vublk_cli_fail(COMMAND, "%s", error.text);
	if (connection.fd >= 0)
		close(connection.fd);
	free(connection.data);
	json_object_put(arguments.values);
	return r ? VUBLK_EXIT_FAILED : VUBLK_EXIT_DONE;
}
