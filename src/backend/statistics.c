/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Counters of requests; the key idea is in statistics.h. */
#include "backend/statistics.h"

#include "backend/backend.h"
#include "util/checked.h"
#include "util/struct.h"

#include <errno.h>
#include <stdlib.h>

/* A power of two has this many buckets. */
#define STEPS 8
#define STEP_BITS 3

_Static_assert(sizeof(struct vublk_backend_stats) % sizeof(uint64_t) == 0, "counters only");

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

/* --- the worker ------------------------------------------------------------------------ */

static void add(uint64_t *counter, uint64_t n)
{
	vublk_store_relaxed(counter, vublk_load_relaxed(counter) + n);
}

static enum vublk_backend_request kind_of(uint32_t type)
{
	switch (type) {
	case VIRTIO_BLK_T_IN:
		return VUBLK_BACKEND_READ;
	case VIRTIO_BLK_T_OUT:
		return VUBLK_BACKEND_WRITE;
	case VIRTIO_BLK_T_FLUSH:
		return VUBLK_BACKEND_FLUSH;
	case VIRTIO_BLK_T_DISCARD:
		return VUBLK_BACKEND_DISCARD;
	case VIRTIO_BLK_T_WRITE_ZEROES:
		return VUBLK_BACKEND_WRITE_ZEROES;
	default:
		return VUBLK_BACKEND_OTHER;
	}
}

static unsigned bucket_of(uint64_t ns)
{
	unsigned shift, bucket;

	if (ns < STEPS)
		return (unsigned)ns;
	shift = 63 - (unsigned)__builtin_clzll(ns) - STEP_BITS;
	bucket = shift * STEPS + (unsigned)(ns >> shift);
	return VUBLK_MIN(bucket, (unsigned)VUBLK_BACKEND_LATENCY_BUCKETS - 1);
}

void vublk_statistics_begin(struct vublk_request *request, uint32_t type, uint64_t bytes)
{
	request->stats = &request->queue->statistics->types[kind_of(type)];
	request->begun_bytes = bytes;
	request->begun_ns = vublk_now_ns();
	add(&request->stats->in_flight, 1);
}

/* For a discard or write zeroes, the bytes are those of its ranges. */
static uint64_t bytes_of(const struct vublk_request *request)
{
	uint64_t bytes = request->begun_bytes;

	for (unsigned i = 0; i < request->num_ranges; i++)
		bytes += (uint64_t)request->ranges[i].num_sectors * VUBLK_SECTOR_BYTES;
	return bytes;
}

void vublk_statistics_end(struct vublk_request *request, uint8_t status)
{
	struct vublk_backend_stats *stats = request->stats;
	uint64_t ns = vublk_now_ns() - request->begun_ns;

	add(&stats->count, 1);
	if (status == VIRTIO_BLK_S_OK)
		add(&stats->bytes, bytes_of(request));
	else
		add(&stats->errors, 1);
	add(&stats->total_ns, ns);
	if (ns > vublk_load_relaxed(&stats->max_ns))
		vublk_store_relaxed(&stats->max_ns, ns);
	add(&stats->latency[bucket_of(ns)], 1);
	vublk_statistics_leave(request);
}

void vublk_statistics_leave(struct vublk_request *request)
{
	add(&request->stats->in_flight, UINT64_MAX); /* -1 */
	request->stats = NULL;
}

/* --- any thread -------------------------------------------------------------------------- */

void vublk_backend_set_statistics(struct vublk_backend *backend, bool on)
{
	vublk_store_relaxed(&backend->statistics->is_on, on);
}

bool vublk_backend_has_statistics(const struct vublk_backend *backend)
{
	return vublk_load_relaxed(&backend->statistics->is_on);
}

int vublk_backend_get_stats(const struct vublk_backend *backend, unsigned queue,
			    enum vublk_backend_request request, struct vublk_backend_stats *stats,
			    size_t stats_bytes)
{
	const struct vublk_statistics *statistics = backend->statistics;
	struct vublk_backend_stats own;
	const uint64_t *from;

	if (queue >= statistics->num_queues || request >= VUBLK_BACKEND_NUM_REQUESTS)
		return -EINVAL;
	from = (const uint64_t *)&statistics->queues[queue].types[request];
	for (size_t i = 0; i < sizeof(own) / sizeof(uint64_t); i++)
		((uint64_t *)&own)[i] = vublk_load_relaxed(&from[i]);
	vublk_struct_out(stats, stats_bytes, &own, sizeof(own));
	return 0;
}

uint64_t vublk_backend_latency_limit(unsigned bucket)
{
	unsigned shift = bucket < 2 * STEPS ? 0 : bucket / STEPS - 1;

	if (bucket + 1 >= VUBLK_BACKEND_LATENCY_BUCKETS)
		return UINT64_MAX;
	return (uint64_t)(bucket - shift * STEPS + 1) << shift;
}

const char *vublk_backend_request_name(enum vublk_backend_request request)
{
	static const char *const names[] = {
		[VUBLK_BACKEND_READ] = "read",
		[VUBLK_BACKEND_WRITE] = "write",
		[VUBLK_BACKEND_FLUSH] = "flush",
		[VUBLK_BACKEND_DISCARD] = "discard",
		[VUBLK_BACKEND_WRITE_ZEROES] = "write_zeroes",
		[VUBLK_BACKEND_OTHER] = "other",
	};

	return request < VUBLK_ARRAY_SIZE(names) ? names[request] : NULL;
}
