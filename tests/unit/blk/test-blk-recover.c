/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The block API when back-ends are lost and other back-ends are found. test-blk-unflushed.c tests
 * writes that a lost back-end had completed, but that were not flushed.
 *
 * Key idea: each case decides which requests a back-end has executed before the back-end is lost.
 * In the end each request has completed once.
 */
#include "blk-rig.h"

#include "util/atomic.h"
#include "util/fd.h"

#include <dirent.h>
#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Writes `count` blocks. Block `first + i` is filled with `value + i`. */
static void write_blocks(struct vublk_blk *blk, unsigned first, unsigned count, char *buffer,
			 int value)
{
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);

	for (unsigned i = 0; i < count; i++) {
		memset(buffer + i * 512, value + (int)i, 512);
		assert_int_equal(vublk_blk_write(queue, (first + i) * 512, buffer + i * 512, 512, 0,
						 buffer + i * 512, &error), 0);
	}
	vublk_blk_submit(queue);
}

static void take(struct vublk_blk *blk, unsigned queue, unsigned count, int result)
{
	struct vublk_blk_completion c[64];

	assert_int_equal(vublk_blk_wait(vublk_blk_queue(blk, queue), c, count, count, -1, &error),
			 count);
	for (unsigned i = 0; i < count; i++)
		assert_int_equal(c[i].result, result);
}

static void expect_block(unsigned block, int value)
{
	for (unsigned i = 0; i < 512; i++)
		assert_int_equal(fake_disk()[block * 512 + i], value);
}

/* --- without an in-flight area ------------------------------------------------------------ */

static void test_what_was_not_completed_is_done_again(void **state)
{
	struct vublk_blk *blk = begin(1, NULL);
	char *buffer = vublk_blk_alloc(blk, 8 * 512, &error);
	struct fake_request request;

	write_blocks(blk, 0, 8, buffer, 1);
	assert_int_equal(fake_serve(0, 3), 3);
	assert_true(fake_take(0, NULL)); /* begun, but not completed */
	lose();
	memset(fake_disk(), 0x77, 3 * 512); /* shows whether a completed write is executed again */
	assert_int_equal(fake_serve(0, 8), 0);
	find();
	for (unsigned i = 3; i < 8; i++) { /* in their original order */
		assert_true(fake_take(0, &request));
		assert_int_equal(request.sector, i);
		fake_give_back(0, VIRTIO_BLK_S_OK);
	}
	assert_false(fake_take(0, NULL));
	take(blk, 0, 8, 0);
	expect_block(0, 0x77);
	tear_down(blk);
}

/* A lost back-end that is still alive can write only to rings that the driver no longer reads. */
static void test_a_late_back_end_is_not_believed(void **state)
{
	struct vublk_blk *blk = begin(1, NULL);
	char *buffer = vublk_blk_alloc(blk, 4 * 512, &error);
	struct vublk_split_ring late;

	write_blocks(blk, 0, 4, buffer, 1);
	late = fake_map_ring(0); /* the mapping of the old back-end */
	lose();
	for (unsigned i = 0; i < 4; i++)
		late.used->ring[i].id = i;
	vublk_store_release(&late.used->idx, 4);
	find();
	assert_int_equal(fake_serve(0, 9), 4);
	take(blk, 0, 4, 0);
	for (unsigned i = 0; i < 4; i++)
		expect_block(i, 1 + (int)i);
	fake_unmap_ring();
	tear_down(blk);
}

static void test_requests_are_taken_meanwhile(void **state)
{
	struct vublk_blk *blk = begin(1, NULL);
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	char *buffer = vublk_blk_alloc(blk, 64 * KIB, &error);
	struct vublk_blk_completion c;

	lose();
	write_blocks(blk, 0, 16, buffer, 1); /* as many as the queue has entries */
	assert_int_equal(vublk_blk_flush(queue, 0, NULL, &error), -EAGAIN);
	assert_int_equal(vublk_blk_wait(queue, &c, 1, 1, 0, &error), 0);
	assert_int_equal(vublk_blk_set_write_cache(blk, true, &error), 0); /* already on, so no
									      back-end is needed */
	find();
	assert_int_equal(fake_serve(0, 99), 16);
	take(blk, 0, 16, 0);
	for (unsigned i = 0; i < 16; i++)
		expect_block(i, 1 + (int)i);
	tear_down(blk);
}

