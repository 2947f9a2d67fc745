/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vublk device: the host device as a program, on a bus. It stays in the foreground, prints
 * nothing on standard output, and logs to standard error. SIGTERM and SIGINT end it, SIGHUP
 * makes it read the disk's configuration again.
 *
 * Key idea: --chardev has the syntax of QEMU's -chardev, but each of its values, like every other
 * option, is a property of the device or of the bus.
 */
#include "cli/cli.h"
#include "cli/control/commands.h"
#include "cli/control/socket.h"
#include "cli/disk.h"
#include "cli/options.h"
#include "cli/signals.h"

#include <vublk/bus.h>
#include <vublk/device.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMMAND "device"

struct arguments {
	const char *bus;
	struct vublk_cli_options properties;
	const char *control; /* NULL: no control socket */
	mode_t control_mode;
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
	KEY_CONTROL,
	KEY_CONTROL_MODE,
	KEY_LIST_PROPERTIES,
};

static const struct argp_option argp_options[] = {
	{ "chardev", KEY_CHARDEV, "SOCKET|path=SOCKET,NAME=VALUE...", 0,
	  "The back-end's Unix socket; NAME is server, reconnect-ms or another property" },
	{ "bus", KEY_BUS, "vhost-user:SOCKET|vfio-user:SOCKET", 0,
	  "Present the device to a VMM at this socket: as a vhost-user-blk back-end, or as a PCI "
	  "device" },
	{ "num-queues", KEY_NUM_QUEUES, "N", 0,
	  "Have N queues, 1 to 256 (default: as many as the back-end, at most 128)" },
	{ "socket-mode", KEY_SOCKET_MODE, "MODE", 0,
	  "Permissions of the --bus socket's file, in octal (default: 0777 less the umask)" },
	{ "socket-group", KEY_SOCKET_GROUP, "GROUP", 0,
	  "Group of the --bus socket's file, a name or a number" },
	{ "control", KEY_CONTROL, "PATH", 0,
	  "Listen for the commands of vublk ctl on this Unix socket" },
	{ "control-mode", KEY_CONTROL_MODE, "MODE", 0,
	  "Permissions of that socket's file, in octal (default: 0600)" },
	{ "option", 'o', "NAME=VALUE", 0,
	  "Set any property of the device or the bus; see --list-properties" },
	{ "list-properties", KEY_LIST_PROPERTIES, NULL, 0,
	  "List the properties for -o, with those of --bus if that is given, and exit" },
	{ "verbose", 'v', NULL, 0, "Also log protocol messages and state changes" },
	{ "quiet", 'q', NULL, 0, "Log only warnings and errors" },
	{ 0 },
};

/* Names in the library's sentences, and the options that set them. */
static const struct vublk_cli_alias aliases[] = {
	{ "num-queues", "--num-queues", false },
	{ "socket-mode", "--socket-mode", false },
	{ "socket-group", "--socket-group", false },
	{ "chardev", "--chardev", true },
	{ NULL },
};

/* Cuts one NAME=VALUE of --chardev; `path` is the only NAME that is not the name of a property. */
static void add_chardev_pair(struct argp_state *state, struct vublk_cli_options *properties,
			     char *pair)
{
	if (!strchr(pair, '='))
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "--chardev with properties must be "
			     "path=SOCKET,NAME=VALUE,..., and '%s' is not NAME=VALUE; if it is the "
			     "socket, write path=%s", pair, pair);
	if (!strncmp(pair, "path=", 5))
		vublk_cli_options_add(state, properties, "chardev", pair + 5);
	else
		vublk_cli_options_add_pair(state, properties, "--chardev", pair);
}

/* A path may contain '=', but a property's name contains no slash. */
static bool is_list(const char *text)
{
	return text[strcspn(text, "=/")] == '=';
}

static void add_chardev(struct argp_state *state, struct vublk_cli_options *properties, char *text)
{
	char *rest = NULL;

	if (!is_list(text)) {
		vublk_cli_options_add(state, properties, "chardev", text);
		return;
	}
	for (char *pair = strtok_r(text, ",", &rest); pair; pair = strtok_r(NULL, ",", &rest))
		add_chardev_pair(state, properties, pair);
}

static void list_properties(const char *bus)
{
	vublk_disk_print_properties(vublk_device_properties(), vublk_bus_default, bus);
	vublk_disk_print_properties(vublk_bus_options(bus), NULL, NULL);
	exit(fflush(stdout) ? VUBLK_EXIT_FAILED : VUBLK_EXIT_DONE);
}

