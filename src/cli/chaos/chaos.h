/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CHAOS_CHAOS_H
#define VUBLK_CLI_CHAOS_CHAOS_H

/*
 * A verified load on a disk whose back-end is killed, stopped and replaced meanwhile.
 *
 *   chaos.c          the command: options and their defaults
 *   chaos-run.c      what happens when: faults, restarts, the end
 *   chaos-backend.c  the back-end's process, and its socket's appearance
 *   chaos-load.c     the load: its jobs' common life
 *   chaos-job.c      one job: a thread and a queue
 *   chaos-verify.c   what a read may bring (no I/O)
 *   chaos-stamp.c    what a block holds
 *   chaos-report.c   the result as text and as JSON
 *
 * Threads: the process's first one does what chaos-run.c says; each job is one more.
 * What they share are the atomic fields of struct vublk_chaos_load.
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

/* What is done to the back-end. */
enum vublk_chaos_deed {
	VUBLK_CHAOS_KILL,    /* SIGKILL, and another is started */
	VUBLK_CHAOS_STOP,    /* SIGSTOP, and after a while SIGCONT or SIGKILL */
	VUBLK_CHAOS_TERM,    /* SIGTERM, and another is started when it has ended */
	VUBLK_CHAOS_REPLACE, /* its socket's file is removed, then as TERM */
	VUBLK_CHAOS_OWN,     /* nothing: it ended by itself */
	VUBLK_CHAOS_NUM_DEEDS,
};

/* "kill"; static. */
const char *vublk_chaos_deed_name(enum vublk_chaos_deed deed);

#define VUBLK_CHAOS_MAX_ENV 16

struct vublk_chaos_config {
	const char *socket;
	char *const *command;     /* ended by NULL */
	const char *env[VUBLK_CHAOS_MAX_ENV + 1]; /* NAME=VALUE, for every start but the last */
	unsigned num_env;
	unsigned deeds;           /* bits 1 << enum vublk_chaos_deed; 0: none */
	unsigned num_deeds;       /* after which it is enough; 0: no limit */
	uint64_t runtime_ms;      /* the same; 0: no limit */
	unsigned min_interval_ms; /* between two of them */
	unsigned max_interval_ms;
	unsigned num_queues;
	unsigned depth;
	uint64_t size_bytes;      /* the part of the disk that is used; 0: at most 64 MiB */
	uint64_t seed;
	unsigned stuck_ms;        /* a request, or a start of the back-end */
	bool verbose;
	bool is_volatile;         /* the back-end may lose what was not flushed */
};

/* --- the back-end: chaos-backend.c ------------------------------------------------ */

struct vublk_chaos_backend {
	const struct vublk_chaos_config *config;
	pid_t pid;          /* also its process group; 0: it does not run */
	int pid_fd;         /* polls readable when it has ended */
	int watch_fd;       /* inotify on the socket's directory; -1: not available */
	struct stat file;   /* the socket's at the last check, without inotify */
	int output_fd;      /* what it says; a file in memory, a new one each start */
	char **env;         /* config->env, and of this process what that leaves */
	unsigned starts;
};

int vublk_chaos_backend_init(struct vublk_chaos_backend *backend,
			     const struct vublk_chaos_config *config, struct vublk_error *error);
/* Kills what runs, and waits for its end. */
void vublk_chaos_backend_deinit(struct vublk_chaos_backend *backend);

/* Only by the thread that lives longest: the process ends with it. `last`: without env. */
int vublk_chaos_backend_start(struct vublk_chaos_backend *backend, bool last,
			      struct vublk_error *error);

/* To all processes of it. */
void vublk_chaos_backend_signal(struct vublk_chaos_backend *backend, int number);

/* Waits for its end, which has begun; its wait status. All that it started is killed. */
int vublk_chaos_backend_reap(struct vublk_chaos_backend *backend);

/* Whether a socket of the name has appeared since the last call. */
bool vublk_chaos_backend_appeared(struct vublk_chaos_backend *backend);

