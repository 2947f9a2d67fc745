/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_DEVICE_H
#define VUBLK_DEVICE_H

/*
 * The vhost-user-blk host device, for a program that presents this device to a driver: a VMM, an
 * emulator, or one of the library's own buses. examples/embed.c is a small VMM that uses this
 * interface.
 *
 * The program that presents the device is called the bus here. The bus calls the functions below,
 * and the device calls those in struct vublk_device_bus_ops. Requests do not pass through the bus,
 * and pass through the device only with shadow rings (<vublk/shadow.h>). Otherwise the driver and
 * the back-end share the rings and buffers, and kicks and calls are eventfds between them.
 *
 * Life:
 *   new -> set properties -> realize ... realized()
 *       -> set memory, queues, ack features, set_status(DRIVER_OK) ... started()
 *       -> set_status(0) ... stopped()  -> (again) -> unrealize -> free
 *
 * With the property `server` the device listens at chardev's path, as a QEMU socket chardev with
 * server=on does. In that case REALIZING lasts until a usable back-end has connected, without a
 * time limit. After a loss the device waits for the next connection.
 *
 * With `server` or `reconnect-ms` the device outlives its back-end. After lost() the device keeps
 * everything that the driver sees and has set up. Without `server`, the device tries to connect at
 * intervals, and immediately when a socket appears at the path. With `server`, it listens. When a
 * back-end is connected, reconnected() is called. If DRIVER_OK is set, started() follows, and the
 * rings resume where they were. During the outage the bus may make the same calls as in STOPPED.
 *
 * A device belongs to one thread at a time, the one that calls vublk_device_process(). process()
 * invokes the callbacks. Functions that change whether the rings run (set_status(),
 * set_vm_running(), force_shutdown(), kick()) may also invoke needs_reset(), stopped(),
 * notifiers_changed() and dirty_log_changed(). No call blocks. A callback may call every function
 * of the device, including vublk_device_unrealize(), except vublk_device_free().
 *
 * "From STOPPED on" means every state except CREATED and REALIZING. A parameter such as `ops_bytes`
 * is the size of the struct that the preceding parameter points to (<vublk/version.h>). A call
 * fails with EINVAL if the size is too small to include the struct's descriptors, or if a member
 * that this library does not know is set. An output is untouched when the call fails.
 *
 * The library maps files that their owners can truncate: a dirty log that the bus passes and, with
 * shadow rings, the guest's memory. So it handles SIGBUS for these mappings; see <vublk/sigbus.h>.
 *
 * Unless a function says otherwise:
 * States: any.
 * Threads: the device's thread, callbacks included.
 */

#include <vublk/error.h>
#include <vublk/memory.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

#define VUBLK_MAX_QUEUES 256      /* a queue index in a vhost-user message has 8 bits */
#define VUBLK_MIN_QUEUE_SIZE 2
#define VUBLK_MAX_QUEUE_SIZE 1024
#define VUBLK_DEFAULT_QUEUE_SIZE 128

struct vublk_device;
struct vublk_device_inflight;

enum vublk_device_state {
	VUBLK_DEVICE_CREATED,      /* properties may be set */
	VUBLK_DEVICE_REALIZING,    /* connecting and negotiating with the back-end */
	VUBLK_DEVICE_STOPPED,      /* connected; the rings do not run */
	VUBLK_DEVICE_STARTING,     /* the rings are being handed to the back-end */
	VUBLK_DEVICE_RUNNING,      /* the back-end works on the rings */
	VUBLK_DEVICE_STOPPING,     /* the rings are being reclaimed */
	VUBLK_DEVICE_LOST,         /* the connection to the back-end ended; the device remains */
	VUBLK_DEVICE_RECONNECTING, /* negotiating with the next back-end */
	VUBLK_DEVICE_NUM_STATES,
};

/*
 * Returns the name of a state, for example "running", as a static string; "unknown" if there is no
 * such state.
 * Threads: any.
 */
const char *vublk_device_state_name(enum vublk_device_state state);

/*
 * The callbacks of the device, which the bus implements. Any of them may be NULL. `error` is valid
 * during the call.
 */
