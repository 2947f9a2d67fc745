/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The option request-deadline-ms: a back-end that keeps a request for too long.
 *
 * Key idea: the code that decides whether a request is overdue counts checks, and uses no clock
 * (src/blk/deadline.c). So the first cases make these checks themselves. In the other cases the
 * disk's thread makes them.
 */
#include "blk/queue.h" /* first, because its parameters would shadow the rig's globals */

#include "blk-rig.h"

#include "util/fd.h"

#include <vublk/blocking.h>

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>

#define LOOKS VUBLK_INPROC_LOOKS_PER_DEADLINE
#define HUNG \
	"a request did not complete within 40 ms (request-deadline-ms), so the back-end counts " \
	"as hung; the requests that fail may or may not have been executed"

static const struct vublk_option options[] = {
	{ "request-deadline-ms", "40" }, { "reconnect-ms", "0" }, { NULL }
};

static void read_one(struct vublk_blk *blk, void *tag)
{
	char *buffer = vublk_blk_alloc(blk, 4096, &error);

	assert_int_equal(vublk_blk_read(vublk_blk_queue(blk, 0), 0, buffer, 4096, 0, tag, &error),
			 0);
}

static void take_one(struct vublk_blk *blk, void *tag, int result)
{
	struct vublk_blk_completion completion;

	assert_int_equal(vublk_blk_wait(vublk_blk_queue(blk, 0), &completion, 1, 1, -1, &error), 1);
	assert_ptr_equal(completion.user_data, tag);
	assert_int_equal(completion.result, result);
}

/* --- what is overdue ------------------------------------------------------------------------- */

static void looks_in_time(struct vublk_blk_queue *queue, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		assert_false(vublk_blk_queue_is_overdue(queue));
}

static void test_overdue_after_a_deadline(void **state)
{
	struct vublk_blk *blk = set_up();
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	int tags[2];

	looks_in_time(queue, 3 * LOOKS);
	read_one(blk, &tags[0]);
	looks_in_time(queue, 3 * LOOKS); /* not published, so the back-end cannot see it */
	vublk_blk_submit(queue);
	looks_in_time(queue, LOOKS - 1);
	read_one(blk, &tags[1]);
	vublk_blk_submit(queue);
	looks_in_time(queue, 1);
	assert_true(vublk_blk_queue_is_overdue(queue));
	assert_int_equal(fake_serve(0, 1), 1); /* the request is complete, although the application
						  has not taken the completion */
	looks_in_time(queue, LOOKS - 2);
	assert_true(vublk_blk_queue_is_overdue(queue)); /* the second request is overdue */
	assert_int_equal(fake_serve(0, 1), 1);
	looks_in_time(queue, 3 * LOOKS);
	take_one(blk, &tags[0], 0);
	take_one(blk, &tags[1], 0);
	tear_down(blk);
}

/* A queue that is never empty is not overdue if each request completes in time. */
static void test_busy_queue_is_not_overdue(void **state)
{
	struct vublk_blk *blk = set_up();
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	char *buffer = vublk_blk_alloc(blk, 4096, &error);

	assert_int_equal(vublk_blk_read(queue, 0, buffer, 4096, 0, NULL, &error), 0);
	vublk_blk_submit(queue);
	for (unsigned i = 0; i < 10 * LOOKS; i++) {
		assert_int_equal(vublk_blk_read(queue, 0, buffer, 4096, 0, NULL, &error), 0);
		vublk_blk_submit(queue);
		looks_in_time(queue, LOOKS / 2);
		assert_int_equal(fake_serve(0, 1), 1);
		take_one(blk, NULL, 0);
	}
	assert_int_equal(fake_serve(0, 1), 1);
	take_one(blk, NULL, 0);
	tear_down(blk);
}

/* The time of a request does not begin again when another back-end gets the request. */
static void expect_time_continues(bool tracked)
{
	struct vublk_blk *blk = begin(1, NULL);
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	int tag;

	fake_plan.tracked = tracked;
	read_one(blk, &tag);
	vublk_blk_submit(queue);
	for (unsigned i = 0; i < LOOKS; i++) {
		looks_in_time(queue, 1);
		lose();
		find();
	}
	assert_true(vublk_blk_queue_is_overdue(queue));
	assert_int_equal(fake_serve(0, 1), 1);
	take_one(blk, &tag, 0);
	tear_down(blk);
}

