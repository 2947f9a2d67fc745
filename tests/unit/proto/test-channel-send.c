/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sending on a vhost-user channel.
 *
 * Key idea: even if the socket accepts a message in pieces or late, the peer receives whole
 * messages in order.
 */
#include "test-channel-pair.h"

#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Receives a message at the peer's socket, with a second channel. */
static int peer_receive(struct pair *pair, struct vublk_vu_message *message)
{
	struct vublk_channel other;
	int r;

	vublk_channel_init(&other, fcntl(pair->peer, F_DUPFD_CLOEXEC, 0));
	r = vublk_channel_receive(&other, message, NULL);
	vublk_channel_deinit(&other);
	return r;
}

/*
 * Sends a copy of the message, and then overwrites the copy, because the channel may use it only
 * during the call. Returns the result of the channel.
 */
static int send_copy(struct pair *pair, const struct vublk_vu_message *message)
{
	struct vublk_vu_message copy = *message;
	int r;

	for (unsigned i = 0; i < copy.num_fds; i++)
		copy.fds[i] = fcntl(message->fds[i], F_DUPFD_CLOEXEC, 0);
	r = vublk_channel_send(&pair->channel, &copy, &pair->error);
	vublk_vu_message_deinit(&copy);
	memset(&copy, 0xff, sizeof(copy));
	return r;
}

/*
 * Sends a message. The socket accepts `cut` bytes at first, and the rest later, in pieces of
 * `piece` bytes.
 */
static void send_in_pieces(size_t cut, size_t piece)
{
	struct vublk_vu_message sent, received;
	struct pair pair;
	unsigned before;

	pair_init(&pair);
	make_message(&sent, VUBLK_VU_MAX_FDS);
	before = vublk_test_count_fds();
	kernel.sent_fds = 0;
	kernel_takes(cut, 1);
	assert_int_equal(send_copy(&pair, &sent), 0);
	assert_int_equal(vublk_test_count_fds(), before + (cut ? 0 : VUBLK_VU_MAX_FDS));
	assert_true(vublk_channel_wants_write(&pair.channel));
	assert_int_equal(vublk_channel_flush(&pair.channel, &pair.error), 1);
	for (size_t left = MESSAGE_BYTES - cut; left; left -= VUBLK_MIN(left, piece)) {
		kernel_takes(piece, 1);
		assert_int_equal(vublk_channel_flush(&pair.channel, &pair.error), left > piece);
	}
	assert_false(vublk_channel_wants_write(&pair.channel));
	assert_int_equal(kernel.sent_fds, VUBLK_VU_MAX_FDS);
	assert_int_equal(peer_receive(&pair, &received), 1);
	assert_same_message(&sent, &received);
	vublk_vu_message_deinit(&received);
	assert_int_equal(peer_receive(&pair, &received), 0);
	vublk_vu_message_deinit(&sent);
	pair_deinit(&pair);
}

static void test_send_in_pieces(void **state)
{
	for (size_t cut = 0; cut < MESSAGE_BYTES; cut++) {
		send_in_pieces(cut, SIZE_MAX);
		send_in_pieces(cut, 1);
		send_in_pieces(cut, 5);
	}
}

#define NUM_WAITING 20

/*
 * Sends several messages that have to wait. The socket would accept the last one immediately, but
 * it must not overtake the others.
 */
static void wait_and_flush(struct pair *pair)
{
	struct vublk_vu_message sent[NUM_WAITING], received;

	kernel_takes(17, 1);
	for (unsigned i = 0; i < NUM_WAITING; i++) {
		if (i == NUM_WAITING - 1)
			kernel_takes(50, UINT32_MAX);
		make_message(&sent[i], i % (VUBLK_VU_MAX_FDS + 1));
		sent[i].payload.bytes[0] = (uint8_t)i;
		assert_int_equal(send_copy(pair, &sent[i]), 0);
	}
	assert_int_equal(pair->channel.num_waiting, NUM_WAITING);
	assert_int_equal(vublk_channel_flush(&pair->channel, &pair->error), 0);
	for (unsigned i = 0; i < NUM_WAITING; i++) {
		assert_int_equal(peer_receive(pair, &received), 1);
		assert_same_message(&sent[i], &received);
		vublk_vu_message_deinit(&sent[i]);
		vublk_vu_message_deinit(&received);
	}
	assert_int_equal(pair->channel.num_waiting, 0);
}

static void test_waiting_messages_keep_their_order(void **state)
{
	struct pair pair;

	pair_init(&pair);
	wait_and_flush(&pair);
	wait_and_flush(&pair); /* again, after the queue was empty */
	pair_deinit(&pair);
}

