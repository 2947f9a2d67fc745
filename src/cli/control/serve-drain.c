/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The command `drain` of the control socket of `vublk serve`.
 *
 * Key idea: the library enforces the time limit, so that a drain does not stay half done if its
 * client disconnects. The answer is sent when the disk is drained, and then the process ends.
 */
#include "cli/control/serve-drain.h"

#include "cli/cli.h"
#include "cli/control/json.h"
#include "cli/control/timeout.h"

#include <errno.h>

int vublk_serve_check_drain(struct json_object *arguments, void *copy, struct vublk_error *error)
{
	struct vublk_serve_drain_copy *drain = copy;

	return vublk_control_read_timeout(arguments, &drain->timeout_ms, error);
}

int vublk_serve_run_drain(void *owner, void *copy, struct vublk_error *error)
{
	struct vublk_serve_drain_copy *drain = copy;
	struct vublk_backend_info info;
	int r;

	if (!drain->has_begun) {
		r = vublk_backend_drain(owner, drain->timeout_ms ? drain->timeout_ms :
					VUBLK_CONTROL_TIMEOUT_DEFAULT_MS, error);
		drain->has_begun = true;
		return r < 0 ? r : 1;
	}
	vublk_backend_get_info(owner, &info, sizeof(info));
	if (info.drain == VUBLK_BACKEND_DRAINED && info.state == VUBLK_BACKEND_FINISHED)
		return 0;
	if (info.drain == VUBLK_BACKEND_DRAINED || info.drain == VUBLK_BACKEND_DRAINING)
		return 1;
	if (info.drain == VUBLK_BACKEND_DRAIN_NONE)
		return vublk_cli_error(error, ENOTCONN, "the drain has ended, because the "
				       "process was told to stop");
	return vublk_cli_error(error, info.drain_failure.code, "%s; the disk is served as before",
			       info.drain_failure.text);
}

struct json_object *vublk_serve_format_drain(void *owner, const void *copy)
{
	struct json_object *result = json_object_new_object();

	vublk_json_add_text(result, "drain", "drained");
	return result;
}

const char *vublk_serve_drain_name(const struct vublk_backend_info *info)
{
	switch (info->drain) {
	case VUBLK_BACKEND_DRAINING:
		return "draining";
	case VUBLK_BACKEND_DRAIN_FAILED:
		return "failed";
	case VUBLK_BACKEND_DRAINED:
		return "drained";
	default:
		return "none";
	}
}
