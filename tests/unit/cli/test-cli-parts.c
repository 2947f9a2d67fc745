/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Parts of the tool that need no disk: histogram, pacer, pattern, shuffle, holes, crew, progress. */
#include "harness.h"

#include "cli/bench/pacer.h"
#include "cli/cli.h"
#include "cli/crew.h"
#include "cli/histogram.h"
#include "cli/pattern.h"
#include "cli/progress.h"
#include "cli/copy/sparse.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- histogram ---------------------------------------------------------------- */

#define SAMPLES 20000

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Compares the histogram with sorted samples, whose percentiles are exact. */
static void test_histogram_against_sort(void **state)
{
	static const double percents[] = { 0, 0.01, 1, 5, 50, 90, 99, 99.9, 99.99, 100 };
	static uint64_t samples[SAMPLES];
	struct vublk_histogram *h = calloc(1, sizeof(*h));
	double sum = 0, squares = 0, mean;

	for (unsigned i = 0; i < SAMPLES; i++) {
		samples[i] = vublk_mix(i) >> (vublk_mix(i + SAMPLES) % 34 + 30);
		vublk_histogram_add(h, samples[i]);
		sum += (double)samples[i];
	}
	mean = sum / SAMPLES;
	for (unsigned i = 0; i < SAMPLES; i++)
		squares += ((double)samples[i] - mean) * ((double)samples[i] - mean);
	qsort(samples, SAMPLES, sizeof(samples[0]), compare_u64);

	assert_int_equal(h->count, SAMPLES);
	assert_int_equal(h->min, samples[0]);
	assert_int_equal(h->max, samples[SAMPLES - 1]);
	assert_true(fabs(vublk_histogram_mean(h) / mean - 1) < 1e-9);
	assert_true(fabs(vublk_histogram_stddev(h) / sqrt(squares / (SAMPLES - 1)) - 1) < 1e-6);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(percents); i++) {
		size_t rank = (size_t)ceil(percents[i] * SAMPLES / 100 - 1e-6);
		double exact = (double)samples[rank ? rank - 1 : 0];
		double found = (double)vublk_histogram_percentile(h, percents[i]);

		assert_true(fabs(found - exact) <= exact / 128);
	}
	free(h);
}

static void test_histogram_edges(void **state)
{
	static const uint64_t values[] = { 0, 1, 63, 64, 127, 128, 129, UINT64_MAX - 1, UINT64_MAX };
	struct vublk_histogram *h;

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(values); i++) {
		h = calloc(1, sizeof(*h));
		assert_int_equal(vublk_histogram_percentile(h, 50), 0);
		vublk_histogram_add(h, values[i]);
		assert_int_equal(vublk_histogram_percentile(h, 0), values[i]);
		assert_int_equal(vublk_histogram_percentile(h, 100), values[i]);
		free(h);
	}
}

static void test_histogram_merge(void **state)
{
	struct vublk_histogram *a = calloc(1, sizeof(*a)), *b = calloc(1, sizeof(*b));
	struct vublk_histogram *all = calloc(1, sizeof(*all)), *empty = calloc(1, sizeof(*empty));

	for (unsigned i = 0; i < 1000; i++) {
		uint64_t value = vublk_mix(i) >> 40;

		vublk_histogram_add(all, value);
		vublk_histogram_add(i % 3 ? a : b, value);
	}
	vublk_histogram_merge(a, b);
	vublk_histogram_merge(a, empty);
	assert_memory_equal(a, all, sizeof(*a));
	vublk_histogram_merge(empty, all);
	assert_memory_equal(empty, all, sizeof(*a));
	free(a);
	free(b);
	free(all);
	free(empty);
}

/* --- pacer -------------------------------------------------------------------- */

#define SECOND_NS UINT64_C(1000000000)

/* Compares the pacer with exact fractions: n / rate seconds, rounded up to nanoseconds. */
static void test_pacer_is_exact(void **state)
{
	static const uint64_t rates[] = { 1, 3, 7, 1000, 49999, 50000, 999999937, VUBLK_PACER_MAX_RATE };
	static const uint64_t numbers[] = { 0, 1, 2, 999, 1000003, UINT64_C(123456789012345) };
	const uint64_t start = 12345;

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(rates); i++)
		for (size_t j = 0; j < VUBLK_ARRAY_SIZE(numbers); j++) {
			uint64_t number = numbers[j] % (rates[i] * 1000000); /* up to 12 days */
			unsigned __int128 exact = (unsigned __int128)number * SECOND_NS;
			struct vublk_pacer pacer;

			vublk_pacer_start(&pacer, rates[i], start);
			pacer.number = number;
			exact = (exact + rates[i] - 1) / rates[i] + start;
			assert_true(vublk_pacer_due_ns(&pacer) == (uint64_t)exact);
		}
}

