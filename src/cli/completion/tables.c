/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Prints the tables of the tool as JSON: commands, their options and arguments, and the commands of
 * control sockets. generate.py makes the completion files of the shells from this output. This
 * program runs at build time and is not installed.
 *
 * Key idea: the program consists of the tool's own objects, except main(), and has an argp_parse()
 * of its own, which collects the tables of its caller instead of parsing. So the tool contains no
 * code for completion, and a new row of any table is in the output.
 */
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/control/commands.h"

#include <json-c/json.h>
#include <setjmp.h>
#include <stdio.h>

/* The command whose tables argp_parse() collects, and where its longjmp() returns to. */
static struct json_object *described;
static jmp_buf parsed;

static void add_text(struct json_object *object, const char *name, const char *text)
{
	json_object_object_add(object, name, json_object_new_string(text ? text : ""));
}

/* --- options ------------------------------------------------------------------------------ */

/* The options that argp adds to each table. No header of argp contains them. */
static const struct argp_option argp_own_options[] = {
	{ "help", '?', NULL, 0, "Print the options of the command and exit" },
	{ "usage", 1, NULL, 0, "Print a short form of the options and exit" },
	{ "version", 'V', NULL, 0, "Print the version and exit" },
	{ NULL },
};

static bool is_end(const struct argp_option *option)
{
	return !option->name && !option->key && !option->doc && !option->group;
}

static void add_names(struct json_object *names, const struct argp_option *option)
{
	char text[64];

	if (option->key > ' ' && option->key < 0x7f) {
		snprintf(text, sizeof(text), "-%c", option->key);
		json_object_array_add(names, json_object_new_string(text));
	}
	snprintf(text, sizeof(text), "--%s", option->name);
	json_object_array_add(names, json_object_new_string(text));
}

static struct json_object *option_json(const struct argp_option *option)
{
	struct json_object *object = json_object_new_object();

	json_object_object_add(object, "names", json_object_new_array());
	add_text(object, "argument", option->arg);
	json_object_object_add(object, "is_optional", json_object_new_boolean(
		option->flags & OPTION_ARG_OPTIONAL));
	add_text(object, "text", option->doc);
	return object;
}

/* Adds the options of a table. The names of an alias belong to the option before it. */
static void add_options(struct json_object *list, const struct argp_option *options)
{
	struct json_object *object = NULL;

	for (; options && !is_end(options); options++) {
		if (!options->name)
			continue; /* the heading of a group */
		if (!(options->flags & OPTION_ALIAS)) {
			object = option_json(options);
			json_object_array_add(list, object);
		}
		add_names(json_object_object_get(object, "names"), options);
	}
}

static void add_argp(struct json_object *list, const struct argp *argp)
{
	add_options(list, argp->options);
	for (const struct argp_child *child = argp->children; child && child->argp; child++)
		add_argp(list, child->argp);
}

/* Replaces the function of the C library in the object files of the tool. Does not return. */
error_t argp_parse(const struct argp *argp, int argc, char **argv, unsigned flags, int *arg_index,
		   void *input)
{
	struct json_object *options = json_object_new_array();

	add_argp(options, argp);
	add_options(options, argp_own_options);
	add_text(described, "arguments", argp->args_doc);
	json_object_object_add(described, "options", options);
	longjmp(parsed, 1);
}

/* --- commands ----------------------------------------------------------------------------- */

static struct json_object *command_json(const struct vublk_cli_command *command)
{
	char *argv[] = { (char *)command->name, NULL };

	described = json_object_new_object();
	add_text(described, "name", command->name);
	add_text(described, "summary", command->summary);
	if (!setjmp(parsed))
		command->run(1, argv);
	return described;
}

static struct json_object *commands_json(void)
{
	struct json_object *list = json_object_new_array();

	for (const struct vublk_cli_command *c = vublk_cli_commands; c->name; c++)
		json_object_array_add(list, command_json(c));
	return list;
}

/* Adds a command of a control socket, unless only a process that takes over a disk can send it. */
static void add_control(struct json_object *commands, const struct vublk_control_command *command)
{
	struct json_object *arguments = json_object_new_array();

	for (const char *const *name = command->arguments; name && *name; name++)
		json_object_array_add(arguments, json_object_new_string(*name));
	if (command->takes_connection)
		json_object_put(arguments);
	else
		json_object_object_add(commands, command->name, arguments);
}

static struct json_object *control_json(void)
{
	struct json_object *commands = json_object_new_object();

	for (const struct vublk_control_command *c = vublk_serve_commands; c->name; c++)
		add_control(commands, c);
	for (const struct vublk_control_command *c = vublk_device_commands; c->name; c++)
		add_control(commands, c);
	add_control(commands, &vublk_events_command);
	return commands;
}

int main(void)
{
	struct json_object *tables = json_object_new_object();

	json_object_object_add(tables, "commands", commands_json());
	json_object_object_add(tables, "control", control_json());
	puts(json_object_to_json_string_ext(tables, JSON_C_TO_STRING_PRETTY |
					    JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(tables);
	return ferror(stdout) || fflush(stdout) ? VUBLK_EXIT_FAILED : VUBLK_EXIT_DONE;
}
