/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_MEMORY_FILE_H
#define VUBLK_UTIL_MEMORY_FILE_H

#include "util/fault.h"

#include <vublk/error.h>

#include <stdint.h>
#include <sys/types.h>

/*
 * A file that a peer shares as memory. VMMs share memfds and files of tmpfs and hugetlbfs, which
 * are regular files, and DAX devices (/dev/dax0.0), which are character devices. No other kind of
 * file is accepted, because its size is unknown, or because mapping it has side effects.
 */
struct vublk_memory_file {
	uint64_t size_bytes;
	uint64_t align; /* offsets and sizes of mappings are multiples of this */
	dev_t device;   /* device number and inode identify the file */
	ino_t inode;
};

/*
 * Stores in `file` what is known about the file of `fd`, and checks that the file has `bytes` bytes
 * at `offset`. Errors: EINVAL if the file is too short, or is not a memory file, and those of
 * fstat(2). The message calls the memory "it", so the caller must prepend a name.
 */
int vublk_memory_file_check(int fd, uint64_t offset, uint64_t bytes,
			    struct vublk_memory_file *file, struct vublk_error *error);

/*
 * A mapped part of a memory file. `mapping` NULL: the part is not mapped. The owner must unmap
 * `mapping` with vublk_unmap().
 */
struct vublk_memory_part {
	void *mapping;
	uint64_t mapping_bytes;
	char *start; /* the start of the part; the mapping may begin before it */
};

/*
 * Maps a part that vublk_memory_file_check() has accepted. `fault` and `kind` are as for
 * vublk_map_guarded() in util/memfd.h. Returns 0 or a negative errno.
 */
int vublk_memory_file_map(int fd, const struct vublk_memory_file *file, uint64_t offset,
			  uint64_t bytes, struct vublk_fault *fault, enum vublk_fault_kind kind,
			  struct vublk_memory_part *part, struct vublk_error *error);

#endif
