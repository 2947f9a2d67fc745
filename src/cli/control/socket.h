/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_SOCKET_H
#define VUBLK_CLI_CONTROL_SOCKET_H

/*
 * Both ends of the control interface's Unix socket. A process that can connect can control the
 * disk. So only the owner of the socket's file may connect, unless the user asks for another mode.
 */

#include <vublk/error.h>
#include <vublk/upgrade.h>

#include <stdint.h>
#include <sys/types.h>

#define VUBLK_CONTROL_DEFAULT_MODE 0600

struct vublk_control_socket {
	int fd;          /* the listening socket, non-blocking; -1: closed */
	const char *path; /* borrowed */
	dev_t device;    /* device and inode number of the file that was created; only that file is
			    removed at the end */
	ino_t file;
};

/*
 * Listens at `path`. The file has exactly the permissions `mode`, whatever the umask is, before any
 * client can connect. A socket file at `path` at which no process listens is replaced. Errors:
 * EINVAL, ENAMETOOLONG: the path cannot be that of a socket; EADDRINUSE: another process listens
 * there; EEXIST: the file is not a socket; ENOENT, ENOTDIR, EACCES, ...: the directory cannot be
 * used.
 */
int vublk_control_socket_listen(const char *path, mode_t mode,
				struct vublk_control_socket *listener, struct vublk_error *error);
/* Closes the socket and removes its file, unless another file has replaced it. Idempotent. */
void vublk_control_socket_close(struct vublk_control_socket *listener);

/*
 * Must be called when another process uses the file, so that vublk_control_socket_close() does not
 * remove it.
 */
void vublk_control_socket_disown(struct vublk_control_socket *listener);

/*
 * These functions move the socket to another process (docs/upgrade.md). The old process stores the
 * socket in `extra` with the first function, and keeps the descriptor. The new process initializes
 * `listener` from `extra` with the second function, which takes ownership of the descriptor and
 * borrows `extra`, because the path is in it. EINVAL: `extra` has no socket.
 */
void vublk_control_socket_give(const struct vublk_control_socket *listener,
			       struct vublk_upgrade_extra *extra);
int vublk_control_socket_adopt(struct vublk_control_socket *listener,
			       struct vublk_upgrade_extra *extra, struct vublk_error *error);

/*
 * Connects to the control socket at `path`, and sends blanks. If `path` is the socket of a disk
 * instead, these make the process there close the connection. Returns a blocking descriptor, or a
 * negative errno. Each system call on the descriptor takes at most `timeout_ms`.
 */
int vublk_control_socket_connect(const char *path, unsigned timeout_ms, struct vublk_error *error);

/*
 * Receives at most `bytes` bytes on the descriptor, and waits for them until the time `deadline_ns`
 * (vublk_cli_now_ns()). UINT64_MAX: no limit. A caller that uses the same deadline for all parts of
 * a line also limits a peer that sends a byte now and then. Returns the number of bytes, 0 at the
 * end of the connection, -ETIMEDOUT after the deadline, or another negative errno if the connection
 * failed.
 */
ssize_t vublk_control_socket_receive(int fd, void *to, size_t bytes, uint64_t deadline_ns);
/* Returns the deadline that is `timeout_ms` from now. */
uint64_t vublk_control_deadline(unsigned timeout_ms);

#endif
