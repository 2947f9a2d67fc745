/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Functions that all sub-commands share; see cli.h. None of them needs a disk.
 *
 * Key idea: one parser reads numbers, sizes and times, because they have the same syntax: digits
 * and a suffix. They differ in the table of suffixes, and only times may have decimals.
 */
#include "cli/cli.h"
#include "cli/text.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

/* --- messages ------------------------------------------------------------------- */

/*
 * Prints a line with a single write, so that the lines of two processes on a terminal do not mix.
 * The text may come from a peer, so it is escaped.
 */
static void print_text(const char *command, const char *prefix, const char *text)
{
	char escaped[2 * (VUBLK_ERROR_TEXT_BYTES + 256)];

	vublk_cli_escape(escaped, sizeof(escaped), text);
	fprintf(stderr, "vublk %s: %s%s\n", command, prefix, escaped);
}

__attribute__((format(printf, 3, 0)))
static void print_line(const char *command, const char *prefix, const char *format, va_list args)
{
	char text[VUBLK_ERROR_TEXT_BYTES + 256];

	vsnprintf(text, sizeof(text), format, args);
	fflush(stdout);
	print_text(command, prefix, text);
}

int vublk_cli_fail(const char *command, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	print_line(command, "", format, args);
	va_end(args);
	return VUBLK_EXIT_FAILED;
}

int vublk_cli_misuse(const char *command, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	print_line(command, "", format, args);
	va_end(args);
	return VUBLK_EXIT_MISUSED;
}

int vublk_cli_fail_open(const char *command, const struct vublk_error *error)
{
	vublk_cli_fail(command, "%s", error->text);
	return error->code == EINVAL ? VUBLK_EXIT_MISUSED : VUBLK_EXIT_FAILED;
}

void vublk_cli_warn(const char *command, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	print_line(command, "warning: ", format, args);
	va_end(args);
}

static void begin_window(const char *command, struct vublk_cli_limit *limit, uint64_t now)
{
	if (limit->left_out)
		fprintf(stderr, "vublk %s: %u line%s like the next one %s left out\n", command,
			limit->left_out, limit->left_out == 1 ? "" : "s",
			limit->left_out == 1 ? "was" : "were");
	*limit = (struct vublk_cli_limit){ .window_start_ns = now };
}

void vublk_cli_say_limited(const char *command, struct vublk_cli_limit *limit,
			   const char *format, ...)
{
	uint64_t now = vublk_cli_now_ns();
	va_list args;

	if (now - limit->window_start_ns >= VUBLK_CLI_LIMIT_MS * UINT64_C(1000000))
		begin_window(command, limit, now);
	if (limit->lines == VUBLK_CLI_LIMIT_LINES) {
		limit->left_out++;
		return;
	}
	limit->lines++;
	va_start(args, format);
	print_line(command, "", format, args);
	va_end(args);
}

__attribute__((format(printf, 3, 0)))
static void set_error(struct vublk_error *error, int code, const char *format, va_list args)
{
	if (!error)
		return;
	error->code = code;
	vsnprintf(error->text, sizeof(error->text), format, args);
}

int vublk_cli_error(struct vublk_error *error, int code, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	set_error(error, code, format, args);
	va_end(args);
	return -code;
}

int vublk_cli_error_errno(struct vublk_error *error, int code, const char *format, ...)
{
	char what[VUBLK_ERROR_TEXT_BYTES];
	va_list args;

	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	return vublk_cli_error(error, code, "%s: %s", what, strerror(code));
}

void vublk_cli_log(void *command, enum vublk_log_level level, const char *text)
{
	static const char *const levels[] = { "error: ", "warning: ", "", "" };

	print_text(command, level < VUBLK_CLI_ARRAY_SIZE(levels) ? levels[level] : "", text);
}

enum vublk_log_level vublk_cli_log_level(bool verbose, bool quiet)
{
	if (verbose)
		return VUBLK_LOG_DEBUG;
	return quiet ? VUBLK_LOG_WARNING : VUBLK_LOG_INFO;
}

/* --- values --------------------------------------------------------------------- */

struct unit {
	const char *suffix; /* compared without regard to case, except for times */
	uint64_t factor;
};

