/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_HARNESS_H
#define VUBLK_TESTS_HARNESS_H

/*
 * The runner of the test programs. Cases use cmocka's assertions. Each case runs in a process of
 * its own, with a time limit and an empty scratch folder, which is removed afterwards. A case fails
 * if it ends with more descriptors, mapped files, threads or children than it began with. The
 * output is TAP.
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
#include <sys/types.h>

#include <cmocka.h>

#include "util/checked.h"

/*
 * The default time limit of a case. Its only purpose is to end a deadlock, so it is long enough for
 * a busy machine. In an instrumented build all limits are three times as long.
 */
#define VUBLK_TEST_SECONDS 120

struct vublk_test {
	const char *name;
	void (*fn)(void **state);
	unsigned seconds; /* 0: VUBLK_TEST_SECONDS */
};

#define VUBLK_TEST(fn) { #fn, fn, 0 }
#define VUBLK_TEST_LONG(fn, seconds) { #fn, fn, seconds }

/* Runs the selected cases and prints their results. Returns the exit status of the program. */
int vublk_test_main(const struct vublk_test *tests, size_t count, int argc, char **argv);

/* Returns `rounds`, or a fifth of them in an instrumented build, in which each takes longer. */
unsigned vublk_test_rounds(unsigned rounds);

/* Ends the case as skipped, and prints the reason. */
void vublk_test_skip(const char *reason) __attribute__((noreturn));

/*
 * Returns the absolute path of this case's scratch folder. It is short enough for the path of a
 * socket in the folder.
 */
const char *vublk_test_folder(void);

/* Returns the number of open descriptors of this process. */
unsigned vublk_test_count_fds(void);
/* Returns how many mappings this process has of memfds and of files in the scratch folder. */
unsigned vublk_test_count_mappings(void);

/*
 * Fills the eventfd and clears O_NONBLOCK, as a hostile peer can do, so that the next write(2) to
 * the eventfd blocks.
 */
void vublk_test_fill_eventfd(int fd);

/*
 * Stops a child process with SIGSTOP, and returns when all of its threads have stopped. kill()
 * returns earlier: the kernel tells one thread, and until that thread runs, the others continue.
 */
void vublk_test_suspend(pid_t pid);

#endif
