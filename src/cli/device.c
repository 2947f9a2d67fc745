/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vublk device: runs the host device and presents it on a bus. It stays in the foreground, prints
 * nothing on standard output while it serves, and logs to standard error. SIGTERM and SIGINT end
 * it. SIGHUP makes it read the disk's configuration again.
 *
 * Key idea: --chardev resembles QEMU's -chardev, but each NAME=VALUE in it, except path=SOCKET,
 * sets a property of the device or of the bus, as -o does.
 */
#include "cli/activation.h"
#include "cli/cli.h"
#include "cli/control/commands.h"
#include "cli/control/service.h"
#include "cli/control/take-over.h"
#include "cli/disk.h"
#include "cli/options.h"
#include "cli/paths.h"
#include "cli/signals.h"

#include <vublk/bus.h>
#include <vublk/device.h>
#include <vublk/upgrade.h>
#include <vublk/notice.h>
#include <vublk/paths.h>

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMMAND "device"

struct arguments {
	const char *bus;
	struct vublk_cli_options properties;
	struct vublk_service_options service;
	struct vublk_activation activation;
	const char *take_over; /* the control socket of the process to take over from; NULL: none */
	bool list_properties;
	bool verbose;
	bool quiet;
};

/*
 * The bus. It is global, because the signal handler needs it. It is opened before the handler is
 * installed.
 */
static struct vublk_bus *served;

/* --- arguments ------------------------------------------------------------- */

enum key {
	KEY_CHARDEV = 256,
	KEY_BUS,
	KEY_NUM_QUEUES,
	KEY_SOCKET_MODE,
	KEY_SOCKET_GROUP,
	KEY_TAKE_OVER,
	KEY_LIST_PROPERTIES,
};

static const struct argp_option argp_options[] = {
	{ "chardev", KEY_CHARDEV, "SOCKET|path=SOCKET,NAME=VALUE...", 0,
	  "The back-end's Unix socket; NAME is server, reconnect-ms or another property. Give this "
	  "option up to four times, in order of preference, if several back-ends have the same "
	  "storage" },
	{ "bus", KEY_BUS, "vhost-user:SOCKET|vfio-user:SOCKET", 0,
	  "Present the device to a VMM on this socket: as a vhost-user-blk back-end, or as a PCI "
	  "device" },
	{ "num-queues", KEY_NUM_QUEUES, "N", 0,
	  "Use N queues, 1 to 256 (default: as many as the back-end offers, at most 128)" },
	{ "socket-mode", KEY_SOCKET_MODE, "MODE", 0,
	  "Permissions of the --bus socket's file, in octal (default: 0777 minus the umask)" },
	{ "socket-group", KEY_SOCKET_GROUP, "GROUP", 0,
	  "Group of the --bus socket's file, a name or a number" },
	VUBLK_SERVICE_OPTIONS,
	{ "take-over", KEY_TAKE_OVER, "PATH", 0,
	  "Take over the device of the vublk process whose control socket is PATH; VMM and "
	  "back-end stay connected" },
	{ "option", 'o', "NAME=VALUE", 0,
	  "Set any property of the device or the bus; see --list-properties" },
	{ "list-properties", KEY_LIST_PROPERTIES, NULL, 0,
	  "List the properties for -o, including those of --bus if it is given, and exit" },
	{ "verbose", 'v', NULL, 0, "Also log protocol messages and state changes" },
	{ "quiet", 'q', NULL, 0, "Log only warnings and errors" },
	{ 0 },
};

/*
 * Maps the names of properties in the library's error messages to the command-line options that set
 * them.
 */
static const struct vublk_cli_alias aliases[] = {
	{ "num-queues", "--num-queues", false },
	{ "socket-mode", "--socket-mode", false },
	{ "socket-group", "--socket-group", false },
	{ "chardev", "--chardev", true },
	{ NULL },
};

/* Adds a path after the earlier ones, because the paths are in order of preference. */
static void add_path(struct argp_state *state, struct vublk_cli_options *properties, const char *path)
{
	static const char *const names[] = { "chardev", "chardev-2", "chardev-3", "chardev-4" };
	unsigned n = 0;

	_Static_assert(sizeof(names) / sizeof(names[0]) == VUBLK_MAX_PATHS, "all of them");
	while (n < VUBLK_MAX_PATHS && vublk_cli_options_get(properties, names[n]))
		n++;
	if (n == VUBLK_MAX_PATHS)
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "--chardev can be given at most %u "
			     "times",
			     VUBLK_MAX_PATHS);
	else
		vublk_cli_options_add(state, properties, names[n], path);
}

/*
 * Adds one NAME=VALUE of --chardev. The NAME "path" stands for the socket; every other NAME is a
 * property.
 */
