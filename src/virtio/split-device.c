/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The device end of a split virtqueue (virtio 1.3, section 2.7).
 *
 * Key idea: the driver may be hostile and may write to the shared memory at any time. Each
 * index, head and descriptor (split-chain.c) is read once into a local, and only the local is
 * checked and used. If a chain breaks a rule, only that chain is refused (EBADMSG), because its
 * head is known and can be completed. An error that makes the position of the next chain
 * uncertain breaks the ring (EPROTO).
 */
#include "virtio/device-ring.h"

#include "util/checked.h"
#include "util/error.h"
#include "virtio/split-chain.h"
#include "virtio/split.h"

#include <errno.h>
#include <stdlib.h>

/* --- init ------------------------------------------------------------------ */

static void init_memory(struct vublk_device_ring *ring)
{
	vublk_store_relaxed(&ring->memory.used->flags, 0);
	if (ring->has_event_idx)
		vublk_store_seq(vublk_split_avail_event(&ring->memory, ring->size),
				ring->avail_event); /* C */
}

int vublk_device_ring_init(struct vublk_device_ring *ring, const struct vublk_split_ring *memory,
			   unsigned size, uint16_t base, uint64_t features,
			   struct vublk_error *error)
{
	struct vring_desc *table;
	uint16_t used;
	int ret;

	ret = vublk_split_ring_check(memory, size, error);
	if (ret < 0)
		return ret;
	table = calloc(1, VUBLK_RING_MAX_INDIRECT * sizeof(*table) + size);
	if (!table)
		return vublk_error_set(error, ENOMEM, "out of memory for a ring of %u entries",
				       size);
	used = vublk_load_acquire(&memory->used->idx); /* B, paired with an earlier device end */
	*ring = (struct vublk_device_ring){
		.memory = *memory,
		.table = table,
		.taken = (uint8_t *)&table[VUBLK_RING_MAX_INDIRECT],
		.size = size,
		.mask = (uint16_t)(size - 1),
		.next = base,
		.seen = base,
		.used = used,
		.used_published = used,
		.avail_event = base,
		.has_event_idx = features & VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX),
		.has_indirect = features & VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC),
		.has_notify_on_empty = features & VUBLK_BIT(VIRTIO_F_NOTIFY_ON_EMPTY),
	};
	init_memory(ring);
	return 0;
}

void vublk_device_ring_deinit(struct vublk_device_ring *ring)
{
	if (!ring)
		return;
	free(ring->table);
	*ring = (struct vublk_device_ring){ 0 };
}

void vublk_device_ring_move(struct vublk_device_ring *ring, const struct vublk_split_ring *memory)
{
	ring->memory = *memory;
	for (unsigned i = 0; i < VUBLK_DEVICE_RING_NEAR; i++)
		ring->near[i] = 0;
}

/* --- the dirty log --------------------------------------------------------- */

#define USED_FLAGS_AND_INDEX_BYTES offsetof(struct vring_used, ring)

/* Call it after the write. */
static void mark(const struct vublk_device_ring *ring, uint64_t offset, uint64_t bytes)
{
	if (VUBLK_UNLIKELY(ring->dirty_log))
		vublk_dirty_log_mark(ring->dirty_log, ring->log_addr + offset, bytes);
}

static void mark_elements(const struct vublk_device_ring *ring, uint16_t from, uint16_t count)
{
	unsigned first = from & ring->mask;
	unsigned until_end = VUBLK_MIN((unsigned)count, ring->size - first);

	mark(ring, offsetof(struct vring_used, ring[first]),
	     until_end * sizeof(struct vring_used_elem));
	mark(ring, offsetof(struct vring_used, ring),
	     (count - until_end) * sizeof(struct vring_used_elem));
}

static void mark_avail_event(const struct vublk_device_ring *ring)
{
	mark(ring, offsetof(struct vring_used, ring[ring->size]), sizeof(uint16_t));
}

void vublk_device_ring_log(struct vublk_device_ring *ring, const struct vublk_dirty_log *log,
			   uint64_t log_addr)
{
	ring->dirty_log = log;
	ring->log_addr = log_addr;
	mark(ring, 0, vublk_split_used_bytes(ring->size));
}

/* --- taking ---------------------------------------------------------------- */

/* Returns the error in ring->broken, and makes each later take() leave its fast path and fail. */
static int break_ring(struct vublk_device_ring *ring, struct vublk_error *error)
{
	ring->seen = ring->next;
	if (error)
		*error = ring->broken;
	return -EPROTO;
}

static int read_chain(struct vublk_device_ring *ring, const struct vublk_memory_map *map,
		      uint16_t head, struct vublk_chain *chain, struct vublk_error *error)
{
	ring->taken[head] = 1;
	return vublk_split_read_chain(ring, map, head, chain, error);
}

/*
 * Reads the driver's avail index. Returns 1: chains are available; 0: no chain is available; or
 * -EPROTO.
 */
static int look(struct vublk_device_ring *ring, struct vublk_error *error)
{
	uint16_t index;

	if (VUBLK_UNLIKELY(ring->broken.code))
		return break_ring(ring, error);
	index = vublk_load_acquire(&ring->memory.avail->idx); /* A acquire */
	if (VUBLK_UNLIKELY((uint16_t)(index - ring->next) > ring->size)) {
		vublk_error_set(&ring->broken, EPROTO,
				"the driver moved the avail index from %u to %u, by more than the "
				"ring's %u entries", ring->next, index, ring->size);
		return break_ring(ring, error);
	}
	ring->seen = index;
	return index != ring->next;
}

