/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sends and receives on a stream socket; see stream.h. The channel of each protocol keeps the
 * messages that wait for a slow peer.
 *
 * Key idea: the kernel may deliver a message in pieces of any size, and descriptors arrive with a
 * byte of their message. So no call asks for bytes beyond the current message, because these might
 * bring descriptors of the next message.
 */
#include "proto/stream.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/uio.h>

void vublk_stream_init(int fd)
{
	vublk_fd_set_nonblocking(fd);
	fcntl(fd, F_SETFD, FD_CLOEXEC);
}

ssize_t vublk_stream_send(int fd, const struct msghdr *msg)
{
	ssize_t n;

	do
		n = sendmsg(fd, msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

union control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(int) * VUBLK_STREAM_MAX_FDS)];
};

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

ssize_t vublk_stream_send_message(int fd, const struct vublk_stream_message *message,
				  size_t offset)
{
	size_t of_header = VUBLK_MIN(offset, message->header_bytes);
	size_t of_payload = offset - of_header;
	struct iovec parts[] = {
		{ (char *)message->header + of_header, message->header_bytes - of_header },
		{ (char *)message->payload, 0 },
	};
	struct msghdr msg = { .msg_iov = parts, .msg_iovlen = VUBLK_ARRAY_SIZE(parts) };
	union control control;

	if (message->payload_bytes > of_payload)
		parts[1] = (struct iovec){ (char *)message->payload + of_payload,
					   message->payload_bytes - of_payload };
	if (!offset && message->num_fds)
		attach_fds(&msg, &control, message->fds, message->num_fds);
	return vublk_stream_send(fd, &msg);
}

/* --- descriptors ----------------------------------------------------------------------------- */

/*
 * Stores the received descriptors in `place`, which has room for `max` descriptors in total, and
 * closes those for which there is no room. Returns how many arrived, with the closed ones.
 */
static unsigned store_fds(const struct vublk_stream_place *place, unsigned max, struct msghdr *msg)
{
	unsigned arrived = 0;

	for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(msg); cmsg; cmsg = CMSG_NXTHDR(msg, cmsg)) {
		size_t count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < count; i++, arrived++) {
			int fd;

			memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(fd), sizeof(fd));
			if (*place->num_fds < max)
				place->fds[(*place->num_fds)++] = fd;
			else
				vublk_fd_close(&fd);
		}
	}
	return arrived;
}

/*
 * Checks that no descriptor was lost. The kernel drops descriptors if the control buffer or this
 * process's table of descriptors is full. The control buffer has room for max_fds descriptors. So
 * if the kernel dropped descriptors and fewer than max_fds have arrived, the table was full.
 */
static int check_fds(unsigned before, unsigned arrived, bool is_truncated,
		     const struct vublk_stream_format *format, struct vublk_error *error)
{
	if (is_truncated && arrived < format->max_fds)
		return vublk_error_set(error, EMFILE,
				       "file descriptors from the %s were lost, probably because "
				       "this process has too many open files; raise the limit "
				       "(ulimit -n)", format->peer);
	if (is_truncated || before + arrived > format->max_fds)
		return vublk_error_set(error, EPROTO,
				       "a message has too many file descriptors; the maximum is %u",
				       format->max_fds);
	return 0;
}

/* --- receiving -------------------------------------------------------------------------------- */

/* Returns -ENOTCONN; `error` says where in a message the connection ended. */
static int connection_ended(const char *what, const struct vublk_stream_format *format,
			    const struct vublk_stream_reader *reader, const void *header,
			    struct vublk_error *error)
{
	char name[80];

	if (!reader->header_bytes)
		return vublk_error_set(error, ENOTCONN, "the %s %s the connection", format->peer,
				       what);
	if (reader->header_bytes < format->header_bytes)
		return vublk_error_set(error, ENOTCONN,
				       "the %s %s the connection in the middle of a message, after "
				       "%zu of the %zu bytes of its header", format->peer, what,
				       reader->header_bytes, format->header_bytes);
	format->name(header, name, sizeof(name));
	return vublk_error_set(error, ENOTCONN,
			       "the %s %s the connection in the middle of %s, after %zu of the %zu "
			       "bytes of its payload",
			       format->peer, what, name, reader->payload_bytes,
			       reader->expected_bytes);
}

