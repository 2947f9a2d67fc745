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
	/* Owned by the change; NULL except for ALLOC and RELEASE. */
	struct vublk_blk_allocation *allocation;
	int fd;                   /* eventfd, signalled at the end; -1 for a call that waits */

	/* under the disk's lock */
	struct vublk_blk_change *next; /* of blk->changes, unless a call waits for this one */
	bool ended;
	bool canceled;            /* the application has no access to it any more */
	int result;
	struct vublk_error error;
};

/* Unmaps memory from vublk_blk_alloc(). NULL is a no-op. */
void vublk_blk_free_allocation(struct vublk_blk_allocation *allocation);

/* Only fills in the struct. `allocation`, if there is one, is now the change's. */
void vublk_blk_change_init(struct vublk_blk_change *change, struct vublk_blk *blk,
			   enum vublk_blk_change_kind kind,
			   struct vublk_blk_allocation *allocation);
/* Releases all that the change owns, except its own memory. It has not begun, or has ended. */
void vublk_blk_change_deinit(struct vublk_blk_change *change);

/* Makes a change for the application, with a descriptor, in the disk's list. */
int vublk_blk_change_new(struct vublk_blk *blk, struct vublk_blk_change **out,
			 struct vublk_error *error);
/* Removes the change from the list, and frees it. It has not begun, or has ended. */
void vublk_blk_change_free(struct vublk_blk_change *change);

/* Gives the change to the disk's thread. */
void vublk_blk_change_begin(struct vublk_blk_change *change);
/* Waits for the end, and settles the change. */
int vublk_blk_change_wait(struct vublk_blk_change *change, struct vublk_error *error);

/* The disk is being closed: changes that have not begun end without an effect. */
void vublk_blk_cancel_changes(struct vublk_blk *blk);
/* The disk's thread has ended: frees all changes. */
void vublk_blk_free_changes(struct vublk_blk *blk);

#endif
