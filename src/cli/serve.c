/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vublk serve: runs a back-end, and follows the vhost-user conventions for back-end programs: it
 * has the options --socket-path, --fd, --print-capabilities, --blk-file and --read-only, prints
 * nothing on standard output while it serves, logs to standard error, and ends on SIGTERM.
 *
 * Key idea: most options have the name of the library's option that they set, so one statement of
 * the parser handles all of them.
 */
#include "cli/activation.h"
#include "cli/cli.h"
#include "cli/control/commands.h"
#include "cli/control/service.h"
#include "cli/control/take-over.h"
#include "cli/options.h"
#include "cli/paths.h"
#include "cli/signals.h"

#include <vublk/backend.h>
#include <vublk/notice.h>
#include <vublk/upgrade.h>

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMMAND "serve"

struct arguments {
	struct vublk_cli_options options;
	struct vublk_service_options service;
	struct vublk_activation activation;
	const char *take_over; /* the control socket of the process to take over from; NULL: none */
	bool list_options;
	bool verbose;
	bool quiet;
};

/* The back-end, for the signal handler. It is set before the handler is installed. */
static struct vublk_backend *served;

/* --- arguments ------------------------------------------------------------- */

enum key {
	KEY_SOCKET_PATH = 256,
	KEY_SOCKET_MODE,
	KEY_SOCKET_GROUP,
	KEY_FD,
	KEY_PRINT_CAPABILITIES,
	KEY_BLK_FILE,
	KEY_READ_ONLY,
	KEY_NUM_QUEUES,
	KEY_ENGINE,
	KEY_SIZE,
	KEY_POLL,
	KEY_POLL_BUDGET,
	KEY_TAKE_OVER,
	KEY_LIST_OPTIONS,
};

static const struct argp_option argp_options[] = {
	{ "socket-path", KEY_SOCKET_PATH, "PATH", 0, "Listen on this Unix socket" },
	{ "socket-mode", KEY_SOCKET_MODE, "MODE", 0,
	  "Permissions of the socket's file, in octal (default: 0777 minus the umask)" },
	{ "socket-group", KEY_SOCKET_GROUP, "GROUP", 0,
	  "Group of the socket's file, a name or a number" },
	{ "fd", KEY_FD, "NUMBER", 0,
	  "Use this descriptor, which is a listening socket or connected to one front-end" },
	{ "print-capabilities", KEY_PRINT_CAPABILITIES, NULL, 0,
	  "Print the capabilities of this program as JSON and exit" },
	{ "blk-file", KEY_BLK_FILE, "FILE", 0, "Serve this image or block device" },
	{ "read-only", KEY_READ_ONLY, NULL, 0, "Serve the disk read-only" },
	{ "num-queues", KEY_NUM_QUEUES, "N", 0, "Offer N queues" },
	{ "engine", KEY_ENGINE, "file|memory|null|MODULE", 0,
	  "Where the data is stored; MODULE is the name of a module" },
	{ "size", KEY_SIZE, "BYTES", 0, "Size of a memory or null disk (suffixes k, M, G, T)" },
	{ "poll", KEY_POLL, "adaptive|off|busy", 0, "How to wait for requests" },
	{ "poll-budget", KEY_POLL_BUDGET, "PERCENT", 0,
	  "Processor time that adaptive polling may waste, in percent of a core per thread, 0 "
	  "to 100 (100: no limit)" },
	VUBLK_SERVICE_OPTIONS,
	{ "take-over", KEY_TAKE_OVER, "PATH", 0,
	  "Take the disk over from the vublk serve whose control socket is PATH; its front-end stays "
	  "connected" },
	{ "option", 'o', "NAME=VALUE", 0, "Any other option; see --list-options" },
	{ "list-options", KEY_LIST_OPTIONS, NULL, 0, "List the options for -o, with --engine also those of the "
	  "engine, and exit" },
	{ "verbose", 'v', NULL, 0, "Also log protocol messages and state changes" },
	{ "quiet", 'q', NULL, 0, "Log only warnings and errors" },
	{ 0 },
};

/*
 * Maps the names of options in the library's error messages to the command-line options that set
 * them.
 */
static const struct vublk_cli_alias aliases[] = {
	{ "socket-path", "--socket-path", false },
	{ "socket-mode", "--socket-mode", false },
	{ "socket-group", "--socket-group", false },
	{ "fd", "--fd", false },
	{ "blk-file", "--blk-file", false },
	{ "read-only", "--read-only", true },
	{ "num-queues", "--num-queues", false },
	{ "engine", "--engine", true },
	{ "size", "--size", true },
	{ "poll", "--poll", true },
	{ "poll-budget", "--poll-budget", false },
	{ NULL },
};

static const char *name_of(int key)
{
	for (const struct argp_option *o = argp_options; o->name; o++)
		if (o->key == key)
			return o->name;
	return NULL;
}

