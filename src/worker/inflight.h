/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_WORKER_INFLIGHT_H
#define VUBLK_WORKER_INFLIGHT_H

/*
 * Records which requests of a queue are in flight, in the queue's region of an in-flight area. With
 * this record, the next process that runs the ring can repeat the requests that this process did
 * not complete.
 */
#include "proto/vhost-user/inflight.h"
#include "util/atomic.h"
#include "virtio/ring.h"

#include <vublk/error.h>

/* The tracking of one queue while the queue runs. */
struct vublk_inflight_queue {
	struct vublk_inflight_split *region; /* NULL: nothing is recorded */
	uint64_t counter;
	uint16_t last_batch_head;
	unsigned num_batch;
	uint16_t batch[VUBLK_RING_MAX_SIZE]; /* heads of completions that were pushed, but not
						published yet */
};

/*
 * The requests that the previous process did not complete: the heads of their chains, in the order
 * in which they were taken.
 */
struct vublk_inflight_pending {
	unsigned count;
	uint16_t heads[VUBLK_RING_MAX_SIZE];
};

/*
 * Starts tracking a queue of `size` entries whose ring has the used index `used_idx`: finishes the
 * record of a batch that the previous process left unfinished, and stores in `pending` the requests
 * that the previous process did not complete. On entry *base must be the value of SET_VRING_BASE.
 * On return *base is the avail index at which to continue.
 *
 * `region` must have `desc_num` entries, at least `size`, and must stay mapped until the queue
 * stops. The area may have any layout (vublk_inflight_split_stride()). If `region` is NULL, the
 * queue is not tracked, and the other functions for this queue are no-ops. Error: EPROTO if the
 * region does not belong to `ring`.
 */
int vublk_inflight_queue_begin(struct vublk_inflight_queue *queue,
			       struct vublk_inflight_split *region, uint16_t desc_num,
			       const struct vublk_split_ring *ring, unsigned size,
			       uint16_t used_idx, uint16_t *base,
			       struct vublk_inflight_pending *pending, struct vublk_error *error);

/*
 * Checks that the requests of `pending` can be outstanding in a ring with the used index `used`
 * (inflight-check.c). Error: EPROTO if they cannot.
 */
int vublk_inflight_check(const struct vublk_inflight_pending *pending,
			      const struct vublk_split_ring *ring, unsigned size, uint16_t used,
			      struct vublk_error *error);

/* Called when a chain has been taken. inflight.c explains the letters at the stores. */
static inline void vublk_inflight_queue_take(struct vublk_inflight_queue *queue, uint16_t head)
{
	struct vublk_inflight_split *region = queue->region;

	if (!region)
		return;
	vublk_store_relaxed(&region->desc[head].counter, queue->counter++);
	vublk_store_release(&region->desc[head].inflight, 1); /* I */
}

/* Called when the completion of a chain is pushed, before it is published. */
static inline void vublk_inflight_queue_push(struct vublk_inflight_queue *queue, uint16_t head)
{
	struct vublk_inflight_split *region = queue->region;

	if (!region)
		return;
	vublk_store_relaxed(&region->desc[head].next, queue->last_batch_head);
	vublk_store_release(&region->last_batch_head, head); /* J */
	queue->last_batch_head = head;
	queue->batch[queue->num_batch++] = head;
}

/*
 * Called when the pushed completions have been published. `used_idx` is the ring's new used index.
 */
void vublk_inflight_queue_publish(struct vublk_inflight_queue *queue, uint16_t used_idx);

#endif
