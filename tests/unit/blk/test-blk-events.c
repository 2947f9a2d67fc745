/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The queue of a disk's events, over the stand-in device: the order of events, how they are merged,
 * and the queue's descriptor. The last cases test the error texts of failed requests and calls.
 */
#include "blk-rig.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

static bool is_readable(int fd)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };

	return poll(&pollfd, 1, 0) == 1;
}

static void expect_event(struct vublk_blk *blk, enum vublk_blk_event event, const char *words)
{
	struct vublk_blk_event_info info;

	assert_int_equal(vublk_blk_next_event(blk, &info, sizeof(info)), 1);
	assert_int_equal(info.event, event);
	assert_int_equal(!info.error.code, !words);
	if (words)
		assert_non_null(strstr(info.error.text, words));
}

static void expect_no_event(struct vublk_blk *blk)
{
	struct vublk_blk_event_info info;

	assert_int_equal(vublk_blk_next_event(blk, &info, sizeof(info)), 0);
	assert_false(is_readable(vublk_blk_events_fd(blk, &error)));
}

static void test_events_in_order(void **state)
{
	struct vublk_blk *blk = begin(1, NULL);
	int fd = vublk_blk_events_fd(blk, &error);

	assert_true(fd >= 0);
	assert_int_equal(vublk_blk_events_fd(blk, &error), fd);
	expect_no_event(blk);
	lose();
	assert_true(is_readable(fd));
	find();
	expect_event(blk, VUBLK_BLK_LOST, "hung up");
	assert_true(is_readable(fd));
	expect_event(blk, VUBLK_BLK_RECONNECTED, NULL);
	expect_no_event(blk);
	fake_resize(DISK_BYTES / 2);
	wait_for_event(VUBLK_BLK_RESIZED);
	assert_true(is_readable(fd));
	expect_event(blk, VUBLK_BLK_RESIZED, NULL);
	expect_no_event(blk);
	tear_down(blk);
}

/* After twenty outages the queue has one event of each kind, with the newest error. */
static void test_events_are_coalesced(void **state)
{
	struct vublk_blk *blk = begin(1, NULL);

	for (unsigned i = 0; i < 20; i++) {
		fake_disconnect(i < 19 ? "an earlier one" : "the last one");
		wait_for_event(VUBLK_BLK_LOST);
		find();
	}
	assert_true(is_readable(vublk_blk_events_fd(blk, &error))); /* the events came before the
								       descriptor was created */
	expect_event(blk, VUBLK_BLK_LOST, "the last one");
	expect_event(blk, VUBLK_BLK_RECONNECTED, NULL);
	expect_no_event(blk);
	tear_down(blk);
}

/* A repeated event moves to the end of the queue, so the last event shows the present state. */
static void test_repeated_event_moves_to_the_end(void **state)
{
	struct vublk_blk *blk = begin(1, NULL);

	fake_disconnect("an earlier one");
	wait_for_event(VUBLK_BLK_LOST);
	fake_resize(DISK_BYTES / 2);
	wait_for_event(VUBLK_BLK_RESIZED);
	find();
	fake_disconnect("the last one");
	wait_for_event(VUBLK_BLK_LOST);
	expect_event(blk, VUBLK_BLK_RESIZED, NULL);
	expect_event(blk, VUBLK_BLK_RECONNECTED, NULL);
	expect_event(blk, VUBLK_BLK_LOST, "the last one");
	expect_no_event(blk);
	tear_down(blk);
}

static void *lose_often(void *opaque)
{
	for (unsigned i = 0; i < 200; i++) {
		lose();
		find();
	}
	fake_resize(DISK_BYTES / 2); /* the last event */
	return NULL;
}

/* A loop that sleeps on the descriptor does not miss the last event. */
static void test_threads(void **state)
{
	struct vublk_blk *blk = begin(1, NULL);
	struct pollfd pollfd = { .fd = vublk_blk_events_fd(blk, &error), .events = POLLIN };
	struct vublk_blk_event_info info = { 0 };
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, lose_often, NULL), 0);
	do {
		assert_int_equal(poll(&pollfd, 1, -1), 1);
		while (vublk_blk_next_event(blk, &info, sizeof(info)))
			assert_true(info.event == VUBLK_BLK_LOST || info.event == VUBLK_BLK_RECONNECTED ||
				    info.event == VUBLK_BLK_RESIZED);
	} while (info.event != VUBLK_BLK_RESIZED);
	pthread_join(thread, NULL);
	tear_down(blk);
}

/* --- the sentence of a failed request ---------------------------------------------------- */

static void expect_sentence(struct vublk_blk *blk, int result, const char *words)
{
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	struct vublk_error why = { 0 };
	struct vublk_blk_completion c;

	assert_int_equal(vublk_blk_wait(queue, &c, 1, 1, -1, &error), 1);
	assert_int_equal(c.result, result);
	assert_int_equal(vublk_blk_completion_error(queue, &c, &why), result);
	assert_int_equal(why.code, -result);
	assert_non_null(strstr(why.text, words));
}

static void test_sentences(void **state)
{
	struct vublk_blk *blk = set_up();
	struct vublk_blk_completion c = { .result = 0 };
	struct vublk_error untouched = { .code = 5 };

	assert_int_equal(vublk_blk_completion_error(vublk_blk_queue(blk, 0), &c, &untouched), 0);
	assert_int_equal(untouched.code, 5);
	read_many(blk, 0, 1);
	assert_int_equal(fake_serve_with(0, 1, VIRTIO_BLK_S_IOERR), 1);
	expect_sentence(blk, -EIO, "queue 0: the back-end failed to execute the request");
	read_many(blk, 0, 1);
	assert_int_equal(fake_serve_with(0, 1, VIRTIO_BLK_S_UNSUPP), 1);
	expect_sentence(blk, -ENOTSUP, "does not support");
	read_many(blk, 0, 1);
	assert_int_equal(fake_serve_without_status(0), 1);
	expect_sentence(blk, -EPROTO, "without a valid status");
	read_many(blk, 0, 1);
	fake_disconnect("the cable was cut");
	expect_sentence(blk, -ENOTCONN, "the cable was cut; the request may or may not have been "
			"executed");
	tear_down(blk);
}

/* The errors of close and release tell why the call was refused, or what was abandoned. */
static void test_close_and_release(void **state)
{
	struct vublk_blk *blk = set_up();
	char here;

	assert_int_equal(vublk_blk_release(blk, NULL, &error), 0);
	assert_int_equal(vublk_blk_release(blk, &here, &error), -EINVAL);
	assert_non_null(strstr(error.text, "not from vublk_blk_alloc()"));
	read_many(blk, 0, 2);
	assert_int_equal(vublk_blk_close(blk, 0, &error), -ETIMEDOUT);
	assert_non_null(strstr(error.text, "2 requests of queue 0"));
	fake_deinit();
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_events_in_order),
		VUBLK_TEST(test_events_are_coalesced),
		VUBLK_TEST(test_repeated_event_moves_to_the_end),
		VUBLK_TEST(test_threads),
		VUBLK_TEST(test_sentences),
		VUBLK_TEST(test_close_and_release),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
