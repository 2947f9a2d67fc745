/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The kernel refuses requests for a while, as it does when it is short of memory. The back-end must
 * submit them again until the kernel accepts them, although no kick or completion wakes it.
 */
#include "backend-rig.h"

#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <unistd.h>

/* more than the tries of a worker before it sleeps */
#define REFUSALS 200

static _Atomic unsigned refusals;

int __real_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring);

int __wrap_io_uring_submit(struct io_uring *ring)
{
	if (!refusals)
		return __real_io_uring_submit(ring);
	refusals--;
	return -EAGAIN;
}

static void check_poll(const char *poll)
{
	char path[128];
	const struct vublk_option options[] = {
		{ "blk-file", path }, { "num-queues", "1" }, { "io", "io_uring" },
		{ "poll", poll }, { 0 },
	};
	struct backend_rig rig;
	int fd;

	snprintf(path, sizeof(path), "%s/image", vublk_test_folder());
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 8 << 20), 0);
	vublk_fd_close(&fd);
	rig_open(&rig, options);
	rig_start(&rig);
	for (unsigned i = 0; i < 3; i++) {
		refusals = REFUSALS;
		assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 0, 0, 4096), VIRTIO_BLK_S_OK);
		assert_int_equal(refusals, 0);
	}
	rig_close(&rig);
}

static void test_without_polling(void **state)
{
	check_poll("off");
}

static void test_adaptive(void **state)
{
	check_poll("adaptive");
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_without_polling),
		VUBLK_TEST(test_adaptive),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
