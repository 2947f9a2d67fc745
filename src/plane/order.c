/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The map of writes (order.h) is a skip list of pieces that do not overlap, in the order of their
 * places on the disk.
 *
 * Key idea: all memory is allocated before the first write. With n writes there are at most 2n
 * pieces. A write B adds a piece for itself. If B divides a piece of another write A, there is one
 * more piece, which belongs to A but is counted for B. A ends before B, because B waits for A, and
 * all of A's pieces are removed then. So no piece outlives the write for which it is counted. There
 * are at most 4n waiters, because each waiter stands for a piece that the waiting write has
 * removed, or for one of at most two pieces that it has shortened.
 *
 * A listed write overlaps no other write: the filter showed this when the write began, and a later
 * write that overlaps a listed one first adds it to the map. So listed writes can be added to the
 * map at any time and in any order, without changing the pieces that are there.
 *
 * The levels are random. A guest cannot predict them, so it cannot make the list slow.
 */
#include "plane/order.h"

#include "util/checked.h"
#include "util/compiler.h"
#include "util/error.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#define PIECES_PER_WRITE 2
#define WAITERS_PER_WRITE 4

/* A place in the skip list: on each level, the last piece that starts before the place. */
struct path {
	unsigned levels; /* how many entries of `before` are set; on the levels above, the last
			    piece is the list's head */
	struct vublk_order_piece *before[VUBLK_ORDER_LEVELS];
};

/* --- life -------------------------------------------------------------------- */

int vublk_order_init(struct vublk_order *order, unsigned num_writes, struct vublk_error *error)
{
	*order = (struct vublk_order){
		.num_writes = num_writes,
		.levels = 1,
		.pieces = calloc((size_t)num_writes * PIECES_PER_WRITE, sizeof(*order->pieces)),
		.waiters = calloc((size_t)num_writes * WAITERS_PER_WRITE, sizeof(*order->waiters)),
	};
	if (num_writes && (!order->pieces || !order->waiters)) {
		vublk_order_deinit(order);
		return vublk_error_set(error, ENOMEM, "cannot allocate memory to order %u writes",
				       num_writes);
	}
	if (getrandom(&order->random, sizeof(order->random), GRND_NONBLOCK) < 0)
		order->random = (uint64_t)time(NULL) + (uintptr_t)order->pieces;
	order->random |= 1;
	return 0;
}

void vublk_order_deinit(struct vublk_order *order)
{
	free(order->pieces);
	free(order->waiters);
	*order = (struct vublk_order){ 0 };
}

void vublk_order_reset(struct vublk_order *order)
{
	order->filter = (struct vublk_blk_overlap){ 0 };
	order->first_listed = order->last_listed = NULL;
	order->num_listed = 0;
	order->head = (struct vublk_order_piece){ 0 };
	order->levels = 1;
	order->free_pieces = NULL;
	order->free_waiters = NULL;
	order->used_pieces = order->used_waiters = 0;
}

/* --- the list ------------------------------------------------------------------ */

/* Chooses the number of levels of a new piece at random: k levels with a probability of 3 / 4^k. */
static unsigned choose_levels(struct vublk_order *order)
{
	unsigned levels;

	order->random ^= order->random << 13; /* xorshift64 */
	order->random ^= order->random >> 7;
	order->random ^= order->random << 17;
	levels = 1 + (unsigned)__builtin_ctzll(order->random | UINT64_C(1) << 63) / 2;
	return levels < VUBLK_ORDER_LEVELS ? levels : VUBLK_ORDER_LEVELS;
}

/* On each level, finds the last piece that starts before `offset`. */
static void search(struct vublk_order *order, uint64_t offset, struct path *path)
{
	struct vublk_order_piece *at = &order->head;

	path->levels = order->levels;
	for (unsigned level = order->levels; level--;) {
		while (at->next[level] && at->next[level]->start < offset) {
			at = at->next[level];
			order->steps++;
		}
		path->before[level] = at;
	}
}

static struct vublk_order_piece *new_piece(struct vublk_order *order)
{
	struct vublk_order_piece *piece = order->free_pieces;

