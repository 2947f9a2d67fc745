/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CHAOS_STAMP_H
#define VUBLK_CLI_CHAOS_STAMP_H

#include <stdint.h>

/*
 * The content of a block of a chaos run. Each sector contains a stamp (its run, block, generation,
 * queue and place in the block) and a checksum. So a check recognizes a block in which only some
 * sectors were written.
 */
#define VUBLK_CHAOS_BLOCK_BYTES 4096
#define VUBLK_CHAOS_SECTOR_BYTES 512
#define VUBLK_CHAOS_SECTORS (VUBLK_CHAOS_BLOCK_BYTES / VUBLK_CHAOS_SECTOR_BYTES)

struct vublk_chaos_stamp {
	uint64_t run;        /* identifies one chaos run; never 0 */
	uint64_t block;      /* counted from the start of the disk */
	uint32_t generation; /* of this block, counted from 1 */
	uint16_t queue;      /* the queue through which the block was written */
	uint16_t sector;     /* within the block */
};

enum vublk_chaos_content {
	VUBLK_CHAOS_STAMPED,  /* a sector of this run */
	VUBLK_CHAOS_ZERO,     /* only zeroes */
	VUBLK_CHAOS_UNREAD,   /* the mark of vublk_chaos_stamp_clear(), so the read returned no
				 data */
	VUBLK_CHAOS_FOREIGN,  /* a sector of another run */
	VUBLK_CHAOS_GARBAGE,  /* any other content */
};

/*
 * The first function fills `sector`, which is sector number stamp->sector of a block. The second
 * function fills all sectors of a block.
 */
void vublk_chaos_stamp_sector(void *sector, const struct vublk_chaos_stamp *stamp);
void vublk_chaos_stamp_fill(void *block, const struct vublk_chaos_stamp *stamp);

/*
 * Marks the first `bytes` bytes of `buffer`, a multiple of 8, as unread. Must be called before a
 * read into the buffer.
 */
void vublk_chaos_stamp_clear(void *buffer, uint64_t bytes);

/*
 * Returns what the sector contains. `run` is the current run. Fills `stamp` if the result is
 * STAMPED or FOREIGN.
 */
enum vublk_chaos_content vublk_chaos_stamp_read(const void *sector, uint64_t run,
						struct vublk_chaos_stamp *stamp);

#endif
