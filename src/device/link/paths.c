/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Chooses one of several paths to the same storage. In realize, this is the first path that has a
 * back-end. After a loss, the device tries the path of the lost back-end, then each of the others
 * in turn, for failover-ms each. The tries are in connect.c and reconnect.c.
 *
 * Key idea: the device leaves a path only if the fence permits it (fence.c). Until then the device
 * keeps looking for a back-end at the current path, as a device with one path does. When the
 * process that had the rings ends, the device tries again immediately, at the path whose turn it
 * is.
 */
#include "device/device.h"

#include "util/error.h"
#include "util/struct.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define NS_PER_MS UINT64_C(1000000)
/*
 * How long the device waits for the end of the lost back-end's process before it warns. A process
 * that is killed closes its sockets some time before it ends.
 */
#define EXIT_NS (500 * NS_PER_MS)

unsigned vublk_device_num_paths(const struct vublk_device *device)
{
	unsigned n = 0;

	while (n < VUBLK_MAX_PATHS && device->settings.chardevs[n][0])
		n++;
	return n;
}

int vublk_device_get_path(const struct vublk_device *device, unsigned index,
			  struct vublk_device_path_info *info, size_t info_bytes)
{
	struct vublk_device_path_info own = { .is_active = index == device->paths.active };

	if (index >= vublk_device_num_paths(device))
		return -EINVAL;
	_Static_assert(sizeof(own.chardev) == sizeof(device->settings.chardevs[0]), "all of it");
	strcpy(own.chardev, device->settings.chardevs[index]);
	vublk_struct_out(info, info_bytes, &own, sizeof(own));
	return 0;
}

static unsigned next_path(const struct vublk_device *device)
{
	return (device->paths.active + 1) % vublk_device_num_paths(device);
}

/* --- after a loss ---------------------------------------------------------------------- */

void vublk_device_paths_begin(struct vublk_device *device, uint64_t now)
{
	device->paths.since_ns = now;
	device->paths.num_moves = 0;
	device->paths.is_held = device->paths.logged_held = false;
}

void vublk_device_paths_end(struct vublk_device *device)
{
	device->paths.since_ns = 0;
}

/*
 * Returns when it is the next path's turn; UINT64_MAX: never. While a switch connects to its new
 * path, only the switch changes the path. A path that an operator asked for in an outage gets at
 * least one try.
 */
static uint64_t turn_ends_ns(const struct vublk_device *device)
{
	const struct vublk_device_switch *own = &device->path_switch;

	if (own->phase == VUBLK_DEVICE_SWITCH_MOVING ||
	    (own->phase == VUBLK_DEVICE_SWITCH_SEEKING && own->is_first_try) ||
	    !device->paths.since_ns || !device->settings.chardevs[1][0])
		return UINT64_MAX;
	return device->paths.since_ns + device->settings.failover_ms * NS_PER_MS;
}

uint64_t vublk_device_paths_deadline_ns(const struct vublk_device *device)
{
	if (device->paths.logged_held || turn_ends_ns(device) == UINT64_MAX)
		return UINT64_MAX;
	return turn_ends_ns(device) + (device->paths.is_held ? EXIT_NS : 0);
}

void vublk_device_paths_choose(struct vublk_device *device, unsigned index, uint64_t now)
{
	struct vublk_device_paths *paths = &device->paths;

	paths->active = index;
	paths->since_ns = now;
	paths->is_held = paths->logged_held = false;
	device->reconnect.pause_ms = VUBLK_DEVICE_SHORTEST_PAUSE_MS;
	device->reconnect.refusals = 0;
	vublk_device_unwatch_socket(device);
	vublk_device_watch_socket(device);
}

static void hold(struct vublk_device *device, uint64_t now, const struct vublk_error *error)
{
	struct vublk_device_paths *paths = &device->paths;

	vublk_device_fence_await(device);
	paths->is_held = true;
	if (paths->logged_held || now < turn_ends_ns(device) + EXIT_NS)
		return;
	paths->logged_held = true;
	vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_WARNING,
			  "no back-end was available at '%s' within %u ms, and the device cannot "
			  "use '%s', because %s", vublk_device_path(device),
			  (unsigned)device->settings.failover_ms,
			  device->settings.chardevs[next_path(device)], error->text);
}

/*
 * Moves to the next path. Only the first move from each path in an outage is logged as a warning.
 */
static void move(struct vublk_device *device, uint64_t now)
{
	struct vublk_device_paths *paths = &device->paths;
	bool is_news = paths->num_moves++ < vublk_device_num_paths(device);

	vublk_log_limited(&device->log, &device->limit, is_news ? VUBLK_LOG_WARNING : VUBLK_LOG_DEBUG,
			  "no back-end was available at '%s' within %u ms; the device now tries "
			  "'%s'",
			  vublk_device_path(device), (unsigned)device->settings.failover_ms,
			  device->settings.chardevs[next_path(device)]);
	vublk_device_paths_choose(device, next_path(device), now);
}

void vublk_device_paths_advance(struct vublk_device *device, uint64_t now)
{
	struct vublk_error error;

	if (now < turn_ends_ns(device))
		return;
	if (vublk_device_fence_check(device, &error) < 0)
		hold(device, now, &error);
	else
		move(device, now);
}

/* --- realize ------------------------------------------------------------------------------ */

/*
 * Returns whether the error `code` means that no process is at the path. After any other error,
 * there may be a process that hangs or cannot be used. It may have had the disk before this device
 * was realized, and may still write to it.
 */
static bool is_absent(int code)
{
	return code == ENOENT || code == ECONNREFUSED;
}

/*
 * Adds the failure of a path to `absent`. A code other than ENOENT replaces the code of `absent`,
 * because a process is at that path, or may be there soon.
 */
static void add_absent(struct vublk_device_paths *paths, const struct vublk_error *error)
{
	struct vublk_error *absent = &paths->absent;
	size_t used = strlen(absent->text);

	if (!absent->code) {
		*absent = *error;
		return;
	}
	if (!is_absent(error->code) || error->code == ECONNREFUSED)
		absent->code = error->code;
	snprintf(absent->text + used, sizeof(absent->text) - used, "; and %s", error->text);
}

bool vublk_device_paths_try_next(struct vublk_device *device, const struct vublk_error *cause,
				 struct vublk_error *all)
{
	struct vublk_device_paths *paths = &device->paths;

	*all = *cause;
	if (!device->settings.chardevs[1][0])
		return false;
	add_absent(paths, cause);
	if (is_absent(cause->code) && paths->active + 1 < vublk_device_num_paths(device)) {
		paths->active++;
		return true;
	}
	*all = paths->absent;
	return false;
}

void vublk_device_paths_rewind(struct vublk_device *device)
{
	device->paths = (struct vublk_device_paths){ 0 };
}

void vublk_device_paths_realized(struct vublk_device *device)
{
	struct vublk_device_paths *paths = &device->paths;

	paths->last = paths->active;
	if (paths->active)
		vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_WARNING,
				  "the disk uses the back-end at '%s', because %s",
				  vublk_device_path(device),
				  paths->absent.text);
	paths->absent.code = 0;
}
