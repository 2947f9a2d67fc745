/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_ENGINE_FILE_FILE_H
#define VUBLK_BACKEND_ENGINE_FILE_FILE_H

/*
 * The interfaces between the files of the file engine. file.c opens the image. step.c turns a
 * request into a series of system calls, without making them. blocking.c and uring.c make these
 * calls. sync.c decides when a sync may begin, and lost.c records a failed sync. uring.c first
 * tries the fast paths in page-cache.c and batch-copy.c, which do not use io_uring.
 */
#include "backend/engine/engine.h"

#include "util/atomic.h"
#include "util/checked.h"
#include "util/log.h"

#include <assert.h>
#include <pthread.h>

/* The largest part of a request that one step moves through the engine's own memory. */
#define VUBLK_FILE_PIECE_BYTES (UINT64_C(1) << 20)

/* The mapping of an image that is in memory (batch-copy.c). Only the kernel accesses it. */
struct vublk_file_mapping {
	char *base; /* NULL: no mapping */
	uint64_t bytes;
	int uffd;
};

/* A queue with requests that wait for a sync to end. */
struct vublk_file_waiter {
	struct vublk_file_waiter *next;
	int fd;         /* the eventfd that is signalled when a sync ends */
	bool is_listed; /* in `waiters`; may be loaded without the lock, relaxed */
};

/* The syncs of an image; see sync.c. */
struct vublk_file_syncs {
	pthread_mutex_t lock;
	pthread_cond_t one_ended; /* signalled when a sync has ended; used by the blocking method */
	uint64_t begun, ended; /* the numbers of the last sync that began and of the last that
				  ended; if they differ, a sync is running. `ended` may be loaded
				  without the lock (pair S) */
	struct vublk_file_waiter *waiters;
};

struct vublk_file {
	struct vublk_engine engine;
	int fd;
	bool direct;
	bool block_device;
	bool blocking;           /* the engine makes blocking calls and does not use io_uring */
	bool in_memory;          /* the file is on tmpfs or ramfs, so no call waits for a disk */
	bool inlined;            /* calls that do not wait are made directly, without io_uring */
	bool dsync;              /* RWF_DSYNC makes durable writes stable, instead of a sync of
				    sync.c; see lost.c */
	uint32_t memory_align;   /* the alignment of buffers for O_DIRECT */
	uint32_t offset_align;   /* the alignment of offsets and lengths for O_DIRECT */
	void *zeros;             /* VUBLK_FILE_PIECE_BYTES zero bytes, page-aligned */
	struct vublk_file_mapping mapping;

	/*
	 * Facts about the file and its file system, learned from the results of requests. Any
	 * worker may load and store these fields, relaxed.
	 */
	bool no_punch;
	bool no_zero_range;
	bool no_nowait[2]; /* RWF_NOWAIT is not available, for reads and for writes */
	bool lost_writes;  /* a sync has failed; stays true */

	struct vublk_file_syncs syncs;
};

/*
 * A queue of the file engine. uring.c embeds it in a struct of its own; blocking.c uses it
 * directly.
 */
struct vublk_file_queue {
	struct vublk_engine_queue queue;
	struct vublk_engine_list done;
	struct vublk_log_limit limit;
};

/* The engine's state of a request, which is stored in io->scratch. */
struct vublk_file_io {
	uint64_t done_bytes;
	unsigned stage;
	unsigned retries;
	/* the error of a durable write while it is repeated without its sync; otherwise 0 */
	int durable_error;
	union {
		struct iovec own_iov;
		uint64_t sync; /* while the request waits for a sync: the sync's number */
	};
	void *bounce;
};

static_assert(sizeof(struct vublk_file_io) <= sizeof(((struct vublk_engine_io *)0)->scratch),
	      "the scratch of a request is too small");

static inline struct vublk_file_io *state_of(const struct vublk_engine_io *io)
{
	return (struct vublk_file_io *)io->scratch;
}

enum vublk_file_call {
	VUBLK_FILE_READ,
	VUBLK_FILE_WRITE,     /* `flags`: RWF_DSYNC or 0 */
	VUBLK_FILE_SYNC,      /* fdatasync */
	VUBLK_FILE_FALLOCATE, /* `flags`: the mode */
	VUBLK_FILE_DISCARD,   /* BLKDISCARD */
};

