/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* vublk chaos: the command line, its options and their defaults. chaos.h lists the other files. */
#include "cli/chaos/chaos.h"

#include "cli/cli.h"
#include "cli/disk.h"
#include "cli/paths.h"
#include "cli/pattern.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMMAND "chaos"
#define DEFAULT_ACTIONS 10 /* the default of --kills without --runtime */

enum {
	KEY_FAULTS = 0x300,
	KEY_KILLS,
	KEY_RUNTIME,
	KEY_INTERVAL,
	KEY_ENV,
	KEY_VOLATILE,
	KEY_THROUGH,
	KEY_QUEUES,
	KEY_IODEPTH,
	KEY_SIZE,
	KEY_SEED,
	KEY_STUCK_AFTER,
	KEY_JSON,
};

struct arguments {
	struct vublk_disk_options disk;
	struct vublk_chaos_config config;
	bool has_seed;
	bool json;
	bool misused; /* the disk could not be opened because an option is wrong */
	char gave_up[VUBLK_ERROR_TEXT_BYTES]; /* the reason of VUBLK_BLK_GAVE_UP, set by the disk's
						 thread */
};

static const struct argp_option options[] = {
	{ NULL, 0, NULL, 0, "Actions on the back-end:", 1 },
	{ "faults", KEY_FAULTS, "kill|stop|term|replace,...|none", 0,
	  "Actions, separated by commas (default: kill)" },
	{ "kills", KEY_KILLS, "N", 0, "End after N actions (default: 10)" },
	{ "runtime", KEY_RUNTIME, "TIME", 0, "End after this time" },
	{ "interval", KEY_INTERVAL, "MIN-MAX", 0,
	  "Time between two actions, in milliseconds (default: 50-250)" },
	{ "env", KEY_ENV, "NAME=VALUE", 0,
	  "Set this variable in the environment of COMMAND, except at its last start" },
	{ "volatile-cache", KEY_VOLATILE, NULL, 0,
	  "Accept that the back-end loses completed writes that were not flushed" },
	{ "through", KEY_THROUGH, "SOCKET", 0,
	  "Connect the load to this socket of a vublk device, which connects to the back-end" },
	{ "stuck-after", KEY_STUCK_AFTER, "TIME", 0,
	  "Time limit for a request while the back-end runs, and for each start of the back-end "
	  "(default: 30s)" },
	{ NULL, 0, NULL, 0, "The load:", 2 },
	{ "queues", KEY_QUEUES, "N", 0, "Use N queues, each with its own thread (default: 1)" },
	{ "iodepth", KEY_IODEPTH, "N", 0, "Requests in flight per queue (default: 32)" },
	{ "size", KEY_SIZE, "SIZE", 0,
	  "Use the first SIZE bytes of the disk (default: all, at most 64M)" },
	{ "seed", KEY_SEED, "N", 0, "Seed of the random load and actions (default: random)" },
	{ NULL, 0, NULL, 0, "The result:", 3 },
	{ "json", KEY_JSON, NULL, 0, "Print the result as JSON" },
	{ NULL },
};

/* --- values ------------------------------------------------------------------- */

static void parse_faults(struct argp_state *state, struct vublk_chaos_config *config, char *list)
{
	char *word, *rest = list;

	config->actions = 0;
	while ((word = strsep(&rest, ","))) {
		unsigned d = 0;

		if (!strcmp(word, "none"))
			continue;
		while (d < VUBLK_CHAOS_OWN && strcmp(word, vublk_chaos_action_name(d)))
			d++;
		if (d == VUBLK_CHAOS_OWN)
			argp_failure(state, VUBLK_EXIT_MISUSED, 0, "--faults must be one or more of "
				     "kill, stop, term and replace, separated by commas, or none, "
				     "not '%s'", word);
		config->actions |= 1u << d;
	}
}

static void parse_interval(struct argp_state *state, struct vublk_chaos_config *config, char *text)
{
	char *dash = strchr(text, '-');
	const unsigned max_ms = 3600000;

	if (dash)
		*dash = '\0';
	config->min_interval_ms = (unsigned)vublk_cli_number(state, "interval", text, 0, max_ms);
	config->max_interval_ms = config->min_interval_ms;
	if (dash)
		config->max_interval_ms = (unsigned)vublk_cli_number(state, "interval", dash + 1,
								     config->min_interval_ms,
								     max_ms);
}

