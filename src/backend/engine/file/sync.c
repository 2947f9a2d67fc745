/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Serializes the syncs of an image.
 *
 * Key idea: at most one sync runs at a time, over all queues. The kernel reports a failed
 * write-back to only one sync of an open file. If two syncs ran at the same time, requests could
 * succeed with one sync before the failure of the other is recorded (lost.c), although the failure
 * may concern the writes of both. With one sync at a time, a failure is recorded before the next
 * sync begins, and before any request that relies on the failed sync gets its result.
 *
 * Syncs are numbered. A request needs a sync that begins after the request has arrived, because a
 * sync that is already running may not cover the writes before the request. So the requests that
 * arrive on any queue while a sync runs share the next sync, and a request waits for at most one
 * other sync. One of the requests, the leader, makes the system call; the others, its followers,
 * make none. The queues of followers are woken when a sync ends, and the first queue to notice
 * begins the next sync.
 */
#include "backend/engine/file/file.h"

#include "util/atomic.h"
#include "util/fd.h"

void vublk_file_syncs_init(struct vublk_file_syncs *syncs)
{
	pthread_mutex_init(&syncs->lock, NULL);
	pthread_cond_init(&syncs->one_ended, NULL);
}

void vublk_file_syncs_deinit(struct vublk_file_syncs *syncs)
{
	pthread_cond_destroy(&syncs->one_ended);
	pthread_mutex_destroy(&syncs->lock);
}

static void list_waiter(struct vublk_file_syncs *syncs, struct vublk_file_waiter *waiter)
{
	if (waiter->is_listed)
		return;
	waiter->next = syncs->waiters;
	syncs->waiters = waiter;
	vublk_store_relaxed(&waiter->is_listed, true);
}

bool vublk_file_syncs_begin(struct vublk_file_syncs *syncs, uint64_t *number,
			    struct vublk_file_waiter *waiter)
{
	bool leads;

	pthread_mutex_lock(&syncs->lock);
	if (!*number)
		*number = syncs->begun + 1;
	leads = syncs->begun == syncs->ended && *number > syncs->begun;
	if (leads)
		syncs->begun++;
	else
		list_waiter(syncs, waiter);
	pthread_mutex_unlock(&syncs->lock);
	return leads;
}

bool vublk_file_syncs_wait(struct vublk_file_syncs *syncs)
{
	uint64_t number;
	bool leads;

	pthread_mutex_lock(&syncs->lock);
	number = syncs->begun + 1;
	while (syncs->ended < number && syncs->begun != syncs->ended)
		pthread_cond_wait(&syncs->one_ended, &syncs->lock);
	leads = syncs->ended < number;
	if (leads)
		syncs->begun++;
	pthread_mutex_unlock(&syncs->lock);
	return leads;
}

/*
 * Signals the descriptors under the lock, so that none of them is closed too early: a queue may be
 * freed as soon as it sees that its sync has ended, but vublk_file_syncs_leave() first waits for
 * the lock.
 */
void vublk_file_syncs_end(struct vublk_file_syncs *syncs, const struct vublk_file_waiter *own)
{
	struct vublk_file_waiter *waiter;

	pthread_mutex_lock(&syncs->lock);
	vublk_store_release(&syncs->ended, syncs->begun); /* S */
	while ((waiter = syncs->waiters)) {
		syncs->waiters = waiter->next;
		vublk_store_relaxed(&waiter->is_listed, false);
		if (waiter != own)
			vublk_eventfd_write(waiter->fd);
	}
	pthread_cond_broadcast(&syncs->one_ended);
	pthread_mutex_unlock(&syncs->lock);
}

void vublk_file_syncs_leave(struct vublk_file_syncs *syncs, struct vublk_file_waiter *waiter)
{
	struct vublk_file_waiter **link;

	pthread_mutex_lock(&syncs->lock);
	for (link = &syncs->waiters; *link && *link != waiter; link = &(*link)->next)
		;
	if (*link)
		*link = waiter->next;
	pthread_mutex_unlock(&syncs->lock);
}
