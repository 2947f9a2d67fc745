/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The driver end of a split virtqueue (virtio 1.3, section 2.7).
 *
 * Key idea: the device can write to every byte of the shared memory, so this end never reads back
 * what it wrote there. Free descriptors, the links of chains and all indices are in private memory.
 * From shared memory, this end reads only the used ring, and checks it against the private memory.
 * This design is also fast: apart from the used ring, this end reads no shared cache line.
 */
#include "virtio/driver-ring.h"

#include "util/checked.h"
#include "util/error.h"
#include "virtio/ring-handover.h"
#include "virtio/split.h"

#include <errno.h>
#include <stdlib.h>

/* --- init ------------------------------------------------------------------ */

static void init_slots(struct vublk_driver_ring *ring)
{
	for (unsigned i = 0; i < ring->size; i++) {
		ring->slots[i].serial = VUBLK_DRIVER_RING_NONE;
		ring->slots[i].next = (uint16_t)(i + 1);
	}
	ring->free_head = 0;
	ring->num_free = (uint16_t)ring->size;
	vublk_driver_ring_forget(ring);
}

void vublk_driver_ring_forget(struct vublk_driver_ring *ring)
{
	for (unsigned i = 0; i < ring->size; i++) {
		ring->slots[i].table = 0;
		ring->heads[i] = VUBLK_DRIVER_RING_HEAD_UNKNOWN;
	}
}

static void init_memory(struct vublk_driver_ring *ring, uint16_t base)
{
	const struct vublk_split_ring *memory = &ring->memory;

	vublk_store_relaxed(&memory->used->flags, 0);
	vublk_store_relaxed(&memory->used->idx, base);
	vublk_store_relaxed(&memory->avail->flags, 0);
	vublk_store_relaxed(&memory->avail->idx, base);
	if (ring->has_event_idx) {
		vublk_store_relaxed(vublk_split_avail_event(memory, ring->size), base);
		vublk_store_relaxed(vublk_split_used_event(memory, ring->size), base);
	}
}

/* Initializes the private part of an empty ring. Does not write to the shared memory. */
static int make(struct vublk_driver_ring *ring, const struct vublk_split_ring *memory,
		unsigned size, uint16_t base, uint64_t features, struct vublk_error *error)
{
	struct vublk_driver_slot *slots;
	int ret;

	ret = vublk_split_ring_check(memory, size, error);
	if (ret < 0)
		return ret;
	slots = calloc(size, sizeof(*slots) + sizeof(*ring->heads));
	if (!slots)
		return vublk_error_set(error, ENOMEM, "cannot allocate memory for a ring of %u "
				       "entries",
				       size);
	*ring = (struct vublk_driver_ring){
		.memory = *memory,
		.slots = slots,
		.heads = (uint32_t *)&slots[size],
		.size = size,
		.mask = (uint16_t)(size - 1),
		.has_event_idx = features & VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX),
		.has_indirect = features & VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC),
		.taken = base,
		.completed = base,
		.published = base,
		.added = base,
		.used_event = base,
	};
	init_slots(ring);
	return 0;
}

int vublk_driver_ring_init(struct vublk_driver_ring *ring, const struct vublk_split_ring *memory,
			   unsigned size, uint16_t base, uint64_t features,
			   struct vublk_error *error)
{
	int ret = make(ring, memory, size, base, features, error);

	if (!ret)
		init_memory(ring, base);
	return ret;
}

int vublk_driver_ring_adopt(struct vublk_driver_ring *ring, const struct vublk_split_ring *memory,
			    unsigned size, uint64_t features, struct vublk_error *error)
{
	return make(ring, memory, size, 0, features, error);
}

void vublk_driver_ring_reset(struct vublk_driver_ring *ring, const struct vublk_split_ring *memory)
{
	*ring = (struct vublk_driver_ring){
		.memory = *memory,
		.slots = ring->slots,
		.heads = ring->heads,
		.size = ring->size,
		.mask = ring->mask,
		.has_event_idx = ring->has_event_idx,
		.has_indirect = ring->has_indirect,
	};
	init_slots(ring);
	init_memory(ring, 0);
}

void vublk_driver_ring_deinit(struct vublk_driver_ring *ring)
{
	if (!ring)
		return;
	free(ring->slots);
	*ring = (struct vublk_driver_ring){ 0 };
}

/* --- adding ---------------------------------------------------------------- */

static uint16_t buffer_flags(unsigned i, unsigned num_out, unsigned count)
{
	return (uint16_t)((i < num_out ? 0 : VRING_DESC_F_WRITE) |
			  (i + 1 < count ? VRING_DESC_F_NEXT : 0));
}

/*
 * Writes the chain to the first descriptors of the free list, but leaves the list unchanged.
 * Returns the last of these descriptors.
 */
static uint16_t write_direct(struct vublk_driver_ring *ring,
			     const struct vublk_ring_buffer *buffers, unsigned num_out,
			     unsigned count)
{
	uint16_t at = ring->free_head, tail = at;

	for (unsigned i = 0; i < count; i++) {
		uint16_t next = ring->slots[at].next;

		vublk_split_write_desc(&ring->memory.desc[at], buffers[i].addr, buffers[i].bytes,
				       buffer_flags(i, num_out, count), next);
		ring->slots[at].table = 0;
		tail = at;
		at = next;
	}
	return tail;
}

static void write_table(struct vring_desc *table, const struct vublk_ring_buffer *buffers,
			unsigned num_out, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		vublk_split_write_desc(&table[i], buffers[i].addr, buffers[i].bytes,
				       buffer_flags(i, num_out, count), (uint16_t)(i + 1));
}

