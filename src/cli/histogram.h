/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_HISTOGRAM_H
#define VUBLK_CLI_HISTOGRAM_H

#include <stdint.h>

/*
 * A histogram of times in nanoseconds. Values below 128 ns are exact, larger ones are within
 * 1/128 of the value. Adding a value takes a few instructions and never allocates.
 */
#define VUBLK_HISTOGRAM_BITS 6
#define VUBLK_HISTOGRAM_BUCKETS ((64 - VUBLK_HISTOGRAM_BITS + 1) << VUBLK_HISTOGRAM_BITS)

struct vublk_histogram {
	uint64_t count;
	uint64_t min; /* undefined when count is 0 */
	uint64_t max;
	uint64_t sum;
	unsigned __int128 square_sum;
	uint64_t buckets[VUBLK_HISTOGRAM_BUCKETS];
};

/* A zeroed histogram is empty. */
void vublk_histogram_add(struct vublk_histogram *histogram, uint64_t value);
void vublk_histogram_merge(struct vublk_histogram *into, const struct vublk_histogram *from);

/* 0 for an empty histogram. */
double vublk_histogram_mean(const struct vublk_histogram *histogram);
/* The sample standard deviation, as fio computes it: divided by count - 1. */
double vublk_histogram_stddev(const struct vublk_histogram *histogram);
/* The value that `percent` of the values do not exceed; 0 for an empty histogram. */
uint64_t vublk_histogram_percentile(const struct vublk_histogram *histogram, double percent);

#endif
