/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_H
#define VUBLK_BLK_H

/*
 * A disk behind a vhost-user socket, in this process: the block I/O API.
 *
 *   struct vublk_blk *blk;
 *   vublk_blk_open("/run/disk.sock", NULL, NULL, 0, &blk, &error);
 *   struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
 *   void *buffer = vublk_blk_alloc(blk, 4096, &error);
 *   vublk_blk_read(queue, 0, buffer, 4096, 0, NULL, &error);
 *   vublk_blk_submit(queue);
 *   vublk_blk_wait(queue, &completion, 1, 1, -1, &error);
 *
 * A queue has no lock, so only one thread at a time may use it. Different threads may use different
 * queues at the same time. The disk has a thread of its own, which handles the connection and calls
 * the handlers, so no call needs an event loop. A handler may call only functions whose line
 * "Threads:" permits handlers. A call that waits for the disk's own thread fails with EBUSY if a
 * handler makes it. To open a disk or to change its memory without waiting, use
 * vublk_blk_open_start(), vublk_blk_alloc_start() and the functions declared after each of them.
 *
 * A parameter such as `info_bytes` is the size of the struct to which the parameter before it
 * points (<vublk/version.h>). A disk is open from the success of vublk_blk_open() or
 * vublk_blk_open_finish() until vublk_blk_close().
 *
 * Unless a function says otherwise:
 * States: open.
 * Threads: any, except handlers.
 */

#include <vublk/device.h>
#include <vublk/error.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

struct vublk_blk;
struct vublk_blk_queue;

/* --- opening and closing --------------------------------------------------------- */

enum vublk_blk_event {
	VUBLK_BLK_RESIZED = 1,      /* the capacity has changed */
	VUBLK_BLK_CONFIG_CHANGED,   /* another field of the config has changed, or may have */
	/*
	 * The disk has stopped looking for a back-end: the back-end was lost with reconnect-ms 0,
	 * reconnect-deadline-ms has passed, or the back-end broke a ring or hung
	 * (request-deadline-ms) and the disk reclaimed all rings. The requests in flight and all
	 * later requests fail.
	 */
	VUBLK_BLK_GAVE_UP,
	/* The connection to the back-end ended. Requests wait for the next back-end. */
	VUBLK_BLK_LOST,
	/* A back-end is connected again, and executes the requests that were in flight. */
	VUBLK_BLK_RECONNECTED,
	/*
	 * Follows LOST, before the next back-end is used: the lost back-end had completed writes
	 * that no flush had made stable, and the disk does not trust it to have kept them (option
	 * unflushed). These writes may be lost. On each queue the flushes in flight fail or, if
	 * there are none, the next flush fails.
	 */
	VUBLK_BLK_WRITES_LOST,
};

