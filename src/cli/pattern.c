/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Blocks for `bench --verify` and the demo, and random numbers and orders; see pattern.h. This file
 * does no I/O.
 *
 * Key idea: a block is a header (run, offset, generation) followed by words that are computed from
 * the header. The checksum in the header covers the rest of the block. A check makes one pass over
 * a correct block. Only a wrong block is examined more closely, to describe its content.
 */
#include "cli/pattern.h"

#include "cli/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define MAGIC UINT64_C(0x6b6c62752d763176)
#define GOLDEN UINT64_C(0x9e3779b97f4a7c15) /* 2^64 divided by the golden ratio */

struct header {
	uint64_t magic;
	uint64_t run;
	uint64_t offset;
	uint32_t generation;
	uint32_t bytes;
	uint64_t checksum; /* of the fields above and of all words after the header */
};

#define HEADER_WORDS (sizeof(struct header) / 8)

uint64_t vublk_mix(uint64_t value)
{
	value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
	return value ^ (value >> 31);
}

uint64_t vublk_random_next(uint64_t *state)
{
	*state += GOLDEN;
	return vublk_mix(*state);
}

/*
 * Adds a word to the checksum. Each step is reversible, so any single changed word changes the sum.
 */
static uint64_t checksum_add(uint64_t sum, uint64_t word)
{
	sum = (sum ^ word) * UINT64_C(0xff51afd7ed558ccd);
	return sum ^ (sum >> 32);
}

static uint64_t checksum_header(const struct header *header)
{
	uint64_t sum = checksum_add(header->magic, header->run);

	sum = checksum_add(sum, header->offset);
	return checksum_add(sum, (uint64_t)header->generation << 32 | header->bytes);
}

/* Returns word `index` of a block. `seed` is the value of seed_of() for the header of the block. */
static uint64_t word_at(uint64_t seed, size_t index)
{
	return vublk_mix(seed + index * GOLDEN);
}

static uint64_t seed_of(const struct header *header)
{
	return vublk_mix(header->run + vublk_mix(header->offset) + header->generation * GOLDEN);
}

void vublk_pattern_fill(const struct vublk_pattern *pattern, void *block, uint32_t bytes)
{
	struct header header = {
		.magic = MAGIC, .run = pattern->run, .offset = pattern->offset,
		.generation = pattern->generation, .bytes = bytes,
	};
	uint64_t sum = checksum_header(&header), seed = seed_of(&header);
	uint64_t *words = block;

	for (size_t i = HEADER_WORDS; i < bytes / 8; i++) {
		words[i] = word_at(seed, i);
		sum = checksum_add(sum, words[i]);
	}
	header.checksum = sum;
	memcpy(block, &header, sizeof(header));
}

static int fail_foreign(const struct vublk_pattern *pattern, const uint64_t *words,
			uint32_t bytes, struct vublk_error *error)
{
	size_t i;

	for (i = 0; i < bytes / 8 && !words[i]; i++)
		;
	if (i == bytes / 8)
		return vublk_cli_error(error, EILSEQ, "block at offset %" PRIu64 ": expected the "
				       "block that was written there, found only zeroes%s",
				       pattern->offset, pattern->generation ? "" :
				       "; the block is lost, unless the earlier run did not "
				       "write it (only a run of writes without --runtime writes "
				       "every block)");
	return vublk_cli_error(error, EILSEQ, "block at offset %" PRIu64 ": expected a block that "
			       "begins with 0x%016" PRIx64 ", found 0x%016" PRIx64 ", which no run "
			       "with --verify wrote", pattern->offset, MAGIC, words[0]);
}

/*
 * Describes in `error` the first wrong byte of a block whose header is right, but whose checksum is
 * wrong. Returns -EILSEQ.
 */
static int fail_damaged(const struct header *header, const uint64_t *words, uint32_t bytes,
			struct vublk_error *error)
{
	uint64_t seed = seed_of(header), wanted, changed;
	size_t i;

