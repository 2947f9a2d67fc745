/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CHAOS_LOAD_H
#define VUBLK_CLI_CHAOS_LOAD_H

/* The jobs of a chaos run. load.c prepares them, and job.c runs each job on a thread of its own. */

#include "cli/chaos/chaos.h"

/* A slot for one request: free, held, or in flight. */
struct vublk_chaos_slot {
	struct vublk_chaos_request request;
	void *buffer;       /* room for VUBLK_CHAOS_MAX_BLOCKS blocks */
	uint64_t start_ns;
	bool in_flight;
};

struct vublk_chaos_job {
	/* set before the thread starts */
	struct vublk_chaos_load *load;
	struct vublk_blk_queue *queue;
	unsigned number;
	bool only_read_back;
	bool is_beginning; /* used by the job's thread: the initial zeroing is over, and no change
			      has completed since then */
	struct vublk_chaos_slot *slots;
	struct vublk_blk_completion *completions;

	/* used by the job's thread while that thread runs, otherwise by any thread */
	struct vublk_chaos_verifier verifier; /* for the job's part of the disk */
	struct vublk_chaos_slot **free;
	unsigned num_free;
	struct vublk_chaos_slot *held; /* a prepared request for which the queue was full */
	uint64_t random;
	uint64_t next;          /* the next block of a pass over the part, counted from the first
				   block of the part */
	uint64_t hot;           /* the first hot block, counted like `next` */
	uint64_t hot_left;      /* how many requests remain until other blocks become hot */
	unsigned stuck;
	struct vublk_error error; /* code 0: no error */

	/* written by the job's thread, read by others; in_flight: atomic */
	uint64_t requests[VUBLK_CHAOS_NUM_OPS]; /* how many have completed */
	unsigned in_flight;
};

/* The thread function of a job. `member` is a struct vublk_chaos_job. */
void vublk_chaos_job_run(void *member);

#endif