/*
 * The loss of a back-end. A disk outlives its back-end. Requests in flight, and requests that are
 * added during the outage (up to the queue's size), wait until a back-end listens at the same path
 * again. That back-end executes them, and each request completes once. Requests that the lost
 * back-end had completed are not executed again. The lost back-end may have executed the other
 * requests partly or completely. The next back-end executes them again: it finds them in the
 * in-flight area or, without such an area, the disk sends them again.
 * A repeated request must not overwrite a later change. So a write, discard or write-zeroes request
 * waits for earlier requests of these types on the same queue whose ranges overlap its own. Between
 * two queues the application must ensure this order: it must wait for the completion of the earlier
 * request before it adds a request that changes the same range.
 *
 * These options limit how long requests wait:
 *   reconnect-ms           the longest pause between attempts to reconnect; the disk also tries
 *                          when the socket appears; default 1000; 0: the loss is permanent
 *   reconnect-deadline-ms  after an outage of this length the loss is permanent, and GAVE_UP
 *                          occurs; default 0: no limit
 *   fail-after-ms          after an outage of this length, requests in flight and new requests fail
 *                          with ETIMEDOUT until a back-end is connected again; default 0: they wait
 *                          without limit. A write that failed in this way may have been executed.
 *                          It is not executed later, unless the lost back-end is still alive and
 *                          executes it then.
 *   request-deadline-ms    the longest time that a request may take from its submission, over all
 *                          back-ends; default 0: no limit. When a request exceeds this time, all
 *                          requests in flight fail with ETIME (the disk may notice this up to a
 *                          quarter of request-deadline-ms later). Only submitted requests count. If
 *                          a request is split, or has VUBLK_BLK_FUA, the time runs separately for
 *                          each piece that is sent to a back-end.
 *                          A back-end that was connected for the whole time counts as hung. The
 *                          disk reclaims all rings, and disconnects a back-end that does not return
 *                          them within request-timeout-ms. The loss is permanent: GAVE_UP occurs,
 *                          and later requests fail with ETIME, too.
 *                          If earlier back-ends used up a part of the time, the disk reclaims the
 *                          rings in the same way, but the connected back-end then executes later
 *                          requests. If it does not return the rings, an ordinary loss follows.
 *                          In an outage the requests fail as if fail-after-ms had passed, and the
 *                          disk continues with the next back-end.
 *                          A back-end that has returned the rings no longer touches any buffer. A
 *                          back-end that has not returned them may be alive and write to the
 *                          buffers of reads later. So do not use those buffers again: close the
 *                          disk, open it again, and allocate new buffers (or register another
 *                          memfd).
 *
 * A back-end may keep completed writes in its own memory until a flush. If the back-end dies, these
 * writes are lost, although the machine has not failed. The config does not say whether a back-end
 * has such a cache. So the disk records whether there are completed writes (discards and
 * write-zeroes included) that may not be stable, because no flush has completed since. If a
 * back-end is lost in that state:
 *   unflushed=trust        requests continue; suits a back-end that writes through or leaves its
 *                          writes to the kernel
 *   unflushed=fail         on each queue the flushes in flight fail with EOWNERDEAD or, if there
 *                          are none, the next flush does. WRITES_LOST occurs. The application then
 *                          has to repeat the writes that it made after its last successful flush
 *   unflushed=auto         the default: like trust for a back-end with an in-flight area, because
 *                          such a back-end is designed to be restarted without a loss; like fail
 *                          for any other back-end
 *   unflushed=replay       nothing is lost: the disk keeps copies of these writes. The next
 *                          back-end executes them before all other requests, in the order in which
 *                          they completed. The copies take up to replay-mib MiB (1 to 4096, default
 *                          64), divided equally among the queues. The disk submits a flush of its
 *                          own when half of a queue's share is in use, and 5 to 7 seconds after a
 *                          write. A write for which there is no room waits for that flush. Writes
 *                          larger than a quarter of the share are split. Overlapping writes that
 *                          are in flight on different queues at the same time have no order. While
 *                          the next back-end fails to execute these writes, or is too small for
 *                          them, the disk tries again, requests wait, and flushes fail with EIO. If
 *                          one of the disk's own flushes fails, the next flush on each queue fails
 *                          with EIO, because some back-ends drop data that they could not write:
 *                          repeat the writes since the last successful flush. If an application's
 *                          flush succeeds while one of the disk's own flushes is in flight, the
 *                          application's flush completes only when the disk's flush is answered,
 *                          and fails if the disk's flush fails. vublk_blk_close() flushes. The
 *                          back-end gets no in-flight area. Writes that completed before the disk
 *                          was opened are protected only after the first flush has completed.
 * A back-end that does not offer FLUSH counts as one without a cache.
 */

struct vublk_blk_handlers {
	struct vublk_log log;
	/*
	 * Reports an event of the disk, on the disk's own thread; `error` says why the event
	 * occurred (NULL if nothing is wrong). The handler may call vublk_blk_get_info(), but not
	 * vublk_blk_close(). The first event may occur before vublk_blk_open() has returned. NULL:
	 * no handler.
	 */
	void (*event)(void *opaque, enum vublk_blk_event event, const struct vublk_error *error);
	void *opaque;
};

/*
 * Connects to the back-end at the Unix socket `path`, negotiates, and starts all queues. Waits at
 * most request-timeout-ms for each answer. The disk is stored in `blk`, and the caller closes it
 * with vublk_blk_close().
 *
 * `options` (may be NULL) has names and values, ends with a NULL name, and is borrowed during the
 * call. The options are the device's properties (vublk_device_properties(), except chardev) and
 * those of vublk_blk_options(). Without num-queues the disk has as many queues as the back-end
 * offers, at most 16 (num-queues-limit). `handlers` (may be NULL) is copied.
 *
 * Option fd: the number of a Unix stream socket that is connected to the back-end. `path` then only
 * names the back-end in error texts and log lines, and may be NULL. The descriptor stays yours: the
 * disk duplicates it during this call, and makes the socket non-blocking. Close your descriptor
 * afterwards; otherwise the back-end does not notice when the disk is closed. The disk cannot
 * reconnect, so with this option reconnect-ms is 0, and any other value is refused.
 * Errors:
 *   EINVAL        an option is unknown or invalid; queue-size is below 4 (a request has a header,
 *                 data and a status); `fd` is not a Unix stream socket; the back-end has fewer
 *                 queues than num-queues; or a handler is set that this library does not know
 *   ENOENT, ECONNREFUSED  no back-end listens at the path
 *   ENOTSOCK      the path or `fd` is not a socket
 *   ENAMETOOLONG  the path is longer than 107 bytes
 *   ETIMEDOUT     the back-end did not answer
 *   ENOTCONN      the back-end closed the connection, or the socket `fd` is not connected
 *   EPROTO        the back-end broke the protocol, or its config is invalid
 *   ENOTSUP       the back-end lacks a feature that a disk needs
 *   ENOMEM, EMFILE, EAGAIN  no memory, no descriptor, no thread
 *   others        of connect(2)
 * States: any.
 * Specification: virtio 1.3, sections 3.1.1 and 5.2.5.
 */
