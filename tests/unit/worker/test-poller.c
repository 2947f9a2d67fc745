/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Adaptive polling: how sleeps, and polling with and without success, change the polling window. */
#include "harness.h"

#include "util/checked.h"
#include "worker/poller.h"

#define SHORT_NS 5000u
#define LONG_NS 1000000u

/* The worker polls, finds no work, and sleeps. */
static void idle(struct vublk_poller *poller, uint64_t slept_ns)
{
	if (poller->window_ns)
		vublk_poller_looks(poller, 0);
	vublk_poller_missed(poller);
	vublk_poller_slept(poller, slept_ns);
}

/* The worker polls and finds work. */
static void hit(struct vublk_poller *poller)
{
	vublk_poller_looks(poller, 0);
	vublk_poller_found(poller);
}

static void test_short_sleeps_open_the_window(void **state)
{
	struct vublk_poller poller = { .last_ns = VUBLK_POLLER_DRIVER_NS };

	idle(&poller, SHORT_NS);
	assert_int_equal(poller.window_ns, VUBLK_POLLER_FIRST_NS);
	for (int i = 0; i < 10; i++) {
		vublk_poller_slept(&poller, SHORT_NS);
		hit(&poller);
	}
	assert_int_equal(poller.window_ns, VUBLK_POLLER_DRIVER_NS);
}

static void test_window(void **state)
{
	struct vublk_poller poller = { .window_ns = 1000 };

	assert_true(vublk_poller_looks(&poller, 5000));
	assert_true(vublk_poller_looks(&poller, 5999));
	assert_false(vublk_poller_looks(&poller, 6000));
	vublk_poller_missed(&poller);
	assert_true(vublk_poller_looks(&poller, 7000));
	vublk_poller_found(&poller);
	assert_true(vublk_poller_looks(&poller, 7500));
	assert_false(vublk_poller_looks(&poller, 8500));
}

/* If the disk always answers after the end of the polling window, the worker stops polling. */
static void test_slow_disk(void **state)
{
	struct vublk_poller poller = { .last_ns = VUBLK_POLLER_DISK_NS };

	for (int i = 0; i < 100; i++) {
		idle(&poller, 3 * VUBLK_POLLER_DISK_NS);
		assert_int_equal(poller.window_ns, 0);
	}
	for (int i = 0; i < 10; i++)
		vublk_poller_slept(&poller, VUBLK_POLLER_DISK_NS / 2);
	assert_int_equal(poller.window_ns, VUBLK_POLLER_DISK_NS);
}

static void test_long_sleeps_close_it(void **state)
{
	struct vublk_poller poller = {
		.last_ns = VUBLK_POLLER_DRIVER_NS, .window_ns = VUBLK_POLLER_DRIVER_NS,
	};
	unsigned windows = 0;

	for (; poller.window_ns && windows < 100; windows++) {
		hit(&poller); /* each window finds work, but the sleeps in between are long */
		vublk_poller_slept(&poller, LONG_NS);
	}
	assert_int_equal(windows, 4); /* of 64, 32, 16 and 8 us */
	for (int i = 0; i < 100; i++)
		idle(&poller, LONG_NS);
	assert_int_equal(poller.window_ns, 0);
}

/*
 * Simulates `sleeps` short sleeps. Polling never finds work, as if the driver were on the same
 * core. Returns the number of polling windows.
 */
static uint64_t windows_in_vain(struct vublk_poller *poller, unsigned sleeps)
{
	uint64_t windows = 0;

	for (unsigned i = 0; i < sleeps; i++) {
		windows += poller->window_ns != 0;
		idle(poller, SHORT_NS);
	}
	return windows;
}

static void test_windows_in_vain_close_it(void **state)
{
	struct vublk_poller poller = { .last_ns = VUBLK_POLLER_DRIVER_NS };
	uint64_t windows = windows_in_vain(&poller, VUBLK_POLLER_FIRST_SLEEPS);

	assert_int_equal(windows, VUBLK_POLLER_MISSES);
	assert_int_equal(poller.window_ns, 0);
	/* Polling is tried again, at growing intervals. */
	windows = windows_in_vain(&poller, 2 * VUBLK_POLLER_FIRST_SLEEPS);
	assert_int_equal(windows, VUBLK_POLLER_MISSES);
	windows_in_vain(&poller, 100000);
	windows = windows_in_vain(&poller, 1000 * VUBLK_POLLER_LAST_SLEEPS);
	assert_in_range(windows, 1, 1000 * VUBLK_POLLER_MISSES);
}

static void test_a_hit_makes_up_for_misses(void **state)
{
	struct vublk_poller poller = { .last_ns = VUBLK_POLLER_DRIVER_NS };

	windows_in_vain(&poller, 100000);
	while (!poller.window_ns)
		idle(&poller, SHORT_NS);
	for (unsigned i = 0; i < 1000; i++) {
		for (unsigned miss = 0; miss + 1 < VUBLK_POLLER_MISSES; miss++)
			idle(&poller, SHORT_NS);
		hit(&poller);
		assert_true(poller.window_ns);
	}
	/* A hit resets the interval. */
	windows_in_vain(&poller, VUBLK_POLLER_MISSES);
	assert_int_equal(poller.window_ns, 0);
	assert_in_range(poller.sleeps_left, 1, VUBLK_POLLER_FIRST_SLEEPS);
}

/* A look that takes no longer than a sleep is free if work comes, and wasted if none comes. */
static void test_waste(void **state)
{
	struct vublk_poller poller = { .window_ns = VUBLK_POLLER_DRIVER_NS };

	assert_int_equal(vublk_poller_found(&poller), 0);
	assert_int_equal(vublk_poller_missed(&poller), 0);
	vublk_poller_looks(&poller, 1000);
	vublk_poller_looks(&poller, 1000 + VUBLK_POLLER_SLEEP_NS);
	assert_int_equal(vublk_poller_found(&poller), 0);
	vublk_poller_looks(&poller, 1000);
	vublk_poller_looks(&poller, 1000 + VUBLK_POLLER_SLEEP_NS + 300);
	assert_int_equal(vublk_poller_found(&poller), 300);
	vublk_poller_looks(&poller, 1000);
	vublk_poller_looks(&poller, 1700);
	assert_int_equal(vublk_poller_missed(&poller), 700);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_short_sleeps_open_the_window),
		VUBLK_TEST(test_window),
		VUBLK_TEST(test_slow_disk),
		VUBLK_TEST(test_long_sleeps_close_it),
		VUBLK_TEST(test_windows_in_vain_close_it),
		VUBLK_TEST(test_a_hit_makes_up_for_misses),
		VUBLK_TEST(test_waste),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
