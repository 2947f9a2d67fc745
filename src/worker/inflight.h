/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_WORKER_INFLIGHT_H
#define VUBLK_WORKER_INFLIGHT_H

/*
 * These functions record in a queue's region of a shared area which requests were taken, so that
 * the next process that runs the ring can repeat the requests that this process did not complete.
 */
#include "proto/vhost-user/inflight.h"
#include "virtio/ring.h"

#include <vublk/error.h>

/* One queue's region while the queue runs. */
struct vublk_inflight_queue {
	struct vublk_inflight_split *region; /* NULL: not tracked */
	uint64_t counter;
	uint16_t last_batch_head;
	unsigned num_batch;
	uint16_t batch[VUBLK_RING_MAX_SIZE]; /* pushed, and not published yet */
};

/* The requests that the previous process did not complete: heads, in the order taken. */
struct vublk_inflight_pending {
	unsigned count;
	uint16_t heads[VUBLK_RING_MAX_SIZE];
};

/*
 * Starts tracking a queue of `size` entries whose ring has the used index `used_idx`: completes the
 * record of a batch that the previous process left incomplete, and finds the requests that the
 * previous process did not complete. `base` is the value of SET_VRING_BASE and becomes the index to
 * continue at.
 *
 * `region` has `desc_num` entries, at least `size`, and stays mapped until the queue stops; the
 * distance to the next region may be that of any layout (vublk_inflight_split_stride()). NULL: the
 * queue is not tracked, and the functions below are no-ops. EPROTO: the region does not belong to
 * `ring`.
 */
int vublk_inflight_queue_begin(struct vublk_inflight_queue *queue,
			       struct vublk_inflight_split *region, uint16_t desc_num,
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
