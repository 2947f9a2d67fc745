/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_TIMEOUT_H
#define VUBLK_CLI_CONTROL_TIMEOUT_H

/* The argument `timeout-ms` of the commands that wait for requests. */
#include <vublk/error.h>

#include <json-c/json.h>
#include <stdint.h>

#define VUBLK_CONTROL_TIMEOUT_DEFAULT_MS 10000

/* The argument names of a command whose only argument is `timeout-ms`; ends with NULL. */
extern const char *const vublk_control_timeout_arguments[];

/*
 * Stores the value of `timeout-ms` in `timeout_ms`; without the argument, stores nothing.
 * Error: EINVAL if the value is not a number from 1 to 3600000.
 */
int vublk_control_read_timeout(struct json_object *arguments, uint64_t *timeout_ms,
			       struct vublk_error *error);

#endif
