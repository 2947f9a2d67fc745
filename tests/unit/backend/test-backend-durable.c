/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tests which writes are stable when they complete, and how system calls that fail or are short are
 * handled.
 *
 * Key idea: the system calls of the blocking method are intercepted, counted and made to fail.
 */
#include "backend-rig.h"

#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/*
 * Counts and behavior of the intercepted calls. The case accesses them between requests, and the
 * worker during a request.
 */
static struct {
	_Atomic unsigned syncs;
	_Atomic unsigned plain_writes;
	_Atomic int fail_writes; /* the next `times` writes fail with this errno */
	_Atomic int fail_reads;
	_Atomic int fail_syncs;
	_Atomic unsigned times;
	_Atomic unsigned at_most; /* the largest number of bytes that a call moves; 0: no limit */
} calls;

ssize_t __real_pwritev64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags);
ssize_t __real_preadv64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags);
int __real_fdatasync(int fd);
ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags);
ssize_t __wrap_preadv64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags);
int __wrap_fdatasync(int fd);
int __wrap_io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags);

static bool fails(int code)
{
	if (!code || !calls.times)
		return false;
	calls.times--;
	errno = code;
	return true;
}

ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
	struct iovec part = iov[0];

	if (fails(calls.fail_writes))
		return -1;
	calls.plain_writes++;
	if (!calls.at_most || part.iov_len <= calls.at_most)
		return __real_pwritev64v2(fd, iov, count, offset, flags);
	part.iov_len = calls.at_most;
	return __real_pwritev64v2(fd, &part, 1, offset, flags);
}

ssize_t __wrap_preadv64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
	struct iovec part = iov[0];

	if (fails(calls.fail_reads))
		return -1;
	if (!calls.at_most || part.iov_len <= calls.at_most)
		return __real_preadv64v2(fd, iov, count, offset, flags);
	part.iov_len = calls.at_most;
	return __real_preadv64v2(fd, &part, 1, offset, flags);
}

int __wrap_fdatasync(int fd)
{
	calls.syncs++;
	if (fails(calls.fail_syncs))
		return -1;
	return __real_fdatasync(fd);
}

int __wrap_io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags)
{
	return -EPERM;
}

static void open_image(struct backend_rig *rig, const char *io, const char *write_cache)
{
	char path[RIG_PATH_BYTES];
	const struct vublk_option options[] = {
		{ "blk-file", path }, { "num-queues", "4" }, { "io", io },
		{ "cache", "buffered" }, { "write-cache", write_cache }, { 0 },
	};
	int fd = rig_make_image(path, 8 << 20);

	vublk_fd_close(&fd);
	memset(&calls, 0, sizeof(calls));
	rig_open(rig, options);
}

/* Starts a back-end that makes blocking calls, and its queue 0. */
static void start(struct backend_rig *rig, const char *write_cache)
{
	open_image(rig, "blocking", write_cache);
	rig_start(rig);
}

static void reset_device(struct backend_rig *rig)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, VUBLK_VU_RESET_DEVICE);
	assert_int_equal(rig_send_acked(rig, &message), 0);
	assert_int_equal(rig_set_u64(rig, VUBLK_VU_SET_FEATURES, rig->features), 0);
	rig_start_queue(rig, 0, RIG_SIZE, 0);
}

