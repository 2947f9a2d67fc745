/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_ENGINE_ENGINE_H
#define VUBLK_BACKEND_ENGINE_ENGINE_H

/*
 * The interface between requests and storage. An engine knows nothing of virtio: it receives reads,
 * writes, flushes, discards and write-zeroes requests within its size, and completes them in any
 * order. null.c is the example to copy.
 *
 * The control thread opens and closes an engine. Each worker thread creates its own queue in the
 * engine, and only that thread uses the queue. A submitted request belongs to the engine until
 * poll() returns it. The engine may delay submitted requests until commit(), so that a batch costs
 * one system call.
 */

#include <vublk/error.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum vublk_engine_op {
	VUBLK_OP_READ,
	VUBLK_OP_WRITE,
	VUBLK_OP_FLUSH,
	VUBLK_OP_DISCARD,
	VUBLK_OP_WRITE_ZEROES,
};

#define VUBLK_IO_DURABLE 0x1u   /* the request completes only when its data would survive a power
				   failure */
#define VUBLK_IO_MAY_UNMAP 0x2u /* the zeroed blocks may be deallocated */

struct vublk_engine_io {
	/* set by the caller */
	enum vublk_engine_op op;
	unsigned flags;
	uint64_t offset; /* `offset` and `bytes` are multiples of 512, and within the size of the
			    disk */
	uint64_t bytes;
	struct iovec *iov; /* for READ and WRITE; `bytes` bytes in total. The engine modifies the
			      array */
	unsigned num_iov;

	/* set by the engine: 0 or a negative errno */
	int result;

	/* private to the engine while the request is submitted */
	struct vublk_engine_io *next;
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

/* A singly linked list of requests: first in, first out. */
struct vublk_engine_list {
	struct vublk_engine_io *head, *tail;
};

static inline void vublk_engine_list_add(struct vublk_engine_list *list,
					 struct vublk_engine_io *io)
{
	io->next = NULL;
	if (list->head)
		list->tail->next = io;
	else
		list->head = io;
	list->tail = io;
}

static inline struct vublk_engine_io *vublk_engine_list_take(struct vublk_engine_list *list)
{
	struct vublk_engine_io *io = list->head;

	if (io)
		list->head = io->next;
	return io;
}

/* Moves at most `max` requests from the list to `ios`. Returns how many it has moved. */
unsigned vublk_engine_list_take_many(struct vublk_engine_list *list,
				     struct vublk_engine_io **ios, unsigned max);

/* The geometry of a disk, as the guest sees it. */
struct vublk_engine_geometry {
	uint64_t size_bytes;           /* a multiple of 512 */
	uint32_t block_bytes;          /* the logical block size */
	uint32_t min_block_bytes;      /* the smallest possible logical block size; 0: 512 */
	uint32_t physical_block_bytes; /* the preferred unit of writes: block_bytes times a power of
					  two */
	uint32_t optimal_io_bytes;     /* 0: not known */
	uint32_t discard_bytes;        /* the granularity of a discard; 0: no discards */
	bool zeroes_may_unmap;
	bool read_only;
};

enum vublk_cache_mode {
	VUBLK_CACHE_AUTO,     /* direct, unless O_DIRECT has no effect or cannot serve every
				 request */
	VUBLK_CACHE_DIRECT,   /* O_DIRECT */
	VUBLK_CACHE_BUFFERED, /* the page cache */
};

enum vublk_io_method {
	VUBLK_IO_AUTO,     /* io_uring for calls that may wait. If it is not available: blocking,
			      with a warning */
	VUBLK_IO_URING,    /* io_uring for every call that it supports */
	VUBLK_IO_BLOCKING, /* blocking system calls on the worker's thread */
};

/* The options of an engine. The call that opens the engine borrows them, except `log`. */
struct vublk_engine_options {
	const char *path;
	uint64_t size_bytes; /* 0: not given */
	uint32_t block_bytes, physical_block_bytes; /* of the geometry; 0: the engine chooses */
	bool read_only;
	bool unlocked; /* no lock; the user ensures that no other program writes to the image */
	enum vublk_cache_mode cache;
	enum vublk_io_method method;
	const struct vublk_log *log; /* outlives the engine */
	/*
	 * In an upgrade: the descriptor with which another process has opened and locked the image.
	 * The engine keeps a duplicate, and must not change the file status flags, which both
	 * processes share.
	 */
	bool has_image;
	int image_fd;
};

struct vublk_engine_ops;
struct vublk_log_limit;

/* An engine. Each kind of engine embeds this as the first member of its own struct. */
struct vublk_engine {
	const struct vublk_engine_ops *ops;
	const struct vublk_log *log;
	struct vublk_engine_geometry geometry; /* changed only by the control thread: at the opening
						  and in a rescan */
	char description[256];                 /* for example "file '/x/disk.img', direct" */
	uint64_t identity;                     /* identifies the storage; 0: the storage has no
						  identity */
	uint64_t rescans;                      /* how many rescans there were; used by the
						  control thread */
};

struct vublk_engine_queue_ops;

/*
 * One thread's access to an engine. Each kind of engine embeds this as the first member of its own
 * struct.
 */
struct vublk_engine_queue {
	const struct vublk_engine_queue_ops *ops;
	struct vublk_engine *engine;
	/*
	 * A descriptor that becomes readable when completions arrive after poll() found none; -1:
	 * submit() and commit() do all the work.
	 */
	int fd;
	/*
	 * If not 0, the worker must call poll() again after this time, because the kernel has
	 * refused a request for now, and no event tells when it can accept the request.
	 */
	unsigned retry_ms;
};

struct vublk_engine_ops {
	const char *name;

