/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Implements the calls of <vublk/upgrade.h> for a bus, on top of src/handover/. This file transfers
 * the properties, and says when the bus can be frozen; state.c writes and reads the state.
 */
#include "bus/upgrade/upgrade.h"

#include "device/upgrade/upgrade.h"
#include "proto/vhost-user/channel.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/kill-point.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define QUIET_MS 10000 /* the longest time that the old process waits for obstacles to end */

#ifdef VUBLK_KILL_POINTS
static const char *const kill_points[] = {
	VUBLK_UPGRADE_KILL_POINTS,
	"after-inflight-clear", /* in worker/inflight.c, which shadow rings use */
	NULL,
};
#else
#define kill_points NULL
#endif

/* --- the old process --------------------------------------------------------------------------- */

/* Writes the device's properties, except those whose value is empty. */
static void put_properties(const struct vublk_bus *bus, struct vublk_sections_writer *to)
{
	for (const struct vublk_property *p = vublk_device_properties(); p->name; p++) {
		char value[512] = "";

		vublk_device_get_property(bus->device, p->name, value, sizeof(value), NULL);
		if (value[0])
			vublk_upgrade_put_option(to, p->name, value,
						 p->default_value && !strcmp(value, p->default_value));
	}
}

static void put_bus_options(const struct vublk_bus *bus, struct vublk_sections_writer *to)
{
	char value[32];

	snprintf(value, sizeof(value), "%llu", (unsigned long long)bus->message_timeout_ms);
	vublk_upgrade_put_option(to, VUBLK_MESSAGE_TIMEOUT_NAME, value, false);
	snprintf(value, sizeof(value), "%o", bus->access.mode);
	if (bus->access.has_mode)
		vublk_upgrade_put_option(to, VUBLK_SOCKET_MODE_NAME, value, false);
	snprintf(value, sizeof(value), "%u", bus->access.group);
	if (bus->access.has_group)
		vublk_upgrade_put_option(to, VUBLK_SOCKET_GROUP_NAME, value, false);
}

static void give_options(const void *object, struct vublk_sections_writer *to)
{
	const struct vublk_bus *bus = object;
	char spec[160];

	snprintf(spec, sizeof(spec), "%s:%s", bus->type->name, bus->path);
	vublk_upgrade_put_origin(to, spec);
	put_properties(bus, to);
	put_bus_options(bus, to);
}

static int check_device(const void *object, struct vublk_error *error)
{
	const struct vublk_bus *bus = object;

	return vublk_device_handover_check(bus->device, error);
}

static void prepare(void *object)
{
	struct vublk_bus *bus = object;

	vublk_device_handover_prepare(bus->device);
}

static void cancel(void *object)
{
	struct vublk_bus *bus = object;

	vublk_device_handover_cancel(bus->device);
}

static const char *find_obstacle(void *object)
{
	const struct vublk_bus *bus = object;
	const char *obstacle = NULL;

	if (bus->state != VUBLK_BUS_LISTENING && bus->state != VUBLK_BUS_SERVING)
		return "the bus is stopping";
	obstacle = bus->type->handover->obstacle(bus);
	return obstacle ? obstacle : vublk_device_handover_obstacle(bus->device);
}

static const char *freeze(void *object)
{
	struct vublk_bus *bus = object;

	return vublk_device_handover_freeze(bus->device);
}

static void handed_over(void *object)
{
	vublk_bus_finish_handed_over(object, "another process has taken over");
}

/* --- the new process --------------------------------------------------------------------------- */

static bool knows_option(const char *spec, const char *name)
{
	for (const struct vublk_property *p = vublk_device_properties(); p->name; p++)
		if (!strcmp(p->name, name))
			return true;
	for (const struct vublk_property *p = vublk_bus_options(spec); p->name; p++)
		if (!strcmp(p->name, name))
			return true;
	return false;
}

/* Returns whether the path of the bus, or of a back-end (chardev, chardev-2, ...), is relative. */
static bool has_relative_path(const struct vublk_upgrade_origin *origin,
			      const struct vublk_option *options)
{
	const char *path = strchr(origin->spec, ':');

	for (const struct vublk_option *o = options; o->name; o++)
		if (!strncmp(o->name, "chardev", strlen("chardev")) && o->value[0] != '/')
			return true;
	return !path || path[1] != '/';
}

static void init_host(struct vublk_bus *bus);

static int make(const struct vublk_upgrade_origin *origin, const struct vublk_option *options,
		const struct vublk_log *log, struct vublk_upgrade_host **host,
		struct vublk_error *error)
{
	struct vublk_bus *bus;
	int r = vublk_bus_prepare(origin->spec, options, log, &bus, error);

