/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_MIRROR_H
#define VUBLK_MIRROR_H

/*
 * The mirror of a disk, for users of <vublk/device.h>. While the driver uses the disk, the device
 * copies it to a second back-end, the target, and sends each write to both. When the target has
 * received the whole disk, vublk_device_switch() can move the disk to the target, even under load.
 * docs/mirror.md says what is guaranteed.
 *
 * A mirror needs shadow rings (<vublk/shadow.h>), which the device uses as long as there is a
 * mirror. A mirror survives pauses, resets and losses of the disk's own back-end. If the target is
 * lost, fails a request or hangs, the mirror ends with the notice VUBLK_NOTICE_MIRROR_ENDED. The
 * driver does not notice.
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
	bool is_active;        /* there is a mirror, or one is being set up */
	bool is_copying;       /* the set-up is complete, and the mirror copies or is synced */
	char target[256];      /* the target's socket; if there is no mirror, the socket of the last
				  target */
	uint64_t size_bytes;   /* of the disk; 0 before the copying and during a switch to the
				  target */
	uint64_t synced_bytes; /* how many bytes the target has received; equal to size_bytes
				  if the mirror is synced */
	uint64_t rate;         /* the maximum number of bytes copied per second; 0: no limit */
	int code; /* why the last mirror failed, a positive errno; 0: it has not failed */
	char reason[VUBLK_ERROR_TEXT_BYTES]; /* why, as a sentence; empty: it has not failed */
	/*
	 * How many of the synced bytes still have to be sent to the target again, for example after
	 * a discard.
	 */
	uint64_t behind_bytes;
};

/*
 * Begins to mirror the disk to the back-end that listens at `target`, and copies at most `rate`
 * bytes per second (0: no limit). If the disk is already mirrored to this target, only the rate
 * changes.
 * Returns:
 *   0  the rate was changed
 *   1  the set-up has begun; vublk_device_get_mirror() says when it has ended, and how
 * Errors:
 *   EINVAL   `target` is empty, longer than 255 bytes, or a path of the disk itself
 *   EBUSY    there is a mirror to another target, a switch or a migration is under way, or the
 *            device is in another state
 *   ENOTSUP  the device does not reconnect, or it listens for back-ends
 *   ENOENT, ECONNREFUSED, ENOTSOCK  no back-end listens at `target`
 *   ENAMETOOLONG  `target` is longer than 107 bytes
 *   others   of connect(2)
 * States: STOPPED, RUNNING.
 * Threads: the device's thread.
 */
int vublk_device_mirror(struct vublk_device *device, const char *target, uint64_t rate,
			struct vublk_error *error);
/*
 * Ends the mirror. If the mirror was synced and behind_bytes was 0, the target has the disk as it
 * would be after a loss of power. A no-op if there is no mirror.
 * States: any.
 * Threads: the device's thread.
 */
void vublk_device_stop_mirror(struct vublk_device *device);
/*
 * Fills `info` with the progress of the mirror or, if there is no mirror, with the outcome of the
 * last one. `info_bytes` is sizeof(struct vublk_device_mirror_info).
 * States: any.
 * Threads: the device's thread.
 */
void vublk_device_get_mirror(struct vublk_device *device, struct vublk_device_mirror_info *info,
			     size_t info_bytes);

/*
 * Begins to mirror the device that a bus presents, as vublk_device_mirror() does.
 * Returns: as vublk_device_mirror().
 * Errors: those of vublk_device_mirror().
 * States: STOPPED, RUNNING.
 * Threads: the one that calls vublk_bus_process(), between two calls.
 */
int vublk_bus_mirror(struct vublk_bus *bus, const char *target, uint64_t rate,
		     struct vublk_error *error);
/*
 * Ends the mirror of the device that a bus presents, as vublk_device_stop_mirror() does.
 * States: any.
 * Threads: the one that calls vublk_bus_process(), between two calls.
 */
void vublk_bus_stop_mirror(struct vublk_bus *bus);
/*
 * Fills `info` for the device that a bus presents, as vublk_device_get_mirror() does.
 * States: any.
 * Threads: the one that calls vublk_bus_process(), between two calls.
 */
void vublk_bus_get_mirror(struct vublk_bus *bus, struct vublk_device_mirror_info *info,
			  size_t info_bytes);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
