/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The options of a back-end.
 *
 * Key idea: one table has the name, the help text, the default, the words and the parser of each
 * option. Defaults are parsed like any other value, so no default is written twice.
 */
#include "backend/options.h"

#include "proto/message-timeout.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/option.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AUTO_MAX_THREADS 16

/* The value of a macro as a string. */
#define TEXT_OF(macro) QUOTED(macro)
#define QUOTED(value) #value

struct option {
	struct vublk_property shown;
	int (*parse)(const char *name, const char *value, struct vublk_backend_settings *settings,
		     struct vublk_error *error);
};

static unsigned count_cpus(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		return 1;
	return (unsigned)VUBLK_MAX(CPU_COUNT(&set), 1);
}

/* --- one parser per option ---------------------------------------------------- */

static int parse_socket_path(const char *name, const char *value,
			     struct vublk_backend_settings *settings, struct vublk_error *error)
{
	if (!value[0])
		return vublk_error_set(error, EINVAL, "%s must be the path of a socket, not an "
				       "empty string", name);
	settings->socket_path = value;
	return 0;
}

static int parse_fd(const char *name, const char *value, struct vublk_backend_settings *settings,
		    struct vublk_error *error)
{
	uint64_t fd;
	int r = vublk_parse_u64(name, value, 0, INT_MAX, &fd, error);

	if (!r)
		settings->fd = (int)fd;
	return r;
}

static int parse_socket_mode(const char *name, const char *value,
			     struct vublk_backend_settings *settings, struct vublk_error *error)
{
	return vublk_socket_access_parse_mode(value, &settings->access, error);
}

static int parse_socket_group(const char *name, const char *value,
			      struct vublk_backend_settings *settings, struct vublk_error *error)
{
	return vublk_socket_access_parse_group(value, &settings->access, error);
}

static const struct option *find(const char *name);

/*
 * Finds an engine. Refuses the engine if one of its own options is incomplete, or has the name of
 * an option that every back-end has.
 */
static int find_engine(const char *name, const struct vublk_engine_ops **ops,
		       struct vublk_error *error)
{
	int r = vublk_engine_find(name, ops, error);

	if (r)
		return r;
	for (const struct vublk_property *o = (*ops)->options; o && o->name; o++)
		if (!o->type || !o->description || find(o->name))
			return vublk_error_set(error, ENOTSUP, "the engine %s cannot have the option "
					       "'%s', because every back-end has an option of that "
					       "name, or its type or description is missing; the "
					       "module has to be changed", name, o->name);
	return 0;
}

static int parse_engine(const char *name, const char *value,
			struct vublk_backend_settings *settings, struct vublk_error *error)
{
	return find_engine(value, &settings->engine, error);
}

static int parse_blk_file(const char *name, const char *value,
			  struct vublk_backend_settings *settings, struct vublk_error *error)
{
	if (!value[0])
		return vublk_error_set(error, EINVAL, "%s must be the path of a file or a block "
				       "device, not an empty string",
				       name);
	settings->disk.path = value;
	return 0;
}

static int parse_size(const char *name, const char *value,
		      struct vublk_backend_settings *settings, struct vublk_error *error)
{
	return vublk_parse_bytes(name, value, 512, INT64_MAX, &settings->disk.size_bytes, error);
}

static int parse_read_only(const char *name, const char *value,
			   struct vublk_backend_settings *settings, struct vublk_error *error)
{
	return vublk_parse_bool(name, value, &settings->disk.read_only, error);
}

/*
 * Parses a number from 1 to `max`, or "auto", which is stored as 0 and resolved when all options
 * are known.
 */
static int parse_count(const char *name, const char *value, unsigned max, unsigned *count,
		       struct vublk_error *error)
{
	uint64_t number = 0;
	int r = 0;

	if (strcmp(value, "auto"))
		r = vublk_parse_u64(name, value, 1, max, &number, NULL);
	if (r)
		return vublk_error_set(error, EINVAL, "%s must be auto or a whole number from 1 to "
				       "%u, not '%s'", name, max, value);
	*count = (unsigned)number;
	return 0;
}

