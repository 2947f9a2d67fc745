/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_SPLIT_CHAIN_H
#define VUBLK_VIRTIO_SPLIT_CHAIN_H

#include "util/compiler.h"
#include "virtio/device-ring.h"

/*
 * Discards the regions that the ring remembers. From then on, the ring remembers only regions of
 * `map`.
 */
void vublk_split_forget_regions(struct vublk_device_ring *ring, const struct vublk_memory_map *map);

/* Returns whether the regions that the ring remembers are regions of `map`. */
static inline bool vublk_split_knows_map(const struct vublk_device_ring *ring,
					 const struct vublk_memory_map *map)
{
	return ring->near_regions == map->regions && ring->near_count == map->num_regions;
}

/*
 * Discards the regions that the ring remembers unless they are regions of `map`. Must be called
 * before each use of these regions, unless vublk_split_knows_map() has returned true.
 */
static inline void vublk_split_use_map(struct vublk_device_ring *ring,
				       const struct vublk_memory_map *map)
{
	if (VUBLK_UNLIKELY(!vublk_split_knows_map(ring, map)))
		vublk_split_forget_regions(ring, map);
}

/*
 * Reads the chain that begins at `head` into `chain`. `head` must be less than the ring's size, and
 * the caller must have set chain->iov, max_iov and guest_addrs and called vublk_split_use_map().
 * Returns 1, or -EBADMSG if the chain breaks a rule. In that case only chain->head is valid.
 */
int vublk_split_read_chain(struct vublk_device_ring *ring, const struct vublk_memory_map *map,
			   uint16_t head, struct vublk_chain *chain, struct vublk_error *error);

#endif