int vublk_blk_open(const char *path, const struct vublk_option *options,
		   const struct vublk_blk_handlers *handlers, size_t handlers_bytes,
		   struct vublk_blk **blk, struct vublk_error *error);

/*
 * Does what vublk_blk_open() does, but without blocking, in three steps: this call checks the
 * options, begins to connect, and stores a disk that is not open yet in `blk`.
 * vublk_blk_opening_fd() returns the descriptor that signals the end of the opening, and
 * vublk_blk_open_finish() returns the result of the opening.
 *
 * Until vublk_blk_open_finish() has returned 0, only vublk_blk_opening_fd(),
 * vublk_blk_open_finish(), vublk_blk_close() and the calls for events are permitted; all other
 * calls return EBUSY, NULL or zeroes. vublk_blk_close() cancels an opening that has not ended, and
 * frees a disk that could not be opened. The event handler is not called before the opening has
 * succeeded.
 * Errors: those of vublk_blk_open() that do not depend on a back-end: EINVAL, ENOTSOCK, ENOTCONN,
 * ENOMEM, EMFILE and EAGAIN.
 * States: any.
 */
int vublk_blk_open_start(const char *path, const struct vublk_option *options,
			 const struct vublk_blk_handlers *handlers, size_t handlers_bytes,
			 struct vublk_blk **blk, struct vublk_error *error);

/*
 * Returns a descriptor that polls readable when the opening has ended. The descriptor belongs to
 * the disk and is valid until vublk_blk_close().
 * Errors: none.
 * States: any.
 */
int vublk_blk_opening_fd(const struct vublk_blk *blk);

/*
 * Returns the result of the opening that vublk_blk_open_start() began. If the opening failed, the
 * caller must close the disk with vublk_blk_close().
 * Returns: 0: the disk is open.
 * Errors: those of vublk_blk_open(), and:
 *   EAGAIN  the opening has not ended
 * States: any.
 */
int vublk_blk_open_finish(struct vublk_blk *blk, struct vublk_error *error);

/*
 * Returns the options that a disk has in addition to the device's properties, as a static array
 * that ends with a NULL name. An option that has the name of a property takes its place.
 * States: any.
 * Threads: any.
 */
const struct vublk_property *vublk_blk_options(void);

/*
 * Returns the default of the device's property `name` for a disk, as a static string, or NULL if a
 * disk has the same default as the device.
 * States: any.
 * Threads: any.
 */
const char *vublk_blk_default(const char *name);

/*
 * Closes the disk, and frees it and its memory from vublk_blk_alloc(), even if an error other than
 * EBUSY is returned. No thread may be using a queue. `wait_ms` says how many milliseconds to wait
 * for the requests in flight; 0: not at all; -1: until they complete or the back-end is lost
 * permanently (unless reconnect-ms is 0 or a deadline is set, neither may ever happen). A request
 * that has not completed within that time is abandoned: its completion is not reported, and its
 * buffers belong to the caller again when this function returns. A lost back-end may be alive and
 * still write to the buffers of reads. NULL is a no-op. Blocks for up to `wait_ms`, and then until
 * the back-end has returned the rings or is lost.
 * Errors:
 *   ETIMEDOUT  not all requests completed, or not all writes were flushed (unflushed=replay),
 *              within `wait_ms`
 *   ENOTCONN   requests failed, because no back-end will complete them
 *   EBUSY      a handler made the call, and nothing was done
 *   others     of poll(2), or of vublk_blk_flush() with unflushed=replay
 * States: any.
 */
int vublk_blk_close(struct vublk_blk *blk, int wait_ms, struct vublk_error *error);

/* --- events without a handler --------------------------------------------------------- */

/*
 * An event that vublk_blk_next_event() takes from the disk's queue of events. The queue is for
 * event loops and for bindings to other languages, and is filled whether or not a handler is set.
 * It holds at most one event of each kind, in the order of their latest occurrence: an event that
 * occurs again before it is taken moves to the end and has the new error. For example, after LOST,
 * RECONNECTED, LOST the queue contains RECONNECTED, LOST.
 */
struct vublk_blk_event_info {
	enum vublk_blk_event event;
	struct vublk_error error; /* why; code 0: nothing is wrong */
};

/*
 * Returns a descriptor that polls readable while an event waits. The descriptor belongs to the
 * disk, and the first call creates it.
 * Errors:
 *   EMFILE  the descriptor cannot be created
 *   others  of eventfd(2)
 * States: any.
 * Threads: any, handlers included.
 */
int vublk_blk_events_fd(struct vublk_blk *blk, struct vublk_error *error);