static bool is_in(const struct vublk_property *options, const char *name)
{
	for (const struct vublk_property *o = options; o->name; o++)
		if (!strcmp(o->name, name))
			return true;
	return false;
}

/*
 * Returns the options that only the engine has, which may be a module. Called when the whole
 * command line has been read, because --engine may follow the options of its module.
 */
static const struct vublk_property *own_options(struct argp_state *state,
						const struct arguments *arguments)
{
	static const struct vublk_property none[1];
	const char *engine = vublk_cli_options_get(&arguments->options, "engine");
	const struct vublk_property *own = none;
	struct vublk_error error = { 0 };

	if (engine && vublk_backend_engine_options(engine, &own, &error))
		argp_failure(state, error.code == EINVAL ? VUBLK_EXIT_MISUSED : VUBLK_EXIT_FAILED, 0,
			     "%s", error.text);
	return own;
}

static void check_pairs(struct argp_state *state, const struct arguments *arguments)
{
	const struct vublk_cli_options *options = &arguments->options;
	const struct vublk_property *own = own_options(state, arguments);

	for (unsigned i = 0; i < options->count; i++)
		if (!is_in(vublk_backend_options(), options->list[i].name) &&
		    !is_in(own, options->list[i].name))
			argp_failure(state, VUBLK_EXIT_MISUSED, 0, "there is no option '%s'; "
				     "--list-options lists all options, with --engine=NAME also "
				     "those of a module", options->list[i].name);
}

static void print_capabilities(void)
{
	puts("{\n  \"type\": \"block\",\n  \"features\": [\n    \"read-only\",\n"
	     "    \"blk-file\"\n  ]\n}");
	exit(fflush(stdout) ? VUBLK_EXIT_FAILED : VUBLK_EXIT_DONE);
}

static void print_options(const struct vublk_property *options)
{
	for (const struct vublk_property *o = options; o->name; o++)
		vublk_cli_options_print(o, 19, o->default_value);
}

static void list_options(struct argp_state *state, const struct arguments *arguments)
{
	const struct vublk_property *own = own_options(state, arguments);

	print_options(vublk_backend_options());
	print_options(own);
	exit(fflush(stdout) ? VUBLK_EXIT_FAILED : VUBLK_EXIT_DONE);
}

/* Refuses options that have no effect with --take-over. */
static void check_take_over(struct argp_state *state, const struct arguments *arguments)
{
	if (arguments->service.control || arguments->service.metrics || arguments->options.count)
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "--take-over uses the sockets, the "
			     "image and the options of the other process; remove all options "
			     "except --take-over, --verbose and --quiet");
}

static void check_paths(struct argp_state *state, const struct arguments *arguments)
{
	const struct vublk_cli_path paths[] = {
		{ "--socket-path", vublk_cli_options_get(&arguments->options, "socket-path") },
		{ "--blk-file", vublk_cli_options_get(&arguments->options, "blk-file") },
		{ "--control", arguments->service.control },
		{ "--metrics-listen", vublk_service_metrics_path(&arguments->service) },
	};

	vublk_cli_check_paths(state, paths, VUBLK_CLI_ARRAY_SIZE(paths));
}

static void check(struct argp_state *state, const struct arguments *arguments)
{
	if (arguments->list_options)
		list_options(state, arguments);
	check_pairs(state, arguments);
	check_paths(state, arguments);
	if (arguments->take_over)
		check_take_over(state, arguments);
	else if (!vublk_cli_options_get(&arguments->options, "socket-path") &&
		 !vublk_cli_options_get(&arguments->options, "fd") && arguments->activation.fd < 0)
		argp_failure(state, VUBLK_EXIT_MISUSED, 0,
			     "--socket-path or --fd is missing; see --help");
}

