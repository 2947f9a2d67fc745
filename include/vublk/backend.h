/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_H
#define VUBLK_BACKEND_H

/*
 * A back-end, which serves a disk on a vhost-user socket. `vublk serve` is built on this interface.
 *
 * A back-end listens (or is given a socket), serves one front-end at a time, and waits for the next
 * one when the front-end disconnects. Each of its threads executes the requests of a group of
 * queues. All other work is done on the thread that calls vublk_backend_run() or
 * vublk_backend_process().
 *
 * A front-end can truncate the memory that it shares. To survive such a truncation, the library
 * installs a SIGBUS handler when a front-end first shares memory; <vublk/sigbus.h> says what the
 * handler means for an application with a handler of its own.
 *
 * Unless a function says otherwise:
 * States: any.
 * Threads: one at a time.
 */

#include <vublk/error.h>
#include <vublk/statistics.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

struct vublk_backend;

/*
 * Returns the options of a back-end, as a static array that ends with an entry whose name is NULL.
 * Each entry has a type, a default and a description.
 * Threads: any.
 */
const struct vublk_property *vublk_backend_options(void);

/*
 * Stores in `options` the options that only the engine `engine` has, as a static array that ends
 * with an entry whose name is NULL. Loads the engine if it is a module (<vublk/engine.h>).
 * Errors:
 *   EINVAL   there is no such engine
 *   ENOTSUP  the module of the engine cannot be used
 * Threads: any.
 */
int vublk_backend_engine_options(const char *engine, const struct vublk_property **options,
				 struct vublk_error *error);

/*
 * Opens the disk and the socket. Front-ends are not served before vublk_backend_run() or
 * vublk_backend_process() is called.
 *
 * `options` is an array of names and values ended by a NULL name (may be NULL), borrowed during the
 * call; vublk_backend_options() lists them:
 *   socket-path  the Unix socket to listen on; or
 *   fd           an open socket (listening or connected), which
 *                the back-end owns after this call, even if the call fails;
 *   socket-mode  permissions of the file at socket-path, octal, 0 to 0777; default: 0777
 *                minus the umask
 *   socket-group the group of that file, a name or a number; default: the group of the process. No
 *                client can connect before mode and group are set;
 *   engine       file (default), memory, null, or the name of a module (<vublk/engine.h>), which may
 *                have options of its own: vublk_backend_engine_options() lists them
 *   blk-file     engine file: the image or block device
 *   size         engines memory and null: the size of the disk in bytes
 *   inflight     on (default) or off: whether an in-flight area (INFLIGHT_SHMFD) is
 *                offered. If a back-end without such an area dies, the front-end cannot tell which
 *                requests were executed
 *   lock         on (default) or off: whether an image that another program uses is refused, as
 *                <vublk/image.h> says. With off, two back-ends can have the image open, as is
 *                necessary for a moment when a VM migrates within one host. The caller must then
 *                make sure that only one of them is used. With a lock, a back-end also waits until
 *                the last requests of a killed predecessor have ended, so leave the lock on for a
 *                back-end that may be restarted
 *   statistics   on or off (default): whether requests are counted from the start
 * and read-only, num-queues, threads, poll, cache, io, write-cache, serial and others.
 * `log` (may be NULL) is copied.
 *
 * The back-end is stored in `backend`, and the caller frees it with vublk_backend_free().
 * Errors:
 *   EINVAL          an option is unknown or missing, has a bad value or contradicts another, or
 *                   `fd` is not a Unix stream socket that is listening or connected
 *   ENOTSUP         the module of the engine cannot be used, or cache or io has a value that is not
 *                   possible for the image
 *   EBUSY           the image is in use
 *   ENOTBLK         the image is neither a file nor a block device
 *   EMEDIUMTYPE     a disk cannot have the size of the image
 *   EADDRINUSE      another process listens on the socket
 *   EEXIST          socket-path names a file that is not a socket
 *   ENAMETOOLONG    socket-path is longer than 107 bytes
 *   ENOENT, EACCES  the socket or the image cannot be created or opened
 *   EPERM           the process is not root and not in socket-group
 *   ENOMEM, EMFILE, EAGAIN  no memory, no descriptor, no thread
 *   others          of open(2), bind(2) or chmod(2)
 * Threads: any.
 */
