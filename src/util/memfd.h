/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_MEMFD_H
#define VUBLK_UTIL_MEMFD_H

#include "util/fault.h"

#include <vublk/error.h>

#include <stdbool.h>
#include <stdint.h>

/*
 * Creates a zeroed anonymous file of `bytes` bytes, CLOEXEC. The size of the file is sealed, so
 * that a peer that holds the file cannot remove pages of a mapping by truncating the file. The set
 * of seals is sealed as well, because a peer that could add F_SEAL_FUTURE_WRITE could keep every
 * later peer from mapping the file. Returns the descriptor, which the caller owns, or a negative
 * errno.
 */
int vublk_memfd_new(const char *name, uint64_t bytes, struct vublk_error *error);

/*
 * Checks that `fd`, which another process has sent, is a memfd of `bytes` bytes that cannot be
 * truncated, like those of vublk_memfd_new(). Error: EINVAL.
 */
int vublk_memfd_check(int fd, uint64_t bytes, struct vublk_error *error);

/*
 * Maps part of a shared file for reading and writing. On failure returns NULL and sets errno. The
 * caller must unmap the part with vublk_unmap().
 */
void *vublk_map_shared(int fd, uint64_t offset, uint64_t bytes, struct vublk_error *error);

/*
 * Like vublk_map_shared(), but for a file that a peer also holds. The mapping survives if the peer
 * removes its pages; `fault` (util/fault.h) then records `kind`.
 */
void *vublk_map_guarded(int fd, uint64_t offset, uint64_t bytes, struct vublk_fault *fault,
			enum vublk_fault_kind kind, struct vublk_error *error);

/*
 * Reads the aligned 16-bit word at `offset` of a region, which has `bytes` bytes and begins at
 * offset `start` of the file. Peers may write the word at the same time; the result is never half
 * of one value and half of another. The region is mapped only if read() fails, because a peer may
 * have sealed the file against mapping, and huge pages cannot be mapped in part. -EIO: the file
 * ends before the word, or the word keeps changing.
 */
int vublk_read_shared_u16(int fd, uint64_t start, uint64_t bytes, uint64_t offset, uint16_t *word,
			  struct vublk_error *error);

#define VUBLK_BLANK_BYTES (UINT64_C(1) << 20) /* the most that the is_blank() functions check */

/*
 * These functions return whether the first `count` bytes, but at most the first MiB, are all zeros.
 * When a VM runs, the start of its memory does not stay all zeros, unless the VM uses a private
 * copy of that memory. The second function reads a file on tmpfs or hugetlbfs, and returns false
 * for any other file.
 */
bool vublk_memory_is_blank(const void *bytes, uint64_t count);
bool vublk_file_is_blank(int fd, uint64_t offset, uint64_t count);

/* Unmaps memory from either map function. A no-op for NULL or 0 bytes. */
void vublk_unmap(void *address, uint64_t bytes);

#endif
