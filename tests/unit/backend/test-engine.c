/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tests the engines without a back-end: the effect of each request on the disk's contents, in each
 * mode.
 */
#include "engine-rig.h"
#include "harness.h"

#include "backend/engine/file/file.h"
#include "backend/engine/engine.h"
#include "util/atomic.h"
#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/loop.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define IMAGE_BYTES (4 << 20)

struct mode {
	const char *name;
	const struct vublk_engine_ops *ops;
	enum vublk_cache_mode cache;
	enum vublk_io_method method;
};

static const struct mode modes[] = {
	{ "memory", &vublk_engine_memory, 0, 0 },
	{ "direct, io_uring", &vublk_engine_file, VUBLK_CACHE_DIRECT, VUBLK_IO_URING },
	{ "buffered, io_uring", &vublk_engine_file, VUBLK_CACHE_BUFFERED, VUBLK_IO_URING },
	{ "direct, auto", &vublk_engine_file, VUBLK_CACHE_DIRECT, VUBLK_IO_AUTO },
	{ "buffered, auto", &vublk_engine_file, VUBLK_CACHE_BUFFERED, VUBLK_IO_AUTO },
	{ "direct, blocking", &vublk_engine_file, VUBLK_CACHE_DIRECT, VUBLK_IO_BLOCKING },
	{ "buffered, blocking", &vublk_engine_file, VUBLK_CACHE_BUFFERED, VUBLK_IO_BLOCKING },
};

static char image[128];
static struct engine_log last;
static const struct vublk_log test_log = { engine_log_keep, &last, VUBLK_LOG_DEBUG };

static void make_image(off_t bytes)
{
	int fd;

	snprintf(image, sizeof(image), "%s/image", vublk_test_folder());
	fd = open(image, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, bytes), 0);
	close(fd);
}

/*
 * Opens an engine in this mode, and a queue. Returns a negative errno if the system lacks the mode.
 */
static int open_mode(const struct mode *mode, struct vublk_engine **engine,
		     struct vublk_engine_queue **queue)
{
	bool is_file = mode->ops == &vublk_engine_file;
	struct vublk_engine_options options = {
		.path = is_file ? image : NULL,
		.size_bytes = is_file ? 0 : IMAGE_BYTES,
		.cache = mode->cache,
		.method = mode->method,
		.log = &test_log,
	};
	struct vublk_error error = { 0 };
	int r;

	if (is_file)
		make_image(IMAGE_BYTES);
	r = vublk_engine_open(mode->ops, &options, engine, &error);
	if (r == -ENOTSUP || r == -ENOSYS || r == -EPERM) {
		print_message("%s: %s\n", mode->name, error.text);
		return r;
	}
	if (r)
		fail_msg("%s: %s", mode->name, error.text);
	assert_int_equal((*engine)->geometry.size_bytes, IMAGE_BYTES);
	assert_int_equal(mode->ops->queue_new(*engine, queue, &error), 0);
	return 0;
}

static void close_mode(struct vublk_engine *engine, struct vublk_engine_queue *queue)
{
	queue->ops->free(queue);
	vublk_engine_close(engine);
}

static bool is_zero(const char *p, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		if (p[i])
			return false;
	return true;
}

static void check_mode(const struct mode *mode, void (*fn)(struct vublk_engine_queue *queue))
{
	struct vublk_engine_queue *queue;
	struct vublk_engine *engine;

	if (open_mode(mode, &engine, &queue))
		return;
	fn(queue);
	close_mode(engine, queue);
}

static void for_each_mode(void (*fn)(struct vublk_engine_queue *queue))
{
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(modes); i++)
		check_mode(&modes[i], fn);
}

/* --- reads and writes --------------------------------------------------------- */

