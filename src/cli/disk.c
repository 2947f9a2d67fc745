/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Parses the options of a disk and opens the disk; see disk.h. disk-watch.c watches the open disk.
 *
 * Key idea: the options of a disk set properties of the device. This file checks only the values of
 * options that have a name of their own, such as --queue-size; the library checks the values of -o.
 */
#include "cli/disk.h"

#include "cli/cli.h"
#include "cli/vfio-probe.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MIN_QUEUE_SIZE 4 /* required by the block API */
/* The default of reconnect-ms: a command fails when its back-end is lost. */
#define NO_RECONNECTION "0"

enum {
	KEY_NUM_QUEUES = 0x200,
	KEY_QUEUE_SIZE,
	KEY_TIMEOUT,
	KEY_LIST_PROPERTIES,
};

static const struct argp_option disk_options[] = {
	{ NULL, 0, NULL, 0, "The disk:", 10 },
	{ "num-queues", KEY_NUM_QUEUES, "N", 0, "Use N queues (default: as many as needed)" },
	{ "queue-size", KEY_QUEUE_SIZE, "N", 0,
	  "Entries per queue, a power of two from 4 to 1024 (default: 128)" },
	{ "timeout", KEY_TIMEOUT, "TIME", 0,
	  "Time limit for the back-end's answer to a message (default: 5s)" },
	{ "option", 'o', "NAME=VALUE", 0,
	  "Set any property of the device; see --list-properties" },
	{ "list-properties", KEY_LIST_PROPERTIES, NULL, 0, "List the properties for -o and exit" },
	{ "verbose", 'v', NULL, 0, "Also log protocol messages and state changes" },
	{ NULL },
};

/*
 * Maps the names of properties in the library's error messages to the command-line options that set
 * them.
 */
static const struct vublk_cli_alias aliases[] = {
	{ "request-timeout-ms", "--timeout", false },
	{ "num-queues", "--num-queues", false },
	{ "queue-size", "--queue-size", false },
	{ NULL },
};

/* --- properties ------------------------------------------------------------------ */

bool vublk_disk_has_property(const struct vublk_property *properties, const char *name)
{
	for (const struct vublk_property *p = properties; p->name; p++)
		if (strcmp(p->name, "chardev") && !strcmp(p->name, name))
			return true;
	return false;
}

static void add_pair(struct argp_state *state, struct vublk_disk_options *options, char *pair)
{
	vublk_cli_options_add_pair(state, &options->list, "--option", pair);
	if (!vublk_disk_has_property(vublk_device_properties(), pair) &&
	    !vublk_disk_has_property(vublk_blk_options(), pair))
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "there is no property '%s'; "
			     "--list-properties lists all properties", pair);
}

void vublk_disk_print_properties(const struct vublk_property *properties,
				 const struct vublk_property *instead,
				 const char *(*other)(const char *context, const char *name),
				 const char *context)
{
	for (const struct vublk_property *p = properties; p->name; p++) {
		const char *value = other ? other(context, p->name) : NULL;

		if (strcmp(p->name, "chardev") &&
		    !(instead && vublk_disk_has_property(instead, p->name)))
			vublk_cli_options_print(p, 38, value ? value : p->default_value);
	}
}

static const char *default_of_library(const char *context, const char *name)
{
	return vublk_blk_default(name);
}

static const char *default_of_command(const char *context, const char *name)
{
	return strcmp(name, "reconnect-ms") ? vublk_blk_default(name) : NO_RECONNECTION;
}

static void list_properties(const struct vublk_disk_options *options)
{
	const struct vublk_property *own = vublk_blk_options();

	vublk_disk_print_properties(vublk_device_properties(), own, options->reconnects ?
				    default_of_library : default_of_command, NULL);
	vublk_disk_print_properties(own, NULL, NULL, NULL);
	exit(fflush(stdout) ? VUBLK_EXIT_FAILED : VUBLK_EXIT_DONE);
}

static void check_queue_size(struct argp_state *state, const char *text)
{
	uint64_t size = vublk_cli_number(state, "queue-size", text, MIN_QUEUE_SIZE,
					 VUBLK_MAX_QUEUE_SIZE);

	if (size & (size - 1))
		argp_failure(state, VUBLK_EXIT_MISUSED, 0,
			     "--queue-size must be a power of two from %d to %d, not %" PRIu64,
			     MIN_QUEUE_SIZE, VUBLK_MAX_QUEUE_SIZE, size);
}

