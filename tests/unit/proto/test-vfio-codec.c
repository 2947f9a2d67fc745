/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vfio-user on the wire: the table of commands, invalid commands, and the channel. The channel is
 * tested with messages in pieces of every size, with descriptors, and with a client that does not
 * read.
 *
 * Key idea: the test repeats the numbers of the specification instead of using the codec's, so that
 * a wrong number in the codec makes the test fail.
 */
#include "harness.h"

#include "proto/vfio-user/channel.h"
#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* --- the codec -------------------------------------------------------------------------------- */

struct expected {
	uint32_t number;
	const char *name;
	uint32_t min_bytes, max_bytes;
	unsigned max_fds;
	bool served;
};

static const struct expected commands[] = {
	{ 1, "VERSION", 4, 8192, 0, true },
	{ 2, "DMA_MAP", 32, 32, 1, true },
	{ 3, "DMA_UNMAP", 24, 24, 1, true },
	{ 4, "DEVICE_GET_INFO", 16, 8192, 0, true },
	{ 5, "DEVICE_GET_REGION_INFO", 32, 8192, 0, true },
	{ 6, "DEVICE_GET_REGION_IO_FDS", 0, 8192, 0, false },
	{ 7, "DEVICE_GET_IRQ_INFO", 16, 8192, 0, true },
	{ 8, "DEVICE_SET_IRQS", 20, 8192, 16, true },
	{ 9, "REGION_READ", 16, 16, 0, true },
	{ 10, "REGION_WRITE", 16, 8192, 0, true },
	{ 11, "DMA_READ", 0, 8192, 0, false },
	{ 12, "DMA_WRITE", 0, 8192, 0, false },
	{ 13, "DEVICE_RESET", 0, 0, 0, true },
	{ 14, "DIRTY_PAGES", 0, 8192, 0, false },
	{ 15, "REGION_WRITE_MULTI", 8, 8192, 0, true },
	{ 16, "DEVICE_FEATURE", 0, 8192, 0, false },
	{ 17, "MIG_DATA_READ", 0, 8192, 0, false },
	{ 18, "MIG_DATA_WRITE", 0, 8192, 0, false },
};

static int check(uint16_t command, uint32_t payload_bytes, uint32_t flags, unsigned num_fds,
		 struct vublk_error *error)
{
	static struct vublk_vfio_message message;

	message.header = (struct vublk_vfio_header){
		.command = command, .size = 16 + payload_bytes, .flags = flags,
	};
	message.num_fds = num_fds;
	return vublk_vfio_check_command(&message, error);
}

static void test_every_command(void **state)
{
	assert_int_equal(VUBLK_ARRAY_SIZE(commands), VUBLK_VFIO_COMMAND_END - 1);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(commands); i++) {
		const struct expected *expected = &commands[i];
		uint16_t number = (uint16_t)expected->number;
		int good = expected->served ? 0 : -ENOTSUP, bad = expected->served ? -EINVAL : -ENOTSUP;
		struct vublk_error e;

		assert_string_equal(vublk_vfio_command_name(number), expected->name);
		assert_int_equal(check(number, expected->min_bytes, 0, 0, &e), good);
		assert_int_equal(check(number, expected->max_bytes, 0x10, expected->max_fds, &e),
				 good);
		assert_int_equal(check(number, expected->max_bytes + 1, 0, 0, &e), bad);
		assert_non_null(strstr(e.text, expected->name));
		if (expected->min_bytes)
			assert_int_equal(check(number, expected->min_bytes - 1, 0, 0, &e), bad);
		assert_int_equal(check(number, expected->min_bytes, 0, expected->max_fds + 1, &e),
				 bad);
		assert_int_equal(check(number, expected->min_bytes, 1, 0, &e), -EPROTO);
		assert_int_equal(check(number, expected->min_bytes, 0x40, 0, &e), -EPROTO);
	}
}

static void test_numbers_that_are_none(void **state)
{
	const uint16_t none[] = { 0, 19, 1000, UINT16_MAX };
	struct vublk_error e;

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(none); i++) {
		assert_null(vublk_vfio_command_info(none[i]));
		assert_string_equal(vublk_vfio_command_name(none[i]), "unknown command");
		assert_int_equal(check(none[i], 0, 0, 0, &e), -ENOTSUP);
	}
}

static void test_answers(void **state)
{
	struct vublk_vfio_header command = { 0x1234, VUBLK_VFIO_REGION_READ, 32, 0, 0 }, reply;

	reply = vublk_vfio_reply_header(&command, 20);
	assert_int_equal(reply.id, 0x1234);
	assert_int_equal(reply.command, 9);
	assert_int_equal(reply.size, 36);
	assert_int_equal(reply.flags, 1);
	reply = vublk_vfio_error_header(&command, EINVAL);
	assert_int_equal(reply.id, 0x1234);
	assert_int_equal(reply.size, 16);
	assert_int_equal(reply.flags, 0x21);
	assert_int_equal(reply.error, EINVAL);
	assert_true(vublk_vfio_wants_reply(&command));
	command.flags = VUBLK_VFIO_FLAG_NO_REPLY;
	assert_false(vublk_vfio_wants_reply(&command));
}