static void check_transfer(struct vublk_engine_queue *queue)
{
	char *a = aligned_alloc(4096, 1 << 16), *b = aligned_alloc(4096, 1 << 16);
	struct iovec from[3] = { { a, 512 }, { a + 8192, 4096 }, { a + 1024, 3584 } };
	struct iovec to = { b, 8192 };

	engine_fill(a, 1 << 16, 5);
	for (unsigned durable = 0; durable < 2; durable++) {
		assert_int_equal(engine_io(queue, VUBLK_OP_WRITE, durable, 1536, 8192, from, 3), 0);
		memset(b, 0, 8192);
		assert_int_equal(engine_io(queue, VUBLK_OP_READ, 0, 1536, 8192, &to, 1), 0);
		assert_memory_equal(b, a, 512);
		assert_memory_equal(b + 512, a + 8192, 4096);
		assert_memory_equal(b + 4608, a + 1024, 3584);
	}
	assert_int_equal(engine_io(queue, VUBLK_OP_FLUSH, 0, 0, 0, NULL, 0), 0);
	free(a);
	free(b);
}

static void test_transfer(void **state)
{
	for_each_mode(check_transfer);
}

/*
 * Makes a write and a read with buffers that O_DIRECT refuses, and with more data than fits into
 * the bounce buffer.
 */
static void check_unaligned(struct vublk_engine_queue *queue)
{
	const size_t bytes = 3 << 19;
	char *a = malloc(bytes + 1), *b = malloc(bytes + 64);
	struct iovec whole = { a + 1, bytes };
	struct iovec pieces[3] = { { b + 3, 7 }, { b + 11, 1000001 }, { b + 11 + 1000002, 0 } };

	engine_fill(a, bytes + 1, 77);
	pieces[2].iov_len = bytes - 7 - 1000001;
	assert_int_equal(engine_io(queue, VUBLK_OP_WRITE, 0, 512, bytes, &whole, 1), 0);
	assert_int_equal(engine_io(queue, VUBLK_OP_READ, 0, 512, bytes, pieces, 3), 0);
	assert_memory_equal(a + 1, b + 3, 7);
	assert_memory_equal(a + 8, b + 11, 1000001);
	assert_memory_equal(a + 8 + 1000001, pieces[2].iov_base, pieces[2].iov_len);
	free(a);
	free(b);
}

static void test_unaligned(void **state)
{
	for_each_mode(check_unaligned);
}

#define MANY 304

static void check_many(struct vublk_engine_queue *queue)
{
	struct vublk_engine_io *ios = calloc(MANY, sizeof(*ios));
	struct iovec *iovs = calloc(MANY, sizeof(*iovs));
	char *data = aligned_alloc(4096, MANY * 512);

	for (unsigned op = VUBLK_OP_WRITE + 1; op-- > VUBLK_OP_READ;) {
		if (op == VUBLK_OP_WRITE)
			engine_fill(data, MANY * 512, 3);
		else
			memset(data, 0, MANY * 512);
		for (unsigned i = 0; i < MANY; i++) {
			iovs[i] = (struct iovec){ data + i * 512, 512 };
			ios[i] = (struct vublk_engine_io){
				.op = op, .offset = i * 512u, .bytes = 512,
				.iov = &iovs[i], .num_iov = 1, .result = 1,
			};
			queue->ops->submit(queue, &ios[i]);
		}
		engine_complete(queue, MANY);
		for (unsigned i = 0; i < MANY; i++)
			assert_int_equal(ios[i].result, 0);
	}
	for (size_t i = 0; i < MANY * 512; i++)
		if (data[i] != (char)(((i + 3) * 2654435761u) >> 24))
			fail_msg("byte %zu differs", i);
	free(data);
	free(iovs);
	free(ios);
}

static void test_many(void **state)
{
	for_each_mode(check_many);
}

