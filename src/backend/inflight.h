/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_INFLIGHT_H
#define VUBLK_BACKEND_INFLIGHT_H

/*
 * Noting in the shared area which requests were taken, so that the next back-end
 * can do again what this one did not complete.
 */
#include "proto/vhost-user/inflight.h"
#include "proto/vhost-user/codec.h"
#include "util/fault.h"
#include "virtio/ring.h"

/* The area of a session, mapped. All queues' regions, one after the other. */
struct vublk_inflight_area {
	void *mapping; /* NULL: there is none */
	uint64_t mapping_bytes;
	char *regions;
	uint16_t num_queues;
	uint16_t queue_size;
	struct vublk_fault *fault; /* set once: records the pages that the front-end removes */
};

/* One queue's region while the queue runs. */
struct vublk_inflight_queue {
	struct vublk_inflight_split *region; /* NULL: nothing is noted */
	uint64_t counter;
	uint16_t last_batch_head;
	unsigned num_batch;
	uint16_t batch[VUBLK_RING_MAX_SIZE]; /* pushed, and not published yet */
};

/* What the previous back-end left undone: heads, in the order in which it took them. */
struct vublk_inflight_rest {
	unsigned count;
	uint16_t heads[VUBLK_RING_MAX_SIZE];
};

/* GET_INFLIGHT_FD: a new area for this many queues; `fd` is the caller's. */
int vublk_inflight_area_new(struct vublk_inflight_area *area, uint16_t num_queues,
			    uint16_t queue_size, int *fd, struct vublk_error *error);
/* SET_INFLIGHT_FD: maps the front-end's; `fd` stays the caller's. */
int vublk_inflight_area_map(struct vublk_inflight_area *area,
			    const struct vublk_vu_inflight *wire, int fd, unsigned max_queues,
			    struct vublk_error *error);
/* Whether a back-end has begun a queue in it. */
bool vublk_inflight_area_is_used(const struct vublk_inflight_area *area);
/* Idempotent. */
void vublk_inflight_area_unmap(struct vublk_inflight_area *area);

/*
 * Begins a queue of `size` entries whose ring says `used_idx`: completes what the
 * previous back-end had half noted, and finds what it left undone. `base` is
 * what SET_VRING_BASE said, and becomes where to go on. EPROTO: the area
 * does not belong to `ring`.
 */
int vublk_inflight_queue_begin(struct vublk_inflight_queue *queue,
			       const struct vublk_inflight_area *area, unsigned index,
			       const struct vublk_split_ring *ring, unsigned size,
			       uint16_t used_idx, uint16_t *base,
			       struct vublk_inflight_rest *rest, struct vublk_error *error);

/* Whether the ring's driver can have these outstanding. inflight-check.c */
int vublk_inflight_rest_check(const struct vublk_inflight_rest *rest,
			      const struct vublk_split_ring *ring, unsigned size, uint16_t used,
			      struct vublk_error *error);

/* A chain was taken. */
void vublk_inflight_queue_take(struct vublk_inflight_queue *queue, uint16_t head);
/* Its completion was pushed, and not published yet. */
void vublk_inflight_queue_push(struct vublk_inflight_queue *queue, uint16_t head);
/* What was pushed is published; the ring's used index is `used_idx` now. */
void vublk_inflight_queue_publish(struct vublk_inflight_queue *queue, uint16_t used_idx);

#endif