	for (i = HEADER_WORDS; i < bytes / 8; i++)
		if (words[i] != word_at(seed, i))
			break;
	if (i == bytes / 8)
		return vublk_cli_error(error, EILSEQ, "block at offset %" PRIu64 ": the content is "
				       "correct, but the checksum 0x%016" PRIx64 " in the header "
				       "is wrong", header->offset, header->checksum);
	wanted = word_at(seed, i);
	changed = words[i] ^ wanted;
	return vublk_cli_error(error, EILSEQ, "block at offset %" PRIu64 ", generation %" PRIu32 ": "
			       "expected the 64-bit word 0x%016" PRIx64 ", found 0x%016" PRIx64
			       "; the first difference is at byte %zu of the block",
			       header->offset, header->generation, wanted, words[i],
			       i * 8 + (size_t)__builtin_ctzll(changed) / 8);
}

int vublk_pattern_check(const struct vublk_pattern *pattern, const void *block, uint32_t bytes,
			struct vublk_error *error)
{
	const uint64_t *words = block;
	struct header header;
	uint64_t sum;

	memcpy(&header, block, sizeof(header));
	if (header.magic != MAGIC)
		return fail_foreign(pattern, words, bytes, error);
	if (header.offset != pattern->offset)
		return vublk_cli_error(error, EILSEQ, "block at offset %" PRIu64 ": it contains the "
				       "data of the block at offset %" PRIu64
				       " (generation %" PRIu32 ")", pattern->offset, header.offset,
				       header.generation);
	if (header.bytes != bytes)
		return vublk_cli_error(error, EILSEQ, "block at offset %" PRIu64 ": expected a "
				       "block of %" PRIu32 " bytes, found one of %" PRIu32 " bytes; use the --bs "
				       "with which it was written", pattern->offset,
				       bytes, header.bytes);
	if (pattern->run && header.run != pattern->run)
		return vublk_cli_error(error, EILSEQ, "block at offset %" PRIu64 ": expected a "
				       "block of this run (0x%016" PRIx64 "), found a block of "
				       "another run (0x%016" PRIx64 ")",
				       pattern->offset, pattern->run,
				       header.run);
	if (pattern->generation && header.generation != pattern->generation)
		return vublk_cli_error(error, EILSEQ, "block at offset %" PRIu64 ": expected "
				       "generation %" PRIu32 ", found %" PRIu32, pattern->offset,
				       pattern->generation, header.generation);
	sum = checksum_header(&header);
	for (size_t i = HEADER_WORDS; i < bytes / 8; i++)
		sum = checksum_add(sum, words[i]);
	return sum == header.checksum ? 0 : fail_damaged(&header, words, bytes, error);
}

/* --- a random order ----------------------------------------------------------- */

/*
 * The random order comes from a Feistel network, which permutes the numbers of 2 * half_bits bits
 * whatever its round function is. vublk_shuffle_at() passes a result that is not below the count
 * through the network again, so the numbers below the count are permuted, too. A number takes at
 * most four passes on average.
 */
void vublk_shuffle_init(struct vublk_shuffle *shuffle, uint64_t count, uint64_t seed)
{
	unsigned bits = count > 1 ? 64 - (unsigned)__builtin_clzll(count - 1) : 1;

	shuffle->count = count;
	shuffle->seed = vublk_mix(seed ^ GOLDEN);
	shuffle->half_bits = (bits + 1) / 2;
}

uint64_t vublk_shuffle_at(const struct vublk_shuffle *shuffle, uint64_t index)
{
	const uint64_t mask = (UINT64_C(1) << shuffle->half_bits) - 1;
	uint64_t left, right, next;

	do {
		left = index >> shuffle->half_bits;
		right = index & mask;
		for (unsigned round = 0; round < 3; round++) {
			next = left ^ (vublk_mix(shuffle->seed + right * GOLDEN + round) & mask);
			left = right;
			right = next;
		}
		index = left << shuffle->half_bits | right;
	} while (index >= shuffle->count);
	return index;
}
