/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_MIRROR_H
#define VUBLK_MIRROR_H

/*
 * The mirror of a disk, for users of <vublk/device.h>. The device copies the disk to a second
 * back-end, the target, while the driver uses the disk, and then writes to both. When the target has
 * got the whole disk, vublk_device_switch() can move the disk to the target, under any load.
 * docs/control.md describes the command.
 *
 * The mirror needs shadow rings (<vublk/shadow.h>), which the device uses as long as there is a
 * mirror. It survives pauses, resets and losses of the disk's own back-end. It ends, with the notice
 * VUBLK_NOTICE_MIRROR_ENDED, if the target is lost, fails a request or hangs; the driver notices
 * nothing.
 */
#include <vublk/bus.h>
#include <vublk/device.h>
#include <vublk/error.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* Passed with its size; see <vublk/version.h>. */
struct vublk_device_mirror_info {
	bool is_active;        /* there is a mirror, or it is being set up */
	bool is_copying;       /* the set-up is done */
	char target[256];      /* the path of the target's socket, also of the last mirror */
	uint64_t size_bytes;   /* of the disk; 0 during the set-up */
	uint64_t synced_bytes; /* how many bytes the target has got; all: the mirror is synced */
	uint64_t rate;         /* how many bytes per second are copied at most; 0: no limit */
	int code; /* why the last mirror ended or failed, a positive errno; 0: it has not */
	char reason[VUBLK_ERROR_TEXT_BYTES]; /* the same as a sentence; empty: it has not failed */
	/* Of the synced bytes, those that the target gets again, because of a discard, for example. */
	uint64_t behind_bytes;
};

/*
 * Begins to mirror the disk to the back-end that listens at `target`, at most `rate` bytes per
 * second; 0: without a limit. With a mirror to the same target, only changes the rate.
 * Returns:
 *   0  the rate was changed
 *   1  the set-up has begun; vublk_device_get_mirror() says when it has ended, and how
 * Errors:
 *   EINVAL   `target` is too long, or is a path of the disk itself
 *   EBUSY    there is a mirror to another target, a switch or a migration is under way, or no
 *            back-end is connected
 *   ENOTSUP  the device does not reconnect, or it listens for back-ends
 *   ENOENT, ECONNREFUSED, others of connect(2)  no back-end can be reached at the path
 * States: STOPPED, RUNNING.
 * Threads: the device's.
 */
int vublk_device_mirror(struct vublk_device *device, const char *target, uint64_t rate,
			struct vublk_error *error);
/*
 * Ends the mirror. The target then has the disk as after a loss of power, except in the regions in
 * which it was behind. Does nothing without a mirror.
 * States: all.
 * Threads: the device's.
 */
void vublk_device_stop_mirror(struct vublk_device *device);
/*
 * Fills `info` with the progress of the mirror or, without one, how the last one has ended. `info`
 * belongs to the caller.
 * States: all.
 * Threads: the device's.
 */
void vublk_device_get_mirror(struct vublk_device *device, struct vublk_device_mirror_info *info,
			     size_t info_bytes);

/*
 * These functions do the same for the device that a bus presents.
 * Returns: as vublk_device_mirror().
 * Errors: those of vublk_device_mirror().
 * States: STOPPED, RUNNING.
 * Threads: the one that calls vublk_bus_process(), between two calls.
 */
int vublk_bus_mirror(struct vublk_bus *bus, const char *target, uint64_t rate,
		     struct vublk_error *error);
/*
 * Ends the mirror of the device that a bus presents, as vublk_device_stop_mirror() does.
 * States: all.
 * Threads: the one that calls vublk_bus_process(), between two calls.
 */
void vublk_bus_stop_mirror(struct vublk_bus *bus);
/*
 * Does the same as vublk_device_get_mirror() for the device that a bus presents.
 * States: all.
 * Threads: the one that calls vublk_bus_process(), between two calls.
 */
void vublk_bus_get_mirror(struct vublk_bus *bus, struct vublk_device_mirror_info *info,
			  size_t info_bytes);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