/* Submits requests with more segments than one system call accepts. */
static void check_many_pieces(struct vublk_engine_queue *queue)
{
	const unsigned pieces = IOV_MAX + 24;
	struct iovec *iov = calloc(pieces, sizeof(*iov));
	char *data = aligned_alloc(4096, pieces * 512);
	struct vublk_engine_io io;

	engine_fill(data, pieces * 512, 8);
	for (unsigned op = VUBLK_OP_WRITE + 1; op-- > VUBLK_OP_READ;) {
		for (unsigned i = 0; i < pieces; i++)
			iov[i] = (struct iovec){ data + i * 512, 512 };
		io = (struct vublk_engine_io){
			.op = op, .offset = 0, .bytes = pieces * 512, .iov = iov,
			.num_iov = pieces,
		};
		queue->ops->submit(queue, &io);
		engine_complete(queue, 1);
		assert_int_equal(io.result, 0);
		if (op == VUBLK_OP_WRITE)
			memset(data, 0, pieces * 512);
	}
	for (size_t i = 0; i < pieces * 512; i++)
		if (data[i] != (char)(((i + 8) * 2654435761u) >> 24))
			fail_msg("byte %zu differs", i);
	free(iov);
	free(data);
}

static void test_many_pieces(void **state)
{
	for_each_mode(check_many_pieces);
}

/* Checks that the descriptor is not signalled again after the completion was taken. */
static void check_wakes_once(struct vublk_engine_queue *queue)
{
	char *data = aligned_alloc(4096, 4096);
	struct iovec iov = { data, 4096 };
	struct vublk_engine_io io = {
		.op = VUBLK_OP_WRITE, .bytes = 4096, .iov = &iov, .num_iov = 1, .result = 1,
	};
	struct pollfd wait = { .fd = queue->fd, .events = POLLIN };
	struct vublk_engine_io *done;

	memset(data, 1, 4096);
	queue->ops->submit(queue, &io);
	queue->ops->commit(queue);
	assert_int_equal(poll(&wait, 1, -1), 1);
	queue->ops->woken(queue);
	assert_int_equal(queue->ops->poll(queue, &done, 1), 1);
	assert_int_equal(io.result, 0);
	assert_int_equal(poll(&wait, 1, 0), 0);
	free(data);
}

static void test_wakes_once(void **state)
{
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(modes); i++)
		if (modes[i].method == VUBLK_IO_URING)
			check_mode(&modes[i], check_wakes_once);
}

/* --- a disk in memory ------------------------------------------------------------ */

#define EXTENT (2 << 20)
#define NUM_EXTENTS 32

static size_t resident_bytes(void)
{
	FILE *file = fopen("/proc/self/statm", "r");
	unsigned long all, resident;

	assert_int_equal(fscanf(file, "%lu %lu", &all, &resident), 2);
	fclose(file);
	return resident * (size_t)sysconf(_SC_PAGESIZE);
}

static void memory_write(struct vublk_engine_queue *queue, uint64_t offset, char *data,
			 size_t bytes)
{
	struct iovec iov = { data, bytes };

	assert_int_equal(engine_io(queue, VUBLK_OP_WRITE, 0, offset, bytes, &iov, 1), 0);
}

/* Checks that a range contains `data` (NULL: zeroes). `back` is scratch space of `bytes` bytes. */
static void check_stored(struct vublk_engine_queue *queue, uint64_t offset, const char *data,
			 char *back, size_t bytes)
{
	struct iovec iov = { back, bytes };

	memset(back, 0xee, bytes);
	assert_int_equal(engine_io(queue, VUBLK_OP_READ, 0, offset, bytes, &iov, 1), 0);
	if (data)
		assert_memory_equal(back, data, bytes);
	else
		assert_true(is_zero(back, bytes));
}

/*
 * Checks how much memory a disk in memory uses. A short write allocates only the pages that it
 * touches. A long write allocates at most one huge page per extent.
 */
