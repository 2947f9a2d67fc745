/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_H
#define VUBLK_BACKEND_H

/*
 * A back-end: a disk served on a vhost-user socket (what `vublk serve` is).
 *
 * A back-end listens (or is given a socket), serves one front-end at a time, and waits for the next
 * front-end when that one disconnects. One thread per group of queues executes requests. All other
 * work is done on the thread that calls vublk_backend_run() or vublk_backend_process().
 *
 * A front-end can truncate the memory that it shares. The library survives that by a SIGBUS
 * handler, which it installs when the first front-end connects; <vublk/sigbus.h> says what this
 * means for an application with a handler of its own.
 *
 * Unless a function says otherwise:
 * States: any.
 * Threads: one at a time.
 */

#include <vublk/error.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

struct vublk_backend;

/*
 * Returns the options, as a static array that ends with an entry whose name is NULL; each has its
 * type, default and description.
 * Threads: any.
 */
const struct vublk_property *vublk_backend_options(void);

/*
 * Opens the disk and the socket; nothing is served yet.
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
 *   engine       file (default), memory, null
 *   blk-file     the image or block device (engine file)
 *   size         bytes of a memory or null disk
 *   inflight     on (default) or off: whether an in-flight area (INFLIGHT_SHMFD) is
 *                offered. Many back-ends have no such area; if a back-end without one dies, the
 *                front-end cannot tell which requests were executed
 *   lock         on (default) or off: whether an image that another program uses is
 *                refused, as <vublk/image.h> says. With off, two back-ends can have it open,
 *                as they must for a moment when a VM migrates on one host; the caller then
 *                makes sure that only one of them is used. A lock also makes a back-end wait
 *                until the last requests of a killed predecessor have ended, so leave the
 *                lock on for a back-end that may be restarted
 *   statistics   on or off (default): whether requests are counted from the start
 *   read-only, num-queues, threads, poll, cache, io, write-cache, serial
 * `log` (may be NULL) is copied.
 *
 * The back-end is stored in `backend`, and the caller frees it with vublk_backend_free().
 * Errors:
 *   EINVAL          an option is unknown, missing, contradicts another or has a bad value, or `fd`
 *                   is not a Unix stream socket that is listening or connected
 *   EBUSY           the image is in use
 *   ENOTBLK         the image is neither a file nor a block device
 *   EMEDIUMTYPE     the size of the image is not that of a disk
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
 * Serves until vublk_backend_stop() or, if `fd` was a connected socket, until the front-end
 * disconnects. Blocks the calling thread, and completes the requests that the back-end has begun
 * before it returns. A front-end that breaks the protocol ends its own session, not this call.
 * Errors:
 *   others  the service cannot continue: of epoll_wait(2) or epoll_ctl(2)
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
 *   1  call it again when the descriptor is readable
 * Errors: those of vublk_backend_run().
 */
int vublk_backend_process(struct vublk_backend *backend, struct vublk_error *error);

/*
 * Asks vublk_backend_run() or vublk_backend_process() to finish.
 * Threads: any; safe in a signal handler.
 */
void vublk_backend_stop(struct vublk_backend *backend);

/*
 * Reads the size of the image again, and reports a change to the front-end.
 * Threads: any; safe in a signal handler.
 * Specification: vhost-user, "VHOST_USER_BACKEND_CONFIG_CHANGE_MSG".
 */
void vublk_backend_rescan(struct vublk_backend *backend);

/* --- what it does now, for a person or a program --------------------------------------------- */

/*
 * LISTENING --a front-end connects--> SERVING --it disconnects--> LISTENING, or FINISHED if `fd`
 * was a connected socket. vublk_backend_stop(): LISTENING -> FINISHED, SERVING -> STOPPING --the
 * last requests are complete--> FINISHED.
 */
enum vublk_backend_state {
	VUBLK_BACKEND_LISTENING,
	VUBLK_BACKEND_SERVING,
	VUBLK_BACKEND_STOPPING,
	VUBLK_BACKEND_FINISHED,
};

/*
 * Returns the name of a state, for example "serving", as a static string; NULL: there is no such
 * state.
 * Threads: any.
 */