	if (!piece)
		return &order->pieces[order->used_pieces++];
	order->free_pieces = piece->next[0];
	return piece;
}

/* Adds a piece of `write` after the pieces of the path. The path then ends with the new piece. */
static void add_piece(struct vublk_order *order, struct vublk_order_write *write, uint64_t start,
		      uint64_t end, struct path *path)
{
	struct vublk_order_piece *piece = new_piece(order);

	piece->start = start;
	piece->end = end;
	piece->write = write;
	piece->previous_of_write = NULL;
	piece->next_of_write = write->pieces;
	if (write->pieces)
		write->pieces->previous_of_write = piece;
	write->pieces = piece;
	piece->levels = choose_levels(order);
	for (; path->levels < piece->levels; path->levels++)
		path->before[path->levels] = &order->head;
	if (order->levels < piece->levels)
		order->levels = piece->levels;
	for (unsigned level = 0; level < piece->levels; level++) {
		struct vublk_order_piece *before = path->before[level], *next = before->next[level];

		piece->previous[level] = before;
		piece->next[level] = next;
		if (next)
			next->previous[level] = piece;
		before->next[level] = piece;
		path->before[level] = piece;
	}
	order->steps++;
}

static void remove_piece(struct vublk_order *order, struct vublk_order_piece *piece)
{
	for (unsigned level = 0; level < piece->levels; level++) {
		struct vublk_order_piece *next = piece->next[level];

		piece->previous[level]->next[level] = next;
		if (next)
			next->previous[level] = piece->previous[level];
	}
	if (piece->previous_of_write)
		piece->previous_of_write->next_of_write = piece->next_of_write;
	else
		piece->write->pieces = piece->next_of_write;
	if (piece->next_of_write)
		piece->next_of_write->previous_of_write = piece->previous_of_write;
	piece->next[0] = order->free_pieces;
	order->free_pieces = piece;
	order->steps++;
}

/* --- waiting ---------------------------------------------------------------------- */

static void wait_for(struct vublk_order *order, struct vublk_order_write *write,
		     struct vublk_order_write *blocker)
{
	struct vublk_order_waiter *waiter = order->free_waiters;

	if (waiter)
		order->free_waiters = waiter->next;
	else
		waiter = &order->waiters[order->used_waiters++];
	*waiter = (struct vublk_order_waiter){ .write = write };
	if (blocker->first)
		blocker->last->next = waiter;
	else
		blocker->first = waiter;
	blocker->last = waiter;
	write->num_blockers++;
	order->steps++;
}

/*
 * If the piece before the new write extends beyond `offset`, cuts it off at `offset`, and makes the
 * new write wait for the piece's write. If the piece extended even beyond `end`, the remainder
 * becomes a new piece.
 */
static void cut_previous(struct vublk_order *order, struct vublk_order_write *write,
			 uint64_t offset, uint64_t end, struct path *path)
{
	struct vublk_order_piece *previous = path->before[0];
	uint64_t previous_end = previous->end;

	if (previous_end <= offset) /* true for the head, too */
		return;
	wait_for(order, write, previous->write);
	previous->end = offset;
	if (previous_end > end) {
		struct path copy = *path;

		add_piece(order, previous->write, end, previous_end, &copy);
	}
}

/*
 * Removes the pieces after `path` that start before `end`, and makes the new write wait for their
 * writes. If the last of them extends beyond `end`, only the part before `end` is removed.
 */
static void cut_following(struct vublk_order *order, struct vublk_order_write *write, uint64_t end,
			  struct path *path)
{
	struct vublk_order_piece *piece;

	while ((piece = path->before[0]->next[0]) && piece->start < end) {
		wait_for(order, write, piece->write);
		if (piece->end > end) {
			piece->start = end;
			return;
		}
		remove_piece(order, piece);
	}
}