/* The next back-end gets memory that was registered during an outage. */
static void test_memory_comes_meanwhile(void **state)
{
	struct vublk_blk *blk = begin(1, NULL);
	char *buffer, *another;

	buffer = vublk_blk_alloc(blk, 4096, &error);
	lose();
	another = vublk_blk_alloc(blk, 4096, &error);
	assert_non_null(another);
	write_blocks(blk, 0, 2, another, 5);
	vublk_blk_release(blk, buffer, NULL);
	find();
	assert_int_equal(fake_serve(0, 9), 2);
	take(blk, 0, 2, 0);
	expect_block(1, 6);
	tear_down(blk);
}

/*
 * Back-ends are lost again and again, some of them before their rings run. In the end each request
 * completes.
 */
static void test_lost_many_times(void **state)
{
	struct vublk_blk *blk = begin(2, NULL);
	char *buffer = vublk_blk_alloc(blk, 12 * 512, &error);
	unsigned served = 0;

	write_blocks(blk, 0, 12, buffer, 1);
	for (unsigned i = 0; i < 100; i++) {
		if (i % 10 == 0)
			served += fake_serve(0, 1);
		lose();
		if (i & 1)
			fake_reconnect_and_lose("before it has started");
		find();
	}
	assert_int_equal(served, 10);
	assert_int_equal(fake_serve(0, 99), 2);
	take(blk, 0, 12, 0);
	for (unsigned i = 0; i < 12; i++)
		expect_block(i, 1 + (int)i);
	tear_down(blk);
}

