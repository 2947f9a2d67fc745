/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The polling budget, on a simulated clock: what it permits, and what a worker that serves requests
 * at a fixed rate then wastes.
 */
#include "harness.h"

#include "util/checked.h"
#include "worker/budget.h"
#include "worker/poller.h"

#define BURST_NS VUBLK_POLL_BUDGET_BURST_NS
#define SECOND_NS UINT64_C(1000000000)
#define LOOK_NS 100u

/* --- the bucket ------------------------------------------------------------ */

static void test_sleeps_until_the_bucket_is_full(void **state)
{
	struct vublk_poll_budget budget;
	uint64_t now = SECOND_NS;

	vublk_poll_budget_init(&budget, 10);
	vublk_poll_budget_charge(&budget, BURST_NS - 1, now);
	assert_true(vublk_poll_budget_permits(&budget, now));
	vublk_poll_budget_charge(&budget, 1, now);
	assert_false(vublk_poll_budget_permits(&budget, now));
	assert_false(vublk_poll_budget_permits(&budget, now + 5 * BURST_NS));
	assert_false(vublk_poll_budget_permits(&budget, now + 10 * BURST_NS - 1));
	assert_true(vublk_poll_budget_permits(&budget, now + 10 * BURST_NS));
}

/* The window that empties the bucket may exceed the budget. The excess delays the next window. */
static void test_debt(void **state)
{
	struct vublk_poll_budget budget;
	uint64_t now = SECOND_NS;

	vublk_poll_budget_init(&budget, 10);
	vublk_poll_budget_charge(&budget, BURST_NS + 1000, now);
	assert_false(vublk_poll_budget_permits(&budget, now + 10 * BURST_NS));
	assert_false(vublk_poll_budget_permits(&budget, now + 10 * (BURST_NS + 1000) - 1));
	assert_true(vublk_poll_budget_permits(&budget, now + 10 * (BURST_NS + 1000)));
}

/* A worker that was idle for a day may not poll for longer than one that was idle for a second. */
static void test_unused_time_is_limited(void **state)
{
	struct vublk_poll_budget budget;
	uint64_t now = 86400 * SECOND_NS;

	vublk_poll_budget_init(&budget, 50);
	vublk_poll_budget_charge(&budget, 1, SECOND_NS);
	vublk_poll_budget_charge(&budget, BURST_NS, now);
	assert_false(vublk_poll_budget_permits(&budget, now));
}

/* Each step gains a hundredth of a nanosecond. */
static void test_keeps_fractions(void **state)
{
	struct vublk_poll_budget budget;
	uint64_t now = SECOND_NS, steps = 0;

	vublk_poll_budget_init(&budget, 1);
	vublk_poll_budget_charge(&budget, BURST_NS, now);
	budget.left += (int64_t)(BURST_NS - 10) * 100;
	while (!vublk_poll_budget_permits(&budget, ++now))
		steps++;
	assert_int_equal(steps + 1, 10 * 100);
}

static void test_limits(void **state)
{
	struct vublk_poll_budget none, all;
	uint64_t now = SECOND_NS;

	vublk_poll_budget_init(&none, 0);
	vublk_poll_budget_init(&all, VUBLK_POLL_BUDGET_MAX);
	for (unsigned i = 0; i < 100000; i++) {
		now += VUBLK_POLLER_DRIVER_NS; /* all of it is wasted */
		vublk_poll_budget_charge(&all, VUBLK_POLLER_DRIVER_NS, now);
		assert_true(vublk_poll_budget_permits(&all, now));
		assert_false(vublk_poll_budget_permits(&none, now));
	}
}

/* --- a worker -------------------------------------------------------------- */

/* A simulated worker, which needs no time for a request. */
struct load {
	struct vublk_poller poller;
	struct vublk_poll_budget budget;
	uint64_t now;
	uint64_t wasted_ns;
	unsigned polled, slept;  /* requests that came during a window, and during a sleep */
	unsigned changes;        /* how often the worker changed between polling and sleeping */
	bool has_polled;
};

/* Looks for the request that comes at `next`. Returns whether the window found it. */
static bool look(struct load *load, uint64_t next)
{
	bool is_found;
	uint64_t wasted;

	if (!load->poller.window_ns || !vublk_poll_budget_permits(&load->budget, load->now))
		return false;
	while (load->now < next && vublk_poller_looks(&load->poller, load->now))
		load->now += LOOK_NS;
	is_found = load->now >= next;
	wasted = is_found ? vublk_poller_found(&load->poller) : vublk_poller_missed(&load->poller);
	load->wasted_ns += wasted;
	if (wasted)
		vublk_poll_budget_charge(&load->budget, wasted, load->poller.looked_ns);
	return is_found;
}

/* Serves one request every `gap_ns` for `ns`, beginning with an open window. */
static void serve(struct load *load, unsigned percent, uint64_t gap_ns, uint64_t ns)
{
	*load = (struct load){
		.poller = { .last_ns = VUBLK_POLLER_DRIVER_NS, .window_ns = VUBLK_POLLER_DRIVER_NS },
		.now = SECOND_NS, .has_polled = true,
	};
	vublk_poll_budget_init(&load->budget, percent);
	for (uint64_t next = load->now + gap_ns; next < SECOND_NS + ns; next += gap_ns) {
		bool is_found = look(load, next);

		if (is_found) {
			load->polled++;
		} else {
			load->slept++;
			vublk_poller_slept(&load->poller, next - load->now);
		}
		load->changes += is_found != load->has_polled;
		load->has_polled = is_found;
		load->now = next;
	}
}

static void test_share_at_a_fixed_rate(void **state)
{
	static const unsigned percents[] = { 1, 5, 10, 25, 50, 100 };
	const uint64_t ns = 4 * SECOND_NS;
	struct load load;

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(percents); i++) {
		uint64_t budget_ns = ns * percents[i] / 100;

		serve(&load, percents[i], 20000, ns); /* 50,000 per second */
		assert_true(load.wasted_ns <= budget_ns + BURST_NS + VUBLK_POLLER_DRIVER_NS);
		if (percents[i] < 50) /* the load would waste 12 of 20 us */
			assert_true(load.wasted_ns >= budget_ns / 2);
		else if (percents[i] == 100)
			assert_int_equal(load.slept, 0);
		/* The worker polls or sleeps for many requests in a row. */
		assert_true(load.changes <= (load.polled + load.slept) / 100);
	}
}

/* Requests that come sooner than a sleep would end are polled for with the smallest budget. */
static void test_fast_requests_are_free(void **state)
{
	struct load load;

	serve(&load, 1, VUBLK_POLLER_SLEEP_NS, SECOND_NS);
	assert_int_equal(load.wasted_ns, 0);
	assert_int_equal(load.slept, 0);
	assert_true(load.polled > 100000);
}

static void test_no_budget(void **state)
{
	struct load load;

	serve(&load, 0, VUBLK_POLLER_SLEEP_NS, SECOND_NS);
	assert_int_equal(load.polled, 0);
	assert_true(load.slept > 100000);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_sleeps_until_the_bucket_is_full),
		VUBLK_TEST(test_debt),
		VUBLK_TEST(test_unused_time_is_limited),
		VUBLK_TEST(test_keeps_fractions),
		VUBLK_TEST(test_limits),
		VUBLK_TEST(test_share_at_a_fixed_rate),
		VUBLK_TEST(test_fast_requests_are_free),
		VUBLK_TEST(test_no_budget),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
