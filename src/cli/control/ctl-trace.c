/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vublk ctl SOCKET trace: begins a trace, asks for its records, and writes them as text, as lines
 * of JSON, or as a pcapng file.
 *
 * Key idea: the server answers immediately with the records that it has. So the client pauses
 * before it asks again, unless the answer contained records. After a signal the client still writes
 * a complete file.
 */
#include "cli/control/ctl-trace.h"

#include "cli/cli.h"
#include "cli/control/json.h"
#include "cli/control/pcapng.h"
#include "cli/control/trace-names.h"
#include "cli/text.h"

#include <vublk/version.h>

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define PAUSE_NS 50000000
#define NS_PER_S UINT64_C(1000000000)

struct trace;

struct format {
	const char *name;
	void (*begin)(FILE *file);
	void (*add)(FILE *file, struct json_object *record);
	void (*end)(FILE *file, const struct trace *trace);
};

struct trace {
	vublk_ctl_ask *ask;
	void *opaque;
	const struct format *format;
	FILE *file;
	uint64_t number, max;
	uint64_t recorded, dropped;
	bool is_active;
};

static volatile sig_atomic_t is_ended;

/* --- records ------------------------------------------------------------------------- */

static uint64_t number_of(struct json_object *record, const char *name)
{
	struct json_object *value;

	return json_object_object_get_ex(record, name, &value) ? json_object_get_uint64(value) : 0;
}

static const char *text_of(struct json_object *record, const char *name)
{
	struct json_object *value;

	return json_object_object_get_ex(record, name, &value) && value ? json_object_get_string(value) :
									  "?";
}

/*
 * Returns the time between the timestamps `first` and `second` of a record; VUBLK_PCAPNG_UNKNOWN if
 * one of them is unknown.
 */
static uint64_t between(struct json_object *record, const char *first, const char *second)
{
	uint64_t begin = number_of(record, first), end = number_of(record, second);

	return begin && end >= begin ? end - begin : VUBLK_PCAPNG_UNKNOWN;
}

static void print_microseconds(FILE *file, uint64_t ns)
{
	if (ns == VUBLK_PCAPNG_UNKNOWN)
		fprintf(file, " %10s", "-");
	else
		fprintf(file, " %10.1f", (double)ns / 1000);
}

/* --- formats -------------------------------------------------------------------------- */

static void begin_text(FILE *file)
{
	fprintf(file, "%-18s %5s %-12s %14s %10s %-6s %10s %10s\n", "completed", "queue", "type",
		"sector", "bytes", "status", "wait us", "latency us");
}

static void add_text(FILE *file, struct json_object *record)
{
	uint64_t completed_ns = number_of(record, "completed_ns");
	time_t seconds = (time_t)(completed_ns / NS_PER_S);
	struct tm local = { 0 };
	char clock[16], type[64], status[64];

	localtime_r(&seconds, &local);
	strftime(clock, sizeof(clock), "%H:%M:%S", &local);
	vublk_cli_escape(type, sizeof(type), text_of(record, "type"));
	vublk_cli_escape(status, sizeof(status), text_of(record, "status"));
	fprintf(file, "%s.%09" PRIu64 " %5" PRIu64 " %-12s %14" PRIu64 " %10" PRIu64 " %-6s", clock,
		completed_ns % NS_PER_S, number_of(record, "queue"), type,
		number_of(record, "sector"), number_of(record, "bytes"), status);
	print_microseconds(file, between(record, "taken_ns", "submitted_ns"));
	print_microseconds(file, between(record, "taken_ns", "completed_ns"));
	fputc('\n', file);
}

static void add_json(FILE *file, struct json_object *record)
{
	vublk_cli_put_json(file, json_object_to_json_string_ext(record, JSON_C_TO_STRING_PLAIN));
}

static void begin_pcapng(FILE *file)
{
	char application[64];

	snprintf(application, sizeof(application), "vublk %s", vublk_version());
	vublk_pcapng_begin(file, application);
}

static void add_pcapng(FILE *file, struct json_object *record)
{
	const struct vublk_pcapng_request request = {
		.completed_ns = number_of(record, "completed_ns"),
		.wait_ns = between(record, "taken_ns", "submitted_ns"),
		.latency_ns = between(record, "taken_ns", "completed_ns"),
		.sector = number_of(record, "sector"),
		.bytes = number_of(record, "bytes"),
		.type = vublk_trace_type_number(text_of(record, "type")),
		.queue = (uint16_t)number_of(record, "queue"),
		.status = vublk_trace_status_number(text_of(record, "status")),
	};

	vublk_pcapng_add(file, &request);
}

static void end_pcapng(FILE *file, const struct trace *trace)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	vublk_pcapng_end(file, (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec,
			 trace->recorded, trace->dropped);
}

