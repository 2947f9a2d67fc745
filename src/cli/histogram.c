/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A log-linear histogram: from 2^BITS on, each range between two successive powers of two has the
 * same number of buckets, so the relative error is the same for 1 us and for 1 s. The buckets for
 * all 64-bit values take 30 kB.
 *
 * Key idea: the bucket of a value follows from the value's leading BITS + 1 bits and from how far
 * they were shifted. Below 2^(BITS+1) the shift is 0, and the bucket is the value itself.
 */
#include "cli/histogram.h"

#include <math.h>

#define STEPS (UINT64_C(1) << VUBLK_HISTOGRAM_BITS)

static unsigned bucket_of(uint64_t value)
{
	unsigned shift;

	if (value < STEPS)
		return (unsigned)value;
	shift = 63 - (unsigned)__builtin_clzll(value) - VUBLK_HISTOGRAM_BITS;
	return (unsigned)(shift * STEPS + (value >> shift));
}

/*
 * Returns the middle of a bucket, which differs from each value in the bucket by at most half the
 * bucket's width.
 */
static uint64_t value_of(unsigned bucket)
{
	unsigned shift;

	if (bucket < 2 * STEPS)
		return bucket;
	shift = bucket / STEPS - 1;
	return ((STEPS + bucket % STEPS) << shift) + (UINT64_C(1) << shift) / 2;
}

void vublk_histogram_add(struct vublk_histogram *histogram, uint64_t value)
{
	if (!histogram->count || value < histogram->min)
		histogram->min = value;
	if (value > histogram->max)
		histogram->max = value;
	histogram->count++;
	histogram->sum += value;
	histogram->square_sum += (unsigned __int128)value * value;
	histogram->buckets[bucket_of(value)]++;
}

void vublk_histogram_merge(struct vublk_histogram *into, const struct vublk_histogram *from)
{
	if (!from->count)
		return;
	if (!into->count || from->min < into->min)
		into->min = from->min;
	if (from->max > into->max)
		into->max = from->max;
	into->count += from->count;
	into->sum += from->sum;
	into->square_sum += from->square_sum;
	for (unsigned i = 0; i < VUBLK_HISTOGRAM_BUCKETS; i++)
		into->buckets[i] += from->buckets[i];
}

double vublk_histogram_mean(const struct vublk_histogram *histogram)
{
	return histogram->count ? (double)histogram->sum / (double)histogram->count : 0;
}

double vublk_histogram_stddev(const struct vublk_histogram *histogram)
{
	double mean = vublk_histogram_mean(histogram);
	double variance;

	if (histogram->count < 2)
		return 0;
	variance = ((double)histogram->square_sum - mean * (double)histogram->sum) /
		   (double)(histogram->count - 1);
	return variance > 0 ? sqrt(variance) : 0;
}

uint64_t vublk_histogram_percentile(const struct vublk_histogram *histogram, double percent)
{
	/*
	 * Without the 1e-6, a rounding error would turn 99.9 % of 41,000 values into the 40,960th
	 * value instead of the 40,959th.
	 */
	double rank = ceil(percent * (double)histogram->count / 100 - 1e-6);
	uint64_t wanted = rank < 1 ? 1 : (uint64_t)rank, seen = 0, value;

	for (unsigned i = 0; i < VUBLK_HISTOGRAM_BUCKETS; i++) {
		seen += histogram->buckets[i];
		if (seen < wanted)
			continue;
		value = value_of(i);
		if (value < histogram->min)
			return histogram->min;
		return value > histogram->max ? histogram->max : value;
	}
	return histogram->count ? histogram->max : 0;
}
