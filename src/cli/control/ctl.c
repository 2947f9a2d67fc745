/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vublk ctl: sends one command to a control socket (docs/control.md) and prints the answer.
 *
 * Key idea: this client knows the protocol but not the commands, so it works with the commands of
 * any version. The server refuses commands that it does not know.
 */
#include "cli/cli.h"
#include "cli/control/request.h"
#include "cli/control/socket.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define COMMAND "ctl"
#define DEFAULT_TIMEOUT_MS 15000
#define MAX_LINE_BYTES (UINT64_C(64) << 20)
#define FIRST_ROOM_BYTES 4096

struct arguments {
	const char *socket;
	const char *command;
	struct json_object *values; /* NULL: none */
	unsigned timeout_ms;
};

enum key {
	KEY_TIMEOUT = 256,
};

static const struct argp_option argp_options[] = {
	{ "timeout", KEY_TIMEOUT, "TIME", 0,
	  "Time limit for the answer, in seconds or with ms, s, m, h (default: 15s)" },
	{ 0 },
};

/* --- arguments ---------------------------------------------------------------------- */

/* A value that is JSON is sent as it is, and any other as a string. */
static struct json_object *value_of(const char *text)
{
	struct json_object *value = json_tokener_parse(text);

	return value ? value : json_object_new_string(text);
}

static void add_value(struct argp_state *state, struct arguments *arguments, const char *pair)
{
	const char *end = strchr(pair, '=');
	char name[VUBLK_CONTROL_NAME_BYTES];

	if (!end || end == pair || (size_t)(end - pair) >= sizeof(name))
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "an argument of a command must be "
			     "NAME=VALUE, not '%s'", pair);
	snprintf(name, sizeof(name), "%.*s", (int)(end - pair), pair);
	if (!arguments->values)
		arguments->values = json_object_new_object();
	json_object_object_add(arguments->values, name, value_of(end + 1));
}

