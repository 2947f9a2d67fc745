/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_LOG_H
#define VUBLK_UTIL_LOG_H

#include <vublk/error.h>

#include <stdbool.h>
#include <stdint.h>

/* Says one line where `log` (may be NULL) leads, if its level wants it. */
void vublk_log(const struct vublk_log *log, enum vublk_log_level level, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * Keeps what a peer can provoke from filling a log: at most `burst` lines in
 * each `interval_ms`; the first line after a pause says how many were left out.
 * Zero-initialised apart from the two limits; one thread.
 */
struct vublk_log_limit {
	unsigned burst;
	unsigned interval_ms;
	unsigned said;
	unsigned left_out;
	uint64_t window_start_ns;
};

void vublk_log_limited(const struct vublk_log *log, struct vublk_log_limit *limit,
		       enum vublk_log_level level, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

#endif