/*
 * A model of a job, on a simulated clock: its disk stops for a while in each second. The job starts
 * each request as soon as it is due and the disk works.
 */
static void test_pacer_catches_up(void **state)
{
	const uint64_t rate = 1000, stop_ns = SECOND_NS / 10, runtime_ns = 3 * SECOND_NS;
	uint64_t started = 0, late = 0, now = 0, latest_ns = 0;
	struct vublk_pacer pacer;

	vublk_pacer_start(&pacer, rate, 0);
	while (now < runtime_ns) {
		uint64_t due = vublk_pacer_due_ns(&pacer);

		now = VUBLK_CLI_MAX(now, due);
		if (now % SECOND_NS < stop_ns)
			now += stop_ns - now % SECOND_NS;
		if (now >= runtime_ns)
			break;
		assert_true(vublk_pacer_take(&pacer) == due);
		started++;
		late += now > due;
		latest_ns = VUBLK_CLI_MAX(latest_ns, now - due);
		assert_true(started <= rate * now / SECOND_NS + 1);
	}
	assert_int_equal(started, rate * runtime_ns / SECOND_NS); /* none is left out */
	assert_int_equal(late, 3 * rate * stop_ns / SECOND_NS);
	assert_int_equal(latest_ns, stop_ns);
}

static void test_pacer_without_a_rate(void **state)
{
	struct vublk_pacer pacer;

	vublk_pacer_start(&pacer, 0, 12345);
	assert_int_equal(vublk_pacer_take(&pacer), 0);
}

/* --- pattern ------------------------------------------------------------------ */

static void test_pattern_is_recognized(void **state)
{
	static uint64_t block[8192 / 8];
	static const uint32_t sizes[] = { 512, 4096, 8192 };

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(sizes); i++) {
		struct vublk_pattern p = { .run = 5, .offset = 7 * sizes[i], .generation = 3 };
		struct vublk_pattern any = { .offset = p.offset };

		vublk_pattern_fill(&p, block, sizes[i]);
		assert_int_equal(vublk_pattern_check(&p, block, sizes[i], NULL), 0);
		assert_int_equal(vublk_pattern_check(&any, block, sizes[i], NULL), 0);
	}
}

/* A change of any single byte is found, and the error names its place. */
static void test_pattern_every_byte_counts(void **state)
{
	static uint64_t block[512 / 8];
	struct vublk_pattern p = { .run = 5, .offset = 512, .generation = 1 };
	unsigned char *bytes = (unsigned char *)block;
	struct vublk_error e;
	char where[32];

	vublk_pattern_fill(&p, block, sizeof(block));
	for (unsigned i = 0; i < sizeof(block); i++) {
		bytes[i] ^= 0x40;
		assert_int_equal(vublk_pattern_check(&p, block, sizeof(block), &e), -EILSEQ);
		bytes[i] ^= 0x40;
		assert_non_null(strstr(e.text, "block at offset 512"));
		if (i < 40) /* for the header, the error names its fields instead */
			continue;
		snprintf(where, sizeof(where), " at byte %u", i);
		assert_non_null(strstr(e.text, where));
	}
}

static void check_sentence(const struct vublk_pattern *wanted, const void *block, uint32_t bytes,
			   const char *words)
{
	struct vublk_error e = { 0 };

	assert_int_equal(vublk_pattern_check(wanted, block, bytes, &e), -EILSEQ);
	if (!strstr(e.text, words))
		fail_msg("'%s' does not contain '%s'", e.text, words);
}

static void test_pattern_sentences(void **state)
{
	static uint64_t block[4096 / 8];
	struct vublk_pattern p = { .run = 5, .offset = 8192, .generation = 3 }, wanted;

	check_sentence(&p, block, sizeof(block), "block at offset 8192: expected the block that "
		       "was written there, found only zeroes");
	wanted = (struct vublk_pattern){ .offset = 8192 };
	check_sentence(&wanted, block, sizeof(block), "unless the earlier run did not write it");
	block[100] = 1;
	check_sentence(&p, block, sizeof(block), "no run with --verify wrote");
	vublk_pattern_fill(&p, block, sizeof(block));
	wanted = p;
	wanted.generation = 4;
	check_sentence(&wanted, block, sizeof(block), "expected generation 4, found 3");
	wanted = p;
	wanted.offset = 4096;
	check_sentence(&wanted, block, sizeof(block), "it contains the data of the block at offset 8192");
	wanted = p;
	wanted.run = 6;
	check_sentence(&wanted, block, sizeof(block), "expected a block of this run");
	check_sentence(&p, block, 512, "found one of 4096");
	/* A torn write: the second half has the previous generation. */
	static uint64_t older[4096 / 8];
	wanted = p;
	wanted.generation = 2;
	vublk_pattern_fill(&wanted, older, sizeof(older));
	memcpy(block + 256, older + 256, 2048);
	check_sentence(&p, block, sizeof(block), "at byte 2048");
}

