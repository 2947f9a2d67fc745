/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs all jobs of a bench. This file checks the configuration against the disk, gives each job its
 * part of the region, its queue and its buffers, and switches the phase of all jobs. job.c issues
 * the requests.
 *
 * Key idea: the calling thread does no I/O. It sleeps, watches the time and sets a phase that all
 * jobs read.
 */
#include "cli/bench/bench.h"

#include "cli/bench/job.h"
#include "cli/cli.h"
#include "cli/crew.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define TICK_MS 100
#define PAGE_BYTES 4096

struct run {
	struct vublk_blk *blk;
	const struct vublk_bench_config *config;
	unsigned num_slots; /* of all jobs together */
	struct vublk_bench_job *jobs;
	struct vublk_bench_slot *slots;
	struct vublk_bench_slot **free;
	struct vublk_blk_completion *completions;
	unsigned char *buffers;
	unsigned phase;
};

static bool has_writes(const struct vublk_bench_config *config)
{
	return config->mixed || config->direction == VUBLK_BENCH_WRITE;
}

/* --- checks ----------------------------------------------------------------------- */

/*
 * Returns the size of the region that all jobs use together. The region begins at
 * config->offset_bytes.
 */
static uint64_t region_bytes(const struct vublk_bench_config *config,
			     const struct vublk_blk_info *info)
{
	return config->size_bytes ? config->size_bytes
				  : info->capacity_bytes - config->offset_bytes;
}

static int check_access(const struct vublk_bench_config *config,
			const struct vublk_blk_info *info, struct vublk_error *error)
{
	if ((has_writes(config) || config->direction == VUBLK_BENCH_TRIM) && info->read_only)
		return vublk_cli_error(error, EROFS, "--rw=%s changes the disk's content, but the "
				       "disk is read-only", config->rw);
	if (config->direction == VUBLK_BENCH_TRIM && !info->max_discard_bytes)
		return vublk_cli_error(error, ENOTSUP, "--rw=%s discards, but the disk does not "
				       "support discard", config->rw);
	if (config->direction == VUBLK_BENCH_TRIM && config->verify)
		return vublk_cli_error(error, EINVAL, "--verify does not work with --rw=%s, "
				       "because discarded blocks have no content", config->rw);
	return 0;
}

static int check_region(const struct vublk_bench_config *config,
			const struct vublk_blk_info *info, struct vublk_error *error)
{
	uint64_t bytes;

	if (config->block_bytes % info->block_size_bytes)
		return vublk_cli_error(error, EINVAL, "--bs=%" PRIu32 " is not a multiple of the disk's "
				       "block size of %" PRIu32 " bytes", config->block_bytes,
				       info->block_size_bytes);
	if (config->offset_bytes % info->block_size_bytes)
		return vublk_cli_error(error, EINVAL, "--offset=%" PRIu64 " is not a multiple of "
				       "the disk's block size of %" PRIu32 " bytes",
				       config->offset_bytes, info->block_size_bytes);
	if (config->offset_bytes > info->capacity_bytes ||
	    config->size_bytes > info->capacity_bytes - config->offset_bytes)
		return vublk_cli_error(error, EINVAL, "the end of the part to use, at byte %" PRIu64
				       ", exceeds the disk's capacity of %" PRIu64 " bytes; reduce "
				       "--offset or --size",
				       config->offset_bytes + config->size_bytes,
				       info->capacity_bytes);
	bytes = region_bytes(config, info);
	if (bytes / config->block_bytes < config->num_jobs)
		return vublk_cli_error(error, EINVAL, "%" PRIu64 " bytes are too few for %u job%s "
				       "with blocks of %" PRIu32 " bytes; raise --size, or reduce "
				       "--numjobs or --bs", bytes, config->num_jobs,
				       config->num_jobs == 1 ? "" : "s", config->block_bytes);
	return 0;
}

int vublk_bench_check(const struct vublk_bench_config *config, const struct vublk_blk_info *info,
		      struct vublk_error *error)
{
	int ret;

	if (config->num_jobs > info->num_queues)
		return vublk_cli_error(error, EINVAL, "--numjobs=%u needs one queue per job, but "
				       "the disk has %u queue%s", config->num_jobs,
				       info->num_queues, info->num_queues == 1 ? "" : "s");
	if (config->depth > info->queue_size)
		return vublk_cli_error(error, EINVAL, "--iodepth=%u exceeds the %u entries of a "
				       "queue; raise --queue-size", config->depth,
				       info->queue_size);
	ret = check_access(config, info, error);
	return ret ? ret : check_region(config, info, error);
}

/* --- jobs --------------------------------------------------------------------- */

