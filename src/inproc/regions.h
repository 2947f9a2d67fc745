/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_INPROC_REGIONS_H
#define VUBLK_INPROC_REGIONS_H

#include "util/atomic.h"
#include "util/compiler.h"

#include <vublk/memory.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * A region of this process's memory that the back-end can access. Only the bus's thread changes the
 * table of regions below. Any number of queue owners may look up addresses in it at the same time,
 * without a lock.
 */
struct vublk_inproc_region {
	uint64_t host; /* the address in this process */
	uint64_t bytes;
	uint64_t guest_addr;
};

struct vublk_inproc_regions {
	unsigned sequence; /* odd while the entries are being changed */
	unsigned count;
	struct vublk_inproc_region entries[VUBLK_MEMORY_MAX_REGIONS]; /* sorted by `host` */
};

/*
 * A reader's private cache, with the region that the last lookup found. Must be zeroed before its
 * first use.
 */
struct vublk_inproc_region_cache {
	unsigned sequence;
	struct vublk_inproc_region region;
};

/*
 * The slow part of vublk_inproc_regions_find(), for an address that is not in the cached region,
 * and for a table that has changed since the region was cached. Stores the region of the address in
 * the cache. Returns false if no region contains the address.
 */
bool vublk_inproc_regions_search(const struct vublk_inproc_regions *regions,
				 struct vublk_inproc_region_cache *cache, const void *address);

/*
 * Translates `address` to a guest address. Returns the number of bytes from `address` to the end of
 * its region, or 0 if no region contains it. Any thread may call this, with a `cache` of its own.
 * regions.c explains the letter A.
 */
static inline uint64_t vublk_inproc_regions_find(const struct vublk_inproc_regions *regions,
						 struct vublk_inproc_region_cache *cache,
						 const void *address, uint64_t *guest_addr)
{
	uint64_t offset = (uintptr_t)address - cache->region.host;

	/*
	 * `guest_addr` is not passed to the search, so that the caller's variable can stay in a
	 * register.
	 */
	if (VUBLK_UNLIKELY(cache->sequence != vublk_load_acquire(&regions->sequence) || /* A */
			   offset >= cache->region.bytes)) {
		if (!vublk_inproc_regions_search(regions, cache, address)) {
			*guest_addr = 0;
			return 0;
		}
		offset = (uintptr_t)address - cache->region.host;
	}
	*guest_addr = cache->region.guest_addr + offset;
	return cache->region.bytes - offset;
}

/*
 * Checks a new region. -EINVAL: the region overlaps another; -ENOSPC: the table is full. Only the
 * bus's thread may call this.
 */
int vublk_inproc_regions_check(const struct vublk_inproc_regions *regions, const void *address,
			       uint64_t bytes);
/*
 * Adds a region that has passed vublk_inproc_regions_check(). Only the bus's thread may call this.
 */
void vublk_inproc_regions_insert(struct vublk_inproc_regions *regions, const void *address,
				 uint64_t bytes, uint64_t guest_addr);
/* Removes a region. -EINVAL: no region begins at `address`. Only the bus's thread may call this. */
int vublk_inproc_regions_remove(struct vublk_inproc_regions *regions, const void *address);

#endif
