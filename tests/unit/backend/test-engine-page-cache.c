/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tests which requests the file engine executes by plain system calls, and which it leaves to
 * io_uring. The test intercepts and counts the system calls, and decides which data the page cache
 * contains.
 */
#include "engine-rig.h"
#include "harness.h"

#include "backend/engine/file/file.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define IMAGE_BYTES (4 << 20)
#define NOTHING SIZE_MAX

/* Counts of the intercepted calls, by kind, and the behavior of the next calls. */
static struct {
	unsigned plain, vectors, durable, tries, syncs, submits;
	int try_fails;       /* the errno with which RWF_NOWAIT fails; 0: everything is cached */
	size_t at_most;      /* the most bytes that a call moves; 0: no limit; NOTHING: the call
				fails */
	int fail_after_part; /* if not 0, a call that moves `at_most` bytes is followed by failures
				with this errno */
	int submit_fails;    /* the errno with which io_uring_submit() fails */
} calls;

ssize_t __real_pread64(int fd, void *buffer, size_t bytes, off_t offset);
ssize_t __real_pwrite64(int fd, const void *buffer, size_t bytes, off_t offset);
ssize_t __real_preadv64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags);
ssize_t __real_pwritev64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags);
int __real_fdatasync(int fd);
int __real_io_uring_submit(struct io_uring *ring);
ssize_t __wrap_pread64(int fd, void *buffer, size_t bytes, off_t offset);
ssize_t __wrap_pwrite64(int fd, const void *buffer, size_t bytes, off_t offset);
ssize_t __wrap_preadv64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags);
ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags);
int __wrap_fdatasync(int fd);
int __wrap_io_uring_submit(struct io_uring *ring);

/* Returns how many of `bytes` a call may move. 0: the call must fail, and errno is set. */
static size_t allowed(size_t bytes)
{
	if (calls.at_most == NOTHING) {
		errno = calls.fail_after_part;
		return 0;
	}
	if (!calls.at_most || bytes <= calls.at_most)
		return bytes;
	bytes = calls.at_most;
	if (calls.fail_after_part)
		calls.at_most = NOTHING;
	return bytes;
}

ssize_t __wrap_pread64(int fd, void *buffer, size_t bytes, off_t offset)
{
	calls.plain++;
	return __real_pread64(fd, buffer, allowed(bytes), offset);
}

ssize_t __wrap_pwrite64(int fd, const void *buffer, size_t bytes, off_t offset)
{
	size_t n = allowed(bytes);

	calls.plain++;
	return n ? __real_pwrite64(fd, buffer, n, offset) : -1;
}

/*
 * Counts a call of preadv2() or pwritev2(). With RWF_NOWAIT, the call is a try of the page cache.
 * Returns false if the call must fail.
 */
static bool count_vector(int flags)
{
	if (flags & RWF_DSYNC)
		calls.durable++;
	if (!(flags & RWF_NOWAIT)) {
		calls.vectors++;
		return true;
	}
	calls.tries++;
	errno = calls.try_fails;
	return !calls.try_fails;
}

/* Returns the buffers that a call may use: all of them, or only a part of the first one. */
static const struct iovec *shorten(const struct iovec *iov, int *count, struct iovec *part)
{
	*part = iov[0];
	part->iov_len = allowed(iov[0].iov_len);
	if (part->iov_len < iov[0].iov_len)
		*count = 1;
	return *count == 1 ? part : iov;
}

ssize_t __wrap_preadv64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
	struct iovec part;

	if (!count_vector(flags))
		return -1;
	iov = shorten(iov, &count, &part);
	return __real_preadv64v2(fd, iov, count, offset, flags & ~RWF_NOWAIT);
}

ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
	struct iovec part;

	if (!count_vector(flags))
		return -1;
	iov = shorten(iov, &count, &part);
	return __real_pwritev64v2(fd, iov, count, offset, flags & ~RWF_NOWAIT);
}

int __wrap_fdatasync(int fd)
{
	calls.syncs++;
	return __real_fdatasync(fd);
}

int __wrap_io_uring_submit(struct io_uring *ring)
{
	calls.submits++;
	return calls.submit_fails ? -calls.submit_fails : __real_io_uring_submit(ring);
}

