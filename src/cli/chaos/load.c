/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs all jobs of a chaos run. This file checks the disk, gives each job its part of the disk, and
 * starts and joins the jobs. job.c issues the requests.
 */
#include "cli/chaos/load.h"

#include "cli/cli.h"
#include "cli/pattern.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#define DEFAULT_BYTES (UINT64_C(64) << 20)
#define MIN_BLOCKS 64 /* the smallest part of the disk that a job can use; more than its hot
			 blocks */
#define SLOT_BYTES (VUBLK_CHAOS_MAX_BLOCKS * VUBLK_CHAOS_BLOCK_BYTES)

/* --- the disk ----------------------------------------------------------------- */

static uint64_t blocks_of(const struct vublk_chaos_config *config,
			  const struct vublk_blk_info *info)
{
	uint64_t bytes = config->size_bytes ? config->size_bytes
					    : VUBLK_CLI_MIN(info->capacity_bytes, DEFAULT_BYTES);

	return bytes / VUBLK_CHAOS_BLOCK_BYTES;
}

static int check_disk(const struct vublk_chaos_config *config, const struct vublk_blk_info *info,
		      struct vublk_error *error)
{
	if (info->read_only)
		return vublk_cli_error(error, EROFS, "the disk is read-only, but the load has to "
				       "write to it");
	if (VUBLK_CHAOS_BLOCK_BYTES % info->block_size_bytes)
		return vublk_cli_error(error, EINVAL, "the disk has blocks of %" PRIu32 " bytes, but the "
				       "load supports blocks of at most %d bytes",
				       info->block_size_bytes, VUBLK_CHAOS_BLOCK_BYTES);
	if (config->num_queues > info->num_queues)
		return vublk_cli_error(error, EINVAL, "--queues=%u exceeds the queues of the disk, "
				       "which has %u queue%s", config->num_queues, info->num_queues,
				       info->num_queues == 1 ? "" : "s");
	if (config->depth > info->queue_size)
		return vublk_cli_error(error, EINVAL, "--iodepth=%u exceeds the %u entries of a "
				       "queue; raise --queue-size", config->depth,
				       info->queue_size);
	if (config->size_bytes > info->capacity_bytes)
		return vublk_cli_error(error, EINVAL, "--size=%" PRIu64 " exceeds the %" PRIu64
				       " bytes of the disk", config->size_bytes,
				       info->capacity_bytes);
	if (blocks_of(config, info) / config->num_queues < MIN_BLOCKS)
		return vublk_cli_error(error, EINVAL, "%" PRIu64 " bytes are too few for %u "
				       "queue%s; each needs %d bytes", blocks_of(config, info) *
				       VUBLK_CHAOS_BLOCK_BYTES, config->num_queues,
				       config->num_queues == 1 ? "" : "s",
				       MIN_BLOCKS * VUBLK_CHAOS_BLOCK_BYTES);
	return 0;
}

/* --- jobs --------------------------------------------------------------------- */

static uint64_t new_run_id(void)
{
	uint64_t id = 0;

	if (getrandom(&id, sizeof(id), 0) != sizeof(id) || !id)
		id = vublk_cli_now_ns();
	return id;
}

static int init_job(struct vublk_chaos_load *load, unsigned number, uint64_t run,
		    struct vublk_error *error)
{
	const struct vublk_chaos_config *config = load->config;
	uint64_t share = blocks_of(config, &load->info) / config->num_queues;
	struct vublk_chaos_job *job = &load->jobs[number];
	int ret;

	job->load = load;
	job->queue = vublk_blk_queue(load->blk, number);
	job->number = number;
	job->random = vublk_mix(config->seed + number);
	job->slots = calloc(config->depth, sizeof(*job->slots));
	job->free = calloc(config->depth, sizeof(struct vublk_chaos_slot *));
	job->completions = calloc(config->depth, sizeof(*job->completions));
	if (!job->slots || !job->free || !job->completions)
		return vublk_cli_error_errno(error, ENOMEM, "cannot allocate memory for queue %u",
					     number);
	for (unsigned i = 0; i < config->depth; i++) {
		job->slots[i].buffer = load->buffers +
				       ((size_t)number * config->depth + i) * SLOT_BYTES;
		job->free[job->num_free++] = &job->slots[i];
	}
	ret = vublk_chaos_verify_init(&job->verifier, run, (uint16_t)number, number * share, share,
				      error);
	job->verifier.is_volatile = config->is_volatile;
	return ret;
}

int vublk_chaos_load_init(struct vublk_chaos_load *load, const struct vublk_chaos_config *config,
			  struct vublk_blk *blk, struct vublk_error *error)
{
	uint64_t run = new_run_id();
	int ret;

