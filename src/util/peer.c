/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finds the process at the other end of a Unix socket; see peer.h.
 *
 * Key idea: the PID of a process can be reused, but a pidfd always refers to the same process.
 * Since Linux 6.5 the kernel supplies a pidfd of the peer. On older kernels this file opens a pidfd
 * by the peer's PID. If the process has already ended and its PID was reused, the pidfd refers to
 * an unrelated process. This file cannot detect that; docs/failover.md says so.
 */
#include "util/peer.h"

#include "util/fd.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

int vublk_peer_credentials(int fd, struct ucred *credentials)
{
	struct ucred found;
	socklen_t bytes = sizeof(found);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &found, &bytes) < 0)
		return -errno;
	*credentials = found;
	return 0;
}

void vublk_peer_init(struct vublk_peer *peer)
{
	*peer = (struct vublk_peer){ .pidfd = -1 };
}

void vublk_peer_close(struct vublk_peer *peer)
{
	vublk_fd_close(&peer->pidfd);
	vublk_peer_init(peer);
}

void vublk_peer_was_replaced(struct vublk_peer *peer)
{
	vublk_peer_close(peer);
	snprintf(peer->why, sizeof(peer->why), "the process that had the disk has handed the connection "
		 "to another one, and ended");
}

bool vublk_peer_has_ended(const struct vublk_peer *peer)
{
	struct pollfd poll_fd = { .fd = peer->pidfd, .events = POLLIN };

	return peer->pidfd >= 0 && poll(&poll_fd, 1, 0) == 1;
}

/* Returns a pidfd of the peer of the socket `fd`, or a negative errno. */
static int open_pidfd(int fd, int64_t pid)
{
	socklen_t bytes = sizeof(int);
	int pidfd;

	if (!getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &bytes))
		return pidfd;
	if (errno != ENOPROTOOPT)
		return -errno;
	if (!pid)
		return -EREMOTE;
	pidfd = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
	return pidfd < 0 ? -errno : pidfd;
}

static void set_unknown(struct vublk_peer *peer, int code)
{
	vublk_fd_close(&peer->pidfd);
	switch (code) {
	case ESRCH:
	case EINVAL: /* what Linux 6.5 to 6.15 return instead of ESRCH */
		snprintf(peer->why, sizeof(peer->why), "the process that created its socket has "
			 "ended, and another one serves it");
		break;
	case EREMOTE:
		snprintf(peer->why, sizeof(peer->why), "it is in another PID namespace, and this "
			 "kernel cannot identify it (Linux 6.5 or later can)");
		break;
	default:
		snprintf(peer->why, sizeof(peer->why), "the kernel cannot identify it: %s",
			 strerrordesc_np(code));
	}
}

void vublk_peer_find(struct vublk_peer *peer, int fd)
{
	struct ucred credentials = { 0 };
	int pidfd, r;

	vublk_peer_init(peer);
	r = vublk_peer_credentials(fd, &credentials);
	if (r < 0) {
		set_unknown(peer, -r);
		return;
	}
	peer->pid = credentials.pid;
	pidfd = open_pidfd(fd, peer->pid);
	if (pidfd < 0) {
		set_unknown(peer, -pidfd);
		return;
	}
	peer->pidfd = pidfd;
	if (vublk_peer_has_ended(peer))
		set_unknown(peer, ESRCH);
}
