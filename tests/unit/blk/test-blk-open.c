/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opening a disk in steps, over the stand-in device: which calls are permitted while the disk is
 * being opened, how the open ends, and how it is canceled at any moment.
 *
 * Key idea: an open that the case holds ends only when the case calls fake_realize(). So a case can
 * examine a disk that is being opened.
 */
#include "blk-rig.h"

#include <vublk/blocking.h>

#include <errno.h>
#include <poll.h>
#include <string.h>

static bool is_ready(const struct vublk_blk *blk, int timeout_ms)
{
	struct pollfd pollfd = { .fd = vublk_blk_opening_fd(blk), .events = POLLIN };

	return poll(&pollfd, 1, timeout_ms) == 1;
}

static struct vublk_blk *start(void)
{
	struct vublk_blk *blk = NULL;

	assert_int_equal(vublk_blk_open_start("socket", blk_fails_at_once, NULL, 0, &blk, &error), 0);
	return blk;
}

/* Begins to open a disk. The open ends only when the case calls fake_realize(). */
static struct vublk_blk *start_and_hold(void)
{
	fake_init(DISK_BYTES);
	fake_plan.holds_realize = true;
	return start();
}

static void test_open_in_steps(void **state)
{
	struct vublk_blk *blk = start_and_hold();
	struct vublk_blk_info info;

	assert_false(is_ready(blk, 0));
	assert_int_equal(vublk_blk_open_finish(blk, &error), -EAGAIN);
	assert_non_null(strstr(error.text, "still being opened"));
	fake_realize();
	assert_true(is_ready(blk, -1));
	assert_int_equal(vublk_blk_open_finish(blk, &error), 0);
	assert_int_equal(vublk_blk_open_finish(blk, &error), 0);
	assert_true(is_ready(blk, 0));
	vublk_blk_get_info(blk, &info, sizeof(info));
	assert_int_equal(info.capacity_bytes, DISK_BYTES);
	read_many(blk, 0, 3);
	assert_int_equal(fake_serve(0, 3), 3);
	assert_int_equal(vublk_blk_close(blk, -1, &error), 0);
	fake_deinit();
}

static void expect_busy(int result)
{
	assert_int_equal(result, -EBUSY);
	assert_non_null(strstr(error.text, "the disk is not open; "));
	error.text[0] = '\0';
}

/*
 * Checks that calls that need an open disk refuse one that is being opened or whose open has
 * failed.
 */
static void expect_unusable(struct vublk_blk *blk)
{
	struct vublk_device_info device_info;
	struct vublk_blk_change *change;
	struct vublk_blk_info info;
	char text[512];

	expect_busy(vublk_blk_alloc_start(blk, 4096, &change, &error));
	assert_null(change);
	expect_busy(vublk_blk_release_start(blk, text, &change, &error));
	expect_busy(vublk_blk_register_start(blk, text, 4096, 0, 0, &change, &error));
	expect_busy(vublk_blk_unregister_start(blk, text, &change, &error));
	assert_null(vublk_blk_queue(blk, 0));
	assert_null(vublk_blk_alloc(blk, 4096, &error));
	expect_busy(-error.code);
	expect_busy(vublk_blk_register(blk, text, 4096, 0, 0, &error));
	expect_busy(vublk_blk_unregister(blk, text, &error));
	expect_busy(vublk_blk_set_write_cache(blk, true, &error));
	expect_busy(vublk_blk_pread(blk, 0, text, sizeof(text), 0, &error));
	expect_busy(vublk_blk_pwrite(blk, 0, text, sizeof(text), 0, &error));
	expect_busy(vublk_blk_pflush(blk, 0, &error));
	vublk_blk_get_info(blk, &info, sizeof(info));
	assert_int_equal(info.num_queues, 0);
	vublk_blk_get_device_info(blk, &device_info, sizeof(device_info));
	assert_int_equal(device_info.backend_max_queues, 0);
}

static void test_calls_before_the_end(void **state)
{
	struct vublk_blk *blk = start_and_hold();

	expect_unusable(blk);
	assert_int_equal(vublk_blk_close(blk, -1, &error), 0);
	fake_deinit();
}

static void fail_with(int code, const char *words)
{
	struct vublk_blk *blk = start();

	assert_true(is_ready(blk, -1));
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(vublk_blk_open_finish(blk, &error), -code);
		assert_string_equal(error.text, words);
	}
	expect_unusable(blk);
	assert_int_equal(vublk_blk_close(blk, -1, &error), 0);
}

static void test_failures(void **state)
{
	fake_init(DISK_BYTES);
	fake_plan.realize_error = ECONNREFUSED;
	fail_with(ECONNREFUSED, "no realize");
	fake_plan.realize_error = 0;
	fake_plan.start_error = ETIMEDOUT;
	fail_with(ETIMEDOUT, "no start");
	fake_plan.start_error = 0;
	fake_plan.breaks_at_start = true;
	fail_with(EPROTO, "broken at the start");
	fake_deinit();
}

/* Invalid arguments are refused immediately, without a thread and without a connection. */
static void test_bad_arguments(void **state)
{
	const struct vublk_option unknown[] = { { "x", "y" }, { NULL } };
	struct vublk_blk *blk = NULL;

	fake_init(DISK_BYTES);
	assert_int_equal(vublk_blk_open_start("s", unknown, NULL, 0, &blk, &error), -EINVAL);
	assert_int_equal(vublk_blk_open_start(NULL, NULL, NULL, 0, &blk, &error), -EINVAL);
	assert_null(blk);
	fake_deinit();
}

/* The disk is closed at many different points while it is being opened, and afterwards. */
static void test_cancel_at_any_moment(void **state)
{
	fake_init(DISK_BYTES);
	fake_plan.num_queues = 4;
	for (unsigned i = 0; i < 300; i++) {
		struct vublk_blk *blk = start();

		for (unsigned j = 0; j < i; j++)
			vublk_blk_open_finish(blk, NULL);
		assert_int_equal(vublk_blk_close(blk, 0, &error), 0);
	}
	fake_deinit();
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_open_in_steps),
		VUBLK_TEST(test_calls_before_the_end),
		VUBLK_TEST(test_failures),
		VUBLK_TEST(test_bad_arguments),
		VUBLK_TEST(test_cancel_at_any_moment),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
