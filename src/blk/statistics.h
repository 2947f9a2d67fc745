/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_STATISTICS_H
#define VUBLK_BLK_STATISTICS_H

/*
 * The counters of a queue, with the option statistics=on. Without the option a queue has no such
 * object, and the only cost is one branch per poll that finds a completion.
 *
 * Key idea: only the queue's owner writes the counters, each with one atomic store, so any thread
 * can read them without a lock. Each counter is exact, but two counters may differ by a request.
 */

#include <vublk/blk.h>
#include <vublk/error.h>

#include <stdint.h>

struct vublk_blk_queue;
struct vublk_blk_request;
struct vublk_blk_statistics;

/* `size`: the most requests in flight. NULL: no memory. */
struct vublk_blk_statistics *vublk_blk_statistics_new(unsigned size);
void vublk_blk_statistics_free(struct vublk_blk_statistics *statistics);

/* The owner of a queue that has statistics: a request is about to start; no byte of it is cut. */
void vublk_blk_statistics_begin(struct vublk_blk_queue *queue,
				const struct vublk_blk_request *request);
/* The same: the application takes the completion of the request. */
void vublk_blk_statistics_end(struct vublk_blk_queue *queue,
			      const struct vublk_blk_request *request);

#endif
