/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_ENGINE_H
#define VUBLK_ENGINE_H

/*
 * Storage engines: how a back-end (<vublk/backend.h>, `vublk serve`) uses storage that the library
 * itself does not support.
 *
 * An engine stores the data of one disk. It does not see virtio structures. It receives reads,
 * writes, flushes, discards and write-zeroes requests, and completes them in any order.
 *
 * The engine NAME is a module: the shared library libvublk-engine-NAME.so, which has one
 * VUBLK_ENGINE_MODULE() and is linked with libvublk. The option engine=NAME loads it, unless an
 * engine of that name is built in. The library looks for the file in the folders of the environment
 * variable VUBLK_ENGINE_PATH, which are separated by colons (a program with changed privileges
 * ignores the variable), then in the folder of the installation, LIBDIR/vublk. A module stays loaded
 * until the process ends.
 *
 * One thread, the control thread, opens, refreshes and closes an engine. Each worker thread creates
 * one queue in the engine, and only that thread calls the functions of the queue. No queue exists
 * when the engine is closed. A function of a queue must not block, because all requests of the
 * thread would wait: slow work belongs to other threads or to a descriptor. The control thread does
 * nothing else while it calls open(), refresh() or close(), but the workers run during refresh().
 *
 * The structs of this header never change within one VUBLK_ENGINE_VERSION. Their members `reserved`
 * are 0. A later library may use them, with 0 for the current behaviour. A module with another
 * version or other sizes is refused. The callbacks of a module return 0 or a negative errno value,
 * and describe a failure in `error`, which may be NULL, with vublk_engine_fail().
 *
 * Unless a function says otherwise:
 * States: any.
 * Threads: any.
 */

#include <vublk/error.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* The version of the interface between the library and the modules. */
#define VUBLK_ENGINE_VERSION 1

/* The library's side of one open engine. Valid from open() until close() has returned. */
struct vublk_engine_host;

/* --- requests -------------------------------------------------------------------- */

enum vublk_engine_op {
	VUBLK_OP_READ,
	VUBLK_OP_WRITE,
	VUBLK_OP_FLUSH,        /* every write that completed before this request was submitted, on
				  any queue, survives a power failure when the flush completes */
	VUBLK_OP_DISCARD,      /* a hint: the data of the range is no longer needed */
	VUBLK_OP_WRITE_ZEROES, /* the range reads as zeroes afterwards */
};

#define VUBLK_IO_DURABLE 0x1u   /* a write or write zeroes: the request completes only when its
				   data would survive a power failure */
#define VUBLK_IO_MAY_UNMAP 0x2u /* write zeroes: the zeroed blocks may be deallocated */

/* A value that belongs to the engine. */
union vublk_engine_scratch {
	void *pointer;
	uint64_t number;
};

/* A request. It belongs to the engine from submit() until poll() returns it. */
struct vublk_engine_io {
	enum vublk_engine_op op;
	unsigned flags;  /* VUBLK_IO_* */
	/*
	 * In bytes, multiples of 512, within the size of the disk. A driver can ignore the block
	 * size, so `offset` and `bytes` need not be multiples of it. Both are 0 for a flush.
	 */
	uint64_t offset;
	uint64_t bytes;
	/*
	 * The buffers of a read or a write, `bytes` bytes in total; they need not be aligned. The
	 * engine may modify the array. The memory is shared with the driver, which can change it at
	 * any time. The front-end can also truncate the memory's file: the process then reads
	 * zeroes there, but a system call that gets the address fails with EFAULT.
	 */
	struct iovec *iov;
	unsigned num_iov;

	int result; /* set by the engine before poll() returns the request: 0 or a negative errno
		       value. A driver sees every failure as an I/O error */

	/* for the engine; undefined when the request is submitted */
	struct vublk_engine_io *next;
	union vublk_engine_scratch scratch[6];
};

/* --- an engine ------------------------------------------------------------------- */

/* The geometry of a disk, as the driver sees it. All sizes are in bytes. */
struct vublk_engine_geometry {
	uint64_t size_bytes;           /* a multiple of 512 and of block_bytes, not 0 */
	uint32_t block_bytes;          /* the logical block size: a power of two from 512 to 2 MiB;
					  0: 512 */
	uint32_t min_block_bytes;      /* the smallest block size that the user may choose with
					  logical-block-size; 0: 512 */
	uint32_t physical_block_bytes; /* the preferred unit of writes: block_bytes times a power of
					  two; 0: block_bytes */
	uint32_t optimal_io_bytes;     /* the preferred size of requests; 0: not known */
	uint32_t discard_bytes;        /* the granularity of a discard; 0: no discards */
	bool zeroes_may_unmap;         /* write zeroes with VUBLK_IO_MAY_UNMAP deallocates blocks */
	bool read_only;                /* no write, discard or write zeroes is submitted */
	uint64_t reserved[4];          /* 0 */
};