static void drain(struct pair *pair, unsigned expected)
{
	struct vublk_vu_message received;
	unsigned count = 0;

	while (count < expected) {
		if (vublk_channel_wants_write(&pair->channel))
			assert_true(vublk_channel_flush(&pair->channel, &pair->error) >= 0);
		while (peer_receive(pair, &received) == 1) {
			assert_int_equal(received.payload.u64, count);
			assert_int_equal(received.num_fds, count % 16 == 0);
			vublk_vu_message_deinit(&received);
			count++;
		}
	}
	assert_int_equal(count, expected);
	assert_int_equal(vublk_channel_flush(&pair->channel, &pair->error), 0);
	assert_false(vublk_channel_wants_write(&pair->channel));
}

/* The peer reads late, so the kernel's own sendmsg() returns EAGAIN. */
static void test_peer_that_does_not_read(void **state)
{
	struct vublk_vu_message sent;
	unsigned sent_messages = 0;
	struct pair pair;
	int r;

	pair_init(&pair);
	make_message(&sent, 1);
	for (;; sent_messages++) {
		sent.payload.u64 = sent_messages;
		sent.num_fds = sent_messages % 16 == 0;
		r = vublk_channel_send(&pair.channel, &sent, &pair.error);
		if (r < 0)
			break;
	}
	assert_int_equal(r, -ENOBUFS);
	assert_string_equal(pair.error.text, "the peer does not read its socket: 1024 messages are "
			    "queued, which is the maximum");
	assert_int_equal(pair.channel.num_waiting, VUBLK_CHANNEL_MAX_WAITING);
	assert_true(sent_messages > VUBLK_CHANNEL_MAX_WAITING);
	drain(&pair, sent_messages);
	sent.num_fds = 1;
	vublk_vu_message_deinit(&sent);
	pair_deinit(&pair);
}

static void test_deinit_with_messages_waiting(void **state)
{
	unsigned before = vublk_test_count_fds();
	struct vublk_vu_message sent;
	struct pair pair;

	pair_init(&pair);
	make_message(&sent, VUBLK_VU_MAX_FDS);
	kernel_takes(0, 0);
	for (int i = 0; i < 10; i++)
		assert_int_equal(vublk_channel_send(&pair.channel, &sent, &pair.error), 0);
	assert_int_equal(vublk_test_count_fds(), before + 2 + 8 + 80);
	vublk_vu_message_deinit(&sent);
	pair_deinit(&pair);
	assert_int_equal(vublk_test_count_fds(), before);
}

/* The channel must suppress SIGPIPE, which would kill the process. */
static void test_sending_to_a_closed_peer(void **state)
{
	struct vublk_vu_message sent;
	struct pair pair;

	pair_init(&pair);
	make_message(&sent, 2);
	kernel_takes(0, 0);
	assert_int_equal(vublk_channel_send(&pair.channel, &sent, &pair.error), 0);
	kernel_takes(SIZE_MAX, UINT32_MAX);
	vublk_fd_close(&pair.peer);
	assert_int_equal(vublk_channel_flush(&pair.channel, &pair.error), -ENOTCONN);
	assert_string_equal(pair.error.text,
			    "the peer closed the connection before it received a whole message");
	vublk_channel_deinit(&pair.channel);
	assert_int_equal(vublk_channel_send(&pair.channel, &sent, &pair.error), -ENOTCONN);
	assert_string_equal(pair.error.text, "the connection is closed");
	assert_int_equal(vublk_channel_flush(&pair.channel, NULL), -ENOTCONN);
	assert_int_equal(vublk_channel_receive(&pair.channel, &sent, NULL), -ENOTCONN);
	pair_deinit(&pair);

	pair_init(&pair);
	vublk_fd_close(&pair.peer);
	assert_int_equal(vublk_channel_send(&pair.channel, &sent, &pair.error), -ENOTCONN);
	assert_false(vublk_channel_wants_write(&pair.channel));
	vublk_vu_message_deinit(&sent);
	pair_deinit(&pair);
}

static void test_out_of_descriptors_keeping(void **state)
{
	struct vublk_vu_message sent;
	struct rlimit limit;
	struct pair pair;
	int r;

	pair_init(&pair);
	make_message(&sent, VUBLK_VU_MAX_FDS);
	for (unsigned room = 0; room < VUBLK_VU_MAX_FDS; room++) {
		unsigned before = vublk_test_count_fds();

		kernel_takes(0, 0);
		limit = leave_room(room);
		r = vublk_channel_send(&pair.channel, &sent, &pair.error);
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
		assert_int_equal(r, -EMFILE);
		assert_string_equal(pair.error.text,
				    "cannot queue a message until the peer reads its socket: "
				    "cannot duplicate the message's file descriptors: Too many "
				    "open files");
		assert_false(vublk_channel_wants_write(&pair.channel));
		assert_int_equal(vublk_test_count_fds(), before);
	}
	vublk_vu_message_deinit(&sent);
	pair_deinit(&pair);
}

