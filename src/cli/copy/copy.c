/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vublk copy: copies from a file to a disk, from a disk to a file, or from disk to disk. This file
 * parses the command line and shows the progress; run.c does the copying.
 */
#include "cli/copy/copy.h"

#include "cli/cli.h"
#include "cli/progress.h"
#include "cli/signals.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

enum {
	KEY_REQUESTS = 0x100,
	KEY_REQUEST_SIZE,
	KEY_SIZE,
	KEY_ALLOCATED,
	KEY_PROGRESS,
	KEY_QUIET,
	KEY_STALL_TIME,
};

#define MAX_QUEUES 4 /* the default limit; more queues hardly make the copy faster */
#define DEFAULT_REQUESTS 16
#define DEFAULT_REQUEST_BYTES (256 << 10)
#define MIN_REQUEST_BYTES (4 << 10)
#define MAX_REQUEST_BYTES (32 << 20)
#define FLUSH_BYTES (UINT64_C(256) << 20)

struct arguments {
	const char *from;
	const char *to;
	uint64_t size_bytes;
	int progress_fd;      /* -1: not given */
	bool bar;             /* show the bar even if standard error is not a terminal */
	bool quiet;
	struct vublk_copy copy;
	struct vublk_disk_options disk;
};

static const struct argp_option options[] = {
	{ NULL, 0, NULL, 0, "The copy:", 1 },
	{ "size", KEY_SIZE, "SIZE", 0, "Copy only the first SIZE bytes" },
	{ "allocated", KEY_ALLOCATED, NULL, 0,
	  "Write zeroes instead of making holes" },
	{ "requests", KEY_REQUESTS, "N", 0, "Requests in flight per queue (default: 16)" },
	{ "request-size", KEY_REQUEST_SIZE, "SIZE", 0,
	  "Bytes per request, a power of two (default: 256k)" },
	{ "stall-time", KEY_STALL_TIME, "TIME", 0,
	  "Fail if no request completes for this time (default: 30s)" },
	{ NULL, 0, NULL, 0, "Progress (default: a bar if standard error is a terminal):", 2 },
	{ "progress", KEY_PROGRESS, "FD", OPTION_ARG_OPTIONAL,
	  "Show a bar even without a terminal; with FD, write lines PERCENT/100 to that descriptor "
	  "instead" },
	{ "quiet", KEY_QUIET, NULL, 0, "Show no progress" },
	{ NULL },
};

/* --- arguments ---------------------------------------------------------------- */

static void parse_progress(struct argp_state *state, const char *text, struct arguments *arguments)
{
	if (!text) {
		arguments->bar = true;
		return;
	}
	arguments->progress_fd = (int)vublk_cli_number(state, "progress", text, 0, INT32_MAX);
	if (fcntl(arguments->progress_fd, F_GETFD) < 0)
		argp_failure(state, VUBLK_EXIT_MISUSED, 0,
			     "--progress=%s does not name an open descriptor", text);
}

