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
 * Terms: an action is what the run does to the back-end (the option --faults selects actions). A
 * fault is wrong content that a read returned.
 *
 * Threads: the main thread runs run.c, and each job has a thread of its own. All threads share the
 * atomic fields of struct vublk_chaos_load.
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

/* The actions of a run on the back-end. The option --faults uses their names. */
enum vublk_chaos_action {
	VUBLK_CHAOS_KILL,    /* SIGKILL, then another back-end is started */
	VUBLK_CHAOS_STOP,    /* SIGSTOP, and after a while SIGCONT or SIGKILL */
	VUBLK_CHAOS_TERM,    /* SIGTERM; when the back-end has ended, another one is started */
	VUBLK_CHAOS_REPLACE, /* the socket's file is removed, and after a while TERM follows */
	VUBLK_CHAOS_OWN,     /* not an action of the run: the back-end ended by itself */
	VUBLK_CHAOS_NUM_ACTIONS,
};

/* Returns the name of an action, such as "kill", as a static string. */
const char *vublk_chaos_action_name(enum vublk_chaos_action action);

#define VUBLK_CHAOS_MAX_ENV 16

struct vublk_chaos_config {
	const char *socket;       /* the path of the back-end's socket */
	const char *through;      /* the disk connects to this socket of a device, which uses the
				     back-end; NULL: the disk connects to the back-end itself */
	char *const *command;     /* the back-end's argv, which ends with NULL */
	const char *env[VUBLK_CHAOS_MAX_ENV + 1]; /* variables for the back-end's environment
						     (NAME=VALUE), ended by NULL; the last back-end,
						     which no action ends, does not get them */
	unsigned num_env;
	unsigned actions;           /* bits 1 << enum vublk_chaos_action; 0: none */
	unsigned num_actions;       /* the actions end after this number; 0: no limit */
	uint64_t runtime_ms;      /* the actions end after this time; 0: no limit */
	unsigned min_interval_ms; /* the time between two actions */
	unsigned max_interval_ms;
	unsigned num_queues;
	unsigned depth;
	uint64_t size_bytes;      /* how much of the disk is used; 0: all of it, but at most 64
				     MiB */
	uint64_t seed;
	unsigned stuck_ms;        /* time limit for a request while the back-end is up, and for a
				     start of the back-end */
	bool verbose;
	bool is_volatile;         /* the back-end may lose data that was not flushed */
};

/* --- the back-end: backend.c --------------------------------------------------- */

struct vublk_chaos_backend {
	const struct vublk_chaos_config *config;
	pid_t pid;          /* the back-end's process and its process group; 0: the back-end does
			       not run */
	int pid_fd;         /* polls readable when the back-end has ended */
	int watch_fd;       /* inotify instance for the socket's directory; -1: not available */
	struct stat file;   /* the socket's file at the previous check; used without inotify */
	int output_fd;      /* a file in memory for the back-end's output; a new one for each
			       start */
	char **env;         /* the environment: config->env, and this process's variables that are
			       not in config->env */
	unsigned starts;
};

int vublk_chaos_backend_init(struct vublk_chaos_backend *backend,
			     const struct vublk_chaos_config *config, struct vublk_error *error);
/* Kills the back-end if it runs, and waits for its end. */
void vublk_chaos_backend_deinit(struct vublk_chaos_backend *backend);

/*
 * Starts the back-end. Must be called on the main thread, because the kernel kills the back-end
 * when the thread that started it ends. `last` says that no action follows this start; the back-end
 * then does not get config->env.
 */
int vublk_chaos_backend_start(struct vublk_chaos_backend *backend, bool last,
			      struct vublk_error *error);

/* Sends a signal to all processes of the back-end. */
void vublk_chaos_backend_signal(struct vublk_chaos_backend *backend, int number);

/*
 * Waits until the back-end has ended, and kills the other processes of its process group. Returns
 * the wait status.
 */
int vublk_chaos_backend_reap(struct vublk_chaos_backend *backend);

/* Returns whether the socket has appeared since the last call. */
bool vublk_chaos_backend_appeared(struct vublk_chaos_backend *backend);

