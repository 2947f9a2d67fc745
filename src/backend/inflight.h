/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_INFLIGHT_H
#define VUBLK_BACKEND_INFLIGHT_H

/*
 * These functions record in the shared area which requests were taken, so that the next back-end
 * can repeat the requests that this back-end did not complete.
 */
#include "proto/vhost-user/inflight.h"
#include "proto/vhost-user/codec.h"
#include "util/fault.h"
#include "virtio/ring.h"

/* The mapped area of a session: the regions of all queues, one after the other. */
struct vublk_inflight_area {
	void *mapping; /* NULL: no area */
	uint64_t mapping_bytes;
	char *regions;
	uint16_t num_queues;
	uint16_t queue_size;
	struct vublk_fault *fault; /* set once: records the pages that the front-end removes */
};

/* One queue's region while the queue runs. */
struct vublk_inflight_queue {
	struct vublk_inflight_split *region; /* NULL: not tracked */
	uint64_t counter;
	uint16_t last_batch_head;
	unsigned num_batch;
	uint16_t batch[VUBLK_RING_MAX_SIZE]; /* pushed, and not published yet */
};

/* The requests that the previous back-end did not complete: heads, in the order taken. */
struct vublk_inflight_pending {
	unsigned count;
	uint16_t heads[VUBLK_RING_MAX_SIZE];
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
 * Starts tracking a queue of `size` entries whose ring has the used index `used_idx`: completes the
 * record of a batch that the previous back-end left incomplete, and finds the requests that this
 * back-end did not complete. `base` is the value of SET_VRING_BASE and becomes the index to
 * continue at. EPROTO: the area does not belong to `ring`.
 */
int vublk_inflight_queue_begin(struct vublk_inflight_queue *queue,
			       const struct vublk_inflight_area *area, unsigned index,
			       const struct vublk_split_ring *ring, unsigned size,
			       uint16_t used_idx, uint16_t *base,
			       struct vublk_inflight_pending *pending, struct vublk_error *error);

/* Whether the driver of the ring can have these requests outstanding. inflight-check.c */
int vublk_inflight_check(const struct vublk_inflight_pending *pending,
			      const struct vublk_split_ring *ring, unsigned size, uint16_t used,
			      struct vublk_error *error);

/* A chain was taken. */
void vublk_inflight_queue_take(struct vublk_inflight_queue *queue, uint16_t head);
/* Its completion was pushed, but not published yet. */
void vublk_inflight_queue_push(struct vublk_inflight_queue *queue, uint16_t head);
/* The pushed completions are published; the used index of the ring is now `used_idx`. */
void vublk_inflight_queue_publish(struct vublk_inflight_queue *queue, uint16_t used_idx);

#endif
