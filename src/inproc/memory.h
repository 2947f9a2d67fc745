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
 * regions that the application added. It belongs to the bus's thread; other threads read only the
 * table.
 */
struct vublk_inproc_memory {
	char *rings; /* one shared memory for all queues; NULL: not made yet */
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
 * Replaces the memory of the rings by new, zeroed memory at the same guest address. A back-end
 * that has mapped the old memory cannot access the new one. ENOMEM, EMFILE: the old memory stays.
 */
int vublk_inproc_memory_renew_rings(struct vublk_inproc_memory *memory,
				    struct vublk_error *error);

/* Zeroes the memory of the rings, which no back-end uses at the moment. */
void vublk_inproc_memory_clear_rings(struct vublk_inproc_memory *memory);
/*
 * Makes those checks of a new region that do not depend on other regions, and stores a duplicate of
 * `fd` in `out_fd`. Any thread. EINVAL: the region is not aligned or not sealed against shrinking;
 * EBADF, EMFILE: `fd` cannot be duplicated.
 */
int vublk_inproc_memory_prepare(const void *address, uint64_t bytes, int fd, uint64_t fd_offset,
				int *out_fd, struct vublk_error *error);
/*
 * Adds or removes a region, which has passed the checks above. On success the memory owns `fd`. An
 * added region enters the table when the back-end has confirmed it:
 * vublk_inproc_memory_changed(true); false drops the region again. A removed region leaves the
 * table immediately. `slots` is the number of regions that the back-end can have.
 */
int vublk_inproc_memory_add(struct vublk_inproc_memory *memory, unsigned slots, void *address,
			    uint64_t bytes, int fd, uint64_t fd_offset,
			    struct vublk_error *error);
int vublk_inproc_memory_remove(struct vublk_inproc_memory *memory, void *address,
			       struct vublk_error *error);
void vublk_inproc_memory_changed(struct vublk_inproc_memory *memory, bool known);

#endif
