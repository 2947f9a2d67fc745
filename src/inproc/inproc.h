/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_INPROC_INPROC_H
#define VUBLK_INPROC_INPROC_H

/*
 * Presents a device to a driver that lives in this process.
 *
 *   open (connect, negotiate) -> set_up (features, memory, queues) -> the driver
 *   prepares its rings -> start (DRIVER_OK) ... stop (reset) -> free
 *
 * The device belongs to the bus's own thread. The calls below are made from any
 * other thread, one at a time or several; each waits for its end, which the
 * device's deadlines bound. What a queue needs for its requests (rings, eventfds,
 * addresses) passes through no call at all.
 */

#include "inproc/regions.h"
#include "virtio/ring.h"

#include <vublk/device.h>
#include <vublk/error.h>

#include <stdbool.h>
#include <stdint.h>

struct vublk_inproc;

/*
 * All called on the bus's thread; any of them may be NULL. The first call of those about
 * an outage comes after vublk_inproc_start() has succeeded.
 */
struct vublk_inproc_handlers {
	/* A configuration interrupt; vublk_inproc_read_config() has the new one. */
	void (*config_changed)(void *opaque);
	/* The connection to the back-end ended, and another is looked for. */
	void (*lost)(void *opaque, const struct vublk_error *error);
	/*
	 * What a lost back-end had begun cannot be told from the rings, so these are
	 * replaced. First rings_leave(): the driver takes what is completed and then
	 * keeps its hands off; after it rings_came(): the rings of
	 * vublk_inproc_queue() are others, zeroed, and no back-end knows them. `error`
	 * NULL: the driver puts on them what is not completed; else fail-after-ms has
	 * passed, or memory is short: it fails what is not, and what comes, until reconnected().
	 */
	void (*rings_leave)(void *opaque);
	void (*rings_came)(void *opaque, const struct vublk_error *error);
	/* The outage is over: the rings run again. */
	void (*reconnected)(void *opaque);
	/*
	 * No back-end is looked for any more, or the back-end returned the rings after one of
	 * them was found broken: no request completes, and no buffer is touched.
	 */
	void (*gave_up)(void *opaque, const struct vublk_error *error);
	/*
	 * With request-deadline-ms: whether the back-end has kept a request for longer, that
	 * is, for VUBLK_INPROC_LOOKS_PER_DEADLINE of these calls.
	 */
	bool (*is_overdue)(void *opaque);
	void *opaque;
	struct vublk_log log;
};

#define VUBLK_INPROC_LOOKS_PER_DEADLINE 4

/*
 * What the owner of a queue works with. The eventfds are the same from set_up to free;
 * the rest is others' after rings_came().
 */
struct vublk_inproc_queue {
	struct vublk_split_ring ring; /* mapped here, zeroed */
	int kick_fd;                  /* eventfds of the bus */
	int call_fd;
	char *extra;                  /* the driver's own piece of shared memory, zeroed */
	uint64_t extra_addr;          /* where the back-end sees it */
};

/* The bus's own options, in addition to the device's properties; ended by a NULL name. Static. */
const struct vublk_property *vublk_inproc_options(void);
/* The default of a device's property here; NULL: the device's own. */
const char *vublk_inproc_default(const char *name);

/*
 * A device at the Unix socket `path` with `options` (its properties, with reconnect-ms on
 * unless it is given, and the bus's own; may be NULL), realized. `handlers` is copied. Errors as vublk_blk_open() lists them.
 */
int vublk_inproc_open(const char *path, const struct vublk_option *options,
		      const struct vublk_inproc_handlers *handlers, struct vublk_inproc **inproc,
		      struct vublk_error *error);

/* In any state; the driver uses none of it any more. NULL is a no-op. */
void vublk_inproc_free(struct vublk_inproc *inproc);

/* Constant after open. */
bool vublk_inproc_wants_statistics(const struct vublk_inproc *inproc);
unsigned vublk_inproc_num_queues(const struct vublk_inproc *inproc);
unsigned vublk_inproc_queue_size(const struct vublk_inproc *inproc);
uint64_t vublk_inproc_features(const struct vublk_inproc *inproc);
const struct vublk_device_info *vublk_inproc_info(const struct vublk_inproc *inproc);

/*
 * The config space and its generation. Any thread, the bus's included.
 */
void vublk_inproc_read_config(struct vublk_inproc *inproc, void *config, unsigned bytes,
			      uint32_t *generation);

/*
 * Accepts `features` and gives the device memory and queues: one shared memory
 * for all rings and `extra_bytes` a queue of whatever else the driver shares.
 */
int vublk_inproc_set_up(struct vublk_inproc *inproc, uint64_t features, uint64_t extra_bytes,
			struct vublk_error *error);
const struct vublk_inproc_queue *vublk_inproc_queue(const struct vublk_inproc *inproc,
						    unsigned index);

/* DRIVER_OK; returns when the rings run. */
int vublk_inproc_start(struct vublk_inproc *inproc, struct vublk_error *error);
/*
 * Resets; returns when the back-end has given the rings back, so that it touches
 * no buffer any more. Nothing if they do not run.
 */
int vublk_inproc_stop(struct vublk_inproc *inproc, struct vublk_error *error);

/*
 * The driver has found that a ring is broken: the device is reset, and gave_up() is called
 * when the rings have been reclaimed. Any thread; does not wait.
 */
void vublk_inproc_fail(struct vublk_inproc *inproc, const struct vublk_error *error);

/*
 * Whether the back-end that has just been lost is trusted to have kept the writes that it
 * completed and that no flush made stable. For the handler lost().
 */
bool vublk_inproc_trusts_unflushed(const struct vublk_inproc *inproc);

/* Writes config field wce. 0: done; EIO and others: the back-end did not take it. */
int vublk_inproc_write_wce(struct vublk_inproc *inproc, bool on, struct vublk_error *error);

/*
 * Makes a piece of this process's memory, a shared mapping of `fd` at
 * `fd_offset`, known to the back-end. The descriptor is duplicated. EINVAL: not
 * aligned or overlapping; ENOSPC: no memory slot left.
 */
int vublk_inproc_add_region(struct vublk_inproc *inproc, void *address, uint64_t bytes, int fd,
			    uint64_t fd_offset, struct vublk_error *error);
/* EINVAL: there is none; everything else is the back-end's loss. */
int vublk_inproc_remove_region(struct vublk_inproc *inproc, void *address,
			       struct vublk_error *error);
/* The regions that were added, for the queues to look up. */
const struct vublk_inproc_regions *vublk_inproc_regions(const struct vublk_inproc *inproc);

/* Whether the caller is on the bus's own thread, where no call may wait. */
bool vublk_inproc_is_own_thread(const struct vublk_inproc *inproc);

#endif
