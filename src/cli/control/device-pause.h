/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_DEVICE_PAUSE_H
#define VUBLK_CLI_CONTROL_DEVICE_PAUSE_H

/* Functions of the commands `pause` and `resume`, for the table in device-commands.c. */
#include <vublk/error.h>

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

struct vublk_device_pause_copy {
	uint64_t timeout_ms; /* how long to wait for outstanding requests; 0: the default */
	uint64_t deadline_ns; /* when the wait ends; 0: the pause has not begun yet */
};

int vublk_device_check_pause(struct json_object *arguments, void *copy, struct vublk_error *error);
int vublk_device_run_pause(void *owner, void *copy, struct vublk_error *error);
struct json_object *vublk_device_format_pause(void *owner, const void *copy);
int vublk_device_run_resume(void *owner, void *copy, struct vublk_error *error);
struct json_object *vublk_device_format_resume(void *owner, const void *copy);

/* Returns the state of the pause: "none", "pausing" or "paused". */
struct vublk_bus_info;
const char *vublk_device_pause_name(const struct vublk_bus_info *info);

#endif
