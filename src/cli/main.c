/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vublk: the tool's main(). Each sub-command is in a file or a folder of its own.
 *
 * Key idea: main() looks up sub-commands in the table in commands.c, and prints the help from it.
 */
#include "cli/cli.h"
#include "cli/commands.h"

#include <vublk/version.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void print_help(FILE *out)
{
	fputs("Usage: vublk COMMAND [OPTION...] [ARGUMENT...]\nServes a vhost-user-blk disk, or "
	      "uses one without a VMM.\n\n",
	      out);
	for (const struct vublk_cli_command *c = vublk_cli_commands; c->name; c++)
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

/*
 * Runs a command. Sets argv[0] to "vublk COMMAND", which argp prints as the name of the program in
 * usage and errors.
 */
static int run_command(const struct vublk_cli_command *command, int argc, char **argv)
{
	static char name[32];

	snprintf(name, sizeof(name), "vublk %s", command->name);
	argv[0] = name;
	argp_program_version = "vublk " VUBLK_VERSION_STRING;
	return command->run(argc, argv);
}

/*
 * Returns the command that the name of the program selects, or NULL. A link with the name
 * "vublk-COMMAND" runs that command, for programs that expect one binary per back-end.
 */
static const struct vublk_cli_command *command_of_program(const char *program)
{
	static const char prefix[] = "vublk-";
	const char *slash = program ? strrchr(program, '/') : NULL;
	const char *name = slash ? slash + 1 : program;

	if (!name || strncmp(name, prefix, sizeof(prefix) - 1))
		return NULL;
	return vublk_cli_find_command(name + sizeof(prefix) - 1);
}

static bool is_word(const char *word, const char *a, const char *b, const char *c)
{
	return !strcmp(word, a) || !strcmp(word, b) || !strcmp(word, c);
}

static int dispatch(int argc, char **argv)
{
	const struct vublk_cli_command *command = command_of_program(argv[0]);

	if (command)
		return run_command(command, argc, argv);
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
	command = vublk_cli_find_command(strcmp(argv[1], "help") ? argv[1] : argv[2]);
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
