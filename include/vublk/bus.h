/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BUS_H
#define VUBLK_BUS_H

/*
 * A bus: the host device of <vublk/device.h> presented to a VMM that is another process
 * (what `vublk device` is). The back-end may disconnect and reconnect; the VMM does not
 * see it, and its disk pauses and continues. The VMM may reconnect, too; the back-end stays for the next.
 *
 * The buses, by the name that a specification begins with:
 *   vhost-user:PATH   a relay: listens on the Unix socket PATH and is the back-end of the
 *                     VMM's own vhost-user-blk front-end. Memory, kick and call descriptors
 *                     are passed through: no request touches it. docs/relay.md says what of
 *                     the protocol it has.
 *   vfio-user:PATH    a virtio-blk PCI device, served on the Unix socket PATH to a VMM with
 *                     a vfio-user client. Memory and interrupts are passed through, each kick
 *                     of the driver is a message. docs/vfio-user.md tells more.
 *
 * One VMM at a time; the next waits in the socket's backlog. The socket is created when
 * the first back-end has connected, because the disk has no size before that.
 *
 * Threads: everything happens on the thread that calls vublk_bus_run() or
 * vublk_bus_process(). Descriptors that a VMM gives are written to: a program ignores
 * SIGPIPE.
 */

#include <vublk/device.h>
#include <vublk/error.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

struct vublk_bus;

/*
 * The options of the bus that `spec` names, in addition to the device's properties, ended by one
 * whose name is NULL (so is that of a bus that has none, or that there is not). Static;
 * any thread, any time.
 */
const struct vublk_property *vublk_bus_options(const char *spec);

/*
 * The default of a device's property on the bus that `spec` names, or on every bus if it
 * names none; NULL: the device's own default. Of reconnect-ms, it is the one without server.
 * Static; any thread, any time.
 */
const char *vublk_bus_default(const char *spec, const char *name);

/*
 * Makes the device and begins to look for its back-end; nothing is served yet.
 *
 * `spec` is NAME:ARGUMENT as above. `device_properties` is an array of names and values
 * ended by a NULL name: those of vublk_device_properties(), of which chardev is mandatory,
 * and of vublk_bus_options(). Among these are, for every bus, socket-mode (octal, 0 to 0777)
 * and socket-group (a name or a number) of the file at PATH; no VMM can connect before both
 * are set. EPERM: the process is not root and not in that group.
 * Where a bus has another default than the device it is this:
 *   reconnect-ms     1000, without server; 0: the bus ends with its back-end
 *   queue-size       vhost-user: 1024: the VMM decides
 *   request-timeout-ms  vfio-user: 3000, because a VMM waits for 5 seconds at most
 *   realize-retries  0: with reconnect-ms or server the back-end is looked for until it is
 *                    there, without them once
 * All is borrowed during the call; `log` (may be NULL) is copied.
 *
 * Both paths are checked here, because they are used when there is a back-end, which may
 * be much later: their length, what is there, the directory of a socket that has to be made.
 *
 * Returns 0 and the bus in `bus`, freed with vublk_bus_free(). EINVAL: no such bus, a
 * property is unknown, missing or bad, or both paths are the same; ENAMETOOLONG,
 * EADDRINUSE, EEXIST, ENOTSOCK, ENOTDIR, ENOENT, EACCES: a path cannot be used; ENOMEM,
 * EMFILE.
 */
int vublk_bus_open(const char *spec, const struct vublk_option *device_properties,
		   const struct vublk_log *log, struct vublk_bus **bus,
		   struct vublk_error *error);

/*
 * Serves until vublk_bus_stop(), or until it cannot continue: the socket cannot be
 * made (EADDRINUSE, EEXIST, ...), or no back-end is looked for any more (reconnect-ms 0,
 * reconnect-deadline-ms). Blocks the calling thread. When it returns the rings are back
 * from the back-end. 0, or the error that ended it.
 */
int vublk_bus_run(struct vublk_bus *bus, struct vublk_error *error);

/*
 * The same for a loop of one's own: a descriptor that polls readable when
 * vublk_bus_process() has something to do; it stays the bus's. process() never blocks;
 * 1: there is more to come; 0: finished, as vublk_bus_run() would have returned. One thread.
 */
int vublk_bus_fd(const struct vublk_bus *bus);
int vublk_bus_process(struct vublk_bus *bus, struct vublk_error *error);

/* Asks run() or process() to finish. Any thread; safe in a signal handler. */
void vublk_bus_stop(struct vublk_bus *bus);

/*
 * Reads the disk's configuration from the back-end again, and tells the VMM of a change;
 * without a back-end that happens when there is one. Any thread; safe in a signal handler.
 */
void vublk_bus_refresh(struct vublk_bus *bus);

/*
 * Frees everything without waiting; not while run() or process() is being called. A
 * back-end that has rings may use them until it has seen the hang-up: a clean end is
 * vublk_bus_stop() and run() before. NULL is a no-op.
 */
void vublk_bus_free(struct vublk_bus *bus);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
