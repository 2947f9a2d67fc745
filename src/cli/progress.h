/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_PROGRESS_H
#define VUBLK_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

/* The progress of a copy: a bar for a person, lines for a program, or nothing. */
struct vublk_progress {
	int fd;           /* borrowed; -1: nothing is printed */
	bool bar;         /* true: a bar; false: a line "PERCENT/100" whenever the percentage
			     changes */
	uint64_t total;
	unsigned percent; /* the percentage in the last line */
	uint64_t most;    /* the number of bytes that is shown; does not decrease when lost writes
			     are copied again */
	uint64_t start_ns;
};

void vublk_progress_start(struct vublk_progress *progress, int fd, bool bar, uint64_t total);
void vublk_progress_update(struct vublk_progress *progress, uint64_t done);
/* Shows the final state. `finished` says whether the copy has succeeded. */
void vublk_progress_end(struct vublk_progress *progress, uint64_t done, bool finished);

/*
 * Writes the bar to `line`, without a carriage return. Returns the length. Declared here for the
 * tests.
 */
int vublk_progress_bar(char *line, unsigned line_bytes, unsigned columns, uint64_t done,
		       uint64_t total, uint64_t elapsed_ns);

#endif