/*
 * Copies the end of the back-end's captured output to `text`, which has room for `bytes` bytes.
 * Returns the last line of the output, or "" if there is none.
 */
const char *vublk_chaos_backend_last_line(const struct vublk_chaos_backend *backend,
					   char *text, size_t bytes);

/* --- the load: load.c ---------------------------------------------------------- */

struct vublk_chaos_job;

/* The phases of the jobs. A phase is never followed by an earlier one. */
enum vublk_chaos_phase {
	VUBLK_CHAOS_RUN,       /* the jobs zero the disk, then keep requests in flight */
	VUBLK_CHAOS_READ_BACK, /* the jobs wait for their requests in flight, then read their parts
				  of the disk */
	VUBLK_CHAOS_ABORT,     /* the jobs end immediately */
};

struct vublk_chaos_load {
	const struct vublk_chaos_config *config;
	struct vublk_blk *blk;
	struct vublk_blk_info info;
	struct vublk_chaos_job *jobs;
	struct vublk_crew crew;
	unsigned char *buffers;
	int done_fd;                /* an eventfd, readable when all jobs have ended or one has
				       failed */
	int begun_fd;               /* an eventfd, readable when each job has zeroed its part of the
				       disk and completed a change since */

	/* shared by all threads; atomic */
	unsigned phase;
	unsigned working;           /* the number of jobs that have not ended yet */
	unsigned beginning;         /* the number of jobs that have not completed a change yet, not
				       counting the initial zeroing */
	uint32_t life;              /* the number of back-ends that were lost so far */
	uint64_t up_since_ns;       /* when the back-end began to listen, or continued after a stop;
				       0: it is down, stopped or ending */
	uint64_t first_ns;          /* the time of the first completion after the latest start of
				       the back-end; 0: none yet */
};

/* The counts of one job, or the sum over all jobs. */
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

/*
 * Prepares the jobs. Returns 0 or a negative errno; -EINVAL and -EROFS mean that the disk is not
 * suitable.
 */
int vublk_chaos_load_init(struct vublk_chaos_load *load, const struct vublk_chaos_config *config,
			  struct vublk_blk *blk, struct vublk_error *error);
/* Frees the jobs, none of which may be running. */
void vublk_chaos_load_deinit(struct vublk_chaos_load *load);

/* Starts the jobs in `phase`: VUBLK_CHAOS_RUN or VUBLK_CHAOS_READ_BACK. */
int vublk_chaos_load_start(struct vublk_chaos_load *load, enum vublk_chaos_phase phase,
			   struct vublk_error *error);
/*
 * Waits until all jobs have ended. Returns 0, or the error of the first job in the list that has
 * failed.
 */
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
	uint64_t in_flight;         /* how many requests were in flight at a loss, summed over
				       all losses */
	uint64_t runtime_ns;
	/* For each outage, the time from the appearance of the socket to the first completion. */
	struct vublk_histogram outage_ns;
	struct vublk_chaos_counts counts;
	char own_end[64];           /* how the back-end ended when it last ended by itself */
};

/*
 * Opens the disk. vublk_chaos_run() calls this function when the socket of the back-end has
 * appeared, and again if no process listens there yet.
 */
typedef int vublk_chaos_open_fn(void *opaque, struct vublk_blk **blk, struct vublk_error *error);

/*
 * Executes the whole run and fills `result`. Returns 0 if the run is complete, even if it found
 * faults. Returns a negative errno if the run ended early; `error` says why (EINTR: a signal).
 */
int vublk_chaos_run(const struct vublk_chaos_config *config, vublk_chaos_open_fn *open_disk,
		    void *opaque, struct vublk_chaos_result *result, struct vublk_error *error);

/* --- the report: report.c -------------------------------------------------------- */

void vublk_chaos_print_text(FILE *out, const struct vublk_chaos_config *config,
			    const struct vublk_chaos_result *result);
void vublk_chaos_print_json(FILE *out, const struct vublk_chaos_config *config,
			    const struct vublk_chaos_result *result);
/* Returns the number of faults and stuck requests. */
uint64_t vublk_chaos_count_faults(const struct vublk_chaos_result *result);

#endif
