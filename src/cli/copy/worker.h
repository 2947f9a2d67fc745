/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_COPY_WORKER_H
#define VUBLK_CLI_COPY_WORKER_H

/* One worker of a copy. run.c prepares it, and worker.c runs it on a thread of its own. */

#include "cli/copy/unflushed.h"
#include "cli/copy/copy.h"
#include "cli/copy/sparse.h"

#include <pthread.h>

/* Zeroes are detected, and left out of a file, in units of this size. */
#define VUBLK_COPY_ZERO_UNIT_BYTES 4096

enum vublk_copy_slot_state {
	VUBLK_COPY_SLOT_IDLE,    /* the slot has no piece */
	VUBLK_COPY_SLOT_READ,    /* the piece has to be read */
	VUBLK_COPY_SLOT_READING, /* the source is reading the piece */
	VUBLK_COPY_SLOT_WRITE,   /* the piece has to be written */
	VUBLK_COPY_SLOT_WRITING, /* the destination is writing the piece */
	VUBLK_COPY_SLOT_FLUSHING, /* a flush is in flight; only in vublk_copy_run.flush, which has
				     no piece */
};

struct vublk_copy_slot {
	enum vublk_copy_slot_state state;
	struct vublk_extent piece;
	unsigned losses;              /* the value of unflushed.losses when the piece was taken */
	unsigned char *buffer;
};

struct vublk_copy_worker {
	struct vublk_copy_run *run;
	struct vublk_blk_queue *from; /* NULL: the source is not a disk */
	struct vublk_blk_queue *to;
	struct vublk_copy_slot *slots;
	uint64_t moved_ns;            /* when a request last completed */
	struct vublk_error error;     /* code 0: no error; read after the thread has ended */
};

/* Shared by all workers. */
struct vublk_copy_run {
	struct vublk_copy *copy;
	pthread_mutex_t lock;
	struct vublk_sparse pieces;  /* protected by the lock */
	struct vublk_copy_unflushed unflushed; /* protected by the lock */
	struct vublk_copy_slot flush; /* the slot of the flush; used by the first worker */
	struct vublk_cli_limit loss_limit;
	bool zeroes;                 /* zeroes are not written as data: the disk zeroes a range
					itself, or the file may have holes */
	unsigned stop;               /* atomic; the workers have to end as soon as possible */
	unsigned char *buffers;
	size_t buffer_bytes;
	struct vublk_copy_worker *workers;
	struct vublk_copy_slot *slots;
};

/*
 * Must be called when the destination reports lost writes. Schedules all pieces that are not stable
 * to be copied again. Returns 0 or -ENOMEM.
 */
int vublk_copy_redo_unflushed(struct vublk_copy_run *run, struct vublk_error *error);

/* The thread function of a worker. `member` is a struct vublk_copy_worker. */
void vublk_copy_work(void *member);

#endif
