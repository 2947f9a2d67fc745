/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_COPY_SPARSE_H
#define VUBLK_CLI_COPY_SPARSE_H

#include <vublk/error.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A walk that divides a file into pieces, each of which is data or a hole. */
struct vublk_sparse {
	int fd;              /* the file, borrowed; -1: everything counts as data */
	uint32_t unit_bytes; /* pieces begin and end at multiples of this number, or at `end` */
	uint64_t end;
	uint64_t position;   /* where the next piece begins */
	uint64_t known_end;  /* `hole` describes the range from `position` up to here */
	bool hole;
};

struct vublk_extent {
	uint64_t offset;
	uint64_t bytes;
	bool hole;
};

/*
 * Begins a walk over the first `bytes` bytes of the file `fd`. `unit_bytes` must be a power of two.
 */
void vublk_sparse_init(struct vublk_sparse *sparse, int fd, uint64_t bytes, uint32_t unit_bytes);

/*
 * Stores the next piece in `extent`: at most `max_data` bytes of data or `max_hole` bytes of a
 * hole; both limits must be multiples of the unit. Returns 1 if there is a piece, 0 at the end of
 * the walk, or a negative errno.
 */
int vublk_sparse_next(struct vublk_sparse *sparse, uint64_t max_data, uint64_t max_hole,
		      struct vublk_extent *extent, struct vublk_error *error);

bool vublk_is_zero(const void *data, size_t bytes);

/*
 * Divides `data` into units of `unit` bytes; the last one may be shorter. If the first unit
 * contains only zeroes, sets `zero` to true and returns the length in bytes of the zero units at
 * the start. Otherwise sets `zero` to false and returns the length in bytes of the data before the
 * first zero unit.
 */
size_t vublk_zero_run(const void *data, size_t bytes, size_t unit, bool *zero);

#endif
