/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opens a bus: finds its type in the table of types, and sets its options. bus.c runs the bus.
 *
 * Key idea: this file refers to the types, and bus.c does not, so that the types can call bus.c.
 * The options are set from three lists, each of which overrides the ones before it: the defaults of
 * every bus, the defaults of the type, and the caller's options.
 */
#include "bus/bus.h"

#include "device/defaults.h"
#include "proto/vhost-user/channel.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/option.h"
#include "virtio/blk-format.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* Not 0, because with 0 the loss of a back-end ends the bus. A device that listens never retries. */
#define SERVER_RETRY_MS 1000

/* --- the types ------------------------------------------------------------- */

static const struct vublk_bus_type *const types[] = { &vublk_bus_vhost_user, &vublk_bus_vfio_user };

static int find_type(const char *spec, const struct vublk_bus_type **type, const char **argument,
		     struct vublk_error *error)
{
	const char *colon = spec ? strchr(spec, ':') : NULL;
	size_t length = colon ? (size_t)(colon - spec) : 0;

	for (size_t i = 0; colon && colon[1] && i < VUBLK_ARRAY_SIZE(types); i++) {
		if (strlen(types[i]->name) != length || strncmp(spec, types[i]->name, length))
			continue;
		*type = types[i];
		*argument = colon + 1;
		return 0;
	}
	return vublk_error_set(error, EINVAL, "the bus '%s' is invalid; expected %s:PATH or "
			       "%s:PATH",
			       spec ? spec : "", types[0]->name, types[1]->name);
}

/* --- options --------------------------------------------------------------- */

/*
 * The defaults of every bus. The protocol permits 256 queues, but with the usual limit of 1,024
 * open files only 128 are possible.
 */
static const struct vublk_option defaults[] = {
	{ "num-queues-limit", "128" },
	{ "realize-retries", "0" },
	{ VUBLK_MESSAGE_TIMEOUT_NAME, VUBLK_MESSAGE_TIMEOUT_DEFAULT },
	{ NULL },
};

static const char *find_default(const struct vublk_option *list, const char *name)
{
	for (; list && list->name; list++)
		if (!strcmp(list->name, name))
			return list->value;
	return NULL;
}

const char *vublk_bus_default(const char *spec, const char *name)
{
	const struct vublk_bus_type *type = NULL;
	const char *argument, *value = NULL;

	if (!find_type(spec, &type, &argument, NULL))
		value = find_default(type->defaults, name);
	if (!value)
		value = find_default(defaults, name);
	if (!value && !strcmp(name, "reconnect-ms"))
		value = VUBLK_DEVICE_RECONNECT_MS;
	return value;
}

static bool is_own(const struct vublk_bus_type *type, const char *name)
{
	for (const struct vublk_property *own = type->options; own && own->name; own++)
		if (!strcmp(own->name, name))
			return true;
	return false;
}

/* Makes the bus listen on a duplicate of the caller's socket. */
static int set_fd(struct vublk_bus *bus, const char *value, struct vublk_error *error)
{
	bool listening;
	uint64_t given;
	int r = vublk_parse_u64(VUBLK_BUS_FD_NAME, value, 0, INT_MAX, &given, error);

	if (!r)
		r = vublk_socket_check_given((int)given, &listening, error);
	if (r < 0)
		return r;
	if (!listening)
		return vublk_error_set(error, EINVAL, "descriptor %d is a socket that does not listen; "
				       "call listen() before passing it", (int)given);
	vublk_fd_close(&bus->listen_fd);
	bus->listen_fd = fcntl((int)given, F_DUPFD_CLOEXEC, 0);
	if (bus->listen_fd < 0)
		return vublk_error_set_errno(error, errno, "cannot duplicate descriptor %d", (int)given);
	/* Another process may accept a connection first, so accept() must not block. */
	vublk_fd_set_nonblocking(bus->listen_fd);
	return 0;
}

