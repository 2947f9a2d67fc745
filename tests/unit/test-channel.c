/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The channel against a raw socket that gives and takes bytes in every possible
 * piece, and against its own other end.
 */
#include "harness.h"

#include "proto/channel.h"
#include "util/fd.h"
#include "util/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEADER_BYTES sizeof(struct vublk_vu_header)

/* One channel, and the raw other end of its socket. */
struct pair {
	struct vublk_channel channel;
	int peer;
	struct vublk_error error;
};

static void pair_init(struct pair *pair)
{
	int fds[2];

	memset(pair, 0, sizeof(*pair));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	vublk_channel_init(&pair->channel, fds[0]);
	pair->peer = fds[1];
}

static void pair_deinit(struct pair *pair)
{
	vublk_channel_deinit(&pair->channel);
	vublk_channel_deinit(&pair->channel);
	vublk_fd_close(&pair->peer);
}

/* A SET_MEM_TABLE with a payload of which every byte is different from its neighbours. */
static void make_message(struct vublk_vu_message *message, unsigned num_fds)
{
	vublk_vu_message_init(message, VUBLK_VU_SET_MEM_TABLE);
	message->header.flags |= VUBLK_VU_FLAG_NEED_REPLY;
	message->header.size = 72;
	for (unsigned i = 0; i < message->header.size; i++)
		message->payload.bytes[i] = (uint8_t)(i * 7 + 1);
	for (unsigned i = 0; i < num_fds; i++) {
		char name[] = { 'f', (char)('0' + i), 0 };

		message->fds[i] = vublk_memfd_new(name, 4096 * (i + 1), NULL);
		assert_true(message->fds[i] >= 0);
	}
	message->num_fds = num_fds;
}

static bool same_file(int a, int b)
{
	struct stat st_a, st_b;

	assert_int_equal(fstat(a, &st_a), 0);
	assert_int_equal(fstat(b, &st_b), 0);
	return st_a.st_ino == st_b.st_ino && st_a.st_dev == st_b.st_dev;
}

static void assert_same_message(const struct vublk_vu_message *a, const struct vublk_vu_message *b)
{
	assert_memory_equal(&a->header, &b->header, HEADER_BYTES);
	assert_memory_equal(&a->payload, &b->payload, sizeof(a->payload));
	assert_int_equal(a->num_fds, b->num_fds);
	for (unsigned i = 0; i < a->num_fds; i++) {
		assert_true(a->fds[i] != b->fds[i]);
		assert_true(same_file(a->fds[i], b->fds[i]));
		assert_true(fcntl(b->fds[i], F_GETFD) & FD_CLOEXEC);
	}
}

/* The bytes of a message as they are on the wire. */
static size_t flatten(const struct vublk_vu_message *message, uint8_t *bytes)
{
	memcpy(bytes, &message->header, HEADER_BYTES);
	memcpy(bytes + HEADER_BYTES, &message->payload, message->header.size);
	return HEADER_BYTES + message->header.size;
}

static void raw_send(int fd, const void *bytes, size_t count, const int *fds, unsigned num_fds)
{
	struct iovec iov = { (void *)bytes, count };
	char control[CMSG_SPACE(sizeof(int) * 253)] = { 0 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (num_fds) {
		msg.msg_control = control;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * num_fds);
		CMSG_FIRSTHDR(&msg)->cmsg_level = SOL_SOCKET;
		CMSG_FIRSTHDR(&msg)->cmsg_type = SCM_RIGHTS;
		CMSG_FIRSTHDR(&msg)->cmsg_len = CMSG_LEN(sizeof(int) * num_fds);
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), fds, sizeof(int) * num_fds);
	}
	assert_int_equal(sendmsg(fd, &msg, 0), count);
}

static void test_there_and_back(void **state)
{
	struct vublk_vu_message sent, received;
	struct vublk_channel other;
	struct pair pair;

	pair_init(&pair);
	vublk_channel_init(&other, dup(pair.peer));
	for (unsigned num_fds = 0; num_fds <= VUBLK_VU_MAX_FDS; num_fds++) {
		make_message(&sent, num_fds);
		assert_int_equal(vublk_channel_receive(&other, &received, NULL), 0);
		assert_int_equal(vublk_channel_send(&pair.channel, &sent, &pair.error), 0);
		assert_int_equal(vublk_channel_receive(&other, &received, &pair.error), 1);
		assert_same_message(&sent, &received);
		vublk_vu_message_deinit(&received);
		assert_int_equal(vublk_channel_send(&other, &sent, &pair.error), 0);
		assert_int_equal(vublk_channel_receive(&pair.channel, &received, &pair.error), 1);
		assert_same_message(&sent, &received);
		vublk_vu_message_deinit(&sent);
		vublk_vu_message_deinit(&received);
	}
	vublk_channel_deinit(&other);
	pair_deinit(&pair);
}

/* Split in two at every byte; the descriptors come with the first byte. */
static void test_receive_in_two_pieces(void **state)
{
	struct vublk_vu_message sent, received;
	uint8_t bytes[HEADER_BYTES + 72];
	struct pair pair;

	pair_init(&pair);
	make_message(&sent, VUBLK_VU_MAX_FDS);
	assert_int_equal(flatten(&sent, bytes), sizeof(bytes));
	for (size_t cut = 1; cut < sizeof(bytes); cut++) {
		raw_send(pair.peer, bytes, cut, sent.fds, sent.num_fds);
		assert_int_equal(vublk_channel_receive(&pair.channel, &received, &pair.error), 0);
		raw_send(pair.peer, bytes + cut, sizeof(bytes) - cut, NULL, 0);
		assert_int_equal(vublk_channel_receive(&pair.channel, &received, &pair.error), 1);
		assert_same_message(&sent, &received);
		vublk_vu_message_deinit(&received);
	}
	vublk_vu_message_deinit(&sent);
	pair_deinit(&pair);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_there_and_back),
		VUBLK_TEST(test_receive_in_two_pieces),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
