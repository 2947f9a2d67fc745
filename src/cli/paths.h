/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_PATHS_H
#define VUBLK_CLI_PATHS_H

/* Checks that the options of a command name different files and sockets. */
#include <argp.h>

struct vublk_cli_path {
	const char *option; /* for messages, for example "--control" */
	const char *path;   /* NULL: the option is not given */
};

/*
 * Called by an argp parser. If two of the paths are the same, or lead to the same file, ends the
 * process with VUBLK_EXIT_MISUSED and one sentence that names both options. The files need not
 * exist.
 */
void vublk_cli_check_paths(struct argp_state *state, const struct vublk_cli_path *paths,
			   unsigned count);

#endif
