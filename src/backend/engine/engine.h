/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_ENGINE_ENGINE_H
#define VUBLK_BACKEND_ENGINE_ENGINE_H

/*
 * Declares what the library and its built-in engines use in addition to <vublk/engine.h>, the
 * interface between requests and storage. Modules use only that interface.
 *
 * null.c is the example to copy for a built-in engine, and examples/engine-ram.c for a module.
 */

#include <vublk/engine.h>

#include "util/log.h"

#include <pthread.h>

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
	uint32_t block_bytes, physical_block_bytes; /* the block sizes that the user has set; 0: the
						       engine chooses */
	unsigned num_queues; /* how many queues the workers will create; 0: unknown */
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
	/*
	 * All options of the back-end, ended by a NULL name; may be NULL. The engine finds its own
	 * options among them.
	 */
	const struct vublk_option *given;
	/* Called on any thread when the engine wants to be rescanned. May be NULL. */
	void (*rescan)(void *opaque);
	void *rescan_opaque;
};

struct vublk_engine_host {
	/* constant */
	const struct vublk_engine_ops *ops;
	const struct vublk_log *log;
	void (*rescan)(void *opaque);
	void *rescan_opaque;

	const struct vublk_engine_options *options; /* valid only during open() */
	uint64_t rescans; /* how many rescans there were; used by the control thread */

	/* the limit of vublk_engine_log(), which any thread may call */
	pthread_mutex_t lock;
	struct vublk_log_limit limit;
};

extern const struct vublk_engine_ops vublk_engine_file;
extern const struct vublk_engine_ops vublk_engine_memory;
extern const struct vublk_engine_ops vublk_engine_null;

/* The largest block size. The smallest is 512, and every block size is a power of two. */
#define VUBLK_ENGINE_MAX_BLOCK_BYTES (UINT32_C(2) << 20)

/* Stores the engine of this name. Loads its module if the engine is not built in. */
int vublk_engine_find(const char *name, const struct vublk_engine_ops **ops,
		      struct vublk_error *error);
/* Returns all names in one string: "file, memory, null". */
const char *vublk_engine_names(void);

/*
 * Loads the module of the engine `name`. Errors: ENOENT if the module is not installed (`error`
 * then has no text); ENOTSUP if the module cannot be used.
 */
int vublk_engine_load(const char *name, const struct vublk_engine_ops **ops,
		      struct vublk_error *error);
/* Returns the option `name` of the engine's own table, or NULL. */
const struct vublk_property *vublk_engine_find_option(const struct vublk_engine_ops *ops,
						      const char *name);
/* Checks a value of an engine's own option against the option's type. */
int vublk_engine_check_option(const struct vublk_property *option, const char *value,
			      struct vublk_error *error);

/* Opens an engine. Checks and sets the requested block sizes. */
int vublk_engine_open(const struct vublk_engine_ops *ops,
		      const struct vublk_engine_options *options, struct vublk_engine **engine,
		      struct vublk_error *error);
/* Reads the size again and logs the result. Returns whether the size has changed. */
bool vublk_engine_rescan(struct vublk_engine *engine, struct vublk_log_limit *limit);
/* Closes the engine. NULL is a no-op. */
void vublk_engine_close(struct vublk_engine *engine);

/* Checks the size of an engine without a file. */
int vublk_engine_check_size(const char *name, const struct vublk_engine_params *params,
			    struct vublk_error *error);

#endif