struct vublk_device_bus_ops {
	/*
	 * The attempt that vublk_device_realize() began has ended. `error` NULL: the state is
	 * STOPPED; otherwise the state is CREATED again. The codes of `error`:
	 *   ENOENT, ECONNREFUSED, ENOTSOCK  no back-end listens at the path
	 *   ENAMETOOLONG                    the path is longer than 107 bytes
	 *   EADDRINUSE, EEXIST              the device cannot listen at the path (server)
	 *   ETIMEDOUT                       the back-end did not answer
	 *   ENOTCONN                        the back-end closed the connection
	 *   EPROTO                          an answer broke the protocol, or the config is invalid
	 *   ENOTSUP                         the back-end lacks a feature that a disk needs
	 *   ESTALE                          the disk is out of date (mirror-state)
	 *   EINVAL                          the back-end has fewer queues than num-queues
	 *   ENOMEM, EMFILE                  no memory, no descriptor
	 *   others                          of connect(2), bind(2) or sendmsg(2)
	 */
	void (*realized)(void *bus, const struct vublk_error *error);
	/*
	 * The rings run. The device kicks each queue once, because the driver may have added
	 * requests before the start.
	 */
	void (*started)(void *bus);
	/*
	 * The rings have stopped. `error` NULL: the stop was requested (reset, pause), and
	 * vublk_device_queue_base() says where each ring resumes. Otherwise the state is LOST: the
	 * start failed, the back-end was lost, or requests did not complete in time. In that case
	 * the positions of the rings may be unknown (vublk_device_queue_place()).
	 */
	void (*stopped)(void *bus, const struct vublk_error *error);
	/*
	 * The connection to the back-end ended, and `error` says why. If the back-end had the
	 * rings, stopped() is called first, with the same error, unless the device keeps the rings
	 * (property shadow). ECANCELED: the device itself closed the connection.
	 */
	void (*lost)(void *bus, const struct vublk_error *error);
	/* The next back-end is connected and offers what the driver needs. State: STOPPED. */
	void (*reconnected)(void *bus);
	/*
	 * reconnect-deadline-ms has passed, so the device no longer tries to reconnect. The state
	 * stays LOST. `error` says why the last try failed.
	 */
	void (*gave_up)(void *bus, const struct vublk_error *error);
	/* The config and its generation have changed: the bus must raise a config interrupt. */
	void (*config_changed)(void *bus);
	/* The change that vublk_device_set_memory() began has ended; `error` NULL: it succeeded. */
	void (*memory_changed)(void *bus, const struct vublk_error *error);
	/* The back-end has all kick and call descriptors that were set since the rings started. */
	void (*notifiers_changed)(void *bus);
	/*
	 * A change of the dirty log has ended. After a start with `error` NULL, the log records all
	 * later writes. After a start with an error, and after a stop, the log is off.
	 */
	void (*dirty_log_changed)(void *bus, const struct vublk_error *error);
	/*
	 * The write that vublk_device_config_write() began has ended; `error` NULL: it succeeded.
	 * EIO: the back-end did not adopt the value.
	 */
	void (*config_written)(void *bus, const struct vublk_error *error);
	/*
	 * A ring cannot continue, so the driver has to reset the device: the bus must set
	 * DEVICE_NEEDS_RESET. After a reconnection the reason is that the device does not know
	 * which requests the lost back-end had begun. No ring starts before the reset.
	 */
	void (*needs_reset)(void *bus, const struct vublk_error *error);
	/*
	 * The request that vublk_device_make_inflight() began has ended. The area's descriptor
	 * belongs to the device and is valid during the call. `area_bytes` is the size of the
	 * library's struct: a program built with a larger struct treats the members past that size
	 * as 0. `area` NULL: the back-end refused to make an area, or was lost.
	 */
	void (*inflight_made)(void *bus, const struct vublk_device_inflight *area,
			      size_t area_bytes, const struct vublk_error *error);
};

/* --- properties ------------------------------------------------------------- */

/*
 * Returns the properties, as a static array that ends with an entry whose name is NULL; each has
 * its type, default and description. Properties that also exist in QEMU have the same names there.
 * Examples: chardev (the back-end's Unix socket), server, num-queues ("auto": as many as the
 * back-end offers, up to num-queues-limit), queue-size, read-only, config-wce, discard,
 * write-zeroes, features-off, serial, event_idx, indirect_desc, seg-max-adjust, request-timeout-ms,
 * keepalive-ms, reconnect-ms (0: the loss of the back-end is permanent), reconnect-deadline-ms,
 * inflight, inflight-migration, unflushed, statistics.
 *
 * Some properties change which part of the back-end's offer the driver sees; struct
 * vublk_device_info says what they changed. read-only offers VIRTIO_BLK_F_RO. features-off is a
 * mask (0x2000) or names joined by + (discard+topology); VERSION_1 and RO cannot be hidden. With
 * shadow=on the device refuses the requests of hidden features and writes to a read-only disk, and
 * answers GET_ID with serial. Otherwise it checks no request: a bus that sees requests must make
 * these checks itself, and any other bus must refuse a nonempty serial.
 * Threads: any.
 */
const struct vublk_property *vublk_device_properties(void);

/*
 * Sets a property from its text, which is copied. The type and range are checked now; combinations
 * of properties are checked by vublk_device_realize(). A property keeps its value until it is set
 * again.
 * Errors:
 *   EINVAL  there is no such property, or the value does not fit its type and range
 *   EBUSY   the state is not CREATED
 * States: CREATED.
 */
int vublk_device_set_property(struct vublk_device *device, const char *name, const char *value,
			      struct vublk_error *error);

