/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The life of a change of the disk's memory. The calls that start changes are in memory.c, and the
 * disk's thread carries them out in src/inproc/driver.c.
 *
 * Key idea: until the application takes the result, a change owns the memory that it allocated or
 * releases and, unless the bus has taken it, the descriptor. So a change is undone in the same way
 * if it was refused, was canceled, or is still in progress when the disk is closed. The
 * application no longer owns a change that it has canceled. If that change has added a region, the
 * disk's thread removes the region again. Then the change is freed.
 */
#include "blk/change.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/memfd.h"

#include <errno.h>
#include <stdlib.h>

void vublk_blk_free_allocation(struct vublk_blk_allocation *allocation)
{
	if (!allocation)
		return;
	vublk_unmap(allocation->address, allocation->bytes);
	free(allocation);
}

static bool adds(const struct vublk_blk_change *change)
{
	return change->kind == VUBLK_BLK_CHANGE_ALLOC || change->kind == VUBLK_BLK_CHANGE_REGISTER;
}

/* --- begin and end ------------------------------------------------------------------ */

/*
 * Called for a change that has ended and is canceled. If the change has added memory, turns it into
 * a removal of that memory; otherwise frees the change.
 */
static void undo(struct vublk_blk_change *change)
{
	struct vublk_blk *blk = change->blk;

	if (!vublk_blk_is_running(blk))
		return; /* closing the disk frees the change */
	if (!adds(change) || change->result < 0) {
		vublk_blk_change_free(change);
		return;
	}
	pthread_mutex_lock(&blk->lock);
	change->ended = false;
	pthread_mutex_unlock(&blk->lock);
	change->kind = change->kind == VUBLK_BLK_CHANGE_ALLOC ? VUBLK_BLK_CHANGE_RELEASE :
								 VUBLK_BLK_CHANGE_UNREGISTER;
	vublk_inproc_begin_undo(blk->inproc, &change->region);
}

/*
 * Called when a change has ended. The application may free a change that is not canceled as soon as
 * this function has released the lock.
 */
static void on_ended(struct vublk_inproc_call *call, int result, const struct vublk_error *error)
{
	struct vublk_blk_change *change =
		vublk_container_of(call, struct vublk_blk_change, region.call);
	struct vublk_blk *blk = change->blk;
	bool canceled;

	pthread_mutex_lock(&blk->lock);
	change->result = result;
	if (result < 0)
		change->error = *error;
	change->ended = true;
	canceled = change->canceled;
	if (change->fd >= 0)
		vublk_eventfd_signal(change->fd);
	else
		pthread_cond_broadcast(&blk->change_ended);
	pthread_mutex_unlock(&blk->lock);
	if (canceled)
		undo(change);
}

void vublk_blk_change_init(struct vublk_blk_change *change, struct vublk_blk *blk,
			   enum vublk_blk_change_kind kind,
			   struct vublk_blk_allocation *allocation)
{
	change->blk = blk;
	change->kind = kind;
	change->allocation = allocation;
	change->region.call.ended = on_ended;
	if (allocation)
		change->region.address = allocation->address;
}

void vublk_blk_change_deinit(struct vublk_blk_change *change)
{
	vublk_fd_close(&change->region.fd);
	vublk_fd_close(&change->fd);
	vublk_blk_free_allocation(change->allocation);
	change->allocation = NULL;
}

void vublk_blk_change_begin(struct vublk_blk_change *change)
{
	if (adds(change))
		vublk_inproc_begin_add(change->blk->inproc, &change->region);
	else
		vublk_inproc_begin_remove(change->blk->inproc, &change->region);
}

/* --- the result ---------------------------------------------------------------------- */

/*
 * Updates the disk after a change has ended, and returns the change's result. The caller must hold
 * the lock. The memory of a successful ALLOC then belongs to the disk. A RELEASE always succeeds,
 * because its memory is freed even if the back-end could not be told.
 */
