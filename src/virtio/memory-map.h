/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_MEMORY_MAP_H
#define VUBLK_VIRTIO_MEMORY_MAP_H

#include <vublk/error.h>

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/*
 * The memory that a driver gave a device: regions with a guest address, a user
 * address (the front-end's own, only ever compared), and where they are mapped
 * here. The device end trusts no address until this has translated it.
 *
 * A map is not changed while it is in use: a new one is made and handed over.
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
 * Whether the regions may stand together: none empty, none wrapping, none
 * overlapping in guest or in user addresses; sorts them. EINVAL and a sentence
 * naming the two if not.
 */
int vublk_memory_map_check(struct vublk_memory_map *map, struct vublk_error *error);

/*
 * The same where all regions but the last were checked and sorted before: checks the last
 * against each, and moves it to its place, which is returned. EINVAL and a sentence, and the
 * last stays where it is.
 */
int vublk_memory_map_place(struct vublk_memory_map *map, struct vublk_error *error);

/* The host address of [addr, addr + bytes) if it lies in ONE region, else NULL. */
void *vublk_memory_map_guest(const struct vublk_memory_map *map, uint64_t addr, uint64_t bytes);
void *vublk_memory_map_user(const struct vublk_memory_map *map, uint64_t addr, uint64_t bytes);

/*
 * The same, if it lies in the region of this number. For a reader that asks again and again:
 * most addresses are where the last one was.
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

/* The same in any region, with its number for the next time. */
void *vublk_memory_map_guest_find(const struct vublk_memory_map *map, unsigned *number,
				  uint64_t addr, uint64_t bytes);

/*
 * Translates [addr, addr + bytes), which may run over several adjoining regions,
 * into up to `max` iovecs. Returns how many, or -EFAULT when a byte of it is in
 * no region (a length of 0 too), -E2BIG when `max` is too few.
 */
int vublk_memory_map_iov(const struct vublk_memory_map *map, uint64_t addr, uint64_t bytes,
			 struct iovec *iov, unsigned max);

/* Copies [addr, addr + bytes) to private memory, over regions too. 0 or -EFAULT. */
int vublk_memory_map_read(const struct vublk_memory_map *map, uint64_t addr, void *to,
			  uint64_t bytes);

#endif
