/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The token bucket with a simulated clock: rates, late requests, bursts, and large requests. */
#include "harness.h"

#include "plane/bucket.h"
#include "util/checked.h"

#include <stdlib.h>

#define NS_PER_S UINT64_C(1000000000)
#define START (UINT64_C(1) << 40)
#define BURST_NS (NS_PER_S / 10)

static struct vublk_bucket bucket;

/*
 * Until `until_ns`, passes requests of `units` units as early as possible. Returns their number.
 */
static uint64_t pass_until(uint64_t units, uint64_t until_ns)
{
	uint64_t n = 0, now = START;

	for (;;) {
		now = VUBLK_MAX(now, vublk_bucket_ready_ns(&bucket));
		if (now >= until_ns)
			return n;
		vublk_bucket_pay(&bucket, units, now);
		n++;
	}
}

/* The first request passes immediately, so n requests take n - 1 times the cost of one. */
static void test_rate_is_exact(void **state)
{
	static const struct { uint64_t rate, units; } rows[] = {
		{ 1, 1 }, { 3, 1 }, { 7, 1 }, { 1000, 1 }, { 999983, 1 }, { 3000000, 1 },
		{ 10 << 20, 4096 }, { 12345679, 512 }, { UINT64_C(7000000001), 4096 },
		{ 1000, 5000 }, { UINT64_C(1000000000000000), 1 << 30 },
	};

	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(rows); i++) {
		uint64_t n, seconds = 10, units = rows[i].rate * seconds;

		vublk_bucket_init(&bucket, rows[i].rate, BURST_NS, START);
		n = pass_until(rows[i].units, START + seconds * NS_PER_S);
		/*
		 * The bucket rounds times down to nanoseconds, so slightly more requests may pass.
		 */
		assert_in_range(n, units / rows[i].units, units / rows[i].units + 1 +
				rows[i].rate / rows[i].units / NS_PER_S);
	}
}

/* Requests that are late by less than BURST_NS do not lower the rate. */
static void test_late_requests(void **state)
{
	uint64_t n = 0, now = START, end = START + 10 * NS_PER_S;

	srand(1);
	vublk_bucket_init(&bucket, 1000, BURST_NS, START);
	for (;;) {
		now = VUBLK_MAX(now, vublk_bucket_ready_ns(&bucket));
		if (now >= end)
			break;
		vublk_bucket_pay(&bucket, 1, now);
		n++;
		if (n % 100 == 0)
			now += (uint64_t)rand() % BURST_NS;
	}
	assert_in_range(n, 10000 - 100, 10000);
}

/* After a pause of any length, the burst and one more request pass immediately. */
static void test_burst_is_bounded(void **state)
{
	uint64_t now = START + 3600 * NS_PER_S;
	unsigned n = 0;

	vublk_bucket_init(&bucket, 1000, BURST_NS, START);
	while (vublk_bucket_ready_ns(&bucket) <= now) {
		vublk_bucket_pay(&bucket, 1, now);
		n++;
	}
	assert_int_equal(n, 101);
	assert_int_equal(vublk_bucket_ready_ns(&bucket), now + NS_PER_S / 1000);
}

/* A new bucket has not saved any time, so it permits no burst. */
static void test_new_bucket_is_empty(void **state)
{
	vublk_bucket_init(&bucket, 1000, BURST_NS, START);
	vublk_bucket_pay(&bucket, 1, START);
	assert_int_equal(vublk_bucket_ready_ns(&bucket), START + NS_PER_S / 1000);
}

/*
 * A request that is larger than the burst passes. The next one waits until the first is paid for.
 */
static void test_large_request(void **state)
{
	vublk_bucket_init(&bucket, 1000, BURST_NS, START);
	assert_true(vublk_bucket_ready_ns(&bucket) <= START);
	vublk_bucket_pay(&bucket, 60000, START);
	assert_int_equal(vublk_bucket_ready_ns(&bucket), START + 60 * NS_PER_S);
}

static void test_absurd_debt(void **state)
{
	vublk_bucket_init(&bucket, 1, BURST_NS, START);
	for (unsigned i = 0; i < 3; i++)
		vublk_bucket_pay(&bucket, UINT64_MAX, START);
	assert_int_equal(vublk_bucket_ready_ns(&bucket), UINT64_MAX);
}

static void test_no_limit(void **state)
{
	vublk_bucket_init(&bucket, 0, BURST_NS, START);
	vublk_bucket_pay(&bucket, UINT64_MAX, START);
	assert_int_equal(vublk_bucket_ready_ns(&bucket), 0);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_rate_is_exact),
		VUBLK_TEST(test_late_requests),
		VUBLK_TEST(test_burst_is_bounded),
		VUBLK_TEST(test_new_bucket_is_empty),
		VUBLK_TEST(test_large_request),
		VUBLK_TEST(test_absurd_debt),
		VUBLK_TEST(test_no_limit),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
