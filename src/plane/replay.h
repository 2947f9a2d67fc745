/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PLANE_REPLAY_H
#define VUBLK_PLANE_REPLAY_H

/*
 * unflushed=replay: the plane keeps copies of the completed writes that no flush has made stable
 * yet, in a log (virtio/write-log.h). After the loss of a back-end, it writes these copies to the
 * next one.
 *
 * Key idea: a write is copied after the plane has taken its completion and before the driver sees
 * it, because the driver may reuse the buffer afterwards. A flush that succeeds, the driver's or
 * the plane's own, frees the copies of all writes that had completed before it was submitted. The
 * next back-end gets the copies in the order of the log, then a flush, and only then other
 * requests.
 *
 * The plane's own requests use slots in the side's region, and their data is copied there. So no
 * back-end gets the log's memory, which a lost back-end could otherwise still change.
 */
#include "plane/region.h"
#include "virtio/write-replay.h"

struct vublk_plane;
struct vublk_plane_side_queue;
struct vublk_plane_slot;

/* The state of a request's copy; each slot has one. */
enum vublk_plane_copy {
	VUBLK_PLANE_COPY_NONE,
	VUBLK_PLANE_COPY_RESERVED, /* the log has room for the copy */
	VUBLK_PLANE_COPY_TOO_LARGE, /* there is no copy, because the write is too large for the log
				       or the driver has no flushes: a flush has to follow before
				       the driver sees the completion */
	VUBLK_PLANE_COPY_AWAITS_FLUSH, /* the write has completed, and the next flush will cover
					  it */
	VUBLK_PLANE_COPY_IN_FLUSH,  /* the flush that covers the write is submitted; or the driver's
				       flush has completed, and ends when the plane's own does */
};

enum vublk_plane_replay_phase {
	VUBLK_PLANE_REPLAY_IDLE,     /* there is no back-end */
	VUBLK_PLANE_REPLAY_READY,    /* the back-end executes the driver's requests */
	VUBLK_PLANE_REPLAY_WRITING,  /* the back-end gets the log; all other requests wait */
	VUBLK_PLANE_REPLAY_FLUSHING, /* the back-end has got the log, and the flush after it is
					submitted */
	VUBLK_PLANE_REPLAY_FAILED,   /* a step failed; the replay starts again later */
};

/* A request of the plane's own. The last element of the array `own` is for flushes. */
struct vublk_plane_own {
	bool is_submitted;
	uint16_t token; /* on the back-end's ring */
};

struct vublk_plane_replay {
	struct vublk_write_log log;
	struct vublk_plane_slot *waiting; /* the first write for which the log has no room */
	unsigned num_awaiting;  /* how many completed writes and flushes wait for a flush */
	uint64_t deadline_ns;   /* when the next flush is due; 0: no time is set */

	enum vublk_plane_replay_phase phase;
	struct vublk_plane_own own[VUBLK_PLANE_NUM_OWN];
	unsigned num_own;       /* how many of these are submitted */
	uint64_t mark;          /* the mark of the submitted flush */
	bool wants_ring;        /* a flush is due, but the ring is full */
	bool is_old;            /* a copy has waited too long for a flush */
	uint64_t retry_ns;      /* after a failure, the time of the next try; 0: none */
	uint64_t pause_ns;      /* how long the plane waited after the last failure */
	bool has_flushed;       /* a flush has succeeded, so the log has all completed writes that
				   are not stable */
	bool fails_flushes;     /* the back-end failed to write or flush the log, so the driver's
				   flushes fail */
	struct vublk_write_replay writes;
	const char *failure;    /* why the replay has to start again; NULL: it does not */
	uint64_t replays, total_writes, total_bytes; /* successful replays, and what they wrote */
	uint64_t last_writes, last_bytes;            /* what the last of them wrote */
};

/* What the owner's thread can know of the copies and the replays. */
struct vublk_plane_replay_info {
	bool is_replaying;   /* requests wait until the back-end has got the log */
	const char *failure; /* static; NULL: no failure since the last successful replay */
	uint64_t kept_bytes, max_bytes; /* of the log */
	uint64_t replays, total_writes, total_bytes, last_writes, last_bytes;
};

/* --- keep.c: the copies ----------------------------------------------------------------- */

/*
 * Makes the plane keep copies, up to `bytes` in total. Must be called before the plane takes the
 * first request.
 */
