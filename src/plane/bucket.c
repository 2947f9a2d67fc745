/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A token bucket; see bucket.h. */
#include "plane/bucket.h"

#define NS_PER_S UINT64_C(1000000000)

void vublk_bucket_init(struct vublk_bucket *bucket, uint64_t rate, uint64_t burst_ns,
		       uint64_t now_ns)
{
	*bucket = (struct vublk_bucket){ .rate = rate, .burst_ns = burst_ns, .paid_ns = now_ns };
}

void vublk_bucket_pay(struct vublk_bucket *bucket, uint64_t units, uint64_t now_ns)
{
	unsigned __int128 cost, ns;

	if (!bucket->rate)
		return;
	if (now_ns > bucket->burst_ns && bucket->paid_ns < now_ns - bucket->burst_ns) {
		bucket->paid_ns = now_ns - bucket->burst_ns;
		bucket->rest = 0;
	}
	cost = (unsigned __int128)units * NS_PER_S + bucket->rest;
	ns = cost / bucket->rate;
	bucket->rest = (uint64_t)(cost % bucket->rate);
	if (__builtin_add_overflow(bucket->paid_ns, ns, &bucket->paid_ns))
		bucket->paid_ns = UINT64_MAX;
}