static error_t parse(int key, char *value, struct argp_state *state)
{
	struct arguments *arguments = state->input;

	switch (key) {
	case KEY_SOCKET_PATH:
	case KEY_SOCKET_MODE:
	case KEY_SOCKET_GROUP:
	case KEY_FD:
	case KEY_BLK_FILE:
	case KEY_READ_ONLY:
	case KEY_NUM_QUEUES:
	case KEY_ENGINE:
	case KEY_SIZE:
	case KEY_POLL:
	case KEY_POLL_BUDGET:
		vublk_cli_options_add(state, &arguments->options, name_of(key),
				      value ? value : "on");
		break;
	case KEY_TAKE_OVER:
		arguments->take_over = value;
		break;
	case 'o':
		vublk_cli_options_add_pair(state, &arguments->options, "--option", value);
		break;
	case KEY_PRINT_CAPABILITIES:
		print_capabilities();
		break;
	case KEY_LIST_OPTIONS:
		arguments->list_options = true;
		break;
	case 'v':
		arguments->verbose = true;
		break;
	case 'q':
		arguments->quiet = true;
		break;
	case ARGP_KEY_END:
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
	.doc = "Serve a file, a block device or memory as a disk on a vhost-user socket.\vSIGTERM "
	       "and SIGINT end the program as soon as all requests that it has taken are complete; "
	       "a second one ends it immediately. SIGHUP makes it read the size of the image "
	       "again.",
};

/* --- signals --------------------------------------------------------------- */

static void on_signal(int number)
{
	if (number == SIGHUP)
		vublk_backend_rescan(served);
	else
		vublk_backend_stop(served);
}

/* --- the command ----------------------------------------------------------- */

static int process(void *backend, struct vublk_error *error)
{
	return vublk_backend_process(backend, error);
}

static void set_notice_handler(void *backend, vublk_notice_fn *fn, void *opaque)
{
	vublk_backend_set_notice_handler(backend, fn, opaque);
}

static bool is_handed_over(void *backend, int64_t *new_pid)
{
	*new_pid = vublk_backend_new_process(backend);
	return vublk_backend_is_handed_over(backend);
}

static enum vublk_service_phase get_status(void *backend, char *text, size_t bytes)
{
	char size[VUBLK_CLI_TEXT_BYTES];
	struct vublk_backend_info info;

	vublk_backend_get_info(backend, &info, sizeof(info));
	if (info.state >= VUBLK_BACKEND_STOPPING) {
		snprintf(text, bytes, "Stopping: completes the requests that were begun");
		return VUBLK_SERVICE_STOPPING;
	}
	vublk_cli_format_bytes(size, info.size_bytes);
	if (info.drain == VUBLK_BACKEND_DRAINING)
		snprintf(text, bytes, "Draining %s", info.description);
	else if (info.state == VUBLK_BACKEND_LISTENING)
		snprintf(text, bytes, "Ready, no front-end is connected: %s, %s", info.description, size);
	else
		snprintf(text, bytes, "Serves process %" PRId64 ": %s, %s", info.peer_pid,
			 info.description, size);
	return VUBLK_SERVICE_READY;
}

static int run(const struct arguments *arguments, struct vublk_cli_signals *signals,
	       struct vublk_error *error)
{
	const struct vublk_service service = {
		.command = COMMAND,
		.commands = vublk_serve_commands,
		.owner = served,
		.fd = vublk_backend_fd(served),
		.process = process,
		.set_notice_handler = set_notice_handler,
		.on_signal = on_signal,
		.get_status = get_status,
		.is_handed_over = is_handed_over,
	};

	return vublk_service_run(&service, &arguments->service, signals, error);
}

/*
 * The following two functions store the back-end in `served`. They return VUBLK_EXIT_DONE, or print
 * the error and return another exit status.
 */
static int open_backend(struct arguments *arguments, const struct vublk_log *log)
{
	struct vublk_error error = { 0 };
	int r = vublk_activation_use(&arguments->activation, "--socket-path",
				     vublk_cli_options_get(&arguments->options, "socket-path"),
				     &arguments->options, &error);

	if (r)
		return vublk_cli_fail_open(COMMAND, &error);
	if (arguments->activation.fd >= 0)
		vublk_cli_options_remove(&arguments->options, "socket-path");
	if (!vublk_backend_open(arguments->options.list, log, &served, &error))
		return VUBLK_EXIT_DONE;
	vublk_cli_options_rename(&arguments->options, aliases, &error);
	return vublk_cli_fail_open(COMMAND, &error);
}

static int take_backend(struct arguments *arguments, const struct vublk_log *log,
			struct vublk_upgrade_extra *extra)
{
	struct vublk_error error = { 0 };
	int fd = vublk_control_ask_for_upgrade(arguments->take_over, COMMAND, &error);

	arguments->service.taken = extra;
	if (fd >= 0 && !vublk_backend_take_over(fd, log, &served, extra, sizeof(*extra), &error))
		return VUBLK_EXIT_DONE;
	vublk_cli_fail(COMMAND, "cannot take over: %s", error.text);
	return VUBLK_EXIT_FAILED;
}

int vublk_cmd_serve(int argc, char **argv)
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
	 * A signal that arrives during the start stays pending until there is a back-end that the
	 * handler can stop.
	 */
	vublk_cli_signals_init(&signals, SIGHUP);
	status = arguments.take_over ? take_backend(&arguments, &log, &extra) :
				       open_backend(&arguments, &log);
	if (status != VUBLK_EXIT_DONE)
		return status;
	r = run(&arguments, &signals, &error);
	if (r)
		vublk_cli_fail(COMMAND, "%s", error.text);
	vublk_cli_signals_release();
	vublk_backend_free(served);
	return r ? VUBLK_EXIT_FAILED : VUBLK_EXIT_DONE;
}
