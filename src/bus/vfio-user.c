/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The vfio-user bus: the device, the socket at which clients find it, and what the
 * device calls back. A client itself is in vfio-user-client.c.
 *
 * The idea to read it by: clients come and go, the device stays. When one goes the
 * device is reset, and the socket is not listened at before the back-end has given the
 * rings back: no guest ever meets what another one left.
 */
#include "bus/vfio-user-private.h"

#include "proto/channel.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#define ACCEPT_PAUSE_NS (UINT64_C(100) * 1000000)

/* --- states ------------------------------------------------------------------------------------------ */

static const char *const state_names[VUBLK_VFIO_USER_NUM_STATES] = {
	[VUBLK_VFIO_USER_CREATED] = "created",
	[VUBLK_VFIO_USER_REALIZING] = "realizing",
	[VUBLK_VFIO_USER_LISTENING] = "listening",
	[VUBLK_VFIO_USER_NEGOTIATING] = "negotiating",
	[VUBLK_VFIO_USER_SERVING] = "serving",
	[VUBLK_VFIO_USER_CLEARING] = "clearing",
};

static const char *const event_names[VUBLK_VFIO_USER_NUM_EVENTS] = {
	[VUBLK_VFIO_USER_EVENT_START] = "start",
	[VUBLK_VFIO_USER_EVENT_READY] = "ready",
	[VUBLK_VFIO_USER_EVENT_FAILED] = "failed",
	[VUBLK_VFIO_USER_EVENT_CONNECT] = "connect",
	[VUBLK_VFIO_USER_EVENT_VERSION] = "version",
	[VUBLK_VFIO_USER_EVENT_HANG_UP] = "hang-up",
	[VUBLK_VFIO_USER_EVENT_CLEARED] = "cleared",
};

#define ON(event, state) [VUBLK_VFIO_USER_EVENT_##event] = VUBLK_VFIO_USER_##state + 1

/* An entry is the next state and one; 0: the event does not occur. */
static const unsigned char
transitions[VUBLK_VFIO_USER_NUM_STATES][VUBLK_VFIO_USER_NUM_EVENTS] = {
	[VUBLK_VFIO_USER_CREATED] = { ON(START, REALIZING) },
	[VUBLK_VFIO_USER_REALIZING] = { ON(READY, LISTENING), ON(FAILED, CREATED) },
	[VUBLK_VFIO_USER_LISTENING] = { ON(CONNECT, NEGOTIATING) },
	[VUBLK_VFIO_USER_NEGOTIATING] = { ON(VERSION, SERVING), ON(HANG_UP, CLEARING) },
	[VUBLK_VFIO_USER_SERVING] = { ON(HANG_UP, CLEARING) },
	[VUBLK_VFIO_USER_CLEARING] = { ON(CLEARED, LISTENING) },
};

bool vublk_vfio_user_change_state(struct vublk_vfio_user *bus, enum vublk_vfio_user_event event,
				  const char *why)
{
	unsigned next = transitions[bus->state][event];

	if (!next)
		return false;
	vublk_log(&bus->handlers.log, VUBLK_LOG_DEBUG, "vfio-user: %s, %s -> %s%s%s",
		  state_names[bus->state], event_names[event], state_names[next - 1],
		  why ? ": " : "", why ? why : "");
	bus->state = (enum vublk_vfio_user_state)(next - 1);
	return true;
}

/* --- the socket ----------------------------------------------------------------------------------------- */

static void listen_again(void *opaque)
{
	struct vublk_vfio_user *bus = opaque;

	if (bus->state == VUBLK_VFIO_USER_LISTENING)
		vublk_loop_modify(&bus->listen_source, EPOLLIN);
}

/* One that cannot be accepted would be told again at once: it waits a moment. */
static void on_listen(void *opaque, uint32_t events)
{
	struct vublk_vfio_user *bus = opaque;
	struct vublk_error error;
	int fd = vublk_socket_accept(bus->listen_fd, &error);

	if (fd == -EAGAIN)
		return;
	vublk_loop_modify(&bus->listen_source, 0);
	if (fd >= 0) {
		vublk_vfio_user_accept(bus, fd);
		return;
	}
	vublk_log_limited(&bus->handlers.log, &bus->log_limit, VUBLK_LOG_WARNING, "%s", error.text);
	vublk_loop_timer_arm(&bus->loop, &bus->accept_timer, vublk_now_ns() + ACCEPT_PAUSE_NS);
}

