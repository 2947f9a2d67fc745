/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_INPROC_MEMORY_H
#define VUBLK_INPROC_MEMORY_H

#include "inproc/regions.h"

#include <vublk/error.h>
#include <vublk/memory.h>

#include <stdbool.h>
#include <stdint.h>

/*
 * All memory that the in-process bus shows to a back-end: the rings' own, and
 * what the application added. Belongs to the bus's thread; only the table is read
 * by others.
 */
struct vublk_inproc_memory {
	char *rings; /* one shared memory for all queues; NULL: not made yet */
	uint64_t rings_bytes;
	uint64_t rings_addr;

	struct vublk_memory_region regions[VUBLK_MEMORY_MAX_REGIONS]; /* [0]: the rings */
	void *hosts[VUBLK_MEMORY_MAX_REGIONS];
	unsigned num_regions;
	bool adding; /* the last region waits for the back-end to know it */
	uint64_t next_addr;

	struct vublk_inproc_regions table;
};

void vublk_inproc_memory_init(struct vublk_inproc_memory *memory);
void vublk_inproc_memory_deinit(struct vublk_inproc_memory *memory);

int vublk_inproc_memory_make_rings(struct vublk_inproc_memory *memory, uint64_t bytes,
				   struct vublk_error *error);
/*
 * Other memory in its place, zeroed, at the same guest address: who has the old one sees
 * nothing of it. ENOMEM, EMFILE: the old one stays.
 */
int vublk_inproc_memory_renew_rings(struct vublk_inproc_memory *memory,
				    struct vublk_error *error);

/*
 * Adds or removes one region of the set. The queues see an added one only after
 * vublk_inproc_memory_changed(true): the back-end knows it then; false drops it
 * again. A removed one is out of the queues' sight at once. `slots` is how many
 * regions the back-end can have.
 */
int vublk_inproc_memory_add(struct vublk_inproc_memory *memory, unsigned slots, void *address,
			    uint64_t bytes, int fd, uint64_t fd_offset,
			    struct vublk_error *error);
int vublk_inproc_memory_remove(struct vublk_inproc_memory *memory, void *address,
			       struct vublk_error *error);
void vublk_inproc_memory_changed(struct vublk_inproc_memory *memory, bool known);

#endif