static int receive_failed(int code, const struct vublk_stream_format *format,
			  const struct vublk_stream_reader *reader, const void *header,
			  struct vublk_error *error)
{
	if (code && code != ECONNRESET && code != EPIPE && code != ENOTCONN)
		return vublk_error_set_errno(error, code, "cannot receive from the %s",
					     format->peer);
	return connection_ended(code ? "reset" : "closed", format, reader, header, error);
}

/* Returns the missing part of the header or, if the header is complete, of the payload. */
static struct iovec missing_part(const struct vublk_stream_format *format,
				 const struct vublk_stream_reader *reader,
				 const struct vublk_stream_place *place)
{
	if (reader->header_bytes < format->header_bytes)
		return (struct iovec){ (char *)place->header + reader->header_bytes,
				       format->header_bytes - reader->header_bytes };
	return (struct iovec){ (char *)place->payload + reader->payload_bytes,
			       reader->expected_bytes - reader->payload_bytes };
}

/*
 * Receives bytes of the missing part and the descriptors that come with them. Returns the number of
 * bytes, or 0 if none have arrived; negative errno: the stream has failed.
 */
static ssize_t receive(int fd, const struct vublk_stream_format *format,
		       const struct vublk_stream_reader *reader,
		       const struct vublk_stream_place *place, struct vublk_error *error)
{
	union control control;
	struct iovec part = missing_part(format, reader, place);
	/*
	 * The control buffer has room for exactly max_fds descriptors, so that the kernel sets
	 * MSG_CTRUNC if there are more.
	 */
	struct msghdr msg = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = CMSG_SPACE(sizeof(int) * format->max_fds),
	};
	unsigned before = *place->num_fds, arrived;
	ssize_t n;
	int r;

	do
		n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n <= 0)
		return receive_failed(n < 0 ? errno : 0, format, reader, place->header, error);
	arrived = store_fds(place, format->max_fds, &msg);
	r = check_fds(before, arrived, msg.msg_flags & MSG_CTRUNC, format, error);
	return r < 0 ? r : n;
}

/* Called when the header is complete. Sets the expected size of the payload. */
static int begin_payload(const struct vublk_stream_format *format,
			 struct vublk_stream_reader *reader, const void *header,
			 struct vublk_error *error)
{
	ssize_t bytes = format->payload_bytes(header, error);

	if (bytes < 0)
		return (int)bytes;
	if ((size_t)bytes > format->max_payload_bytes)
		return vublk_error_set(error, EPROTO, "a message announces a payload of %zd bytes; "
				       "expected at most %zu",
				       bytes, format->max_payload_bytes);
	reader->expected_bytes = (size_t)bytes;
	return 0;
}

static bool is_complete(const struct vublk_stream_format *format,
			const struct vublk_stream_reader *reader)
{
	return reader->header_bytes == format->header_bytes &&
	       reader->payload_bytes == reader->expected_bytes;
}

/*
 * Receives available bytes of the header or, if it is complete, of the payload. Returns 1 if bytes
 * have arrived, 0 if not, or a negative errno.
 */
static int advance(int fd, const struct vublk_stream_format *format,
		   struct vublk_stream_reader *reader, const struct vublk_stream_place *place,
		   struct vublk_error *error)
{
	ssize_t n = receive(fd, format, reader, place, error);
	int r = 0;

	if (n <= 0)
		return (int)n;
	if (reader->header_bytes == format->header_bytes) {
		reader->payload_bytes += (size_t)n;
		return 1;
	}
	reader->header_bytes += (size_t)n;
	if (reader->header_bytes == format->header_bytes)
		r = begin_payload(format, reader, place->header, error);
	return r < 0 ? r : 1;
}

int vublk_stream_read(int fd, const struct vublk_stream_format *format,
		      struct vublk_stream_reader *reader, const struct vublk_stream_place *place,
		      struct vublk_error *error)
{
	int r;

	if (fd < 0)
		return vublk_error_set(error, ENOTCONN, "the connection is closed");
	if (reader->failure)
		return vublk_error_set(error, reader->failure,
				       "cannot receive from this connection, because an earlier "
				       "receive failed");
	do {
		r = advance(fd, format, reader, place, error);
		if (r < 0) {
			reader->failure = -r;
			vublk_fd_close_all(place->fds, *place->num_fds);
			*place->num_fds = 0;
		}
		if (r <= 0)
			return r;
	} while (!is_complete(format, reader));
	*reader = (struct vublk_stream_reader){ 0 };
	return 1;
}

size_t vublk_stream_reader_bytes(const struct vublk_stream_reader *reader)
{
	return reader->header_bytes + reader->payload_bytes;
}
