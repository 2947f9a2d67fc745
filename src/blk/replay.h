/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_REPLAY_H
#define VUBLK_BLK_REPLAY_H

/*
 * The option unflushed=replay: the disk keeps copies of the completed writes that no flush has made
 * stable yet. After the loss of a back-end, the disk writes these copies to the next back-end.
 *
 * Key idea: each queue has a stream of the disk's log (virtio/write-log.h), so copying a completed
 * write needs no lock. If the log has entries when a back-end is lost, the queues hold their
 * requests. The disk's thread writes the log to the next back-end on the ring of queue 0, and
 * flushes. Then each queue issues its requests. The data is copied to the shared memory next to
 * that ring, so no back-end maps the log.
 */
#include "blk/queue.h"
#include "virtio/write-replay.h"

struct vublk_blk;

enum vublk_blk_replay_phase {
	VUBLK_BLK_REPLAY_IDLE,
	VUBLK_BLK_REPLAY_WRITING,  /* the writes of the log are being sent */
	VUBLK_BLK_REPLAY_FLUSHING, /* all of these writes have completed, and the flush after them
				      is in flight */
	VUBLK_BLK_REPLAY_FAILED,   /* a step failed; the replay starts again later */
};

/*
 * The disk flushes a completed write after about this many seconds, unless the application flushes
 * it earlier.
 */
#define VUBLK_BLK_FLUSH_AFTER_S 5

/* Used by the disk's thread; the queues also use the log. */
struct vublk_blk_replay {
	struct vublk_write_log log;
	enum vublk_blk_replay_phase phase;
	struct vublk_write_replay writes;
	uint64_t pause_ns; /* the length of the last pause after a failure; 0: no failure */
	/* the log's mark at each of the last ticks, which are one second apart */
	uint64_t marks[VUBLK_BLK_FLUSH_AFTER_S];
	unsigned next_mark;
	bool is_quiet; /* at the last tick of the timer, no stream had an entry */
};

/* The size of the shared memory that a replay needs next to the ring. */
#define VUBLK_BLK_REPLAY_SHARED_BYTES (VUBLK_WRITE_REPLAY_SLOTS * VUBLK_WRITE_REPLAY_BYTES)

/* --- keep.c: the copies of a queue, inside its gate ------------------------------------------- */

/*
 * Reserves room in the log for the copy of a piece that changes the disk. Returns false if the
 * piece has to wait for room. In that case, sets wants_flush, because a flush frees room.
 */
bool vublk_blk_keep_reserve(struct vublk_blk_queue *queue, const struct vublk_blk_request *request,
			    uint64_t bytes);
/* Frees the reservation of a piece that was not issued, has failed or is dropped. */
void vublk_blk_keep_release(struct vublk_blk_queue *queue, uint32_t type, uint64_t bytes);
/* vublk_blk_keep_copy() is declared in piece.h. */
/*
 * Called when a flush has ended with `result`. If the flush has succeeded, frees the copies that it
 * covers.
 */
void vublk_blk_keep_flushed(struct vublk_blk_queue *queue, const struct vublk_blk_request *request,
			    int result);
/*
 * Frees all reservations of the queue, and resets its own flush. Called when the ring has no pieces
 * left.
 */
void vublk_blk_keep_reset(struct vublk_blk_queue *queue);

/* --- own-flush.c ------------------------------------------------------------------------------ */

/*
 * Issues the queue's own flush, without publishing it, and clears wants_flush. If the flush cannot
 * be issued now, sets wants_flush instead. A no-op while this flush is in flight or
 * own_flush_failed is set.
 */
void vublk_blk_own_flush(struct vublk_blk_queue *queue);

/* --- replay.c: for the disk's thread, except where a comment says otherwise ----------------- */

/*
 * Makes a log of about `bytes` bytes, and starts the timer. If the back-end does not offer FLUSH,
 * only logs a warning. Errors: ENOMEM and others.
 */
int vublk_blk_replay_init(struct vublk_blk *blk, uint64_t bytes, uint32_t block_bytes,
			  struct vublk_error *error);
void vublk_blk_replay_deinit(struct vublk_blk *blk);
/*
 * Ends a replay that is under way; the next back-end begins it again. Called when the rings are about
 * to be replaced, or the disk has given up.
 */
void vublk_blk_replay_suspend(struct vublk_blk *blk);
/*
 * Returns whether the next back-end must execute the log before all other requests. Must be called
 * while no owner uses the log.
 */
bool vublk_blk_replay_is_due(struct vublk_blk *blk);
/*
 * Called when a back-end runs the rings. Begins the replay if the log has entries and any queue
 * holds or fails its requests.
 */
void vublk_blk_replay_begin(struct vublk_blk *blk);
/* Called when the bus's timer has expired. */
void vublk_blk_replay_tick(struct vublk_blk *blk);
/*
 * Makes the completed writes stable. Called by the thread that closes the disk, while no request is
 * in flight. `deadline_ns` UINT64_MAX: no deadline.
 */
int vublk_blk_replay_close(struct vublk_blk *blk, uint64_t deadline_ns, struct vublk_error *error);

#endif