/* If the option is one of VUBLK_BUS_OPTIONS, sets it. Otherwise returns 1. */
static int set_common_option(struct vublk_bus *bus, const struct vublk_option *option,
			     struct vublk_error *error)
{
	if (!strcmp(option->name, VUBLK_MESSAGE_TIMEOUT_NAME))
		return vublk_parse_u64(option->name, option->value, 0, VUBLK_MESSAGE_TIMEOUT_MAX_MS,
				       &bus->message_timeout_ms, error);
	if (!strcmp(option->name, VUBLK_SOCKET_MODE_NAME))
		return vublk_socket_access_parse_mode(option->value, &bus->access, error);
	if (!strcmp(option->name, VUBLK_SOCKET_GROUP_NAME))
		return vublk_socket_access_parse_group(option->value, &bus->access, error);
	if (!strcmp(option->name, VUBLK_BUS_FD_NAME))
		return set_fd(bus, option->value, error);
	return 1;
}

static int set_properties(struct vublk_bus *bus, const struct vublk_option *options,
			  bool *has_reconnect_ms, struct vublk_error *error)
{
	int r = 0;

	for (; options && options->name && !r; options++) {
		r = set_common_option(bus, options, error);
		if (r > 0 && is_own(bus->type, options->name))
			r = bus->type->set_option(bus, options, error);
		else if (r > 0)
			r = vublk_device_set_property(bus->device, options->name, options->value,
						      error);
		if (!strcmp(options->name, "reconnect-ms"))
			*has_reconnect_ms = true;
	}
	return r;
}

/* --- opening --------------------------------------------------------------- */

static uint64_t number_property(const struct vublk_device *device, const char *name)
{
	char value[32] = "";

	vublk_device_get_property(device, name, value, sizeof(value), NULL);
	return strtoull(value, NULL, 10);
}

static int check_backend_path(const struct vublk_bus *bus, unsigned index,
			      struct vublk_error *error)
{
	struct vublk_device_path_info path;
	int r;

	vublk_device_get_path(bus->device, index, &path, sizeof(path));
	if (vublk_socket_is_same(path.chardev, bus->path))
		return vublk_error_set(error, EINVAL, "the bus and chardev use the same socket, "
				       "'%s'; give each its own path", bus->path);
	if (vublk_bus_is_server(bus))
		r = vublk_socket_check_listen(path.chardev, error);
	else
		r = vublk_socket_check_connect(path.chardev, error);
	if (r < 0)
		vublk_error_prepend(error, "chardev");
	return r;
}

static int check_given_access(const struct vublk_socket_access *access, struct vublk_error *error)
{
	if (!access->has_mode && !access->has_group)
		return 0;
	return vublk_error_set(error, EINVAL, "%s cannot be used with fd: set the permissions where the "
			       "socket is created",
			       access->has_mode ? VUBLK_SOCKET_MODE_NAME : VUBLK_SOCKET_GROUP_NAME);
}

/*
 * Checks the paths of the back-ends and of the bus. The bus listens only after a back-end has
 * connected, so without this check the user would learn of a bad path late.
 */
static int check_paths(const struct vublk_bus *bus, struct vublk_error *error)
{
	unsigned num_paths = vublk_device_num_paths(bus->device);
	int r = 0;

	if (!num_paths)
		return 0; /* vublk_device_realize() reports the missing property */
	for (unsigned i = 0; i < num_paths && !r; i++)
		r = check_backend_path(bus, i, error);
	if (r < 0)
		return r;
	r = bus->listen_fd >= 0 ? check_given_access(&bus->access, error) :
				  vublk_socket_check_listen(bus->path, error);
	if (!r)
		r = vublk_socket_access_check(&bus->access, error);
	if (r < 0)
		vublk_error_prepend(error, "bus %s", bus->type->name);
	return r;
}

