/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_INPROC_REGIONS_H
#define VUBLK_INPROC_REGIONS_H

#include "util/atomic.h"

#include <vublk/memory.h>

#include <stddef.h>
#include <stdint.h>

/*
 * Where the application's buffers are for the back-end: pieces of this process's
 * address space, each with the guest address at which the back-end knows it.
 *
 * One writer at a time (the bus's thread) changes the table; any number of queue
 * owners look up without a lock while it does.
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

/* A reader's own memory of its last hit; zeroed at first. */
struct vublk_inproc_region_cache {
	unsigned sequence;
	struct vublk_inproc_region region;
};

/* What the cache does not know. */
uint64_t vublk_inproc_regions_search(const struct vublk_inproc_regions *regions,
				     struct vublk_inproc_region_cache *cache, const void *address,
				     uint64_t *guest_addr);

/*
 * The guest address of `address` into `guest_addr`, and how many bytes from there
 * on lie in the same region; 0 if it is in none. Any thread; `cache` is the
 * caller's own.
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

/* The writer's: -EINVAL: overlaps one that is there; -ENOSPC: the table is full. */
int vublk_inproc_regions_check(const struct vublk_inproc_regions *regions, const void *address,
			       uint64_t bytes);
/* The writer's; what vublk_inproc_regions_check() let pass. */
void vublk_inproc_regions_insert(struct vublk_inproc_regions *regions, const void *address,
				 uint64_t bytes, uint64_t guest_addr);
/* The writer's; the region that begins at `address`. 0, or -EINVAL: there is none. */
int vublk_inproc_regions_remove(struct vublk_inproc_regions *regions, const void *address);

#endif
