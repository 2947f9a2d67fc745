/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_DISK_H
#define VUBLK_BLK_DISK_H

/*
 * Declares the disk for the files that implement its opening and closing, its memory and its
 * blocking calls.
 */

#include "blk/events.h"
#include "blk/queue.h"
#include "inproc/inproc.h"
#include "util/atomic.h"

#include <vublk/blk.h>

#include <pthread.h>

/* Memory from vublk_blk_alloc(). */
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
	uint64_t offset; /* of the piece, on the disk */
	uint64_t bytes;
};

/*
 * State of the blocking calls. The first call claims the queue.
 *
 * The pair of accesses:
 *   J  the first call stores `queue`, which points to an initialised queue; a thread that loads
 *      `queue` without the lock also sees that queue's constant fields.
 */
struct vublk_blk_blocking {
	pthread_mutex_t lock; /* held for a whole call */
	struct vublk_blk_queue *queue; /* also loaded without the lock */
	char *bounce;
	uint32_t slot_bytes;
	unsigned num_slots;
	unsigned in_flight; /* slots in use; 0 between calls */
	struct vublk_blk_bounce_slot slots[VUBLK_BLK_BOUNCE_SLOTS];
};

enum vublk_blk_phase {
	VUBLK_BLK_PHASE_OPENING, /* not open yet; the application may finish or close */
	VUBLK_BLK_PHASE_FAILED,  /* the opening failed; the application may only close */
	VUBLK_BLK_PHASE_RUNNING, /* the application uses the disk and gets its events */
	VUBLK_BLK_PHASE_CLOSING,
};

struct vublk_blk {
	int opening_fd; /* eventfd; signalled when the phase is no longer OPENING */

	/* constant after open */
	struct vublk_blk_handlers handlers;
	struct vublk_inproc *inproc;
	struct vublk_blk_events events; /* has a lock of its own */
	struct vublk_blk_queue *queues;
	unsigned num_queues;
	unsigned queue_size;
	uint64_t features;

	/* of the disk's thread */
	struct vublk_log_limit limit;
	bool is_lost; /* LOST was reported, and RECONNECTED was not */
	bool config_stale; /* the config changed while the disk was being opened */

	/* under lock */
	pthread_mutex_t lock;
	enum vublk_blk_phase phase; /* also loaded without the lock */
	struct vublk_error open_error; /* in phase FAILED */
	struct vublk_blk_info info;
	struct vublk_blk_allocation *allocations;
	struct vublk_blk_change *changes; /* of the memory, started by the application */
	pthread_cond_t change_ended; /* signalled when a change ends that a call waits for */

	/* under its own lock */
	struct vublk_blk_blocking blocking;

	/* stored by the disk's thread, loaded by the queues' owners; one number needs no lock */
	uint64_t capacity_bytes __attribute__((aligned(VUBLK_CACHE_LINE)));
	struct vublk_blk_flushes flushes; /* changed by the queues' owners, atomically */
};

/* Unmaps the memory that the application did not release. No back-end uses it any more. */
void vublk_blk_free_allocations(struct vublk_blk *blk);

/* The caller holds the lock. */
static inline void vublk_blk_set_phase(struct vublk_blk *blk, enum vublk_blk_phase phase)
{
	vublk_store_release(&blk->phase, phase);
}

static inline bool vublk_blk_is_running(const struct vublk_blk *blk)
{
	return vublk_load_acquire(&blk->phase) == VUBLK_BLK_PHASE_RUNNING;
}

/* Returns 0 in phase RUNNING; otherwise fills `error` and returns -EBUSY. */
int vublk_blk_require_running(const struct vublk_blk *blk, struct vublk_error *error);

/* Fills in the callbacks for the events that occur while the disk runs. */
void vublk_blk_fill_handlers(struct vublk_blk *blk, struct vublk_inproc_handlers *handlers);

/*
 * Reads the config and publishes it, on the disk's thread. The request limits stay as they
 * were when the disk was opened, because the queues read them without a lock.
 */
int vublk_blk_refresh_info(struct vublk_blk *blk, bool *resized, struct vublk_error *error);

/* Frees a disk in any phase, also a disk that is only partly made. */
void vublk_blk_free(struct vublk_blk *blk);

#endif
