/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Marks guest pages in the dirty log.
 *
 * Key idea: the front-end clears a bit and then copies the page (pair L in split.h). A bit that is
 * already set must not be skipped, because the load of the bit could overtake this end's preceding
 * write to the page. The front-end could then clear the bit after the load and copy the page before
 * the write. So each bit is set every time, by a sequentially consistent operation.
 */
#include "virtio/dirty-log.h"

#include "util/checked.h"

#define PAGES_PER_BYTE 8

static uint64_t count_pages(const struct vublk_dirty_log *log)
{
	return log->bytes * PAGES_PER_BYTE; /* no overflow, because a mapped bitmap is small
					       enough */
}

bool vublk_dirty_log_covers(const struct vublk_dirty_log *log, uint64_t addr, uint64_t bytes)
{
	return vublk_range_within(addr, bytes, count_pages(log) * VUBLK_DIRTY_PAGE_BYTES);
}

/* Returns a mask of the bits from `first` to `last` that are in the same byte as `first`. */
static uint8_t mask_of(uint64_t first, uint64_t last)
{
	unsigned from = first % PAGES_PER_BYTE;
	unsigned to = (unsigned)VUBLK_MIN(last - (first - from), UINT64_C(7));

	return (uint8_t)((0xffu >> (7 - to)) & (0xffu << from));
}

void vublk_dirty_log_mark(const struct vublk_dirty_log *log, uint64_t addr, uint64_t bytes)
{
	uint64_t page = addr / VUBLK_DIRTY_PAGE_BYTES;
	uint64_t last;

	if (!bytes || page >= count_pages(log))
		return;
	last = page + (addr % VUBLK_DIRTY_PAGE_BYTES + bytes - 1) / VUBLK_DIRTY_PAGE_BYTES;
	last = VUBLK_MIN(last, count_pages(log) - 1);
	while (page <= last) {
		__atomic_fetch_or(&log->bits[page / PAGES_PER_BYTE], mask_of(page, last),
				  __ATOMIC_SEQ_CST); /* L */
		page += PAGES_PER_BYTE - page % PAGES_PER_BYTE;
	}
}

/*
 * Returns the region that contains `host`, or NULL. Starts the search at region *hint, and stores
 * the number of the region there.
 */
static const struct vublk_memory_map_region *region_of(const struct vublk_memory_map *map,
						       const char *host, unsigned *hint)
{
	for (unsigned i = 0; i < map->num_regions; i++) {
		unsigned k = (*hint + i) % map->num_regions;
		const struct vublk_memory_map_region *region = &map->regions[k];

		if ((uintptr_t)host - (uintptr_t)region->host >= region->size_bytes)
			continue;
		*hint = k;
		return region;
	}
	return NULL;
}

void vublk_dirty_log_mark_iov(const struct vublk_dirty_log *log,
			      const struct vublk_memory_map *map, const struct iovec *iov,
			      unsigned num_iov)
{
	unsigned hint = 0;

	for (unsigned i = 0; i < num_iov; i++) {
		const char *host = iov[i].iov_base;
		const struct vublk_memory_map_region *region = region_of(map, host, &hint);

		if (region)
			vublk_dirty_log_mark(log, region->guest_addr +
					     (uint64_t)(host - region->host), iov[i].iov_len);
	}
}
