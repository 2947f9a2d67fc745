/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file handles the memory for requests, which is allocated here or is the application's own.
 * The table of regions belongs to the bus (src/inproc/memory.c).
 *
 * Key idea: the bus treats both kinds alike, as regions. They differ only in the mapping: memory
 * that is allocated here is also mapped and unmapped here.
 */
#include "blk/disk.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/memfd.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static int map_and_register(struct vublk_blk *blk, struct vublk_blk_allocation *allocation,
			    struct vublk_error *error)
{
	VUBLK_FD int fd = vublk_memfd_new("vublk-buffers", allocation->bytes, error);
	int r;

	if (fd < 0)
		return fd;
	allocation->address = vublk_map_shared(fd, 0, allocation->bytes, error);
	if (!allocation->address)
		return -ENOMEM;
	r = vublk_inproc_add_region(blk->inproc, allocation->address, allocation->bytes, fd, 0,
				    error);
	if (r)
		vublk_unmap(allocation->address, allocation->bytes);
	return r;
}

void *vublk_blk_alloc(struct vublk_blk *blk, size_t bytes, struct vublk_error *error)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	struct vublk_blk_allocation *allocation;

	if (!bytes || bytes > SIZE_MAX / 2) {
		vublk_error_set(error, EINVAL, "cannot allocate %zu bytes for buffers", bytes);
		return NULL;
	}
	if (vublk_blk_require_running(blk, error))
		return NULL;
	allocation = calloc(1, sizeof(*allocation));
	if (!allocation) {
		vublk_error_set(error, ENOMEM, "no memory for %zu bytes of buffers", bytes);
		return NULL;
	}
	allocation->bytes = vublk_round_up(bytes, page);
	if (map_and_register(blk, allocation, error)) {
		free(allocation);
		return NULL;
	}
	pthread_mutex_lock(&blk->lock);
	allocation->next = blk->allocations;
	blk->allocations = allocation;
	pthread_mutex_unlock(&blk->lock);
	return allocation->address;
}

static struct vublk_blk_allocation *take_allocation(struct vublk_blk *blk, const void *address)
{
	struct vublk_blk_allocation **link, *allocation;

	pthread_mutex_lock(&blk->lock);
	link = &blk->allocations;
	while (*link && (*link)->address != address)
		link = &(*link)->next;
	allocation = *link;
	if (allocation)
		*link = allocation->next;
	pthread_mutex_unlock(&blk->lock);
	return allocation;
}

/*
 * The back-end removes the region before we unmap it. If the back-end cannot be told, the
 * connection is lost or is about to be lost. The back-end has its own mapping, so ours can be
 * unmapped in any case.
 */
int vublk_blk_release(struct vublk_blk *blk, void *address, struct vublk_error *error)
{
	struct vublk_blk_allocation *allocation;

	if (!address)
		return 0;
	if (vublk_inproc_is_own_thread(blk->inproc))
		return vublk_error_set(error, EBUSY, "a buffer cannot be released from a handler of "
				       "the disk: release it on another thread");
	allocation = take_allocation(blk, address);
	if (!allocation)
		return vublk_error_set(error, EINVAL, "the buffer at %p cannot be released: it is not "
				       "from vublk_blk_alloc() of this disk, or was released before",
				       address);
	vublk_inproc_remove_region(blk->inproc, address, NULL);
	vublk_unmap(allocation->address, allocation->bytes);
	free(allocation);
	return 0;
}

void vublk_blk_free_allocations(struct vublk_blk *blk)
{
	while (blk->allocations) {
		struct vublk_blk_allocation *allocation = blk->allocations;

		blk->allocations = allocation->next;
		vublk_unmap(allocation->address, allocation->bytes);
		free(allocation);
	}
}

int vublk_blk_register(struct vublk_blk *blk, void *address, size_t bytes, int fd,
		       uint64_t fd_offset, struct vublk_error *error)
{
	int r = vublk_blk_require_running(blk, error);

	return r ? r : vublk_inproc_add_region(blk->inproc, address, bytes, fd, fd_offset, error);
}

int vublk_blk_unregister(struct vublk_blk *blk, void *address, struct vublk_error *error)
{
	int r = vublk_blk_require_running(blk, error);

	return r ? r : vublk_inproc_remove_region(blk->inproc, address, error);
}
