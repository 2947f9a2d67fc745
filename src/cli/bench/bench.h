/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_BENCH_BENCH_H
#define VUBLK_CLI_BENCH_BENCH_H

/*
 * A measured load on a disk. `vublk bench` and the demo use it.
 *
 *   bench.c   the command: options and their defaults
 *   run.c     all jobs together: checks, buffers, threads, phases
 *   job.c     one job: the data path
 *   pacer.c   when the requests of a job with a rate are due
 *   verify.c  which blocks a verifying job writes and reads, and their content
 *   report.c  the result as text and as JSON
 */

#include "cli/disk-watch.h"
#include "cli/histogram.h"

#include <vublk/blk.h>

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum vublk_bench_direction {
	VUBLK_BENCH_READ,
	VUBLK_BENCH_WRITE,
	VUBLK_BENCH_TRIM,
	VUBLK_BENCH_SYNC,      /* flushes; only those that --fsync causes are counted */
	VUBLK_BENCH_NUM_DIRECTIONS,
};

/* Returns the name of a direction: "read", "write", "trim" or "sync". */
const char *vublk_bench_direction_name(enum vublk_bench_direction direction);

/* The configuration of a run. */
struct vublk_bench_config {
	const char *rw;           /* the value of --rw, for the report */
	enum vublk_bench_direction direction; /* of all requests, unless the load is mixed */
	bool mixed;
	bool random;
	unsigned read_percent;    /* the share of reads in a mixed load, in percent */
	uint32_t block_bytes;
	uint64_t offset_bytes;    /* start of the region that the load uses */
	uint64_t size_bytes;      /* the size of the region; 0: up to the end of the disk */
	unsigned depth;
	unsigned num_jobs;
	uint64_t runtime_ms;      /* 0: no limit */
	uint64_t ramp_ms;
	bool time_based;          /* the run continues after it has visited every block */
	uint64_t number_ios;      /* per job; 0: no limit */
	uint64_t rate_iops;       /* requests per second and job; 0: no limit */
	unsigned fsync_every;     /* a flush is started after this many writes; 0: no flushes */
	bool poll;
	bool verify;
	uint64_t seed;
	struct vublk_disk_watch *watch; /* watches the disk; may be NULL */
	unsigned stall_ms;        /* the run fails after this time without a completion */
};

/* The results of one direction of one job, or their sum over several jobs. */
struct vublk_bench_stats {
	uint64_t requests;
	uint64_t bytes;
	struct vublk_histogram latency_ns;
};

struct vublk_bench_result {
	struct vublk_bench_stats stats[VUBLK_BENCH_NUM_DIRECTIONS];
	uint64_t runtime_ns;
	uint64_t user_us;         /* CPU time of the job's thread */
	uint64_t system_us;
	uint64_t context_switches;
	uint64_t major_faults;
	uint64_t minor_faults;
	uint64_t verified_blocks; /* blocks that were read and checked */
	unsigned abandoned;       /* requests still in flight when the run ended during an outage */
};

/* The progress of a run. */
struct vublk_bench_live {
	const char *phase;        /* "ramp", "run" or "verify"; the numbers of "verify" include
				     those of "run" */
	uint64_t elapsed_ns;      /* of the phase */
	uint64_t requests[VUBLK_BENCH_NUM_DIRECTIONS]; /* of the phase */
	uint64_t bytes[VUBLK_BENCH_NUM_DIRECTIONS];
};

/*
 * vublk_bench_run() calls this function at least every 100 ms, on its caller's thread. If the
 * function returns true, the run ends early, without an error.
 */
typedef bool vublk_bench_tick_fn(void *opaque, const struct vublk_bench_live *live);

/*
 * Checks whether the load `config` is possible on the disk with the properties `info`. Returns 0,
 * or the error with which vublk_bench_run() would refuse the load: -EINVAL, -EROFS or -ENOTSUP.
 */
int vublk_bench_check(const struct vublk_bench_config *config, const struct vublk_blk_info *info,
		      struct vublk_error *error);

/*
 * Runs the load, and stores one result per job in `results`, an array of config->num_jobs elements.
 * Returns 0, or a negative errno if the load could not be started, a request failed, no request
 * completed for `stall_ms`, or a block had wrong content. `tick` (may be NULL) is called with
 * `opaque`.
 */
int vublk_bench_run(struct vublk_blk *blk, const struct vublk_bench_config *config,
		    vublk_bench_tick_fn *tick, void *opaque, struct vublk_bench_result *results,
		    struct vublk_error *error);

/* Adds the result `from` of one job to the sum `into`. */
void vublk_bench_add(struct vublk_bench_result *into, const struct vublk_bench_result *from);

void vublk_bench_print_text(FILE *out, const char *socket, const struct vublk_bench_config *config,
			    const struct vublk_bench_result *total);
/*
 * Prints JSON in the format of fio's --output-format=json, with one entry per element of `results`:
 * one result per job, or one for all jobs (group_reporting).
 */
void vublk_bench_print_json(FILE *out, const char *socket, const struct vublk_bench_config *config,
			    const struct vublk_bench_result *results, unsigned num_results);

#endif