/*
 * Takes the next event from the queue of events. Never blocks.
 * Returns:
 *   0  no event waits, and `info` is untouched
 *   1  `info` has the event
 * Errors: none.
 * States: any.
 * Threads: any, handlers included.
 */
int vublk_blk_next_event(struct vublk_blk *blk, struct vublk_blk_event_info *info,
			 size_t info_bytes);

/* --- properties of the disk -------------------------------------------------------- */

struct vublk_blk_info {
	uint64_t capacity_bytes;          /* a multiple of 512, but not always of the block size */
	uint32_t block_size_bytes;        /* requests are multiples of this; >= 512 */
	uint32_t physical_block_bytes;
	uint32_t optimal_io_bytes;        /* 0: unknown */
	uint32_t max_segments;            /* per request on the ring; longer requests are split */
	uint32_t max_segment_bytes;
	uint64_t max_discard_bytes;       /* per discard on the ring; 0: no discard */
	uint64_t discard_alignment_bytes;
	uint64_t max_write_zeroes_bytes;  /* 0: no write zeroes */
	bool read_only;
	bool flush;                       /* FLUSH was negotiated */
	bool write_cache;                 /* the back-end says that a write is stable only after a
					     flush; some back-ends wrongly deny this, so flush in
					     any case */
	bool can_set_write_cache;
	bool write_zeroes_may_unmap;
	unsigned num_queues;
	unsigned queue_size;
	uint64_t features;                /* virtio bits that are in use */
	uint32_t config_generation;
	uint32_t config_bytes;            /* how many bytes of the config the back-end has */
	uint8_t config[96];               /* struct virtio_blk_config as the device presents it */
};

/*
 * Fills `info` with the disk's properties, or with zeroes if the disk is not open. The events
 * RESIZED and CONFIG_CHANGED report changes.
 * Threads: any, handlers included.
 * Specification: virtio 1.3, section 5.2.4.
 */
void vublk_blk_get_info(struct vublk_blk *blk, struct vublk_blk_info *info, size_t info_bytes);

/*
 * Fills `info` with the result of the negotiation with the first back-end, or with zeroes if the
 * disk is not open.
 * Threads: any, handlers included.
 */
void vublk_blk_get_device_info(struct vublk_blk *blk, struct vublk_device_info *info,
			       size_t info_bytes);

/*
 * Turns the write cache on or off (config field wce). Blocks until the back-end has answered.
 * Errors:
 *   EBUSY     a handler made the call, the disk is not open, or the write cache is being restored
 *             after a reconnection
 *   ENOTSUP   CONFIG_WCE was not negotiated
 *   EIO       the back-end did not adopt the value
 *   ENOTCONN  no back-end is connected
 *   others    the back-end was lost during the call: ETIMEDOUT, EPROTO
 * Specification: virtio 1.3, section 5.2.4.
 */
int vublk_blk_set_write_cache(struct vublk_blk *blk, bool on, struct vublk_error *error);

/* --- memory ------------------------------------------------------------------------- */

/*
 * Allocates shared memory for buffers, zeroed and page-aligned. `bytes` is rounded up to whole
 * pages. The memory belongs to the disk until vublk_blk_release() or vublk_blk_close() frees it.
 * The call sends a message to the back-end, so it is too slow for the data path.
 * Returns: the memory; NULL: the call failed, and `error` says why.
 * Errors:
 *   EINVAL          `bytes` is 0 or too large
 *   ENOSPC          the back-end has no memory slot left: allocate fewer, larger buffers
 *   EBUSY           a handler made the call, or the disk is not open
 *   ENOMEM, EMFILE  no memory, no descriptor
 *   others          the back-end refused the memory (EIO), or was lost permanently
 */
void *vublk_blk_alloc(struct vublk_blk *blk, size_t bytes, struct vublk_error *error);

/*
 * Frees memory from vublk_blk_alloc(). No request may still use the memory. NULL is a no-op. The
 * call sends a message to the back-end, so it is too slow for the data path.
 * Errors:
 *   EINVAL  `address` is not from vublk_blk_alloc() of this disk, or was released before
 *   EBUSY   a handler made the call
 */
int vublk_blk_release(struct vublk_blk *blk, void *address, struct vublk_error *error);

/*
 * Registers the application's own memory, for zero copy: `bytes` at `address` (both multiples of
 * the page size) are a shared mapping of `fd` at `fd_offset`. The mapping still belongs to the
 * application, which must keep it until vublk_blk_unregister() or vublk_blk_close(). `fd` is
 * duplicated and sent to the back-end. `fd` must be a memfd that is sealed with F_SEAL_SHRINK.
 * Otherwise the back-end could truncate the file, and the application's next access to the memory
 * would kill the application (SIGBUS). A seal does not keep the back-end from punching holes into
 * huge pages, so share huge pages only with a trusted back-end.
 * Errors:
 *   EINVAL         the memory is empty, not aligned, not sealed, or overlaps registered memory
 *   ENOSPC         the back-end has no memory slot left
 *   EBUSY          a handler made the call, or the disk is not open
 *   EBADF, EMFILE  `fd` is not a descriptor, or cannot be duplicated
 *   others         the back-end refused the memory (EIO), or was lost permanently
 */