static void test_memory_disk_room(void **state)
{
	const struct vublk_engine_options options = {
		.size_bytes = NUM_EXTENTS * (uint64_t)EXTENT + EXTENT / 4,
	};
	char *data = aligned_alloc(4096, EXTENT), *back = aligned_alloc(4096, EXTENT);
	struct vublk_engine_queue *queue;
	struct vublk_engine *engine;
	size_t before;

#ifdef VUBLK_TSAN
	vublk_test_skip("the thread sanitizer's own memory counts as the engine's");
#endif
	engine_fill(data, EXTENT, 5);
	memset(back, 1, EXTENT);
	assert_int_equal(vublk_engine_open(&vublk_engine_memory, &options, &engine, NULL), 0);
	assert_int_equal(engine->ops->queue_new(engine, &queue, NULL), 0);
	before = resident_bytes();
	memory_write(queue, NUM_EXTENTS * (uint64_t)EXTENT, data, EXTENT / 4); /* the end */
	assert_in_range(resident_bytes() - before, 0, EXTENT / 2);
	before = resident_bytes();
	for (unsigned i = 0; i < NUM_EXTENTS; i++)
		memory_write(queue, i * (uint64_t)EXTENT + i % 2 * 8192, data, 4096);
	assert_in_range(resident_bytes() - before, 0, NUM_EXTENTS * 4096 + (1 << 20));
	/* An extent that has small pages keeps them until it is discarded. */
	memory_write(queue, 0, data, 1 << 20);
	assert_in_range(resident_bytes() - before, 0, NUM_EXTENTS * 4096 + (2 << 20));
	check_stored(queue, 1 << 20, NULL, back, 1 << 20);
	for (unsigned i = 0; i < NUM_EXTENTS; i++)
		assert_int_equal(engine_io(queue, VUBLK_OP_DISCARD, 0, i * (uint64_t)EXTENT, EXTENT,
					   NULL, 0), 0);
	assert_in_range(resident_bytes() + (1 << 20) - before, 0, 2 << 20);
	/*
	 * Two writes over three extents: the end of the first, all of the second, and one page of
	 * the third.
	 */
	memory_write(queue, EXTENT / 2, data, EXTENT);
	memory_write(queue, EXTENT + EXTENT / 2, data, EXTENT / 2 + 4096);
	assert_in_range(resident_bytes() - before, 2 << 20, 4 << 20);
	check_stored(queue, 0, NULL, back, EXTENT / 2);
	check_stored(queue, EXTENT / 2, data, back, EXTENT);
	check_stored(queue, EXTENT + EXTENT / 2, data, back, EXTENT / 2 + 4096);
	check_stored(queue, 2 * EXTENT + 4096, NULL, back, EXTENT);
	check_stored(queue, NUM_EXTENTS * (uint64_t)EXTENT, data, back, EXTENT / 4);
	queue->ops->free(queue);
	vublk_engine_close(engine);
	free(back);
	free(data);
}

/* --- zeroes and discards ------------------------------------------------------ */

static void check_zeroes(struct vublk_engine_queue *queue)
{
	char *data = aligned_alloc(4096, 1 << 20);
	struct iovec iov = { data, 1 << 20 };

	for (unsigned flags = 0; flags < 4; flags++) {
		memset(data, 0xaa, 1 << 20);
		assert_int_equal(engine_io(queue, VUBLK_OP_WRITE, 0, 0, 1 << 20, &iov, 1), 0);
		assert_int_equal(engine_io(queue, VUBLK_OP_WRITE_ZEROES, flags, 512, 300 * 512, NULL,
				       0), 0);
		assert_int_equal(engine_io(queue, VUBLK_OP_READ, 0, 0, 1 << 20, &iov, 1), 0);
		assert_int_equal((uint8_t)data[511], 0xaa);
		assert_true(is_zero(data + 512, 300 * 512));
		assert_int_equal((uint8_t)data[301 * 512], 0xaa);
	}
	assert_int_equal(engine_io(queue, VUBLK_OP_DISCARD, 0, 0, 1 << 20, NULL, 0), 0);
	assert_int_equal(engine_io(queue, VUBLK_OP_READ, 0, 0, 1 << 20, &iov, 1), 0);
	free(data);
}

static void test_zeroes(void **state)
{
	for_each_mode(check_zeroes);
}

/* Makes the engine behave as if the file system could neither punch holes nor zero ranges. */
static void check_written_zeroes(struct vublk_engine_queue *queue)
{
	if (queue->engine->ops != &vublk_engine_file)
		return;
	((struct vublk_file *)queue->engine)->no_punch = true;
	((struct vublk_file *)queue->engine)->no_zero_range = true;
	check_zeroes(queue);
	assert_int_equal(engine_io(queue, VUBLK_OP_WRITE_ZEROES, VUBLK_IO_DURABLE, 512,
			       IMAGE_BYTES - 512, NULL, 0), 0);
}