/* The next system call of a request. */
struct vublk_file_step {
	enum vublk_file_call call;
	int flags;
	uint64_t offset, bytes;
	const struct iovec *iov; /* the buffers of READ and WRITE */
	unsigned num_iov;
};

/*
 * Begins a request. Returns 1 if its first call is in `step`, and 0 if the request is done and
 * io->result is set.
 */
int vublk_file_begin(struct vublk_file_queue *queue, struct vublk_engine_io *io,
		     struct vublk_file_step *step);

/*
 * Determines again which call a request in progress needs next, and stores it in `step`. Returns as
 * vublk_file_begin() does.
 */
int vublk_file_step(struct vublk_file_queue *queue, struct vublk_engine_io *io,
		    struct vublk_file_step *step);

/*
 * Continues a request whose call has returned `result`: a number of bytes, 0, or a negative errno.
 * Returns as vublk_file_begin() does, with the next call in `step`.
 */
int vublk_file_next(struct vublk_file_queue *queue, struct vublk_engine_io *io, int64_t result,
		    struct vublk_file_step *step);

/* Returns whether the success of the request means that data is stable. */
bool vublk_file_makes_stable(const struct vublk_engine_io *io);
/*
 * Returns whether a sync has failed. After a failed sync, no request that makes data stable may
 * succeed.
 */
bool vublk_file_has_lost_writes(const struct vublk_file *file);
/* Records a failed sync, and logs the first one. */
void vublk_file_lose_writes(struct vublk_file *file, int result);

/* --- sync.c: one sync at a time ------------------------------------------------ */

void vublk_file_syncs_init(struct vublk_file_syncs *syncs);
void vublk_file_syncs_deinit(struct vublk_file_syncs *syncs);
/*
 * If `*number` is 0, stores in it the number of the next sync, which covers all writes that are
 * complete now. Begins sync `*number`, if it has not begun and no other sync is running. Returns
 * whether the caller leads this sync: a leader must make the system call, record a failure with
 * vublk_file_lose_writes(), and then call vublk_file_syncs_end(). For a caller that does not lead,
 * `waiter` is signalled each time a sync has ended. After each signal the caller must check
 * vublk_file_syncs_ended(), and call this function again if its sync has not ended.
 */
bool vublk_file_syncs_begin(struct vublk_file_syncs *syncs, uint64_t *number,
			    struct vublk_file_waiter *waiter);
/*
 * Like vublk_file_syncs_begin(), but for the blocking method. Waits until the caller leads a sync
 * that covers all writes that are complete at this call, or until such a sync has ended. Returns
 * whether the caller leads.
 */
bool vublk_file_syncs_wait(struct vublk_file_syncs *syncs);
/*
 * Ends the caller's sync. Signals all waiters except `own`, the caller's waiter (NULL: the caller
 * has none).
 */
void vublk_file_syncs_end(struct vublk_file_syncs *syncs, const struct vublk_file_waiter *own);
/*
 * Removes `waiter` from the list. Must be called before the waiter is freed and its descriptor is
 * closed.
 */
void vublk_file_syncs_leave(struct vublk_file_syncs *syncs, struct vublk_file_waiter *waiter);

/*
 * Returns the number of the last sync that has ended. If this sync or an earlier one has failed,
 * the failure is already recorded.
 */
static inline uint64_t vublk_file_syncs_ended(const struct vublk_file_syncs *syncs)
{
	return vublk_load_acquire(&syncs->ended); /* S */
}

/* --- calls --------------------------------------------------------------------- */

/*
 * Makes the call of a step and waits for its end. Returns a number of bytes, 0, or a negative
 * errno.
 */
int64_t vublk_file_call_blocking(const struct vublk_file *file,
				 const struct vublk_file_step *step);

/*
 * Returns whether the worker's thread may make the call itself, because the call does not wait for
 * a disk. The caller must limit how many bytes such calls move between two polls.
 */
bool vublk_file_is_instant(const struct vublk_file *file, const struct vublk_engine_io *io,
			   const struct vublk_file_step *step);
