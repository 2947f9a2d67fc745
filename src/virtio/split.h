/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_SPLIT_H
#define VUBLK_VIRTIO_SPLIT_H

/*
 * How both ends of a split ring access the fields that the other end may access at the same time.
 *
 * Fields are little-endian (virtio 1.3, section 1.4), and only little-endian hosts are
 * supported.
 *
 * The pairs of accesses whose order matters; a comment at each access has the pair's letter:
 *   A  the driver publishes chains: descriptors and avail entries are written
 *      before the avail index; the device reads the index before them.
 *   B  the device publishes completions: data and used elements are written
 *      before the used index; the driver reads the index before them.
 *   C  a kick is never lost: the driver stores the avail index and then checks
 *      whether a kick is wanted; the device enables kicks and then looks at the
 *      avail index. All four accesses are sequentially consistent, so at least one
 *      end sees the other's store.
 *   D  a call is never lost: the same with the used index and the roles swapped.
 *   L  a page's bit in the dirty log is set after the page was written; the front-end
 *      clears the bit before it copies the page.
 */

#include "util/atomic.h"
#include "util/compiler.h"
#include "virtio/ring.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rings are little-endian");

/*
 * Returns the address of the field in which the driver stores the used index after which it wants a
 * call.
 */
static inline uint16_t *vublk_split_used_event(const struct vublk_split_ring *ring, unsigned size)
{
	return &ring->avail->ring[size];
}

/*
 * Returns the address of the field in which the device stores the avail index after which it wants
 * a kick.
 */
static inline uint16_t *vublk_split_avail_event(const struct vublk_split_ring *ring, unsigned size)
{
	return (uint16_t *)&ring->used->ring[size];
}

/*
 * These functions read a descriptor with two loads, and write it with two stores, so that no field
 * is read twice or torn.
 */
static inline struct vring_desc vublk_split_read_desc(const struct vring_desc *desc)
{
	const uint64_t *words = (const uint64_t *)desc;
	uint64_t addr = vublk_load_relaxed(&words[0]);
	uint64_t rest = vublk_load_relaxed(&words[1]);

	return (struct vring_desc){
		.addr = addr,
		.len = (uint32_t)rest,
		.flags = (uint16_t)(rest >> 32),
		.next = (uint16_t)(rest >> 48),
	};
}

static inline void vublk_split_write_desc(struct vring_desc *desc, uint64_t addr, uint32_t bytes,
					  uint16_t flags, uint16_t next)
{
	uint64_t *words = (uint64_t *)desc;

	vublk_store_relaxed(&words[0], addr);
	vublk_store_relaxed(&words[1],
			    bytes | (uint64_t)flags << 32 | (uint64_t)next << 48);
}

/*
 * Checks the size of a ring and the alignment of its parts (virtio 1.3, section 2.7). EINVAL: one
 * of them is wrong, or a part is NULL.
 */
int vublk_split_ring_check(const struct vublk_split_ring *memory, unsigned size,
			   struct vublk_error *error);

/* The addresses of the parts of a ring: guest addresses, or user addresses of the front-end. */
struct vublk_split_addrs {
	uint64_t desc, avail, used;
};

/*
 * Translates an address of struct vublk_split_addrs to a host address, or returns NULL: either
 * vublk_memory_map_guest() or vublk_memory_map_user().
 */
typedef void *vublk_split_translate_fn(const struct vublk_memory_map *map, uint64_t addr,
				       uint64_t bytes);

/*
 * Finds the parts of a ring of `size` entries, and checks them as vublk_split_ring_check() does.
 * EFAULT: a part is not in the memory; EINVAL: the check failed.
 */
int vublk_split_ring_find(const struct vublk_memory_map *map, vublk_split_translate_fn *translate,
			  const struct vublk_split_addrs *addrs, unsigned size,
			  struct vublk_split_ring *ring, struct vublk_error *error);

#endif
