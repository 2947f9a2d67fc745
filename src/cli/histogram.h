/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_HISTOGRAM_H
#define VUBLK_CLI_HISTOGRAM_H

#include <stdint.h>

/*
 * A histogram of times in nanoseconds. It counts values below 128 ns exactly, and larger ones to
 * within 1/128 of the value. Adding a value takes a few instructions and never allocates memory.
 */
#define VUBLK_HISTOGRAM_BITS 6
#define VUBLK_HISTOGRAM_BUCKETS ((64 - VUBLK_HISTOGRAM_BITS + 1) << VUBLK_HISTOGRAM_BITS)

struct vublk_histogram {
	uint64_t count;
	uint64_t min; /* not valid if `count` is 0 */
	uint64_t max;
	uint64_t sum;
	unsigned __int128 square_sum;
	uint64_t buckets[VUBLK_HISTOGRAM_BUCKETS];
};

/* Adds a value. A zeroed struct is an empty histogram. */
void vublk_histogram_add(struct vublk_histogram *histogram, uint64_t value);
void vublk_histogram_merge(struct vublk_histogram *into, const struct vublk_histogram *from);

/* Returns the mean; 0 for an empty histogram. */
double vublk_histogram_mean(const struct vublk_histogram *histogram);
/* Returns the sample standard deviation (divisor count - 1), as fio does. */
double vublk_histogram_stddev(const struct vublk_histogram *histogram);
/* Returns a value that `percent` percent of the values do not exceed; 0 for an empty histogram. */
uint64_t vublk_histogram_percentile(const struct vublk_histogram *histogram, double percent);

#endif
