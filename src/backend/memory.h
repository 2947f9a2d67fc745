/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_MEMORY_H
#define VUBLK_BACKEND_MEMORY_H

/*
 * The guest memory that the front-end shares: the mapped regions, and the map that translates the
 * addresses in rings. Both change only while no queue runs.
 */
#include "proto/vhost-user/codec.h"
#include "util/memory-file.h"
#include "virtio/memory-map.h"

#define VUBLK_BACKEND_MEMORY_SLOTS 509

/* The mapping of a region, and its file, which an upgrade hands to the next process. */
struct vublk_backend_part {
	struct vublk_memory_part part;
	int fd; /* owned */
	uint64_t mmap_offset;
};

struct vublk_backend_memory {
	struct vublk_memory_map map;
	struct vublk_backend_part *parts; /* the mapping of each region, in the order of the map */
	struct vublk_fault *fault; /* set once; records whether a page was lost (util/fault.h) */
};

/*
 * Executes SET_MEM_TABLE: replaces all regions. After a failure the old regions stay. Takes the
 * descriptors of the regions out of the message.
 */
int vublk_backend_memory_set(struct vublk_backend_memory *memory,
			     struct vublk_vu_message *message, struct vublk_error *error);
/*
 * These functions execute ADD_MEM_REG and REM_MEM_REG. The first function takes the descriptor out
 * of the message.
 */
int vublk_backend_memory_add(struct vublk_backend_memory *memory,
			     struct vublk_vu_message *message, struct vublk_error *error);
int vublk_backend_memory_remove(struct vublk_backend_memory *memory,
				const struct vublk_vu_message *message,
				struct vublk_error *error);

/* Unmaps everything. Idempotent. */
void vublk_backend_memory_clear(struct vublk_backend_memory *memory);

#endif
