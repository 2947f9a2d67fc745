/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* This file makes the memory of the shadow rings and divides it among the queues. */
#include "plane/region.h"

#include "util/atomic.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/memfd.h"

#include <errno.h>
#include <stdlib.h>

/* A position in the region. Before the memory exists, only the offsets count. */
struct layout {
	char *host;
	uint64_t offset;
};

/* Reserves the next `bytes`, on cache lines of their own. */
static void *reserve(struct layout *layout, uint64_t bytes, uint64_t *addr)
{
	uint64_t at = layout->offset;

	layout->offset = vublk_round_up(at + bytes, VUBLK_CACHE_LINE);
	*addr = VUBLK_PLANE_REGION_ADDR + at;
	return layout->host ? layout->host + at : NULL;
}

/*
 * The parts that every request uses are next to each other; the parts that few requests use follow,
 * so that their pages are not touched.
 */
static void lay_out_queue(struct layout *layout, struct vublk_plane_region_queue *queue,
			  unsigned size)
{
	queue->ring.desc = reserve(layout, vublk_split_desc_bytes(size), &queue->desc_addr);
	queue->ring.avail = reserve(layout, vublk_split_avail_bytes(size), &queue->avail_addr);
	queue->ring.used = reserve(layout, vublk_split_used_bytes(size), &queue->used_addr);
	queue->slots = reserve(layout, size * sizeof(*queue->slots), &queue->slots_addr);
}

static void lay_out(struct vublk_plane_region *region, unsigned size, struct layout *layout)
{
	for (unsigned i = 0; i < region->num_queues; i++)
		lay_out_queue(layout, &region->queues[i], size);
	for (unsigned i = 0; i < region->num_queues; i++) {
		struct vublk_plane_region_queue *queue = &region->queues[i];

		queue->ranges = reserve(layout, (uint64_t)size * VUBLK_PLANE_MAX_RANGES *
					sizeof(*queue->ranges), &queue->ranges_addr);
		queue->tables = reserve(layout, (uint64_t)size * region->long_table *
					sizeof(*queue->tables), &queue->tables_addr);
	}
}

int vublk_plane_region_init(struct vublk_plane_region *region, unsigned num_queues, unsigned size,
			    unsigned long_table, struct vublk_error *error)
{
	struct layout layout = { 0 };

	*region = (struct vublk_plane_region){
		.fd = -1,
		.long_table = long_table,
		.num_queues = num_queues,
		.queues = calloc(num_queues, sizeof(*region->queues)),
	};
	if (!region->queues)
		return vublk_error_set_errno(error, ENOMEM, "cannot make shadow rings");
	lay_out(region, size, &layout);
	region->bytes = vublk_round_up(layout.offset, VUBLK_PLANE_REGION_ALIGN);
	region->fd = vublk_memfd_new("vublk-shadow", region->bytes, error);
	if (region->fd >= 0)
		region->host = vublk_map_shared(region->fd, 0, region->bytes, error);
	if (!region->host) {
		int r = region->fd < 0 ? region->fd : -ENOMEM;

		vublk_error_prepend(error, "cannot make shadow rings");
		vublk_plane_region_deinit(region);
		return r;
	}
	layout = (struct layout){ .host = region->host };
	lay_out(region, size, &layout);
	return 0;
}

void vublk_plane_region_deinit(struct vublk_plane_region *region)
{
	vublk_unmap(region->host, region->host ? region->bytes : 0);
	vublk_fd_close(&region->fd);
	free(region->queues);
	*region = (struct vublk_plane_region){ .fd = -1 };
}
