/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The block API over a stand-in device: what an application and a ring see of each other. */
#include "fake-device.h"
#include "harness.h"

#include "util/fd.h"
#include "util/memfd.h"

#include <vublk/blk.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define KIB 1024
#define DISK_BYTES (1024 * KIB)

static struct vublk_error error;

static struct vublk_blk *open_disk(const struct vublk_blk_handlers *handlers)
{
	struct vublk_blk *blk = NULL;

	assert_int_equal(vublk_blk_open("socket", NULL, handlers, &blk, &error), 0);
	return blk;
}

static struct vublk_blk *set_up(void)
{
	fake_init(DISK_BYTES);
	return open_disk(NULL);
}

static void tear_down(struct vublk_blk *blk)
{
	assert_int_equal(vublk_blk_close(blk, 0), 0);
	fake_deinit();
}

static void take_one(struct vublk_blk_queue *queue, void *user_data, int result)
{
	struct vublk_blk_completion completion;

	assert_int_equal(vublk_blk_poll(queue, &completion, 1), 1);
	assert_ptr_equal(completion.user_data, user_data);
	assert_int_equal(completion.result, result);
}

static void *alloc_filled(struct vublk_blk *blk, size_t bytes, char first)
{
	char *buffer = vublk_blk_alloc(blk, bytes, &error);

	assert_non_null(buffer);
	for (size_t i = 0; i < bytes; i++)
		buffer[i] = (char)(first + i / 512 + i % 7);
	return buffer;
}

/* --- one request of each kind -------------------------------------------------------- */

static void test_write_and_read(void **state)
{
	struct vublk_blk *blk = set_up();
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	char *buffer = alloc_filled(blk, 8 * KIB, 1);
	int tag;

	assert_null(vublk_blk_queue(blk, 1));
	assert_int_equal(vublk_blk_write(queue, 512, buffer, 4 * KIB, &tag, &error), 0);
	assert_int_equal(vublk_blk_in_flight(queue), 1);
	assert_int_equal(fake_serve(0, 1), 0);
	vublk_blk_submit(queue);
	assert_int_equal(fake_serve(0, 1), 1);
	take_one(queue, &tag, 0);
	assert_int_equal(vublk_blk_in_flight(queue), 0);
	assert_memory_equal(fake_disk() + 512, buffer, 4 * KIB);
	assert_int_equal(vublk_blk_read(queue, 512, buffer + 4 * KIB, 4 * KIB, NULL, &error), 0);
	vublk_blk_submit(queue);
	assert_int_equal(fake_serve(0, 1), 1);
	take_one(queue, NULL, 0);
	assert_memory_equal(buffer, buffer + 4 * KIB, 4 * KIB);
	tear_down(blk);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_write_and_read),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
