/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_FD_H
#define VUBLK_UTIL_FD_H

#include <vublk/error.h>

#include <stdbool.h>
#include <stddef.h>

/* Closes the descriptor when its scope ends: `VUBLK_FD int fd = -1;` */
#define VUBLK_FD __attribute__((cleanup(vublk_fd_close)))

/* Closes *fd if it is a descriptor (>= 0) and sets it to -1. Preserves errno. */
void vublk_fd_close(int *fd);

/* Sets O_NONBLOCK, which every duplicate of the descriptor then has, too. */
void vublk_fd_set_nonblocking(int fd);

/* Closes each of `count` descriptors and sets it to -1. */
void vublk_fd_close_all(int *fds, size_t count);

/* Returns *fd, which now belongs to the caller, and sets *fd to -1. */
int vublk_fd_steal(int *fd);

/* --- eventfds; eventfd.c -------------------------------------------------------------- */

/* Returns a non-blocking, CLOEXEC eventfd with count 0, or a negative errno. */
int vublk_eventfd_new(void);

/*
 * Makes an eventfd readable. If its counter is full, it is readable already. Never blocks, whatever
 * a peer that holds the descriptor does. Any thread may call this, but not a signal handler. If the
 * descriptor is of another kind, such as a pipe, writes 8 bytes if there is room.
 */
void vublk_eventfd_signal(int fd);

/*
 * Like vublk_eventfd_signal(), but by write(2), which is faster and safe in a signal handler. The
 * call blocks if a peer has cleared O_NONBLOCK and keeps the counter full. Use it only for an
 * eventfd that no peer has, or if another thread calls vublk_eventfd_unblock().
 */
void vublk_eventfd_write(int fd);

/*
 * Frees a thread that is blocked in vublk_eventfd_write(), by clearing the counter if it is full.
 * Returns whether the counter was full, a state that honest use would take centuries to reach. The
 * peer may fill the counter again before the writer continues, so the caller must repeat the call
 * until the writer has returned.
 */
bool vublk_eventfd_unblock(int fd);

/*
 * Clears the counter without blocking. Returns 1 if the eventfd was signalled, and 0 if it was not.
 * Returns a negative errno if `fd` cannot be read, in which case no signal can arrive (-EPIPE: a
 * pipe without a writer).
 */
int vublk_eventfd_clear(int fd);

/*
 * Checks that a descriptor from a peer is an eventfd, and makes it non-blocking. Returns 0 or
 * -EPROTO.
 */
int vublk_eventfd_check(int fd, struct vublk_error *error);

/*
 * Like vublk_eventfd_check(), but for a descriptor that this process only signals. It may also be a
 * pipe, because User Mode Linux sends one. The function replaces a pipe with a descriptor whose
 * open file description belongs to this process alone. Errors: EPROTO, and for a pipe those of
 * open(2).
 */
int vublk_callfd_check(int *fd, struct vublk_error *error);

#endif
