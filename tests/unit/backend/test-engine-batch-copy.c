/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Batches of requests to a file in memory: one system call executes many requests. Requests that a
 * batch cannot execute are executed by plain calls, or fail. Reads do not fill holes.
 */
#include "engine-rig.h"
#include "harness.h"

#include "backend/engine/file/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define IMAGE_BYTES (4 << 20)
#define BYTES 4096
#define MANY 16

/* Counts of the intercepted calls, and the behavior of the next batches. */
static struct {
	unsigned plain, batches;
	int batch_fails; /* the errno with which a batch fails; 0: it does not fail */
	ssize_t at_most; /* the most bytes that a batch moves; 0: no limit */
} calls;

ssize_t __real_pread64(int fd, void *buffer, size_t bytes, off_t offset);
ssize_t __real_pwrite64(int fd, const void *buffer, size_t bytes, off_t offset);
ssize_t __real_process_vm_readv(pid_t pid, const struct iovec *local, unsigned long num_local,
				const struct iovec *remote, unsigned long num_remote,
				unsigned long flags);
ssize_t __real_process_vm_writev(pid_t pid, const struct iovec *local, unsigned long num_local,
				 const struct iovec *remote, unsigned long num_remote,
				 unsigned long flags);
ssize_t __wrap_pread64(int fd, void *buffer, size_t bytes, off_t offset);
ssize_t __wrap_pwrite64(int fd, const void *buffer, size_t bytes, off_t offset);
ssize_t __wrap_process_vm_readv(pid_t pid, const struct iovec *local, unsigned long num_local,
				const struct iovec *remote, unsigned long num_remote,
				unsigned long flags);
ssize_t __wrap_process_vm_writev(pid_t pid, const struct iovec *local, unsigned long num_local,
				 const struct iovec *remote, unsigned long num_remote,
				 unsigned long flags);

ssize_t __wrap_pread64(int fd, void *buffer, size_t bytes, off_t offset)
{
	calls.plain++;
	return __real_pread64(fd, buffer, bytes, offset);
}

ssize_t __wrap_pwrite64(int fd, const void *buffer, size_t bytes, off_t offset)
{
	calls.plain++;
	return __real_pwrite64(fd, buffer, bytes, offset);
}

/*
 * Returns the buffers that a batch may use: all, or a part of the first. NULL: the call must fail.
 */
static const struct iovec *begin_batch(const struct iovec *local, unsigned long *count,
				       struct iovec *part)
{
	calls.batches++;
	errno = calls.batch_fails;
	if (calls.batch_fails)
		return NULL;
	if (!calls.at_most)
		return local;
	*part = local[0];
	part->iov_len = (size_t)calls.at_most;
	*count = 1;
	return part;
}

ssize_t __wrap_process_vm_readv(pid_t pid, const struct iovec *local, unsigned long num_local,
				const struct iovec *remote, unsigned long num_remote,
				unsigned long flags)
{
	struct iovec part;

	local = begin_batch(local, &num_local, &part);
	return !local ? -1 : __real_process_vm_readv(pid, local, num_local, remote, num_remote,
						     flags);
}

ssize_t __wrap_process_vm_writev(pid_t pid, const struct iovec *local, unsigned long num_local,
				 const struct iovec *remote, unsigned long num_remote,
				 unsigned long flags)
{
	struct iovec part;

	local = begin_batch(local, &num_local, &part);
	return !local ? -1 : __real_process_vm_writev(pid, local, num_local, remote, num_remote,
						      flags);
}

/* --- a disk, and many requests to it -------------------------------------------- */

struct disk {
	int fd;
	struct vublk_engine *engine;
	struct vublk_engine_queue *queue;
	char *image; /* the expected content of the image */
	int buffer_fd;
	char *buffers; /* the driver's buffers, IMAGE_BYTES in total */
	struct vublk_engine_io ios[MANY];
	struct iovec iovs[MANY][2];
	unsigned num_ios;
};

static struct engine_log last;
static const struct vublk_log test_log = { engine_log_keep, &last, VUBLK_LOG_DEBUG };

static void open_engine(struct disk *disk, bool read_only)
{
	char path[64];
	struct vublk_engine_options options = {
		.path = path, .read_only = read_only, .log = &test_log,
	};
	struct vublk_error error = { 0 };

	snprintf(path, sizeof(path), "/proc/self/fd/%d", disk->fd);
	if (vublk_engine_open(&vublk_engine_file, &options, &disk->engine, &error))
		fail_msg("%s", error.text);
	assert_int_equal(disk->engine->ops->queue_new(disk->engine, &disk->queue, &error), 0);
}

