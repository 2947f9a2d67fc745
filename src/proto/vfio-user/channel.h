/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PROTO_VFIO_USER_CHANNEL_H
#define VUBLK_PROTO_VFIO_USER_CHANNEL_H

#include "proto/stream.h"
#include "proto/vfio-user/codec.h"

/*
 * The server's end of a vfio-user socket. It receives whole commands and sends replies. No call
 * blocks, and all calls come from one thread. No call allocates memory, because commands are
 * received into the channel, and replies to a slow client wait in it. The buffer for replies never
 * overflows if the server takes no further command while a reply waits.
 */

/* The size of the buffer for replies: enough for the largest reply, or for many small ones. */
#define VUBLK_VFIO_CHANNEL_OUT_BYTES 16384

struct vublk_vfio_channel {
	int fd; /* owned; -1: closed */

	/* the message that is being received or, after that, the latest one */
	struct vublk_vfio_message in;
	struct vublk_stream_reader reader;

	/* replies that wait to be sent */
	size_t out_begin, out_end;
	uint8_t out[VUBLK_VFIO_CHANNEL_OUT_BYTES];
};

/* Takes ownership of the socket `fd`, and makes it non-blocking and CLOEXEC. */
void vublk_vfio_channel_init(struct vublk_vfio_channel *channel, int fd);

/* Closes the socket and all descriptors of the channel. Idempotent; NULL is a no-op. */
void vublk_vfio_channel_deinit(struct vublk_vfio_channel *channel);

/*
 * Receives one message. Returns 1 if the message is complete; `*message` then points into the
 * channel. The message is valid until the next call, which also closes the descriptors that the
 * caller has not taken. Returns 0 if not all of the message has arrived. The errors are those of
 * vublk_stream_read(). EPROTO: the size is invalid, or there are more than VUBLK_VFIO_MAX_FDS
 * descriptors.
 */
int vublk_vfio_channel_receive(struct vublk_vfio_channel *channel,
			       struct vublk_vfio_message **message, struct vublk_error *error);

/*
 * Sends a header and its payload, together header->size bytes. The channel keeps the bytes that the
 * socket does not accept; in that case the caller must wait for EPOLLOUT and then call
 * vublk_vfio_channel_flush(). ENOTCONN: the client has disconnected; ENOBUFS: the client does not
 * read. After an error the connection is unusable.
 */
int vublk_vfio_channel_send(struct vublk_vfio_channel *channel,
			    const struct vublk_vfio_header *header, const void *payload,
			    struct vublk_error *error);

/*
 * Sends the replies that wait. Returns 0 if all are sent, and 1 if some still wait. The errors are
 * those of vublk_vfio_channel_send().
 */
int vublk_vfio_channel_flush(struct vublk_vfio_channel *channel, struct vublk_error *error);

/* Returns whether replies wait for EPOLLOUT. */
bool vublk_vfio_channel_wants_write(const struct vublk_vfio_channel *channel);

#endif