/*
 * Stores the value of a property as text, with a final NUL, in `value`, which has room for
 * `value_bytes` bytes.
 * Errors:
 *   EINVAL  there is no such property, or `value_bytes` is too small
 */
int vublk_device_get_property(const struct vublk_device *device, const char *name, char *value,
			      size_t value_bytes, struct vublk_error *error);

/*
 * Returns whether the device outlives its back-end: reconnect-ms is not 0, or server is on. A bus
 * needs this to decide whether outstanding requests wait or fail.
 */
bool vublk_device_reconnects(const struct vublk_device *device);

/* --- life ------------------------------------------------------------------- */

/*
 * Creates a device in state CREATED. `ops` and `log` (both may be NULL) are copied; `bus` is passed
 * to each callback. The caller frees the device with vublk_device_free().
 * Errors:
 *   EINVAL          `ops` has a callback that this library does not know
 *   ENOMEM, EMFILE  no memory, no descriptor
 * Threads: any.
 */
int vublk_device_new(const struct vublk_device_bus_ops *ops, size_t ops_bytes, void *bus,
		     const struct vublk_log *log, struct vublk_device **device,
		     struct vublk_error *error);

/*
 * Unrealizes the device and frees it. NULL is a no-op.
 * Threads: the device's thread, but not in a callback.
 */
void vublk_device_free(struct vublk_device *device);

/*
 * Returns a descriptor that polls readable when vublk_device_process() has work to do. It belongs
 * to the device and stays the same until vublk_device_free().
 * Errors: none.
 */
int vublk_device_fd(const struct vublk_device *device);

/*
 * Does the pending work without blocking, and calls the callbacks.
 * Errors:
 *   others  of epoll_wait(2): the event loop itself failed
 */
int vublk_device_process(struct vublk_device *device);

/* Returns the current state. */
enum vublk_device_state vublk_device_state(const struct vublk_device *device);

/*
 * Returns whether the rings are out: the back-end has them, or is getting or returning them
 * (STARTING, RUNNING, STOPPING), or the device keeps them for the next back-end during an outage
 * (shadow rings).
 */
bool vublk_device_has_rings_out(const struct vublk_device *device);

/*
 * Lends the device a connection to its back-end for the next realize. `fd` is a connected Unix
 * stream socket, which the device duplicates. Close `fd` after the call, because while it is open,
 * the back-end does not notice that the device has disconnected. The next realize uses this
 * connection instead of connecting to chardev, which only names the back-end in error texts and log
 * lines. If that realize fails, the device does not try again. A second call replaces the first
 * connection. The device cannot connect again, so vublk_device_realize() refuses a lent connection
 * unless reconnect-ms is 0 and server is off.
 * Errors:
 *   EBUSY     the state is not CREATED
 *   ENOTSOCK  `fd` is not a socket
 *   EINVAL    `fd` is not a descriptor, or is a socket of another kind
 *   ENOTCONN  the socket is not connected
 *   EMFILE    `fd` cannot be duplicated
 * States: CREATED.
 */
int vublk_device_lend_connection(struct vublk_device *device, int fd, struct vublk_error *error);

/*
 * Checks the properties, then begins to connect and to negotiate; realized() follows. A device that
 * is LOST has to be unrealized first.
 * Errors:
 *   EINVAL  chardev is missing, queue-size is not a power of two, properties or the file of
 *           mirror-state are invalid, or a connection was lent to a device that reconnects
 *   EBUSY   the state is not CREATED, or another process uses the file of mirror-state
 *   others  of open(2) on the file of mirror-state
 * States: CREATED.
 * Specification: vhost-user, "Feature negotiation" and "Multiple queue support".
 */
int vublk_device_realize(struct vublk_device *device, struct vublk_error *error);

/*
 * Closes the connection without waiting; the state is CREATED afterwards. Forgets all that the
 * driver has set up, but keeps the properties. Removes the socket of a device that listened. No
 * callback follows. The back-end may still use the rings until it notices the hang-up. For a clean
 * end, call set_status(0) and wait for stopped() first.
 */
void vublk_device_unrealize(struct vublk_device *device);

/* --- what the driver sees ----------------------------------------------------- */

/* Returns the number of queues; 0 in CREATED and REALIZING. */
unsigned vublk_device_num_queues(const struct vublk_device *device);

/* Returns the largest number of entries of a queue (queue-size); 0 in CREATED and REALIZING. */
unsigned vublk_device_queue_size(const struct vublk_device *device);

/*
 * Returns the features that are offered to the driver: those that both the device and the back-end
 * have and no property hides, and VIRTIO_BLK_F_RO with read-only. The back-end gets only those
 * accepted features that it has offered itself. The result is 0 in CREATED and REALIZING.
 * Specification: virtio 1.3, sections 2.2, 5.2.3 and 6.
 */