static int parse_num_queues(const char *name, const char *value,
			    struct vublk_backend_settings *settings, struct vublk_error *error)
{
	return parse_count(name, value, VUBLK_BACKEND_MAX_QUEUES, &settings->num_queues, error);
}

static int parse_threads(const char *name, const char *value,
			 struct vublk_backend_settings *settings, struct vublk_error *error)
{
	return parse_count(name, value, VUBLK_BACKEND_MAX_QUEUES, &settings->num_threads, error);
}

static int parse_message_timeout(const char *name, const char *value,
				 struct vublk_backend_settings *settings,
				 struct vublk_error *error)
{
	return vublk_parse_u64(name, value, 0, VUBLK_MESSAGE_TIMEOUT_MAX_MS,
			       &settings->message_timeout_ms, error);
}

static int parse_seg_max(const char *name, const char *value,
			 struct vublk_backend_settings *settings, struct vublk_error *error)
{
	uint64_t number;
	int r = vublk_parse_u64(name, value, 1, VUBLK_BACKEND_SEG_MAX, &number, error);

	if (!r)
		settings->seg_max = (unsigned)number;
	return r;
}

/* Stores in `choice` the index of `value` in the option's words. */
static const char *const poll_words[] = {
	[VUBLK_POLL_ADAPTIVE] = "adaptive", [VUBLK_POLL_OFF] = "off", [VUBLK_POLL_BUSY] = "busy", NULL,
};
static const char *const cache_words[] = {
	[VUBLK_CACHE_AUTO] = "auto", [VUBLK_CACHE_DIRECT] = "direct",
	[VUBLK_CACHE_BUFFERED] = "buffered", NULL,
};
static const char *const io_words[] = {
	[VUBLK_IO_AUTO] = "auto", [VUBLK_IO_URING] = "io_uring", [VUBLK_IO_BLOCKING] = "blocking", NULL,
};

static int parse_poll(const char *name, const char *value,
		      struct vublk_backend_settings *settings, struct vublk_error *error)
{
	unsigned choice;
	int r = vublk_parse_word(name, value, poll_words, &choice, error);

	if (!r)
		settings->poll = choice;
	return r;
}

static int parse_poll_budget(const char *name, const char *value,
			     struct vublk_backend_settings *settings, struct vublk_error *error)
{
	uint64_t number;
	int r = vublk_parse_u64(name, value, 0, VUBLK_POLL_BUDGET_MAX, &number, error);

	if (!r)
		settings->poll_budget_percent = (unsigned)number;
	return r;
}

static int parse_cache(const char *name, const char *value,
		       struct vublk_backend_settings *settings, struct vublk_error *error)
{
	unsigned choice;
	int r = vublk_parse_word(name, value, cache_words, &choice, error);

	if (!r)
		settings->disk.cache = choice;
	return r;
}

static int parse_io(const char *name, const char *value, struct vublk_backend_settings *settings,
		    struct vublk_error *error)
{
	unsigned choice;
	int r = vublk_parse_word(name, value, io_words, &choice, error);

	if (!r)
		settings->disk.method = choice;
	return r;
}

static int parse_lock(const char *name, const char *value,
		      struct vublk_backend_settings *settings, struct vublk_error *error)
{
	bool lock;
	int r = vublk_parse_bool(name, value, &lock, error);

	if (!r)
		settings->disk.unlocked = !lock;
	return r;
}

static int parse_write_cache(const char *name, const char *value,
			     struct vublk_backend_settings *settings, struct vublk_error *error)
{
	return vublk_parse_bool(name, value, &settings->write_cache, error);
}

static int parse_statistics(const char *name, const char *value,
			    struct vublk_backend_settings *settings, struct vublk_error *error)
{
	return vublk_parse_bool(name, value, &settings->statistics, error);
}

