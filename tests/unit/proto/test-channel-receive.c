/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Receiving on a vhost-user channel.
 *
 * Key idea: the result is the same in whatever pieces a message arrives, and with whichever piece
 * its descriptors arrive.
 */
#include "test-channel-pair.h"

#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void test_there_and_back(void **state)
{
	struct vublk_vu_message sent, received;
	struct vublk_channel other;
	struct pair pair;

	pair_init(&pair);
	vublk_channel_init(&other, fcntl(pair.peer, F_DUPFD_CLOEXEC, 0));
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

static void test_receive_in_two_pieces(void **state)
{
	struct vublk_vu_message sent, received;
	uint8_t bytes[MESSAGE_BYTES];
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

static void test_receive_byte_by_byte(void **state)
{
	struct vublk_vu_message sent, received;
	uint8_t bytes[MESSAGE_BYTES];
	struct pair pair;

	pair_init(&pair);
	make_message(&sent, 3);
	flatten(&sent, bytes);
	for (size_t i = 0; i < sizeof(bytes); i++) {
		bool last = i == sizeof(bytes) - 1;

		raw_send(pair.peer, &bytes[i], 1, sent.fds, i ? 0 : sent.num_fds);
		assert_int_equal(vublk_channel_receive(&pair.channel, &received, &pair.error),
				 last);
	}
	assert_same_message(&sent, &received);
	vublk_vu_message_deinit(&sent);
	vublk_vu_message_deinit(&received);
	pair_deinit(&pair);
}

/* Several messages are in the socket. The channel returns each one with its own descriptors. */
static void test_descriptors_stay_with_their_message(void **state)
{
	static const unsigned num_fds[] = { 2, 0, 8, 0, 0, 1 };
	struct vublk_vu_message sent[VUBLK_ARRAY_SIZE(num_fds)], received;
	struct pair pair;

	pair_init(&pair);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(num_fds); i++) {
		uint8_t bytes[MESSAGE_BYTES];

		make_message(&sent[i], num_fds[i]);
		sent[i].payload.bytes[0] = (uint8_t)i;
		raw_send(pair.peer, bytes, flatten(&sent[i], bytes), sent[i].fds, num_fds[i]);
	}
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(num_fds); i++) {
		assert_int_equal(vublk_channel_receive(&pair.channel, &received, &pair.error), 1);
		assert_same_message(&sent[i], &received);
		vublk_vu_message_deinit(&sent[i]);
		vublk_vu_message_deinit(&received);
	}
	assert_int_equal(vublk_channel_receive(&pair.channel, &received, &pair.error), 0);
	pair_deinit(&pair);
}

/*
 * The channel clears the payload beyond its size, so a message has no bytes of an earlier, longer
 * one.
 */
static void test_payload_is_zero_beyond_its_size(void **state)
{
	static const uint8_t zeroes[VUBLK_VU_MAX_PAYLOAD_BYTES];
	struct vublk_vu_message sent, received;
	struct pair pair;
	uint8_t bytes[HEADER_BYTES + VUBLK_VU_MAX_PAYLOAD_BYTES];

	pair_init(&pair);
	vublk_vu_message_init(&sent, VUBLK_VU_SET_CONFIG);
	sent.header.size = VUBLK_VU_MAX_PAYLOAD_BYTES;
	memset(&sent.payload, 0xee, sizeof(sent.payload));
	raw_send(pair.peer, bytes, flatten(&sent, bytes), NULL, 0);
	sent.header.size = 1;
	raw_send(pair.peer, bytes, flatten(&sent, bytes), NULL, 0);
	assert_int_equal(vublk_channel_receive(&pair.channel, &received, &pair.error), 1);
	assert_memory_equal(&received.payload, &sent.payload, sizeof(sent.payload));
	assert_int_equal(vublk_channel_receive(&pair.channel, &received, &pair.error), 1);
	assert_int_equal(received.payload.bytes[0], 0xee);
	assert_memory_equal(received.payload.bytes + 1, zeroes, sizeof(zeroes) - 1);
	pair_deinit(&pair);
}

/*
 * Receives a message with `early` descriptors at its first byte and `late` descriptors at byte
 * `cut`. Checks that the message is refused if it has too many in total.
 */
