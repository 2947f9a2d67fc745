/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_KILL_POINT_H
#define VUBLK_UTIL_KILL_POINT_H

/*
 * Points at which a process kills itself, so that a test can check what the next process does with
 * the state that is left. Only the test program tests/kill/vublk-kill has them
 * (-DVUBLK_KILL_POINTS); elsewhere the calls compile to nothing.
 *
 * A point is identified by its name. Each part of vublk that has points passes a list of them to
 * vublk_kill_points_init(), as src/backend/backend.c does. A point in code that several parts use
 * is in the list of each of these parts.
 */
#include <vublk/error.h>

#ifdef VUBLK_KILL_POINTS

/*
 * Reads VUBLK_KILL_POINT from the environment: NAME or NAME:N. The process is killed when its
 * threads pass that point for the N-th time (default 1). With VUBLK_KILL_SIGNAL=NUMBER the process
 * gets that signal instead of SIGKILL. `names` is static and ends with NULL. Error: EINVAL if
 * either variable has an invalid value.
 */
int vublk_kill_points_init(const char *const *names, struct vublk_error *error);
/*
 * Marks the point `name`. Kills the process if VUBLK_KILL_POINT asks for that. If VUBLK_KILL_POINT
 * is set and the name is not in the list, the program aborts.
 */
void vublk_kill_point(const char *name);

#else

static inline int vublk_kill_points_init(const char *const *names, struct vublk_error *error)
{
	return 0;
}

static inline void vublk_kill_point(const char *name)
{
}

#endif

#endif