static void test_shuffle_is_a_permutation(void **state)
{
	static const uint64_t counts[] = { 1, 2, 3, 7, 64, 1000, 4096, 5000, 65537 };
	static unsigned char seen[65537];
	struct vublk_shuffle s;

	for (size_t c = 0; c < VUBLK_ARRAY_SIZE(counts); c++) {
		uint64_t in_order = 0;

		memset(seen, 0, sizeof(seen));
		vublk_shuffle_init(&s, counts[c], c);
		for (uint64_t i = 0; i < counts[c]; i++) {
			uint64_t at = vublk_shuffle_at(&s, i);

			assert_true(at < counts[c]);
			assert_int_equal(seen[at]++, 0);
			in_order += at == i;
		}
		assert_true(counts[c] < 64 || in_order < counts[c] / 8);
	}
}

/* --- holes -------------------------------------------------------------------- */

static int open_scratch(void)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/file", vublk_test_folder());
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	return fd;
}

/* Checks that the pieces of a file cover all of it, and that no hole contains data. */
static void check_walk(int fd, uint64_t size, uint32_t unit, uint64_t max_data, uint64_t max_hole)
{
	struct vublk_sparse s;
	struct vublk_extent extent;
	uint64_t position = 0;
	int ret;

	vublk_sparse_init(&s, fd, size, unit);
	while ((ret = vublk_sparse_next(&s, max_data, max_hole, &extent, NULL)) == 1) {
		assert_int_equal(extent.offset, position);
		assert_true(extent.bytes > 0);
		assert_true(extent.bytes <= (extent.hole ? max_hole : max_data));
		position += extent.bytes;
		assert_true(position == size || !(position % unit));
		for (uint64_t i = extent.offset; extent.hole && i < position; i += 512) {
			char data[512];
			ssize_t n = pread(fd, data, VUBLK_MIN(sizeof(data), position - i),
					  (off_t)i);

			assert_true(n >= 0 && vublk_is_zero(data, (size_t)n));
		}
	}
	assert_int_equal(ret, 0);
	assert_int_equal(position, size);
}

static void test_sparse_walk(void **state)
{
	static const uint64_t sizes[] = { 0, 1, 511, 4096, 1000003, 1 << 20, 3000001 };
	static const uint64_t data[] = { 0, 5, 100000, 262144, 999999 };
	struct vublk_sparse s;
	struct vublk_extent extent;
	int fd = open_scratch();

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(sizes); i++) {
		assert_int_equal(ftruncate(fd, 0), 0);
		assert_int_equal(ftruncate(fd, (off_t)sizes[i]), 0);
		check_walk(fd, sizes[i], 512, 65536, 1 << 30);
		for (size_t d = 0; d < VUBLK_ARRAY_SIZE(data); d++)
			if (data[d] < sizes[i])
				assert_int_equal(pwrite(fd, "x", 1, (off_t)data[d]), 1);
		check_walk(fd, sizes[i], 512, 65536, 1 << 30);
		check_walk(fd, sizes[i], 65536, 65536, 131072);
		check_walk(fd, sizes[i], 4096, 1 << 20, 4096);
	}
	/* All file systems of the tests report a file without data as one hole. */
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	vublk_sparse_init(&s, fd, 1 << 20, 512);
	assert_int_equal(vublk_sparse_next(&s, 65536, 1 << 30, &extent, NULL), 1);
	assert_true(extent.hole);
	assert_int_equal(extent.bytes, 1 << 20);
	close(fd);
}

