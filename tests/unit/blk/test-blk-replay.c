/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The option unflushed=replay: when a back-end is lost with its cache, the disk writes the lost
 * data again to the next back-end.
 *
 * The stand-in device has a cache: when its back-end is lost, its data returns to the content at
 * the last flush.
 */
#include "blk-rig.h"

#include "util/atomic.h"
#include "util/loop.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define TIME_LIMIT_NS (UINT64_C(10) * 1000000000)

static const struct vublk_option replay[] = { { "unflushed", "replay" }, { NULL } };

static char *buffer; /* 64 KiB */

static struct vublk_blk *open_cached(unsigned num_queues)
{
	struct vublk_blk *blk;

	fake_init(DISK_BYTES);
	fake_plan.num_queues = num_queues;
	fake_plan.has_cache = true;
	blk = open_disk_with(replay);
	buffer = vublk_blk_alloc(blk, 65536, &error);
	assert_non_null(buffer);
	return blk;
}

static void add_write(struct vublk_blk *blk, unsigned queue, uint64_t offset, char content,
		      size_t bytes)
{
	memset(buffer, content, bytes);
	assert_int_equal(vublk_blk_write(vublk_blk_queue(blk, queue), offset, buffer, bytes, 0,
					 NULL, &error), 0);
	vublk_blk_submit(vublk_blk_queue(blk, queue));
}

static int take_one(struct vublk_blk *blk, unsigned queue)
{
	struct vublk_blk_completion c;

	assert_int_equal(vublk_blk_wait(vublk_blk_queue(blk, queue), &c, 1, 1, -1, &error), 1);
	return c.result;
}

static void write_one(struct vublk_blk *blk, unsigned queue, uint64_t offset, char content,
		      size_t bytes)
{
	add_write(blk, queue, offset, content, bytes);
	while (!fake_serve(queue, 1))
		;
	assert_int_equal(take_one(blk, queue), 0);
}

static void add_flush(struct vublk_blk *blk, unsigned queue)
{
	assert_int_equal(vublk_blk_flush(vublk_blk_queue(blk, queue), 0, NULL, &error), 0);
	vublk_blk_submit(vublk_blk_queue(blk, queue));
}

/*
 * Serves queue 0 until the next flush has been executed. The time limit matters only if none comes.
 */
static void serve_until_flush(void)
{
	uint64_t until = vublk_now_ns() + TIME_LIMIT_NS;
	unsigned before = fake_num_flushes;

	while (fake_num_flushes == before) {
		if (!fake_serve(0, 1))
			sched_yield();
		if (vublk_now_ns() > until)
			fail_msg("no flush comes");
	}
}

/*
 * Flushes until a flush succeeds. After a failed replay they fail until the disk's thread has
 * noticed that a replay succeeded.
 */
static void flush_until_it_succeeds(struct vublk_blk *blk)
{
	uint64_t until = vublk_now_ns() + TIME_LIMIT_NS;

	fake_start_threads();
	for (add_flush(blk, 0); take_one(blk, 0); add_flush(blk, 0)) {
		assert_true(vublk_now_ns() < until);
		sched_yield();
	}
	fake_stop_threads();
}

/* Closes the disk. This must succeed, because the back-end executes the flush of the close. */
static void tear_down_flushed(struct vublk_blk *blk)
{
	fake_start_threads(); /* for the flush of the close */
	assert_int_equal(vublk_blk_close(blk, -1, &error), 0);
	fake_stop_threads();
	fake_deinit();
}

/* --- replays ------------------------------------------------------------------------------ */