/* --- the channel ------------------------------------------------------------------------------ */

struct pair {
	struct vublk_vfio_channel channel;
	int peer;
	int file; /* the descriptor that is sent */
};

static void begin(struct pair *pair)
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	vublk_vfio_channel_init(&pair->channel, fds[0]);
	pair->peer = fds[1];
	pair->file = vublk_eventfd_new();
}

static void end(struct pair *pair)
{
	vublk_vfio_channel_deinit(&pair->channel);
	vublk_vfio_channel_deinit(&pair->channel);
	vublk_fd_close(&pair->peer);
	vublk_fd_close(&pair->file);
}

static void send_bytes(struct pair *pair, const void *bytes, size_t count, unsigned num_fds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * 40)];
	} control = { 0 };
	struct iovec iov = { (void *)bytes, count };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (num_fds) {
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * num_fds);
		CMSG_FIRSTHDR(&msg)->cmsg_level = SOL_SOCKET;
		CMSG_FIRSTHDR(&msg)->cmsg_type = SCM_RIGHTS;
		CMSG_FIRSTHDR(&msg)->cmsg_len = CMSG_LEN(sizeof(int) * num_fds);
		for (unsigned i = 0; i < num_fds; i++)
			memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)) + i * sizeof(int), &pair->file,
			       sizeof(int));
	}
	assert_int_equal(sendmsg(pair->peer, &msg, 0), count);
}

struct small {
	struct vublk_vfio_header header;
	struct vublk_vfio_dma_map map;
};

static struct small small_message(uint16_t id)
{
	return (struct small){
		{ id, VUBLK_VFIO_DMA_MAP, sizeof(struct small), 0, 0 },
		{ 32, 3, 4096, 0x100000 + (uint64_t)id, 8192 },
	};
}

static void expect_small(struct pair *pair, uint16_t id, unsigned num_fds)
{
	struct vublk_vfio_message *message = NULL;
	struct vublk_error e;
	int fd;

	assert_int_equal(vublk_vfio_channel_receive(&pair->channel, &message, &e), 1);
	assert_int_equal(message->header.id, id);
	assert_int_equal(message->payload.map.address, 0x100000 + id);
	assert_int_equal(message->num_fds, num_fds);
	assert_int_equal(vublk_vfio_check_command(message, &e), 0);
	if (!num_fds) {
		assert_int_equal(vublk_vfio_message_take_fd(message, 0), -1);
		return;
	}
	fd = vublk_vfio_message_take_fd(message, 0);
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	vublk_fd_close(&fd);
}

static void expect_nothing(struct pair *pair)
{
	struct vublk_vfio_message *message = NULL;

	assert_int_equal(vublk_vfio_channel_receive(&pair->channel, &message, NULL), 0);
}

/*
 * A message arrives in two pieces, cut at every byte. It is received with its own descriptor, and
 * not with that of the next message.
 */
static void test_pieces_of_every_size(void **state)
{
	for (size_t cut = 1; cut < sizeof(struct small); cut++) {
		struct small first = small_message(1), second = small_message(2);
		struct pair pair;

		begin(&pair);
		send_bytes(&pair, &first, cut, 1);
		expect_nothing(&pair);
		send_bytes(&pair, (char *)&first + cut, sizeof(first) - cut, 0);
		send_bytes(&pair, &second, sizeof(second), 1);
		expect_small(&pair, 1, 1);
		expect_small(&pair, 2, 1);
		expect_nothing(&pair);
		end(&pair);
	}
}

static void test_end_of_file_at_every_byte(void **state)
{
	for (size_t cut = 0; cut < sizeof(struct small); cut++) {
		struct vublk_vfio_message *message;
		struct small small = small_message(1);
		struct vublk_error e;
		struct pair pair;

		begin(&pair);
		if (cut)
			send_bytes(&pair, &small, cut, 1);
		vublk_fd_close(&pair.peer);
		assert_int_equal(vublk_vfio_channel_receive(&pair.channel, &message, &e),
				 -ENOTCONN);
		assert_non_null(strstr(e.text, !cut ? "closed the connection" :
				       cut < 16 ? "of the 16 bytes of its header" : "DMA_MAP"));
		assert_int_equal(vublk_vfio_channel_receive(&pair.channel, &message, &e),
				 -ENOTCONN);
		end(&pair);
	}
}