uint64_t vublk_device_features(const struct vublk_device *device);

/*
 * Sets the features that the driver accepted. A driver that did not accept VERSION_1 is a legacy
 * driver. It is supported only on little-endian machines, where legacy and modern drivers use the
 * same format of rings and requests. It may kick before DRIVER_OK (vublk_device_kick()).
 * Errors:
 *   EINVAL   `features` has a bit that was not offered
 *   ENOTSUP  the driver is a legacy driver, and the machine is big-endian
 *   EBUSY    the device is in another state, or the rings will resume as they are when a back-end
 *            is connected
 * States: STOPPED, LOST, RECONNECTING.
 * Specification: virtio 1.3, section 2.2.
 */
int vublk_device_ack_features(struct vublk_device *device, uint64_t features,
			      struct vublk_error *error);

/*
 * Reads `bytes` bytes at `offset` of the driver's configuration space (struct virtio_blk_config,
 * little-endian) into `data`. Bytes past the end of the space read as zero.
 * Specification: virtio 1.3, section 5.2.4.
 */
void vublk_device_config_read(const struct vublk_device *device, unsigned offset, void *data,
			      unsigned bytes);

/*
 * Returns a number that changes whenever the config that the driver sees changes; the bus presents
 * this number as config_generation.
 * Specification: virtio 1.3, section 2.5.
 */
uint32_t vublk_device_config_generation(const struct vublk_device *device);

/*
 * Reads the config from the back-end again; config_changed() follows if the config has changed.
 * Without a back-end, the config is read from the next back-end. This call is needed only if the
 * back-end does not report changes and config-poll-ms would find them too late.
 * Specification: vhost-user, "VHOST_USER_GET_CONFIG".
 */
void vublk_device_refresh_config(struct vublk_device *device);

/*
 * Writes the config. The only writable field is `wce`: `offset` is its offset, `bytes` is 1, and
 * `data` is 0 or 1.
 * Returns:
 *   0  `wce` has this value already
 *   1  the value is sent to the back-end, and config_written() follows
 * Errors:
 *   EINVAL    the write touches another field, or the value is neither 0 nor 1
 *   ENOTSUP   CONFIG_WCE was not negotiated
 *   ENOTCONN  no back-end is connected
 *   EBUSY     another write is under way
 * States: STOPPED, STARTING, RUNNING, STOPPING.
 * Specification: virtio 1.3, section 5.2.4; vhost-user, "VHOST_USER_SET_CONFIG".
 */
int vublk_device_config_write(struct vublk_device *device, unsigned offset, const void *data,
			      unsigned bytes, struct vublk_error *error);

/*
 * Returns the driver's status byte; 0 in CREATED and REALIZING.
 * Specification: virtio 1.3, section 2.1.
 */
uint8_t vublk_device_status(const struct vublk_device *device);

/*
 * Sets the driver's status byte. DRIVER_OK starts the rings if the VM runs and a back-end is
 * connected, and started() or stopped() follows. A status of 0 resets the device: it forgets the
 * accepted features, the queues and the in-flight area, but not the memory. Rings that run are
 * stopped, and stopped() follows; until then no other status can be set.
 * Errors:
 *   EBUSY     the state is CREATED or REALIZING, or a reset is not complete
 *   EINVAL    DRIVER_OK is set, but the features are not accepted, no memory is set, or a ring is
 *             outside of the memory
 *   ENOTCONN  DRIVER_OK is set, but the back-end was lost, and the device does not look for another
 * States: from STOPPED on.
 * Specification: virtio 1.3, sections 2.1 and 3.1.1.
 */
int vublk_device_set_status(struct vublk_device *device, uint8_t status,
			    struct vublk_error *error);

/*
 * Tells the device whether the VM runs. A new device assumes that the VM runs. The rings run while
 * the driver has set DRIVER_OK, the VM runs, and a back-end is connected. A pause stops the rings:
 * the back-end completes the requests that it has begun (with inflight-migration it may leave them
 * in the in-flight area instead), and no longer touches the memory. Status, features, queues, their
 * bases and the in-flight area stay as they are, and after the pause the rings resume where they
 * stopped. During the pause, the memory, features and queues may be set again, except after the
 * loss of a back-end that had the rings (EBUSY, because the rings resume as they are). The setting
 * lasts until it is changed, even across unrealize.
 * Returns:
 *   0  nothing has to change, or a start waits for a back-end or for a change of the memory
 *   1  a start or stop is under way, and started() or stopped() follows
 * Errors: none.
 * Specification: vhost-user, "Suspended ring state".
 */
int vublk_device_set_vm_running(struct vublk_device *device, bool running);

/*
 * Sets whether later stops wait for the requests that the back-end has begun, even with
 * inflight-migration. Default: false, so that stops with inflight-migration do not wait. A back-end
 * that offers GET_VRING_BASE_INFLIGHT without GET_VRING_BASE_SKIP_DRAIN cannot be asked to wait.
 * The setting lasts until it is changed, even across unrealize.
 * Specification: vhost-user, "VHOST_USER_GET_VRING_BASE".
 */