static void add_env(struct argp_state *state, struct vublk_chaos_config *config, const char *pair)
{
	if (!strchr(pair, '=') || pair[0] == '=')
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "--env must be NAME=VALUE, not '%s'",
			     pair);
	if (config->num_env == VUBLK_CHAOS_MAX_ENV)
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "--env can be given at most %d times",
			     VUBLK_CHAOS_MAX_ENV);
	config->env[config->num_env++] = pair;
}

/* --- the parser ----------------------------------------------------------------- */

static error_t parse_load(int key, char *arg, struct argp_state *state)
{
	struct arguments *arguments = state->input;
	struct vublk_chaos_config *config = &arguments->config;

	switch (key) {
	case KEY_QUEUES:
		config->num_queues = (unsigned)vublk_cli_number(state, "queues", arg, 1,
								VUBLK_MAX_QUEUES);
		return 0;
	case KEY_IODEPTH:
		config->depth = (unsigned)vublk_cli_number(state, "iodepth", arg, 1,
							   VUBLK_MAX_QUEUE_SIZE);
		return 0;
	case KEY_SIZE:
		config->size_bytes = vublk_cli_bytes(state, "size", arg, VUBLK_CHAOS_BLOCK_BYTES,
						     INT64_MAX);
		return 0;
	case KEY_SEED:
		config->seed = vublk_cli_number(state, "seed", arg, 0, UINT64_MAX);
		arguments->has_seed = true;
		return 0;
	case KEY_JSON:
		arguments->json = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static error_t parse_actions(int key, char *arg, struct argp_state *state)
{
	struct arguments *arguments = state->input;
	struct vublk_chaos_config *config = &arguments->config;

	switch (key) {
	case KEY_FAULTS:
		parse_faults(state, config, arg);
		return 0;
	case KEY_KILLS:
		config->num_actions = (unsigned)vublk_cli_number(state, "kills", arg, 1, INT32_MAX);
		return 0;
	case KEY_RUNTIME:
		config->runtime_ms = vublk_cli_milliseconds(state, "runtime", arg);
		return 0;
	case KEY_INTERVAL:
		parse_interval(state, config, arg);
		return 0;
	case KEY_VOLATILE:
		config->is_volatile = true;
		return 0;
	case KEY_THROUGH:
		config->through = arg;
		return 0;
	case KEY_ENV:
		add_env(state, config, arg);
		return 0;
	case KEY_STUCK_AFTER:
		config->stuck_ms = vublk_cli_stall_ms(state, "stuck-after", arg);
		return 0;
	default:
		return parse_load(key, arg, state);
	}
}

/*
 * Stores a word of the command line that is not an option. The first such word is SOCKET. The
 * second one and everything after it, options included, are the back-end's command.
 */
static void take_word(struct argp_state *state, struct vublk_chaos_config *config, char *arg)
{
	if (!config->socket) {
		config->socket = arg;
		return;
	}
	config->command = &state->argv[state->next - 1];
	state->next = state->argc;
}

static void check(struct argp_state *state, struct vublk_chaos_config *config)
{
	const struct vublk_cli_path paths[] = {
		{ "the SOCKET of the back-end", config->socket }, { "--through", config->through },
	};

	if (!config->socket)
		argp_failure(state, VUBLK_EXIT_MISUSED, 0,
			     "the SOCKET of the back-end is missing; see --help");
	else if (!config->command)
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "the COMMAND that starts the back-end "
			     "at '%s' is missing; give it after '--'", config->socket);
	else if (!config->num_actions && !config->runtime_ms)
		config->num_actions = DEFAULT_ACTIONS;
	if (!config->actions && !config->num_env && !config->runtime_ms)
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "--faults=none needs --runtime or --env");
	vublk_cli_check_paths(state, paths, VUBLK_CLI_ARRAY_SIZE(paths));
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *arguments = state->input;
	struct vublk_chaos_config *config = &arguments->config;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &arguments->disk;
		return 0;
	case ARGP_KEY_ARG:
		take_word(state, config, arg);
		return 0;
	case ARGP_KEY_END:
		check(state, config);
		return 0;
	default:
		return parse_actions(key, arg, state);
	}
}