static void test_errors_of_sending(void **state)
{
	struct vublk_vu_message sent;
	struct pair pair;

	pair_init(&pair);
	make_message(&sent, 0);
	kernel.send_error = EINTR;
	assert_int_equal(vublk_channel_send(&pair.channel, &sent, &pair.error), 0);
	kernel.send_error = ETOOMANYREFS;
	assert_int_equal(vublk_channel_send(&pair.channel, &sent, &pair.error), -ETOOMANYREFS);
	assert_string_equal(pair.error.text,
			    "too many file descriptors are in transit to peers that do not "
			    "receive them; raise the limit of open files (ulimit -n)");
	kernel.send_error = ENOMEM;
	assert_int_equal(vublk_channel_send(&pair.channel, &sent, &pair.error), -ENOMEM);
	assert_string_equal(pair.error.text,
			    "cannot send a message to the peer: Cannot allocate memory");
	sent.header.size = VUBLK_VU_MAX_PAYLOAD_BYTES + 1;
	assert_int_equal(vublk_channel_send(&pair.channel, &sent, &pair.error), -EINVAL);
	sent.header.size = 0;
	sent.num_fds = VUBLK_VU_MAX_FDS + 1;
	assert_int_equal(vublk_channel_send(&pair.channel, &sent, &pair.error), -EINVAL);
	pair_deinit(&pair);
}

/*
 * There is no memory to queue the unsent rest of a message. If a part of the message was already
 * sent, the channel must send nothing more.
 */
static void test_out_of_memory_inside_a_message(void **state)
{
	struct vublk_vu_message sent, received;
	struct pair pair;

	pair_init(&pair);
	make_message(&sent, 2);
	kernel_takes(0, 0);
	kernel.no_memory = true;
	assert_int_equal(vublk_channel_send(&pair.channel, &sent, &pair.error), -ENOMEM);
	assert_string_equal(pair.error.text, "cannot queue a message until the peer reads its "
			    "socket: Cannot allocate memory");
	kernel_takes(SIZE_MAX, UINT32_MAX);
	assert_int_equal(vublk_channel_send(&pair.channel, &sent, &pair.error), 0);
	assert_int_equal(peer_receive(&pair, &received), 1);
	vublk_vu_message_deinit(&received);

	kernel_takes(20, 1);
	kernel.no_memory = true;
	assert_int_equal(vublk_channel_send(&pair.channel, &sent, &pair.error), -ENOMEM);
	kernel_takes(SIZE_MAX, UINT32_MAX);
	assert_int_equal(vublk_channel_send(&pair.channel, &sent, &pair.error), -ENOTCONN);
	assert_int_equal(peer_receive(&pair, &received), -ENOTCONN);
	vublk_vu_message_deinit(&sent);
	pair_deinit(&pair);
}

static void test_life_cycle(void **state)
{
	struct vublk_channel channel;
	int fds[2];

	memset(&channel, 0, sizeof(channel));
	vublk_channel_deinit(&channel); /* must not close descriptor 0 */
	assert_true(fcntl(0, F_GETFD) >= 0);
	vublk_channel_deinit(NULL);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	vublk_channel_init(&channel, fds[0]);
	assert_true(fcntl(fds[0], F_GETFD) & FD_CLOEXEC);
	assert_true(fcntl(fds[0], F_GETFL) & O_NONBLOCK);
	assert_false(vublk_channel_wants_write(&channel));
	assert_int_equal(vublk_channel_flush(&channel, NULL), 0);
	vublk_channel_deinit(&channel);
	assert_int_equal(channel.fd, -1);
	close(fds[1]);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_send_in_pieces),
		VUBLK_TEST(test_waiting_messages_keep_their_order),
		VUBLK_TEST(test_peer_that_does_not_read),
		VUBLK_TEST(test_deinit_with_messages_waiting),
		VUBLK_TEST(test_sending_to_a_closed_peer),
		VUBLK_TEST(test_out_of_descriptors_keeping),
		VUBLK_TEST(test_errors_of_sending),
		VUBLK_TEST(test_out_of_memory_inside_a_message),
		VUBLK_TEST(test_life_cycle),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