static error_t parse(int key, char *value, struct argp_state *state)
{
	struct arguments *arguments = state->input;

	switch (key) {
	case KEY_TIMEOUT:
		arguments->timeout_ms = vublk_cli_stall_ms(state, "--timeout", value);
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
		if (!arguments->command)
			argp_failure(state, VUBLK_EXIT_MISUSED, 0, "give the path of a control socket "
				     "and a command, such as 'status', see --help");
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static const struct argp argp = {
	.options = argp_options,
	.parser = parse,
	.args_doc = "SOCKET COMMAND [NAME=VALUE...]",
	.doc = "Send a command to the control socket of vublk serve or vublk device, and print its "
	       "result as JSON.\v"
	       "The command 'status' is known to each control socket; an unknown command is "
	       "answered with the list of those that are known.",
};

/* --- lines --------------------------------------------------------------------------- */

struct connection {
	const char *path;
	int fd;
	char *data;
	size_t bytes, room, line_bytes;
};

static int grow(struct connection *connection, struct vublk_error *error)
{
	size_t room = connection->room ? 2 * connection->room : FIRST_ROOM_BYTES;
	char *data;

	if (connection->bytes < connection->room)
		return 0;
	data = room <= MAX_LINE_BYTES ? realloc(connection->data, room) : NULL;
	if (!data)
		return vublk_cli_error(error, ENOMEM, "no memory for an answer of %zu bytes", room);
	connection->data = data;
	connection->room = room;
	return 0;
}

static int receive_more(struct connection *connection, struct vublk_error *error)
{
	ssize_t n;
	int r = grow(connection, error);

	if (r)
		return r;
	do
		n = recv(connection->fd, connection->data + connection->bytes,
			 connection->room - connection->bytes, 0);
	while (n < 0 && errno == EINTR);
	if (n > 0) {
		connection->bytes += (size_t)n;
		return 0;
	}
	if (!n)
		return vublk_cli_error(error, ENOTCONN, "the process at '%s' closed the connection; it "
				       "may have ended", connection->path);
	if (errno == EAGAIN)
		return vublk_cli_error(error, ETIMEDOUT, "the process at '%s' does not answer in time; "
				       "it hangs, or this is not a control socket", connection->path);
	return vublk_cli_error_errno(error, errno, "cannot read from the control socket '%s'",
				     connection->path);
}

/* Parses the next line; the object is the caller's. */
static int receive_line(struct connection *connection, struct json_object **object,
			struct vublk_error *error)
{
	char *end;
	int r;

	connection->bytes -= connection->line_bytes;
	memmove(connection->data, connection->data + connection->line_bytes, connection->bytes);
	connection->line_bytes = 0;
	while (!(end = memchr(connection->data, '\n', connection->bytes))) {
		r = receive_more(connection, error);
		if (r)
			return r;
	}
	*end = '\0';
	connection->line_bytes = (size_t)(end - connection->data) + 1;
	*object = json_tokener_parse(connection->data);
	if (json_object_is_type(*object, json_type_object))
		return 0;
	json_object_put(*object);
	return vublk_cli_error(error, EPROTO, "the process at '%s' sent a line that is not a JSON "
			       "object; it is not a control socket", connection->path);
}

static int check_greeting(struct connection *connection, struct vublk_error *error)
{
	struct json_object *greeting, *member;
	int64_t protocol = 0;
	int r = receive_line(connection, &greeting, error);

	if (r)
		return r;
	if (json_object_object_get_ex(greeting, "error", &member)) {
		json_object_object_get_ex(member, "message", &member);
		vublk_cli_error(error, EBUSY, "%s", json_object_get_string(member));
		json_object_put(greeting);
		return -EBUSY;
	}
	if (json_object_object_get_ex(greeting, "protocol", &member))
		protocol = json_object_get_int64(member);
	json_object_put(greeting);
	if (protocol == VUBLK_CONTROL_PROTOCOL)
		return 0;
	return vublk_cli_error(error, EPROTO, "the process at '%s' does not speak version %d of the "
			       "control protocol", connection->path, VUBLK_CONTROL_PROTOCOL);
}

static int send_line(struct connection *connection, char *line, struct vublk_error *error)
{
	size_t bytes = line ? strlen(line) : 0;
	ssize_t n = line ? send(connection->fd, line, bytes, MSG_NOSIGNAL) : -1;
	int code = line ? errno : ENOMEM;

	free(line);
	if (n == (ssize_t)bytes)
		return 0;
	return vublk_cli_error_errno(error, n < 0 ? code : EMSGSIZE,
				     "cannot send to the control socket '%s'", connection->path);
}

static int send_request(struct connection *connection, const struct arguments *arguments,
			struct vublk_error *error)
{
	struct json_object *request = json_object_new_object();

	json_object_object_add(request, "command", json_object_new_string(arguments->command));
	if (arguments->values)
		json_object_object_add(request, "arguments", json_object_get(arguments->values));
	return send_line(connection, vublk_control_line(request), error);
}

/* --- the command --------------------------------------------------------------------- */

/* A result with a content type (metrics) is text for a program, and is printed as it is. */
static void print_result(struct json_object *result)
{
	struct json_object *text;

	if (json_object_object_get_ex(result, "content_type", NULL) &&
	    json_object_object_get_ex(result, "text", &text))
		fputs(json_object_get_string(text), stdout);
	else
		puts(json_object_to_json_string_ext(result, JSON_C_TO_STRING_PRETTY |
			JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE));
}

/* Returns 0, or the negative errno of an error that the server answered or that occurred here. */
static int print_answer(struct connection *connection, struct vublk_error *error)
{
	struct json_object *answer, *value;
	int r = receive_line(connection, &answer, error);

	if (r)
		return r;
	if (json_object_object_get_ex(answer, "result", &value)) {
		print_result(value);
	} else if (json_object_object_get_ex(answer, "error", &value) &&
		   json_object_object_get_ex(value, "message", &value)) {
		r = vublk_cli_error(error, EIO, "%s", json_object_get_string(value));
	} else {
		r = vublk_cli_error(error, EPROTO, "the process at '%s' sent an answer with neither a "
				    "result nor an error", connection->path);
	}
	json_object_put(answer);
	return r;
}

static int talk(struct connection *connection, const struct arguments *arguments,
		struct vublk_error *error)
{
	int r = check_greeting(connection, error);

	if (!r)
		r = send_request(connection, arguments, error);
	return r ? r : print_answer(connection, error);
}

int vublk_cmd_ctl(int argc, char **argv)
{
	struct arguments arguments = { .timeout_ms = DEFAULT_TIMEOUT_MS };
	struct connection connection = { .fd = -1 };
	struct vublk_error error = { 0 };
	int r;

	vublk_cli_parse(&argp, argc, argv, &arguments);
	connection.path = arguments.socket;
	connection.fd = vublk_control_socket_connect(arguments.socket, arguments.timeout_ms, &error);
	r = connection.fd < 0 ? connection.fd : talk(&connection, &arguments, &error);
	if (r)
		vublk_cli_fail(COMMAND, "%s", error.text);
	if (connection.fd >= 0)
		close(connection.fd);
	free(connection.data);
	json_object_put(arguments.values);
	return r ? VUBLK_EXIT_FAILED : VUBLK_EXIT_DONE;
}