/* The last line that it printed, for a sentence; "" if none. */
const char *vublk_chaos_backend_last_words(const struct vublk_chaos_backend *backend,
					   char *text, size_t bytes);

/* --- the load: chaos-load.c ------------------------------------------------------- */

struct vublk_chaos_job;

/* What the jobs do. */
enum vublk_chaos_phase {
	VUBLK_CHAOS_RUN,       /* zeroes everything, then keeps requests in flight */
	VUBLK_CHAOS_READ_BACK, /* begins nothing new, and reads all of the disk */
	VUBLK_CHAOS_ABORT,     /* ends at once */
};

struct vublk_chaos_load {
	const struct vublk_chaos_config *config;
	struct vublk_blk *blk;
	struct vublk_blk_info info;
	struct vublk_chaos_job *jobs;
	struct vublk_crew crew;
	unsigned char *buffers;
	int done_fd;                /* an eventfd: all jobs have ended, or one has failed */

	/* shared; atomic */
	unsigned phase;
	unsigned working;           /* jobs that have not ended */
	uint32_t life;              /* of the back-end */
	uint64_t up_since_ns;       /* the back-end listens and is not stopped; 0: it is down */
	uint64_t first_ns;          /* of the first completion since this was set to 0 */
};

/* Also of all jobs together. */
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

/* EINVAL, EROFS: the disk does not suit; the sentence says why. */
int vublk_chaos_load_init(struct vublk_chaos_load *load, const struct vublk_chaos_config *config,
			  struct vublk_blk *blk, struct vublk_error *error);
/* No job runs. */
void vublk_chaos_load_deinit(struct vublk_chaos_load *load);

/* Starts the jobs, in phase RUN or READ_BACK. */
int vublk_chaos_load_start(struct vublk_chaos_load *load, enum vublk_chaos_phase phase,
			   struct vublk_error *error);
/* Tells them to go on with another phase; no way back. */
void vublk_chaos_load_advance(struct vublk_chaos_load *load, enum vublk_chaos_phase phase);
/* Makes done_fd readable; for the jobs. */
void vublk_chaos_load_tell(struct vublk_chaos_load *load);
/* Waits for their end; what the first of them failed with. */
int vublk_chaos_load_join(struct vublk_chaos_load *load, struct vublk_error *error);

unsigned vublk_chaos_load_in_flight(const struct vublk_chaos_load *load);
void vublk_chaos_load_counts(const struct vublk_chaos_load *load,
			     struct vublk_chaos_counts *counts);

/* --- the run: chaos-run.c --------------------------------------------------------- */

struct vublk_chaos_result {
	unsigned deeds[VUBLK_CHAOS_NUM_DEEDS];
	unsigned starts;
	uint64_t in_flight;         /* requests, at all losses of a back-end together */
	uint64_t runtime_ns;
	/* From the appearance of the socket to the first completion after it. */
	struct vublk_histogram outage_ns;
	struct vublk_chaos_counts counts;
	char own_end[64];           /* how the last one ended that did so by itself */
};

/* Opens the disk when the back-end listens. */
typedef int vublk_chaos_open_fn(void *opaque, struct vublk_blk **blk, struct vublk_error *error);

/*
 * All of it. 0: it went to its end, and `result` says what was found; negative: it did
 * not, and `error` says why (EINTR: a signal); `result` is then what there was.
 */
int vublk_chaos_run(const struct vublk_chaos_config *config, vublk_chaos_open_fn *open_disk,
		    void *opaque, struct vublk_chaos_result *result, struct vublk_error *error);

/* --- the report: chaos-report.c ----------------------------------------------------- */

void vublk_chaos_print_text(FILE *out, const struct vublk_chaos_config *config,
			    const struct vublk_chaos_result *result);
void vublk_chaos_print_json(FILE *out, const struct vublk_chaos_config *config,
			    const struct vublk_chaos_result *result);
/* Of lost ... corrupt and stuck. */
uint64_t vublk_chaos_count_faults(const struct vublk_chaos_result *result);

#endif
