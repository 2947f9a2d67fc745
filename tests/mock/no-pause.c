/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * nanosleep() that returns immediately, for tests of code that tries again a limited number of
 * times. A program is linked with it by wrap_nanosleep in tests/unit/meson.build.
 */
#include <time.h>

int __wrap_nanosleep(const struct timespec *pause, struct timespec *left);

int __wrap_nanosleep(const struct timespec *pause, struct timespec *left)
{
	(void)pause;
	(void)left;
	return 0;
}
