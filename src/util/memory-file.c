/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Decides which files may be memory that a peer shares, and maps parts of them.
 *
 * Key idea: memory must lie within its file, because an access past the end would raise SIGBUS
 * later. So the size has to be known. fstat() returns the size of a regular file. sysfs has the
 * size of a DAX device, and the alignment that mappings of the device need.
 */
#include "util/memory-file.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define MAX_ALIGN (UINT64_C(1) << 30) /* the largest huge page */

/* --- DAX devices ----------------------------------------------------------- */

static bool is_of_subsystem_dax(int folder)
{
	char target[256];
	ssize_t n = readlinkat(folder, "subsystem", target, sizeof(target) - 1);

	if (n < 0)
		return false;
	target[n] = '\0';
	return n >= 4 && !strcmp(&target[n - 4], "/dax");
}

/* Reads a decimal number from a file in sysfs. Returns 0 if the file cannot be read. */
static uint64_t read_number(int folder, const char *name)
{
	VUBLK_FD int fd = openat(folder, name, O_RDONLY | O_CLOEXEC);
	char text[32];
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (n < 0)
		return 0;
	text[n] = '\0';
	return strtoull(text, NULL, 10);
}

/* Returns whether the character device is a DAX device. If so, fills in its size and alignment. */
static bool examine_dax(dev_t device, struct vublk_memory_file *file)
{
	VUBLK_FD int folder = -1;
	char path[64];

	snprintf(path, sizeof(path), "/sys/dev/char/%u:%u", major(device), minor(device));
	folder = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (folder < 0 || !is_of_subsystem_dax(folder))
		return false;
	file->size_bytes = read_number(folder, "size");
	file->align = read_number(folder, "align");
	return true;
}

/* --- all files ------------------------------------------------------------- */

static int examine(int fd, struct vublk_memory_file *file, struct vublk_error *error)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	struct stat st;

	if (fstat(fd, &st) < 0)
		return vublk_error_set_errno(error, errno, "cannot read the status of descriptor "
					     "%d", fd);
	*file = (struct vublk_memory_file){
		.size_bytes = (uint64_t)st.st_size,
		.align = (uint64_t)st.st_blksize, /* the file's page size, also for huge pages */
		.device = st.st_dev,
		.inode = st.st_ino,
	};
	if (!S_ISREG(st.st_mode) && !(S_ISCHR(st.st_mode) && examine_dax(st.st_rdev, file)))
		return vublk_error_set(error, EINVAL, "descriptor %d is not a memory file; expected a "
				       "file (memfd, hugetlbfs, tmpfs) or a DAX device", fd);
	if (file->align < page || file->align > MAX_ALIGN || !vublk_is_power_of_two(file->align))
		file->align = page;
	return 0;
}

int vublk_memory_file_check(int fd, uint64_t offset, uint64_t bytes,
			    struct vublk_memory_file *file, struct vublk_error *error)
{
	int r = examine(fd, file, error);

	if (r < 0 || vublk_range_within(offset, bytes, file->size_bytes))
		return r;
	return vublk_error_set(error, EINVAL, "it needs %" PRIu64 " bytes at offset %" PRIu64 " of "
			       "its file, which has only %" PRIu64 " bytes", bytes, offset,
			       file->size_bytes);
}

int vublk_memory_file_map(int fd, const struct vublk_memory_file *file, uint64_t offset,
			  uint64_t bytes, struct vublk_fault *fault, enum vublk_fault_kind kind,
			  struct vublk_memory_part *part, struct vublk_error *error)
{
	uint64_t inside = offset & (file->align - 1);
	uint64_t mapping_bytes = vublk_round_up(inside + bytes, file->align);
	void *mapping = vublk_map_guarded(fd, offset - inside, mapping_bytes, fault, kind, error);

	if (!mapping)
		return -errno;
	*part = (struct vublk_memory_part){ mapping, mapping_bytes, (char *)mapping + inside };
	return 0;
}
