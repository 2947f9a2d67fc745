/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_LIMIT_NAMES_H
#define VUBLK_CLI_CONTROL_LIMIT_NAMES_H

/* The names of the limits in JSON, which are also the names of the properties. */
#include <vublk/limit.h>

#include <json-c/json.h>

#define VUBLK_LIMIT_NUM_NAMES 7
#define VUBLK_LIMIT_NAMES \
	"iops", "iops-read", "iops-write", "bps", "bps-read", "bps-write", "burst-ms"

/* The names, in the order of the members of struct vublk_limits. */
extern const char *const vublk_limit_names[VUBLK_LIMIT_NUM_NAMES];

/* Returns the member that has the name vublk_limit_names[i]. */
uint64_t *vublk_limit_member(struct vublk_limits *limits, size_t i);
/* Adds one member per limit to `object`. */
void vublk_limits_json(struct json_object *object, const struct vublk_limits *limits);

#endif
