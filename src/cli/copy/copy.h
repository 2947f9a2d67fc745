/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_COPY_COPY_H
#define VUBLK_CLI_COPY_COPY_H

/*
 * Copying between files and disks.
 *
 *   copy.c       the command: options and progress
 *   end.c        source and destination: open, check, flush, close
 *   run.c        all workers together: buffers, threads
 *   worker.c     one worker: the data path
 *   unflushed.c  which pieces are copied again when a back-end is lost
 *   sparse.c     holes and zeroes
 */

#include "cli/disk.h"
#include "cli/disk-watch.h"

#include <vublk/blk.h>

#include <stdbool.h>
#include <stdint.h>

/* A file, a block device, or a disk behind a socket. */
struct vublk_copy_end {
	const char *path;
	struct vublk_blk *blk;       /* NULL: a file */
	struct vublk_disk_watch watch; /* of the disk */
	struct vublk_blk_info info;  /* of a disk */
	int fd;                      /* of a file; -1: a disk */
	bool block_device;
	uint64_t bytes;              /* 0 for a file that is created */
	uint32_t block_bytes;        /* requests are multiples of it; 1 for a file */
};

struct vublk_copy {
	struct vublk_copy_end from;
	struct vublk_copy_end to;
	uint64_t bytes;              /* to copy */
	uint32_t request_bytes;      /* a power of two, and a multiple of both block sizes */
	unsigned num_requests;       /* in flight per queue */
	unsigned num_queues;
	bool allocated;              /* write zeroes instead of making holes */
	bool resumes;                /* after the loss of a back-end; see unflushed.h */
	uint64_t flush_bytes;        /* if it resumes, a flush begins after this many bytes */
	unsigned stall_ms;           /* the copy fails after this time without a completion */

	uint64_t done;               /* bytes copied so far; atomic */
};

/* Called every VUBLK_COPY_TICK_MS on the thread that called vublk_copy_run(); true: stop. */
typedef bool vublk_copy_tick_fn(void *opaque, const struct vublk_copy *copy);
#define VUBLK_COPY_TICK_MS 100

/* --- end.c ------------------------------------------------------------------- */

/*
 * Opens both ends and checks that the data fits. `size` is the number of bytes to copy; 0: all. On
 * failure no existing data has changed, but the destination file may have been created.
 * vublk_copy_close() must be called in both cases.
 */
int vublk_copy_open(struct vublk_copy *copy, const char *from, const char *to, uint64_t size,
		    const struct vublk_disk_options *disk, struct vublk_error *error);

/* Sets the size of a destination file, which makes the file one large hole. */
int vublk_copy_begin(struct vublk_copy *copy, struct vublk_error *error);

/* Makes all written data stable. `tick` may be NULL. -ECANCELED: `tick` returned true. */
int vublk_copy_flush(struct vublk_copy *copy, vublk_copy_tick_fn *tick, void *opaque,
		     struct vublk_error *error);

void vublk_copy_close(struct vublk_copy *copy);

/* --- run.c ------------------------------------------------------------------- */

int vublk_copy_run(struct vublk_copy *copy, vublk_copy_tick_fn *tick, void *opaque,
		   struct vublk_error *error);

#endif
