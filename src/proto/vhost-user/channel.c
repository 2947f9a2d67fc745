/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A vhost-user channel: sends and receives whole messages on a stream socket. It knows the header
 * of a message but not what the message means. src/proto/stream.c receives the pieces of a message.
 *
 * Key idea: a descriptor arrives with the byte that it was sent with. So the descriptors of a
 * message are sent with its first byte, and not again with the rest.
 *
 * Specification: "Message Specification", "Communication".
 */
#include "proto/vhost-user/channel.h"

#include "proto/stream.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define HEADER_BYTES sizeof(struct vublk_vu_header)

union control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(int) * VUBLK_VU_MAX_FDS)];
};

_Static_assert(VUBLK_VU_MAX_FDS <= VUBLK_STREAM_MAX_FDS, "a message's descriptors have room");

/*
 * A message that waits to be sent. It owns duplicates of the descriptors that are still to be sent.
 */
struct vublk_channel_out {
	struct vublk_channel_out *next;
	struct vublk_vu_message message;
	size_t sent_bytes;
};

static size_t message_bytes(const struct vublk_vu_message *message)
{
	return HEADER_BYTES + message->header.size;
}

void vublk_channel_init(struct vublk_channel *channel, int fd)
{
	memset(channel, 0, sizeof(*channel));
	channel->fd = fd;
	channel->out_end = &channel->out;
	vublk_vu_message_init(&channel->in, 0);
	vublk_stream_init(fd);
}

static void remove_oldest(struct vublk_channel *channel)
{
	struct vublk_channel_out *out = channel->out;

	channel->out = out->next;
	if (!channel->out)
		channel->out_end = &channel->out;
	channel->num_waiting--;
	vublk_vu_message_deinit(&out->message);
	free(out);
}

void vublk_channel_deinit(struct vublk_channel *channel)
{
	if (!channel || !channel->out_end)
		return;
	while (channel->out)
		remove_oldest(channel);
	channel->out_end = NULL;
	vublk_vu_message_deinit(&channel->in);
	vublk_fd_close(&channel->fd);
}

bool vublk_channel_wants_write(const struct vublk_channel *channel)
{
	return channel->out != NULL;
}

/* --- sending ---------------------------------------------------------------------------------- */

/* Sends the bytes that begin at `offset`, like vublk_stream_send(). */
static ssize_t send_bytes(int fd, const struct vublk_vu_message *message, size_t offset)
{
	const struct vublk_stream_message out = {
		.header = &message->header, .header_bytes = HEADER_BYTES,
		.payload = &message->payload, .payload_bytes = message->header.size,
		.fds = message->fds, .num_fds = message->num_fds,
	};

	return vublk_stream_send_message(fd, &out, offset);
}

static int send_failed(int code, struct vublk_error *error)
{
	switch (code) {
	case EPIPE:
	case ECONNRESET:
	case ENOTCONN:
		return vublk_error_set(error, ENOTCONN,
				       "the peer closed the connection before it received a whole "
				       "message");
	case ETOOMANYREFS:
		return vublk_error_set(error, code,
				       "too many file descriptors are in transit to peers that do "
				       "not receive them; raise the limit of open files (ulimit -n)");
	default:
		return vublk_error_set_errno(error, code, "cannot send a message to the peer");
	}
}

static int duplicate_fds(struct vublk_vu_message *copy, const struct vublk_vu_message *message,
			 struct vublk_error *error)
{
	for (unsigned i = 0; i < message->num_fds; i++) {
		int fd = fcntl(message->fds[i], F_DUPFD_CLOEXEC, 0);

		if (fd < 0)
			return vublk_error_set_errno(error, errno,
						     "cannot queue a message until the peer reads "
						     "its socket: cannot duplicate the message's "
						     "file descriptors");
		copy->fds[copy->num_fds++] = fd;
	}
	return 0;
}

/*
 * Keeps the bytes of `message` after the first `sent_bytes` bytes. If `sent_bytes` is 0, also keeps
 * duplicates of the descriptors.
 */
static int keep_message(struct vublk_channel *channel, const struct vublk_vu_message *message,
			size_t sent_bytes, struct vublk_error *error)
{
	struct vublk_channel_out *out;
	int r;

	if (channel->num_waiting >= VUBLK_CHANNEL_MAX_WAITING)
		return vublk_error_set(error, ENOBUFS,
				       "the peer does not read its socket: %u messages are queued, "
				       "which is the maximum",
				       channel->num_waiting);
	out = calloc(1, sizeof(*out));
	if (!out)
		return vublk_error_set_errno(error, ENOMEM,
					     "cannot queue a message until the peer reads its "
					     "socket");
	out->message = *message;
	out->message.num_fds = 0;
	out->sent_bytes = sent_bytes;
	r = sent_bytes ? 0 : duplicate_fds(&out->message, message, error);
	if (r < 0) {
		vublk_vu_message_deinit(&out->message);
		free(out);
		return r;
	}
	*channel->out_end = out;
	channel->out_end = &out->next;
	channel->num_waiting++;
	return 0;
}

