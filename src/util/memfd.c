/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory that is shared with a peer by descriptor. */
#include "util/memfd.h"

#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <unistd.h>

int vublk_memfd_new(const char *name, uint64_t bytes, struct vublk_error *error)
{
	VUBLK_FD int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return vublk_error_set_errno(error, errno, "cannot create the shared memory '%s'",
					     name);
	if (ftruncate(fd, (off_t)bytes) < 0)
		return vublk_error_set_errno(error, errno,
					     "cannot size the shared memory '%s' to %" PRIu64
					     " bytes", name, bytes);
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) < 0)
		return vublk_error_set_errno(error, errno, "cannot seal the shared memory '%s'",
					     name);
	return vublk_fd_steal(&fd);
}

void *vublk_map_shared(int fd, uint64_t offset, uint64_t bytes, struct vublk_error *error)
{
	void *address = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);

	if (address == MAP_FAILED) {
		vublk_error_set_errno(error, errno,
				      "cannot map %" PRIu64 " bytes at offset %" PRIu64
				      " of shared memory", bytes, offset);
		return NULL;
	}
	return address;
}

void vublk_unmap(void *address, uint64_t bytes)
{
	if (address && bytes)
		munmap(address, bytes);
}