int vublk_blk_register(struct vublk_blk *blk, void *address, size_t bytes, int fd,
		       uint64_t fd_offset, struct vublk_error *error);

/*
 * Undoes vublk_blk_register() for the memory that begins at `address`. No request may still use the
 * memory.
 * Errors:
 *   EINVAL  no memory is registered at `address`
 *   EBUSY   a handler made the call, or the disk is not open
 */
int vublk_blk_unregister(struct vublk_blk *blk, void *address, struct vublk_error *error);

/* --- memory without blocking ------------------------------------------------------- */

/*
 * A change of the disk's memory that has been started: an alloc, release, register or unregister.
 * It belongs to the disk until vublk_blk_change_finish() or vublk_blk_change_cancel() frees it. Any
 * number of changes may be in progress. The disk carries out changes and the calls that wait, such
 * as vublk_blk_alloc(), one after another, in the order in which they were started. Different
 * threads may use different changes at the same time.
 *
 * Before vublk_blk_change_finish() has returned 0, no request may use the memory that the change
 * adds. After the start of a removal, no request may use the memory that it removes. The
 * application must keep the mapping of registered memory until the unregister has ended.
 *
 * In an outage, memory is added and removed without a back-end, and the change ends with 0: the
 * next back-end gets all memory that the disk has at that time. While the disk starts or stops the
 * rings of a back-end, a change waits. If the back-end is lost in the middle of a change, the
 * change ends with 0, too. But if that loss is permanent, no memory is added, and the change ends
 * with the error of the loss. A removal always ends with 0 if the disk has the memory.
 *
 * vublk_blk_close() frees all changes, and all memory that was allocated. It waits for at most one
 * change, until the back-end has answered it or is lost (at most request-timeout-ms).
 */
struct vublk_blk_change;

/*
 * Starts what vublk_blk_alloc() does, and does not wait for the back-end. The change is stored in
 * `change`, NULL on failure. vublk_blk_change_finish() returns the memory.
 * Errors: vublk_blk_change_finish() may return others.
 *   EINVAL          `bytes` is 0 or too large
 *   EBUSY           the disk is not open
 *   ENOMEM, EMFILE  no memory, no descriptor
 * Threads: any, including handlers.
 */
int vublk_blk_alloc_start(struct vublk_blk *blk, size_t bytes, struct vublk_blk_change **change,
			  struct vublk_error *error);

/*
 * Starts what vublk_blk_release() does, and does not wait for the back-end. The change is stored in
 * `change`, NULL on failure. The memory at `address` no longer belongs to the application.
 * Errors: vublk_blk_change_finish() may return others.
 *   EINVAL          `address` is NULL, is not from vublk_blk_alloc() or vublk_blk_alloc_start() of
 *                   this disk, or was released before
 *   EBUSY           the disk is not open
 *   ENOMEM, EMFILE  no memory, no descriptor; the memory was not released
 * Threads: any, including handlers.
 */
int vublk_blk_release_start(struct vublk_blk *blk, void *address, struct vublk_blk_change **change,
			    struct vublk_error *error);

/*
 * Starts what vublk_blk_register() does with the same parameters, and does not wait for the
 * back-end. `fd` is duplicated during the call. The change is stored in `change`, NULL on failure.
 * Errors: vublk_blk_change_finish() may return others.
 *   EINVAL         the memory is empty, not aligned or not sealed
 *   EBUSY          the disk is not open
 *   ENOMEM         no memory
 *   EBADF, EMFILE  `fd` is not a descriptor, or cannot be duplicated; no descriptor
 * Threads: any, including handlers.
 */
int vublk_blk_register_start(struct vublk_blk *blk, void *address, size_t bytes, int fd,
			     uint64_t fd_offset, struct vublk_blk_change **change,
			     struct vublk_error *error);

/*
 * Starts what vublk_blk_unregister() does, and does not wait for the back-end. The change is stored
 * in `change`, NULL on failure.
 * Errors: vublk_blk_change_finish() may return others.
 *   EBUSY           the disk is not open
 *   ENOMEM, EMFILE  no memory, no descriptor
 * Threads: any, including handlers.
 */
int vublk_blk_unregister_start(struct vublk_blk *blk, void *address,
			       struct vublk_blk_change **change, struct vublk_error *error);

/*
 * Returns a descriptor that polls readable when the change has ended. The descriptor belongs to the
 * change and is closed when the change is freed.
 * Errors: none.
 * Threads: any, including handlers.
 */
int vublk_blk_change_fd(const struct vublk_blk_change *change);

