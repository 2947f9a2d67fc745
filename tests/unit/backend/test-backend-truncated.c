/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Front-ends that truncate files that they share with the back-end. The back-end survives, and
 * executes no request that it has read from a lost page. If it accesses a lost page itself, it logs
 * which memory was lost and ends the session.
 */
#include "backend-rig.h"
#include "rude-frontend.h"

#include "util/atomic.h"
#include "util/fd.h"
#include "util/memfd.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define EXTRA_BYTES UINT64_C(0x10000)
#define EXTRA_GUEST (RIG_GUEST + RIG_MEMORY)
/* the `data_offset` for rig_add() with which the data of queue 0 is in the extra region */
#define EXTRA_OFFSET (RIG_MEMORY - RIG_DATA_OFFSET)
#define LOG_BYTES ((EXTRA_GUEST + EXTRA_BYTES) / 4096 / 8)

/*
 * Starts a back-end and its queue 0, with unsealed guest memory. If `options` is NULL, the disk is
 * in memory.
 */
static void open_rig(struct backend_rig *rig, const struct vublk_option *options)
{
	if (options)
		rig_open(rig, options);
	else
		rig_open_memory(rig);
	rig_use_unsealed_memory(rig);
	rig_start(rig);
	assert_int_equal(rig_io(rig, 0, VIRTIO_BLK_T_IN, 0, 0, 4096), VIRTIO_BLK_S_OK);
}

static void close_expecting(struct backend_rig *rig, const char *words)
{
	rig_wait_for_end(rig);
	assert_true(rig_log_has(rig, words));
	rig_close_expecting_end(rig);
}

/* --- the ring ------------------------------------------------------------------ */

static void test_ring(void **state)
{
	struct backend_rig rig;

	open_rig(&rig, NULL);
	assert_int_equal(ftruncate(rig.memory_fd, 0), 0);
	vublk_eventfd_signal(rig.queues[0].kick_fd);
	close_expecting(&rig, "closed the connection: a page of the guest's memory at 0x1000");
}

/* The memory is truncated before the queue starts, so the control thread finds the lost page. */
static void test_ring_before_the_start(void **state)
{
	struct vublk_vu_message message;
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_use_unsealed_memory(&rig);
	rig_negotiate(&rig);
	assert_int_equal(rig_set_mem_table(&rig), 0);
	rig_make_ring(&rig, 0, RIG_SIZE, 0);
	assert_int_equal(rig_describe_queue(&rig, 0, 0), 0);
	assert_int_equal(ftruncate(rig.memory_fd, 0), 0);
	vublk_vu_message_init(&message, VUBLK_VU_SET_VRING_ENABLE);
	message.payload.state.num = 1;
	message.header.size = sizeof(message.payload.state);
	message.header.flags |= VUBLK_VU_FLAG_NEED_REPLY;
	rig_send(&rig, &message);
	close_expecting(&rig, "closed the connection: a page of the guest's memory at 0x1000");
}

static void test_the_next_is_served(void **state)
{
	struct backend_server server;

	backend_server_start(&server, NULL);
	for (unsigned i = 0; i < 20; i++) {
		struct backend_rig rig;

		rig_attach(&rig, rude_dial(server.path));
		rig_use_unsealed_memory(&rig);
		rig_start(&rig);
		assert_int_equal(ftruncate(rig.memory_fd, 0), 0);
		vublk_eventfd_signal(rig.queues[0].kick_fd);
		rig_close_expecting_end(&rig);
		rude_check_served(server.path);
	}
	backend_server_stop(&server);
}

/* --- buffers -------------------------------------------------------------------- */

static int add_extra(struct backend_rig *rig)
{
	int fd = rig_unsealed_memfd(EXTRA_BYTES);

	assert_int_equal(rig_add_mem_reg(rig, fd, EXTRA_GUEST, RIG_USER + RIG_MEMORY, EXTRA_BYTES,
					 0), 0);
	return fd;
}

/*
 * The data is in a lost page. An engine that copies the data itself hits the page, and the request
 * fails.
 */
static void test_buffer_of_a_copy(void **state)
{
	static const uint32_t types[] = { VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_IN };

	for (unsigned i = 0; i < 2; i++) {
		struct backend_rig rig;
		int fd;

		open_rig(&rig, NULL);
		fd = add_extra(&rig);
		rig_add(&rig, 0, 0, types[i], 8, EXTRA_OFFSET, 8192);
		assert_int_equal(ftruncate(fd, 0), 0);
		rig_kick(&rig, 0);
		assert_int_equal(rig_take(&rig, 0, NULL), 0);
		assert_int_equal(rig_status(&rig, 0, 0), VIRTIO_BLK_S_IOERR);
		close_expecting(&rig, "closed the connection: a page of the guest's memory at 0x10100");
		vublk_fd_close(&fd);
	}
}

/* The ranges of a write zeroes request are in a lost page. The back-end copies them itself. */
static void test_buffer_of_ranges(void **state)
{
	struct backend_rig rig;
	int fd;

	open_rig(&rig, NULL);
	fd = add_extra(&rig);
	rig_add(&rig, 0, 0, VIRTIO_BLK_T_WRITE_ZEROES, 0, EXTRA_OFFSET, 16);
	assert_int_equal(ftruncate(fd, 0), 0);
	rig_kick(&rig, 0);
	assert_int_equal(rig_take(&rig, 0, NULL), 0);
	assert_int_equal(rig_status(&rig, 0, 0), VIRTIO_BLK_S_IOERR);
	close_expecting(&rig, "closed the connection: a page of the guest's memory at 0x10100");
	vublk_fd_close(&fd);
}

