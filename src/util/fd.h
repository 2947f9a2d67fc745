/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_FD_H
#define VUBLK_UTIL_FD_H

#include <vublk/error.h>

#include <stdbool.h>
#include <stddef.h>

/* A descriptor that closes itself when its scope ends: `VUBLK_FD int fd = -1;` */
#define VUBLK_FD __attribute__((cleanup(vublk_fd_close)))

/* Closes *fd if it is one (>= 0) and sets it to -1; errno is kept. */
void vublk_fd_close(int *fd);

/* Closes each of `count` descriptors and sets it to -1. */
void vublk_fd_close_all(int *fds, size_t count);

/* Takes *fd from its owner, who is left with -1. */
int vublk_fd_steal(int *fd);

/* --- eventfds; eventfd.c -------------------------------------------------------------- */

/* A non-blocking, CLOEXEC eventfd with count 0; a negative errno on failure. */
int vublk_eventfd_new(void);

/*
 * Makes an eventfd readable; a full counter is readable already. Never blocks, whatever a
 * peer that holds the descriptor does to it. Any thread, but not a signal handler. What is
 * not an eventfd gets 8 bytes if it has room: a pipe cannot block either.
 */
void vublk_eventfd_signal(int fd);

/*
 * The same by write(2), faster and safe in a signal handler. It blocks as long as a peer
 * has cleared O_NONBLOCK and keeps the counter full: only for an eventfd that no peer has,
 * or where another thread uses vublk_eventfd_unblock().
 */
void vublk_eventfd_write(int fd);

/*
 * Frees a thread that is blocked in vublk_eventfd_write(): if the counter is full, it is
 * cleared. True: it was full, which honest use does not achieve in centuries; the peer may
 * fill it again before the writer comes, so that this is repeated until the writer returns.
 */
bool vublk_eventfd_unblock(int fd);

/*
 * Takes what was signalled: 1 if something was, 0 if not; a negative errno when it can
 * be no more (-EPIPE: the end of a pipe). Never blocks, as vublk_eventfd_signal().
 */
int vublk_eventfd_clear(int fd);

/* A descriptor that a peer sent to be signalled or waited for: 0, or -EPROTO. */
int vublk_eventfd_check(int fd, struct vublk_error *error);

/*
 * The same where it is only signalled: a pipe is accepted, too, as User Mode Linux sends
 * one. *fd is then replaced by an open file description of our own.
 */
int vublk_callfd_check(int *fd, struct vublk_error *error);

#endif
