/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vublk serve: a back-end as a program that follows the conventions for vhost-user
 * back-end programs: it has --socket-path, --fd, --print-capabilities, --blk-file and --read-only,
 * prints nothing on standard output while it serves, logs to standard error, and ends on SIGTERM.
 *
 * Key idea: most options have the name of the library's option that they set, so one line
 * of the parser handles them all.
 */
#include "cli/cli.h"
#include "cli/control/commands.h"
#include "cli/control/socket.h"
#include "cli/options.h"
#include "cli/signals.h"

#include <vublk/backend.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMMAND "serve"

struct arguments {
	struct vublk_cli_options options;
	const char *control; /* NULL: no control socket */
	mode_t control_mode;
	bool verbose;
	bool quiet;
};

/* For the signal handlers; set while they are installed. */
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
	KEY_CONTROL,
	KEY_CONTROL_MODE,
	KEY_LIST_OPTIONS,
};

static const struct argp_option argp_options[] = {
	{ "socket-path", KEY_SOCKET_PATH, "PATH", 0, "Listen on this Unix socket" },
	{ "socket-mode", KEY_SOCKET_MODE, "MODE", 0,
	  "Permissions of the socket's file, in octal (default: 0777 less the umask)" },
	{ "socket-group", KEY_SOCKET_GROUP, "GROUP", 0,
	  "Group of the socket's file, a name or a number" },
	{ "fd", KEY_FD, "NUMBER", 0,
	  "Use this descriptor: a listening socket, or a connection to one front-end" },
	{ "print-capabilities", KEY_PRINT_CAPABILITIES, NULL, 0,
	  "Print what this program can do as JSON and exit" },
	{ "blk-file", KEY_BLK_FILE, "FILE", 0, "Serve this image or block device" },
	{ "read-only", KEY_READ_ONLY, NULL, 0, "Do not write to it" },
	{ "num-queues", KEY_NUM_QUEUES, "N", 0, "Offer N queues" },
	{ "engine", KEY_ENGINE, "NAME", 0, "What stores the disk: file, memory or null" },
	{ "size", KEY_SIZE, "BYTES", 0, "Size of a memory or null disk (k, M, G, T allowed)" },
	{ "poll", KEY_POLL, "MODE", 0,
	  "Look for requests before sleeping: adaptive, off or busy" },
	{ "control", KEY_CONTROL, "PATH", 0,
	  "Listen for the commands of vublk ctl on this Unix socket" },
	{ "control-mode", KEY_CONTROL_MODE, "MODE", 0,
	  "Permissions of that socket's file, in octal (default: 0600)" },
	{ "option", 'o', "NAME=VALUE", 0, "Any other option; see --list-options" },
	{ "list-options", KEY_LIST_OPTIONS, NULL, 0, "List the options for -o and exit" },
	{ "verbose", 'v', NULL, 0, "Also log protocol messages and state changes" },
	{ "quiet", 'q', NULL, 0, "Log only warnings and errors" },
	{ 0 },
};

/* Names in the library's sentences, and the options that set them. */
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
	{ NULL },
};

static const char *name_of(int key)
{
	for (const struct argp_option *o = argp_options; o->name; o++)
		if (o->key == key)
			return o->name;
	return NULL;
}

static bool is_option(const char *name)
{
	for (const struct vublk_property *o = vublk_backend_options(); o->name; o++)
		if (!strcmp(o->name, name))
			return true;
	return false;
}

static void add_pair(struct argp_state *state, struct vublk_cli_options *options, char *pair)
{
	vublk_cli_options_add_pair(state, options, "--option", pair);
	if (!is_option(pair))
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "there is no option '%s'; "
			     "--list-options lists them", pair);
}

static void print_capabilities(void)
{
	puts("{\n  \"type\": \"block\",\n  \"features\": [\n    \"read-only\",\n"
	     "    \"blk-file\"\n  ]\n}");
	exit(fflush(stdout) ? VUBLK_EXIT_FAILED : VUBLK_EXIT_DONE);
}

static void list_options(void)
{
	for (const struct vublk_property *o = vublk_backend_options(); o->name; o++)
		printf("%-19s %-7s %-9s %s\n", o->name, o->type,
		       o->default_value ? o->default_value : "-", o->description);
	exit(fflush(stdout) ? VUBLK_EXIT_FAILED : VUBLK_EXIT_DONE);
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
		vublk_cli_options_add(state, &arguments->options, name_of(key),
				      value ? value : "on");
		break;
	case 'o':
		add_pair(state, &arguments->options, value);
		break;
	case KEY_CONTROL:
		arguments->control = value;
		break;
	case KEY_CONTROL_MODE:
		vublk_control_take_mode(state, value, &arguments->control_mode);
		break;
	case KEY_PRINT_CAPABILITIES:
		print_capabilities();
		break;
	case KEY_LIST_OPTIONS:
		list_options();
		break;
	case 'v':
		arguments->verbose = true;
		break;
	case 'q':
		arguments->quiet = true;
		break;
	case ARGP_KEY_END:
		if (!vublk_cli_options_get(&arguments->options, "socket-path") &&
		    !vublk_cli_options_get(&arguments->options, "fd"))
			argp_failure(state, VUBLK_EXIT_MISUSED, 0,
				     "give --socket-path or --fd, see --help");
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
	.doc = "Serve a file, a block device or memory as a disk on a vhost-user socket.\v"
	       "SIGTERM and SIGINT end the program when all requests that it has taken are "
	       "complete; a second one ends it immediately. SIGHUP makes it read the size of the "
	       "image again.",
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

static int run(struct vublk_control *control, struct vublk_error *error)
{
	if (!control)
		return vublk_backend_run(served, error);
	return vublk_control_run(control, vublk_backend_fd(served), process, error);
}

int vublk_cmd_serve(int argc, char **argv)
{
	struct arguments arguments = { .control_mode = VUBLK_CONTROL_DEFAULT_MODE };
	struct vublk_log log = { .fn = vublk_cli_log, .opaque = (void *)COMMAND };
	struct vublk_error error = { 0 };
	struct vublk_control *control = NULL;
	struct vublk_cli_signals signals;
	int r = 0;

	vublk_cli_parse(&argp, argc, argv, &arguments);
	log.level = vublk_cli_log_level(arguments.verbose, arguments.quiet);
	/*
	 * A signal that arrives during the start stays pending until there is a back-end to stop.
	 */
	vublk_cli_signals_init(&signals, SIGHUP);
	if (vublk_backend_open(arguments.options.list, &log, &served, &error)) {
		vublk_cli_options_rename(&arguments.options, aliases, &error);
		return vublk_cli_fail_open(COMMAND, &error);
	}
	if (arguments.control)
		r = vublk_control_open(arguments.control, arguments.control_mode, COMMAND,
				       vublk_serve_commands, served, &control, &error);
	if (!r) {
		vublk_cli_signals_handle(&signals, on_signal);
		r = run(control, &error);
		vublk_cli_signals_hold(&signals);
	}
	if (r)
		vublk_cli_fail(COMMAND, "%s", error.text);
	vublk_control_close(control);
	vublk_backend_free(served);
	return r ? VUBLK_EXIT_FAILED : VUBLK_EXIT_DONE;
}