void vublk_vfio_user_clear(struct vublk_vfio_user *bus)
{
	if (bus->state != VUBLK_VFIO_USER_CLEARING || vublk_virtio_pci_is_busy(bus->pci))
		return;
	vublk_vfio_user_dma_clear(bus);
	vublk_vfio_user_change_state(bus, VUBLK_VFIO_USER_EVENT_CLEARED, NULL);
	listen_again(bus);
}

static int begin_to_listen(struct vublk_vfio_user *bus, struct vublk_error *error)
{
	int r;

	bus->listen_fd = vublk_socket_listen(bus->path, error);
	if (bus->listen_fd < 0)
		return bus->listen_fd;
	bus->socket_file = vublk_socket_file(bus->path);
	r = vublk_loop_add(&bus->loop, &bus->listen_source, bus->listen_fd, EPOLLIN, error);
	return r;
}

static void stop_listening(struct vublk_vfio_user *bus)
{
	vublk_loop_remove(&bus->listen_source);
	vublk_loop_timer_disarm(&bus->accept_timer);
	if (bus->listen_fd >= 0)
		vublk_socket_remove(bus->path, bus->socket_file);
	vublk_fd_close(&bus->listen_fd);
}

/* --- what the model asks for ------------------------------------------------------------------------------ */

static int before_start(void *opaque, struct vublk_error *error)
{
	return vublk_vfio_user_dma_before_start(opaque, error);
}

static void on_idle(void *opaque)
{
	struct vublk_vfio_user *bus = opaque;

	vublk_vfio_user_clear(bus);
	vublk_vfio_user_client_wake(bus);
}

static const struct vublk_virtio_pci_ops pci_ops = {
	.before_start = before_start,
	.idle = on_idle,
};

/* --- what the device says ----------------------------------------------------------------------------------- */

static int get_ready(struct vublk_vfio_user *bus, struct vublk_error *error)
{
	int r = vublk_virtio_pci_new(bus->device, &bus->loop, &bus->handlers.log, &bus->options,
				     &pci_ops, bus, &bus->pci, error);

	return r < 0 ? r : begin_to_listen(bus, error);
}

static void on_realized(void *opaque, const struct vublk_error *error)
{
	struct vublk_vfio_user *bus = opaque;
	struct vublk_error own;

	if (!error && get_ready(bus, &own) < 0) {
		stop_listening(bus);
		vublk_device_unrealize(bus->device);
		vublk_virtio_pci_free(bus->pci);
		bus->pci = NULL;
		error = &own;
	}
	vublk_vfio_user_change_state(bus, error ? VUBLK_VFIO_USER_EVENT_FAILED :
				     VUBLK_VFIO_USER_EVENT_READY, error ? error->text : NULL);
	if (bus->handlers.ready)
		bus->handlers.ready(bus->handlers.opaque, error);
}

static void on_started(void *opaque)
{
	vublk_virtio_pci_on_started(((struct vublk_vfio_user *)opaque)->pci);
}

static void on_stopped(void *opaque, const struct vublk_error *error)
{
	struct vublk_vfio_user *bus = opaque;

	vublk_virtio_pci_on_stopped(bus->pci);
	vublk_vfio_user_dma_on_stopped(bus);
}

static bool may_come_back(const struct vublk_vfio_user *bus)
{
	char value[32];

	return vublk_device_get_property(bus->device, "reconnect-ms", value, sizeof(value), NULL) < 0 ||
	       strcmp(value, "0");
}

/* A driver that has to wait is not told; one that would wait for ever is. */
static void on_disconnected(void *opaque, const struct vublk_error *error)
{
	struct vublk_vfio_user *bus = opaque;

	if (!may_come_back(bus))
		vublk_virtio_pci_on_failure(bus->pci, error);
}

static void on_gave_up(void *opaque, const struct vublk_error *error)
{
	struct vublk_vfio_user *bus = opaque;

	vublk_virtio_pci_on_failure(bus->pci, error);
	if (bus->handlers.gave_up)
		bus->handlers.gave_up(bus->handlers.opaque, error);
}

static void on_config_changed(void *opaque)
{
	vublk_virtio_pci_on_config_changed(((struct vublk_vfio_user *)opaque)->pci);
}

static void on_config_written(void *opaque, const struct vublk_error *error)
{
	struct vublk_vfio_user *bus = opaque;

	if (error)
		vublk_log_limited(&bus->handlers.log, &bus->log_limit, VUBLK_LOG_WARNING, "%s",
				  error->text);
	vublk_virtio_pci_on_config_written(bus->pci);
}

static void on_memory_changed(void *opaque, const struct vublk_error *error)
{
	vublk_vfio_user_dma_on_memory_changed(opaque, error);
}

