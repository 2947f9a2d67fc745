/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PROTO_VFIO_USER_CHANNEL_H
#define VUBLK_PROTO_VFIO_USER_CHANNEL_H

#include "proto/vfio-user/codec.h"

/*
 * The server's end of a vfio-user socket: whole commands in, whole replies out,
 * whatever pieces the socket makes of them. Never blocks. One thread. Nothing is
 * allocated: a message is received into the channel, and the replies that a client
 * does not read wait in it, up to a limit that the server keeps within by taking no
 * further command meanwhile.
 */

/* Room for the largest reply and for many small ones. */
#define VUBLK_VFIO_CHANNEL_OUT_BYTES 16384

struct vublk_vfio_channel {
	int fd; /* owned; -1: closed */

	/* the message that is being received, or was received last */
	struct vublk_vfio_message in;
	size_t in_bytes; /* of header and payload, so far */
	int in_error;    /* errno value that ended receiving; 0: none */

	/* replies that the socket did not take yet */
	size_t out_begin, out_end;
	uint8_t out[VUBLK_VFIO_CHANNEL_OUT_BYTES];
};

/* Takes the socket `fd` (made non-blocking and CLOEXEC). */
void vublk_vfio_channel_init(struct vublk_vfio_channel *channel, int fd);

/* Closes the socket and every descriptor in transit. Idempotent; NULL: nothing. */
void vublk_vfio_channel_deinit(struct vublk_vfio_channel *channel);

/*
 * Takes one message off the socket: 1: `*message` is it, the channel's own, valid
 * until the next call, as are the descriptors in it that were not taken; 0: not yet;
 * ENOTCONN: end of file or reset (the sentence says whether inside a message); EPROTO:
 * a header that cannot be one, or more than VUBLK_VFIO_MAX_FDS descriptors. EMFILE:
 * descriptors were lost because there was no room for them in this process. After an
 * error nothing more is received: where the next message begins, nobody knows.
 */
int vublk_vfio_channel_receive(struct vublk_vfio_channel *channel,
			       struct vublk_vfio_message **message, struct vublk_error *error);

/*
 * Sends a header and `header->size` less its own bytes of payload, or keeps what the
 * socket did not take; then the loop waits for EPOLLOUT and calls
 * vublk_vfio_channel_flush(). ENOTCONN: the peer is gone; ENOBUFS: it does not read.
 * After an error the connection is of no more use.
 */
int vublk_vfio_channel_send(struct vublk_vfio_channel *channel,
			    const struct vublk_vfio_header *header, const void *payload,
			    struct vublk_error *error);

/* 0: nothing waits any more; 1: something still does; errors as above. */
int vublk_vfio_channel_flush(struct vublk_vfio_channel *channel, struct vublk_error *error);

/* Whether something waits for EPOLLOUT. */
bool vublk_vfio_channel_wants_write(const struct vublk_vfio_channel *channel);

#endif