static void test_time_continues_with_new_rings(void **state)
{
	expect_time_continues(false);
}

static void test_time_continues_with_an_inflight_area(void **state)
{
	expect_time_continues(true);
}

/* --- the owner after a check that took completions -------------------------------------------- */

static bool is_readable(struct vublk_blk_queue *queue)
{
	struct pollfd pollfd = { .fd = vublk_blk_queue_fd(queue), .events = POLLIN };

	return poll(&pollfd, 1, 0) == 1;
}

/*
 * The ring has `first` pieces of a request. When they complete, the `rest` other pieces can be
 * issued, because there is room or because they are the flush after a write with FUA. The check of
 * the deadline takes the completions before the queue's owner does. So it must wake the owner, and
 * the owner's vublk_blk_arm() must issue the other pieces.
 */
static void expect_progress(struct vublk_blk *blk, unsigned first, unsigned rest, void *tag)
{
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);

	vublk_blk_submit(queue);
	looks_in_time(queue, LOOKS);
	assert_int_equal(fake_serve(0, first), first);
	vublk_eventfd_clear(vublk_blk_queue_fd(queue)); /* the owner has seen the call */
	looks_in_time(queue, 1);
	assert_true(is_readable(queue));
	assert_false(vublk_blk_arm(queue));
	assert_int_equal(fake_serve(0, rest), rest);
	assert_true(is_readable(queue));
	take_one(blk, tag, 0);
}

static void test_flush_of_fua_after_a_check(void **state)
{
	struct vublk_blk *blk = set_up();
	char *buffer = vublk_blk_alloc(blk, 4096, &error);
	int tag;

	assert_int_equal(vublk_blk_write(vublk_blk_queue(blk, 0), 0, buffer, 4096, VUBLK_BLK_FUA,
					 &tag, &error), 0);
	expect_progress(blk, 1, 1, &tag);
	assert_int_equal(fake_num_flushes, 1);
	tear_down(blk);
}

static void test_rest_of_a_split_request_after_a_check(void **state)
{
	struct vublk_blk *blk;
	char *buffer;
	int tag;

	fake_init(DISK_BYTES);
	fake_plan.queue_size = 4;
	fake_plan.features |= VUBLK_BIT(VIRTIO_BLK_F_SIZE_MAX);
	fake_plan.config.size_max = htole32(4096);
	fake_plan.config.seg_max = htole32(1);
	blk = open_disk();
	buffer = vublk_blk_alloc(blk, 6 * 4096, &error);
	assert_int_equal(vublk_blk_read(vublk_blk_queue(blk, 0), 0, buffer, 6 * 4096, 0, &tag,
					&error), 0);
	expect_progress(blk, 4, 2, &tag);
	tear_down(blk);
}

/* --- what the disk does about it -------------------------------------------------------------- */

static void expect_hung(struct vublk_blk *blk, void *tag)
{
	char buffer[512], text[VUBLK_ERROR_TEXT_BYTES] = "read: ";

	wait_for_event(VUBLK_BLK_GAVE_UP);
	assert_string_equal(told.text, HUNG);
	take_one(blk, tag, -ETIME);
	assert_int_equal(vublk_blk_read(vublk_blk_queue(blk, 0), 0, buffer, 512, 0, NULL, &error),
			 -ETIME);
	strcat(text, HUNG);
	assert_string_equal(error.text, text);
}

/* The rings are reclaimed before the request fails. */
static void test_silent_back_end(void **state)
{
	struct vublk_blk *blk = begin(1, options);
	int tag;

	read_one(blk, &tag);
	vublk_blk_submit(vublk_blk_queue(blk, 0));
	assert_true(fake_take(0, NULL));
	expect_hung(blk, &tag);
	assert_int_equal(fake_num_stops, 1);
	tear_down(blk);
}

static void test_back_end_that_keeps_the_rings(void **state)
{
	struct vublk_blk *blk;
	int tag;

	fake_init(DISK_BYTES);
	fake_plan.never_stops = true;
	blk = open_disk_with(options);
	read_one(blk, &tag);
	vublk_blk_submit(vublk_blk_queue(blk, 0));
	expect_hung(blk, &tag);
	tear_down(blk);
}