/* Adds a write to the map. */
static void map_write(struct vublk_order *order, struct vublk_order_write *write)
{
	uint64_t end = write->offset + write->bytes;
	struct path path;

	write->state = VUBLK_ORDER_MAPPED;
	search(order, write->offset, &path);
	cut_previous(order, write, write->offset, end, &path);
	cut_following(order, write, end, &path);
	add_piece(order, write, write->offset, end, &path);
}

/* --- listed writes ------------------------------------------------------------------ */

static void list_write(struct vublk_order *order, struct vublk_order_write *write)
{
	struct vublk_order_write *last = order->last_listed;

	write->state = VUBLK_ORDER_LISTED;
	write->next_listed = NULL;
	write->previous_listed = last;
	*(last ? &last->next_listed : &order->first_listed) = write;
	order->last_listed = write;
	order->num_listed++;
}

static void unlist_write(struct vublk_order *order, struct vublk_order_write *write)
{
	struct vublk_order_write *next = write->next_listed, *previous = write->previous_listed;

	*(previous ? &previous->next_listed : &order->first_listed) = next;
	*(next ? &next->previous_listed : &order->last_listed) = previous;
	order->num_listed--;
}

static void map_listed(struct vublk_order *order, struct vublk_order_write *write)
{
	unlist_write(order, write);
	map_write(order, write);
}

/*
 * Moves listed writes to the map: first the oldest ones, and then each one that overlaps `write`.
 */
static void map_touched(struct vublk_order *order, const struct vublk_order_write *write)
{
	struct vublk_order_write *next;

	for (unsigned i = 0; order->first_listed && (i < VUBLK_ORDER_SEARCH_MAPS ||
						     order->num_listed > VUBLK_ORDER_MAX_SEARCH); i++)
		map_listed(order, order->first_listed);
	for (struct vublk_order_write *at = order->first_listed; at; at = next) {
		next = at->next_listed;
		order->steps++;
		if (vublk_ranges_overlap(at->offset, at->bytes, write->offset, write->bytes))
			map_listed(order, at);
	}
}

/* --- writes ------------------------------------------------------------------------- */

static VUBLK_NOINLINE void begin_mapped(struct vublk_order *order, struct vublk_order_write *write)
{
	map_touched(order, write);
	map_write(order, write);
}

void vublk_order_begin(struct vublk_order *order, struct vublk_order_write *write, uint64_t offset,
		       uint64_t bytes)
{
	bool may_touch;

	*write = (struct vublk_order_write){ .offset = offset, .bytes = bytes };
	if (!bytes)
		return;
	may_touch = vublk_blk_overlap_is_possible(&order->filter, offset, bytes);
	vublk_blk_overlap_add(&order->filter, offset, bytes);
	if (VUBLK_UNLIKELY(may_touch))
		begin_mapped(order, write);
	else
		list_write(order, write);
}

static VUBLK_NOINLINE struct vublk_order_write *end_mapped(struct vublk_order *order,
							   struct vublk_order_write *write)
{
	struct vublk_order_write *free = NULL, **tail = &free;
	struct vublk_order_waiter *waiter, *next;

	while (write->pieces)
		remove_piece(order, write->pieces);
	for (waiter = write->first; waiter; waiter = next) {
		next = waiter->next;
		if (!--waiter->write->num_blockers) {
			*tail = waiter->write;
			tail = &waiter->write->next_free;
		}
		waiter->next = order->free_waiters;
		order->free_waiters = waiter;
		order->steps++;
	}
	*tail = NULL;
	write->first = write->last = NULL;
	return free;
}

struct vublk_order_write *vublk_order_end(struct vublk_order *order,
					  struct vublk_order_write *write)
{
	enum vublk_order_write_state state = write->state;

	if (VUBLK_UNLIKELY(state == VUBLK_ORDER_NONE))
		return NULL;
	write->state = VUBLK_ORDER_NONE;
	vublk_blk_overlap_remove(&order->filter, write->offset, write->bytes);
	if (VUBLK_UNLIKELY(state == VUBLK_ORDER_MAPPED))
		return end_mapped(order, write);
	unlist_write(order, write); /* no other write waits for a listed one */
	return NULL;
}
