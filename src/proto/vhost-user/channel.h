/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PROTO_VHOST_USER_CHANNEL_H
#define VUBLK_PROTO_VHOST_USER_CHANNEL_H

#include "proto/socket-access.h"
#include "proto/vhost-user/codec.h"

#include <sys/types.h>

/*
 * One end of a vhost-user Unix socket: whole messages in and out, whatever
 * pieces the socket makes of them. Never blocks. One thread.
 */

/* How many messages may wait for a peer that does not read; more is ENOBUFS. */
#define VUBLK_CHANNEL_MAX_WAITING 1024

struct vublk_channel_out;

struct vublk_channel {
	int fd; /* owned; -1: closed */

	/* the message that is being received */
	struct vublk_vu_message in;
	size_t in_bytes; /* of header and payload, so far */
	int in_error;    /* errno value that ended receiving; 0: none */

	/* messages that the socket did not take yet, oldest first */
	struct vublk_channel_out *out;
	struct vublk_channel_out **out_end;
	unsigned num_waiting;
};

/* Takes the socket `fd` (made non-blocking and CLOEXEC). */
void vublk_channel_init(struct vublk_channel *channel, int fd);

/* Closes the socket and every descriptor in transit. Idempotent; zeroed or NULL: nothing. */
void vublk_channel_deinit(struct vublk_channel *channel);

/*
 * Sends, or keeps what the socket did not take; then the loop waits for EPOLLOUT
 * and calls vublk_channel_flush(). `message` and its descriptors are borrowed
 * during the call (descriptors that have to wait are duplicated).
 * ENOTCONN: the peer is gone; ENOBUFS: it does not read; EMFILE, ETOOMANYREFS:
 * no room for the descriptors. After an error other than EINVAL the connection
 * is of no more use.
 */
int vublk_channel_send(struct vublk_channel *channel, const struct vublk_vu_message *message,
		       struct vublk_error *error);

/* 0: nothing waits any more; 1: something still does; errors as above. */
int vublk_channel_flush(struct vublk_channel *channel, struct vublk_error *error);

/* Whether something waits for EPOLLOUT. */
bool vublk_channel_wants_write(const struct vublk_channel *channel);

/*
 * Takes one message off the socket: 1: `message` has it, with its descriptors,
 * which are the caller's to deinit; 0: not yet; ENOTCONN: end of file or reset
 * (the sentence says whether inside a message); EPROTO: a header that cannot be
 * one (version, size above VUBLK_VU_MAX_PAYLOAD_BYTES). Descriptors beyond
 * VUBLK_VU_MAX_FDS are closed and the message is refused with EPROTO. EMFILE:
 * descriptors were lost because there was no room for them in this process.
 * The payload is zero beyond its size. After an error nothing more is received:
 * where the next message begins, nobody knows.
 */
int vublk_channel_receive(struct vublk_channel *channel, struct vublk_vu_message *message,
			  struct vublk_error *error);

/* --- sockets --------------------------------------------------------------- */

/*
 * Begins to connect to the Unix socket at `path`; never blocks. Returns the
 * descriptor (a Unix socket connects at once or fails; EAGAIN: its backlog is
 * full, try again). The sentence says what is wrong with the path.
 */
int vublk_socket_connect(const char *path, struct vublk_error *error);

/*
 * Listens at `path`. A socket file that nobody listens on any more is replaced;
 * one that somebody listens on is EADDRINUSE, another kind of file is EEXIST.
 */
int vublk_socket_listen(const char *path, struct vublk_error *error);
/* The same; mode and group of the file hold before a client can connect. */
int vublk_socket_listen_with(const char *path, const struct vublk_socket_access *access,
			     struct vublk_error *error);

/*
 * What can be said about a path before it is used; neither call changes anything. A path
 * to connect to may lead to no file yet. ENAMETOOLONG, EINVAL, and for a path to connect
 * to ENOTSOCK, ENOTDIR; for one to listen at EADDRINUSE, EEXIST, ENOENT, EACCES, ...
 */
int vublk_socket_check_connect(const char *path, struct vublk_error *error);
int vublk_socket_check_listen(const char *path, struct vublk_error *error);

/* Whether a later try to connect can succeed after one that failed with this errno value. */
bool vublk_socket_may_appear(int code);

/* Whether both paths lead to the same file, or would if it existed. */
bool vublk_socket_is_same(const char *a, const char *b);

/*
 * The file of a socket that has just been bound at `path`, and its removal: only that
 * file, for somebody else may have put another in its place. 0: there is none.
 */
ino_t vublk_socket_file(const char *path);
void vublk_socket_remove(const char *path, ino_t file);

/* One waiting connection, non-blocking and CLOEXEC; -EAGAIN when there is none. */
int vublk_socket_accept(int listen_fd, struct vublk_error *error);

#endif
