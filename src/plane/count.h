/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PLANE_COUNT_H
#define VUBLK_PLANE_COUNT_H

/*
 * The plane measures how long requests take, to fill the counters per queue and kind, and to find
 * slow requests.
 *
 * Key idea: the times are in an array of their own, which the plane accesses only while
 * VUBLK_PLANE_HOOK_TIME is set. Otherwise a request pays only for the test of that flag.
 */
#include "worker/statistics.h"

struct vublk_fields;
struct vublk_plane;
struct vublk_plane_slot;

/* The time of one slot's request. All zero: the request is not timed. */
struct vublk_plane_count {
	struct vublk_request_stats *stats; /* NULL: the request is not counted */
	uint64_t begun_ns;
	bool is_reported; /* the request was reported as slow */
};

struct vublk_plane_counts {
	struct vublk_statistics *statistics; /* NULL: nothing is counted */
	uint64_t slow_ns; /* 0: no search for slow requests */
	unsigned num_timed; /* requests that are being timed */
};

/* A request that has become slow, and the number of slow requests. */
struct vublk_plane_slow {
	unsigned queue;
	enum vublk_request_kind kind;
	uint64_t offset, bytes; /* the place on the disk; both 0 if the request has none */
	uint64_t waited_ns;
	unsigned num_slow;
};

/*
 * Counts requests in `statistics` while statistics->is_on is set (NULL: never). Times requests
 * while they are counted, or if `slow_ns` is not 0. `statistics` is borrowed. The caller must call
 * this function again when is_on has changed.
 */
void vublk_plane_set_counts(struct vublk_plane *plane, struct vublk_statistics *statistics,
			    uint64_t slow_ns);

/*
 * Called while VUBLK_PLANE_HOOK_TIME is set. The first function is called when a request begins,
 * the second when it ends with `status`, and the third when it is dropped.
 */
void vublk_plane_count_begin(struct vublk_plane *plane, const struct vublk_plane_slot *slot);
void vublk_plane_count_end(struct vublk_plane *plane, const struct vublk_plane_slot *slot,
			   uint8_t status);
void vublk_plane_count_drop(struct vublk_plane *plane, const struct vublk_plane_slot *slot);

/*
 * For an upgrade: writes the time of a slot's request for the new process, or reads the time that
 * the old process has written.
 */
void vublk_plane_count_fields(struct vublk_plane *plane, const struct vublk_plane_slot *slot,
			      struct vublk_fields *fields);

/*
 * Looks for requests that have become slow since the last call. Returns true if there are any, and
 * describes the oldest of them in `slow`.
 */
bool vublk_plane_find_slow(struct vublk_plane *plane, struct vublk_plane_slow *slow);

#endif