/* Opens an image that contains data everywhere. With `has_hole`, its second half is a hole. */
static void disk_open(struct disk *disk, bool has_hole)
{
	const struct vublk_file *file;
	size_t written = has_hole ? IMAGE_BYTES / 2 : IMAGE_BYTES;

	*disk = (struct disk){ .fd = memfd_create("image", MFD_CLOEXEC) };
	assert_int_equal(ftruncate(disk->fd, IMAGE_BYTES), 0);
	disk->image = calloc(1, IMAGE_BYTES);
	engine_fill(disk->image, written, 3);
	assert_int_equal(write(disk->fd, disk->image, written), written);
	disk->buffer_fd = memfd_create("buffers", MFD_CLOEXEC);
	assert_int_equal(ftruncate(disk->buffer_fd, IMAGE_BYTES), 0);
	disk->buffers = mmap(NULL, IMAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
			     disk->buffer_fd, 0);
	assert_ptr_not_equal(disk->buffers, MAP_FAILED);
	open_engine(disk, false);
	file = (const struct vublk_file *)disk->engine;
	if (!file->mapping.base) {
		print_message("there is no io_uring or no userfaultfd here\n");
		exit(77);
	}
	memset(&calls, 0, sizeof(calls));
}

static void close_engine(struct disk *disk)
{
	disk->queue->ops->free(disk->queue);
	vublk_engine_close(disk->engine);
}

static void disk_close(struct disk *disk)
{
	close_engine(disk);
	munmap(disk->buffers, IMAGE_BYTES);
	free(disk->image);
	close(disk->buffer_fd);
	close(disk->fd);
}

/*
 * Submits a request whose data is at `offset` in both the image and the buffers, in two segments.
 */
static void ask(struct disk *disk, enum vublk_engine_op op, uint64_t offset, uint64_t bytes,
		unsigned flags)
{
	struct vublk_engine_io *io = &disk->ios[disk->num_ios];
	struct iovec *iov = disk->iovs[disk->num_ios++];

	iov[0] = (struct iovec){ disk->buffers + offset, bytes / 4 };
	iov[1] = (struct iovec){ disk->buffers + offset + bytes / 4, bytes - bytes / 4 };
	*io = (struct vublk_engine_io){
		.op = op, .flags = flags, .offset = offset, .bytes = bytes,
		.iov = iov, .num_iov = 2, .result = 1,
	};
	disk->queue->ops->submit(disk->queue, io);
}

static void finish(struct disk *disk)
{
	engine_complete(disk->queue, disk->num_ios);
	disk->num_ios = 0;
}

static void finish_well(struct disk *disk)
{
	unsigned n = disk->num_ios;

	finish(disk);
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(disk->ios[i].result, 0);
}

/* Submits MANY requests, which are spread over the image. */
static void ask_many(struct disk *disk, enum vublk_engine_op op, unsigned flags)
{
	for (unsigned i = 0; i < MANY; i++)
		ask(disk, op, (uint64_t)i * (IMAGE_BYTES / MANY) + 512, BYTES, flags);
}

/* Checks that the buffers equal the expected image in the ranges of ask_many(). */
static void check_many(const struct disk *disk)
{
	for (unsigned i = 0; i < MANY; i++) {
		size_t at = i * (IMAGE_BYTES / MANY) + 512;

		assert_memory_equal(disk->buffers + at, disk->image + at, BYTES);
	}
}

/* Fills the buffers in the ranges of ask_many() with new bytes, and updates the expected image. */
static void fill_many(struct disk *disk, unsigned seed)
{
	for (unsigned i = 0; i < MANY; i++) {
		size_t at = i * (IMAGE_BYTES / MANY) + 512;

		engine_fill(disk->buffers + at, BYTES, seed + i);
		memcpy(disk->image + at, disk->buffers + at, BYTES);
	}
}

/* Checks that the file has the expected content. */
static void check_image(const struct disk *disk)
{
	char *there = malloc(IMAGE_BYTES);

	assert_int_equal(__real_pread64(disk->fd, there, IMAGE_BYTES, 0), IMAGE_BYTES);
	assert_memory_equal(there, disk->image, IMAGE_BYTES);
	free(there);
}

/* Makes MANY reads. Checks that all succeed and return the expected data. */
static void read_many(struct disk *disk)
{
	ask_many(disk, VUBLK_OP_READ, 0);
	finish_well(disk);
	check_many(disk);
}

static void write_many(struct disk *disk, unsigned seed, unsigned flags)
{
	fill_many(disk, seed);
	ask_many(disk, VUBLK_OP_WRITE, flags);
	finish_well(disk);
	check_image(disk);
}

