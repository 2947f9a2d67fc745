/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changes of a disk's memory in steps, with a back-end in a process of its own (blk-peer.h).
 *
 * Key idea: a back-end whose process is stopped does not answer. So a change stays in progress
 * until the case lets the process continue, kills it, or closes the disk.
 */
#include "blk-peer.h"

#include "harness.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>

#define BYTES (64 * KIB)

static struct vublk_blk_change *start_alloc(struct vublk_blk *blk)
{
	struct vublk_blk_change *change;

	assert_int_equal(vublk_blk_alloc_start(blk, BYTES, &change, &error), 0);
	return change;
}

static int finish(struct vublk_blk_change *change, void **buffer)
{
	struct pollfd pollfd = { .fd = vublk_blk_change_fd(change), .events = POLLIN };

	while (poll(&pollfd, 1, -1) != 1)
		;
	return vublk_blk_change_finish(change, buffer, &error);
}

static void read_into(struct vublk_blk *blk, void *buffer)
{
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	struct vublk_blk_completion c;

	assert_int_equal(vublk_blk_read(queue, 0, buffer, BYTES, 0, NULL, &error), 0);
	assert_int_equal(vublk_blk_wait(queue, &c, 1, 1, -1, &error), 1);
	assert_int_equal(c.result, 0);
}

static void test_several_in_progress(void **state)
{
	struct vublk_blk_change *changes[4], *release;
	struct vublk_blk *blk;
	void *buffers[3];

	start_peer();
	blk = open_with(NULL);
	stop_peer_running();
	for (unsigned i = 0; i < 4; i++)
		changes[i] = start_alloc(blk);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(vublk_blk_change_finish(changes[i], NULL, &error), -EAGAIN);
	vublk_blk_change_cancel(changes[0]); /* its message may have reached the back-end */
	kill(peer.pid, SIGCONT);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(finish(changes[i + 1], &buffers[i]), 0);
		read_into(blk, buffers[i]);
	}
	assert_int_equal(vublk_blk_release_start(blk, buffers[1], &release, &error), 0);
	assert_int_equal(finish(release, NULL), 0);
	read_into(blk, buffers[2]);
	assert_int_equal(vublk_blk_close(blk, -1, &error), 0);
	end_peer();
}

static void test_killed_in_the_middle(void **state)
{
	const struct vublk_option options[] = { { "reconnect-ms", "0" }, { NULL } };
	struct vublk_blk_change *changes[2];
	struct vublk_blk *blk;
	void *buffer;
	int r;

	start_peer();
	blk = open_with(options);
	stop_peer_running();
	changes[0] = start_alloc(blk);
	changes[1] = start_alloc(blk);
	end_peer();
	/*
	 * The first change fails if its message was already sent when the back-end was killed. The
	 * second one succeeds, because by then no back-end is connected.
	 */
	r = finish(changes[0], &buffer);
	assert_true(!r || r == -ENOTCONN);
	assert_true(!r == !!buffer);
	assert_int_equal(finish(changes[1], &buffer), 0);
	assert_non_null(buffer);
	assert_int_equal(vublk_blk_close(blk, -1, &error), 0);
}

/* The close of the disk waits for only one change, which ends at the timeout of its message. */
static void test_closed_in_the_middle(void **state)
{
	const struct vublk_option options[] = { { "request-timeout-ms", "2000" }, { NULL } };
	struct vublk_blk *blk;

	start_peer();
	assert_int_equal(vublk_blk_close(open_with(NULL), 0, NULL), 0); /* the back-end has started */
	blk = open_with(options);
	stop_peer_running();
	for (unsigned i = 0; i < 4; i++)
		start_alloc(blk);
	assert_int_equal(vublk_blk_close(blk, 0, &error), 0);
	end_peer();
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_several_in_progress),
		VUBLK_TEST(test_killed_in_the_middle),
		VUBLK_TEST(test_closed_in_the_middle),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
