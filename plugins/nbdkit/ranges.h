/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_NBDKIT_RANGES_H
#define VUBLK_NBDKIT_RANGES_H

/*
 * The parts of the disk that are being changed. Changes that overlap are executed one after
 * another, in the order in which they called vublk_nbdkit_ranges_enter(). The block API would not
 * order them, because they may be on different queues.
 */

#include <pthread.h>
#include <stdint.h>

struct vublk_nbdkit_range {
	struct vublk_nbdkit_range *next; /* the range that was added after this one */
	uint64_t offset;
	uint64_t end;
	unsigned users; /* how many users the range has: the call that makes the change, and each
			   request that is in flight although its call has returned (queue.c) */
};

struct vublk_nbdkit_ranges {
	pthread_mutex_t lock;
	pthread_cond_t left; /* signalled when a range was removed */
	struct vublk_nbdkit_range *first;
};

void vublk_nbdkit_ranges_init(struct vublk_nbdkit_ranges *ranges);
/* Frees the ranges that are left, because their requests have never completed. */
void vublk_nbdkit_ranges_deinit(struct vublk_nbdkit_ranges *ranges);

/*
 * Adds a range with one user, and waits until no range that was added earlier overlaps it. The
 * caller must pass `*range` to vublk_nbdkit_ranges_leave(). Adds no range on failure. Errors: ENOMEM;
 * ESHUTDOWN if the server or the client's connection ends.
 */
int vublk_nbdkit_ranges_enter(struct vublk_nbdkit_ranges *ranges, uint64_t offset, uint64_t end,
			   struct vublk_nbdkit_range **range);

/* Adds a user to the range. Each user must call vublk_nbdkit_ranges_leave(). */
void vublk_nbdkit_ranges_hold(struct vublk_nbdkit_ranges *ranges, struct vublk_nbdkit_range *range);

/* Removes a user, and frees the range when its last user has left. NULL is a no-op. */
void vublk_nbdkit_ranges_leave(struct vublk_nbdkit_ranges *ranges, struct vublk_nbdkit_range *range);

#endif
