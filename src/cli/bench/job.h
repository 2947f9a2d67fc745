/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_BENCH_JOB_H
#define VUBLK_CLI_BENCH_JOB_H

/* One job of a bench. run.c prepares it, and job.c runs it on a thread of its own. */

#include "cli/bench/bench.h"
#include "cli/bench/pacer.h"
#include "cli/pattern.h"

#include <sys/resource.h>

enum vublk_bench_phase {
	VUBLK_BENCH_RAMP,
	VUBLK_BENCH_RUN,
	VUBLK_BENCH_STOP,  /* no more requests are started; written blocks are still verified */
	VUBLK_BENCH_ABORT, /* the jobs end immediately */
};

/* A slot for one request: free, held, or in flight. */
struct vublk_bench_slot {
	enum vublk_bench_direction direction;
	uint64_t due_ns;      /* when the pacer wants the request to start; 0: immediately */
	uint64_t start_ns;    /* the time from which the latency counts: due_ns, if it is set */
	uint64_t block;       /* counted from the first block of the job's part */
	void *buffer;
};

/* A verifying job's records about the blocks of its part. */
struct vublk_bench_verify {
	uint32_t *generations; /* one per block; 0: not written; top bit: a request in flight uses
				  the block. NULL: the load only reads */
	uint64_t written;      /* how many blocks the first pass has chosen for writes */
	uint64_t reads;        /* position of the next read in a sequential mixed load, modulo
				  `written` */
	uint64_t next;         /* where the search for the next block to read back begins */
};

struct vublk_bench_job {
	/* set before the thread starts */
	const struct vublk_bench_config *config;
	struct vublk_blk_queue *queue;
	unsigned *phase;        /* enum vublk_bench_phase, shared by all jobs; atomic */
	unsigned number;
	struct vublk_disk_watch *watch; /* NULL except in job 0, which requests the serial */
	uint64_t first_block;   /* where the job's part begins, in blocks of config->block_bytes */
	uint64_t num_blocks;
	uint64_t run;           /* identifies the run; part of each block that the job writes */
	struct vublk_bench_slot *slots;
	struct vublk_blk_completion *completions;

	/* used by the job's thread */
	struct vublk_bench_slot **free;
	unsigned num_free;
	struct vublk_bench_slot *held; /* a prepared request for which the queue was full */
	uint64_t random;
	struct vublk_shuffle shuffle;
	uint64_t next;          /* the position of the next block in the pass */
	uint64_t started;       /* requests started, not counting flushes */
	unsigned unsynced;      /* writes since the last flush */
	unsigned seen_phase;
	uint64_t start_ns;
	struct rusage usage;    /* the thread's resource usage when the measured run began */
	struct vublk_pacer pacer;
	uint64_t wake_ns;       /* when the next request is due and can be started; 0: it has to
				   wait for something else, or there is no rate */
	uint64_t moved_ns;      /* when a request last completed or the queue was last idle */
	struct vublk_bench_verify verify;

	/* atomic; written by the job's thread, read by others while the job runs */
	uint64_t live_requests[VUBLK_BENCH_NUM_DIRECTIONS];
	uint64_t live_bytes[VUBLK_BENCH_NUM_DIRECTIONS];
	unsigned verifying;

	/* written by the job's thread, read by others after that thread has ended */
	struct vublk_bench_result *result;
	struct vublk_error error; /* code 0: no error */
};

/* The thread function of a job. `member` is a struct vublk_bench_job. */
void vublk_bench_job_run(void *member);

/*
 * Returns the block that a pass visits at position `index`. A pass visits each block of the job
 * once, in sequential or random order.
 */
static inline uint64_t vublk_bench_block_at(const struct vublk_bench_job *job, uint64_t index)
{
	return job->config->random ? vublk_shuffle_at(&job->shuffle, index) : index;
}

/* Returns the offset of the slot's block on the disk, in bytes. */
static inline uint64_t vublk_bench_offset_of(const struct vublk_bench_job *job,
					     const struct vublk_bench_slot *slot)
{
	return job->config->offset_bytes +
	       (job->first_block + slot->block) * job->config->block_bytes;
}

/* --- verify.c ----------------------------------------------------------------- */

/* Allocates the generations of `num_blocks` blocks. Returns 0 or -ENOMEM. */
int vublk_bench_verify_init(struct vublk_bench_verify *verify, uint64_t num_blocks,
			    struct vublk_error *error);
void vublk_bench_verify_deinit(struct vublk_bench_verify *verify);

/*
 * Chooses the block of a request, and fills the buffer of a write. If the load writes, chooses a
 * block that no request in flight uses, and turns a read into a write as long as no block has been
 * chosen for a write. Returns false if it finds no such block; the caller must then wait for a
 * completion.
 */
bool vublk_bench_verify_pick(struct vublk_bench_job *job, struct vublk_bench_slot *slot);

/*
 * Must be called when a read or write has succeeded. Releases the block of the request, and checks
 * the data of a read. Returns 0, or -EILSEQ if the data is wrong.
 */
int vublk_bench_verify_complete(struct vublk_bench_job *job, struct vublk_bench_slot *slot,
				struct vublk_error *error);

/*
 * Chooses the next written block to read back at the end of the load. Returns false if none is
 * left.
 */
bool vublk_bench_verify_pick_back(struct vublk_bench_job *job, struct vublk_bench_slot *slot);

#endif
