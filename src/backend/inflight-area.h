/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_INFLIGHT_AREA_H
#define VUBLK_BACKEND_INFLIGHT_AREA_H

/*
 * The in-flight area of a session (INFLIGHT_SHMFD), which either end may create. The queues use
 * worker/inflight.h to record their requests in it.
 */
#include "proto/vhost-user/codec.h"
#include "proto/vhost-user/inflight.h"
#include "util/memory-file.h"

/* The mapped area of a session: the regions of all queues, one after the other. */
struct vublk_inflight_area {
	struct vublk_memory_part part; /* not mapped: no area */
	uint16_t num_queues;
	uint16_t queue_size;
	struct vublk_fault *fault; /* set once: records the pages that the front-end removes */
};

/*
 * GET_INFLIGHT_FD: creates an area for this many queues; the caller owns `fd`. The numbers have
 * passed vublk_vu_check_inflight(), as those of the next function's message.
 */
int vublk_inflight_area_new(struct vublk_inflight_area *area, uint16_t num_queues,
			    uint16_t queue_size, int *fd, struct vublk_error *error);
/* SET_INFLIGHT_FD: maps the front-end's area; the message keeps the descriptor. */
int vublk_inflight_area_map(struct vublk_inflight_area *area,
			    const struct vublk_vu_message *message, struct vublk_error *error);
/* Returns whether a back-end has started a queue with the area. */
bool vublk_inflight_area_is_used(const struct vublk_inflight_area *area);
/* Idempotent. */
void vublk_inflight_area_unmap(struct vublk_inflight_area *area);

/*
 * The region of a queue of `size` entries; NULL without an area. EPROTO: the area has no such
 * region.
 */
int vublk_inflight_area_region(const struct vublk_inflight_area *area, unsigned index,
			       unsigned size, struct vublk_inflight_split **region,
			       struct vublk_error *error);

#endif
