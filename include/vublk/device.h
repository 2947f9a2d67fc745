/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_DEVICE_H
#define VUBLK_DEVICE_H

/*
 * The vhost-user-blk host device, for a program that presents it to a driver: a VMM, an
 * emulator, or the library's own buses. examples/embed.c is a small VMM that does so.
 *
 * Between the presenter (here called the bus) and the device there is one seam:
 * the bus calls the functions below, the device calls struct vublk_device_bus_ops.
 * The data path never crosses it: kicks and calls are eventfds that go to the
 * back-end, buffers are memory that the back-end maps.
 *
 * Life:
 *   new -> set properties -> realize ... realized()
 *       -> set memory, queues, ack features, set_status(DRIVER_OK) ... started()
 *       -> set_status(0) ... stopped()  -> (again) -> unrealize -> free
 *
 * With the property server it is the device that listens at chardev's path, as QEMU's
 * `-chardev socket,server=on` does: REALIZING lasts until a back-end has connected that
 * can be used, however long that takes, and the next one takes the place of one that was lost.
 *
 * With server or reconnect-ms the device outlives its back-end: after
 * lost() it keeps what the driver sees and set up, and tries to find a
 * back-end again (woken when a socket appears at the path), or listens. reconnected() tells that
 * it has one, and if DRIVER_OK is set started() follows: the rings resume where
 * they were. Meanwhile the driver's calls are accepted as in STOPPED.
 *
 * Threads: a device belongs to one thread at a time, the one that calls
 * vublk_device_process(); every call here is made on it, every callback comes
 * from inside process() on it. No call blocks. A callback may call the device,
 * vublk_device_unrealize() included, but not vublk_device_free().
 *
 * A dirty log that the bus gives is memory that its owner can truncate: the library
 * handles SIGBUS for its mappings, see <vublk/sigbus.h>.
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

#define VUBLK_MAX_QUEUES 256      /* the wire's queue index has 8 bits */
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
	VUBLK_DEVICE_LOST, /* the connection to the back-end ended; the device remains */
	VUBLK_DEVICE_RECONNECTING, /* negotiating anew, with reconnect-ms */
	VUBLK_DEVICE_NUM_STATES,
};

/* "running"; static. */
const char *vublk_device_state_name(enum vublk_device_state state);

/*
 * What the device asks of the bus. Any of them may be NULL. `error` is valid
 * during the call.
 */
struct vublk_device_bus_ops {
	/*
	 * The end of vublk_device_realize(): error NULL: STOPPED; else CREATED again.
	 * ENOENT, ECONNREFUSED, ENOTSOCK: the path; EADDRINUSE, EEXIST: the path, with
	 * server; ETIMEDOUT: no answer; ENOTCONN: the
	 * back-end closed the connection; EPROTO: it broke the protocol, or its config is
	 * absurd; ENOTSUP: it lacks what a disk needs; EINVAL: fewer queues than asked for.
	 */
	void (*realized)(void *bus, const struct vublk_error *error);
	/* The rings run. A bus kicks each queue once, for what the driver made available before. */
	void (*started)(void *bus);
	/*
	 * The rings run no more, and vublk_device_queue_base() says where each
	 * resumes. `error` NULL: it was asked for (reset, pause); else the start failed or the back-end
	 * was lost, the state is LOST, and the positions of the queues are unknown.
	 */
	void (*stopped)(void *bus, const struct vublk_error *error);
	/*
	 * The connection to the back-end ended. If rings ran, stopped() comes first. ECANCELED: the
	 * device itself let it go.
	 */
	void (*lost)(void *bus, const struct vublk_error *error);
	/* There is a back-end again, as good as the one before; the state is STOPPED. */
	void (*reconnected)(void *bus);
	/*
	 * reconnect-deadline-ms is over: nothing more is tried, the state stays
	 * LOST. `error` says what the last try found.
	 */
	void (*gave_up)(void *bus, const struct vublk_error *error);
	/* Raise a configuration interrupt: the config and its generation changed. */
	void (*config_changed)(void *bus);
	/* The end of the memory change that vublk_device_set_memory() began. */
	void (*memory_changed)(void *bus, const struct vublk_error *error);
	/* The back-end has all kick and call descriptors that were set while the rings run. */
	void (*notifiers_changed)(void *bus);
	/*
	 * The end of a change of the dirty log. After a start with `error` NULL all that is
	 * written from now on is in the log; with one the log is off. After a stop it is off.
	 */
	void (*dirty_log_changed)(void *bus, const struct vublk_error *error);
	/* The end of a write to the config that went to the back-end. */
	void (*config_written)(void *bus, const struct vublk_error *error);
	/*
	 * A queue's requests cannot be completed as they should be: DEVICE_NEEDS_RESET.
	 * After a reconnection: it is unknown which requests the lost back-end had begun, and
	 * the rings are not started before the driver has reset the device.
	 */
	void (*needs_reset)(void *bus, const struct vublk_error *error);
	/*
	 * The end of vublk_device_make_inflight(). The descriptor is the device's, and valid
	 * during the call. The library's struct has `area_bytes`: a program that knows a larger
	 * one takes the members past that as 0. `area` NULL: the back-end refused, or was lost.
	 */
	void (*inflight_made)(void *bus, const struct vublk_device_inflight *area,
			      size_t area_bytes, const struct vublk_error *error);
};

