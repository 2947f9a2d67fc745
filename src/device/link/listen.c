/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The listening socket at chardev's path, to which back-ends connect if the property server is on.
 * connect.c handles the connections.
 *
 * Key idea: there is one back-end at a time. While a back-end is connected, the device does not
 * poll the socket, and the next connection waits in the backlog. So after a loss the device accepts
 * the connection that has waited longest. The socket's file exists from realize to unrealize.
 */
#include "device/device.h"

#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <sys/epoll.h>

/* The pause after a failure to poll or accept, for example because of a lack of descriptors. */
#define PAUSE_NS (UINT64_C(100) * 1000000)

static void pause_listening(struct vublk_device *device, const struct vublk_error *error)
{
	vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_WARNING,
			  "back-ends cannot connect to '%s' at present: %s",
			  vublk_device_path(device), error->text);
	vublk_device_unlisten(device);
	vublk_loop_timer_arm(&device->loop, &device->connect_timer, vublk_now_ns() + PAUSE_NS);
}

int vublk_device_listener_accept(struct vublk_device *device)
{
	struct vublk_error error;
	int fd = vublk_socket_accept(device->listener.fd, &error);

	if (fd >= 0)
		vublk_device_unlisten(device);
	else if (fd != -EAGAIN)
		pause_listening(device, &error);
	return fd;
}

void vublk_device_listen(struct vublk_device *device)
{
	struct vublk_device_listener *listener = &device->listener;
	struct vublk_error error;

	if (!listener->source.loop &&
	    vublk_loop_add(&device->loop, &listener->source, listener->fd, EPOLLIN, &error) < 0)
		pause_listening(device, &error);
}

void vublk_device_unlisten(struct vublk_device *device)
{
	vublk_loop_remove(&device->listener.source);
}

int vublk_device_listener_open(struct vublk_device *device, struct vublk_error *error)
{
	int fd = vublk_socket_listen(vublk_device_path(device), error);

	if (fd < 0)
		return fd;
	device->listener.fd = fd;
	device->listener.file = vublk_socket_file(vublk_device_path(device));
	vublk_log(&device->log, VUBLK_LOG_INFO, "waiting for a back-end to connect to '%s'",
		  vublk_device_path(device));
	return 0;
}

void vublk_device_listener_close(struct vublk_device *device)
{
	vublk_device_unlisten(device);
	if (device->listener.fd >= 0)
		vublk_socket_remove(vublk_device_path(device), device->listener.file);
	vublk_fd_close(&device->listener.fd);
}