static void on_needs_reset(void *opaque, const struct vublk_error *error)
{
	vublk_virtio_pci_on_failure(((struct vublk_vfio_user *)opaque)->pci, error);
}

static const struct vublk_device_bus_ops device_ops = {
	.realized = on_realized,
	.started = on_started,
	.stopped = on_stopped,
	.disconnected = on_disconnected,
	.gave_up = on_gave_up,
	.config_changed = on_config_changed,
	.config_written = on_config_written,
	.memory_changed = on_memory_changed,
	.needs_reset = on_needs_reset,
};

/* --- life ------------------------------------------------------------------------------------------------------ */

static void on_device(void *opaque, uint32_t events)
{
	struct vublk_vfio_user *bus = opaque;
	int r = vublk_device_process(bus->device);

	if (r < 0)
		vublk_log_limited(&bus->handlers.log, &bus->log_limit, VUBLK_LOG_ERROR,
				  "the device's event loop failed: %s", strerrordesc_np(-r));
}

static int set_path(struct vublk_vfio_user *bus, const char *path, struct vublk_error *error)
{
	if (snprintf(bus->path, sizeof(bus->path), "%s", path) < (int)sizeof(bus->path))
		return 0;
	return vublk_error_set(error, ENAMETOOLONG, "the path of the socket is too long: '%s'", path);
}

int vublk_vfio_user_new(const char *path, const struct vublk_virtio_pci_options *options,
			const struct vublk_vfio_user_handlers *handlers,
			struct vublk_vfio_user **out, struct vublk_error *error)
{
	struct vublk_vfio_user *bus = calloc(1, sizeof(*bus));
	int r;

	if (!bus)
		return vublk_error_set(error, ENOMEM, "no memory for a vfio-user bus");
	bus->handlers = *handlers;
	bus->options = *options;
	bus->log_limit = (struct vublk_log_limit){ .burst = 8, .interval_ms = 1000 };
	bus->refusal_limit = bus->log_limit;
	bus->listen_fd = -1;
	bus->device_source = (struct vublk_loop_source){ .fn = on_device, .opaque = bus };
	bus->listen_source = (struct vublk_loop_source){ .fn = on_listen, .opaque = bus };
	bus->accept_timer = (struct vublk_loop_timer){ .fn = listen_again, .opaque = bus };
	vublk_vfio_user_client_init(bus);
	r = vublk_loop_init(&bus->loop, error);
	if (r < 0) {
		free(bus);
		return r;
	}
	r = set_path(bus, path, error);
	if (!r)
		r = vublk_device_new(&device_ops, bus, &bus->handlers.log, &bus->device, error);
	if (!r)
		r = vublk_loop_add(&bus->loop, &bus->device_source, vublk_device_fd(bus->device),
				   EPOLLIN, error);
	if (r < 0) {
		vublk_vfio_user_free(bus);
		return r;
	}
	*out = bus;
	return 0;
}

void vublk_vfio_user_free(struct vublk_vfio_user *bus)
{
	if (!bus)
		return;
	vublk_vfio_user_client_deinit(bus);
	stop_listening(bus);
	if (bus->device)
		vublk_device_unrealize(bus->device);
	if (bus->pci) {
		vublk_vfio_user_irqs_clear(bus);
		vublk_vfio_user_dma_clear(bus);
		vublk_virtio_pci_free(bus->pci);
	}
	vublk_loop_remove(&bus->device_source);
	vublk_device_free(bus->device);
	vublk_loop_deinit(&bus->loop);
	free(bus);
}

struct vublk_device *vublk_vfio_user_device(struct vublk_vfio_user *bus)
{
	return bus->device;
}

int vublk_vfio_user_start(struct vublk_vfio_user *bus, struct vublk_error *error)
{
	int r;

	if (bus->state != VUBLK_VFIO_USER_CREATED)
		return vublk_error_set(error, EBUSY, "the vfio-user bus is started when it is created; "
				       "it is %s", state_names[bus->state]);
	r = vublk_device_realize(bus->device, error);
	if (!r)
		vublk_vfio_user_change_state(bus, VUBLK_VFIO_USER_EVENT_START, NULL);
	return r;
}

int vublk_vfio_user_fd(const struct vublk_vfio_user *bus)
{
	return vublk_loop_fd(&bus->loop);
}

int vublk_vfio_user_process(struct vublk_vfio_user *bus)
{
	int r = vublk_loop_process(&bus->loop, 0);

	return r < 0 ? r : 0;
}