/* --- properties ------------------------------------------------------------- */

/*
 * The properties, ended by one whose name is NULL. Static; any thread, any time.
 * Named as QEMU's are: chardev (the back-end's Unix socket), server, num-queues ("auto":
 * as many as the back-end offers, up to num-queues-limit), queue-size,
 * config-wce, discard, write-zeroes, event_idx, indirect_desc, seg-max-adjust,
 * request-timeout-ms, keepalive-ms, reconnect-ms (0: the loss of the back-end is for good),
 * reconnect-deadline-ms, inflight, inflight-migration, ...
 */
const struct vublk_property *vublk_device_properties(void);

/*
 * Sets a property from its text; checked against its type now, against the
 * others at realize. State CREATED, else EBUSY. EINVAL: no such property, or a
 * value that does not fit its type.
 */
int vublk_device_set_property(struct vublk_device *device, const char *name, const char *value,
			      struct vublk_error *error);

/* The value as text into `value`; EINVAL: no such property. Any state. */
int vublk_device_get_property(const struct vublk_device *device, const char *name, char *value,
			      size_t value_bytes, struct vublk_error *error);

/*
 * Whether the device outlives its back-end: reconnect-ms is not 0, or server is on. For
 * a bus that has to decide what becomes of requests that are outstanding. Any state.
 */
bool vublk_device_reconnects(const struct vublk_device *device);

/* --- life ------------------------------------------------------------------- */

/*
 * `ops` (of `ops_bytes`) and `log` may be NULL and are copied; `bus` is what the callbacks get.
 * EINVAL: `ops` has a callback that this library does not know; ENOMEM, EMFILE.
 */
int vublk_device_new(const struct vublk_device_bus_ops *ops, size_t ops_bytes, void *bus,
		     const struct vublk_log *log, struct vublk_device **device,
		     struct vublk_error *error);

/* In any state; unrealizes first. NULL is a no-op. Not from a callback. */
void vublk_device_free(struct vublk_device *device);

/* Polls readable when process() has something to do. The device's own. */
int vublk_device_fd(const struct vublk_device *device);

/* Does what is to be done, without blocking. 0, or a negative errno of the loop itself. */
int vublk_device_process(struct vublk_device *device);

enum vublk_device_state vublk_device_state(const struct vublk_device *device);
/* STARTING, RUNNING or STOPPING: the rings are the back-end's, or on their way to it or back. */
bool vublk_device_has_rings_out(const struct vublk_device *device);

/*
 * Lends the device a connection to its back-end for the next realize: `fd` is a connected Unix
 * stream socket, which the device duplicates. Close yours, or the back-end does not see the
 * device disconnect. The next realize then does not connect to chardev, which only names the
 * back-end in messages, and has no other try. It needs reconnect-ms=0 and server=off, because
 * the device cannot connect again (EINVAL). A second call replaces the first connection. State
 * CREATED. ENOTSOCK; EINVAL: not a descriptor, or a socket of another kind; ENOTCONN: not
 * connected; EBUSY; EMFILE.
 */
int vublk_device_lend_connection(struct vublk_device *device, int fd, struct vublk_error *error);

/*
 * Validates the properties (EINVAL and one sentence when one is bad), then begins
 * to connect and to negotiate; realized() tells the end. State CREATED, else EBUSY:
 * a device that is LOST is unrealized first.
 */
int vublk_device_realize(struct vublk_device *device, struct vublk_error *error);

/*
 * Abandons everything without waiting, in any state: state CREATED. The
 * socket of a device that listened is removed.
 * No callback comes after it. The rings may still be used by the back-end until
 * it has seen the hang-up; a clean end is set_status(0), stopped(), then this.
 */
