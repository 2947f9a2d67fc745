/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CHAOS_STAMP_H
#define VUBLK_CLI_CHAOS_STAMP_H

#include <stdint.h>

/*
 * The content of a block of a chaos run. Each sector contains its run, block, generation and
 * queue, and a checksum over all its bytes, so that a block of which only some sectors were
 * written is recognized.
 */
#define VUBLK_CHAOS_BLOCK_BYTES 4096
#define VUBLK_CHAOS_SECTOR_BYTES 512
#define VUBLK_CHAOS_SECTORS (VUBLK_CHAOS_BLOCK_BYTES / VUBLK_CHAOS_SECTOR_BYTES)

struct vublk_chaos_stamp {
	uint64_t run;        /* identifies one chaos run; never 0 */
	uint64_t block;      /* counted from the start of the disk */
	uint32_t generation; /* of this block, from 1 */
	uint16_t queue;      /* through which it was written */
	uint16_t sector;     /* within the block */
};

enum vublk_chaos_content {
	VUBLK_CHAOS_STAMPED,  /* a sector of this run */
	VUBLK_CHAOS_ZERO,     /* only zeroes */
	VUBLK_CHAOS_UNREAD,   /* still as vublk_chaos_stamp_clear() left it */
	VUBLK_CHAOS_FOREIGN,  /* a sector of another run */
	VUBLK_CHAOS_GARBAGE,  /* none of these */
};

/* The first function fills sector stamp->sector of a block; the second one fills a whole block. */
void vublk_chaos_stamp_sector(void *sector, const struct vublk_chaos_stamp *stamp);
void vublk_chaos_stamp_fill(void *block, const struct vublk_chaos_stamp *stamp);

/* Marks a buffer as unread before `bytes` (a multiple of 8) are read into it. */
void vublk_chaos_stamp_clear(void *buffer, uint64_t bytes);

/* Recognizes a sector; `stamp` is filled if it has one (STAMPED, FOREIGN). */
enum vublk_chaos_content vublk_chaos_stamp_read(const void *sector, uint64_t run,
						struct vublk_chaos_stamp *stamp);

#endif