int vublk_backend_open(const struct vublk_option *options, const struct vublk_log *log,
		       struct vublk_backend **backend, struct vublk_error *error);

/*
 * Serves until vublk_backend_stop(), a drain or an upgrade ends the service or, if `fd` was a
 * connected socket, until the front-end disconnects. Blocks the calling thread. Before the function
 * returns, the back-end completes the requests that it has begun. A front-end that breaks the
 * protocol ends its own session, not this call.
 * Errors:
 *   others  of epoll_wait(2) or epoll_ctl(2): the service cannot continue
 */
int vublk_backend_run(struct vublk_backend *backend, struct vublk_error *error);

/*
 * Returns a descriptor for the application's own event loop, which then calls
 * vublk_backend_process() instead of vublk_backend_run(). The descriptor belongs to the back-end,
 * and polls readable when vublk_backend_process() has work to do.
 * Errors: none.
 * Threads: any.
 */
int vublk_backend_fd(const struct vublk_backend *backend);

/*
 * Does the pending work without blocking.
 * Returns:
 *   0  the service has ended, as when vublk_backend_run() returns 0
 *   1  call this function again when the descriptor is readable
 * Errors: those of vublk_backend_run().
 */
int vublk_backend_process(struct vublk_backend *backend, struct vublk_error *error);

/*
 * Asks vublk_backend_run() or vublk_backend_process() to end the service.
 * Threads: any; safe in a signal handler.
 */
void vublk_backend_stop(struct vublk_backend *backend);

/*
 * Begins to drain the back-end, for planned maintenance of the process or the storage: it takes no
 * more requests, completes those that it has begun, and flushes the storage. Then the service ends
 * as after vublk_backend_stop(). The connection to the front-end ends only when all requests that
 * were begun are complete, so the next back-end can execute the others. Returns immediately;
 * vublk_backend_get_info() reports the progress.
 *
 * If this takes longer than `timeout_ms` milliseconds, or the flush fails, the back-end serves its
 * front-end as before, and the log says why. A failed flush must not end the process, because only
 * this process knows that writes were lost and can make the driver's later flushes fail.
 * Errors:
 *   EBUSY  the back-end is being drained or handed over already, or is stopping, or the flush of an
 *          earlier drain is not complete
 * Threads: the one that calls vublk_backend_process(), between two calls.
 */
int vublk_backend_drain(struct vublk_backend *backend, uint64_t timeout_ms,
			struct vublk_error *error);

/*
 * Asks vublk_backend_run() or vublk_backend_process() to read the size of the image again, and to
 * report a change to the front-end.
 * Threads: any; safe in a signal handler.
 * Specification: vhost-user, "VHOST_USER_BACKEND_CONFIG_CHANGE_MSG".
 */
void vublk_backend_rescan(struct vublk_backend *backend);

/* --- the current state of the back-end, for a person or a program ---------------------------- */

/*
 *   LISTENING -> SERVING    a front-end has connected
 *   SERVING -> LISTENING    the front-end has disconnected
 *   SERVING -> FINISHED     the same, if `fd` was a connected socket
 *   LISTENING -> FINISHED, SERVING -> STOPPING  vublk_backend_stop()
 *   STOPPING -> FINISHED    the last requests are complete
 */
enum vublk_backend_state {
	VUBLK_BACKEND_LISTENING,
	VUBLK_BACKEND_SERVING,
	VUBLK_BACKEND_STOPPING,
	VUBLK_BACKEND_FINISHED,
};

/*
 * Returns the name of a state, for example "serving", as a static string, or NULL if there is no
 * such state.
 * Threads: any.
 */
const char *vublk_backend_state_name(enum vublk_backend_state state);

