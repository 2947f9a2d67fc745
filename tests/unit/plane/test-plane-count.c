/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The counters of the plane's requests, and the search for slow requests. */
#include "harness.h"

#include "plane-rig.h"

#include "util/checked.h"
#include "util/loop.h"

#include <string.h>

static struct plane_rig rig;
static struct vublk_statistics *statistics;

static void init(bool is_on)
{
	rig_init(&rig, 2, 32, 0, 0);
	rig_connect(&rig);
	statistics = vublk_statistics_new(2, is_on);
	assert_non_null(statistics);
	vublk_plane_set_counts(&rig.plane, statistics, 0);
}

static void deinit(void)
{
	rig_deinit(&rig);
	vublk_statistics_free(statistics);
}

static void set_on(bool is_on)
{
	statistics->is_on = is_on;
	vublk_plane_set_counts(&rig.plane, statistics, rig.plane.counts.slow_ns);
}

static void begin(unsigned queue, uint16_t token, uint32_t type, unsigned num_sectors)
{
	const struct rig_request request = {
		.type = type, .num_sectors = num_sectors, .sector = token * 16u,
	};

	assert_int_equal(rig_add(&rig, queue, token, &request), 0);
	vublk_plane_work(&rig.plane);
}

static struct vublk_request_stats read_stats(unsigned queue, enum vublk_request_kind kind)
{
	struct vublk_request_stats stats;

	assert_int_equal(vublk_statistics_get(statistics, queue, kind, &stats, sizeof(stats)), 0);
	return stats;
}

static uint64_t sum_latency(const struct vublk_request_stats *stats)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < VUBLK_LATENCY_BUCKETS; i++)
		sum += stats->latency[i];
	return sum;
}

/*
 * The plane counts each request once, by its queue and kind, and adds its bytes only if it
 * succeeds.
 */
static void test_counts(void **state)
{
	struct vublk_request_stats stats;

	init(true);
	begin(1, 0, VIRTIO_BLK_T_OUT, 3);
	begin(1, 1, VIRTIO_BLK_T_OUT, 1);
	begin(0, 0, VIRTIO_BLK_T_IN, 2);
	stats = read_stats(1, VUBLK_REQUEST_WRITE);
	assert_int_equal(stats.in_flight, 2);
	assert_int_equal(stats.count, 0);
	rig_complete(&rig, 1, VIRTIO_BLK_S_OK);
	rig_complete(&rig, 1, VIRTIO_BLK_S_IOERR);
	rig_complete(&rig, 0, VIRTIO_BLK_S_OK);
	stats = read_stats(1, VUBLK_REQUEST_WRITE);
	assert_int_equal(stats.in_flight, 0);
	assert_int_equal(stats.count, 2);
	assert_int_equal(stats.errors, 1);
	assert_int_equal(stats.bytes, 3 * 512);
	assert_int_equal(sum_latency(&stats), 2);
	assert_true(stats.total_ns >= stats.max_ns && stats.max_ns);
	stats = read_stats(0, VUBLK_REQUEST_READ);
	assert_int_equal(stats.count, 1);
	assert_int_equal(stats.bytes, 2 * 512);
	assert_int_equal(read_stats(1, VUBLK_REQUEST_READ).count, 0);
	deinit();
}

/* The bytes of a discard are those of its ranges, without the gaps between them. */
static void test_ranges(void **state)
{
	struct virtio_blk_discard_write_zeroes *ranges;
	const struct rig_request request = { .type = VIRTIO_BLK_T_DISCARD, .num_sectors = 1 };

	init(true);
	ranges = rig_host(&rig, rig_data(&rig, 0, 0));
	assert_int_equal(rig_add(&rig, 0, 0, &request), 0);
	memset(ranges, 0, 512);
	ranges[0] = (struct virtio_blk_discard_write_zeroes){ .sector = 60, .num_sectors = 8 };
	ranges[1] = (struct virtio_blk_discard_write_zeroes){ .sector = 40, .num_sectors = 4 };
	vublk_plane_work(&rig.plane);
	rig_complete(&rig, 0, VIRTIO_BLK_S_OK);
	assert_int_equal(read_stats(0, VUBLK_REQUEST_DISCARD).bytes, 12 * 512);
	deinit();
}

/*
 * A request that the plane refuses counts as an error. A request that it submits again after a loss
 * counts only once.
 */
