/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_REQUEST_H
#define VUBLK_CLI_CONTROL_REQUEST_H

/*
 * Lines of the control protocol (docs/control.md). These functions parse requests and make answers.
 */

#include <vublk/error.h>

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>

#define VUBLK_CONTROL_PROTOCOL 1
#define VUBLK_CONTROL_LINE_BYTES 2048 /* the longest request, without the newline */
#define VUBLK_CONTROL_DEPTH 8         /* how deeply objects and arrays may be nested in a request */
#define VUBLK_CONTROL_NAME_BYTES 32

#define VUBLK_CONTROL_ANSWER_DEPTH 32 /* how deeply objects and arrays may be nested in a line that
					 a server sends */

/*
 * Parses a line, which must consist of exactly one JSON value, at most `depth` deep, in which no
 * object has two members with the same name. On success the caller must free `value`. Errors:
 * EPROTO, ENOMEM.
 */
int vublk_control_parse(const char *line, size_t bytes, int depth, struct json_object **value,
			struct vublk_error *error);

struct vublk_control_request {
	char command[VUBLK_CONTROL_NAME_BYTES];
	struct json_object *id;        /* a string or an integer; NULL: no id */
	struct json_object *arguments; /* an object; NULL: no arguments */
};

/*
 * Parses one line. Returns 1 if it is a request, 0 if it is blank, or a negative errno (EPROTO,
 * EINVAL, ENOMEM) if it cannot be used; `error` says why. In each case `request` has the id, if a
 * valid one could be read from the line.
 */
int vublk_control_request_parse(const char *line, size_t bytes,
				struct vublk_control_request *request, struct vublk_error *error);
/* Frees the request's values. Idempotent. */
void vublk_control_request_deinit(struct vublk_control_request *request);

/*
 * Checks the names of the request's arguments. `names` is the list of permitted names and ends with
 * NULL; NULL: the command has no arguments. Returns 0, or -EINVAL if an argument has another name.
 */
int vublk_control_request_check(const struct vublk_control_request *request,
				const char *const *names, struct vublk_error *error);

/*
 * These functions make a line that ends with a newline. The caller must free the line with free();
 * NULL: there is no memory. The functions take ownership of `object` and `result`; `result` NULL
 * stands for an empty object. The line is valid UTF-8: '?' replaces invalid bytes, for example in a
 * path.
 */
char *vublk_control_line(struct json_object *object);
char *vublk_control_result_line(const struct vublk_control_request *request,
				struct json_object *result);
char *vublk_control_error_line(const struct vublk_control_request *request,
			       const struct vublk_error *error);
/*
 * Returns the message in `error`, the member "error" of an answer that another process has sent.
 * `error` may be any JSON value. The text is valid as long as `error` is.
 */
const char *vublk_control_error_message(struct json_object *error);

#endif
