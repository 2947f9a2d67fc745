/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_PATTERN_H
#define VUBLK_CLI_PATTERN_H

#include <vublk/error.h>

#include <stdint.h>

/*
 * Blocks that contain their own place and generation, so that a check can name what a disk returned
 * instead: another block, an older one, a torn one, or no block at all. This file also has the
 * random numbers and the random order of blocks that the loads use.
 */

#define VUBLK_PATTERN_MIN_BYTES 512

/* The expected content of a block. */
struct vublk_pattern {
	uint64_t run;        /* identifies one bench; 0 when checking: any */
	uint64_t offset;     /* in bytes on the disk */
	uint32_t generation; /* of this block, from 1; 0 when checking: any */
};

/* Fills `bytes` (a multiple of 8, at least VUBLK_PATTERN_MIN_BYTES) at `block`. */
void vublk_pattern_fill(const struct vublk_pattern *pattern, void *block, uint32_t bytes);

/* 0, or -EILSEQ and a sentence with the block, the expected and the actual content. */
int vublk_pattern_check(const struct vublk_pattern *pattern, const void *block, uint32_t bytes,
			struct vublk_error *error);

/* Mixes 64 bits well; a function of `value` only. */
uint64_t vublk_mix(uint64_t value);

/* The next number of a generator that is good enough to choose blocks with. */
uint64_t vublk_random_next(uint64_t *state);

/* A random order of the numbers below `count` that needs no memory: each occurs once. */
struct vublk_shuffle {
	uint64_t count;
	uint64_t seed;
	unsigned half_bits;
};

void vublk_shuffle_init(struct vublk_shuffle *shuffle, uint64_t count, uint64_t seed);
/* The number at `index` (below count) in the order. */
uint64_t vublk_shuffle_at(const struct vublk_shuffle *shuffle, uint64_t index);

#endif
