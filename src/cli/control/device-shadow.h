/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_DEVICE_SHADOW_H
#define VUBLK_CLI_CONTROL_DEVICE_SHADOW_H

/* Functions of the command `shadow`, for the table in device-commands.c. */
#include <vublk/shadow.h>

#include <json-c/json.h>

struct vublk_shadow_command {
	enum vublk_shadow shadow; /* input */
	bool is_given;            /* input: `shadow` is set; false: the command only shows the
				     setting */
	bool is_asked;            /* run() has passed the setting to the device */
	struct vublk_shadow_info info; /* output */
};

extern const char *const vublk_device_shadow_arguments[];
int vublk_device_check_shadow_command(struct json_object *arguments, void *copy,
				      struct vublk_error *error);
int vublk_device_run_shadow(void *owner, void *copy, struct vublk_error *error);
struct json_object *vublk_device_format_shadow(void *owner, const void *copy);
/* Returns the result of the command `shadow`. The result of `status` contains the same object. */
struct json_object *vublk_device_shadow_json(const struct vublk_shadow_info *info);

#endif