static void test_written_zeroes(void **state)
{
	for_each_mode(check_written_zeroes);
}

static blkcnt_t allocated(void)
{
	struct stat st;

	assert_int_equal(stat(image, &st), 0);
	return st.st_blocks;
}

static void check_discard_frees(struct vublk_engine_queue *queue)
{
	char *data = aligned_alloc(4096, 1 << 20);
	struct iovec iov = { data, 1 << 20 };
	blkcnt_t before;

	memset(data, 1, 1 << 20);
	if (queue->engine->ops == &vublk_engine_file) {
		assert_int_equal(engine_io(queue, VUBLK_OP_WRITE, VUBLK_IO_DURABLE, 0, 1 << 20, &iov,
				       1), 0);
		before = allocated();
		assert_int_equal(engine_io(queue, VUBLK_OP_DISCARD, VUBLK_IO_DURABLE, 0, 1 << 20,
				       NULL, 0), 0);
		if (!((struct vublk_file *)queue->engine)->no_punch)
			assert_true(allocated() <= before - 1024);
	}
	free(data);
}

static void test_discard_frees(void **state)
{
	for_each_mode(check_discard_frees);
}

/* --- opening ------------------------------------------------------------------- */

static int try_open(const struct vublk_engine_options *options, struct vublk_error *error)
{
	struct vublk_engine *engine;
	int r = vublk_engine_open(&vublk_engine_file, options, &engine, error);

	if (!r)
		vublk_engine_close(engine);
	return r;
}

static void test_refused_images(void **state)
{
	struct vublk_engine_options options = { .path = image, .log = &test_log };
	struct vublk_error error = { 0 };

	make_image(1000);
	assert_int_equal(try_open(&options, &error), -EMEDIUMTYPE);
	assert_non_null(strstr(error.text, "expected a multiple of 512, so resize it to 1024"));
	make_image(0);
	assert_int_equal(try_open(&options, &error), -EMEDIUMTYPE);
	assert_non_null(strstr(error.text, "is empty"));
	options.path = "/dev/null";
	assert_int_equal(try_open(&options, &error), -ENOTBLK);
	assert_non_null(strstr(error.text, "neither a file nor a block device"));
	options.path = vublk_test_folder();
	options.read_only = true;
	assert_int_equal(try_open(&options, &error), -ENOTBLK);
	options.path = "/nonexistent/image";
	assert_int_equal(try_open(&options, &error), -ENOENT);
	options.path = NULL;
	assert_int_equal(try_open(&options, &error), -EINVAL);
}

static void test_locks(void **state)
{
	struct vublk_engine_options writer = { .path = image, .log = &test_log };
	struct vublk_engine_options reader = { .path = image, .log = &test_log,
					       .read_only = true };
	struct vublk_engine_options migrating = { .path = image, .log = &test_log,
						  .unlocked = true };
	struct vublk_engine *first, *second;
	struct vublk_error error = { 0 };

	make_image(IMAGE_BYTES);
	assert_int_equal(vublk_engine_open(&vublk_engine_file, &writer, &first, &error), 0);
	assert_int_equal(try_open(&migrating, &error), 0);
	assert_int_equal(try_open(&writer, &error), -EBUSY);
	assert_non_null(strstr(error.text, "is in use by a program that writes to it"));
	assert_int_equal(try_open(&reader, &error), -EBUSY);
	vublk_engine_close(first);
	assert_int_equal(vublk_engine_open(&vublk_engine_file, &reader, &first, &error), 0);
	assert_int_equal(vublk_engine_open(&vublk_engine_file, &reader, &second, &error), 0);
	assert_int_equal(try_open(&writer, &error), -EBUSY);
	vublk_engine_close(second);
	vublk_engine_close(first);
	assert_int_equal(try_open(&writer, &error), 0);
}

