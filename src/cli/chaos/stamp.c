/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fills and recognizes the blocks of a chaos run; see stamp.h.
 *
 * Key idea: a sector is a header followed by words that are computed from the header's stamp. The
 * checksum in the header covers the stamp and the words.
 */
#include "cli/chaos/stamp.h"

#include "cli/pattern.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#define MAGIC UINT64_C(0x736f6168636b6276)
#define GOLDEN UINT64_C(0x9e3779b97f4a7c15)
#define UNREAD UINT64_C(0xa5a5a5a5a5a5a5a5)
#define SECTOR_WORDS (VUBLK_CHAOS_SECTOR_BYTES / 8)

/* The format of a sector on the disk. */
struct sector {
	uint64_t magic;
	uint64_t checksum; /* of everything after it */
	struct vublk_chaos_stamp stamp;
	uint64_t words[SECTOR_WORDS - 2 - sizeof(struct vublk_chaos_stamp) / 8];
};

_Static_assert(sizeof(struct sector) == VUBLK_CHAOS_SECTOR_BYTES, "a sector has no padding");

/* Computes the checksum. Each step is reversible, so any single changed word changes the sum. */
static uint64_t checksum(const struct sector *sector)
{
	uint64_t sum = MAGIC, words[SECTOR_WORDS];

	memcpy(words, sector, sizeof(words));
	for (size_t i = offsetof(struct sector, stamp) / 8; i < SECTOR_WORDS; i++) {
		sum = (sum ^ words[i]) * UINT64_C(0xff51afd7ed558ccd);
		sum ^= sum >> 32;
	}
	return sum;
}

void vublk_chaos_stamp_sector(void *memory, const struct vublk_chaos_stamp *stamp)
{
	struct sector sector = { .magic = MAGIC, .stamp = *stamp };
	uint64_t seed = vublk_mix(stamp->run + vublk_mix(stamp->block) +
				  (stamp->generation * GOLDEN ^ stamp->sector));

	for (size_t i = 0; i < sizeof(sector.words) / 8; i++)
		sector.words[i] = seed += GOLDEN;
	sector.checksum = checksum(&sector);
	memcpy(memory, &sector, sizeof(sector));
}

void vublk_chaos_stamp_fill(void *block, const struct vublk_chaos_stamp *stamp)
{
	struct vublk_chaos_stamp one = *stamp;

	for (one.sector = 0; one.sector < VUBLK_CHAOS_SECTORS; one.sector++)
		vublk_chaos_stamp_sector((char *)block + one.sector * VUBLK_CHAOS_SECTOR_BYTES,
					 &one);
}

void vublk_chaos_stamp_clear(void *buffer, uint64_t bytes)
{
	memset(buffer, (int)(UNREAD & 0xff), bytes);
}

static bool is_all(const struct sector *sector, uint64_t value)
{
	uint64_t words[SECTOR_WORDS];

	memcpy(words, sector, sizeof(words));
	for (size_t i = 0; i < SECTOR_WORDS; i++)
		if (words[i] != value)
			return false;
	return true;
}

enum vublk_chaos_content vublk_chaos_stamp_read(const void *memory, uint64_t run,
						struct vublk_chaos_stamp *stamp)
{
	struct sector sector;

	memcpy(&sector, memory, sizeof(sector));
	if (sector.magic == MAGIC && sector.checksum == checksum(&sector)) {
		*stamp = sector.stamp;
		return stamp->run == run ? VUBLK_CHAOS_STAMPED : VUBLK_CHAOS_FOREIGN;
	}
	if (is_all(&sector, 0))
		return VUBLK_CHAOS_ZERO;
	return is_all(&sector, UNREAD) ? VUBLK_CHAOS_UNREAD : VUBLK_CHAOS_GARBAGE;
}