static void test_the_next_backend_gets_the_write(void **state)
{
	struct vublk_blk *blk = open_cached(1);

	write_one(blk, 0, 4096, 'a', 4096);
	memset(buffer, 'x', 4096); /* the application uses its buffer again */
	lose();
	assert_int_equal(fake_disk()[4096], 0);
	/* A read that is added during the outage waits for the replay. */
	assert_int_equal(vublk_blk_read(vublk_blk_queue(blk, 0), 4096, buffer, 4096, 0, NULL,
					&error), 0);
	vublk_blk_submit(vublk_blk_queue(blk, 0));
	find();
	serve_until_flush();
	while (!fake_serve(0, 1))
		sched_yield();
	assert_int_equal(take_one(blk, 0), 0);
	assert_int_equal(buffer[0], 'a');
	assert_int_equal(buffer[4095], 'a');
	lose();
	assert_int_equal(fake_disk()[4096], 'a'); /* the flush of the replay made it stable */
	find();
	assert_int_equal(fake_serve(0, 1), 0); /* so the write is not repeated */
	tear_down_flushed(blk);
}

static void test_the_order_of_two_queues(void **state)
{
	struct vublk_blk *blk = open_cached(2);

	write_one(blk, 1, 0, 'a', 1024);
	write_one(blk, 0, 512, 'b', 1024);
	write_one(blk, 1, 1024, 'c', 1024);
	lose();
	find();
	serve_until_flush();
	assert_memory_equal(fake_disk() + 511, "ab", 2);
	assert_memory_equal(fake_disk() + 1023, "bc", 2);
	tear_down_flushed(blk);
}

static void test_a_flush_frees_what_completed_before_it(void **state)
{
	struct vublk_blk *blk = open_cached(2);

	write_one(blk, 0, 0, 'a', 512);
	add_flush(blk, 1);
	write_one(blk, 0, 512, 'b', 512); /* after the flush was submitted */
	assert_int_equal(fake_serve(1, 1), 1);
	fake_cache_drop(512, 512); /* a flush need not cover a later write */
	assert_int_equal(take_one(blk, 1), 0);
	lose();
	find();
	assert_int_equal(fake_disk()[512], 0);
	serve_until_flush();
	assert_int_equal(fake_last.type, VIRTIO_BLK_T_FLUSH);
	assert_memory_equal(fake_disk() + 511, "ab", 2);
	tear_down_flushed(blk);
}

static void test_ranges(void **state)
{
	struct vublk_blk *blk = open_cached(1);
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);

	memset(fake_disk(), 'o', 8192);
	write_one(blk, 0, 0, 'a', 4096);
	assert_int_equal(vublk_blk_write_zeroes(queue, 512, 512, VUBLK_BLK_NO_UNMAP, NULL, &error),
			 0);
	assert_int_equal(vublk_blk_discard(queue, 1024, 1024, 0, NULL, &error), 0);
	vublk_blk_submit(queue);
	assert_int_equal(fake_serve(0, 2), 2);
	assert_int_equal(take_one(blk, 0), 0);
	assert_int_equal(take_one(blk, 0), 0);
	lose();
	find();
	serve_until_flush();
	assert_int_equal(fake_disk()[511], 'a');
	assert_int_equal(fake_disk()[512], 0);
	assert_int_equal(fake_disk()[1023], 0);
	assert_int_equal(fake_num_discards, 2);
	tear_down_flushed(blk);
}

static void test_a_loss_in_the_middle(void **state)
{
	struct vublk_blk *blk = open_cached(1);

	for (unsigned i = 0; i < 4; i++)
		write_one(blk, 0, i * 512, (char)('a' + i), 512);
	for (unsigned i = 0; i < 3; i++) {
		lose();
		find();
		for (unsigned n = 0; n < i + 1;)
			n += fake_serve(0, 1);
	}
	lose();
	find();
	serve_until_flush();
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(fake_disk()[i * 512], 'a' + i);
	tear_down_flushed(blk);
}