static int parse_inflight(const char *name, const char *value,
			  struct vublk_backend_settings *settings, struct vublk_error *error)
{
	return vublk_parse_bool(name, value, &settings->inflight, error);
}

static int parse_serial(const char *name, const char *value,
			struct vublk_backend_settings *settings, struct vublk_error *error)
{
	size_t bytes = strlen(value);

	if (bytes > VUBLK_BLK_ID_BYTES)
		return vublk_error_set(error, EINVAL, "%s must be at most %u bytes long, but "
				       "'%s' has %zu bytes", name, VUBLK_BLK_ID_BYTES, value,
				       bytes);
	settings->has_serial = strcmp(value, "auto");
	memset(settings->serial, 0, sizeof(settings->serial));
	memcpy(settings->serial, value, bytes);
	return 0;
}

static int parse_block_size(const char *name, const char *value, uint32_t *bytes,
			    struct vublk_error *error)
{
	uint64_t number = 0;
	int r = 0;

	if (strcmp(value, "auto"))
		r = vublk_parse_bytes(name, value, VUBLK_SECTOR_BYTES,
				      VUBLK_ENGINE_MAX_BLOCK_BYTES, &number, NULL);
	if (r || (number && !vublk_is_power_of_two(number)))
		return vublk_error_set(error, EINVAL, "%s must be auto or a power of two from %u to %u "
				       "bytes, not %s", name, VUBLK_SECTOR_BYTES,
				       VUBLK_ENGINE_MAX_BLOCK_BYTES, value);
	*bytes = (uint32_t)number;
	return 0;
}

static int parse_logical_block_size(const char *name, const char *value,
				    struct vublk_backend_settings *settings,
				    struct vublk_error *error)
{
	return parse_block_size(name, value, &settings->disk.block_bytes, error);
}

static int parse_physical_block_size(const char *name, const char *value,
				     struct vublk_backend_settings *settings,
				     struct vublk_error *error)
{
	return parse_block_size(name, value, &settings->disk.physical_block_bytes, error);
}

/* --- the table ------------------------------------------------------------- */

static const struct option options_table[] = {
	{ { "socket-path", "string", NULL, "path of the Unix socket to listen on" }, parse_socket_path },
	{ { VUBLK_SOCKET_MODE_NAME, "octal", NULL, VUBLK_SOCKET_MODE_TEXT }, parse_socket_mode },
	{ { VUBLK_SOCKET_GROUP_NAME, "string", NULL, VUBLK_SOCKET_GROUP_TEXT },
	  parse_socket_group },
	{ { "fd", "number", NULL, "descriptor of a socket that is listening or "
				  "connected" }, parse_fd },
	{ { "engine", "choice", "file", "where the data is stored: file, memory, null, or the name "
				      "of a module" },
	  parse_engine },
	{ { "blk-file", "string", NULL, "image file or block device (engine "
					"file)" }, parse_blk_file },
	{ { "size", "size", NULL, "size of the disk in bytes (engines memory and null)" },
	  parse_size },
	{ { "read-only", "bool", "off", "serve the disk read-only" },
	  parse_read_only },
	{ { "num-queues", "number", "auto",
	    "number of queues to offer, 1 to 256; auto: 256, because unused queues cost nothing" },
	  parse_num_queues },
	{ { "threads", "number", "auto",
	    "number of threads that serve the queues; auto: one per CPU, at most 16 and one per "
	    "queue" },
	  parse_threads },
	{ { "seg-max", "number", "126",
	    "maximum number of data segments per request, 1 to 1024; for drivers without indirect "
	    "descriptors, at most the queue size minus 2" }, parse_seg_max },
	{ { VUBLK_MESSAGE_TIMEOUT_NAME, "number", VUBLK_MESSAGE_TIMEOUT_DEFAULT,
	    VUBLK_MESSAGE_TIMEOUT_TEXT }, parse_message_timeout },
	{ { "poll", "choice", "adaptive",
	    "how to wait for requests: adaptive (poll for a short time, then sleep), off (sleep), "
	    "busy (poll all the time)", poll_words }, parse_poll },
	{ { "poll-budget", "number", TEXT_OF(VUBLK_POLL_BUDGET_DEFAULT),
	    "processor time that adaptive polling may waste, in percent of a core per thread, 0 to "
	    "100; 100: no limit" }, parse_poll_budget },
	{ { "cache", "choice", "auto",
	    "use of the host's page cache: direct (none), buffered, auto (direct if possible)",
	    cache_words },
	  parse_cache },
	{ { "io", "choice", "auto",
	    "how to access files: io_uring, blocking, auto (io_uring for operations that have to "
	    "wait)", io_words },
	  parse_io },
	{ { "lock", "bool", "on",
	    "refuse an image that another program uses; turn this off while a VM migrates within "
	    "one host" },
	  parse_lock },
	{ { "write-cache", "bool", "on",
	    "let writes complete before they are stable; a flush by the driver makes them stable" },
	  parse_write_cache },
	{ { "inflight", "bool", "on",
	    "offer an in-flight area, from which the next back-end learns which requests to repeat "
	    "because this one did not complete them" },
	  parse_inflight },
	{ { "statistics", "bool", "off",
	    "count and time requests from the start; the control socket reports the results" },
	  parse_statistics },
	{ { "serial", "string", "auto",
	    "serial number of the disk, at most 20 bytes; auto: derived from the image" },
	  parse_serial },
	{ { "logical-block-size", "size", "auto",
	    "block size of the disk, a power of two of at least 512 bytes; auto: the image's" },
	  parse_logical_block_size },
	{ { "physical-block-size", "size", "auto",
	    "preferred size of writes to the disk, a power of two in bytes; auto: the image's" },
	  parse_physical_block_size },
};

