/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Log lines go to the application's callback; the library prints nothing. */
#include "util/log.h"

#include "util/loop.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>

#define LINE_BYTES 768

static bool wanted(const struct vublk_log *log, enum vublk_log_level level)
{
	return log && log->fn && level <= log->level;
}

void vublk_log(const struct vublk_log *log, enum vublk_log_level level, const char *format, ...)
{
	char line[LINE_BYTES];
	va_list args;

	if (!wanted(log, level))
		return;
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	log->fn(log->opaque, level, line);
}

/* --- limited lines ------------------------------------------------------------------ */

static bool is_word(char c)
{
	return isalnum((unsigned char)c) || c == '_' || c == '-' || c == '.';
}

/* Returns an FNV-1a hash of the line without words that contain a digit. */
static uint32_t hash_kind(const char *line)
{
	uint32_t hash = 2166136261u;

	while (*line) {
		size_t bytes = 0;
		bool has_digit = false;

		for (; is_word(line[bytes]); bytes++)
			has_digit |= isdigit((unsigned char)line[bytes]);
		if (!bytes)
			bytes = 1;
		for (size_t i = 0; i < bytes && !has_digit; i++)
			hash = (hash ^ (unsigned char)line[i]) * 16777619u;
		line += bytes;
	}
	return hash;
}

static bool is_over(const struct vublk_log_kind *kind, uint64_t now)
{
	return now - kind->window_start_ns >= VUBLK_LOG_INTERVAL_MS * UINT64_C(1000000);
}

/*
 * Returns the row of the kind of line with this `hash`. A kind without a row gets a free or expired
 * row. If there is no such row, the kind shares the last row.
 */
static struct vublk_log_kind *find_kind(struct vublk_log_limit *limit, uint32_t hash, uint64_t now)
{
	struct vublk_log_kind *last = &limit->kinds[VUBLK_LOG_KINDS - 1];
	struct vublk_log_kind *spare = last;

	for (struct vublk_log_kind *kind = limit->kinds; kind < last; kind++) {
		if (kind->said && kind->hash == hash)
			return kind;
		if (spare == last && (!kind->said || is_over(kind, now)))
			spare = kind;
	}
	if (spare != last)
		*spare = (struct vublk_log_kind){ .hash = hash, .window_start_ns = now };
	return spare;
}

void vublk_log_limited(const struct vublk_log *log, struct vublk_log_limit *limit,
		       enum vublk_log_level level, const char *format, ...)
{
	struct vublk_log_kind *kind;
	char line[LINE_BYTES];
	uint64_t now;
	va_list args;

	if (!wanted(log, level))
		return;
	now = vublk_now_ns();
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	if (level == VUBLK_LOG_DEBUG) {
		log->fn(log->opaque, level, line);
		return;
	}
	kind = find_kind(limit, hash_kind(line), now);
	if (is_over(kind, now)) {
		if (kind->left_out)
			vublk_log(log, level, "%u line%s like the next one %s left out", kind->left_out,
				  kind->left_out == 1 ? "" : "s", kind->left_out == 1 ? "was" : "were");
		kind->window_start_ns = now;
		kind->said = 0;
		kind->left_out = 0;
	}
	if (kind->said >= VUBLK_LOG_BURST) {
		kind->left_out++;
		return;
	}
	kind->said++;
	log->fn(log->opaque, level, line);
}
