/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * nbdkit-vublk-plugin: the disk of a vhost-user-blk back-end as an NBD export. This file has
 * nbdkit's callbacks and the parameters; disk.h has the disk.
 *
 * Key idea: the plugin uses only the public block API, as any application does. The library
 * reconnects to lost back-ends. The plugin's parameters are properties of a disk, so the library
 * also checks their values.
 */
#include "plugins/nbdkit/disk.h"

#include <vublk/version.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

/* The default of num-queues-limit. nbdcopy opens this many connections. */
#define DEFAULT_QUEUES "4"
/*
 * How long nbdkit waits when it ends: for requests whose clients have disconnected, and for the
 * flush that vublk_blk_close() makes with unflushed=replay.
 */
#define CLOSE_MS 5000
#define MAX_REPORTS 5
#define REPORTS_S 10

static char *socket_path;
static struct vublk_option *options; /* ends with an option whose name is NULL. NULL: no option was
					added */
static unsigned num_options;
static struct vublk_nbdkit_disk disk;

/* --- messages ------------------------------------------------------------------------------- */

/*
 * Returns whether another line may be logged. A client or a back-end can cause any number of
 * errors, so only MAX_REPORTS lines per REPORTS_S seconds are permitted.
 */
static bool may_report(void)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static time_t since;
	static unsigned reports;
	struct timespec now;
	unsigned number;

	clock_gettime(CLOCK_MONOTONIC, &now);
	pthread_mutex_lock(&lock);
	if (!reports || now.tv_sec - since >= REPORTS_S) {
		since = now.tv_sec;
		reports = 0;
	}
	if (reports <= MAX_REPORTS)
		reports++;
	number = reports;
	pthread_mutex_unlock(&lock);
	return number <= MAX_REPORTS;
}

/*
 * Does not call may_report(), because the library itself limits the number of its lines, except
 * debug lines.
 */
static void log_line(void *opaque, enum vublk_log_level level, const char *text)
{
	if (level <= VUBLK_LOG_WARNING)
		nbdkit_error("%s", text);
	else
		nbdkit_debug("%s", text);
}

static void on_event(void *opaque, enum vublk_blk_event event, const struct vublk_error *error)
{
	switch (event) {
	case VUBLK_BLK_LOST:
		if (may_report())
			nbdkit_error("%s; requests wait for the next back-end", error->text);
		break;
	case VUBLK_BLK_RECONNECTED:
		nbdkit_debug("a back-end is connected again");
		break;
	case VUBLK_BLK_RESIZED:
		nbdkit_debug("the size of the disk has changed; clients get the new size when they "
			     "connect again");
		break;
	default:
		break;
	}
}

/*
 * Returns the errno that the client gets. NBD has few errno values, and nbdkit turns all others
 * into EINVAL, which would blame the client's request. This function returns EIO for them.
 */
static int nbd_errno(int code)
{
	switch (code) {
	case EROFS:
	case ENOMEM:
	case ENOSPC:
	case ENOTSUP:
	case ESHUTDOWN:
		return code;
	default:
		return EIO;
	}
}

static int result_of(int r, const struct vublk_error *error)
{
	if (!r)
		return 0;
	if (r != -ESHUTDOWN && r != -ENOTSUP && may_report())
		nbdkit_error("%s", error->text);
	nbdkit_set_error(nbd_errno(-r));
	return -1;
}

/* --- parameters ----------------------------------------------------------------------------- */

static bool is_property(const struct vublk_property *properties, const char *name)
{
	for (; properties->name; properties++)
		if (!strcmp(properties->name, name))
			return true;
	return false;
}

static bool is_parameter(const char *name)
{
	/* The parameter `socket` is the path of the back-end. It replaces these two properties. */
	if (!strcmp(name, "chardev") || !strcmp(name, "fd"))
		return false;
	return is_property(vublk_device_properties(), name) ||
	       is_property(vublk_blk_options(), name);
}

/*
 * Returns whether the value of the property is a path. A relative path has to be made absolute,
 * because nbdkit changes to the root folder when it goes to the background.
 */
static bool is_path(const char *name)
{
	return !strncmp(name, "chardev-", strlen("chardev-")) || !strcmp(name, "mirror-state");
}

static const char *parameter(const char *name)
{
	for (unsigned i = 0; i < num_options; i++)
		if (!strcmp(options[i].name, name))
			return options[i].value;
	return NULL;
}

static int add_option(const char *name, const char *value)
{
	struct vublk_option *grown = realloc(options, (num_options + 2) * sizeof(*grown));

	if (!grown) {
		nbdkit_error("cannot allocate memory for the parameter '%s'", name);
		return -1;
	}
	options = grown;
	options[num_options++] = (struct vublk_option){ name, value };
	options[num_options] = (struct vublk_option){ 0 };
	return 0;
}