static void add_chardev_pair(struct argp_state *state, struct vublk_cli_options *properties,
			     char *pair)
{
	if (!strchr(pair, '='))
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "--chardev with properties must be "
			     "path=SOCKET,NAME=VALUE,..., but '%s' is not NAME=VALUE; if it is the "
			     "path of the socket, write path=%s", pair, pair);
	if (!strncmp(pair, "path=", 5))
		add_path(state, properties, pair + 5);
	else
		vublk_cli_options_add_pair(state, properties, "--chardev", pair);
}

/*
 * Returns whether `text`, the value of --chardev, is a list of pairs and not a path. A list has an
 * '=' before the first slash, because the name of a property contains no slash.
 */
static bool is_list(const char *text)
{
	return text[strcspn(text, "=/")] == '=';
}

static void add_chardev(struct argp_state *state, struct vublk_cli_options *properties, char *text)
{
	char *rest = NULL;

	if (!is_list(text)) {
		add_path(state, properties, text);
		return;
	}
	for (char *pair = strtok_r(text, ",", &rest); pair; pair = strtok_r(NULL, ",", &rest))
		add_chardev_pair(state, properties, pair);
}

static void list_properties(const char *bus)
{
	vublk_disk_print_properties(vublk_device_properties(), NULL, vublk_bus_default, bus);
	vublk_disk_print_properties(vublk_bus_options(bus), NULL, NULL, NULL);
	exit(fflush(stdout) ? VUBLK_EXIT_FAILED : VUBLK_EXIT_DONE);
}

/*
 * Refuses unknown properties. Checks nothing if the bus has no options, because the bus itself may
 * then be unknown; vublk_bus_open() refuses unknown buses.
 */
static void check_names(struct argp_state *state, const struct vublk_cli_options *properties,
			const struct vublk_property *bus_options)
{
	for (unsigned i = 0; bus_options->name && i < properties->count; i++) {
		const char *name = properties->list[i].name;

		if (properties->is_pair[i] && strcmp(name, "chardev") &&
		    !vublk_disk_has_property(vublk_device_properties(), name) &&
		    !vublk_disk_has_property(bus_options, name))
			argp_failure(state, VUBLK_EXIT_MISUSED, 0, "there is no property '%s'; "
				     "--list-properties lists all properties, and with --bus "
				     "also those of the bus", name);
	}
}

static void check_paths(struct argp_state *state, const struct arguments *arguments)
{
	const struct vublk_cli_options *properties = &arguments->properties;
	const char *bus = arguments->bus ? strchr(arguments->bus, ':') : NULL;
	const struct vublk_cli_path paths[] = {
		{ "--chardev", vublk_cli_options_get(properties, "chardev") },
		{ "chardev-2", vublk_cli_options_get(properties, "chardev-2") },
		{ "chardev-3", vublk_cli_options_get(properties, "chardev-3") },
		{ "chardev-4", vublk_cli_options_get(properties, "chardev-4") },
		{ "--bus", bus ? bus + 1 : NULL },
		{ "--control", arguments->service.control },
		{ "--metrics-listen", vublk_service_metrics_path(&arguments->service) },
		{ "mirror-state", vublk_cli_options_get(properties, "mirror-state") },
	};

	vublk_cli_check_paths(state, paths, VUBLK_CLI_ARRAY_SIZE(paths));
}

/*
 * Refuses options that have no effect with --take-over, because the process that is replaced
 * determines their values.
 */
static void check_take_over(struct argp_state *state, const struct arguments *arguments)
{
	if (arguments->bus || arguments->service.control || arguments->service.metrics ||
	    arguments->properties.count)
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "--take-over uses the bus, the "
			     "back-end, the control socket and the properties of the other "
			     "process; remove all options except --take-over, --verbose and "
			     "--quiet");
}

static void check(struct argp_state *state, const struct arguments *arguments)
{
	if (arguments->take_over) {
		check_take_over(state, arguments);
		return;
	}
	if (!vublk_cli_options_get(&arguments->properties, "chardev"))
		argp_failure(state, VUBLK_EXIT_MISUSED, 0,
			     "--chardev=SOCKET, the socket of the back-end, is missing; see "
			     "--help");
	if (!arguments->bus)
		argp_failure(state, VUBLK_EXIT_MISUSED, 0,
			     "--bus, the socket for the VMM, is missing; see --help");
	check_names(state, &arguments->properties, vublk_bus_options(arguments->bus));
	check_paths(state, arguments);
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
	case KEY_TAKE_OVER:
		arguments->take_over = value;
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
		return vublk_service_take_option(state, key, value, &arguments->service);
	}
	return 0;
}

