/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A channel: whole vhost-user messages over a stream socket that may give and
 * take them in pieces of any size. It knows the header and no more of a message.
 *
 * The idea to read it by: a descriptor travels with the first byte that it was
 * sent with. So a message is sent with its descriptors beside its first byte, and
 * never again when the rest follows; and a receiver never reads beyond the end of
 * a message, for the descriptors of the next would come with it.
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

/* A message that waits; its descriptors are duplicates, until they are sent. */
struct vublk_channel_out {
	struct vublk_channel_out *next;
	struct vublk_vu_message message;
	size_t sent_bytes;
};

static size_t message_bytes(const struct vublk_vu_message *message)
{
	return HEADER_BYTES + message->header.size;
}

static void start_message(struct vublk_channel *channel)
{
	vublk_vu_message_init(&channel->in, 0);
	channel->in_bytes = 0;
}

void vublk_channel_init(struct vublk_channel *channel, int fd)
{
	memset(channel, 0, sizeof(*channel));
	channel->fd = fd;
	channel->out_end = &channel->out;
	start_message(channel);
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

/* --- sending --------------------------------------------------------------- */

static void attach_fds(struct msghdr *msg, union control *control, const int *fds,
		       unsigned num_fds)
{
	struct cmsghdr *cmsg;

	memset(control, 0, sizeof(*control));
	msg->msg_control = control;
	msg->msg_controllen = CMSG_SPACE(sizeof(int) * num_fds);
	cmsg = CMSG_FIRSTHDR(msg);
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int) * num_fds);
	memcpy(CMSG_DATA(cmsg), fds, sizeof(int) * num_fds);
}

/* Sends what the socket takes of the bytes from `offset` on: how many, or -errno. */
static ssize_t send_bytes(int fd, const struct vublk_vu_message *message, size_t offset)
{
	size_t header_left = HEADER_BYTES - VUBLK_MIN(offset, HEADER_BYTES);
	size_t payload_offset = offset - VUBLK_MIN(offset, HEADER_BYTES);
	struct iovec iov[] = {
		{ (char *)&message->header + HEADER_BYTES - header_left, header_left },
		{ (char *)&message->payload + payload_offset,
		  message->header.size - payload_offset },
	};
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = VUBLK_ARRAY_SIZE(iov) };
	union control control;

	if (!offset && message->num_fds)
		attach_fds(&msg, &control, message->fds, message->num_fds);
	return vublk_stream_send(fd, &msg);
}

static int send_failed(int code, struct vublk_error *error)
{
	switch (code) {
	case EPIPE:
	case ECONNRESET:
	case ENOTCONN:
		return vublk_error_set(error, ENOTCONN,
				       "the peer closed the connection while it was sent a message");
	case ETOOMANYREFS:
		return vublk_error_set(error, code,
				       "too many file descriptors are on their way to peers that do "
				       "not take them; raise the limit of open files (ulimit -n)");
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
						     "cannot keep the file descriptors of a message "
						     "until the peer reads");
		copy->fds[copy->num_fds++] = fd;
	}
	return 0;
}

/* Keeps `message`, of which `sent_bytes` are gone, and its descriptors if none are. */
static int keep_message(struct vublk_channel *channel, const struct vublk_vu_message *message,
			size_t sent_bytes, struct vublk_error *error)
{
	struct vublk_channel_out *out;
	int r;

	if (channel->num_waiting >= VUBLK_CHANNEL_MAX_WAITING)
		return vublk_error_set(error, ENOBUFS,
				       "the peer does not read: %u messages wait for it",
				       channel->num_waiting);
	out = calloc(1, sizeof(*out));
	if (!out)
		return vublk_error_set_errno(error, ENOMEM,
					     "cannot keep a message until the peer reads");
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
				       "a message of %u bytes and %u file descriptors is too large "
				       "to be sent", message->header.size, message->num_fds);
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
	if (r < 0 && n > 0) /* what follows would be taken for the rest of this one */
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

/* --- receiving ------------------------------------------------------------- */

/* To the end of a connection it is added where in a message that was. */
static int receive_failed(const struct vublk_channel *channel, const struct vublk_error *what,
			  struct vublk_error *error)
{
	if (what->code != ENOTCONN || !channel->in_bytes)
		return vublk_error_set(error, what->code, "%s", what->text);
	if (channel->in_bytes < HEADER_BYTES)
		return vublk_error_set(error, ENOTCONN,
				       "%s inside a message, after %zu of the %zu bytes of its header",
				       what->text, channel->in_bytes, HEADER_BYTES);
	return vublk_error_set(error, ENOTCONN,
			       "%s inside a message (number %u), after %zu of the %u bytes of its "
			       "payload", what->text, channel->in.header.request,
			       channel->in_bytes - HEADER_BYTES, channel->in.header.size);
}

static int check_header(const struct vublk_vu_header *header, struct vublk_error *error)
{
	if ((header->flags & VUBLK_VU_VERSION_MASK) != VUBLK_VU_VERSION)
		return vublk_error_set(error, EPROTO,
				       "a message (number %u) came with protocol version %u, "
				       "where %u is expected", header->request,
				       header->flags & VUBLK_VU_VERSION_MASK, VUBLK_VU_VERSION);
	if (header->size > VUBLK_VU_MAX_PAYLOAD_BYTES)
		return vublk_error_set(error, EPROTO,
				       "a message (number %u) announces a payload of %u bytes, "
				       "where at most %d are expected", header->request,
				       header->size, VUBLK_VU_MAX_PAYLOAD_BYTES);
	return 0;
}

/* What is still missing of the header, or else of the payload. */
static struct iovec missing_part(struct vublk_channel *channel)
{
	size_t have = channel->in_bytes;

	if (have < HEADER_BYTES)
		return (struct iovec){ (char *)&channel->in.header + have, HEADER_BYTES - have };
	return (struct iovec){ (char *)&channel->in.payload + have - HEADER_BYTES,
			       message_bytes(&channel->in) - have };
}

/* 1: some bytes came; 0: not yet. */
static int receive_bytes(struct vublk_channel *channel, struct vublk_error *error)
{
	const struct vublk_stream_fds fds = { channel->in.fds, &channel->in.num_fds,
					      VUBLK_VU_MAX_FDS };
	struct vublk_error what;
	ssize_t n = vublk_stream_receive(channel->fd, missing_part(channel), &fds, "peer", &what);
	int r = 0;

	if (n < 0)
		return receive_failed(channel, &what, error);
	if (!n)
		return 0;
	channel->in_bytes += (size_t)n;
	if (channel->in_bytes == HEADER_BYTES)
		r = check_header(&channel->in.header, error);
	return r < 0 ? r : 1;
}

static bool is_whole(const struct vublk_channel *channel)
{
	return channel->in_bytes >= HEADER_BYTES &&
	       channel->in_bytes == message_bytes(&channel->in);
}

int vublk_channel_receive(struct vublk_channel *channel, struct vublk_vu_message *message,
			  struct vublk_error *error)
{
	int r;

	if (channel->fd < 0)
		return vublk_error_set(error, ENOTCONN, "the connection is closed");
	if (channel->in_error)
		return vublk_error_set(error, channel->in_error,
				       "nothing more is received after an earlier failure");
	do {
		r = receive_bytes(channel, error);
		if (r < 0) {
			channel->in_error = -r;
			vublk_vu_message_deinit(&channel->in);
		}
		if (r <= 0)
			return r;
	} while (!is_whole(channel));
	*message = channel->in;
	start_message(channel);
	return 1;
}
