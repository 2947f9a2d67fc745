/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_ENGINE_FILE_FILE_H
#define VUBLK_BACKEND_ENGINE_FILE_FILE_H

/*
 * The parts of the file engine. file.c opens the image. step.c turns a request into system calls,
 * one step after the other, without making them. blocking.c and uring.c make them; uring.c first
 * tries the fast paths in page-cache.c and batch-copy.c, which need no io_uring.
 */
#include "backend/engine/engine.h"

#include "util/checked.h"
#include "util/log.h"

/* The most that a step moves through the engine's own memory. */
#define VUBLK_FILE_PIECE_BYTES (UINT64_C(1) << 20)

/* A mapping of an image in memory, from and to which the kernel copies. */
struct vublk_file_mapping {
	char *base; /* NULL: no mapping */
	uint64_t bytes;
	int uffd;
};

struct vublk_file {
	struct vublk_engine engine;
	int fd;
	bool direct;
	bool block_device;
	bool blocking;           /* the method is not io_uring */
	bool in_memory;          /* a file on tmpfs or ramfs: no call waits for a disk */
	bool inlined;            /* calls that do not wait bypass io_uring */
	uint32_t memory_align;   /* of buffers, when direct */
	uint32_t offset_align;   /* of offsets and lengths, when direct */
	void *zeros;             /* VUBLK_FILE_PIECE_BYTES of them, page aligned */
	struct vublk_file_mapping mapping;

	/* any worker, relaxed: what requests have found out about the file and its file system */
	bool no_punch;
	bool no_zero_range;
	bool no_nowait[2]; /* RWF_NOWAIT of reads, of writes */
	bool lost_writes;  /* a sync failed; stays true */
};

/* Embedded in the queue of each method. */
struct vublk_file_queue {
	struct vublk_engine_queue queue;
	struct vublk_engine_list done;
	struct vublk_log_limit limit;
};

enum vublk_file_call {
	VUBLK_FILE_READ,
	VUBLK_FILE_WRITE,     /* `flags`: RWF_DSYNC or 0 */
	VUBLK_FILE_SYNC,      /* fdatasync */
	VUBLK_FILE_FALLOCATE, /* `flags`: the mode */
	VUBLK_FILE_DISCARD,   /* BLKDISCARD */
};

/* The system call that a request needs next. */
struct vublk_file_step {
	enum vublk_file_call call;
	int flags;
	uint64_t offset, bytes;
	const struct iovec *iov; /* READ, WRITE */
	unsigned num_iov;
};

/* Begins a request. 1: it needs `step`; 0: it is done, with io->result. */
int vublk_file_begin(struct vublk_file_queue *queue, struct vublk_engine_io *io,
		     struct vublk_file_step *step);

/* Repeats the step that a request in progress needs. */
int vublk_file_step(struct vublk_file_queue *queue, struct vublk_engine_io *io,
		    struct vublk_file_step *step);

/*
 * Takes the result of the last step (bytes, 0, or a negative errno). Returns as vublk_file_begin()
 * does.
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

/* Makes the call of a step and waits for its end. Returns bytes, 0, or a negative errno. */
int64_t vublk_file_call_blocking(const struct vublk_file *file,
				 const struct vublk_file_step *step);

/*
 * Whether a call may be made on the worker's thread because it waits for no disk. The caller
 * limits the bytes of such calls between two polls.
 */
bool vublk_file_is_instant(const struct vublk_file *file, const struct vublk_engine_io *io,
			   const struct vublk_file_step *step);
/* Makes a call for which vublk_file_is_instant() is true. Returns bytes, 0, or a negative errno. */
int64_t vublk_file_call_instant(const struct vublk_file *file,
				const struct vublk_file_step *step);

/* Decides whether a fast path is worth trying, based on its hits and misses so far. */
struct vublk_file_backoff {
	unsigned misses; /* grows with each miss, shrinks with each hit */
	unsigned skip;   /* how many more times to skip the fast path */
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

/* When to try RWF_NOWAIT, for reads and for writes. */
struct vublk_file_tries {
	struct vublk_file_backoff backoff[2];
};

/* Whether the page cache may answer the step. */
bool vublk_file_may_be_cached(const struct vublk_file *file, const struct vublk_engine_io *io,
			      const struct vublk_file_step *step);
/*
 * Tries the page cache if a try seems worthwhile. Returns as vublk_file_begin() does, with the part
 * that remains in `step`.
 */
int vublk_file_try(struct vublk_file_queue *queue, struct vublk_file_tries *tries,
		   struct vublk_engine_io *io, struct vublk_file_step *step);

/* Maps the image if possible. The mapping affects only the speed. */
void vublk_file_mapping_open(struct vublk_file *file);
void vublk_file_mapping_close(struct vublk_file *file);
/* Whether a batch may execute the step. */
bool vublk_file_mapping_takes(const struct vublk_file *file, const struct vublk_engine_io *io,
			     const struct vublk_file_step *step);

#define VUBLK_FILE_BATCH 32u
#define VUBLK_FILE_BATCH_IOV 64u

/* Requests that one system call executes: all reads, or all writes. */
struct vublk_file_batch {
	bool is_write;
	pid_t pid; /* of this process */
	struct vublk_file_backoff backoff;
	unsigned num_ios, num_iov;
	unsigned first_iov; /* how many belong to the first request */
	struct vublk_engine_io *ios[VUBLK_FILE_BATCH];
	struct iovec image[VUBLK_FILE_BATCH];
	struct iovec buffers[VUBLK_FILE_BATCH_IOV]; /* of all requests, in order */
};

/* False: the batch is full. */
bool vublk_file_batch_add(struct vublk_file_batch *batch, const struct vublk_file *file,
			  struct vublk_engine_io *io, const struct vublk_file_step *step);
/*
 * Executes the batch. In a batch of writes it omits the first request, which the caller has
 * executed before by a plain call. Returns how many of the executed requests, in order, were moved
 * completely; the caller executes the remaining ones by plain calls.
 */
unsigned vublk_file_batch_move(struct vublk_file_batch *batch);

/* Creates a queue of a method. -ENOSYS, -EPERM, ...: the method is not available on this system. */
int vublk_file_uring_queue_new(struct vublk_file *file, struct vublk_engine_queue **queue,
			       struct vublk_error *error);
/* Returns 0 if this process may use io_uring, otherwise the negative errno. */
int vublk_file_uring_probe(void);
/* The most likely cause of this errno of io_uring, and what to do. */
const char *vublk_file_uring_cause(int code);

int vublk_file_blocking_queue_new(struct vublk_file *file, struct vublk_engine_queue **queue,
				  struct vublk_error *error);

#endif
