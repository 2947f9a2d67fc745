/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checks whether the requests that an in-flight area marks can belong to a ring. The front-end
 * supplies the area, so the area may belong to another ring. The marked requests are executed
 * again, so each must be a chain that the driver has made available.
 *
 * Key idea: the used and avail indices of the ring say how many chains are outstanding. The chains
 * in flight are some of the outstanding chains. The other outstanding chains were made available
 * last, because a back-end takes chains in order. So
 *   - no more chains are in flight than are outstanding;
 *   - an avail entry that was not taken never names a chain in flight;
 *   - from the used index on, each avail entry that was taken names a chain that is in flight or
 *     was completed;
 *   - if the avail entry of a chain in flight is still in the ring, the used ring has no completion
 *     of that chain after the entry;
 *   - in a ring that has not wrapped yet, that entry is still there, and the chain was made
 *     available exactly once more than it was completed.
 * In a ring that has wrapped, nothing else can be checked, because newer entries may have
 * overwritten the entry of a chain that has been in flight for a long time.
 */
#include "worker/inflight.h"

#include "util/atomic.h"
#include "util/checked.h"
#include "util/error.h"

#include <errno.h>
#include <limits.h>

#define NEVER INT_MIN

/*
 * What the avail and used rings say about the chains. Positions in both are relative to the used
 * index, so the last completion is at -1.
 */
struct history {
	const struct vublk_split_ring *ring;
	unsigned size;
	uint16_t used;
	int outstanding, taken; /* positions: of the end of the avail entries, and of the first
				   avail entry that was not taken */
	bool is_first_round;
	struct {
		bool in_flight;
		int available, completed; /* the last positions at which the chain was made
					     available, and completed; NEVER: none */
		int balance;              /* how many times the chain was made available, minus how
					     many times it was completed */
		int taken;                /* how many of the taken avail entries from the used index
					     on name the chain */
		int completions;          /* how many entries of the used ring name the chain */
	} heads[VUBLK_RING_MAX_SIZE];
};

static unsigned slot_of(const struct history *history, int position)
{
	return (unsigned)(history->used + position) & (history->size - 1);
}

static uint16_t available_at(const struct history *history, int position)
{
	return vublk_load_relaxed(&history->ring->avail->ring[slot_of(history, position)]);
}

static uint32_t completed_at(const struct history *history, int position)
{
	return vublk_load_relaxed(&history->ring->used->ring[slot_of(history, position)].id);
}

/*
 * Returns whether the used ring has not wrapped yet: the entries from the used index on still have
 * the zeroes with which the driver initialized them.
 */
static bool is_used_ring_fresh(const struct history *history)
{
	const struct vublk_split_ring *ring = history->ring;

	for (unsigned i = history->used; i < history->size; i++)
		if (vublk_load_relaxed(&ring->used->ring[i].id) ||
		    vublk_load_relaxed(&ring->used->ring[i].len))
			return false;
	return history->used < history->size;
}

/* Returns whether neither ring has wrapped yet: the unused entries of both are still zero. */
static bool is_first_round(const struct history *history, uint16_t avail)
{
	const struct vublk_split_ring *ring = history->ring;

	if (avail >= history->size || history->used > avail)
		return false;
	for (unsigned i = avail; i < history->size; i++)
		if (vublk_load_relaxed(&ring->avail->ring[i]))
			return false;
	return is_used_ring_fresh(history);
}

/* Collects what both rings say about the chains that were taken. */
static void read_history(struct history *history)
{
	int size = (int)history->size, before = -(int)history->used;
	int first_available = history->is_first_round ? before : history->outstanding - size;
	int first_completed = is_used_ring_fresh(history) ? before : -size;

	for (unsigned i = 0; i < history->size; i++)
		history->heads[i].available = history->heads[i].completed = NEVER;
	for (int i = first_available; i < history->taken; i++) {
		uint16_t head = available_at(history, i);

		if (head >= history->size)
			continue;
		history->heads[head].available = i;
		history->heads[head].balance++;
		history->heads[head].taken += i >= 0;
	}
	for (int i = first_completed; i < 0; i++) {
		uint32_t head = completed_at(history, i);

		if (head >= history->size)
			continue;
		history->heads[head].completed = i;
		history->heads[head].balance--;
		history->heads[head].completions++;
	}
}

static int check_not_taken(const struct history *history, struct vublk_error *error)
{
	for (int i = history->taken; i < history->outstanding; i++) {
		uint16_t head = available_at(history, i);

		if (head < history->size && history->heads[head].in_flight)
			return vublk_error_set(error, EPROTO,
					       "the in-flight area does not belong to this ring: "
					       "it marks entry %u as in flight, but the back-end cannot "
					       "have taken this entry, because the area marks only %d",
					       head, history->taken);
	}
	return 0;
}

static int check_taken(const struct history *history, const struct vublk_inflight_pending *pending,
		       struct vublk_error *error)
{
	for (unsigned i = 0; i < pending->count; i++) {
		unsigned head = pending->heads[i];
		int available = history->heads[head].available;
		int completed = history->heads[head].completed;

		if (history->is_first_round ? history->heads[head].balance == 1 :
		    available == NEVER || completed < available)
			continue;
		return vublk_error_set(error, EPROTO,
				       "the in-flight area does not belong to this ring: it marks "
				       "entry %u as in flight, which %s", head,
				       available == NEVER ? "the driver never made available" :
				       "the device has completed since the driver last made it "
				       "available");
	}
	return 0;
}

/*
 * Checks that the used ring contains the completion of each chain that was taken at position 0 or
 * later and is not in flight. That completion is one of the last `size`, because at most `size`
 * chains are outstanding.
 */
static int check_complete(const struct history *history, struct vublk_error *error)
{
	for (unsigned head = 0; head < history->size; head++) {
		int open = history->heads[head].taken - history->heads[head].completions;

		if (open > history->heads[head].in_flight)
			return vublk_error_set(error, EPROTO,
					       "the in-flight area does not belong to this ring: "
					       "it does not mark entry %u as in flight, but the back-end "
					       "must have taken this entry without completing it, "
					       "because the area marks %d", head, history->taken);
	}
	return 0;
}

int vublk_inflight_check(const struct vublk_inflight_pending *pending,
			      const struct vublk_split_ring *ring, unsigned size, uint16_t used,
			      struct vublk_error *error)
{
	uint16_t avail = vublk_load_acquire(&ring->avail->idx); /* pair A in virtio/split.h */
	struct history history = {
		.ring = ring, .size = size, .used = used,
		.outstanding = (uint16_t)(avail - used), .taken = (int)pending->count,
	};

	if (!pending->count)
		return 0;
	if (history.outstanding > (int)size || history.taken > history.outstanding)
		return vublk_error_set(error, EPROTO,
				       "the in-flight area does not belong to this ring: it marks "
				       "%u request%s as in flight, but the ring's indexes leave %d "
				       "of its %u entries outstanding (used index %u, avail index "
				       "%u)", pending->count, pending->count == 1 ? "" : "s",
				       history.outstanding, size, used, avail);
	history.is_first_round = is_first_round(&history, avail);
	read_history(&history);
	for (unsigned i = 0; i < pending->count; i++)
		history.heads[pending->heads[i]].in_flight = true;
	if (check_not_taken(&history, error) || check_taken(&history, pending, error))
		return -EPROTO;
	return check_complete(&history, error);
}