#define NUM_OPTIONS VUBLK_ARRAY_SIZE(options_table)

static struct vublk_property shown[NUM_OPTIONS + 1];
static pthread_once_t shown_once = PTHREAD_ONCE_INIT;

static void fill_shown(void)
{
	for (size_t i = 0; i < NUM_OPTIONS; i++)
		shown[i] = options_table[i].shown;
}

const struct vublk_property *vublk_backend_options(void)
{
	pthread_once(&shown_once, fill_shown);
	return shown;
}

static const struct option *find(const char *name)
{
	for (size_t i = 0; i < NUM_OPTIONS; i++)
		if (!strcmp(options_table[i].shown.name, name))
			return &options_table[i];
	return NULL;
}

/* --- all of them ----------------------------------------------------------- */

static int set_defaults(struct vublk_backend_settings *settings, struct vublk_error *error)
{
	int r = 0;

	*settings = (struct vublk_backend_settings){ .fd = -1 };
	for (size_t i = 0; i < NUM_OPTIONS && !r; i++) {
		const struct vublk_property *option = &options_table[i].shown;

		if (option->default_value)
			r = options_table[i].parse(option->name, option->default_value, settings,
						   error);
	}
	return r;
}

static int check_together(struct vublk_backend_settings *settings, struct vublk_error *error)
{
	if (settings->socket_path && settings->fd >= 0)
		return vublk_error_set(error, EINVAL, "socket-path and fd cannot be used together; "
				       "set only one of them");
	if (settings->fd >= 0 && (settings->access.has_mode || settings->access.has_group))
		return vublk_error_set(error, EINVAL, "%s needs socket-path, because a socket that "
				       "is passed as fd already has its permissions",
				       settings->access.has_mode ? VUBLK_SOCKET_MODE_NAME :
								   VUBLK_SOCKET_GROUP_NAME);
	if (!settings->num_queues)
		settings->num_queues = VUBLK_BACKEND_MAX_QUEUES;
	if (!settings->num_threads) {
		settings->num_threads = VUBLK_MIN(count_cpus(), (unsigned)AUTO_MAX_THREADS);
		settings->num_threads = VUBLK_MIN(settings->num_threads, settings->num_queues);
	}
	if (settings->num_threads > settings->num_queues)
		return vublk_error_set(error, EINVAL, "threads is %u, but there %s only %u "
				       "queue%s; set threads to at most the number of queues",
				       settings->num_threads,
				       settings->num_queues == 1 ? "is" : "are",
				       settings->num_queues, settings->num_queues == 1 ? "" : "s");
	return 0;
}