static int plugin_config(const char *key, const char *value)
{
	bool is_socket = !strcmp(key, "socket");

	if (!is_socket && !is_parameter(key)) {
		nbdkit_error("there is no parameter '%s'; use socket or a property of the disk "
			     "(`nbdkit vublk --dump-plugin` lists them)", key);
		return -1;
	}
	if (is_socket ? socket_path != NULL : parameter(key) != NULL) {
		nbdkit_error("the parameter '%s' is given twice; remove one of the two", key);
		return -1;
	}
	if (is_socket && !*value) {
		nbdkit_error("the parameter 'socket' is empty; give the path of the back-end's socket");
		return -1;
	}
	if (is_socket) {
		socket_path = nbdkit_absolute_path(value);
		return socket_path ? 0 : -1;
	}
	if (is_path(key)) {
		char *path = nbdkit_absolute_path(value);

		value = path ? nbdkit_strdup_intern(path) : NULL;
		free(path);
	} else {
		value = nbdkit_strdup_intern(value);
	}
	key = nbdkit_strdup_intern(key);
	return key && value ? add_option(key, value) : -1;
}

static int plugin_config_complete(void)
{
	if (!socket_path) {
		nbdkit_error("no back-end: give its socket, as in `nbdkit vublk socket=PATH`");
		return -1;
	}
	if (parameter("num-queues") || parameter("num-queues-limit"))
		return 0;
	return add_option("num-queues-limit", DEFAULT_QUEUES);
}

static void plugin_dump(void)
{
	const struct vublk_property *lists[] = { vublk_blk_options(), vublk_device_properties() };

	printf("vublk_version=%s\n", VUBLK_VERSION_STRING);
	for (unsigned i = 0; i < 2; i++)
		for (const struct vublk_property *p = lists[i]; p->name; p++)
			if (is_parameter(p->name) &&
			    !(i && is_property(lists[0], p->name)))
				printf("vublk_property_%s=%s: %s\n", p->name, p->type,
				       p->description);
}

/* --- the server ----------------------------------------------------------------------------- */

static int open_disk(void)
{
	const struct vublk_blk_handlers handlers = {
		.log = { .fn = log_line, .level = VUBLK_LOG_DEBUG }, .event = on_event,
	};
	struct vublk_error error = { 0 };

	if (!vublk_nbdkit_disk_open(&disk, socket_path, options, &handlers, &error))
		return 0;
	nbdkit_error("cannot open the disk at '%s': %s", socket_path, error.text);
	return -1;
}

/*
 * Opens the disk to check the parameters and the back-end, because an error has to be reported
 * before nbdkit goes to the background. Closes the disk again, because nbdkit then forks, and the
 * threads of an open disk would not exist in the new process.
 */
static int plugin_get_ready(void)
{
	if (open_disk())
		return -1;
	vublk_nbdkit_disk_close(&disk, 0, NULL);
	return 0;
}

static int plugin_after_fork(void)
{
	return open_disk();
}

static void plugin_cleanup(void)
{
	struct vublk_error error = { 0 };

	if (vublk_nbdkit_disk_close(&disk, CLOSE_MS, &error))
		nbdkit_error("%s", error.text);
}

static void plugin_unload(void)
{
	free(options);
	free(socket_path);
}

/* --- connections ---------------------------------------------------------------------------- */

static void *plugin_open(int readonly)
{
	struct vublk_nbdkit_connection *connection = vublk_nbdkit_connection_open(&disk);

	if (!connection)
		nbdkit_error("cannot allocate memory for a connection");
	return connection;
}

static void plugin_close(void *handle)
{
	vublk_nbdkit_connection_close(handle);
}

static struct vublk_blk_info get_info(void)
{
	struct vublk_blk_info info;

	vublk_blk_get_info(disk.blk, &info, sizeof(info));
	return info;
}

static int64_t plugin_get_size(void *handle)
{
	return (int64_t)get_info().capacity_bytes;
}

static uint32_t power_of_two(uint64_t value, uint32_t min, uint32_t max)
{
	uint32_t power = min;

	while (power < value && power < max)
		power *= 2;
	return power;
}

/*
 * The plugin accepts any range, so these sizes are advice. The minimum is 512 if the size of the
 * disk is not a multiple of its block size, because a client may refuse a disk whose size is not a
 * multiple of the minimum.
 */
static int plugin_block_size(void *handle, uint32_t *minimum, uint32_t *preferred,
			     uint32_t *maximum)
{
	struct vublk_blk_info info = get_info();
	uint64_t preferred_bytes = info.physical_block_bytes;

	*minimum = power_of_two(info.block_size_bytes, 512, 65536);
	if (info.capacity_bytes % *minimum)
		*minimum = 512;
	if (preferred_bytes < info.optimal_io_bytes)
		preferred_bytes = info.optimal_io_bytes;
	*preferred = power_of_two(preferred_bytes, 4096, 32U << 20);
	if (*preferred < *minimum)
		*preferred = *minimum;
	*maximum = 64U << 20; /* nbdkit refuses larger requests */
	return 0;
}

