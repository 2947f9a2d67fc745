/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_DEVICE_MIRROR_H
#define VUBLK_CLI_CONTROL_DEVICE_MIRROR_H

/* Functions of the command `mirror`, for the table in device-commands.c. */
#include <vublk/mirror.h>

#include <json-c/json.h>

struct vublk_mirror_command {
	char target[sizeof(((struct vublk_device_mirror_info *)0)->target)]; /* empty: not given */
	uint64_t rate;
	bool stops, is_begun;
	struct vublk_device_mirror_info info; /* the result */
};

extern const char *const vublk_device_mirror_arguments[];
int vublk_device_check_mirror(struct json_object *arguments, void *copy, struct vublk_error *error);
int vublk_device_run_mirror(void *owner, void *copy, struct vublk_error *error);
struct json_object *vublk_device_format_mirror(void *owner, const void *copy);

#endif
