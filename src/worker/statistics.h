/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_WORKER_STATISTICS_H
#define VUBLK_WORKER_STATISTICS_H

/*
 * Counters of requests, per queue and kind: see <vublk/statistics.h>.
 *
 * Key idea: only the thread that runs a queue writes the queue's counters, so counting takes one
 * relaxed load and one relaxed store per counter, and any thread may read the counters.
 */
#include <vublk/statistics.h>

/* The counters of one queue. */
struct vublk_queue_statistics {
	const bool *is_on; /* points to the is_on of struct vublk_statistics */
	struct vublk_request_stats kinds[VUBLK_REQUEST_NUM_KINDS];
};

struct vublk_statistics {
	bool is_on; /* read and written by any thread */
	unsigned num_queues;
	struct vublk_queue_statistics queues[];
};

/*
 * Allocates counters, all 0. Returns NULL if there is no memory. Pages that contain only counters
 * of unused queues and kinds occupy no memory.
 */
struct vublk_statistics *vublk_statistics_new(unsigned num_queues, bool is_on);
/* Frees the counters. NULL is a no-op. */
void vublk_statistics_free(struct vublk_statistics *statistics);

/* --- the thread that runs the queue ------------------------------------------------------ */

/* Returns the kind of a request with the type `type` (VIRTIO_BLK_T_...). */
enum vublk_request_kind vublk_statistics_kind(uint32_t type);
/* Counts the beginning of a request. */
void vublk_statistics_add_begun(struct vublk_request_stats *stats);
/*
 * Counts the end of a request, which took `ns` nanoseconds. Counts `bytes` if `is_ok` is set,
 * otherwise an error.
 */
void vublk_statistics_add_ended(struct vublk_request_stats *stats, uint64_t ns, uint64_t bytes,
				bool is_ok);
/* Called when a request that was counted as begun will not be completed by this process. */
void vublk_statistics_add_left(struct vublk_request_stats *stats);

/* --- any thread -------------------------------------------------------------------------- */

/*
 * Copies the counters of one queue and kind to `stats`, whose size is `stats_bytes`. Error: EINVAL
 * if there is no such queue or kind.
 */
int vublk_statistics_get(const struct vublk_statistics *statistics, unsigned queue,
			 enum vublk_request_kind kind, struct vublk_request_stats *stats,
			 size_t stats_bytes);

#endif
