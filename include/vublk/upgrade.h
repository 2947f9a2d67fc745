/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UPGRADE_H
#define VUBLK_UPGRADE_H

/*
 * An upgrade replaces the process that serves a disk, while the VMM and the back-end stay
 * connected: a new process, which may have another version of this library, takes the bus over from
 * the old process. The VMM, the back-end and the driver are not told. `vublk device --take-over` is
 * built on this interface. The process of a back-end can be replaced in the same way, with the
 * functions at the end.
 *
 * The application connects the two processes by a Unix stream socket. The old process calls
 * vublk_bus_hand_over() and continues to serve. The new process calls vublk_bus_take_over(). When
 * the new process is prepared, the old one waits for a moment at which no message is under way,
 * stops serving, and sends all descriptors and its state. The processes share a word of memory that
 * says which process has the disk. The new process sets the word when it has received everything.
 * The old process sets the word if the new one ends or has not set it within 50 ms, or if the old
 * one is told to stop. Only one process succeeds in setting the word. That process serves the disk,
 * and the other one closes its descriptors.
 *
 * Of the buses, only a relay (vhost-user:PATH) can be handed over. Shadow rings are handed over
 * together with the outstanding requests.
 *
 * Unless a function says otherwise:
 * States: any.
 * Threads: one at a time.
 */

#include <vublk/backend.h>
#include <vublk/bus.h>
#include <vublk/error.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

#define VUBLK_UPGRADE_TEXT_BYTES 1024
#define VUBLK_UPGRADE_MAX_FDS 4

/*
 * What an application hands over in addition to the bus or back-end: a text of its choice, and
 * descriptors of its own. All zeroes: nothing.
 */
struct vublk_upgrade_extra {
	char text[VUBLK_UPGRADE_TEXT_BYTES]; /* with a final NUL */
	uint32_t num_fds;                    /* at most VUBLK_UPGRADE_MAX_FDS */
	int32_t fds[VUBLK_UPGRADE_MAX_FDS];
};

/* --- the old process -------------------------------------------------------------------------- */

/*
 * Begins to hand the bus over to the process that is connected at `fd`. The call takes ownership of
 * `fd`, even on failure, and returns immediately. vublk_bus_run() or vublk_bus_process() serves
 * until the other process has the bus, and then returns 0. One call of vublk_bus_process() may
 * block for up to 50 ms. If the upgrade fails, the log says why, and the bus is served as before.
 * `extra` (may be NULL) is copied, with duplicates of its descriptors; `extra_bytes` is
 * sizeof(struct vublk_upgrade_extra).
 * Errors:
 *   EPERM       the process at `fd` belongs to another user
 *   ENOTSUP     the bus is not a relay
 *   EBUSY       the bus has had no back-end yet, is stopping or is being handed over already; its
 *               device has the property mirror-state or is being mirrored; or requests fail because
 *               shared memory was truncated
 *   EINVAL      `fd` is not a connected Unix stream socket, or `extra` is invalid
 *   ENOMEM, EMFILE  no memory, no descriptor
 * Threads: the one that calls vublk_bus_process(), between two calls.
 */
int vublk_bus_hand_over(struct vublk_bus *bus, int fd, const struct vublk_upgrade_extra *extra,
			size_t extra_bytes, struct vublk_error *error);

/*
 * Returns whether another process has the bus. If so, vublk_bus_run() has returned 0, and the
 * application calls vublk_bus_free(), which only closes descriptors: it removes no socket, and
 * sends nothing.
 * Threads: the one that calls vublk_bus_process(), between two calls.
 */
bool vublk_bus_is_handed_over(const struct vublk_bus *bus);

/*
 * Returns the process that has the bus, if vublk_bus_is_handed_over(); otherwise 0. A supervisor has
 * to watch that process from now on.
 * Errors: none.
 * Threads: the one that calls vublk_bus_process(), between two calls.
 */
int64_t vublk_bus_new_process(const struct vublk_bus *bus);

