/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guest memory of the in-process bus: which regions of this process the back-end sees, and at
 * which guest addresses. The lookup of buffers is in regions.c.
 *
 * Key idea: the guest addresses are arbitrary. They start at 4 GiB and increase, with a gap after
 * each region, and no two regions ever get the same address. So the back-end does not learn this
 * process's addresses, an access past the end of a region is an error, and a late access to a
 * removed region never reaches another region. The memory of the rings is not in the table in which
 * buffers are looked up, so a request cannot use it as a buffer.
 */
#include "inproc/memory.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define FIRST_ADDR (UINT64_C(4) << 30)
#define LAST_ADDR (UINT64_C(1) << 62)
#define ADDR_UNIT (UINT64_C(2) << 20)
#define GAP_BYTES ADDR_UNIT

void vublk_inproc_memory_init(struct vublk_inproc_memory *memory)
{
	memory->next_addr = FIRST_ADDR;
}

void vublk_inproc_memory_deinit(struct vublk_inproc_memory *memory)
{
	while (memory->num_regions)
		vublk_fd_close(&memory->regions[--memory->num_regions].fd);
	vublk_unmap(memory->rings, memory->rings_bytes);
	memory->rings = NULL;
}

/* Appends a region, and takes ownership of its descriptor. Returns its guest address. */
static uint64_t append(struct vublk_inproc_memory *memory, void *host, uint64_t bytes, int fd,
		       uint64_t fd_offset)
{
	uint64_t addr = memory->next_addr;

	memory->hosts[memory->num_regions] = host;
	memory->regions[memory->num_regions++] = (struct vublk_memory_region){
		.guest_addr = addr, .size_bytes = bytes, .fd = fd, .fd_offset = fd_offset,
	};
	memory->next_addr = vublk_round_up(addr + bytes + GAP_BYTES, ADDR_UNIT);
	return addr;
}

/* Makes a memfd of `bytes` bytes, and maps it. */
static int make_shared(uint64_t bytes, char **mapped, int *out_fd, struct vublk_error *error)
{
	VUBLK_FD int fd = vublk_memfd_new("vublk-rings", bytes, error);

	if (fd < 0)
		return fd;
	*mapped = vublk_map_shared(fd, 0, bytes, error);
	if (!*mapped)
		return -ENOMEM;
	*out_fd = vublk_fd_steal(&fd);
	return 0;
}

int vublk_inproc_memory_make_rings(struct vublk_inproc_memory *memory, uint64_t bytes,
				   struct vublk_error *error)
{
	int fd, r;

	bytes = vublk_round_up(bytes, (uint64_t)sysconf(_SC_PAGESIZE));
	r = make_shared(bytes, &memory->rings, &fd, error);
	if (r)
		return r;
	memory->rings_bytes = bytes;
	memory->rings_addr = append(memory, memory->rings, bytes, fd, 0);
	return 0;
}

int vublk_inproc_memory_renew_rings(struct vublk_inproc_memory *memory, struct vublk_error *error)
{
	char *rings;
	int fd, r;

	r = make_shared(memory->rings_bytes, &rings, &fd, error);
	if (r)
		return r;
	vublk_unmap(memory->rings, memory->rings_bytes);
	memory->rings = rings;
	vublk_fd_close(&memory->regions[0].fd);
	memory->regions[0].fd = fd;
	return 0;
}

void vublk_inproc_memory_clear_rings(struct vublk_inproc_memory *memory)
{
	memset(memory->rings, 0, memory->rings_bytes);
}

static int check_alignment(const void *address, uint64_t bytes, uint64_t fd_offset,
			   struct vublk_error *error)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	if (bytes && !(((uintptr_t)address | bytes | fd_offset) & (page - 1)))
		return 0;
	return vublk_error_set(error, EINVAL,
			       "cannot register %" PRIu64 " bytes at %p from offset %" PRIu64 " of "
			       "their file: expected multiples of the page size (%" PRIu64 " "
			       "bytes) for all three, and at least one page",
			       bytes, address, fd_offset, page);
}

