/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Handles broken rings. The back-end reports a broken ring on that queue's eventfd, which the
 * device watches while the rings are out. vublk_device_raise_needs_reset() tells the bus that a
 * ring cannot continue, whatever the reason is.
 *
 * Key idea: the device cannot repair a ring, so the driver has to reset the device. Each queue
 * is reported once per start; further signals are ignored.
 *
 * Specification: "VHOST_USER_SET_VRING_ERR".
 */
#include "device/device.h"

#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>

struct vublk_device_ring_error {
	struct vublk_device *device;
	unsigned queue;
	int fd;
	struct vublk_loop_source source;
};

void vublk_device_raise_needs_reset(struct vublk_device *device, const struct vublk_error *error)
{
	vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_WARNING, "%s", error->text);
	if (device->ops->needs_reset)
		device->ops->needs_reset(device->bus, error);
}

static void on_signalled(void *opaque, uint32_t events)
{
	struct vublk_device_ring_error *watch = opaque;
	struct vublk_device *device = watch->device;
	struct vublk_error error;

	vublk_loop_remove(&watch->source);
	vublk_error_set(&error, EPROTO,
			"back-end '%s': queue %u: the back-end reports that it cannot continue "
			"the ring%s", device->settings.chardev, watch->queue,
			vublk_device_is_shadowed(device) ? "" : "; the device needs a reset");
	/* The plane can give its requests to another back-end. */
	if (vublk_device_is_shadowed(device))
		vublk_frontend_fail(&device->frontend, &error);
	else
		vublk_device_raise_needs_reset(device, &error);
}

static int watch_queue(struct vublk_device *device, struct vublk_device_ring_error *watch,
		       unsigned queue, struct vublk_error *error)
{
	*watch = (struct vublk_device_ring_error){ .device = device, .queue = queue };
	watch->source.fn = on_signalled;
	watch->source.opaque = watch;
	watch->fd = vublk_eventfd_new();
	if (watch->fd < 0)
		return vublk_error_set_errno(error, -watch->fd,
					     "cannot make an eventfd for the errors of queue %u",
					     queue);
	return vublk_loop_add(&device->loop, &watch->source, watch->fd, EPOLLIN, error);
}

int vublk_device_ring_errors_watch(struct vublk_device *device, struct vublk_error *error)
{
	int r = 0;

	device->ring_errors = calloc(device->num_rings ? device->num_rings : 1,
				     sizeof(*device->ring_errors));
	if (!device->ring_errors)
		return vublk_error_set_errno(error, ENOMEM, "cannot watch the queues for errors");
	while (!r && device->num_ring_errors < device->num_rings) {
		unsigned i = device->num_ring_errors++;

		r = watch_queue(device, &device->ring_errors[i], device->rings[i].index, error);
		device->rings[i].err_fd = device->ring_errors[i].fd;
	}
	if (r < 0)
		vublk_device_ring_errors_unwatch(device);
	return r;
}

void vublk_device_ring_errors_unwatch(struct vublk_device *device)
{
	while (device->num_ring_errors) {
		struct vublk_device_ring_error *watch =
			&device->ring_errors[--device->num_ring_errors];

		vublk_loop_remove(&watch->source);
		vublk_fd_close(&watch->fd);
	}
	free(device->ring_errors);
	device->ring_errors = NULL;
}
