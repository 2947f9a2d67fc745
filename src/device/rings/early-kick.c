/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Handles kicks before DRIVER_OK, which a legacy driver may send as soon as it has set up its
 * queues. The first such kick counts as DRIVER_OK. start-stop.c then starts the rings, and signals
 * each queue's kick descriptor once.
 *
 * Key idea: the kick is meant for the back-end. So the device polls the kick descriptor but never
 * reads it, and the signal is still there when the back-end gets the descriptor. The device polls
 * only while a kick would start it, so modern drivers, and drivers that are ready, cost nothing.
 *
 * virtio 1.3, section 3.1.2 ("Legacy Interface: Device Initialization").
 */
#include "device/device.h"

#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <sys/epoll.h>

/* --- the start ---------------------------------------------------------------------------- */

/*
 * Returns whether a kick would start the device. While the status is 0, no driver has begun to use
 * the device.
 */
static bool would_start(const struct vublk_device *device)
{
	return device->state == VUBLK_DEVICE_STOPPED && device->vm_running && device->status &&
	       !(device->status & VIRTIO_CONFIG_S_DRIVER_OK) &&
	       vublk_device_has_legacy_driver(device) &&
	       device->early_kick == VUBLK_DEVICE_KICK_NONE && device->memory.num_regions;
}

bool vublk_device_take_early_kick(struct vublk_device *device)
{
	struct vublk_error error;

	if (!would_start(device))
		return false;
	vublk_device_unwatch_kicks(device);
	vublk_device_post_update(device);
	if (!vublk_device_check_start(device, &error)) {
		device->early_kick = VUBLK_DEVICE_KICK_STARTS;
		return true;
	}
	device->early_kick = VUBLK_DEVICE_KICK_REFUSED;
	vublk_error_prepend(&error, "a legacy driver kicked a queue before DRIVER_OK, but the "
			    "device cannot start");
	vublk_device_raise_needs_reset(device, &error);
	return false;
}

/* --- the descriptors ------------------------------------------------------------------------ */

static void on_kick(void *opaque, uint32_t events)
{
	struct vublk_device *device = opaque;

	if (would_start(device))
		vublk_device_take_early_kick(device);
	else
		vublk_device_unwatch_kicks(device);
}

/*
 * Watches the kick descriptor `fd` of queue `index`; -1: only ends the watch. Each call makes a new
 * watch, because the same number may refer to another file than before. A descriptor that cannot be
 * watched (for example, because two queues share it) is only logged.
 */
static void watch_queue(struct vublk_device *device, unsigned index, int fd)
{
	struct vublk_loop_source *source = &device->kick_sources[index];
	struct vublk_error error;

	vublk_loop_remove(source);
	source->fn = on_kick;
	source->opaque = device;
	if (fd >= 0 && vublk_loop_add(&device->loop, source, fd, EPOLLIN, &error) < 0)
		vublk_log(&device->log, VUBLK_LOG_DEBUG, "cannot watch queue %u for kicks: %s",
			  index,
			  error.text);
}

void vublk_device_watch_kicks(struct vublk_device *device)
{
	bool wanted = would_start(device);

	for (unsigned i = 0; i < device->num_queues; i++)
		watch_queue(device, i,
			    wanted && device->queues[i].size ? device->queues[i].kick_fd : -1);
}
