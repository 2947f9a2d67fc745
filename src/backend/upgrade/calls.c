/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Implements the calls of <vublk/upgrade.h> for a back-end, on top of src/handover/. This file
 * transfers the options and says when the back-end can be handed over; state.c writes and reads the
 * state.
 *
 * Key idea: requests that the engine is executing cannot be handed over. So the old process holds
 * the session: it takes no more requests, and waits until those that it has taken are complete. In
 * the meantime, the driver's other requests wait in the rings. Before the hold, the new process has
 * opened the engine on the old process's descriptor of the image, which carries the lock.
 */
#include "backend/upgrade/upgrade.h"

#include "backend/config.h"
#include "proto/vhost-user/channel.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/kill-point.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define QUIET_MS 1000 /* the longest time that the old process waits until the back-end can be
			 handed over; new requests wait, too */

/* --- the old process --------------------------------------------------------------------------- */

/* The options that put_numbers() writes, even if the user has not given them. */
static const char *const number_names[] = {
	"num-queues", "threads", "logical-block-size", "physical-block-size", "serial",
};

static bool is_number(const char *name)
{
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(number_names); i++)
		if (!strcmp(name, number_names[i]))
			return true;
	return false;
}

/* Writes the options whose defaults may differ in the new process. */
static void put_numbers(const struct vublk_backend *backend, struct vublk_sections_writer *to)
{
	const struct vublk_engine_geometry *geometry = &backend->engine->geometry;
	char serial[VUBLK_BLK_ID_BYTES + 1] = "";
	char value[32];

	snprintf(value, sizeof(value), "%u", backend->owner.num_queues);
	vublk_upgrade_put_option(to, "num-queues", value, false);
	snprintf(value, sizeof(value), "%u", backend->num_workers);
	vublk_upgrade_put_option(to, "threads", value, false);
	snprintf(value, sizeof(value), "%" PRIu32, geometry->block_bytes);
	vublk_upgrade_put_option(to, "logical-block-size", value, false);
	snprintf(value, sizeof(value), "%" PRIu32, geometry->physical_block_bytes);
	vublk_upgrade_put_option(to, "physical-block-size", value, false);
	memcpy(serial, backend->serial, VUBLK_BLK_ID_BYTES);
	vublk_upgrade_put_option(to, "serial", serial, false);
}

static void give_options(const void *object, struct vublk_sections_writer *to)
{
	const struct vublk_backend *backend = object;

	/* The new process needs the name to know the engine's own options. */
	vublk_upgrade_put_origin(to, backend->engine->ops->options ? backend->engine->ops->name : "");
	for (const struct vublk_option *o = backend->options; o->name; o++)
		if (!is_number(o->name))
			vublk_upgrade_put_option(to, o->name, o->value, false);
	put_numbers(backend, to);
	vublk_upgrade_put_image(to, backend->engine->ops->image_fd(backend->engine));
}

static void prepare(void *object)
{
	struct vublk_backend *backend = object;

	if (backend->session)
		vublk_session_hold(backend->session, true);
}

static const char *find_obstacle(void *object)
{
	struct vublk_backend *backend = object;

	if (backend->state != VUBLK_BACKEND_LISTENING && backend->state != VUBLK_BACKEND_SERVING)
		return "the back-end is stopping";
	if (!backend->session)
		return NULL;
	prepare(backend); /* a front-end may have connected since the first prepare() */
	if (backend->session->phase == VUBLK_SESSION_STOPPING_QUEUES)
		return "the storage has not completed the requests that were begun";
	if (!vublk_session_is_held(backend->session))
		return "a message from or to the front-end is in transit";
	return NULL;
}

static void cancel(void *object)
{
	struct vublk_backend *backend = object;

	if (backend->session)
		vublk_session_release(backend->session);
}

static uint64_t paused_since(const void *object)
{
	const struct vublk_backend *backend = object;

	return backend->session ? backend->session->held_ns : 0;
}

static void handed_over(void *object)
{
	vublk_backend_finish_handed_over(object);
}

/* --- the new process --------------------------------------------------------------------------- */

static bool knows_option(const char *spec, const char *name)
{
	return vublk_backend_knows_option(spec, name);
}

static bool has_relative_path(const struct vublk_upgrade_origin *origin,
			      const struct vublk_option *options)
{
	for (const struct vublk_option *o = options; o->name; o++)
		if ((!strcmp(o->name, "socket-path") || !strcmp(o->name, "blk-file")) &&
		    o->value[0] != '/')
			return true;
	return false;
}

static void init_host(struct vublk_backend *backend);

static int make(const struct vublk_upgrade_origin *origin, const struct vublk_option *options,
		const struct vublk_log *log, struct vublk_upgrade_host **host,
		struct vublk_error *error)
{
	const struct vublk_backend_taken taken = { .image_fd = origin->image_fd };
	struct vublk_backend *backend;
	int r = vublk_backend_prepare(options, &taken, log, &backend, error);

