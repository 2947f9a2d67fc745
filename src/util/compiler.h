/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_COMPILER_H
#define VUBLK_UTIL_COMPILER_H

/* What the compiler cannot know of the path of every request. */

#define VUBLK_UNLIKELY(condition) __builtin_expect(!!(condition), 0)
/* Part of its caller, whatever its size. */
#define VUBLK_ALWAYS_INLINE inline __attribute__((always_inline))
/* Its registers are saved when it is called, and not for what its caller does before. */
#define VUBLK_NOINLINE __attribute__((noinline))
/* Out of the way of its caller. */
#define VUBLK_COLD __attribute__((cold, noinline))

#endif
