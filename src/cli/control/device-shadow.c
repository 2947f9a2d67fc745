/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The command `shadow` of the control socket of `vublk device`: shows and changes whether requests
 * pass through shadow rings.
 *
 * Key idea: moving the requests to or from shadow rings takes as long as the slowest outstanding
 * request. The answer comes after the move, and says whether the requests pass through shadow
 * rings.
 */
#include "cli/control/device-shadow.h"

#include "cli/cli.h"
#include "cli/control/json.h"

#include <errno.h>

const char *const vublk_device_shadow_arguments[] = { "off", "on", "auto", NULL };

int vublk_device_check_shadow_command(struct json_object *arguments, void *copy,
				      struct vublk_error *error)
{
	struct vublk_shadow_command *command = copy;
	struct json_object *value;

	for (unsigned i = 0; vublk_device_shadow_arguments[i]; i++) {
		const char *name = vublk_device_shadow_arguments[i];

		if (!json_object_object_get_ex(arguments, name, &value))
			continue;
		if (command->is_given || !json_object_is_type(value, json_type_boolean) ||
		    !json_object_get_boolean(value) ||
		    vublk_shadow_parse(name, &command->shadow, NULL) < 0)
			return vublk_cli_error(error, EINVAL, "expected one argument: 'on', 'off' "
					       "or 'auto', with the value true");
		command->is_given = true;
	}
	return 0;
}

int vublk_device_run_shadow(void *owner, void *copy, struct vublk_error *error)
{
	struct vublk_shadow_command *command = copy;
	int r = 0;

	if (command->is_given && !command->is_asked)
		r = vublk_bus_set_shadow(owner, command->shadow, error);
	command->is_asked = true;
	if (r < 0)
		return r;
	vublk_device_get_shadow(vublk_bus_device(owner), &command->info, sizeof(command->info));
	if (command->info.is_changing)
		return 1;
	if (command->is_given && command->info.refusal[0])
		return vublk_cli_error(error, EBUSY, "the path of the requests has not changed: %s",
				       command->info.refusal);
	return 0;
}

struct json_object *vublk_device_shadow_json(const struct vublk_shadow_info *info)
{
	struct json_object *object = json_object_new_object();

	vublk_json_add_text(object, "wanted", vublk_shadow_name(info->wanted));
	vublk_json_add_text(object, "path", info->is_shadowed ? "shadow" : "direct");
	vublk_json_add_bool(object, "changing", info->is_changing);
	vublk_json_add_text(object, "reasons", info->reasons);
	vublk_json_add_text(object, "refusal", info->refusal);
	return object;
}

struct json_object *vublk_device_format_shadow(void *owner, const void *copy)
{
	const struct vublk_shadow_command *command = copy;

	return vublk_device_shadow_json(&command->info);
}
