/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PROTO_VHOST_USER_CHANNEL_H
#define VUBLK_PROTO_VHOST_USER_CHANNEL_H

#include "proto/socket-access.h"
#include "proto/stream.h"
#include "proto/vhost-user/codec.h"

#include <sys/types.h>

/*
 * One end of a vhost-user connection. It sends and receives whole messages. There are also
 * functions that connect, listen and accept on Unix sockets. No call blocks. All calls for one
 * channel come from one thread.
 */

/*
 * The largest number of messages that wait for a peer that does not read. Sending another message
 * fails with ENOBUFS.
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

/*
 * Closes the socket and all descriptors of the channel. Idempotent; a no-op for a zeroed channel or
 * NULL.
 */
void vublk_channel_deinit(struct vublk_channel *channel);

/*
 * Sends a message. The channel keeps the part that the socket does not accept; in that case the
 * caller must wait for EPOLLOUT and then call vublk_channel_flush(). `message` and its descriptors
 * are borrowed during the call; the channel duplicates descriptors that have to wait. ENOTCONN: the
 * peer has disconnected; ENOBUFS: the peer does not read; EMFILE, ETOOMANYREFS: there is no room
 * for the descriptors. After an error other than EINVAL the connection is unusable.
 */
int vublk_channel_send(struct vublk_channel *channel, const struct vublk_vu_message *message,
		       struct vublk_error *error);

/*
 * Sends the messages that wait. Returns 0 if all are sent, and 1 if some still wait. The errors are
 * those of vublk_channel_send().
 */
int vublk_channel_flush(struct vublk_channel *channel, struct vublk_error *error);

/* Returns whether messages wait for EPOLLOUT. */
bool vublk_channel_wants_write(const struct vublk_channel *channel);

/*
 * Receives one message. Returns 1 if the message is complete; `message` then owns its descriptors.
 * Returns 0 if not all of the message has arrived. The errors are those of vublk_stream_read().
 * EPROTO: the version is wrong, the payload exceeds VUBLK_VU_MAX_PAYLOAD_BYTES, or there are more
 * than VUBLK_VU_MAX_FDS descriptors. payload.bytes is zero beyond the payload's size.
 */
int vublk_channel_receive(struct vublk_channel *channel, struct vublk_vu_message *message,
			  struct vublk_error *error);

/* --- sockets --------------------------------------------------------------- */

/*
 * Connects to the Unix socket at `path` and returns the descriptor. The call does not block,
 * because a non-blocking Unix socket connects immediately or fails. EAGAIN: the listener's backlog
 * is full, so try again. `error` says what is wrong with the path.
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
 * Calls listen() again on the socket `fd` (-1: does nothing), which another process has handed
 * over. From then on, the kernel names this process, and not the other one, as the peer of new
 * connections.
 */
void vublk_socket_listen_again(int fd);

/*
 * These functions check a path before it is used, and change nothing. A path to connect to need not
 * exist yet. Errors: ENAMETOOLONG, EINVAL; for connecting also ENOTSOCK, ENOTDIR, ELOOP; for
 * listening also EADDRINUSE, EEXIST, ENOENT, EACCES and others.
 */
int vublk_socket_check_connect(const char *path, struct vublk_error *error);
int vublk_socket_check_listen(const char *path, struct vublk_error *error);

/*
 * Returns whether connecting may succeed later, after an attempt that failed with the errno value
 * `code`.
 */
bool vublk_socket_may_appear(int code);

/* Returns whether both paths name the same file, which need not exist yet. */
bool vublk_socket_is_same(const char *a, const char *b);

/*
 * The first function returns the inode of the socket at `path`, or 0 if there is no socket. The
 * second one removes the socket only if it still has the inode `file`, because another process may
 * have replaced it.
 */
ino_t vublk_socket_file(const char *path);
void vublk_socket_remove(const char *path, ino_t file);

/*
 * Checks that `fd` is a connected Unix stream socket. ENOTSOCK: `fd` is not a socket; EINVAL: `fd`
 * is not open, or is a socket of another kind; ENOTCONN: the socket listens or is not connected.
 */
int vublk_socket_check_connected(int fd, struct vublk_error *error);
/*
 * Checks that `fd` is a Unix stream socket that is listening or connected. No other kind of socket
 * carries both descriptors and a stream of bytes. Stores in `listening` whether it is listening.
 * EINVAL: `fd` is anything else.
 */
int vublk_socket_check_given(int fd, bool *listening, struct vublk_error *error);

/*
 * Accepts a connection. Returns its descriptor, which is non-blocking and CLOEXEC; -EAGAIN: no
 * connection waits.
 */
int vublk_socket_accept(int listen_fd, struct vublk_error *error);
/*
 * Returns the process ID of the peer, or 0 if it is unknown, for example because the peer is in
 * another PID namespace.
 */
int64_t vublk_socket_peer_pid(int fd);

#endif
