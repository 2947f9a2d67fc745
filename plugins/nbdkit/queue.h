/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_NBDKIT_QUEUE_H
#define VUBLK_NBDKIT_QUEUE_H

/*
 * A queue of the disk, which nbdkit's threads share. Each call of vublk_nbdkit_queue_read(), _write(),
 * _discard() or _zero() executes a request of an NBD client, and returns when the request is
 * complete.
 *
 * ESHUTDOWN: the server or the client's connection ended before the request was complete. The
 * back-end may still execute the request, and the request's memory stays in use until it completes.
 */

#include "plugins/nbdkit/ranges.h"

#include <vublk/blk.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VUBLK_NBDKIT_PIECES 32             /* how many pieces (see below) a queue has */
#define VUBLK_NBDKIT_PIECES_OF_CALL 8      /* how many pieces one call can use at the same time */
#define VUBLK_NBDKIT_PIECE_BYTES (UINT32_C(256) << 10)

struct vublk_nbdkit_call;
struct vublk_nbdkit_queue;

/* A request on the queue, with memory for its data. */
struct vublk_nbdkit_piece {
	/* Called on the queue's thread with the queue's lock held. */
	void (*completed)(struct vublk_nbdkit_queue *queue, struct vublk_nbdkit_piece *piece,
			  const struct vublk_blk_completion *completion);
	struct vublk_nbdkit_piece *next;  /* in the list of free pieces */
	struct vublk_nbdkit_call *call;   /* NULL: the piece is free, or its call has returned early */
	struct vublk_nbdkit_range *range; /* of a change whose call has returned early; otherwise NULL */
	char *buffer;
	uint64_t offset;
	uint64_t bytes;
	bool in_flight;
};

struct vublk_nbdkit_queue {
	/* constant */
	struct vublk_blk_queue *queue;
	struct vublk_nbdkit_ranges *ranges;
	uint64_t piece_bytes;
	pthread_t thread; /* takes the completions */
	int stop_fd;

	pthread_mutex_t lock; /* protects the members below, and the use of `queue` */
	pthread_cond_t piece_freed;
	pthread_cond_t room; /* signalled when requests have completed, so that the queue may have
				room for others */
	struct vublk_nbdkit_piece *free;
	bool stops;
	struct vublk_nbdkit_piece pieces[VUBLK_NBDKIT_PIECES];

	unsigned connections; /* protected by the lock of the disk */
};

/*
 * Starts the queue's thread. `memory` is memory of vublk_blk_alloc(): VUBLK_NBDKIT_PIECES times
 * `piece_bytes` bytes.
 */
int vublk_nbdkit_queue_start(struct vublk_nbdkit_queue *queue, struct vublk_blk_queue *of_disk,
			  struct vublk_nbdkit_ranges *ranges, char *memory, uint64_t piece_bytes,
			  struct vublk_error *error);
/* Ends the queue's thread. Does nothing if the queue was not started. */
void vublk_nbdkit_queue_stop(struct vublk_nbdkit_queue *queue);

/*
 * Transfers `bytes` bytes at `offset`. The requests to the back-end transfer whole blocks: from
 * `start` to `end` for a read, and `range` for a write. If a write begins or ends within a block,
 * the function reads all blocks of the range, changes them, and writes them. `range` belongs to the
 * caller.
 */
int vublk_nbdkit_queue_read(struct vublk_nbdkit_queue *queue, uint64_t start, uint64_t end, char *buffer,
			 size_t bytes, uint64_t offset, struct vublk_error *error);
int vublk_nbdkit_queue_write(struct vublk_nbdkit_queue *queue, struct vublk_nbdkit_range *range,
			  const char *buffer, size_t bytes, uint64_t offset,
			  struct vublk_error *error);

/* Discards the range, or fills it with zeroes. `flags` is 0 or VUBLK_BLK_NO_UNMAP. */
int vublk_nbdkit_queue_discard(struct vublk_nbdkit_queue *queue, struct vublk_nbdkit_range *range,
			    struct vublk_error *error);
int vublk_nbdkit_queue_zero(struct vublk_nbdkit_queue *queue, struct vublk_nbdkit_range *range,
			 uint32_t flags, struct vublk_error *error);

#endif
