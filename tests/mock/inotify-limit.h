/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_INOTIFY_LIMIT_H
#define VUBLK_TESTS_INOTIFY_LIMIT_H

/*
 * inotify_init1() for programs that are linked with wrap_inotify: it counts its calls, and can fail
 * as if the user had no instance left.
 */
#include <stdbool.h>

extern bool inotify_is_used_up;
extern unsigned inotify_num_calls;

#endif