static void test_a_replay_that_fails(void **state)
{
	struct vublk_blk *blk = open_cached(1);
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);

	write_one(blk, 0, 0, 'a', 512);
	lose();
	find();
	while (!fake_serve_with(0, 1, VIRTIO_BLK_S_IOERR))
		sched_yield();
	/* Flushes fail as soon as the disk has noticed that the replay failed. */
	for (int r = 0; r != -EIO;) {
		struct vublk_blk_completion completion;

		assert_int_equal(vublk_blk_flush(queue, 0, NULL, &error), 0);
		vublk_blk_submit(queue);
		if (vublk_blk_poll(queue, &completion, 1) == 1)
			r = completion.result;
		else
			sched_yield();
		if (vublk_blk_in_flight(queue) > 8)
			break;
	}
	serve_until_flush();
	assert_int_equal(fake_disk()[0], 'a');
	fake_start_threads();
	while (vublk_blk_in_flight(queue))
		take_one(blk, 0);
	fake_stop_threads();
	flush_until_it_succeeds(blk);
	tear_down_flushed(blk);
}

static void test_a_backend_that_is_too_small(void **state)
{
	struct vublk_blk *blk = open_cached(1);
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	uint64_t until = vublk_now_ns() + TIME_LIMIT_NS;

	write_one(blk, 0, DISK_BYTES - 512, 'a', 512);
	lose();
	fake_plan.config.capacity--;
	find();
	assert_int_equal(vublk_blk_flush(queue, 0, NULL, &error), 0);
	assert_int_equal(fake_serve(0, 1), 0);
	assert_int_equal(take_one(blk, 0), -EIO); /* flushes fail as soon as RECONNECTED is
						     reported */
	fake_resize(DISK_BYTES);
	while (!fake_serve(0, 1)) {
		sched_yield();
		assert_true(vublk_now_ns() < until);
	}
	assert_int_equal(fake_last.type, VIRTIO_BLK_T_OUT);
	serve_until_flush();
	flush_until_it_succeeds(blk);
	assert_int_equal(fake_disk()[DISK_BYTES - 1], 'a');
	tear_down_flushed(blk);
}

/* The replay works on a ring of four entries, which has room for one piece at a time. */
static void test_a_small_ring(void **state)
{
	struct vublk_blk *blk;

	fake_init(DISK_BYTES);
	fake_plan.queue_size = 4;
	fake_plan.features &= ~VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC);
	fake_plan.has_cache = true;
	blk = open_disk_with(replay);
	buffer = vublk_blk_alloc(blk, 65536, &error);
	for (unsigned i = 0; i < 10; i++)
		write_one(blk, 0, i * 512, (char)('a' + i), 512);
	lose();
	find();
	serve_until_flush();
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(fake_disk()[i * 512], 'a' + i);
	tear_down_flushed(blk);
}

/* --- flushes of the disk's own ---------------------------------------------------------------- */

/* The disk flushes when its log of writes is half full. The log has 1 MiB for the only queue. */
static void test_a_flush_at_half_the_bound(void **state)
{
	struct vublk_blk *blk = open_cached(1);
	unsigned n = 0;

	while (!fake_num_flushes) {
		add_write(blk, 0, 0, 'a', 65536);
		while (vublk_blk_in_flight(vublk_blk_queue(blk, 0))) {
			struct vublk_blk_completion completion;

			fake_serve(0, 1);
			vublk_blk_poll(vublk_blk_queue(blk, 0), &completion, 1);
		}
		n++;
		assert_true(n < 20);
	}
	assert_true(n >= 8);
	tear_down_flushed(blk);
}

/* Fills half of queue 0's part of the log, so that the queue's own flush is put on the ring. */
static void fill_until_own_flush(struct vublk_blk *blk, unsigned num_queues)
{
	struct vublk_blk_completion completion;

	for (unsigned i = 0; i < 8 / num_queues; i++) {
		add_write(blk, 0, 0, 'a', 65536);
		while (!fake_serve(0, 1))
			;
		while (!vublk_blk_poll(vublk_blk_queue(blk, 0), &completion, 1))
			;
	}
}

/*
 * A flush that the disk submits on its own fails. The application does not know of that flush, so
 * the application's next flush fails, too.
 */
