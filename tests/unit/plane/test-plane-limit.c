/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The limits of the plane, with a simulated clock: the rate is exact, and the queues get equal
 * shares. No waiting request is lost by a stop, the loss of a back-end, a change of the limits, or
 * the removal of memory.
 */
#include "harness.h"

#include "plane-rig.h"

#include "util/checked.h"

#include <vublk/limit.h>

#include <stdlib.h>
#include <string.h>

#define NS_PER_S UINT64_C(1000000000)
#define SIZE 128 /* entries per ring; a request needs one per sector, plus two */
#define SECTOR 512

static struct plane_rig rig;
static uint64_t now;
static unsigned submitted[RIG_MAX_QUEUES]; /* requests that the plane has submitted, by queue */
static uint64_t submitted_bytes;

static uint64_t read_clock(void)
{
	return now;
}

static void begin(unsigned num_queues, const struct vublk_limits *limits)
{
	rig_init(&rig, num_queues, SIZE, 0, VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC));
	rig.plane.now_ns = read_clock;
	now = 1000 * NS_PER_S;
	memset(submitted, 0, sizeof(submitted));
	submitted_bytes = 0;
	rig_connect(&rig);
	vublk_plane_set_limits(&rig.plane, limits);
}

/* Adds `count` requests to distinct places of the disk, with tokens from `first` on. */
static void add(unsigned queue, unsigned first, unsigned count, uint32_t type, unsigned num_sectors)
{
	for (unsigned i = first; i < first + count; i++) {
		const struct rig_request request = {
			.type = type, .sector = (queue * SIZE + i) * 64ul, .num_sectors = num_sectors,
		};

		assert_int_equal(rig_add(&rig, queue, (uint16_t)i, &request), 0);
	}
}

static void add_again(unsigned queue, uint16_t token)
{
	struct rig_request request = rig.requests[queue][token];

	assert_int_equal(rig_add(&rig, queue, token, &request), 0);
}

static void count(unsigned queue, const struct rig_chain *chain)
{
	submitted[queue]++;
	submitted_bytes += chain->chain.out_bytes + chain->chain.in_bytes - 17;
}

/*
 * Takes all submitted requests, like a back-end, and also completes them if `completes` is set.
 * Returns their number.
 */
static unsigned backend(bool completes)
{
	struct rig_chain chain;
	unsigned n = 0;

	for (unsigned q = 0; q < rig.num_queues; q++) {
		while (rig_backend_take(&rig, q, &chain)) {
			count(q, &chain);
			n++;
			if (completes)
				rig_backend_push(&rig, q, &chain, VIRTIO_BLK_S_OK);
		}
		if (completes)
			rig_backend_publish(&rig, q);
	}
	return n;
}

static unsigned work(void)
{
	vublk_plane_work(&rig.plane);
	return backend(false);
}

/*
 * Runs until the clock is at `end_ns`. The driver repeats each completed request. When nothing is
 * left to do, the clock advances to the time at which the next request may pass, or up to `late_ns`
 * later.
 */
static void run_until(uint64_t end_ns, uint64_t late_ns)
{
	uint16_t token;
	uint32_t bytes;

	while (now < end_ns) {
		vublk_plane_work(&rig.plane);
		if (backend(true))
			vublk_plane_work(&rig.plane);
		for (unsigned q = 0; q < rig.num_queues; q++)
			while (rig_take(&rig, q, &token, &bytes))
				add_again(q, token);
		vublk_plane_work(&rig.plane);
		if (backend(true))
			continue;
		assert_int_not_equal(vublk_plane_next_pass_ns(&rig.plane), UINT64_MAX);
		now = VUBLK_MAX(now, vublk_plane_next_pass_ns(&rig.plane));
		now += late_ns ? (uint64_t)rand() % late_ns : 0;
	}
}

static void end(void)
{
	rig_deinit(&rig);
}

/* --- rates ------------------------------------------------------------------------- */

