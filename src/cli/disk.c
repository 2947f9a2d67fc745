/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening a disk from the command line: options that are properties of the device. */
#include "cli/disk.h"

#include "cli/cli.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MIN_QUEUE_SIZE 4 /* the block API's */
/* A command ends with its back-end unless it was told to wait for another. */
#define NO_RECONNECTION "0"

enum {
	KEY_NUM_QUEUES = 0x200,
	KEY_QUEUE_SIZE,
	KEY_TIMEOUT,
	KEY_LIST_PROPERTIES,
};

static const struct argp_option disk_options[] = {
	{ NULL, 0, NULL, 0, "The disk:", 10 },
	{ "num-queues", KEY_NUM_QUEUES, "N", 0, "Use N queues (default: as many as are needed)" },
	{ "queue-size", KEY_QUEUE_SIZE, "N", 0, "Entries of a queue, a power of two from 4 to 1024 (default 128)" },
	{ "timeout", KEY_TIMEOUT, "TIME", 0,
	  "How long the back-end may take to answer a message (default 5s)" },
	{ "option", 'o', "NAME=VALUE", 0,
	  "Set any property of the device; see --list-properties" },
	{ "list-properties", KEY_LIST_PROPERTIES, NULL, 0, "List the properties of -o, and end" },
	{ "verbose", 'v', NULL, 0, "Tell what goes on between device and back-end" },
	{ NULL },
};

static void add_option(struct argp_state *state, const char *name, const char *value)
{
	struct vublk_disk_options *options = state->input;

	if (options->count == VUBLK_DISK_MAX_OPTIONS - 1)
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "there are more than %d options of the "
			     "disk", VUBLK_DISK_MAX_OPTIONS - 1);
	options->list[options->count++] = (struct vublk_option){ name, value };
}

static bool is_one_of(const struct vublk_device_property *properties, const char *name)
{
	for (const struct vublk_device_property *p = properties; p->name; p++)
		if (strcmp(p->name, "chardev") && !strcmp(p->name, name))
			return true;
	return false;
}

static bool is_property(const char *name)
{
	return is_one_of(vublk_device_properties(), name) || is_one_of(vublk_blk_options(), name);
}

/* The text is argv's and may be cut in two. */
static void add_pair(struct argp_state *state, char *text)
{
	char *equals = strchr(text, '=');

	if (!equals || equals == text)
		argp_failure(state, VUBLK_EXIT_MISUSED, 0,
			     "--option must be NAME=VALUE, not '%s'", text);
	*equals = '\0';
	if (!is_property(text))
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "there is no property '%s', see "
			     "--list-properties", text);
	add_option(state, text, equals + 1);
}

void vublk_disk_print_properties(const struct vublk_device_property *properties,
				 const char *(*other)(const char *context, const char *name),
				 const char *context)
{
	for (const struct vublk_device_property *p = properties; p->name; p++) {
		const char *value = other ? other(context, p->name) : NULL;

		if (!value)
			value = p->default_value ? p->default_value : "-";
		if (strcmp(p->name, "chardev"))
			printf("%-38s %-7s %-7s %s\n", p->name, p->type, value, p->description);
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
	vublk_disk_print_properties(vublk_device_properties(), options->reconnects ?
				    default_of_library : default_of_command, NULL);
	vublk_disk_print_properties(vublk_blk_options(), NULL, NULL);
	exit(fflush(stdout) ? VUBLK_EXIT_FAILED : VUBLK_EXIT_DONE);
}

static void check_queue_size(struct argp_state *state, const char *text)
{
	uint64_t size = vublk_cli_number(state, "queue-size", text, MIN_QUEUE_SIZE,
					 VUBLK_MAX_QUEUE_SIZE);

	if (size & (size - 1))
		argp_failure(state, VUBLK_EXIT_MISUSED, 0,
			     "--queue-size must be a power of two, not %" PRIu64, size);
}

static error_t parse_disk(int key, char *arg, struct argp_state *state)
{
	struct vublk_disk_options *options = state->input;

	switch (key) {
	case KEY_NUM_QUEUES:
		vublk_cli_number(state, "num-queues", arg, 1, VUBLK_MAX_QUEUES);
		options->num_queues = true;
		add_option(state, "num-queues", arg);
		return 0;
	case KEY_QUEUE_SIZE:
		check_queue_size(state, arg);
		add_option(state, "queue-size", arg);
		return 0;
	case KEY_TIMEOUT:
		snprintf(options->timeout_ms, sizeof(options->timeout_ms), "%u",
			 vublk_cli_stall_ms(state, "timeout", arg));
		add_option(state, "request-timeout-ms", options->timeout_ms);
		return 0;
	case 'o':
		add_pair(state, arg);
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

void vublk_disk_tell_event(void *command, enum vublk_blk_event event,
			   const struct vublk_error *error)
{
	if (event == VUBLK_BLK_OUTAGE)
		fprintf(stderr, "vublk %s: %s; waiting for another\n", (const char *)command,
			error->text);
	else if (event == VUBLK_BLK_RECONNECTED)
		fprintf(stderr, "vublk %s: there is a back-end again\n", (const char *)command);
}

bool vublk_disk_reconnects(const struct vublk_disk_options *options)
{
	bool reconnects = false, server = false;

	for (unsigned i = 0; i < options->count; i++) {
		const struct vublk_option *option = &options->list[i];

		if (!strcmp(option->name, "reconnect-ms"))
			reconnects = strtoull(option->value, NULL, 0);
		else if (!strcmp(option->name, "server"))
			server = strcmp(option->value, "off");
	}
	return reconnects || server;
}

int vublk_disk_open(const char *command, const char *path,
		    const struct vublk_disk_options *options,
		    const struct vublk_blk_handlers *handlers, struct vublk_blk **blk,
		    struct vublk_error *error)
{
	enum vublk_log_level level = options->verbose ? VUBLK_LOG_DEBUG : VUBLK_LOG_ERROR;
	struct vublk_blk_handlers with_log = handlers ? *handlers : (struct vublk_blk_handlers){ 0 };
	struct vublk_option list[VUBLK_DISK_MAX_OPTIONS + 2] = { { "reconnect-ms", NO_RECONNECTION } };

	/* Warnings say why a new back-end is refused. */
	if (vublk_disk_reconnects(options) && level < VUBLK_LOG_WARNING)
		level = VUBLK_LOG_WARNING;
	memcpy(list + 1, options->list, sizeof(options->list));
	if (!with_log.event) {
		with_log.event = vublk_disk_tell_event;
		with_log.opaque = (void *)(uintptr_t)command;
	}
	with_log.log = (struct vublk_log){
		.fn = vublk_cli_log, .opaque = (void *)command,
		.level = level,
	};
	return vublk_blk_open(path, list, &with_log, blk, error);
}

void vublk_disk_limit_queues(struct vublk_disk_options *options, unsigned num_queues)
{
	if (options->num_queues)
		return;
	snprintf(options->queues_limit, sizeof(options->queues_limit), "%u", num_queues);
	options->list[options->count++] =
		(struct vublk_option){ "num-queues-limit", options->queues_limit };
}

bool vublk_disk_is_socket(const char *path)
{
	struct stat st;

	return !stat(path, &st) && S_ISSOCK(st.st_mode);
}