void vublk_device_set_drains(struct vublk_device *device, bool drains);

/*
 * Resets the device of a guest that was ended by force and does not run again. Only
 * vublk_device_unrealize() is useful afterwards, and the device does not look for another back-end.
 * A hung request delays the shutdown until the deadline of the stop (request-timeout-ms). The
 * property skip-get-vring-base-on-force-shutdown avoids that: the connection is closed without
 * stopping the rings, and stopped() and lost() have the error ECANCELED. The back-end may or may
 * not execute the requests that it has begun, and may touch the memory until it notices the
 * hang-up.
 * Returns:
 *   0  the back-end did not have the rings
 *   1  stopped() follows
 * Errors: none.
 */
int vublk_device_force_shutdown(struct vublk_device *device);

/* --- what the bus hands over --------------------------------------------------- */

/*
 * Sets the guest's whole memory in place of the previous one: `num_regions` regions, at most
 * VUBLK_MEMORY_MAX_REGIONS. The array is borrowed during the call, and the descriptors are
 * duplicated. If the call fails, the previous memory stays. If memory_changed() has an error, the
 * back-end refused a region, and does not have it.
 *
 * While no rings run, new memory takes effect at the next start. Removing all memory (0 regions)
 * takes effect immediately if possible. If reconnect-ms is set and server is off, the device closes
 * the connection and connects again: 0 is returned, lost() has the error ECANCELED, and
 * reconnected() follows. Otherwise the device sends the removal to a back-end with memory slots: 1
 * is returned, and a start waits for memory_changed(). A back-end without memory slots keeps the
 * memory until the next start: 0 is returned.
 * Returns:
 *   0  the memory takes effect at the next start, or the device connects again
 *   1  the change (without the regions that stay the same) is sent to the back-end, and
 *      memory_changed() follows
 * Errors:
 *   EINVAL          a region is empty, overlaps another or the shadow rings, wraps around, exceeds
 *                   its file, has `reserved` set, or its file is neither a regular file nor a DAX
 *                   device; the dirty log is too short for the memory; or the memory lacks a ring
 *                   that runs or resumes
 *   ENOSPC          there are more regions than the back-end has memory slots, or than
 *                   VUBLK_MEMORY_MAX_REGIONS
 *   EBUSY           another change is under way, or the device is in another state
 *   EBADF           a region's `fd` is not a descriptor
 *   ENOMEM, EMFILE  no memory, no descriptor
 * States: STOPPED, RUNNING, LOST, RECONNECTING.
 * Specification: vhost-user, "VHOST_USER_SET_MEM_TABLE", "VHOST_USER_ADD_MEM_REG" and
 * "VHOST_USER_REM_MEM_REG".
 */
int vublk_device_set_memory(struct vublk_device *device,
			    const struct vublk_memory_region *regions, unsigned num_regions,
			    struct vublk_error *error);

struct vublk_device_queue {
	uint16_t size;       /* entries: a power of two, up to vublk_device_queue_size() */
	uint64_t desc_addr;  /* guest addresses of a split ring's parts */
	uint64_t avail_addr;
	uint64_t used_addr;
	int kick_fd;         /* eventfd, borrowed; -1: the back-end polls the ring */
	int call_fd;         /* eventfd, borrowed; -1: the driver polls the ring */
	uint16_t base;       /* avail index at which the ring starts: 0 for a new ring */
};

/*
 * Sets up queue `index`; `queue` NULL: the driver does not use this queue. The struct is copied;
 * its descriptors are borrowed until the queue is set again, or the device is reset or unrealized.
 * Errors:
 *   EINVAL  there is no such queue; its size is not a power of two from VUBLK_MIN_QUEUE_SIZE to
 *           vublk_device_queue_size(); its parts are not aligned to 16, 2 and 4 bytes; or the
 *           driver is ready, and the ring is outside of the memory
 *   EBUSY   the device is in another state, or the rings will resume as they are when a back-end is
 *           connected
 * States: STOPPED, LOST, RECONNECTING.
 * Specification: virtio 1.3, section 2.7.
 */
int vublk_device_set_queue(struct vublk_device *device, unsigned index,
			   const struct vublk_device_queue *queue, size_t queue_bytes,
			   struct vublk_error *error);