static unsigned inline_calls(void)
{
	return calls.plain + calls.vectors + calls.tries + calls.syncs;
}

/* --- an image ------------------------------------------------------------------ */

struct disk {
	int fd;
	struct vublk_engine *engine;
	struct vublk_engine_queue *queue;
	char *data; /* IMAGE_BYTES of data */
	char *back;
};

static struct engine_log last;
static const struct vublk_log test_log = { engine_log_keep, &last, VUBLK_LOG_DEBUG };

/*
 * Opens an image, which is always on tmpfs. If `in_memory` is false, the engine is told that the
 * image is on another file system.
 */
static void disk_open(struct disk *disk, enum vublk_io_method method, bool in_memory)
{
	char path[64];
	struct vublk_engine_options options = { .path = path, .method = method, .log = &test_log };
	struct vublk_error error = { 0 };

	disk->fd = memfd_create("image", MFD_CLOEXEC);
	assert_int_equal(ftruncate(disk->fd, IMAGE_BYTES), 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", disk->fd);
	if (vublk_engine_open(&vublk_engine_file, &options, &disk->engine, &error))
		fail_msg("%s", error.text);
	if (((struct vublk_file *)disk->engine)->blocking) {
		print_message("%s\n", last.text);
		exit(77);
	}
	((struct vublk_file *)disk->engine)->in_memory = in_memory;
	if (!in_memory)
		vublk_file_mapping_close((struct vublk_file *)disk->engine);
	assert_int_equal(disk->engine->ops->queue_new(disk->engine, &disk->queue, &error), 0);
	disk->data = malloc(IMAGE_BYTES);
	disk->back = calloc(1, IMAGE_BYTES);
	engine_fill(disk->data, IMAGE_BYTES, 3);
	memset(&calls, 0, sizeof(calls));
}

static void disk_close(struct disk *disk)
{
	disk->queue->ops->free(disk->queue);
	vublk_engine_close(disk->engine);
	free(disk->data);
	free(disk->back);
	close(disk->fd);
}

static int disk_write(struct disk *disk, unsigned flags, uint64_t offset, size_t bytes)
{
	struct iovec iov = { disk->data + offset, bytes };

	return engine_io(disk->queue, VUBLK_OP_WRITE, flags, offset, bytes, &iov, 1);
}

static int disk_read(struct disk *disk, uint64_t offset, size_t bytes)
{
	struct iovec iov = { disk->back + offset, bytes };

	return engine_io(disk->queue, VUBLK_OP_READ, 0, offset, bytes, &iov, 1);
}

/* Writes data, reads it back and compares. */
static void check_both(struct disk *disk, unsigned flags, uint64_t offset, size_t bytes)
{
	assert_int_equal(disk_write(disk, flags, offset, bytes), 0);
	memset(disk->back, 0, IMAGE_BYTES);
	assert_int_equal(disk_read(disk, offset, bytes), 0);
	assert_memory_equal(disk->back + offset, disk->data + offset, bytes);
}

/* --- a file in memory ---------------------------------------------------------- */

static void test_memory(void **state)
{
	struct disk disk;

	disk_open(&disk, VUBLK_IO_AUTO, true);
	check_both(&disk, 0, 512, 4096);
	assert_int_equal(calls.plain, 2);
	check_both(&disk, VUBLK_IO_DURABLE, 8192, 4096);
	assert_int_equal(calls.plain, 3);
	assert_int_equal(calls.durable, 1);
	assert_int_equal(engine_io(disk.queue, VUBLK_OP_FLUSH, 0, 0, 0, NULL, 0), 0);
	assert_int_equal(calls.syncs, 1);
	assert_int_equal(calls.tries + calls.submits, 0);
	check_both(&disk, 0, 0, 256 << 10);
	assert_int_equal(calls.plain, 3);
	assert_int_equal(calls.submits, 2);
	disk_close(&disk);
}

static void test_all_by_io_uring(void **state)
{
	struct disk disk;

	for (unsigned in_memory = 0; in_memory < 2; in_memory++) {
		disk_open(&disk, VUBLK_IO_URING, in_memory);
		check_both(&disk, 0, 512, 4096);
		assert_int_equal(engine_io(disk.queue, VUBLK_OP_FLUSH, 0, 0, 0, NULL, 0), 0);
		assert_int_equal(inline_calls(), 0);
		assert_int_equal(calls.submits, 3);
		disk_close(&disk);
	}
}

#define NUM_REFUSED 300 /* more than the submission queue has entries */

/*
 * For a while the kernel accepts no entries of io_uring, and no event tells when it accepts them
 * again. So the engine must set retry_ms, which makes the worker call poll() again soon.
 */
static void check_refused(int code)
{
	struct vublk_engine_io ios[NUM_REFUSED], *done[NUM_REFUSED];
	struct iovec iovs[NUM_REFUSED];
	struct disk disk;
	unsigned n = 0;

	disk_open(&disk, VUBLK_IO_URING, false);
	assert_int_equal(disk.queue->retry_ms, 0);
	calls.submit_fails = code;
	for (unsigned i = 0; i < NUM_REFUSED; i++) {
		iovs[i] = (struct iovec){ disk.data + i * 512, 512 };
		ios[i] = (struct vublk_engine_io){
			.op = VUBLK_OP_WRITE, .offset = i * 512, .bytes = 512,
			.iov = &iovs[i], .num_iov = 1, .result = 1,
		};
		disk.queue->ops->submit(disk.queue, &ios[i]);
	}
	disk.queue->ops->commit(disk.queue);
	for (unsigned i = 0; i < 3; i++) {
		assert_true(disk.queue->retry_ms);
		assert_int_equal(disk.queue->ops->poll(disk.queue, done, NUM_REFUSED), 0);
	}
	calls.submit_fails = 0;
	/*
	 * One poll() submits as many entries as the kernel accepts. After that, completions signal
	 * the queue's descriptor.
	 */
	disk.queue->ops->poll(disk.queue, done, 0);
	while (n < NUM_REFUSED)
		n += disk.queue->ops->poll(disk.queue, &done[n], NUM_REFUSED - n);
	assert_int_equal(disk.queue->retry_ms, 0);
	for (unsigned i = 0; i < NUM_REFUSED; i++)
		assert_int_equal(ios[i].result, 0);
	disk_close(&disk);
}

static void test_refused_for_a_while(void **state)
{
	check_refused(EAGAIN);
	check_refused(EBUSY);
	check_refused(EINTR);
	check_refused(ENOMEM);
}

/* Calls move fewer bytes than requested, and then a later call fails. */
static void test_memory_short(void **state)
{
	struct disk disk;

	disk_open(&disk, VUBLK_IO_AUTO, true);
	calls.at_most = 1000;
	check_both(&disk, 0, 512, 4096);
	assert_int_equal(calls.plain, 10);
	calls.fail_after_part = ENOSPC;
	assert_int_equal(disk_write(&disk, 0, 0, 4096), -ENOSPC);
	assert_non_null(strstr(last.text, "free some space on its file system"));
	calls.at_most = calls.fail_after_part = 0;
	check_both(&disk, 0, 0, 4096);
	assert_int_equal(calls.submits, 0);
	disk_close(&disk);
}

#define LONG_BYTES (128u << 10)
#define NUM_LONG 16

/* After two long requests, the others wait for the next poll(). All requests keep their order. */
static void test_memory_in_turns(void **state)
{
	struct vublk_engine_io ios[NUM_LONG + 1], *done[NUM_LONG + 1];
	struct iovec iovs[NUM_LONG + 1];
	unsigned before = 0, n = 0;
	struct disk disk;

	disk_open(&disk, VUBLK_IO_AUTO, true);
	for (unsigned i = 0; i <= NUM_LONG; i++) {
		iovs[i] = (struct iovec){ disk.data, i < NUM_LONG ? LONG_BYTES : 512 };
		ios[i] = (struct vublk_engine_io){
			.op = VUBLK_OP_WRITE, .offset = i * LONG_BYTES, .iov = &iovs[i],
			.bytes = iovs[i].iov_len, .num_iov = 1, .result = 1,
		};
	}
	for (unsigned i = 0; i < NUM_LONG; i++)
		disk.queue->ops->submit(disk.queue, &ios[i]);
	disk.queue->ops->commit(disk.queue);
	while (n <= NUM_LONG) {
		unsigned got;

		assert_true(calls.plain - before <= 2);
		before = calls.plain;
		got = disk.queue->ops->poll(disk.queue, &done[n], NUM_LONG + 1 - n);
		if (!n)
			disk.queue->ops->submit(disk.queue, &ios[NUM_LONG]);
		assert_true(got);
		n += got;
	}
	for (unsigned i = 0; i <= NUM_LONG; i++) {
		assert_ptr_equal(done[i], &ios[i]);
		assert_int_equal(ios[i].result, 0);
	}
	assert_int_equal(calls.submits, 0);
	disk_close(&disk);
}

/* --- the page cache ------------------------------------------------------------ */

static void test_cached(void **state)
{
	struct disk disk;

	disk_open(&disk, VUBLK_IO_AUTO, false);
	check_both(&disk, 0, 512, 4096);
	assert_int_equal(calls.tries, 2);
	assert_int_equal(calls.submits, 0);
	/* These requests would wait for the disk. */
	assert_int_equal(disk_write(&disk, VUBLK_IO_DURABLE, 0, 4096), 0);
	assert_int_equal(engine_io(disk.queue, VUBLK_OP_FLUSH, 0, 0, 0, NULL, 0), 0);
	assert_int_equal(disk_write(&disk, 0, 0, 256 << 10), 0);
	((struct vublk_file *)disk.engine)->direct = true;
	((struct vublk_file *)disk.engine)->memory_align = 1;
	((struct vublk_file *)disk.engine)->offset_align = 512;
	assert_int_equal(disk_write(&disk, 0, 0, 4096), 0);
	assert_int_equal(inline_calls(), 2);
	assert_int_equal(calls.submits, 4);
	disk_close(&disk);
}

/* Several requests that are committed together cost one system call. */
static void test_cached_several(void **state)
{
	struct vublk_engine_io ios[8];
	struct iovec iovs[8];
	struct disk disk;

	disk_open(&disk, VUBLK_IO_AUTO, false);
	for (unsigned i = 0; i < 8; i++) {
		iovs[i] = (struct iovec){ disk.data + i * 512, 512 };
		ios[i] = (struct vublk_engine_io){
			.op = VUBLK_OP_WRITE, .offset = i * 512, .bytes = 512,
			.iov = &iovs[i], .num_iov = 1, .result = 1,
		};
		disk.queue->ops->submit(disk.queue, &ios[i]);
	}
	engine_complete(disk.queue, 8);
	assert_int_equal(inline_calls(), 0);
	assert_int_equal(calls.submits, 1);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(ios[i].result, 0);
	assert_int_equal(disk_read(&disk, 0, 4096), 0);
	assert_memory_equal(disk.back, disk.data, 4096);
	disk_close(&disk);
}

/* A system call moves the cached part of a request, and io_uring moves the rest. */
static void test_cached_in_part(void **state)
{
	struct iovec iov[3];
	struct disk disk;

	disk_open(&disk, VUBLK_IO_AUTO, false);
	calls.at_most = 1000;
	check_both(&disk, 0, 512, 4096);
	iov[0] = (struct iovec){ disk.data + 10000, 1536 };
	iov[1] = (struct iovec){ disk.data, 10 };
	iov[2] = (struct iovec){ disk.data + 20000, 2550 };
	assert_int_equal(engine_io(disk.queue, VUBLK_OP_WRITE, 0, 0, 4096, iov, 3), 0);
	assert_int_equal(calls.tries, 3);
	assert_int_equal(calls.submits, 3);
	assert_int_equal(disk_read(&disk, 0, 4096), 0);
	assert_memory_equal(disk.back, disk.data + 10000, 1536);
	assert_memory_equal(disk.back + 1536, disk.data, 10);
	assert_memory_equal(disk.back + 1546, disk.data + 20000, 2550);
	disk_close(&disk);
}

/*
 * If tries fail, the engine rarely tries the page cache. When tries succeed again, it soon tries
 * the page cache for each request.
 */
static void test_cold(void **state)
{
	struct disk disk;
	unsigned tries;

	disk_open(&disk, VUBLK_IO_AUTO, false);
	calls.try_fails = EAGAIN;
	check_both(&disk, 0, 512, 4096);
	assert_int_equal(calls.submits, calls.tries);
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(disk_read(&disk, 512, 4096), 0);
	tries = calls.tries;
	assert_in_range(tries, 4, 16);
	/* Reads and writes have separate back-offs. */
	assert_int_equal(disk_write(&disk, 0, 0, 512), 0);
	assert_int_equal(disk_write(&disk, 0, 0, 512), 0);
	assert_true(calls.tries > tries);
	calls.try_fails = 0;
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(disk_read(&disk, 512, 4096), 0);
	assert_true(calls.tries > tries + 700);
	disk_close(&disk);
}

/* If the file system lacks RWF_NOWAIT, the engine tries it once for reads and once for writes. */
static void test_no_tries(void **state)
{
	static const int codes[] = { EOPNOTSUPP, EINVAL };

	for (unsigned c = 0; c < 2; c++) {
		struct disk disk;

		disk_open(&disk, VUBLK_IO_AUTO, false);
		calls.try_fails = codes[c];
		for (unsigned i = 0; i < 1000; i++)
			assert_int_equal(disk_write(&disk, 0, 512, 4096), 0);
		assert_int_equal(calls.tries, 1);
		assert_int_equal(calls.submits, 1000);
		calls.try_fails = 0;
		assert_int_equal(disk_read(&disk, 512, 4096), 0);
		assert_memory_equal(disk.back + 512, disk.data + 512, 4096);
		assert_int_equal(calls.tries, 2);
		disk_close(&disk);
	}
}

/* If a try fails, io_uring executes the request, and the error of the try is ignored. */
static void test_try_is_no_verdict(void **state)
{
	struct disk disk;

	disk_open(&disk, VUBLK_IO_AUTO, false);
	calls.try_fails = EIO;
	check_both(&disk, 0, 512, 4096);
	assert_int_equal(calls.tries, 2);
	assert_int_equal(calls.submits, 2);
	disk_close(&disk);
}

/* --- files that fail ----------------------------------------------------------- */

/* Another program shrinks the image. A request past its end fails, and no SIGBUS is raised. */
static void test_shrunk(void **state)
{
	struct disk disk;

	for (unsigned in_memory = 0; in_memory < 2; in_memory++) {
		disk_open(&disk, VUBLK_IO_AUTO, in_memory);
		assert_int_equal(ftruncate(disk.fd, 8192), 0);
		assert_int_equal(disk_read(&disk, 4096, 4096), 0);
		assert_int_equal(disk_read(&disk, 4096, 8192), -EIO);
		assert_int_equal(disk_read(&disk, 1 << 20, 4096), -EIO);
		assert_int_equal(disk_read(&disk, 1 << 20, 256 << 10), -EIO);
		disk_close(&disk);
	}
}

/* A write past the file size limit of the process fails. The test blocks SIGXFSZ, as workers do. */
static void test_file_size_limit(void **state)
{
	struct rlimit limit = { .rlim_cur = 8192, .rlim_max = RLIM_INFINITY };
	sigset_t signals;
	struct disk disk;

	sigemptyset(&signals);
	sigaddset(&signals, SIGXFSZ);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	for (unsigned in_memory = 0; in_memory < 2; in_memory++) {
		limit.rlim_cur = RLIM_INFINITY;
		setrlimit(RLIMIT_FSIZE, &limit);
		disk_open(&disk, VUBLK_IO_AUTO, in_memory);
		limit.rlim_cur = 8192;
		assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
		assert_int_equal(disk_write(&disk, 0, 4096, 4096), 0);
		assert_int_equal(disk_write(&disk, 0, 4096, 8192), -EFBIG);
		assert_int_equal(disk_write(&disk, 0, 8192, 4096), -EFBIG);
		disk_close(&disk);
	}
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_memory),
		VUBLK_TEST(test_all_by_io_uring),
		VUBLK_TEST(test_refused_for_a_while),
		VUBLK_TEST(test_memory_short),
		VUBLK_TEST(test_memory_in_turns),
		VUBLK_TEST(test_cached),
		VUBLK_TEST(test_cached_several),
		VUBLK_TEST(test_cached_in_part),
		VUBLK_TEST(test_cold),
		VUBLK_TEST(test_no_tries),
		VUBLK_TEST(test_try_is_no_verdict),
		VUBLK_TEST(test_shrunk),
		VUBLK_TEST(test_file_size_limit),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