/*
 * Returns the result of a change that has ended, and frees the change, even if it failed. `address`
 * (may be NULL) is set to the memory that was allocated or registered, or to NULL after a removal
 * or a failure. Never blocks.
 * Returns: 0: the memory was changed.
 * Errors:
 *   EAGAIN  the change has not ended, and was not freed
 *   EINVAL  the memory to register overlaps registered memory, or the memory to unregister is not
 *           registered
 *   ENOSPC  the back-end has no memory slot left
 *   others  the back-end refused the memory (EIO), or was lost permanently
 * Threads: one at a time, including handlers.
 */
int vublk_blk_change_finish(struct vublk_blk_change *change, void **address,
			    struct vublk_error *error);

/*
 * Abandons a change and frees it. An alloc or register has no lasting effect: if the back-end
 * already has the memory, the disk removes the memory again in the background, before any later
 * change. No request can have used the memory of a canceled register, so the application may unmap
 * that memory after this call. The application may also register the same memory again, because the
 * disk removes it first. A release or unregister is still carried out. NULL is a no-op. Never
 * blocks.
 * Errors: none.
 * Threads: one at a time, including handlers.
 */
void vublk_blk_change_cancel(struct vublk_blk_change *change);

/* --- requests ------------------------------------------------------------------------ */

/*
 * Returns the queue `index` (from 0). The queue belongs to the disk and is valid until
 * vublk_blk_close(). Different threads may use it one after another, but not at the same time.
 * Returns NULL if there is no such queue, the disk is not open, or the blocking calls use that
 * queue (<vublk/blocking.h>).
 * Threads: any, handlers included.
 */
struct vublk_blk_queue *vublk_blk_queue(struct vublk_blk *blk, unsigned index);

struct vublk_blk_completion {
	void *user_data;
	/*
	 * 0: success; or a negative errno:
	 *   EIO         the back-end failed to execute the request
	 *   ENOTSUP     the back-end does not support the request
	 *   ENOTCONN    the back-end is lost permanently, and may have executed the request
	 *   ETIMEDOUT   the back-end is lost and may have executed the request; the disk still
	 *               looks for another back-end (fail-after-ms)
	 *   ETIME       the request did not complete within request-deadline-ms, and may have been
	 *               executed
	 *   EOWNERDEAD  only for a flush or a write with FUA: writes may be lost (see unflushed
	 *               above)
	 *   EPROTO      the back-end corrupted the ring, or its answer has no valid status
	 *   EFAULT      the buffer's memory was unregistered while the request was in flight
	 */
	int result;
	uint32_t reserved; /* always 0; the size of the struct never changes */
};

/*
 * Says in one sentence why the request of `completion` failed. Call this function before a back-end
 * is lost again, because the queue keeps only the cause of the latest loss.
 * Returns: the completion's result; `error` (may be NULL) is filled if the result is not 0.
 * Errors: those of struct vublk_blk_completion.
 * Threads: the one that uses the queue.
 */
int vublk_blk_completion_error(struct vublk_blk_queue *queue,
			       const struct vublk_blk_completion *completion,
			       struct vublk_error *error);

/*
 * Each of the following calls adds one request. The back-end gets the request with the next
 * vublk_blk_submit() or vublk_blk_wait(). Offsets and lengths are in bytes and must be multiples of
 * block_size_bytes. If the capacity is not a multiple of block_size_bytes, a request that ends at
 * the end of the disk may end with part of a block (some back-ends refuse that). Buffers must lie
 * in memory from vublk_blk_alloc() or vublk_blk_register(), may span several regions, and belong to
 * the library until the completion, as does the array `iov`. `user_data` is returned in the
 * completion. A request that exceeds the device's limits is split. It completes once, when all of
 * its pieces have completed; its result is the first error, or 0. Requests may be executed in any
 * order, except as described at "The loss of a back-end". The calls do not block. virtio 1.3,
 * section 5.2.6, specifies the requests.
 */
#define VUBLK_BLK_MAX_REQUEST_BYTES (UINT64_C(1) << 30) /* of read and write */

/*
 * Flags of a request; 0: no flag. A call fails with EINVAL if it does not take a flag that is set.
 *
 * VUBLK_BLK_FUA, for write, writev, write_zeroes and discard: the change is stable when the request
 * completes with 0. virtio-blk has no such request. So if FLUSH was negotiated, the library sends a
 * flush after the change; the application still sees one request with one completion. If the flush
 * fails, the request fails with the flush's error, and the change may have been made. If the
 * back-end is lost between the change and the flush, and its completed writes are not trusted (see
 * unflushed above), the request completes with -EOWNERDEAD. The result says nothing about other
 * writes: only vublk_blk_flush() reports their loss. But a back-end may report the error of another
 * write to this flush, and to no other flush. So after such a flush has failed, the next
 * vublk_blk_flush() on each queue fails with EIO, and so does each request with VUBLK_BLK_FUA that
 * was issued before the failure and has not completed. Requests that completed before the failure
 * keep their results; see vublk_blk_flush().
 *
 * VUBLK_BLK_NO_UNMAP, for write_zeroes: the blocks stay allocated. Without this flag a back-end
 * that offers to deallocate blocks (write_zeroes_may_unmap) may do so.
 */
