/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_DISK_H
#define VUBLK_BLK_DISK_H

/* The disk itself, which its queues, its memory and its blocking calls share. */

#include "blk/events.h"
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

/* The bounce buffer of the blocking calls: the most pieces in flight, and the size of each. */
#define VUBLK_BLK_BOUNCE_SLOTS 8
#define VUBLK_BLK_BOUNCE_SLOT_BYTES (UINT32_C(128) << 10)

struct vublk_blk_bounce_slot {
	bool in_use;
	uint64_t offset; /* of the piece on the disk */
	uint64_t bytes;
};

/* State of the blocking calls, filled by the first of them. */
struct vublk_blk_blocking {
	pthread_mutex_t lock; /* held for a whole call */
	struct vublk_blk_queue *queue;
	char *bounce;
	uint32_t slot_bytes;
	unsigned num_slots;
	unsigned in_flight; /* slots in use; 0 between two calls */
	struct vublk_blk_bounce_slot slots[VUBLK_BLK_BOUNCE_SLOTS];
};

struct vublk_blk {
	/* constant after open */
	struct vublk_blk_handlers handlers;
	struct vublk_inproc *inproc;
	struct vublk_blk_events events; /* has a lock of its own */
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

	/* under its own lock */
	struct vublk_blk_blocking blocking;

	/* stored by the disk's thread, loaded by the queues' owners; a number by itself */
	uint64_t capacity_bytes __attribute__((aligned(VUBLK_CACHE_LINE)));
	struct vublk_blk_flushes flushes; /* the queues' owners */
};

/* Unmaps what the application did not release; the back-end has no part in it any more. */
void vublk_blk_free_allocations(struct vublk_blk *blk);

#endif
