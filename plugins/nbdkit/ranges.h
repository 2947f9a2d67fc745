/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_NBD_RANGES_H
#define VUBLK_NBD_RANGES_H

/*
 * The parts of the disk that are being changed. Changes that overlap are executed one after
 * another, in the order in which they entered, because the block API does not order requests on
 * different queues.
 */

#include <pthread.h>
#include <stdint.h>

struct vublk_nbd_range {
	struct vublk_nbd_range *next; /* entered later */
	uint64_t offset;
	uint64_t end;
	unsigned users; /* how many users the range has: the call that makes the change, and the
			   requests that it has abandoned */
};

struct vublk_nbd_ranges {
	pthread_mutex_t lock;
	pthread_cond_t left; /* a range has left */
	struct vublk_nbd_range *first;
};

void vublk_nbd_ranges_init(struct vublk_nbd_ranges *ranges);
/* Frees the struct, and the ranges of requests that have never completed. */
void vublk_nbd_ranges_deinit(struct vublk_nbd_ranges *ranges);

/*
 * Adds a range, and waits until no range that was added earlier overlaps it. The caller passes
 * `range` to vublk_nbd_ranges_leave(). Errors: ENOMEM; ESHUTDOWN if the server or the connection
 * ends, and then no range was added.
 */
int vublk_nbd_ranges_enter(struct vublk_nbd_ranges *ranges, uint64_t offset, uint64_t end,
			   struct vublk_nbd_range **range);

/* Adds a user to the range. Each user must call vublk_nbd_ranges_leave(). */
void vublk_nbd_ranges_hold(struct vublk_nbd_ranges *ranges, struct vublk_nbd_range *range);

/* Removes a user, and frees the range when its last user has left. NULL is a no-op. */
void vublk_nbd_ranges_leave(struct vublk_nbd_ranges *ranges, struct vublk_nbd_range *range);

#endif
