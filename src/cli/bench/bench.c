/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vublk bench: measures the disk behind a socket, or verifies what it writes to the disk. This file
 * parses the command line and prints the progress; run.c runs the load.
 *
 * Key idea: the options that fio also has keep fio's meaning, except that --verify has no value.
 */
#include "cli/bench/bench.h"

#include "cli/bench/pacer.h"
#include "cli/cli.h"
#include "cli/disk.h"
#include "cli/signals.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	KEY_RW = 0x100,
	KEY_BS,
	KEY_IODEPTH,
	KEY_NUMJOBS,
	KEY_RUNTIME,
	KEY_TIME_BASED,
	KEY_RAMP_TIME,
	KEY_SIZE,
	KEY_OFFSET,
	KEY_RWMIXREAD,
	KEY_RATE_IOPS,
	KEY_NUMBER_IOS,
	KEY_FSYNC,
	KEY_SEED,
	KEY_VERIFY,
	KEY_MODE,
	KEY_OUTPUT_FORMAT,
	KEY_JSON,
	KEY_GROUP_REPORTING,
	KEY_STALL_TIME,
};

#define DEFAULT_SECONDS 10
#define MAX_JOBS VUBLK_MAX_QUEUES
#define MAX_BLOCK_BYTES (UINT64_C(64) << 20)
#define LINE_NS 500000000

struct arguments {
	const char *socket;
	bool json;
	bool group_reporting;
	struct vublk_bench_config config;
	struct vublk_disk_options disk;
};

/* --- options ------------------------------------------------------------------ */

static const struct argp_option options[] = {
	{ NULL, 0, NULL, 0, "The load:", 1 },
	{ "rw", KEY_RW, "[rand](read|write|rw|trim)", 0,
	  "The kind of requests; the prefix rand makes their order random (default: randread). All "
	  "kinds except read and randread overwrite the disk" },
	{ "readwrite", KEY_RW, "[rand](read|write|rw|trim)", 0, "Same as --rw" },
	{ "bs", KEY_BS, "SIZE", 0, "Bytes per request (default: 4k)" },
	{ "blocksize", KEY_BS, NULL, OPTION_ALIAS },
	{ "iodepth", KEY_IODEPTH, "N", 0, "Requests in flight per job (default: 32)" },
	{ "numjobs", KEY_NUMJOBS, "N", 0,
	  "Run N jobs, each with its own thread, queue and part of the disk (default: 1)" },
	{ "rwmixread", KEY_RWMIXREAD, "PERCENT", 0, "Percentage of reads in a mixed load (default: "
						    "50)" },
	{ "rate_iops", KEY_RATE_IOPS, "N", 0, "Start at most N requests per second and job; "
					      "latencies count from the time at which a "
					"request was due" },
	{ "offset", KEY_OFFSET, "SIZE", 0, "Start of the part of the disk to use (default: 0)" },
	{ "size", KEY_SIZE, "SIZE", 0, "Size of the part of the disk to use (default: up to the "
				       "end of the disk)" },
	{ "fsync", KEY_FSYNC, "N", 0, "Flush after every N writes" },
	{ "mode", KEY_MODE, "event|poll", 0,
	  "How to wait for completions: sleep (event, the default) or spin (poll)" },
	{ "seed", KEY_SEED, "N", 0, "Seed of the random order (default: 0)" },
	{ "randseed", KEY_SEED, NULL, OPTION_ALIAS },
	{ NULL, 0, NULL, 0, "When to end (default: after 10 s; with --size or --verify: when each "
			    "block was visited):", 2 },
	{ "runtime", KEY_RUNTIME, "TIME", 0, "End after this time at the latest" },
	{ "time_based", KEY_TIME_BASED, NULL, 0,
	  "Run until the end of --runtime, even if each block was visited" },
	{ "number_ios", KEY_NUMBER_IOS, "N", 0, "End after N requests per job" },
	{ "ramp_time", KEY_RAMP_TIME, "TIME", 0, "Run for this time before the measurement "
						 "starts" },
	{ "stall-time", KEY_STALL_TIME, "TIME", 0,
	  "Fail if no request completes for this time (default: 30s)" },
	{ NULL, 0, NULL, 0, "The result:", 3 },
	{ "verify", KEY_VERIFY, NULL, 0, "Write blocks that contain their offset and generation, "
					 "check each block that is read, and at the end read back "
					 "all blocks that were written; with --rw=read or "
					 "randread, check the blocks of an earlier run with "
					 "--verify" },
	{ "output-format", KEY_OUTPUT_FORMAT, "normal|json", 0,
	  "Format of the result, as in fio (default: normal)" },
	{ "json", KEY_JSON, NULL, 0, "Same as --output-format=json" },
	{ "group_reporting", KEY_GROUP_REPORTING, NULL, 0, "In JSON, report all jobs as one "
							   "entry" },
	{ NULL },
};

