/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_INOTIFY_LIMIT_H
#define VUBLK_TESTS_INOTIFY_LIMIT_H

/*
 * A replacement for inotify_init1() in programs that depend on wrap_inotify (see
 * tests/unit/meson.build). It counts its calls. If `inotify_is_used_up` is set, it fails as if the
 * user had no inotify instance left.
 */
#include <stdbool.h>

extern bool inotify_is_used_up;
extern unsigned inotify_num_calls;

#endif
