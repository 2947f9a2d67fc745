/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Counters of requests; statistics.h has the key idea. */
#include "worker/statistics.h"

#include "util/atomic.h"
#include "util/checked.h"
#include "util/struct.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdlib.h>

/* the number of latency buckets per power of two, and its logarithm */
#define STEPS 8
#define STEP_BITS 3

_Static_assert(sizeof(struct vublk_request_stats) % sizeof(uint64_t) == 0, "counters only");

struct vublk_statistics *vublk_statistics_new(unsigned num_queues, bool is_on)
{
	struct vublk_statistics *statistics =
		calloc(1, sizeof(*statistics) + num_queues * sizeof(statistics->queues[0]));

	if (!statistics)
		return NULL;
	statistics->is_on = is_on;
	statistics->num_queues = num_queues;
	for (unsigned i = 0; i < num_queues; i++)
		statistics->queues[i].is_on = &statistics->is_on;
	return statistics;
}

void vublk_statistics_free(struct vublk_statistics *statistics)
{
	free(statistics);
}

/* --- the thread that runs the queue ------------------------------------------------------ */

static void add(uint64_t *counter, uint64_t n)
{
	vublk_store_relaxed(counter, vublk_load_relaxed(counter) + n);
}

enum vublk_request_kind vublk_statistics_kind(uint32_t type)
{
	switch (type) {
	case VIRTIO_BLK_T_IN:
		return VUBLK_REQUEST_READ;
	case VIRTIO_BLK_T_OUT:
		return VUBLK_REQUEST_WRITE;
	case VIRTIO_BLK_T_FLUSH:
		return VUBLK_REQUEST_FLUSH;
	case VIRTIO_BLK_T_DISCARD:
		return VUBLK_REQUEST_DISCARD;
	case VIRTIO_BLK_T_WRITE_ZEROES:
		return VUBLK_REQUEST_WRITE_ZEROES;
	default:
		return VUBLK_REQUEST_OTHER;
	}
}

static unsigned bucket_of(uint64_t ns)
{
	unsigned shift, bucket;

	if (ns < STEPS)
		return (unsigned)ns;
	shift = 63 - (unsigned)__builtin_clzll(ns) - STEP_BITS;
	bucket = shift * STEPS + (unsigned)(ns >> shift);
	return VUBLK_MIN(bucket, (unsigned)VUBLK_LATENCY_BUCKETS - 1);
}

void vublk_statistics_add_begun(struct vublk_request_stats *stats)
{
	add(&stats->in_flight, 1);
}

void vublk_statistics_add_left(struct vublk_request_stats *stats)
{
	add(&stats->in_flight, UINT64_MAX); /* -1 */
}

void vublk_statistics_add_ended(struct vublk_request_stats *stats, uint64_t ns, uint64_t bytes,
				bool is_ok)
{
	add(&stats->count, 1);
	if (is_ok)
		add(&stats->bytes, bytes);
	else
		add(&stats->errors, 1);
	add(&stats->total_ns, ns);
	if (ns > vublk_load_relaxed(&stats->max_ns))
		vublk_store_relaxed(&stats->max_ns, ns);
	add(&stats->latency[bucket_of(ns)], 1);
	vublk_statistics_add_left(stats);
}

/* --- any thread -------------------------------------------------------------------------- */

int vublk_statistics_get(const struct vublk_statistics *statistics, unsigned queue,
			 enum vublk_request_kind kind, struct vublk_request_stats *stats,
			 size_t stats_bytes)
{
	struct vublk_request_stats own;
	const uint64_t *from;

	if (queue >= statistics->num_queues || (unsigned)kind >= VUBLK_REQUEST_NUM_KINDS)
		return -EINVAL;
	from = (const uint64_t *)&statistics->queues[queue].kinds[kind];
	for (size_t i = 0; i < sizeof(own) / sizeof(uint64_t); i++)
		((uint64_t *)&own)[i] = vublk_load_relaxed(&from[i]);
	vublk_struct_out(stats, stats_bytes, &own, sizeof(own));
	return 0;
}

uint64_t vublk_latency_limit(unsigned bucket)
{
	unsigned shift = bucket < 2 * STEPS ? 0 : bucket / STEPS - 1;

	if (bucket + 1 >= VUBLK_LATENCY_BUCKETS)
		return UINT64_MAX;
	return (uint64_t)(bucket - shift * STEPS + 1) << shift;
}

const char *vublk_request_kind_name(enum vublk_request_kind kind)
{
	static const char *const names[] = {
		[VUBLK_REQUEST_READ] = "read",
		[VUBLK_REQUEST_WRITE] = "write",
		[VUBLK_REQUEST_FLUSH] = "flush",
		[VUBLK_REQUEST_DISCARD] = "discard",
		[VUBLK_REQUEST_WRITE_ZEROES] = "write_zeroes",
		[VUBLK_REQUEST_OTHER] = "other",
	};

	return (unsigned)kind < VUBLK_ARRAY_SIZE(names) ? names[kind] : NULL;
}
