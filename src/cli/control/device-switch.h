/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_DEVICE_SWITCH_H
#define VUBLK_CLI_CONTROL_DEVICE_SWITCH_H

/* Functions of the command `switch`, for the table in device-commands.c. */
#include <vublk/paths.h>

#include <json-c/json.h>

struct vublk_switch_command {
	char to[sizeof(((struct vublk_device_path_info *)0)->chardev)];
	uint64_t number; /* of the switch; 0: it has not begun */
};

extern const char *const vublk_device_switch_arguments[];
int vublk_device_check_switch(struct json_object *arguments, void *copy, struct vublk_error *error);
int vublk_device_run_switch(void *owner, void *copy, struct vublk_error *error);
struct json_object *vublk_device_format_switch(void *owner, const void *copy);

#endif
