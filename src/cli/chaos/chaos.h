/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CHAOS_CHAOS_H
#define VUBLK_CLI_CHAOS_CHAOS_H

/*
 * A verified load on a disk while its back-end is killed, stopped and replaced.
 *
 *   chaos.c    the command: options and their defaults
 *   run.c      the course of a run: actions, restarts, the end
 *   backend.c  the back-end's process and the appearance of its socket
 *   load.c     all jobs together: checks, buffers, threads
 *   job.c      one job: a thread and a queue
 *   verify.c   which content a read may return (no I/O)
 *   stamp.c    the content of a block
 *   report.c   the result as text and as JSON
 *
 * Two words: an action is done to the back-end (the option --faults selects actions); a fault
 * is wrong content that a read returned.
 *
 * Threads: the main thread runs run.c, and each job has a thread of its own. They share the atomic
 * fields of struct vublk_chaos_load.
 */

#include "cli/chaos/verify.h"
#include "cli/crew.h"
#include "cli/histogram.h"

#include <vublk/blk.h>

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/types.h>

/* What is done to the back-end; the names are those of --faults. */
enum vublk_chaos_action {
	VUBLK_CHAOS_KILL,    /* SIGKILL, then start another */
	VUBLK_CHAOS_STOP,    /* SIGSTOP, after a while SIGCONT or SIGKILL */
	VUBLK_CHAOS_TERM,    /* SIGTERM; start another when the back-end has ended */
	VUBLK_CHAOS_REPLACE, /* remove the socket's file, then do the same as TERM */
	VUBLK_CHAOS_OWN,     /* no action: the back-end ended by itself */
	VUBLK_CHAOS_NUM_ACTIONS,
};

/* "kill"; static. */
const char *vublk_chaos_action_name(enum vublk_chaos_action action);

#define VUBLK_CHAOS_MAX_ENV 16

struct vublk_chaos_config {
	const char *socket;
	char *const *command;     /* argv of the back-end, ended by NULL */
	const char *env[VUBLK_CHAOS_MAX_ENV + 1]; /* NAME=VALUE, for all starts except the last */
	unsigned num_env;
	unsigned actions;           /* bits 1 << enum vublk_chaos_action; 0: none */
	unsigned num_actions;       /* the run ends after this number; 0: no limit */
	uint64_t runtime_ms;      /* the run ends after this time; 0: no limit */
	unsigned min_interval_ms; /* between two actions */
	unsigned max_interval_ms;
	unsigned num_queues;
	unsigned depth;
	uint64_t size_bytes;      /* of the part of the disk that is used; 0: all, at most 64 MiB */
	uint64_t seed;
	unsigned stuck_ms;        /* time limit for a request and for a start of the back-end */
	bool verbose;
	bool is_volatile;         /* the back-end may lose what was not flushed */
};

/* --- the back-end: backend.c --------------------------------------------------- */

struct vublk_chaos_backend {
	const struct vublk_chaos_config *config;
	pid_t pid;          /* also its process group; 0: not running */
	int pid_fd;         /* polls readable when the back-end has ended */
	int watch_fd;       /* inotify on the socket's directory; -1: not available */
	struct stat file;   /* of the socket at the last check; used without inotify */
	int output_fd;      /* its output: a file in memory, a new one for each start */
	char **env;         /* config->env, and the other variables of this process */
	unsigned starts;
};

int vublk_chaos_backend_init(struct vublk_chaos_backend *backend,
			     const struct vublk_chaos_config *config, struct vublk_error *error);
/* Kills the back-end if it runs, and waits for its end. */
void vublk_chaos_backend_deinit(struct vublk_chaos_backend *backend);

/*
 * To be called by the main thread only: the back-end dies with this thread. `last`: start it
 * without config->env.
 */
int vublk_chaos_backend_start(struct vublk_chaos_backend *backend, bool last,
			      struct vublk_error *error);

/* Sends a signal to all processes of the back-end. */
void vublk_chaos_backend_signal(struct vublk_chaos_backend *backend, int number);

/*
 * Waits for the end of the back-end and kills all processes that it started. Returns the wait
 * status.
 */
int vublk_chaos_backend_reap(struct vublk_chaos_backend *backend);

/* Whether the socket has appeared since the last call. */
bool vublk_chaos_backend_appeared(struct vublk_chaos_backend *backend);

/* Gets the last line that the back-end printed, to be quoted in a message; "": it printed none. */
const char *vublk_chaos_backend_last_line(const struct vublk_chaos_backend *backend,
					   char *text, size_t bytes);

