/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_FD_H
#define VUBLK_UTIL_FD_H

#include <stddef.h>

/* A descriptor that closes itself when its scope ends: `VUBLK_FD int fd = -1;` */
#define VUBLK_FD __attribute__((cleanup(vublk_fd_close)))

/* Closes *fd if it is one (>= 0) and sets it to -1; errno is kept. */
void vublk_fd_close(int *fd);

/* Closes each of `count` descriptors and sets it to -1. */
void vublk_fd_close_all(int *fds, size_t count);

/* Takes *fd from its owner, who is left with -1. */
int vublk_fd_steal(int *fd);

/* A non-blocking, CLOEXEC eventfd with count 0; a negative errno on failure. */
int vublk_eventfd_new(void);

/* Makes an eventfd readable. Never blocks; a full counter is readable already. */
void vublk_eventfd_signal(int fd);

/*
 * Takes what was signalled: 1 if something was, 0 if not; a negative errno when it can
 * be no more (-EPIPE: the end of what is no eventfd). Never blocks.
 */
int vublk_eventfd_clear(int fd);

#endif
