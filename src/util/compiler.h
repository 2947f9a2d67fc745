/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_COMPILER_H
#define VUBLK_UTIL_COMPILER_H

/* Hints for code that every request executes. */

#define VUBLK_UNLIKELY(condition) __builtin_expect(!!(condition), 0)
/* The compiler must inline the function, regardless of its size. */
#define VUBLK_ALWAYS_INLINE inline __attribute__((always_inline))
/*
 * The compiler must not inline the function, so that on the fast path its caller need not save
 * registers for it.
 */
#define VUBLK_NOINLINE __attribute__((noinline))
/* The function is rarely called, so it is kept out of the caller's code. */
#define VUBLK_COLD __attribute__((cold, noinline))

#endif
