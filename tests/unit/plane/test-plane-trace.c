/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The trace of the plane, with a simulated clock: the content of the records, and which records are
 * dropped.
 */
#include "harness.h"

#include "plane-rig.h"

#include "util/atomic.h"
#include "util/checked.h"

#include <vublk/limit.h>

#include <pthread.h>
#include <string.h>

static struct plane_rig rig;
static struct vublk_plane_trace *trace;
static uint64_t now;

static uint64_t read_clock(void)
{
	return now;
}

static void start(void)
{
	vublk_plane_trace_begin(trace, now);
	vublk_plane_set_trace(&rig.plane, trace);
}

static void stop(void)
{
	vublk_plane_set_trace(&rig.plane, NULL);
	vublk_plane_trace_end(trace);
}

static void begin(unsigned num_queues)
{
	rig_init(&rig, num_queues, 128, 0, 0);
	rig_connect(&rig);
	rig.plane.now_ns = read_clock;
	now = 1000000;
	trace = vublk_plane_trace_new();
	start();
}

static void end(void)
{
	rig_deinit(&rig);
	vublk_plane_trace_free(trace);
}

static void add(unsigned queue, uint16_t token, uint32_t type, uint64_t sector, unsigned num_sectors)
{
	const struct rig_request request = {
		.type = type, .sector = sector, .num_sectors = num_sectors,
	};

	assert_int_equal(rig_add(&rig, queue, token, &request), 0);
	vublk_plane_work(&rig.plane);
}

static struct vublk_trace_record read_record(void)
{
	struct vublk_trace_record record;

	assert_true(vublk_plane_trace_read(trace, now, &record));
	return record;
}

static void expect_no_record(void)
{
	struct vublk_trace_record record;

	assert_false(vublk_plane_trace_read(trace, now, &record));
}

static void test_record(void **state)
{
	struct vublk_trace_record record;
	uint64_t start;

	begin(2);
	start = now += 5;
	add(1, 0, VIRTIO_BLK_T_OUT, 40, 3);
	now += 7;
	rig_complete(&rig, 1, VIRTIO_BLK_S_IOERR);
	record = read_record();
	assert_int_equal(record.taken_ns, start);
	assert_int_equal(record.submitted_ns, start);
	assert_int_equal(record.completed_ns, start + 7);
	assert_int_equal(record.sector, 40);
	assert_int_equal(record.bytes, 3 * 512);
	assert_int_equal(record.type, VIRTIO_BLK_T_OUT);
	assert_int_equal(record.queue, 1);
	assert_int_equal(record.status, VIRTIO_BLK_S_IOERR);
	expect_no_record();
	add(0, 0, VIRTIO_BLK_T_FLUSH, 0, 0);
	rig_complete(&rig, 0, VIRTIO_BLK_S_OK);
	record = read_record();
	assert_int_equal(record.type, VIRTIO_BLK_T_FLUSH);
	assert_int_equal(record.bytes, 0);
	end();
}

/*
 * A request was taken, and perhaps also submitted, before the trace began. In its record, the times
 * of these events are 0.
 */
static void test_requests_of_before(void **state)
{
	struct vublk_trace_record record;

	begin(1);
	add(0, 0, VIRTIO_BLK_T_OUT, 0, 1);
	stop();
	add(0, 1, VIRTIO_BLK_T_OUT, 0, 1); /* waits for the first write */
	now += 10;
	start();
	rig_complete(&rig, 0, VIRTIO_BLK_S_OK);
	record = read_record();
	assert_int_equal(record.taken_ns, 0);
	assert_int_equal(record.submitted_ns, 0);
	rig_complete(&rig, 0, VIRTIO_BLK_S_OK);
	record = read_record();
	assert_int_equal(record.taken_ns, 0);
	assert_int_equal(record.submitted_ns, now);
	end();
}

/*
 * The recorded time of submission is after any wait for a limit or for a back-end. After a loss, it
 * is the time of the last submission.
 */
static void test_waiting(void **state)
{
	struct vublk_trace_record record;
	uint64_t start;

	begin(1);
	vublk_plane_set_limits(&rig.plane, &(struct vublk_limits){ .iops = 1000, .burst_ms = 1 });
	add(0, 0, VIRTIO_BLK_T_OUT, 0, 1);
	add(0, 1, VIRTIO_BLK_T_IN, 9, 1);
	start = now;
	now += 1000000;
	vublk_plane_work(&rig.plane);
	rig_complete(&rig, 0, VIRTIO_BLK_S_OK);
	assert_int_equal(read_record().submitted_ns, start);
	rig_lose(&rig);
	now += 3;
	rig_connect(&rig);
	rig_complete(&rig, 0, VIRTIO_BLK_S_OK);
	record = read_record();
	assert_int_equal(record.taken_ns, start);
	assert_int_equal(record.submitted_ns, start + 1000003);
	end();
}

