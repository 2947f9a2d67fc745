/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_STATISTICS_H
#define VUBLK_BACKEND_STATISTICS_H

/*
 * Counters of requests, per queue and type. They outlive sessions.
 *
 * Key idea: only the worker of a queue writes the queue's counters, so counting takes one relaxed
 * load and one relaxed store, and any thread may read the counters. While counting is off, a
 * request costs one load of a flag that rarely changes, one store and two branches.
 */
#include <vublk/backend.h>

struct vublk_request;

/* The counters of one queue. */
struct vublk_queue_statistics {
	const bool *is_on; /* of all queues of the back-end */
	struct vublk_backend_stats types[VUBLK_BACKEND_NUM_REQUESTS];
};

struct vublk_statistics {
	bool is_on; /* any thread */
	unsigned num_queues;
	struct vublk_queue_statistics queues[];
};

/* NULL: there is no memory. Pages that no queue uses take no memory. */
struct vublk_statistics *vublk_statistics_new(unsigned num_queues, bool is_on);
void vublk_statistics_free(struct vublk_statistics *statistics);

/* --- the worker's ---------------------------------------------------------------------- */

/* The request begins. It has this type (VIRTIO_BLK_T_...) and `bytes` of data. */
void vublk_statistics_begin(struct vublk_request *request, uint32_t type, uint64_t bytes);
/* The request that has begun ends with this status (VIRTIO_BLK_S_...). */
void vublk_statistics_end(struct vublk_request *request, uint8_t status);
/* The request that has begun is left to the next back-end. */
void vublk_statistics_leave(struct vublk_request *request);

#endif
