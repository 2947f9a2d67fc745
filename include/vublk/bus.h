/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BUS_H
#define VUBLK_BUS_H

/*
 * A bus: the host device of <vublk/device.h> presented to a VMM that is another process
 * (what `vublk device` is). The back-end may disconnect and reconnect, which the VMM notices only
 * as a pause of its disk. The VMM may reconnect, too, while the back-end stays connected.
 *
 * The buses, each with the name that its specification begins with:
 *   vhost-user:PATH   a relay: listens on the Unix socket PATH and is the back-end of the
 *                     VMM's own vhost-user-blk front-end. Memory, kick and call descriptors
 *                     are passed through, so requests do not pass through the relay.
 *                     docs/relay.md says which parts of the protocol it supports.
 *   vfio-user:PATH    a virtio-blk PCI device, served on the Unix socket PATH to a VMM with
 *                     a vfio-user client. Memory and interrupts are passed through; each kick
 *                     of the driver is a message. See docs/vfio-user.md.
 *
 * A bus serves one VMM at a time; the next VMM waits in the socket's backlog. The socket is created
 * when the first back-end has connected, because the disk has no size before that.
 *
 * Threads: everything happens on the thread that calls vublk_bus_run() or
 * vublk_bus_process(). The bus writes to descriptors that a VMM gives it, so the program has to
 * ignore SIGPIPE.
 */

#include <vublk/device.h>
#include <vublk/error.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

struct vublk_bus;

/*
 * The options of the bus that `spec` names, in addition to the device's properties, as a static
 * array that ends with an entry whose name is NULL. The array is empty if the bus has no options or
 * does not exist. Any thread, any time.
 */
const struct vublk_property *vublk_bus_options(const char *spec);

/*
 * The default of a device's property on the bus that `spec` names, or on every bus if `spec` names
 * no bus; NULL: the device's own default. For reconnect-ms this is the default without server. The
 * string is static. Any thread, any time.
 */
const char *vublk_bus_default(const char *spec, const char *name);

/*
 * Makes the device and begins to look for its back-end; nothing is served yet.
 *
 * `spec` is NAME:ARGUMENT as above. `device_properties` is an array of names and values
 * ended by a NULL name: those of vublk_device_properties(), of which chardev is mandatory,
 * and of vublk_bus_options(). Among these are, for every bus, socket-mode (octal, 0 to 0777)
 * and socket-group (a name or a number) of the file at PATH; no VMM can connect before mode and
 * group are set. EPERM: the process is not root and not in that group.
 * Defaults of a bus that differ from the device's:
 *   reconnect-ms     1000, without server; 0: the bus ends with its back-end
 *   queue-size       vhost-user: 1024, because the VMM chooses the size
 *   request-timeout-ms  vfio-user: 3000, because a VMM waits for 5 seconds at most
 *   realize-retries  0: with reconnect-ms or server the bus tries until it finds a back-end;
 *                    without these properties it tries once
 * All arguments are borrowed during the call; `log` (may be NULL) is copied.
 *
 * This call checks PATH and chardev (the length, an existing file, and the directory of a new
 * socket), because PATH is used only when a back-end has connected, which may be much later.
 *
 * Returns 0 and the bus in `bus`, freed with vublk_bus_free(). EINVAL: there is no such bus, a
 * property is unknown, missing or bad, or PATH and chardev are the same; ENAMETOOLONG, EADDRINUSE,
 * EEXIST, ENOTSOCK, ENOTDIR, ENOENT, EACCES: a path cannot be used; ENOMEM, EMFILE.
 */
int vublk_bus_open(const char *spec, const struct vublk_option *device_properties,
		   const struct vublk_log *log, struct vublk_bus **bus,
		   struct vublk_error *error);

/*
 * Serves until vublk_bus_stop(), or until the bus cannot continue: the socket cannot be
 * made (EADDRINUSE, EEXIST, ...), or no back-end is looked for any more (reconnect-ms 0,
 * reconnect-deadline-ms). Blocks the calling thread. When this function returns, the back-end has
 * returned the rings. Returns 0, or the error that ended the service.
 */
int vublk_bus_run(struct vublk_bus *bus, struct vublk_error *error);

/*
 * These two functions replace vublk_bus_run() in the application's own event loop. The descriptor
 * belongs to the bus, and polls readable when vublk_bus_process() has work to do. process() never
 * blocks. It returns 1: call it again when the descriptor is readable; 0: the service has ended, as
 * when vublk_bus_run() returns 0; or the error that ended it. Only one thread may call process().
 */
int vublk_bus_fd(const struct vublk_bus *bus);
int vublk_bus_process(struct vublk_bus *bus, struct vublk_error *error);

/* Asks run() or process() to finish. Any thread; safe in a signal handler. */
void vublk_bus_stop(struct vublk_bus *bus);

/*
 * Reads the disk's configuration from the back-end again, and reports a change to the VMM.
 * Without a back-end, the configuration is read from the next back-end. Any thread; safe in a
 * signal handler.
 */
void vublk_bus_refresh(struct vublk_bus *bus);

/*
 * Frees everything without waiting; not while run() or process() is being called. A back-end that
 * has rings may use them until it notices the hang-up. For a clean end, call vublk_bus_stop()
 * first and wait until run() returns. NULL is a no-op.
 */
void vublk_bus_free(struct vublk_bus *bus);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
