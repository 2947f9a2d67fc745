/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_CHECKED_H
#define VUBLK_UTIL_CHECKED_H

#include <stdbool.h>
#include <stdint.h>

#define VUBLK_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define VUBLK_BIT(n) (UINT64_C(1) << (n))

#define VUBLK_MIN(a, b) ({ __typeof__(a) a_ = (a); __typeof__(b) b_ = (b); a_ < b_ ? a_ : b_; })
#define VUBLK_MAX(a, b) ({ __typeof__(a) a_ = (a); __typeof__(b) b_ = (b); a_ > b_ ? a_ : b_; })

#define vublk_container_of(pointer, type, member) \
	((type *)((char *)(pointer) - offsetof(type, member)))

/*
 * Returns whether [offset, offset + length) lies within [0, size), without overflow. No other
 * function may add an offset and a length that a peer sent.
 */
static inline bool vublk_range_within(uint64_t offset, uint64_t length, uint64_t size)
{
	return length <= size && offset <= size - length;
}

/* Returns whether [a, a + a_length) and [b, b + b_length) share a byte. */
static inline bool vublk_ranges_overlap(uint64_t a, uint64_t a_length,
					uint64_t b, uint64_t b_length)
{
	return a < b ? b - a < a_length && b_length : a - b < b_length && a_length;
}

static inline bool vublk_is_power_of_two(uint64_t n)
{
	return n && !(n & (n - 1));
}

/*
 * Returns the smallest multiple of `unit` that is not less than `n`. `unit` must be a power of two,
 * and n + unit must not overflow.
 */
static inline uint64_t vublk_round_up(uint64_t n, uint64_t unit)
{
	return (n + unit - 1) & ~(unit - 1);
}

#endif
