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

/* Memory that vublk_blk_alloc() allocated. */
struct vublk_blk_allocation {
	struct vublk_blk_allocation *next;
	void *address;
	uint64_t bytes;
};

/* The bounce buffer of the blocking calls: the number of slots, and the smallest size of a slot. */
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
 *   J  the first call stores `queue`, which points to an initialised queue; a thread that loads
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
	VUBLK_BLK_PHASE_OPENING, /* not open yet; the application may only finish the open, or
				    close the disk */
	VUBLK_BLK_PHASE_FAILED,  /* the open failed, and the application may only close the disk */
	VUBLK_BLK_PHASE_RUNNING, /* the application uses the disk and gets its events */
	VUBLK_BLK_PHASE_CLOSING,
};

struct vublk_blk {
	int opening_fd; /* an eventfd, signalled when the phase is no longer OPENING */

	/* constant after open */
	struct vublk_blk_handlers handlers;
	struct vublk_inproc *inproc;
	struct vublk_blk_events events; /* has a lock of its own */
	struct vublk_blk_queue *queues;
	struct vublk_blk_replay *replay; /* NULL: unflushed is not replay */
	unsigned num_queues;
	unsigned queue_size;
	uint64_t features;

	/* used by the disk's thread */
	struct vublk_log_limit limit;
	bool is_lost; /* LOST was reported, but RECONNECTED was not */
	bool config_stale; /* the config changed while the disk was being opened */

	/* protected by `lock` */
	pthread_mutex_t lock;
	enum vublk_blk_phase phase; /* may also be loaded without the lock */
	struct vublk_error open_error; /* why the open failed; valid in phase FAILED */
	struct vublk_blk_info info;
	struct vublk_blk_allocation *allocations;
	struct vublk_blk_change *changes; /* the changes that calls which do not wait have
					     started */
	pthread_cond_t change_ended; /* signalled when a change for which a blocking call waits
					has ended */

	/* protected by its own lock */
	struct vublk_blk_blocking blocking;

	/* stored by the disk's thread and loaded by the queues' owners, without a lock */
	uint64_t capacity_bytes __attribute__((aligned(VUBLK_CACHE_LINE)));
	struct vublk_blk_flushes flushes; /* changed by the queues' owners, atomically */
};

/*
 * Unmaps the memory that the application did not release. No back-end may use that memory any more.
 */
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

/* Returns 0 in phase RUNNING; otherwise -EBUSY and a sentence. */
int vublk_blk_require_running(const struct vublk_blk *blk, struct vublk_error *error);

/* Fills in the callbacks of blk.c. open.c supplies the callbacks of the open. */
void vublk_blk_fill_handlers(struct vublk_blk *blk, struct vublk_inproc_handlers *handlers);

/*
 * Reads the config and updates blk->info. Sets `resized` if the capacity has changed. Called on the
 * disk's thread. The request limits stay as they were when the disk was opened, because the queues
 * read them without a lock.
 */
int vublk_blk_refresh_info(struct vublk_blk *blk, bool *resized, struct vublk_error *error);

/* Frees a disk in any phase, even one that is only partly made. */
void vublk_blk_free(struct vublk_blk *blk);

#endif