/* The progress of vublk_backend_drain(). */
enum vublk_backend_drain_state {
	VUBLK_BACKEND_DRAIN_NONE,
	VUBLK_BACKEND_DRAINING,
	VUBLK_BACKEND_DRAIN_FAILED, /* the back-end serves as before */
	VUBLK_BACKEND_DRAINED,      /* the back-end finishes */
};

struct vublk_backend_info {
	enum vublk_backend_state state;
	uint32_t num_queues;           /* the number of offered queues */
	uint32_t num_threads;          /* the number of threads that execute requests */
	uint32_t num_used_queues;      /* the number of queues that the front-end has set up; 0 if
					  there is no front-end */
	uint64_t size_bytes;           /* of the disk */
	uint64_t rescans;              /* how many times the size was read again */
	uint32_t block_bytes;
	uint32_t physical_block_bytes;
	bool read_only;
	bool write_cache;              /* whether a write may complete before it is stable */
	char serial[24];               /* NUL-terminated */
	char description[256];         /* of the storage: "file '/x/disk.img', direct" */
	/* about the connected front-end; 0 if there is none */
	int64_t peer_pid;              /* the process that connected; 0: unknown */
	uint64_t features;             /* virtio bits that the driver accepted */
	uint64_t protocol_features;    /* vhost-user bits that the front-end accepted */
	/* about the last call of vublk_backend_drain() */
	enum vublk_backend_drain_state drain;
	struct vublk_error drain_failure; /* why the drain failed; code 0: it did not fail */
};

/*
 * Fills `info` with the current state of the back-end. `info_bytes` is sizeof(struct
 * vublk_backend_info). Never blocks.
 * Threads: the one that calls vublk_backend_process(), between two calls of that function.
 */
void vublk_backend_get_info(const struct vublk_backend *backend, struct vublk_backend_info *info,
			    size_t info_bytes);

struct vublk_backend_queue_info {
	bool is_running;  /* a thread executes the requests of the queue */
	uint32_t size;    /* entries of the ring; 0: not set */
	/*
	 * While the queue runs, these are the indices in the guest's memory: how many chains the
	 * driver has made available and how many the back-end has completed, modulo 65536.
	 * Otherwise both are the index at which the ring starts or resumes.
	 */
	uint16_t avail_index;
	uint16_t used_index;
};

/*
 * Fills `info` with the current state of queue `index`. `info_bytes` is sizeof(struct
 * vublk_backend_queue_info). On failure *info is untouched. Never blocks.
 * Errors:
 *   EINVAL  `index` is not less than num_used_queues
 * Threads: the one that calls vublk_backend_process(), between two calls.
 */
int vublk_backend_get_queue_info(const struct vublk_backend *backend, unsigned index,
				 struct vublk_backend_queue_info *info, size_t info_bytes);

/* --- statistics ------------------------------------------------------------------------------- */

/*
 * Starts or stops counting requests. The counters keep their values. The option `statistics` says
 * whether counting is on at the start. A request is counted if it begins while counting is on.
 * Threads: any.
 */
void vublk_backend_set_statistics(struct vublk_backend *backend, bool on);

/*
 * Returns whether requests are counted.
 * Errors: none.
 * Threads: any.
 */
bool vublk_backend_has_statistics(const struct vublk_backend *backend);

/*
 * Fills `stats` with the counters of the requests of kind `kind` on queue `queue`. `stats_bytes` is
 * sizeof(struct vublk_request_stats). Each counter is exact, but while requests are executed, one
 * counter may include a request that another counter does not include yet. On failure *stats is
 * untouched.
 * Errors:
 *   EINVAL  there is no such queue or kind
 * Threads: any.
 */
int vublk_backend_get_stats(const struct vublk_backend *backend, unsigned queue,
			    enum vublk_request_kind kind, struct vublk_request_stats *stats,
			    size_t stats_bytes);

/* --- the end ---------------------------------------------------------------------------------- */

/*
 * Closes the connection, waits until the storage has completed its requests, frees the back-end,
 * and removes the socket at socket-path. NULL is a no-op.
 * Threads: one; not while vublk_backend_run() or vublk_backend_process() runs.
 */
void vublk_backend_free(struct vublk_backend *backend);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
