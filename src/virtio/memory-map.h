/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_MEMORY_MAP_H
#define VUBLK_VIRTIO_MEMORY_MAP_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/*
 * The memory that a driver shares with a device: regions with a guest address, a user address (in
 * the front-end's address space; never dereferenced) and a host address. The device end accesses
 * only host addresses that this map returns.
 *
 * A map in use does not change; it is replaced by a new one.
 */
struct vublk_memory_map_region {
	uint64_t guest_addr;
	uint64_t user_addr;
	uint64_t size_bytes;
	char *host;        /* mapped by the owner of the map */
};

struct vublk_memory_map {
	unsigned num_regions; /* sorted by guest_addr, no two overlap */
	struct vublk_memory_map_region *regions;
};

/*
 * Sorts the last region in; the regions before it are sorted. Returns the place that it now has.
 * The owner has checked the region: it is not empty, does not wrap, and overlaps no other.
 */
unsigned vublk_memory_map_place(struct vublk_memory_map *map);

/* The host address of [addr, addr + bytes) if this range lies in ONE region, otherwise NULL. */
void *vublk_memory_map_guest(const struct vublk_memory_map *map, uint64_t addr, uint64_t bytes);
void *vublk_memory_map_user(const struct vublk_memory_map *map, uint64_t addr, uint64_t bytes);

/*
 * The host address if the range lies in the region with this number, otherwise NULL. Callers try
 * the region of the previous address first, because most addresses are in that region.
 */
static inline void *vublk_memory_map_guest_in(const struct vublk_memory_map *map, unsigned number,
					      uint64_t addr, uint64_t bytes)
{
	const struct vublk_memory_map_region *region;
	uint64_t offset;

	if (number >= map->num_regions)
		return NULL;
	region = &map->regions[number];
	offset = addr - region->guest_addr;
	if (offset >= region->size_bytes || bytes > region->size_bytes - offset)
		return NULL;
	return region->host + offset;
}

/* Looks in all regions, and stores the number of the region that was found for the next lookup. */
void *vublk_memory_map_guest_find(const struct vublk_memory_map *map, unsigned *number,
				  uint64_t addr, uint64_t bytes);

/*
 * Translates [addr, addr + bytes), which may span several adjoining regions, into at most
 * `max` iovecs. Returns their number; -EFAULT if a byte is in no region or the length is 0;
 * -E2BIG if `max` is too small.
 */
int vublk_memory_map_iov(const struct vublk_memory_map *map, uint64_t addr, uint64_t bytes,
			 struct iovec *iov, unsigned max);

/* Copies [addr, addr + bytes), which may span regions, to private memory. 0 or -EFAULT. */
int vublk_memory_map_read(const struct vublk_memory_map *map, uint64_t addr, void *to,
			  uint64_t bytes);

#endif
