/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_INPROC_INPROC_H
#define VUBLK_INPROC_INPROC_H

/*
 * The in-process bus presents a device to a driver in the same process.
 *
 *   open (connect, negotiate) -> set_up (features, memory, queues) -> the driver
 *   prepares its rings -> start (DRIVER_OK) ... stop (reset) -> free
 *
 * Key idea: the device belongs to the bus's own thread. The driver sets the device up there, in the
 * handler realized(), so that opening a device blocks no caller. Later, other threads may make
 * calls, even at the same time. The bus's thread runs them one after another; the device's
 * deadlines limit how long each call takes. A caller either waits for the end of its call or is
 * notified of the end. Requests need no call, because the owner of a queue uses the queue's ring
 * and eventfds directly.
 */

#include "inproc/regions.h"
#include "virtio/ring.h"

#include <vublk/device.h>
#include <vublk/error.h>

#include <stdbool.h>
#include <stdint.h>

struct vublk_inproc;

/*
 * The functions of the driver, called on the bus's thread. All except the first two may be NULL.
 * lost(), rings_suspend(), rings_replaced() and reconnected() are called only after started() has
 * reported success.
 */
struct vublk_inproc_handlers {
	/*
	 * realized() is called once, when the opening that vublk_inproc_open() began has ended, and
	 * started() once, when the start that vublk_inproc_start() began has ended. `error` NULL:
	 * success. Within realized() the driver calls vublk_inproc_set_up() and
	 * vublk_inproc_start().
	 */
	void (*realized)(void *opaque, const struct vublk_error *error);
	void (*started)(void *opaque, const struct vublk_error *error);
	/* The config has changed. vublk_inproc_read_config() returns the new one. */
	void (*config_changed)(void *opaque);
	/* The back-end is lost, and the device looks for another one: an outage begins. */
	void (*lost)(void *opaque, const struct vublk_error *error);
	/*
	 * The bus replaces the rings, for example if they do not say which requests the lost
	 * back-end had begun. In rings_suspend() the driver must take all completions; afterwards
	 * it must not use the rings. When rings_replaced() is called, vublk_inproc_queue() returns
	 * new, zeroed rings, which no back-end is using. `error` NULL: the driver must add its
	 * incomplete requests to the new rings. Otherwise (for example after fail-after-ms) it must
	 * fail its incomplete requests, and new requests until reconnected().
	 */
	void (*rings_suspend)(void *opaque);
	void (*rings_replaced)(void *opaque, const struct vublk_error *error);
	/* The rings run again after an outage, or after requests exceeded request-deadline-ms. */
	void (*reconnected)(void *opaque);
	/*
	 * The device no longer looks for a back-end, or the bus has reclaimed the rings
	 * permanently, for example because one of them was broken. No further request completes,
	 * and no connected back-end touches a buffer.
	 */
	void (*gave_up)(void *opaque, const struct vublk_error *error);
	/*
	 * Returns whether a request has taken longer than request-deadline-ms. Called
	 * VUBLK_INPROC_LOOKS_PER_DEADLINE times per deadline, if that option is set.
	 */
	bool (*is_overdue)(void *opaque);
	/* The delay that was passed to vublk_inproc_set_timer() has elapsed. */
	void (*timer)(void *opaque);
	void *opaque;
	struct vublk_log log;
};

#define VUBLK_INPROC_LOOKS_PER_DEADLINE 4

/*
 * The ring, eventfds and memory that the owner of a queue uses. The eventfds stay the same from
 * set_up to free; the other members may change each time the rings are replaced.
 */
struct vublk_inproc_queue {
	struct vublk_split_ring ring; /* mapped in this process, zeroed */
	int kick_fd;                  /* eventfds that the bus made */
	int call_fd;
	char *extra;                  /* shared memory for the driver's own use, zeroed */
	uint64_t extra_addr;          /* the guest address of `extra` */
};

/*
 * Returns the options that the bus has in addition to the device's properties, as a static array
 * that ends with a NULL name.
 */
const struct vublk_property *vublk_inproc_options(void);
/*
 * Returns the default that the bus sets for a device property, or NULL if it keeps the device's
 * own.
 */
const char *vublk_inproc_default(const char *name);

/*
 * Makes a device, and begins to realize it with the back-end at the Unix socket `path`, or on the
 * connection of the option fd. The handler realized() is called at the end. `options` (may be NULL)
 * has properties of the device and options of the bus. `handlers` is copied. The errors are those
 * of vublk_blk_open_start(). *inproc is set before the first handler is called; if it was NULL
 * before, it is NULL after a failure.
 */
int vublk_inproc_open(const char *path, const struct vublk_option *options,
		      const struct vublk_inproc_handlers *handlers, struct vublk_inproc **inproc,
		      struct vublk_error *error);

/*
 * Frees the bus in any state. The driver must no longer be using the bus or its queues. NULL is a
 * no-op.
 */
void vublk_inproc_free(struct vublk_inproc *inproc);

/* These functions may be called within realized() and after it. Their results never change. */
bool vublk_inproc_wants_statistics(const struct vublk_inproc *inproc);
unsigned vublk_inproc_num_queues(const struct vublk_inproc *inproc);
unsigned vublk_inproc_queue_size(const struct vublk_inproc *inproc);
uint64_t vublk_inproc_features(const struct vublk_inproc *inproc);
const struct vublk_device_info *vublk_inproc_info(const struct vublk_inproc *inproc);
/*
 * Returns how many bytes of completed writes the driver keeps until a flush has made them stable; 0
 * unless the option unflushed is replay. If it is not 0, the bus always replaces the rings after a
 * loss.
 */
uint64_t vublk_inproc_replay_bytes(const struct vublk_inproc *inproc);
/*
 * Returns the property serial. If it is not empty, the driver presents it instead of the back-end's
 * serial.
 */