static int plugin_can_write(void *handle)
{
	return !get_info().read_only;
}

static int plugin_can_trim(void *handle)
{
	return get_info().max_discard_bytes != 0;
}

static int plugin_can_zero(void *handle)
{
	return get_info().max_write_zeroes_bytes != 0;
}

static int yes(void *handle)
{
	return 1;
}

static int plugin_can_fua(void *handle)
{
	return NBDKIT_FUA_NATIVE;
}

/* --- requests ------------------------------------------------------------------------------- */

/* Called when a thread begins to handle a request. Returns the connection of the request. */
static struct vublk_nbdkit_connection *begin(void *handle)
{
	struct vublk_nbdkit_connection *connection = handle;

	vublk_nbdkit_set_pace(&connection->pace);
	return connection;
}

static int plugin_pread(void *handle, void *buffer, uint32_t count, uint64_t offset,
			uint32_t flags)
{
	struct vublk_error error = { 0 };

	return result_of(vublk_nbdkit_read(begin(handle), buffer, count, offset, &error), &error);
}

static int plugin_pwrite(void *handle, const void *buffer, uint32_t count, uint64_t offset,
			 uint32_t flags)
{
	struct vublk_error error = { 0 };

	return result_of(vublk_nbdkit_write(begin(handle), buffer, count, offset,
					    flags & NBDKIT_FLAG_FUA, &error), &error);
}

static int plugin_flush(void *handle, uint32_t flags)
{
	struct vublk_nbdkit_connection *connection = begin(handle);
	struct vublk_error error = { 0 };

	return result_of(vublk_nbdkit_flush(&disk.flusher, &connection->known_failures, &error),
			 &error);
}

static int plugin_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
	struct vublk_error error = { 0 };

	return result_of(vublk_nbdkit_trim(begin(handle), count, offset, flags & NBDKIT_FLAG_FUA,
					   &error), &error);
}

/*
 * A back-end says whether WRITE ZEROES can deallocate blocks, which is fast. It does not say
 * whether WRITE ZEROES is otherwise faster than writing zeroes as data. So a request that has to be
 * fast is refused with ENOTSUP unless the client permits deallocation and the back-end supports
 * it. If a request that need not be fast fails with ENOTSUP, nbdkit writes zeroes as data.
 */
static int plugin_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
	bool may_trim = flags & NBDKIT_FLAG_MAY_TRIM;
	struct vublk_error error = { 0 };
	int r;

	if ((flags & NBDKIT_FLAG_FAST_ZERO) &&
	    !(may_trim && get_info().write_zeroes_may_unmap)) {
		nbdkit_set_error(ENOTSUP);
		return -1;
	}
	r = vublk_nbdkit_zero(begin(handle), count, offset, may_trim ? 0 : VUBLK_BLK_NO_UNMAP,
			      flags & NBDKIT_FLAG_FUA, &error);
	return result_of(r, &error);
}

static struct nbdkit_plugin plugin = {
	.name = "vublk",
	.longname = "vhost-user-blk disk (vublk)",
	.version = VUBLK_VERSION_STRING,
	.description = "serves the disk of a vhost-user-blk back-end",
	.unload = plugin_unload,
	.config = plugin_config,
	.config_complete = plugin_config_complete,
	.config_help = "socket=PATH     (required) The socket of the back-end.\n"
		       "PROPERTY=VALUE  A property of the disk, such as reconnect-ms=500; "
		       "see nbdkit-vublk-plugin(1).",
	.magic_config_key = "socket",
	.dump_plugin = plugin_dump,
	.get_ready = plugin_get_ready,
	.after_fork = plugin_after_fork,
	.cleanup = plugin_cleanup,
	.open = plugin_open,
	.close = plugin_close,
	.get_size = plugin_get_size,
	.block_size = plugin_block_size,
	.can_write = plugin_can_write,
	.can_flush = yes,
	.can_trim = plugin_can_trim,
	.can_zero = plugin_can_zero,
	.can_fast_zero = yes,
	.can_fua = plugin_can_fua,
	.can_multi_conn = yes,
	.pread = plugin_pread,
	.pwrite = plugin_pwrite,
	.flush = plugin_flush,
	.trim = plugin_trim,
	.zero = plugin_zero,
};

/* Declares the function that NBDKIT_REGISTER_PLUGIN() defines, because nbdkit's header does not. */
NBDKIT_DLL_PUBLIC struct nbdkit_plugin *plugin_init(void);

NBDKIT_REGISTER_PLUGIN(plugin)
