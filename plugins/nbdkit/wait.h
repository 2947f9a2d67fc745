/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_NBDKIT_WAIT_H
#define VUBLK_NBDKIT_WAIT_H

#include <pthread.h>

/*
 * When a connection has ended, makes the threads that handle its requests return one after another;
 * wait.c says why.
 */
struct vublk_nbdkit_pace {
	pthread_mutex_t lock;
};

/*
 * Sets the pace of the calling thread for vublk_nbdkit_wait(). Must be called when a thread begins to
 * handle a request, with the pace of the request's connection.
 */
void vublk_nbdkit_set_pace(struct vublk_nbdkit_pace *pace);

/*
 * Waits for `condition` with `lock` held, as pthread_cond_wait() does. May also return 0 without a
 * signal, so the caller must check whether it has to wait again. Must be called on a thread of
 * nbdkit, after vublk_nbdkit_set_pace(). ESHUTDOWN: the server or the client's connection ends, so
 * the caller has to return.
 */
int vublk_nbdkit_wait(pthread_cond_t *condition, pthread_mutex_t *lock);

#endif
