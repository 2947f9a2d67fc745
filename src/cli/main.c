/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vublk: the tool's main(). Each sub-command is in a file or a folder of its own.
 *
 * Key idea: one table of sub-commands both dispatches to them and prints the help.
 */
#include "cli/cli.h"

#include <vublk/version.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *arguments;
	const char *summary;
};

static const struct command commands[] = {
	{ "serve", vublk_cmd_serve, "--socket-path=SOCKET --blk-file=FILE",
	  "Serve a file or a block device as a disk on a vhost-user socket" },
	{ "device", vublk_cmd_device, "--chardev=SOCKET --bus=vhost-user:SOCKET",
	  "Give a VM a disk that survives the loss of its back-end" },
	{ "attach", vublk_cmd_attach, "SOCKET", "Make a disk a block device of this host, /dev/ublkbN" },
	{ "detach", vublk_cmd_detach, "DEVICE...", "Remove such block devices" },
	{ "info", vublk_cmd_info, "SOCKET", "Show the properties of a disk and its back-end" },
	{ "bench", vublk_cmd_bench, "SOCKET", "Measure a disk, or write and verify it" },
	{ "copy", vublk_cmd_copy, "SOURCE DESTINATION", "Copy between files and disks" },
	{ "chaos", vublk_cmd_chaos, "SOCKET -- COMMAND [ARGUMENT...]",
	  "Kill a back-end repeatedly under a verified load" },
	{ "ctl", vublk_cmd_ctl, "SOCKET COMMAND",
	  "Send a command to a running vublk serve or device, at its control socket" },
	{ "demo", vublk_cmd_demo, "",
	  "Serve, use and resize a temporary disk, in a few seconds" },
	{ NULL },
};

static void print_help(FILE *out)
{
	fputs("Usage: vublk COMMAND [OPTION...] [ARGUMENT...]\nServes a vhost-user-blk disk, or "
	      "uses one without a VMM.\n\n",
	      out);
	for (const struct command *c = commands; c->name; c++)
		fprintf(out, "  %-6s  %s\n          vublk %s%s%s\n", c->name, c->summary, c->name,
			c->arguments[0] ? " " : "", c->arguments);
	fputs("\n  vublk COMMAND --help   the options of a command\n  vublk --version        the "
	      "version\n\nExit status: 0 success, 1 failure, 2 wrong usage.\n",
	      out);
}

static int print_version(void)
{
	printf("vublk " VUBLK_VERSION_STRING "\n");
	return VUBLK_EXIT_DONE;
}

static const struct command *find_command(const char *name)
{
	for (const struct command *c = commands; c->name; c++)
		if (!strcmp(c->name, name))
			return c;
	return NULL;
}

/*
 * Runs a command. Sets argv[0] to "vublk COMMAND", which argp prints as the name of the program in
 * usage and errors.
 */
static int run_command(const struct command *command, int argc, char **argv)
{
	static char name[32];

	snprintf(name, sizeof(name), "vublk %s", command->name);
	argv[0] = name;
	argp_program_version = "vublk " VUBLK_VERSION_STRING;
	return command->run(argc, argv);
}

static bool is_word(const char *word, const char *a, const char *b, const char *c)
{
	return !strcmp(word, a) || !strcmp(word, b) || !strcmp(word, c);
}

static int dispatch(int argc, char **argv)
{
	const struct command *command;

	if (argc < 2) {
		print_help(stderr);
		return VUBLK_EXIT_MISUSED;
	}
	if (is_word(argv[1], "--help", "-h", "-?") || (argc == 2 && !strcmp(argv[1], "help"))) {
		print_help(stdout);
		return VUBLK_EXIT_DONE;
	}
	if (is_word(argv[1], "--version", "-V", "version"))
		return print_version();
	command = find_command(strcmp(argv[1], "help") ? argv[1] : argv[2]);
	if (!command) {
		fprintf(stderr, "vublk: there is no command '%s'; vublk --help lists all "
			"commands\n",
			strcmp(argv[1], "help") ? argv[1] : argv[2]);
		return VUBLK_EXIT_MISUSED;
	}
	if (!strcmp(argv[1], "help"))
		return run_command(command, 2, (char *[]){ NULL, "--help", NULL });
	return run_command(command, argc - 1, argv + 1);
}

/*
 * Opens /dev/null for each standard descriptor that the process was started without. Otherwise a
 * disk's socket or a file of a copy could get the number of that descriptor, and messages would be
 * printed into it. Standard input is opened for writing and standard output and error for reading,
 * so that using them still fails.
 */
static void occupy_standard_descriptors(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 &&
		    open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) != fd)
			exit(VUBLK_EXIT_FAILED);
}

int main(int argc, char **argv)
{
	int status;

	occupy_standard_descriptors();
	status = dispatch(argc, argv);

	/* A command whose output could not be written, for example to a full disk, has failed. */
	if (fflush(stdout) || ferror(stdout)) {
		fprintf(stderr, "vublk: cannot write to standard output: %s\n", strerror(errno));
		return status ? status : VUBLK_EXIT_FAILED;
	}
	return status;
}
