/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A server's vfio-user channel: whole messages over a stream socket that may give and
 * take them in pieces of any size. It knows the header and no more of a message.
 *
 * The idea to read it by: a descriptor travels with a byte of its message, so a
 * receiver never reads beyond the end of a message, for the descriptors of the next
 * would come with it. Replies carry no descriptors: what waits of them is bytes.
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
	channel->in_bytes = 0;
	channel->in_error = 0;
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
				       "the client closed the connection while it was sent a reply");
	return vublk_error_set_errno(error, code, "cannot send a reply to the client");
}

/* How many bytes the socket took, 0 if none, or -errno. */
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

/* Keeps the bytes of a reply from `sent` on. */
static int keep_rest(struct vublk_vfio_channel *channel, const struct vublk_vfio_header *header,
		     const void *payload, size_t sent, struct vublk_error *error)
{
	size_t of_header = VUBLK_MIN(sent, HEADER_BYTES);

	if (header->size - sent > sizeof(channel->out) - channel->out_end)
		return vublk_error_set(error, ENOBUFS,
				       "the client does not read: %zu bytes of replies wait for it",
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

/* To the end of a connection it is added where in a message that was. */
static int receive_failed(const struct vublk_vfio_channel *channel, const struct vublk_error *what,
			  struct vublk_error *error)
{
	const struct vublk_vfio_header *header = &channel->in.header;

	if (what->code != ENOTCONN || !channel->in_bytes)
		return vublk_error_set(error, what->code, "%s", what->text);
	if (channel->in_bytes < HEADER_BYTES)
		return vublk_error_set(error, ENOTCONN,
				       "%s inside a message, after %zu of the %zu bytes of its header",
				       what->text, channel->in_bytes, HEADER_BYTES);
	return vublk_error_set(error, ENOTCONN,
			       "%s inside %s (command %u), after %zu of its %u bytes", what->text,
			       vublk_vfio_command_name(header->command), header->command,
			       channel->in_bytes, header->size);
}

/* What is still missing of the header, or else of the payload. */
static struct iovec missing_part(struct vublk_vfio_channel *channel)
{
	size_t have = channel->in_bytes;

	if (have < HEADER_BYTES)
		return (struct iovec){ (char *)&channel->in.header + have, HEADER_BYTES - have };
	return (struct iovec){ channel->in.payload.bytes + have - HEADER_BYTES,
			       channel->in.header.size - have };
}

/* 1: some bytes came; 0: not yet. */
static int receive_bytes(struct vublk_vfio_channel *channel, struct vublk_error *error)
{
	const struct vublk_stream_fds fds = { channel->in.fds, &channel->in.num_fds,
					      VUBLK_VFIO_MAX_FDS };
	struct vublk_error what;
	ssize_t n = vublk_stream_receive(channel->fd, missing_part(channel), &fds, "client",
					 &what);
	int r = 0;

	if (n < 0)
		return receive_failed(channel, &what, error);
	if (!n)
		return 0;
	channel->in_bytes += (size_t)n;
	if (channel->in_bytes == HEADER_BYTES)
		r = vublk_vfio_check_header(&channel->in.header, error);
	return r < 0 ? r : 1;
}

static bool is_whole(const struct vublk_vfio_channel *channel)
{
	return channel->in_bytes >= HEADER_BYTES && channel->in_bytes == channel->in.header.size;
}

int vublk_vfio_channel_receive(struct vublk_vfio_channel *channel,
			       struct vublk_vfio_message **message, struct vublk_error *error)
{
	int r;

	if (channel->fd < 0)
		return vublk_error_set(error, ENOTCONN, "the connection is closed");
	if (channel->in_error)
		return vublk_error_set(error, channel->in_error,
				       "nothing more is received after an earlier failure");
	if (is_whole(channel)) { /* the last one; it has been dealt with */
		vublk_vfio_message_deinit(&channel->in);
		channel->in_bytes = 0;
	}
	do {
		r = receive_bytes(channel, error);
		if (r < 0) {
			channel->in_error = -r;
			channel->in_bytes = 0;
			vublk_vfio_message_deinit(&channel->in);
		}
		if (r <= 0)
			return r;
	} while (!is_whole(channel));
	*message = &channel->in;
	return 1;
}
