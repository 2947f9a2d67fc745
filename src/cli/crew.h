/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CREW_H
#define VUBLK_CLI_CREW_H

#include <vublk/error.h>

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

/*
 * A few threads that do the same work, and one that waits for them and looks in
 * between: the jobs of a bench, the workers of a copy.
 */
struct vublk_crew {
	pthread_mutex_t lock;
	pthread_cond_t done;
	unsigned working;         /* under the lock */
	unsigned num_members;
	struct vublk_crew_member *members;
};

/*
 * Starts `count` threads that call work(members + i * member_bytes). On failure
 * those that run already are told by `stop` (called once), and have ended when
 * this returns.
 */
int vublk_crew_start(struct vublk_crew *crew, unsigned count, void (*work)(void *member),
		     void *members, size_t member_bytes, void (*stop)(void *opaque), void *opaque,
		     struct vublk_error *error);

/* Waits until all are done, or for `ms`. True: all are done. */
bool vublk_crew_wait(struct vublk_crew *crew, unsigned ms);

/* Waits for the end of all and gives everything back. */
void vublk_crew_finish(struct vublk_crew *crew);

#endif