static uint64_t new_run_id(void)
{
	uint64_t id = 0;

	if (getrandom(&id, sizeof(id), 0) != sizeof(id) || !id)
		id = vublk_cli_now_ns();
	return id;
}

static int init_buffers(struct run *run, struct vublk_error *error)
{
	const struct vublk_bench_config *config = run->config;
	size_t stride = ((size_t)config->block_bytes + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1);
	uint64_t random = config->seed;

	if (config->direction == VUBLK_BENCH_TRIM)
		return 0;
	run->buffers = vublk_blk_alloc(run->blk, run->num_slots * stride, error);
	if (!run->buffers)
		return -ENOMEM;
	for (unsigned i = 0; i < run->num_slots; i++)
		run->slots[i].buffer = run->buffers + i * stride;
	/*
	 * Fills the buffers with random data, because a disk may write zeroes or compressible data
	 * faster than other data.
	 */
	for (size_t i = 0; has_writes(config) && i < run->num_slots * stride / 8; i++)
		((uint64_t *)(void *)run->buffers)[i] = vublk_random_next(&random);
	return 0;
}

static int init_job(struct run *run, unsigned number, uint64_t blocks, uint64_t run_id,
		    struct vublk_error *error)
{
	const struct vublk_bench_config *config = run->config;
	struct vublk_bench_job *job = &run->jobs[number];
	uint64_t share = blocks / config->num_jobs, first_slot = (uint64_t)number * config->depth;

	job->config = config;
	job->queue = vublk_blk_queue(run->blk, number);
	job->phase = &run->phase;
	job->number = number;
	job->watch = number ? NULL : config->watch;
	job->first_block = number * share;
	job->num_blocks = number + 1 == config->num_jobs ? blocks - job->first_block : share;
	job->run = run_id;
	job->slots = run->slots + first_slot;
	job->free = run->free + first_slot;
	job->completions = run->completions + first_slot;
	job->random = vublk_mix(config->seed + number);
	vublk_shuffle_init(&job->shuffle, job->num_blocks, job->random);
	for (; job->num_free < config->depth; job->num_free++)
		job->free[job->num_free] = &job->slots[job->num_free];
	if (!config->verify || !has_writes(config))
		return 0;
	return vublk_bench_verify_init(&job->verify, job->num_blocks, error);
}

static int init_run(struct run *run, const struct vublk_blk_info *info,
		    struct vublk_bench_result *results, struct vublk_error *error)
{
	const struct vublk_bench_config *config = run->config;
	uint64_t blocks = region_bytes(config, info) / config->block_bytes;
	uint64_t run_id = new_run_id();
	int ret;

	run->num_slots = config->num_jobs * config->depth;
	run->jobs = calloc(config->num_jobs, sizeof(*run->jobs));
	run->slots = calloc(run->num_slots, sizeof(*run->slots));
	run->free = calloc(run->num_slots, sizeof(*run->free));
	run->completions = calloc(run->num_slots, sizeof(*run->completions));
	if (!run->jobs || !run->slots || !run->free || !run->completions)
		return vublk_cli_error_errno(error, ENOMEM, "cannot allocate memory for %u jobs",
					     config->num_jobs);
	ret = init_buffers(run, error);
	for (unsigned i = 0; !ret && i < config->num_jobs; i++) {
		ret = init_job(run, i, blocks, run_id, error);
		run->jobs[i].result = &results[i];
	}
	return ret;
}

/* Frees the run. If requests are still in flight, the buffers stay until the disk is closed. */
static void deinit_run(struct run *run)
{
	unsigned in_flight = 0;

	for (unsigned i = 0; run->jobs && i < run->config->num_jobs; i++) {
		if (run->jobs[i].queue)
			in_flight += vublk_blk_in_flight(run->jobs[i].queue);
		vublk_bench_verify_deinit(&run->jobs[i].verify);
	}
	if (run->buffers && !in_flight)
		vublk_blk_release(run->blk, run->buffers, NULL);
	free(run->completions);
	free(run->free);
	free(run->slots);
	free(run->jobs);
}

/* --- phases ----------------------------------------------------------------------- */

/*
 * Changes the shared phase from `from` to `to`. Does nothing if the phase is not `from`, so
 * VUBLK_BENCH_ABORT is final.
 */
static void advance(struct run *run, unsigned from, unsigned to)
{
	__atomic_compare_exchange_n(&run->phase, &from, to, false, __ATOMIC_RELAXED,
				    __ATOMIC_RELAXED);
}

static void abort_run(void *opaque)
{
	struct run *run = opaque;

	__atomic_store_n(&run->phase, VUBLK_BENCH_ABORT, __ATOMIC_RELAXED);
}

