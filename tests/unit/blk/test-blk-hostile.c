/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The block API against a device that breaks the rules of the ring.
 *
 * Key idea: whatever the device does, each request completes once, and the disk can be closed.
 */
#include "blk-rig.h"

#include <vublk/blk.h>

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

/* --- the back-end breaks the ring ------------------------------------------------------------- */

/*
 * Adds an element with the invalid `id` to the used ring. No request fails before the rings are
 * reclaimed or, without `stops`, the back-end is lost.
 */
static void run_broken_ring(uint32_t id, bool stops)
{
	struct vublk_blk_completion c[8];
	struct vublk_blk_queue *queue;
	struct vublk_blk *blk;

	fake_init(DISK_BYTES);
	fake_plan.num_queues = 2;
	fake_plan.never_stops = !stops;
	blk = open_disk();
	queue = vublk_blk_queue(blk, 0);
	read_many(blk, 0, 3);
	read_many(blk, 1, 2);
	assert_int_equal(fake_serve(0, 1), 1);
	fake_push_id(0, id);
	assert_int_equal(vublk_blk_wait(queue, c, 3, 8, -1, &error), 3);
	assert_int_equal(fake_num_stops, 1);
	assert_int_equal(c[0].result, 0);
	assert_int_equal(c[1].result, -EPROTO);
	assert_int_equal(c[2].result, -EPROTO);
	assert_int_equal(vublk_blk_completion_error(queue, &c[2], &error), -EPROTO);
	assert_memory_equal(error.text, "queue 0: the", 12); /* the queue's name is not repeated */
	assert_int_equal(vublk_blk_flush(queue, 0, NULL, &error), -EPROTO);
	assert_memory_equal(error.text, "flush: queue 0: ", 16);
	assert_int_equal(vublk_blk_poll(queue, c, 8), 0);
	/* The other queues lose their back-end, too. */
	assert_int_equal(vublk_blk_wait(vublk_blk_queue(blk, 1), c, 2, 8, -1, &error), 2);
	assert_int_equal(c[0].result, -ENOTCONN);
	assert_int_equal(vublk_blk_flush(vublk_blk_queue(blk, 1), 0, NULL, &error), -ENOTCONN);
	assert_memory_equal(error.text, "flush: queue 0: ", 16);
	wait_for_event(VUBLK_BLK_GAVE_UP);
	tear_down(blk);
}

/* A close that finds a broken ring reports that requests have failed. */
static void test_close_tells_of_a_broken_ring(void **state)
{
	struct vublk_blk *blk;

	fake_init(DISK_BYTES);
	blk = open_disk();
	read_many(blk, 0, 3);
	fake_push_id(0, 0xffffffff);
	assert_int_equal(vublk_blk_close(blk, -1, NULL), -ENOTCONN);
	fake_deinit();
}

static void test_id_out_of_range(void **state)
{
	run_broken_ring(0xffffffff, true);
}

static void test_id_not_outstanding(void **state)
{
	run_broken_ring(11, false);
}

/* Fills the queue with requests of several kinds. Returns their number. */
static unsigned add_all_kinds(struct vublk_blk_queue *queue, char *buffer, unsigned *seed,
			      char *id, unsigned char *completed)
{
	unsigned n = 0;

	for (int r = 0; n < 16; n++) {
		completed[n] = 0;
		switch (rand_r(seed) % 4) {
		case 0:
			r = vublk_blk_read(queue, 0, buffer, 64 * KIB, 0, &completed[n], NULL);
			break;
		case 1:
			r = vublk_blk_write(queue, 4096, buffer, 512, 0, &completed[n], NULL);
			break;
		case 2:
			r = vublk_blk_get_id(queue, id, 0, &completed[n], NULL);
			break;
		case 3:
			r = vublk_blk_discard(queue, 0, 512 * KIB, 0, &completed[n], NULL);
			break;
		}
		if (r)
			break;
	}
	vublk_blk_submit(queue);
	return n;
}

static void count_completions(const struct vublk_blk_completion *c, int n)
{
	for (int i = 0; i < n; i++)
		assert_int_equal(++*(unsigned char *)c[i].user_data, 1);
}

/*
 * A back-end makes random writes to the shared memory while requests are in flight. Each request
 * completes once, and the disk can be closed.
 */
static void run_scribble(bool wildly, unsigned seed)
{
	struct vublk_blk_completion c[16];
	char id[VUBLK_BLK_ID_SIZE] = "";
	unsigned char completed[16];
	struct vublk_blk_queue *queue;
	struct vublk_blk *blk;
	char *buffer;

	fake_plan.features |= VUBLK_BIT(VIRTIO_BLK_F_SIZE_MAX);
	fake_plan.config.size_max = 4096;
	blk = open_disk();
	queue = vublk_blk_queue(blk, 0);
	buffer = vublk_blk_alloc(blk, 64 * KIB, &error);
	for (unsigned round = 0; round < 50; round++) {
		unsigned left = add_all_kinds(queue, buffer, &seed, id, completed);

		if (!left)
			break;
		for (unsigned i = 0; i < 100 && left; i++) {
			int n = vublk_blk_poll(queue, c, 16);

			count_completions(c, n);
			left -= (unsigned)n;
			fake_scribble(0, &seed, 1 + seed % 4, wildly);
		}
		if (left)
			fake_push_id(0, UINT32_MAX);
		for (int n; left; left -= (unsigned)n) {
			n = vublk_blk_wait(queue, c, 1, 16, -1, &error);
			assert_true(n > 0);
			count_completions(c, n);
		}
		assert_int_equal(vublk_blk_in_flight(queue), 0);
	}
	assert_int_equal(vublk_blk_close(blk, 0, NULL), 0);
}

