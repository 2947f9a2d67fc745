/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_COPY_WORKER_H
#define VUBLK_CLI_COPY_WORKER_H

/* One worker of a copy, which run.c prepares and worker.c runs on a thread. */

#include "cli/copy/unflushed.h"
#include "cli/copy/copy.h"
#include "cli/copy/sparse.h"

#include <pthread.h>

/* The smallest hole that is made in a file. */
#define VUBLK_COPY_ZERO_UNIT_BYTES 4096

enum vublk_copy_slot_state {
	VUBLK_COPY_SLOT_IDLE,    /* has no piece */
	VUBLK_COPY_SLOT_READ,    /* has to be read */
	VUBLK_COPY_SLOT_READING, /* the source is reading it */
	VUBLK_COPY_SLOT_WRITE,   /* has to be written */
	VUBLK_COPY_SLOT_WRITING, /* the destination is writing it */
	VUBLK_COPY_SLOT_FLUSHING, /* the slot of the flush, which has no piece */
};

struct vublk_copy_slot {
	enum vublk_copy_slot_state state;
	struct vublk_extent piece;
	unsigned losses;              /* number of losses when the piece was taken */
	unsigned char *buffer;
};

struct vublk_copy_worker {
	struct vublk_copy_run *run;
	struct vublk_blk_queue *from; /* NULL: a file */
	struct vublk_blk_queue *to;
	struct vublk_copy_slot *slots;
	uint64_t moved_ns;            /* the last completion */
	struct vublk_error error;     /* code 0: none; read after the thread has ended */
};

/* Shared by all workers. */
struct vublk_copy_run {
	struct vublk_copy *copy;
	pthread_mutex_t lock;
	struct vublk_sparse pieces;  /* under the lock */
	struct vublk_copy_unflushed unflushed; /* under the lock */
	struct vublk_copy_slot flush; /* used by the first worker, which flushes */
	struct vublk_cli_limit loss_limit;
	bool zeroes;                 /* the destination has a request for zeroes, or can have holes */
	unsigned stop;               /* end as soon as possible; atomic */
	unsigned char *buffers;
	size_t buffer_bytes;
	struct vublk_copy_worker *workers;
	struct vublk_copy_slot *slots;
};

/* The destination reports lost writes: schedules all unstable pieces to be copied again. */
int vublk_copy_redo_unflushed(struct vublk_copy_run *run, struct vublk_error *error);

/* The thread's function; `member` is a struct vublk_copy_worker. */
void vublk_copy_work(void *member);

#endif
