/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_PATTERN_H
#define VUBLK_CLI_PATTERN_H

#include <vublk/error.h>

#include <stdint.h>

/*
 * Blocks that say where and when they were written, so that whatever a disk
 * returns instead of them can be told: another block, an older one, a torn one,
 * none at all. And the order in which a random job visits its blocks.
 */

#define VUBLK_PATTERN_MIN_BYTES 512

/* What a block should be. */
struct vublk_pattern {
	uint64_t run;        /* of one bench; 0 when checking: any */
	uint64_t offset;     /* in bytes on the disk */
	uint32_t generation; /* of this block, from 1; 0 when checking: any */
};

/* Fills `bytes` (a multiple of 8, at least VUBLK_PATTERN_MIN_BYTES) at `block`. */
void vublk_pattern_fill(const struct vublk_pattern *pattern, void *block, uint32_t bytes);

/*
 * 0, or -EILSEQ and a sentence that names the block, what was expected and what
 * was found.
 */
int vublk_pattern_check(const struct vublk_pattern *pattern, const void *block, uint32_t bytes,
			struct vublk_error *error);

/* A good scrambling of 64 bits; equal for equal input. */
uint64_t vublk_mix(uint64_t value);

/*
 * A random order of the numbers below `count` that needs no memory: each comes
 * exactly once.
 */
struct vublk_shuffle {
	uint64_t count;
	uint64_t seed;
	unsigned half_bits;
};

void vublk_shuffle_init(struct vublk_shuffle *shuffle, uint64_t count, uint64_t seed);
/* The number at `index` (below count) of the order. */
uint64_t vublk_shuffle_at(const struct vublk_shuffle *shuffle, uint64_t index);

#endif
