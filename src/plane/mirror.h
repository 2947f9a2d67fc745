/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PLANE_MIRROR_H
#define VUBLK_PLANE_MIRROR_H

/*
 * The mirror copies the disk from its back-end, the source, to a second back-end, the target, and
 * keeps both identical while the driver uses the disk. Reads go to the source. A request that goes
 * to both back-ends completes when both have completed it, with the source's status.
 *
 * Key idea: the disk is divided into regions. A write to a region that has not been copied goes to
 * the source only. While a region is being copied, writes to it wait. Afterwards they go to both
 * back-ends. So one pass copies the disk under any load. order.h orders the copies among the
 * writes, so a copy waits for earlier writes, and later writes wait for the copy.
 *
 * The driver may change its buffers while the back-ends read them. So the plane copies the data of
 * a write to both back-ends' memory before it submits the write, and both get the same bytes.
 *
 * Discards, write zeroes, secure erases and writes of more than VUBLK_PLANE_MIRROR_MAX_WRITE bytes
 * go to the source only. Until their regions have been copied again, the target is behind in these
 * regions. While it is behind in VUBLK_PLANE_MIRROR_MAX_BEHIND regions, further such requests to
 * synced regions wait, unless other writes wait for them. So after the first pass the target is
 * never far behind, under any load. Before a switch to the target, the regions in which it is still
 * behind are copied while new requests wait.
 *
 * With a state file (mirror-state.h), the next process can resume the mirror. The following rules
 * make that safe, no matter when this process is killed:
 *
 * 1. A region that is not marked in the file has the same data on both disks, and the data is
 *    stable on both.
 * 2. A write is submitted, to either side, only when the marks of its regions are stable. Discards
 *    and write zeroes count as writes. Each submission checks the marks again.
 * 3. A mark is removed only if the region is SYNCED, no write to it is outstanding, and both sides
 *    have succeeded in a flush that began after the last write to the region had ended on both. The
 *    mirror submits flushes of its own, because the driver may submit none.
 * 4. While the file says that there is a mirror, no write is submitted without a mark, not even
 *    before the mirror is resumed or after it has failed. Writes wait while the owner changes the
 *    file.
 */
#include "plane/bucket.h"
#include "plane/mirror-state.h"
#include "plane/order.h"
#include "plane/region.h"

#include <vublk/error.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vublk_plane;
struct vublk_plane_side;
struct vublk_plane_side_queue;
struct vublk_plane_slot;

/*
 * The usual size of a region, and the largest number of regions. Large disks have larger regions.
 */
#define VUBLK_PLANE_MIRROR_REGION_BYTES (UINT64_C(1) << 20)
#define VUBLK_PLANE_MIRROR_MAX_REGIONS (UINT64_C(1) << 22)
#define VUBLK_PLANE_MIRROR_MAX_WRITE (VUBLK_PLANE_MIRROR_CHUNKS / 2 * VUBLK_PLANE_MIRROR_CHUNK)
#define VUBLK_PLANE_MIRROR_MAX_BEHIND 32

enum vublk_plane_mirror_state {
	VUBLK_PLANE_MIRROR_DIRTY,   /* the target does not have the region's data */
	VUBLK_PLANE_MIRROR_COPYING, /* the region is being copied, or waits for earlier writes */
	VUBLK_PLANE_MIRROR_BEHIND,  /* was SYNCED, and then written at the source only */
	VUBLK_PLANE_MIRROR_COPYING_AGAIN, /* like COPYING, but was BEHIND */
	VUBLK_PLANE_MIRROR_SYNCED,  /* the source and the target have the same data */
	VUBLK_PLANE_MIRROR_NUM_STATES,
};

/* The part of a slot that belongs to the mirror. All zero: the request is not mirrored. */
struct vublk_plane_mirrored {
	bool was_sent;      /* the request was submitted to both back-ends, perhaps to a source that
			       has been lost since then */
	bool is_on_source, is_on_target; /* the source, or the target, has the request and has not
					    completed it */
	bool is_parked;     /* the request is held, but in no ready list. A write waits for its
			       marks in the state file or for copies. A flush waits for the mirror's
			       own flush. */
	bool awaits_copies; /* the write is parked until the target is less behind */
	uint8_t status;     /* the status from the source, if the source has completed the
			       request */
	uint16_t token;     /* on the target's ring */
	uint16_t chunk, num_chunks; /* the chunks of the pool that have the request's data */
	uint64_t mark;      /* of a flush: the epoch that it ends (vublk_plane_mirror.epoch) */
};

