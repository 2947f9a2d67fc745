/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_PROGRESS_H
#define VUBLK_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#define VUBLK_PROGRESS_MS 100 /* how often to tell */

/* How far a copy is: a bar for a person, lines for a program, or nothing. */
struct vublk_progress {
	int fd;           /* -1: nobody wants to know; borrowed */
	bool bar;         /* else a line "PERCENT/100" whenever it is another */
	uint64_t total;
	unsigned told;    /* in the last line */
	uint64_t most;    /* that was told: what is copied again is not told twice */
	uint64_t start_ns;
};

void vublk_progress_start(struct vublk_progress *progress, int fd, bool bar, uint64_t total);
void vublk_progress_tell(struct vublk_progress *progress, uint64_t done);
/* `finished`: it did not fail. */
void vublk_progress_end(struct vublk_progress *progress, uint64_t done, bool finished);

/* One line of the bar, without the return to the line's beginning; for the tests. */
int vublk_progress_bar(char *line, unsigned line_bytes, unsigned columns, uint64_t done,
		       uint64_t total, uint64_t elapsed_ns);

#endif
