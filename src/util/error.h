/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_ERROR_H
#define VUBLK_UTIL_ERROR_H

#include <vublk/error.h>

#include <stdarg.h>

/*
 * Fills `error` (may be NULL) with `code`, a positive errno value, and one sentence. Returns -code,
 * so that a failing function can end with `return vublk_error_set(...)`.
 */
int vublk_error_set(struct vublk_error *error, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

int vublk_error_set_va(struct vublk_error *error, int code, const char *format, va_list args)
	__attribute__((format(printf, 3, 0)));

/* Like vublk_error_set(), but for a failed system call: ": <strerror(code)>" is appended. */
int vublk_error_set_errno(struct vublk_error *error, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * Puts "context: " in front of the message. `error` NULL is a no-op. Returns nothing, so that no
 * caller takes its result from `error`, which may be NULL. A caller must return the errno that it
 * already has; tests/lint/style.py checks this rule.
 */
void vublk_error_prepend(struct vublk_error *error, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

#endif