struct vublk_engine_ops;

/* An engine. A module has it as the first member of a struct of its own, and zeroes the rest. */
struct vublk_engine {
	/* set by the library when open() has returned */
	const struct vublk_engine_ops *ops;
	struct vublk_engine_host *host;

	/* set by open(). Later, only refresh() may change a member, and only geometry.size_bytes */
	struct vublk_engine_geometry geometry;
	char description[256]; /* for messages, such as "file '/x/disk.img', direct" */
	uint64_t identity;     /* the same number for the same storage, from which the disk's
				  serial is made; 0: unknown */
	uint64_t reserved[4];  /* 0 */
};

/* The parameters of open(). Everything except `host` is borrowed during the call. */
struct vublk_engine_params {
	struct vublk_engine_host *host; /* for vublk_engine_log(), also before open() returns */
	const char *path;               /* the option blk-file; NULL: not given */
	uint64_t size_bytes;            /* the option size, a multiple of 512; 0: not given */
	bool read_only;                 /* the option read-only: the engine must set
					   geometry.read_only, otherwise it is refused */
	unsigned num_queues;            /* the number of queues that the workers will create, from
					   1 to 256; 0: unknown */
	uint64_t reserved[8];           /* 0 */
};

struct vublk_engine_queue_ops;

/* A thread's access to an engine: the first member of the module's own struct. */
struct vublk_engine_queue {
	const struct vublk_engine_queue_ops *ops;
	struct vublk_engine *engine;
	/*
	 * A descriptor that polls readable when poll() has something to do, and stays readable
	 * until poll() or woken() has done it. The descriptor belongs to the engine and never
	 * changes. -1: submit() and commit() do all the work, so poll() needs to be called only
	 * after them.
	 */
	int fd;
	/*
	 * If not 0, poll() is called at the latest after this many milliseconds. Each function of
	 * the queue may change the value.
	 */
	unsigned retry_ms;
	uint64_t reserved[4]; /* 0 */
};

/* The flags of an engine. */
#define VUBLK_ENGINE_USES_PATH 0x1u /* the engine uses the option blk-file, which is refused
				       otherwise */
#define VUBLK_ENGINE_USES_SIZE 0x2u /* the engine uses the option size, which is refused
				       otherwise */

/* The functions of an engine. The control thread calls all of them except queue_new(). */
struct vublk_engine_ops {
	const char *name; /* the NAME of the module */
	unsigned flags;   /* VUBLK_ENGINE_USES_* */
	/*
	 * The options that only this engine has, ended by an element whose name is NULL. The user
	 * sets them like all others (`-o NAME=VALUE`), and --list-options shows them. The words of
	 * an option, and the types "number", "size" and "bool", are checked before open() is
	 * called. A name of vublk_backend_options() is refused. NULL: none.
	 */
	const struct vublk_property *options;

	/* Opens the storage, and stores an engine that the module has allocated in `engine`. */
	int (*open)(const struct vublk_engine_params *params, struct vublk_engine **engine,
		    struct vublk_error *error);
	/* Closes the storage and frees the engine. */
	void (*close)(struct vublk_engine *engine);
	/*
	 * Determines the size again and stores it in geometry.size_bytes. Called when the operator,
	 * or the engine with vublk_engine_request_refresh(), asks for it. NULL: the size never
	 * changes.
	 */
	int (*refresh)(struct vublk_engine *engine, struct vublk_error *error);

	/*
	 * Returns the descriptor of the image that an upgrade (`vublk serve --take-over`) passes to
	 * the new process. A module returns -1, and the new process opens the storage with the same
	 * options: for a moment two processes have it open, but only one of them executes requests.
	 * NULL: the disk cannot be handed to another process.
	 */
	int (*image_fd)(const struct vublk_engine *engine);
	/*
	 * has_lost_writes() returns whether writes were lost after they had completed. In an
	 * upgrade, lose_writes() tells the new process's engine that the old process has lost
	 * writes. After a loss, flushes and durable writes must fail. NULL: the engine never loses
	 * writes.
	 */
	bool (*has_lost_writes)(const struct vublk_engine *engine);
	void (*lose_writes)(struct vublk_engine *engine);

	/*
	 * Creates a queue, whose ops and engine the module sets, and stores it in `queue`. Called
	 * by a worker thread; several workers may call it at the same time.
	 */
	int (*queue_new)(struct vublk_engine *engine, struct vublk_engine_queue **queue,
			 struct vublk_error *error);
	void (*reserved[8])(void); /* NULL */
};