static blkcnt_t blocks_of(const struct disk *disk)
{
	struct stat st;

	assert_int_equal(fstat(disk->fd, &st), 0);
	return st.st_blocks;
}

/* --- what a batch can move -------------------------------------------------------- */

static void test_reads(void **state)
{
	struct disk disk;

	disk_open(&disk, false);
	read_many(&disk);
	assert_int_equal(calls.batches, 1);
	assert_int_equal(calls.plain, 0);
	disk_close(&disk);
}

static struct timespec mtime_of(const struct disk *disk)
{
	struct stat st;

	assert_int_equal(fstat(disk->fd, &st), 0);
	return st.st_mtim;
}

/* A write changes the file's times, so that programs that copy changed files see the change. */
static void test_writes(void **state)
{
	const struct timespec long_ago[2] = { { .tv_sec = 1000 }, { .tv_sec = 1000 } };
	struct disk disk;

	disk_open(&disk, false);
	assert_int_equal(futimens(disk.fd, long_ago), 0);
	write_many(&disk, 7, 0);
	assert_int_equal(calls.batches, 1);
	assert_true(mtime_of(&disk).tv_sec > 1000);
	disk_close(&disk);
}

/* Reads and writes that are committed together are two batches. */
static void test_both(void **state)
{
	struct disk disk;

	disk_open(&disk, false);
	fill_many(&disk, 11);
	for (unsigned i = 0; i < MANY; i++)
		ask(&disk, i % 2 ? VUBLK_OP_READ : VUBLK_OP_WRITE,
		    i * (IMAGE_BYTES / MANY) + (i % 2 ? 65536 : 512), BYTES, 0);
	for (unsigned i = 1; i < MANY; i += 2) {
		size_t at = i * (IMAGE_BYTES / MANY) + 512;

		assert_int_equal(__real_pread64(disk.fd, disk.image + at, BYTES, (off_t)at), BYTES);
	}
	finish_well(&disk);
	check_image(&disk);
	for (unsigned i = 1; i < MANY; i += 2) {
		size_t at = i * (IMAGE_BYTES / MANY) + 65536;

		assert_memory_equal(disk.buffers + at, disk.image + at, BYTES);
	}
	assert_int_equal(calls.batches, 2);
	disk_close(&disk);
}

/* Only two requests, long requests, and durable writes do not form a batch. */
static void test_no_batch(void **state)
{
	struct disk disk;

	disk_open(&disk, false);
	ask(&disk, VUBLK_OP_READ, 0, BYTES, 0);
	ask(&disk, VUBLK_OP_READ, 65536, BYTES, 0);
	finish_well(&disk);
	assert_memory_equal(disk.buffers, disk.image, BYTES);
	for (unsigned i = 0; i < MANY; i++)
		ask(&disk, VUBLK_OP_READ, i * 65536, 65536, 0);
	finish_well(&disk);
	assert_memory_equal(disk.buffers, disk.image, MANY * 65536);
	write_many(&disk, 5, VUBLK_IO_DURABLE);
	assert_int_equal(calls.batches, 0);
	disk_close(&disk);
}

/* --- what a batch cannot move ----------------------------------------------------- */

/* A read of a hole returns zeroes and does not fill the hole. */
static void test_holes_stay(void **state)
{
	struct disk disk;
	blkcnt_t before;

	disk_open(&disk, true);
	before = blocks_of(&disk);
	memset(disk.buffers, 1, IMAGE_BYTES);
	read_many(&disk);
	assert_int_equal(calls.batches, 1);
	assert_int_equal(blocks_of(&disk), before);
	disk_close(&disk);
}

static void test_holes_are_filled(void **state)
{
	struct disk disk;

	disk_open(&disk, true);
	write_many(&disk, 9, 0);
	disk_close(&disk);
}

/*
 * After failures, the engine rarely tries a batch. When batches succeed again, it soon uses them
 * for all requests.
 */
static void test_in_vain(void **state)
{
	struct disk disk;
	unsigned batches;

	disk_open(&disk, true);
	for (unsigned i = 0; i < 1000; i++) {
		ask_many(&disk, VUBLK_OP_READ, 0);
		finish_well(&disk);
	}
	assert_in_range(calls.batches, 4, 16);
	assert_int_equal(__real_pwrite64(disk.fd, disk.image, IMAGE_BYTES, 0), IMAGE_BYTES);
	batches = calls.batches;
	for (unsigned i = 0; i < 1000; i++) {
		ask_many(&disk, VUBLK_OP_READ, 0);
		finish_well(&disk);
	}
	assert_true(calls.batches > batches + 700);
	disk_close(&disk);
}

/*
 * The system call moves only a part of the data of a batch. Plain calls execute the requests that
 * are not complete.
 */