static const struct unit no_units[] = { { "", 1 }, { NULL, 0 } };
static const struct unit size_units[] = {
	{ "", 1 },
	{ "k", 1 << 10 }, { "kb", 1 << 10 }, { "kib", 1 << 10 },
	{ "m", 1 << 20 }, { "mb", 1 << 20 }, { "mib", 1 << 20 },
	{ "g", 1 << 30 }, { "gb", 1 << 30 }, { "gib", 1 << 30 },
	{ "t", UINT64_C(1) << 40 }, { "tb", UINT64_C(1) << 40 }, { "tib", UINT64_C(1) << 40 },
	{ NULL, 0 },
};
static const struct unit time_units[] = { /* in milliseconds */
	{ "", 1000 }, { "ms", 1 }, { "s", 1000 }, { "m", 60000 }, { "h", 3600000 }, { NULL, 0 },
};

/*
 * Parses the decimals at *text, if there are any, and advances *text past them. Stores them as the
 * fraction `parts` / `of`: 25 / 100 for ".25", 0 / 1 without decimals. Returns 0, or -EINVAL for a
 * dot without digits or more than nine digits.
 */
static int parse_decimals(const char **text, uint64_t *parts, uint64_t *of)
{
	const char *c = *text;

	*parts = 0;
	*of = 1;
	if (*c != '.')
		return 0;
	for (c++; isdigit((unsigned char)*c); c++) {
		if (*of >= UINT64_C(1000000000))
			return -EINVAL;
		*parts = *parts * 10 + (uint64_t)(*c - '0');
		*of *= 10;
	}
	*text = c;
	return *of > 1 ? 0 : -EINVAL;
}

/*
 * Parses a number with a suffix from `units`, and stores the value in the base unit. Returns
 * -EINVAL if the text is malformed or the value is too large or not exact: "0.0001s" is not a whole
 * number of milliseconds.
 */
static int parse_value(const char *text, const struct unit *units, uint64_t *value)
{
	bool is_time = units == time_units;
	uint64_t number, parts = 0, of = 1;
	const char *end;
	char *stop;

	/* strtoull() alone would accept a sign and leading blanks. */
	if (!text || !isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	number = strtoull(text, &stop, strncasecmp(text, "0x", 2) ? 10 : 16);
	end = stop;
	if (errno || (is_time && parse_decimals(&end, &parts, &of)))
		return -EINVAL;
	for (; units->suffix; units++) {
		if (is_time ? strcmp(end, units->suffix) : strcasecmp(end, units->suffix))
			continue;
		if (__builtin_mul_overflow(number, units->factor, value) ||
		    parts * units->factor % of)
			return -EINVAL;
		return __builtin_add_overflow(*value, parts * units->factor / of, value) ? -EINVAL
											  : 0;
	}
	return -EINVAL;
}

int vublk_cli_parse_number(const char *option, const char *text, uint64_t min, uint64_t max,
			   uint64_t *value, struct vublk_error *error)
{
	uint64_t number;

	if (parse_value(text, no_units, &number) || number < min || number > max)
		return vublk_cli_error(error, EINVAL, "--%s must be a whole number from %" PRIu64
				       " to %" PRIu64 ", not '%s'", option, min, max,
				       text ? text : "");
	*value = number;
	return 0;
}

int vublk_cli_parse_bytes(const char *option, const char *text, uint64_t min, uint64_t max,
			  uint64_t *value, struct vublk_error *error)
{
	uint64_t bytes;

	if (parse_value(text, size_units, &bytes) || bytes < min || bytes > max)
		return vublk_cli_error(error, EINVAL, "--%s must be a size from %" PRIu64 " to "
				       "%" PRIu64 " bytes (suffixes k, M, G, T are allowed), not "
				       "'%s'", option, min,
				       max, text ? text : "");
	*value = bytes;
	return 0;
}

int vublk_cli_parse_milliseconds(const char *option, const char *text, uint64_t *value,
				 struct vublk_error *error)
{
	const uint64_t max_ms = UINT64_C(365) * 24 * 3600 * 1000;
	uint64_t ms;

	if (parse_value(text, time_units, &ms) || ms > max_ms)
		return vublk_cli_error(error, EINVAL, "--%s must be a time of at most 365 days, in "
				       "steps of 1 ms, such as 5, 0.5, 250ms, 2m or 1h (in "
				       "seconds if there is no suffix), not '%s'", option,
				       text ? text : "");
	*value = ms;
	return 0;
}

/* --- the command line ------------------------------------------------------------ */

void vublk_cli_parse(const struct argp *argp, int argc, char **argv, void *input)
{
	int ret;

	argp_err_exit_status = VUBLK_EXIT_MISUSED;
	ret = argp_parse(argp, argc, argv, 0, NULL, input);
	if (ret) {
		fprintf(stderr, "%s: %s\n", argv[0], strerror(ret));
		exit(VUBLK_EXIT_FAILED);
	}
}

static void exit_if_misused(struct argp_state *state, int ret, const struct vublk_error *error)
{
	if (ret)
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "%s", error->text);
}

