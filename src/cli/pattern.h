/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_PATTERN_H
#define VUBLK_CLI_PATTERN_H

#include <vublk/error.h>

#include <stdint.h>

/*
 * Blocks that contain their own offset and generation, so that a check can identify wrong content:
 * another block, an older generation, a torn block, or other data. This file also declares the
 * generators of random numbers and of random orders of blocks that the loads use.
 */

#define VUBLK_PATTERN_MIN_BYTES 512

/* The expected content of a block. */
struct vublk_pattern {
	uint64_t run;        /* identifies one run of a bench; in a check, 0 stands for any run */
	uint64_t offset;     /* in bytes on the disk */
	uint32_t generation; /* of this block, counted from 1; in a check, 0 stands for any
				generation */
};

/* Fills a block of `bytes` bytes, a multiple of 8 and at least VUBLK_PATTERN_MIN_BYTES. */
void vublk_pattern_fill(const struct vublk_pattern *pattern, void *block, uint32_t bytes);

/*
 * Checks whether the block has the expected content `pattern`. Returns 0, or -EILSEQ with a
 * message about the expected and the actual content.
 */
int vublk_pattern_check(const struct vublk_pattern *pattern, const void *block, uint32_t bytes,
			struct vublk_error *error);

/* Returns a hash of `value`. */
uint64_t vublk_mix(uint64_t value);

/*
 * Advances the generator `state` and returns the next random number, which is good enough to choose
 * blocks, but not for cryptography.
 */
uint64_t vublk_random_next(uint64_t *state);

/* A random permutation of the numbers below `count`, computed instead of stored. */
struct vublk_shuffle {
	uint64_t count;
	uint64_t seed;
	unsigned half_bits;
};

void vublk_shuffle_init(struct vublk_shuffle *shuffle, uint64_t count, uint64_t seed);
/* Returns the number at position `index` of the permutation. `index` must be less than `count`. */
uint64_t vublk_shuffle_at(const struct vublk_shuffle *shuffle, uint64_t index);

#endif