/* --- the command -------------------------------------------------------------- */

static void on_event(void *opaque, enum vublk_blk_event event, const struct vublk_error *error)
{
	struct arguments *arguments = opaque;

	if (event == VUBLK_BLK_GAVE_UP && error)
		snprintf(arguments->gave_up, sizeof(arguments->gave_up), "%s", error->text);
}

/*
 * Opens the disk. Unlike bench and copy, this command keeps the library's default of reconnect-ms,
 * so the disk waits for the next back-end.
 */
static int open_disk(void *opaque, struct vublk_blk **blk, struct vublk_error *error)
{
	struct arguments *arguments = opaque;
	const struct vublk_chaos_config *config = &arguments->config;
	struct vublk_blk_handlers handlers = { .log = {
		.fn = vublk_cli_log, .opaque = (void *)COMMAND,
		.level = arguments->disk.verbose ? VUBLK_LOG_DEBUG : VUBLK_LOG_ERROR,
	}, .event = on_event, .opaque = arguments };

	struct vublk_cli_options list = arguments->disk.list;
	int ret;

	/* Flushes must not report lost writes, because the verifier itself finds them. */
	vublk_cli_options_add_default(&list, "unflushed", "trust");
	ret = vublk_blk_open(config->through ? config->through : config->socket, list.list,
			     &handlers, sizeof(handlers), blk, error);
	arguments->misused = ret == -EINVAL;
	return ret;
}

static int run(struct arguments *arguments, struct vublk_chaos_result *result)
{
	struct vublk_error error = { 0 };
	int ret = vublk_chaos_run(&arguments->config, open_disk, arguments, result, &error);
	uint64_t faults = vublk_chaos_count_faults(result);

	/* A run that ended early may also have found faults. */
	if (!ret || faults)
		(arguments->json ? vublk_chaos_print_json
				 : vublk_chaos_print_text)(stdout, &arguments->config, result);
	if (arguments->misused)
		return vublk_cli_misuse(COMMAND, "%s", error.text);
	if (ret)
		return vublk_cli_fail(COMMAND, "%s%s%s", error.text, arguments->gave_up[0] ? "; " : "",
				      arguments->gave_up);
	if (faults)
		return vublk_cli_fail(COMMAND, "%" PRIu64 " fault%s found; --seed=%" PRIu64
				      " repeats this load and these actions", faults,
				      faults == 1 ? "" : "s", arguments->config.seed);
	return VUBLK_EXIT_DONE;
}

int vublk_cmd_chaos(int argc, char **argv)
{
	static const struct argp_child children[] = { { &vublk_disk_argp, 0, NULL, 0 }, { NULL } };
	static const struct argp argp = {
		options, parse, "SOCKET -- COMMAND [ARGUMENT...]",
		"Kill, stop and replace the back-end COMMAND, which serves SOCKET, while its disk "
		"is written and verified. This destroys the content of the disk.",
		children,
	};
	struct arguments arguments = { .disk.reconnects = true, .config = {
		.actions = 1u << VUBLK_CHAOS_KILL, .min_interval_ms = 50, .max_interval_ms = 250,
		.num_queues = 1, .depth = 32, .stuck_ms = 30000,
	} };
	struct vublk_chaos_result *result;
	int status;

	vublk_cli_parse(&argp, argc, argv, &arguments);
	vublk_disk_limit_queues(&arguments.disk, arguments.config.num_queues);
	arguments.config.verbose = arguments.disk.verbose;
	if (!arguments.has_seed)
		arguments.config.seed = vublk_mix(vublk_cli_now_ns()) >> 32;
	result = calloc(1, sizeof(*result));
	if (!result)
		return vublk_cli_fail(COMMAND, "cannot allocate memory for the result");
	status = run(&arguments, result);
	free(result);
	return status;
}