static void test_ranges(void **state)
{
	static const struct virtio_blk_discard_write_zeroes ranges[] = {
		{ .sector = 800, .num_sectors = 8 }, { .sector = 100, .num_sectors = 2 },
	};
	struct virtio_blk_outhdr header = { .type = VIRTIO_BLK_T_DISCARD };
	struct vublk_ring_buffer buffers[3];
	struct vublk_trace_record record;
	struct rig_chain chain;

	begin(1);
	memcpy(rig_host(&rig, rig_header(&rig, 0, 0)), &header, sizeof(header));
	memcpy(rig_host(&rig, rig_data(&rig, 0, 0)), ranges, sizeof(ranges));
	buffers[0] = (struct vublk_ring_buffer){ rig_header(&rig, 0, 0), sizeof(header) };
	buffers[1] = (struct vublk_ring_buffer){ rig_data(&rig, 0, 0), sizeof(ranges) };
	buffers[2] = (struct vublk_ring_buffer){ rig_status(&rig, 0, 0), 1 };
	assert_int_equal(vublk_driver_ring_add(&rig.drivers[0], buffers, 2, 1, NULL, 0), 0);
	vublk_driver_ring_publish(&rig.drivers[0]);
	vublk_plane_work(&rig.plane);
	assert_true(rig_backend_take(&rig, 0, &chain));
	rig_backend_push(&rig, 0, &chain, VIRTIO_BLK_S_OK);
	rig_backend_publish(&rig, 0);
	vublk_plane_work(&rig.plane);
	record = read_record();
	assert_int_equal(record.sector, 100);
	assert_int_equal(record.bytes, 10 * 512);
	end();
}

static void repeat(unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		add(0, 0, VIRTIO_BLK_T_OUT, i, 1);
		rig_complete(&rig, 0, VIRTIO_BLK_S_OK);
	}
}

/* When the trace's ring is full, it keeps the oldest records. */
static void test_full_ring(void **state)
{
	begin(1);
	repeat(VUBLK_TRACE_RECORDS + 7);
	assert_int_equal(trace->dropped, 7);
	for (unsigned i = 0; i < VUBLK_TRACE_RECORDS; i++)
		assert_int_equal(read_record().sector, i);
	expect_no_record();
	repeat(1);
	read_record();
	end();
}

/* A second trace does not contain records of the first. */
static void test_second_trace(void **state)
{
	begin(1);
	repeat(3);
	stop();
	repeat(1);
	now++;
	start();
	assert_int_equal(trace->number, 2);
	expect_no_record();
	repeat(1);
	read_record();
	stop();
	assert_int_equal(rig.plane.hooks, 0);
	repeat(1);
	expect_no_record();
	end();
}

/* --- two threads ------------------------------------------------------------------------ */

#define REQUESTS 100000

static bool is_done;

struct reading {
	unsigned count;
	bool is_wrong; /* a record was out of order, or not as it was written */
};

static void *reader(void *opaque)
{
	struct reading *reading = opaque;
	struct vublk_trace_record record;
	uint64_t next = 0;
	bool last;

	do {
		last = vublk_load_acquire(&is_done);
		while (vublk_plane_trace_read(trace, 1000000, &record)) {
			reading->is_wrong |= record.sector < next || record.bytes != 512;
			next = record.sector + 1;
			reading->count++;
		}
	} while (!last);
	return NULL;
}

static void test_two_threads(void **state)
{
	struct reading reading = { 0 };
	pthread_t thread;

	begin(1);
	assert_int_equal(pthread_create(&thread, NULL, reader, &reading), 0);
	repeat(REQUESTS);
	vublk_store_release(&is_done, true);
	pthread_join(thread, NULL);
	assert_false(reading.is_wrong);
	assert_int_equal(reading.count + trace->dropped, REQUESTS);
	assert_true(reading.count >= VUBLK_TRACE_RECORDS);
	end();
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_record),
		VUBLK_TEST(test_requests_of_before),
		VUBLK_TEST(test_waiting),
		VUBLK_TEST(test_ranges),
		VUBLK_TEST(test_full_ring),
		VUBLK_TEST(test_second_trace),
		VUBLK_TEST(test_two_threads),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
