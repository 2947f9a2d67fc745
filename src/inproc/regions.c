/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The table that translates an application's buffers into guest addresses.
 *
 * Key idea: the table has a sequence lock. The writer makes the sequence number odd, changes the
 * entries, and makes the number even again. A reader that saw the same even number before and after
 * its loads has read entries of one version. The table is changed in place, so no memory has to be
 * freed while readers may use it.
 *
 * A letter marks the accesses of a pair that must be ordered:
 *   A  the writer's last store of the sequence, and a reader's first load of it: a reader that
 *      sees the even number sees the entries.
 *   B  each store, and each load, of an entry or of the count: a reader that sees a value that a
 *      change has stored also sees that the sequence has become odd, and reads again.
 */
#include "inproc/regions.h"

#include "util/atomic.h"
#include "util/checked.h"

#include <errno.h>
#include <stdbool.h>

static struct vublk_inproc_region load_entry(const struct vublk_inproc_regions *regions,
					     unsigned index)
{
	const struct vublk_inproc_region *entry = &regions->entries[index];

	return (struct vublk_inproc_region){
		.host = vublk_load_acquire(&entry->host),             /* B */
		.bytes = vublk_load_acquire(&entry->bytes),           /* B */
		.guest_addr = vublk_load_acquire(&entry->guest_addr), /* B */
	};
}

static void store_entry(struct vublk_inproc_regions *regions, unsigned index,
			struct vublk_inproc_region region)
{
	struct vublk_inproc_region *entry = &regions->entries[index];

	vublk_store_release(&entry->host, region.host);             /* B */
	vublk_store_release(&entry->bytes, region.bytes);           /* B */
	vublk_store_release(&entry->guest_addr, region.guest_addr); /* B */
}

static bool contains(const struct vublk_inproc_region *region, uint64_t host)
{
	return host - region->host < region->bytes;
}

/*
 * Searches the entries, which may be changing. The count never exceeds the array, so a search in
 * the middle of a change can at worst find a wrong entry. The caller's check of the sequence
 * detects that.
 */
static struct vublk_inproc_region search(const struct vublk_inproc_regions *regions, uint64_t host)
{
	unsigned low = 0, high = vublk_load_acquire(&regions->count); /* B */

	while (low < high) {
		unsigned middle = low + (high - low) / 2;
		struct vublk_inproc_region region = load_entry(regions, middle);

		if (contains(&region, host))
			return region;
		if (region.host > host)
			high = middle;
		else
			low = middle + 1;
	}
	return (struct vublk_inproc_region){ 0 };
}

bool vublk_inproc_regions_search(const struct vublk_inproc_regions *regions,
				 struct vublk_inproc_region_cache *cache, const void *address)
{
	unsigned sequence = vublk_load_acquire(&regions->sequence); /* A */
	uint64_t host = (uintptr_t)address;

	while (cache->sequence != sequence || !contains(&cache->region, host)) {
		struct vublk_inproc_region region;

		if (sequence & 1) {
			vublk_cpu_relax();
			sequence = vublk_load_acquire(&regions->sequence); /* A */
			continue;
		}
		region = search(regions, host);
		if (vublk_load_relaxed(&regions->sequence) != sequence) {
			sequence = vublk_load_acquire(&regions->sequence); /* A */
			continue;
		}
		if (!region.bytes)
			return false;
		cache->region = region;
		cache->sequence = sequence;
	}
	return true;
}

/* --- the writer -------------------------------------------------------------- */

static void begin_change(struct vublk_inproc_regions *regions)
{
	vublk_store_relaxed(&regions->sequence, regions->sequence + 1);
}

static void end_change(struct vublk_inproc_regions *regions)
{
	vublk_store_release(&regions->sequence, regions->sequence + 1); /* A */
}

int vublk_inproc_regions_check(const struct vublk_inproc_regions *regions, const void *address,
			       uint64_t bytes)
{
	for (unsigned i = 0; i < regions->count; i++)
		if (vublk_ranges_overlap(regions->entries[i].host, regions->entries[i].bytes,
					 (uintptr_t)address, bytes))
			return -EINVAL;
	return regions->count < VUBLK_MEMORY_MAX_REGIONS ? 0 : -ENOSPC;
}

void vublk_inproc_regions_insert(struct vublk_inproc_regions *regions, const void *address,
				 uint64_t bytes, uint64_t guest_addr)
{
	struct vublk_inproc_region region = { (uintptr_t)address, bytes, guest_addr };
	unsigned index = regions->count;

	begin_change(regions);
	for (; index && regions->entries[index - 1].host > region.host; index--)
		store_entry(regions, index, regions->entries[index - 1]);
	store_entry(regions, index, region);
	vublk_store_release(&regions->count, regions->count + 1); /* B */
	end_change(regions);
}

int vublk_inproc_regions_remove(struct vublk_inproc_regions *regions, const void *address)
{
	unsigned index = 0;

	while (index < regions->count && regions->entries[index].host != (uintptr_t)address)
		index++;
	if (index == regions->count)
		return -EINVAL;
	begin_change(regions);
	for (; index + 1 < regions->count; index++)
		store_entry(regions, index, regions->entries[index + 1]);
	vublk_store_release(&regions->count, regions->count - 1); /* B */
	end_change(regions);
	return 0;
}
