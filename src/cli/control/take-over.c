/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Asks a running process for its disk; see take-over.h.
 *
 * Key idea: after the line of the answer, the connection carries another protocol. So this file
 * reads lines byte by byte, to stop exactly at the end of the answer.
 */
#include "cli/control/take-over.h"

#include "cli/cli.h"
#include "cli/control/request.h"
#include "cli/control/socket.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TIMEOUT_MS 10000
#define MAX_LINE_BYTES 4096

/* Receives a line and parses it. The caller must free `object`. */
static int receive_line(int fd, const char *path, struct json_object **object,
			struct vublk_error *error)
{
	uint64_t deadline_ns = vublk_control_deadline(TIMEOUT_MS);
	char line[MAX_LINE_BYTES];
	struct vublk_error cause;
	size_t bytes = 0;

	do {
		ssize_t n = bytes < sizeof(line) ?
			    vublk_control_socket_receive(fd, line + bytes, 1, deadline_ns) : 0;

		if (n == -ETIMEDOUT)
			return vublk_cli_error(error, ETIMEDOUT, "the process at the control socket "
					       "did not answer in time");
		if (n <= 0)
			return vublk_cli_error(error, n < 0 ? (int)-n : EPROTO, "the process closed "
					       "the connection, so '%s' is probably not a control "
					       "socket; pass the path that was given to the other "
					       "process as --control", path);
		bytes++;
	} while (line[bytes - 1] != '\n');
	if (vublk_control_parse(line, bytes - 1, VUBLK_CONTROL_ANSWER_DEPTH, object, &cause) < 0)
		return vublk_cli_error(error, EPROTO, "the process at the control socket sent a line that "
				       "cannot be used (%s); it is not vublk", cause.text);
	if (json_object_is_type(*object, json_type_object))
		return 0;
	json_object_put(*object);
	return vublk_cli_error(error, EPROTO, "the process at the control socket sent a line that "
			       "is not a JSON object; it is not vublk");
}

/* Returns -EIO with the server's message if `line` is an error, otherwise 0. */
static int check_error(struct json_object *line, struct vublk_error *error)
{
	struct json_object *member = NULL;

	if (!json_object_object_get_ex(line, "error", &member))
		return 0;
	return vublk_cli_error(error, EIO, "%s", vublk_control_error_message(member));
}

static bool has_upgrade(struct json_object *greeting)
{
	struct json_object *commands = NULL;
	size_t count = 0;

	if (json_object_object_get_ex(greeting, "commands", &commands) &&
	    json_object_is_type(commands, json_type_array))
		count = json_object_array_length(commands);
	for (size_t i = 0; i < count; i++) {
		const char *name =
			json_object_get_string(json_object_array_get_idx(commands, i));

		if (name && !strcmp(name, "upgrade"))
			return true;
	}
	return false;
}

static int check_greeting(struct json_object *greeting, const char *role,
			  struct vublk_error *error)
{
	struct json_object *member = NULL;
	const char *theirs = NULL;
	int r = check_error(greeting, error);

	if (r < 0)
		return r;
	if (json_object_object_get_ex(greeting, "role", &member))
		theirs = json_object_get_string(member);
	if (!theirs || strcmp(theirs, role))
		return vublk_cli_error(error, EPROTO, "the control socket belongs to %s%s, not to "
				       "vublk %s",
				       theirs ? "vublk " : "another program", theirs ? theirs : "",
				       role);
	if (has_upgrade(greeting))
		return 0;
	return vublk_cli_error(error, EPROTO, "the process at the control socket has a version "
			       "that cannot hand over its disk; stop it, and start this one "
			       "without --take-over");
}

static int send_request(int fd, struct vublk_error *error)
{
	static const char request[] = "{\"command\":\"upgrade\"}\n";

	if (send(fd, request, sizeof(request) - 1, MSG_NOSIGNAL) == sizeof(request) - 1)
		return 0;
	return vublk_cli_error_errno(error, errno, "cannot send to the control socket");
}

static int ask(int fd, const char *path, const char *role, struct vublk_error *error)
{
	struct json_object *line = NULL;
	int r = receive_line(fd, path, &line, error);

	if (!r) {
		r = check_greeting(line, role, error);
		json_object_put(line);
	}
	if (!r)
		r = send_request(fd, error);
	if (!r)
		r = receive_line(fd, path, &line, error);
	if (r < 0)
		return r;
	r = check_error(line, error);
	json_object_put(line);
	return r;
}

int vublk_control_ask_for_upgrade(const char *path, const char *role, struct vublk_error *error)
{
	int fd = vublk_control_socket_connect(path, TIMEOUT_MS, error);
	int r;

	if (fd < 0)
		return fd;
	r = ask(fd, path, role, error);
	if (!r)
		return fd;
	close(fd);
	return r;
}