/*
 * Replaces the kick or call eventfd of a queue that is set up (-1: no descriptor). The new
 * descriptor is borrowed; the old one is not used after the call. A back-end that refuses a
 * descriptor is disconnected. No notification is lost: when the back-end has the new descriptor,
 * the device signals that descriptor once, because the old one may have been signalled until then.
 * Returns:
 *   0  the next start hands the new descriptor over or, with shadow rings, the device uses it now
 *   1  the new descriptor is sent to the back-end; notifiers_changed() follows when the back-end
 *      has all descriptors that were set, unless stopped() comes first
 * Errors:
 *   EINVAL  there is no such queue, or it is not set up
 *   others  of epoll_ctl(2): with shadow rings, the kick descriptor cannot be polled
 * States: from STOPPED on.
 * Specification: vhost-user, "VHOST_USER_SET_VRING_KICK" and "VHOST_USER_SET_VRING_CALL".
 */
int vublk_device_set_queue_kick(struct vublk_device *device, unsigned index, int fd,
				struct vublk_error *error);
int vublk_device_set_queue_call(struct vublk_device *device, unsigned index, int fd,
				struct vublk_error *error);

/*
 * Kicks a queue, for a bus that is notified by function calls instead of eventfds. Signals the
 * queue's kick descriptor, if it has one.
 *
 * A legacy driver may kick before DRIVER_OK. If that driver has set a status and accepted its
 * features, and memory and queues are set up, the kick starts the device: started() follows, and
 * each queue that is set up is kicked. A signal on a kick descriptor has the same effect. If the
 * queues cannot be started, needs_reset() is called, but not again before the reset. Queues that
 * are set up after the kick are not used before a reset.
 * Errors:
 *   EINVAL  there is no such queue, or it is not set up
 * States: from STOPPED on.
 * Specification: virtio 1.3, section 3.1.2 for legacy drivers.
 */
int vublk_device_kick(struct vublk_device *device, unsigned index);

/*
 * Stores the set-up of a queue in *queue; a size of 0 means that the queue is not set up. The base
 * is the index at which the ring started or, after a stop, at which it resumes. The descriptors
 * still belong to the bus.
 * Errors:
 *   EINVAL  there is no such queue
 * States: from STOPPED on.
 */
int vublk_device_get_queue(const struct vublk_device *device, unsigned index,
			   struct vublk_device_queue *queue, size_t queue_bytes);

/*
 * Returns the avail index at which queue `index` starts or, after a stop, resumes; 0 if there is no
 * such queue.
 * Specification: vhost-user, "VHOST_USER_GET_VRING_BASE".
 */
uint16_t vublk_device_queue_base(const struct vublk_device *device, unsigned index);

/*
 * Returns whether another back-end can resume the rings as they are, with the outstanding requests,
 * because an in-flight area records these requests. If such an area was negotiated, the answer is
 * true from the first start until a reset. In LOST the answer is about the back-end that was lost.
 * In RECONNECTING the answer is false, because the new back-end's offer is not known yet.
 * Specification: vhost-user, "Inflight I/O tracking".
 */
bool vublk_device_is_tracked(const struct vublk_device *device);

/* --- the dirty log: which pages of the memory were written ------------------------- */

/*
 * The log is a bitmap in a file. Page N begins at guest address N * VUBLK_DIRTY_PAGE_BYTES; its bit
 * is bit N % 8 of byte N / 8, counted from `offset` in the file. After a write to a page (data,
 * status bytes, used rings), the back-end or, with shadow rings, the device sets the bit. A program
 * that copies the page clears the bit first. Both operations are atomic.
 */
struct vublk_device_dirty_log {
	int fd;
	uint64_t offset;     /* a multiple of the machine's page size */
	uint64_t size_bytes; /* a multiple of 8, enough for the end of the last memory region */
};

/*
 * Switches the dirty log on. `log` NULL: the device makes an empty bitmap for the current memory.
 * Otherwise the descriptor is duplicated, the bits in the file are kept, and the file must not
 * become shorter. The log outlives pauses, resets and the back-end: the device refuses a later
 * back-end that cannot log. When a back-end is lost, the device marks the used rings of that
 * back-end, because the back-end may have died before it marked them. The log ends with
 * vublk_device_dirty_log_stop() or unrealize.
 * Returns:
 *   0  the log is on
 *   1  the back-end has the rings, and dirty_log_changed() follows
 * Errors:
 *   EBUSY           the log is on or changing, the disk is mirrored, or the device is not realized
 *   EINVAL          no memory has been set; `log` is not aligned, too short for the memory, exceeds
 *                   its file, or is not in a memory file
 *   ENOTSUP         there are no shadow rings, and the back-end lacks LOG_SHMFD or VHOST_F_LOG_ALL
 *   EBADF           the log's `fd` is not a descriptor
 *   ENOMEM, EMFILE  the bitmap cannot be made, or the descriptor not duplicated
 * States: from STOPPED on.
 * Specification: vhost-user, "Migration" and "VHOST_USER_SET_LOG_BASE".
 */
int vublk_device_dirty_log_start(struct vublk_device *device,
				 const struct vublk_device_dirty_log *log, size_t log_bytes,
				 struct vublk_error *error);