#define VUBLK_BLK_FUA UINT32_C(1)
#define VUBLK_BLK_NO_UNMAP UINT32_C(2)

/*
 * These calls read from byte `offset` of the disk into `buffer`, or into the `iovcnt` buffers of
 * `iov`. One call reads at most VUBLK_BLK_MAX_REQUEST_BYTES. The calls take no flag.
 * Errors:
 *   EINVAL     a flag is set; the range is empty, not aligned, ends past the end of the disk, or
 *              exceeds VUBLK_BLK_MAX_REQUEST_BYTES; `iovcnt` is negative; a buffer is not in the
 *              disk's memory; or one block is scattered over more segments than the device permits
 *   EAGAIN     the queue is full: take completions first
 *   ENOTCONN   the back-end is lost permanently
 *   ETIMEDOUT  the back-end has been lost for longer than fail-after-ms
 *   ETIME      a request did not complete within request-deadline-ms
 *   EPROTO     the back-end broke the ring
 * Threads: the one that uses the queue.
 */
int vublk_blk_read(struct vublk_blk_queue *queue, uint64_t offset, void *buffer, size_t bytes,
		   uint32_t flags, void *user_data, struct vublk_error *error);
int vublk_blk_readv(struct vublk_blk_queue *queue, uint64_t offset, const struct iovec *iov,
		    int iovcnt, uint32_t flags, void *user_data, struct vublk_error *error);

/*
 * These calls write `buffer`, or the `iovcnt` buffers of `iov`, to byte `offset` of the disk. One
 * call writes at most VUBLK_BLK_MAX_REQUEST_BYTES. The calls take the flag VUBLK_BLK_FUA.
 * Errors: those of vublk_blk_read(), and:
 *   EROFS  the disk is read-only
 * Threads: the one that uses the queue.
 */
int vublk_blk_write(struct vublk_blk_queue *queue, uint64_t offset, const void *buffer,
		    size_t bytes, uint32_t flags, void *user_data, struct vublk_error *error);
int vublk_blk_writev(struct vublk_blk_queue *queue, uint64_t offset, const struct iovec *iov,
		     int iovcnt, uint32_t flags, void *user_data, struct vublk_error *error);

/*
 * Flushes the disk: when the request succeeds, the changes of all requests that completed before
 * the call, on any queue, are stable. Takes no flag. If FLUSH was negotiated, the flush is sent
 * even if the config says that there is no write cache. Otherwise every write counts as stable when
 * it completes, and the flush completes without the back-end.
 * Several flushes may be in flight at the same time, on one queue or on several, and so may writes
 * with VUBLK_BLK_FUA, each of which includes a flush. The disk reports the result of each as the
 * back-end answers it. It does not delay one result until another flush is answered, because the
 * completions of another queue may be taken late or never. `vublk serve` answers each of them
 * correctly. But some back-ends report a storage error to only one of several flushes, as Linux
 * does if several threads call fsync(2) on one descriptor. With such a back-end, the other flushes
 * may succeed although their data is lost, and may complete before the one that fails. So if a
 * flush or a write with VUBLK_BLK_FUA fails, do not rely on a flush that was in flight at the same
 * time, even if its result is 0. Repeat the writes since the last flush that completed before the
 * failed one was submitted. An application that has only one such request in flight at a time can
 * rely on each result.
 * Errors: those of vublk_blk_read() that are not about buffers and ranges, and:
 *   EOWNERDEAD  writes that completed before a back-end was lost may be lost (see the option
 *               unflushed above)
 * Threads: the one that uses the queue.
 */
int vublk_blk_flush(struct vublk_blk_queue *queue, uint32_t flags, void *user_data,
		    struct vublk_error *error);

/*
 * Tells the back-end that the contents of the `bytes` bytes at `offset` are no longer needed, so
 * that it may deallocate the blocks. The range may be as long as the disk. Takes the flag
 * VUBLK_BLK_FUA.
 * Errors: those of vublk_blk_read() that are not about buffers, and:
 *   EROFS    the disk is read-only
 *   ENOTSUP  the feature was not negotiated
 * Threads: the one that uses the queue.
 */
int vublk_blk_discard(struct vublk_blk_queue *queue, uint64_t offset, uint64_t bytes,
		      uint32_t flags, void *user_data, struct vublk_error *error);

/*
 * Fills the `bytes` bytes at `offset` with zeroes. The range may be as long as the disk. Takes the
 * flags VUBLK_BLK_FUA and VUBLK_BLK_NO_UNMAP.
 * Errors: those of vublk_blk_discard().
 * Threads: the one that uses the queue.
 */
