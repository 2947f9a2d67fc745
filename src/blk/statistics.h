/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_STATISTICS_H
#define VUBLK_BLK_STATISTICS_H

/*
 * What a queue counts of its requests with the option statistics=on. Not the way of a request:
 * without the option a queue has no such object, and the only trace is one branch per poll
 * that finds something.
 *
 * Key idea: one writer, the queue's owner, stores each counter as a whole, so any thread may
 * read them without a lock. Each number is right by itself; two of them may be a request apart.
 */

#include <vublk/blk.h>
#include <vublk/error.h>

#include <stdint.h>

struct vublk_blk_queue;
struct vublk_blk_request;
struct vublk_blk_statistics;

/* For `size` requests at a time. NULL: no memory. */
struct vublk_blk_statistics *vublk_blk_statistics_new(unsigned size);
void vublk_blk_statistics_free(struct vublk_blk_statistics *statistics);

/* The owner, of a queue that has statistics: a request is about to start, with all its bytes. */
void vublk_blk_statistics_begin(struct vublk_blk_queue *queue,
				const struct vublk_blk_request *request);
/* The application takes its completion. */
void vublk_blk_statistics_end(struct vublk_blk_queue *queue,
			      const struct vublk_blk_request *request);

#endif