static unsigned count_entries(const char *folder)
{
	DIR *dir = opendir(folder);
	unsigned n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/*
 * Returns the number of mappings of shared memory. Other mappings do not count, because a
 * sanitizer's allocator makes and removes mappings of its own.
 */
static unsigned count_mappings(void)
{
	FILE *file = fopen("/proc/self/maps", "r");
	char line[512];
	unsigned n = 0;

	assert_non_null(file);
	while (fgets(line, sizeof(line), file))
		n += strstr(line, "memfd:") != NULL;
	fclose(file);
	return n;
}

struct footprint {
	unsigned descriptors, mappings, threads;
	size_t heap_bytes;
};

static struct footprint measure(void)
{
	return (struct footprint){
		.descriptors = count_entries("/proc/self/fd"),
		.mappings = count_mappings(),
		.threads = count_entries("/proc/self/task"),
		.heap_bytes = mallinfo2().uordblks,
	};
}

/*
 * Lost back-ends leave no descriptor, mapping, thread or heap memory behind, however many were
 * lost.
 */
static void test_outages_leave_nothing(void **state)
{
	struct vublk_blk *blk = begin(2, NULL);
	char *buffer = vublk_blk_alloc(blk, 12 * 512, &error);
	struct footprint early, late;

	write_blocks(blk, 0, 12, buffer, 1);
	for (unsigned i = 0; i < 10000; i++) {
		lose();
		find();
		if (i == 100)
			early = measure();
	}
	late = measure();
	assert_int_equal(late.descriptors, early.descriptors);
	assert_int_equal(late.mappings, early.mappings);
	assert_int_equal(late.threads, early.threads);
	assert_true(late.heap_bytes <= early.heap_bytes);
	assert_int_equal(fake_serve(0, 99), 12);
	take(blk, 0, 12, 0);
	tear_down(blk);
}

/* At the loss, some pieces of a request are complete, some on the ring, and some not yet cut. */
static void test_pieces(void **state)
{
	struct vublk_blk *blk;
	char *buffer;

	fake_init(DISK_BYTES);
	fake_plan.queue_size = 4;
	fake_plan.features |= VUBLK_BIT(VIRTIO_BLK_F_SIZE_MAX);
	fake_plan.config.size_max = 512;
	fake_plan.config.seg_max = 1;
	blk = open_disk_with(NULL);
	buffer = vublk_blk_alloc(blk, 32 * 512, &error);
	for (unsigned i = 0; i < 32 * 512; i++)
		buffer[i] = (char)(i / 512 + 1);
	assert_int_equal(vublk_blk_write(vublk_blk_queue(blk, 0), 0, buffer, 32 * 512, 0, NULL, &error),
			 0);
	vublk_blk_submit(vublk_blk_queue(blk, 0));
	for (unsigned i = 0; i < 10; i++) {
		struct vublk_blk_completion c;

		assert_int_equal(fake_serve(0, 1), 1);
		assert_int_equal(vublk_blk_poll(vublk_blk_queue(blk, 0), &c, 1), 0);
		lose();
		find();
	}
	fake_start_threads();
	take(blk, 0, 1, 0);
	assert_memory_equal(fake_disk(), buffer, 32 * 512);
	fake_stop_threads();
	tear_down(blk);
}

/* Each kind of request looks the same on the new ring as on the old one. */
static void test_every_kind(void **state)
{
	struct vublk_blk *blk = begin(1, NULL);
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	char *buffer = vublk_blk_alloc(blk, 8192, &error);
	char id[VUBLK_BLK_ID_SIZE] = "";
	struct fake_request request;

	assert_int_equal(vublk_blk_read(queue, 4096, buffer, 4096, 0, NULL, &error), 0);
	assert_int_equal(vublk_blk_flush(queue, 0, NULL, &error), 0);
	assert_int_equal(vublk_blk_discard(queue, 8192, 4096, 0, NULL, &error), 0);
	assert_int_equal(vublk_blk_write_zeroes(queue, 16384, 512, 0, NULL, &error), 0);
	assert_int_equal(vublk_blk_get_id(queue, id, 0, NULL, &error), 0);
	vublk_blk_submit(queue);
	memset(fake_disk() + 4096, 0x42, 4096);
	lose();
	find();
	assert_true(fake_take(0, &request));
	assert_int_equal(request.type, VIRTIO_BLK_T_IN);
	assert_int_equal(request.sector, 8);
	assert_int_equal(request.data_bytes, 4096);
	lose(); /* the request that the case has taken must not be lost */
	find();
	assert_int_equal(fake_serve(0, 9), 5);
	take(blk, 0, 5, 0);
	assert_int_equal(buffer[0], 0x42);
	assert_int_equal(fake_num_flushes, 1);
	assert_int_equal(fake_num_discards, 1);
	assert_int_equal(fake_num_zeroes, 1);
	assert_int_equal(fake_last.type, VIRTIO_BLK_T_GET_ID);
	assert_string_equal(id, "fake disk of 20 byte");
	tear_down(blk);
}

/*
 * A back-end completes a request, but is lost before it calls the driver. The loss wakes the
 * sleeping owner of the queue. Afterwards the owner can sleep until the next back-end completes the
 * other requests.
 */
static void test_completed_without_a_call(void **state)
{
	struct vublk_blk *blk = begin(1, NULL);
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	struct pollfd pollfd = { .fd = vublk_blk_queue_fd(queue), .events = POLLIN };
	struct vublk_blk_completion c[4];
	char *buffer = vublk_blk_alloc(blk, 4 * 512, &error);

	write_blocks(blk, 0, 4, buffer, 1);
	assert_int_equal(fake_serve(0, 1), 1);
	vublk_eventfd_clear(pollfd.fd); /* as if the back-end had been lost before it made the
					   call */
	lose();
	assert_int_equal(poll(&pollfd, 1, -1), 1);
	assert_int_equal(vublk_blk_poll(queue, c, 4), 1);
	assert_false(vublk_blk_arm(queue));
	find();
	assert_int_equal(fake_serve(0, 9), 3);
	take(blk, 0, 3, 0);
	tear_down(blk);
}

/* --- writes to one place ---------------------------------------------------------------------- */

/* If two writes overlap, the later one is put on the ring only when the earlier one is complete. */
static void test_overlapping_writes_wait(void **state)
{
	struct vublk_blk *blk = begin(1, NULL);
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	char *buffer = vublk_blk_alloc(blk, 8192, &error);
	struct fake_request request;

	assert_int_equal(vublk_blk_write(queue, 0, buffer, 1024, 0, NULL, &error), 0);
	/* a read does not wait for a write */
	assert_int_equal(vublk_blk_read(queue, 512, buffer, 512, 0, NULL, &error), 0);
	assert_int_equal(vublk_blk_write(queue, 1024, buffer, 512, 0, NULL, &error), 0);
	/* overlaps both writes */
	assert_int_equal(vublk_blk_discard(queue, 512, 2048, 0, NULL, &error), 0);
	assert_int_equal(vublk_blk_write_zeroes(queue, 2048, 512, 0, NULL, &error), 0);
	assert_int_equal(vublk_blk_write(queue, 64 * KIB, buffer, 512, 0, NULL, &error), 0);
	vublk_blk_submit(queue);
	assert_int_equal(fake_serve(0, 9), 3);
	take(blk, 0, 3, 0);
	assert_true(fake_take(0, &request));
	assert_int_equal(request.type, VIRTIO_BLK_T_DISCARD);
	assert_false(fake_take(0, NULL));
	fake_give_back(0, VIRTIO_BLK_S_OK);
	take(blk, 0, 1, 0);
	assert_int_equal(fake_serve(0, 9), 2);
	take(blk, 0, 2, 0);
	tear_down(blk);
}

/* Random writes of all lengths: two that overlap are never on the ring at the same time. */
static void test_no_two_overlap(void **state)
{
	struct vublk_blk *blk = begin(1, NULL);
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	char *buffer = vublk_blk_alloc(blk, 512 * KIB, &error);
	struct vublk_blk_completion c[16];
	unsigned in_flight = 0, held_back = 0;

	srand(7);
	for (unsigned round = 0; round < 3000; round++) {
		struct { uint64_t offset, bytes; } out[16];
		unsigned n = 0;

		while (in_flight < 16) {
			uint64_t bytes = 512 * (1 + (uint64_t)rand() % (rand() % 16 ? 12 : 200));
			uint64_t offset = 512 * ((uint64_t)rand() % 900);

			assert_int_equal(vublk_blk_write(queue, offset, buffer, bytes, 0, NULL, &error), 0);
			in_flight++;
		}
		vublk_blk_submit(queue);
		for (struct fake_request r; n < 16 && fake_take(0, &r); n++) {
			out[n].offset = r.sector * 512;
			out[n].bytes = r.data_bytes;
			for (unsigned i = 0; i < n; i++)
				assert_false(vublk_ranges_overlap(out[i].offset, out[i].bytes,
								  out[n].offset, out[n].bytes));
		}
		held_back += n < in_flight;
		lose(); /* the simplest way to have the driver issue all requests again */
		find();
		fake_serve(0, 1 + (unsigned)rand() % 3);
		in_flight -= (unsigned)vublk_blk_poll(queue, c, 16);
	}
	assert_true(held_back > 100);
	assert_int_equal(vublk_blk_close(blk, 0, NULL), -ETIMEDOUT);
	fake_deinit();
}

/* --- with an in-flight area ------------------------------------------------------------------- */

static void test_tracked_rings_stay(void **state)
{
	struct vublk_blk *blk = begin(1, NULL);
	char *buffer = vublk_blk_alloc(blk, 8 * 512, &error);

	fake_plan.tracked = true;
	write_blocks(blk, 0, 4, buffer, 1);
	assert_int_equal(fake_serve(0, 1), 1);
	lose();
	write_blocks(blk, 4, 4, buffer + 4 * 512, 5);
	find();
	assert_int_equal(fake_serve(0, 9), 7);
	take(blk, 0, 8, 0);
	expect_block(7, 8);
	tear_down(blk);
}

/*
 * Writes block 0, each time from the same buffer. So from the second write on, the descriptors are
 * already in shared memory.
 */
static void write_same(struct vublk_blk *blk, char *buffer, int value)
{
	write_blocks(blk, 0, 1, buffer, value);
	assert_int_equal(fake_serve(0, 9), 1);
	take(blk, 0, 1, 0);
	expect_block(0, value);
}

/*
 * Replaces the back-end. If `value` is not 0, writes it to block 0 during the outage, and the next
 * back-end must execute this write.
 */
static void change_back_end(struct vublk_blk *blk, char *buffer, int value)
{
	unsigned count = value ? 1 : 0;

	lose();
	write_blocks(blk, 0, count, buffer, value);
	find();
	assert_int_equal(fake_serve(0, 9), count);
	take(blk, 0, count, 0);
	if (count)
		expect_block(0, value);
}

/*
 * A back-end overwrites memory that only the driver may write. The damage ends when that back-end
 * is lost: later requests are as the application made them, both during the outage and with the
 * next back-end.
 */
static void test_tracked_and_wiped(void **state)
{
	struct vublk_blk *blk = begin(1, NULL);
	char *buffer = vublk_blk_alloc(blk, 4096, &error);

	fake_plan.tracked = true;
	for (int round = 0; round < 4; round++) {
		write_same(blk, buffer, 10 + round);
		write_same(blk, buffer, 20 + round);
		fake_wipe(0);
		change_back_end(blk, buffer, round % 2 ? 30 + round : 0);
	}
	tear_down(blk);
}

/*
 * Without an in-flight area the new rings are in other memory. Later requests with the same buffer
 * are still as the application made them.
 */
static void test_same_buffer_on_other_rings(void **state)
{
	struct vublk_blk *blk = begin(1, NULL);
	char *buffer = vublk_blk_alloc(blk, 4096, &error);

	for (int round = 0; round < 4; round++) {
		write_same(blk, buffer, 10 + round);
		change_back_end(blk, buffer, round % 2 ? 30 + round : 0);
		write_same(blk, buffer, 20 + round);
	}
	tear_down(blk);
}

/* The next back-end has no in-flight area, so the driver issues the requests again. */
static void test_tracked_and_then_not(void **state)
{
	struct vublk_blk *blk = begin(1, NULL);
	char *buffer = vublk_blk_alloc(blk, 4 * 512, &error);
	struct fake_request request;

	fake_plan.tracked = fake_plan.next_is_blind = true;
	write_blocks(blk, 0, 4, buffer, 1);
	assert_int_equal(fake_serve(0, 1), 1);
	assert_true(fake_take(0, NULL));
	lose();
	fake_reconnect();
	wait_for_event(VUBLK_BLK_RECONNECTED);
	assert_true(fake_take(0, &request));
	assert_int_equal(request.sector, 1);
	fake_give_back(0, VIRTIO_BLK_S_OK);
	assert_int_equal(fake_serve(0, 9), 2);
	take(blk, 0, 4, 0);
	tear_down(blk);
}

/* --- limits of the wait ---------------------------------------------------------------------- */

static void fail_after(bool tracked)
{
	const struct vublk_option options[] = { { "fail-after-ms", "20" }, { NULL } };
	struct vublk_blk *blk = begin(1, options);
	char *buffer = vublk_blk_alloc(blk, 8 * 512, &error);
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);

	fake_plan.tracked = tracked;
	write_blocks(blk, 0, 4, buffer, 1);
	assert_int_equal(fake_serve(0, 1), 1);
	lose();
	take(blk, 0, 1, 0);
	take(blk, 0, 3, -ETIMEDOUT);
	assert_int_equal(vublk_blk_write(queue, 0, buffer, 512, 0, NULL, &error), -ETIMEDOUT);
	assert_non_null(strstr(error.text, "write: no back-end has been connected for 20 ms"));
	fake_plan.tracked = false;
	find();
	assert_int_equal(fake_serve(0, 9), 0); /* a failed request is not executed later */
	write_blocks(blk, 6, 2, buffer, 9);
	assert_int_equal(fake_serve(0, 9), 2);
	take(blk, 0, 2, 0);
	expect_block(1, 0);
	tear_down(blk);
}

