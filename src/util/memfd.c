/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Creates, maps and reads memory that is shared with a peer by descriptor. */
#include "util/memfd.h"

#include "util/atomic.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define MAX_READS 1000 /* the number of reads after which a changing word is an error */

int vublk_memfd_new(const char *name, uint64_t bytes, struct vublk_error *error)
{
	VUBLK_FD int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return vublk_error_set_errno(error, errno, "cannot create the shared memory '%s'",
					     name);
	if (ftruncate(fd, (off_t)bytes) < 0)
		return vublk_error_set_errno(error, errno,
					     "cannot set the size of the shared memory '%s' to "
					     "%" PRIu64 " bytes", name, bytes);
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return vublk_error_set_errno(error, errno, "cannot seal the shared memory '%s'",
					     name);
	return vublk_fd_steal(&fd);
}

int vublk_memfd_check(int fd, uint64_t bytes, struct vublk_error *error)
{
	int seals = fd < 0 ? -1 : fcntl(fd, F_GET_SEALS);
	struct stat st;

	if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &st) < 0)
		return vublk_error_set(error, EINVAL, "the memory is not a memfd with the seal "
				       "F_SEAL_SHRINK");
	if ((uint64_t)st.st_size != bytes)
		return vublk_error_set(error, EINVAL, "the memory has %" PRIu64 " bytes instead of "
				       "%" PRIu64,
				       (uint64_t)st.st_size, bytes);
	return 0;
}

void *vublk_map_shared(int fd, uint64_t offset, uint64_t bytes, struct vublk_error *error)
{
	void *address = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);

	if (address == MAP_FAILED) {
		int code = errno;

		vublk_error_set_errno(error, code,
				      "cannot map %" PRIu64 " bytes at offset %" PRIu64
				      " of shared memory", bytes, offset);
		errno = code;
		return NULL;
	}
	return address;
}

void *vublk_map_guarded(int fd, uint64_t offset, uint64_t bytes, struct vublk_fault *fault,
			enum vublk_fault_kind kind, struct vublk_error *error)
{
	void *address = vublk_map_shared(fd, offset, bytes, error);

	if (!address || !vublk_fault_guard(address, bytes, fd, fault, kind, error))
		return address;
	vublk_unmap(address, bytes);
	errno = ENOMEM;
	return NULL;
}

/*
 * Reads a word by mapping the whole region, for a file that does not support read(), such as device
 * memory.
 */
static int map_u16(int fd, uint64_t start, uint64_t bytes, uint64_t offset, uint16_t *word,
		   struct vublk_error *error)
{
	struct vublk_fault fault = { .fd = -1 };
	char *address = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, (off_t)start);
	int r;

	if (address == MAP_FAILED)
		return vublk_error_set_errno(error, errno,
					     "cannot read the memory's file with read() or map "
					     "%" PRIu64 " bytes of it at offset %" PRIu64,
					     bytes, start);
	r = vublk_fault_guard(address, bytes, fd, &fault, VUBLK_FAULT_MEMORY, error);
	if (!r)
		*word = vublk_load_acquire((const uint16_t *)(address + offset));
	vublk_unmap(address, bytes);
	if (vublk_fault_happened(&fault))
		return vublk_error_set(error, EIO, "the memory's file has no page at offset "
				       "%" PRIu64 "; its owner may have truncated it",
				       start + offset);
	return r;
}

static ssize_t read_u16(int fd, uint64_t at, uint16_t *word)
{
	ssize_t n;

	do
		n = pread(fd, word, sizeof(*word), (off_t)at);
	while (n < 0 && errno == EINTR);
	return n;
}

/* The kernel may copy byte by byte, so a value counts only if two reads in a row return it. */
int vublk_read_shared_u16(int fd, uint64_t start, uint64_t bytes, uint64_t offset, uint16_t *word,
			  struct vublk_error *error)
{
	uint16_t last, now = 0;
	ssize_t n;

	n = read_u16(fd, start + offset, &now);
	for (unsigned i = 0; i < MAX_READS && n == sizeof(now); i++) {
		last = now;
		n = read_u16(fd, start + offset, &now);
		if (n != sizeof(now) || now != last)
			continue;
		*word = now;
		return 0;
	}
	if (n < 0)
		return map_u16(fd, start, bytes, offset, word, error);
	if (n < (ssize_t)sizeof(now))
		return vublk_error_set(error, EIO, "the memory's file ends before offset "
				       "%" PRIu64 "; its owner may have truncated it",
				       start + offset + 2);
	return vublk_error_set(error, EIO, "the 2 bytes at offset %" PRIu64 " of the memory's file "
			       "kept changing during %d reads", start + offset, MAX_READS);
}

bool vublk_memory_is_blank(const void *bytes, uint64_t count)
{
	const uint64_t *words = bytes;

	for (uint64_t i = 0; i < VUBLK_MIN(count, VUBLK_BLANK_BYTES) / sizeof(*words); i++)
		if (vublk_load_relaxed(&words[i]))
			return false;
	return true;
}

bool vublk_file_is_blank(int fd, uint64_t offset, uint64_t count)
{
	uint64_t piece[512];
	struct statfs fs;

	if (fstatfs(fd, &fs) || (fs.f_type != TMPFS_MAGIC && fs.f_type != HUGETLBFS_MAGIC))
		return false;
	count = VUBLK_MIN(count, VUBLK_BLANK_BYTES);
	for (uint64_t at = 0; at + sizeof(piece) <= count; at += sizeof(piece))
		if (pread(fd, piece, sizeof(piece), (off_t)(offset + at)) != sizeof(piece) ||
		    !vublk_memory_is_blank(piece, sizeof(piece)))
			return false;
	return true;
}

void vublk_unmap(void *address, uint64_t bytes)
{
	if (!address || !bytes)
		return;
	vublk_fault_unguard(address);
	munmap(address, bytes);
}