/* QEMU holds a read lock on byte 101 of an image to which it may write. Such an image is in use. */
static void test_lock_of_qemu(void **state)
{
	struct vublk_engine_options options = { .path = image, .log = &test_log };
	struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 101, .l_len = 1 };
	struct vublk_error error = { 0 };
	int fd;

	make_image(IMAGE_BYTES);
	fd = open(image, O_RDWR | O_CLOEXEC);
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
	for (unsigned i = 0; i < 2; i++) {
		options.read_only = i;
		assert_int_equal(try_open(&options, &error), -EBUSY);
	}
	close(fd);
	assert_int_equal(try_open(&options, &error), 0);
}

/* The image was truncated. In each mode a read past its end fails, and the log gives the reason. */
static void test_truncated(void **state)
{
	char *data = aligned_alloc(4096, 4096);

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(modes); i++) {
		struct iovec iov = { data, 4096 };
		struct vublk_engine_queue *queue;
		struct vublk_engine *engine;

		if (modes[i].ops != &vublk_engine_file || open_mode(&modes[i], &engine, &queue))
			continue;
		assert_int_equal(truncate(image, 8192), 0);
		assert_int_equal(engine_io(queue, VUBLK_OP_READ, 0, 4096, 4096, &iov, 1), 0);
		assert_int_equal(engine_io(queue, VUBLK_OP_READ, 0, 8192, 4096, &iov, 1), -EIO);
		assert_non_null(strstr(last.text, "; the image now has only 8192 bytes"));
		close_mode(engine, queue);
	}
	free(data);
}

static void test_refresh(void **state)
{
	struct vublk_engine_options options = { .path = image, .log = &test_log };
	struct vublk_error error = { 0 };
	struct vublk_engine *engine;

	make_image(IMAGE_BYTES);
	assert_int_equal(vublk_engine_open(&vublk_engine_file, &options, &engine, &error), 0);
	assert_int_equal(truncate(image, IMAGE_BYTES * 2), 0);
	assert_int_equal(engine->ops->refresh(engine, &error), 0);
	assert_int_equal(engine->geometry.size_bytes, IMAGE_BYTES * 2);
	assert_int_equal(truncate(image, 1000), 0);
	assert_int_equal(engine->ops->refresh(engine, &error), -EMEDIUMTYPE);
	assert_int_equal(engine->geometry.size_bytes, IMAGE_BYTES * 2);
	vublk_engine_close(engine);
}

/* Tests an image that is a memfd. Some kernels refuse O_DIRECT for it. */
static void check_memory_file(enum vublk_cache_mode cache, enum vublk_io_method method)
{
	struct vublk_engine_options options = {
		.path = image, .log = &test_log, .cache = cache, .method = method,
	};
	struct vublk_engine_queue *queue;
	struct vublk_engine *engine;
	int r = vublk_engine_open(&vublk_engine_file, &options, &engine, NULL);

	if (r == -ENOTSUP && cache == VUBLK_CACHE_DIRECT)
		return;
	assert_int_equal(r, 0);
	assert_true(((struct vublk_file *)engine)->in_memory);
	assert_int_equal(((struct vublk_file *)engine)->direct, cache == VUBLK_CACHE_DIRECT);
	assert_int_equal(engine->ops->queue_new(engine, &queue, NULL), 0);
	check_transfer(queue);
	check_many(queue);
	check_zeroes(queue);
	check_unaligned(queue);
	close_mode(engine, queue);
}

static void test_memory_file(void **state)
{
	int fd = memfd_create("image", MFD_CLOEXEC);

	assert_int_equal(ftruncate(fd, IMAGE_BYTES), 0);
	snprintf(image, sizeof(image), "/proc/self/fd/%d", fd);
	check_memory_file(VUBLK_CACHE_AUTO, VUBLK_IO_AUTO);
	check_memory_file(VUBLK_CACHE_DIRECT, VUBLK_IO_AUTO);
	check_memory_file(VUBLK_CACHE_AUTO, VUBLK_IO_URING);
	check_memory_file(VUBLK_CACHE_AUTO, VUBLK_IO_BLOCKING);
	close(fd);
}

/* --- block devices ---------------------------------------------------------------- */