static void test_fail_after_a_time(void **state)
{
	fail_after(false);
}

static void test_fail_after_a_time_with_an_area(void **state)
{
	fail_after(true);
}

static void test_given_up(void **state)
{
	struct vublk_blk *blk = begin(1, NULL);
	char *buffer = vublk_blk_alloc(blk, 4 * 512, &error);

	write_blocks(blk, 0, 4, buffer, 1);
	assert_int_equal(fake_serve(0, 1), 1);
	lose();
	fake_give_up();
	wait_for_event(VUBLK_BLK_GAVE_UP);
	take(blk, 0, 1, 0);
	take(blk, 0, 3, -ENOTCONN);
	tear_down(blk);
}

/* After a broken ring the disk does not look for another back-end. */
static void test_broken_ring(void **state)
{
	struct vublk_blk *blk = begin(2, NULL);
	struct vublk_blk_completion c[4];
	char *buffer = vublk_blk_alloc(blk, 4 * 512, &error);

	write_blocks(blk, 0, 3, buffer, 1);
	fake_push_id(0, 99);
	lose();
	wait_for_event(VUBLK_BLK_GAVE_UP);
	assert_int_equal(vublk_blk_wait(vublk_blk_queue(blk, 0), c, 3, 4, -1, &error), 3);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(c[i].result, -EPROTO);
	assert_int_equal(vublk_blk_flush(vublk_blk_queue(blk, 1), 0, NULL, &error), -ENOTCONN);
	tear_down(blk);
}