/* --- the new process -------------------------------------------------------------------------- */

/*
 * Takes over the bus of the process that is connected at `fd`; that process must call
 * vublk_bus_hand_over(), before or after this call. The call takes ownership of `fd`, even on
 * failure. It blocks until this process has the bus or the upgrade has failed, for at most 30
 * seconds. After a failure the old process serves the disk, if it still runs. If the calling thread
 * blocks SIGTERM or SIGINT, and such a signal arrives before this process has the bus, the upgrade
 * fails and the signal stays pending.
 *
 * The bus has the same properties as in the other process. `log` (may be NULL) is copied. `extra`
 * (may be NULL) gets what the other process has handed over; its descriptors belong to the caller.
 * The bus is stored in `bus`, and the caller frees it with vublk_bus_free(). The application then
 * calls vublk_bus_run() or vublk_bus_process() without delay, because the disk's VMM may be
 * waiting.
 * Errors:
 *   EPERM       the process at `fd` belongs to another user
 *   ENOTSUP     the state has parts that this version does not know
 *   EINVAL      the bus has a property that this version does not know or does not permit, or a
 *               path is relative and the two processes have different working directories
 *   ECANCELED   the other process refused, or SIGTERM or SIGINT is pending; `error` has the reason
 *   ENOTCONN    the other process has ended, or has closed the connection
 *   ETIMEDOUT   the other process did not answer, or this one was too slow
 *   EPROTO      the other process violated the protocol of a hand-over
 *   ENOMEM, EMFILE  no memory, no descriptor
 * Threads: any.
 */
int vublk_bus_take_over(int fd, const struct vublk_log *log, struct vublk_bus **bus,
			struct vublk_upgrade_extra *extra, size_t extra_bytes,
			struct vublk_error *error);

/* --- back-ends -------------------------------------------------------------------------------- */

/*
 * Begins to hand a back-end over, as vublk_bus_hand_over() does with a bus. `vublk serve
 * --take-over` is built on this interface. The front-end stays connected and is not told. The old
 * process takes no more requests and completes those that it has begun. If the storage needs more
 * than a second to complete them, the upgrade fails, and the old process continues. The new process
 * gets the descriptor of the image with its lock. The path of the image must still lead to that
 * image.
 * Errors:
 *   EPERM       the process at `fd` belongs to another user
 *   ENOTSUP     the disk is in the memory of the process (engine memory)
 *   EBUSY       the back-end is stopping, is being drained, or is being handed over already
 *   EINVAL      `fd` is not a connected Unix stream socket, or `extra` is invalid
 *   ENOMEM, EMFILE  no memory, no descriptor
 * Threads: the one that calls vublk_backend_process(), between two calls.
 */
int vublk_backend_hand_over(struct vublk_backend *backend, int fd,
			    const struct vublk_upgrade_extra *extra, size_t extra_bytes,
			    struct vublk_error *error);
/*
 * Returns whether another process has the back-end, as vublk_bus_is_handed_over() does.
 * Errors: none.
 * Threads: the one that calls vublk_backend_process(), between two calls.
 */
bool vublk_backend_is_handed_over(const struct vublk_backend *backend);
/*
 * Returns the process that has the back-end, as vublk_bus_new_process() does.
 * Errors: none.
 * Threads: the one that calls vublk_backend_process(), between two calls.
 */
int64_t vublk_backend_new_process(const struct vublk_backend *backend);
/*
 * Takes over the back-end of the process at `fd`, as vublk_bus_take_over() does. The caller frees
 * `backend` with vublk_backend_free().
 * Errors:
 *   ESTALE      the path of the image leads to another image
 *   others      those of vublk_bus_take_over() and vublk_backend_open()
 * Threads: any.
 */
int vublk_backend_take_over(int fd, const struct vublk_log *log, struct vublk_backend **backend,
			    struct vublk_upgrade_extra *extra, size_t extra_bytes,
			    struct vublk_error *error);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