static void test_part(void **state)
{
	static const ssize_t parts[] = { 1, BYTES / 4, BYTES / 8 };

	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(parts); i++) {
		struct disk disk;

		disk_open(&disk, false);
		calls.at_most = parts[i];
		read_many(&disk);
		write_many(&disk, i, 0);
		assert_int_equal(calls.batches, 2);
		calls.at_most = 0;
		disk_close(&disk);
	}
}

static void test_refused(void **state)
{
	struct disk disk;

	disk_open(&disk, false);
	calls.batch_fails = EPERM;
	read_many(&disk);
	write_many(&disk, 2, 0);
	disk_close(&disk);
}

/* Another program shrinks the image. Only requests past its end fail, and no SIGBUS is raised. */
static void test_shrunk_image(void **state)
{
	struct disk disk;

	disk_open(&disk, false);
	assert_int_equal(ftruncate(disk.fd, IMAGE_BYTES / 2), 0);
	ask_many(&disk, VUBLK_OP_READ, 0);
	finish(&disk);
	for (unsigned i = 0; i < MANY; i++)
		assert_int_equal(disk.ios[i].result, i < MANY / 2 ? 0 : -EIO);
	assert_memory_equal(disk.buffers + 512, disk.image + 512, BYTES);
	disk_close(&disk);
}

/*
 * The file of the buffers shrinks. Only requests whose buffers are past its end fail, and no SIGBUS
 * is raised.
 */
static void test_shrunk_buffers(void **state)
{
	struct disk disk;

	disk_open(&disk, false);
	assert_int_equal(ftruncate(disk.buffer_fd, IMAGE_BYTES / 2), 0);
	for (unsigned way = 0; way < 2; way++) {
		ask_many(&disk, way ? VUBLK_OP_WRITE : VUBLK_OP_READ, 0);
		finish(&disk);
		for (unsigned i = 0; i < MANY; i++)
			assert_int_equal(disk.ios[i].result, i < MANY / 2 ? 0 : -EFAULT);
	}
	disk_close(&disk);
}

/* The image grows after it was opened. The engine's mapping does not cover the added bytes. */
static void test_grown(void **state)
{
	struct disk disk;

	disk_open(&disk, false);
	assert_int_equal(ftruncate(disk.fd, IMAGE_BYTES + MANY * BYTES), 0);
	memset(disk.buffers, 1, MANY * BYTES);
	for (unsigned i = 0; i < MANY; i++) {
		disk.iovs[i][0] = (struct iovec){ disk.buffers + i * BYTES, BYTES };
		disk.ios[i] = (struct vublk_engine_io){
			.op = VUBLK_OP_READ, .offset = IMAGE_BYTES + i * BYTES, .bytes = BYTES,
			.iov = disk.iovs[i], .num_iov = 1, .result = 1,
		};
		disk.queue->ops->submit(disk.queue, &disk.ios[i]);
	}
	disk.num_ios = MANY;
	finish_well(&disk);
	for (unsigned i = 0; i < MANY * BYTES; i++)
		assert_int_equal(disk.buffers[i], 0);
	assert_int_equal(calls.batches, 0);
	assert_int_equal(calls.plain, MANY);
	disk_close(&disk);
}

static void test_read_only(void **state)
{
	struct disk disk;

	disk_open(&disk, false);
	close_engine(&disk);
	open_engine(&disk, true);
	assert_null(((struct vublk_file *)disk.engine)->mapping.base);
	read_many(&disk);
	assert_int_equal(calls.batches, 0);
	disk_close(&disk);
}

/* Holes stay holes even under mlockall(), which makes the kernel fill new mappings. */
static void test_locked(void **state)
{
	struct disk disk;
	blkcnt_t before;

	disk_open(&disk, true);
	close_engine(&disk);
	before = blocks_of(&disk);
	if (mlockall(MCL_FUTURE) < 0) {
		print_message("mlockall: %s\n", strerror(errno));
		exit(77);
	}
	open_engine(&disk, false);
	munlockall();
	assert_int_equal(blocks_of(&disk), before);
	disk_close(&disk);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_reads),
		VUBLK_TEST(test_writes),
		VUBLK_TEST(test_both),
		VUBLK_TEST(test_no_batch),
		VUBLK_TEST(test_holes_stay),
		VUBLK_TEST(test_holes_are_filled),
		VUBLK_TEST(test_in_vain),
		VUBLK_TEST(test_part),
		VUBLK_TEST(test_refused),
		VUBLK_TEST(test_shrunk_image),
		VUBLK_TEST(test_shrunk_buffers),
		VUBLK_TEST(test_grown),
		VUBLK_TEST(test_read_only),
		VUBLK_TEST(test_locked),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