void vublk_backend_options_free(struct vublk_option *options)
{
	for (struct vublk_option *o = options; o && o->name; o++) {
		free((char *)o->name);
		free((char *)o->value);
	}
	free(options);
}

struct vublk_option *vublk_backend_options_copy(const struct vublk_option *options)
{
	struct vublk_option *copy, *to;
	size_t count = 0;

	for (const struct vublk_option *o = options; o && o->name; o++)
		count++;
	to = copy = calloc(count + 1, sizeof(*copy));
	for (const struct vublk_option *o = options; copy && o && o->name; o++) {
		if (!strcmp(o->name, "fd"))
			continue;
		to->name = strdup(o->name);
		to->value = strdup(o->value);
		if (!to->name || !to->value) {
			free((char *)to->name);
			free((char *)to->value);
			to->name = NULL;
			vublk_backend_options_free(copy);
			return NULL;
		}
		to++;
	}
	return copy;
}

int vublk_backend_engine_options(const char *engine, const struct vublk_property **options,
				 struct vublk_error *error)
{
	static const struct vublk_property none[1];
	const struct vublk_engine_ops *ops;
	int r = find_engine(engine, &ops, error);

	if (!r)
		*options = ops->options ? ops->options : none;
	return r;
}

bool vublk_backend_knows_option(const char *engine, const char *name)
{
	const struct vublk_engine_ops *ops;

	return find(name) || (engine[0] && !find_engine(engine, &ops, NULL) &&
			      vublk_engine_find_option(ops, name));
}

/* Checks an option that is not in the table, but may be one of the engine's own options. */
static int check_own_option(const struct vublk_engine_ops *engine, const struct vublk_option *o,
			    struct vublk_error *error)
{
	const struct vublk_property *option = vublk_engine_find_option(engine, o->name);

	if (!option)
		return vublk_error_set(error, EINVAL, "there is no option '%s'; 'vublk serve "
				       "--engine NAME --list-options' lists those of the program and "
				       "of the engine", o->name);
	if (!o->value)
		return vublk_error_set(error, EINVAL, "the option %s needs a value", o->name);
	return vublk_engine_check_option(option, o->value, error);
}

int vublk_backend_settings_parse_taken(const struct vublk_option *options,
				       struct vublk_backend_settings *settings,
				       struct vublk_error *error)
{
	int r = set_defaults(settings, error);

	/*
	 * A refused option does not end the loop, because a later option may be `fd`, whose
	 * descriptor must be stored even on failure.
	 */
	for (const struct vublk_option *o = options; o && o->name; o++) {
		const struct option *option = find(o->name);
		bool is_fd = option && option->parse == parse_fd;

		if (!option || (r && !is_fd))
			continue;
		if (!o->value)
			r = vublk_error_set(error, EINVAL, "the option %s needs a value", o->name);
		else if (r)
			option->parse(o->name, o->value, settings, NULL);
		else
			r = option->parse(o->name, o->value, settings, error);
	}
	for (const struct vublk_option *o = options; o && o->name && !r; o++)
		if (!find(o->name))
			r = check_own_option(settings->engine, o, error);
	settings->disk.given = options;
	return r ? r : check_together(settings, error);
}

int vublk_backend_settings_parse(const struct vublk_option *options,
				 struct vublk_backend_settings *settings,
				 struct vublk_error *error)
{
	int r = vublk_backend_settings_parse_taken(options, settings, error);

	if (r || settings->socket_path || settings->fd >= 0)
		return r;
	return vublk_error_set(error, EINVAL, "a back-end needs a socket; set socket-path=PATH or "
			       "fd=NUMBER");
}
