/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the sub-commands have in common: one way to fail, one way to read the
 * value of an option, one way to print a number. Nothing here knows a disk.
 */
#include "cli/cli.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

/* --- what goes wrong ---------------------------------------------------------- */

/* One write for the line, so that lines of two processes on a terminal stay whole. */
__attribute__((format(printf, 2, 0)))
static void complain(const char *command, const char *format, va_list args)
{
	char text[VUBLK_ERROR_TEXT_BYTES + 256];

	vsnprintf(text, sizeof(text), format, args);
	fflush(stdout);
	fprintf(stderr, "vublk %s: %s\n", command, text);
}

int vublk_cli_fail(const char *command, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	complain(command, format, args);
	va_end(args);
	return VUBLK_EXIT_FAILED;
}

int vublk_cli_fail_open(const char *command, const struct vublk_error *error)
{
	vublk_cli_fail(command, "%s", error->text);
	return error->code == EINVAL ? VUBLK_EXIT_MISUSED : VUBLK_EXIT_FAILED;
}

int vublk_cli_misuse(const char *command, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	complain(command, format, args);
	va_end(args);
	return VUBLK_EXIT_MISUSED;
}

int vublk_cli_error(struct vublk_error *error, int code, const char *format, ...)
{
	va_list args;

	if (!error)
		return -code;
	va_start(args, format);
	vsnprintf(error->text, sizeof(error->text), format, args);
	va_end(args);
	error->code = code;
	return -code;
}

int vublk_cli_error_errno(struct vublk_error *error, int code, const char *format, ...)
{
	const char *reason = strerrordesc_np(code);
	va_list args;
	size_t used;

	if (!error)
		return -code;
	va_start(args, format);
	vsnprintf(error->text, sizeof(error->text), format, args);
	va_end(args);
	used = strlen(error->text);
	snprintf(error->text + used, sizeof(error->text) - used, ": %s",
		 reason ? reason : "unknown error");
	error->code = code;
	return -code;
}

void vublk_cli_log(void *command, enum vublk_log_level level, const char *text)
{
	static const char *const levels[] = { "error: ", "warning: ", "", "" };

	fprintf(stderr, "vublk %s: %s%s\n", (const char *)command,
		level < VUBLK_CLI_ARRAY_SIZE(levels) ? levels[level] : "", text);
}

enum vublk_log_level vublk_cli_log_level(bool verbose, bool quiet)
{
	if (verbose)
		return VUBLK_LOG_DEBUG;
	return quiet ? VUBLK_LOG_WARNING : VUBLK_LOG_INFO;
}

/* --- options ------------------------------------------------------------------ */

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

/* Digits only: strtoull alone would take a sign and leading blanks. */
static int parse_digits(const char *text, uint64_t *value, const char **end)
{
	char *stop;

	if (!text || !isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	*value = strtoull(text, &stop, strncasecmp(text, "0x", 2) ? 10 : 16);
	*end = stop;
	return errno ? -errno : 0;
}

int vublk_cli_parse_number(const char *option, const char *text, uint64_t min, uint64_t max,
			   uint64_t *value, struct vublk_error *error)
{
	const char *end;
	uint64_t number;

	if (parse_digits(text, &number, &end) || *end || number < min || number > max)
		return vublk_cli_error(error, EINVAL, "--%s must be a whole number from %" PRIu64
				       " to %" PRIu64 ", not '%s'", option, min, max,
				       text ? text : "");
	*value = number;
	return 0;
}

/* What a number is multiplied with: a power of two, as its exponent; -1: no such suffix. */
static int suffix_shift(const char *suffix)
{
	static const char units[] = "kmgt";
	const char *unit;

	if (!*suffix)
		return 0;
	unit = strchr(units, tolower((unsigned char)*suffix));
	if (!unit || (suffix[1] && strcasecmp(suffix + 1, "ib") && strcasecmp(suffix + 1, "b")))
		return -1;
	return 10 * (int)(unit - units + 1);
}

int vublk_cli_parse_bytes(const char *option, const char *text, uint64_t min, uint64_t max,
			  uint64_t *value, struct vublk_error *error)
{
	const char *end = "";
	uint64_t number = 0;
	int shift = -1;

	if (!parse_digits(text, &number, &end))
		shift = suffix_shift(end);
	if (shift < 0 || number > UINT64_MAX >> shift || number << shift < min ||
	    number << shift > max)
		return vublk_cli_error(error, EINVAL, "--%s must be a size from %" PRIu64 " to %"
				       PRIu64 " bytes (k, M, G, T allowed), not '%s'", option, min,
				       max, text ? text : "");
	*value = number << shift;
	return 0;
}

/* How many milliseconds a unit has; 0: there is no such unit. */
static uint32_t unit_ms(const char *suffix)
{
	static const struct {
		const char *suffix;
		uint32_t ms;
	} units[] = { { "", 1000 }, { "ms", 1 }, { "s", 1000 }, { "m", 60000 }, { "h", 3600000 } };

	for (size_t i = 0; i < VUBLK_CLI_ARRAY_SIZE(units); i++)
		if (!strcmp(suffix, units[i].suffix))
			return units[i].ms;
	return 0;
}

/* ".25" is 25 of 100 parts; without a point it is 0 of 1. */
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

int vublk_cli_parse_milliseconds(const char *option, const char *text, uint64_t *value,
				 struct vublk_error *error)
{
	const uint64_t max_ms = UINT64_C(365) * 24 * 3600 * 1000;
	uint64_t number, parts, of;
	const char *end;
	uint32_t ms;

	if (!parse_digits(text, &number, &end) && !parse_decimals(&end, &parts, &of)) {
		ms = unit_ms(end);
		if (ms && number <= max_ms / ms && parts * ms % of == 0) {
			*value = number * ms + parts * ms / of;
			return 0;
		}
	}
	return vublk_cli_error(error, EINVAL, "--%s must be a time of at most a year in seconds, in "
			       "whole milliseconds (ms, s, m, h allowed), not '%s'", option,
			       text ? text : "");
}

uint64_t vublk_cli_number(struct argp_state *state, const char *option, const char *text,
			  uint64_t min, uint64_t max)
{
	struct vublk_error error = { 0 };
	uint64_t value = 0;

	if (vublk_cli_parse_number(option, text, min, max, &value, &error))
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "%s", error.text);
	return value;
}

uint64_t vublk_cli_bytes(struct argp_state *state, const char *option, const char *text,
			 uint64_t min, uint64_t max)
{
	struct vublk_error error = { 0 };
	uint64_t value = 0;

	if (vublk_cli_parse_bytes(option, text, min, max, &value, &error))
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "%s", error.text);
	return value;
}

uint64_t vublk_cli_milliseconds(struct argp_state *state, const char *option, const char *text)
{
	struct vublk_error error = { 0 };
	uint64_t value = 0;

	if (vublk_cli_parse_milliseconds(option, text, &value, &error))
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "%s", error.text);
	return value;
}

unsigned vublk_cli_stall_ms(struct argp_state *state, const char *option, const char *text)
{
	uint64_t ms = vublk_cli_milliseconds(state, option, text);

	if (!ms)
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "--%s must be more than 0", option);
	return (unsigned)VUBLK_CLI_MIN(ms, (uint64_t)INT32_MAX);
}

/* --- printing ----------------------------------------------------------------- */

/* Three digits of a value that is already in its unit. */
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