static void test_an_own_flush_fails(void **state)
{
	struct vublk_blk *blk = open_cached(1);

	fill_until_own_flush(blk, 1);
	while (!fake_serve_with(0, 1, VIRTIO_BLK_S_IOERR))
		vublk_blk_submit(vublk_blk_queue(blk, 0));
	for (unsigned i = 0; i < 2; i++) {
		add_flush(blk, 0);
		while (!fake_serve(0, 1))
			;
		assert_int_equal(take_one(blk, 0), i ? 0 : -EIO);
	}
	tear_down_flushed(blk);
}

static void serve_own_flush(uint8_t status)
{
	assert_int_equal(fake_serve_with(0, 1, status), 1);
	assert_int_equal(fake_last.type, VIRTIO_BLK_T_FLUSH);
}

/*
 * Adds a flush to queue 1 or, if `flags` is VUBLK_BLK_FUA, a write with FUA. The back-end completes
 * it successfully while queue 0's own flush is in flight.
 */
static void succeed_during_own_flush(struct vublk_blk *blk, uint32_t flags)
{
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 1);
	struct vublk_blk_completion completion;

	fill_until_own_flush(blk, 2);
	if (flags) {
		assert_int_equal(vublk_blk_write(queue, 0, buffer, 512, flags, NULL, &error), 0);
		vublk_blk_submit(queue);
		assert_int_equal(fake_serve(1, 1), 1);
		assert_int_equal(vublk_blk_poll(queue, &completion, 1), 0);
	} else {
		add_flush(blk, 1);
	}
	assert_int_equal(fake_serve(1, 1), 1);
	assert_int_equal(fake_last.type, VIRTIO_BLK_T_FLUSH);
	assert_int_equal(vublk_blk_poll(queue, &completion, 1), 0);
}

/*
 * The back-end completes a flush of the application successfully. A flush of the disk's own, which
 * was in flight at the same time, fails later, and may have got an error that concerns both
 * flushes.
 */
static void test_an_own_flush_fails_later(void **state)
{
	for (unsigned i = 0; i < 2; i++) {
		struct vublk_blk *blk = open_cached(2);
		struct vublk_blk_completion completion;

		succeed_during_own_flush(blk, i ? VUBLK_BLK_FUA : 0);
		serve_own_flush(VIRTIO_BLK_S_IOERR);
		assert_int_equal(vublk_blk_poll(vublk_blk_queue(blk, 0), &completion, 1), 0);
		assert_int_equal(take_one(blk, 1), -EIO);
		fake_start_threads();
		for (unsigned queue = 0; queue < 2; queue++) {
			add_flush(blk, queue);
			/* a write with FUA reports only the loss of its own data */
			assert_int_equal(take_one(blk, queue), queue && !i ? 0 : -EIO);
		}
		fake_stop_threads();
		tear_down_flushed(blk);
	}
}

/*
 * The disk's own flush on queue 0 succeeds. The owner of queue 0 makes no call, and the other owner
 * sleeps, so the disk's thread has to take the completion.
 */
static void test_an_own_flush_succeeds_later(void **state)
{
	struct vublk_blk *blk = open_cached(2);

	succeed_during_own_flush(blk, 0);
	serve_own_flush(VIRTIO_BLK_S_OK);
	assert_int_equal(take_one(blk, 1), 0);
	tear_down_flushed(blk);
}

/*
 * The back-end is lost during the disk's own flush. The next back-end executes the writes again
 * before the application's flush succeeds.
 */
static void test_a_loss_during_an_own_flush(void **state)
{
	struct vublk_blk *blk = open_cached(2);

	succeed_during_own_flush(blk, 0);
	fake_cache_drop(0, 65536);
	lose();
	assert_int_equal(fake_disk()[0], 0);
	find();
	fake_start_threads();
	assert_int_equal(take_one(blk, 1), 0);
	fake_stop_threads();
	assert_int_equal(fake_disk()[0], 'a');
	tear_down_flushed(blk);
}

/* The back-end is lost during the disk's own flush, and no other is found. */
static void test_the_end_during_an_own_flush(void **state)
{
	struct vublk_blk *blk = open_cached(2);

	succeed_during_own_flush(blk, 0);
	lose();
	fake_give_up();
	assert_int_equal(take_one(blk, 1), -ENOTCONN);
	vublk_blk_close(blk, -1, &error);
	fake_deinit();
}