static void receive_late(unsigned early, unsigned late, size_t cut)
{
	bool fits = early + late <= VUBLK_VU_MAX_FDS;
	unsigned before = vublk_test_count_fds();
	struct vublk_vu_message sent, more, received;
	uint8_t bytes[MESSAGE_BYTES];
	struct pair pair;
	int r;

	pair_init(&pair);
	make_message(&sent, early);
	make_message(&more, late);
	flatten(&sent, bytes);
	raw_send(pair.peer, bytes, cut, sent.fds, early);
	raw_send(pair.peer, bytes + cut, sizeof(bytes) - cut, more.fds, late);
	r = vublk_channel_receive(&pair.channel, &received, &pair.error);
	assert_int_equal(r, fits ? 1 : -EPROTO);
	if (fits) {
		assert_int_equal(received.num_fds, early + late);
		for (unsigned i = 0; i < late; i++)
			assert_true(same_file(received.fds[early + i], more.fds[i]));
		vublk_vu_message_deinit(&received);
	} else {
		assert_string_equal(pair.error.text,
				    "a message has too many file descriptors; the maximum is 8");
	}
	vublk_vu_message_deinit(&sent);
	vublk_vu_message_deinit(&more);
	pair_deinit(&pair);
	assert_int_equal(vublk_test_count_fds(), before);
}

static void test_descriptors_with_later_bytes(void **state)
{
	for (unsigned early = 0; early <= VUBLK_VU_MAX_FDS; early += 4)
		for (unsigned late = 1; late <= VUBLK_VU_MAX_FDS; late++)
			for (size_t cut = 1; cut < MESSAGE_BYTES; cut += 11)
				receive_late(early, late, cut);
}

static void test_surplus_descriptors_are_closed(void **state)
{
	static const unsigned numbers[] = { 9, 10, 16, 17, 100, SCM_MAX };
	struct vublk_vu_message sent, received;
	uint8_t bytes[MESSAGE_BYTES];
	int fds[SCM_MAX];
	struct pair pair;

	make_message(&sent, 1);
	flatten(&sent, bytes);
	for (size_t i = 0; i < SCM_MAX; i++)
		fds[i] = sent.fds[0];
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(numbers); i++) {
		unsigned before = vublk_test_count_fds();

		pair_init(&pair);
		raw_send(pair.peer, bytes, sizeof(bytes), fds, numbers[i]);
		assert_int_equal(vublk_channel_receive(&pair.channel, &received, &pair.error),
				 -EPROTO);
		assert_string_equal(pair.error.text,
				    "a message has too many file descriptors; the maximum is 8");
		assert_int_equal(vublk_test_count_fds(), before + 2); /* the two sockets */
		pair_deinit(&pair);
	}
	vublk_vu_message_deinit(&sent);
}

static void test_end_of_file_at_every_byte(void **state)
{
	struct vublk_vu_message sent, received;
	uint8_t bytes[MESSAGE_BYTES];
	struct pair pair;
	char text[200];

	make_message(&sent, VUBLK_VU_MAX_FDS);
	flatten(&sent, bytes);
	for (size_t cut = 0; cut < sizeof(bytes); cut++) {
		unsigned before = vublk_test_count_fds();

		pair_init(&pair);
		if (cut)
			raw_send(pair.peer, bytes, cut, sent.fds, sent.num_fds);
		vublk_fd_close(&pair.peer);
		for (int again = 0; again < 2; again++)
			assert_int_equal(vublk_channel_receive(&pair.channel, &received,
							       again ? NULL : &pair.error),
					 -ENOTCONN);
		snprintf(text, sizeof(text), "the peer closed the connection");
		if (cut >= HEADER_BYTES)
			snprintf(text, sizeof(text), "the peer closed the connection in the middle "
				 "of message 5, after %zu of the 72 bytes of its "
				 "payload",
				 cut - HEADER_BYTES);
		else if (cut)
			snprintf(text, sizeof(text), "the peer closed the connection in the middle "
				 "of a message, after %zu of the 12 bytes of its header", cut);
		assert_string_equal(pair.error.text, text);
		assert_int_equal(vublk_test_count_fds(), before + 1); /* the channel's own socket */
		pair_deinit(&pair);
	}
	vublk_vu_message_deinit(&sent);
}

/*
 * The peer closes its socket with data unread, which resets the connection. The channel still
 * receives the data that the peer had sent.
 */
static void test_reset_by_peer(void **state)
{
	struct vublk_vu_message sent, received;
	uint8_t bytes[MESSAGE_BYTES];
	struct pair pair;

	pair_init(&pair);
	make_message(&sent, 0);
	raw_send(pair.peer, bytes, flatten(&sent, bytes), NULL, 0);
	assert_int_equal(vublk_channel_send(&pair.channel, &sent, &pair.error), 0);
	vublk_fd_close(&pair.peer);
	assert_int_equal(vublk_channel_receive(&pair.channel, &received, &pair.error), 1);
	assert_int_equal(vublk_channel_receive(&pair.channel, &received, &pair.error), -ENOTCONN);
	assert_string_equal(pair.error.text, "the peer reset the connection");
	pair_deinit(&pair);
}

