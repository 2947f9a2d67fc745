/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vublk device: the host device as a program, on a bus. It stays in the foreground, has
 * nothing to say on standard output, and logs to standard error; SIGTERM and SIGINT end it,
 * SIGHUP makes it read the disk's configuration again.
 *
 * What describes the way to the back-end is written as QEMU's -chardev is, and becomes
 * properties of the device as everything else.
 */
#include "cli/cli.h"
#include "cli/disk.h"
#include "cli/signals.h"

#include <vublk/bus.h>
#include <vublk/device.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMMAND "device"
#define MAX_PROPERTIES 64

struct arguments {
	const char *bus;
	struct vublk_option properties[MAX_PROPERTIES + 1];
	unsigned num_properties;
	bool list_properties;
	bool verbose;
	bool quiet;
};

/* For the signal handlers; set while they are installed. */
static struct vublk_bus *served;

/* --- arguments ------------------------------------------------------------- */

enum key {
	KEY_CHARDEV = 256,
	KEY_BUS,
	KEY_NUM_QUEUES,
	KEY_SOCKET_MODE,
	KEY_SOCKET_GROUP,
	KEY_LIST_PROPERTIES,
};

static const struct argp_option argp_options[] = {
	{ "chardev", KEY_CHARDEV, "SOCKET|path=SOCKET,NAME=VALUE...", 0,
	  "The back-end's Unix socket; NAME is server, reconnect-ms or another property" },
	{ "bus", KEY_BUS, "vhost-user:SOCKET|vfio-user:SOCKET", 0,
	  "Present the device to a VMM there: as a back-end of its own vhost-user-blk device, or "
	  "as a PCI device" },
	{ "num-queues", KEY_NUM_QUEUES, "N", 0,
	  "Have N queues, 1 to 256 (default: as many as the back-end, at most 128)" },
	{ "socket-mode", KEY_SOCKET_MODE, "MODE", 0,
	  "Give the file of the --bus socket these permissions, in octal (default: 0777 less the "
	  "umask)" },
	{ "socket-group", KEY_SOCKET_GROUP, "GROUP", 0,
	  "Give the file of the --bus socket to this group, a name or a number" },
	{ "option", 'o', "NAME=VALUE", 0, "Set any property of device and bus; see --list-properties" },
	{ "list-properties", KEY_LIST_PROPERTIES, NULL, 0,
	  "List the properties of -o, with those of --bus if that is given, and end" },
	{ "verbose", 'v', NULL, 0, "Log messages and state changes as well" },
	{ "quiet", 'q', NULL, 0, "Log only warnings and errors" },
	{ 0 },
};

static void add_property(struct argp_state *state, const char *name, const char *value)
{
	struct arguments *arguments = state->input;

	if (arguments->num_properties == MAX_PROPERTIES)
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "there are more than %d properties",
			     MAX_PROPERTIES);
	else
		arguments->properties[arguments->num_properties++] =
			(struct vublk_option){ name, value };
}

/* "NAME=VALUE" in argv, cut in two there. */
static void add_pair(struct argp_state *state, const char *option, char *pair)
{
	char *equals = strchr(pair, '=');

	if (!equals || equals == pair) {
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "%s wants NAME=VALUE, not '%s'", option,
			     pair);
		return;
	}
	*equals = '\0';
	add_property(state, strcmp(pair, "path") ? pair : "chardev", equals + 1);
}

/* A path may have an equals sign, a name has no slash before it. */
static bool is_list(const char *text)
{
	size_t length = strcspn(text, "=/");

	return text[length] == '=';
}

static void add_chardev(struct argp_state *state, char *text)
{
	char *rest = NULL;

	if (!is_list(text)) {
		add_property(state, "chardev", text);
		return;
	}
	for (char *pair = strtok_r(text, ",", &rest); pair; pair = strtok_r(NULL, ",", &rest))
		add_pair(state, "--chardev", pair);
}

static void list_properties(const char *bus)
{
	vublk_disk_print_properties(vublk_device_properties(), vublk_bus_default, bus);
	vublk_disk_print_properties(vublk_bus_options(bus), NULL, NULL);
	exit(fflush(stdout) ? VUBLK_EXIT_FAILED : VUBLK_EXIT_DONE);
}

static void check(struct argp_state *state)
{
	const struct arguments *arguments = state->input;
	bool has_chardev = false;

	for (unsigned i = 0; i < arguments->num_properties; i++)
		has_chardev |= !strcmp(arguments->properties[i].name, "chardev");
	if (!has_chardev || !arguments->bus)
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "a %s is missing, see --help",
			     has_chardev ? "--bus" : "--chardev with the back-end's socket");
}

static error_t parse(int key, char *value, struct argp_state *state)
{
	struct arguments *arguments = state->input;

	switch (key) {
	case KEY_CHARDEV:
		add_chardev(state, value);
		break;
	case KEY_BUS:
		arguments->bus = value;
		break;
	case KEY_NUM_QUEUES:
		add_property(state, "num-queues", value);
		break;
	case KEY_SOCKET_MODE:
		add_property(state, "socket-mode", value);
		break;
	case KEY_SOCKET_GROUP:
		add_property(state, "socket-group", value);
		break;
	case 'o':
		add_pair(state, "-o", value);
		break;
	case KEY_LIST_PROPERTIES:
		arguments->list_properties = true;
		break;
	case 'v':
		arguments->verbose = true;
		break;
	case 'q':
		arguments->quiet = true;
		break;
	case ARGP_KEY_END:
		if (arguments->list_properties)
			list_properties(arguments->bus);
		check(state);
		break;
	case ARGP_KEY_ARG:
		argp_error(state, "there is an argument too many, '%s'", value);
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static const struct argp argp = {
	.options = argp_options,
	.parser = parse,
	.doc = "Be the disk of a virtual machine whose back-end may go and come: the VMM is "
	       "not told, its disk pauses and goes on.\v"
	       "SIGTERM and SIGINT end it when the back-end has given the rings back; SIGHUP "
	       "makes it read the disk's configuration from the back-end again.",
};

/* --- the command ----------------------------------------------------------- */

static void on_signal(int number)
{
	if (number == SIGHUP)
		vublk_bus_refresh(served);
	else
		vublk_bus_stop(served);
}

int vublk_cmd_device(int argc, char **argv)
{
	struct arguments arguments = { 0 };
	struct vublk_log log = { .fn = vublk_cli_log, .opaque = (void *)COMMAND };
	struct vublk_error error = { 0 };
	struct vublk_cli_signals signals;
	int r;

	vublk_cli_parse(&argp, argc, argv, &arguments);
	log.level = vublk_cli_log_level(arguments.verbose, arguments.quiet);
	/* A signal that comes while it opens is held until there is something to stop. */
	vublk_cli_signals_init(&signals, SIGHUP);
	r = vublk_bus_open(arguments.bus, arguments.properties, &log, &served, &error);
	if (r < 0)
		return vublk_cli_fail_open(COMMAND, &error);
	vublk_cli_signals_handle(&signals, on_signal);
	r = vublk_bus_run(served, &error);
	vublk_cli_signals_hold(&signals);
	if (r < 0)
		vublk_cli_fail(COMMAND, "%s", error.text);
	vublk_bus_free(served);
	return r < 0 ? VUBLK_EXIT_FAILED : VUBLK_EXIT_DONE;
}
