/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CHAOS_STAMP_H
#define VUBLK_CLI_CHAOS_STAMP_H

#include <stdint.h>

/*
 * What a block of a chaos run holds. Each sector says by itself which run, block,
 * generation and queue it is of, and has a checksum over all its bytes, so that a
 * block of which only some sectors were written is told from one that is whole.
 */
#define VUBLK_CHAOS_BLOCK_BYTES 4096
#define VUBLK_CHAOS_SECTOR_BYTES 512
#define VUBLK_CHAOS_SECTORS (VUBLK_CHAOS_BLOCK_BYTES / VUBLK_CHAOS_SECTOR_BYTES)

struct vublk_chaos_stamp {
	uint64_t run;        /* of one chaos run; never 0 */
	uint64_t block;      /* counted from the beginning of the disk */
	uint32_t generation; /* of this block, from 1 */
	uint16_t queue;      /* that it was written through */
	uint16_t sector;     /* of the block */
};

enum vublk_chaos_content {
	VUBLK_CHAOS_STAMPED,  /* of this run */
	VUBLK_CHAOS_ZERO,     /* nothing but zeroes */
	VUBLK_CHAOS_UNREAD,   /* what vublk_chaos_stamp_clear() left there */
	VUBLK_CHAOS_FOREIGN,  /* whole, and of another run */
	VUBLK_CHAOS_GARBAGE,  /* none of these */
};

/* Fills one sector, which is stamp->sector of its block; then the whole block. */
void vublk_chaos_stamp_sector(void *sector, const struct vublk_chaos_stamp *stamp);
void vublk_chaos_stamp_fill(void *block, const struct vublk_chaos_stamp *stamp);

/* What a buffer holds before `bytes` (a multiple of 8) are read into it. */
void vublk_chaos_stamp_clear(void *buffer, uint64_t bytes);

/* What one sector is; `stamp` is filled where it carries one (STAMPED, FOREIGN). */
enum vublk_chaos_content vublk_chaos_stamp_read(const void *sector, uint64_t run,
						struct vublk_chaos_stamp *stamp);

#endif
