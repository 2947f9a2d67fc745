/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes that were completed but not flushed when a back-end was lost: how the next flush reports
 * them.
 *
 * Key idea: each case decides when each request completes, so a case can produce any order of
 * writes, flushes and losses.
 */
#include "blk-rig.h"

#include "util/atomic.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOST (-EOWNERDEAD)

static const struct vublk_option fails[] = { { "unflushed", "fail" }, { NULL } };
static const struct vublk_option trusts[] = { { "unflushed", "trust" }, { NULL } };

static char *buffer;

static struct vublk_blk *begin_unflushed(unsigned num_queues, const struct vublk_option *options)
{
	struct vublk_blk *blk = begin(num_queues, options);

	buffer = vublk_blk_alloc(blk, 4096, &error);
	assert_non_null(buffer);
	return blk;
}

static void add_write(struct vublk_blk *blk, unsigned queue)
{
	assert_int_equal(vublk_blk_write(vublk_blk_queue(blk, queue), 0, buffer, 512, 0, NULL, &error),
			 0);
	vublk_blk_submit(vublk_blk_queue(blk, queue));
}

static int add_flush(struct vublk_blk *blk, unsigned queue)
{
	int r = vublk_blk_flush(vublk_blk_queue(blk, queue), 0, NULL, &error);

	vublk_blk_submit(vublk_blk_queue(blk, queue));
	return r;
}

static int take_one(struct vublk_blk *blk, unsigned queue)
{
	struct vublk_blk_completion c;

	assert_int_equal(vublk_blk_wait(vublk_blk_queue(blk, queue), &c, 1, 1, -1, &error), 1);
	return c.result;
}

static int serve_one(struct vublk_blk *blk, unsigned queue)
{
	assert_int_equal(fake_serve(queue, 1), 1);
	return take_one(blk, queue);
}

static void write_one(struct vublk_blk *blk, unsigned queue)
{
	add_write(blk, queue);
	assert_int_equal(serve_one(blk, queue), 0);
}

/* Submits a flush and has it completed. Returns the error of the submission, or the result. */
static int flush(struct vublk_blk *blk, unsigned queue)
{
	int r = add_flush(blk, queue);

	return r ? r : serve_one(blk, queue);
}

/*
 * Returns how often WRITES_LOST has occurred since the last call of this function. The disk reports
 * it before the event for which find() waits.
 */
static unsigned times_told(void)
{
	unsigned n;

	pthread_mutex_lock(&told.lock);
	n = told.events[VUBLK_BLK_WRITES_LOST];
	told.events[VUBLK_BLK_WRITES_LOST] = 0;
	pthread_mutex_unlock(&told.lock);
	return n;
}

static void outage(void)
{
	lose();
	find();
}

/* --- which writes count --------------------------------------------------------------- */

static void test_the_next_flush_fails_once(void **state)
{
	struct vublk_blk *blk = begin_unflushed(2, fails);

	write_one(blk, 1);
	outage();
	assert_int_equal(times_told(), 1);
	/* a flush fails on each queue, because each may have a different owner */
	for (unsigned queue = 0; queue < 2; queue++) {
		assert_int_equal(add_flush(blk, queue), LOST);
		assert_non_null(strstr(error.text, "may be lost"));
		assert_int_equal(flush(blk, queue), 0);
	}
	outage();
	assert_int_equal(flush(blk, 0), 0);
	assert_int_equal(times_told(), 0);
	tear_down(blk);
}

static void test_what_was_flushed_is_not_lost(void **state)
{
	struct vublk_blk *blk = begin_unflushed(2, fails);

	outage(); /* there was no write */
	assert_int_equal(flush(blk, 0), 0);
	write_one(blk, 0);
	write_one(blk, 1);
	assert_int_equal(flush(blk, 0), 0); /* a flush covers the writes of both queues */
	outage();
	assert_int_equal(times_told(), 0);
	assert_int_equal(flush(blk, 0), 0);
	assert_int_equal(flush(blk, 1), 0);
	tear_down(blk);
}

static void test_a_flush_covers_what_came_before_it(void **state)
{
	struct vublk_blk *blk = begin_unflushed(2, fails);

	write_one(blk, 0);
	assert_int_equal(add_flush(blk, 1), 0);
	write_one(blk, 0); /* completes during the flush, which therefore need not cover it */
	assert_int_equal(serve_one(blk, 1), 0);
	outage();
	assert_int_equal(times_told(), 1);
	assert_int_equal(flush(blk, 0), LOST);
	/* The write is in flight when the flush begins, and completes after it. */
	add_write(blk, 0);
	assert_int_equal(flush(blk, 1), LOST);
	assert_int_equal(flush(blk, 1), 0);
	assert_int_equal(serve_one(blk, 0), 0);
	outage();
	assert_int_equal(times_told(), 1);
	tear_down(blk);
}

