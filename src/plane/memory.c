/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* This file maps the guest's memory for the plane. */
#include "plane/memory.h"

#include "util/error.h"
#include "util/memfd.h"
#include "util/memory-file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

static int map_region(struct vublk_plane_memory *memory, const struct vublk_memory_region *region,
		      struct vublk_fault *fault, struct vublk_error *error)
{
	struct vublk_memory_part *part = &memory->parts[memory->map.num_regions];
	struct vublk_memory_file file;
	int r = vublk_memory_file_check(region->fd, region->fd_offset, region->size_bytes, &file,
					error);

	if (!r)
		r = vublk_memory_file_map(region->fd, &file, region->fd_offset,
					  region->size_bytes, fault, VUBLK_FAULT_MEMORY, part,
					  error);
	if (r < 0) {
		vublk_error_prepend(error, "the guest's memory at 0x%" PRIx64, region->guest_addr);
		return r;
	}
	memory->map.regions[memory->map.num_regions++] = (struct vublk_memory_map_region){
		.guest_addr = region->guest_addr,
		.user_addr = region->guest_addr,
		.size_bytes = region->size_bytes,
		.host = part->start,
	};
	return 0;
}

int vublk_plane_memory_new(const struct vublk_memory_region *regions, unsigned num_regions,
			   struct vublk_fault *fault, struct vublk_plane_memory **result,
			   struct vublk_error *error)
{
	struct vublk_plane_memory *memory = calloc(1, sizeof(*memory));
	int r = 0;

	if (memory) {
		memory->map.regions = calloc(num_regions, sizeof(*memory->map.regions));
		memory->parts = calloc(num_regions, sizeof(*memory->parts));
	}
	if (!memory || !memory->map.regions || !memory->parts)
		r = vublk_error_set_errno(error, ENOMEM, "cannot map the guest's memory");
	for (unsigned i = 0; i < num_regions && !r; i++) {
		r = map_region(memory, &regions[i], fault, error);
		if (!r)
			vublk_memory_map_place(&memory->map);
	}
	if (r < 0) {
		vublk_plane_memory_free(memory);
		return r;
	}
	*result = memory;
	return 0;
}

void vublk_plane_memory_free(struct vublk_plane_memory *memory)
{
	if (!memory)
		return;
	for (unsigned i = 0; memory->parts && i < memory->map.num_regions; i++)
		vublk_unmap(memory->parts[i].mapping, memory->parts[i].mapping_bytes);
	free(memory->map.regions);
	free(memory->parts);
	free(memory);
}