/*
 * Checks that the file is sealed against shrinking, because the back-end gets the descriptor and
 * could truncate the file.
 */
static int check_seal(int fd, const void *address, struct vublk_error *error)
{
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals >= 0 && seals & F_SEAL_SHRINK)
		return 0;
	return vublk_error_set(error, EINVAL,
			       "the back-end could truncate the memory at %p, which would raise "
			       "SIGBUS in this process; use a memfd that is sealed against "
			       "shrinking (fcntl F_ADD_SEALS, F_SEAL_SHRINK)", address);
}

int vublk_inproc_memory_prepare(const void *address, uint64_t bytes, int fd, uint64_t fd_offset,
				int *out_fd, struct vublk_error *error)
{
	int r = check_alignment(address, bytes, fd_offset, error);
	VUBLK_FD int own_fd = -1;

	if (r)
		return r;
	own_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (own_fd < 0)
		return vublk_error_set_errno(error, errno,
					     "cannot duplicate descriptor %d of the memory at %p",
					     fd, address);
	r = check_seal(own_fd, address, error);
	if (!r)
		*out_fd = vublk_fd_steal(&own_fd);
	return r;
}

static int check_room(const struct vublk_inproc_memory *memory, unsigned slots,
		      const void *address, uint64_t bytes, struct vublk_error *error)
{
	unsigned most = VUBLK_MIN(slots, (unsigned)VUBLK_MEMORY_MAX_REGIONS);

	if (bytes > LAST_ADDR - memory->next_addr)
		return vublk_error_set(error, EINVAL, "cannot register %" PRIu64 " bytes: too few "
				       "guest addresses are free", bytes);
	if (vublk_inproc_regions_check(&memory->table, address, bytes) == -EINVAL)
		return vublk_error_set(error, EINVAL, "cannot register %" PRIu64 " bytes at %p: "
				       "they overlap memory that is already registered",
				       bytes, address);
	if (memory->num_regions >= most)
		return vublk_error_set(error, ENOSPC,
				       "cannot register more memory: all %u memory slots of the "
				       "back-end are in use; register fewer, larger pieces", most);
	return 0;
}

int vublk_inproc_memory_add(struct vublk_inproc_memory *memory, unsigned slots, void *address,
			    uint64_t bytes, int fd, uint64_t fd_offset,
			    struct vublk_error *error)
{
	int r = check_room(memory, slots, address, bytes, error);

	if (r)
		return r;
	append(memory, address, bytes, fd, fd_offset);
	memory->adding = true;
	return 0;
}

int vublk_inproc_memory_remove(struct vublk_inproc_memory *memory, void *address,
			       struct vublk_error *error)
{
	unsigned i = 1;

	while (i < memory->num_regions && memory->hosts[i] != address)
		i++;
	if (i >= memory->num_regions)
		return vublk_error_set(error, EINVAL,
				       "no registered memory starts at %p", address);
	vublk_inproc_regions_remove(&memory->table, address);
	vublk_fd_close(&memory->regions[i].fd);
	memory->num_regions--;
	for (; i < memory->num_regions; i++) {
		memory->regions[i] = memory->regions[i + 1];
		memory->hosts[i] = memory->hosts[i + 1];
	}
	return 0;
}

void vublk_inproc_memory_changed(struct vublk_inproc_memory *memory, bool known)
{
	unsigned last = memory->num_regions - 1;

	if (!memory->adding)
		return;
	memory->adding = false;
	if (known) {
		vublk_inproc_regions_insert(&memory->table, memory->hosts[last],
					    memory->regions[last].size_bytes,
					    memory->regions[last].guest_addr);
		return;
	}
	vublk_fd_close(&memory->regions[last].fd);
	memory->num_regions = last;
}