/* A chain on one of the target's rings. */
struct vublk_plane_mirror_chain {
	struct vublk_plane_slot *slot; /* NULL: the chain belongs to a copy, or to a request that
					  was dropped */
	uint16_t chunk, num_chunks;    /* of a dropped request */
	int copy;                      /* the index of the copy; -1: the chain belongs to no copy */
};

enum vublk_plane_mirror_copy_phase {
	VUBLK_PLANE_MIRROR_COPY_FREE,
	VUBLK_PLANE_MIRROR_COPY_BLOCKED,    /* waits for earlier writes to the region */
	VUBLK_PLANE_MIRROR_COPY_TO_READ,    /* the next piece is to be read from the source */
	VUBLK_PLANE_MIRROR_COPY_READING,
	VUBLK_PLANE_MIRROR_COPY_TO_WRITE,   /* the piece is to be written to the target */
	VUBLK_PLANE_MIRROR_COPY_WRITING,
	VUBLK_PLANE_MIRROR_COPY_ABANDONED,  /* the copy has ended, but a back-end still has a piece
					       of it */
};

/*
 * A region that is being copied piece by piece; or a flush of both back-ends. In a flush, the
 * source flushes in place of the read, and then the target flushes in place of the write.
 */
struct vublk_plane_mirror_copy {
	enum vublk_plane_mirror_copy_phase phase;
	bool is_flush;
	uint64_t mark; /* of a flush: the epoch that it ends (vublk_plane_mirror.epoch) */
	size_t region;
	uint64_t offset, end; /* the part of the disk that is still to be copied, in bytes */
	uint32_t bytes;       /* of the current piece */
	uint16_t token;       /* on the source's ring, while is_reading */
	bool is_reading;      /* the source has not completed the read or the flush; may also be set
				 while ABANDONED */
	struct vublk_order_write order;
};

struct vublk_plane_mirror {
	struct vublk_plane_side *target; /* NULL: no mirror is active. The struct then exists
					    because the source still uses the mirror's memory,
					    writes need marks, or writes wait (is_closed) */
	struct vublk_mirror_state *state; /* where writes are marked; NULL: nowhere */
	bool is_closed; /* writes wait until the owner has changed the state file */
	bool wants_sync; /* the next round has to request a sync of the state file */
	bool awaits_marks; /* there are slots that are parked until their marks are stable */
	vublk_mirror_state_ticket ticket; /* if awaits_marks is set, the ticket of the first of
					     these marks */
	bool awaits_copies; /* there are slots that are parked until the target is less behind */
	bool catches_up; /* set by vublk_plane_mirror_catch_up() */
	size_t max_behind; /* VUBLK_PLANE_MIRROR_MAX_BEHIND; smaller in tests */
	uint64_t *unclear; /* one bit per region; 1: the region's mark has to be removed when that
			      is safe */
	uint64_t tick_ns;  /* when marks are removed next */
	bool wants_flush;  /* after a flush, more marks could be removed */
	uint64_t bytes, region_bytes;
	size_t num_regions;
	uint8_t *states;   /* of the regions; NULL: there is no target, and writes are only
			      marked */
	uint64_t *epochs;  /* for each region, the epoch of its last write */
	/*
	 * When a flush is submitted, an epoch ends and the next one begins. All writes of epochs up
	 * to `flushed` are stable.
	 */
	uint64_t epoch, flushed;
	size_t count[VUBLK_PLANE_MIRROR_NUM_STATES]; /* how many regions have this state */
	size_t next; /* where the search for the next region begins */
	bool is_lost; /* the source was lost, perhaps together with writes that were not flushed */
	bool was_synced;
	struct vublk_bucket bucket;
	struct vublk_plane_mirror_copy copies[VUBLK_PLANE_MIRROR_COPIES];
	struct vublk_plane_mirror_chain **chains; /* per queue, by token on the target's ring */
	unsigned num_queues;
	unsigned num_on_target; /* chains that the target has not completed */
	unsigned num_dropped;   /* how many of these chains were dropped or abandoned */
	uint64_t progress_ns;   /* when the target last completed a chain, or got the first one */
	uint64_t timeout_ns;
	uint64_t used_chunks[VUBLK_PLANE_MIRROR_CHUNKS / 64]; /* one bit per chunk */
	struct vublk_plane_slot *waiting; /* the first write for which the pool has no room */
	struct vublk_ring_buffer *segments; /* scratch space for the segments of one request */
	unsigned max_segments;
	struct vublk_error failure; /* why the mirror has to end; code 0: it need not */
	bool was_reported; /* the owner knows of the failure */
};