int vublk_driver_ring_add(struct vublk_driver_ring *ring, const struct vublk_ring_buffer *buffers,
			  unsigned num_out, unsigned num_in,
			  const struct vublk_ring_indirect *indirect, uint16_t token)
{
	bool in_table = indirect && indirect->table;
	unsigned count = num_out + num_in, needed = in_table ? 1 : count;

	if (VUBLK_UNLIKELY(count == 0 || count < num_out || token >= ring->size))
		return -EINVAL;
	if (VUBLK_UNLIKELY(in_table && !ring->has_indirect))
		return -ENOTSUP;
	if (needed > ring->num_free)
		return -ENOSPC;
	if (in_table) {
		write_table(indirect->table, buffers, num_out, count);
		vublk_driver_ring_add_table(ring, indirect->addr, count, token);
	} else {
		uint16_t tail = write_direct(ring, buffers, num_out, count);

		vublk_driver_ring_append(ring, ring->free_head, tail, count, token);
	}
	return 0;
}

bool vublk_driver_ring_publish(struct vublk_driver_ring *ring)
{
	uint16_t before = (uint16_t)ring->published, now = (uint16_t)ring->added;
	bool first = !ring->kicked;

	if (ring->published == ring->added)
		return false;
	ring->published = ring->added;
	ring->kicked = true;
	vublk_store_seq(&ring->memory.avail->idx, now); /* A release, C */
	if (ring->has_event_idx) {
		uint16_t event = vublk_load_seq(vublk_split_avail_event(&ring->memory,
									ring->size)); /* C */

		return vring_need_event(event, now, before) || first;
	}
	return !(vublk_load_seq(&ring->memory.used->flags) & VRING_USED_F_NO_NOTIFY) || /* C */
	       first;
}

/* --- taking ---------------------------------------------------------------- */

/*
 * Fails with the error in ring->broken. Forgets the completions that were seen but not taken, so
 * each later take() calls vublk_driver_ring_look(), which fails in the same way. `error` may be
 * NULL.
 */
static int break_ring(struct vublk_driver_ring *ring, struct vublk_error *error)
{
	ring->completed = ring->taken;
	if (error)
		*error = ring->broken;
	return -EPROTO;
}

/*
 * Reads the device's used index. Returns 1 if there are completions and 0 if there are none;
 * -EPROTO: the ring is broken.
 */
int vublk_driver_ring_look(struct vublk_driver_ring *ring, struct vublk_error *error)
{
	uint16_t index, waiting;

	if (VUBLK_UNLIKELY(ring->broken.code))
		return break_ring(ring, error);
	index = vublk_load_acquire(&ring->memory.used->idx); /* B acquire */
	waiting = (uint16_t)(index - (uint16_t)ring->taken);
	if (VUBLK_UNLIKELY(waiting > ring->published - ring->taken)) {
		vublk_error_set(&ring->broken, EPROTO,
				"the device set the used index to %u, but the driver has processed "
				"the completions up to %u, and only %u chain%s outstanding; set up the ring again before it "
				"can be used",
				index, (unsigned)(uint16_t)ring->taken,
				(unsigned)(ring->published - ring->taken),
				ring->published - ring->taken == 1 ? " is" : "s are");
		return break_ring(ring, error);
	}
	ring->completed = ring->taken + waiting;
	return waiting > 0;
}

int vublk_driver_ring_refuse(struct vublk_driver_ring *ring, uint32_t id,
			     struct vublk_error *error)
{
	if (id >= ring->size)
		vublk_error_set(&ring->broken, EPROTO,
				"the device completed descriptor %u, but the ring's last descriptor "
				"is %u; set up the ring again before it can be used", id,
				ring->size - 1);
	else
		vublk_error_set(&ring->broken, EPROTO,
				"the device completed descriptor %u, which is not the start of an "
				"outstanding chain; set up the ring again before it can be used",
				id);
	return break_ring(ring, error);
}

int vublk_driver_ring_take(struct vublk_driver_ring *ring, uint16_t *token, uint32_t *bytes,
			   struct vublk_error *error)
{
	return vublk_driver_ring_take_inline(ring, token, bytes, error);
}

bool vublk_driver_ring_has_completion(const struct vublk_driver_ring *ring)
{
	return vublk_driver_ring_has_completion_inline(ring);
}

/* --- notifications --------------------------------------------------------- */

bool vublk_driver_ring_enable_calls(struct vublk_driver_ring *ring)
{
	uint16_t taken = (uint16_t)ring->taken;

	/* An unchanged value need not be stored, because the ring has it from an earlier store. */
	if (ring->has_event_idx && ring->used_event != taken) {
		ring->used_event = taken;
		vublk_store_seq(vublk_split_used_event(&ring->memory, ring->size), taken); /* D */
	} else if (!ring->has_event_idx && ring->avail_flags) {
		ring->avail_flags = 0;
		vublk_store_seq(&ring->memory.avail->flags, 0); /* D */
	}
	return vublk_load_seq(&ring->memory.used->idx) == taken; /* D */
}

void vublk_driver_ring_disable_calls(struct vublk_driver_ring *ring)
{
	/*
	 * With EVENT_IDX, nothing is written. Once the used index has passed the event index, the
	 * next call comes only after 65536 completions.
	 */
	if (ring->has_event_idx || ring->avail_flags)
		return;
	ring->avail_flags = VRING_AVAIL_F_NO_INTERRUPT;
	vublk_store_relaxed(&ring->memory.avail->flags, ring->avail_flags);
}

unsigned vublk_driver_ring_outstanding(const struct vublk_driver_ring *ring)
{
	return (unsigned)(ring->added - ring->taken);
}
