/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_EVENTS_H
#define VUBLK_BLK_EVENTS_H

#include <vublk/blk.h>

#include <pthread.h>

#define VUBLK_BLK_NUM_EVENTS (VUBLK_BLK_WRITES_LOST + 1)

/* The events of a disk that the application has not taken. Any thread may use them. */
struct vublk_blk_events {
	pthread_mutex_t lock;
	int fd; /* an eventfd, readable while there is an event; -1: not requested yet */
	unsigned count;
	enum vublk_blk_event kinds[VUBLK_BLK_NUM_EVENTS]; /* the first `count` elements are the
							     events, each kind at most once */
	struct vublk_error errors[VUBLK_BLK_NUM_EVENTS];  /* by kind: the error of its latest
							     occurrence */
};

void vublk_blk_events_init(struct vublk_blk_events *events);
void vublk_blk_events_deinit(struct vublk_blk_events *events);

/* Adds an event. `error` may be NULL. */
void vublk_blk_events_add(struct vublk_blk_events *events, enum vublk_blk_event event,
			  const struct vublk_error *error);

#endif
