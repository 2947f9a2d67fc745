/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The kill points of the test program; see kill-point.h. No library contains this file. A process
 * kills itself only once, so the chosen point can be a global variable.
 */
#include "util/kill-point.h"

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
#define SIGNAL_VARIABLE "VUBLK_KILL_SIGNAL"

static const char *const *all_names;
static const char *chosen;  /* an element of all_names; NULL: no kill point is set */
static int number = SIGKILL;
static unsigned times_left; /* passes of `chosen` left until the kill; atomic */

/* Returns the element of the list that is equal to the `length` characters of `name`, or NULL. */
static const char *find_name(const char *name, size_t length)
{
	for (const char *const *entry = all_names; *entry; entry++)
		if (strlen(*entry) == length && !strncmp(*entry, name, length))
			return *entry;
	return NULL;
}

static int refuse_name(const char *name, struct vublk_error *error)
{
	char all[512] = "";

	for (const char *const *entry = all_names; *entry; entry++)
		snprintf(all + strlen(all), sizeof(all) - strlen(all), "%s%s",
			 entry != all_names ? ", " : "", *entry);
	return vublk_error_set(error, EINVAL, VARIABLE " must be one of %s, with :N for the N-th "
			       "time, not '%s'", all, name);
}

static int read_signal(struct vublk_error *error)
{
	const char *value = getenv(SIGNAL_VARIABLE);
	uint64_t chosen_number = SIGKILL;
	int r = value ? vublk_parse_u64(SIGNAL_VARIABLE, value, 1, SIGRTMAX, &chosen_number, error) : 0;

	number = (int)chosen_number;
	return r;
}

int vublk_kill_points_init(const char *const *names, struct vublk_error *error)
{
	const char *value = getenv(VARIABLE);
	uint64_t times = 1;
	size_t length;

	if (!value)
		return 0;
	if (read_signal(error) < 0)
		return -EINVAL;
	all_names = names;
	length = strcspn(value, ":");
	if (value[length] &&
	    vublk_parse_u64("N of " VARIABLE, value + length + 1, 1, UINT32_MAX, &times, error))
		return -EINVAL;
	times_left = (unsigned)times;
	chosen = find_name(value, length);
	return chosen ? 0 : refuse_name(value, error);
}

void vublk_kill_point(const char *name)
{
	const char *point;

	if (!chosen)
		return;
	point = find_name(name, strlen(name));
	if (!point) {
		fprintf(stderr, "the kill point %s is not in the list\n", name);
		abort();
	}
	if (point == chosen && !__atomic_sub_fetch(&times_left, 1, __ATOMIC_RELAXED))
		kill(getpid(), number);
}
