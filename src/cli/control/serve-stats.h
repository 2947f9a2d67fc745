/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_SERVE_STATS_H
#define VUBLK_CLI_CONTROL_SERVE_STATS_H

/* Functions of the commands `stats` and `metrics`, for the table in serve-commands.c. */
#include <vublk/backend.h>

#include <json-c/json.h>

struct json_object *vublk_serve_format_stats(void *owner, const void *copy);

/* Stores the struct vublk_backend_info of the back-end `owner` in `copy`. */
int vublk_serve_copy_info(void *owner, void *copy, struct vublk_error *error);
struct json_object *vublk_serve_format_metrics(void *owner, const void *copy);

#endif