void vublk_device_unrealize(struct vublk_device *device);

/* --- what the driver sees ----------------------------------------------------- */

/* States from STOPPED on, unless said otherwise; 0 before. */
unsigned vublk_device_num_queues(const struct vublk_device *device);
unsigned vublk_device_queue_size(const struct vublk_device *device);

/* Offered to the driver: the device's AND the back-end's, less what a property took away. */
uint64_t vublk_device_features(const struct vublk_device *device);

/*
 * What the driver accepted. Without VERSION_1 it is a legacy driver: its rings and
 * requests are those of a modern one, as long as the machine is little-endian (else
 * ENOTSUP), its kick may come before DRIVER_OK (vublk_device_kick()), and the config
 * is little-endian still. EINVAL: a bit that was not offered; EBUSY: rings run.
 */
int vublk_device_ack_features(struct vublk_device *device, uint64_t features,
			      struct vublk_error *error);

/*
 * The configuration space (struct virtio_blk_config, little-endian), from the
 * device's copy. Bytes past its end read as zero. Any state.
 */
void vublk_device_config_read(const struct vublk_device *device, unsigned offset, void *data,
			      unsigned bytes);
/* Changes with each config that is published; for the bus's config_generation. */
uint32_t vublk_device_config_generation(const struct vublk_device *device);

/*
 * Reads the config from the back-end again; config_changed() tells of a change. One read at
 * a time; without a back-end the next one is asked. Only needed where neither the back-end
 * tells changes nor config-poll-ms finds them in time.
 */
void vublk_device_refresh_config(struct vublk_device *device);

/*
 * The one writable field is `wce`: an unchanged value has no effect (0); a changed
 * one goes to the back-end and 1 is returned: config_written() tells the end.
 * EINVAL: another field; ENOTSUP: CONFIG_WCE was not negotiated; EBUSY: one is
 * on its way already; ENOTCONN.
 */
int vublk_device_config_write(struct vublk_device *device, unsigned offset, const void *data,
			      unsigned bytes, struct vublk_error *error);

/*
 * The driver's status byte. Setting DRIVER_OK starts: started() or stopped() tells
 * the end; EINVAL: features not accepted, no memory, a ring outside of it;
 * ENOTCONN: the back-end was lost, and no other is looked for. 0 resets: rings that run are stopped (stopped()
 * tells; the status cannot be set before: EBUSY), then the accepted features and
 * the queues are forgotten. States from STOPPED on.
 */
uint8_t vublk_device_status(const struct vublk_device *device);
int vublk_device_set_status(struct vublk_device *device, uint8_t status,
			    struct vublk_error *error);

/*
 * Whether the VM runs; a new device believes that it does. The rings run while the
 * driver has set DRIVER_OK, the VM runs and there is a back-end. A pause takes them
 * back: what the back-end had begun is completed (with inflight-migration, where the
 * back-end can: completed or left in the in-flight area), the memory is touched no more, and
 * status, features, queues, their bases and the in-flight area stay as they are; the
 * end of the pause resumes them from there. Meanwhile memory, features and queues
 * may be set anew, except after the loss of a back-end that had the rings (EBUSY:
 * they resume as they are).
 * Returns 0: the rings are where they should be, or wait for a back-end; 1: they are on
 * their way, and started() or stopped() tells the end. Any state, CREATED included;
 * what was said holds until something else is said, also over unrealize.
 */
int vublk_device_set_vm_running(struct vublk_device *device, bool running);

/*
 * Whether stops that begin from now on wait for what the back-end has begun even with
 * inflight-migration; a new device does not. A back-end that offers
 * GET_VRING_BASE_INFLIGHT without GET_VRING_BASE_SKIP_DRAIN cannot be asked to wait. Any
 * state; the setting stays until it is changed, also over unrealize.
 */
void vublk_device_set_drains(struct vublk_device *device, bool drains);

/*
 * The guest has been ended by force and will not run again: a reset, after which only
 * vublk_device_unrealize() makes sense. A back-end that hangs on a request would hold
 * up the shutdown until the deadline of the stop (request-timeout-ms). With the property
 * skip-get-vring-base-on-force-shutdown it does not: nothing is asked of it, the
 * connection is closed, and stopped() and lost() have ECANCELED as their error;
 * what the back-end had begun may be done or not, and it may touch the memory until it
 * has seen the hang-up. In both cases no other back-end is looked for.
 * Returns 1: stopped() follows; 0: no rings were out. Any state.
 */