static error_t parse_disk(int key, char *arg, struct argp_state *state)
{
	struct vublk_disk_options *options = state->input;

	switch (key) {
	case KEY_NUM_QUEUES:
		vublk_cli_number(state, "num-queues", arg, 1, VUBLK_MAX_QUEUES);
		options->num_queues = true;
		vublk_cli_options_add(state, &options->list, "num-queues", arg);
		return 0;
	case KEY_QUEUE_SIZE:
		check_queue_size(state, arg);
		vublk_cli_options_add(state, &options->list, "queue-size", arg);
		return 0;
	case KEY_TIMEOUT:
		snprintf(options->timeout_ms, sizeof(options->timeout_ms), "%u",
			 vublk_cli_stall_ms(state, "timeout", arg));
		vublk_cli_options_add(state, &options->list, "request-timeout-ms",
				      options->timeout_ms);
		return 0;
	case 'o':
		add_pair(state, options, arg);
		return 0;
	case KEY_LIST_PROPERTIES:
		list_properties(options);
		return 0;
	case 'v':
		options->verbose = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

const struct argp vublk_disk_argp = { disk_options, parse_disk, NULL, NULL };

/* --- the disk -------------------------------------------------------------------- */

bool vublk_disk_reconnects(const struct vublk_disk_options *options)
{
	const char *reconnect_ms = vublk_cli_options_get(&options->list, "reconnect-ms");
	const char *server = vublk_cli_options_get(&options->list, "server");

	if (options->reconnects && !reconnect_ms && !vublk_cli_options_get(&options->list, "fd"))
		return true;
	return (reconnect_ms && strtoull(reconnect_ms, NULL, 0)) ||
	       (server && strcmp(server, "off"));
}

/*
 * Replaces the error of a failed open with a better message if the program at the socket speaks
 * vfio-user instead of vhost-user. Depending on that program, the open fails with one of the three
 * errors checked here. A program that did not answer at all is not probed: it may be a relay that
 * is busy with another client and would later read the probe as a broken vhost-user message.
 */
static void explain_failure(const char *command, const char *path, struct vublk_error *error)
{
	if (!error)
		return;
	if (error->code != ENOTCONN && error->code != ECONNRESET && error->code != EPROTO)
		return;
	if (vublk_vfio_probe(path))
		vublk_cli_error(error, error->code, "'%s' is the socket of a vfio-user device, but "
				"vublk %s needs the socket of a vhost-user-blk back-end, such as "
				"the one that the device uses as --chardev", path, command);
}

int vublk_disk_open(const char *command, const char *path,
		    const struct vublk_disk_options *options,
		    const struct vublk_blk_handlers *handlers, struct vublk_blk **blk,
		    struct vublk_error *error)
{
	enum vublk_log_level level = VUBLK_LOG_ERROR;
	struct vublk_blk_handlers with_log = *handlers;
	struct vublk_cli_options list = options->list;
	int ret;

	if (vublk_disk_reconnects(options))
		level = VUBLK_LOG_WARNING;
	if (options->verbose)
		level = VUBLK_LOG_DEBUG;
	if (!options->reconnects)
		vublk_cli_options_add_default(&list, "reconnect-ms", NO_RECONNECTION);
	with_log.log = (struct vublk_log){
		.fn = vublk_cli_log, .opaque = (void *)(uintptr_t)command, .level = level,
	};
	ret = vublk_blk_open(path, list.list, &with_log, sizeof(with_log), blk, error);
	if (ret) {
		vublk_cli_options_rename(&options->list, aliases, error);
		explain_failure(command, path, error);
	}
	return ret;
}

void vublk_disk_limit_queues(struct vublk_disk_options *options, unsigned num_queues)
{
	if (options->num_queues)
		return;
	snprintf(options->queues_limit, sizeof(options->queues_limit), "%u", num_queues);
	vublk_cli_options_add_default(&options->list, "num-queues-limit", options->queues_limit);
}

bool vublk_disk_is_socket(const char *path)
{
	struct stat st;

	return !stat(path, &st) && S_ISSOCK(st.st_mode);
}

void vublk_disk_clean_serial(char serial[VUBLK_BLK_ID_SIZE])
{
	size_t leading, length;

	serial[VUBLK_BLK_ID_SIZE - 1] = '\0';
	for (char *c = serial; *c; c++)
		if (*c < ' ' || *c > '~')
			*c = '?';
	leading = strspn(serial, " ");
	length = strlen(serial);
	while (length > leading && serial[length - 1] == ' ')
		length--;
	memmove(serial, serial + leading, length - leading);
	serial[length - leading] = '\0';
}
