/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_STATISTICS_H
#define VUBLK_BACKEND_STATISTICS_H

/*
 * Counts the requests of a back-end. The counters outlive sessions.
 *
 * Key idea: while counting is off, each request pays only for one load of a flag that rarely
 * changes, one store and two branches.
 */
#include "worker/statistics.h"

struct vublk_request;

/* These functions are for the queue's worker. */

/*
 * Called when the request begins. `type` is VIRTIO_BLK_T_..., and the request transfers `bytes` of
 * data.
 */
void vublk_statistics_begin(struct vublk_request *request, uint32_t type, uint64_t bytes);
/* Called when a request that has begun ends. `status` is VIRTIO_BLK_S_.... */
void vublk_statistics_end(struct vublk_request *request, uint8_t status);
/* Called when a request that has begun is left for the next back-end. */
void vublk_statistics_leave(struct vublk_request *request);

#endif
