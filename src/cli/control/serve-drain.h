/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_SERVE_DRAIN_H
#define VUBLK_CLI_CONTROL_SERVE_DRAIN_H

/* Functions of the command `drain`, for the table in serve-commands.c. */
#include <vublk/backend.h>

#include <json-c/json.h>

struct vublk_serve_drain_copy {
	uint64_t timeout_ms; /* 0: the default */
	bool has_begun;
};

int vublk_serve_check_drain(struct json_object *arguments, void *copy, struct vublk_error *error);
int vublk_serve_run_drain(void *owner, void *copy, struct vublk_error *error);
struct json_object *vublk_serve_format_drain(void *owner, const void *copy);

/* Returns the state of the drain, such as "draining", for the result of the command `status`. */
const char *vublk_serve_drain_name(const struct vublk_backend_info *info);

#endif
