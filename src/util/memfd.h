/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_MEMFD_H
#define VUBLK_UTIL_MEMFD_H

#include <vublk/error.h>

#include <stdint.h>

/*
 * A zeroed anonymous file of `bytes` bytes, CLOEXEC and sealed against
 * shrinking, so that a peer who holds it cannot take pages from under a mapping.
 * Returns the descriptor (the caller's) or a negative errno.
 */
int vublk_memfd_new(const char *name, uint64_t bytes, struct vublk_error *error);

/* Maps a whole shared file read-write; NULL on failure. Undone by vublk_unmap(). */
void *vublk_map_shared(int fd, uint64_t offset, uint64_t bytes, struct vublk_error *error);

/* NULL and 0 bytes are nothing. */
void vublk_unmap(void *address, uint64_t bytes);

#endif