int vublk_device_force_shutdown(struct vublk_device *device);

/* --- what the bus hands over --------------------------------------------------- */

/*
 * The guest's whole memory, replacing what was set before. The descriptors are
 * duplicated. Takes effect at the next start; while the rings run the change goes
 * to the back-end (regions that are the same are not sent again) and 1 is
 * returned: memory_changed() tells the end (error: the back-end refused a region,
 * which it does not have then).
 *
 * With no region at all, a back-end drops its memory immediately, even if it runs no rings. With
 * reconnect-ms the connection is closed and made anew: 0 is returned, lost() has
 * ECANCELED as its error, reconnected() follows. Without it, or with server, a back-end that
 * has memory slots is told: 1 is returned, and a start waits for memory_changed().
 *
 * EINVAL: empty, overlapping, wrapping, past the end of its file, past the end of
 * the dirty log, or without a ring that runs; ENOSPC: more regions than the back-end has memory
 * slots; EBUSY: a change is on its way, or the device is starting or stopping. States STOPPED,
 * RUNNING, LOST, RECONNECTING.
 */
int vublk_device_set_memory(struct vublk_device *device,
			    const struct vublk_memory_region *regions, unsigned num_regions,
			    struct vublk_error *error);

struct vublk_device_queue {
	uint16_t size;       /* entries: a power of two, up to vublk_device_queue_size() */
	uint64_t desc_addr;  /* guest addresses of a split ring's parts */
	uint64_t avail_addr;
	uint64_t used_addr;
	int kick_fd;         /* eventfds; borrowed until the queue is set anew, reset or unrealized; */
	int call_fd;         /* -1: none: the back-end polls, the driver polls */
	uint16_t base;       /* avail index to begin with: 0 for a new ring */
};

/*
 * Sets up a queue, whose size, addresses and base are checked: EINVAL; EBUSY while rings
 * run. `queue` NULL: not used by the driver. States STOPPED, LOST, RECONNECTING.
 */
int vublk_device_set_queue(struct vublk_device *device, unsigned index,
			   const struct vublk_device_queue *queue, size_t queue_bytes,
			   struct vublk_error *error);

/*
 * Other eventfds for a queue that is set up (-1: none); borrowed like those before them,
 * which the device does not use any more after the call. While the rings do not run
 * the next start hands them over, and 0 is returned. Else they go to the back-end
 * and 1 is returned: notifiers_changed() tells that it has them all, unless stopped()
 * comes first; a back-end that refuses is disconnected. No notification is lost on the
 * way: the new one is signalled once when the back-end has it, for what came on the one
 * before. EINVAL: no such queue, or not set up. States from STOPPED on.
 */
int vublk_device_set_queue_kick(struct vublk_device *device, unsigned index, int fd,
				struct vublk_error *error);
int vublk_device_set_queue_call(struct vublk_device *device, unsigned index, int fd,
				struct vublk_error *error);

/*
 * The driver kicks a queue: for a bus to which notifications come as calls. Signals the
 * queue's kick descriptor, if it has one. Before DRIVER_OK the kick of a legacy driver
 * that has set a status, accepted its features and set up memory and queues starts the
 * device: started() follows, and each queue that is set up is kicked. What comes on the
 * kick descriptors themselves is seen, too, and means the same. If what was set up
 * cannot be started needs_reset() says so, once until the reset. Queues that are set
 * up later have to wait for a reset.
 * -EINVAL: no such queue, or not set up. States from STOPPED on.
 */
int vublk_device_kick(struct vublk_device *device, unsigned index);

/*
 * The queue as it is set up (size 0: it is not), its base included, which is where the
 * ring was when it was started, and once it is stopped, where it resumes. -EINVAL: no such
 * queue, and *queue is untouched. States from STOPPED on.
 */
int vublk_device_get_queue(const struct vublk_device *device, unsigned index,
			   struct vublk_device_queue *queue, size_t queue_bytes);

/* Where the queue resumes: the avail index that the back-end stopped at. */
uint16_t vublk_device_queue_base(const struct vublk_device *device, unsigned index);

/*
 * Whether another back-end can resume the rings as they are, requests that are
 * outstanding included: the in-flight area is there, and the back-end writes into it.
 * True from the first start on where that was negotiated, until reset. LOST: it
 * tells of the back-end that was lost; RECONNECTING: false, because it is not known yet. Any state.
 */
bool vublk_device_is_tracked(const struct vublk_device *device);

