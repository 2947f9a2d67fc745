/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Handles rings that cannot continue. A back-end reports such a ring by signalling an eventfd, one
 * per queue, which the device watches while the back-end has the rings.
 * vublk_device_raise_needs_reset() tells the bus that the driver has to reset the device, for this
 * or any other reason.
 *
 * Key idea: the device cannot repair a ring. If it is the driver's ring, the driver has to reset
 * the device. If it is a ring of the plane, the device only closes the connection. Only the first
 * signal of each queue after a start counts.
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
	vublk_device_notify_needs_reset(device, error);
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
			"the back-end at '%s' reports that the ring of queue %u is broken%s",
			vublk_device_path(device), watch->queue,
			vublk_device_is_shadowed(device) ? "" : "; the driver must reset the device");
	/*
	 * With shadow rings, the broken ring is the plane's, and another back-end can execute its
	 * requests. So this back-end counts as lost.
	 */
	if (vublk_device_is_shadowed(device))
		vublk_frontend_fail(&device->frontend, &error);
	else
		vublk_device_raise_needs_reset(device, &error);
}

static void init(struct vublk_device *device, struct vublk_device_ring_error *watch,
		 unsigned queue, int fd)
{
	*watch = (struct vublk_device_ring_error){
		.device = device,
		.queue = queue,
		.fd = fd,
		.source = { .fn = on_signalled, .opaque = watch },
	};
}

static int watch_queue(struct vublk_device *device, struct vublk_device_ring_error *watch,
		       unsigned queue, struct vublk_error *error)
{
	int fd = vublk_eventfd_new();

	init(device, watch, queue, fd);
	if (fd < 0)
		return vublk_error_set_errno(error, -fd,
					     "cannot create an eventfd for errors of queue %u",
					     queue);
	return vublk_loop_add(&device->loop, &watch->source, fd, EPOLLIN, error);
}

static int make_room(struct vublk_device *device, struct vublk_error *error)
{
	device->ring_errors = calloc(device->num_rings ? device->num_rings : 1,
				     sizeof(*device->ring_errors));
	return device->ring_errors ? 0 :
	       vublk_error_set_errno(error, ENOMEM, "cannot watch the queues for errors");
}

int vublk_device_ring_errors_watch(struct vublk_device *device, struct vublk_error *error)
{
	int r = make_room(device, error);

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

/* --- a device that was taken over ------------------------------------------------------------ */

bool vublk_device_ring_error_is_watched(const struct vublk_device *device, unsigned i)
{
	return i < device->num_ring_errors && device->ring_errors[i].source.loop;
}

int vublk_device_ring_error_adopt(struct vublk_device *device, unsigned index, int fd,
				  bool is_watched, struct vublk_error *error)
{
	unsigned i = device->num_ring_errors;
	int r = device->ring_errors ? 0 : make_room(device, error);

	if (!r && (i >= device->num_rings || device->rings[i].index != index || fd < 0))
		r = vublk_error_set(error, EINVAL, "the state has the wrong error descriptor "
				    "for queue %u", index);
	if (r < 0) {
		vublk_fd_close(&fd);
		return r;
	}
	init(device, &device->ring_errors[i], index, fd);
	device->rings[i].err_fd = fd;
	device->num_ring_errors++;
	return is_watched ? vublk_loop_add(&device->loop, &device->ring_errors[i].source, fd, EPOLLIN,
					   error) : 0;
}
