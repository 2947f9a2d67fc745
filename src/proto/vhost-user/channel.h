/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PROTO_VHOST_USER_CHANNEL_H
#define VUBLK_PROTO_VHOST_USER_CHANNEL_H

#include "proto/socket-access.h"
#include "proto/stream.h"
#include "proto/vhost-user/codec.h"

#include <sys/types.h>

/*
 * One end of a vhost-user connection, which sends and receives whole messages; and functions that
 * connect, listen and accept on Unix sockets. No call blocks. All calls for one channel come from
 * one thread.
 */

/*
 * The maximum number of messages that wait for a peer that does not read; a further one fails with
 * ENOBUFS.
 */
#define VUBLK_CHANNEL_MAX_WAITING 1024

struct vublk_channel_out;

struct vublk_channel {
	int fd; /* owned; -1: closed */

	/* the message that is being received */
	struct vublk_vu_message in;
	struct vublk_stream_reader reader;

	/* messages that wait to be sent, oldest first */
	struct vublk_channel_out *out;
	struct vublk_channel_out **out_end;
	unsigned num_waiting;
};

/* Takes ownership of the socket `fd`, and makes it non-blocking and CLOEXEC. */
void vublk_channel_init(struct vublk_channel *channel, int fd);

/* Closes the socket and all descriptors of the channel. Idempotent; zeroed or NULL is a no-op. */
void vublk_channel_deinit(struct vublk_channel *channel);

/*
 * Sends a message, or keeps the part that the socket did not accept; in that case the caller waits
 * for EPOLLOUT and calls vublk_channel_flush(). `message` and its descriptors are borrowed during
 * the call; descriptors that have to wait are duplicated. ENOTCONN: the peer has disconnected;
 * ENOBUFS: it does not read; EMFILE, ETOOMANYREFS: no room for the descriptors. After an error
 * other than EINVAL the connection is unusable.
 */
int vublk_channel_send(struct vublk_channel *channel, const struct vublk_vu_message *message,
		       struct vublk_error *error);

/* Sends waiting messages. 0: all are sent; 1: some still wait; errors as above. */
int vublk_channel_flush(struct vublk_channel *channel, struct vublk_error *error);

/* Whether messages wait for EPOLLOUT. */
bool vublk_channel_wants_write(const struct vublk_channel *channel);

/*
 * Receives one message. 1: the message is in `message`, which owns its descriptors; 0: the message
 * has not arrived completely. Errors are those of vublk_stream_read(), where EPROTO means a wrong
 * version, a size above VUBLK_VU_MAX_PAYLOAD_BYTES, or more than VUBLK_VU_MAX_FDS descriptors.
 * payload.bytes is zero beyond the payload's size.
 */
int vublk_channel_receive(struct vublk_channel *channel, struct vublk_vu_message *message,
			  struct vublk_error *error);

/* --- sockets --------------------------------------------------------------- */

/*
 * Connects to the Unix socket at `path`. The call does not block, because a non-blocking Unix
 * socket connects immediately or fails. Returns the descriptor; EAGAIN: the listener's backlog is
 * full, try again. The error sentence says what is wrong with the path.
 */
int vublk_socket_connect(const char *path, struct vublk_error *error);

/*
 * Listens at `path` and returns the descriptor. Replaces a socket file without a listener.
 * EADDRINUSE: a process already listens at the socket; EEXIST: the file is not a socket.
 */
int vublk_socket_listen(const char *path, struct vublk_error *error);
/* Like vublk_socket_listen(), but sets the file's mode and group before a client can connect. */
int vublk_socket_listen_with(const char *path, const struct vublk_socket_access *access,
			     struct vublk_error *error);

/*
 * These functions check a path before it is used, and change nothing. A path to connect to need not
 * exist yet. ENAMETOOLONG, EINVAL; for connecting also ENOTSOCK, ENOTDIR; for listening also
 * EADDRINUSE, EEXIST, ENOENT, EACCES, ...
 */
int vublk_socket_check_connect(const char *path, struct vublk_error *error);
int vublk_socket_check_listen(const char *path, struct vublk_error *error);

/* Whether another attempt to connect may succeed after one failed with this errno value. */
bool vublk_socket_may_appear(int code);

/* Whether both paths name the same file, which need not exist. */
bool vublk_socket_is_same(const char *a, const char *b);

/*
 * The first returns the inode of the socket at `path`, or 0. The second removes the socket if it
 * still has that inode; another process may have replaced it.
 */
ino_t vublk_socket_file(const char *path);
void vublk_socket_remove(const char *path, ino_t file);

/*
 * Checks that `fd` is a connected Unix stream socket. ENOTSOCK: not a socket; EINVAL: not a
 * descriptor, or a socket of another kind; ENOTCONN: a socket that listens or is not connected.
 */
int vublk_socket_check_connected(int fd, struct vublk_error *error);

/*
 * Accepts a connection. Returns its descriptor, which is non-blocking and CLOEXEC; -EAGAIN: no
 * connection waits.
 */
int vublk_socket_accept(int listen_fd, struct vublk_error *error);

#endif