static void write_once(struct backend_rig *rig)
{
	calls.syncs = calls.plain_writes = 0;
	assert_int_equal(rig_io(rig, 0, VIRTIO_BLK_T_OUT, 0, 0, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(calls.plain_writes, 1);
}

static void write_zeroes_once(struct backend_rig *rig)
{
	struct virtio_blk_discard_write_zeroes range = { 8, 8, 0 };

	calls.syncs = 0;
	memcpy(rig_data(rig, 0), &range, sizeof(range));
	assert_int_equal(rig_io(rig, 0, VIRTIO_BLK_T_WRITE_ZEROES, 0, 0, sizeof(range)),
			 VIRTIO_BLK_S_OK);
}

static void test_write_back(void **state)
{
	struct backend_rig rig;

	start(&rig, "on");
	write_once(&rig);
	assert_int_equal(calls.syncs, 0);
	write_zeroes_once(&rig);
	assert_int_equal(calls.syncs, 0);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(calls.syncs, 1);
	/* The driver turns the write cache off, and on again. */
	assert_int_equal(rig_set_wce(&rig, 0), 0);
	write_once(&rig);
	assert_int_equal(calls.syncs, 1);
	write_zeroes_once(&rig);
	assert_int_equal(calls.syncs, 1);
	assert_int_equal(rig_set_wce(&rig, 1), 0);
	write_once(&rig);
	assert_int_equal(calls.syncs, 0);
	rig_close(&rig);
}

static void test_write_cache_off(void **state)
{
	struct virtio_blk_config config;
	struct backend_rig rig;

	start(&rig, "off");
	rig_get_config(&rig, &config);
	assert_int_equal(config.wce, 0);
	write_once(&rig);
	assert_int_equal(calls.syncs, 1);
	rig_close(&rig);
}

/*
 * A VM is reset after its driver has turned the write cache off. QEMU keeps its copy of the
 * configuration space across the reset. So the next driver also sees that the write cache is off,
 * and sends no flush.
 */
static void test_write_cache_stays_off(void **state)
{
	struct virtio_blk_config config;
	struct backend_rig rig;

	start(&rig, "on");
	assert_int_equal(rig_set_wce(&rig, 0), 0);
	reset_device(&rig);
	write_once(&rig);
	assert_int_equal(calls.syncs, 1);
	rig_get_config(&rig, &config);
	assert_int_equal(config.wce, 0);
	rig_close(&rig);
}

/* --- a write cache that was set in another process ------------------------------ */

/* Starts a back-end that resumes a disk, but does not know the driver's setting of wce. */
static void resume(struct backend_rig *rig, struct rig_area *area, bool has_area, uint16_t base)
{
	open_image(rig, "blocking", "on");
	rig_negotiate(rig);
	assert_int_equal(rig_set_mem_table(rig), 0);
	if (has_area) {
		rig_get_area(rig, area);
		area->region->version = 1;
		area->region->desc_num = RIG_SIZE;
		area->region->used_idx = base;
		assert_int_equal(rig_set_area(rig, area), 0);
	}
	rig_start_queue(rig, 0, RIG_SIZE, base);
	write_once(rig);
	assert_int_equal(calls.syncs, 1);
}

static void end_resumed(struct backend_rig *rig, struct rig_area *area)
{
	write_once(rig);
	assert_int_equal(calls.syncs, 0);
	if (area)
		rig_drop_area(area);
	rig_close(rig);
}

static void test_resumed_and_config_read(void **state)
{
	struct virtio_blk_config config;
	struct vublk_vu_message message, reply;
	struct rig_area area;
	struct backend_rig rig;

	resume(&rig, &area, true, 0);
	/*
	 * A read of only the part of the config before wce does not tell the driver the value of
	 * wce.
	 */
	vublk_vu_message_init(&message, VUBLK_VU_GET_CONFIG);
	message.payload.config.size_bytes = 32;
	message.header.size = VUBLK_VU_CONFIG_HEADER_BYTES;
	rig_ask(&rig, &message, &reply);
	write_once(&rig);
	assert_int_equal(calls.syncs, 1);
	rig_get_config(&rig, &config);
	assert_int_equal(config.wce, 1);
	end_resumed(&rig, &area);
}

static void test_resumed_and_set(void **state)
{
	struct rig_area area;
	struct backend_rig rig;

	resume(&rig, &area, true, 0);
	assert_int_equal(rig_set_wce(&rig, 1), 0);
	end_resumed(&rig, &area);
}

/* Without an in-flight area, a base other than 0 shows that the disk was in use before. */
static void test_resumed_ring(void **state)
{
	struct backend_rig rig;

	resume(&rig, NULL, false, 7);
	assert_int_equal(rig_set_wce(&rig, 1), 0);
	end_resumed(&rig, NULL);
}

/*
 * After a resume and a reset of the VM, writes are still stable, because QEMU does not read the
 * config again.
 */
static void test_resumed_and_reset(void **state)
{
	struct rig_area area;
	struct backend_rig rig;

	resume(&rig, &area, true, 0);
	reset_device(&rig);
	write_once(&rig);
	assert_int_equal(calls.syncs, 1);
	rig_drop_area(&area);
	rig_close(&rig);
}

/*
 * After a pause within a session, the back-end does not sync each write, because the front-end has
 * read the config in this session.
 */
static void test_paused(void **state)
{
	struct virtio_blk_config config;
	struct rig_area area;
	struct backend_rig rig;

	open_image(&rig, "blocking", "on");
	rig_negotiate(&rig);
	rig_get_config(&rig, &config);
	assert_int_equal(rig_set_mem_table(&rig), 0);
	rig_get_area(&rig, &area);
	assert_int_equal(rig_set_area(&rig, &area), 0);
	rig_start_queue(&rig, 0, RIG_SIZE, 0);
	write_once(&rig);
	assert_int_equal(rig_get_base(&rig, 0), 1);
	assert_int_equal(rig_set_area(&rig, &area), 0);
	assert_int_equal(rig_tell_queue(&rig, 0, 1), 0);
	end_resumed(&rig, &area);
}

/* A driver without FLUSH cannot flush, so each write has to be stable. */
static void test_without_flush(void **state)
{
	struct backend_rig rig;

	open_image(&rig, "blocking", "on");
	rig_negotiate(&rig);
	rig.features &= ~VUBLK_BIT(VIRTIO_BLK_F_FLUSH);
	assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SET_FEATURES, rig.features), 0);
	assert_int_equal(rig_set_mem_table(&rig), 0);
	rig_start_queue(&rig, 0, RIG_SIZE, 0);
	write_once(&rig);
	assert_int_equal(calls.syncs, 1);
	rig_close(&rig);
}

