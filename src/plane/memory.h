/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PLANE_MEMORY_H
#define VUBLK_PLANE_MEMORY_H

/*
 * A mapping of the guest's memory for the plane. It never changes; other memory needs another
 * mapping. The VMM holds the files, too, and may truncate them, so the mappings are guarded.
 */
#include "util/memory-file.h"
#include "virtio/memory-map.h"

#include <vublk/error.h>
#include <vublk/memory.h>

struct vublk_plane_memory {
	struct vublk_memory_map map;
	struct vublk_memory_part *parts; /* one for each region, in no order */
};

/* Maps these regions. `fault` outlives the mapping. ENOMEM, EINVAL and those of mmap(). */
int vublk_plane_memory_new(const struct vublk_memory_region *regions, unsigned num_regions,
			   struct vublk_fault *fault, struct vublk_plane_memory **memory,
			   struct vublk_error *error);
/* NULL is a no-op. */
void vublk_plane_memory_free(struct vublk_plane_memory *memory);

#endif
