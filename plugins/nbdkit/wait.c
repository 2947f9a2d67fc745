/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Waits that end when the server or the client's connection ends. nbdkit ends only when all its
 * calls of the plugin have returned, but during an outage a request may wait without limit.
 *
 * Key idea: only nbdkit_nanosleep() tells a plugin that the server or the connection ends. So a
 * long wait calls that function from time to time.
 */
#include "plugins/nbdkit/wait.h"

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <errno.h>
#include <time.h>

#define ASK_AFTER_NS 500000000
#define PACE_NS 20000000

static __thread struct vublk_nbdkit_pace *thread_pace;

void vublk_nbdkit_set_pace(struct vublk_nbdkit_pace *pace)
{
	thread_pace = pace;
}

/*
 * Makes the threads of a connection that has ended return one after another. If a reply to a client
 * that has disconnected fails while another thread is about to send a reply on the same connection,
 * nbdkit 1.32 aborts (an assertion in raw_send_socket()). If the other thread returns PACE_NS
 * later, nbdkit knows that the connection has failed, and sends nothing.
 */
static void keep_pace(void)
{
	const struct timespec pause = { .tv_nsec = PACE_NS };

	pthread_mutex_lock(&thread_pace->lock);
	nanosleep(&pause, NULL);
	pthread_mutex_unlock(&thread_pace->lock);
}

int vublk_nbdkit_wait(pthread_cond_t *condition, pthread_mutex_t *lock)
{
	struct timespec until;
	int r = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += ASK_AFTER_NS;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	if (pthread_cond_clockwait(condition, lock, CLOCK_MONOTONIC, &until) != ETIMEDOUT)
		return 0;
	pthread_mutex_unlock(lock);
	if (nbdkit_nanosleep(0, 1) && errno == ESHUTDOWN) {
		keep_pace();
		r = -ESHUTDOWN;
	}
	pthread_mutex_lock(lock);
	return r;
}
