/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The options, the clock and the report of the compared clients; see rate.h. */
#include "rate.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

enum {
	KEY_RW = 0x100,
	KEY_BS,
	KEY_IODEPTH,
	KEY_MODE,
	KEY_RUNTIME,
	KEY_RAMP_TIME,
	KEY_NUMBER_IOS,
	KEY_SIZE,
};

static const struct argp_option options[] = {
	{ "rw", KEY_RW, "PATTERN", 0, "randread (default) or randwrite" },
	{ "bs", KEY_BS, "SIZE", 0, "Bytes per request (default: 4k)" },
	{ "iodepth", KEY_IODEPTH, "N", 0, "Requests in flight (default 32)" },
	{ "mode", KEY_MODE, "MODE", 0, "event (default): sleep until the back-end calls; poll" },
	{ "runtime", KEY_RUNTIME, "TIME", 0, "Time of the measurement (default 1s)" },
	{ "ramp_time", KEY_RAMP_TIME, "TIME", 0, "Run for this time before the measurement" },
	{ "number_ios", KEY_NUMBER_IOS, "N", 0, "End after N requests" },
	{ "size", KEY_SIZE, "SIZE", 0, "Bytes of memory that are copied (default 256M)" },
	{ NULL },
};

void rate_fail(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	fprintf(stderr, "%s: ", program_invocation_short_name);
	vfprintf(stderr, format, arguments);
	fputc('\n', stderr);
	va_end(arguments);
	exit(VUBLK_EXIT_FAILED);
}

/* --- options ------------------------------------------------------------------ */

/* Returns whether `value` is `second`. Ends the process if it is neither `first` nor `second`. */
static bool is_second(struct argp_state *state, const char *option, const char *value,
		      const char *first, const char *second)
{
	if (strcmp(value, first) && strcmp(value, second))
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "--%s must be %s or %s, not '%s'",
			     option, first, second, value);
	return !strcmp(value, second);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct rate *rate = state->input;

	switch (key) {
	case KEY_RW:
		rate->is_write = is_second(state, "rw", arg, "randread", "randwrite");
		return 0;
	case KEY_BS:
		rate->block_bytes = (uint32_t)vublk_cli_bytes(state, "bs", arg, 512, 1 << 26);
		return 0;
	case KEY_IODEPTH:
		rate->depth = (unsigned)vublk_cli_number(state, "iodepth", arg, 1, 1024);
		return 0;
	case KEY_MODE:
		rate->is_poll = is_second(state, "mode", arg, "event", "poll");
		return 0;
	case KEY_RUNTIME:
		rate->runtime_ns = vublk_cli_milliseconds(state, "runtime", arg) * 1000000;
		return 0;
	case KEY_RAMP_TIME:
		rate->ramp_ns = vublk_cli_milliseconds(state, "ramp_time", arg) * 1000000;
		return 0;
	case KEY_NUMBER_IOS:
		rate->number_ios = vublk_cli_number(state, "number_ios", arg, 1, INT64_MAX);
		return 0;
	case KEY_SIZE:
		rate->size_bytes = vublk_cli_bytes(state, "size", arg, 1 << 20, INT64_MAX);
		return 0;
	case ARGP_KEY_ARG:
		if (rate->path)
			argp_failure(state, VUBLK_EXIT_MISUSED, 0,
				     "unexpected argument '%s'", arg);
		rate->path = arg;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

void rate_parse(struct rate *rate, const char *usage, const char *doc, int argc, char **argv)
{
	const struct argp argp = { options, parse, usage, doc };

	*rate = (struct rate){ .block_bytes = 4096, .depth = 32, .size_bytes = 256 << 20,
			       .runtime_ns = 1000000000, .random = UINT64_C(0x2545f4914f6cdd1d) };
	vublk_cli_parse(&argp, argc, argv, rate);
}

/* --- the run ------------------------------------------------------------------ */

static void begin_run(struct rate *rate, uint64_t now)
{
	rate->is_ramp = false;
	rate->begun = 0;
	rate->start_ns = now;
	rate->turn_ns = rate->number_ios ? UINT64_MAX : now + rate->runtime_ns;
	memset(&rate->latency_ns, 0, sizeof(rate->latency_ns));
	getrusage(RUSAGE_THREAD, &rate->usage);
}

void rate_begin(struct rate *rate)
{
	uint64_t now = vublk_cli_now_ns();

	begin_run(rate, now);
	if (!rate->ramp_ns)
		return;
	rate->is_ramp = true; /* rate_turn() begins the run again after the ramp */
	rate->turn_ns = now + rate->ramp_ns;
}

bool rate_turn(struct rate *rate, uint64_t now)
{
	if (!rate->is_ramp)
		return false;
	begin_run(rate, now);
	return true;
}

static void subtract(struct timeval *after, const struct timeval *before)
{
	struct timeval since;

	timersub(after, before, &since);
	*after = since;
}

void rate_end(struct rate *rate)
{
	struct rusage usage;

	rate->runtime_ns = vublk_cli_now_ns() - rate->start_ns;
	getrusage(RUSAGE_THREAD, &usage);
	subtract(&usage.ru_utime, &rate->usage.ru_utime);
	subtract(&usage.ru_stime, &rate->usage.ru_stime);
	usage.ru_nvcsw -= rate->usage.ru_nvcsw;
	usage.ru_nivcsw -= rate->usage.ru_nivcsw;
	rate->usage = usage;
}

static double percent(const struct rate *rate, const struct timeval *time)
{
	return ((double)time->tv_sec * 1e9 + (double)time->tv_usec * 1e3) * 100 /
	       (double)rate->runtime_ns;
}

/* The keys of the median and of the 99th percentile are those of fio. */
void rate_print(const struct rate *rate)
{
	const struct vublk_histogram *latency = &rate->latency_ns;

	printf("{ \"jobs\": [ { \"%s\": { \"iops\": %.6f, \"total_ios\": %" PRIu64 ",\n",
	       rate->is_write ? "write" : "read",
	       (double)latency->count * 1e9 / (double)rate->runtime_ns, latency->count);
	printf("  \"clat_ns\": { \"percentile\": { \"50.000000\": %" PRIu64 ", \"99.000000\": %"
	       PRIu64 " } } },\n", vublk_histogram_percentile(latency, 50),
	       vublk_histogram_percentile(latency, 99));
	printf("  \"job_runtime\": %" PRIu64 ", \"usr_cpu\": %.6f, \"sys_cpu\": %.6f, "
	       "\"ctx\": %ld } ] }\n", rate->runtime_ns / 1000000,
	       percent(rate, &rate->usage.ru_utime), percent(rate, &rate->usage.ru_stime),
	       rate->usage.ru_nvcsw + rate->usage.ru_nivcsw);
}
