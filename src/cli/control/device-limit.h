/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_DEVICE_LIMIT_H
#define VUBLK_CLI_CONTROL_DEVICE_LIMIT_H

/* Functions of the command `limit`, for the table in device-commands.c. */
#include <vublk/limit.h>

#include <json-c/json.h>

struct vublk_limit_command {
	struct vublk_limits limits; /* input: the new values of the limits in `given`; output: all
				       current limits */
	unsigned given;             /* input: which limits to change; bit i:
				       vublk_device_limit_arguments[i] */
	bool removes;
	bool is_set; /* run() has set the limits; the command may still wait until the requests have
			been moved to or from shadow rings */
	unsigned waiting; /* output: how many requests wait because of a limit */
};

extern const char *const vublk_device_limit_arguments[];
int vublk_device_check_limit(struct json_object *arguments, void *copy, struct vublk_error *error);
int vublk_device_run_limit(void *owner, void *copy, struct vublk_error *error);
struct json_object *vublk_device_format_limit(void *owner, const void *copy);

#endif
