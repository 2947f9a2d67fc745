/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The blocking calls (<vublk/blocking.h>) over the stand-in device: unaligned ranges, memory that
 * is not shared, the queue of these calls, threads, and failures.
 *
 * Key idea: in a case about data, the device's threads serve the requests. In a case about a
 * failure, the blocking call runs on a thread of its own, and the case decides what the device
 * answers.
 */
#include "blk-rig.h"

#include <vublk/blocking.h>

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char memory[DISK_BYTES + 4096]; /* the application's memory, which is not shared */

static void fill(char *data, size_t bytes, unsigned seed)
{
	for (size_t i = 0; i < bytes; i++)
		data[i] = (char)(i / 512 + i % 13 + seed);
}

static void refuses(int r, int code, const char *text)
{
	assert_int_equal(r, -code);
	assert_int_equal(error.code, code);
	assert_string_equal(error.text, text);
	memset(&error, 0, sizeof(error));
}

/* --- data ----------------------------------------------------------------------------------- */

static void read_range(struct vublk_blk *blk, uint64_t offset, size_t bytes)
{
	char *to = memory + offset % 5;

	memset(to, 0xee, bytes + 1);
	assert_int_equal(vublk_blk_pread(blk, offset, to, bytes, 0, &error), 0);
	assert_memory_equal(to, fake_disk() + offset, bytes);
	assert_int_equal((unsigned char)to[bytes], 0xee);
}

/* Opens a disk of `capacity` bytes in blocks of `block` bytes, filled with a pattern. */
static struct vublk_blk *begin_filled(uint64_t capacity, unsigned block)
{
	fake_init(capacity);
	fake_plan.config.blk_size = block;
	fill(fake_disk(), capacity, 3);
	return open_disk();
}

/*
 * Like begin_filled(), but the device's threads serve the disk. A case must stop these threads
 * before it writes to fake_disk(), or checks there what a request has written.
 */
static struct vublk_blk *begin_served(uint64_t capacity, unsigned block)
{
	struct vublk_blk *blk = begin_filled(capacity, block);

	fake_start_threads();
	return blk;
}

static void end_served(struct vublk_blk *blk)
{
	fake_stop_threads();
	tear_down(blk);
}

static void read_ranges(uint64_t capacity, unsigned block)
{
	static const size_t lengths[] = { 1, 2, 511, 512, 513, 4096, 4097, 131071, 131073, 700001 };
	struct vublk_blk *blk = begin_served(capacity, block);

	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(lengths); i++) {
		read_range(blk, 0, lengths[i]);
		read_range(blk, 1, lengths[i]);
		read_range(blk, 4095, lengths[i]);
		read_range(blk, 131072, lengths[i]);
		read_range(blk, capacity - lengths[i], lengths[i]);
	}
	read_range(blk, 0, capacity);
	end_served(blk);
}

static void test_read_any_range(void **state)
{
	read_ranges(DISK_BYTES, 512);
	read_ranges(DISK_BYTES, 4096);
	read_ranges(DISK_BYTES - 512, 4096); /* the disk ends within a block */
	read_ranges(DISK_BYTES, 1 << 19); /* a block is larger than the usual piece */
}

static void write_range(struct vublk_blk *blk, uint64_t offset, size_t bytes, uint64_t capacity)
{
	char *from = memory + 3, *before = malloc(capacity);

	memcpy(before, fake_disk(), capacity);
	fill(from, bytes, (unsigned)(offset / 512 + 77));
	fake_start_threads();
	assert_int_equal(vublk_blk_pwrite(blk, offset, from, bytes, 0, &error), 0);
	fake_stop_threads();
	memcpy(before + offset, from, bytes);
	assert_memory_equal(before, fake_disk(), capacity);
	free(before);
}

static void test_write(void **state)
{
	const uint64_t capacity = DISK_BYTES - 512;
	struct vublk_blk *blk = begin_filled(capacity, 4096);

	write_range(blk, 0, 4096, capacity);
	write_range(blk, 8192, 300 * KIB, capacity);
	write_range(blk, DISK_BYTES - 4096, 3584, capacity);
	write_range(blk, 0, capacity, capacity);
	refuses(vublk_blk_pwrite(blk, 4096, memory, 512, 0, &error), EINVAL,
		"write of 512 bytes at byte 4096: expected multiples of the block size, 4096 "
		"bytes, for both numbers; to change a part of a block, read it, change it and "
		"write the whole block");
	refuses(vublk_blk_pwrite(blk, 512, memory, 3584, 0, &error), EINVAL,
		"write of 3584 bytes at byte 512: expected multiples of the block size, 4096 "
		"bytes, for both numbers; to change a part of a block, read it, change it and "
		"write the whole block");
	tear_down(blk);
}

