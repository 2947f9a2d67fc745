/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CLI_H
#define VUBLK_CLI_CLI_H

/*
 * Functions that all sub-commands share: they print messages, parse the values of options, and
 * format numbers.
 *
 * The tool is an application of the library: it includes only the library's public headers,
 * <vublk/...>, so an application can do whatever the tool can. The disadvantage is that cli.c
 * duplicates a few lines of src/util/option.c that parse numbers. The library does not export them,
 * because parsing a command line is not its task, and an exported function can never be removed.
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
 * The sub-commands. Each gets its own arguments; argv[0] is "vublk COMMAND", which argp prints in
 * its messages. Each returns an enum vublk_cli_exit.
 */
int vublk_cmd_serve(int argc, char **argv);
int vublk_cmd_device(int argc, char **argv);
int vublk_cmd_attach(int argc, char **argv);
int vublk_cmd_detach(int argc, char **argv);
int vublk_cmd_info(int argc, char **argv);
int vublk_cmd_bench(int argc, char **argv);
int vublk_cmd_copy(int argc, char **argv);
int vublk_cmd_chaos(int argc, char **argv);
int vublk_cmd_ctl(int argc, char **argv);
int vublk_cmd_demo(int argc, char **argv);

/* --- messages ------------------------------------------------------------------- */

/* Prints "vublk COMMAND: message" to standard error. Returns VUBLK_EXIT_FAILED. */
int vublk_cli_fail(const char *command, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* Like vublk_cli_fail(), but for a wrong command line. Returns VUBLK_EXIT_MISUSED. */
int vublk_cli_misuse(const char *command, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/*
 * Like vublk_cli_fail(), but for an object that could not be opened. Returns VUBLK_EXIT_MISUSED if
 * the code is EINVAL, which means that the command line is wrong; otherwise VUBLK_EXIT_FAILED.
 */
int vublk_cli_fail_open(const char *command, const struct vublk_error *error);

/* Prints "vublk COMMAND: warning: message" to standard error. */
void vublk_cli_warn(const char *command, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/*
 * Prints "vublk COMMAND: message" to standard error, but at most VUBLK_CLI_LIMIT_LINES lines in a
 * window of VUBLK_CLI_LIMIT_MS. Before the first line of the next window, prints how many lines
 * were left out. `limit` counts the lines; the caller keeps one struct, initially zeroed, per kind
 * of line. Only one thread at a time may use a struct.
 */
#define VUBLK_CLI_LIMIT_LINES 5
#define VUBLK_CLI_LIMIT_MS 10000

struct vublk_cli_limit {
	uint64_t window_start_ns;
	unsigned lines; /* printed since window_start_ns */
	unsigned left_out;
};

void vublk_cli_say_limited(const char *command, struct vublk_cli_limit *limit,
			   const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Fills `error` (may be NULL) with a code and one sentence. Returns -code. */
int vublk_cli_error(struct vublk_error *error, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * Like vublk_cli_error(), but for a failed system call: the description of errno value `code` is
 * appended.
 */
int vublk_cli_error_errno(struct vublk_error *error, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * The log callback of the commands, a vublk_log_fn. Prints `text` as one line to standard error,
 * after the name of the command. The opaque pointer of struct vublk_log must point to that name.
 */
void vublk_cli_log(void *command, enum vublk_log_level level, const char *text);

/* Returns the log level that --verbose and --quiet select. If both are given, --verbose wins. */
enum vublk_log_level vublk_cli_log_level(bool verbose, bool quiet);

/* --- the command line ------------------------------------------------------------ */

/*
 * Calls argp_parse() with the tool's conventions. A wrong command line ends the process with
 * VUBLK_EXIT_MISUSED; --help and --version end it with VUBLK_EXIT_DONE.
 */
void vublk_cli_parse(const struct argp *argp, int argc, char **argv, void *input);

/*
 * The functions from here to vublk_cli_refuse_no_socket() are called by argp parsers. A wrong value
 * of `option` ends the process with VUBLK_EXIT_MISUSED and one sentence that names the option.
 * vublk_cli_number() returns a number from `min` to `max`.
 */
uint64_t vublk_cli_number(struct argp_state *state, const char *option, const char *text,
			  uint64_t min, uint64_t max);
/*
 * Returns a size in bytes, from `min` to `max`. The text may have a suffix k, M, G or T (powers of
 * 1,024).
 */
uint64_t vublk_cli_bytes(struct argp_state *state, const char *option, const char *text,
			 uint64_t min, uint64_t max);
/* Like vublk_cli_bytes(), but for the option request-size, which must be a power of two. */
uint32_t vublk_cli_request_bytes(struct argp_state *state, const char *text, uint32_t min,
				 uint32_t max);
/*
 * Returns a time in milliseconds. The text is a number of seconds, or a number with the suffix ms,
 * s, m or h; decimals are permitted.
 */
uint64_t vublk_cli_milliseconds(struct argp_state *state, const char *option, const char *text);
/*
 * Like vublk_cli_milliseconds(), but for a time limit, which must be more than 0. A limit above the
 * maximum of poll() is reduced to that maximum.
 */
unsigned vublk_cli_stall_ms(struct argp_state *state, const char *option, const char *text);

/*
 * Stores `text`, the only argument of a command, in `argument`. A second argument ends the process.
 */
void vublk_cli_take_argument(struct argp_state *state, const char **argument, const char *text);
/* Ends the process with a message that the argument `text` is unexpected. */
void vublk_cli_refuse_argument(struct argp_state *state, const char *text);
/* Ends the process with a message that the argument SOCKET is missing. */
void vublk_cli_refuse_no_socket(struct argp_state *state);

/*
 * The following functions parse the value `text` of `option` without argp, and store it in `value`.
 * They return 0, or -EINVAL with one sentence in `error`.
 */
int vublk_cli_parse_number(const char *option, const char *text, uint64_t min, uint64_t max,
			   uint64_t *value, struct vublk_error *error);
int vublk_cli_parse_bytes(const char *option, const char *text, uint64_t min, uint64_t max,
			  uint64_t *value, struct vublk_error *error);
int vublk_cli_parse_milliseconds(const char *option, const char *text, uint64_t *value,
				 struct vublk_error *error);

/* --- printing ----------------------------------------------------------------- */

#define VUBLK_CLI_TEXT_BYTES 32

/*
 * Formats a size in the largest unit that does not exceed it: exactly if the result is a whole
 * number, otherwise rounded to three digits. Examples: "64 MiB", "1.50 GiB", "977 KiB". Returns
 * `text`.
 */
const char *vublk_cli_format_bytes(char text[VUBLK_CLI_TEXT_BYTES], uint64_t bytes);
/*
 * Formats a count, rounded to three digits, with powers of 1,000: "12.3k", "1.25M". Returns `text`.
 */
const char *vublk_cli_format_count(char text[VUBLK_CLI_TEXT_BYTES], double count);
/* Formats a time: "830 ns", "12.4 us", "3.10 ms", "2.00 s". Returns `text`. */
const char *vublk_cli_format_ns(char text[VUBLK_CLI_TEXT_BYTES], double ns);

/* Returns CLOCK_MONOTONIC in nanoseconds. */
uint64_t vublk_cli_now_ns(void);

#endif
