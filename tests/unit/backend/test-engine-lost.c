/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Syncs that fail. The kernel reports a lost write only once, so the engine must record the loss. A
 * request must not succeed because of a sync that ran at the same time as a failed one. The test
 * makes system calls of the blocking method and completions of io_uring fail.
 */
#include "engine-rig.h"
#include "harness.h"

#include "backend/engine/file/file.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define IMAGE_BYTES (1 << 20)
#define BYTES 4096

/*
 * `sync` is the errno of the next sync. `durable_write` and `plain_write` are the errno of all
 * writes of that kind. 0 means success. `syncs` counts the syncs that have ended.
 */
static struct {
	atomic_int sync, durable_write, plain_write;
	atomic_uint syncs;
	bool dsync; /* durable writes have RWF_DSYNC */
} failing;

static atomic_uint begun; /* the number of syncs that have begun */
static atomic_bool is_running, was_concurrent; /* whether a sync of the blocking method is running,
						  and whether two ever ran at the same time */

ssize_t __real_pwritev64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags);
int __real_fdatasync(int fd);
int __real_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring);
unsigned __real_io_uring_peek_batch_cqe(struct io_uring *ring, struct io_uring_cqe **cqes,
					unsigned count);
ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags);
int __wrap_fdatasync(int fd);
unsigned __wrap_io_uring_peek_batch_cqe(struct io_uring *ring, struct io_uring_cqe **cqes,
					unsigned count);

/* Returns the errno of a sync. Like the kernel, reports a lost write only once. */
static int report_sync(void)
{
	failing.syncs++;
	return atomic_exchange(&failing.sync, 0);
}

ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
	errno = flags & RWF_DSYNC ? failing.durable_write : failing.plain_write;
	return errno ? -1 : __real_pwritev64v2(fd, iov, count, offset, flags);
}

int __wrap_fdatasync(int fd)
{
	int r, code;

	begun++;
	if (atomic_exchange(&is_running, true))
		was_concurrent = true;
	sched_yield();
	code = report_sync();
	r = code ? -1 : __real_fdatasync(fd);
	is_running = false;
	errno = code;
	return r;
}

int __wrap_io_uring_submit(struct io_uring *ring)
{
	for (unsigned i = ring->sq.sqe_head; i != ring->sq.sqe_tail; i++)
		if (ring->sq.sqes[i & ring->sq.ring_mask].opcode == IORING_OP_FSYNC)
			begun++;
	return __real_io_uring_submit(ring);
}

static int outcome(const struct vublk_engine_io *io, int result)
{
	int code = 0;

	if (state_of(io)->sync)
		code = report_sync();
	else if (io->op == VUBLK_OP_WRITE && io->flags & VUBLK_IO_DURABLE && failing.dsync &&
		 !state_of(io)->durable_error)
		code = failing.durable_write;
	else if (io->op == VUBLK_OP_WRITE)
		code = failing.plain_write;
	return code ? -code : result;
}

unsigned __wrap_io_uring_peek_batch_cqe(struct io_uring *ring, struct io_uring_cqe **cqes,
					unsigned count)
{
	unsigned n = __real_io_uring_peek_batch_cqe(ring, cqes, count);

	for (unsigned i = 0; i < n; i++)
		cqes[i]->res = outcome(io_uring_cqe_get_data(cqes[i]), cqes[i]->res);
	return n;
}

/* --- a disk with two queues ----------------------------------------------------- */

static const struct mode {
	const char *name;
	enum vublk_cache_mode cache;
	enum vublk_io_method method;
} modes[] = {
	{ "buffered, blocking", VUBLK_CACHE_BUFFERED, VUBLK_IO_BLOCKING },
	{ "direct, blocking", VUBLK_CACHE_DIRECT, VUBLK_IO_BLOCKING },
	{ "buffered, io_uring", VUBLK_CACHE_BUFFERED, VUBLK_IO_URING },
	{ "direct, io_uring", VUBLK_CACHE_DIRECT, VUBLK_IO_URING },
};

struct disk {
	struct vublk_engine *engine;
	struct vublk_engine_queue *queues[2];
};

static struct {
	unsigned errors; /* the number of error lines */
	char text[1024];
} logged;

static void keep(void *opaque, enum vublk_log_level level, const char *text)
{
	if (level != VUBLK_LOG_ERROR)
		return;
	logged.errors++;
	snprintf(logged.text, sizeof(logged.text), "%s", text);
}

