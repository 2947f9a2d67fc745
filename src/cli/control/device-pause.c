/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The commands `pause` and `resume` of the control socket of `vublk device`.
 *
 * Key idea: if requests are still outstanding at the time limit, the command fails, but the pause
 * stays in effect, and the operator may repeat the command. Only `resume` ends a pause.
 */
#include "cli/control/device-pause.h"

#include "cli/cli.h"
#include "cli/control/json.h"
#include "cli/control/timeout.h"

#include <vublk/bus.h>

#include <errno.h>

#define NS_PER_MS UINT64_C(1000000)

int vublk_device_check_pause(struct json_object *arguments, void *copy, struct vublk_error *error)
{
	struct vublk_device_pause_copy *pause = copy;

	return vublk_control_read_timeout(arguments, &pause->timeout_ms, error);
}

int vublk_device_run_pause(void *owner, void *copy, struct vublk_error *error)
{
	struct vublk_device_pause_copy *pause = copy;
	uint64_t now = vublk_cli_now_ns();
	struct vublk_bus_info info;

	if (!pause->deadline_ns) {
		pause->deadline_ns = now + (pause->timeout_ms ? pause->timeout_ms :
					    VUBLK_CONTROL_TIMEOUT_DEFAULT_MS) * NS_PER_MS;
		vublk_bus_set_paused(owner, true);
	}
	vublk_bus_get_info(owner, &info, sizeof(info));
	if (info.is_paused)
		return 0;
	if (!info.is_pausing)
		return vublk_cli_error(error, EBUSY, "the pause was ended by the command 'resume'");
	if (now < pause->deadline_ns)
		return 1;
	return vublk_cli_error(error, ETIMEDOUT, "some requests have not completed yet, and new "
			       "requests are held back; wait with another 'pause', or end the "
			       "pause with 'resume'");
}

int vublk_device_run_resume(void *owner, void *copy, struct vublk_error *error)
{
	vublk_bus_set_paused(owner, false);
	return 0;
}

struct json_object *vublk_device_format_pause(void *owner, const void *copy)
{
	struct json_object *result = json_object_new_object();

	vublk_json_add_text(result, "pause", "paused");
	return result;
}

struct json_object *vublk_device_format_resume(void *owner, const void *copy)
{
	struct json_object *result = json_object_new_object();

	vublk_json_add_text(result, "pause", "none");
	return result;
}

const char *vublk_device_pause_name(const struct vublk_bus_info *info)
{
	return info->is_paused ? "paused" : info->is_pausing ? "pausing" : "none";
}
