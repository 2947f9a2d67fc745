/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_KILL_POINT_H
#define VUBLK_BACKEND_KILL_POINT_H

/*
 * Points at which a back-end kills itself, so that a test can check what the next back-end
 * does with the state that is left. Only the test program tests/kill/vublk-kill has them
 * (-DVUBLK_KILL_POINTS); elsewhere the calls compile to nothing.
 */
#include <vublk/error.h>

enum vublk_kill_point {
	VUBLK_KILL_AFTER_FETCH,          /* a chain is taken and recorded in the in-flight area */
	VUBLK_KILL_AFTER_IO,             /* the engine has executed it; the driver sees nothing */
	VUBLK_KILL_AFTER_STATUS,         /* its status byte is written */
	VUBLK_KILL_AFTER_USED_ELEMENT,   /* its used element is written, the used index is not */
	VUBLK_KILL_AFTER_USED_INDEX,     /* its batch is published, but still recorded in flight */
	VUBLK_KILL_AFTER_INFLIGHT_CLEAR, /* it is no longer recorded; others of its batch may be */
	VUBLK_KILL_BEFORE_CALL,          /* all is recorded, but the driver was not called */
	VUBLK_KILL_END,
};

#ifdef VUBLK_KILL_POINTS

/*
 * Reads VUBLK_KILL_POINT from the environment, NAME or NAME:N: the process is killed when a
 * queue passes that point for the N-th time (default 1). EINVAL: no such point.
 */
int vublk_kill_points_init(struct vublk_error *error);
void vublk_kill_point(enum vublk_kill_point point);

#else

static inline int vublk_kill_points_init(struct vublk_error *error)
{
	return 0;
}

static inline void vublk_kill_point(enum vublk_kill_point point)
{
}

#endif

#endif