struct vublk_plane_mirror_setup {
	struct vublk_plane_side *target; /* its back-end must run the rings */
	/*
	 * Borrowed until vublk_plane_mirror_close(); NULL: no file. vublk_mirror_state_begin() must
	 * have been called with the same size and region size. Only the marked regions are copied.
	 */
	struct vublk_mirror_state *state;
	uint64_t bytes;      /* the size of the disk; a multiple of 512 */
	uint64_t region_bytes; /* a power of two, at least 512; 0: depends on the disk's size */
	uint64_t rate;       /* the largest number of bytes copied per second; 0: no limit */
	uint64_t timeout_ms; /* how long the target may have requests and complete none of them */
};

struct vublk_plane_mirror_info {
	bool is_active;
	bool is_idle; /* the target has completed all requests */
	uint64_t bytes, rate;
	uint64_t synced_bytes; /* of regions that were copied, including those in which the target
				  is behind */
	uint64_t behind_bytes; /* of regions in which the target is behind */
};

/* Whether and where a request can be submitted now. */
enum vublk_plane_mirror_admission {
	VUBLK_PLANE_MIRROR_WAIT, /* waits in the ready list */
	VUBLK_PLANE_MIRROR_PARK, /* waits in no ready list, so later requests may overtake it; see
				    is_parked */
	VUBLK_PLANE_MIRROR_SOURCE_ONLY,
	VUBLK_PLANE_MIRROR_BOTH, /* the data of a write is in the pool */
};

/* --- mirror.c: life, regions, the pool --------------------------------------------------- */

/*
 * Begins to mirror. The target is borrowed until the mirror has ended. May follow
 * vublk_plane_mirror_record() and vublk_plane_mirror_close(), and then resumes the writes that
 * wait. Errors: EBUSY if there is a mirror or the previous one has not ended completely, EINVAL if
 * the state file is for another size, ENOMEM.
 */
int vublk_plane_mirror_begin(struct vublk_plane *plane, const struct vublk_plane_mirror_setup *setup,
			     struct vublk_error *error);
/* Frees the mirror. No chain may refer to the mirror. Does nothing without a mirror. */
void vublk_plane_mirror_free(struct vublk_plane *plane);
void vublk_plane_mirror_set_rate(struct vublk_plane *plane, uint64_t rate);
void vublk_plane_mirror_get_info(const struct vublk_plane *plane,
				 struct vublk_plane_mirror_info *info);
/*
 * Records why the mirror has to end. Only the first failure counts. The next round ends the mirror.
 */
void vublk_plane_mirror_fail(struct vublk_plane *plane, const struct vublk_error *error);

/* Returns whether a mirror has begun and has not ended. */
static inline bool vublk_plane_mirror_is_active(const struct vublk_plane_mirror *mirror)
{
	return mirror && mirror->target;
}

/* Returns whether `write` belongs to a copy, and not to a slot. */
static inline bool vublk_plane_mirror_owns(const struct vublk_plane_mirror *mirror,
					   const struct vublk_order_write *write)
{
	const char *at = (const char *)write;

	return mirror && at >= (const char *)mirror->copies &&
	       at < (const char *)&mirror->copies[VUBLK_PLANE_MIRROR_COPIES];
}

/* Changes the state of a region, and the counters of the mirror. */
void vublk_plane_mirror_set_state(struct vublk_plane_mirror *mirror, size_t region,
				  enum vublk_plane_mirror_state state);
/*
 * Makes the synced regions of a write BEHIND. Called for a write that only the source gets, and for
 * a write that has failed.
 */
void vublk_plane_mirror_fall_behind(struct vublk_plane *plane, const struct vublk_plane_slot *slot);
/*
 * The first function returns how many regions the target does not have yet. The second one returns
 * in how many regions it is behind.
 */
