/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A vhost-user channel with a hostile peer. The input is a list of pieces. Each begins with two
 * bytes, the number of bytes and the number of descriptors, and continues with the bytes. Each
 * piece is sent with one sendmsg().
 *
 * Key idea: for any input the received messages are the bytes that were sent, in order, and the
 * descriptors of each message are valid. Each error has a text. After an error no message is
 * received. No descriptor leaks.
 */
#include "fuzz.h"
#include "peer.h"

#include "proto/vhost-user/channel.h"
#include "util/checked.h"
#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_STREAM_BYTES 65536
#define HEADER_BYTES sizeof(struct vublk_vu_header)

struct stream {
	struct vublk_channel channel;
	int peer;
	int fd; /* the descriptor that is sent */
	int failed;
	size_t sent, received;
	uint8_t bytes[MAX_STREAM_BYTES];
};

static void check_error(int r, const struct vublk_error *error)
{
	FUZZ_CHECK(error->code == -r);
	FUZZ_CHECK(error->text[0] && memchr(error->text, '\0', sizeof(error->text)));
}

static void check_codec(const struct vublk_vu_message *message)
{
	for (int direction = 0; direction < 2; direction++) {
		struct vublk_error error = { 0 };
		int r = vublk_vu_check_request((enum vublk_vu_direction)direction, message, &error);

		FUZZ_CHECK(r == 0 || r == -EPROTO || r == -ENOTSUP);
		if (r < 0)
			check_error(r, &error);
		r = vublk_vu_check_reply(message->header.request, message->header.size, message,
					 &error);
		FUZZ_CHECK((r == 0) == !!(message->header.flags & VUBLK_VU_FLAG_REPLY));
		if (r < 0)
			check_error(r, &error);
	}
}

static void check_message(struct stream *stream, const struct vublk_vu_message *message)
{
	const uint8_t *sent = stream->bytes + stream->received;

	FUZZ_CHECK(!stream->failed);
	FUZZ_CHECK(message->header.size <= VUBLK_VU_MAX_PAYLOAD_BYTES);
	FUZZ_CHECK(HEADER_BYTES + message->header.size <= stream->sent - stream->received);
	FUZZ_CHECK(!memcmp(&message->header, sent, HEADER_BYTES));
	FUZZ_CHECK(!memcmp(&message->payload, sent + HEADER_BYTES, message->header.size));
	for (size_t i = message->header.size; i < sizeof(message->payload); i++)
		FUZZ_CHECK(!message->payload.bytes[i]);
	FUZZ_CHECK(message->num_fds <= VUBLK_VU_MAX_FDS);
	for (unsigned i = 0; i < message->num_fds; i++)
		FUZZ_CHECK(fcntl(message->fds[i], F_GETFD) == FD_CLOEXEC);
	stream->received += HEADER_BYTES + message->header.size;
	check_codec(message);
}

/* Receives all messages that have arrived. */
static void receive(struct stream *stream)
{
	struct vublk_vu_message message;
	struct vublk_error error = { 0 };
	int r;

	while ((r = vublk_channel_receive(&stream->channel, &message, &error)) == 1) {
		check_message(stream, &message);
		vublk_vu_message_deinit(&message);
	}
	FUZZ_CHECK(!stream->failed || r == stream->failed);
	if (r < 0)
		check_error(r, &error);
	stream->failed = r;
}

static void send_piece(struct stream *stream, const uint8_t *bytes, size_t count, unsigned num_fds)
{
	struct iovec part = { (void *)bytes, count };

	FUZZ_CHECK(fuzz_send(stream->peer, &part, 1, num_fds, stream->fd) == (ssize_t)count);
	memcpy(stream->bytes + stream->sent, bytes, count);
	stream->sent += count;
}

static int lowest_free_fd(void)
{
	int fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);

	FUZZ_CHECK(fd >= 0);
	close(fd);
	return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct stream stream;
	int fds[2], free_fd = lowest_free_fd();

	memset(&stream, 0, sizeof(stream));
	FUZZ_CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds));
	vublk_channel_init(&stream.channel, fds[0]);
	stream.peer = fds[1];
	stream.fd = vublk_eventfd_new();
	while (size > 2 && !stream.failed) {
		size_t count = VUBLK_MIN((size_t)data[0], size - 2);

		if (stream.sent + count > MAX_STREAM_BYTES)
			break;
		if (count) {
			send_piece(&stream, data + 2, count, data[1] & FUZZ_MAX_SENT_FDS);
			receive(&stream);
		}
		data += 2 + count;
		size -= 2 + count;
	}
	vublk_fd_close(&stream.peer);
	receive(&stream);
	FUZZ_CHECK(stream.failed);
	vublk_channel_deinit(&stream.channel);
	vublk_fd_close(&stream.fd);
	FUZZ_CHECK(lowest_free_fd() == free_fd);
	return 0;
}
