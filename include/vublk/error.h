/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_ERROR_H
#define VUBLK_ERROR_H

/*
 * How a call of this library fails, and how the library speaks.
 *
 * A call returns 0 (or a count) when it succeeded and a negative errno value
 * when it did not. A call whose failure a person may read also takes a
 * `struct vublk_error *`, which may be NULL: on failure it holds one sentence
 * that says what failed, why, and what to do about it. It is untouched on
 * success. No call allocates in order to fail.
 *
 *   EINVAL     the caller's argument is wrong
 *   EPROTO     the peer (back-end, front-end, driver) broke a named rule
 *   ENOTCONN   the peer is gone
 *   EBUSY      the object is in a state in which the call is not permitted
 *   ENOTSUP    the feature was not offered or not negotiated
 *   ETIMEDOUT  the peer did not answer before the deadline
 *   ETIME      a request was not completed before the disk's deadline for requests
 *   EAGAIN     a queue is full; take completions and try again
 *   others     as the system call that failed gave them
 */

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VUBLK_ERROR_TEXT_BYTES 512

struct vublk_error {
	int code;                          /* positive errno value; 0: no error */
	char text[VUBLK_ERROR_TEXT_BYTES]; /* one sentence, NUL-terminated, no final full stop */
};

/* How much is said. A handler gets what is at its level or below. */
enum vublk_log_level {
	VUBLK_LOG_ERROR = 0,   /* something was lost or given up */
	VUBLK_LOG_WARNING = 1, /* something is not as it should be; it went on */
	VUBLK_LOG_INFO = 2,    /* what an operator wants to see once */
	VUBLK_LOG_DEBUG = 3,   /* state changes and messages */
};

/*
 * Receives one line, without a newline. The library itself never prints.
 * Called on the thread on which the matter occurred; may be called from several
 * threads at once. `text` is valid during the call only. The handler must not
 * call back into the object that speaks.
 */
typedef void vublk_log_fn(void *opaque, enum vublk_log_level level, const char *text);

/*
 * Where an object sends its log lines; `fn` NULL: nowhere. The object copies it. The struct's
 * size never changes.
 */
struct vublk_log {
	vublk_log_fn *fn;
	void *opaque;
	enum vublk_log_level level;
	uint32_t reserved[5]; /* 0 */
};

/*
 * A name and its value, as options and properties are given, in an array that ends with a
 * NULL name. Both strings are borrowed during the call. The struct never changes.
 */
struct vublk_option {
	const char *name;
	const char *value;
};

/*
 * One option or property that a program can list, in a static array that ends with a NULL
 * name. The struct's size never changes.
 */
struct vublk_property {
	const char *name;
	const char *type;          /* "string", "number", "size" (k, M, G, T allowed), "bool",
				      "choice", "auto" (a number or "auto") */
	const char *default_value; /* NULL: none */
	const char *description;   /* one sentence, no final full stop */
	const void *reserved[4];   /* NULL */
};

#ifdef __cplusplus
}
#endif

#endif
