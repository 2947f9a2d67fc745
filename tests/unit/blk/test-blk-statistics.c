/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The counters of a queue (vublk_blk_queue_get_stats()), over the stand-in device.
 *
 * Key idea: a case does not know the latency of a request. It measures the time before and after
 * the request, and checks that the latency is consistent with these times.
 */
#include "blk-rig.h"

#include "util/loop.h"

#include <vublk/blocking.h>

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>

static const struct vublk_option counts[] = { { "statistics", "on" }, { NULL } };

static struct vublk_blk_stats get(struct vublk_blk_queue *queue)
{
	struct vublk_blk_stats stats;

	memset(&stats, 0xee, sizeof(stats));
	assert_int_equal(vublk_blk_queue_get_stats(queue, &stats, sizeof(stats)), 0);
	return stats;
}

static uint64_t count_latencies(const struct vublk_blk_stats *stats)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < VUBLK_BLK_LATENCY_BUCKETS; i++)
		sum += stats->latency[i];
	return sum;
}

static void end_all(struct vublk_blk_queue *queue, uint8_t status)
{
	struct vublk_blk_completion completion;

	vublk_blk_submit(queue);
	while (vublk_blk_in_flight(queue)) {
		fake_serve_with(0, 16, status);
		vublk_blk_poll(queue, &completion, 1);
	}
}

static void test_off(void **state)
{
	struct vublk_blk *blk = set_up();
	struct vublk_blk_stats stats;

	memset(&stats, 0xee, sizeof(stats));
	assert_int_equal(vublk_blk_queue_get_stats(vublk_blk_queue(blk, 0), &stats, sizeof(stats)),
			 -ENOTSUP);
	assert_int_equal(stats.reads + stats.in_flight + count_latencies(&stats), 0);
	tear_down(blk);
}

static void test_each_kind(void **state)
{
	struct vublk_blk *blk = begin(1, counts);
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	char *buffer = vublk_blk_alloc(blk, 64 * KIB, &error);
	struct iovec iov[2] = { { buffer, 512 }, { buffer + 8192, 1024 } };
	char id[VUBLK_BLK_ID_SIZE];
	struct vublk_blk_stats stats;

	assert_int_equal(vublk_blk_read(queue, 0, buffer, 4096, 0, NULL, &error), 0);
	assert_int_equal(vublk_blk_readv(queue, 0, iov, 2, 0, NULL, &error), 0);
	assert_int_equal(vublk_blk_read(queue, 1, buffer, 4096, 0, NULL, &error), -EINVAL);
	stats = get(queue);
	assert_int_equal(stats.in_flight, 2);
	assert_int_equal(stats.reads, 0);
	end_all(queue, VIRTIO_BLK_S_OK);
	assert_int_equal(vublk_blk_write(queue, 0, buffer, 64 * KIB, VUBLK_BLK_FUA, NULL, &error),
			 0);
	assert_int_equal(vublk_blk_discard(queue, 0, DISK_BYTES, 0, NULL, &error), 0);
	assert_int_equal(vublk_blk_write_zeroes(queue, 0, 512, 0, NULL, &error), 0);
	assert_int_equal(vublk_blk_get_id(queue, id, 0, NULL, &error), 0);
	assert_int_equal(vublk_blk_flush(queue, 0, NULL, &error), 0);
	end_all(queue, VIRTIO_BLK_S_OK);
	assert_int_equal(vublk_blk_write(queue, 0, buffer, 512, 0, NULL, &error), 0);
	end_all(queue, VIRTIO_BLK_S_IOERR);
	stats = get(queue);
	assert_int_equal(stats.in_flight, 0);
	assert_int_equal(stats.reads, 2);
	assert_int_equal(stats.writes, 2); /* one is with FUA, and its flush does not count */
	assert_int_equal(stats.flushes, 1);
	assert_int_equal(stats.others, 3);
	assert_int_equal(stats.errors, 1);
	assert_int_equal(stats.read_bytes, 4096 + 1536);
	assert_int_equal(stats.written_bytes, 64 * KIB);
	assert_int_equal(count_latencies(&stats), 8);
	tear_down(blk);
}

static void test_failed_by_the_disk(void **state)
{
	const struct vublk_option options[] = {
		{ "statistics", "on" }, { "reconnect-ms", "0" }, { NULL }
	};
	struct vublk_blk *blk = begin(1, options);
	struct vublk_blk_completion completions[8];
	struct vublk_blk_stats stats;

	read_many(blk, 0, 3);
	fake_disconnect("the back-end hung up");
	assert_int_equal(vublk_blk_wait(vublk_blk_queue(blk, 0), completions, 3, 8, -1, &error), 3);
	stats = get(vublk_blk_queue(blk, 0));
	assert_int_equal(stats.reads, 3);
	assert_int_equal(stats.errors, 3);
	assert_int_equal(stats.read_bytes, 0);
	assert_int_equal(count_latencies(&stats), 3);
	tear_down(blk);
}

static void test_latency_lies_between(void **state)
{
	struct vublk_blk *blk = begin(1, counts);
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	uint64_t before, added, taken, after;
	struct vublk_blk_stats stats;
	unsigned bucket = 0;

	before = vublk_now_ns();
	read_many(blk, 0, 1);
	added = vublk_now_ns();
	assert_int_equal(fake_serve(0, 1), 1);
	do
		taken = vublk_now_ns();
	while (taken < added + 600000); /* much longer than the calls take, so that the bounds are
					   narrow */
	end_all(queue, VIRTIO_BLK_S_OK);
	after = vublk_now_ns();
	stats = get(queue);
	while (bucket < VUBLK_BLK_LATENCY_BUCKETS && !stats.latency[bucket])
		bucket++;
	assert_true(after - before >= UINT64_C(1) << bucket);
	assert_true(taken - added < UINT64_C(2) << bucket);
	tear_down(blk);
}