static void test_refused_and_repeated(void **state)
{
	uint16_t token;
	uint32_t bytes;

	init(true);
	begin(0, 0, 77, 0);
	assert_true(rig_take(&rig, 0, &token, &bytes));
	assert_int_equal(read_stats(0, VUBLK_REQUEST_OTHER).errors, 1);
	begin(0, 1, VIRTIO_BLK_T_IN, 1);
	rig_lose(&rig);
	assert_int_equal(read_stats(0, VUBLK_REQUEST_READ).in_flight, 1);
	rig_connect(&rig);
	vublk_plane_work(&rig.plane);
	rig_complete(&rig, 0, VIRTIO_BLK_S_OK);
	assert_int_equal(read_stats(0, VUBLK_REQUEST_READ).count, 1);
	assert_int_equal(read_stats(0, VUBLK_REQUEST_READ).in_flight, 0);
	deinit();
}

/*
 * A request counts if it begins while counting is on. When counting is turned off, the plane's hook
 * stays set until the last such request has ended.
 */
static void test_switching(void **state)
{
	init(false);
	assert_int_equal(rig.plane.hooks, 0);
	begin(0, 0, VIRTIO_BLK_T_IN, 1);
	set_on(true);
	begin(0, 1, VIRTIO_BLK_T_IN, 1);
	rig_complete(&rig, 0, VIRTIO_BLK_S_OK);
	assert_int_equal(read_stats(0, VUBLK_REQUEST_READ).count, 0);
	set_on(false);
	assert_int_not_equal(rig.plane.hooks, 0);
	rig_complete(&rig, 0, VIRTIO_BLK_S_OK);
	assert_int_equal(read_stats(0, VUBLK_REQUEST_READ).count, 1);
	assert_int_equal(rig.plane.hooks, 0);
	deinit();
}

/*
 * When the rings are detached, outstanding requests are dropped, and no longer count as in flight.
 */
static void test_detach(void **state)
{
	init(true);
	begin(0, 0, VIRTIO_BLK_T_IN, 1);
	begin(1, 0, VIRTIO_BLK_T_OUT, 1);
	rig_lose(&rig);
	vublk_plane_detach(&rig.plane);
	assert_int_equal(read_stats(0, VUBLK_REQUEST_READ).in_flight, 0);
	assert_int_equal(read_stats(1, VUBLK_REQUEST_WRITE).in_flight, 0);
	assert_int_equal(rig.plane.counts.num_timed, 0);
	deinit();
}

static bool find_slow(struct vublk_plane_slow *slow)
{
	uint64_t until = vublk_now_ns() + 1000; /* longer than the resolution of the clock */

	while (vublk_now_ns() < until)
		;
	return vublk_plane_find_slow(&rig.plane, slow);
}

/*
 * A search succeeds only if requests have become slow since the last search. It describes the
 * oldest of these requests, and counts all slow requests.
 */
static void test_slow(void **state)
{
	struct vublk_plane_slow slow;

	init(false);
	begin(0, 0, VIRTIO_BLK_T_IN, 1); /* its start was not recorded, because counting was off */
	vublk_plane_set_counts(&rig.plane, statistics, UINT64_MAX / 2);
	begin(1, 3, VIRTIO_BLK_T_OUT, 2);
	begin(1, 4, VIRTIO_BLK_T_IN, 1);
	assert_false(find_slow(&slow));
	vublk_plane_set_counts(&rig.plane, statistics, 1000);
	assert_true(find_slow(&slow));
	assert_int_equal(slow.queue, 1);
	assert_int_equal(slow.kind, VUBLK_REQUEST_WRITE);
	assert_int_equal(slow.offset, 3 * 16 * 512);
	assert_int_equal(slow.bytes, 2 * 512);
	assert_int_equal(slow.num_slow, 2);
	assert_true(slow.waited_ns >= 1000);
	assert_false(find_slow(&slow));
	begin(1, 5, VIRTIO_BLK_T_FLUSH, 0);
	assert_true(find_slow(&slow));
	assert_int_equal(slow.kind, VUBLK_REQUEST_FLUSH);
	assert_int_equal(slow.num_slow, 3);
	assert_int_equal(read_stats(1, VUBLK_REQUEST_WRITE).in_flight, 0); /* counting is off */
	vublk_plane_set_counts(&rig.plane, statistics, 0);
	for (unsigned i = 0; i < 3; i++)
		rig_complete(&rig, 1, VIRTIO_BLK_S_OK);
	assert_int_equal(rig.plane.hooks, 0);
	rig_complete(&rig, 0, VIRTIO_BLK_S_OK);
	deinit();
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_counts),
		VUBLK_TEST(test_ranges),
		VUBLK_TEST(test_refused_and_repeated),
		VUBLK_TEST(test_switching),
		VUBLK_TEST(test_detach),
		VUBLK_TEST(test_slow),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
