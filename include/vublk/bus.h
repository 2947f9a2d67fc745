/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BUS_H
#define VUBLK_BUS_H

/*
 * A bus presents the device of <vublk/device.h> to a VMM in another process. `vublk device` is a
 * program built on this interface. The back-end may disconnect and reconnect, which the VMM notices
 * only as a pause of its disk. The VMM may reconnect, too, while the back-end stays connected.
 *
 * These buses exist; the parameter `spec` of the functions below selects one of them:
 *   vhost-user:PATH   a relay: listens on the Unix socket PATH and is the back-end of the VMM's own
 *                     vhost-user-blk front-end. Memory, kick and call descriptors are passed
 *                     through, so requests do not pass through the relay, except with shadow rings.
 *                     docs/relay.md says which parts of the protocol it supports.
 *   vfio-user:PATH    a virtio-blk PCI device, served on the Unix socket PATH to a VMM with
 *                     a vfio-user client. Memory and interrupts are passed through; each kick
 *                     of the driver is a message. See docs/vfio-user.md.
 *
 * A bus serves one VMM at a time; the next VMM waits in the socket's backlog. The socket is created
 * when the first back-end has connected, because the size of the disk is not known earlier.
 *
 * Everything happens on the thread that calls vublk_bus_run() or vublk_bus_process(). The bus
 * writes to descriptors that it gets from a VMM, so the program has to ignore SIGPIPE.
 *
 * Unless a function says otherwise:
 * States: any.
 * Threads: one at a time.
 */

#include <vublk/device.h>
#include <vublk/error.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

struct vublk_bus;

/*
 * Returns the options of the bus that `spec` names, in addition to the device's properties, as a
 * static array that ends with an entry whose name is NULL. The array is empty if the bus has no
 * options or does not exist.
 * Threads: any.
 */
const struct vublk_property *vublk_bus_options(const char *spec);

/*
 * Returns the default of the device's property `name` on the bus that `spec` names, as a static
 * string. NULL: the device's own default applies. If `spec` names no bus, returns the default that
 * all buses have. The default of reconnect-ms applies only without the property server.
 * Threads: any.
 */
const char *vublk_bus_default(const char *spec, const char *name);

/*
 * Creates the device and begins to look for its back-end. The bus is not served before
 * vublk_bus_run() or vublk_bus_process() is called.
 *
 * `spec` is NAME:ARGUMENT as above. `device_properties` is an array of names and values ended by a
 * NULL name: those of vublk_device_properties(), of which chardev is mandatory, and of
 * vublk_bus_options(). Every bus has the options message-timeout-ms and, for the file at PATH,
 * socket-mode (octal, 0 to 0777) and socket-group (a name or a number). No VMM can connect before
 * mode and group are set. With the option fd the bus creates no socket: it uses a duplicate of this
 * descriptor, a Unix stream socket that listens at PATH already, for example because systemd has
 * created it. A VMM can then connect before the first back-end is there, and waits; the file at PATH
 * is left as it is. Defaults of a bus that differ from the device's:
 *   reconnect-ms     1000, without server; 0: the bus ends when its back-end is lost
 *   num-queues-limit 128
 *   queue-size       vhost-user: 1024, because the VMM chooses the size
 *   request-timeout-ms  vfio-user: 3000, because a VMM waits for 5 seconds at most
 *   realize-retries  0: with reconnect-ms or server the bus tries until it finds a back-end;
 *                    without these properties it tries once
 * All arguments are borrowed during the call; `log` (may be NULL) is copied.
 *
 * This call already checks PATH and chardev (the length, an existing file, and the directory of a
 * new socket), because PATH is not used before a back-end has connected, which may be much later.
 *
 * The bus is stored in `bus`, and the caller frees it with vublk_bus_free().
 * Errors:
 *   EINVAL          there is no such bus, a property is unknown, missing or invalid, properties
 *                   contradict each other, serial is set without shadow=on, the file of
 *                   mirror-state is invalid, or PATH and chardev are the same socket
 *   ENAMETOOLONG    PATH or chardev is longer than 107 bytes
 *   EADDRINUSE      a process listens at PATH, or at chardev with server
 *   EEXIST          PATH, or chardev with server, names a file that is not a socket
 *   ENOTSOCK        chardev names a file that is not a socket
 *   ENOENT, ENOTDIR, EACCES, EISDIR  no socket can be created at PATH, or at chardev with server
 *   EPERM           the process is not root and not in socket-group
 *   EBUSY           another process uses the file of mirror-state
 *   ENOMEM, EMFILE  no memory, no descriptor
 *   others          of open(2) on the file of mirror-state
 * Threads: any.
 */
int vublk_bus_open(const char *spec, const struct vublk_option *device_properties,
		   const struct vublk_log *log, struct vublk_bus **bus,
		   struct vublk_error *error);

