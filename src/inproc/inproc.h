/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_INPROC_INPROC_H
#define VUBLK_INPROC_INPROC_H

/*
 * The in-process bus presents a device to a driver that lives in this process.
 *
 *   open (connect, negotiate) -> set_up (features, memory, queues) -> the driver
 *   prepares its rings -> start (DRIVER_OK) ... stop (reset) -> free
 *
 * Key idea: the device belongs to the bus's own thread. The driver sets it up there, in handlers,
 * so that opening a device blocks no caller. Later calls come from other threads, also
 * concurrently. The bus's thread runs them one after another; the device's deadlines limit how long
 * each takes. A caller either waits for the end of its call or is notified of it. Requests need
 * none of these calls: the owner of a queue uses its ring and eventfds directly.
 */

#include "inproc/regions.h"
#include "virtio/ring.h"

#include <vublk/device.h>
#include <vublk/error.h>

#include <stdbool.h>
#include <stdint.h>

struct vublk_inproc;

/*
 * All handlers are called on the bus's thread, and all except the first two may be NULL. The
 * handlers about an outage are called only after vublk_inproc_start() has succeeded.
 */
struct vublk_inproc_handlers {
	/*
	 * Called when vublk_inproc_open() and vublk_inproc_start() have ended, once each; `error`
	 * NULL: success. The driver calls set_up() and start() within realized().
	 */
	void (*realized)(void *opaque, const struct vublk_error *error);
	void (*started)(void *opaque, const struct vublk_error *error);
	/* The config has changed: vublk_inproc_read_config() returns the new config. */
	void (*config_changed)(void *opaque);
	/* An outage has begun: the back-end is lost, and the device looks for another back-end. */
	void (*lost)(void *opaque, const struct vublk_error *error);
	/*
	 * The bus replaces the rings if they do not say which requests the lost back-end had begun.
	 * rings_suspend(): the driver takes all completions and then leaves the rings alone.
	 * rings_replaced(): vublk_inproc_queue() has new rings, zeroed, which no back-end knows.
	 * `error` NULL: the driver adds its incomplete requests to them. Otherwise (fail-after-ms
	 * has passed, for example) the driver fails its incomplete requests, and new ones until
	 * reconnected().
	 */
	void (*rings_suspend)(void *opaque);
	void (*rings_replaced)(void *opaque, const struct vublk_error *error);
	/* The outage is over: the rings run again. */
	void (*reconnected)(void *opaque);
	/*
	 * The device does not look for a back-end any more, or the bus has reclaimed the rings
	 * after one of them was found broken. No further request completes, and no connected
	 * back-end touches a buffer.
	 */
	void (*gave_up)(void *opaque, const struct vublk_error *error);
	/*
	 * Used with request-deadline-ms: returns whether the back-end has kept a request for longer
	 * than that time. Called VUBLK_INPROC_LOOKS_PER_DEADLINE times per deadline.
	 */
	bool (*is_overdue)(void *opaque);
	void *opaque;
	struct vublk_log log;
};

#define VUBLK_INPROC_LOOKS_PER_DEADLINE 4

/*
 * The parts of a queue that its owner uses. The eventfds stay the same from set_up to free; the
 * other fields change with rings_replaced().
 */
struct vublk_inproc_queue {
	struct vublk_split_ring ring; /* mapped here, zeroed */
	int kick_fd;                  /* eventfds of the bus */
	int call_fd;
	char *extra;                  /* shared memory for the driver's own use, zeroed */
	uint64_t extra_addr;          /* its guest address */
};

/*
 * The options that the bus has in addition to the device's properties, as a static array that ends
 * with a NULL name.
 */
const struct vublk_property *vublk_inproc_options(void);
/* The bus's own default of a device property; NULL: the bus uses the device's default. */
const char *vublk_inproc_default(const char *name);

/*
 * Makes a device and begins to realize it at the Unix socket `path`, or on the option fd; the
 * handler realized() is called at the end. `options` may be NULL; it has properties of the device
 * and options of the bus. `handlers` is copied. The errors are those of vublk_blk_open_start().
 * *inproc is set before the first handler is called, and NULL on failure.
 */
int vublk_inproc_open(const char *path, const struct vublk_option *options,
		      const struct vublk_inproc_handlers *handlers, struct vublk_inproc **inproc,
		      struct vublk_error *error);

/*
 * Frees the bus in any state. The driver must no longer use the bus or its queues. NULL is a no-op.
 */
void vublk_inproc_free(struct vublk_inproc *inproc);

/* The results are constant after realized(). */
bool vublk_inproc_wants_statistics(const struct vublk_inproc *inproc);
unsigned vublk_inproc_num_queues(const struct vublk_inproc *inproc);
unsigned vublk_inproc_queue_size(const struct vublk_inproc *inproc);
uint64_t vublk_inproc_features(const struct vublk_inproc *inproc);
const struct vublk_device_info *vublk_inproc_info(const struct vublk_inproc *inproc);
/* The property serial, which is not empty if the driver presents this instead of the back-end's. */
const char *vublk_inproc_serial(const struct vublk_inproc *inproc);