static void test_other_requests(void **state)
{
	struct vublk_blk *blk = begin_served(DISK_BYTES, 512);

	assert_int_equal(vublk_blk_pflush(blk, 0, &error), 0);
	assert_int_equal(vublk_blk_pdiscard(blk, 0, DISK_BYTES, 0, &error), 0);
	assert_int_equal(vublk_blk_pwrite_zeroes(blk, 512, DISK_BYTES - 1024, 0, &error), 0);
	refuses(vublk_blk_pdiscard(blk, 512, 0, 0, &error), EINVAL,
		"discard of 0 bytes at byte 512: expected at least 1 byte");
	fake_stop_threads();
	assert_int_equal(fake_num_flushes, 1);
	assert_int_equal(fake_num_discards, 32);
	assert_int_equal(fake_num_zeroes, 64);
	for (unsigned i = 512; i < DISK_BYTES - 512; i++)
		assert_int_equal(fake_disk()[i], 0);
	tear_down(blk);
}

static void test_bad_arguments(void **state)
{
	struct vublk_blk *blk;

	fake_init(DISK_BYTES);
	fake_plan.features |= VUBLK_BIT(VIRTIO_BLK_F_RO);
	blk = open_disk();
	refuses(vublk_blk_pread(blk, 7, memory, 0, 0, &error), EINVAL,
		"read of 0 bytes at byte 7: expected at least 1 byte");
	refuses(vublk_blk_pread(blk, DISK_BYTES - 1, memory, 2, 0, &error), EINVAL,
		"read of 2 bytes at byte 1048575: the disk ends at byte 1048576");
	refuses(vublk_blk_pread(blk, UINT64_MAX, memory, 2, 0, &error), EINVAL,
		"read of 2 bytes at byte 18446744073709551615: the disk ends at byte 1048576");
	refuses(vublk_blk_pwrite(blk, 0, memory, DISK_BYTES + 512, 0, &error), EINVAL,
		"write of 1049088 bytes at byte 0: the disk ends at byte 1048576");
	refuses(vublk_blk_pwrite(blk, 0, memory, 1024, 0, &error), EROFS,
		"write: the disk is read-only");
	assert_int_equal(vublk_blk_pread(blk, 7, memory, 0, 0, NULL), -EINVAL);
	tear_down(blk);
}

