/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PROTO_STREAM_H
#define VUBLK_PROTO_STREAM_H

/*
 * Messages and descriptors on a stream socket, for the channel of each protocol. A message has
 * a header of fixed size, which gives the message's length, and a payload. The code here does not
 * know what a message means.
 *
 * Key idea: all bytes from a peer are received in one place, vublk_stream_read(). The format of
 * a protocol supplies the sizes and the check of the header. No call blocks.
 */

#include <vublk/error.h>

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>

#define VUBLK_STREAM_MAX_FDS 16 /* the largest number of descriptors that any of these protocols
				   sends with one message */

/* The format of a protocol's messages. */
struct vublk_stream_format {
	const char *peer; /* the name of the other end in error texts */
	size_t header_bytes;
	size_t max_payload_bytes;
	unsigned max_fds; /* in one message; at most VUBLK_STREAM_MAX_FDS */
	/*
	 * Returns the payload's size according to a complete header. Negative errno: the header is
	 * invalid.
	 */
	ssize_t (*payload_bytes)(const void *header, struct vublk_error *error);
	/*
	 * Writes the message's name to `text`, for error texts such as "the peer closed the
	 * connection in the middle of NAME".
	 */
	void (*name)(const void *header, char *text, size_t text_bytes);
};

/* The caller's buffers into which a message is received. */
struct vublk_stream_place {
	void *header;
	void *payload; /* has room for the largest payload */
	int *fds;      /* has room for max_fds descriptors */
	unsigned *num_fds;
};

/* How much of a message has been received. A zeroed reader is at the beginning of a message. */
struct vublk_stream_reader {
	size_t header_bytes, payload_bytes; /* received so far */
	size_t expected_bytes;              /* the payload's size; known when the header is
					       complete */
	int failure;                        /* the errno value that ended receiving; 0: receiving
					       has not ended */
};

/* Makes the socket non-blocking and CLOEXEC. */
void vublk_stream_init(int fd);

/*
 * Sends without blocking. Returns the number of bytes sent, or a negative errno; -EAGAIN: the
 * socket is full.
 */
ssize_t vublk_stream_send(int fd, const struct msghdr *msg);

/* A message to send. The struct owns nothing. */
struct vublk_stream_message {
	const void *header, *payload;
	size_t header_bytes, payload_bytes;
	const int *fds;
	unsigned num_fds; /* at most VUBLK_STREAM_MAX_FDS */
};

/*
 * Sends the bytes of the message that begin at `offset`, like vublk_stream_send(). The descriptors
 * are sent with the first byte of the message. `offset` must be less than the size of the message.
 */
ssize_t vublk_stream_send_message(int fd, const struct vublk_stream_message *message,
				  size_t offset);

/*
 * Receives as much of a message as has arrived, but nothing of the following message, because that
 * message's descriptors would arrive with its first byte. Returns 1 if the message is complete and
 * the reader is ready for the next one, and 0 if the rest of the message has not arrived.
 *
 * ENOTCONN: the socket is closed (`fd` -1), or the peer closed or reset the connection; EPROTO: the
 * header is invalid, or there are too many descriptors; EMFILE: descriptors were lost because this
 * process has no room for them; or another errno of recvmsg(2). After a failure the descriptors are
 * closed, and every further call fails, because the position of the next message is unknown.
 */
int vublk_stream_read(int fd, const struct vublk_stream_format *format,
		      struct vublk_stream_reader *reader, const struct vublk_stream_place *place,
		      struct vublk_error *error);

/* Returns how many bytes of an incomplete message have been received. */
size_t vublk_stream_reader_bytes(const struct vublk_stream_reader *reader);

#endif
