/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_BENCH_BENCH_H
#define VUBLK_CLI_BENCH_BENCH_H

/*
 * A measured load on a disk, which `vublk bench` and the demo run.
 *
 *   bench.c   the command: options and their defaults
 *   run.c     all jobs together: checks, buffers, threads, phases
 *   job.c     one job: the data path
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
	VUBLK_BENCH_SYNC,      /* a flush because of --fsync */
	VUBLK_BENCH_NUM_DIRECTIONS,
};

/* "read", "write", "trim", "sync". */
const char *vublk_bench_direction_name(enum vublk_bench_direction direction);

/* The names are fio's. */
struct vublk_bench_config {
	const char *rw;           /* as given, for the report */
	enum vublk_bench_direction direction; /* unless it is mixed */
	bool mixed;
	bool random;
	unsigned read_percent;    /* of a mixed load */
	uint32_t block_bytes;
	uint64_t offset_bytes;    /* the region that is used ... */
	uint64_t size_bytes;      /* ... 0: to the end of the disk */
	unsigned depth;
	unsigned num_jobs;
	uint64_t runtime_ms;      /* 0: no limit */
	uint64_t ramp_ms;
	bool time_based;          /* does not end when each block was visited */
	uint64_t number_ios;      /* of each job; 0: no limit */
	unsigned fsync_every;     /* writes; 0: never */
	bool poll;
	bool verify;
	uint64_t seed;
	struct vublk_disk_watch *watch; /* of the disk, or NULL */
	unsigned stall_ms;        /* the run fails after so long without a completion */
};

/* One direction of one job, or the sum of several jobs. */
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
	uint64_t verified_blocks; /* read and correct */
	unsigned abandoned;       /* in flight when the time was over during an outage */
};

/* A snapshot of a run. */
struct vublk_bench_live {
	const char *phase;        /* "ramp", "run", "verify" */
	uint64_t elapsed_ns;      /* of the phase */
	uint64_t requests[VUBLK_BENCH_NUM_DIRECTIONS]; /* of the phase */
	uint64_t bytes[VUBLK_BENCH_NUM_DIRECTIONS];
};

/* Called every 100 ms on the thread that called vublk_bench_run(); true: stop early. */
typedef bool vublk_bench_tick_fn(void *opaque, const struct vublk_bench_live *live);

/* Returns 0, or the error with which vublk_bench_run() would refuse: -EINVAL, -EROFS, -ENOTSUP. */
int vublk_bench_check(const struct vublk_bench_config *config, const struct vublk_blk_info *info,
		      struct vublk_error *error);

/*
 * Runs the load and stores config->num_jobs results in `results`. 0, or the error of a
 * request, of the check of a block, or of the start. `tick` may be NULL.
 */
int vublk_bench_run(struct vublk_blk *blk, const struct vublk_bench_config *config,
		    vublk_bench_tick_fn *tick, void *opaque, struct vublk_bench_result *results,
		    struct vublk_error *error);

/* Adds one job's result to the sum. */
void vublk_bench_add(struct vublk_bench_result *into, const struct vublk_bench_result *from);

void vublk_bench_print_text(FILE *out, const char *socket, const struct vublk_bench_config *config,
			    const struct vublk_bench_result *total);
/* Like fio's --output-format=json: one entry per job, or one for all (group_reporting). */
void vublk_bench_print_json(FILE *out, const char *socket, const struct vublk_bench_config *config,
			    const struct vublk_bench_result *results, unsigned num_results);

#endif
