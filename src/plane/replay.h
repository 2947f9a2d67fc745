/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PLANE_REPLAY_H
#define VUBLK_PLANE_REPLAY_H

/*
 * unflushed=replay: the plane keeps copies of the completed writes that no flush has made stable
 * yet, in a log (virtio/write-log.h). After the loss of a back-end, it writes these copies to the
 * next one.
 *
 * Key idea: a write is copied after the plane has taken its completion and before the driver sees
 * the completion, because the driver may reuse the buffer afterwards. A flush that succeeds, the
 * driver's or the plane's own, frees the copies of all writes that had completed before the flush
 * was submitted. The next back-end gets the copies in the order of the log, then a flush, and only
 * then other requests.
 *
 * The plane's own requests have memory in the side's region, and their data is copied there. No
 * back-end gets the log's memory, because a back-end could still change it after it was lost.
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
	VUBLK_PLANE_COPY_TOO_LARGE, /* the write gets no copy, because it is too large for the log
				       or the driver has not accepted FLUSH; the plane has to flush
				       the write before the driver sees the completion */
	VUBLK_PLANE_COPY_AWAITS_FLUSH, /* the write has completed, and waits for the plane's next
					  flush */
	VUBLK_PLANE_COPY_IN_FLUSH,  /* the request has completed, but the driver sees that only when
				       the plane's flush, which is submitted, completes. The request
				       is a write, or a flush of the driver (replay.c has the
				       reason) */
};

enum vublk_plane_replay_phase {
	VUBLK_PLANE_REPLAY_IDLE,     /* there is no back-end */
	VUBLK_PLANE_REPLAY_READY,    /* the back-end executes the driver's requests */
	VUBLK_PLANE_REPLAY_WRITING,  /* the back-end gets the log; all other requests wait */
	VUBLK_PLANE_REPLAY_FLUSHING, /* the back-end has got the log, and the flush after it is
					submitted */
	VUBLK_PLANE_REPLAY_FAILED,   /* the replay, or the plane's own flush, has failed; the log is
					written again later */
};

/* One of the plane's own requests. The last element of the array `own` is for flushes. */
struct vublk_plane_own {
	bool is_submitted;
	uint16_t token; /* on the back-end's ring */
};

struct vublk_plane_replay {
	struct vublk_write_log log;
	struct vublk_plane_slot *waiting; /* the first write for which the log has no room */
	unsigned num_awaiting;  /* how many completed requests wait for the plane's own flush */
	uint64_t deadline_ns;   /* when the next flush is due; 0: no time is set */

	enum vublk_plane_replay_phase phase;
	struct vublk_plane_own own[VUBLK_PLANE_NUM_OWN];
	unsigned num_own;       /* how many elements of `own` are submitted */
	uint64_t mark;          /* if the submitted flush succeeds, the writes below this mark are
				   stable */
	bool wants_ring;        /* a flush is due, but the ring is full */
	bool is_old;            /* a flush is due: the deadline has passed, or the plane's last
				   flush has failed */
	uint64_t retry_ns;      /* after a failure, the time of the next try; 0: none */
	uint64_t pause_ns;      /* the pause after the last failure; 0: no failure since the last
				   success */
	bool has_flushed;       /* a flush has succeeded, so the log has all completed writes that
				   are not stable */
	bool fails_flushes;     /* the back-end failed to write or flush the log, so the driver's
				   flushes fail */
	struct vublk_write_replay writes;
	const char *failure;    /* static; NULL: no failure since the last successful replay */
	uint64_t replays, total_writes, total_bytes; /* successful replays, and what they wrote */
	uint64_t last_writes, last_bytes;            /* what the last of these replays wrote */
};

/* The state of the copies and the replays, for the owner. */
struct vublk_plane_replay_info {
	bool is_replaying;   /* a replay is in progress, so requests wait */
	const char *failure; /* static; NULL: no failure since the last successful replay */
	uint64_t kept_bytes, max_bytes; /* of the log */
	uint64_t replays, total_writes, total_bytes, last_writes, last_bytes;
};

