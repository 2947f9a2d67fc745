/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PLANE_BUCKET_H
#define VUBLK_PLANE_BUCKET_H

/*
 * A token bucket, which lets `rate` units per second pass.
 *
 * Key idea: the bucket stores one point in time, `paid_ns`. A request may pass if that time has
 * come. It then pays: the bucket moves `paid_ns` into the future by the time that the request's
 * units take at the rate. So a request of any size can pass, and later requests wait until it is
 * paid for. Fractions of nanoseconds are kept, so the rate is exact over any number of requests.
 */
#include <stdint.h>

struct vublk_bucket {
	uint64_t rate;     /* units per second; 0: no limit */
	uint64_t burst_ns; /* unused time is kept for this long, so that a burst can use it */
	uint64_t paid_ns;  /* the time at which all units that have passed are paid for */
	uint64_t rest;     /* paid_ns is rounded down; this is the remainder, in units * 1e9 */
};

/* Sets up a bucket that owes nothing and has no unused time at `now_ns`. */
void vublk_bucket_init(struct vublk_bucket *bucket, uint64_t rate, uint64_t burst_ns,
		       uint64_t now_ns);

/* Returns the time from which the next request may pass. */
static inline uint64_t vublk_bucket_ready_ns(const struct vublk_bucket *bucket)
{
	return bucket->rate ? bucket->paid_ns : 0;
}

/*
 * Called when a request of `units` passes at `now_ns`. Moves the time from which the next one may
 * pass.
 */
void vublk_bucket_pay(struct vublk_bucket *bucket, uint64_t units, uint64_t now_ns);

#endif
