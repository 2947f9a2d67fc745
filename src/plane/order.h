/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PLANE_ORDER_H
#define VUBLK_PLANE_ORDER_H

/*
 * The order of writes to the same place of the disk.
 *
 * Key idea: a map of the disk stores, for each place, the last write that was begun there and has
 * not ended. A new write waits for the writes that the map has at the new write's place, and
 * replaces them in the map. The new write need not wait for still earlier writes, because the
 * replaced writes wait for those.
 *
 * Each write adds at most two pieces to the map, and removes the pieces that it covers. So on
 * average the work per write is bounded, however many writes wait for each other. Only the length
 * of a search grows, with the logarithm of the number of pieces.
 *
 * Most writes overlap no other write. A filter of all writes shows this with a few loads, and these
 * writes are only in a list, not in the map. When a later write may overlap a write in the list,
 * the list is searched, and the writes that the later write does overlap are moved to the map.
 */
#include "virtio/blk-overlap.h"

#include <vublk/error.h>

#include <stdbool.h>
#include <stdint.h>

/*
 * The number of levels of the skip list of pieces (order.c). On average, one in four pieces of a
 * level is also on the next level.
 */
#define VUBLK_ORDER_LEVELS 9

/*
 * Before each search of the list, the VUBLK_ORDER_SEARCH_MAPS oldest writes of the list are moved
 * to the map, and more of them while the list is longer than VUBLK_ORDER_MAX_SEARCH. So each write
 * takes part in at most VUBLK_ORDER_MAX_SEARCH / VUBLK_ORDER_SEARCH_MAPS searches. If there are so
 * many writes that the filter often errs, these searches empty the list.
 */
#define VUBLK_ORDER_MAX_SEARCH 128
#define VUBLK_ORDER_SEARCH_MAPS 4

struct vublk_order_write;

/* A part of the disk, [start, end) in bytes, and the last write there. */
struct vublk_order_piece {
	uint64_t start, end;
	struct vublk_order_write *write;
	struct vublk_order_piece *next_of_write, *previous_of_write;
	unsigned levels;
	struct vublk_order_piece *previous[VUBLK_ORDER_LEVELS]; /* the previous piece on each level,
								   or the head */
	struct vublk_order_piece *next[VUBLK_ORDER_LEVELS]; /* the next piece on each level, in the
							       order of their offsets */
};

/* An entry in a write's list of waiters: `write` waits for the write that the list belongs to. */
struct vublk_order_waiter {
	struct vublk_order_write *write;
	struct vublk_order_waiter *next;
};

enum vublk_order_write_state {
	VUBLK_ORDER_NONE,   /* the write has not begun, has ended, or has 0 bytes */
	VUBLK_ORDER_LISTED, /* overlaps no other write; only in the list that begins at
			       `first_listed` */
	VUBLK_ORDER_MAPPED, /* the write is in the map */
};

/* A write that is in progress. All members are zero while there is no write. */
struct vublk_order_write {
	unsigned num_blockers; /* how many entries for this write are in the lists of waiters of
				  earlier writes */
	enum vublk_order_write_state state;
	uint64_t offset, bytes;
	struct vublk_order_write *next_listed, *previous_listed;
	struct vublk_order_piece *pieces;
	struct vublk_order_waiter *first, *last; /* the later writes that wait for this one */
	struct vublk_order_write *next_free;     /* the next write in the result of
						    vublk_order_end() */
};

struct vublk_order {
	unsigned num_writes; /* how many writes there may be at the same time */
	struct vublk_blk_overlap filter; /* has all writes, listed and mapped ones */
	struct vublk_order_write *first_listed, *last_listed; /* from the oldest to the newest */
	unsigned num_listed;
	struct vublk_order_piece head; /* precedes all pieces */
	unsigned levels; /* how many levels are in use; those above are empty */
	struct vublk_order_piece *pieces, *free_pieces;
	struct vublk_order_waiter *waiters, *free_waiters;
	unsigned used_pieces, used_waiters; /* from this index on, the elements of the arrays have
					       not been used since the last reset */
	uint64_t random;
	uint64_t steps; /* for tests: how much work has been done */
};

/* Makes an empty map for at most `num_writes` writes at the same time. Error: ENOMEM. */
int vublk_order_init(struct vublk_order *order, unsigned num_writes, struct vublk_error *error);
/* Frees the map's memory. Idempotent; a no-op for a zeroed struct. */
void vublk_order_deinit(struct vublk_order *order);
/* Makes the map empty again. The caller must zero the writes that were in it. */
void vublk_order_reset(struct vublk_order *order);

/*
 * Begins a write to `bytes` bytes at `offset`; `bytes` may be 0. Afterwards write->num_blockers is
 * 0 if the write may be executed now.
 */
void vublk_order_begin(struct vublk_order *order, struct vublk_order_write *write, uint64_t offset,
		       uint64_t bytes);
/*
 * Ends a write that has no blockers. Returns the writes that have lost their last blocker, linked
 * by `next_free` in the order in which they were begun; NULL if there are none.
 */
struct vublk_order_write *vublk_order_end(struct vublk_order *order,
					  struct vublk_order_write *write);

#endif