	*load = (struct vublk_chaos_load){
		.config = config, .blk = blk, .done_fd = -1, .begun_fd = -1,
		.beginning = config->num_queues,
	};
	vublk_blk_get_info(blk, &load->info, sizeof(load->info));
	ret = check_disk(config, &load->info, error);
	if (ret)
		return ret;
	load->jobs = calloc(config->num_queues, sizeof(*load->jobs));
	load->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	load->begun_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!load->jobs || load->done_fd < 0 || load->begun_fd < 0)
		return vublk_cli_error_errno(error, errno, "cannot allocate memory for %u queues",
					     config->num_queues);
	load->buffers = vublk_blk_alloc(blk, (size_t)config->num_queues * config->depth * SLOT_BYTES,
					error);
	if (!load->buffers)
		return -ENOMEM;
	for (unsigned i = 0; !ret && i < config->num_queues; i++)
		ret = init_job(load, i, run, error);
	return ret;
}

/* Frees the jobs, but not their buffers, which belong to the disk and are freed with it. */
void vublk_chaos_load_deinit(struct vublk_chaos_load *load)
{
	for (unsigned i = 0; load->jobs && i < load->config->num_queues; i++) {
		vublk_chaos_verify_deinit(&load->jobs[i].verifier);
		free(load->jobs[i].completions);
		free(load->jobs[i].free);
		free(load->jobs[i].slots);
	}
	free(load->jobs);
	load->jobs = NULL;
	if (load->done_fd >= 0)
		close(load->done_fd);
	if (load->begun_fd >= 0)
		close(load->begun_fd);
	load->done_fd = load->begun_fd = -1;
}

/* --- all jobs ----------------------------------------------------------------- */

static void abort_load(void *opaque)
{
	vublk_chaos_load_advance(opaque, VUBLK_CHAOS_ABORT);
}

int vublk_chaos_load_start(struct vublk_chaos_load *load, enum vublk_chaos_phase phase,
			   struct vublk_error *error)
{
	unsigned count = load->config->num_queues;

	__atomic_store_n(&load->phase, phase, __ATOMIC_RELAXED);
	__atomic_store_n(&load->working, count, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < count; i++)
		load->jobs[i].only_read_back = phase != VUBLK_CHAOS_RUN;
	return vublk_crew_start(&load->crew, count, vublk_chaos_job_run, load->jobs,
				sizeof(*load->jobs), abort_load, load, error);
}

int vublk_chaos_load_join(struct vublk_chaos_load *load, struct vublk_error *error)
{
	eventfd_t count;

	vublk_crew_finish(&load->crew);
	eventfd_read(load->done_fd, &count);
	for (unsigned i = 0; i < load->config->num_queues; i++) {
		const struct vublk_error *found = &load->jobs[i].error;

		if (found->code)
			return vublk_cli_error(error, found->code, "%s", found->text);
	}
	return 0;
}

unsigned vublk_chaos_load_in_flight(const struct vublk_chaos_load *load)
{
	unsigned sum = 0;

	for (unsigned i = 0; i < load->config->num_queues; i++)
		sum += __atomic_load_n(&load->jobs[i].in_flight, __ATOMIC_RELAXED);
	return sum;
}

/* --- results ------------------------------------------------------------------ */

static void count_job(const struct vublk_chaos_job *job, struct vublk_chaos_counts *counts)
{
	const struct vublk_chaos_verifier *verifier = &job->verifier;

	for (unsigned op = 0; op < VUBLK_CHAOS_NUM_OPS; op++)
		counts->requests[op] += job->requests[op];
	for (unsigned f = 0; f < VUBLK_CHAOS_NUM_FAULTS; f++)
		counts->faults[f] += verifier->faults[f];
	for (unsigned i = 0; i < verifier->num_sentences; i++)
		if (counts->num_sentences < VUBLK_CHAOS_MAX_SENTENCES)
			strcpy(counts->sentences[counts->num_sentences++],
			       verifier->sentences[i]);
	counts->verified_blocks += verifier->verified;
	counts->forgotten_blocks += verifier->forgotten;
	counts->overlapping += verifier->overlapping;
	counts->stuck += job->stuck;
}

void vublk_chaos_load_counts(const struct vublk_chaos_load *load,
			     struct vublk_chaos_counts *counts)
{
	*counts = (struct vublk_chaos_counts){ 0 };
	for (unsigned i = 0; load->jobs && i < load->config->num_queues; i++)
		count_job(&load->jobs[i], counts);
}
