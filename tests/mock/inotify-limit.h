/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_INOTIFY_LIMIT_H
#define VUBLK_TESTS_INOTIFY_LIMIT_H

/*
 * A replacement of inotify_init1() for programs that are linked with wrap_inotify. It counts its
 * calls. If `inotify_is_used_up` is set, it fails as if the user had no inotify instance left.
 */
#include <stdbool.h>

extern bool inotify_is_used_up;
extern unsigned inotify_num_calls;

#endif
