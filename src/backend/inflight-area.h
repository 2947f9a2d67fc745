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

/* The mapped area of a session. The area has one region per queue, one after the other. */
struct vublk_inflight_area {
	struct vublk_memory_part part; /* part.mapping NULL: there is no area */
	uint16_t num_queues;
	uint16_t queue_size;
	int fd;               /* owned while the area is mapped; kept for an upgrade */
	uint64_t mmap_offset;
	struct vublk_fault *fault; /* set once; records whether a page was lost (util/fault.h) */
};

/*
 * Executes GET_INFLIGHT_FD: creates an area for `num_queues` queues of `queue_size` entries, which
 * replaces the previous one. Stores in `fd` a descriptor of the area, which the caller owns.
 * vublk_vu_check_inflight() must have accepted the message.
 */
int vublk_inflight_area_new(struct vublk_inflight_area *area, uint16_t num_queues,
			    uint16_t queue_size, int *fd, struct vublk_error *error);
/*
 * Executes SET_INFLIGHT_FD: maps the front-end's area, which replaces the previous one. On success,
 * takes the descriptor out of the message, which vublk_vu_check_inflight() must have accepted.
 */
int vublk_inflight_area_map(struct vublk_inflight_area *area,
			    struct vublk_vu_message *message, struct vublk_error *error);
/* Returns whether a back-end has already started a queue with the area. */
bool vublk_inflight_area_is_used(const struct vublk_inflight_area *area);
/* Unmaps the area. Idempotent. */
void vublk_inflight_area_unmap(struct vublk_inflight_area *area);

/*
 * Stores in `region` the region of queue `index`, which has `size` entries; NULL if there is no
 * area. Error: EPROTO if the area has no region for such a queue.
 */
int vublk_inflight_area_region(const struct vublk_inflight_area *area, unsigned index,
			       unsigned size, struct vublk_inflight_split **region,
			       struct vublk_error *error);

#endif
