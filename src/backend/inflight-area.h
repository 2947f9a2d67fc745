/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_INFLIGHT_AREA_H
#define VUBLK_BACKEND_INFLIGHT_AREA_H

/*
 * The in-flight area of a session (INFLIGHT_SHMFD), which either end may create. The queues record
 * in it by worker/inflight.h.
 */
#include "proto/vhost-user/codec.h"
#include "proto/vhost-user/inflight.h"
#include "util/fault.h"

/* The mapped area of a session: the regions of all queues, one after the other. */
struct vublk_inflight_area {
	void *mapping; /* NULL: no area */
	uint64_t mapping_bytes;
	char *regions;
	uint16_t num_queues;
	uint16_t queue_size;
	struct vublk_fault *fault; /* set once: records the pages that the front-end removes */
};

/* GET_INFLIGHT_FD: creates an area for this many queues; the caller owns `fd`. */
int vublk_inflight_area_new(struct vublk_inflight_area *area, uint16_t num_queues,
			    uint16_t queue_size, int *fd, struct vublk_error *error);
/* SET_INFLIGHT_FD: maps the front-end's area; the caller keeps `fd`. */
int vublk_inflight_area_map(struct vublk_inflight_area *area,
			    const struct vublk_vu_inflight *wire, int fd, unsigned max_queues,
			    struct vublk_error *error);
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