int vublk_plane_keep_writes(struct vublk_plane *plane, uint64_t bytes, struct vublk_error *error);
void vublk_plane_keep_deinit(struct vublk_plane *plane);

/*
 * Returns the end, in bytes, of the part of the disk that the copies touch; 0 if there are no
 * copies. Must not be called during a replay.
 */
uint64_t vublk_plane_keep_end(struct vublk_plane *plane);

/*
 * Reserves room in the log for the copy of a write, unless the write is larger than the log.
 * Returns false if the write has to wait for room.
 */
bool vublk_plane_keep_reserve(struct vublk_plane *plane, struct vublk_plane_slot *slot);
/*
 * Copies a write that has succeeded into the log. Returns false if that is impossible, because the
 * write is larger than the log, the driver has removed its buffers or a page of them was lost: the
 * driver then sees the completion only after the next flush.
 */
bool vublk_plane_keep_copy(struct vublk_plane *plane, struct vublk_plane_slot *slot);
/* Called when the request ends. Frees its reservation. */
void vublk_plane_keep_forget(struct vublk_plane *plane, struct vublk_plane_slot *slot);
/*
 * Frees the reservations of all requests. Called when no request is on the back-end's ring any
 * more, because the back-end is lost or the requests are dropped. Requests that are submitted again
 * reserve room in their order, as if they were new.
 */
void vublk_plane_keep_reset(struct vublk_plane *plane);

/*
 * Called for a slot that another process has written, with its state and its copy. Makes the
 * reservation. Returns false if the slot cannot be in these states.
 */
bool vublk_plane_keep_adopt(struct vublk_plane *plane, struct vublk_plane_slot *slot);

/* --- replay.c: flushes of the plane's own, and the replay ------------------------------------ */

/*
 * Returns whether a request may be submitted now; otherwise it has to wait. If it may, a write gets
 * room in the log, and a flush gets its mark.
 */
bool vublk_plane_replay_admits(struct vublk_plane *plane, struct vublk_plane_slot *slot);
/*
 * Called when the back-end has completed one of the driver's requests. Returns false if the caller
 * must not end the request, because the request waits for a flush of the plane, or because this
 * function has ended the request with an error.
 */
bool vublk_plane_replay_completed(struct vublk_plane *plane, struct vublk_plane_slot *slot,
				  uint8_t status);
/*
 * If `token` belongs to one of the plane's own requests, handles its completion and returns true.
 */
bool vublk_plane_replay_took(struct vublk_plane *plane, const struct vublk_plane_side_queue *queue,
			     uint16_t token);
/*
 * Called when the plane has a new back-end. If the log has entries, the back-end gets them first. A
 * back-end whose rings are too small for them is disconnected.
 */
void vublk_plane_replay_begin(struct vublk_plane *plane);
/*
 * Called when the back-end is lost and the plane has taken its completions. Ends the replay, and
 * frees all reservations.
 */
void vublk_plane_replay_end(struct vublk_plane *plane);
/*
 * Submits the plane's own requests that are due. Returns their number, plus 1 if a replay begins
 * again.
 */
unsigned vublk_plane_replay_work(struct vublk_plane *plane);
/* Returns how long the plane's thread may sleep, or 0 if there is no limit. */
unsigned vublk_plane_replay_sleep_ms(const struct vublk_plane *plane);
struct vublk_fields;

/*
 * Returns whether the plane's own requests could be handed to another process now: at most a flush
 * is submitted.
 */
bool vublk_plane_replay_may_move(const struct vublk_plane *plane);
/*
 * Writes the log and the state of the flushes, or reads them and checks them. Error: EINVAL and a
 * sentence.
 */
int vublk_plane_replay_fields(struct vublk_plane *plane, struct vublk_fields *fields,
			      struct vublk_error *error);
/* Returns whether `token` of the first ring belongs to the flush. */
bool vublk_plane_replay_owns(const struct vublk_plane *plane,
			     const struct vublk_plane_side_queue *queue, uint16_t token);
void vublk_plane_replay_get_info(const struct vublk_plane *plane,
				 struct vublk_plane_replay_info *info);
/* Returns whether the log has no write that still needs a flush. */
bool vublk_plane_replay_is_settled(const struct vublk_plane *plane);

#endif