/*
 * The disk flushes by itself after some seconds, although the owner of the queue makes no call.
 */
static void test_an_idle_disk_flushes(void **state)
{
	struct vublk_blk *blk = open_cached(2);

	write_one(blk, 1, 0, 'a', 512);
	/* The disk's first flush fails, and the disk sends another one. */
	while (!fake_serve_with(1, 1, VIRTIO_BLK_S_IOERR))
		sched_yield();
	assert_int_equal(fake_last.type, VIRTIO_BLK_T_FLUSH);
	while (!fake_serve(1, 1))
		sched_yield();
	assert_int_equal(fake_num_flushes, 1);
	lose();
	assert_int_equal(fake_disk()[0], 'a');
	find();
	assert_int_equal(fake_serve(0, 1), 0); /* the log is empty */
	tear_down_flushed(blk);
}

static void test_a_close_flushes(void **state)
{
	struct vublk_blk *blk = open_cached(1);

	write_one(blk, 0, 0, 'a', 512);
	assert_int_equal(fake_num_flushes, 0);
	fake_start_threads();
	assert_int_equal(vublk_blk_close(blk, -1, &error), 0);
	fake_stop_threads();
	assert_int_equal(fake_num_flushes, 1);
	fake_deinit();
}

static void test_a_close_that_cannot_flush(void **state)
{
	struct vublk_blk *blk = open_cached(1);

	write_one(blk, 0, 0, 'a', 512);
	assert_int_equal(vublk_blk_close(blk, 1, &error), -ETIMEDOUT);
	assert_non_null(strstr(error.text, "were not flushed"));
	fake_deinit();
}

static void test_without_flush_there_is_no_log(void **state)
{
	struct vublk_blk *blk;

	fake_init(DISK_BYTES);
	fake_plan.features &= ~VUBLK_BIT(VIRTIO_BLK_F_FLUSH);
	blk = open_disk_with(replay);
	buffer = vublk_blk_alloc(blk, 65536, &error);
	write_one(blk, 0, 0, 'a', 512);
	lose();
	find();
	assert_int_equal(fake_serve(0, 1), 0);
	tear_down(blk);
}

/* --- threads ---------------------------------------------------------------------------------- */

#define QUEUES 3
#define OUTAGES 40
#define DEPTH 6
#define AREA_SECTORS 64 /* of the disk, per queue */

/* One thread with its own part of the disk. */
struct load {
	pthread_t thread;
	struct vublk_blk_queue *queue;
	uint64_t offset;
	uint64_t *memory; /* a sector for each request */
	uint64_t expected[AREA_SECTORS];
	bool is_busy[AREA_SECTORS];
	uint64_t seed;
};

/* A request in flight. */
struct op {
	struct load *load;
	uint64_t *data;
	unsigned sector;
	bool is_free, is_read;
};

static unsigned long progress;
static bool ends;

static unsigned below(struct load *load, unsigned bound)
{
	load->seed = load->seed * UINT64_C(6364136223846793005) + 1442695040888963407;
	return (unsigned)(load->seed >> 33) % bound;
}

static void end_op(struct op *op, int result)
{
	if (result)
		fail_msg("a request ended with %d", result);
	if (op->sector < AREA_SECTORS) {
		op->load->is_busy[op->sector] = false;
		if (op->is_read && op->data[0] != op->load->expected[op->sector])
			fail_msg("sector %u has write %u, not %u", op->sector,
				 (unsigned)op->data[0], (unsigned)op->load->expected[op->sector]);
	}
	op->is_free = true;
	__atomic_add_fetch(&progress, 1, __ATOMIC_RELAXED);
}

