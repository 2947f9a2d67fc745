/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opens the connection to a back-end when the connect timer expires or when a back-end connects to
 * the device, and dispatches the connection's events. Other files react to the events, depending on
 * the state: realize.c before the device is realized, reconnect.c after a loss, loss.c while the
 * device is connected.
 *
 * Key idea: the other files never call this one. They arm the connect timer or listen, and the next
 * try begins here. So all connections begin, and their events arrive, in one place.
 */
#include "device/device.h"

#include "util/error.h"
#include "util/fd.h"

/* --- opening ---------------------------------------------------------------------------- */

static int open_frontend(struct vublk_device *device, int fd, struct vublk_error *error)
{
	const char *path = vublk_device_path(device);
	unsigned timeout_ms = (unsigned)device->settings.request_timeout_ms;
	int r;

	vublk_device_ask_for_inflight(device);
	if (fd < 0)
		r = vublk_frontend_open(&device->frontend, path, timeout_ms, error);
	else
		r = vublk_frontend_open_fd(&device->frontend, fd, path, timeout_ms, error);
	if (!r)
		vublk_device_fence_connected(device);
	return r;
}

static void fail_try(struct vublk_device *device, const struct vublk_error *error)
{
	if (device->state == VUBLK_DEVICE_REALIZING)
		vublk_device_realize_failed(device, error);
	else
		vublk_device_reconnect_failed(device, error);
}

/*
 * Tries to connect. `fd` is a connected socket, which this function owns, even on failure; -1: the
 * device connects to the active path.
 */
static void try_to_connect(struct vublk_device *device, int fd)
{
	struct vublk_error error;

	if (device->state == VUBLK_DEVICE_REALIZING) {
		device->tries += !device->paths.active;
	} else {
		device->reconnect.tried_ns = vublk_now_ns();
		vublk_device_paths_advance(device, device->reconnect.tried_ns);
	}
	if (vublk_device_fence_hold(device, &error) < 0) {
		vublk_fd_close(&fd);
		fail_try(device, &error);
	} else if (open_frontend(device, fd, &error) < 0) {
		fail_try(device, &error);
	} else if (device->state == VUBLK_DEVICE_LOST) {
		vublk_device_change_state(device, VUBLK_DEVICE_EVENT_RECONNECT, NULL);
	}
}

static void begin_to_listen(struct vublk_device *device)
{
	struct vublk_error error;

	if (device->listener.fd < 0 && vublk_device_listener_open(device, &error) < 0)
		vublk_device_realize_failed(device, &error);
	else
		vublk_device_listen(device);
}

static void on_connect_timer(void *opaque)
{
	struct vublk_device *device = opaque;

	if (!device->settings.server)
		try_to_connect(device, vublk_fd_steal(&device->lent_fd));
	else if (device->state == VUBLK_DEVICE_REALIZING)
		begin_to_listen(device);
	else
		vublk_device_reconnect_overdue(device);
}

static void on_connection(void *opaque, uint32_t events)
{
	struct vublk_device *device = opaque;
	int fd = vublk_device_listener_accept(device);

	if (fd < 0)
		return;
	vublk_loop_timer_disarm(&device->connect_timer);
	try_to_connect(device, fd);
}

static void on_owner_ended(void *opaque, uint32_t events)
{
	struct vublk_device *device = opaque;

	vublk_loop_remove(&device->fence.source);
	vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_INFO,
			  "the back-end process that the device waited for has ended");
	vublk_device_reconnect_wake(device);
}

static void on_socket_watch(void *opaque, bool vanished)
{
	struct vublk_device *device = opaque;

	if (vanished)
		vublk_device_unwatch_socket(device);
	vublk_device_reconnect_wake(device);
}

/* --- events of the connection ------------------------------------------------------------ */

static void on_negotiated(void *opaque)
{
	struct vublk_device *device = opaque;

	if (device->state == VUBLK_DEVICE_REALIZING)
		vublk_device_realize_negotiated(device);
	else
		vublk_device_reconnect_negotiated(device);
}

static void on_lost(void *opaque, const struct vublk_error *cause)
{
	struct vublk_device *device = opaque;
	struct vublk_error error = *cause;

	vublk_error_prepend(&error, "back-end '%s'", vublk_device_path(device));
	if (vublk_device_is_connected(device))
		vublk_device_on_loss(device, &error);
	else
		fail_try(device, &error);
}

static void on_config_changed(void *opaque)
{
	vublk_device_refresh_config(opaque);
}

static void on_back_channel_closed(void *opaque)
{
	vublk_device_watch_config(opaque);
}

static const struct vublk_frontend_ops frontend_ops = {
	.negotiated = on_negotiated,
	.lost = on_lost,
	.config_changed = on_config_changed,
	.back_channel_closed = on_back_channel_closed,
};

void vublk_device_connect_init(struct vublk_device *device)
{
	device->connect_timer.fn = on_connect_timer;
	device->connect_timer.opaque = device;
	device->lent_fd = -1;
	device->listener.fd = -1;
	device->listener.source.fn = on_connection;
	device->listener.source.opaque = device;
	vublk_device_switch_init(device);
	vublk_device_mirror_init(device);
	vublk_peer_init(&device->fence.peer);
	vublk_peer_init(&device->fence.owner);
	for (unsigned i = 0; i < VUBLK_DEVICE_MAX_FORMER; i++)
		vublk_peer_init(&device->fence.former[i]);
	device->fence.source.fn = on_owner_ended;
	device->fence.source.opaque = device;
	vublk_watch_init(&device->reconnect.watch, on_socket_watch, device);
	vublk_frontend_init(&device->frontend, &device->loop, &device->log, &device->limit,
			    &frontend_ops, device);
}
