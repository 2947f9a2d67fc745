/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_OPTIONS_H
#define VUBLK_CLI_OPTIONS_H

/*
 * The list of names and values that a command hands to the library: options of its own
 * (--num-queues=4) and pairs (-o num-queues=4) end up in one struct vublk_option array.
 * The text belongs to argv.
 */

#include <vublk/error.h>

#include <argp.h>
#include <stdbool.h>

#define VUBLK_CLI_MAX_OPTIONS 64
#define VUBLK_CLI_SPARE_OPTIONS 4 /* room for what the command itself adds */

struct vublk_cli_options {
	/* ended by a NULL name */
	struct vublk_option list[VUBLK_CLI_MAX_OPTIONS + VUBLK_CLI_SPARE_OPTIONS + 1];
	bool is_pair[VUBLK_CLI_MAX_OPTIONS + VUBLK_CLI_SPARE_OPTIONS];
	unsigned count;
};

/* Adds an option. Too many options end the process with one sentence. */
void vublk_cli_options_add(struct argp_state *state, struct vublk_cli_options *options,
			   const char *name, const char *value);

/*
 * Cuts "NAME=VALUE" in argv in two and adds it. `option` is the command-line option, such as
 * "--option", that has the pair as its value; it is named in error messages.
 */
void vublk_cli_options_add_pair(struct argp_state *state, struct vublk_cli_options *options,
				const char *option, char *pair);

/* Adds a value for a name that is not in the list, at most VUBLK_CLI_SPARE_OPTIONS times. */
void vublk_cli_options_add_default(struct vublk_cli_options *options, const char *name,
				   const char *value);

/* The value that counts, which is the last one; NULL: none. */
const char *vublk_cli_options_get(const struct vublk_cli_options *options, const char *name);

/*
 * The library calls an option by its name in the list, but a person calls it by the option on the
 * command line. An alias replaces the name with the option in a sentence of the library, unless the
 * name was given as a pair.
 */
struct vublk_cli_alias {
	const char *name;   /* in the list; NULL: the end of the table */
	const char *option; /* "--blk-file" */
	/*
	 * The name is also an English word, so it is replaced only at the beginning and before '='.
	 */
	bool is_word;
};

void vublk_cli_options_rename(const struct vublk_cli_options *options,
			      const struct vublk_cli_alias *aliases, struct vublk_error *error);

#endif
