/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The code that all vhost-user servers share, with an owner that only counts messages. The relay
 * and `vublk serve` have their own tests for the meaning of messages.
 *
 * Key idea: the loop runs only when a case processes it, so the number of messages that the server
 * reads per turn is exact.
 */
#include "harness.h"

#include "proto/vhost-user/server.h"
#include "util/checked.h"
#include "util/error.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#define QUEUES 2

struct owner {
	struct vublk_loop loop;
	struct vublk_log log;
	struct vublk_log_limit limit;
	struct vublk_vu_server server;
	struct vublk_channel peer;
	unsigned num_messages, num_closes;
	int result; /* the result of the last check */
	int index;  /* the queue that the check has found; -1: none */
	bool is_paused;
};

static bool has_message(uint32_t request)
{
	return request != VUBLK_VU_GET_QUEUE_NUM;
}

static bool step(void *opaque)
{
	struct owner *owner = opaque;
	struct vublk_error error = { 0 };

	if (owner->is_paused || owner->num_closes ||
	    vublk_vu_server_receive(&owner->server) <= 0)
		return false;
	owner->num_messages++;
	owner->result = vublk_vu_server_check(&owner->server, &error);
	owner->index = owner->server.queue_index;
	vublk_vu_server_answer(&owner->server, owner->result, &error);
	return true;
}

static bool is_reading(const void *opaque)
{
	const struct owner *owner = opaque;

	return !owner->is_paused && !owner->num_closes;
}

static void note_close(void *opaque)
{
	struct owner *owner = opaque;

	owner->num_closes++;
}

static const struct vublk_vu_server_ops ops = { has_message, step, is_reading, note_close };

static void begin(struct owner *owner)
{
	struct vublk_error error;
	int fds[2];

	*owner = (struct owner){ 0 };
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(vublk_loop_init(&owner->loop, &error), 0);
	vublk_channel_init(&owner->peer, fds[1]);
	vublk_vu_server_init(&owner->server, &ops, owner, fds[0], &owner->loop, &owner->log,
			     &owner->limit);
	owner->server.num_queues = QUEUES;
	assert_int_equal(vublk_vu_server_start(&owner->server, -1, 0, &error), 0);
}

static void end(struct owner *owner)
{
	vublk_vu_server_deinit(&owner->server);
	vublk_channel_deinit(&owner->peer);
	vublk_loop_deinit(&owner->loop);
}

static void send_state(struct owner *owner, uint32_t request, unsigned index, uint32_t flags)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, request);
	message.header.flags |= flags;
	message.payload.state.index = index;
	message.header.size = sizeof(message.payload.state);
	assert_int_equal(vublk_channel_send(&owner->peer, &message, NULL), 0);
}

static void send_empty(struct owner *owner, uint32_t request)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, request);
	assert_int_equal(vublk_channel_send(&owner->peer, &message, NULL), 0);
}

static void turn(struct owner *owner)
{
	assert_true(vublk_loop_process(&owner->loop, 0) >= 0);
}

/* --- reading ------------------------------------------------------------------- */

/*
 * A front-end sends without a pause. The server reads a limited number of messages per turn of the
 * loop, so other descriptors are served, too.
 */
static void test_messages_per_turn(void **state)
{
	struct owner owner;

	begin(&owner);
	for (unsigned i = 0; i < 20; i++)
		send_empty(&owner, VUBLK_VU_SET_OWNER);
	turn(&owner);
	assert_int_equal(owner.num_messages, 16);
	turn(&owner);
	assert_int_equal(owner.num_messages, 20);
	end(&owner);
}

/* While the owner is not ready, messages wait in the socket, and the server does not poll it. */
static void test_an_owner_that_is_not_ready(void **state)
{
	struct owner owner;

	begin(&owner);
	owner.is_paused = true;
	send_empty(&owner, VUBLK_VU_SET_OWNER);
	turn(&owner);
	assert_int_equal(owner.num_messages, 0);
	assert_null(owner.server.source.loop);
	owner.is_paused = false;
	vublk_vu_server_run(&owner.server);
	assert_int_equal(owner.num_messages, 1);
	assert_non_null(owner.server.source.loop);
	end(&owner);
}

static void test_the_peer_hangs_up(void **state)
{
	struct owner owner;

	begin(&owner);
	vublk_channel_deinit(&owner.peer);
	turn(&owner);
	assert_int_equal(owner.num_closes, 1);
	assert_null(owner.server.source.loop);
	end(&owner);
}

/* --- the checks ---------------------------------------------------------------- */

static void expect(struct owner *owner, int result, int index)
{
	unsigned before = owner->num_messages;

	owner->num_closes = 0;
	vublk_vu_server_run(&owner->server);
	assert_int_equal(owner->num_messages, before + 1);
	assert_int_equal(owner->result, result);
	assert_int_equal(owner->index, index);
	/* The message requests no reply, so a refusal closes the connection. */
	assert_int_equal(owner->num_closes, result < 0);
}

static void test_checks(void **state)
{
	struct owner owner;

	begin(&owner);
	send_state(&owner, VUBLK_VU_SET_VRING_BASE, QUEUES - 1, 0);
	expect(&owner, 0, QUEUES - 1);
	send_state(&owner, VUBLK_VU_SET_VRING_BASE, QUEUES, 0);
	expect(&owner, -EPROTO, -1);
	send_empty(&owner, VUBLK_VU_SET_OWNER);
	expect(&owner, 0, -1);
	/* the owner's table does not have the message */
	owner.server.offered_protocol_features = UINT64_MAX;
	send_empty(&owner, VUBLK_VU_GET_QUEUE_NUM);
	expect(&owner, -ENOTSUP, -1);
	/* the table has the message; its protocol feature is first not offered, then offered */
	owner.server.offered_protocol_features = 0;
	send_empty(&owner, VUBLK_VU_RESET_DEVICE);
	expect(&owner, -ENOTSUP, -1);
	owner.server.offered_protocol_features = VUBLK_BIT(VUBLK_VU_F_RESET_DEVICE);
	send_empty(&owner, VUBLK_VU_RESET_DEVICE);
	expect(&owner, 0, -1);
	end(&owner);
}

/*
 * If the front-end wants a reply, the server sends the refusal as the reply and keeps the
 * connection.
 */
static void test_a_refusal_is_acknowledged(void **state)
{
	struct vublk_vu_message reply;
	struct owner owner;

	begin(&owner);
	owner.server.protocol_features = VUBLK_BIT(VUBLK_VU_F_REPLY_ACK);
	send_state(&owner, VUBLK_VU_SET_VRING_BASE, QUEUES, VUBLK_VU_FLAG_NEED_REPLY);
	turn(&owner);
	assert_int_equal(owner.result, -EPROTO);
	assert_int_equal(owner.num_closes, 0);
	assert_int_equal(vublk_channel_receive(&owner.peer, &reply, NULL), 1);
	assert_int_equal(reply.header.request, VUBLK_VU_SET_VRING_BASE);
	assert_int_equal(reply.payload.u64, 1);
	vublk_vu_message_deinit(&reply);
	end(&owner);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_messages_per_turn),
		VUBLK_TEST(test_an_owner_that_is_not_ready),
		VUBLK_TEST(test_the_peer_hangs_up),
		VUBLK_TEST(test_checks),
		VUBLK_TEST(test_a_refusal_is_acknowledged),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
