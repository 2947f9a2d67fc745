/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PLANE_BUCKET_H
#define VUBLK_PLANE_BUCKET_H

/*
 * A token bucket, which lets `rate` units per second pass.
 *
 * Key idea: the bucket stores one point in time, `paid_ns`. A request may pass once this time has
 * come. The request then pays, which means that `paid_ns` advances by the time that its units take
 * at the rate. So a request of any size can pass, and later requests wait until it is paid for. The
 * bucket keeps fractions of nanoseconds, so the rate is exact over any number of requests.
 */
#include <stdint.h>

struct vublk_bucket {
	uint64_t rate;     /* units per second; 0: no limit */
	uint64_t burst_ns; /* how much unused time a later burst may use */
	uint64_t paid_ns;  /* the time at which all units that have passed are paid for */
	uint64_t rest;     /* the remainder of the division by `rate`, because paid_ns is rounded
			      down */
};

/* Sets up a bucket that lets a request pass at `now_ns`, and has no unused time for a burst. */
void vublk_bucket_init(struct vublk_bucket *bucket, uint64_t rate, uint64_t burst_ns,
		       uint64_t now_ns);

/* Returns the earliest time at which the next request may pass. */
static inline uint64_t vublk_bucket_ready_ns(const struct vublk_bucket *bucket)
{
	return bucket->rate ? bucket->paid_ns : 0;
}

/*
 * Called when a request of `units` units passes at `now_ns`. Postpones the earliest time at which
 * the next request may pass.
 */
void vublk_bucket_pay(struct vublk_bucket *bucket, uint64_t units, uint64_t now_ns);

#endif