/*
 * Serves until vublk_bus_stop(), until another process has taken the bus over, or until the bus
 * cannot continue. Blocks the calling thread. When this function returns, the back-end has returned
 * the rings or is lost, unless another process has the bus.
 * Errors:
 *   EADDRINUSE, EEXIST, ENOENT, EACCES  the socket cannot be created at PATH, or at chardev with
 *           server
 *   EINVAL, ENOTSOCK  the back-end has fewer queues than num-queues, or chardev is not a socket
 *   ENOTCONN, EPROTO, ETIMEDOUT, ENOTSUP, ECONNREFUSED, ENOENT  the back-end was lost or cannot be
 *           used, and the bus looks for no other (reconnect-ms 0, or reconnect-deadline-ms has passed);
 *           `error` has the cause
 *   ESTALE  the disk is out of date (mirror-state)
 *   others  of bind(2), or of epoll_wait(2): the event loop failed
 */
int vublk_bus_run(struct vublk_bus *bus, struct vublk_error *error);

/*
 * Returns a descriptor for the application's own event loop, which then calls vublk_bus_process()
 * instead of vublk_bus_run(). The descriptor belongs to the bus, and polls readable when
 * vublk_bus_process() has work to do.
 * Errors: none.
 * Threads: any.
 */
int vublk_bus_fd(const struct vublk_bus *bus);

/*
 * Does the pending work without blocking.
 * Returns:
 *   0  the service has ended, as when vublk_bus_run() returns 0
 *   1  call this function again when the descriptor is readable
 * Errors: those of vublk_bus_run().
 */
int vublk_bus_process(struct vublk_bus *bus, struct vublk_error *error);

/*
 * Asks vublk_bus_run() or vublk_bus_process() to end the service.
 * Threads: any; safe in a signal handler.
 */
void vublk_bus_stop(struct vublk_bus *bus);

/*
 * Asks vublk_bus_run() or vublk_bus_process() to read the disk's configuration from the back-end
 * again, and to report a change to the VMM. During an outage, the configuration is read from the
 * next back-end.
 * Threads: any; safe in a signal handler.
 */
void vublk_bus_refresh(struct vublk_bus *bus);

/*
 * Begins (`paused` true) or ends (false) a pause of the disk. The VMM is not told about the pause.
 * During a pause the driver's new requests stay in the rings, and the outstanding requests are
 * completed. vublk_bus_get_info() says when none is outstanding. A pause lasts until this function
 * ends it, even if the driver resets the device, or the VMM or the back-end is replaced. If the
 * back-end is lost during a pause, the next back-end completes the outstanding requests. Without
 * shadow rings, a back-end that does not complete its requests within request-timeout-ms counts as
 * lost. A call that changes nothing is a no-op.
 * Threads: the one that calls vublk_bus_process(), between two calls.
 * Specification: vhost-user, "VHOST_USER_GET_VRING_BASE".
 */
void vublk_bus_set_paused(struct vublk_bus *bus, bool paused);

/* --- the current state of the bus, for a person or a program --------------------------------- */

/*
 * Returns the device that the bus presents. The device belongs to the bus. The application must
 * call only those functions of <vublk/device.h> that take a const device.
 * Errors: none.
 * Threads: the one that calls vublk_bus_process(), between two calls.
 */
const struct vublk_device *vublk_bus_device(const struct vublk_bus *bus);

struct vublk_bus_info {
	/*
	 * A static string: "realizing" (waits for the first back-end), "listening" (for a VMM),
	 * "serving" (a VMM), "stopping" or "finished".
	 */
	const char *state;
	bool has_vmm;
	int64_t vmm_pid;    /* the process that connected; 0: unknown, or no VMM */
	uint64_t outages;   /* how many times a back-end was lost */
	uint64_t outage_ms; /* the length of the current outage; 0: there is none */
	char reason[VUBLK_ERROR_TEXT_BYTES]; /* why no back-end is connected; empty: one is connected */
	uint64_t outage_total_ms; /* the length of all outages, the current one included */
	uint64_t reconnects;      /* how many outages have ended with a connection */
	bool is_pausing;          /* a pause has begun and has not been ended */
	bool is_paused;           /* the pause is complete: no request is outstanding */
};

/*
 * Fills `info` with the current state of the bus. `info_bytes` is sizeof(struct vublk_bus_info).
 * Never blocks.
 * Threads: the one that calls vublk_bus_process(), between two calls.
 */
void vublk_bus_get_info(const struct vublk_bus *bus, struct vublk_bus_info *info,
			size_t info_bytes);

/* --- the end ---------------------------------------------------------------------------------- */

/*
 * Frees the bus without waiting, and removes the socket at PATH. A back-end may use the rings until
 * it notices that the connection was closed. For a clean end, call vublk_bus_stop() first and wait
 * until vublk_bus_run() returns. NULL is a no-op.
 * Threads: one; not while vublk_bus_run() or vublk_bus_process() runs.
 */
void vublk_bus_free(struct vublk_bus *bus);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