static inline size_t vublk_plane_mirror_num_missing(const struct vublk_plane_mirror *mirror)
{
	return mirror->count[VUBLK_PLANE_MIRROR_DIRTY] + mirror->count[VUBLK_PLANE_MIRROR_COPYING];
}
static inline size_t vublk_plane_mirror_num_behind(const struct vublk_plane_mirror *mirror)
{
	return mirror->count[VUBLK_PLANE_MIRROR_BEHIND] +
	       mirror->count[VUBLK_PLANE_MIRROR_COPYING_AGAIN];
}
/* Returns whether a region of the write, or of a gap between its ranges, is synced. */
bool vublk_plane_mirror_has_synced(const struct vublk_plane_mirror *mirror,
				   const struct vublk_plane_slot *slot);

/*
 * Called before the plane loses its source, if the source may lose completed writes that were not
 * flushed. The next source may not have these writes, so their regions are copied again.
 */
void vublk_plane_mirror_note_loss(struct vublk_plane *plane);
/* Called when the plane has a new source, which is plane->side. */
void vublk_plane_mirror_set_source(struct vublk_plane *plane);

/*
 * Takes `count` consecutive chunks from the pool. Returns the index of the first, or -1 if the pool
 * does not have `count` free chunks in a row.
 */
int vublk_plane_mirror_take_chunks(struct vublk_plane_mirror *mirror, unsigned count);
void vublk_plane_mirror_return_chunks(struct vublk_plane_mirror *mirror, unsigned chunk,
				      unsigned count);

/*
 * Unparks all requests. A held request becomes ready unless an earlier write blocks it. The next
 * attempt to submit it may park it again.
 */
void vublk_plane_mirror_unpark(struct vublk_plane *plane);
/* Called while VUBLK_PLANE_HOOK_MIRROR is set, when a request ends or is dropped. */
void vublk_plane_mirror_end_request(struct vublk_plane *plane, struct vublk_plane_slot *slot,
				    uint8_t status);

/* --- mirror-record.c: marks in the state file ------------------------------------------------- */

/*
 * Begins to mark writes although there is no target yet, because a mirror was interrupted and is to
 * be resumed. `state` is borrowed until vublk_plane_mirror_close(). Errors: EBUSY if there is a
 * mirror, ENOMEM.
 */
int vublk_plane_mirror_record(struct vublk_plane *plane, struct vublk_mirror_state *state,
			      struct vublk_error *error);
/*
 * Called after vublk_plane_mirror_end(). The plane no longer uses the state file, and submits no
 * write until vublk_plane_mirror_begin() or vublk_plane_mirror_release(). Does nothing without a
 * state file.
 */
void vublk_plane_mirror_close(struct vublk_plane *plane);
/*
 * Called when the state file says that there is no mirror, so that writes need no marks. Lets the
 * waiting writes continue.
 */
void vublk_plane_mirror_release(struct vublk_plane *plane);
/* Marks the regions of a write. Returns whether the marks are stable; false if `is_closed`. */
bool vublk_plane_mirror_is_marked(struct vublk_plane *plane, struct vublk_plane_slot *slot);
/* Records that the region's mark has to be removed when the region is stable on both sides. */
static inline void vublk_plane_mirror_note_unclear(struct vublk_plane_mirror *mirror, size_t region)
{
	if (mirror->unclear)
		mirror->unclear[region / 64] |= UINT64_C(1) << region % 64;
}
/*
 * Does one round: takes the result of the last sync, removes marks if the time has come, and
 * requests a sync of new marks. Returns 0 if there was nothing to do.
 */
unsigned vublk_plane_mirror_record_work(struct vublk_plane *plane);

/* --- mirror-write.c: requests ------------------------------------------------------------- */

/*
 * Decides where a request goes. If a write goes to both back-ends, copies its data to the memory of
 * both.
 */
enum vublk_plane_mirror_admission vublk_plane_mirror_admit(struct vublk_plane *plane,
							   struct vublk_plane_slot *slot);
/*
 * Makes `view` a request like `slot`, but with the data in the memory of `side`. The view is valid
 * until the next call.
 */