static const struct format formats[] = {
	{ "text", begin_text, add_text, NULL },
	{ "json", NULL, add_json, NULL },
	{ "pcapng", begin_pcapng, add_pcapng, end_pcapng },
};

static const struct format *find_format(const char *name)
{
	for (size_t i = 0; i < VUBLK_CLI_ARRAY_SIZE(formats); i++)
		if (!strcmp(formats[i].name, name))
			return &formats[i];
	return NULL;
}

bool vublk_ctl_trace_has_format(const char *format)
{
	return find_format(format);
}

/* --- questions ------------------------------------------------------------------------ */

static void add_records(struct trace *trace, struct json_object *records)
{
	size_t count = json_object_array_length(records);

	for (size_t i = 0; i < count && (!trace->max || trace->recorded < trace->max); i++) {
		trace->format->add(trace->file, json_object_array_get_idx(records, i));
		trace->recorded++;
	}
}

/*
 * Sends `trace` with the flag `flag` (may be NULL) and writes the records in the answer to the
 * file, up to the maximum. Returns the number of records in the answer, or a negative errno.
 */
static int ask(struct trace *trace, const char *flag, struct vublk_error *error)
{
	struct json_object *arguments = json_object_new_object();
	struct json_object *result, *records;
	int r;

	if (flag)
		vublk_json_add_bool(arguments, flag, true);
	if (trace->number)
		vublk_json_add_u64(arguments, "number", trace->number);
	r = trace->ask(trace->opaque, arguments, &result, error);
	if (r)
		return r;
	trace->number = number_of(result, "number");
	trace->dropped = number_of(result, "dropped");
	trace->is_active = number_of(result, "active");
	if (json_object_object_get_ex(result, "records", &records) &&
	    json_object_is_type(records, json_type_array)) {
		r = (int)json_object_array_length(records);
		add_records(trace, records);
	}
	json_object_put(result);
	return r;
}

static int check_file(struct trace *trace, const char *name, struct vublk_error *error)
{
	if (!fflush(trace->file) && !ferror(trace->file))
		return 0;
	return vublk_cli_error_errno(error, errno, "cannot write the trace to '%s'", name);
}

/*
 * Asks for records until a signal, the maximum or the device ends the trace. The device ends the
 * trace when the device is closed, or when this process has not asked for a while.
 */
static int run(struct trace *trace, const char *name, struct vublk_error *error)
{
	const struct timespec pause = { .tv_nsec = PAUSE_NS };
	int r = ask(trace, "start", error);

	while (r >= 0 && !is_ended && trace->is_active &&
	       (!trace->max || trace->recorded < trace->max)) {
		int failed = check_file(trace, name, error);

		if (failed)
			return failed;
		if (!r)
			nanosleep(&pause, NULL);
		r = ask(trace, NULL, error);
	}
	if (r >= 0 && !trace->is_active)
		fprintf(stderr, "vublk ctl: the trace has ended, because the device was closed or "
			"the records were not read fast enough\n");
	return r < 0 ? r : 0;
}

static int finish(struct trace *trace, const char *name, struct vublk_error *error)
{
	int r = trace->is_active ? ask(trace, "stop", error) : 1;

	while (r > 0 && (!trace->max || trace->recorded < trace->max)) /* reads the remaining
									  records of the trace */
		r = ask(trace, NULL, error);
	if (trace->format->end)
		trace->format->end(trace->file, trace);
	if (r >= 0)
		r = check_file(trace, name, error);
	fprintf(stderr, "vublk ctl: recorded %" PRIu64 " requests and dropped %" PRIu64 "\n",
		trace->recorded, trace->dropped);
	return r;
}

static void on_signal(int number)
{
	is_ended = 1;
}

/* Makes SIGINT and SIGTERM end the trace. An interrupted write to the output is restarted. */
static void watch_signals(void)
{
	const struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART };

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

int vublk_ctl_trace(vublk_ctl_ask *ask_fn, void *opaque, const struct vublk_ctl_trace_options *options,
		    struct vublk_error *error)
{
	const char *name = options->output ? options->output : "standard output";
	struct trace trace = {
		.ask = ask_fn, .opaque = opaque, .max = options->max, .file = stdout,
		.format = find_format(options->format ? options->format : "text"),
	};
	int r;

	if (options->output)
		trace.file = fopen(options->output, "we");
	if (!trace.file)
		return vublk_cli_error_errno(error, errno, "cannot create '%s'", options->output);
	watch_signals();
	if (trace.format->begin)
		trace.format->begin(trace.file);
	r = run(&trace, name, error);
	if (!r)
		r = finish(&trace, name, error);
	if (options->output && fclose(trace.file) && !r)
		r = vublk_cli_error_errno(error, errno, "cannot write the trace to '%s'", name);
	return r;
}
