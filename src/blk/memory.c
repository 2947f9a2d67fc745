/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The memory for the buffers of requests, which is either allocated here or owned by the
 * application. The table of regions belongs to the bus (src/inproc/memory.c).
 *
 * Key idea: the bus treats both kinds as regions. They differ only in the mapping: memory that is
 * allocated here is also mapped and unmapped here. Each call prepares a change (change.c). A call
 * that waits has its change on the stack, so vublk_blk_release() needs no memory and no descriptor,
 * and cannot fail for lack of them.
 */
#include "blk/change.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/memfd.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* --- how the changes begin ------------------------------------------------------------- */

static int map_allocation(struct vublk_blk_allocation *allocation, int *out_fd,
			  struct vublk_error *error)
{
	VUBLK_FD int fd = vublk_memfd_new("vublk-buffers", allocation->bytes, error);

	if (fd < 0)
		return fd;
	allocation->address = vublk_map_shared(fd, 0, allocation->bytes, error);
	if (!allocation->address)
		return -ENOMEM;
	*out_fd = vublk_fd_steal(&fd);
	return 0;
}

static int make_allocation(size_t bytes, struct vublk_blk_allocation **out, int *fd,
			   struct vublk_error *error)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	struct vublk_blk_allocation *allocation = calloc(1, sizeof(*allocation));
	int r;

	if (!allocation)
		return vublk_error_set(error, ENOMEM, "cannot allocate memory for %zu bytes of "
				       "buffers", bytes);
	allocation->bytes = vublk_round_up(bytes, page);
	r = map_allocation(allocation, fd, error);
	if (r)
		free(allocation);
	else
		*out = allocation;
	return r;
}

static int begin_alloc(struct vublk_blk *blk, struct vublk_blk_change *change, size_t bytes,
		       struct vublk_error *error)
{
	struct vublk_blk_allocation *allocation = NULL;
	VUBLK_FD int fd = -1;
	int r = make_allocation(bytes, &allocation, &fd, error);

	if (r)
		return r;
	r = vublk_inproc_region_init(&change->region, allocation->address, allocation->bytes, fd,
				     0, error);
	vublk_blk_change_init(change, blk, VUBLK_BLK_CHANGE_ALLOC, allocation);
	if (!r)
		vublk_blk_change_begin(change);
	return r;
}