static void begin_op(struct load *load, struct op *op)
{
	uint64_t at;

	op->sector = below(load, AREA_SECTORS + 2);
	op->is_read = below(load, 2);
	op->is_free = false;
	if (op->sector >= AREA_SECTORS) {
		assert_int_equal(vublk_blk_flush(load->queue, 0, op, &error), 0);
		return;
	}
	if (load->is_busy[op->sector]) {
		op->is_free = true;
		return;
	}
	load->is_busy[op->sector] = true;
	at = load->offset + op->sector * 512;
	if (op->is_read) {
		assert_int_equal(vublk_blk_read(load->queue, at, op->data, 512, 0, op, &error), 0);
		return;
	}
	op->data[0] = ++load->expected[op->sector];
	assert_int_equal(vublk_blk_write(load->queue, at, op->data, 512,
					 below(load, 20) ? 0 : VUBLK_BLK_FUA, op, &error), 0);
}

static void *run_load(void *opaque)
{
	struct load *load = opaque;
	struct op ops[DEPTH];
	struct vublk_blk_completion completions[DEPTH];

	for (unsigned i = 0; i < DEPTH; i++)
		ops[i] = (struct op){ load, load->memory + i * 64, 0, true, false };
	while (!vublk_load_relaxed(&ends) || vublk_blk_in_flight(load->queue)) {
		int n;

		for (unsigned i = 0; i < DEPTH && !vublk_load_relaxed(&ends); i++)
			if (ops[i].is_free)
				begin_op(load, &ops[i]);
		n = vublk_blk_wait(load->queue, completions, 1, DEPTH, 100, NULL);
		for (int i = 0; i < n; i++)
			end_op(completions[i].user_data, completions[i].result);
	}
	return NULL;
}

static void test_threads(void **state)
{
	static struct load loads[QUEUES];
	struct vublk_blk *blk = open_cached(QUEUES);

	for (unsigned i = 0; i < QUEUES; i++) {
		loads[i] = (struct load){
			.queue = vublk_blk_queue(blk, i),
			.offset = i * AREA_SECTORS * 512,
			.memory = vublk_blk_alloc(blk, DEPTH * 512, &error),
			.seed = i + 1,
		};
		assert_int_equal(pthread_create(&loads[i].thread, NULL, run_load, &loads[i]), 0);
	}
	fake_start_threads();
	for (unsigned i = 0; i < OUTAGES; i++) {
		unsigned long until = vublk_load_relaxed(&progress) + 200;

		while (vublk_load_relaxed(&progress) < until)
			sched_yield();
		lose();
		find();
	}
	vublk_store_relaxed(&ends, true);
	for (unsigned i = 0; i < QUEUES; i++)
		pthread_join(loads[i].thread, NULL);
	fake_stop_threads();
	for (unsigned i = 0; i < QUEUES; i++)
		for (unsigned k = 0; k < AREA_SECTORS; k++)
			assert_int_equal(*(uint64_t *)(void *)(fake_disk() + loads[i].offset + k * 512),
					 loads[i].expected[k]);
	tear_down_flushed(blk);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_the_next_backend_gets_the_write),
		VUBLK_TEST(test_the_order_of_two_queues),
		VUBLK_TEST(test_a_flush_frees_what_completed_before_it),
		VUBLK_TEST(test_ranges),
		VUBLK_TEST(test_a_loss_in_the_middle),
		VUBLK_TEST(test_a_replay_that_fails),
		VUBLK_TEST(test_a_flush_at_half_the_bound),
		VUBLK_TEST(test_a_backend_that_is_too_small),
		VUBLK_TEST(test_a_small_ring),
		VUBLK_TEST(test_an_own_flush_fails),
		VUBLK_TEST(test_an_own_flush_fails_later),
		VUBLK_TEST(test_an_own_flush_succeeds_later),
		VUBLK_TEST(test_a_loss_during_an_own_flush),
		VUBLK_TEST(test_the_end_during_an_own_flush),
		VUBLK_TEST(test_an_idle_disk_flushes),
		VUBLK_TEST(test_a_close_flushes),
		VUBLK_TEST(test_a_close_that_cannot_flush),
		VUBLK_TEST(test_without_flush_there_is_no_log),
		VUBLK_TEST(test_threads),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