/* --- threads ---------------------------------------------------------------------------------- */

#define ROUNDS 1500

struct worker {
	struct vublk_blk *blk;
	unsigned index;
	pthread_t thread;
};

/*
 * The owner of a queue. Some owners poll, and others sleep. Each reads back the data that it has
 * written.
 */
static void *work(void *opaque)
{
	struct worker *w = opaque;
	struct vublk_blk_queue *queue = vublk_blk_queue(w->blk, w->index);
	char *buffer = vublk_blk_alloc(w->blk, 8192, NULL);
	struct vublk_blk_completion c;

	for (unsigned round = 0; round < ROUNDS; round++) {
		uint64_t offset = w->index * 128 * KIB + round % 16 * 4096;

		memset(buffer, (int)(round + w->index), 4096);
		for (unsigned reads = 0; reads < 2; reads++) {
			int r = reads ? vublk_blk_read(queue, offset, buffer + 4096, 4096, 0, NULL, NULL) :
					vublk_blk_write(queue, offset, buffer, 4096, 0, NULL, NULL);

			assert_int_equal(r, 0);
			vublk_blk_submit(queue);
			while (w->index & 1 ? vublk_blk_wait(queue, &c, 1, 1, -1, NULL) != 1 :
					      !vublk_blk_poll(queue, &c, 1))
				;
			assert_int_equal(c.result, 0);
		}
		assert_memory_equal(buffer, buffer + 4096, 4096);
	}
	return NULL;
}