static const struct vublk_log test_log = { keep, NULL, VUBLK_LOG_DEBUG };

/* Opens the disk in this mode. Returns false if the system lacks the mode. */
static bool disk_open(struct disk *disk, const struct mode *mode)
{
	char path[128];
	struct vublk_engine_options options = {
		.path = path, .cache = mode->cache, .method = mode->method, .log = &test_log,
	};
	struct vublk_error error = { 0 };
	int fd, r;

	snprintf(path, sizeof(path), "%s/image", vublk_test_folder());
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, IMAGE_BYTES), 0);
	close(fd);
	memset(&logged, 0, sizeof(logged));
	memset(&failing, 0, sizeof(failing));
	begun = 0;
	r = vublk_engine_open(&vublk_engine_file, &options, &disk->engine, &error);
	if (r == -ENOTSUP || r == -ENOSYS || r == -EPERM) {
		print_message("%s: %s\n", mode->name, error.text);
		return false;
	}
	if (r)
		fail_msg("%s: %s", mode->name, error.text);
	failing.dsync = ((struct vublk_file *)disk->engine)->dsync;
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(disk->engine->ops->queue_new(disk->engine, &disk->queues[i],
							      &error), 0);
	return true;
}

static void disk_close(struct disk *disk)
{
	for (unsigned i = 0; i < 2; i++)
		disk->queues[i]->ops->free(disk->queues[i]);
	vublk_engine_close(disk->engine);
}

static void for_each_mode(void (*fn)(struct disk *disk))
{
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(modes); i++) {
		struct disk disk;

		if (!disk_open(&disk, &modes[i]))
			continue;
		print_message("%s\n", modes[i].name);
		fn(&disk);
		disk_close(&disk);
	}
}

static int disk_do(struct disk *disk, unsigned queue, enum vublk_engine_op op, unsigned flags)
{
	static char data[BYTES] __attribute__((aligned(BYTES)));
	struct iovec iov = { data, sizeof(data) };
	bool has_data = op == VUBLK_OP_READ || op == VUBLK_OP_WRITE;

	return engine_io(disk->queues[queue], op, flags, 0, op == VUBLK_OP_FLUSH ? 0 : BYTES,
			 &iov, has_data);
}

static int flush(struct disk *disk, unsigned queue)
{
	return disk_do(disk, queue, VUBLK_OP_FLUSH, 0);
}

/* Checks that requests that must make data stable fail, and that all others succeed. */
static void check_lost(struct disk *disk)
{
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(flush(disk, i), -EIO);
		assert_int_equal(disk_do(disk, i, VUBLK_OP_WRITE, VUBLK_IO_DURABLE), -EIO);
		assert_int_equal(disk_do(disk, i, VUBLK_OP_WRITE_ZEROES, VUBLK_IO_DURABLE), -EIO);
		assert_int_equal(disk_do(disk, i, VUBLK_OP_DISCARD, VUBLK_IO_DURABLE), -EIO);
		assert_int_equal(disk_do(disk, i, VUBLK_OP_WRITE, 0), 0);
		assert_int_equal(disk_do(disk, i, VUBLK_OP_READ, 0), 0);
	}
	assert_int_equal(logged.errors, 1);
	assert_non_null(strstr(logged.text, "all further flushes and durable writes"));
	assert_non_null(strstr(logged.text, "restart this program"));
}

static void check_healthy(struct disk *disk)
{
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(flush(disk, i), 0);
		assert_int_equal(disk_do(disk, i, VUBLK_OP_WRITE, VUBLK_IO_DURABLE), 0);
	}
}

/* --- the cases ------------------------------------------------------------------- */

static void check_flush(struct disk *disk)
{
	struct vublk_error error = { 0 };

	check_healthy(disk);
	failing.sync = EIO;
	assert_int_equal(flush(disk, 0), -EIO);
	failing.syncs = 0;
	check_lost(disk);
	assert_int_equal(failing.syncs, 0);
	/* The same holds for a queue that is created after the failure. */
	disk->queues[1]->ops->free(disk->queues[1]);
	assert_int_equal(disk->engine->ops->queue_new(disk->engine, &disk->queues[1], &error), 0);
	check_lost(disk);
}

static void test_flush(void **state)
{
	for_each_mode(check_flush);
}

