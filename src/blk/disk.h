/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_DISK_H
#define VUBLK_BLK_DISK_H

/* The disk, for the files that implement its open and close, its memory and its blocking calls. */

#include "blk/events.h"
#include "blk/queue.h"
#include "inproc/inproc.h"

#include <vublk/blk.h>

#include <pthread.h>

/* Memory from vublk_blk_alloc(). */
struct vublk_blk_allocation {
	struct vublk_blk_allocation *next;
	void *address;
	uint64_t bytes;
};

/* The bounce buffer of the blocking calls: the number of slots, and the least size of one. */
#define VUBLK_BLK_BOUNCE_SLOTS 8
#define VUBLK_BLK_BOUNCE_SLOT_BYTES (UINT32_C(128) << 10)

struct vublk_blk_bounce_slot {
	bool in_use;
	uint64_t offset; /* of the piece, on the disk */
	uint64_t bytes;
};

/* State of the blocking calls. The first call claims the queue. */
struct vublk_blk_blocking {
	pthread_mutex_t lock; /* held for a whole call */
	struct vublk_blk_queue *queue;
	char *bounce;
	uint32_t slot_bytes;
	unsigned num_slots;
	unsigned in_flight; /* slots in use; 0 between calls */
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
	bool running; /* from the end of open to close: the application gets events */
	bool config_stale; /* the config changed during the open */
	struct vublk_blk_info info;
	struct vublk_error lost; /* why the device gave up; code 0: it did not */
	struct vublk_blk_allocation *allocations;

	/* under its own lock */
	struct vublk_blk_blocking blocking;

	/* stored by the disk's thread, loaded by the queues' owners; one number needs no lock */
	uint64_t capacity_bytes __attribute__((aligned(VUBLK_CACHE_LINE)));
	struct vublk_blk_flushes flushes; /* changed by the queues' owners, atomically */
};

/* Unmaps the memory that the application did not release. No back-end uses it any more. */
void vublk_blk_free_allocations(struct vublk_blk *blk);

#endif
