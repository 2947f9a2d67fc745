/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_PROGRESS_H
#define VUBLK_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

/* The progress of a copy: a bar for a person, lines for a program, or nothing. */
struct vublk_progress {
	int fd;           /* -1: print nothing; borrowed */
	bool bar;         /* otherwise a line "PERCENT/100" whenever the percentage changes */
	uint64_t total;
	unsigned percent; /* in the last line */
	uint64_t most;    /* shown so far; copying again after a loss does not reduce it */
	uint64_t start_ns;
};

void vublk_progress_start(struct vublk_progress *progress, int fd, bool bar, uint64_t total);
void vublk_progress_update(struct vublk_progress *progress, uint64_t done);
/* `finished`: the copy succeeded. */
void vublk_progress_end(struct vublk_progress *progress, uint64_t done, bool finished);

/* Prints the bar into `line`, without the carriage return; exported for the tests. */
int vublk_progress_bar(char *line, unsigned line_bytes, unsigned columns, uint64_t done,
		       uint64_t total, uint64_t elapsed_ns);

#endif