static void test_invalid_sizes(void **state)
{
	const uint32_t sizes[] = { 0, 15, 16 + 8192 + 1, UINT32_MAX };

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(sizes); i++) {
		struct vublk_vfio_header header = { 1, VUBLK_VFIO_REGION_WRITE, sizes[i], 0, 0 };
		struct vublk_vfio_message *message;
		struct vublk_error e;
		struct pair pair;

		begin(&pair);
		send_bytes(&pair, &header, sizeof(header), 3);
		assert_int_equal(vublk_vfio_channel_receive(&pair.channel, &message, &e), -EPROTO);
		assert_non_null(strstr(e.text, "REGION_WRITE (command 10) announces"));
		assert_int_equal(vublk_vfio_channel_receive(&pair.channel, &message, &e), -EPROTO);
		end(&pair);
	}
}

static void test_descriptors_that_nobody_takes(void **state)
{
	struct small small = small_message(1);
	struct vublk_vfio_message *message;
	struct vublk_error e;
	struct pair pair;
	unsigned fds;

	begin(&pair);
	fds = vublk_test_count_fds();
	for (unsigned i = 0; i < 100; i++) {
		send_bytes(&pair, &small, sizeof(small), 16);
		assert_int_equal(vublk_vfio_channel_receive(&pair.channel, &message, &e), 1);
		assert_int_equal(message->num_fds, 16);
		assert_int_equal(vublk_vfio_check_command(message, &e), -EINVAL);
	}
	expect_nothing(&pair);
	assert_int_equal(vublk_test_count_fds(), fds);
	send_bytes(&pair, &small, 20, 16);
	send_bytes(&pair, (char *)&small + 20, sizeof(small) - 20, 1);
	assert_int_equal(vublk_vfio_channel_receive(&pair.channel, &message, &e), -EPROTO);
	assert_non_null(strstr(e.text, "too many file descriptors; the maximum is 16"));
	assert_int_equal(vublk_test_count_fds(), fds);
	end(&pair);
	begin(&pair);
	send_bytes(&pair, &small, sizeof(small), 33);
	assert_int_equal(vublk_vfio_channel_receive(&pair.channel, &message, &e), -EPROTO);
	assert_int_equal(vublk_test_count_fds(), fds);
	end(&pair);
}

/*
 * Receives the replies that have arrived. Each must be complete, and their ids must count up from
 * `next`. Returns the id after the last one.
 */
static unsigned take_replies(struct pair *pair, unsigned next)
{
	struct { struct vublk_vfio_header header; uint8_t payload[1000]; } reply;

	while (recv(pair->peer, &reply, sizeof(reply), MSG_DONTWAIT | MSG_PEEK) == sizeof(reply)) {
		assert_int_equal(recv(pair->peer, &reply, sizeof(reply), MSG_WAITALL), sizeof(reply));
		assert_int_equal(reply.header.id, next);
		for (unsigned i = 0; i < sizeof(reply.payload); i++)
			assert_int_equal(reply.payload[i], (uint8_t)(next + i));
		next++;
	}
	return next;
}

static int send_reply(struct pair *pair, unsigned id, struct vublk_error *error)
{
	struct vublk_vfio_header command = { (uint16_t)id, VUBLK_VFIO_REGION_READ, 32, 0, 0 };
	struct vublk_vfio_header header = vublk_vfio_reply_header(&command, 1000);
	uint8_t payload[1000];

	for (unsigned i = 0; i < sizeof(payload); i++)
		payload[i] = (uint8_t)(id + i);
	return vublk_vfio_channel_send(&pair->channel, &header, payload, error);
}

static void test_a_client_that_does_not_read(void **state)
{
	const int small_buffer = 4096;
	unsigned sent = 0, taken = 0;
	struct vublk_error e;
	struct pair pair;

	begin(&pair);
	setsockopt(pair.channel.fd, SOL_SOCKET, SO_SNDBUF, &small_buffer, sizeof(small_buffer));
	for (unsigned round = 0; round < 20; round++) {
		while (!send_reply(&pair, sent, &e))
			sent++;
		assert_int_equal(e.code, ENOBUFS);
		assert_true(vublk_vfio_channel_wants_write(&pair.channel));
		while (vublk_vfio_channel_wants_write(&pair.channel)) {
			taken = take_replies(&pair, taken);
			assert_true(vublk_vfio_channel_flush(&pair.channel, &e) >= 0);
		}
		taken = take_replies(&pair, taken);
		assert_int_equal(taken, sent);
	}
	vublk_fd_close(&pair.peer);
	assert_int_equal(send_reply(&pair, sent, &e), -ENOTCONN);
	end(&pair);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_every_command),
		VUBLK_TEST(test_numbers_that_are_none),
		VUBLK_TEST(test_answers),
		VUBLK_TEST(test_pieces_of_every_size),
		VUBLK_TEST(test_end_of_file_at_every_byte),
		VUBLK_TEST(test_invalid_sizes),
		VUBLK_TEST(test_descriptors_that_nobody_takes),
		VUBLK_TEST(test_a_client_that_does_not_read),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
