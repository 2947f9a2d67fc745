/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CHAOS_LOAD_H
#define VUBLK_CLI_CHAOS_LOAD_H

/* The jobs of a chaos run: what chaos-load.c prepares, chaos-job.c runs on threads. */

#include "cli/chaos/chaos.h"

/* One request, in flight or not. */
struct vublk_chaos_slot {
	struct vublk_chaos_request request;
	void *buffer;       /* VUBLK_CHAOS_MAX_BLOCKS blocks */
	uint64_t start_ns;
	bool in_flight;
};

struct vublk_chaos_job {
	/* set before the thread starts */
	struct vublk_chaos_load *load;
	struct vublk_blk_queue *queue;
	unsigned number;
	bool only_read_back;
	struct vublk_chaos_slot *slots;
	struct vublk_blk_completion *completions;

	/* the thread's, and between the runs of threads everybody's */
	struct vublk_chaos_verifier verifier; /* of the job's part of the disk */
	struct vublk_chaos_slot **free;
	unsigned num_free;
	struct vublk_chaos_slot *held; /* begun, and the queue was full */
	uint64_t random;
	uint64_t next;          /* block of a pass over the part; counted within it */
	uint64_t hot;           /* where the hot blocks begin */
	uint64_t hot_left;      /* requests, then they are others */
	unsigned stuck;
	struct vublk_error error; /* code 0: none */

	/* the thread's, read by others while it runs */
	uint64_t requests[VUBLK_CHAOS_NUM_OPS]; /* completed */
	unsigned in_flight;
};

/* The thread's function; its member is a struct vublk_chaos_job. */
void vublk_chaos_job_run(void *member);

#endif