static void test_scribbled_rings(void **state)
{
	fake_init(DISK_BYTES);
	for (unsigned seed = 1; seed <= 300; seed++)
		run_scribble(seed & 1, seed);
	fake_deinit();
}

/*
 * The application releases memory while a request of many pieces uses it. The request fails, and no
 * further piece is issued.
 */
static void test_memory_goes_under_a_request(void **state)
{
	struct vublk_blk_completion c;
	struct vublk_blk_queue *queue;
	struct vublk_blk *blk;
	char *buffer;

	fake_init(DISK_BYTES);
	fake_plan.queue_size = 4;
	fake_plan.features |= VUBLK_BIT(VIRTIO_BLK_F_SIZE_MAX);
	fake_plan.config.size_max = 512;
	fake_plan.config.seg_max = 1;
	blk = open_disk();
	queue = vublk_blk_queue(blk, 0);
	buffer = vublk_blk_alloc(blk, 8 * KIB, &error);
	assert_int_equal(vublk_blk_read(queue, 0, buffer, 8 * KIB, 0, NULL, &error), 0);
	vublk_blk_submit(queue);
	assert_int_equal(fake_serve(0, 4), 4);
	vublk_blk_release(blk, buffer, NULL);
	assert_int_equal(vublk_blk_wait(queue, &c, 1, 1, -1, &error), 1);
	assert_int_equal(c.result, -EFAULT);
	assert_int_equal(fake_serve(0, 4), 0);
	tear_down(blk);
}

/*
 * The device needs a reset, because the back-end reports an error of a ring. All requests fail,
 * including later ones.
 */
static void test_needs_reset(void **state)
{
	struct vublk_blk *blk = set_up();
	struct vublk_blk_completion c[4];

	read_many(blk, 0, 2);
	fake_needs_reset("it reports an error of queue 0");
	assert_int_equal(vublk_blk_wait(vublk_blk_queue(blk, 0), c, 2, 4, -1, &error), 2);
	assert_int_equal(c[1].result, -ENOTCONN);
	assert_int_equal(fake_num_stops, 1);
	assert_int_equal(vublk_blk_flush(vublk_blk_queue(blk, 0), 0, NULL, &error), -ENOTCONN);
	assert_string_equal(error.text, "flush: it reports an error of queue 0");
	tear_down(blk);
}

/* --- the back-end blocks kicks ---------------------------------------------------------------- */

static void *read_one(void *opaque)
{
	read_many(opaque, 0, 1);
	return NULL;
}

static void expect_failed_read(struct vublk_blk *blk)
{
	struct vublk_blk_completion c;

	wait_for_event(VUBLK_BLK_GAVE_UP);
	assert_int_equal(vublk_blk_wait(vublk_blk_queue(blk, 0), &c, 1, 1, -1, &error), 1);
	assert_int_equal(c.result, -ENOTCONN);
}

/* A kick blocks the submitting thread. It is unblocked, and the disk stops using the back-end. */
static void test_kick_that_blocks(void **state)
{
	struct vublk_blk *blk = set_up();

	fake_block_kicks(0);
	read_one(blk);
	expect_failed_read(blk);
	assert_non_null(strstr(told.text, "keeps the kick descriptor of queue 0 full"));
	tear_down(blk);
}

/* The back-end is lost while a kick to it blocks a thread. The loss is handled nevertheless. */
static void test_kick_that_blocks_and_the_back_end_goes(void **state)
{
	struct vublk_blk *blk = set_up();
	struct fake_request request;
	pthread_t thread;

	fake_block_kicks(0);
	assert_int_equal(pthread_create(&thread, NULL, read_one, blk), 0);
	while (!fake_take(0, &request))
		sched_yield();
	fake_disconnect("it goes");
	pthread_join(thread, NULL);
	expect_failed_read(blk);
	tear_down(blk);
}

/*
 * After the loss, the disk's thread issues the read again. The thread must not block, because no
 * other thread would unblock it.
 */
static void test_lost_back_end_blocks_kicks(void **state)
{
	struct vublk_blk *blk = begin(1, NULL);
	struct vublk_blk_completion c;

	read_many(blk, 0, 1);
	fake_block_kicks(0);
	lose();
	fake_kicks(0); /* clears the eventfd, which would also block the next kick */
	find();
	assert_int_equal(fake_serve(0, 2), 1);
	assert_int_equal(vublk_blk_wait(vublk_blk_queue(blk, 0), &c, 1, 1, -1, &error), 1);
	assert_int_equal(c.result, 0);
	tear_down(blk);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_close_tells_of_a_broken_ring),
		VUBLK_TEST(test_id_out_of_range),
		VUBLK_TEST(test_id_not_outstanding),
		VUBLK_TEST(test_scribbled_rings),
		VUBLK_TEST(test_memory_goes_under_a_request),
		VUBLK_TEST(test_needs_reset),
		VUBLK_TEST(test_kick_that_blocks),
		VUBLK_TEST(test_kick_that_blocks_and_the_back_end_goes),
		VUBLK_TEST(test_lost_back_end_blocks_kicks),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