/*
 * Makes a call for which vublk_file_is_instant() is true. Returns as vublk_file_call_blocking()
 * does.
 */
int64_t vublk_file_call_instant(const struct vublk_file *file,
				const struct vublk_file_step *step);

/* Decides from the hits and misses so far whether a fast path is worth trying. */
struct vublk_file_backoff {
	unsigned misses; /* grows with each miss, and is halved by each hit */
	unsigned skip;   /* how many more times the fast path is skipped */
};

#define VUBLK_FILE_MAX_MISSES 255u

static inline bool vublk_file_backoff_try(struct vublk_file_backoff *backoff)
{
	if (!backoff->skip)
		return true;
	backoff->skip--;
	return false;
}

static inline void vublk_file_backoff_hit(struct vublk_file_backoff *backoff)
{
	backoff->misses /= 2;
}

static inline void vublk_file_backoff_miss(struct vublk_file_backoff *backoff)
{
	backoff->misses = VUBLK_MIN(backoff->misses * 2 + 1, VUBLK_FILE_MAX_MISSES);
	backoff->skip = backoff->misses;
}

/* Decides when to try RWF_NOWAIT. backoff[0] is for reads, and backoff[1] for writes. */
struct vublk_file_tries {
	struct vublk_file_backoff backoff[2];
};

/* Returns whether the page cache may have the data of the step. */
bool vublk_file_may_be_cached(const struct vublk_file *file, const struct vublk_engine_io *io,
			      const struct vublk_file_step *step);
/*
 * Makes the call of `step` for the part of the data that is in the page cache, unless recent tries
 * have failed. Returns as vublk_file_begin() does, with the call for the remaining part in `step`.
 */
int vublk_file_try(struct vublk_file_queue *queue, struct vublk_file_tries *tries,
		   struct vublk_engine_io *io, struct vublk_file_step *step);

/* Maps the image, if possible. Without the mapping, requests are slower. */
void vublk_file_mapping_open(struct vublk_file *file);
void vublk_file_mapping_close(struct vublk_file *file);
/* Returns whether a batch may execute the step. */
bool vublk_file_mapping_takes(const struct vublk_file *file, const struct vublk_engine_io *io,
			     const struct vublk_file_step *step);

#define VUBLK_FILE_BATCH 32u
#define VUBLK_FILE_BATCH_IOV 64u

/* Requests that one system call executes. They are either all reads or all writes. */
struct vublk_file_batch {
	bool is_write;
	pid_t pid; /* of this process */
	struct vublk_file_backoff backoff;
	unsigned num_ios, num_iov;
	unsigned first_iov; /* how many of `buffers` belong to the first request */
	struct vublk_engine_io *ios[VUBLK_FILE_BATCH];
	struct iovec image[VUBLK_FILE_BATCH];
	struct iovec buffers[VUBLK_FILE_BATCH_IOV]; /* the buffers of all requests, in order */
};

/* Adds a request. Returns false if the batch is full. */
bool vublk_file_batch_add(struct vublk_file_batch *batch, const struct vublk_file *file,
			  struct vublk_engine_io *io, const struct vublk_file_step *step);
/*
 * Executes the requests of the batch, except the first one of a batch of writes, which the caller
 * must already have executed with a plain call. Returns how many requests, in order, were executed
 * completely. The caller must execute the others with plain calls.
 */
unsigned vublk_file_batch_move(struct vublk_file_batch *batch);

/* Creates a queue that uses io_uring. Returns -ENOSYS, -EPERM, ... if io_uring is not available. */
int vublk_file_uring_queue_new(struct vublk_file *file, struct vublk_engine_queue **queue,
			       struct vublk_error *error);
/* Returns 0 if this process can use io_uring, otherwise a negative errno. */
int vublk_file_uring_probe(void);
/*
 * Returns the most likely cause of the errno `code` (positive) of io_uring, and what to do about
 * it.
 */
const char *vublk_file_uring_cause(int code);

/* Creates a queue that makes blocking calls. */
int vublk_file_blocking_queue_new(struct vublk_file *file, struct vublk_engine_queue **queue,
				  struct vublk_error *error);

#endif