static int settle(struct vublk_blk_change *change, struct vublk_error *error)
{
	struct vublk_blk *blk = change->blk;

	if (change->kind == VUBLK_BLK_CHANGE_RELEASE)
		return 0;
	if (change->result < 0)
		return vublk_error_set(error, change->error.code, "%s", change->error.text);
	if (change->kind == VUBLK_BLK_CHANGE_ALLOC) {
		change->allocation->next = blk->allocations;
		blk->allocations = change->allocation;
		change->allocation = NULL;
	}
	return 0;
}

int vublk_blk_change_wait(struct vublk_blk_change *change, struct vublk_error *error)
{
	struct vublk_blk *blk = change->blk;
	int r;

	pthread_mutex_lock(&blk->lock);
	while (!change->ended)
		pthread_cond_wait(&blk->change_ended, &blk->lock);
	r = settle(change, error);
	pthread_mutex_unlock(&blk->lock);
	return r;
}

int vublk_blk_change_finish(struct vublk_blk_change *change, void **address,
			    struct vublk_error *error)
{
	struct vublk_blk *blk = change->blk;
	bool ended;
	int r = 0;

	if (address)
		*address = NULL;
	pthread_mutex_lock(&blk->lock);
	ended = change->ended;
	if (ended)
		r = settle(change, error);
	pthread_mutex_unlock(&blk->lock);
	if (!ended)
		return vublk_error_set(error, EAGAIN, "the memory change has not ended; wait "
				       "until the descriptor that vublk_blk_change_fd() returns "
				       "is readable");
	if (!r && address && adds(change))
		*address = change->region.address;
	vublk_blk_change_free(change);
	return r;
}

int vublk_blk_change_fd(const struct vublk_blk_change *change)
{
	return change->fd;
}

/*
 * If the change has not ended, this function does not use it after releasing the lock, because the
 * disk's thread may then free it.
 */
void vublk_blk_change_cancel(struct vublk_blk_change *change)
{
	struct vublk_blk *blk;
	bool ended;

	if (!change)
		return;
	blk = change->blk;
	pthread_mutex_lock(&blk->lock);
	ended = change->ended;
	change->canceled = true;
	if (!ended && adds(change))
		vublk_inproc_cancel(blk->inproc, &change->region.call);
	pthread_mutex_unlock(&blk->lock);
	if (ended)
		undo(change);
}

/* --- the disk's list -------------------------------------------------------------------- */

int vublk_blk_change_new(struct vublk_blk *blk, struct vublk_blk_change **out,
			 struct vublk_error *error)
{
	struct vublk_blk_change *change;
	int fd = vublk_eventfd_new();

	if (fd < 0)
		return vublk_error_set_errno(error, -fd, "cannot create an eventfd");
	change = calloc(1, sizeof(*change));
	if (!change) {
		vublk_fd_close(&fd);
		return vublk_error_set(error, ENOMEM, "cannot allocate the record of a change of "
				       "memory");
	}
	change->blk = blk;
	change->fd = fd;
	change->region.fd = -1;
	pthread_mutex_lock(&blk->lock);
	change->next = blk->changes;
	blk->changes = change;
	pthread_mutex_unlock(&blk->lock);
	*out = change;
	return 0;
}

void vublk_blk_change_free(struct vublk_blk_change *change)
{
	struct vublk_blk *blk = change->blk;
	struct vublk_blk_change **link;

	pthread_mutex_lock(&blk->lock);
	link = &blk->changes;
	while (*link != change)
		link = &(*link)->next;
	*link = change->next;
	pthread_mutex_unlock(&blk->lock);
	vublk_blk_change_deinit(change);
	free(change);
}

void vublk_blk_cancel_changes(struct vublk_blk *blk)
{
	pthread_mutex_lock(&blk->lock);
	for (struct vublk_blk_change *change = blk->changes; change; change = change->next)
		if (!change->ended)
			vublk_inproc_cancel(blk->inproc, &change->region.call);
	pthread_mutex_unlock(&blk->lock);
}

void vublk_blk_free_changes(struct vublk_blk *blk)
{
	while (blk->changes)
		vublk_blk_change_free(blk->changes);
}