const char *vublk_backend_state_name(enum vublk_backend_state state);

struct vublk_backend_info {
	enum vublk_backend_state state;
	uint32_t num_queues;           /* that are offered */
	uint32_t num_threads;          /* that execute requests */
	uint32_t num_used_queues;      /* that the front-end has set up; 0: no front-end */
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
};

/*
 * Fills `info` with what the back-end does now. `info_bytes` is sizeof(struct vublk_backend_info).
 * Never blocks.
 * Threads: the one that calls vublk_backend_process(), between two calls.
 */
void vublk_backend_get_info(const struct vublk_backend *backend, struct vublk_backend_info *info,
			    size_t info_bytes);

struct vublk_backend_queue_info {
	bool is_running;  /* a thread executes its requests */
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
 * Fills `info` with what queue `index` does now. `info_bytes` is sizeof(struct
 * vublk_backend_queue_info). On failure *info is untouched. Never blocks.
 * Errors:
 *   EINVAL  `index` is not less than num_used_queues
 * Threads: the one that calls vublk_backend_process(), between two calls.
 */
int vublk_backend_get_queue_info(const struct vublk_backend *backend, unsigned index,
				 struct vublk_backend_queue_info *info, size_t info_bytes);

/* --- statistics --------------------------------------------------------------------------------- */

enum vublk_backend_request {
	VUBLK_BACKEND_READ,
	VUBLK_BACKEND_WRITE,
	VUBLK_BACKEND_FLUSH,
	VUBLK_BACKEND_DISCARD,
	VUBLK_BACKEND_WRITE_ZEROES,
	VUBLK_BACKEND_OTHER, /* the serial, and types that the disk does not have */
	VUBLK_BACKEND_NUM_REQUESTS,
};

/*
 * Returns the name of a type, for example "read", as a static string; NULL: there is no such type.
 * Threads: any.
 */
const char *vublk_backend_request_name(enum vublk_backend_request request);

#define VUBLK_BACKEND_LATENCY_BUCKETS 288

/*
 * Counters of the requests of one queue and type, over all front-ends and all times at which
 * counting was on. A request that has no header or breaks the ring is not counted.
 */
struct vublk_backend_stats {
	uint64_t count;     /* complete, with any result */
	uint64_t errors;    /* of these: failed or refused */
	uint64_t bytes;     /* data of those that succeeded */
	uint64_t in_flight; /* taken from the ring, and not complete */
	uint64_t total_ns;  /* the sum of the times from taking a request to its completion */
	uint64_t max_ns;    /* the longest */
	/*
	 * latency[i]: how many requests took less than vublk_backend_latency_limit(i), but not less
	 * than vublk_backend_latency_limit(i - 1).
	 */
	uint64_t latency[VUBLK_BACKEND_LATENCY_BUCKETS];
};

/*
 * Returns the upper limit of a bucket in ns. UINT64_MAX: the last bucket, which has no limit.
 * Errors: none.
 * Threads: any.
 */
uint64_t vublk_backend_latency_limit(unsigned bucket);

/*
 * Starts or stops counting; the counters keep their values. The option `statistics` is the setting
 * at the start. A request counts if it begins while counting is on.
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
 * Reads the counters of a queue and type. `stats_bytes` is sizeof(struct vublk_backend_stats). Each
 * counter is exact, but while requests are made, one counter may include a request that another
 * counter does not include yet. On failure *stats is untouched.
 * Errors:
 *   EINVAL  there is no such queue or type
 * Threads: any.
 */
int vublk_backend_get_stats(const struct vublk_backend *backend, unsigned queue,
			    enum vublk_backend_request request, struct vublk_backend_stats *stats,
			    size_t stats_bytes);

/* --- the end ------------------------------------------------------------------------------------ */

/*
 * Closes the connection, waits for the requests that the storage has, frees everything, and removes
 * the socket at socket-path. NULL is a no-op.
 * Threads: one; not while vublk_backend_run() or vublk_backend_process() runs.
 */
void vublk_backend_free(struct vublk_backend *backend);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