static void take_snapshot(const struct run *run, struct vublk_bench_live *live)
{
	live->phase = __atomic_load_n(&run->phase, __ATOMIC_RELAXED) == VUBLK_BENCH_RAMP ? "ramp"
											  : "run";
	for (unsigned i = 0; i < run->config->num_jobs; i++) {
		const struct vublk_bench_job *job = &run->jobs[i];

		if (__atomic_load_n(&job->verifying, __ATOMIC_RELAXED))
			live->phase = "verify";
		for (unsigned d = 0; d < VUBLK_BENCH_NUM_DIRECTIONS; d++) {
			live->requests[d] += __atomic_load_n(&job->live_requests[d],
							     __ATOMIC_RELAXED);
			live->bytes[d] += __atomic_load_n(&job->live_bytes[d], __ATOMIC_RELAXED);
		}
	}
}

static unsigned ms_until(uint64_t deadline_ns, uint64_t now)
{
	uint64_t ms;

	if (deadline_ns <= now)
		return TICK_MS;
	ms = (deadline_ns - now + 999999) / 1000000;
	return (unsigned)VUBLK_CLI_MIN(ms, (uint64_t)TICK_MS);
}

/*
 * Watches the time and switches the phases until all jobs have ended. Each phase is timed from its
 * actual start, even if that was late.
 */
static void watch(struct run *run, struct vublk_crew *crew, vublk_bench_tick_fn *tick,
		  void *opaque)
{
	const struct vublk_bench_config *config = run->config;
	bool ramp = config->ramp_ms > 0;
	uint64_t now = vublk_cli_now_ns(), start = now;
	uint64_t end = start + (ramp ? config->ramp_ms : config->runtime_ms) * 1000000;

	while (!vublk_crew_wait(crew, ms_until(end, now))) {
		struct vublk_bench_live live = { 0 };

		now = vublk_cli_now_ns();
		if (now >= end && ramp) {
			advance(run, VUBLK_BENCH_RAMP, VUBLK_BENCH_RUN);
			ramp = false;
			start = now;
			end = start + config->runtime_ms * 1000000;
		} else if (now >= end && config->runtime_ms) {
			advance(run, VUBLK_BENCH_RUN, VUBLK_BENCH_STOP);
		}
		take_snapshot(run, &live);
		live.elapsed_ns = now - start;
		if (tick && tick(opaque, &live))
			abort_run(run);
	}
}

/* Returns the error of the first job in the list that has one; 0 if no job has failed. */
static int first_error(const struct run *run, struct vublk_error *error)
{
	for (unsigned i = 0; i < run->config->num_jobs; i++) {
		const struct vublk_error *found = &run->jobs[i].error;

		if (!found->code)
			continue;
		return vublk_cli_error(error, found->code, "%s", found->text);
	}
	return 0;
}

int vublk_bench_run(struct vublk_blk *blk, const struct vublk_bench_config *config,
		    vublk_bench_tick_fn *tick, void *opaque, struct vublk_bench_result *results,
		    struct vublk_error *error)
{
	struct run run = { .blk = blk, .config = config };
	struct vublk_blk_info info = { 0 };
	struct vublk_crew crew;
	int ret;

	vublk_blk_get_info(blk, &info, sizeof(info));
	ret = vublk_bench_check(config, &info, error);
	if (ret)
		return ret;
	run.phase = config->ramp_ms ? VUBLK_BENCH_RAMP : VUBLK_BENCH_RUN;
	ret = init_run(&run, &info, results, error);
	if (!ret)
		ret = vublk_crew_start(&crew, config->num_jobs, vublk_bench_job_run, run.jobs,
				       sizeof(*run.jobs), abort_run, &run, error);
	if (!ret) {
		watch(&run, &crew, tick, opaque);
		vublk_crew_finish(&crew);
		ret = first_error(&run, error);
	}
	deinit_run(&run);
	return ret;
}

void vublk_bench_add(struct vublk_bench_result *into, const struct vublk_bench_result *from)
{
	for (unsigned d = 0; d < VUBLK_BENCH_NUM_DIRECTIONS; d++) {
		into->stats[d].requests += from->stats[d].requests;
		into->stats[d].bytes += from->stats[d].bytes;
		vublk_histogram_merge(&into->stats[d].latency_ns, &from->stats[d].latency_ns);
	}
	into->runtime_ns = VUBLK_CLI_MAX(into->runtime_ns, from->runtime_ns);
	into->user_us += from->user_us;
	into->system_us += from->system_us;
	into->context_switches += from->context_switches;
	into->major_faults += from->major_faults;
	into->minor_faults += from->minor_faults;
	into->verified_blocks += from->verified_blocks;
	into->abandoned += from->abandoned;
}
