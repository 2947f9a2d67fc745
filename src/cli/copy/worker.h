/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_COPY_WORKER_H
#define VUBLK_CLI_COPY_WORKER_H

/* One worker of a copy: what copy-run.c prepares, copy-worker.c runs on a thread. */

#include "cli/copy/unflushed.h"
#include "cli/copy/copy.h"
#include "cli/copy/sparse.h"

#include <pthread.h>

/* A hole in a file is no smaller. */
#define VUBLK_COPY_ZERO_UNIT_BYTES 4096

enum vublk_copy_slot_state {
	VUBLK_COPY_SLOT_IDLE,    /* wants a piece */
	VUBLK_COPY_SLOT_READ,    /* is to be read */
	VUBLK_COPY_SLOT_READING, /* the source has it */
	VUBLK_COPY_SLOT_WRITE,   /* is to be written */
	VUBLK_COPY_SLOT_WRITING, /* the destination has it */
	VUBLK_COPY_SLOT_FLUSHING, /* no piece: the slot of the flush */
};

struct vublk_copy_slot {
	enum vublk_copy_slot_state state;
	struct vublk_extent piece;
	unsigned losses;              /* that were known when the piece was handed out */
	unsigned char *buffer;
};

struct vublk_copy_worker {
	struct vublk_copy_run *run;
	struct vublk_blk_queue *from; /* NULL: a file */
	struct vublk_blk_queue *to;
	struct vublk_copy_slot *slots;
	uint64_t moved_ns;            /* when something was completed last */
	struct vublk_error error;     /* code 0: none; read when the thread has ended */
};

/* What all workers share. */
struct vublk_copy_run {
	struct vublk_copy *copy;
	pthread_mutex_t lock;
	struct vublk_sparse pieces;  /* under the lock */
	struct vublk_copy_unflushed unflushed; /* under the lock */
	struct vublk_copy_slot flush; /* of the worker that flushes, the first */
	struct vublk_cli_limit loss_limit;
	bool zeroes;                 /* the destination can be told that a piece is zero */
	unsigned stop;               /* hand out no more pieces; atomic */
	unsigned char *buffers;
	size_t buffer_bytes;
	struct vublk_copy_worker *workers;
	struct vublk_copy_slot *slots;
};

/* The destination says that writes may be lost: what is not stable is to be copied again. */
int vublk_copy_lose(struct vublk_copy_run *run, struct vublk_error *error);

/* The thread's function; its member is a struct vublk_copy_worker. */
void vublk_copy_work(void *member);

#endif
