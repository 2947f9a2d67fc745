/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lines go to the callback that the application gave; nothing is printed here. */
#include "util/log.h"

#include "util/loop.h"

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

void vublk_log_limited(const struct vublk_log *log, struct vublk_log_limit *limit,
		       enum vublk_log_level level, const char *format, ...)
{
	uint64_t now = vublk_now_ns();
	char line[LINE_BYTES];
	va_list args;

	if (!wanted(log, level))
		return;
	if (now - limit->window_start_ns >= limit->interval_ms * UINT64_C(1000000)) {
		if (limit->left_out)
			vublk_log(log, level, "%u lines like the next were left out",
				  limit->left_out);
		limit->window_start_ns = now;
		limit->said = 0;
		limit->left_out = 0;
	}
	if (limit->said >= limit->burst) {
		limit->left_out++;
		return;
	}
	limit->said++;
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	log->fn(log->opaque, level, line);
}