/*
 * If the kernel accesses a lost page during a system call, the call fails with EFAULT. Only the
 * request fails, and the session continues.
 */
static void check_file(const char *io, const char *cache)
{
	char path[RIG_PATH_BYTES], before[8192], after[8192];
	const struct vublk_option options[] = {
		{ "blk-file", path }, { "num-queues", "1" }, { "io", io }, { "cache", cache }, { 0 },
	};
	struct backend_rig rig;
	int image, fd;

	image = rig_make_image(path, 1 << 20);
	memset(before, 0xa5, sizeof(before));
	assert_int_equal(pwrite(image, before, sizeof(before), 0), sizeof(before));
	open_rig(&rig, options);
	fd = add_extra(&rig);
	assert_int_equal(ftruncate(fd, 0), 0);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 0, EXTRA_OFFSET, 8192),
				 VIRTIO_BLK_S_IOERR);
		assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_IN, 0, EXTRA_OFFSET, 8192),
				 VIRTIO_BLK_S_IOERR);
		assert_true(rig_log_has(&rig, "the request's data is in "
					      "guest memory that cannot be accessed"));
	}
	assert_int_equal(pread(image, after, sizeof(after), 0), sizeof(after));
	assert_memory_equal(before, after, sizeof(after));
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 0, 0, 4096), VIRTIO_BLK_S_OK);
	rig_close(&rig);
	vublk_fd_close(&fd);
	vublk_fd_close(&image);
}

static void test_buffer_of_a_file(void **state)
{
	static const char *const methods[] = { "auto", "blocking", "io_uring" };

	for (unsigned i = 0; i < 3; i++) {
		check_file(methods[i], "auto");
		check_file(methods[i], "buffered");
	}
}

/* The headers of many requests are lost. The back-end must execute none of these requests. */
static void test_header(void **state)
{
	char path[RIG_PATH_BYTES], before[4096], after[4096];
	const struct vublk_option options[] = {
		{ "blk-file", path }, { "num-queues", "1" }, { 0 },
	};
	struct backend_rig rig;
	int image;

	image = rig_make_image(path, 0);
	memset(before, 0xa5, sizeof(before));
	for (unsigned i = 0; i < 64; i++)
		assert_int_equal(write(image, before, sizeof(before)), sizeof(before));
	open_rig(&rig, options);
	for (uint16_t i = 0; i < 32; i++)
		rig_add(&rig, 0, i, VIRTIO_BLK_T_OUT, i, 0x1000 * i, 512);
	/* The ring is not lost, but everything after it is: headers, data, status bytes. */
	assert_int_equal(ftruncate(rig.memory_fd, 0x10000), 0);
	rig_kick(&rig, 0);
	close_expecting(&rig, "closed the connection: a page of the guest's memory at 0x1000");
	for (unsigned i = 0; i < 64; i++) {
		assert_int_equal(pread(image, after, sizeof(after), i * 4096), sizeof(after));
		assert_memory_equal(before, after, sizeof(after));
	}
	vublk_fd_close(&image);
}

/* --- other shared files --------------------------------------------------------- */

static void test_inflight_area(void **state)
{
	struct rig_area area = { .fd = -1 };
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_use_unsealed_memory(&rig);
	rig_negotiate(&rig);
	area.bytes = vublk_inflight_split_area_bytes(RIG_QUEUES, RIG_SIZE);
	area.fd = rig_unsealed_memfd(area.bytes);
	assert_int_equal(rig_set_mem_table(&rig), 0);
	assert_int_equal(rig_set_area(&rig, &area), 0);
	rig_start_queue(&rig, 0, RIG_SIZE, 0);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_IN, 0, 0, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(ftruncate(area.fd, 0), 0);
	rig_add(&rig, 0, 0, VIRTIO_BLK_T_IN, 0, 0, 4096);
	rig_kick(&rig, 0);
	close_expecting(&rig, "closed the connection: a page of the in-flight area cannot be accessed");
	vublk_fd_close(&area.fd);
}

static void test_dirty_log(void **state)
{
	struct vublk_vu_message message;
	struct backend_rig rig;
	int fd;

#ifdef VUBLK_TSAN
	vublk_test_skip("the thread sanitizer holds a lock during an atomic read-modify-write");
#endif
	fd = rig_unsealed_memfd(LOG_BYTES);
	open_rig(&rig, NULL);
	vublk_vu_message_init(&message, VUBLK_VU_SET_LOG_BASE);
	message.payload.log.size_bytes = LOG_BYTES;
	message.header.size = sizeof(message.payload.log);
	message.fds[0] = fd;
	message.num_fds = 1;
	assert_int_equal(rig_send_acked(&rig, &message), 0);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_IN, 0, 0, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(ftruncate(fd, 0), 0);
	rig_add(&rig, 0, 0, VIRTIO_BLK_T_IN, 0, 0, 4096);
	rig_kick(&rig, 0);
	close_expecting(&rig, "closed the connection: a page of the dirty log cannot be accessed");
	vublk_fd_close(&fd);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_ring),
		VUBLK_TEST(test_ring_before_the_start),
		VUBLK_TEST(test_the_next_is_served),
		VUBLK_TEST(test_buffer_of_a_copy),
		VUBLK_TEST(test_buffer_of_ranges),
		VUBLK_TEST(test_buffer_of_a_file),
		VUBLK_TEST(test_header),
		VUBLK_TEST(test_inflight_area),
		VUBLK_TEST(test_dirty_log),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
