/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The command `mirror` of the control socket of `vublk device`: begins and ends a mirror, and shows
 * its progress. A command that begins a mirror is answered when the target is ready, or with the
 * reason why the target cannot be used. The disk is copied after that answer.
 */
#include "cli/control/device-mirror.h"

#include "cli/cli.h"
#include "cli/control/json.h"

#include <errno.h>
#include <string.h>

const char *const vublk_device_mirror_arguments[] = { "target", "rate", "stop", NULL };

/* --- arguments, on the control thread ------------------------------------------------------ */

static int take_target(struct json_object *value, struct vublk_mirror_command *command,
		       struct vublk_error *error)
{
	const char *text = json_object_is_type(value, json_type_string) ?
				   json_object_get_string(value) : "";
	size_t bytes = strlen(text);

	if (!bytes || bytes >= sizeof(command->target) ||
	    bytes != (size_t)json_object_get_string_len(value))
		return vublk_cli_error(error, EINVAL, "'target' must be the path of a back-end's socket, "
				       "of at most %zu bytes", sizeof(command->target) - 1);
	strcpy(command->target, text);
	return 0;
}

static int take_rate(struct json_object *value, struct vublk_mirror_command *command,
		     struct vublk_error *error)
{
	struct vublk_error ignored;

	if (!command->target[0])
		return vublk_cli_error(error, EINVAL, "'rate' needs 'target'");
	if (json_object_is_type(value, json_type_string) &&
	    !vublk_cli_parse_bytes("", json_object_get_string(value), 0, UINT64_MAX, &command->rate,
				   &ignored))
		return 0;
	if (!json_object_is_type(value, json_type_int) || json_object_get_int64(value) < 0)
		return vublk_cli_error(error, EINVAL, "'rate' must be a number of bytes per second, such "
				       "as 1000000 or \"100M\", not %s",
				       json_object_to_json_string(value));
	command->rate = json_object_get_uint64(value);
	return 0;
}

static bool is_on(struct json_object *value)
{
	return json_object_is_type(value, json_type_boolean) ? json_object_get_boolean(value) :
	       json_object_is_type(value, json_type_string) &&
	       !strcmp(json_object_get_string(value), "on");
}

int vublk_device_check_mirror(struct json_object *arguments, void *copy, struct vublk_error *error)
{
	struct vublk_mirror_command *command = copy;
	struct json_object *value;
	int r = 0;

	if (json_object_object_get_ex(arguments, "target", &value))
		r = take_target(value, command, error);
	if (!r && json_object_object_get_ex(arguments, "rate", &value))
		r = take_rate(value, command, error);
	if (r || !json_object_object_get_ex(arguments, "stop", &value))
		return r;
	if (!is_on(value) || command->target[0])
		return vublk_cli_error(error, EINVAL, "'stop' must be true and the only argument; it "
				       "ends the mirror");
	command->stops = true;
	return 0;
}

/* --- the device's thread --------------------------------------------------------------------- */

int vublk_device_run_mirror(void *owner, void *copy, struct vublk_error *error)
{
	struct vublk_mirror_command *command = copy;
	int r = 0;

	if (command->stops)
		vublk_bus_stop_mirror(owner);
	if (command->target[0] && !command->is_begun)
		r = vublk_bus_mirror(owner, command->target, command->rate, error);
	command->is_begun = true;
	if (r < 0)
		return r;
	vublk_bus_get_mirror(owner, &command->info, sizeof(command->info));
	if (!command->target[0] || command->info.is_copying)
		return 0;
	if (command->info.is_active)
		return 1;
	return vublk_cli_error(error, command->info.code ? command->info.code : ECANCELED, "%s",
			       command->info.code ? command->info.reason :
						    "the mirror was ended by another command");
}

/* --- the control thread ---------------------------------------------------------------------- */

struct json_object *vublk_device_format_mirror(void *owner, const void *copy)
{
	const struct vublk_device_mirror_info *info =
		&((const struct vublk_mirror_command *)copy)->info;
	struct json_object *result = json_object_new_object();

	vublk_json_add_text(result, "state", !info->is_active ? "none" : !info->is_copying ? "starting" :
			    info->synced_bytes < info->size_bytes ? "copying" : "synced");
	vublk_json_add_text(result, "target", info->target);
	vublk_json_add_u64(result, "size_bytes", info->size_bytes);
	vublk_json_add_u64(result, "synced_bytes", info->synced_bytes);
	vublk_json_add_u64(result, "behind_bytes", info->behind_bytes);
	vublk_json_add_u64(result, "rate", info->rate);
	vublk_json_add_text(result, "reason", info->reason);
	return result;
}
