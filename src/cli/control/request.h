/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_REQUEST_H
#define VUBLK_CLI_CONTROL_REQUEST_H

/* Lines of the control protocol (docs/control.md): parses requests and makes answers. */

#include <vublk/error.h>

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>

#define VUBLK_CONTROL_PROTOCOL 1
#define VUBLK_CONTROL_LINE_BYTES 2048 /* of a request, without the newline */
#define VUBLK_CONTROL_DEPTH 8         /* of objects and arrays in a request */
#define VUBLK_CONTROL_NAME_BYTES 32

struct vublk_control_request {
	char command[VUBLK_CONTROL_NAME_BYTES];
	struct json_object *id;        /* a string or an integer; NULL: none */
	struct json_object *arguments; /* an object; NULL: none */
};

/*
 * Parses one line. 1: the line is a request; 0: it is blank; -EPROTO: it is not a request, and
 * `error` says why. In each case `request` has the id, if it could be read.
 */
int vublk_control_request_parse(const char *line, size_t bytes,
				struct vublk_control_request *request, struct vublk_error *error);
/* Idempotent. */
void vublk_control_request_deinit(struct vublk_control_request *request);

/*
 * EINVAL: the request has an argument whose name is not in `names`, which ends with NULL; `names`
 * NULL: the command has no arguments.
 */
int vublk_control_request_check(const struct vublk_control_request *request,
				const char *const *names, struct vublk_error *error);

/*
 * These return a line with its newline, which the caller frees with free(), or NULL if there is no
 * memory. `result` is taken; NULL stands for an empty object. The line is valid UTF-8: if a path in
 * it is not, '?' replaces the invalid bytes.
 */
char *vublk_control_line(struct json_object *object);
char *vublk_control_result_line(const struct vublk_control_request *request,
				struct json_object *result);
char *vublk_control_error_line(const struct vublk_control_request *request,
			       const struct vublk_error *error);

#endif