static void test_flags(void **state)
{
	struct vublk_blk *blk = begin_served(DISK_BYTES, 512);

	assert_int_equal(vublk_blk_pwrite(blk, 0, memory, 300 * KIB, VUBLK_BLK_FUA, &error), 0);
	assert_int_equal(vublk_blk_pwrite_zeroes(blk, 0, 512, VUBLK_BLK_NO_UNMAP, &error), 0);
	fake_stop_threads();
	assert_int_equal(fake_num_flushes, 3);
	assert_int_equal(fake_last.range_flags, 0);
	fake_start_threads();
	assert_int_equal(vublk_blk_pwrite_zeroes(blk, 0, 512, 0, &error), 0);
	refuses(vublk_blk_pread(blk, 0, memory, 512, VUBLK_BLK_FUA, &error), EINVAL,
		"read: flag VUBLK_BLK_FUA is not allowed");
	refuses(vublk_blk_pwrite(blk, 0, memory, 512, 0x80, &error), EINVAL,
		"write: flag 0x80 is unknown to this version of libvublk");
	refuses(vublk_blk_pflush(blk, VUBLK_BLK_FUA, &error), EINVAL,
		"flush: flag VUBLK_BLK_FUA is not allowed");
	fake_stop_threads();
	assert_int_equal(fake_last.range_flags, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
	tear_down(blk);
}

/* --- their queue and their memory ------------------------------------------------------------- */

static void test_last_queue_that_is_unused(void **state)
{
	struct vublk_blk *blk = begin(4, blk_fails_at_once);
	struct vublk_blk_queue *first = vublk_blk_queue(blk, 0);
	struct vublk_blk_completion completion;
	char *buffer = vublk_blk_alloc(blk, 4096, &error);
	int tag;

	assert_non_null(vublk_blk_queue(blk, 3));
	/*
	 * Meanwhile a request of the application is in flight. No blocking call may take its
	 * completion.
	 */
	assert_int_equal(vublk_blk_read(first, 0, buffer, 4096, 0, &tag, &error), 0);
	fake_start_threads();
	assert_int_equal(vublk_blk_pread(blk, 0, memory, 100, 0, &error), 0);
	assert_int_equal(vublk_blk_in_flight(first), 1);
	assert_null(vublk_blk_queue(blk, 2));
	assert_non_null(vublk_blk_queue(blk, 1));
	assert_ptr_equal(vublk_blk_queue(blk, 0), first);
	assert_int_equal(vublk_blk_wait(first, &completion, 1, 1, -1, &error), 1);
	assert_ptr_equal(completion.user_data, &tag);
	assert_int_equal(vublk_blk_pread(blk, 0, memory, 100, 0, &error), 0);
	end_served(blk);
}

static void test_only_queue(void **state)
{
	struct vublk_blk *blk = begin_served(DISK_BYTES, 512);

	assert_int_equal(vublk_blk_pflush(blk, 0, &error), 0);
	assert_null(vublk_blk_queue(blk, 0));
	assert_int_equal(vublk_blk_pread(blk, 0, memory, 1, 0, &error), 0);
	end_served(blk);
	blk = set_up();
	assert_non_null(vublk_blk_queue(blk, 0));
	refuses(vublk_blk_pread(blk, 0, memory, 1, 0, &error), EBUSY,
		"no queue is free for blocking calls, because the application uses every "
		"queue (1); leave one unused, or open the disk with one more (num-queues)");
	tear_down(blk);
}

static void test_no_memory_slot(void **state)
{
	struct vublk_blk *blk;

	fake_init(DISK_BYTES);
	fake_plan.memory_slots = 1; /* the memory of the rings occupies it */
	blk = open_disk();
	assert_int_equal(vublk_blk_pread(blk, 0, memory, 1, 0, NULL), -ENOSPC);
	assert_int_equal(vublk_blk_pread(blk, 0, memory, 1, 0, &error), -ENOSPC);
	assert_non_null(strstr(error.text, "memory slots of the back-end are in use"));
	tear_down(blk);
}

/* --- several threads -------------------------------------------------------------------------- */

#define THREADS 4
#define ROUNDS 40
#define AREA (DISK_BYTES / 8)

struct user {
	struct vublk_blk *blk;
	unsigned index;
	char data[AREA], again[AREA];
};

static void *use(void *opaque)
{
	struct user *user = opaque;
	uint64_t offset = user->index * AREA;

	for (unsigned i = 0; i < ROUNDS; i++) {
		size_t bytes = (i * 7 % (AREA / 512) + 1) * 512;

		fill(user->data, bytes, user->index * ROUNDS + i);
		assert_int_equal(vublk_blk_pwrite(user->blk, offset, user->data, bytes, 0, NULL), 0);
		assert_int_equal(vublk_blk_pread(user->blk, offset + 1, user->again, bytes - 1, 0,
						 NULL), 0);
		assert_memory_equal(user->data + 1, user->again, bytes - 1);
	}
	return NULL;
}

/* Uses a queue of the application while other threads make blocking calls. */
static void use_queue(struct vublk_blk *blk, unsigned rounds)
{
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	char *buffer = vublk_blk_alloc(blk, 4096, &error);
	struct vublk_blk_completion completion;

	for (unsigned i = 0; i < rounds; i++) {
		fill(buffer, 4096, i);
		assert_int_equal(vublk_blk_write(queue, 7 * AREA, buffer, 4096, 0, buffer,
						 &error), 0);
		assert_int_equal(vublk_blk_wait(queue, &completion, 1, 1, -1, &error), 1);
		assert_int_equal(completion.result, 0);
		assert_ptr_equal(completion.user_data, buffer);
	}
}

static void test_threads(void **state)
{
	struct vublk_blk *blk = begin(2, blk_fails_at_once);
	struct user *users = calloc(THREADS, sizeof(*users));
	pthread_t threads[THREADS];

	assert_non_null(vublk_blk_queue(blk, 0));
	fake_start_threads();
	for (unsigned i = 0; i < THREADS; i++) {
		users[i].blk = blk;
		users[i].index = i;
		assert_int_equal(pthread_create(&threads[i], NULL, use, &users[i]), 0);
	}
	use_queue(blk, 200);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	free(users);
	end_served(blk);
}

/* --- failures --------------------------------------------------------------------------------- */

/* A blocking call on a thread of its own. */
struct call {
	pthread_t thread;
	struct vublk_blk *blk;
	int (*fn)(struct vublk_blk *blk, struct vublk_error *error);
	int result;
	struct vublk_error error;
};

static void *make_call(void *opaque)
{
	struct call *call = opaque;

	call->result = call->fn(call->blk, &call->error);
	return NULL;
}

static void start_call(struct call *call, struct vublk_blk *blk,
		       int (*fn)(struct vublk_blk *blk, struct vublk_error *error))
{
	*call = (struct call){ .blk = blk, .fn = fn };
	assert_int_equal(pthread_create(&call->thread, NULL, make_call, call), 0);
}

static void end_call(struct call *call, int code, const char *text)
{
	pthread_join(call->thread, NULL);
	error = call->error;
	if (code)
		refuses(call->result, code, text);
	else
		assert_int_equal(call->result, 0);
}

static int read_all(struct vublk_blk *blk, struct vublk_error *why)
{
	return vublk_blk_pread(blk, 1, memory, DISK_BYTES - 1, 0, why);
}

static int read_short(struct vublk_blk *blk, struct vublk_error *why)
{
	return vublk_blk_pread(blk, 1, memory, 511, 0, why);
}

static int write_short(struct vublk_blk *blk, struct vublk_error *why)
{
	return vublk_blk_pwrite(blk, 0, memory, 4096, 0, why);
}

static int flush(struct vublk_blk *blk, struct vublk_error *why)
{
	return vublk_blk_pflush(blk, 0, why);
}

static void serve_one_with(uint8_t status)
{
	while (!fake_serve_with(0, 1, status))
		sched_yield();
}

/*
 * The result of a call is that of the first piece that fails. After the failure the call waits for
 * the pieces in flight, and sends no further pieces.
 */
static void test_failed_piece(void **state)
{
	struct vublk_blk *blk;
	struct call call;

	fake_init(DISK_BYTES);
	fake_plan.queue_size = 4; /* too small for all pieces of the call */
	blk = open_disk();
	start_call(&call, blk, read_all);
	serve_one_with(VIRTIO_BLK_S_IOERR);
	for (unsigned i = 0; i < 3; i++)
		serve_one_with(VIRTIO_BLK_S_UNSUPP);
	end_call(&call, EIO, "read of 1048575 bytes at byte 1: the back-end failed to execute the "
		 "request; see its log for the reason");
	assert_int_equal(fake_serve(0, 1), 0);
	start_call(&call, blk, read_short);
	serve_one_with(VIRTIO_BLK_S_OK);
	end_call(&call, 0, NULL);
	start_call(&call, blk, flush);
	serve_one_with(VIRTIO_BLK_S_IOERR);
	end_call(&call, EIO, "flush: the back-end failed to execute the request; see its log for the reason");
	tear_down(blk);
}

static void wait_until_sent(void)
{
	while (!fake_take(0, NULL))
		sched_yield();
}

static void test_lost_for_good(void **state)
{
	struct vublk_blk *blk = set_up();
	struct call call;

	start_call(&call, blk, read_short);
	wait_until_sent();
	fake_disconnect("the back-end hung up");
	end_call(&call, ENOTCONN, "read of 511 bytes at byte 1: the back-end hung up; the request "
		 "may or may not have been executed");
	assert_int_equal(vublk_blk_pread(blk, 0, memory, 512, 0, &error), -ENOTCONN);
	tear_down(blk);
}

static void test_outage(void **state)
{
	struct vublk_blk *blk = begin(1, NULL);
	struct call call;

	start_call(&call, blk, write_short);
	serve_one_with(VIRTIO_BLK_S_OK);
	end_call(&call, 0, NULL);
	start_call(&call, blk, read_short);
	wait_until_sent();
	lose();
	wait_for_event(VUBLK_BLK_WRITES_LOST);
	find();
	serve_one_with(VIRTIO_BLK_S_OK);
	end_call(&call, 0, NULL);
	start_call(&call, blk, flush); /* this flush, and no later one, reports the loss */
	end_call(&call, EOWNERDEAD,
		 "flush: the connection to a back-end was lost before completed writes were "
		 "flushed, so these writes may be lost; write them again (or set unflushed=trust "
		 "if the back-end keeps completed writes)");
	start_call(&call, blk, flush);
	serve_one_with(VIRTIO_BLK_S_OK);
	end_call(&call, 0, NULL);
	tear_down(blk);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_read_any_range),
		VUBLK_TEST(test_write),
		VUBLK_TEST(test_other_requests),
		VUBLK_TEST(test_flags),
		VUBLK_TEST(test_bad_arguments),
		VUBLK_TEST(test_last_queue_that_is_unused),
		VUBLK_TEST(test_only_queue),
		VUBLK_TEST(test_no_memory_slot),
		VUBLK_TEST(test_threads),
		VUBLK_TEST(test_failed_piece),
		VUBLK_TEST(test_lost_for_good),
		VUBLK_TEST(test_outage),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