const char *vublk_inproc_serial(const struct vublk_inproc *inproc);

/*
 * Reads the first `bytes` bytes of the config space, and the generation of the config. Must be
 * called on the bus's thread.
 */
void vublk_inproc_read_config(struct vublk_inproc *inproc, void *config, unsigned bytes,
			      uint32_t *generation);

/*
 * Accepts `features`, and gives the device memory and queues. One piece of shared memory has all
 * rings and, for each queue, `extra_bytes` bytes for the driver's own use. Must be called on the
 * bus's thread.
 */
int vublk_inproc_set_up(struct vublk_inproc *inproc, uint64_t features, uint64_t extra_bytes,
			struct vublk_error *error);
const struct vublk_inproc_queue *vublk_inproc_queue(const struct vublk_inproc *inproc,
						    unsigned index);

/*
 * Sets DRIVER_OK. The handler started() is called when the rings run or cannot run. Must be called
 * on the bus's thread.
 */
int vublk_inproc_start(struct vublk_inproc *inproc, struct vublk_error *error);
/*
 * Resets the device, and waits until the back-end has returned the rings, after which it no longer
 * touches a buffer. A no-op if the rings do not run.
 */
int vublk_inproc_stop(struct vublk_inproc *inproc, struct vublk_error *error);

/*
 * Called when the driver has found a broken ring. Resets the device; the handler gave_up() is
 * called when the rings have been reclaimed. Any thread may call this function, which does not
 * wait.
 */
void vublk_inproc_fail(struct vublk_inproc *inproc, const struct vublk_error *error);

/*
 * Returns whether the back-end that was just lost is trusted to have kept completed writes that no
 * flush had made stable. Must be called within the handler lost().
 */
bool vublk_inproc_trusts_unflushed(const struct vublk_inproc *inproc);

/*
 * Makes the bus call the handler timer() once, `delay_ns` from now. A further call before the
 * handler is called replaces the time. Must be called on the bus's thread.
 */
void vublk_inproc_set_timer(struct vublk_inproc *inproc, uint64_t delay_ns);

/*
 * Writes the config field wce, and waits for the result. EIO and other errors: the back-end has not
 * adopted the value.
 */
int vublk_inproc_write_wce(struct vublk_inproc *inproc, bool on, struct vublk_error *error);

/* --- calls that end later --------------------------------------------------------- */

/* A function that is run on the bus's thread; see vublk_inproc_make_call() in private.h. */
typedef int vublk_inproc_call_fn(struct vublk_inproc *inproc, void *args, struct vublk_error *error);

/*
 * A call that the bus's thread runs while its caller continues. The caller owns the struct, and
 * keeps it in place until ended() is called.
 */
struct vublk_inproc_call {
	/*
	 * Called once, on the bus's thread. It may free the call or begin it again. `error`
	 * describes a negative `result`.
	 */
	void (*ended)(struct vublk_inproc_call *call, int result, const struct vublk_error *error);

	/* used by the bus */
	vublk_inproc_call_fn *fn;
	void *args;
	struct vublk_inproc_call *next; /* protected by the bus's lock, as is `canceled` */
	bool canceled;
};

/*
 * A call to add or remove a region of this process's memory: a shared mapping of `fd` at
 * `fd_offset`.
 */
struct vublk_inproc_region_call {
	struct vublk_inproc_call call; /* the caller sets ended() */
	void *address;
	uint64_t bytes;
	int fd;                        /* owned by the call; -1: the bus owns it now, or there is
					  none */
	uint64_t fd_offset;
};

/*
 * Initializes `region` and duplicates `fd`. The caller sets call.ended afterwards. After the end of
 * the call, the caller must close region->fd if it is not -1. EINVAL: the region is empty or not
 * aligned, or its file is not sealed against shrinking; EBADF, EMFILE: `fd` cannot be duplicated.
 */
int vublk_inproc_region_init(struct vublk_inproc_region_call *region, void *address,
			     uint64_t bytes, int fd, uint64_t fd_offset,
			     struct vublk_error *error);
/*
 * Begins to add the region, so that the back-end can access it. Any thread may call this function,
 * which does not wait. The call ends with EINVAL if the region overlaps another, and with ENOSPC if
 * no memory slot is left.
 */
void vublk_inproc_begin_add(struct vublk_inproc *inproc, struct vublk_inproc_region_call *region);
/*
 * Begins to remove the region at region->address. Any thread may call this function, which does not
 * wait. The call ends with EINVAL if no region begins there. The call succeeds even if the bus
 * cannot tell the back-end.
 */
void vublk_inproc_begin_remove(struct vublk_inproc *inproc,
			       struct vublk_inproc_region_call *region);
/*
 * Begins to remove a region that was just added. This call runs before all calls that have not
 * begun, because one of them may add other memory at the same address.
 */
void vublk_inproc_begin_undo(struct vublk_inproc *inproc, struct vublk_inproc_region_call *region);
/*
 * Cancels a call that the bus's thread has not begun to run. The call then ends with ECANCELED,
 * without any effect. A no-op for a call that has begun. Any thread may call this.
 */
void vublk_inproc_cancel(struct vublk_inproc *inproc, struct vublk_inproc_call *call);

/* Returns the table of the added regions, in which the queues look up buffers. */
const struct vublk_inproc_regions *vublk_inproc_regions(const struct vublk_inproc *inproc);

/* Returns whether the caller is on the bus's own thread, where a call must not wait. */
bool vublk_inproc_is_own_thread(const struct vublk_inproc *inproc);
/* Returns -EBUSY if the caller is on the bus's own thread; otherwise 0. */
int vublk_inproc_check_wait(const struct vublk_inproc *inproc, struct vublk_error *error);

#endif
