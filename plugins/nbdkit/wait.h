/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_NBD_WAIT_H
#define VUBLK_NBD_WAIT_H

#include <pthread.h>

/* The requests of one connection that end without a result do so one after another. */
struct vublk_nbd_pace {
	pthread_mutex_t lock;
};

/* Says of which connection the thread now handles a request. */
void vublk_nbd_set_pace(struct vublk_nbd_pace *pace);

/*
 * Waits for `condition` with `lock` held, as pthread_cond_wait() does: the caller checks whether
 * that for which it waits has happened, and calls again if not. Must be called on a thread of
 * nbdkit, after vublk_nbd_set_pace().
 * ESHUTDOWN: the server or the client's connection ends, so the caller has to return.
 */
int vublk_nbd_wait(pthread_cond_t *condition, pthread_mutex_t *lock);

#endif
