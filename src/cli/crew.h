/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CREW_H
#define VUBLK_CLI_CREW_H

#include <vublk/error.h>

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

/*
 * A crew is a set of threads that run the same function while another thread waits for them. The
 * jobs of a bench or of chaos, and the workers of a copy, are a crew.
 */
struct vublk_crew {
	pthread_mutex_t lock;
	pthread_cond_t done;
	unsigned working;         /* how many threads still run; protected by `lock` */
	unsigned num_members;
	struct vublk_crew_member *members;
};

/*
 * Starts `count` threads. Thread i calls work() with `members` + i * `member_bytes`. If a thread
 * cannot be started, calls stop(opaque), waits until the threads that were started have ended, and
 * returns a negative errno. stop() must make those threads end.
 */
int vublk_crew_start(struct vublk_crew *crew, unsigned count, void (*work)(void *member),
		     void *members, size_t member_bytes, void (*stop)(void *opaque), void *opaque,
		     struct vublk_error *error);

/*
 * Waits until all threads are done, but for at most `ms` milliseconds. Returns whether all are
 * done.
 */
bool vublk_crew_wait(struct vublk_crew *crew, unsigned ms);

/* Joins all threads and frees the crew. */
void vublk_crew_finish(struct vublk_crew *crew);

#endif