void vublk_plane_mirror_view(struct vublk_plane *plane, const struct vublk_plane_slot *slot,
			     const struct vublk_plane_side *side, struct vublk_plane_slot *view);
/*
 * Called when a request is on the rings of both back-ends; `token` is the request's token on the
 * target's ring.
 */
void vublk_plane_mirror_sent(struct vublk_plane *plane, struct vublk_plane_slot *slot,
			     uint16_t token);
/*
 * Called when the source has completed a request. Returns whether the request is complete, which
 * means that the target does not have it or has completed it, too.
 */
bool vublk_plane_mirror_completed(struct vublk_plane *plane, struct vublk_plane_slot *slot,
				  uint8_t status);
/* Takes the target's completions. Returns how many it has taken. */
unsigned vublk_plane_mirror_take(struct vublk_plane *plane);
/*
 * Ends the mirror and stops using the target. A request that the source has completed no longer
 * waits for the target. Does nothing without a mirror.
 */
void vublk_plane_mirror_end(struct vublk_plane *plane);
/* Called when the source is lost, before its requests are held again. */
void vublk_plane_mirror_lose_source(struct vublk_plane *plane);
/* Called when the driver's rings are detached, and all requests are dropped. */
void vublk_plane_mirror_detach(struct vublk_plane *plane);
/*
 * Does one round: takes the target's completions, continues the copies, and ends a mirror that has
 * failed. Returns 0 if there was nothing to do.
 */
unsigned vublk_plane_mirror_work(struct vublk_plane *plane);
/*
 * While `on`, the regions in which the target is behind are copied even if the plane takes no
 * chains, and the plane is not settled (plane.h) until they have been copied. Does nothing without
 * a mirror.
 */
void vublk_plane_mirror_catch_up(struct vublk_plane *plane, bool on);
/*
 * Returns whether no copy and no flush of the mirror is in progress, and no region has to be copied
 * for vublk_plane_mirror_catch_up().
 */
bool vublk_plane_mirror_is_settled(const struct vublk_plane *plane);
/* Returns when a round is due even if no notification arrives; UINT64_MAX: never. */
uint64_t vublk_plane_mirror_next_ns(const struct vublk_plane *plane);

/* --- mirror-copy.c: regions that are copied -------------------------------------------------- */

/* Returns whether no region is being copied, and the mirror has no flush outstanding. */
bool vublk_plane_mirror_copies_are_idle(const struct vublk_plane *plane);
/* Returns whether an element of `copies` is free. */
bool vublk_plane_mirror_has_free_copy(const struct vublk_plane_mirror *mirror);
/*
 * Returns whether one of the mirror's own flushes is in progress. The mirror's flush and a flush of
 * the driver are never outstanding at the same time, because a back-end may report a storage error
 * to only one of two flushes, and the driver does not see the mirror's flush. If the mirror's flush
 * fails at the source, all flushes of the driver that wait fail, too. If none waits, the driver's
 * next flush fails.
 */
bool vublk_plane_mirror_flushes(const struct vublk_plane_mirror *mirror);
/*
 * Begins and continues copies and flushes, as far as the rings and the rate permit. Returns how
 * many steps it did.
 */
unsigned vublk_plane_mirror_copies_work(struct vublk_plane *plane);
/* If `token` belongs to a copy, handles the source's completion and returns true. */
bool vublk_plane_mirror_copies_took(struct vublk_plane *plane, const struct vublk_plane_side_queue *queue,
			     uint16_t token);
/* Called when the target has completed the write or the flush of the copy with this index. */
void vublk_plane_mirror_copy_written(struct vublk_plane *plane, unsigned index, uint8_t status);
/*
 * Called when the source is lost. Ends the mirror's flush, and all copies except those in the phase
 * BLOCKED. The regions of the ended copies have to be copied again.
 */
void vublk_plane_mirror_copies_lose_source(struct vublk_plane *plane);
/*
 * Ends all copies, whose regions have to be copied again. The copies are not removed from the order
 * of writes, because the caller resets the order.
 */
void vublk_plane_mirror_copies_drop(struct vublk_plane *plane);
/*
 * Called after vublk_plane_mirror_copies_drop() if the target will complete no more requests. Frees
 * the copies that only the target still used.
 */
void vublk_plane_mirror_copies_lose_target(struct vublk_plane *plane);

#endif