static int check_head(const struct vublk_device_ring *ring, uint16_t head,
		      struct vublk_error *error)
{
	if (VUBLK_UNLIKELY(head >= ring->size))
		return vublk_error_set(error, EPROTO,
				       "the driver made descriptor %u of a ring of %u available",
				       head, ring->size);
	if (VUBLK_UNLIKELY(ring->taken[head]))
		return vublk_error_set(error, EPROTO,
				       "the driver made the chain at descriptor %u available "
				       "again before it was completed", head);
	return 0;
}

/*
 * Prefetches the cache lines of the next chains while this one is served: the buffer or table
 * of the next chain's descriptor, and the descriptor of the chain after it. This is only a hint:
 * take() reads the values again.
 */
static void prefetch_next(const struct vublk_device_ring *ring, const struct vublk_memory_map *map)
{
	const struct vring_avail *avail = ring->memory.avail;
	uint16_t head = vublk_load_relaxed(&avail->ring[ring->next & ring->mask]) & ring->mask;
	uint16_t after = vublk_load_relaxed(&avail->ring[(ring->next + 1) & ring->mask]);
	uint64_t addr = vublk_load_relaxed(&ring->memory.desc[head].addr);

	__builtin_prefetch(vublk_memory_map_guest_in(map, ring->near[0], addr, 1));
	__builtin_prefetch(&ring->memory.desc[after & ring->mask]);
}

int vublk_device_ring_take(struct vublk_device_ring *ring, const struct vublk_memory_map *map,
			   struct vublk_chain *chain, struct vublk_error *error)
{
	uint16_t head;

	if (ring->next == ring->seen) {
		int ret = look(ring, error);

		if (ret <= 0)
			return ret;
	}
	head = vublk_load_relaxed(&ring->memory.avail->ring[ring->next & ring->mask]);
	if (VUBLK_UNLIKELY(head >= ring->size || ring->taken[head])) {
		check_head(ring, head, &ring->broken);
		return break_ring(ring, error);
	}
	ring->next++;
	if (ring->next != ring->seen)
		prefetch_next(ring, map);
	return read_chain(ring, map, head, chain, error);
}

int vublk_device_ring_take_again(struct vublk_device_ring *ring,
				 const struct vublk_memory_map *map, uint16_t head,
				 struct vublk_chain *chain, struct vublk_error *error)
{
	int ret = check_head(ring, head, error);

	return ret < 0 ? ret : read_chain(ring, map, head, chain, error);
}

bool vublk_device_ring_has_chain(const struct vublk_device_ring *ring)
{
	/* Relaxed, because nothing depends on it: take() looks again. */
	return vublk_load_relaxed(&ring->memory.avail->idx) != ring->next;
}

/* --- completing ------------------------------------------------------------ */

void vublk_device_ring_push(struct vublk_device_ring *ring, uint16_t head, uint32_t bytes)
{
	struct vring_used_elem *element = &ring->memory.used->ring[ring->used & ring->mask];

	vublk_store_relaxed(&element->id, head);
	vublk_store_relaxed(&element->len, bytes);
	ring->taken[head & ring->mask] = 0;
	ring->used++;
}

bool vublk_device_ring_publish(struct vublk_device_ring *ring)
{
	uint16_t before = ring->used_published, now = ring->used;
	bool first = !ring->called;

	if (before == now)
		return false;
	ring->used_published = now;
	ring->called = true;
	vublk_store_seq(&ring->memory.used->idx, now); /* B release, D */
	if (VUBLK_UNLIKELY(ring->dirty_log)) {
		mark_elements(ring, before, (uint16_t)(now - before));
		mark(ring, 0, USED_FLAGS_AND_INDEX_BYTES);
	}
	/*
	 * The driver wants a call when no chain is left, whatever its other settings
	 * (virtio 1.3, section 6.3, legacy).
	 */
	if (ring->has_notify_on_empty && !vublk_device_ring_has_chain(ring))
		return true;
	if (ring->has_event_idx) {
		uint16_t event = vublk_load_seq(vublk_split_used_event(&ring->memory,
								       ring->size)); /* D */

		return vring_need_event(event, now, before) || first;
	}
	return !(vublk_load_seq(&ring->memory.avail->flags) & VRING_AVAIL_F_NO_INTERRUPT) || /* D */
	       first;
}

/* --- notifications --------------------------------------------------------- */

bool vublk_device_ring_enable_kicks(struct vublk_device_ring *ring)
{
	/* An unchanged value need not be stored again: an earlier store of this kind wrote it. */
	if (ring->has_event_idx && ring->avail_event != ring->next) {
		ring->avail_event = ring->next;
		vublk_store_seq(vublk_split_avail_event(&ring->memory, ring->size),
				ring->next); /* C */
		mark_avail_event(ring);
	} else if (!ring->has_event_idx && ring->used_flags) {
		ring->used_flags = 0;
		vublk_store_seq(&ring->memory.used->flags, 0); /* C */
		mark(ring, 0, USED_FLAGS_AND_INDEX_BYTES);
	}
	return vublk_load_seq(&ring->memory.avail->idx) == ring->next; /* C */
}

void vublk_device_ring_disable_kicks(struct vublk_device_ring *ring)
{
	/*
	 * With EVENT_IDX the avail index is past the event index; the next kick is 65536 chains
	 * away.
	 */
	if (ring->has_event_idx || ring->used_flags)
		return;
	ring->used_flags = VRING_USED_F_NO_NOTIFY;
	vublk_store_relaxed(&ring->memory.used->flags, ring->used_flags);
	mark(ring, 0, USED_FLAGS_AND_INDEX_BYTES);
}

uint16_t vublk_device_ring_base(const struct vublk_device_ring *ring)
{
	return ring->next;
}

uint16_t vublk_device_ring_used(const struct vublk_device_ring *ring)
{
	return ring->used_published;
}
