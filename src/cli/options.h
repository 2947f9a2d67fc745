/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_OPTIONS_H
#define VUBLK_CLI_OPTIONS_H

/*
 * The list of names and values that a command hands to the library: the command's own options
 * (--num-queues=4) and pairs (-o num-queues=4) end up in one array of struct vublk_option. The
 * array borrows its strings, most of them from argv.
 */

#include <vublk/error.h>

#include <argp.h>
#include <stdbool.h>

#define VUBLK_CLI_MAX_OPTIONS 64
#define VUBLK_CLI_SPARE_OPTIONS 4 /* room for options that the command itself adds */

struct vublk_cli_options {
	/* ends with a NULL name */
	struct vublk_option list[VUBLK_CLI_MAX_OPTIONS + VUBLK_CLI_SPARE_OPTIONS + 1];
	bool is_pair[VUBLK_CLI_MAX_OPTIONS + VUBLK_CLI_SPARE_OPTIONS];
	unsigned count;
};

/* Adds a name and a value. If the list is full, ends the process with one sentence. */
void vublk_cli_options_add(struct argp_state *state, struct vublk_cli_options *options,
			   const char *name, const char *value);

/*
 * Splits "NAME=VALUE" in argv, in place, and adds the pair. `option` is the command-line option
 * whose value is the pair, such as "--option"; error messages name it.
 */
void vublk_cli_options_add_pair(struct argp_state *state, struct vublk_cli_options *options,
				const char *option, char *pair);

/*
 * Adds a name and a value, unless the list has the name already. A command must not add more than
 * VUBLK_CLI_SPARE_OPTIONS defaults.
 */
void vublk_cli_options_add_default(struct vublk_cli_options *options, const char *name,
				   const char *value);

/*
 * Returns the value of `name`, or NULL if the list does not have the name. If the name occurs
 * several times, its last value counts.
 */
const char *vublk_cli_options_get(const struct vublk_cli_options *options, const char *name);

/* Removes `name` from the list, with all its values. */
void vublk_cli_options_remove(struct vublk_cli_options *options, const char *name);

/*
 * Prints a line of --list-options or --list-properties, with the name padded to `name_width`:
 * name, type, `default_value` (NULL: none) and description. If the values are a list of words, the
 * line has the words in place of the type, with | between them. The shells' completion reads this.
 */
void vublk_cli_options_print(const struct vublk_property *option, int name_width,
			     const char *default_value);

/*
 * An alias: the command-line option that adds a name to the list. Error messages of the library
 * contain the name, but the user knows the command-line option. So vublk_cli_options_rename()
 * replaces the name with the option, unless the name was given as a pair.
 */
struct vublk_cli_alias {
	const char *name;   /* the name in the list; NULL: the end of the table */
	const char *option; /* for example "--blk-file" */
	/*
	 * The name is also an English word, so it is replaced only at the beginning of a message
	 * and before '='.
	 */
	bool is_word;
};

void vublk_cli_options_rename(const struct vublk_cli_options *options,
			      const struct vublk_cli_alias *aliases, struct vublk_error *error);

#endif