/*
 * Switches the dirty log off; bits that were not taken are lost. A no-op if the log is off.
 * Returns:
 *   0  the log is off
 *   1  the back-end has the rings, and dirty_log_changed() follows
 * Errors:
 *   EBUSY  a change of the log is under way
 */
int vublk_device_dirty_log_stop(struct vublk_device *device, struct vublk_error *error);

/*
 * Reads and clears the bits of `num_pages` pages, from `first_page` on (both multiples of 64). Page
 * first_page + N is bit N % 64 of bits[N / 64]. If a page is written during the call, its bit is
 * either among the bits that were read or stays set. So take the bits first, then copy the pages.
 * Errors:
 *   EBUSY   the log is off
 *   EINVAL  a number is not a multiple of 64, or the log does not cover all of these pages
 *   ENOMEM  the log cannot be mapped
 *   EIO     the log's file was truncated, so the bits are useless
 */
int vublk_device_dirty_log_take(struct vublk_device *device, uint64_t first_page,
				uint64_t num_pages, uint64_t *bits, struct vublk_error *error);

/*
 * Stores in *log where the bitmap is, so that another thread can map it. The descriptor still
 * belongs to the device.
 * Errors:
 *   ENOENT  the log is off
 */
int vublk_device_dirty_log_get(const struct vublk_device *device,
			       struct vublk_device_dirty_log *log, size_t log_bytes);

/*
 * The position of a queue, for a bus that ends one session of its driver and begins another with
 * the same rings.
 */
struct vublk_device_place {
	bool is_known;        /* false: the back-end was lost before it returned the ring */
	uint16_t base;        /* where the queue resumes; if not `is_known`: the used index,
	                         which is exact if `outstanding` is 0 */
	uint16_t outstanding; /* incomplete requests that a back-end may have seen */
	uint16_t undrained;   /* if `is_known`: incomplete requests before `base` */
};

/*
 * Reads the position of a queue from the indices in the guest's memory; the result is reliable only
 * while the rings do not run.
 * Errors:
 *   EINVAL  there is no such queue, it is not set up, or it is outside of the memory that was set
 *   EIO     the memory's file was truncated, or an index keeps changing
 *   ENOMEM  the memory cannot be mapped
 *   others  of mmap(2), for a file that cannot be read
 * States: from STOPPED on.
 * Specification: virtio 1.3, sections 2.7.6 and 2.7.8.
 */
int vublk_device_queue_place(const struct vublk_device *device, unsigned index,
			     struct vublk_device_place *place, size_t place_bytes,
			     struct vublk_error *error);

/* The area in which a back-end records the requests of split rings that it has begun. */
struct vublk_device_inflight {
	int fd;              /* the file that contains the area */
	uint64_t offset;     /* where in the file the area begins, in bytes */
	uint64_t size_bytes;
	uint16_t num_queues; /* how many queues fit in the area */
	uint16_t queue_size; /* the largest number of entries of a queue */
};

/*
 * Sets the in-flight area for the next start. Without this call the device asks the back-end for a
 * new one. The area is empty (zeroes), or comes from another back-end that ran the same rings. The
 * descriptor is duplicated. The next back-end executes the requests that the area records as begun.
 * If that back-end does not accept an area, the rings start only if no request is outstanding;
 * otherwise needs_reset() is called. A reset drops the area.
 * Errors:
 *   EINVAL          the area has no queue, more queues than the device, or queues of more than
 *                   VUBLK_MAX_QUEUE_SIZE entries; or it is too short for any layout, exceeds its
 *                   file, or is not in a memory file
 *   ENOTSUP         the area has a layout other than that of split rings
 *   EBUSY           the device is in another state, or the rings will resume as they are when a
 *                   back-end is connected
 *   EIO             the area's file was truncated
 *   EBADF           the area's `fd` is not a descriptor
 *   ENOMEM, EMFILE  no memory, no descriptor
 *   others          of pread(2)
 * States: STOPPED, LOST, RECONNECTING.
 * Specification: vhost-user, "Inflight I/O tracking" and "VHOST_USER_SET_INFLIGHT_FD".
 */
int vublk_device_set_inflight(struct vublk_device *device,
			      const struct vublk_device_inflight *area, size_t area_bytes,
			      struct vublk_error *error);

/*
 * Makes a new in-flight area for a bus that passes the area on, as a relay passes it to its VMM.
 * The caller sets `num_queues` (1 to the device's number) and `queue_size` (1 to
 * VUBLK_MAX_QUEUE_SIZE entries) of `area`. If possible, the back-end makes the area, because only a
 * back-end knows the layout of its area.
 * Returns:
 *   0  the device made the area with the layout of the last back-end, because no back-end is
 *      connected, the back-end has the rings, or only the shadow rings use an area. The other
 *      members of *area are filled, and the caller closes the descriptor
 *   1  inflight_made() follows with the area, and no start begins before that
 * Errors:
 *   EINVAL          num_queues or queue_size is out of range
 *   ENOTSUP         the back-end has no area, or the properties do not let the device use one
 *   EBUSY           an area is being made
 *   ENOMEM, EMFILE  no memory, no descriptor
 * States: from STOPPED on.
 * Specification: vhost-user, "VHOST_USER_GET_INFLIGHT_FD".
 */