/*
 * Sets up a loop device on the image, and returns its descriptor. The device is detached when its
 * last descriptor is closed. Skips the case if no loop device is available.
 */
static int make_loop(char path[32], unsigned block_bytes)
{
	struct loop_config config = { .block_size = block_bytes };
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	int file, loop, number;

	if (control < 0)
		vublk_test_skip("there are no loop devices here");
	number = ioctl(control, LOOP_CTL_GET_FREE);
	close(control);
	snprintf(path, 32, "/dev/loop%d", number);
	loop = number < 0 ? -1 : open(path, O_RDWR | O_CLOEXEC);
	if (loop < 0)
		vublk_test_skip("no loop device can be had");
	make_image(IMAGE_BYTES);
	file = open(image, O_RDWR | O_CLOEXEC);
	assert_true(file >= 0);
	config.fd = (uint32_t)file;
	config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
	if (ioctl(loop, LOOP_CONFIGURE, &config) < 0)
		vublk_test_skip("no loop device can be set up");
	close(file);
	return loop;
}

static void check_device(const char *path, enum vublk_cache_mode cache,
			 enum vublk_io_method method, unsigned block_bytes)
{
	struct vublk_engine_options options = {
		.path = path, .cache = cache, .method = method, .log = &test_log,
	};
	struct vublk_engine_queue *queue;
	struct vublk_error error = { 0 };
	struct vublk_engine *engine;

	if (vublk_engine_open(&vublk_engine_file, &options, &engine, &error))
		fail_msg("%s", error.text);
	assert_int_equal(engine->geometry.size_bytes, IMAGE_BYTES);
	assert_int_equal(engine->geometry.block_bytes, block_bytes);
	/* The device's node is on devtmpfs, but the device is not in memory. */
	assert_false(((struct vublk_file *)engine)->in_memory);
	assert_int_equal(engine->ops->queue_new(engine, &queue, NULL), 0);
	if (cache == VUBLK_CACHE_BUFFERED || block_bytes == 512) {
		check_transfer(queue);
		check_unaligned(queue);
		check_zeroes(queue);
	} else {
		char *data = aligned_alloc(4096, 4096);
		struct iovec iov = { data, 4096 };

		assert_int_equal(engine_io(queue, VUBLK_OP_WRITE, 0, 4096, 4096, &iov, 1), 0);
		iov.iov_len = 512;
		assert_int_equal(engine_io(queue, VUBLK_OP_WRITE, 0, 512, 512, &iov, 1), -EINVAL);
		assert_non_null(strstr(last.text, "does not consist of whole blocks"));
		free(data);
	}
	close_mode(engine, queue);
}

static void test_block_device(void **state)
{
	char path[32];
	int loop = make_loop(path, 512);

	check_device(path, VUBLK_CACHE_AUTO, VUBLK_IO_AUTO, 512);
	check_device(path, VUBLK_CACHE_BUFFERED, VUBLK_IO_BLOCKING, 512);
	close(loop);
}

static void test_block_device_of_large_blocks(void **state)
{
	char path[32];
	int loop = make_loop(path, 4096);

	check_device(path, VUBLK_CACHE_BUFFERED, VUBLK_IO_AUTO, 4096);
	check_device(path, VUBLK_CACHE_DIRECT, VUBLK_IO_AUTO, 4096);
	close(loop);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_transfer),
		VUBLK_TEST(test_unaligned),
		VUBLK_TEST(test_many),
		VUBLK_TEST(test_many_pieces),
		VUBLK_TEST(test_wakes_once),
		VUBLK_TEST(test_zeroes),
		VUBLK_TEST(test_written_zeroes),
		VUBLK_TEST(test_discard_frees),
		VUBLK_TEST(test_refused_images),
		VUBLK_TEST(test_locks),
		VUBLK_TEST(test_lock_of_qemu),
		VUBLK_TEST(test_truncated),
		VUBLK_TEST(test_refresh),
		VUBLK_TEST(test_memory_file),
		VUBLK_TEST(test_memory_disk_room),
		VUBLK_TEST(test_block_device),
		VUBLK_TEST(test_block_device_of_large_blocks),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
