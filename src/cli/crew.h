/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CREW_H
#define VUBLK_CLI_CREW_H

#include <vublk/error.h>

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

/*
 * A crew is a set of threads that run the same function, and one thread that waits for them. The
 * jobs of a bench and the workers of a copy are crews.
 */
struct vublk_crew {
	pthread_mutex_t lock;
	pthread_cond_t done;
	unsigned working;         /* under the lock */
	unsigned num_members;
	struct vublk_crew_member *members;
};

/*
 * Starts `count` threads; thread i calls work(members + i * member_bytes). If a thread cannot
 * be started, `stop` is called once to make the threads that run end. vublk_crew_start() waits
 * until they have ended, and returns the error.
 */
int vublk_crew_start(struct vublk_crew *crew, unsigned count, void (*work)(void *member),
		     void *members, size_t member_bytes, void (*stop)(void *opaque), void *opaque,
		     struct vublk_error *error);

/* Waits until all threads are done, but at most `ms`. True: all are done. */
bool vublk_crew_wait(struct vublk_crew *crew, unsigned ms);

/* Joins all threads and frees the crew. */
void vublk_crew_finish(struct vublk_crew *crew);

#endif
