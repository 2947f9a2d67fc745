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
	unsigned users; /* the call that made the change, and its requests that it abandoned */
};

struct vublk_nbd_ranges {
	pthread_mutex_t lock;
	pthread_cond_t left; /* a range has left */
	struct vublk_nbd_range *first;
};

void vublk_nbd_ranges_init(struct vublk_nbd_ranges *ranges);
/* Frees the ranges of requests that never completed. */
void vublk_nbd_ranges_deinit(struct vublk_nbd_ranges *ranges);

/*
 * Waits until no range that entered earlier overlaps this one. The caller passes `range` to
 * vublk_nbd_ranges_leave().
 * ENOMEM: no memory. ESHUTDOWN: the server or the connection ends.
 */
int vublk_nbd_ranges_enter(struct vublk_nbd_ranges *ranges, uint64_t offset, uint64_t end,
			   struct vublk_nbd_range **range);

/* Adds a user, which has to leave, too. */
void vublk_nbd_ranges_hold(struct vublk_nbd_ranges *ranges, struct vublk_nbd_range *range);

/* Removes a user. The range is freed with its last user. NULL is a no-op. */
void vublk_nbd_ranges_leave(struct vublk_nbd_ranges *ranges, struct vublk_nbd_range *range);

#endif
