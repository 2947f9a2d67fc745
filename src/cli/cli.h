/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CLI_H
#define VUBLK_CLI_CLI_H

/*
 * What the sub-commands of the tool have in common. The tool sees no more of
 * the library than any application does, so the few helpers that it needs are
 * its own.
 */

#include <vublk/error.h>

#include <argp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VUBLK_CLI_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define VUBLK_CLI_MIN(a, b) ({ __typeof__(a) a_ = (a); __typeof__(b) b_ = (b); a_ < b_ ? a_ : b_; })
#define VUBLK_CLI_MAX(a, b) ({ __typeof__(a) a_ = (a); __typeof__(b) b_ = (b); a_ > b_ ? a_ : b_; })

/* What the tool's process ends with. */
enum vublk_cli_exit {
	VUBLK_EXIT_DONE = 0,
	VUBLK_EXIT_FAILED = 1,
	VUBLK_EXIT_MISUSED = 2,
};

/*
 * The sub-commands. Each gets the words after "vublk", with argv[0] made
 * "vublk COMMAND" for argp's messages, and returns an enum vublk_cli_exit.
 */
int vublk_cmd_serve(int argc, char **argv);
int vublk_cmd_device(int argc, char **argv);
int vublk_cmd_info(int argc, char **argv);
int vublk_cmd_bench(int argc, char **argv);
int vublk_cmd_copy(int argc, char **argv);
int vublk_cmd_chaos(int argc, char **argv);
int vublk_cmd_demo(int argc, char **argv);

/* --- what goes wrong ---------------------------------------------------------- */

/* Prints "vublk COMMAND: sentence" to standard error; returns VUBLK_EXIT_FAILED. */
int vublk_cli_fail(const char *command, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/*
 * The same for what could not be opened. EINVAL says that an option of the command
 * line is wrong in itself: then VUBLK_EXIT_MISUSED.
 */
int vublk_cli_fail_open(const char *command, const struct vublk_error *error);

/* The same; returns VUBLK_EXIT_MISUSED. */
int vublk_cli_misuse(const char *command, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* Fills `error` (may be NULL) with a code and one sentence; returns -code. */
int vublk_cli_error(struct vublk_error *error, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* The same for a failed system call: ": <what errno value `code` means>" is appended. */
int vublk_cli_error_errno(struct vublk_error *error, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * A log of warnings and errors on standard error, one line each with the
 * command's name in front; for struct vublk_log, whose opaque is that name.
 */
void vublk_cli_log(void *command, enum vublk_log_level level, const char *text);

/* What --verbose and --quiet ask for; --verbose wins. */
enum vublk_log_level vublk_cli_log_level(bool verbose, bool quiet);

/* --- options ------------------------------------------------------------------ */

/*
 * argp_parse() with the tool's conventions. What it refuses ends the process with
 * VUBLK_EXIT_MISUSED; --help and --version end it with VUBLK_EXIT_DONE.
 */
void vublk_cli_parse(const struct argp *argp, int argc, char **argv, void *input);

/*
 * The value of an option, for use in an argp parser: what is not permitted ends
 * the process with one sentence that names the option.
 */
uint64_t vublk_cli_number(struct argp_state *state, const char *option, const char *text,
			  uint64_t min, uint64_t max);
/* k, M, G, T (powers of 1,024) may follow. */
uint64_t vublk_cli_bytes(struct argp_state *state, const char *option, const char *text,
			 uint64_t min, uint64_t max);
/* Seconds, or with ms, s, m or h after the number, which may have decimals. In milliseconds. */
uint64_t vublk_cli_milliseconds(struct argp_state *state, const char *option, const char *text);
/* The same for how long to wait for something: not 0, and fit for poll(). */
unsigned vublk_cli_stall_ms(struct argp_state *state, const char *option, const char *text);

/* The same without argp: 0, or -EINVAL and the sentence. */
int vublk_cli_parse_number(const char *option, const char *text, uint64_t min, uint64_t max,
			   uint64_t *value, struct vublk_error *error);
int vublk_cli_parse_bytes(const char *option, const char *text, uint64_t min, uint64_t max,
			  uint64_t *value, struct vublk_error *error);
int vublk_cli_parse_milliseconds(const char *option, const char *text, uint64_t *value,
				 struct vublk_error *error);

/* --- printing ----------------------------------------------------------------- */

#define VUBLK_CLI_TEXT_BYTES 32

/* "64 MiB", "1.5 GiB", "1000003 B": exact, or to three digits. Returns `text`. */
const char *vublk_cli_format_bytes(char text[VUBLK_CLI_TEXT_BYTES], uint64_t bytes);
/* "12.3k", "1.25M": a count to three digits, powers of 1,000. */
const char *vublk_cli_format_count(char text[VUBLK_CLI_TEXT_BYTES], double count);
/* "830 ns", "12.4 us", "3.10 ms", "2.00 s". */
const char *vublk_cli_format_ns(char text[VUBLK_CLI_TEXT_BYTES], double ns);

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t vublk_cli_now_ns(void);

#endif
