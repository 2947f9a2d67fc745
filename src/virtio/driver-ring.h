/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_DRIVER_RING_H
#define VUBLK_VIRTIO_DRIVER_RING_H

#include "virtio/ring.h"
#include "virtio/split.h"

#include <stdbool.h>
#include <stdint.h>

/*
 * The record of one descriptor. It is private, because the device can write to the shared memory.
 */
struct vublk_driver_slot {
	uint64_t serial; /* of the chain that begins here; UINT64_MAX: no chain begins here */
	uint64_t table;  /* the address of the indirect table to which the ring's descriptor points;
			    0: no table, or unknown */
	uint16_t next;   /* the next slot in the free list, or in a chain that is in use */
	uint16_t tail;   /* the last slot of the chain that begins here; `count` and `token` belong
			    to this chain, too */
	uint16_t count;
	uint16_t token;
	uint16_t table_count; /* how many descriptors `table` has */
};

/*
 * The fields are private; see virtio/ring.h for the functions. The counters start at the base and
 * never wrap; their low 16 bits are the indices of the ring.
 *
 *   taken <= completed <= published <= added
 */
struct vublk_driver_ring {
	struct vublk_split_ring memory;
	struct vublk_driver_slot *slots;
	uint32_t *heads; /* the content of each entry of the avail ring, or
			    VUBLK_DRIVER_RING_HEAD_UNKNOWN */
	unsigned size;
	uint16_t mask; /* size - 1 */
	uint16_t free_head;
	uint16_t num_free;
	bool has_event_idx;
	bool has_indirect;
	uint64_t taken;     /* completions given to the caller */
	uint64_t completed; /* the device's used index when it was last read */
	uint64_t published; /* chains that were made visible to the device */
	uint64_t added;     /* chains that the caller added */
	uint16_t used_event;  /* used_event and avail_flags are the values that this end last stored
				 in the ring */
	uint16_t avail_flags;
	bool kicked;        /* chains have been published; the first publish always needs a kick */
	struct vublk_error broken; /* code 0: the ring is not broken */
};

/*
 * Called before a new device takes over the ring. Makes the driver end write every descriptor and
 * every entry of the avail ring again when it uses them, because the previous device may have
 * overwritten them.
 */
void vublk_driver_ring_forget(struct vublk_driver_ring *ring);

#define VUBLK_DRIVER_RING_HEAD_UNKNOWN UINT32_MAX

/* The serial of a slot at which no chain begins. */
#define VUBLK_DRIVER_RING_NONE UINT64_MAX

/* The parts of vublk_driver_ring_take_inline() that are not inline. They are in split-driver.c. */
int vublk_driver_ring_look(struct vublk_driver_ring *ring, struct vublk_error *error);
int vublk_driver_ring_refuse(struct vublk_driver_ring *ring, uint32_t id,
			     struct vublk_error *error);

/*
 * Returns the number of the descriptor at which the next chain will begin. No outstanding chain
 * begins there, so a caller may use the number as the token of the next chain.
 */
static inline uint16_t vublk_driver_ring_next_head(const struct vublk_driver_ring *ring)
{
	return ring->free_head;
}

/*
 * Adds the chain of `count` descriptors from `head` (the first free one) to `tail`. The next
 * vublk_driver_ring_publish() makes the chain visible.
 */
static inline void vublk_driver_ring_append(struct vublk_driver_ring *ring, uint16_t head,
					    uint16_t tail, unsigned count, uint16_t token)
{
	struct vublk_driver_slot *slot = &ring->slots[head];
	unsigned at = ring->added & ring->mask;

	ring->free_head = ring->slots[tail].next;
	ring->num_free = (uint16_t)(ring->num_free - count);
	slot->serial = ring->added;
	slot->tail = tail;
	slot->count = (uint16_t)count;
	slot->token = token;
	if (ring->heads[at] != head) {
		ring->heads[at] = head;
		vublk_store_relaxed(&ring->memory.avail->ring[at], head);
	}
	ring->added++;
}

/*
 * Like vublk_driver_ring_add(), but for an indirect table that is already written: `count`
 * descriptors at guest address `addr`. The ring must have a free descriptor, and INDIRECT_DESC must
 * have been negotiated. A caller that always reuses the table that was freed last gets the same
 * descriptor for a table each time. The descriptor is then not written again, and its cache line
 * stays with the device.
 */
static inline void vublk_driver_ring_add_table(struct vublk_driver_ring *ring, uint64_t addr,
					       unsigned count, uint16_t token)
{
	uint16_t head = ring->free_head;
	struct vublk_driver_slot *slot = &ring->slots[head];

	if (slot->table != addr || slot->table_count != count) {
		vublk_split_write_desc(&ring->memory.desc[head], addr,
				       (uint32_t)(count * sizeof(struct vring_desc)),
				       VRING_DESC_F_INDIRECT, 0);
		slot->table = addr;
		slot->table_count = (uint16_t)count;
	}
	vublk_driver_ring_append(ring, head, head, 1, token);
}

/* Returns whether a completion can be taken without reading the used index again. */
static inline bool vublk_driver_ring_has_seen(const struct vublk_driver_ring *ring)
{
	return ring->taken != ring->completed;
}

/* Like vublk_driver_ring_has_completion(), but inline for a caller that polls. */
static inline bool vublk_driver_ring_has_completion_inline(const struct vublk_driver_ring *ring)
{
	/* A relaxed load is enough, because take() reads the index again. */
	return vublk_load_relaxed(&ring->memory.used->idx) != (uint16_t)ring->taken;
}

/*
 * Stores the token of the next completion. Returns false if the used index has to be read again
 * first. The token is only a hint, because the completion is not checked before take().
 */
static inline bool vublk_driver_ring_peek(const struct vublk_driver_ring *ring, uint16_t *token)
{
	uint32_t id;

	if (!vublk_driver_ring_has_seen(ring))
		return false;
	id = vublk_load_relaxed(&ring->memory.used->ring[ring->taken & ring->mask].id);
	*token = ring->slots[id & ring->mask].token;
	return true;
}

/* Like vublk_driver_ring_take(), but inline for a caller that takes many completions in a loop. */
static inline int vublk_driver_ring_take_inline(struct vublk_driver_ring *ring, uint16_t *token,
						uint32_t *bytes, struct vublk_error *error)
{
	const struct vring_used_elem *element;
	struct vublk_driver_slot *slot;
	uint32_t id;

	if (ring->taken == ring->completed) {
		int r = vublk_driver_ring_look(ring, error);

		if (r <= 0)
			return r;
	}
	element = &ring->memory.used->ring[ring->taken & ring->mask];
	id = vublk_load_relaxed(&element->id);
	/* The serial is too large if no chain begins here, or if the chain is not published. */
	if (VUBLK_UNLIKELY(id >= ring->size || ring->slots[id].serial >= ring->published))
		return vublk_driver_ring_refuse(ring, id, error);
	slot = &ring->slots[id];
	*token = slot->token;
	*bytes = vublk_load_relaxed(&element->len);
	slot->serial = VUBLK_DRIVER_RING_NONE;
	ring->slots[slot->tail].next = ring->free_head;
	ring->free_head = (uint16_t)id;
	ring->num_free = (uint16_t)(ring->num_free + slot->count);
	ring->taken++;
	return 1;
}

#endif
