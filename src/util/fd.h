/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_FD_H
#define VUBLK_UTIL_FD_H

#include <vublk/error.h>

#include <stdbool.h>
#include <stddef.h>

/* A descriptor that closes itself when its scope ends: `VUBLK_FD int fd = -1;` */
#define VUBLK_FD __attribute__((cleanup(vublk_fd_close)))

/* Closes *fd if it is a descriptor (>= 0) and sets it to -1. Preserves errno. */
void vublk_fd_close(int *fd);

/* Closes each of `count` descriptors and sets it to -1. */
void vublk_fd_close_all(int *fds, size_t count);

/* Returns *fd, which now belongs to the caller, and sets *fd to -1. */
int vublk_fd_steal(int *fd);

/* --- eventfds; eventfd.c -------------------------------------------------------------- */

/* A non-blocking, CLOEXEC eventfd with count 0; a negative errno on failure. */
int vublk_eventfd_new(void);

/*
 * Makes an eventfd readable; if its counter is full, it is readable already. Never blocks, whatever
 * a peer that holds the descriptor does. Any thread may call this, but not a signal handler. A
 * descriptor of another kind, such as a pipe, gets 8 bytes if it has room, also without blocking.
 */
void vublk_eventfd_signal(int fd);

/*
 * Like vublk_eventfd_signal(), but by write(2), which is faster and safe in a signal handler. The
 * call blocks while a peer has cleared O_NONBLOCK and keeps the counter full. Use it only for an
 * eventfd that no peer has, or if another thread calls vublk_eventfd_unblock().
 */
void vublk_eventfd_write(int fd);

/*
 * Frees a thread that is blocked in vublk_eventfd_write(): clears the counter if it is full.
 * Returns true if the counter was full, a state that honest use would take centuries to reach. The
 * peer may fill it again before the writer continues, so the caller repeats this until the writer
 * has returned.
 */
bool vublk_eventfd_unblock(int fd);

/*
 * Clears the counter. Returns 1 if the eventfd was signalled, 0 if it was not, or a negative errno
 * if `fd` cannot be read and so can never be signalled (-EPIPE: a pipe without a writer). Never
 * blocks.
 */
int vublk_eventfd_clear(int fd);

/* Checks that a descriptor from a peer is an eventfd, and makes it non-blocking. 0 or -EPROTO. */
int vublk_eventfd_check(int fd, struct vublk_error *error);

/*
 * Like vublk_eventfd_check(), but for a descriptor that we only signal. A pipe is accepted, too,
 * because User Mode Linux sends one; the function replaces it with a descriptor whose open file
 * description is our own.
 */
int vublk_callfd_check(int *fd, struct vublk_error *error);

#endif