/* A bus that the library does not know has no options; vublk_bus_open() refuses it. */
static void check_names(struct argp_state *state, const struct vublk_cli_options *properties,
			const struct vublk_property *bus_options)
{
	for (unsigned i = 0; bus_options->name && i < properties->count; i++) {
		const char *name = properties->list[i].name;

		if (properties->is_pair[i] && strcmp(name, "chardev") &&
		    !vublk_disk_has_property(vublk_device_properties(), name) &&
		    !vublk_disk_has_property(bus_options, name))
			argp_failure(state, VUBLK_EXIT_MISUSED, 0, "there is no property '%s'; "
				     "--list-properties lists them, with --bus also those of the "
				     "bus", name);
	}
}

static void check(struct argp_state *state, const struct arguments *arguments)
{
	if (!vublk_cli_options_get(&arguments->properties, "chardev"))
		argp_failure(state, VUBLK_EXIT_MISUSED, 0,
			     "give --chardev=SOCKET, the socket of the back-end, see --help");
	if (!arguments->bus)
		argp_failure(state, VUBLK_EXIT_MISUSED, 0,
			     "give --bus, where a VMM finds the device, see --help");
	check_names(state, &arguments->properties, vublk_bus_options(arguments->bus));
}

static error_t parse(int key, char *value, struct argp_state *state)
{
	struct arguments *arguments = state->input;

	switch (key) {
	case KEY_CHARDEV:
		add_chardev(state, &arguments->properties, value);
		break;
	case KEY_BUS:
		arguments->bus = value;
		break;
	case KEY_NUM_QUEUES:
		vublk_cli_options_add(state, &arguments->properties, "num-queues", value);
		break;
	case KEY_SOCKET_MODE:
		vublk_cli_options_add(state, &arguments->properties, "socket-mode", value);
		break;
	case KEY_SOCKET_GROUP:
		vublk_cli_options_add(state, &arguments->properties, "socket-group", value);
		break;
	case 'o':
		vublk_cli_options_add_pair(state, &arguments->properties, "--option", value);
		break;
	case KEY_CONTROL:
		arguments->control = value;
		break;
	case KEY_CONTROL_MODE:
		vublk_control_take_mode(state, value, &arguments->control_mode);
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
		check(state, arguments);
		break;
	case ARGP_KEY_ARG:
		vublk_cli_refuse_argument(state, value);
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static const struct argp argp = {
	.options = argp_options,
	.parser = parse,
	.doc = "Present a disk to a virtual machine that survives the loss of its back-end: the "
	       "VMM is not disconnected, requests wait and continue with the next back-end.\v"
	       "SIGTERM and SIGINT end the program when the back-end has returned the rings; a "
	       "second one ends it immediately. SIGHUP makes it read the disk's configuration "
	       "from the back-end again.",
};

/* --- the command ----------------------------------------------------------- */

static void on_signal(int number)
{
	if (number == SIGHUP)
		vublk_bus_refresh(served);
	else
		vublk_bus_stop(served);
}

static int process(void *bus, struct vublk_error *error)
{
	return vublk_bus_process(bus, error);
}

static int run(struct vublk_control *control, struct vublk_error *error)
{
	if (!control)
		return vublk_bus_run(served, error);
	return vublk_control_run(control, vublk_bus_fd(served), process, error);
}

int vublk_cmd_device(int argc, char **argv)
{
	struct arguments arguments = { .control_mode = VUBLK_CONTROL_DEFAULT_MODE };
	struct vublk_log log = { .fn = vublk_cli_log, .opaque = (void *)COMMAND };
	struct vublk_error error = { 0 };
	struct vublk_control *control = NULL;
	struct vublk_cli_signals signals;
	int r;

	vublk_cli_parse(&argp, argc, argv, &arguments);
	log.level = vublk_cli_log_level(arguments.verbose, arguments.quiet);
	/* A signal that arrives during the start stays pending until there is a device to stop. */
	vublk_cli_signals_init(&signals, SIGHUP);
	r = vublk_bus_open(arguments.bus, arguments.properties.list, &log, &served, &error);
	if (r < 0) {
		vublk_cli_options_rename(&arguments.properties, aliases, &error);
		return vublk_cli_fail_open(COMMAND, &error);
	}
	if (arguments.control)
		r = vublk_control_open(arguments.control, arguments.control_mode, COMMAND,
				       vublk_device_commands, served, &control, &error);
	if (!r) {
		vublk_cli_signals_handle(&signals, on_signal);
		r = run(control, &error);
		vublk_cli_signals_hold(&signals);
	}
	if (r < 0)
		vublk_cli_fail(COMMAND, "%s", error.text);
	vublk_control_close(control);
	vublk_bus_free(served);
	return r < 0 ? VUBLK_EXIT_FAILED : VUBLK_EXIT_DONE;
}
