/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PATHS_H
#define VUBLK_PATHS_H

/*
 * Several paths to the same storage, for users of <vublk/device.h>.
 *
 * The properties chardev, chardev-2, chardev-3 and chardev-4 name the sockets of back-ends in order
 * of preference. The device uses one of them at a time. At realize it chooses the first path at
 * which a process listens. When the back-end is lost, the device looks for a back-end at the same
 * path for failover-ms, then at the next path, and so on; after the last path it returns to the
 * first. After a loss, the device leaves a path only when the process that had the rings has ended.
 * docs/failover.md says what is guaranteed.
 *
 * While its back-end is connected, the device does not change to a path of higher preference.
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

#define VUBLK_MAX_PATHS 4

/* One path. The struct is passed with its size; see <vublk/version.h>. */
struct vublk_device_path_info {
	char chardev[256]; /* the path of the socket */
	bool is_active;    /* the device is connected there, or looks for a back-end there */
};

/*
 * Returns the number of paths that are set, 0 to VUBLK_MAX_PATHS.
 * States: any.
 * Threads: the device's thread.
 */
unsigned vublk_device_num_paths(const struct vublk_device *device);

/*
 * Fills `info` with the path at `index`, from 0 to vublk_device_num_paths() - 1, in order of
 * preference. `info_bytes` is sizeof(struct vublk_device_path_info).
 * Errors:
 *   EINVAL  there is no such path
 * States: any.
 * Threads: the device's thread.
 */
int vublk_device_get_path(const struct vublk_device *device, unsigned index,
			  struct vublk_device_path_info *info, size_t info_bytes);

/* Passed with its size; see <vublk/version.h>. */
struct vublk_device_fence_info {
	bool is_held; /* the disk waits until a process that had the rings has ended */
	int64_t pid;  /* that process; 0: unknown, or in another PID namespace */
	char reason[VUBLK_ERROR_TEXT_BYTES]; /* a sentence that says what to do; empty: not held */
};

/*
 * Says in `info` whether the disk waits for the end of a process that had the rings. The process
 * has to end before the disk continues at another path or, with fence=exit, at any path.
 * `info_bytes` is sizeof(struct vublk_device_fence_info).
 * States: any.
 * Threads: the device's thread.
 */
void vublk_device_get_fence(const struct vublk_device *device, struct vublk_device_fence_info *info,
			    size_t info_bytes);

/*
 * Moves the disk to the back-end at `chardev`, another of its paths, without failing a request. The
 * device connects to the new back-end and holds new requests. When the old back-end has completed
 * its requests and a flush, the device disconnects from it and starts the rings at the new one. If
 * the new back-end cannot be used, the disk stays with the old one, or returns to it. Rings on the
 * direct path use shadow rings during the switch (<vublk/shadow.h>). The bus gets the callbacks
 * lost() with ECANCELED, reconnected() and started(). If the old back-end fails the flush, the
 * driver's next flush fails, too. During an outage the device tries `chardev` next, but only if the
 * process of the lost back-end has ended. A switch during an outage ends with the outage, or when a
 * later call during the outage replaces it. Unrealize ends any switch.
 * If `chardev` is NULL, the disk moves to the target of its mirror (<vublk/mirror.h>). The mirror
 * must be synced, and the rings must run. First the target receives what it lacks, and both
 * back-ends flush. The target is then the disk's only path.
 * Returns:
 *   0  the device is already connected to `chardev`
 *   1  the switch has begun; vublk_device_get_switch() says when it has ended, and how
 * Errors:
 *   EINVAL    `chardev` is not one of the paths
 *   EBUSY     a switch or a message to the back-end is under way; the process of the lost back-end
 *             may still write; the driver's rings are stopped and were in use; the device is in
 *             another state; `chardev` is NULL, and there is no mirror, it is not synced, or the
 *             rings do not run; or `chardev` is not NULL, and the disk is mirrored
 *   ENOENT, ECONNREFUSED, ENOTSOCK  no back-end listens at `chardev`
 *   others    of connect(2)
 * States: STOPPED, RUNNING, LOST.
 * Threads: the device's thread.
 */
int vublk_device_switch(struct vublk_device *device, const char *chardev,
			struct vublk_error *error);

/* Passed with its size; see <vublk/version.h>. */
struct vublk_device_switch_info {
	bool is_under_way;
	int code; /* why the switch failed, a positive errno; 0: it has not failed */
	char reason[VUBLK_ERROR_TEXT_BYTES]; /* why, as a sentence; empty: it has not failed */
	uint64_t number; /* the number of the switch, counted from 1; 0: there was none */
};

/*
 * Says in `info` whether a switch is under way and, if not, how the last one ended. A failed switch
 * counts as under way until the disk has a back-end again, or the device has given up. `info_bytes`
 * is sizeof(struct vublk_device_switch_info).
 * States: any.
 * Threads: the device's thread.
 */
void vublk_device_get_switch(const struct vublk_device *device,
			     struct vublk_device_switch_info *info, size_t info_bytes);

/*
 * Fills `info` as vublk_device_get_switch() does, but for the switch `number`. So several callers
 * of vublk_device_switch() can get their own results: each reads its number with
 * vublk_device_get_switch() right after its switch has begun. The device keeps the results of the
 * last 8 switches.
 * Errors:
 *   ENOENT  the device does not know the result of this switch
 * States: any.
 * Threads: the device's thread.
 */
int vublk_device_get_switch_result(const struct vublk_device *device, uint64_t number,
				   struct vublk_device_switch_info *info, size_t info_bytes);

/*
 * Switches the device that a bus presents, as vublk_device_switch() does.
 * Returns: as vublk_device_switch().
 * Errors: those of vublk_device_switch().
 * States: STOPPED, RUNNING, LOST.
 * Threads: the one that calls vublk_bus_process(), between two calls.
 */
int vublk_bus_switch(struct vublk_bus *bus, const char *chardev, struct vublk_error *error);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