static const struct argp argp = {
	.options = argp_options,
	.parser = parse,
	.doc = "Give a virtual machine a disk that survives the loss of its back-end: the "
	       "VMM stays connected, and requests wait and continue with the next "
	       "back-end.\vSIGTERM and SIGINT end the program as soon as the back-end has returned "
	       "the rings; a second one ends it immediately. SIGHUP makes it read the disk's "
	       "configuration from the back-end again.",
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

static void set_notice_handler(void *bus, vublk_notice_fn *fn, void *opaque)
{
	vublk_bus_set_notice_handler(bus, fn, opaque);
}

static bool is_handed_over(void *bus, int64_t *new_pid)
{
	*new_pid = vublk_bus_new_process(bus);
	return vublk_bus_is_handed_over(bus);
}

static enum vublk_service_phase get_status(void *bus, char *text, size_t bytes)
{
	char vmm[48] = "no VMM is connected";
	struct vublk_device_info device;
	struct vublk_bus_info info;

	vublk_bus_get_info(bus, &info, sizeof(info));
	if (!strcmp(info.state, "realizing")) {
		snprintf(text, bytes, "Waits for the first back-end: %s", info.reason);
		return VUBLK_SERVICE_STARTING;
	}
	if (strcmp(info.state, "listening") && strcmp(info.state, "serving")) {
		snprintf(text, bytes, "Stopping: waits for the back-end to return the rings");
		return VUBLK_SERVICE_STOPPING;
	}
	vublk_device_get_info(vublk_bus_device(bus), &device, sizeof(device));
	if (info.has_vmm)
		snprintf(vmm, sizeof(vmm), "serves VMM process %" PRId64, info.vmm_pid);
	if (info.reason[0])
		snprintf(text, bytes, "No back-end, requests wait (%s): %s", vmm, info.reason);
	else
		snprintf(text, bytes, "Back-end %s, %s", device.chardev, vmm);
	return VUBLK_SERVICE_READY;
}

static int run(const struct arguments *arguments, struct vublk_cli_signals *signals,
	       struct vublk_error *error)
{
	const struct vublk_service service = {
		.command = COMMAND,
		.commands = vublk_device_commands,
		.owner = served,
		.fd = vublk_bus_fd(served),
		.process = process,
		.set_notice_handler = set_notice_handler,
		.on_signal = on_signal,
		.get_status = get_status,
		.is_handed_over = is_handed_over,
	};

	return vublk_service_run(&service, &arguments->service, signals, error);
}

/*
 * The following two functions store the bus in `served`. They return VUBLK_EXIT_DONE, or print the
 * error and return another exit status.
 */
static int open_bus(struct arguments *arguments, const struct vublk_log *log)
{
	const char *colon = strchr(arguments->bus, ':');
	struct vublk_error error = { 0 };

	if (vublk_activation_use(&arguments->activation, "--bus", colon ? colon + 1 : NULL,
				 &arguments->properties, &error))
		return vublk_cli_fail_open(COMMAND, &error);
	if (!vublk_bus_open(arguments->bus, arguments->properties.list, log, &served, &error))
		return VUBLK_EXIT_DONE;
	vublk_cli_options_rename(&arguments->properties, aliases, &error);
	return vublk_cli_fail_open(COMMAND, &error);
}

static int take_bus(struct arguments *arguments, const struct vublk_log *log,
		    struct vublk_upgrade_extra *extra)
{
	struct vublk_error error = { 0 };
	int fd = vublk_control_ask_for_upgrade(arguments->take_over, COMMAND, &error);

	arguments->service.taken = extra;
	if (fd >= 0 && !vublk_bus_take_over(fd, log, &served, extra, sizeof(*extra), &error))
		return VUBLK_EXIT_DONE;
	vublk_cli_fail(COMMAND, "cannot take over: %s", error.text);
	return VUBLK_EXIT_FAILED;
}

int vublk_cmd_device(int argc, char **argv)
{
	struct arguments arguments = { 0 };
	struct vublk_log log = { .fn = vublk_cli_log, .opaque = (void *)COMMAND };
	struct vublk_upgrade_extra extra = { .num_fds = 0 };
	struct vublk_error error = { 0 };
	struct vublk_cli_signals signals;
	int r, status;

	/*
	 * Checks the passed descriptor before this process opens one, which could get the same
	 * number.
	 */
	if (vublk_activation_take(&arguments.activation, &error))
		return vublk_cli_fail_open(COMMAND, &error);
	vublk_service_options_init(&arguments.service);
	vublk_cli_parse(&argp, argc, argv, &arguments);
	log.level = vublk_cli_log_level(arguments.verbose, arguments.quiet);
	/*
	 * A signal that arrives during the start stays pending until there is a bus that the
	 * handler can stop.
	 */
	vublk_cli_signals_init(&signals, SIGHUP);
	status = arguments.take_over ? take_bus(&arguments, &log, &extra) :
				       open_bus(&arguments, &log);
	if (status != VUBLK_EXIT_DONE)
		return status;
	r = run(&arguments, &signals, &error);
	if (r < 0)
		vublk_cli_fail(COMMAND, "%s", error.text);
	vublk_bus_free(served);
	return r < 0 ? VUBLK_EXIT_FAILED : VUBLK_EXIT_DONE;
}