/* --- the dirty log: which pages of the memory were written ------------------------- */

/*
 * A bitmap in a file: page N, of VUBLK_DIRTY_PAGE_BYTES from guest address 0 on, is bit
 * N % 8 of byte N / 8 at `offset`. It is set by the back-end after it wrote to the page
 * (data, status bytes, used rings), and cleared before the page is copied, by the program that copies it,
 * both atomically.
 */
struct vublk_device_dirty_log {
	int fd;
	uint64_t offset;     /* a multiple of the machine's page size */
	uint64_t size_bytes; /* a multiple of 8, enough for the end of the last memory region */
};

/*
 * Begins to log. `log` NULL: the device makes the bitmap, of zeroes, for the memory as it
 * is; else the descriptor is duplicated, what is in it stays, and the file must not become
 * shorter. The log outlives pauses, resets and the back-end: one that comes in its place
 * and cannot log is refused like one that offers too little; the used rings that a lost
 * one had are marked by the device, because it may have died before it marked them. It ends with
 * vublk_device_dirty_log_stop() or unrealize.
 * Returns 0: it is on, because no rings are out, and rings that are started log; 1: rings are out,
 * and dirty_log_changed() tells when it is. ENOTSUP: the back-end does not offer LOG_SHMFD
 * and VHOST_F_LOG_ALL; EBUSY: it is on; EINVAL: no memory has been set, or `log` does not
 * fit; ENOMEM and others: no bitmap. States from STOPPED on.
 */
int vublk_device_dirty_log_start(struct vublk_device *device,
				 const struct vublk_device_dirty_log *log, size_t log_bytes,
				 struct vublk_error *error);

/*
 * Ends it; what has not been taken is lost. 0: it is off; 1: dirty_log_changed() tells when
 * it is. EBUSY: a change is under way. Any state.
 */
int vublk_device_dirty_log_stop(struct vublk_device *device, struct vublk_error *error);

/*
 * Reads and clears the bits of the `num_pages` pages from `first_page` on (both multiples
 * of 64): page first_page + N is bit N % 64 of bits[N / 64]. A page that is written
 * meanwhile is either among them or stays marked; so it is taken first and copied then.
 * EINVAL: more than the log has; EBUSY: it is off; ENOMEM: it cannot be mapped; EIO: its
 * file was truncated, so the bits are worthless.
 * From dirty_log_start() on, paused or without a back-end, too.
 */
int vublk_device_dirty_log_take(struct vublk_device *device, uint64_t first_page,
				uint64_t num_pages, uint64_t *bits, struct vublk_error *error);

/* The bitmap, for another thread to map; the descriptor is the device's. -ENOENT: it is off. */
int vublk_device_dirty_log_get(const struct vublk_device *device,
			       struct vublk_device_dirty_log *log, size_t log_bytes);

/*
 * Where a queue that is set up stands. For a bus that ends one session of its driver's and
 * begins another with the same rings.
 */
struct vublk_device_place {
	bool is_known;        /* `base` is where it resumes; else the back-end was lost without reporting it, */
	uint16_t base;        /* and this is its used index, which is exact with nothing outstanding */
	uint16_t outstanding; /* requests that are not completed, and that a back-end may have seen */
	uint16_t undrained;   /* of a known base: those before it, which the back-end gave back uncompleted */
};

/*
 * Reads the ring's indices in the guest's memory, so the rings should not run. EINVAL: not
 * set up, or not in the memory that was set; ENOMEM: it cannot be mapped. States from
 * STOPPED on.
 */
int vublk_device_queue_place(const struct vublk_device *device, unsigned index,
			     struct vublk_device_place *place, size_t place_bytes,
			     struct vublk_error *error);

/* The area in which a back-end notes what it has begun, of split rings. */
struct vublk_device_inflight {
	int fd;              /* a file that holds it */
	uint64_t offset;     /* where in the file it begins, and how long it is, in bytes */
	uint64_t size_bytes;
	uint16_t num_queues; /* that it has room for, and the most entries of one */
	uint16_t queue_size;
};

/*
 * Gives the next start an area, which would get one from the back-end otherwise: zeroes, or
 * what another back-end left of the same rings. The descriptor is duplicated. Requests that
 * it notes as begun are done by the next back-end; if that takes no area, the rings start
 * only with nothing outstanding, and else needs_reset() comes. A reset drops it.
 * EINVAL: more queues than the device has, or too short for any layout; ENOTSUP: of rings that
 * are not split; EBUSY: the driver has begun, or rings run; EIO and others: it cannot be read. States STOPPED, LOST, RECONNECTING.
 */
