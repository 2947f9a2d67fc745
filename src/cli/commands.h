/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_COMMANDS_H
#define VUBLK_CLI_COMMANDS_H

/* The sub-commands: what main() runs, --help prints, and the shells complete. */

struct vublk_cli_command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *arguments;
	const char *summary;
};

/* The table ends with a NULL name. */
extern const struct vublk_cli_command vublk_cli_commands[];

/* Returns the command with that name, or NULL. */
const struct vublk_cli_command *vublk_cli_find_command(const char *name);

#endif
