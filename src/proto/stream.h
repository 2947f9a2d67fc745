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

#define VUBLK_STREAM_MAX_FDS 16 /* the most that any protocol here sends with a message */

/* The messages of a protocol. */
struct vublk_stream_format {
	const char *peer; /* the other end's name in errors */
	size_t header_bytes;
	size_t max_payload_bytes;
	unsigned max_fds; /* per message; at most VUBLK_STREAM_MAX_FDS */
	/*
	 * The payload's size according to a complete header; negative errno: no such message
	 * exists.
	 */
	ssize_t (*payload_bytes)(const void *header, struct vublk_error *error);
	/* Writes the message's name to `text`, as in "the peer disconnected inside NAME". */
	void (*name)(const void *header, char *text, size_t text_bytes);
};

/* The buffers into which a message is received; borrowed. */
struct vublk_stream_place {
	void *header;
	void *payload; /* of max_payload_bytes */
	int *fds;      /* of max_fds */
	unsigned *num_fds;
};

/* How much of a message has been received. A zeroed reader is at the start of a message. */
struct vublk_stream_reader {
	size_t header_bytes, payload_bytes; /* received so far */
	size_t expected_bytes;              /* of the payload, once the header is complete */
	int failure;                        /* errno value that ended receiving; 0: none */
};

/* Makes the socket non-blocking and CLOEXEC. */
void vublk_stream_init(int fd);

/* Returns the number of bytes sent, or a negative errno; -EAGAIN: the socket is full. */
ssize_t vublk_stream_send(int fd, const struct msghdr *msg);

/*
 * Receives the next part of a message, and never more than one message, because the
 * descriptors of the next one would arrive with its first byte. Returns 1 if the message is
 * complete and the reader is ready for the next one; 0 if the rest of the message has not arrived.
 *
 * ENOTCONN: the socket is closed (`fd` -1), or the peer closed or reset the connection;
 * EPROTO: a header that no message has, or too many descriptors; EMFILE: descriptors were lost
 * because this process has no room for them; or another errno of the kernel. After a failure
 * the descriptors are closed, and every further call fails, because the position of the next
 * message is unknown.
 */
int vublk_stream_read(int fd, const struct vublk_stream_format *format,
		      struct vublk_stream_reader *reader, const struct vublk_stream_place *place,
		      struct vublk_error *error);

/* The bytes of the incomplete message that have been received. */
size_t vublk_stream_reader_bytes(const struct vublk_stream_reader *reader);

#endif