/* --- keep.c: the copies ----------------------------------------------------------------- */

/*
 * Makes the plane keep copies, up to `bytes` in total. Must be called before the plane takes the
 * first request. Errors: ENOMEM and others.
 */
int vublk_plane_keep_writes(struct vublk_plane *plane, uint64_t bytes, struct vublk_error *error);
void vublk_plane_keep_deinit(struct vublk_plane *plane);

/*
 * Returns the end, in bytes, of the part of the disk that the copies touch; 0 if there are no
 * copies. Must not be called during a replay.
 */
uint64_t vublk_plane_keep_end(struct vublk_plane *plane);

/*
 * Reserves room in the log for the copy of a write, or notes that the write gets no copy
 * (VUBLK_PLANE_COPY_TOO_LARGE). Returns false if the write has to wait for room.
 */
bool vublk_plane_keep_reserve(struct vublk_plane *plane, struct vublk_plane_slot *slot);
/*
 * Copies a write that has succeeded into the log, unless the back-end has no write cache. Returns
 * false if there is no copy because the write is TOO_LARGE, its buffers were removed, or a page of
 * them was lost. In these cases the driver sees the completion only after the next flush.
 */
bool vublk_plane_keep_copy(struct vublk_plane *plane, struct vublk_plane_slot *slot);
/* Called when a request ends. Frees the request's reservation, if it has one. */
void vublk_plane_keep_forget(struct vublk_plane *plane, struct vublk_plane_slot *slot);
/*
 * Frees the reservations of all requests. Called when the back-end's ring no longer has requests,
 * because the back-end is lost or the requests are dropped. When a request is submitted again, it
 * reserves room like a new request.
 */
void vublk_plane_keep_reset(struct vublk_plane *plane);

/*
 * Called for a slot that was read from another process, with its `state` and `copy`. Reserves room,
 * and counts the slot if it awaits a flush. Returns false if the slot cannot have these values, or
 * if the log has no room.
 */
bool vublk_plane_keep_adopt(struct vublk_plane *plane, struct vublk_plane_slot *slot);

/* --- replay.c: the plane's own flushes, and the replay -------------------------------------- */

/*
 * Returns whether a request may be submitted now. If it may, reserves room in the log for a write
 * that needs it, or sets the mark of a flush. Otherwise the request has to wait.
 */
bool vublk_plane_replay_admits(struct vublk_plane *plane, struct vublk_plane_slot *slot);
/*
 * Called when the back-end has completed one of the driver's requests. Returns false if the caller
 * must not end the request, because the request waits for one of the plane's own flushes, or this
 * function has ended it with an error.
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
 * Submits the plane's own requests that are due. Returns their number, plus 1 if the pause after a
 * failure has ended.
 */
unsigned vublk_plane_replay_work(struct vublk_plane *plane);
/* Returns how long the plane's thread may sleep, in milliseconds; 0: no limit. */
unsigned vublk_plane_replay_sleep_ms(const struct vublk_plane *plane);
struct vublk_fields;

/*
 * Returns whether the log and the plane's own requests can be handed to another process now. That
 * is possible while no replay is in progress, because then at most a flush is submitted.
 */
bool vublk_plane_replay_may_move(const struct vublk_plane *plane);
/*
 * Writes the log and the state of the flushes and replays, or reads and checks them. Errors:
 * EINVAL, ENOMEM and others.
 */
int vublk_plane_replay_fields(struct vublk_plane *plane, struct vublk_fields *fields,
			      struct vublk_error *error);
/* Returns whether the chain with `token` on the ring of `queue` is the plane's own flush. */
bool vublk_plane_replay_owns(const struct vublk_plane *plane,
			     const struct vublk_plane_side_queue *queue, uint16_t token);
void vublk_plane_replay_get_info(const struct vublk_plane *plane,
				 struct vublk_plane_replay_info *info);
/* Returns whether the log is empty, so that no write in it needs a flush. */
bool vublk_plane_replay_is_settled(const struct vublk_plane *plane);

#endif
