/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_COPY_COPY_H
#define VUBLK_CLI_COPY_COPY_H

/*
 * Copying between files and disks.
 *
 *   copy.c         the command: options, what is refused, progress
 *   copy-end.c     the two ends: opened, measured, made ready, flushed
 *   copy-run.c     the workers' common life: buffers, threads, progress
 *   copy-worker.c  one worker: the data path
 *   copy-unflushed.c  which pieces are copied again when a back-end is lost
 */

#include "cli/disk.h"
#include "cli/disk-watch.h"

#include <vublk/blk.h>

#include <stdbool.h>
#include <stdint.h>

/* A file, a block device, or a disk behind a socket. */
struct vublk_copy_end {
	const char *path;
	struct vublk_blk *blk;       /* NULL: it is a file */
	struct vublk_disk_watch watch; /* of the disk */
	struct vublk_blk_info info;  /* of a disk */
	int fd;                      /* of a file; -1: it is a disk */
	bool block_device;
	uint64_t bytes;              /* 0 for a file that is to be made */
	uint32_t block_bytes;        /* what its requests are multiples of; 1 for a file */
};

struct vublk_copy {
	struct vublk_copy_end from;
	struct vublk_copy_end to;
	uint64_t bytes;              /* to copy */
	uint32_t request_bytes;      /* a power of two, a multiple of both block sizes */
	unsigned num_requests;       /* in flight on each queue */
	unsigned num_queues;
	bool allocated;              /* make no holes */
	bool resumes;                /* after the loss of a back-end; see copy-unflushed.h */
	uint64_t flush_bytes;        /* then the destination is flushed after so many at most */
	unsigned stall_ms;           /* without a completion, after which a back-end is given up */

	uint64_t done;               /* bytes that are there; atomic, read while it runs */
};

/* Called every VUBLK_COPY_TICK_MS on the thread that called vublk_copy_run(); true: stop. */
typedef bool vublk_copy_tick_fn(void *opaque, const struct vublk_copy *copy);
#define VUBLK_COPY_TICK_MS 100

/* --- copy-end.c --------------------------------------------------------------- */

/*
 * Opens both ends and sees whether they fit; nothing has changed when this fails
 * (a file that did not exist may have been made). `size`: copy so many bytes; 0: all.
 * To be closed in any case.
 */
int vublk_copy_open(struct vublk_copy *copy, const char *from, const char *to, uint64_t size,
		    const struct vublk_disk_options *disk, struct vublk_error *error);

/* Gives a file that is written its size, all of it a hole. */
int vublk_copy_begin(struct vublk_copy *copy, struct vublk_error *error);

/* Makes what was written stable. `tick` may be NULL. -ECANCELED: it said stop. */
int vublk_copy_flush(struct vublk_copy *copy, vublk_copy_tick_fn *tick, void *opaque,
		     struct vublk_error *error);

void vublk_copy_close(struct vublk_copy *copy);

/* --- copy-run.c --------------------------------------------------------------- */

int vublk_copy_run(struct vublk_copy *copy, vublk_copy_tick_fn *tick, void *opaque,
		   struct vublk_error *error);

#endif
