/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_MEMORY_H
#define VUBLK_BACKEND_MEMORY_H

/*
 * The guest memory that the front-end shares: the mapped regions, and the map that translates
 * the addresses in rings. It changes only while no queue runs.
 */
#include "proto/vhost-user/codec.h"
#include "util/memory-file.h"
#include "virtio/memory-map.h"

#define VUBLK_BACKEND_MEMORY_SLOTS 509

struct vublk_backend_memory {
	struct vublk_memory_map map;
	struct vublk_memory_part *parts; /* the mapping of each region, in the order of the map */
	struct vublk_fault *fault; /* set once: records the pages that the front-end removes */
};

/*
 * SET_MEM_TABLE: replaces all regions; on failure the old regions stay. The message keeps its
 * descriptors, because only the mapping needs them.
 */
int vublk_backend_memory_set(struct vublk_backend_memory *memory,
			     const struct vublk_vu_message *message, struct vublk_error *error);
/* ADD_MEM_REG and REM_MEM_REG. */
int vublk_backend_memory_add(struct vublk_backend_memory *memory,
			     const struct vublk_vu_message *message, struct vublk_error *error);
int vublk_backend_memory_remove(struct vublk_backend_memory *memory,
				const struct vublk_vu_message *message,
				struct vublk_error *error);

/* Unmaps everything. Idempotent. */
void vublk_backend_memory_clear(struct vublk_backend_memory *memory);

#endif