/* --- the load: load.c ---------------------------------------------------------- */

struct vublk_chaos_job;

/* What the jobs do; only ever increased. */
enum vublk_chaos_phase {
	VUBLK_CHAOS_RUN,       /* zero the disk, then keep requests in flight */
	VUBLK_CHAOS_READ_BACK, /* start no more requests, then read the whole disk */
	VUBLK_CHAOS_ABORT,     /* end immediately */
};

struct vublk_chaos_load {
	const struct vublk_chaos_config *config;
	struct vublk_blk *blk;
	struct vublk_blk_info info;
	struct vublk_chaos_job *jobs;
	struct vublk_crew crew;
	unsigned char *buffers;
	int done_fd;                /* eventfd, readable when all jobs have ended or one has failed */

	/* shared; atomic */
	unsigned phase;
	unsigned working;           /* jobs that have not ended */
	uint32_t life;              /* counts the losses of a back-end */
	uint64_t up_since_ns;       /* when the back-end began to listen or continued; 0: it is down */
	uint64_t first_ns;          /* the first completion since this was set to 0 */
};

/* Counts of one job, or of all jobs together. */
struct vublk_chaos_counts {
	uint64_t requests[VUBLK_CHAOS_NUM_OPS];
	uint64_t verified_blocks;
	uint64_t forgotten_blocks;
	uint64_t overlapping;
	uint64_t faults[VUBLK_CHAOS_NUM_FAULTS];
	unsigned stuck;
	unsigned num_sentences;
	char sentences[VUBLK_CHAOS_MAX_SENTENCES][VUBLK_ERROR_TEXT_BYTES];
};

/* EINVAL, EROFS: the disk is not suitable. */
int vublk_chaos_load_init(struct vublk_chaos_load *load, const struct vublk_chaos_config *config,
			  struct vublk_blk *blk, struct vublk_error *error);
/* No job may be running. */
void vublk_chaos_load_deinit(struct vublk_chaos_load *load);

/* Starts the jobs, in phase RUN or READ_BACK. */
int vublk_chaos_load_start(struct vublk_chaos_load *load, enum vublk_chaos_phase phase,
			   struct vublk_error *error);
/* Waits for the end of all jobs. Returns the error of the first that failed. */
int vublk_chaos_load_join(struct vublk_chaos_load *load, struct vublk_error *error);

unsigned vublk_chaos_load_in_flight(const struct vublk_chaos_load *load);
void vublk_chaos_load_counts(const struct vublk_chaos_load *load,
			     struct vublk_chaos_counts *counts);

/* --- also called by the jobs: job.c -------------------------------------------------- */

/* Moves all jobs to a later phase. */
void vublk_chaos_load_advance(struct vublk_chaos_load *load, enum vublk_chaos_phase phase);
/* Makes done_fd readable. */
void vublk_chaos_load_signal_done(struct vublk_chaos_load *load);

/* --- the run: run.c ------------------------------------------------------------ */

struct vublk_chaos_result {
	unsigned actions[VUBLK_CHAOS_NUM_ACTIONS];
	unsigned starts;
	uint64_t in_flight;         /* requests in flight, summed over all losses */
	uint64_t runtime_ns;
	/* From the appearance of the socket to the first completion. */
	struct vublk_histogram outage_ns;
	struct vublk_chaos_counts counts;
	char own_end[64];           /* how the back-end last ended by itself */
};

/* Opens the disk; called when the back-end listens. */
typedef int vublk_chaos_open_fn(void *opaque, struct vublk_blk **blk, struct vublk_error *error);

/*
 * Executes the whole run. 0: the run is complete, and `result` has the faults that were found.
 * Negative: the run ended early because of `error` (EINTR: a signal), and `result` has the faults
 * found up to then.
 */
int vublk_chaos_run(const struct vublk_chaos_config *config, vublk_chaos_open_fn *open_disk,
		    void *opaque, struct vublk_chaos_result *result, struct vublk_error *error);

/* --- the report: report.c -------------------------------------------------------- */

void vublk_chaos_print_text(FILE *out, const struct vublk_chaos_config *config,
			    const struct vublk_chaos_result *result);
void vublk_chaos_print_json(FILE *out, const struct vublk_chaos_config *config,
			    const struct vublk_chaos_result *result);
/* The number of faults and stuck requests. */
uint64_t vublk_chaos_count_faults(const struct vublk_chaos_result *result);

#endif