static int begin_register(struct vublk_blk *blk, struct vublk_blk_change *change, void *address,
			  size_t bytes, int fd, uint64_t fd_offset, struct vublk_error *error)
{
	int r = vublk_inproc_region_init(&change->region, address, bytes, fd, fd_offset, error);

	vublk_blk_change_init(change, blk, VUBLK_BLK_CHANGE_REGISTER, NULL);
	if (!r)
		vublk_blk_change_begin(change);
	return r;
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
 * Begins to release memory. The back-end removes the region before this process unmaps the memory.
 * If the bus cannot tell the back-end, the connection is lost or is about to be lost. Even then the
 * memory is unmapped, because the back-end does not depend on the mapping in this process.
 */
static int begin_release(struct vublk_blk *blk, struct vublk_blk_change *change, void *address,
			 struct vublk_error *error)
{
	struct vublk_blk_allocation *allocation = take_allocation(blk, address);

	if (!allocation)
		return vublk_error_set(error, EINVAL, "cannot release the buffer at %p: it is not "
				       "from vublk_blk_alloc() of this disk, or has already been "
				       "released",
				       address);
	vublk_blk_change_init(change, blk, VUBLK_BLK_CHANGE_RELEASE, allocation);
	vublk_blk_change_begin(change);
	return 0;
}

static void begin_unregister(struct vublk_blk *blk, struct vublk_blk_change *change, void *address)
{
	vublk_blk_change_init(change, blk, VUBLK_BLK_CHANGE_UNREGISTER, NULL);
	change->region.address = address;
	vublk_blk_change_begin(change);
}

/* --- calls that do not wait -------------------------------------------------------------- */

static int check_bytes(size_t bytes, struct vublk_error *error)
{
	if (bytes && bytes <= SIZE_MAX / 2)
		return 0;
	return vublk_error_set(error, EINVAL, "cannot allocate %zu bytes for buffers; expected 1 "
			       "to %zu bytes", bytes, SIZE_MAX / 2);
}

static int new_change(struct vublk_blk *blk, struct vublk_blk_change **change,
		      struct vublk_error *error)
{
	int r = vublk_blk_require_running(blk, error);

	*change = NULL;
	return r ? r : vublk_blk_change_new(blk, change, error);
}

/*
 * Returns `r`, the result of the function that began the change. If it is an error, frees the
 * change and stores NULL in `change`.
 */
static int return_begun(int r, struct vublk_blk_change **change)
{
	if (!r)
		return 0;
	vublk_blk_change_free(*change);
	*change = NULL;
	return r;
}

int vublk_blk_alloc_start(struct vublk_blk *blk, size_t bytes, struct vublk_blk_change **change,
			  struct vublk_error *error)
{
	int r = check_bytes(bytes, error);

	*change = NULL;
	if (!r)
		r = new_change(blk, change, error);
	return r ? r : return_begun(begin_alloc(blk, *change, bytes, error), change);
}

int vublk_blk_release_start(struct vublk_blk *blk, void *address, struct vublk_blk_change **change,
			    struct vublk_error *error)
{
	int r = new_change(blk, change, error);

	return r ? r : return_begun(begin_release(blk, *change, address, error), change);
}

int vublk_blk_register_start(struct vublk_blk *blk, void *address, size_t bytes, int fd,
			     uint64_t fd_offset, struct vublk_blk_change **change,
			     struct vublk_error *error)
{
	int r = new_change(blk, change, error);

	if (r)
		return r;
	return return_begun(begin_register(blk, *change, address, bytes, fd, fd_offset, error),
			    change);
}

int vublk_blk_unregister_start(struct vublk_blk *blk, void *address,
			       struct vublk_blk_change **change, struct vublk_error *error)
{
	int r = new_change(blk, change, error);

	if (!r)
		begin_unregister(blk, *change, address);
	return r;
}

/* --- calls that wait ------------------------------------------------------------------------ */

#define WAITING_CHANGE { .region = { .fd = -1 }, .fd = -1 }

/* Checks that the disk is open and that the caller is not on the disk's own thread. */
static int check_wait(const struct vublk_blk *blk, struct vublk_error *error)
{
	int r = vublk_blk_require_running(blk, error);

	return r ? r : vublk_inproc_check_wait(blk->inproc, error);
}

static int end(struct vublk_blk_change *change, int begun, struct vublk_error *error)
{
	int r = begun ? begun : vublk_blk_change_wait(change, error);

	vublk_blk_change_deinit(change);
	return r;
}

void *vublk_blk_alloc(struct vublk_blk *blk, size_t bytes, struct vublk_error *error)
{
	struct vublk_blk_change change = WAITING_CHANGE;
	int r = check_bytes(bytes, error);

	if (!r)
		r = check_wait(blk, error);
	if (!r)
		r = end(&change, begin_alloc(blk, &change, bytes, error), error);
	return r ? NULL : change.region.address;
}

int vublk_blk_release(struct vublk_blk *blk, void *address, struct vublk_error *error)
{
	struct vublk_blk_change change = WAITING_CHANGE;

	if (!address)
		return 0;
	if (vublk_inproc_is_own_thread(blk->inproc))
		return vublk_error_set(error, EBUSY, "a buffer cannot be released from a handler "
				       "of the disk; release it from another thread");
	return end(&change, begin_release(blk, &change, address, error), error);
}

int vublk_blk_register(struct vublk_blk *blk, void *address, size_t bytes, int fd,
		       uint64_t fd_offset, struct vublk_error *error)
{
	struct vublk_blk_change change = WAITING_CHANGE;
	int r = check_wait(blk, error);

	if (r)
		return r;
	return end(&change, begin_register(blk, &change, address, bytes, fd, fd_offset, error),
		   error);
}

int vublk_blk_unregister(struct vublk_blk *blk, void *address, struct vublk_error *error)
{
	struct vublk_blk_change change = WAITING_CHANGE;
	int r = check_wait(blk, error);

	if (r)
		return r;
	begin_unregister(blk, &change, address);
	return end(&change, 0, error);
}

void vublk_blk_free_allocations(struct vublk_blk *blk)
{
	while (blk->allocations) {
		struct vublk_blk_allocation *allocation = blk->allocations;

		blk->allocations = allocation->next;
		vublk_blk_free_allocation(allocation);
	}
}
