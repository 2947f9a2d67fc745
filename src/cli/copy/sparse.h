/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_COPY_SPARSE_H
#define VUBLK_CLI_COPY_SPARSE_H

#include <vublk/error.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Walks over a file in pieces of data and pieces of hole. */
struct vublk_sparse {
	int fd;              /* borrowed; -1: treat everything as data */
	uint32_t unit_bytes; /* pieces begin and end at multiples of it, or at `end` */
	uint64_t end;
	uint64_t position;   /* the start of the next piece */
	uint64_t known_end;  /* `hole` is valid up to here */
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
 * Returns the next piece, of at most `max_data` bytes (a multiple of the unit) if it is data
 * and `max_hole` if it is a hole. 1: there is one; 0: the end is reached; or a negative errno.
 */
int vublk_sparse_next(struct vublk_sparse *sparse, uint64_t max_data, uint64_t max_hole,
		      struct vublk_extent *extent, struct vublk_error *error);

bool vublk_is_zero(const void *data, size_t bytes);

/*
 * How many bytes at the start of `data` are all zero, or all not, counted in steps of `unit`
 * (the last step may be shorter). `zero` says which of the two.
 */
size_t vublk_zero_run(const void *data, size_t bytes, size_t unit, bool *zero);

#endif