static void test_short_and_interrupted(void **state)
{
	struct backend_rig rig;
	char *data;

	start(&rig, "on");
	data = rig_data(&rig, 0);
	for (unsigned i = 0; i < 16384; i++)
		data[i] = (char)(i * 2654435761u >> 24);
	calls.at_most = 700;
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 8, 0, 16384), VIRTIO_BLK_S_OK);
	assert_int_equal(calls.plain_writes, 24);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_IN, 8, 16384, 16384), VIRTIO_BLK_S_OK);
	assert_memory_equal(data, data + 16384, 16384);
	calls.at_most = 0;
	calls.fail_writes = EINTR;
	calls.times = 3;
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 0, 0, 4096), VIRTIO_BLK_S_OK);
	calls.fail_writes = EAGAIN;
	calls.times = 3;
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 0, 0, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(calls.times, 0);
	rig_close(&rig);
}

static void test_errors_have_words(void **state)
{
	struct backend_rig rig;

	start(&rig, "on");
	calls.fail_writes = ENOSPC;
	calls.times = 1;
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 16, 0, 4096), VIRTIO_BLK_S_IOERR);
	assert_true(rig_log_has(&rig, "write of 4096 bytes at offset 8192 of '"));
	assert_true(rig_log_has(&rig,
				 "No space left on device; free some space on its file system"));
	calls.fail_writes = 0;
	calls.fail_reads = EIO;
	calls.times = 1;
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_IN, 0, 0, 4096), VIRTIO_BLK_S_IOERR);
	assert_true(rig_log_has(&rig, "read of 4096 bytes"));
	assert_false(rig_log_has(&rig, "the image now has only"));
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_IN, 0, 0, 4096), VIRTIO_BLK_S_OK);
	calls.fail_reads = 0;
	calls.fail_syncs = EIO;
	calls.times = 1;
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_IOERR);
	assert_false(rig_log_has(&rig, "of 0 bytes"));
	rig_close(&rig);
}

static void test_errors_do_not_fill_the_log(void **state)
{
	struct backend_rig rig;
	unsigned lines;

	start(&rig, "on");
	calls.fail_writes = EIO;
	calls.times = 1000;
	lines = rig_log_lines(&rig);
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 0, 0, 512),
				 VIRTIO_BLK_S_IOERR);
	assert_true(rig_log_lines(&rig) - lines < 20);
	rig_close(&rig);
}

/*
 * Without io_uring the back-end logs a warning, but serves the disk. With io=io_uring it does not
 * start.
 */
static void test_without_io_uring(void **state)
{
	struct vublk_error error = { 0 };
	struct vublk_backend *backend;
	char path[128];
	struct backend_rig rig;

	open_image(&rig, "auto", "on");
	assert_true(rig_log_has(&rig, "io_uring is not available (Operation not permitted): "
			       "a seccomp filter or a security module"));
	rig_start(&rig);
	write_once(&rig);
	rig_close(&rig);
	snprintf(path, sizeof(path), "%s/image", vublk_test_folder());
	assert_int_equal(vublk_backend_open((struct vublk_option[]){
			{ "blk-file", path }, { "socket-path", "unused" }, { "io", "io_uring" },
			{ 0 } }, NULL, &backend, &error), -EPERM);
	assert_non_null(strstr(error.text, "use io=auto"));
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_write_back),
		VUBLK_TEST(test_write_cache_off),
		VUBLK_TEST(test_write_cache_stays_off),
		VUBLK_TEST(test_resumed_and_config_read),
		VUBLK_TEST(test_resumed_and_set),
		VUBLK_TEST(test_resumed_ring),
		VUBLK_TEST(test_resumed_and_reset),
		VUBLK_TEST(test_paused),
		VUBLK_TEST(test_without_flush),
		VUBLK_TEST(test_short_and_interrupted),
		VUBLK_TEST(test_errors_have_words),
		VUBLK_TEST(test_errors_do_not_fill_the_log),
		VUBLK_TEST(test_without_io_uring),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