/* Queues of different depths get equal shares. */
static void test_iops(void **state)
{
	static const unsigned depths[] = { 1, 7, 20, 40 };

	for (unsigned late = 0; late < 2; late++) {
		begin(4, &(struct vublk_limits){ .iops = 1000, .burst_ms = 100 });
		for (unsigned q = 0; q < 4; q++)
			add(q, 0, depths[q], q % 2 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, 1);
		run_until(now + 10 * NS_PER_S, late ? 5000000 : 0);
		assert_in_range(submitted[0] + submitted[1] + submitted[2] + submitted[3], 9995, 10006);
		/* a queue of depth 1 gets less if the plane is late */
		for (unsigned q = late; q < 4; q++)
			assert_in_range(submitted[q], 2498, late ? 10006 / 3 : 2502);
		end();
	}
}

static void test_bps(void **state)
{
	begin(2, &(struct vublk_limits){ .bps = 10000000, .burst_ms = 100 });
	add(0, 0, 12, VIRTIO_BLK_T_OUT, 7);
	add(1, 0, 20, VIRTIO_BLK_T_IN, 3);
	run_until(now + 10 * NS_PER_S, 0);
	assert_in_range(submitted_bytes, 100000000, 100000000 + 7 * SECTOR);
	assert_in_range(submitted[0], submitted[1] - 1, submitted[1] + 1);
	end();
}

/* iops_read counts only reads, bps_write only written bytes, and `iops` all requests. */
static void test_all_limits(void **state)
{
	begin(2, &(struct vublk_limits){ .iops = 1000, .iops_read = 100, .bps_write = 512 * 200,
					 .burst_ms = 100 });
	add(0, 0, 30, VIRTIO_BLK_T_IN, 1);
	add(1, 0, 14, VIRTIO_BLK_T_OUT, 1);
	add(1, 30, 30, VIRTIO_BLK_T_FLUSH, 0);
	run_until(now + 10 * NS_PER_S, 0);
	assert_in_range(submitted[0], 999, 1002);
	assert_in_range(submitted_bytes, 512 * (999 + 1999), 512 * (1002 + 2002));
	assert_in_range(submitted[0] + submitted[1], 9998, 10002);
	end();
}

/* --- single requests ------------------------------------------------------------------ */

/*
 * A request that is larger than the burst passes. The next request waits until the first one is
 * paid for.
 */
static void test_large_request(void **state)
{
	begin(1, &(struct vublk_limits){ .bps = 1024, .burst_ms = 1 });
	add(0, 0, 1, VIRTIO_BLK_T_OUT, 32);
	add(0, 10, 1, VIRTIO_BLK_T_OUT, 32);
	assert_int_equal(work(), 1);
	assert_int_equal(vublk_plane_next_pass_ns(&rig.plane), now + 16 * NS_PER_S);
	now += 16 * NS_PER_S - 1;
	assert_int_equal(work(), 0);
	now++;
	assert_int_equal(work(), 1);
	assert_int_equal(vublk_plane_next_pass_ns(&rig.plane), UINT64_MAX);
	end();
}

/* While writes wait for the limit on written bytes, flushes and reads still pass. */
static void test_kinds_are_independent(void **state)
{
	begin(1, &(struct vublk_limits){ .bps_write = 1, .iops_read = 10, .burst_ms = 1 });
	add(0, 0, 4, VIRTIO_BLK_T_OUT, 1);
	assert_int_equal(work(), 1);
	add(0, 4, 1, VIRTIO_BLK_T_FLUSH, 0);
	add(0, 5, 3, VIRTIO_BLK_T_IN, 1);
	assert_int_equal(work(), 2);
	assert_int_equal(vublk_plane_outstanding(&rig.plane), 8);
	assert_int_equal(vublk_plane_next_pass_ns(&rig.plane), now + NS_PER_S / 10);
	end();
}

/* The requests of a queue that share a limit pass in order. */
static void test_order(void **state)
{
	static const uint32_t types[] = { VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_IN };
	struct rig_chain chain;

	begin(1, &(struct vublk_limits){ .iops = 1, .burst_ms = 1 });
	for (unsigned i = 0; i < 30; i++)
		add(0, i, 1, types[i % 7 % 3], i % 7 % 3 == 1 ? 0 : 1);
	for (unsigned i = 0; i < 30; i++) {
		vublk_plane_work(&rig.plane);
		assert_true(rig_backend_take(&rig, 0, &chain));
		assert_int_equal(chain.header.sector, i * 64);
		assert_false(rig_backend_take(&rig, 0, &chain));
		now += NS_PER_S;
	}
	end();
}