	if (r < 0)
		return r;
	init_host(backend);
	backend->upgrade.is_anothers = true;
	*host = &backend->upgrade;
	return 0;
}

static size_t list_tables(void *backend, struct vublk_section_table tables[VUBLK_UPGRADE_MAX_TABLES])
{
	tables[0] = (struct vublk_section_table){ vublk_backend_sections, backend };
	return 1;
}

static int end(void *object, struct vublk_error *error)
{
	struct vublk_backend *backend = object;
	const struct vublk_session *session = backend->session;
	uint64_t offered = vublk_backend_features(&backend->engine->geometry);

	if (session && session->features & ~offered)
		return vublk_error_set(error, ENOTSUP, "the front-end uses the features 0x%" PRIx64
				       ", which this version does not offer",
				       session->features & ~offered);
	if (session)
		vublk_session_prepare_take(backend->session);
	return vublk_backend_adopt(backend, backend->listen_fd, error);
}

static void begin(void *object)
{
	struct vublk_backend *backend = object;

	vublk_socket_listen_again(backend->listen_fd);
	if (backend->session)
		vublk_session_begin_taken(backend->session);
}

/* Tells the front-end if the disk has another size here than in the old process. */
static void told(void *object)
{
	struct vublk_backend *backend = object;

	if (backend->session && backend->engine->geometry.size_bytes != backend->told_size_bytes)
		vublk_session_tell_size(backend->session);
}

static void free_backend(void *backend)
{
	vublk_backend_free(backend);
}

/* --- the calls ---------------------------------------------------------------------------------- */

static const struct vublk_section_type *const known_sections[] = { vublk_backend_sections, NULL };

static const struct vublk_upgrade_type upgrade_type = {
	.known = known_sections,
	.quiet_ms = QUIET_MS,
	.give_options = give_options,
	.prepare = prepare,
	.obstacle = find_obstacle,
	.cancel = cancel,
	.paused_since = paused_since,
	.give = vublk_backend_give,
	.handed_over = handed_over,
	.knows_option = knows_option,
	.has_relative_path = has_relative_path,
	.make = make,
	.tables = list_tables,
	.end = end,
	.begin = begin,
	.told = told,
	.free = free_backend,
};

static void init_host(struct vublk_backend *backend)
{
	backend->upgrade.type = &upgrade_type;
	backend->upgrade.object = backend;
	backend->upgrade.kind = "back-end";
	backend->upgrade.path = backend->socket_path ? backend->socket_path : "a given descriptor";
	backend->upgrade.loop = &backend->loop;
	backend->upgrade.log = &backend->log;
	backend->upgrade.limit = &backend->limit;
	backend->upgrade.stop_fd = backend->stop_fd;
	backend->upgrade.refresh_fd = backend->rescan_fd;
}

static int check(const struct vublk_backend *backend, struct vublk_error *error)
{
	if (!backend->engine->ops->image_fd)
		return vublk_error_set(error, ENOTSUP, "%s is in the memory of this process and cannot "
				       "be handed to another one", backend->engine->description);
	if (backend->drain.state == VUBLK_BACKEND_DRAINING || backend->drain.flush.is_busy)
		return vublk_error_set(error, EBUSY, "the disk is being drained; try again if the "
				       "drain fails");
	if (backend->state != VUBLK_BACKEND_LISTENING && backend->state != VUBLK_BACKEND_SERVING)
		return vublk_error_set(error, EBUSY, "this process is about to end");
	return vublk_upgrade_check_free(&backend->upgrade, error);
}

int vublk_backend_hand_over(struct vublk_backend *backend, int given,
			    const struct vublk_upgrade_extra *extra, size_t extra_bytes,
			    struct vublk_error *error)
{
	VUBLK_FD int fd = given;
	int r = check(backend, error);

	if (r < 0)
		return r;
	init_host(backend);
	return vublk_upgrade_give(&backend->upgrade, vublk_fd_steal(&fd), extra, extra_bytes, error);
}

bool vublk_backend_is_handed_over(const struct vublk_backend *backend)
{
	return backend->upgrade.is_anothers && backend->state == VUBLK_BACKEND_FINISHED;
}

int64_t vublk_backend_new_process(const struct vublk_backend *backend)
{
	return vublk_backend_is_handed_over(backend) && backend->upgrade.upgrade ?
	       backend->upgrade.upgrade->pid : 0;
}

int vublk_backend_take_over(int given, const struct vublk_log *log,
			    struct vublk_backend **backend, struct vublk_upgrade_extra *extra,
			    size_t extra_bytes, struct vublk_error *error)
{
	VUBLK_FD int fd = given;
	struct vublk_upgrade_host *host;
	int r = vublk_kill_points_init(vublk_backend_kill_points, error);

	if (!r)
		r = vublk_upgrade_take(&upgrade_type, vublk_fd_steal(&fd), log, &host, extra,
				       extra_bytes, error);
	if (!r)
		*backend = host->object;
	return r;
}
