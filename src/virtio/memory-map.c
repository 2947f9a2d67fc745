/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Translates a driver's addresses to host addresses.
 *
 * Key idea: each buffer of each request needs a lookup. So the regions are sorted by guest address,
 * and the lookup of a guest address is a binary search.
 */
#include "virtio/memory-map.h"

#include "util/checked.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

unsigned vublk_memory_map_place(struct vublk_memory_map *map)
{
	struct vublk_memory_map_region *regions = map->regions;
	unsigned place = map->num_regions - 1;
	struct vublk_memory_map_region new = regions[place];

	for (; place && regions[place - 1].guest_addr > new.guest_addr; place--)
		regions[place] = regions[place - 1];
	regions[place] = new;
	return place;
}

/* --- translating ----------------------------------------------------------- */

static bool wraps(uint64_t addr, uint64_t bytes)
{
	return bytes - 1 > UINT64_MAX - addr;
}

/* Returns the region that contains `addr`, or NULL. */
static const struct vublk_memory_map_region *find(const struct vublk_memory_map *map,
						  uint64_t addr)
{
	unsigned low = 0, high = map->num_regions;

	while (low < high) {
		unsigned middle = low + (high - low) / 2;
		const struct vublk_memory_map_region *region = &map->regions[middle];

		if (addr < region->guest_addr)
			high = middle;
		else if (addr - region->guest_addr >= region->size_bytes)
			low = middle + 1;
		else
			return region;
	}
	return NULL;
}

void *vublk_memory_map_guest_find(const struct vublk_memory_map *map, unsigned *number,
				  uint64_t addr, uint64_t bytes)
{
	const struct vublk_memory_map_region *region = find(map, addr);

	if (!region ||
	    !vublk_range_within(addr - region->guest_addr, bytes, region->size_bytes))
		return NULL;
	*number = (unsigned)(region - map->regions);
	return region->host + (addr - region->guest_addr);
}

void *vublk_memory_map_guest(const struct vublk_memory_map *map, uint64_t addr, uint64_t bytes)
{
	unsigned number;

	return vublk_memory_map_guest_find(map, &number, addr, bytes);
}

void *vublk_memory_map_user(const struct vublk_memory_map *map, uint64_t addr, uint64_t bytes)
{
	for (unsigned i = 0; i < map->num_regions; i++) {
		const struct vublk_memory_map_region *region = &map->regions[i];

		if (addr >= region->user_addr &&
		    addr - region->user_addr < region->size_bytes &&
		    vublk_range_within(addr - region->user_addr, bytes, region->size_bytes))
			return region->host + (addr - region->user_addr);
	}
	return NULL;
}

/*
 * Translates the bytes of [addr, addr + bytes) that lie in the region of `addr`. -EFAULT: no region
 * contains `addr`.
 */
static int first_part(const struct vublk_memory_map *map, uint64_t addr, uint64_t bytes,
		      struct iovec *part)
{
	const struct vublk_memory_map_region *region = find(map, addr);
	uint64_t offset;

	if (!region)
		return -EFAULT;
	offset = addr - region->guest_addr;
	part->iov_base = region->host + offset;
	part->iov_len = VUBLK_MIN(bytes, region->size_bytes - offset);
	return 0;
}

int vublk_memory_map_iov(const struct vublk_memory_map *map, uint64_t addr, uint64_t bytes,
			 struct iovec *iov, unsigned max)
{
	unsigned n = 0;

	if (bytes == 0 || wraps(addr, bytes))
		return -EFAULT;
	while (bytes) {
		struct iovec part;
		int ret = first_part(map, addr, bytes, &part);

		if (ret < 0)
			return ret;
		if (n == max)
			return -E2BIG;
		iov[n++] = part;
		addr += part.iov_len;
		bytes -= part.iov_len;
	}
	return (int)n;
}

int vublk_memory_map_read(const struct vublk_memory_map *map, uint64_t addr, void *to,
			  uint64_t bytes)
{
	char *at = to;

	if (bytes == 0 || wraps(addr, bytes))
		return -EFAULT;
	while (bytes) {
		struct iovec part;
		int ret = first_part(map, addr, bytes, &part);

		if (ret < 0)
			return ret;
		memcpy(at, part.iov_base, part.iov_len);
		/* Keeps the compiler from reading the shared bytes again instead of the copy. */
		__asm__ volatile("" ::: "memory");
		at += part.iov_len;
		addr += part.iov_len;
		bytes -= part.iov_len;
	}
	return 0;
}
