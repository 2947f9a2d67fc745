/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Chooses the blocks that a verifying job writes and reads, and checks their content. This file
 * does no I/O.
 *
 * Key idea: requests in flight may be executed in any order, so no two of them touch the same
 * block. Each block has a generation: the number of times that this run has written it. The
 * generation is part of the block's content, so a later read detects a lost write.
 *
 * A read-only load checks blocks that an earlier run wrote. It does not know their run and
 * generations, so it checks only the offsets and the checksums.
 */
#include "cli/bench/job.h"

#include "cli/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#define IN_FLIGHT (UINT32_C(1) << 31)

int vublk_bench_verify_init(struct vublk_bench_verify *verify, uint64_t num_blocks,
			    struct vublk_error *error)
{
	*verify = (struct vublk_bench_verify){
		.generations = calloc(num_blocks, sizeof(*verify->generations)),
	};
	if (!verify->generations)
		return vublk_cli_error(error, ENOMEM, "cannot allocate memory for the generations "
				       "of %" PRIu64 " blocks; verify a part of the disk with "
				       "--size",
				       num_blocks);
	return 0;
}

void vublk_bench_verify_deinit(struct vublk_bench_verify *verify)
{
	free(verify->generations);
	verify->generations = NULL;
}

static bool pick_write(struct vublk_bench_job *job, struct vublk_bench_slot *slot)
{
	struct vublk_bench_verify *verify = &job->verify;
	uint64_t block = vublk_bench_block_at(job, job->next);
	struct vublk_pattern pattern;

	if (verify->generations[block] & IN_FLIGHT)
		return false;
	slot->direction = VUBLK_BENCH_WRITE;
	slot->block = block;
	pattern = (struct vublk_pattern){
		.run = job->run, .offset = vublk_bench_offset_of(job, slot),
		.generation = ++verify->generations[block],
	};
	vublk_pattern_fill(&pattern, slot->buffer, job->config->block_bytes);
	verify->generations[block] |= IN_FLIGHT;
	verify->written = VUBLK_CLI_MAX(verify->written, job->next + 1);
	job->next = (job->next + 1) % job->num_blocks;
	return true;
}

/*
 * Chooses a block to read among the first `written` blocks of a pass, whose order is always the
 * same. Tries at most depth + 1 blocks. Returns false if requests in flight use all of these; the
 * job then has to wait for a completion.
 */
static bool pick_read(struct vublk_bench_job *job, struct vublk_bench_slot *slot)
{
	struct vublk_bench_verify *verify = &job->verify;

	for (unsigned i = 0; i <= job->config->depth && i < verify->written; i++) {
		uint64_t index = job->config->random ? vublk_random_next(&job->random)
						     : verify->reads++;
		uint64_t block = vublk_bench_block_at(job, index % verify->written);

		if (verify->generations[block] & IN_FLIGHT)
			continue;
		slot->block = block;
		verify->generations[block] |= IN_FLIGHT;
		return true;
	}
	return false;
}

bool vublk_bench_verify_pick(struct vublk_bench_job *job, struct vublk_bench_slot *slot)
{
	if (slot->direction == VUBLK_BENCH_WRITE)
		return pick_write(job, slot);
	if (job->verify.generations)
		return job->verify.written ? pick_read(job, slot) : pick_write(job, slot);
	slot->block = vublk_bench_block_at(job, job->next);
	job->next = (job->next + 1) % job->num_blocks;
	return true;
}

int vublk_bench_verify_complete(struct vublk_bench_job *job, struct vublk_bench_slot *slot,
				struct vublk_error *error)
{
	uint32_t *generations = job->verify.generations;
	struct vublk_pattern pattern = { .offset = vublk_bench_offset_of(job, slot) };

	if (generations) {
		pattern.run = job->run;
		pattern.generation = generations[slot->block] &= ~IN_FLIGHT;
	}
	if (slot->direction != VUBLK_BENCH_READ)
		return 0;
	job->result->verified_blocks++;
	return vublk_pattern_check(&pattern, slot->buffer, job->config->block_bytes, error);
}

bool vublk_bench_verify_pick_back(struct vublk_bench_job *job, struct vublk_bench_slot *slot)
{
	struct vublk_bench_verify *verify = &job->verify;

	while (verify->next < job->num_blocks && !verify->generations[verify->next])
		verify->next++;
	if (verify->next == job->num_blocks)
		return false;
	slot->direction = VUBLK_BENCH_READ;
	slot->block = verify->next++;
	verify->generations[slot->block] |= IN_FLIGHT;
	return true;
}