uint64_t vublk_cli_number(struct argp_state *state, const char *option, const char *text,
			  uint64_t min, uint64_t max)
{
	struct vublk_error error = { 0 };
	uint64_t value = 0;

	exit_if_misused(state, vublk_cli_parse_number(option, text, min, max, &value, &error),
			&error);
	return value;
}

uint64_t vublk_cli_bytes(struct argp_state *state, const char *option, const char *text,
			 uint64_t min, uint64_t max)
{
	struct vublk_error error = { 0 };
	uint64_t value = 0;

	exit_if_misused(state, vublk_cli_parse_bytes(option, text, min, max, &value, &error),
			&error);
	return value;
}

uint32_t vublk_cli_request_bytes(struct argp_state *state, const char *text, uint32_t min,
				 uint32_t max)
{
	uint64_t bytes = vublk_cli_bytes(state, "request-size", text, min, max);

	if (bytes & (bytes - 1))
		argp_failure(state, VUBLK_EXIT_MISUSED, 0,
			     "--request-size must be a power of two from %u to %u, not '%s'", min, max,
			     text);
	return (uint32_t)bytes;
}

uint64_t vublk_cli_milliseconds(struct argp_state *state, const char *option, const char *text)
{
	struct vublk_error error = { 0 };
	uint64_t value = 0;

	exit_if_misused(state, vublk_cli_parse_milliseconds(option, text, &value, &error), &error);
	return value;
}

unsigned vublk_cli_stall_ms(struct argp_state *state, const char *option, const char *text)
{
	uint64_t ms = vublk_cli_milliseconds(state, option, text);

	if (!ms)
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "--%s must be more than 0", option);
	return (unsigned)VUBLK_CLI_MIN(ms, (uint64_t)INT32_MAX);
}

void vublk_cli_refuse_argument(struct argp_state *state, const char *text)
{
	argp_failure(state, VUBLK_EXIT_MISUSED, 0, "unexpected argument '%s'; see --help", text);
}

void vublk_cli_take_argument(struct argp_state *state, const char **argument, const char *text)
{
	if (*argument)
		vublk_cli_refuse_argument(state, text);
	*argument = text;
}

void vublk_cli_refuse_no_socket(struct argp_state *state)
{
	argp_failure(state, VUBLK_EXIT_MISUSED, 0, "the SOCKET of a back-end is missing; see "
		     "--help");
}

/* --- printing ----------------------------------------------------------------- */

/* Formats `value` with three digits, followed by its unit `unit`. */
static const char *format_digits(char text[VUBLK_CLI_TEXT_BYTES], double value, const char *unit)
{
	int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;

	snprintf(text, VUBLK_CLI_TEXT_BYTES, "%.*f%s", decimals, value, unit);
	return text;
}

const char *vublk_cli_format_bytes(char text[VUBLK_CLI_TEXT_BYTES], uint64_t bytes)
{
	static const char *const units[] = { " B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB" };
	unsigned unit = 0;

	while (unit + 1 < VUBLK_CLI_ARRAY_SIZE(units) && bytes >> (10 * (unit + 1)))
		unit++;
	if (bytes & ((UINT64_C(1) << (10 * unit)) - 1))
		return format_digits(text, (double)bytes / (double)(UINT64_C(1) << (10 * unit)),
				     units[unit]);
	snprintf(text, VUBLK_CLI_TEXT_BYTES, "%" PRIu64 "%s", bytes >> (10 * unit), units[unit]);
	return text;
}

const char *vublk_cli_format_count(char text[VUBLK_CLI_TEXT_BYTES], double count)
{
	static const char *const units[] = { "", "k", "M", "G", "T" };
	unsigned unit = 0;

	for (; unit + 1 < VUBLK_CLI_ARRAY_SIZE(units) && count >= 999.5; unit++)
		count /= 1000;
	if (unit)
		return format_digits(text, count, units[unit]);
	snprintf(text, VUBLK_CLI_TEXT_BYTES, "%.*f", count < 99.5 && count != (uint64_t)count, count);
	return text;
}

const char *vublk_cli_format_ns(char text[VUBLK_CLI_TEXT_BYTES], double ns)
{
	if (ns < 999.5) {
		snprintf(text, VUBLK_CLI_TEXT_BYTES, "%.0f ns", ns);
		return text;
	}
	if (ns < 999.5e3)
		return format_digits(text, ns / 1e3, " us");
	if (ns < 999.5e6)
		return format_digits(text, ns / 1e6, " ms");
	return format_digits(text, ns / 1e9, " s");
}

uint64_t vublk_cli_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}
