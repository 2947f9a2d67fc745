/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_BENCH_JOB_H
#define VUBLK_CLI_BENCH_JOB_H

/* One job of a bench, which run.c prepares and job.c runs on a thread. */

#include "cli/bench/bench.h"
#include "cli/pattern.h"

#include <sys/resource.h>

enum vublk_bench_phase {
	VUBLK_BENCH_RAMP,
	VUBLK_BENCH_RUN,
	VUBLK_BENCH_STOP,  /* start no more requests; written blocks are still verified */
	VUBLK_BENCH_ABORT, /* end immediately */
};

/* One request, in flight or not. */
struct vublk_bench_slot {
	enum vublk_bench_direction direction;
	uint64_t start_ns;
	uint64_t block;       /* counted from the start of the job's part */
	void *buffer;
};

/* The blocks that a verifying job wrote. */
struct vublk_bench_verify {
	uint32_t *generations; /* of each block; 0: not written; top bit: in flight.
	                        * NULL if the load only reads */
	uint64_t written;      /* how many blocks the first pass has written */
	uint64_t reads;        /* of a sequential mixed load */
	uint64_t next;         /* block to read back */
};

struct vublk_bench_job {
	/* set before the thread starts */
	const struct vublk_bench_config *config;
	struct vublk_blk_queue *queue;
	unsigned *phase;        /* enum vublk_bench_phase, shared by all jobs; atomic */
	unsigned number;
	struct vublk_disk_watch *watch; /* of the job that asks for the serial; else NULL */
	uint64_t first_block;   /* the job's part, in blocks of config->block_bytes */
	uint64_t num_blocks;
	uint64_t run;           /* written into its blocks */
	struct vublk_bench_slot *slots;
	struct vublk_blk_completion *completions;

	/* used by the thread */
	struct vublk_bench_slot **free;
	unsigned num_free;
	struct vublk_bench_slot *held; /* prepared when the queue was full */
	uint64_t random;
	struct vublk_shuffle shuffle;
	uint64_t next;          /* index in the order of this pass */
	uint64_t started;       /* requests, not counting flushes */
	unsigned unsynced;      /* writes since the last flush */
	unsigned seen_phase;
	uint64_t start_ns;
	struct rusage usage;    /* at the start */
	uint64_t moved_ns;      /* last completion, or first request on an idle queue */
	struct vublk_bench_verify verify;

	/* written by the thread, read by others while it runs */
	uint64_t live_requests[VUBLK_BENCH_NUM_DIRECTIONS];
	uint64_t live_bytes[VUBLK_BENCH_NUM_DIRECTIONS];
	unsigned verifying;

	/* read when the thread has ended */
	struct vublk_bench_result *result;
	struct vublk_error error; /* code 0: none */
};

/* The thread's function; its member is a struct vublk_bench_job. */
void vublk_bench_job_run(void *member);

/* The block at `index` in the job's order: sequential or shuffled. */
static inline uint64_t vublk_bench_block_at(const struct vublk_bench_job *job, uint64_t index)
{
	return job->config->random ? vublk_shuffle_at(&job->shuffle, index) : index;
}

/* Where the slot's block is on the disk, in bytes. */
static inline uint64_t vublk_bench_offset_of(const struct vublk_bench_job *job,
					     const struct vublk_bench_slot *slot)
{
	return job->config->offset_bytes +
	       (job->first_block + slot->block) * job->config->block_bytes;
}

/* --- verify.c ----------------------------------------------------------------- */

/* -ENOMEM if the disk has too many blocks. */
int vublk_bench_verify_init(struct vublk_bench_verify *verify, uint64_t num_blocks,
			    struct vublk_error *error);
void vublk_bench_verify_deinit(struct vublk_bench_verify *verify);

/*
 * Chooses a block that no request in flight touches, and fills the buffer of a write. In a
 * mixed load a read becomes a write as long as no block was written. False: there is no such
 * block before another request is completed.
 */
bool vublk_bench_verify_pick(struct vublk_bench_job *job, struct vublk_bench_slot *slot);

/* Releases the block of a completed request and checks the data that was read: 0 or -EILSEQ. */
int vublk_bench_verify_complete(struct vublk_bench_job *job, struct vublk_bench_slot *slot,
				struct vublk_error *error);

/* Chooses the next block to read back at the end; false: there are no more. */
bool vublk_bench_verify_pick_back(struct vublk_bench_job *job, struct vublk_bench_slot *slot);

#endif