static void receive_header(uint32_t flags, uint32_t size, const char *text)
{
	const struct vublk_vu_header header = { VUBLK_VU_SET_OWNER, flags, size };
	struct vublk_vu_message received;
	struct pair pair;

	pair_init(&pair);
	raw_send(pair.peer, &header, sizeof(header), NULL, 0);
	raw_send(pair.peer, &header, sizeof(header), NULL, 0);
	assert_int_equal(vublk_channel_receive(&pair.channel, &received, &pair.error), -EPROTO);
	assert_string_equal(pair.error.text, text);
	assert_int_equal(vublk_channel_receive(&pair.channel, &received, &pair.error), -EPROTO);
	assert_string_equal(pair.error.text, "cannot receive from this connection, because an "
			    "earlier receive failed");
	pair_deinit(&pair);
}

static void test_invalid_headers(void **state)
{
	receive_header(0, 0, "message 3 has protocol version 0; expected 1");
	receive_header(2, 0, "message 3 has protocol version 2; expected 1");
	receive_header(UINT32_MAX, 0, "message 3 has protocol version 3; expected 1");
	receive_header(1, VUBLK_VU_MAX_PAYLOAD_BYTES + 1, "message 3 announces a payload of 513 "
		       "bytes; expected at most 512");
	receive_header(1, UINT32_MAX, "message 3 announces a payload of 4294967295 bytes; expected "
		       "at most 512");
}

static void test_out_of_descriptors_receiving(void **state)
{
	struct vublk_vu_message sent, received;
	uint8_t bytes[MESSAGE_BYTES];
	struct pair pair;

	make_message(&sent, VUBLK_VU_MAX_FDS);
	flatten(&sent, bytes);
	for (unsigned room = 0; room <= VUBLK_VU_MAX_FDS; room++) {
		bool fits = room == VUBLK_VU_MAX_FDS;
		unsigned before = vublk_test_count_fds();
		struct rlimit limit;
		int r;

		pair_init(&pair);
		raw_send(pair.peer, bytes, sizeof(bytes), sent.fds, sent.num_fds);
		limit = leave_room(room);
		r = vublk_channel_receive(&pair.channel, &received, &pair.error);
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
		assert_int_equal(r, fits ? 1 : -EMFILE);
		if (fits)
			vublk_vu_message_deinit(&received);
		else
			assert_string_equal(pair.error.text,
					    "file descriptors from the peer were lost, probably "
					    "because this process has too many open files; raise "
					    "the limit (ulimit -n)");
		assert_int_equal(vublk_test_count_fds(), before + 2);
		pair_deinit(&pair);
	}
	vublk_vu_message_deinit(&sent);
}

static void test_receive_interrupted(void **state)
{
	struct vublk_vu_message sent, received;
	uint8_t bytes[MESSAGE_BYTES];
	struct pair pair;

	pair_init(&pair);
	make_message(&sent, 0);
	raw_send(pair.peer, bytes, flatten(&sent, bytes), NULL, 0);
	kernel.recv_error = EINTR;
	assert_int_equal(vublk_channel_receive(&pair.channel, &received, &pair.error), 1);
	kernel.recv_error = ENOMEM;
	assert_int_equal(vublk_channel_receive(&pair.channel, &received, &pair.error), -ENOMEM);
	assert_string_equal(pair.error.text,
			    "cannot receive from the peer: Cannot allocate memory");
	pair_deinit(&pair);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_there_and_back),
		VUBLK_TEST(test_receive_in_two_pieces),
		VUBLK_TEST(test_receive_byte_by_byte),
		VUBLK_TEST(test_descriptors_stay_with_their_message),
		VUBLK_TEST(test_payload_is_zero_beyond_its_size),
		VUBLK_TEST(test_descriptors_with_later_bytes),
		VUBLK_TEST(test_surplus_descriptors_are_closed),
		VUBLK_TEST(test_end_of_file_at_every_byte),
		VUBLK_TEST(test_reset_by_peer),
		VUBLK_TEST(test_invalid_headers),
		VUBLK_TEST(test_out_of_descriptors_receiving),
		VUBLK_TEST(test_receive_interrupted),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
