/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_HARNESS_H
#define VUBLK_TESTS_HARNESS_H

/*
 * The runner of the test programs: cmocka's assertions, and each case in a process of its
 * own with a time limit and an empty scratch folder, which is removed afterwards. A case
 * that ends with one descriptor, mapped file, thread or child more than it began with has
 * failed. The output is TAP.
 *
 *   static void test_something(void **state) { assert_int_equal(1, 1); }
 *   int main(int argc, char **argv)
 *   {
 *       const struct vublk_test tests[] = { VUBLK_TEST(test_something) };
 *       return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
 *   }
 *
 * Arguments: `-l` lists the cases; `-f` runs the cases in this process, for a debugger; any other
 * word selects the cases whose names contain it.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "util/checked.h"

/*
 * The limit only ends a deadlock, so it is long enough for a machine that also does other work. In
 * an instrumented build it is three times as long.
 */
#define VUBLK_TEST_SECONDS 120

struct vublk_test {
	const char *name;
	void (*fn)(void **state);
	unsigned seconds; /* 0: VUBLK_TEST_SECONDS */
};

#define VUBLK_TEST(fn) { #fn, fn, 0 }
#define VUBLK_TEST_LONG(fn, seconds) { #fn, fn, seconds }

int vublk_test_main(const struct vublk_test *tests, size_t count, int argc, char **argv);

/* Ends the case as skipped; the reason is printed. */
void vublk_test_skip(const char *reason) __attribute__((noreturn));

/* The scratch folder of this case: absolute, short enough for a socket's path. */
const char *vublk_test_folder(void);

/* Open descriptors of this process. */
unsigned vublk_test_count_fds(void);
/* Mappings of this process that have a file behind them, memfds included. */
unsigned vublk_test_count_mappings(void);

/*
 * Does what a peer can do: fills the eventfd, so that the next write(2) to it blocks, whatever its
 * flags were.
 */
void vublk_test_fill_eventfd(int fd);

#endif
