/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_SERVE_H
#define VUBLK_TESTS_SERVE_H

#include <sys/types.h>

/*
 * Starts `vublk serve` of this build with the socket `fd`, and closes `fd`. The socket must already
 * listen or be connected, so the caller does not have to wait for the process. Returns its pid.
 * Skips the case if the tool is not built.
 */
pid_t serve_start(int fd, const char *disk, unsigned num_queues);

#endif
