/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_BENCH_JOB_H
#define VUBLK_CLI_BENCH_JOB_H

/* One job of a bench: what bench-run.c prepares, bench-job.c runs on a thread. */

#include "cli/bench/bench.h"
#include "cli/pattern.h"

#include <sys/resource.h>

enum vublk_bench_phase {
	VUBLK_BENCH_RAMP,
	VUBLK_BENCH_RUN,
	VUBLK_BENCH_STOP,  /* begin nothing more; what was written is still verified */
	VUBLK_BENCH_ABORT, /* neither */
};

/* One request, in flight or not. */
struct vublk_bench_slot {
	enum vublk_bench_direction direction;
	uint64_t start_ns;
	uint64_t block;       /* counted from the beginning of the job's part */
	void *buffer;
};

/* Which blocks a verifying job wrote. */
struct vublk_bench_verify {
	uint32_t *generations; /* of each block, 0: not written, the top bit: in flight;
	                        * NULL where the load only reads */
	uint64_t written;      /* how far in the order of the first pass writes have come */
	uint64_t reads;
	uint64_t next;         /* of the reading back */
};

struct vublk_bench_job {
	/* set before the thread starts */
	const struct vublk_bench_config *config;
	struct vublk_blk_queue *queue;
	unsigned *phase;        /* an enum vublk_bench_phase, of all jobs; atomic */
	unsigned number;
	struct vublk_disk_watch *watch; /* of the job that asks for the serial; else NULL */
	uint64_t first_block;   /* the job's part, in blocks of config->block_bytes */
	uint64_t num_blocks;
	uint64_t run;           /* what its blocks carry */
	struct vublk_bench_slot *slots;
	struct vublk_blk_completion *completions;

	/* the thread's */
	struct vublk_bench_slot **free;
	unsigned num_free;
	struct vublk_bench_slot *held; /* prepared, and the queue was full */
	uint64_t random;
	struct vublk_shuffle shuffle;
	uint64_t next;          /* in the order of this pass */
	uint64_t begun;         /* requests, without flushes */
	unsigned unsynced;      /* writes since the last flush */
	unsigned seen_phase;
	uint64_t start_ns;
	struct rusage usage;    /* when it started */
	uint64_t moved_ns;      /* when something was completed last, or begun on an idle queue */
	struct vublk_bench_verify verify;

	/* the thread's, read by others while it runs */
	uint64_t live_requests[VUBLK_BENCH_NUM_DIRECTIONS];
	uint64_t live_bytes[VUBLK_BENCH_NUM_DIRECTIONS];
	unsigned verifying;

	/* read when the thread has ended */
	struct vublk_bench_result *result;
	struct vublk_error error; /* code 0: none */
};

/* The thread's function; its member is a struct vublk_bench_job. */
void vublk_bench_job_run(void *member);

/* The next number of a generator that is good enough to choose with. */
uint64_t vublk_bench_random(uint64_t *state);

/* The block at `index` of the job's order: sequential or shuffled. */
uint64_t vublk_bench_block_at(const struct vublk_bench_job *job, uint64_t index);

/* --- bench-verify.c ----------------------------------------------------------- */

/* -ENOMEM when the disk has too many blocks. */
int vublk_bench_verify_init(struct vublk_bench_verify *verify, uint64_t num_blocks,
			    struct vublk_error *error);
void vublk_bench_verify_deinit(struct vublk_bench_verify *verify);

/*
 * Gives the slot a block that no request in flight touches, and to a write its
 * content. A read of a load that writes too becomes a write while nothing was
 * written. False: not before something is completed.
 */
bool vublk_bench_verify_pick(struct vublk_bench_job *job, struct vublk_bench_slot *slot);

/* The request is completed: checks what was read. 0, or -EILSEQ and what is wrong. */
int vublk_bench_verify_complete(struct vublk_bench_job *job, struct vublk_bench_slot *slot,
				struct vublk_error *error);

/* The next block to read back into the slot; false: that was all. */
bool vublk_bench_verify_pick_back(struct vublk_bench_job *job, struct vublk_bench_slot *slot);

#endif
