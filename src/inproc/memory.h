/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_INPROC_MEMORY_H
#define VUBLK_INPROC_MEMORY_H

#include "inproc/regions.h"

#include <vublk/error.h>
#include <vublk/memory.h>

#include <stdbool.h>
#include <stdint.h>

/*
 * All memory that the in-process bus shares with a back-end: the memory of the rings, and the
 * regions that the application added. Only the bus's thread uses this struct, except that other
 * threads read `table`.
 */
struct vublk_inproc_memory {
	char *rings; /* one shared mapping for the rings of all queues; NULL: not made yet */
	uint64_t rings_bytes;
	uint64_t rings_addr;

	struct vublk_memory_region regions[VUBLK_MEMORY_MAX_REGIONS]; /* [0]: the rings */
	void *hosts[VUBLK_MEMORY_MAX_REGIONS];
	unsigned num_regions;
	bool adding; /* the back-end has not confirmed the last region yet */
	uint64_t next_addr;

	struct vublk_inproc_regions table;
};

void vublk_inproc_memory_init(struct vublk_inproc_memory *memory);
void vublk_inproc_memory_deinit(struct vublk_inproc_memory *memory);

int vublk_inproc_memory_make_rings(struct vublk_inproc_memory *memory, uint64_t bytes,
				   struct vublk_error *error);
/*
 * Replaces the memory of the rings with new, zeroed memory at the same guest address. A back-end
 * that has mapped the old memory cannot access the new one. ENOMEM, EMFILE: the old memory stays.
 */
int vublk_inproc_memory_renew_rings(struct vublk_inproc_memory *memory,
				    struct vublk_error *error);

/* Zeroes the memory of the rings. No back-end may be using it. */
void vublk_inproc_memory_clear_rings(struct vublk_inproc_memory *memory);
/*
 * Performs those checks of a new region that do not depend on other regions, and stores a duplicate
 * of `fd` in `out_fd`. Any thread may call this. EINVAL: the region is empty or not aligned, or its
 * file is not sealed against shrinking; EBADF, EMFILE: `fd` cannot be duplicated.
 */
int vublk_inproc_memory_prepare(const void *address, uint64_t bytes, int fd, uint64_t fd_offset,
				int *out_fd, struct vublk_error *error);
/*
 * These functions add a region that has passed vublk_inproc_memory_prepare(), and remove one.
 * `slots` is the number of regions that the back-end can have. After a successful addition,
 * `memory` owns `fd`. vublk_inproc_memory_changed() ends an addition. If `known`, the back-end has
 * the region, or the next back-end will get it, and the region enters the table. Otherwise the
 * region is dropped again. A removed region leaves the table immediately.
 */
int vublk_inproc_memory_add(struct vublk_inproc_memory *memory, unsigned slots, void *address,
			    uint64_t bytes, int fd, uint64_t fd_offset,
			    struct vublk_error *error);
int vublk_inproc_memory_remove(struct vublk_inproc_memory *memory, void *address,
			       struct vublk_error *error);
void vublk_inproc_memory_changed(struct vublk_inproc_memory *memory, bool known);

#endif
