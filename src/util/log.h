/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_LOG_H
#define VUBLK_UTIL_LOG_H

#include <vublk/error.h>

#include <stdbool.h>
#include <stdint.h>

/* Passes one line to `log` (may be NULL), if the log's level includes it. */
void vublk_log(const struct vublk_log *log, enum vublk_log_level level, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * Keeps a peer from filling the log: passes at most VUBLK_LOG_BURST lines of each kind per
 * VUBLK_LOG_INTERVAL_MS. Lines that differ only in words with a digit are of one kind, so a flood of
 * one kind does not hide the first line of another. The next line of the kind that passes is
 * preceded by the number of its lines that were left out. Debug lines are not limited, because the
 * user requested all of them.
 *
 * The table has a row per kind. If no row is free, a new kind takes a row whose interval is over,
 * and the number of left-out lines in that row is lost. If there is no such row either, new kinds
 * share the last row.
 *
 * A limit belongs to an object that outlives the peer's connection. A zeroed limit is ready for
 * use. Not thread-safe.
 */
#define VUBLK_LOG_BURST 5
#define VUBLK_LOG_INTERVAL_MS 10000
#define VUBLK_LOG_KINDS 48

struct vublk_log_kind {
	uint64_t window_start_ns;
	uint32_t hash;
	uint32_t said; /* lines that were passed in this interval; 0: the row is free */
	uint32_t left_out;
};

struct vublk_log_limit {
	struct vublk_log_kind kinds[VUBLK_LOG_KINDS];
};

void vublk_log_limited(const struct vublk_log *log, struct vublk_log_limit *limit,
		       enum vublk_log_level level, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

#endif
