/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_COPY_SPARSE_H
#define VUBLK_CLI_COPY_SPARSE_H

#include <vublk/error.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Which parts of a file are data and which are holes, read off piece by piece. */
struct vublk_sparse {
	int fd;              /* borrowed; -1: all is data */
	uint32_t unit_bytes; /* pieces begin and end at multiples of it, or at the end */
	uint64_t end;
	uint64_t position;   /* what was handed out so far */
	uint64_t known_end;  /* up to here `hole` holds */
	bool hole;
};

struct vublk_extent {
	uint64_t offset;
	uint64_t bytes;
	bool hole;
};

/* Walks [0, bytes). `unit_bytes` is a power of two. */
void vublk_sparse_init(struct vublk_sparse *sparse, int fd, uint64_t bytes, uint32_t unit_bytes);

/*
 * The next piece: no longer than `max_data` (a multiple of the unit) when it is
 * data, than `max_hole` when it is a hole. 1: there is one; 0: that was all; or a
 * negative errno.
 */
int vublk_sparse_next(struct vublk_sparse *sparse, uint64_t max_data, uint64_t max_hole,
		      struct vublk_extent *extent, struct vublk_error *error);

bool vublk_is_zero(const void *data, size_t bytes);

/*
 * How many bytes at the beginning of `data` are of one kind, in steps of `unit`
 * (the last one may be shorter): `zero` says of which.
 */
size_t vublk_zero_run(const void *data, size_t bytes, size_t unit, bool *zero);

#endif
