/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Front-ends whose memory is not shared with the back-end. The back-end must log a warning, because
 * the front-end only sees that the disk hangs.
 */
#include "backend-rig.h"

#include "util/fd.h"
#include "util/memfd.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/*
 * Gives the driver a private copy of the memory, so that the back-end does not see the driver's
 * writes.
 */
static void use_private_memory(struct backend_rig *rig)
{
	rig->memory_fd = vublk_memfd_new("rig", RIG_MEMORY, NULL);
	assert_true(rig->memory_fd >= 0);
	rig->memory = mmap(NULL, RIG_MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE, rig->memory_fd, 0);
	assert_ptr_not_equal(rig->memory, MAP_FAILED);
}

static void test_private_copy(void **state)
{
	struct backend_rig rig;

	rig_open_memory(&rig);
	use_private_memory(&rig);
	rig_start(&rig);
	rig_add(&rig, 0, 0, VIRTIO_BLK_T_IN, 0, 0, 4096);
	rig_kick(&rig, 0);
	rig_wait_for_log(&rig,
			 "queue 0: the driver sent a kick, but its ring has been empty since it started");
	assert_true(rig_log_has(&rig, "share=on"));
	rig_close(&rig);
}

/* A queue cannot start because the front-end has sent no memory. The log says so once. */
static void test_no_memory(void **state)
{
	struct backend_rig rig;
	unsigned lines;

	rig_open_memory(&rig);
	use_private_memory(&rig);
	rig_negotiate(&rig);
	rig_make_ring(&rig, 0, RIG_SIZE, 0);
	assert_int_equal(rig_tell_queue(&rig, 0, 0), 0);
	assert_true(rig_log_has(&rig, "queue 0 cannot start: the front-end shares no memory"));
	assert_true(rig_log_has(&rig, "share=on"));
	lines = rig_log_lines(&rig);
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_ENABLE, 0, 1), 0);
	assert_int_equal(rig_log_lines(&rig), lines + 1); /* only the debug line that names the
							     message */
	rig_close(&rig);
}

/*
 * Acts like a driver in a library: the guest addresses equal the addresses in the driver's process,
 * and the memory contains only zeroes until the first request.
 */
static void start_library(struct backend_rig *rig)
{
	rig_open_memory(rig);
	use_private_memory(rig);
	rig_negotiate(rig);
	assert_int_equal(rig_add_mem_reg(rig, rig->memory_fd, RIG_USER, RIG_USER, RIG_MEMORY, 0), 0);
	rig_start_queue(rig, 0, RIG_SIZE, 0);
	vublk_eventfd_signal(rig->queues[0].kick_fd);
	rig_set_state(rig, VUBLK_VU_SET_VRING_ENABLE, 0, 1);
}

static void test_idle_library(void **state)
{
	struct backend_rig library, private;

	start_library(&library);
	rig_open_memory(&private);
	use_private_memory(&private);
	rig_start(&private);
	vublk_eventfd_signal(private.queues[0].kick_fd);
	rig_wait_for_log(&private, "its ring has been empty");
	assert_false(rig_log_has(&library, "its ring has been empty"));
	rig_close(&private);
	rig_close(&library);
}

/*
 * If the memory is shared, there is no warning about a kick without a request. A second back-end,
 * started later, has a front-end with private memory. When the second one warns, the first one has
 * checked its ring, too.
 */
static void test_idle_and_kicked(void **state)
{
	struct backend_rig idle, private;

	rig_open_memory(&idle);
	rig_start(&idle);
	memset(idle.memory + RIG_DATA_OFFSET, 1, 4096);
	vublk_eventfd_signal(idle.queues[0].kick_fd);
	rig_set_state(&idle, VUBLK_VU_SET_VRING_ENABLE, 0, 1);
	rig_open_memory(&private);
	use_private_memory(&private);
	rig_start(&private);
	vublk_eventfd_signal(private.queues[0].kick_fd);
	rig_wait_for_log(&private, "its ring has been empty");
	assert_false(rig_log_has(&idle, "its ring has been empty"));
	rig_close(&private);
	rig_close(&idle);
}

static void test_blank(void **state)
{
	static char bytes[2 * VUBLK_BLANK_BYTES];
	int fd = vublk_memfd_new("blank", sizeof(bytes), NULL);

	assert_true(vublk_memory_is_blank(bytes, sizeof(bytes)));
	assert_true(vublk_file_is_blank(fd, 0, sizeof(bytes)));
	bytes[VUBLK_BLANK_BYTES - 1] = 1;
	assert_false(vublk_memory_is_blank(bytes, sizeof(bytes)));
	assert_true(vublk_memory_is_blank(bytes, 4096));
	assert_int_equal(pwrite(fd, bytes, sizeof(bytes), 0), sizeof(bytes));
	assert_false(vublk_file_is_blank(fd, 0, sizeof(bytes)));
	assert_true(vublk_file_is_blank(fd, VUBLK_BLANK_BYTES, VUBLK_BLANK_BYTES));
	assert_true(vublk_file_is_blank(fd, 0, 4096));
	vublk_fd_close(&fd);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_private_copy),
		VUBLK_TEST(test_no_memory),
		VUBLK_TEST(test_idle_and_kicked),
		VUBLK_TEST(test_idle_library),
		VUBLK_TEST(test_blank),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
