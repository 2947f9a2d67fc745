/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CLI_H
#define VUBLK_CLI_CLI_H

/*
 * Helpers that all sub-commands share: they print failures, read the values of options, and print
 * numbers.
 *
 * The tool is an application of the library: it includes <vublk/...> only, so that an
 * application can do whatever the tool can. The disadvantage is that a few lines which
 * parse numbers exist both here and in src/util/option.c. The library does not export
 * them, because parsing a command line is not its task, and an exported function can never
 * be removed.
 */

#include <vublk/error.h>

#include <argp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VUBLK_CLI_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define VUBLK_CLI_MIN(a, b) ({ __typeof__(a) a_ = (a); __typeof__(b) b_ = (b); a_ < b_ ? a_ : b_; })
#define VUBLK_CLI_MAX(a, b) ({ __typeof__(a) a_ = (a); __typeof__(b) b_ = (b); a_ > b_ ? a_ : b_; })

/* The exit status of the tool. */
enum vublk_cli_exit {
	VUBLK_EXIT_DONE = 0,
	VUBLK_EXIT_FAILED = 1,
	VUBLK_EXIT_MISUSED = 2,
};

/*
 * The sub-commands. Each gets the words after "vublk"; argv[0] is "vublk COMMAND", which
 * argp prints in its messages. Each returns an enum vublk_cli_exit.
 */
int vublk_cmd_serve(int argc, char **argv);
int vublk_cmd_device(int argc, char **argv);
int vublk_cmd_info(int argc, char **argv);
int vublk_cmd_bench(int argc, char **argv);
int vublk_cmd_copy(int argc, char **argv);
int vublk_cmd_chaos(int argc, char **argv);
int vublk_cmd_ctl(int argc, char **argv);
int vublk_cmd_demo(int argc, char **argv);

/* --- messages ------------------------------------------------------------------- */

/* Prints "vublk COMMAND: sentence" to standard error; returns VUBLK_EXIT_FAILED. */
int vublk_cli_fail(const char *command, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* Like vublk_cli_fail(), but for a wrong command line; returns VUBLK_EXIT_MISUSED. */
int vublk_cli_misuse(const char *command, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/*
 * Like vublk_cli_fail(), but for an object that could not be opened. The code EINVAL means that an
 * option of the command line is wrong in itself: in that case the function returns
 * VUBLK_EXIT_MISUSED, otherwise VUBLK_EXIT_FAILED.
 */
int vublk_cli_fail_open(const char *command, const struct vublk_error *error);

/* Prints "vublk COMMAND: warning: sentence" to standard error. */
void vublk_cli_warn(const char *command, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/*
 * Prints "vublk COMMAND: sentence" to standard error, but at most VUBLK_CLI_LIMIT_LINES in
 * VUBLK_CLI_LIMIT_MS; the next line says how many were left out. Each kind of line has its own
 * limit. A zeroed limit has seen no line. Only one thread at a time may use a limit.
 */
#define VUBLK_CLI_LIMIT_LINES 5
#define VUBLK_CLI_LIMIT_MS 10000

struct vublk_cli_limit {
	uint64_t window_start_ns;
	unsigned lines; /* in this window */
	unsigned left_out;
};

void vublk_cli_say_limited(const char *command, struct vublk_cli_limit *limit,
			   const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Fills `error` (may be NULL) with a code and one sentence; returns -code. */
int vublk_cli_error(struct vublk_error *error, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * Like vublk_cli_error(), but for a failed system call: ": <description of errno value `code`>" is
 * appended.
 */
int vublk_cli_error_errno(struct vublk_error *error, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * The log callback of the commands: it prints one line on standard error, with the command's name
 * in front. The opaque pointer of struct vublk_log is this name.
 */
void vublk_cli_log(void *command, enum vublk_log_level level, const char *text);

/* The level that --verbose and --quiet select; --verbose wins. */
enum vublk_log_level vublk_cli_log_level(bool verbose, bool quiet);

/* --- the command line ------------------------------------------------------------ */

/*
 * argp_parse() with the tool's conventions. A wrong command line ends the process with
 * VUBLK_EXIT_MISUSED; --help and --version end it with VUBLK_EXIT_DONE.
 */
void vublk_cli_parse(const struct argp *argp, int argc, char **argv, void *input);

/*
 * The following are called by argp parsers. A wrong value ends the process with
 * VUBLK_EXIT_MISUSED and one sentence that names the option.
 */
uint64_t vublk_cli_number(struct argp_state *state, const char *option, const char *text,
			  uint64_t min, uint64_t max);
/* A suffix k, M, G, T (powers of 1,024) is permitted. */
uint64_t vublk_cli_bytes(struct argp_state *state, const char *option, const char *text,
			 uint64_t min, uint64_t max);
/* Seconds, or a number with the suffix ms, s, m or h; decimals are permitted. In milliseconds. */
uint64_t vublk_cli_milliseconds(struct argp_state *state, const char *option, const char *text);
/*
 * Like vublk_cli_milliseconds(), but for a time limit, which is more than 0 and at most what poll()
 * takes.
 */
unsigned vublk_cli_stall_ms(struct argp_state *state, const char *option, const char *text);

/* Stores the only argument of a command. A second argument ends the process. */
void vublk_cli_take_argument(struct argp_state *state, const char **argument, const char *text);
/* Ends the process because of an argument that the command does not take. */
void vublk_cli_refuse_argument(struct argp_state *state, const char *text);
/* Ends the process because SOCKET, an argument of the command, was not given. */
void vublk_cli_refuse_no_socket(struct argp_state *state);

/* These functions parse values without argp. They return 0, or fill `error` and return -EINVAL. */
int vublk_cli_parse_number(const char *option, const char *text, uint64_t min, uint64_t max,
			   uint64_t *value, struct vublk_error *error);
int vublk_cli_parse_bytes(const char *option, const char *text, uint64_t min, uint64_t max,
			  uint64_t *value, struct vublk_error *error);
int vublk_cli_parse_milliseconds(const char *option, const char *text, uint64_t *value,
				 struct vublk_error *error);

/* --- printing ----------------------------------------------------------------- */

#define VUBLK_CLI_TEXT_BYTES 32

/* "64 MiB", "1.50 GiB", "977 KiB": exact, or rounded to three digits. Returns `text`. */
const char *vublk_cli_format_bytes(char text[VUBLK_CLI_TEXT_BYTES], uint64_t bytes);
/* "12.3k", "1.25M": a count rounded to three digits, powers of 1,000. */
const char *vublk_cli_format_count(char text[VUBLK_CLI_TEXT_BYTES], double count);
/* "830 ns", "12.4 us", "3.10 ms", "2.00 s". */
const char *vublk_cli_format_ns(char text[VUBLK_CLI_TEXT_BYTES], double ns);

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t vublk_cli_now_ns(void);

#endif