static void set_rw(struct argp_state *state, const char *text, struct vublk_bench_config *config)
{
	static const struct {
		const char *name;
		enum vublk_bench_direction direction;
		bool mixed;
		bool random;
	} patterns[] = {
		{ "read", VUBLK_BENCH_READ, false, false },
		{ "write", VUBLK_BENCH_WRITE, false, false },
		{ "rw", VUBLK_BENCH_READ, true, false },
		{ "readwrite", VUBLK_BENCH_READ, true, false },
		{ "trim", VUBLK_BENCH_TRIM, false, false },
		{ "randread", VUBLK_BENCH_READ, false, true },
		{ "randwrite", VUBLK_BENCH_WRITE, false, true },
		{ "randrw", VUBLK_BENCH_READ, true, true },
		{ "randtrim", VUBLK_BENCH_TRIM, false, true },
	};

	for (size_t i = 0; i < VUBLK_CLI_ARRAY_SIZE(patterns); i++)
		if (!strcmp(text, patterns[i].name)) {
			config->rw = patterns[i].name;
			config->direction = patterns[i].direction;
			config->mixed = patterns[i].mixed;
			config->random = patterns[i].random;
			return;
		}
	argp_failure(state, VUBLK_EXIT_MISUSED, 0, "--rw must be read, write, randread, randwrite, "
		     "rw, randrw, trim or randtrim, not '%s'", text);
}

/*
 * Returns whether the value `text` of `option` is `second`. If it is neither `first` nor `second`,
 * ends the process.
 */
static bool second_word(struct argp_state *state, const char *option, const char *text,
			const char *first, const char *second)
{
	if (strcmp(text, first) && strcmp(text, second))
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "--%s must be %s or %s, not '%s'", option,
			     first, second, text);
	return !strcmp(text, second);
}