int vublk_blk_write_zeroes(struct vublk_blk_queue *queue, uint64_t offset, uint64_t bytes,
			   uint32_t flags, void *user_data, struct vublk_error *error);

/* The size of a serial: 20 bytes and a NUL. */
#define VUBLK_BLK_ID_SIZE 21

/*
 * Reads the serial of the disk into `id`, which need not be in the disk's memory. `id` belongs to
 * the library until the completion. With the property serial, the request still waits for the
 * back-end's answer, but `id` gets the property's value. Takes no flag.
 * Errors: those of vublk_blk_read() that are not about buffers and ranges.
 * Threads: the one that uses the queue.
 */
int vublk_blk_get_id(struct vublk_blk_queue *queue, char id[VUBLK_BLK_ID_SIZE], uint32_t flags,
		     void *user_data, struct vublk_error *error);

/*
 * Makes the added requests visible to the back-end, and notifies the back-end once for all of them
 * if it wants to be notified.
 * Threads: the one that uses the queue.
 */
void vublk_blk_submit(struct vublk_blk_queue *queue);

/*
 * Returns the number of requests that have been added and whose completions have not been taken.
 * Threads: the one that uses the queue.
 */
unsigned vublk_blk_in_flight(const struct vublk_blk_queue *queue);

/* --- completions ----------------------------------------------------------------------- */

/*
 * Takes up to `max` completions without waiting and without a system call (except to notify the
 * back-end of requests and pieces that had to wait). After a permanent loss of the back-end, or if
 * the back-end broke the ring, the requests that the back-end had completed come first, and all
 * other requests in flight complete with an error.
 * Returns: how many completions were taken.
 * Errors: none.
 * Threads: the one that uses the queue.
 */
int vublk_blk_poll(struct vublk_blk_queue *queue, struct vublk_blk_completion *completions,
		   unsigned max);

/*
 * Submits the added requests, waits until there are `min` completions or `timeout_ms` milliseconds
 * have passed (-1: no limit), and takes up to `max` completions. The thread sleeps while it waits;
 * a caller that prefers to spin uses vublk_blk_poll().
 * Returns: how many completions were taken; fewer than `min` only if the time has passed, fewer
 * requests were in flight, or the wait failed after some were taken.
 * Errors:
 *   others  of poll(2), such as ENOMEM; no completion was taken, and the requests are still in
 *           flight
 * Threads: the one that uses the queue.
 */
int vublk_blk_wait(struct vublk_blk_queue *queue, struct vublk_blk_completion *completions,
		   unsigned min, unsigned max, int timeout_ms, struct vublk_error *error);

/*
 * Returns a descriptor for an event loop. The descriptor polls readable when the back-end has
 * signaled a completion, and may also become readable without one. The descriptor belongs to the
 * queue.
 * Errors: none.
 * Threads: the one that uses the queue.
 */
int vublk_blk_queue_fd(const struct vublk_blk_queue *queue);

/*
 * Clears the queue's descriptor, and asks the back-end to signal the next completion on it. Call
 * this before the event loop sleeps on the descriptor. Submit all added requests first, because the
 * back-end does not see a request before it is submitted.
 * Returns: true: completions may be waiting, so take them instead of sleeping.
 * Threads: the one that uses the queue.
 */
bool vublk_blk_arm(struct vublk_blk_queue *queue);

/* --- statistics --------------------------------------------------------------------------- */

#define VUBLK_BLK_LATENCY_BUCKETS 40

/*
 * The counters of a queue since the disk was opened. A request counts when its completion is taken,
 * even if it failed. A request that was refused when it was added does not count.
 */
struct vublk_blk_stats {
	uint64_t in_flight;     /* added, but their completions have not been taken */
	uint64_t reads;
	uint64_t writes;
	uint64_t flushes;
	uint64_t others;        /* discards, writes of zeroes, reads of the serial */
	uint64_t errors;        /* how many of all these requests failed */
	uint64_t read_bytes;    /* of reads that succeeded */
	uint64_t written_bytes; /* of writes that succeeded */
	/*
	 * How many requests took 2^i to 2^(i+1) ns, from the call that added a request to the call
	 * that took its completion; the last bucket also has all requests that took longer.
	 */
	uint64_t latency[VUBLK_BLK_LATENCY_BUCKETS];
};

/*
 * Fills `stats` with the counters of a queue. Each counter is exact, but while requests are
 * executed, one counter may include a request that another counter does not include yet.
 * vublk_blk_get_blocking_stats() (<vublk/blocking.h>) does the same for the queue of the blocking
 * calls.
 * Errors:
 *   ENOTSUP  the disk was opened without the option statistics=on; `stats` is filled with zeroes
 * Threads: any, handlers included.
 */
int vublk_blk_queue_get_stats(const struct vublk_blk_queue *queue, struct vublk_blk_stats *stats,
			      size_t stats_bytes);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