static void submit(struct disk *disk, unsigned queue, struct vublk_engine_io *io)
{
	disk->queues[queue]->ops->submit(disk->queues[queue], io);
	if (disk->queues[queue]->ops->commit)
		disk->queues[queue]->ops->commit(disk->queues[queue]);
}

/*
 * The kernel reports a lost write only to the first of two flushes, although the loss may concern
 * both. If their syncs ran at the same time, the second flush could succeed before the failure of
 * the first is recorded.
 */
static void check_both_at_once(struct disk *disk)
{
	struct vublk_engine_io ios[2] = { { .op = VUBLK_OP_FLUSH }, { .op = VUBLK_OP_FLUSH } };

	failing.sync = EIO;
	submit(disk, 0, &ios[0]);
	submit(disk, 1, &ios[1]);
	assert_int_equal(begun, 1);
	engine_complete(disk->queues[0], 1);
	engine_complete(disk->queues[1], 1);
	assert_int_equal(ios[0].result, -EIO);
	assert_int_equal(ios[1].result, -EIO);
	check_lost(disk);
}

static void test_both_at_once(void **state)
{
	for_each_mode(check_both_at_once);
}

/*
 * Flushes that arrive while a sync runs do not complete with this sync, because it may not cover
 * the writes before them. They share the next sync.
 */
static void check_shared(struct disk *disk)
{
	struct vublk_engine_io ios[4] = {
		{ .op = VUBLK_OP_FLUSH }, { .op = VUBLK_OP_FLUSH }, { .op = VUBLK_OP_FLUSH },
		{ .op = VUBLK_OP_FLUSH },
	};

	if (disk->queues[0]->fd < 0)
		return; /* a flush of the blocking method ends within submit() */
	for (unsigned i = 0; i < 4; i++)
		submit(disk, i % 2, &ios[i]);
	assert_int_equal(begun, 1);
	engine_complete(disk->queues[0], 1);
	assert_int_equal(begun, 2);
	engine_complete(disk->queues[0], 1);
	engine_complete(disk->queues[1], 2);
	assert_int_equal(begun, 2);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(ios[i].result, 0);
	check_healthy(disk);
}

static void test_shared(void **state)
{
	for_each_mode(check_shared);
}

/* Flushes of one batch share a sync. */
static void check_batch(struct disk *disk)
{
	struct vublk_engine_io ios[2] = { { .op = VUBLK_OP_FLUSH }, { .op = VUBLK_OP_FLUSH } };

	if (disk->queues[0]->fd < 0)
		return;
	for (unsigned i = 0; i < 2; i++)
		disk->queues[0]->ops->submit(disk->queues[0], &ios[i]);
	engine_complete(disk->queues[0], 2);
	assert_int_equal(begun, 1);
}

static void test_batch(void **state)
{
	for_each_mode(check_batch);
}

/*
 * A flush of one queue fails, and so does a durable write of another queue, which waits for a sync.
 */
static void check_flush_and_durable_write(struct disk *disk)
{
	static char data[BYTES] __attribute__((aligned(BYTES)));
	struct iovec iov = { data, sizeof(data) };
	struct vublk_engine_io flush = { .op = VUBLK_OP_FLUSH }, write = {
		.op = VUBLK_OP_WRITE, .flags = VUBLK_IO_DURABLE, .bytes = BYTES, .iov = &iov,
		.num_iov = 1,
	};

	if (failing.dsync)
		return;
	failing.sync = EIO;
	submit(disk, 0, &flush);
	submit(disk, 1, &write);
	engine_complete(disk->queues[0], 1);
	engine_complete(disk->queues[1], 1);
	assert_int_equal(flush.result, -EIO);
	assert_int_equal(write.result, -EIO);
	check_lost(disk);
}

static void test_flush_and_durable_write(void **state)
{
	for_each_mode(check_flush_and_durable_write);
}

#define ROUNDS 200

static void *flush_often(void *opaque)
{
	struct vublk_engine *engine = opaque;
	struct vublk_engine_queue *queue;
	struct vublk_error error;

	assert_int_equal(engine->ops->queue_new(engine, &queue, &error), 0);
	for (unsigned i = 0; i < ROUNDS; i++)
		assert_int_equal(engine_io(queue, VUBLK_OP_FLUSH, 0, 0, 0, NULL, 0), 0);
	queue->ops->free(queue);
	return NULL;
}

/*
 * Several threads flush continuously. Every flush completes, and no two syncs run at the same time.
 */
