/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_MEMORY_MAP_H
#define VUBLK_VIRTIO_MEMORY_MAP_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/*
 * A region of the memory that a driver shares with a device. It has a guest address, a user address
 * (in the front-end's address space; never dereferenced) and a host address. The device end
 * accesses only host addresses within regions.
 *
 * A map that is in use never changes. A new map replaces it.
 */
struct vublk_memory_map_region {
	uint64_t guest_addr;
	uint64_t user_addr;
	uint64_t size_bytes;
	char *host;        /* mapped by the map's owner */
};

struct vublk_memory_map {
	unsigned num_regions;
	struct vublk_memory_map_region *regions; /* sorted by guest_addr; no two overlap */
};

/*
 * Moves the last region to its sorted place, and returns its new index. The regions before it must
 * be sorted. The caller must have checked that the last region is not empty, does not wrap, and
 * overlaps no other.
 */
unsigned vublk_memory_map_place(struct vublk_memory_map *map);

/*
 * These functions return the host address of a range of guest or user addresses, [addr, addr +
 * bytes). They return NULL unless the range lies in one region.
 */
void *vublk_memory_map_guest(const struct vublk_memory_map *map, uint64_t addr, uint64_t bytes);
void *vublk_memory_map_user(const struct vublk_memory_map *map, uint64_t addr, uint64_t bytes);

/*
 * Returns the host address of [addr, addr + bytes) if the range lies in region `number`; otherwise
 * NULL. Callers try the region of the previous address first, because most addresses are in that
 * region.
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

/*
 * Like vublk_memory_map_guest(), but also stores the number of the region, for
 * vublk_memory_map_guest_in().
 */
void *vublk_memory_map_guest_find(const struct vublk_memory_map *map, unsigned *number,
				  uint64_t addr, uint64_t bytes);

/*
 * Translates [addr, addr + bytes), which may span adjacent regions, into at most `max` iovecs.
 * Returns their number. -EFAULT: a byte is in no region, or the length is 0; -E2BIG: `max` is too
 * small.
 */
int vublk_memory_map_iov(const struct vublk_memory_map *map, uint64_t addr, uint64_t bytes,
			 struct iovec *iov, unsigned max);

/* Copies [addr, addr + bytes), which may span regions, to private memory. Returns 0 or -EFAULT. */
int vublk_memory_map_read(const struct vublk_memory_map *map, uint64_t addr, void *to,
			  uint64_t bytes);

#endif