	/* Opens an engine. Called by the control thread. */
	int (*open)(const struct vublk_engine_options *options, struct vublk_engine **engine,
		    struct vublk_error *error);
	void (*close)(struct vublk_engine *engine);
	/* Updates geometry.size_bytes. NULL: the size never changes. */
	int (*refresh)(struct vublk_engine *engine, struct vublk_error *error);

	/*
	 * For an upgrade: returns the descriptor of the image, which the engine still owns, or -1
	 * if there is no image. NULL: the disk cannot be handed to another process.
	 */
	int (*image_fd)(const struct vublk_engine *engine);
	/*
	 * has_lost_writes() returns whether writes were lost after they had completed, and
	 * lose_writes() records such a loss. After a loss, flushes and durable writes fail. NULL:
	 * the engine never loses writes.
	 */
	bool (*has_lost_writes)(const struct vublk_engine *engine);
	void (*lose_writes)(struct vublk_engine *engine);

	/* Creates a queue and sets its ops. Called by a worker. */
	int (*queue_new)(struct vublk_engine *engine, struct vublk_engine_queue **queue,
			 struct vublk_error *error);
};

/* The functions of a queue, called only by the thread that created it. */
struct vublk_engine_queue_ops {
	void (*free)(struct vublk_engine_queue *queue); /* called while no request is outstanding */
	void (*submit)(struct vublk_engine_queue *queue, struct vublk_engine_io *io);
	void (*commit)(struct vublk_engine_queue *queue); /* NULL: the engine never delays a
							     request */
	void (*woken)(struct vublk_engine_queue *queue);  /* called when `fd` is readable; NULL:
							     no-op */
	unsigned (*poll)(struct vublk_engine_queue *queue, struct vublk_engine_io **ios,
			 unsigned max);
};

extern const struct vublk_engine_ops vublk_engine_file;
extern const struct vublk_engine_ops vublk_engine_memory;
extern const struct vublk_engine_ops vublk_engine_null;

/* The largest block size. The smallest is 512, and every block size is a power of two. */
#define VUBLK_ENGINE_MAX_BLOCK_BYTES (UINT32_C(2) << 20)

/* Returns the engine of this name, or NULL. */
const struct vublk_engine_ops *vublk_engine_find(const char *name);
/* Returns all names in one string: "file, memory, null". */
const char *vublk_engine_names(void);

/* Opens an engine. Checks and sets the requested block sizes. */
int vublk_engine_open(const struct vublk_engine_ops *ops,
		      const struct vublk_engine_options *options, struct vublk_engine **engine,
		      struct vublk_error *error);
/* Reads the size again and logs the result. Returns whether the size has changed. */
bool vublk_engine_rescan(struct vublk_engine *engine, struct vublk_log_limit *limit);
/* Closes the engine. NULL is a no-op. */
void vublk_engine_close(struct vublk_engine *engine);

/* Checks the options of an engine without a file: a valid size, and no path. */
int vublk_engine_check_size(const char *name, const struct vublk_engine_options *options,
			    struct vublk_error *error);

#endif
