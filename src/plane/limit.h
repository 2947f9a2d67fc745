/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PLANE_LIMIT_H
#define VUBLK_PLANE_LIMIT_H

/*
 * Limits on the requests of a plane. While there are limits, a request that is taken waits in a
 * list of its queue until the limits let it pass to the back-end.
 *
 * Key idea: every request goes through a list, even if it could pass immediately, so that the
 * queues can take turns. A queue whose turn it is lets one request pass: the oldest that the limits
 * permit. A list has requests of one kind only, so a limit on writes does not delay reads.
 */
#include "plane/bucket.h"
#include "plane/slot.h"

struct vublk_limits;
struct vublk_plane;
struct vublk_plane_queue;

/* The kinds of requests. The same limits apply to all requests of one kind. */
enum vublk_plane_kind {
	VUBLK_PLANE_READ,
	VUBLK_PLANE_WRITE,
	VUBLK_PLANE_NO_DATA, /* flush, discard and others */
	VUBLK_PLANE_NUM_KINDS,
};

/* A waiting request's entry in its list. */
struct vublk_plane_waiter {
	uint32_t number; /* counts the requests of all queues and kinds, in the order in which they
			    began to wait */
	uint16_t next;   /* number of the next slot in the list; undefined in the last entry */
};

/* The waiting requests of one queue and one kind, oldest first. */
struct vublk_plane_waiting {
	unsigned count;
	uint16_t first, last; /* numbers of slots; undefined if count is 0 */
};

enum vublk_plane_bucket {
	VUBLK_PLANE_BUCKET_ALL,
	VUBLK_PLANE_BUCKET_READ,
	VUBLK_PLANE_BUCKET_WRITE,
	VUBLK_PLANE_NUM_BUCKETS,
};

struct vublk_plane_limits {
	struct vublk_bucket requests[VUBLK_PLANE_NUM_BUCKETS];
	struct vublk_bucket bytes[VUBLK_PLANE_NUM_BUCKETS];
	unsigned num_waiting;
	unsigned num_of_kind[VUBLK_PLANE_NUM_KINDS]; /* how many of the waiting requests are of each
							kind */
	uint32_t next_number; /* for the next request that begins to wait */
	unsigned next_queue;  /* the queue whose turn it is */
};

/* --- waiting.c: the lists ------------------------------------------------------------------- */

enum vublk_plane_kind vublk_plane_kind(const struct vublk_plane_slot *slot);
/* Makes a held request wait for the limits. */
void vublk_plane_waiting_add(struct vublk_plane *plane, struct vublk_plane_slot *slot);
/*
 * Removes a request from its list, so that it is held again. Removing the first request of a list
 * is fast.
 */
void vublk_plane_waiting_remove(struct vublk_plane *plane, struct vublk_plane_slot *slot);

/* --- limit.c --------------------------------------------------------------------------------- */

/*
 * Replaces the limits. `limits->burst_ms` must not be 0. If there is no limit at all, all waiting
 * requests pass immediately.
 */
void vublk_plane_set_limits(struct vublk_plane *plane, const struct vublk_limits *limits);
/* Lets requests pass to the back-end as far as the limits permit. Returns how many passed. */
unsigned vublk_plane_pass(struct vublk_plane *plane);
/*
 * Lets all waiting requests pass, regardless of the limits. They still pay (bucket.h), so later
 * requests wait longer.
 */
void vublk_plane_pass_all(struct vublk_plane *plane);
/*
 * Returns the earliest time at which the next request may pass; UINT64_MAX if none waits, or if
 * there is no working back-end.
 */
uint64_t vublk_plane_next_pass_ns(const struct vublk_plane *plane);

#endif
