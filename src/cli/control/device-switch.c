/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The command `switch` of the control socket of `vublk device`: moves the disk to another of its
 * paths or to its mirror. The answer comes when the disk has been moved, or when the move has
 * failed, and then says why.
 */
#include "cli/control/device-switch.h"

#include "cli/cli.h"
#include "cli/control/json.h"

#include <errno.h>
#include <string.h>

const char *const vublk_device_switch_arguments[] = { "to", NULL };

int vublk_device_check_switch(struct json_object *arguments, void *copy, struct vublk_error *error)
{
	struct vublk_switch_command *command = copy;
	struct json_object *value;

	if (!json_object_object_get_ex(arguments, "to", &value))
		return 0; /* to the mirror */
	if (!json_object_is_type(value, json_type_string) ||
	    !json_object_get_string_len(value) ||
	    (size_t)json_object_get_string_len(value) >= sizeof(command->to) ||
	    strlen(json_object_get_string(value)) != (size_t)json_object_get_string_len(value))
		return vublk_cli_error(error, EINVAL, "'to' must be one of the disk's paths, which "
				       "the command 'status' lists");
	strcpy(command->to, json_object_get_string(value));
	return 0;
}

int vublk_device_run_switch(void *owner, void *copy, struct vublk_error *error)
{
	struct vublk_switch_command *command = copy;
	struct vublk_device_switch_info info;
	struct vublk_device_path_info path;

	const struct vublk_device *device = vublk_bus_device(owner);
	int r;

	if (!command->number) {
		r = vublk_bus_switch(owner, command->to[0] ? command->to : NULL, error);
		if (r != 1)
			return r;
		vublk_device_get_switch(device, &info, sizeof(info));
		command->number = info.number;
		return 1;
	}
	if (vublk_device_get_switch_result(device, command->number, &info, sizeof(info)) < 0)
		return vublk_cli_error(error, ENOENT, "the result of the switch is not known any more; "
				       "'status' shows the current path");
	if (info.is_under_way)
		return 1;
	if (info.code)
		return vublk_cli_error(error, info.code, "%s", info.reason);
	if (!command->to[0]) {
		vublk_device_get_path(device, 0, &path, sizeof(path));
		strcpy(command->to, path.chardev);
	}
	return 0;
}

struct json_object *vublk_device_format_switch(void *owner, const void *copy)
{
	const struct vublk_switch_command *command = copy;
	struct json_object *result = json_object_new_object();

	vublk_json_add_text(result, "chardev", command->to);
	return result;
}
