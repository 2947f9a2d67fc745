/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_KILL_POINT_H
#define VUBLK_BACKEND_KILL_POINT_H

/*
 * Places at which a back-end kills itself, so that a test can see what the next
 * one makes of what is left. Only the test program tests/kill/vublk-kill has them
 * (-DVUBLK_KILL_POINTS); in everything else the calls are nothing at all.
 */
#include <vublk/error.h>

enum vublk_kill_point {
	VUBLK_KILL_AFTER_FETCH,          /* a chain is taken, and noted in the in-flight area */
	VUBLK_KILL_AFTER_IO,             /* the engine has done it, and nobody was told */
	VUBLK_KILL_AFTER_STATUS,         /* its status byte is written */
	VUBLK_KILL_AFTER_USED_ELEMENT,   /* it is in the used ring, before the index */
	VUBLK_KILL_AFTER_USED_INDEX,     /* its batch is published, and still noted as in flight */
	VUBLK_KILL_AFTER_INFLIGHT_CLEAR, /* it is not any more; perhaps others of its batch are */
	VUBLK_KILL_BEFORE_CALL,          /* all is noted, and the driver was not called */
	VUBLK_KILL_END,
};

#ifdef VUBLK_KILL_POINTS

/*
 * Reads the environment's VUBLK_KILL_POINT, NAME or NAME:N: the N-th time (1) that any
 * queue passes that place, the process is killed. EINVAL: there is no such place.
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
