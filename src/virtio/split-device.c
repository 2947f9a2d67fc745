/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The device end of a split virtqueue (virtio 1.3, section 2.7).
 *
 * Key idea: the driver may be hostile and may write to the shared memory at any time. Each index,
 * head and descriptor (split-chain.c) is read once into a local, and only the local is checked and
 * used. If a chain breaks a rule, only that chain is refused (EBADMSG), because its head is known
 * and can be completed. An invalid avail index or head leaves nothing that could be completed, so
 * it breaks the ring (EPROTO).
 */
#include "virtio/device-ring.h"

#include "util/checked.h"
#include "util/error.h"
#include "virtio/ring-handover.h"
#include "virtio/split-chain.h"
#include "virtio/split.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

/* --- init ------------------------------------------------------------------ */

static void init_memory(struct vublk_device_ring *ring)
{
	vublk_store_relaxed(&ring->memory.used->flags, 0);
	if (ring->has_event_idx)
		vublk_store_seq(vublk_split_avail_event(&ring->memory, ring->size),
				ring->avail_event); /* C */
}

/* Initializes the private part of the ring. Does not write to the shared memory. */
static int make(struct vublk_device_ring *ring, const struct vublk_split_ring *memory,
		unsigned size, uint16_t base, uint64_t features, struct vublk_error *error)
{
	struct vring_desc *table;
	uint16_t used;
	int ret;

	ret = vublk_split_ring_check(memory, size, error);
	if (ret < 0)
		return ret;
	table = calloc(1, VUBLK_RING_MAX_INDIRECT * sizeof(*table) + size);
	if (!table)
		return vublk_error_set(error, ENOMEM, "cannot allocate memory for a ring of %u "
				       "entries",
				       size);
	used = vublk_load_acquire(&memory->used->idx); /* B: an earlier device end may have
							  published completions */
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
		.near_count = UINT_MAX, /* no map has this many regions, so the first map counts as
					   a new one */
		.has_event_idx = features & VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX),
		.has_indirect = features & VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC),
		.has_notify_on_empty = features & VUBLK_BIT(VIRTIO_F_NOTIFY_ON_EMPTY),
	};
	return 0;
}

int vublk_device_ring_init(struct vublk_device_ring *ring, const struct vublk_split_ring *memory,
			   unsigned size, uint16_t base, uint64_t features,
			   struct vublk_error *error)
{
	int ret = make(ring, memory, size, base, features, error);

	if (!ret)
		init_memory(ring);
	return ret;
}

int vublk_device_ring_adopt(struct vublk_device_ring *ring, const struct vublk_split_ring *memory,
			    unsigned size, uint64_t features, struct vublk_error *error)
{
	return make(ring, memory, size, 0, features, error);
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
}

/* --- the dirty log --------------------------------------------------------- */

#define USED_FLAGS_AND_INDEX_BYTES offsetof(struct vring_used, ring)

/* Marks `bytes` at `offset` of the used ring in the dirty log. Must be called after the write. */
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

/*
 * Fails with the error in ring->broken. Forgets the chains that were seen but not taken, so each
 * later take() calls look(), which fails in the same way.
 */
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
 * Reads the driver's avail index. Returns 1 if chains are available and 0 if none is; -EPROTO: the
 * ring is broken.
 */
static int look(struct vublk_device_ring *ring, struct vublk_error *error)
{
	uint16_t index;

	if (VUBLK_UNLIKELY(ring->broken.code))
		return break_ring(ring, error);
	index = vublk_load_acquire(&ring->memory.avail->idx); /* A acquire */
	if (VUBLK_UNLIKELY((uint16_t)(index - ring->next) > ring->size)) {
		vublk_error_set(&ring->broken, EPROTO,
				"the driver set the avail index to %u, which is more than the "
				"ring's %u entries ahead of the device's index, %u", index,
				ring->size, ring->next);
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
				       "the driver made descriptor %u available, but the ring's last "
				       "descriptor is %u", head, ring->size - 1);
	if (VUBLK_UNLIKELY(ring->taken[head]))
		return vublk_error_set(error, EPROTO,
				       "the driver made the chain at descriptor %u available again "
				       "before the device completed it", head);
	return 0;
}

