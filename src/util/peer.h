/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_PEER_H
#define VUBLK_UTIL_PEER_H

/*
 * The process at the other end of a Unix socket, and whether it has ended.
 *
 * At the end that called connect(), the peer is the process that called listen(). If that process
 * had ended before the connection was made, and a child of it serves the socket, the peer is
 * unknown.
 */
#include <vublk/error.h>

#include <stdbool.h>
#include <stdint.h>

struct vublk_peer {
	int pidfd;   /* becomes readable when the process ends; -1: the process is unknown */
	int64_t pid; /* 0: unknown, or in another PID namespace */
	char why[160]; /* why the process is unknown, as the end of a sentence */
};

struct ucred;

/*
 * Reads PID, user and group of the peer of the connected Unix socket `fd`. Returns 0 or a negative
 * errno.
 */
int vublk_peer_credentials(int fd, struct ucred *credentials);
/* Initializes the struct with an unknown peer. Closes nothing. */
void vublk_peer_init(struct vublk_peer *peer);
/*
 * Finds the peer of the connected socket `fd`. If that is impossible, peer->why says why. Must be
 * called after vublk_peer_init() or vublk_peer_close().
 */
void vublk_peer_find(struct vublk_peer *peer, int fd);
/* Returns whether the process is known, and has ended. */
bool vublk_peer_has_ended(const struct vublk_peer *peer);
/* Records that the connection has passed to another process, so the peer is unknown. */
void vublk_peer_was_replaced(struct vublk_peer *peer);
/* Closes the pidfd, if it is open; the peer is unknown afterwards. */
void vublk_peer_close(struct vublk_peer *peer);

#endif
