/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The kill points of the test program; see kill-point.h. No library contains this file. A
 * process kills itself once, so the chosen point is global.
 */
#include "backend/kill-point.h"

#include "util/atomic.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/option.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VARIABLE "VUBLK_KILL_POINT"

static const char *const names[VUBLK_KILL_END] = {
	[VUBLK_KILL_AFTER_FETCH] = "after-fetch",
	[VUBLK_KILL_AFTER_IO] = "after-io",
	[VUBLK_KILL_AFTER_STATUS] = "after-status",
	[VUBLK_KILL_AFTER_USED_ELEMENT] = "after-used-element",
	[VUBLK_KILL_AFTER_USED_INDEX] = "after-used-index",
	[VUBLK_KILL_AFTER_INFLIGHT_CLEAR] = "after-inflight-clear",
	[VUBLK_KILL_BEFORE_CALL] = "before-call",
};

static enum vublk_kill_point chosen = VUBLK_KILL_END; /* none */
static unsigned times_left; /* any worker */

static int refuse_name(const char *name, struct vublk_error *error)
{
	char all[256] = "";

	for (unsigned i = 0; i < VUBLK_KILL_END; i++)
		snprintf(all + strlen(all), sizeof(all) - strlen(all), "%s%s", i ? ", " : "",
			 names[i]);
	return vublk_error_set(error, EINVAL, VARIABLE " must be one of %s, with :N for the N-th "
			       "time, not '%s'", all, name);
}

int vublk_kill_points_init(struct vublk_error *error)
{
	const char *value = getenv(VARIABLE);
	uint64_t times = 1;
	size_t length;

	if (!value)
		return 0;
	length = strcspn(value, ":");
	if (value[length] &&
	    vublk_parse_u64("N of " VARIABLE, value + length + 1, 1, UINT32_MAX, &times, error))
		return -EINVAL;
	times_left = (unsigned)times;
	for (unsigned i = 0; i < VUBLK_KILL_END; i++) {
		if (strlen(names[i]) != length || strncmp(names[i], value, length))
			continue;
		chosen = i;
		return 0;
	}
	return refuse_name(value, error);
}

void vublk_kill_point(enum vublk_kill_point point)
{
	if (point == chosen && !__atomic_sub_fetch(&times_left, 1, __ATOMIC_RELAXED))
		kill(getpid(), SIGKILL);
}
