/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Collects names and values from the command line in an array for the library; see options.h. */
#include "cli/options.h"

#include "cli/cli.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

void vublk_cli_options_add(struct argp_state *state, struct vublk_cli_options *options,
			   const char *name, const char *value)
{
	if (options->count >= VUBLK_CLI_MAX_OPTIONS)
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "too many options; the maximum is %d",
			     VUBLK_CLI_MAX_OPTIONS);
	else
		options->list[options->count++] = (struct vublk_option){ name, value };
}

void vublk_cli_options_add_pair(struct argp_state *state, struct vublk_cli_options *options,
				const char *option, char *pair)
{
	char *equals = strchr(pair, '=');

	if (!equals || equals == pair) {
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "%s must be NAME=VALUE, not '%s'",
			     option, pair);
		return;
	}
	*equals = '\0';
	vublk_cli_options_add(state, options, pair, equals + 1);
	options->is_pair[options->count - 1] = true;
}

void vublk_cli_options_add_default(struct vublk_cli_options *options, const char *name,
				   const char *value)
{
	if (!vublk_cli_options_get(options, name))
		options->list[options->count++] = (struct vublk_option){ name, value };
}

const char *vublk_cli_options_get(const struct vublk_cli_options *options, const char *name)
{
	for (unsigned i = options->count; i-- > 0;)
		if (!strcmp(options->list[i].name, name))
			return options->list[i].value;
	return NULL;
}

void vublk_cli_options_remove(struct vublk_cli_options *options, const char *name)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < options->count; i++) {
		if (!strcmp(options->list[i].name, name))
			continue;
		options->is_pair[kept] = options->is_pair[i];
		options->list[kept++] = options->list[i];
	}
	options->count = kept;
	options->list[kept] = (struct vublk_option){ NULL };
}

/* --- lists of options ------------------------------------------------------------- */

void vublk_cli_options_print(const struct vublk_property *option, int name_width,
			     const char *default_value)
{
	static const char *const of_bool[] = { "on", "off", NULL };
	const char *const *words = strcmp(option->type, "bool") ? option->words : of_bool;
	char values[80];
	size_t length;

	length = (size_t)snprintf(values, sizeof(values), "%s", words ? words[0] : option->type);
	for (size_t i = 1; words && words[i] && length < sizeof(values); i++)
		length += (size_t)snprintf(values + length, sizeof(values) - length, "|%s",
					   words[i]);
	printf("%-*s %-22s %-9s %s\n", name_width, option->name, values,
	       default_value ? default_value : "-", option->description);
}

/* --- names in messages ----------------------------------------------------------- */

static bool is_pair(const struct vublk_cli_options *options, const char *name)
{
	for (unsigned i = 0; i < options->count; i++)
		if (options->is_pair[i] && !strcmp(options->list[i].name, name))
			return true;
	return false;
}

static bool continues_word(char c)
{
	return isalnum((unsigned char)c) || (c && strchr("-_/.'", c));
}

static const struct vublk_cli_alias *alias_at(const struct vublk_cli_options *options,
					      const struct vublk_cli_alias *aliases,
					      const char *text, const char *at)
{
	if (at > text && continues_word(at[-1]))
		return NULL;
	for (; aliases->name; aliases++) {
		size_t length = strlen(aliases->name);

		if (strncmp(at, aliases->name, length) || continues_word(at[length]) ||
		    is_pair(options, aliases->name))
			continue;
		if (!aliases->is_word || at == text || at[length] == '=')
			return aliases;
	}
	return NULL;
}

void vublk_cli_options_rename(const struct vublk_cli_options *options,
			      const struct vublk_cli_alias *aliases, struct vublk_error *error)
{
	struct vublk_error before;
	size_t used = 0;

	if (!error)
		return;
	before = *error;
	for (const char *c = before.text; *c && used + 1 < sizeof(error->text);) {
		const struct vublk_cli_alias *alias = alias_at(options, aliases, before.text, c);

		if (!alias) {
			error->text[used++] = *c++;
			continue;
		}
		c += strlen(alias->name);
		used += (size_t)snprintf(error->text + used, sizeof(error->text) - used, "%s",
					 alias->option);
		used = VUBLK_CLI_MIN(used, sizeof(error->text) - 1);
	}
	error->text[used] = '\0';
}