/*
 * Refuses a nonempty `serial` unless `shadow` is on: without shadow rings the back-end, not the
 * device, answers the guest's GET_ID.
 */
static int check_serial(const struct vublk_bus *bus, struct vublk_error *error)
{
	char serial[VUBLK_BLK_ID_BYTES + 1] = "", shadow[8] = "";

	vublk_device_get_property(bus->device, "serial", serial, sizeof(serial), NULL);
	vublk_device_get_property(bus->device, "shadow", shadow, sizeof(shadow), NULL);
	if (!serial[0] || !strcmp(shadow, "on"))
		return 0;
	return vublk_error_set(error, EINVAL,
			       "serial needs shadow=on, because without shadow rings the back-end "
			       "answers the guest's request for the serial; set shadow=on, or set "
			       "the serial in the back-end");
}

/* Creates the device and sets its properties and the bus's options. */
static int make_device(struct vublk_bus *bus, const struct vublk_option *properties,
		       struct vublk_error *error)
{
	bool has_reconnect_ms = false;
	int r = vublk_device_new(bus->type->device_ops, sizeof(struct vublk_device_bus_ops), bus,
				 &bus->log, &bus->device, error);

	if (!r && bus->type->open)
		r = bus->type->open(bus, error);
	if (!r)
		r = set_properties(bus, defaults, &has_reconnect_ms, error);
	if (!r)
		r = set_properties(bus, bus->type->defaults, &has_reconnect_ms, error);
	if (!r)
		r = set_properties(bus, properties, &has_reconnect_ms, error);
	if (!r && !has_reconnect_ms && !vublk_bus_is_server(bus))
		r = vublk_device_set_property(bus->device, "reconnect-ms", VUBLK_DEVICE_RECONNECT_MS,
					      error);
	if (!r)
		r = check_serial(bus, error);
	if (r < 0)
		return r;
	bus->retry_ms = vublk_bus_is_server(bus) ? SERVER_RETRY_MS :
						   number_property(bus->device, "reconnect-ms");
	return vublk_bus_watch_device(bus, error);
}

int vublk_bus_prepare(const char *spec, const struct vublk_option *options,
		      const struct vublk_log *log, struct vublk_bus **result,
		      struct vublk_error *error)
{
	const struct vublk_bus_type *type;
	const char *argument = NULL;
	struct vublk_bus *bus;
	int r = find_type(spec, &type, &argument, error);

	if (r < 0)
		return r;
	bus = calloc(1, sizeof(*bus));
	if (!bus)
		return vublk_error_set_errno(error, ENOMEM, "cannot allocate a bus");
	bus->type = type;
	bus->listen_fd = bus->stop_fd = bus->refresh_fd = -1;
	if (log)
		bus->log = *log;
	bus->path = strdup(argument);
	r = bus->path ? vublk_bus_open_loop(bus, error) :
			vublk_error_set_errno(error, ENOMEM, "cannot allocate memory for the "
					      "socket's path");
	if (!r)
		r = make_device(bus, options, error);
	if (r < 0) {
		vublk_bus_free(bus);
		return r;
	}
	*result = bus;
	return 0;
}

int vublk_bus_open(const char *spec, const struct vublk_option *device_properties,
		   const struct vublk_log *log, struct vublk_bus **result,
		   struct vublk_error *error)
{
	struct vublk_bus *bus = NULL;
	int r = vublk_bus_prepare(spec, device_properties, log, &bus, error);

	if (r < 0)
		return r;
	r = vublk_device_realize(bus->device, error);
	if (!r)
		r = check_paths(bus, error);
	if (r < 0) {
		vublk_bus_free(bus);
		return r;
	}
	*result = bus;
	return 0;
}

const struct vublk_property *vublk_bus_options(const char *spec)
{
	static const struct vublk_property none = { NULL };
	const struct vublk_bus_type *type;
	const char *argument;

	return find_type(spec, &type, &argument, NULL) || !type->options ? &none : type->options;
}