int vublk_device_make_inflight(struct vublk_device *device, struct vublk_device_inflight *area,
			       size_t area_bytes, struct vublk_error *error);

/*
 * Stores in *area where the current in-flight area is. The descriptor still belongs to the device.
 * Errors:
 *   ENOENT  there is no area
 */
int vublk_device_get_inflight(const struct vublk_device *device,
			      struct vublk_device_inflight *area, size_t area_bytes);

/* --- saving and loading ------------------------------------------------------------ */

/*
 * Saves the device for another process: status, features, config, queues and where each resumes,
 * and the in-flight area, but not memory, descriptors and properties. The caller frees `*stream`,
 * which has `*stream_bytes` bytes, with free(). The stream takes a few hundred bytes plus the size
 * of the area (16 KiB for each queue of 1024 entries). The device is not changed.
 *
 * The rings must not run: pause the VM (vublk_device_set_vm_running()) and wait for stopped(). The
 * requests that the back-end has begun are then complete, or, with the property inflight-migration
 * and a back-end that supports it, in the stream. A device that has lost its back-end can be saved,
 * too. Such a device can resume elsewhere if it has an in-flight area, or if no request was
 * outstanding.
 * Errors:
 *   EBUSY   the device is in another state or has rings out, or the config is being written
 *   EPROTO  the back-end's in-flight area is too large to be saved
 *   EIO     the file of the in-flight area was truncated
 *   ENOMEM  no memory
 *   others  of pread(2)
 * States: STOPPED, LOST, RECONNECTING.
 */
int vublk_device_save(const struct vublk_device *device, void **stream, size_t *stream_bytes,
		      struct vublk_error *error);

/*
 * Loads a saved device and continues its driver's session. The device must be realized and its VM
 * paused, and no driver may have used the device since realize or a reset. After the call the bus
 * must set the memory, set each queue's descriptors with vublk_device_set_queue_kick() and
 * vublk_device_set_queue_call(), and let the VM run. started() follows, each queue is kicked once
 * and called once, and this device's back-end executes the requests that were in flight.
 *
 * The stream need not be trusted: everything is checked first, and a failure changes nothing. The
 * stream is borrowed during the call.
 * Returns:
 *   0  the config is unchanged
 *   1  the config differs from the one that the driver last read (for example, the disk was
 *      resized), its generation is one higher, and the bus raises a config interrupt
 * Errors:
 *   EINVAL          the stream is damaged, or the device has other queues (num-queues, queue-size)
 *   ENOTSUP         the stream has a newer version, or the back-end lacks, or a property hides,
 *                   what the driver accepted or what the in-flight requests need
 *   EROFS           the back-end is read-only or read-only is on, and the saved disk was writable
 *   EBUSY           the device is in another state, the VM runs, or a driver has used the device
 *   ENOMEM, EMFILE  the in-flight area cannot be made
 *   others          of pwrite(2) to the in-flight area
 * States: STOPPED, LOST, RECONNECTING.
 */
int vublk_device_load(struct vublk_device *device, const void *stream, size_t stream_bytes,
		      struct vublk_error *error);

/* --- what was negotiated, for a person or a program ----------------------------- */

struct vublk_device_info {
	char chardev[256];
	uint64_t backend_features;           /* virtio bits that the back-end offered */
	uint64_t backend_protocol_features;  /* vhost-user bits that the back-end offered */
	uint64_t protocol_features;          /* vhost-user bits that the device accepted */
	uint32_t backend_max_queues;
	uint32_t backend_memory_slots;
	uint32_t backend_config_bytes;       /* how many bytes of the config the back-end has */
	uint32_t bus_protocol_features; /* vhost-user bits that a bus may offer to its VMM */
	/* how the device changes the back-end's offer */
	uint64_t features;                   /* virtio bits that are offered to the driver */
	uint64_t hidden_features;            /* offered by the back-end, hidden by a property */
	uint8_t backend_config[96];          /* virtio_blk_config as the back-end last sent it;
						vublk_device_config_read() reads the driver's */
};

/* Stores in `info` what was negotiated. Members that are not known yet are 0. */
void vublk_device_get_info(const struct vublk_device *device, struct vublk_device_info *info,
			   size_t info_bytes);

/*
 * These functions return the name of a virtio or vhost-user feature bit, such as
 * "VIRTIO_BLK_F_FLUSH" or "REPLY_ACK", as a static string; NULL: the bit has no name.
 * Threads: any.
 */
const char *vublk_feature_name(unsigned bit);
const char *vublk_protocol_feature_name(unsigned bit);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
