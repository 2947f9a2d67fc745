/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A server's vfio-user channel: receives whole commands and sends replies on a stream socket. It
 * knows the header of a message but not what the message means. src/proto/stream.c receives the
 * pieces of a message.
 *
 * Key idea: replies carry no descriptors, so the replies that wait for a slow client are kept in a
 * plain buffer of bytes that is part of the channel.
 *
 * Specification: "Header".
 */
#include "proto/vfio-user/channel.h"

#include "proto/stream.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define HEADER_BYTES sizeof(struct vublk_vfio_header)

_Static_assert(VUBLK_VFIO_CHANNEL_OUT_BYTES >= HEADER_BYTES + VUBLK_VFIO_MAX_PAYLOAD_BYTES,
	       "the largest reply has room");

_Static_assert(VUBLK_VFIO_MAX_FDS <= VUBLK_STREAM_MAX_FDS, "a message's descriptors have room");

void vublk_vfio_channel_init(struct vublk_vfio_channel *channel, int fd)
{
	channel->fd = fd;
	channel->in.num_fds = 0;
	channel->reader = (struct vublk_stream_reader){ 0 };
	channel->out_begin = 0;
	channel->out_end = 0;
	vublk_stream_init(fd);
}

void vublk_vfio_channel_deinit(struct vublk_vfio_channel *channel)
{
	if (!channel)
		return;
	vublk_vfio_message_deinit(&channel->in);
	vublk_fd_close(&channel->fd);
}

/* --- sending -------------------------------------------------------------------------- */

bool vublk_vfio_channel_wants_write(const struct vublk_vfio_channel *channel)
{
	return channel->out_begin < channel->out_end;
}

static int send_failed(int code, struct vublk_error *error)
{
	if (code == EPIPE || code == ECONNRESET || code == ENOTCONN)
		return vublk_error_set(error, ENOTCONN,
				       "the client closed the connection before it received a "
				       "whole reply");
	return vublk_error_set_errno(error, code, "cannot send a reply to the client");
}

/* Sends bytes. Returns how many the socket accepted, which may be 0, or a negative errno. */
static ssize_t send_bytes(int fd, struct iovec *iov, size_t num_iov)
{
	const struct msghdr msg = { .msg_iov = iov, .msg_iovlen = num_iov };
	ssize_t n = vublk_stream_send(fd, &msg);

	return n == -EAGAIN ? 0 : n;
}

int vublk_vfio_channel_flush(struct vublk_vfio_channel *channel, struct vublk_error *error)
{
	if (channel->fd < 0)
		return vublk_error_set(error, ENOTCONN, "the connection is closed");
	while (channel->out_begin < channel->out_end) {
		struct iovec iov = { channel->out + channel->out_begin,
				     channel->out_end - channel->out_begin };
		ssize_t n = send_bytes(channel->fd, &iov, 1);

		if (n < 0)
			return send_failed((int)-n, error);
		if (!n)
			return 1;
		channel->out_begin += (size_t)n;
	}
	channel->out_begin = 0;
	channel->out_end = 0;
	return 0;
}

static void keep(struct vublk_vfio_channel *channel, const void *bytes, size_t count)
{
	if (count)
		memcpy(channel->out + channel->out_end, bytes, count);
	channel->out_end += count;
}

/* Keeps the bytes of a reply that follow the first `sent` bytes. */
static int keep_rest(struct vublk_vfio_channel *channel, const struct vublk_vfio_header *header,
		     const void *payload, size_t sent, struct vublk_error *error)
{
	size_t of_header = VUBLK_MIN(sent, HEADER_BYTES);

	if (header->size - sent > sizeof(channel->out) - channel->out_end)
		return vublk_error_set(error, ENOBUFS,
				       "the client does not read its socket: %zu bytes of replies "
				       "are queued, and the queue has no room for the next reply",
				       channel->out_end - channel->out_begin);
	keep(channel, (const char *)header + of_header, HEADER_BYTES - of_header);
	keep(channel, (const char *)payload + (sent - of_header),
	     header->size - HEADER_BYTES - (sent - of_header));
	return 0;
}

int vublk_vfio_channel_send(struct vublk_vfio_channel *channel,
			    const struct vublk_vfio_header *header, const void *payload,
			    struct vublk_error *error)
{
	struct iovec iov[] = {
		{ (void *)header, HEADER_BYTES },
		{ (void *)payload, header->size - HEADER_BYTES },
	};
	ssize_t n = 0;

	if (channel->fd < 0)
		return vublk_error_set(error, ENOTCONN, "the connection is closed");
	if (!vublk_vfio_channel_wants_write(channel))
		n = send_bytes(channel->fd, iov, VUBLK_ARRAY_SIZE(iov));
	if (n < 0)
		return send_failed((int)-n, error);
	if ((size_t)n == header->size)
		return 0;
	return keep_rest(channel, header, payload, (size_t)n, error);
}

/* --- receiving ------------------------------------------------------------------------ */

static ssize_t payload_bytes(const void *header, struct vublk_error *error)
{
	int r = vublk_vfio_check_header(header, error);

	return r < 0 ? r : (ssize_t)vublk_vfio_payload_bytes(header);
}

static void name(const void *opaque, char *text, size_t text_bytes)
{
	const struct vublk_vfio_header *header = opaque;

	snprintf(text, text_bytes, "%s (command %u)", vublk_vfio_command_name(header->command),
		 header->command);
}

static const struct vublk_stream_format format = {
	.peer = "client",
	.header_bytes = HEADER_BYTES,
	.max_payload_bytes = VUBLK_VFIO_MAX_PAYLOAD_BYTES,
	.max_fds = VUBLK_VFIO_MAX_FDS,
	.payload_bytes = payload_bytes,
	.name = name,
};

int vublk_vfio_channel_receive(struct vublk_vfio_channel *channel,
			       struct vublk_vfio_message **message, struct vublk_error *error)
{
	const struct vublk_stream_place place = { &channel->in.header, &channel->in.payload,
						  channel->in.fds, &channel->in.num_fds };
	int r;

	if (!vublk_stream_reader_bytes(&channel->reader)) /* a new message begins: `in` still has
							     the previous one */
		vublk_vfio_message_deinit(&channel->in);
	r = vublk_stream_read(channel->fd, &format, &channel->reader, &place, error);
	if (r > 0)
		*message = &channel->in;
	return r;
}
