/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_COMPILER_H
#define VUBLK_UTIL_COMPILER_H

/* Hints for code that every request runs. */

#define VUBLK_UNLIKELY(condition) __builtin_expect(!!(condition), 0)
/* Always inlined, whatever its size. */
#define VUBLK_ALWAYS_INLINE inline __attribute__((always_inline))
/* Never inlined, so that its caller need not save registers for it on the fast path. */
#define VUBLK_NOINLINE __attribute__((noinline))
/* For functions that are rarely called: they are kept out of the caller's code. */
#define VUBLK_COLD __attribute__((cold, noinline))

#endif
