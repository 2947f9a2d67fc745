/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_DISK_H
#define VUBLK_BLK_DISK_H

/*
 * The disk, as seen by the files that open and close it, manage its memory and implement its
 * blocking calls.
 */

#include "blk/events.h"
#include "blk/queue.h"
#include "inproc/inproc.h"
#include "util/atomic.h"

#include <vublk/blk.h>

#include <pthread.h>

/* Memory that vublk_blk_alloc() or vublk_blk_alloc_start() allocated. */
struct vublk_blk_allocation {
	struct vublk_blk_allocation *next;
	void *address;
	uint64_t bytes;
};

/*
 * The bounce buffer of the blocking calls: the largest number of slots, and the smallest size of a
 * slot.
 */
#define VUBLK_BLK_BOUNCE_SLOTS 8
#define VUBLK_BLK_BOUNCE_SLOT_BYTES (UINT32_C(128) << 10)

struct vublk_blk_bounce_slot {
	bool in_use;
	uint64_t offset; /* the piece's place on the disk */
	uint64_t bytes;
};

/*
 * The state of the blocking calls. The first call claims a queue for all of them.
 *
 * The pair of accesses:
 *   J  the first call stores `queue`, which points to an initialized queue; a thread that loads
 *      `queue` without the lock also sees that queue's constant fields.
 */
struct vublk_blk_blocking {
	pthread_mutex_t lock; /* held for a whole call */
	struct vublk_blk_queue *queue; /* may also be loaded without the lock */
	char *bounce;
	uint32_t slot_bytes;
	unsigned num_slots;
	unsigned in_flight; /* how many slots are in use; 0 between calls */
	struct vublk_blk_bounce_slot slots[VUBLK_BLK_BOUNCE_SLOTS];
};

enum vublk_blk_phase {
	VUBLK_BLK_PHASE_OPENING, /* the open has not ended; vublk_blk_open_start() says which calls
				    are permitted */
	VUBLK_BLK_PHASE_FAILED,  /* the open has failed; the calls of OPENING are permitted */
	VUBLK_BLK_PHASE_RUNNING, /* the disk is open, and reports its events */
	VUBLK_BLK_PHASE_CLOSING,
};

struct vublk_blk {
	int opening_fd; /* an eventfd, signalled when the phase is no longer OPENING */

	/* constant after open */
	struct vublk_blk_handlers handlers;
	struct vublk_inproc *inproc;
	struct vublk_blk_events events; /* has a lock of its own */
	struct vublk_blk_queue *queues;
	struct vublk_blk_replay *replay; /* NULL: unflushed is not replay, or FLUSH was not
					    offered */
	unsigned num_queues;
	unsigned queue_size;
	uint64_t features;

	/* used by the disk's thread */
	struct vublk_log_limit limit;
	bool is_lost; /* LOST was reported, and RECONNECTED has not followed */
	bool config_stale; /* the config changed while the disk was being opened */

	/* protected by `lock` */
	pthread_mutex_t lock;
	enum vublk_blk_phase phase; /* may also be loaded without the lock */
	struct vublk_error open_error; /* why the open failed; valid in phase FAILED */
	struct vublk_blk_info info;
	struct vublk_blk_allocation *allocations;
	struct vublk_blk_change *changes; /* those begun by vublk_blk_alloc_start() and similar
					     calls */
	pthread_cond_t change_ended; /* signalled when a change for which a blocking call waits has
					ended */

	/* protected by its own lock */
	struct vublk_blk_blocking blocking;

	/* used by any thread without a lock; only the disk's thread stores capacity_bytes */
	uint64_t capacity_bytes __attribute__((aligned(VUBLK_CACHE_LINE)));
	struct vublk_blk_flushes flushes; /* the counters are changed atomically */
};

/* Unmaps the memory that the application did not release. Called after the bus was freed. */
void vublk_blk_free_allocations(struct vublk_blk *blk);

/* Changes the phase. The caller must hold blk->lock. */
static inline void vublk_blk_set_phase(struct vublk_blk *blk, enum vublk_blk_phase phase)
{
	vublk_store_release(&blk->phase, phase);
}

static inline bool vublk_blk_is_running(const struct vublk_blk *blk)
{
	return vublk_load_acquire(&blk->phase) == VUBLK_BLK_PHASE_RUNNING;
}

/* Returns 0 in phase RUNNING; otherwise -EBUSY. */
int vublk_blk_require_running(const struct vublk_blk *blk, struct vublk_error *error);

/*
 * Fills in the callbacks that blk.c implements. open.c fills in the other two, realized() and
 * started().
 */
void vublk_blk_fill_handlers(struct vublk_blk *blk, struct vublk_inproc_handlers *handlers);

/*
 * Reads the config and updates blk->info. Stores in `resized` whether the capacity has changed.
 * Called on the disk's thread. The queues keep the request limits that they got when the disk was
 * opened, because they read these limits without a lock. EPROTO: the config is invalid, and nothing
 * was changed.
 */
int vublk_blk_refresh_info(struct vublk_blk *blk, bool *resized, struct vublk_error *error);

/* Frees a disk in any phase, even if its initialization failed half-way. */
void vublk_blk_free(struct vublk_blk *blk);

#endif