static error_t parse_path(char *arg, struct argp_state *state, struct arguments *arguments)
{
	if (!arguments->from)
		arguments->from = arg;
	else if (!arguments->to)
		arguments->to = arg;
	else
		vublk_cli_refuse_argument(state, arg);
	return 0;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *arguments = state->input;
	struct vublk_copy *copy = &arguments->copy;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &arguments->disk;
		return 0;
	case KEY_SIZE:
		arguments->size_bytes = vublk_cli_bytes(state, "size", arg, 1, INT64_MAX);
		return 0;
	case KEY_ALLOCATED:
		copy->allocated = true;
		return 0;
	case KEY_REQUESTS:
		copy->num_requests = (unsigned)vublk_cli_number(state, "requests", arg, 1,
								VUBLK_MAX_QUEUE_SIZE);
		return 0;
	case KEY_REQUEST_SIZE:
		copy->request_bytes = vublk_cli_request_bytes(state, arg, MIN_REQUEST_BYTES,
								MAX_REQUEST_BYTES);
		return 0;
	case KEY_STALL_TIME:
		copy->stall_ms = vublk_cli_stall_ms(state, "stall-time", arg);
		return 0;
	case KEY_PROGRESS:
		parse_progress(state, arg, arguments);
		return 0;
	case KEY_QUIET:
		arguments->quiet = true;
		return 0;
	case ARGP_KEY_ARG:
		return parse_path(arg, state, arguments);
	case ARGP_KEY_END:
		if (!arguments->to)
			argp_failure(state, VUBLK_EXIT_MISUSED, 0, "the %s is missing; see --help",
				     arguments->from ? "DESTINATION" : "SOURCE");
		if (arguments->disk.num_queues)
			copy->num_queues = VUBLK_MAX_QUEUES;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* --- while it runs ------------------------------------------------------------ */

/*
 * Ignores SIGPIPE, so that a closed progress pipe does not end the copy, and SIGXFSZ, so that a
 * file size limit causes an I/O error instead.
 */
static void ignore_signals(void)
{
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
}

static bool tick(void *opaque, const struct vublk_copy *copy)
{
	vublk_progress_update(opaque, __atomic_load_n(&copy->done, __ATOMIC_RELAXED));
	return vublk_cli_signals_caught();
}

static void start_progress(const struct arguments *arguments, struct vublk_progress *progress)
{
	bool bar = arguments->bar || (isatty(STDERR_FILENO) && !arguments->quiet);

	if (arguments->progress_fd >= 0)
		vublk_progress_start(progress, arguments->progress_fd, false, arguments->copy.bytes);
	else
		vublk_progress_start(progress, bar ? STDERR_FILENO : -1, true,
				     arguments->copy.bytes);
}

static int run(struct arguments *arguments, struct vublk_error *error)
{
	struct vublk_copy *copy = &arguments->copy;
	struct vublk_progress progress;
	struct vublk_error cause = { 0 };
	int ret;

	ret = vublk_copy_begin(copy, error);
	if (ret)
		return ret;
	start_progress(arguments, &progress);
	ret = vublk_copy_run(copy, tick, &progress, &cause);
	/* The progress ends only after the flush, when everything is stable. */
	vublk_progress_end(&progress, copy->done, !ret);
	if (ret)
		return vublk_cli_error(error, cause.code, "the copy failed after %llu of %llu "
				       "bytes: %s; '%s' is incomplete",
				       (unsigned long long)copy->done,
				       (unsigned long long)copy->bytes, cause.text, arguments->to);
	return 0;
}

int vublk_cmd_copy(int argc, char **argv)
{
	static const struct argp_child children[] = { { &vublk_disk_argp, 0, NULL, 0 }, { NULL } };
	static const struct argp argp = {
		options, parse, "SOURCE DESTINATION",
		"Copy between files and disks. A path that is a socket stands for the disk of the "
		"back-end that listens there. Zeroes become holes if the destination supports "
		"holes. If the size of a file is not a multiple of the disk's block size, the rest "
		"of the last block is filled with zeroes.",
		children,
	};
	struct arguments arguments = { .progress_fd = -1, .copy = {
		.request_bytes = DEFAULT_REQUEST_BYTES, .num_requests = DEFAULT_REQUESTS,
		.num_queues = MAX_QUEUES, .stall_ms = 30000, .flush_bytes = FLUSH_BYTES,
	} };
	struct vublk_error error = { 0 };
	int ret;

	vublk_cli_parse(&argp, argc, argv, &arguments);
	vublk_disk_limit_queues(&arguments.disk, MAX_QUEUES);
	ignore_signals();
	ret = vublk_copy_open(&arguments.copy, arguments.from, arguments.to, arguments.size_bytes,
			      &arguments.disk, &error);
	if (ret) {
		vublk_copy_close(&arguments.copy);
		return vublk_cli_fail_open("copy", &error);
	}
	/*
	 * Up to this point a signal ends the process immediately, because nothing has been written.
	 */
	vublk_cli_signals_catch();
	ret = run(&arguments, &error);
	vublk_copy_close(&arguments.copy);
	return ret ? vublk_cli_fail("copy", "%s", error.text) : VUBLK_EXIT_DONE;
}
