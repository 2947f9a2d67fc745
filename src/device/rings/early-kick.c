/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Kicks before DRIVER_OK, which a legacy driver may send as soon as it has set up its
 * queues: the first one starts the device, and then each queue is kicked once.
 *
 * The idea to read it by: the kick belongs to the back-end. Here its descriptor is
 * looked at, never read, so what was signalled is still there when the ring is handed
 * over. And it is looked at only as long as a kick would start the device: a modern
 * driver, or one that has started, costs nothing.
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

struct vublk_device_kick_watch {
	struct vublk_device *device;
	struct vublk_loop_source source;
};

/* --- the start ---------------------------------------------------------------------------- */

/* Without a status there is no driver yet, legacy or not. */
static bool would_start(const struct vublk_device *device)
{
	return device->state == VUBLK_DEVICE_STOPPED && device->vm_running && device->status &&
	       !(device->status & VIRTIO_CONFIG_S_DRIVER_OK) &&
	       vublk_device_has_legacy_driver(device) &&
	       device->early_kick == VUBLK_DEVICE_KICK_NONE && device->memory.num_regions;
}

static void refuse(struct vublk_device *device, const struct vublk_error *error)
{
	device->early_kick = VUBLK_DEVICE_KICK_REFUSED;
	vublk_device_watch_kicks(device);
	vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_WARNING, "%s", error->text);
	if (device->ops->needs_reset)
		device->ops->needs_reset(device->bus, error);
}

static void start(struct vublk_device *device)
{
	struct vublk_error error;

	if (vublk_device_check_start(device, &error) < 0) {
		vublk_error_prepend(&error, "a kick before DRIVER_OK, which starts a legacy "
				    "driver's device");
		refuse(device, &error);
		return;
	}
	device->early_kick = VUBLK_DEVICE_KICK_STARTS;
	vublk_device_update(device);
}

void vublk_device_kick_rings(struct vublk_device *device)
{
	for (unsigned i = 0; i < device->num_rings; i++)
		if (device->rings[i].kick_fd >= 0)
			vublk_eventfd_signal(device->rings[i].kick_fd);
}

int vublk_device_kick(struct vublk_device *device, unsigned index)
{
	if (index >= device->num_queues || !device->queues[index].size)
		return -EINVAL;
	if (device->queues[index].kick_fd >= 0)
		vublk_eventfd_signal(device->queues[index].kick_fd);
	if (would_start(device))
		start(device);
	return 0;
}

/* --- the descriptors ------------------------------------------------------------------------ */

static void on_kick(void *opaque, uint32_t events)
{
	struct vublk_device_kick_watch *watch = opaque;

	if (would_start(watch->device))
		start(watch->device);
	else
		vublk_device_watch_kicks(watch->device);
}

int vublk_device_kick_watches_init(struct vublk_device *device)
{
	device->kick_watches = calloc(device->num_queues, sizeof(*device->kick_watches));
	if (!device->kick_watches)
		return -ENOMEM;
	for (unsigned i = 0; i < device->num_queues; i++) {
		struct vublk_device_kick_watch *watch = &device->kick_watches[i];

		watch->device = device;
		watch->source.fn = on_kick;
		watch->source.opaque = watch;
	}
	return 0;
}

void vublk_device_kick_watches_deinit(struct vublk_device *device)
{
	for (unsigned i = 0; device->kick_watches && i < device->num_queues; i++)
		vublk_loop_remove(&device->kick_watches[i].source);
	free(device->kick_watches);
	device->kick_watches = NULL;
}

/*
 * Always anew: behind the same number there may be another file by now. One that cannot
 * be watched, as when two queues share it, is said; the others are.
 */
static void watch_fd(struct vublk_device *device, struct vublk_device_kick_watch *watch, int fd)
{
	struct vublk_error error;

	vublk_loop_remove(&watch->source);
	if (fd >= 0 && vublk_loop_add(&device->loop, &watch->source, fd, EPOLLIN, &error) < 0)
		vublk_log(&device->log, VUBLK_LOG_DEBUG, "the kicks of queue %u: %s",
			  (unsigned)(watch - device->kick_watches), error.text);
}

void vublk_device_watch_kicks(struct vublk_device *device)
{
	bool wanted = would_start(device);

	for (unsigned i = 0; i < device->num_queues; i++)
		watch_fd(device, &device->kick_watches[i],
			 wanted && device->queues[i].size ? device->queues[i].kick_fd : -1);
}
