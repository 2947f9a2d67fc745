/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_DISK_H
#define VUBLK_BLK_DISK_H

/* The disk itself: what its queues and its memory have in common. */

#include "blk/queue.h"
#include "inproc/inproc.h"

#include <vublk/blk.h>

#include <pthread.h>

/* A piece of memory that vublk_blk_alloc() handed out. */
struct vublk_blk_allocation {
	struct vublk_blk_allocation *next;
	void *address;
	uint64_t bytes;
};

struct vublk_blk {
	/* constant after open */
	struct vublk_blk_handlers handlers;
	struct vublk_inproc *bus;
	struct vublk_blk_queue *queues;
	unsigned num_queues;
	unsigned queue_size;
	uint64_t features;

	/* the disk's thread's */
	struct vublk_log_limit limit;

	/* under lock */
	pthread_mutex_t lock;
	bool running; /* the application has the disk: it is told of events */
	bool config_stale; /* the config changed before that */
	struct vublk_blk_info info;
	struct vublk_error lost; /* code 0: the back-end is there */
	struct vublk_blk_allocation *allocations;

	/* stored by the disk's thread, loaded by the queues' owners; a number by itself */
	uint64_t capacity_bytes __attribute__((aligned(VUBLK_CACHE_LINE)));
	struct vublk_blk_flushes flushes; /* the queues' owners */
};

/* Unmaps what the application did not release; the back-end has no part in it any more. */
void vublk_blk_free_allocations(struct vublk_blk *blk);

#endif