/* The functions of a queue, called only by the thread that created it. */
struct vublk_engine_queue_ops {
	/* Frees the queue. All of its requests are complete. */
	void (*free)(struct vublk_engine_queue *queue);
	/* Takes a request. poll() reports its completion, even if the request fails immediately. */
	void (*submit)(struct vublk_engine_queue *queue, struct vublk_engine_io *io);
	/*
	 * Ends a batch of submitted requests. The engine may delay each request until then, so that
	 * a batch costs one system call. NULL: the engine never delays a request.
	 */
	void (*commit)(struct vublk_engine_queue *queue);
	/* Called when `fd` is readable, before poll(). NULL: poll() does the work. */
	void (*woken)(struct vublk_engine_queue *queue);
	/*
	 * Stores at most `max` requests that are complete in `ios`, and returns their number.
	 * Called often, so it must be quick when no request is complete.
	 */
	unsigned (*poll)(struct vublk_engine_queue *queue, struct vublk_engine_io **ios,
			 unsigned max);
	void (*reserved[4])(void); /* NULL */
};

/* --- a module -------------------------------------------------------------------- */

/* The object that a module exports as `vublk_engine_module`. */
struct vublk_engine_module {
	uint32_t version; /* VUBLK_ENGINE_VERSION of the headers with which the module was built */
	/* the sizes of the structs in these headers */
	uint32_t ops_bytes, queue_ops_bytes, engine_bytes, queue_bytes, io_bytes, params_bytes;
	uint32_t reserved[5]; /* 0 */
	const struct vublk_engine_ops *ops;
};

/* Defined by VUBLK_ENGINE_MODULE() in the module, not by the library. */
extern const struct vublk_engine_module vublk_engine_module;

/* Makes a module of a `struct vublk_engine_ops`, once per module, outside of any function. */
#define VUBLK_ENGINE_MODULE(engine_ops)                                       \
	const struct vublk_engine_module vublk_engine_module = {              \
		VUBLK_ENGINE_VERSION,                                         \
		(uint32_t)sizeof(struct vublk_engine_ops),                    \
		(uint32_t)sizeof(struct vublk_engine_queue_ops),              \
		(uint32_t)sizeof(struct vublk_engine),                        \
		(uint32_t)sizeof(struct vublk_engine_queue),                  \
		(uint32_t)sizeof(struct vublk_engine_io),                     \
		(uint32_t)sizeof(struct vublk_engine_params),                 \
		{ 0, 0, 0, 0, 0 },                                            \
		&(engine_ops),                                                \
	}

/* --- helpers --------------------------------------------------------------------- */

/*
 * Describes a failure: stores `code`, a positive errno value, and a sentence in `error` (may be
 * NULL). The sentence says what failed, on what, why, and what to do, without a final full stop.
 * Errors: always returns -`code`.
 */
int vublk_engine_fail(struct vublk_error *error, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * Writes a line to the back-end's log. The library passes at most five lines of each kind in ten
 * seconds, so that neither the storage nor a driver can fill the log; debug lines are not limited.
 * Errors: none.
 */
void vublk_engine_log(struct vublk_engine_host *host, enum vublk_log_level level,
		      const char *format, ...) __attribute__((format(printf, 3, 4)));

/*
 * Asks the control thread to call refresh() soon, because the size of the storage may have changed.
 * If the size has changed, the driver is told. Several requests can lead to one call.
 * Errors: none.
 */
void vublk_engine_request_refresh(struct vublk_engine_host *host);

/*
 * Returns the value of an option of the engine's own table: the one that the user gave, or else
 * the default, which may be NULL. The string is borrowed during open().
 * Errors: returns NULL for a name that the table does not have.
 * Threads: the one that calls open(), during the call.
 */
const char *vublk_engine_option(const struct vublk_engine_params *params, const char *name);

/*
 * Stores the value of an option of the type "number" or "size", which must be from `min` to `max`.
 * `value` keeps its content if the option was not given and has no default.
 * Errors:
 *   EINVAL  the value is out of range; `error` names the option and the range
 * Threads: the one that calls open(), during the call.
 */
int vublk_engine_option_number(const struct vublk_engine_params *params, const char *name,
			       uint64_t min, uint64_t max, uint64_t *value,
			       struct vublk_error *error);

/*
 * Stores the value of an option of the type "bool". `value` keeps its content if the option was not
 * given and has no default.
 * Errors:
 *   EINVAL  the value is neither on nor off; `error` names the option
 * Threads: the one that calls open(), during the call.
 */
int vublk_engine_option_bool(const struct vublk_engine_params *params, const char *name,
			     bool *value, struct vublk_error *error);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