static void run_threads(bool tracked)
{
	struct worker workers[3];
	struct vublk_blk *blk = begin(VUBLK_ARRAY_SIZE(workers) + 1, NULL); /* one queue is idle */

	fake_plan.tracked = tracked;
	fake_start_threads();
	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(workers); i++) {
		workers[i] = (struct worker){ .blk = blk, .index = i };
		assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
	}
	for (unsigned i = 0; i < 300; i++) {
		void *buffer;

		lose();
		buffer = vublk_blk_alloc(blk, 4096, NULL);
		find();
		vublk_blk_release(blk, buffer, NULL);
	}
	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(workers); i++)
		pthread_join(workers[i].thread, NULL);
	assert_int_equal(vublk_blk_close(blk, -1, NULL), 0);
	fake_stop_threads();
	fake_deinit();
}

static void test_threads(void **state)
{
	run_threads(false);
}

static void test_threads_with_an_area(void **state)
{
	run_threads(true);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_what_was_not_completed_is_done_again),
		VUBLK_TEST(test_a_late_back_end_is_not_believed),
		VUBLK_TEST(test_requests_are_taken_meanwhile),
		VUBLK_TEST(test_memory_comes_meanwhile),
		VUBLK_TEST(test_lost_many_times),
		VUBLK_TEST(test_outages_leave_nothing),
		VUBLK_TEST(test_pieces),
		VUBLK_TEST(test_every_kind),
		VUBLK_TEST(test_completed_without_a_call),
		VUBLK_TEST(test_overlapping_writes_wait),
		VUBLK_TEST(test_no_two_overlap),
		VUBLK_TEST(test_tracked_rings_stay),
		VUBLK_TEST(test_tracked_and_wiped),
		VUBLK_TEST(test_same_buffer_on_other_rings),
		VUBLK_TEST(test_tracked_and_then_not),
		VUBLK_TEST(test_fail_after_a_time),
		VUBLK_TEST(test_fail_after_a_time_with_an_area),
		VUBLK_TEST(test_given_up),
		VUBLK_TEST(test_broken_ring),
		VUBLK_TEST(test_threads),
		VUBLK_TEST(test_threads_with_an_area),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
