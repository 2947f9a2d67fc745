/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The progress of a copy on a terminal or for a program that reads lines; see progress.h.
 *
 * Key idea: a reader that closes its end of the pipe stops only the display of the progress, never
 * the copy.
 */
#include "cli/progress.h"

#include "cli/cli.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

void vublk_progress_start(struct vublk_progress *progress, int fd, bool bar, uint64_t total)
{
	*progress = (struct vublk_progress){
		.fd = fd, .bar = bar, .total = total, .percent = UINT_MAX,
		.start_ns = vublk_cli_now_ns(),
	};
	vublk_progress_update(progress, 0);
}

static void print(struct vublk_progress *progress, const char *text, size_t bytes)
{
	if (write(progress->fd, text, bytes) != (ssize_t)bytes)
		progress->fd = -1;
}

int vublk_progress_bar(char *line, unsigned line_bytes, unsigned columns, uint64_t done,
		       uint64_t total, uint64_t elapsed_ns)
{
	char done_text[VUBLK_CLI_TEXT_BYTES], total_text[VUBLK_CLI_TEXT_BYTES];
	char speed_text[VUBLK_CLI_TEXT_BYTES], numbers[4 * VUBLK_CLI_TEXT_BYTES];
	double part = total ? (double)done / (double)total : 1;
	double seconds = (double)elapsed_ns / 1e9;
	int width, filled;

	snprintf(numbers, sizeof(numbers), "%3.0f %%  %s of %s  %s/s", part * 100,
		 vublk_cli_format_bytes(done_text, done),
		 vublk_cli_format_bytes(total_text, total),
		 vublk_cli_format_bytes(speed_text,
					seconds > 0 ? (uint64_t)((double)done / seconds) : 0));
	width = (int)columns - (int)strlen(numbers) - 5;
	width = VUBLK_CLI_MIN(width, 50);
	if (width < 8)
		return snprintf(line, line_bytes, "%s", numbers);
	filled = (int)(part * width);
	return snprintf(line, line_bytes, "[%.*s%*s] %s", filled,
			"##################################################", width - filled, "",
			numbers);
}

static void print_bar(struct vublk_progress *progress, uint64_t done)
{
	struct winsize window = { 0 };
	char line[256];
	int length;

	if (ioctl(progress->fd, TIOCGWINSZ, &window) || !window.ws_col)
		window.ws_col = 80;
	length = vublk_progress_bar(line + 1, sizeof(line) - 8, window.ws_col, done,
				    progress->total, vublk_cli_now_ns() - progress->start_ns);
	line[0] = '\r';
	memcpy(line + 1 + length, "\033[K", 3); /* erases what is left of a longer previous line */
	print(progress, line, (size_t)length + 4);
}

static void print_percent(struct vublk_progress *progress, unsigned percent)
{
	char line[16];

	if (percent == progress->percent)
		return;
	progress->percent = percent;
	snprintf(line, sizeof(line), "%u/100\n", percent);
	print(progress, line, strlen(line));
}

/*
 * Shows the progress. The line 100/100 is printed only by vublk_progress_end(), because the data
 * still has to be flushed after the last write.
 */
void vublk_progress_update(struct vublk_progress *progress, uint64_t done)
{
	double part;

	done = progress->most = VUBLK_CLI_MAX(progress->most, done);
	part = progress->total ? (double)done / (double)progress->total : 0;
	if (progress->fd >= 0 && progress->bar)
		print_bar(progress, done);
	else if (progress->fd >= 0)
		print_percent(progress, VUBLK_CLI_MIN((unsigned)(part * 100), 99u));
}

void vublk_progress_end(struct vublk_progress *progress, uint64_t done, bool finished)
{
	vublk_progress_update(progress, done);
	if (progress->fd >= 0 && !progress->bar && finished)
		print_percent(progress, 100);
	if (progress->fd >= 0 && progress->bar)
		print(progress, "\n", 1);
	progress->fd = -1;
}