int vublk_device_set_inflight(struct vublk_device *device,
			      const struct vublk_device_inflight *area, size_t area_bytes,
			      struct vublk_error *error);

/*
 * A new area, for a bus whose driver keeps it: `area->num_queues` and `queue_size` are set.
 * The layout is the back-end's business, so a back-end that is there makes it. Returns 1:
 * inflight_made() has it, and no start begins before that; 0: it was made here, because there
 * is no back-end or because its rings are out, with the layout that the last back-end used:
 * the rest of *area is filled in, and the descriptor is the caller's.
 * EINVAL: more queues or entries than the device has; ENOTSUP: the back-end has no area, or
 * `inflight` is off; EBUSY: one is being made; ENOMEM and others. States from STOPPED on.
 */
int vublk_device_make_inflight(struct vublk_device *device, struct vublk_device_inflight *area,
			       size_t area_bytes, struct vublk_error *error);

/* The area that there is; the descriptor is the device's. -ENOENT: none. Any state. */
int vublk_device_get_inflight(const struct vublk_device *device,
			      struct vublk_device_inflight *area, size_t area_bytes);

/* --- saving and loading ------------------------------------------------------------ */

/*
 * What the driver sees and set up, as bytes for another process: status, features, config,
 * queues and where each resumes, and the in-flight area; not the memory, not the
 * descriptors, not the properties. `*stream` is allocated, the caller's, freed with free();
 * its size is some hundred bytes and the area's (16 KiB for each queue of 1024 entries).
 * The device itself continues.
 *
 * The rings must not run: pause the VM (vublk_device_set_vm_running()) and wait for
 * stopped(). Requests that the back-end has begun are complete then; with the property
 * inflight-migration, where the back-end can, they are not waited for, and the stream has
 * them. A device that lost its back-end can be saved, too, and resumes elsewhere if the
 * in-flight area is there or nothing was outstanding.
 *
 * EBUSY: rings are out, a write to the config is under way, or the device is not realized;
 * EPROTO, EIO: the back-end's in-flight area is too large, or cannot be read; ENOMEM.
 * States STOPPED, LOST, RECONNECTING.
 */
int vublk_device_save(const struct vublk_device *device, void **stream, size_t *stream_bytes,
		      struct vublk_error *error);

/*
 * Takes over what was saved: afterwards the driver's session is here. The device is
 * realized, its VM paused, and no driver has begun with it (or it was reset). Then the bus
 * sets the memory, and each queue's descriptors with vublk_device_set_queue_kick() and
 * ..._call(), and lets the VM run: started() follows, each queue is kicked once and called
 * once, and requests that were in flight are done by this device's back-end.
 *
 * The bytes may come from anybody. All is checked first, and a failure changes nothing.
 * Returns 0; 1: the config is not the one that the driver last read (a disk that was
 * resized meanwhile), its generation is one more, and the bus raises a config interrupt.
 * EINVAL: damaged, or of a device with other queues (num-queues, queue-size); ENOTSUP: of a
 * newer version, or the back-end lacks what the driver accepted or the in-flight requests
 * need; EROFS: the back-end is read-only, and the saved one was not; EBUSY: the state;
 * ENOMEM and others: the in-flight area cannot be made.
 * States STOPPED, LOST, RECONNECTING.
 */
int vublk_device_load(struct vublk_device *device, const void *stream, size_t stream_bytes,
		      struct vublk_error *error);

/* --- what was negotiated, for a person or a program ----------------------------- */

struct vublk_device_info {
	char chardev[256];
	uint64_t backend_features;           /* virtio bits that the back-end offered */
	uint64_t backend_protocol_features;  /* vhost-user bits that it offered */
	uint64_t protocol_features;          /* ... and that the device accepted */
	uint32_t backend_max_queues;
	uint32_t backend_memory_slots;
	uint32_t backend_config_bytes;       /* how much of the config it has */
};

/* Any state. `info_bytes` is sizeof(struct vublk_device_info); it is filled as far as known. */
void vublk_device_get_info(const struct vublk_device *device, struct vublk_device_info *info,
			   size_t info_bytes);

/* "VIRTIO_BLK_F_FLUSH" and "REPLY_ACK"; NULL for a bit without a name. Static. */
const char *vublk_feature_name(unsigned bit);
const char *vublk_protocol_feature_name(unsigned bit);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