/*
 * A write waits for an earlier one to the same place. When the earlier one ends, the limit still
 * applies to the later one.
 */
static void test_overlapping_write_is_limited(void **state)
{
	const struct rig_request request = { .type = VIRTIO_BLK_T_OUT, .num_sectors = 1 };

	begin(2, &(struct vublk_limits){ .iops = 1, .burst_ms = 100 });
	assert_int_equal(rig_add(&rig, 0, 0, &request), 0);
	assert_int_equal(rig_add(&rig, 1, 0, &request), 0);
	for (unsigned i = 0; i < 2; i++) {
		vublk_plane_work(&rig.plane);
		assert_int_equal(backend(true), 1);
		vublk_plane_work(&rig.plane);
		assert_int_equal(backend(true), 0);
		now += NS_PER_S;
	}
	assert_int_equal(vublk_plane_outstanding(&rig.plane), 0);
	end();
}

/* A write that has passed the limit still waits for an earlier write to the same place. */
static void test_overlapping_writes(void **state)
{
	const struct rig_request request = { .type = VIRTIO_BLK_T_OUT, .num_sectors = 1 };

	begin(2, &(struct vublk_limits){ .iops = 1000000, .burst_ms = 100 });
	assert_int_equal(rig_add(&rig, 0, 0, &request), 0);
	assert_int_equal(rig_add(&rig, 1, 0, &request), 0);
	now += NS_PER_S;
	vublk_plane_work(&rig.plane);
	assert_int_equal(rig.plane.limits.num_waiting, 0);
	assert_int_equal(backend(true), 1);
	vublk_plane_work(&rig.plane);
	assert_int_equal(backend(true), 1);
	end();
}

/* --- what ends the waiting --------------------------------------------------------------- */

/*
 * A stop submits all waiting requests in spite of the limits. The limits still count these requests
 * (bucket.h), so later ones wait.
 */
static void test_stop(void **state)
{
	begin(2, &(struct vublk_limits){ .iops = 1, .burst_ms = 1 });
	add(0, 0, 40, VIRTIO_BLK_T_OUT, 1);
	add(1, 0, 40, VIRTIO_BLK_T_IN, 1);
	assert_int_equal(work(), 1);
	vublk_plane_stop(&rig.plane);
	assert_int_equal(backend(false), 79);
	assert_int_equal(rig.plane.limits.num_waiting, 0);
	vublk_plane_resume(&rig.plane);
	add(0, 40, 1, VIRTIO_BLK_T_OUT, 1);
	assert_int_equal(work(), 0);
	assert_int_equal(vublk_plane_next_pass_ns(&rig.plane), now + 80 * NS_PER_S);
	end();
}

/* After a stop during an outage, the next back-end gets all waiting requests. */
static void test_stop_without_backend(void **state)
{
	begin(1, &(struct vublk_limits){ .iops = 1, .burst_ms = 1 });
	add(0, 0, 40, VIRTIO_BLK_T_OUT, 1);
	assert_int_equal(work(), 1);
	rig_lose(&rig);
	vublk_plane_stop(&rig.plane);
	rig_connect(&rig);
	assert_int_equal(backend(false), 40);
	end();
}

/*
 * The next back-end gets the requests that the lost one had. The limit does not count them again.
 * The other requests still wait for the limit.
 */
static void test_loss(void **state)
{
	unsigned num[2] = { 0 };
	struct rig_chain chain;

	begin(1, &(struct vublk_limits){ .iops_write = 10, .burst_ms = 100 });
	add(0, 0, 35, VIRTIO_BLK_T_OUT, 1);
	add(0, 35, 5, VIRTIO_BLK_T_IN, 1); /* added later, but not limited */
	work();
	now += NS_PER_S / 2;
	work();
	assert_int_equal(submitted[0], 8);
	rig_lose(&rig);
	assert_int_equal(vublk_plane_next_pass_ns(&rig.plane), UINT64_MAX);
	rig_connect(&rig);
	while (rig_backend_take(&rig, 0, &chain))
		num[chain.header.type == VIRTIO_BLK_T_OUT]++;
	assert_int_equal(num[0], 5);
	assert_int_equal(num[1], 3);
	assert_int_equal(work(), 0);
	assert_int_equal(vublk_plane_next_pass_ns(&rig.plane), now + NS_PER_S / 10);
	now += NS_PER_S / 10;
	assert_int_equal(work(), 1);
	end();
}