	if (r < 0)
		return r;
	init_host(bus);
	bus->upgrade.is_anothers = true;
	*host = &bus->upgrade;
	if (bus->type->handover)
		return 0;
	return vublk_error_set(error, ENOTSUP, "this version cannot take over a %s bus",
			       bus->type->name);
}

static int end(void *object, struct vublk_error *error)
{
	struct vublk_bus *bus = object;

	if (bus->listen_fd < 0)
		return vublk_error_set(error, EINVAL, "the old process did not send its bus");
	bus->type->handover->end(bus);
	return vublk_device_take_end(bus->device, error);
}

static void begin(void *object)
{
	struct vublk_bus *bus = object;

	vublk_socket_listen_again(bus->listen_fd);
	vublk_device_take_begin(bus->device);
}

static void told(void *object)
{
	struct vublk_bus *bus = object;

	bus->type->handover->begin(bus);
}

static void free_bus(void *bus)
{
	vublk_bus_free(bus);
}

/* --- the calls ---------------------------------------------------------------------------------- */

static const struct vublk_upgrade_type upgrade_type = {
	.known = vublk_bus_known_sections,
	.quiet_ms = QUIET_MS,
	.give_options = give_options,
	.check = check_device,
	.prepare = prepare,
	.obstacle = find_obstacle,
	.freeze = freeze,
	.cancel = cancel,
	.give = vublk_bus_give,
	.handed_over = handed_over,
	.knows_option = knows_option,
	.has_relative_path = has_relative_path,
	.make = make,
	.tables = vublk_bus_upgrade_tables,
	.end = end,
	.begin = begin,
	.told = told,
	.free = free_bus,
};

static void init_host(struct vublk_bus *bus)
{
	bus->upgrade.type = &upgrade_type;
	bus->upgrade.object = bus;
	bus->upgrade.kind = "bus";
	bus->upgrade.path = bus->path;
	bus->upgrade.loop = &bus->loop;
	bus->upgrade.log = &bus->log;
	bus->upgrade.limit = &bus->limit;
	bus->upgrade.stop_fd = bus->stop_fd;
	bus->upgrade.refresh_fd = bus->refresh_fd;
}

static int check(const struct vublk_bus *bus, struct vublk_error *error)
{
	int r;

	if (!bus->type->handover)
		return vublk_error_set(error, ENOTSUP, "a %s bus cannot be handed to another "
				       "process; stop the VM and this process, then start the "
				       "new process",
				       bus->type->name);
	r = vublk_upgrade_check_free(&bus->upgrade, error);
	if (r < 0)
		return r;
	if (bus->state == VUBLK_BUS_REALIZING)
		return vublk_error_set(error, EBUSY, "there is nothing to take over, because no back-end "
				       "has connected yet: stop this process and start the new one "
				       "as usual");
	if (bus->state != VUBLK_BUS_LISTENING && bus->state != VUBLK_BUS_SERVING)
		return vublk_error_set(error, EBUSY, "this process is about to end; start the new one "
				       "as usual");
	return check_device(bus, error);
}

int vublk_bus_hand_over(struct vublk_bus *bus, int given, const struct vublk_upgrade_extra *extra,
			size_t extra_bytes, struct vublk_error *error)
{
	VUBLK_FD int fd = given;
	int r = check(bus, error);

	if (!r)
		r = vublk_kill_points_init(kill_points, error);
	init_host(bus);
	return r < 0 ? r : vublk_upgrade_give(&bus->upgrade, vublk_fd_steal(&fd), extra, extra_bytes,
					      error);
}

bool vublk_bus_is_handed_over(const struct vublk_bus *bus)
{
	return bus->upgrade.is_anothers && bus->state == VUBLK_BUS_FINISHED;
}

int64_t vublk_bus_new_process(const struct vublk_bus *bus)
{
	return vublk_bus_is_handed_over(bus) && bus->upgrade.upgrade ? bus->upgrade.upgrade->pid : 0;
}

int vublk_bus_take_over(int given, const struct vublk_log *log, struct vublk_bus **bus,
			struct vublk_upgrade_extra *extra, size_t extra_bytes,
			struct vublk_error *error)
{
	VUBLK_FD int fd = given;
	struct vublk_upgrade_host *host;
	int r = vublk_kill_points_init(kill_points, error);

	if (!r)
		r = vublk_upgrade_take(&upgrade_type, vublk_fd_steal(&fd), log, &host, extra,
				       extra_bytes, error);
	if (!r)
		*bus = host->object;
	return r;
}