static void test_blocking_call(void **state)
{
	struct vublk_blk *blk = begin(1, options);
	char buffer[16];

	assert_int_equal(vublk_blk_pread(blk, 8, buffer, sizeof(buffer), 0, &error), -ETIME);
	assert_ptr_equal(strstr(error.text, "read of 16 bytes at byte 8: a request did not "
				"complete within "), error.text);
	assert_non_null(strstr(error.text, "(request-deadline-ms)"));
	tear_down(blk);
}

/* In an outage, the deadline fails only the requests. The disk continues with the next back-end. */
static void test_outage(void **state)
{
	/* The deadline is long, because the last request has to complete in time. */
	const struct vublk_option waits[] = { { "request-deadline-ms", "1000" }, { NULL } };
	struct vublk_blk *blk = begin(1, waits);
	char *buffer;
	int tag;

	read_one(blk, &tag);
	lose();
	take_one(blk, &tag, -ETIME);
	buffer = vublk_blk_alloc(blk, 4096, &error);
	assert_int_equal(vublk_blk_read(vublk_blk_queue(blk, 0), 0, buffer, 512, 0, NULL, &error),
			 -ETIME);
	assert_string_equal(error.text, "read: a request did not complete within 1000 ms "
			    "(request-deadline-ms), because no back-end is connected; the requests "
			    "that fail may or may not have been executed");
	find();
	read_one(blk, &tag);
	vublk_blk_submit(vublk_blk_queue(blk, 0));
	assert_int_equal(fake_serve(0, 1), 1);
	take_one(blk, &tag, 0);
	assert_int_equal(told.events[VUBLK_BLK_GAVE_UP], 0);
	tear_down(blk);
}

static bool take_if_done(struct vublk_blk *blk, int *result)
{
	struct vublk_blk_completion completion;

	if (!vublk_blk_poll(vublk_blk_queue(blk, 0), &completion, 1))
		return false;
	*result = completion.result;
	return true;
}

/*
 * Adds a read and submits it. Tries again while the queue refuses the read, which it does until the
 * rings have started again.
 */
static void add_read(struct vublk_blk *blk)
{
	char *buffer = vublk_blk_alloc(blk, 4096, &error);
	int r;

	do {
		r = vublk_blk_read(vublk_blk_queue(blk, 0), 0, buffer, 4096, 0, NULL, &error);
		assert_true(!r || r == -ETIME);
	} while (r);
	vublk_blk_submit(vublk_blk_queue(blk, 0));
}

static void serve_one(struct vublk_blk *blk)
{
	struct vublk_blk_completion completion;

	add_read(blk);
	assert_int_equal(fake_serve(0, 1), 1);
	assert_int_equal(vublk_blk_wait(vublk_blk_queue(blk, 0), &completion, 1, 1, -1, &error), 1);
	assert_int_equal(completion.result, 0);
}

/*
 * Disconnects the back-end, and waits until the disk reports the loss or a request completes.
 * Returns the result of that request, or 0 after a loss. The disk reports no loss if it has just
 * failed the request, because the rings have not run again since.
 */
static int lose_or_take(struct vublk_blk *blk)
{
	bool is_told = false;
	int result = 0;

	fake_disconnect("the back-end hung up");
	while (!is_told && !take_if_done(blk, &result)) {
		pthread_mutex_lock(&told.lock);
		is_told = told.events[VUBLK_BLK_LOST];
		told.events[VUBLK_BLK_LOST] = 0;
		pthread_mutex_unlock(&told.lock);
		sched_yield();
	}
	return result;
}

/*
 * Each back-end is lost long before the deadline. But the time of the request includes all
 * back-ends, so the request fails at the deadline. The deadline is long, because a back-end that
 * has the rings for a whole deadline counts as hung, even if the machine was only too busy to run
 * this thread.
 */
static void test_back_ends_that_die_again_and_again(void **state)
{
	const struct vublk_option waits[] = { { "request-deadline-ms", "4000" }, { NULL } };
	struct vublk_blk *blk = begin(1, waits);
	struct vublk_blk_completion completion = { 0 };
	int tag, result = 0;

	read_one(blk, &tag);
	vublk_blk_submit(vublk_blk_queue(blk, 0));
	while (!result) {
		result = lose_or_take(blk);
		find();
	}
	assert_int_equal(result, -ETIME);
	/* The next back-end may not be connected yet. */
	fake_start_threads();
	add_read(blk);
	assert_int_equal(vublk_blk_wait(vublk_blk_queue(blk, 0), &completion, 1, 1, -1, &error), 1);
	fake_stop_threads();
	assert_int_equal(completion.result, 0);
	assert_int_equal(told.events[VUBLK_BLK_GAVE_UP], 0);
	tear_down(blk);
}

