/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* This file makes the memory of the shadow rings and lays out its parts. */
#include "plane/region.h"

#include "util/atomic.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/memfd.h"

#include <errno.h>
#include <stdlib.h>

/* Back-ends that use O_DIRECT need not copy data that begins at a page boundary. */
#define BOUNCE_ALIGN 4096

/*
 * A position in the region. The layout is computed twice. The first time, before the memory exists,
 * `host` is NULL, and only offsets and addresses are computed.
 */
struct layout {
	char *host;
	uint64_t offset;
};

/* Reserves the next `bytes` bytes, which share no cache line with other parts. */
static void *reserve(struct layout *layout, uint64_t bytes, uint64_t *addr)
{
	uint64_t at = layout->offset;

	layout->offset = vublk_round_up(at + bytes, VUBLK_CACHE_LINE);
	*addr = VUBLK_PLANE_REGION_ADDR + at;
	return layout->host ? layout->host + at : NULL;
}

/*
 * Lays out the parts of a queue that every request uses. lay_out() puts the parts that few requests
 * use at the end of the region, because pages that are never touched cost no memory.
 */
static void lay_out_queue(struct layout *layout, struct vublk_plane_region_queue *queue,
			  unsigned size)
{
	queue->ring.desc = reserve(layout, vublk_split_desc_bytes(size), &queue->desc_addr);
	queue->ring.avail = reserve(layout, vublk_split_avail_bytes(size), &queue->avail_addr);
	queue->ring.used = reserve(layout, vublk_split_used_bytes(size), &queue->used_addr);
	queue->slots = reserve(layout, size * sizeof(*queue->slots), &queue->slots_addr);
}

static void lay_out_own(struct vublk_plane_region *region, struct layout *layout)
{
	region->own = reserve(layout, VUBLK_PLANE_NUM_OWN * sizeof(*region->own),
			      &region->own_addr);
	layout->offset = vublk_round_up(layout->offset, BOUNCE_ALIGN);
	region->bounce = reserve(layout, VUBLK_PLANE_NUM_OWN * VUBLK_PLANE_BOUNCE_BYTES,
				 &region->bounce_addr);
}

/* As long as there is no mirror, these pages are never touched, so they cost no memory. */
static void lay_out_mirror(struct vublk_plane_region *region, struct layout *layout)
{
	region->copies = reserve(layout, VUBLK_PLANE_MIRROR_COPIES * sizeof(*region->copies),
				 &region->copies_addr);
	layout->offset = vublk_round_up(layout->offset, BOUNCE_ALIGN);
	region->chunks = reserve(layout, (uint64_t)VUBLK_PLANE_MIRROR_CHUNK *
				 (VUBLK_PLANE_MIRROR_CHUNKS + VUBLK_PLANE_MIRROR_COPIES),
				 &region->chunks_addr);
}

static void lay_out(struct vublk_plane_region *region, unsigned size, bool has_own,
		    struct layout *layout)
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
	if (has_own)
		lay_out_own(region, layout);
	lay_out_mirror(region, layout);
}

/* Makes the file, or checks the file that the region already has. */
static int make_file(struct vublk_plane_region *region, struct vublk_error *error)
{
	if (region->fd >= 0)
		return vublk_memfd_check(region->fd, region->bytes, error);
	region->fd = vublk_memfd_new("vublk-shadow", region->bytes, error);
	return region->fd < 0 ? region->fd : 0;
}

/* Makes the region in the file `fd`; -1: in a new file. */
static int make(struct vublk_plane_region *region, unsigned num_queues, unsigned size,
		unsigned long_table, bool has_own, int fd, struct vublk_error *error)
{
	struct layout layout = { 0 };
	int r;

	*region = (struct vublk_plane_region){
		.fd = fd,
		.long_table = long_table,
		.num_queues = num_queues,
		.queues = calloc(num_queues, sizeof(*region->queues)),
	};
	if (!region->queues)
		return vublk_error_set_errno(error, ENOMEM, "cannot create shadow rings");
	lay_out(region, size, has_own, &layout);
	region->bytes = vublk_round_up(layout.offset, VUBLK_PLANE_REGION_ALIGN);
	r = make_file(region, error);
	if (!r)
		region->host = vublk_map_shared(region->fd, 0, region->bytes, error);
	if (!region->host) {
		vublk_error_prepend(error, "cannot create shadow rings");
		return r < 0 ? r : -ENOMEM;
	}
	layout = (struct layout){ .host = region->host };
	lay_out(region, size, has_own, &layout);
	return 0;
}

int vublk_plane_region_adopt(struct vublk_plane_region *region, unsigned num_queues, unsigned size,
			     unsigned long_table, bool has_own, int fd, struct vublk_error *error)
{
	int r = make(region, num_queues, size, long_table, has_own, fd, error);

	if (r < 0)
		vublk_plane_region_deinit(region);
	return r;
}

int vublk_plane_region_init(struct vublk_plane_region *region, unsigned num_queues, unsigned size,
			    unsigned long_table, bool has_own, struct vublk_error *error)
{
	return vublk_plane_region_adopt(region, num_queues, size, long_table, has_own, -1, error);
}

void vublk_plane_region_deinit(struct vublk_plane_region *region)
{
	vublk_unmap(region->host, region->host ? region->bytes : 0);
	vublk_fd_close(&region->fd);
	free(region->queues);
	*region = (struct vublk_plane_region){ .fd = -1 };
}