/* A caller may have been compiled against a header with fewer or more fields. */
static void test_other_sizes(void **state)
{
	struct vublk_blk *blk = begin(1, counts);
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	struct { struct vublk_blk_stats stats; uint64_t more; } large;
	struct { uint64_t in_flight, reads, guard; } small = { .guard = 7 };

	read_many(blk, 0, 1);
	end_all(queue, VIRTIO_BLK_S_OK);
	memset(&large, 0xee, sizeof(large));
	assert_int_equal(vublk_blk_queue_get_stats(queue, (void *)&large, sizeof(large)), 0);
	assert_int_equal(large.stats.reads, 1);
	assert_int_equal(large.more, 0);
	assert_int_equal(vublk_blk_queue_get_stats(queue, (void *)&small, 16), 0);
	assert_int_equal(small.reads, 1);
	assert_int_equal(small.guard, 7);
	assert_int_equal(vublk_blk_queue_get_stats(queue, NULL, 0), 0);
	tear_down(blk);
}

#define REQUESTS 2000

static void *look(void *opaque)
{
	struct vublk_blk_stats stats;

	do {
		stats = get(opaque);
		assert_true(stats.in_flight <= 1);
		assert_true(stats.reads <= REQUESTS);
	} while (stats.reads < REQUESTS);
	return NULL;
}

static void test_another_thread_looks(void **state)
{
	struct vublk_blk *blk = begin(1, counts);
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	char *buffer = vublk_blk_alloc(blk, 4096, &error);
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, look, queue), 0);
	for (unsigned i = 0; i < REQUESTS; i++) {
		assert_int_equal(vublk_blk_read(queue, 0, buffer, 4096, 0, NULL, &error), 0);
		end_all(queue, VIRTIO_BLK_S_OK);
	}
	pthread_join(thread, NULL);
	tear_down(blk);
}

/* --- the blocking calls --------------------------------------------------------------------- */

static struct vublk_blk_stats get_blocking(struct vublk_blk *blk)
{
	struct vublk_blk_stats stats;

	memset(&stats, 0xee, sizeof(stats));
	assert_int_equal(vublk_blk_get_blocking_stats(blk, &stats, sizeof(stats)), 0);
	return stats;
}

static void test_blocking_calls(void **state)
{
	struct vublk_blk *blk = begin(2, counts);
	static char data[3 * 128 * KIB];
	struct vublk_blk_stats stats = get_blocking(blk);

	assert_int_equal(stats.reads + stats.writes + stats.flushes, 0);
	fake_start_threads();
	assert_int_equal(vublk_blk_pread(blk, 0, data, sizeof(data), 0, &error), 0);
	assert_int_equal(vublk_blk_pwrite(blk, 512, data, 512, 0, &error), 0);
	assert_int_equal(vublk_blk_pflush(blk, 0, &error), 0);
	stats = get_blocking(blk);
	assert_int_equal(stats.reads, 3); /* the pieces of one call */
	assert_int_equal(stats.read_bytes, sizeof(data));
	assert_int_equal(stats.writes, 1);
	assert_int_equal(stats.written_bytes, 512);
	assert_int_equal(stats.flushes, 1);
	assert_int_equal(stats.in_flight + stats.errors, 0);
	assert_int_equal(count_latencies(&stats), 5);
	assert_int_equal(get(vublk_blk_queue(blk, 0)).reads, 0); /* the application's queue */
	fake_stop_threads();
	tear_down(blk);
}

static void test_blocking_calls_off(void **state)
{
	struct vublk_blk *blk = set_up();
	struct vublk_blk_stats stats;
	char data[512];

	memset(&stats, 0xee, sizeof(stats));
	assert_int_equal(vublk_blk_get_blocking_stats(blk, &stats, sizeof(stats)), -ENOTSUP);
	assert_int_equal(stats.reads + count_latencies(&stats), 0);
	fake_start_threads();
	assert_int_equal(vublk_blk_pread(blk, 0, data, sizeof(data), 0, &error), 0);
	assert_int_equal(vublk_blk_get_blocking_stats(blk, &stats, sizeof(stats)), -ENOTSUP);
	assert_int_equal(stats.reads, 0);
	fake_stop_threads();
	tear_down(blk);
}

static void *read_once(void *blk)
{
	char data[512];

	assert_int_equal(vublk_blk_pread(blk, 0, data, sizeof(data), 0, NULL), 0);
	return NULL;
}

/* While a blocking call waits for the back-end, another thread can read the counters. */
static void test_blocking_call_that_waits(void **state)
{
	struct vublk_blk *blk = begin(1, counts);
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, read_once, blk), 0);
	while (get_blocking(blk).in_flight < 1)
		sched_yield();
	assert_int_equal(get_blocking(blk).reads, 0);
	while (!fake_serve(0, 1))
		sched_yield();
	pthread_join(thread, NULL);
	assert_int_equal(get_blocking(blk).reads, 1);
	assert_int_equal(get_blocking(blk).in_flight, 0);
	tear_down(blk);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_off),
		VUBLK_TEST(test_blocking_calls),
		VUBLK_TEST(test_blocking_calls_off),
		VUBLK_TEST(test_blocking_call_that_waits),
		VUBLK_TEST(test_each_kind),
		VUBLK_TEST(test_failed_by_the_disk),
		VUBLK_TEST(test_latency_lies_between),
		VUBLK_TEST(test_other_sizes),
		VUBLK_TEST(test_another_thread_looks),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
