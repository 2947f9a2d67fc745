/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_DRIVER_RING_H
#define VUBLK_VIRTIO_DRIVER_RING_H

#include "virtio/ring.h"
#include "virtio/split.h"

#include <stdbool.h>
#include <stdint.h>

/* A private record per descriptor, because the device can write the shared memory. */
struct vublk_driver_slot {
	uint64_t serial; /* of the chain that begins here; UINT64_MAX: none */
	uint64_t table;  /* the indirect table of the descriptor in the ring; 0: not known */
	uint16_t next;   /* of the free list, and of a chain in use */
	uint16_t tail;   /* like the fields below, of the chain that begins here */
	uint16_t count;
	uint16_t token;
	uint16_t table_count; /* with `table` */
};

/*
 * The fields are private; see virtio/ring.h for the calls. The counters start at the base and
 * never wrap; their low 16 bits are the indices of the ring.
 *
 *   taken <= completed <= published <= added
 */
struct vublk_driver_ring {
	struct vublk_split_ring memory;
	struct vublk_driver_slot *slots;
	uint32_t *heads; /* what each entry of the avail ring contains, or ..._HEAD_UNKNOWN */
	unsigned size;
	uint16_t mask; /* size - 1 */
	uint16_t free_head;
	uint16_t num_free;
	bool has_event_idx;
	bool has_indirect;
	uint64_t taken;     /* completions given to the caller */
	uint64_t completed; /* the device's used index when it was last read */
	uint64_t published; /* chains that the device can see */
	uint64_t added;     /* chains that the caller added */
	uint16_t used_event;  /* as written to the ring, like the flags below */
	uint16_t avail_flags;
	bool kicked;        /* a publish has happened since init; the first one always kicks */
	struct vublk_error broken; /* code 0: the device has kept the rules */
};

/*
 * Call this function when the ring gets another device. The previous device may have overwritten
 * the driver's parts, so the function discards the record of what the ring contains.
 */
void vublk_driver_ring_forget(struct vublk_driver_ring *ring);

#define VUBLK_DRIVER_RING_HEAD_UNKNOWN UINT32_MAX

/* The serial of a slot at which no outstanding chain begins. */
#define VUBLK_DRIVER_RING_NONE UINT64_MAX

/* The rare cases of the functions below; split-driver.c defines them. */
int vublk_driver_ring_look(struct vublk_driver_ring *ring, struct vublk_error *error);
int vublk_driver_ring_refuse(struct vublk_driver_ring *ring, uint32_t id,
			     struct vublk_error *error);

/* Makes the chain of `count` descriptors from `head` to `tail` available. */
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
 * Does what vublk_driver_ring_add() does, for an indirect table that is already written: `count`
 * descriptors at guest address `addr`. Requires a free descriptor, and that INDIRECT_DESC was
 * negotiated. A caller that reuses tables in the order of completions gets the same descriptor for
 * the same table each time. Then the descriptor is not written again, and its cache line stays with
 * the device.
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

/* Whether a completion can be taken without reading the used index again. */
static inline bool vublk_driver_ring_has_seen(const struct vublk_driver_ring *ring)
{
	return ring->taken != ring->completed;
}

/* Does what vublk_driver_ring_has_completion() does, for a caller that polls. */
static inline bool vublk_driver_ring_has_completion_inline(const struct vublk_driver_ring *ring)
{
	/* Relaxed, because nothing depends on it: take() looks again. */
	return vublk_load_relaxed(&ring->memory.used->idx) != (uint16_t)ring->taken;
}

/*
 * Gets the token of the next completion. False: the next completion has not been seen. The token is
 * only a hint, because the completion is checked when it is taken.
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

/* Does what vublk_driver_ring_take() does, for a caller that takes many completions in a loop. */
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
	/* The device must not complete a chain that was added but not published. */
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