static void test_a_flush_that_failed_covers_nothing(void **state)
{
	struct vublk_blk *blk = begin_unflushed(1, fails);

	write_one(blk, 0);
	assert_int_equal(add_flush(blk, 0), 0);
	assert_int_equal(fake_serve_with(0, 1, VIRTIO_BLK_S_IOERR), 1);
	assert_int_equal(take_one(blk, 0), -EIO);
	outage();
	assert_int_equal(flush(blk, 0), LOST);
	tear_down(blk);
}

static void test_all_that_changes_the_disk_counts(void **state)
{
	struct vublk_blk *blk = begin_unflushed(1, fails);
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);

	assert_int_equal(vublk_blk_read(queue, 0, buffer, 512, 0, NULL, &error), 0);
	vublk_blk_submit(queue);
	assert_int_equal(serve_one(blk, 0), 0);
	outage();
	assert_int_equal(times_told(), 0);
	assert_int_equal(vublk_blk_discard(queue, 0, 512, 0, NULL, &error), 0);
	vublk_blk_submit(queue);
	assert_int_equal(serve_one(blk, 0), 0);
	outage();
	assert_int_equal(times_told(), 1);
	assert_int_equal(vublk_blk_write_zeroes(queue, 0, 512, 0, NULL, &error), 0);
	vublk_blk_submit(queue);
	assert_int_equal(serve_one(blk, 0), 0);
	outage();
	assert_int_equal(times_told(), 1);
	tear_down(blk);
}

/* The back-end has completed the write, but the application has not taken the completion. */
static void test_a_completion_that_was_not_taken_counts(void **state)
{
	struct vublk_blk *blk = begin_unflushed(1, fails);

	for (unsigned i = 0; i < 2; i++) {
		fake_plan.tracked = i; /* with an in-flight area, the rings are not replaced */
		add_write(blk, 0);
		assert_int_equal(fake_serve(0, 1), 1);
		outage();
		assert_int_equal(times_told(), 1);
		assert_int_equal(take_one(blk, 0), 0);
		assert_int_equal(flush(blk, 0), LOST);
		assert_int_equal(flush(blk, 0), 0);
	}
	tear_down(blk);
}

/* --- flushes that are in flight --------------------------------------------------------- */

static void test_a_flush_in_flight_fails(void **state)
{
	struct vublk_blk *blk = begin_unflushed(2, fails);

	for (unsigned i = 0; i < 2; i++) {
		fake_plan.tracked = i;
		write_one(blk, 0);
		assert_int_equal(add_flush(blk, 0), 0);
		assert_int_equal(add_flush(blk, 0), 0);
		outage();
		for (unsigned n = 0; n < 2; n++) /* even if the next back-end reports success */
			assert_int_equal(serve_one(blk, 0), LOST);
		assert_int_equal(flush(blk, 0), 0); /* the application has been told already */
		assert_int_equal(flush(blk, 1), LOST);
		assert_int_equal(flush(blk, 1), 0);
	}
	tear_down(blk);
}

static void test_a_flush_that_is_given_up_says_why(void **state)
{
	static const struct vublk_option options[] = {
		{ "unflushed", "fail" }, { "fail-after-ms", "1" }, { NULL },
	};
	struct vublk_blk *blk = begin_unflushed(1, options);

	write_one(blk, 0);
	assert_int_equal(add_flush(blk, 0), 0);
	lose();
	assert_int_equal(take_one(blk, 0), LOST);
	find();
	assert_int_equal(flush(blk, 0), 0);
	tear_down(blk);
}

/* --- which back-ends are trusted ----------------------------------------------------------- */

static void check_policy(const struct vublk_option *options, bool tracked, bool has_flush, int result)
{
	struct vublk_blk *blk;

	fake_init(DISK_BYTES);
	fake_plan.tracked = tracked;
	if (!has_flush)
		fake_plan.features &= ~VUBLK_BIT(VIRTIO_BLK_F_FLUSH);
	blk = open_disk_with(options);
	buffer = vublk_blk_alloc(blk, 4096, &error);
	write_one(blk, 0);
	outage();
	assert_int_equal(times_told(), result == LOST);
	assert_int_equal(add_flush(blk, 0), result);
	if (!result && has_flush)
		assert_int_equal(fake_serve(0, 1), 1);
	if (!result)
		assert_int_equal(take_one(blk, 0), 0);
	tear_down(blk);
}

static void test_who_is_trusted(void **state)
{
	for (unsigned tracked = 0; tracked < 2; tracked++) {
		check_policy(NULL, tracked, true, tracked ? 0 : LOST);
		check_policy(fails, tracked, true, LOST);
		check_policy(trusts, tracked, true, 0);
		check_policy(NULL, tracked, false, 0); /* without FLUSH there is no cache */
		check_policy(fails, tracked, false, 0);
	}
}

static void test_words_of_the_option(void **state)
{
	static const char *const bad[] = { "", "maybe", "TRUST", "fail ", NULL };
	struct vublk_blk *blk = NULL;

	for (unsigned i = 0; bad[i]; i++) {
		struct vublk_option options[] = { { "unflushed", bad[i] }, { NULL } };

		fake_init(DISK_BYTES);
		assert_int_equal(vublk_blk_open("socket", options, NULL, 0, &blk, &error), -EINVAL);
		assert_non_null(strstr(error.text, "auto, trust, fail or replay"));
		fake_deinit();
	}
}

