/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PLANE_MEMORY_H
#define VUBLK_PLANE_MEMORY_H

/*
 * The plane's mapping of the guest's memory. A mapping never changes. When the guest's memory
 * changes, the device makes a new mapping. The VMM can truncate the memory's files, so the mapping
 * is guarded against SIGBUS (util/fault.h).
 */
#include "util/memory-file.h"
#include "virtio/memory-map.h"

#include <vublk/error.h>
#include <vublk/memory.h>

struct vublk_plane_memory {
	struct vublk_memory_map map;
	struct vublk_memory_part *parts; /* one per region, in no particular order */
};

/*
 * Maps `regions`. `fault` has to outlive the mapping. Errors: ENOMEM, EINVAL and those of mmap().
 */
int vublk_plane_memory_new(const struct vublk_memory_region *regions, unsigned num_regions,
			   struct vublk_fault *fault, struct vublk_plane_memory **memory,
			   struct vublk_error *error);
/* Unmaps and frees the mapping. NULL is a no-op. */
void vublk_plane_memory_free(struct vublk_plane_memory *memory);

#endif
