/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_STATISTICS_H
#define VUBLK_BLK_STATISTICS_H

/*
 * The counters of a queue with the option statistics=on. Without this option the queue has no such
 * object, and pays only for one branch in each poll that has work, and one in each request that
 * does not take the fast path.
 *
 * Key idea: only the queue's owner writes the counters, each with one atomic store, so any thread
 * can read them without a lock. Each counter is exact, but one counter may include a request that
 * another counter does not include yet.
 */

#include <vublk/blk.h>
#include <vublk/error.h>

#include <stdint.h>

struct vublk_blk_queue;
struct vublk_blk_request;
struct vublk_blk_statistics;

/* Makes counters for at most `size` requests in flight. Returns NULL if there is no memory. */
struct vublk_blk_statistics *vublk_blk_statistics_new(unsigned size);
void vublk_blk_statistics_free(struct vublk_blk_statistics *statistics);

/*
 * Called by the owner before the first piece of a request is cut. The queue must have statistics.
 */
void vublk_blk_statistics_begin(struct vublk_blk_queue *queue,
				const struct vublk_blk_request *request);
/* Called by the owner when the application takes the completion of the request. */
void vublk_blk_statistics_end(struct vublk_blk_queue *queue,
			      const struct vublk_blk_request *request);

#endif
