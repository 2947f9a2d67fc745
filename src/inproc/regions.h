/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_INPROC_REGIONS_H
#define VUBLK_INPROC_REGIONS_H

#include "util/atomic.h"

#include <vublk/memory.h>

#include <stddef.h>
#include <stdint.h>

/*
 * The table of the regions of this process's memory that the back-end can access, each with its
 * guest address.
 *
 * Only the bus's thread changes the table. Any number of queue owners may look up addresses at the
 * same time, without a lock.
 */
struct vublk_inproc_region {
	uint64_t host; /* address in this process */
	uint64_t bytes;
	uint64_t guest_addr;
};

struct vublk_inproc_regions {
	unsigned sequence; /* odd while the entries are being changed */
	unsigned count;
	struct vublk_inproc_region entries[VUBLK_MEMORY_MAX_REGIONS]; /* sorted by host */
};

/* A reader's own cache of the last region that it found; initially zeroed. */
struct vublk_inproc_region_cache {
	unsigned sequence;
	struct vublk_inproc_region region;
};

/* The part of vublk_inproc_regions_find() for an address that the cache does not have. */
uint64_t vublk_inproc_regions_search(const struct vublk_inproc_regions *regions,
				     struct vublk_inproc_region_cache *cache, const void *address,
				     uint64_t *guest_addr);

/*
 * Translates `address` into a guest address. Returns how many bytes of the same region begin
 * there; 0: no region contains `address`. Any thread; `cache` is the caller's own.
 */
static inline uint64_t vublk_inproc_regions_find(const struct vublk_inproc_regions *regions,
						 struct vublk_inproc_region_cache *cache,
						 const void *address, uint64_t *guest_addr)
{
	uint64_t offset = (uintptr_t)address - cache->region.host;

	if (cache->sequence != vublk_load_acquire(&regions->sequence) || /* A */
	    offset >= cache->region.bytes)
		return vublk_inproc_regions_search(regions, cache, address, guest_addr);
	*guest_addr = cache->region.guest_addr + offset;
	return cache->region.bytes - offset;
}

/*
 * Checks a new region. Called by the writer only. -EINVAL: the region overlaps another; -ENOSPC:
 * the table is full.
 */
int vublk_inproc_regions_check(const struct vublk_inproc_regions *regions, const void *address,
			       uint64_t bytes);
/* Adds a region that has passed vublk_inproc_regions_check(). Called by the writer only. */
void vublk_inproc_regions_insert(struct vublk_inproc_regions *regions, const void *address,
				 uint64_t bytes, uint64_t guest_addr);
/* Removes a region. Called by the writer only. -EINVAL: no region begins at `address`. */
int vublk_inproc_regions_remove(struct vublk_inproc_regions *regions, const void *address);

#endif