static void test_change_and_removal(void **state)
{
	begin(1, &(struct vublk_limits){ .iops = 1, .burst_ms = 1 });
	add(0, 0, 40, VIRTIO_BLK_T_OUT, 1);
	assert_int_equal(work(), 1);
	vublk_plane_set_limits(&rig.plane, &(struct vublk_limits){ .iops_write = 10, .burst_ms = 1000 });
	assert_int_equal(work(), 1);
	now += NS_PER_S;
	assert_int_equal(work(), 10);
	vublk_plane_set_limits(&rig.plane, &(struct vublk_limits){ .burst_ms = 1 });
	assert_int_equal(backend(false), 28);
	assert_int_equal(rig.plane.hooks, 0);
	end();
}

static unsigned count_submitted(void)
{
	unsigned n = 0;

	for (unsigned q = 0; q < 2; q++)
		for (unsigned i = 0; i < SIZE; i++)
			n += rig.plane.queues[q].slots[i].state == VUBLK_PLANE_SLOT_SUBMITTED;
	return n;
}

/* Requests whose memory is removed leave the list of waiting requests, whatever their position. */
static void test_removed_memory(void **state)
{
	struct vublk_memory_map_region less;
	struct vublk_memory_map map = { 1, &less };
	unsigned n = 0;
	uint16_t token;
	uint32_t bytes;

	begin(2, &(struct vublk_limits){ .iops = 1, .burst_ms = 1 });
	less = rig.region;
	less.size_bytes = rig_header(&rig, 1, 5) - RIG_BASE;
	add(0, 30, 1, VIRTIO_BLK_T_OUT, 1);
	vublk_plane_work(&rig.plane);
	assert_int_equal(backend(true), 1); /* the back-end's ring is now empty */
	vublk_plane_work(&rig.plane);
	add(1, 0, 1, VIRTIO_BLK_T_OUT, 1);
	add(1, 10, 9, VIRTIO_BLK_T_OUT, 1);
	add(1, 1, 1, VIRTIO_BLK_T_OUT, 1);
	add(1, 3, 2, VIRTIO_BLK_T_OUT, 1);
	add(1, 20, 1, VIRTIO_BLK_T_OUT, 1);
	add(0, 0, 3, VIRTIO_BLK_T_OUT, 1);
	vublk_plane_work(&rig.plane);
	assert_int_equal(rig.plane.limits.num_waiting, 17);
	assert_int_equal(vublk_plane_set_map(&rig.plane, &map, &rig.fault, NULL), 0);
	for (unsigned q = 0; q < 2; q++)
		while (rig_take(&rig, q, &token, &bytes))
			n++;
	assert_int_equal(n, 11);
	assert_int_equal(rig.plane.limits.num_waiting, 7);
	add(1, 2, 1, VIRTIO_BLK_T_OUT, 1);
	vublk_plane_work(&rig.plane);
	vublk_plane_stop(&rig.plane);
	assert_int_equal(backend(false), 8);
	assert_int_equal(count_submitted(), 8);
	end();
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_iops),
		VUBLK_TEST(test_bps),
		VUBLK_TEST(test_all_limits),
		VUBLK_TEST(test_large_request),
		VUBLK_TEST(test_kinds_are_independent),
		VUBLK_TEST(test_order),
		VUBLK_TEST(test_overlapping_write_is_limited),
		VUBLK_TEST(test_overlapping_writes),
		VUBLK_TEST(test_stop),
		VUBLK_TEST(test_stop_without_backend),
		VUBLK_TEST(test_loss),
		VUBLK_TEST(test_change_and_removal),
		VUBLK_TEST(test_removed_memory),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