/*
 * Opens a disk and adds a read, and lets the whole deadline pass at the first back-end. When this
 * function returns, a second back-end has the read. It does not count as hung, because it was found
 * only now.
 */
static struct vublk_blk *begin_late(const struct vublk_option *waits, void *tag)
{
	struct vublk_blk *blk = begin(1, waits);

	read_one(blk, tag);
	vublk_blk_submit(vublk_blk_queue(blk, 0));
	for (unsigned i = 0; i < LOOKS; i++) /* the checks that the disk's thread makes, without
						the waits */
		vublk_blk_queue_is_overdue(vublk_blk_queue(blk, 0));
	lose();
	find();
	return blk;
}

/*
 * The deadline is so long that the case makes all of its own checks before the disk's thread makes
 * those that find the request overdue.
 */
static const struct vublk_option slow[] = { { "request-deadline-ms", "2000" }, { NULL } };

static void test_back_end_that_came_late(void **state)
{
	int tag;
	struct vublk_blk *blk = begin_late(slow, &tag);

	take_one(blk, &tag, -ETIME);
	assert_int_equal(fake_num_stops, 1);
	serve_one(blk);
	assert_int_equal(told.events[VUBLK_BLK_LOST], 0);
	assert_int_equal(told.events[VUBLK_BLK_RECONNECTED], 0);
	assert_int_equal(told.events[VUBLK_BLK_GAVE_UP], 0);
	tear_down(blk);
}

/* A request that the back-end completed before it returned the rings succeeds. */
static void test_late_back_end_that_completes(void **state)
{
	int tag;
	struct vublk_blk *blk = begin_late(slow, &tag);

	assert_int_equal(fake_serve(0, 1), 1);
	take_one(blk, &tag, 0);
	serve_one(blk);
	tear_down(blk);
}

static void test_late_back_end_that_keeps_the_rings(void **state)
{
	int tag;
	struct vublk_blk *blk;

	fake_init(DISK_BYTES);
	fake_plan.never_stops = true;
	fake_plan.tracked = true;
	blk = open_disk_with(slow);
	read_one(blk, &tag);
	vublk_blk_submit(vublk_blk_queue(blk, 0));
	for (unsigned i = 0; i < LOOKS; i++)
		vublk_blk_queue_is_overdue(vublk_blk_queue(blk, 0));
	lose();
	find();
	wait_for_event(VUBLK_BLK_LOST); /* the stop has failed */
	take_one(blk, &tag, -ETIME);    /* during the outage */
	find();
	serve_one(blk);
	assert_int_equal(told.events[VUBLK_BLK_GAVE_UP], 0);
	tear_down(blk);
}

static void test_bad_value(void **state)
{
	const struct vublk_option bad[] = { { "request-deadline-ms", "soon" }, { NULL } };
	struct vublk_blk *blk;

	fake_init(DISK_BYTES);
	assert_int_equal(vublk_blk_open("socket", bad, NULL, 0, &blk, &error), -EINVAL);
	assert_non_null(strstr(error.text, "request-deadline-ms"));
	fake_deinit();
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_overdue_after_a_deadline),
		VUBLK_TEST(test_busy_queue_is_not_overdue),
		VUBLK_TEST(test_time_continues_with_new_rings),
		VUBLK_TEST(test_time_continues_with_an_inflight_area),
		VUBLK_TEST(test_flush_of_fua_after_a_check),
		VUBLK_TEST(test_rest_of_a_split_request_after_a_check),
		VUBLK_TEST(test_silent_back_end),
		VUBLK_TEST(test_back_end_that_keeps_the_rings),
		VUBLK_TEST(test_blocking_call),
		VUBLK_TEST(test_outage),
		VUBLK_TEST(test_back_ends_that_die_again_and_again),
		VUBLK_TEST(test_back_end_that_came_late),
		VUBLK_TEST(test_late_back_end_that_completes),
		VUBLK_TEST(test_late_back_end_that_keeps_the_rings),
		VUBLK_TEST(test_bad_value),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