/* A file that does not support SEEK_DATA, such as a block device, counts as data without holes. */
static void test_sparse_without_holes(void **state)
{
	struct vublk_sparse s;
	struct vublk_extent extent;
	struct vublk_error e = { 0 };
	int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(lseek(fd, 0, SEEK_DATA), -1);
	assert_int_equal(errno, EINVAL);
	vublk_sparse_init(&s, fd, 10000, 512);
	assert_int_equal(vublk_sparse_next(&s, 8192, 8192, &extent, &e), 1);
	assert_false(extent.hole);
	assert_int_equal(extent.bytes, 8192);
	assert_int_equal(vublk_sparse_next(&s, 8192, 8192, &extent, &e), 1);
	assert_int_equal(vublk_sparse_next(&s, 8192, 8192, &extent, &e), 0);
	assert_int_equal(e.code, 0);
	close(fd);
}

static void test_zero_runs(void **state)
{
	static unsigned char data[20000];
	bool zero;

	assert_true(vublk_is_zero(data, 0));
	assert_true(vublk_is_zero(data, sizeof(data)));
	assert_int_equal(vublk_zero_run(data, sizeof(data), 4096, &zero), sizeof(data));
	assert_true(zero);
	data[4096] = 1;
	assert_int_equal(vublk_zero_run(data, sizeof(data), 4096, &zero), 4096);
	assert_true(zero);
	assert_int_equal(vublk_zero_run(data + 4096, sizeof(data) - 4096, 4096, &zero), 4096);
	assert_false(zero);
	data[19999] = 1;
	assert_int_equal(vublk_zero_run(data + 8192, sizeof(data) - 8192, 4096, &zero), 8192);
	assert_true(zero);
	assert_int_equal(vublk_zero_run(data + 16384, sizeof(data) - 16384, 4096, &zero), 3616);
	assert_false(zero);
	for (unsigned i = 0; i < 100; i++) {
		data[i] = 1;
		assert_false(vublk_is_zero(data, 100));
		data[i] = 0;
	}
}

/* --- crew and progress -------------------------------------------------------- */

static void add_one(void *member)
{
	__atomic_fetch_add(*(unsigned **)member, 1, __ATOMIC_RELAXED);
}

static void stop_none(void *opaque)
{
}

static void test_crew(void **state)
{
	unsigned sum = 0, *members[16];
	struct vublk_crew crew;

	for (unsigned i = 0; i < 16; i++)
		members[i] = &sum;
	assert_int_equal(vublk_crew_start(&crew, 16, add_one, members, sizeof(members[0]),
					  stop_none, NULL, NULL), 0);
	while (!vublk_crew_wait(&crew, 1000))
		;
	vublk_crew_finish(&crew);
	assert_int_equal(sum, 16);
}

static void test_progress_lines(void **state)
{
	struct vublk_progress p;
	char text[128] = "";
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	vublk_progress_start(&p, fds[1], false, 1000);
	vublk_progress_update(&p, 0);
	vublk_progress_update(&p, 500);
	vublk_progress_update(&p, 504);
	vublk_progress_update(&p, 999);
	vublk_progress_end(&p, 1000, true);
	assert_true(read(fds[0], text, sizeof(text) - 1) > 0);
	assert_string_equal(text, "0/100\n50/100\n99/100\n100/100\n");
	close(fds[0]);
	close(fds[1]);
}

static void test_progress_bar(void **state)
{
	char line[256];

	vublk_progress_bar(line, sizeof(line), 80, 32 << 20, 64 << 20, 500000000);
	assert_int_equal(line[0], '[');
	assert_non_null(strstr(line, " 50 %  32 MiB of 64 MiB  64 MiB/s"));
	assert_true(strlen(line) < 80);
	vublk_progress_bar(line, sizeof(line), 80, 0, 0, 0);
	assert_non_null(strstr(line, "100 %  0 B of 0 B  0 B/s"));
	vublk_progress_bar(line, sizeof(line), 20, 1, 2, 1);
	assert_int_equal(line[0], ' ');
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_histogram_against_sort),
		VUBLK_TEST(test_histogram_edges),
		VUBLK_TEST(test_histogram_merge),
		VUBLK_TEST(test_pacer_is_exact),
		VUBLK_TEST(test_pacer_catches_up),
		VUBLK_TEST(test_pacer_without_a_rate),
		VUBLK_TEST(test_pattern_is_recognized),
		VUBLK_TEST(test_pattern_every_byte_counts),
		VUBLK_TEST(test_pattern_sentences),
		VUBLK_TEST(test_shuffle_is_a_permutation),
		VUBLK_TEST(test_sparse_walk),
		VUBLK_TEST(test_sparse_without_holes),
		VUBLK_TEST(test_zero_runs),
		VUBLK_TEST(test_crew),
		VUBLK_TEST(test_progress_lines),
		VUBLK_TEST(test_progress_bar),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