/* --- random orders -------------------------------------------------------------------------- */

#define QUEUES 3
#define STEPS 3000

/* A model of the writes, in the order of their completion. */
struct model {
	unsigned completed;        /* the number of completed writes */
	unsigned stable;           /* how many of them, from the first on, are stable */
	bool flushing[QUEUES];     /* a flush is in flight; at most one per queue */
	unsigned covers[QUEUES];   /* how many writes, from the first on, this flush makes stable */
	bool doomed[QUEUES];       /* the flush in flight will fail */
	bool fails[QUEUES];        /* the next flush will fail */
};

static void step_flush(struct vublk_blk *blk, struct model *model, unsigned q)
{
	if (model->flushing[q]) {
		assert_int_equal(serve_one(blk, q), model->doomed[q] ? LOST : 0);
		if (!model->doomed[q] && model->covers[q] > model->stable)
			model->stable = model->covers[q];
		model->flushing[q] = model->doomed[q] = false;
		return;
	}
	assert_int_equal(add_flush(blk, q), model->fails[q] ? LOST : 0);
	model->flushing[q] = !model->fails[q];
	model->covers[q] = model->completed;
	model->fails[q] = false;
}

static void step_outage(struct model *model)
{
	bool lost = model->completed > model->stable;

	outage();
	assert_int_equal(times_told(), lost);
	model->stable = model->completed;
	for (unsigned q = 0; lost && q < QUEUES; q++) {
		model->doomed[q] = model->flushing[q];
		model->fails[q] = !model->flushing[q];
	}
}

static void test_random(void **state)
{
	struct vublk_blk *blk = begin_unflushed(QUEUES, fails);
	struct model model = { 0 };
	unsigned seed = 1;

	for (unsigned i = 0; i < STEPS; i++) {
		unsigned q = (unsigned)rand_r(&seed) % QUEUES;
		unsigned dice = (unsigned)rand_r(&seed) % 10;

		if (dice < 4 && !model.flushing[q]) {
			write_one(blk, q);
			model.completed++;
		} else if (dice < 9) {
			step_flush(blk, &model, q);
		} else {
			step_outage(&model);
		}
	}
	for (unsigned q = 0; q < QUEUES; q++)
		if (model.flushing[q])
			step_flush(blk, &model, q);
	tear_down(blk);
}

/* --- threads --------------------------------------------------------------------------------- */

struct worker {
	struct vublk_blk *blk;
	unsigned index;
	pthread_t thread;
	unsigned failed;
};

/* Each round makes a write, and flushes until a flush succeeds. */
static void *work(void *opaque)
{
	struct worker *w = opaque;
	struct vublk_blk_queue *queue = vublk_blk_queue(w->blk, w->index);
	struct vublk_blk_completion c;

	for (unsigned round = 0; round < 500; round++) {
		int r;

		assert_int_equal(vublk_blk_write(queue, w->index * 4096, buffer, 512, 0, NULL, NULL), 0);
		assert_int_equal(vublk_blk_wait(queue, &c, 1, 1, -1, NULL), 1);
		assert_int_equal(c.result, 0);
		do {
			r = vublk_blk_flush(queue, 0, NULL, NULL);
			if (!r) {
				assert_int_equal(vublk_blk_wait(queue, &c, 1, 1, -1, NULL), 1);
				r = c.result;
			}
			assert_true(!r || r == LOST);
			w->failed += r == LOST;
		} while (r);
	}
	return NULL;
}

static void test_threads(void **state)
{
	struct worker workers[QUEUES];
	struct vublk_blk *blk = begin_unflushed(QUEUES, fails);
	unsigned losses = 0, lost = 0;

	fake_start_threads();
	for (unsigned i = 0; i < QUEUES; i++) {
		workers[i] = (struct worker){ .blk = blk, .index = i };
		assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
	}
	for (; losses < 100; losses++) {
		outage();
		lost += times_told();
	}
	for (unsigned i = 0; i < QUEUES; i++) {
		pthread_join(workers[i].thread, NULL);
		assert_true(workers[i].failed <= lost);
	}
	assert_int_equal(vublk_blk_close(blk, -1, NULL), 0);
	fake_stop_threads();
	fake_deinit();
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_the_next_flush_fails_once),
		VUBLK_TEST(test_what_was_flushed_is_not_lost),
		VUBLK_TEST(test_a_flush_covers_what_came_before_it),
		VUBLK_TEST(test_a_flush_that_failed_covers_nothing),
		VUBLK_TEST(test_all_that_changes_the_disk_counts),
		VUBLK_TEST(test_a_completion_that_was_not_taken_counts),
		VUBLK_TEST(test_a_flush_in_flight_fails),
		VUBLK_TEST(test_a_flush_that_is_given_up_says_why),
		VUBLK_TEST(test_who_is_trusted),
		VUBLK_TEST(test_words_of_the_option),
		VUBLK_TEST(test_random),
		VUBLK_TEST(test_threads),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
