/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_COPY_COPY_H
#define VUBLK_CLI_COPY_COPY_H

/*
 * Copies between files and disks.
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

/* The source or the destination: a file, a block device, or a disk behind a socket. */
struct vublk_copy_end {
	const char *path;
	struct vublk_blk *blk;       /* NULL: a file or block device */
	struct vublk_disk_watch watch; /* of the disk */
	struct vublk_blk_info info;  /* of a disk */
	int fd;                      /* of a file or block device; -1: a disk */
	bool block_device;
	uint64_t bytes;              /* the size; 0 for a file that the copy creates */
	uint32_t block_bytes;        /* offsets and sizes of requests are multiples of this number,
					except at the end of a disk; 1 for a file */
};

struct vublk_copy {
	struct vublk_copy_end from;
	struct vublk_copy_end to;
	uint64_t bytes;              /* how many bytes to copy */
	uint32_t request_bytes;      /* a power of two, and a multiple of both block sizes */
	unsigned num_requests;       /* how many requests a worker keeps in flight */
	unsigned num_queues;
	bool allocated;              /* zeroes are written and occupy space; the destination gets no
					holes */
	bool resumes;                /* the copy continues after the loss of a back-end; see
					unflushed.h */
	uint64_t flush_bytes;        /* if `resumes`: a flush is due after at most this many written
					bytes */
	unsigned stall_ms;           /* the copy fails after this time without a completion */

	uint64_t done;               /* bytes copied so far; atomic */
};

/*
 * vublk_copy_run() and vublk_copy_flush() call this function every VUBLK_COPY_TICK_MS, on the
 * thread of their caller. If this function returns true, the copy stops.
 */
typedef bool vublk_copy_tick_fn(void *opaque, const struct vublk_copy *copy);
#define VUBLK_COPY_TICK_MS 100

/* --- end.c ------------------------------------------------------------------- */

/*
 * Opens source and destination, and checks that the data fits. `size` is the number of bytes to
 * copy; 0: the whole source. A failure changes no existing data, but a destination file may have
 * been created. The caller must call vublk_copy_close() even after a failure.
 */
int vublk_copy_open(struct vublk_copy *copy, const char *from, const char *to, uint64_t size,
		    const struct vublk_disk_options *disk, struct vublk_error *error);

/* If the destination is a file, makes it one large hole of the final size. */
int vublk_copy_begin(struct vublk_copy *copy, struct vublk_error *error);

/*
 * Makes all data that was written to the destination stable. `tick` may be NULL. Returns 0 or a
 * negative errno; -ECANCELED means that `tick` has returned true.
 */
int vublk_copy_flush(struct vublk_copy *copy, vublk_copy_tick_fn *tick, void *opaque,
		     struct vublk_error *error);

void vublk_copy_close(struct vublk_copy *copy);

/* --- run.c ------------------------------------------------------------------- */

int vublk_copy_run(struct vublk_copy *copy, vublk_copy_tick_fn *tick, void *opaque,
		   struct vublk_error *error);

#endif
