/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The counters of a queue; see statistics.h. */
#include "blk/statistics.h"

#include "blk/queue.h"
#include "util/atomic.h"
#include "util/checked.h"
#include "util/loop.h"
#include "util/struct.h"

#include <errno.h>
#include <stdlib.h>

/*
 * When a request in flight started, and the type and size that it had then. The request itself
 * changes: cutting reduces its number of bytes, and a request with FUA becomes a flush.
 */
struct started {
	uint64_t ns;
	uint64_t bytes;
	uint32_t type;
};

struct vublk_blk_statistics {
	struct vublk_blk_stats counters;
	struct started started[]; /* by the index of the request in queue->requests */
};

struct vublk_blk_statistics *vublk_blk_statistics_new(unsigned size)
{
	return calloc(1, sizeof(struct vublk_blk_statistics) + size * sizeof(struct started));
}

void vublk_blk_statistics_free(struct vublk_blk_statistics *statistics)
{
	free(statistics);
}

static void add(uint64_t *counter, uint64_t n)
{
	vublk_store_relaxed(counter, vublk_load_relaxed(counter) + n);
}

static struct started *started_of(struct vublk_blk_queue *queue,
				  const struct vublk_blk_request *request)
{
	return &queue->statistics->started[request - queue->requests];
}

void vublk_blk_statistics_begin(struct vublk_blk_queue *queue,
				const struct vublk_blk_request *request)
{
	add(&queue->statistics->counters.in_flight, 1);
	*started_of(queue, request) = (struct started){ vublk_now_ns(), request->left,
							request->type };
}

/*
 * Returns the bucket of a latency: 2^bucket <= ns < 2^(bucket + 1). The last bucket also has all
 * longer latencies.
 */
static unsigned bucket_of(uint64_t ns)
{
	unsigned bucket = ns ? 63 - (unsigned)__builtin_clzll(ns) : 0;

	return VUBLK_MIN(bucket, (unsigned)VUBLK_BLK_LATENCY_BUCKETS - 1);
}

static void count_kind(struct vublk_blk_stats *counters, const struct started *started)
{
	switch (started->type) {
	case VIRTIO_BLK_T_IN:
		add(&counters->reads, 1);
		break;
	case VIRTIO_BLK_T_OUT:
		add(&counters->writes, 1);
		break;
	case VIRTIO_BLK_T_FLUSH:
		add(&counters->flushes, 1);
		break;
	default:
		add(&counters->others, 1);
	}
}

void vublk_blk_statistics_end(struct vublk_blk_queue *queue,
			      const struct vublk_blk_request *request)
{
	struct vublk_blk_stats *counters = &queue->statistics->counters;
	const struct started *started = started_of(queue, request);

	add(&counters->in_flight, UINT64_MAX); /* -1 */
	count_kind(counters, started);
	add(&counters->latency[bucket_of(vublk_now_ns() - started->ns)], 1);
	if (request->result)
		add(&counters->errors, 1);
	else if (started->type == VIRTIO_BLK_T_IN)
		add(&counters->read_bytes, started->bytes);
	else if (started->type == VIRTIO_BLK_T_OUT)
		add(&counters->written_bytes, started->bytes);
}

static void load_counters(const struct vublk_blk_statistics *statistics,
			  struct vublk_blk_stats *stats)
{
	const uint64_t *from = (const uint64_t *)&statistics->counters;
	uint64_t *to = (uint64_t *)stats;

	_Static_assert(sizeof(*stats) % sizeof(*to) == 0, "counters only");
	for (unsigned i = 0; i < sizeof(*stats) / sizeof(*to); i++)
		to[i] = vublk_load_relaxed(&from[i]);
}

int vublk_blk_queue_get_stats(const struct vublk_blk_queue *queue, struct vublk_blk_stats *stats,
			      size_t stats_bytes)
{
	struct vublk_blk_stats all = { 0 };

	if (queue->statistics)
		load_counters(queue->statistics, &all);
	vublk_struct_out(stats, stats_bytes, &all, sizeof(all));
	return queue->statistics ? 0 : -ENOTSUP;
}