/*
 * Prefetches cache lines of the two chains after the current one: the buffer or table of the first
 * chain's first descriptor, and the first descriptor of the second chain. The values need not be
 * right, because take() reads them again.
 */
static VUBLK_ALWAYS_INLINE void prefetch_next(const struct vublk_device_ring *ring, uint16_t next)
{
	const struct vublk_memory_map_region *region = ring->near[VUBLK_NEAR_HEAD];
	const struct vring_avail *avail = ring->memory.avail;
	const struct vring_desc *desc = ring->memory.desc;
	unsigned mask = ring->mask;
	unsigned head = vublk_load_relaxed(&avail->ring[next & mask]) & mask;
	unsigned after = vublk_load_relaxed(&avail->ring[(next + 1u) & mask]) & mask;
	uint64_t addr = vublk_load_relaxed(&desc[head].addr);

	/* A prefetch does no harm if the address is outside the region. */
	__builtin_prefetch((const void *)((uintptr_t)region->host + (addr - region->guest_addr)));
	__builtin_prefetch(&desc[after]);
}

static VUBLK_COLD int refuse_head(struct vublk_device_ring *ring, uint16_t head,
				  struct vublk_error *error)
{
	check_head(ring, head, &ring->broken);
	return break_ring(ring, error);
}

/* Takes a chain that is known to be available. */
static VUBLK_ALWAYS_INLINE int take_seen(struct vublk_device_ring *ring,
					 const struct vublk_memory_map *map,
					 struct vublk_chain *chain, struct vublk_error *error)
{
	uint16_t next = ring->next;
	uint16_t head = vublk_load_relaxed(&ring->memory.avail->ring[next & ring->mask]);

	if (VUBLK_UNLIKELY(head >= ring->size || ring->taken[head]))
		return refuse_head(ring, head, error);
	ring->next = ++next;
	if (next != ring->seen)
		prefetch_next(ring, next);
	return read_chain(ring, map, head, chain, error);
}

static VUBLK_NOINLINE int look_and_take(struct vublk_device_ring *ring,
					const struct vublk_memory_map *map,
					struct vublk_chain *chain, struct vublk_error *error)
{
	int ret = ring->next == ring->seen ? look(ring, error) : 1;

	if (ret <= 0)
		return ret;
	vublk_split_use_map(ring, map);
	return take_seen(ring, map, chain, error);
}

/* Every call here is a tail call, so this function has no registers to save. */
int vublk_device_ring_take(struct vublk_device_ring *ring, const struct vublk_memory_map *map,
			   struct vublk_chain *chain, struct vublk_error *error)
{
	if (ring->next == ring->seen || !vublk_split_knows_map(ring, map))
		return look_and_take(ring, map, chain, error);
	return take_seen(ring, map, chain, error);
}

int vublk_device_ring_take_again(struct vublk_device_ring *ring,
				 const struct vublk_memory_map *map, uint16_t head,
				 struct vublk_chain *chain, struct vublk_error *error)
{
	int ret = check_head(ring, head, error);

	vublk_split_use_map(ring, map);
	return ret < 0 ? ret : read_chain(ring, map, head, chain, error);
}

int vublk_device_ring_adopt_chain(struct vublk_device_ring *ring, uint16_t head,
				  struct vublk_error *error)
{
	int ret = check_head(ring, head, error);

	if (!ret)
		ring->taken[head] = 1;
	return ret;
}

bool vublk_device_ring_has_chain(const struct vublk_device_ring *ring)
{
	/* A relaxed load is enough, because take() reads the index again. */
	return vublk_load_relaxed(&ring->memory.avail->idx) != ring->next;
}

/* --- completing ------------------------------------------------------------ */

void vublk_device_ring_push(struct vublk_device_ring *ring, uint16_t head, uint32_t bytes)
{
	vublk_device_ring_push_inline(ring, head, bytes);
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
	 * With NOTIFY_ON_EMPTY, the driver wants a call when no chain is available, even if it has
	 * disabled calls (virtio 1.3, section 6.3, legacy).
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
	/* An unchanged value need not be stored, because the ring has it from an earlier store. */
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
	 * With EVENT_IDX, nothing is written. Once the avail index has passed the event index, the
	 * next kick comes only after 65536 chains.
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
