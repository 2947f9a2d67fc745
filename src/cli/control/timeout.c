/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The argument `timeout-ms`; see timeout.h. */
#include "cli/control/timeout.h"

#include "cli/cli.h"

#include <errno.h>

#define MAX_MS 3600000

const char *const vublk_control_timeout_arguments[] = { "timeout-ms", NULL };

int vublk_control_read_timeout(struct json_object *arguments, uint64_t *timeout_ms,
			       struct vublk_error *error)
{
	struct json_object *value;
	int64_t ms;

	if (!json_object_object_get_ex(arguments, "timeout-ms", &value))
		return 0;
	ms = json_object_get_int64(value);
	if (!json_object_is_type(value, json_type_int) || ms < 1 || ms > MAX_MS)
		return vublk_cli_error(error, EINVAL, "'timeout-ms' must be a number from 1 to %d", MAX_MS);
	*timeout_ms = (uint64_t)ms;
	return 0;
}