/* Reads the config space and its generation, on the bus's thread. */
void vublk_inproc_read_config(struct vublk_inproc *inproc, void *config, unsigned bytes,
			      uint32_t *generation);

/*
 * Accepts `features` and gives the device memory and queues. One shared memory holds all rings
 * and, for each queue, `extra_bytes` for the driver's own use. On the bus's thread.
 */
int vublk_inproc_set_up(struct vublk_inproc *inproc, uint64_t features, uint64_t extra_bytes,
			struct vublk_error *error);
const struct vublk_inproc_queue *vublk_inproc_queue(const struct vublk_inproc *inproc,
						    unsigned index);

/* DRIVER_OK; started() is called when the rings run, or cannot. On the bus's thread. */
int vublk_inproc_start(struct vublk_inproc *inproc, struct vublk_error *error);
/*
 * Resets the device, and returns when the back-end has returned the rings and so no longer touches
 * a buffer. A no-op if the rings do not run.
 */
int vublk_inproc_stop(struct vublk_inproc *inproc, struct vublk_error *error);

/*
 * Reports that the driver has found a broken ring: the device is reset, and gave_up() is called
 * when the rings have been reclaimed. Any thread; does not wait.
 */
void vublk_inproc_fail(struct vublk_inproc *inproc, const struct vublk_error *error);

/*
 * Whether the back-end that has just been lost is trusted to have kept the writes that it
 * completed and that no flush made stable. To be called in the handler lost().
 */
bool vublk_inproc_trusts_unflushed(const struct vublk_inproc *inproc);

/* Writes the config field wce. EIO and others: the back-end has not adopted the value. */
int vublk_inproc_write_wce(struct vublk_inproc *inproc, bool on, struct vublk_error *error);

/* --- calls that end later --------------------------------------------------------- */

/* Runs on the bus's thread; see private.h. */
typedef int vublk_inproc_call_fn(struct vublk_inproc *inproc, void *args, struct vublk_error *error);

/*
 * A call that the bus's thread runs while its caller continues. The struct belongs to the caller,
 * which keeps it in place until ended() is called.
 */
struct vublk_inproc_call {
	/*
	 * Called once, on the bus's thread, and may free the call or begin it again. `error`
	 * describes a negative `result`.
	 */
	void (*ended)(struct vublk_inproc_call *call, int result, const struct vublk_error *error);

	/* the bus's */
	vublk_inproc_call_fn *fn;
	void *args;
	struct vublk_inproc_call *next; /* under the bus's lock, like canceled */
	bool canceled;
};

/* A call about a region of this process's memory: a shared mapping of `fd` at `fd_offset`. */
struct vublk_inproc_region_call {
	struct vublk_inproc_call call; /* the caller sets ended() */
	void *address;
	uint64_t bytes;
	int fd;                        /* owned by the call; -1: the bus has it, or there is none */
	uint64_t fd_offset;
};

/*
 * Fills in everything but ended(), and duplicates `fd`. After the end of the call, the caller
 * closes region->fd if that is not -1. EINVAL: the region is not aligned or not sealed against
 * shrinking; EBADF, EMFILE: `fd` cannot be duplicated.
 */
int vublk_inproc_region_init(struct vublk_inproc_region_call *region, void *address,
			     uint64_t bytes, int fd, uint64_t fd_offset,
			     struct vublk_error *error);
/*
 * Begins to give the back-end the region. Any thread; does not wait. The call ends with EINVAL: the
 * region overlaps another; ENOSPC: no memory slot is left.
 */
void vublk_inproc_begin_add(struct vublk_inproc *inproc, struct vublk_inproc_region_call *region);
/*
 * Begins to remove the region at region->address. Any thread; does not wait. The call ends with
 * EINVAL: no region begins there. If the bus cannot tell the back-end, that is not an error.
 */
void vublk_inproc_begin_remove(struct vublk_inproc *inproc,
			       struct vublk_inproc_region_call *region);
/*
 * Begins to remove a region that was added a moment ago, ahead of the calls that have not begun,
 * because one of them may add other memory at the same address.
 */
void vublk_inproc_begin_undo(struct vublk_inproc *inproc, struct vublk_inproc_region_call *region);
/*
 * Makes a call that the bus's thread has not begun to run end with ECANCELED, without an effect.
 * Does not affect a call that has begun. Any thread.
 */
void vublk_inproc_cancel(struct vublk_inproc *inproc, struct vublk_inproc_call *call);

/* The table of the added regions, in which the queues look up buffers. */
const struct vublk_inproc_regions *vublk_inproc_regions(const struct vublk_inproc *inproc);

/* Whether the caller is on the bus's own thread, where a call must not wait. */
bool vublk_inproc_is_own_thread(const struct vublk_inproc *inproc);
/*
 * Fills `error` and returns -EBUSY if the caller is on the bus's own thread; otherwise returns 0.
 */
int vublk_inproc_check_wait(const struct vublk_inproc *inproc, struct vublk_error *error);

#endif