static int check_outgoing(const struct vublk_channel *channel,
			  const struct vublk_vu_message *message, struct vublk_error *error)
{
	if (channel->fd < 0)
		return vublk_error_set(error, ENOTCONN, "the connection is closed");
	if (message->header.size > VUBLK_VU_MAX_PAYLOAD_BYTES ||
	    message->num_fds > VUBLK_VU_MAX_FDS)
		return vublk_error_set(error, EINVAL,
				       "cannot send a message of %u bytes with %u file "
				       "descriptors: at most %d bytes and %d file descriptors are "
				       "allowed", message->header.size, message->num_fds,
				       VUBLK_VU_MAX_PAYLOAD_BYTES, VUBLK_VU_MAX_FDS);
	return 0;
}

int vublk_channel_send(struct vublk_channel *channel, const struct vublk_vu_message *message,
		       struct vublk_error *error)
{
	ssize_t n;
	int r = check_outgoing(channel, message, error);

	if (r < 0)
		return r;
	if (channel->out)
		return keep_message(channel, message, 0, error);
	n = send_bytes(channel->fd, message, 0);
	if (n == -EAGAIN)
		n = 0;
	if (n < 0)
		return send_failed((int)-n, error);
	if ((size_t)n == message_bytes(message))
		return 0;
	r = keep_message(channel, message, (size_t)n, error);
	if (r < 0 && n > 0) /* the peer would take the next message for the rest of this one */
		shutdown(channel->fd, SHUT_WR);
	return r;
}

int vublk_channel_flush(struct vublk_channel *channel, struct vublk_error *error)
{
	if (channel->fd < 0)
		return vublk_error_set(error, ENOTCONN, "the connection is closed");
	while (channel->out) {
		struct vublk_channel_out *out = channel->out;
		ssize_t n = send_bytes(channel->fd, &out->message, out->sent_bytes);

		if (n == -EAGAIN)
			return 1;
		if (n < 0)
			return send_failed((int)-n, error);
		out->sent_bytes += (size_t)n;
		vublk_vu_message_deinit(&out->message);
		if (out->sent_bytes == message_bytes(&out->message))
			remove_oldest(channel);
	}
	return 0;
}

/* --- receiving -------------------------------------------------------------------------------- */

static ssize_t payload_bytes(const void *opaque, struct vublk_error *error)
{
	const struct vublk_vu_header *header = opaque;

	if ((header->flags & VUBLK_VU_VERSION_MASK) != VUBLK_VU_VERSION)
		return vublk_error_set(error, EPROTO,
				       "message %u has protocol version %u; expected %u",
				       header->request,
				       header->flags & VUBLK_VU_VERSION_MASK, VUBLK_VU_VERSION);
	if (header->size > VUBLK_VU_MAX_PAYLOAD_BYTES)
		return vublk_error_set(error, EPROTO,
				       "message %u announces a payload of %u bytes; expected at "
				       "most %d", header->request,
				       header->size, VUBLK_VU_MAX_PAYLOAD_BYTES);
	return header->size;
}

/*
 * Writes the number of the message. Its name depends on the direction, which a channel does not
 * know.
 */
static void name(const void *opaque, char *text, size_t text_bytes)
{
	const struct vublk_vu_header *header = opaque;

	snprintf(text, text_bytes, "message %u", header->request);
}

static const struct vublk_stream_format format = {
	.peer = "peer",
	.header_bytes = HEADER_BYTES,
	.max_payload_bytes = VUBLK_VU_MAX_PAYLOAD_BYTES,
	.max_fds = VUBLK_VU_MAX_FDS,
	.payload_bytes = payload_bytes,
	.name = name,
};

int vublk_channel_receive(struct vublk_channel *channel, struct vublk_vu_message *message,
			  struct vublk_error *error)
{
	const struct vublk_stream_place place = { &channel->in.header, &channel->in.payload,
						  channel->in.fds, &channel->in.num_fds };
	int r = vublk_stream_read(channel->fd, &format, &channel->reader, &place, error);

	if (r <= 0)
		return r;
	*message = channel->in;
	vublk_vu_message_init(&channel->in, 0);
	return 1;
}
