/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_ENGINE_ENGINE_H
#define VUBLK_BACKEND_ENGINE_ENGINE_H

/*
 * The interface between requests and storage. An engine knows nothing of virtio: it gets
 * reads, writes, flushes, discards and zeroes that are checked against its size, and completes
 * them in any order. null.c is the example to copy.
 *
 * The control thread opens and closes an engine. Each worker thread creates its own queue in
 * the engine, and only that thread uses the queue. A submitted request belongs to the engine
 * until poll() returns it. The engine may hold back submitted requests until commit(), so that
 * a batch costs one system call.
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

#define VUBLK_IO_DURABLE 0x1u   /* completes only when its data would survive a power failure */
#define VUBLK_IO_MAY_UNMAP 0x2u /* zeroed blocks need not stay allocated */

struct vublk_engine_io {
	/* the caller's */
	enum vublk_engine_op op;
	unsigned flags;
	uint64_t offset; /* bytes; within the size, a multiple of 512, as is `bytes` */
	uint64_t bytes;
	struct iovec *iov; /* of READ and WRITE, `bytes` in total; the engine changes them */
	unsigned num_iov;

	/* the outcome: 0 or a negative errno */
	int result;

	/* private to the engine while the request is submitted */
	struct vublk_engine_io *next;
	uint64_t done_bytes;
	unsigned stage;
	unsigned retries;
	int durable_error; /* of a durable write that is repeated without its sync; 0: none */
	struct iovec own_iov;
	void *bounce;
};

/* A singly linked list of requests, first in first out. */
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

/* Takes up to `max` requests, as an engine's poll() returns completions. */
unsigned vublk_engine_list_take_many(struct vublk_engine_list *list,
				     struct vublk_engine_io **ios, unsigned max);

/* The geometry of a disk, which the guest sees. */
struct vublk_engine_geometry {
	uint64_t size_bytes;           /* a multiple of 512 */
	uint32_t block_bytes;          /* the smallest unit that it can write without reading */
	uint32_t min_block_bytes;      /* the smallest that requests may have; 0: 512 */
	uint32_t physical_block_bytes; /* its preferred unit of writes; a power of two of blocks */
	uint32_t optimal_io_bytes;     /* 0: not known */
	uint32_t discard_bytes;        /* granularity of a discard; 0: no discards */
	bool zeroes_may_unmap;
	bool read_only;
};

enum vublk_cache_mode {
	VUBLK_CACHE_AUTO,     /* direct where it serves every request, otherwise buffered */
	VUBLK_CACHE_DIRECT,   /* O_DIRECT */
	VUBLK_CACHE_BUFFERED, /* the page cache */
};

enum vublk_io_method {
	VUBLK_IO_AUTO,     /* io_uring for calls that wait; else blocking, with a warning */
	VUBLK_IO_URING,    /* io_uring for every call */
	VUBLK_IO_BLOCKING, /* system calls on the worker's thread */
};

/* Borrowed during the call that opens an engine, except `log`. */
struct vublk_engine_options {
	const char *path;
	uint64_t size_bytes; /* 0: not given */
	uint32_t block_bytes, physical_block_bytes; /* of the geometry; 0: the engine chooses */
	bool read_only;
	bool unlocked; /* the user makes sure that no other program writes meanwhile */
	enum vublk_cache_mode cache;
	enum vublk_io_method method;
	const struct vublk_log *log; /* outlives the engine */
};

struct vublk_engine_ops;
struct vublk_log_limit;

/* Embedded first in each engine's own struct. */
struct vublk_engine {
	const struct vublk_engine_ops *ops;
	const struct vublk_log *log;
	struct vublk_engine_geometry geometry; /* the control thread's; copied for workers */
	char description[256];                 /* "file '/x/disk.img', direct" */
	uint64_t identity;                     /* of the storage; 0: none */
	uint64_t rescans;                      /* the control thread's: how many there were */
};

struct vublk_engine_queue_ops;

/* Embedded first in each engine's own struct. One thread's access to the engine. */
struct vublk_engine_queue {
	const struct vublk_engine_queue_ops *ops;
	struct vublk_engine *engine;
	/*
	 * Readable when completions arrive after poll() found none; -1: submit() does all the work.
	 */
	int fd;
	/*
	 * If this is not 0, the kernel has temporarily refused a request, and no event will say
	 * when the kernel can accept it. So the worker calls poll() again after this time.
	 */
	unsigned retry_ms;
};

struct vublk_engine_ops {
	const char *name;

	/* Called by the control thread. */
	int (*open)(const struct vublk_engine_options *options, struct vublk_engine **engine,
		    struct vublk_error *error);
	void (*close)(struct vublk_engine *engine);
	/* Updates geometry.size_bytes; NULL: the size never changes. */
	int (*refresh)(struct vublk_engine *engine, struct vublk_error *error);

	/* Called by a worker. Sets the queue's ops. */
	int (*queue_new)(struct vublk_engine *engine, struct vublk_engine_queue **queue,
			 struct vublk_error *error);
};

/* Called only by the thread that created the queue. */
struct vublk_engine_queue_ops {
	void (*free)(struct vublk_engine_queue *queue); /* no request is outstanding */
	void (*submit)(struct vublk_engine_queue *queue, struct vublk_engine_io *io);
	void (*commit)(struct vublk_engine_queue *queue); /* NULL: never holds back a request */
	void (*woken)(struct vublk_engine_queue *queue);  /* `fd` is readable; NULL: no-op */
	unsigned (*poll)(struct vublk_engine_queue *queue, struct vublk_engine_io **ios,
			 unsigned max);
};

extern const struct vublk_engine_ops vublk_engine_file;
extern const struct vublk_engine_ops vublk_engine_memory;
extern const struct vublk_engine_ops vublk_engine_null;

/* The largest block size. A block size is a power of two, at least 512. */
#define VUBLK_ENGINE_MAX_BLOCK_BYTES (UINT32_C(2) << 20)

/* The engine of this name, or NULL. */
const struct vublk_engine_ops *vublk_engine_find(const char *name);
/* "file, memory, null" */
const char *vublk_engine_names(void);

/* Opens an engine; an error sentence names it. */
int vublk_engine_open(const struct vublk_engine_ops *ops,
		      const struct vublk_engine_options *options, struct vublk_engine **engine,
		      struct vublk_error *error);
/* Updates the size and logs it; true: it has changed. */
bool vublk_engine_rescan(struct vublk_engine *engine, struct vublk_log_limit *limit);
/* NULL is a no-op. */
void vublk_engine_close(struct vublk_engine *engine);

/* Checks the size option of an engine without a file. */
int vublk_engine_check_size(const char *name, const struct vublk_engine_options *options,
			    struct vublk_error *error);

#endif