static void check_threads(struct disk *disk)
{
	pthread_t threads[4];

	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, flush_often, disk->engine), 0);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	assert_false(was_concurrent);
	assert_true(begun <= 4 * ROUNDS);
}

static void test_threads(void **state)
{
	for_each_mode(check_threads);
}

static void check_interrupted(struct disk *disk)
{
	failing.sync = EINTR;
	assert_int_equal(flush(disk, 0), -EINTR);
	check_lost(disk);
}

static void test_interrupted(void **state)
{
	for_each_mode(check_interrupted);
}

/* The write succeeds, but its sync (a separate one, or that of RWF_DSYNC) fails. */
static void check_durable_write(struct disk *disk)
{
	failing.durable_write = EIO;
	failing.sync = failing.dsync ? 0 : EIO;
	assert_int_equal(disk_do(disk, 1, VUBLK_OP_WRITE, VUBLK_IO_DURABLE), -EIO);
	failing.durable_write = 0;
	check_lost(disk);
}

static void test_durable_write(void **state)
{
	for_each_mode(check_durable_write);
}

/* The write itself fails. Only this request gets an error, because no other write is lost. */
static void check_failed_write(struct disk *disk)
{
	failing.durable_write = failing.plain_write = ENOSPC;
	assert_int_equal(disk_do(disk, 0, VUBLK_OP_WRITE, VUBLK_IO_DURABLE), -ENOSPC);
	assert_int_equal(disk_do(disk, 0, VUBLK_OP_WRITE, 0), -ENOSPC);
	failing.durable_write = failing.plain_write = 0;
	check_healthy(disk);
}

static void test_failed_write(void **state)
{
	for_each_mode(check_failed_write);
}

/*
 * A write with RWF_DSYNC fails, and the repeated write fails with another error. So the first
 * error was that of the sync.
 */
static void check_durable_write_fails_twice(struct disk *disk)
{
	if (!failing.dsync)
		return;
	failing.durable_write = EIO;
	failing.plain_write = ENOSPC;
	assert_int_equal(disk_do(disk, 1, VUBLK_OP_WRITE, VUBLK_IO_DURABLE), -ENOSPC);
	failing.durable_write = failing.plain_write = 0;
	check_lost(disk);
}

static void test_durable_write_fails_twice(void **state)
{
	for_each_mode(check_durable_write_fails_twice);
}

/*
 * The disk is dead: a write with RWF_DSYNC fails, and the repeated write fails with the same error.
 * This does not show whether the write or its sync failed first. The sync that follows fails, too.
 */
static void check_dead_disk(struct disk *disk)
{
	if (!failing.dsync)
		return;
	failing.durable_write = failing.plain_write = failing.sync = EIO;
	assert_int_equal(disk_do(disk, 1, VUBLK_OP_WRITE, VUBLK_IO_DURABLE), -EIO);
	failing.durable_write = failing.plain_write = 0;
	check_lost(disk);
}

static void test_dead_disk(void **state)
{
	for_each_mode(check_dead_disk);
}

/* A durable request for a range ends with a separate sync, which fails. */
static void check_durable_range(struct disk *disk)
{
	failing.sync = EIO;
	assert_int_equal(disk_do(disk, 0, VUBLK_OP_WRITE_ZEROES,
				 VUBLK_IO_DURABLE | VUBLK_IO_MAY_UNMAP), -EIO);
	check_lost(disk);
}

static void test_durable_range(void **state)
{
	struct disk disk;

	/*
	 * Tests only the blocking method, because a completion of io_uring does not show whether it
	 * belongs to the range or to the sync after it.
	 */
	for (size_t i = 0; i < 2; i++) {
		if (!disk_open(&disk, &modes[i]))
			continue;
		check_durable_range(&disk);
		disk_close(&disk);
	}
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_flush),
		VUBLK_TEST(test_both_at_once),
		VUBLK_TEST(test_shared),
		VUBLK_TEST(test_batch),
		VUBLK_TEST(test_flush_and_durable_write),
		VUBLK_TEST(test_threads),
		VUBLK_TEST(test_interrupted),
		VUBLK_TEST(test_durable_write),
		VUBLK_TEST(test_failed_write),
		VUBLK_TEST(test_durable_write_fails_twice),
		VUBLK_TEST(test_dead_disk),
		VUBLK_TEST(test_durable_range),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