static error_t parse_load(int key, char *arg, struct argp_state *state)
{
	struct vublk_bench_config *config = &((struct arguments *)state->input)->config;

	switch (key) {
	case KEY_RW:
		set_rw(state, arg, config);
		return 0;
	case KEY_BS:
		config->block_bytes = (uint32_t)vublk_cli_bytes(state, "bs", arg, 512,
								MAX_BLOCK_BYTES);
		return 0;
	case KEY_IODEPTH:
		config->depth = (unsigned)vublk_cli_number(state, "iodepth", arg, 1,
							   VUBLK_MAX_QUEUE_SIZE);
		return 0;
	case KEY_NUMJOBS:
		config->num_jobs = (unsigned)vublk_cli_number(state, "numjobs", arg, 1, MAX_JOBS);
		return 0;
	case KEY_RWMIXREAD:
		config->read_percent = (unsigned)vublk_cli_number(state, "rwmixread", arg, 0, 100);
		return 0;
	case KEY_RATE_IOPS:
		config->rate_iops = vublk_cli_number(state, "rate_iops", arg, 1,
						     VUBLK_PACER_MAX_RATE);
		return 0;
	case KEY_OFFSET:
		config->offset_bytes = vublk_cli_bytes(state, "offset", arg, 0, INT64_MAX);
		return 0;
	case KEY_SIZE:
		config->size_bytes = vublk_cli_bytes(state, "size", arg, 512, INT64_MAX);
		return 0;
	case KEY_FSYNC:
		config->fsync_every = (unsigned)vublk_cli_number(state, "fsync", arg, 0, INT32_MAX);
		return 0;
	case KEY_MODE:
		config->poll = second_word(state, "mode", arg, "event", "poll");
		return 0;
	case KEY_SEED:
		config->seed = vublk_cli_number(state, "seed", arg, 0, UINT64_MAX);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static error_t parse_end(int key, char *arg, struct argp_state *state)
{
	struct arguments *arguments = state->input;
	struct vublk_bench_config *config = &arguments->config;

	switch (key) {
	case KEY_RUNTIME:
		config->runtime_ms = vublk_cli_milliseconds(state, "runtime", arg);
		return 0;
	case KEY_TIME_BASED:
		config->time_based = true;
		return 0;
	case KEY_NUMBER_IOS:
		config->number_ios = vublk_cli_number(state, "number_ios", arg, 1, INT64_MAX);
		return 0;
	case KEY_RAMP_TIME:
		config->ramp_ms = vublk_cli_milliseconds(state, "ramp_time", arg);
		return 0;
	case KEY_STALL_TIME:
		config->stall_ms = vublk_cli_stall_ms(state, "stall-time", arg);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/*
 * Sets when the run ends. Without an amount (--size, --number_ios) the run ends after a time,
 * because fio's default, one pass over the whole disk, would end too soon on a small disk.
 * Exception: with --verify, but neither --runtime nor an amount, the run visits every block once.
 */
static void set_end(struct argp_state *state, struct arguments *arguments)
{
	struct vublk_bench_config *config = &arguments->config;
	bool amount = config->size_bytes || config->number_ios;

	if (config->time_based && !config->runtime_ms)
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "--time_based needs --runtime");
	if (!config->runtime_ms && !amount && !config->verify)
		config->runtime_ms = DEFAULT_SECONDS * 1000;
	if (config->runtime_ms && !amount)
		config->time_based = true;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *arguments = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &arguments->disk;
		return 0;
	case KEY_VERIFY:
		arguments->config.verify = true;
		return 0;
	case KEY_OUTPUT_FORMAT:
		arguments->json = second_word(state, "output-format", arg, "normal", "json");
		return 0;
	case KEY_JSON:
		arguments->json = true;
		return 0;
	case KEY_GROUP_REPORTING:
		arguments->group_reporting = true;
		return 0;
	case ARGP_KEY_ARG:
		vublk_cli_take_argument(state, &arguments->socket, arg);
		return 0;
	case ARGP_KEY_NO_ARGS:
		vublk_cli_refuse_no_socket(state);
		return 0;
	case ARGP_KEY_SUCCESS:
		set_end(state, arguments);
		return 0;
	default:
		return parse_load(key, arg, state) ? parse_end(key, arg, state) : 0;
	}
}

/* --- while it runs ------------------------------------------------------------ */

struct progress_line {
	bool shown;
	uint64_t last_ns;               /* when the progress line was last printed */
	struct vublk_bench_live last;
};

static void print_rates(const struct progress_line *line, const struct vublk_bench_live *live,
			double elapsed)
{
	char iops[VUBLK_CLI_TEXT_BYTES], speed[VUBLK_CLI_TEXT_BYTES];

	for (unsigned d = VUBLK_BENCH_READ; d < VUBLK_BENCH_SYNC; d++) {
		uint64_t requests = live->requests[d] - line->last.requests[d];
		uint64_t bytes = live->bytes[d] - line->last.bytes[d];

		if (live->requests[d] < line->last.requests[d] || !requests)
			continue;
		fprintf(stderr, "  %s %s IOPS %s/s", vublk_bench_direction_name(d),
			vublk_cli_format_count(iops, (double)requests / elapsed),
			vublk_cli_format_bytes(speed, (uint64_t)((double)bytes / elapsed)));
	}
}

static bool tick(void *opaque, const struct vublk_bench_live *live)
{
	struct progress_line *line = opaque;
	uint64_t now = vublk_cli_now_ns();

	if (vublk_cli_signals_caught())
		return true;
	if (!isatty(STDERR_FILENO) || now - line->last_ns < LINE_NS)
		return false;
	fprintf(stderr, "\r%-6s %5.1f s", live->phase, (double)live->elapsed_ns / 1e9);
	print_rates(line, live, (double)(now - line->last_ns) / 1e9);
	fputs("\033[K", stderr);
	line->shown = true;
	line->last_ns = now;
	line->last = *live;
	return false;
}

/* --- the command -------------------------------------------------------------- */

static void report(const struct arguments *arguments, const struct vublk_bench_result *results,
		   struct vublk_bench_result *total)
{
	const struct vublk_bench_config *config = &arguments->config;

	for (unsigned i = 0; i < config->num_jobs; i++)
		vublk_bench_add(total, &results[i]);
	if (!arguments->json)
		vublk_bench_print_text(stdout, arguments->socket, config, total);
	else if (arguments->group_reporting)
		vublk_bench_print_json(stdout, arguments->socket, config, total, 1);
	else
		vublk_bench_print_json(stdout, arguments->socket, config, results,
				       config->num_jobs);
}

static int run(const struct arguments *arguments, struct vublk_blk *blk)
{
	struct vublk_bench_result *results = calloc(arguments->config.num_jobs + 1,
						    sizeof(*results));
	struct progress_line line = { .last_ns = vublk_cli_now_ns() };
	struct vublk_bench_result *total;
	struct vublk_error error = { 0 };
	int ret;

	if (!results)
		return vublk_cli_fail("bench", "cannot allocate memory for the results of %u jobs",
				      arguments->config.num_jobs);
	ret = vublk_bench_run(blk, &arguments->config, tick, &line, results, &error);
	if (line.shown)
		fputs("\r\033[K", stderr);
	total = &results[arguments->config.num_jobs];
	if (!ret)
		report(arguments, results, total);
	if (!ret && total->abandoned)
		vublk_cli_warn("bench", "the measurement ended during an outage, so the result "
			       "does not include %u request%s in flight", total->abandoned,
			       total->abandoned == 1 ? "" : "s");
	free(results);
	if (ret)
		return vublk_cli_fail("bench", "%s", error.text);
	if (vublk_cli_signals_caught())
		return vublk_cli_fail("bench", "interrupted by signal %d before the end",
				      vublk_cli_signals_caught());
	return VUBLK_EXIT_DONE;
}

int vublk_cmd_bench(int argc, char **argv)
{
	static const struct argp_child children[] = { { &vublk_disk_argp, 0, NULL, 0 }, { NULL } };
	static const struct argp argp = {
		options, parse, "SOCKET",
		"Measure the disk behind a vhost-user-blk socket, or write and verify it. Options "
		"have the names and meanings that they have in fio.",
		children,
	};
	struct arguments arguments = { .config = {
		.rw = "randread", .direction = VUBLK_BENCH_READ, .random = true,
		.read_percent = 50, .block_bytes = 4096, .depth = 32, .num_jobs = 1,
		.stall_ms = 30000,
	} };
	struct vublk_disk_watch watch;
	struct vublk_error error = { 0 };
	struct vublk_blk *blk;
	int status;

	vublk_cli_parse(&argp, argc, argv, &arguments);
	vublk_disk_limit_queues(&arguments.disk, arguments.config.num_jobs);
	if (vublk_disk_open_watched("bench", arguments.socket, &arguments.disk, &watch, &blk,
				    &error))
		return vublk_cli_fail_open("bench", &error);
	arguments.config.watch = &watch;
	vublk_cli_signals_catch();
	status = run(&arguments, blk);
	vublk_blk_close(blk, 0, NULL);
	return status;
}
