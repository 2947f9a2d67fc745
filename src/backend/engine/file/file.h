/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_ENGINE_FILE_FILE_H
#define VUBLK_BACKEND_ENGINE_FILE_FILE_H

/*
 * The parts of the file engine. engine-file.c opens the image; engine-file-step.c
 * turns a request into system calls, one step after the other, without making
 * them; engine-file-uring.c and engine-file-blocking.c make them, the former after
 * engine-file-inline.c could not.
 */
#include "backend/engine/engine.h"

#include "util/checked.h"
#include "util/log.h"

/* What a step moves at most when it goes through memory of the engine's own. */
#define VUBLK_FILE_PIECE_BYTES (UINT64_C(1) << 20)

/* The image of a file in memory, mapped for the kernel to copy from and to. */
struct vublk_file_window {
	char *base; /* NULL: there is none */
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
	bool inlined;            /* what does not wait needs no io_uring */
	uint32_t memory_align;   /* of buffers, when direct */
	uint32_t offset_align;   /* of offsets and lengths, when direct */
	void *zeros;             /* VUBLK_FILE_PIECE_BYTES of them, page aligned */
	struct vublk_file_window window;

	/* any worker, relaxed: what the file system turned out not to have */
	bool no_punch;
	bool no_zero_range;
	bool no_nowait[2]; /* RWF_NOWAIT of reads, of writes */
	bool lost_writes;  /* a sync failed; never false again */
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

/* Begins a request: 1: `step` is what it needs; 0: it is done, io->result says how. */
int vublk_file_begin(struct vublk_file_queue *queue, struct vublk_engine_io *io,
		     struct vublk_file_step *step);

/* What a request that was begun and is not done needs, once more. */
int vublk_file_step(struct vublk_file_queue *queue, struct vublk_engine_io *io,
		    struct vublk_file_step *step);

/* Takes what the last step returned (bytes, 0, or a negative errno); as begin(). */
int vublk_file_next(struct vublk_file_queue *queue, struct vublk_engine_io *io, int64_t result,
		    struct vublk_file_step *step);

/* Whether the request's completion says that data is stable. */
bool vublk_file_promises(const struct vublk_engine_io *io);
/* Whether no request may say so any more. */
bool vublk_file_has_lost_writes(const struct vublk_file *file);
/* A sync failed: from now on no request may say so. The first one is logged. */
void vublk_file_lose_writes(struct vublk_file *file, int result);

/* Makes the call of a step and waits for it. Bytes, 0, or a negative errno. */
int64_t vublk_file_call_blocking(const struct vublk_file *file,
				 const struct vublk_file_step *step);

/*
 * Whether a call may be made on the worker's thread, for it waits for no disk; the
 * calls' bytes between two polls are limited by the caller.
 */
bool vublk_file_is_instant(const struct vublk_file *file, const struct vublk_engine_io *io,
			   const struct vublk_file_step *step);
/* Makes such a call. Bytes, 0, or a negative errno. */
int64_t vublk_file_call_instant(const struct vublk_file *file,
				const struct vublk_file_step *step);

/* A queue's experience with a way that is fast, or in vain. */
struct vublk_file_luck {
	unsigned misses; /* grows by each, and shrinks by each hit */
	unsigned skip;   /* so many times it is not tried */
};

#define VUBLK_FILE_MAX_MISSES 255u

static inline bool vublk_file_luck_try(struct vublk_file_luck *luck)
{
	if (!luck->skip)
		return true;
	luck->skip--;
	return false;
}

static inline void vublk_file_luck_hit(struct vublk_file_luck *luck)
{
	luck->misses /= 2;
}

static inline void vublk_file_luck_miss(struct vublk_file_luck *luck)
{
	luck->misses = VUBLK_MIN(luck->misses * 2 + 1, VUBLK_FILE_MAX_MISSES);
	luck->skip = luck->misses;
}

/* With RWF_NOWAIT, of reads and of writes. */
struct vublk_file_tries {
	struct vublk_file_luck luck[2];
};

/* Whether the page cache may answer the step. */
bool vublk_file_may_be_cached(const struct vublk_file *file, const struct vublk_engine_io *io,
			      const struct vublk_file_step *step);
/* Tries it, if it is worth a try; the outcome is as begin()'s, and the step what is left. */
int vublk_file_try(struct vublk_file_queue *queue, struct vublk_file_tries *tries,
		   struct vublk_engine_io *io, struct vublk_file_step *step);

/* Makes the window where it can be had; without, nothing is different but the speed. */
void vublk_file_window_open(struct vublk_file *file);
void vublk_file_window_close(struct vublk_file *file);
/* Whether a step may be made by a batch. */
bool vublk_file_window_takes(const struct vublk_file *file, const struct vublk_engine_io *io,
			     const struct vublk_file_step *step);

#define VUBLK_FILE_BATCH 32u
#define VUBLK_FILE_BATCH_IOV 64u

/* Requests that are moved by one system call: all reads, or all writes. */
struct vublk_file_batch {
	bool is_write;
	pid_t pid; /* of this process */
	struct vublk_file_luck luck;
	unsigned num_ios, num_iov;
	unsigned first_iov; /* how many of them are the first request's */
	struct vublk_engine_io *ios[VUBLK_FILE_BATCH];
	struct iovec image[VUBLK_FILE_BATCH];
	struct iovec buffers[VUBLK_FILE_BATCH_IOV]; /* one request's after the other's */
};

/* False: it is full. */
bool vublk_file_batch_add(struct vublk_file_batch *batch, const struct vublk_file *file,
			  struct vublk_engine_io *io, const struct vublk_file_step *step);
/*
 * Moves what it can: the number of requests, in order, which are moved as a whole; of a batch of
 * writes from the second on. The rest is the caller's to do in the plain way, and to do first.
 */
unsigned vublk_file_batch_move(struct vublk_file_batch *batch);

/* A method's queue; -ENOSYS, -EPERM and the like: not on this system. */
int vublk_file_uring_queue_new(struct vublk_file *file, struct vublk_engine_queue **queue,
			       struct vublk_error *error);
/* Whether this process may use io_uring; the errno that says why not, negative. */
int vublk_file_uring_probe(void);
/* What most likely made io_uring fail with this errno value, and what to do about it. */
const char *vublk_file_uring_cause(int code);

int vublk_file_blocking_queue_new(struct vublk_file *file, struct vublk_engine_queue **queue,
				  struct vublk_error *error);

#endif
