/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_SOCKET_H
#define VUBLK_CLI_CONTROL_SOCKET_H

/*
 * The Unix socket of the control interface, both ends. A process that can connect can control the
 * disk, so the file is private unless the user asks for another mode.
 */

#include <vublk/error.h>

#include <sys/types.h>

#define VUBLK_CONTROL_DEFAULT_MODE 0600

struct vublk_control_socket {
	int fd;          /* listens, non-blocking; -1: closed */
	const char *path; /* borrowed */
	dev_t device;    /* of the file that was created, which is removed at the end */
	ino_t file;
};

/*
 * Listens at `path`. The file has the permissions `mode` before any client can connect, whatever
 * the umask is, and never more than these. A socket file without a listener is replaced. EINVAL,
 * ENAMETOOLONG: the path cannot be that of a socket; EADDRINUSE: another process listens there;
 * EEXIST: the file is not a socket; ENOENT, ENOTDIR, EACCES, ...: the directory cannot be used.
 */
int vublk_control_socket_listen(const char *path, mode_t mode,
				struct vublk_control_socket *listener, struct vublk_error *error);
/* Closes the socket and removes its file, unless another file has replaced it. Idempotent. */
void vublk_control_socket_close(struct vublk_control_socket *listener);

/*
 * Connects to the control socket at `path` and returns a blocking descriptor whose calls last at
 * most `timeout_ms`.
 */
int vublk_control_socket_connect(const char *path, unsigned timeout_ms, struct vublk_error *error);
/* Sets the time limit of later calls; 0: no limit. */
void vublk_control_socket_set_timeout(int fd, unsigned timeout_ms);

#endif
