/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_CHANGE_H
#define VUBLK_BLK_CHANGE_H

/*
 * A change of a disk's memory: an alloc, register, release or unregister that the disk's thread
 * carries out. The public calls that start changes are in memory.c.
 */

#include "blk/disk.h"

enum vublk_blk_change_kind {
	VUBLK_BLK_CHANGE_ALLOC,
	VUBLK_BLK_CHANGE_REGISTER,
	VUBLK_BLK_CHANGE_RELEASE,
	VUBLK_BLK_CHANGE_UNREGISTER,
};

struct vublk_blk_change {
	struct vublk_inproc_region_call region;
	struct vublk_blk *blk;
	enum vublk_blk_change_kind kind;
	/* The memory of an ALLOC or a RELEASE, which the change owns; otherwise NULL. */
	struct vublk_blk_allocation *allocation;
	int fd;                   /* an eventfd that is signaled when the change has ended; -1: a
				     blocking call waits for the end */

	/* protected by the disk's lock */
	struct vublk_blk_change *next; /* in blk->changes; not used if a blocking call waits for
					  the change */
	bool ended;
	bool canceled;            /* the application has canceled the change and can no longer use
				     it */
	int result;
	struct vublk_error error;
};

/* Unmaps memory from vublk_blk_alloc(). NULL is a no-op. */
void vublk_blk_free_allocation(struct vublk_blk_allocation *allocation);

/*
 * Prepares a change, which the caller then begins. The change owns `allocation` (may be NULL)
 * afterwards.
 */
void vublk_blk_change_init(struct vublk_blk_change *change, struct vublk_blk *blk,
			   enum vublk_blk_change_kind kind,
			   struct vublk_blk_allocation *allocation);
/*
 * Frees all that the change owns, but not the change itself. The change must not have begun, or
 * must have ended.
 */
void vublk_blk_change_deinit(struct vublk_blk_change *change);

/*
 * Makes a change for a call that does not wait: the change has an eventfd, and is in the disk's
 * list.
 */
int vublk_blk_change_new(struct vublk_blk *blk, struct vublk_blk_change **out,
			 struct vublk_error *error);
/*
 * Removes the change from the disk's list and frees it. The change must not have begun, or must
 * have ended.
 */
void vublk_blk_change_free(struct vublk_blk_change *change);

/* Passes the change to the disk's thread. */
void vublk_blk_change_begin(struct vublk_blk_change *change);
/*
 * Waits for the end of the change, and updates the disk accordingly. Returns the result of the
 * change.
 */
int vublk_blk_change_wait(struct vublk_blk_change *change, struct vublk_error *error);

/*
 * Called when the disk is being closed. Cancels the changes in the disk's list that the disk's
 * thread has not begun to carry out.
 */
void vublk_blk_cancel_changes(struct vublk_blk *blk);
/* Called when the disk's thread has ended. Frees all changes in the disk's list. */
void vublk_blk_free_changes(struct vublk_blk *blk);

#endif
