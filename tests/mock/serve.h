/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_SERVE_H
#define VUBLK_TESTS_SERVE_H

#include <sys/types.h>

/*
 * Starts a `vublk serve` of this build on a socket that listens or is connected already, so the
 * caller need not wait for it. Closes `fd`. Skips the case if the tool is not built.
 */
pid_t serve_start(int fd, const char *disk, unsigned num_queues);

#endif
