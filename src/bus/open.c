/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opens a bus. The table of bus types, the options and their defaults are here; bus.c runs a bus.
 *
 * Key idea: this file knows the types and bus.c does not, so that the types may call bus.c.
 * Three lists set the options, later ones overriding earlier ones: the defaults of every
 * bus, those of its type, and the options of the caller.
 */
#include "bus/bus.h"

#include "device/defaults.h"
#include "proto/vhost-user/channel.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/option.h"
#include "virtio/blk-format.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SERVER_RETRY_MS 1000 /* any value except 0 will do: a device that listens does not retry */

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
	return vublk_error_set(error, EINVAL, "there is no bus '%s'; expected %s:PATH or %s:PATH",
			       spec ? spec : "", types[0]->name, types[1]->name);
}

/* --- options --------------------------------------------------------------- */

/*
 * Defaults of every bus. Options of the caller override them. The protocol permits 256 queues,
 * but a limit of 1,024 open files permits only 128.
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

/* Sets one of VUBLK_BUS_OPTIONS. Returns 1 if the option is not one of them. */
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

/* Checks the paths now, because the bus may use them long after its start. */
static int check_paths(const struct vublk_bus *bus, struct vublk_error *error)
{
	char chardev[sizeof(bus->backend.chardev)] = "";
	int r;

	vublk_device_get_property(bus->device, "chardev", chardev, sizeof(chardev), NULL);
	if (!chardev[0])
		return 0; /* vublk_device_realize() explains the error */
	if (vublk_socket_is_same(chardev, bus->path))
		return vublk_error_set(error, EINVAL, "the bus and chardev are the same socket, "
				       "'%s'; give each its own path", bus->path);
	if (vublk_bus_is_server(bus))
		r = vublk_socket_check_listen(chardev, error);
	else
		r = vublk_socket_check_connect(chardev, error);
	if (r < 0) {
		vublk_error_prepend(error, "chardev");
		return r;
	}
	r = vublk_socket_check_listen(bus->path, error);
	if (!r)
		r = vublk_socket_access_check(&bus->access, error);
	if (r < 0)
		vublk_error_prepend(error, "bus %s", bus->type->name);
	return r;
}

/* The back-end answers the guest's GET_ID, also with shadow rings. */
static int check_serial(const struct vublk_bus *bus, struct vublk_error *error)
{
	char serial[VUBLK_BLK_ID_BYTES + 1] = "";

	vublk_device_get_property(bus->device, "serial", serial, sizeof(serial), NULL);
	if (!serial[0])
		return 0;
	return vublk_error_set(error, EINVAL,
			       "the serial cannot be set here, because the back-end itself answers "
			       "the guest's request for it: set the back-end's serial, and leave "
			       "serial out");
}

static int open_device(struct vublk_bus *bus, const struct vublk_option *properties,
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
	r = vublk_bus_watch_device(bus, error);
	if (!r)
		r = vublk_device_realize(bus->device, error);
	return r < 0 ? r : check_paths(bus, error);
}

int vublk_bus_open(const char *spec, const struct vublk_option *device_properties,
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
		return vublk_error_set_errno(error, ENOMEM, "cannot create a bus");
	bus->type = type;
	bus->listen_fd = bus->stop_fd = bus->refresh_fd = -1;
	if (log)
		bus->log = *log;
	bus->path = strdup(argument);
	r = bus->path ? vublk_bus_open_loop(bus, error) :
			vublk_error_set_errno(error, ENOMEM, "cannot keep the socket's path");
	if (!r)
		r = open_device(bus, device_properties, error);
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
