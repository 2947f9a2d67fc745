/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The command `limit` of the control socket of `vublk device`: shows, changes and removes limits.
 *
 * Key idea: the command changes only the limits that its arguments name; `off` removes all limits.
 * The answer always contains all limits.
 */
#include "cli/control/device-limit.h"

#include "cli/cli.h"
#include "cli/control/json.h"
#include "cli/control/limit-names.h"

#include <vublk/shadow.h>

#include <errno.h>

#define OFF "off"

const char *const vublk_device_limit_arguments[] = {
	VUBLK_LIMIT_NAMES, OFF, NULL,
};

/* --- arguments, on the control thread ------------------------------------------------------ */

static bool parse_value(struct json_object *value, uint64_t *number)
{
	struct vublk_error error;

	if (json_object_is_type(value, json_type_string))
		return !vublk_cli_parse_bytes("", json_object_get_string(value), 0, UINT64_MAX,
					      number, &error);
	if (!json_object_is_type(value, json_type_int) || json_object_get_int64(value) < 0)
		return false;
	*number = json_object_get_uint64(value);
	return true;
}

int vublk_device_check_limit(struct json_object *arguments, void *copy, struct vublk_error *error)
{
	struct vublk_limit_command *command = copy;
	struct json_object *value;

	for (size_t i = 0; i < VUBLK_LIMIT_NUM_NAMES; i++) {
		const char *name = vublk_limit_names[i];

		if (!json_object_object_get_ex(arguments, name, &value))
			continue;
		if (!parse_value(value, vublk_limit_member(&command->limits, i)))
			return vublk_cli_error(error, EINVAL, "'%s' must be a number such as 1000 or "
					       "\"10M\", not %s", name,
					       json_object_to_json_string(value));
		command->given |= 1u << i;
	}
	if (!json_object_object_get_ex(arguments, OFF, &value))
		return 0;
	if (!json_object_is_type(value, json_type_boolean) || !json_object_get_boolean(value) ||
	    command->given)
		return vublk_cli_error(error, EINVAL, "'off' must be true, and no other argument "
				       "may be given with it");
	command->removes = true;
	return 0;
}

/* --- the device's thread --------------------------------------------------------------------- */

static int change_limits(void *owner, const struct vublk_limit_command *command,
			 struct vublk_error *error)
{
	struct vublk_limits limits, given = command->limits;

	vublk_device_get_limits(vublk_bus_device(owner), &limits, sizeof(limits));
	for (size_t i = 0; i < VUBLK_LIMIT_NUM_NAMES; i++) {
		if (command->removes)
			*vublk_limit_member(&limits, i) = 0;
		if (command->given & 1u << i)
			*vublk_limit_member(&limits, i) = *vublk_limit_member(&given, i);
	}
	return vublk_bus_set_limits(owner, &limits, sizeof(limits), error);
}

/*
 * Limits need shadow rings, so a command that changes limits is done only when the requests have
 * been moved to or from shadow rings.
 */
int vublk_device_run_limit(void *owner, void *copy, struct vublk_error *error)
{
	const struct vublk_device *device = vublk_bus_device(owner);
	struct vublk_limit_command *command = copy;
	bool changes = command->removes || command->given;
	struct vublk_shadow_info shadow;
	int r = 0;

	if (changes && !command->is_set)
		r = change_limits(owner, command, error);
	command->is_set = true;
	if (r)
		return r;
	vublk_device_get_limits(device, &command->limits, sizeof(command->limits));
	command->waiting = vublk_device_count_limited(device);
	vublk_device_get_shadow(device, &shadow, sizeof(shadow));
	if (changes && shadow.is_changing)
		return 1;
	if (changes && !shadow.is_shadowed && shadow.refusal[0])
		return vublk_cli_error(error, EBUSY, "the limits are set but have no effect yet, "
				       "because shadow rings cannot be used: %s", shadow.refusal);
	return 0;
}

/* --- the control thread ---------------------------------------------------------------------- */

struct json_object *vublk_device_format_limit(void *owner, const void *copy)
{
	const struct vublk_limit_command *command = copy;
	struct json_object *result = json_object_new_object();

	vublk_limits_json(result, &command->limits);
	vublk_json_add_u64(result, "waiting", command->waiting);
	return result;
}
