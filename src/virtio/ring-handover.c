/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes and reads the private fields of both ends of a split ring; see ring-handover.h.
 *
 * Key idea: the driver end trusts its private links, so this file checks them once, after reading
 * them. The records of what the avail ring and the descriptors contain are not handed over, because
 * they only save stores. The new process stores again everything that it uses.
 */
#include "virtio/ring-handover.h"

#include "util/error.h"

#include <errno.h>

/* --- the driver end ------------------------------------------------------------------------ */

static void visit_slot(struct vublk_driver_slot *slot, struct vublk_fields *fields)
{
	VUBLK_FIELD(fields, slot->next);
	VUBLK_FIELD(fields, slot->serial);
	if (slot->serial == VUBLK_DRIVER_RING_NONE)
		return;
	VUBLK_FIELD(fields, slot->tail);
	VUBLK_FIELD(fields, slot->count);
	VUBLK_FIELD(fields, slot->token);
}

void vublk_driver_ring_fields(struct vublk_driver_ring *ring, struct vublk_fields *fields)
{
	VUBLK_FIELD(fields, ring->taken);
	VUBLK_FIELD(fields, ring->published);
	VUBLK_FIELD(fields, ring->used_event);
	VUBLK_FIELD(fields, ring->avail_flags);
	VUBLK_FIELD(fields, ring->kicked);
	VUBLK_FIELD(fields, ring->free_head);
	VUBLK_FIELD(fields, ring->num_free);
	for (unsigned i = 0; i < ring->size; i++)
		visit_slot(&ring->slots[i], fields);
	if (!fields->from)
		return;
	ring->added = ring->published;
	ring->completed = ring->taken; /* so that the next take() reads the used index */
}

/*
 * Walks a list of `count` descriptors that begins at `at`, and marks them in `seen`. Returns the
 * last one, or -1 if a descriptor does not exist or was seen before.
 */
static int walk(const struct vublk_driver_ring *ring, unsigned at, unsigned count, bool *seen)
{
	int last = -1;

	for (unsigned i = 0; i < count; i++) {
		if (at >= ring->size || seen[at])
			return -1;
		seen[at] = true;
		last = (int)at;
		at = ring->slots[at].next;
	}
	return last;
}

static bool is_chain(const struct vublk_driver_ring *ring, unsigned head, bool *seen)
{
	const struct vublk_driver_slot *slot = &ring->slots[head];

	return slot->count && slot->serial < ring->published && slot->token < ring->size &&
	       walk(ring, head, slot->count, seen) == (int)slot->tail;
}

int vublk_driver_ring_check(const struct vublk_driver_ring *ring, struct vublk_error *error)
{
	bool seen[VUBLK_RING_MAX_SIZE] = { false };
	uint64_t num_chains = 0, num_used = 0;
	bool is_good = ring->num_free <= ring->size &&
		       (!ring->num_free || walk(ring, ring->free_head, ring->num_free, seen) >= 0);

	for (unsigned i = 0; i < ring->size && is_good; i++) {
		if (ring->slots[i].serial == VUBLK_DRIVER_RING_NONE)
			continue;
		num_chains++;
		num_used += ring->slots[i].count;
		is_good = is_chain(ring, i, seen);
	}
	if (is_good && num_used + ring->num_free == ring->size &&
	    ring->published - ring->taken == num_chains)
		return 0;
	return vublk_error_set(error, EINVAL, "the old process sent a shadow ring whose "
			       "descriptors are inconsistent");
}

/* --- the device end ------------------------------------------------------------------------ */

void vublk_device_ring_fields(struct vublk_device_ring *ring, struct vublk_fields *fields)
{
	VUBLK_FIELD(fields, ring->next);
	VUBLK_FIELD(fields, ring->used_published);
	VUBLK_FIELD(fields, ring->avail_event);
	VUBLK_FIELD(fields, ring->used_flags);
	VUBLK_FIELD(fields, ring->called);
	vublk_field_error(fields, &ring->broken);
	if (!fields->from)
		return;
	ring->seen = ring->next; /* so that the next take() reads the avail index */
	ring->used = ring->used_published;
}
