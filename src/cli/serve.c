/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vublk serve: a back-end as a program, by the conventions for vhost-user
 * back-end programs (--socket-path, --fd, --print-capabilities, --blk-file,
 * --read-only; nothing on standard output, the log on standard error, SIGTERM
 * ends it). Every option of the library can be given by -o NAME=VALUE.
 */
#include "cli/cli.h"
#include "cli/signals.h"

#include <vublk/backend.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMMAND "serve"
#define MAX_OPTIONS 64

struct arguments {
	struct vublk_option options[MAX_OPTIONS + 1];
	unsigned num_options;
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
	KEY_LIST_OPTIONS,
};

static const struct argp_option argp_options[] = {
	{ "socket-path", KEY_SOCKET_PATH, "PATH", 0, "Listen on this Unix socket" },
	{ "socket-mode", KEY_SOCKET_MODE, "MODE", 0,
	  "Give the socket's file these permissions, in octal (default: 0777 less the umask)" },
	{ "socket-group", KEY_SOCKET_GROUP, "GROUP", 0,
	  "Give the socket's file to this group, a name or a number" },
	{ "fd", KEY_FD, "NUMBER", 0,
	  "Use this descriptor: a listening socket, or one front-end's" },
	{ "print-capabilities", KEY_PRINT_CAPABILITIES, NULL, 0,
	  "Print what this program can do as JSON, and end" },
	{ "blk-file", KEY_BLK_FILE, "FILE", 0, "Serve this image or block device" },
	{ "read-only", KEY_READ_ONLY, NULL, 0, "Do not write to it" },
	{ "num-queues", KEY_NUM_QUEUES, "N", 0, "Offer this many queues" },
	{ "engine", KEY_ENGINE, "NAME", 0, "What stores the disk: file, memory or null" },
	{ "size", KEY_SIZE, "BYTES", 0, "Size of a memory or null disk (k, M, G, T allowed)" },
	{ "poll", KEY_POLL, "MODE", 0,
	  "Look for work before sleeping: adaptive, off or busy" },
	{ "option", 'o', "NAME=VALUE", 0, "Any other option; see --list-options" },
	{ "list-options", KEY_LIST_OPTIONS, NULL, 0, "List the options of -o, and end" },
	{ "verbose", 'v', NULL, 0, "Log messages and state changes as well" },
	{ "quiet", 'q', NULL, 0, "Log only warnings and errors" },
	{ 0 },
};

static void add_option(struct argp_state *state, const char *name, const char *value)
{
	struct arguments *arguments = state->input;

	if (arguments->num_options == MAX_OPTIONS)
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "there are more than %d options",
			     MAX_OPTIONS);
	else
		arguments->options[arguments->num_options++] =
			(struct vublk_option){ name, value };
}

/* "NAME=VALUE" in argv, cut in two there. */
static void add_pair(struct argp_state *state, char *pair)
{
	char *equals = strchr(pair, '=');

	if (!equals) {
		argp_failure(state, VUBLK_EXIT_MISUSED, 0,
			     "-o wants NAME=VALUE, not '%s'; see --list-options", pair);
		return;
	}
	*equals = '\0';
	add_option(state, pair, equals + 1);
}

static bool has_option(const struct arguments *arguments, const char *name)
{
	for (unsigned i = 0; i < arguments->num_options; i++)
		if (!strcmp(arguments->options[i].name, name))
			return true;
	return false;
}

static void print_capabilities(void)
{
	puts("{\n  \"type\": \"block\",\n  \"features\": [\n    \"read-only\",\n"
	     "    \"blk-file\"\n  ]\n}");
	exit(fflush(stdout) ? VUBLK_EXIT_FAILED : VUBLK_EXIT_DONE);
}

static void list_options(void)
{
	for (const struct vublk_backend_option *o = vublk_backend_options(); o->name; o++)
		printf("%-19s %-7s %-9s %s\n", o->name, o->type,
		       o->default_value ? o->default_value : "-", o->description);
	exit(fflush(stdout) ? VUBLK_EXIT_FAILED : VUBLK_EXIT_DONE);
}

static error_t parse(int key, char *value, struct argp_state *state)
{
	struct arguments *arguments = state->input;

	switch (key) {
	case KEY_SOCKET_PATH:
		add_option(state, "socket-path", value);
		break;
	case KEY_SOCKET_MODE:
		add_option(state, "socket-mode", value);
		break;
	case KEY_SOCKET_GROUP:
		add_option(state, "socket-group", value);
		break;
	case KEY_FD:
		add_option(state, "fd", value);
		break;
	case KEY_PRINT_CAPABILITIES:
		print_capabilities();
		break;
	case KEY_BLK_FILE:
		add_option(state, "blk-file", value);
		break;
	case KEY_READ_ONLY:
		add_option(state, "read-only", "on");
		break;
	case KEY_NUM_QUEUES:
		add_option(state, "num-queues", value);
		break;
	case KEY_ENGINE:
		add_option(state, "engine", value);
		break;
	case KEY_SIZE:
		add_option(state, "size", value);
		break;
	case KEY_POLL:
		add_option(state, "poll", value);
		break;
	case 'o':
		add_pair(state, value);
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
		if (!has_option(arguments, "socket-path") && !has_option(arguments, "fd"))
			argp_failure(state, VUBLK_EXIT_MISUSED, 0,
				     "a --socket-path or an --fd is missing, see --help");
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
	.doc = "Serve a file, a block device or a piece of memory as a disk on a vhost-user "
	       "socket.\v"
	       "SIGTERM and SIGINT end it when the requests that were taken are complete; "
	       "SIGHUP makes it look at the size of the image again.",
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

int vublk_cmd_serve(int argc, char **argv)
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
	if (vublk_backend_open(arguments.options, &log, &served, &error))
		return vublk_cli_fail_open(COMMAND, &error);
	vublk_cli_signals_handle(&signals, on_signal);
	r = vublk_backend_run(served, &error);
	vublk_cli_signals_hold(&signals);
	if (r)
		vublk_cli_fail(COMMAND, "%s", error.text);
	vublk_backend_free(served);
	return r ? VUBLK_EXIT_FAILED : VUBLK_EXIT_DONE;
}
