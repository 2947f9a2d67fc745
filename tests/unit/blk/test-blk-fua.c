/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes with VUBLK_BLK_FUA over the stand-in device. Each consists of a write and a flush, and the
 * case decides when either completes. The application sees one request with one completion,
 * whatever happens to the write or to the flush.
 */
#include "blk-rig.h"

#include "util/atomic.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOST (-EOWNERDEAD)

static const struct vublk_option fails[] = { { "unflushed", "fail" }, { NULL } };
static const struct vublk_option trusts[] = { { "unflushed", "trust" }, { NULL } };

static struct vublk_blk *blk;
static struct vublk_blk_queue *queue;
static char *buffer;
static int tag;

static void begin_fua(const struct vublk_option *options)
{
	blk = begin(2, options);
	queue = vublk_blk_queue(blk, 0);
	buffer = vublk_blk_alloc(blk, 64 * KIB, &error);
	assert_non_null(buffer);
}

static void end_fua(void)
{
	assert_int_equal(vublk_blk_in_flight(queue), 0);
	tear_down(blk);
}

static void add_fua_at(uint64_t offset, size_t bytes)
{
	assert_int_equal(vublk_blk_write(queue, offset, buffer, bytes, VUBLK_BLK_FUA, &tag, &error), 0);
	vublk_blk_submit(queue);
}

static void add_fua(size_t bytes)
{
	add_fua_at(4096, bytes);
}

/* Completes the next request, which must be of this type, with this status. */
static void serve(uint32_t type, uint8_t status)
{
	assert_int_equal(fake_serve_with(0, 1, status), 1);
	assert_int_equal(fake_last.type, type);
}

static void expect_nothing(void)
{
	struct vublk_blk_completion c;

	assert_int_equal(vublk_blk_poll(queue, &c, 1), 0);
	assert_int_equal(vublk_blk_in_flight(queue), 1);
}

static void expect_result(int result)
{
	struct vublk_blk_completion c;

	assert_int_equal(vublk_blk_wait(queue, &c, 1, 1, -1, &error), 1);
	assert_int_equal(c.result, result);
	assert_ptr_equal(c.user_data, &tag);
	assert_int_equal(vublk_blk_poll(queue, &c, 1), 0);
}

static void expect_idle_ring(void)
{
	assert_int_equal(fake_serve(0, 1), 0);
}

static void outage(void)
{
	lose();
	find();
}

/* --- without an outage ------------------------------------------------------------------- */

static void test_write_and_then_flush(void **state)
{
	begin_fua(fails);
	for (unsigned i = 0; i < 100; i++) { /* more rounds than the queue has requests or slots */
		memset(buffer, (int)i, 512);
		add_fua(512);
		expect_nothing();
		serve(VIRTIO_BLK_T_OUT, VIRTIO_BLK_S_OK);
		expect_idle_ring(); /* the flush follows when the owner has taken the write's
				       completion */
		expect_nothing();
		assert_int_equal(fake_disk()[4096], (char)i);
		serve(VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_S_OK);
		expect_result(0);
		expect_idle_ring();
	}
	assert_int_equal(fake_num_flushes, 100);
	end_fua();
}

/* A FUA write leaves nothing behind that affects the next request. */
static void test_the_next_request_is_plain(void **state)
{
	begin_fua(fails);
	add_fua(512);
	serve(VIRTIO_BLK_T_OUT, VIRTIO_BLK_S_IOERR);
	expect_result(-EIO);
	add_fua(512);
	serve(VIRTIO_BLK_T_OUT, VIRTIO_BLK_S_OK);
	expect_nothing();
	serve(VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_S_OK);
	expect_result(0);
	assert_int_equal(vublk_blk_write(queue, 0, buffer, 512, 0, &tag, &error), 0);
	vublk_blk_submit(queue);
	serve(VIRTIO_BLK_T_OUT, VIRTIO_BLK_S_OK);
	expect_result(0);
	expect_idle_ring();
	end_fua();
}

static void test_no_flush_after_a_failed_write(void **state)
{
	begin_fua(fails);
	add_fua(512);
	serve(VIRTIO_BLK_T_OUT, VIRTIO_BLK_S_IOERR);
	expect_result(-EIO);
	expect_idle_ring();
	end_fua();
}

static void test_a_failed_flush_fails_the_write(void **state)
{
	begin_fua(fails);
	add_fua(512);
	serve(VIRTIO_BLK_T_OUT, VIRTIO_BLK_S_OK);
	expect_nothing();
	serve(VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_S_IOERR);
	expect_result(-EIO);
	outage(); /* the write is still unflushed */
	assert_int_equal(vublk_blk_flush(queue, 0, NULL, &error), LOST);
	end_fua();
}

/* Flushes on queue `index`, and has the back-end complete the flush with OK. Returns the result. */
static int flush_on(unsigned index)
{
	struct vublk_blk_queue *on = vublk_blk_queue(blk, index);
	struct vublk_blk_completion c;

	assert_int_equal(vublk_blk_flush(on, 0, &tag, &error), 0);
	vublk_blk_submit(on);
	assert_int_equal(fake_serve_with(index, 1, VIRTIO_BLK_S_OK), 1);
	assert_int_equal(vublk_blk_wait(on, &c, 1, 1, -1, &error), 1);
	return c.result;
}

/*
 * A back-end may report the error of another write to the flush of a write with FUA, and then
 * forget the error. So the next flush on each queue fails, too.
 */
static void test_a_failed_flush_fails_the_next_flushes(void **state)
{
	begin_fua(fails);
	assert_int_equal(vublk_blk_write(queue, 0, buffer, 512, 0, &tag, &error), 0);
	vublk_blk_submit(queue);
	serve(VIRTIO_BLK_T_OUT, VIRTIO_BLK_S_OK);
	expect_result(0);
	add_fua(512);
	serve(VIRTIO_BLK_T_OUT, VIRTIO_BLK_S_OK);
	expect_nothing();
	serve(VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_S_IOERR);
	expect_result(-EIO);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(flush_on(i), -EIO);
		assert_int_equal(flush_on(i), 0);
	}
	end_fua();
}

/* The failed flush may have got the error of another write with FUA, which therefore fails, too. */
static void test_a_failed_flush_fails_other_writes_with_fua(void **state)
{
	struct vublk_blk_completion c;

	begin_fua(fails);
	add_fua(512);
	add_fua_at(0, 512);
	serve(VIRTIO_BLK_T_OUT, VIRTIO_BLK_S_OK);
	serve(VIRTIO_BLK_T_OUT, VIRTIO_BLK_S_OK);
	assert_int_equal(vublk_blk_poll(queue, &c, 1), 0);
	serve(VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_S_IOERR);
	expect_result(-EIO);
	serve(VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_S_OK);
	expect_result(-EIO);
	add_fua(512); /* issued after the failure, so it succeeds */
	serve(VIRTIO_BLK_T_OUT, VIRTIO_BLK_S_OK);
	expect_nothing();
	serve(VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_S_OK);
	expect_result(0);
	end_fua();
}

/*
 * A write of three pieces, each of which has four segments of one block. In each round except the
 * last, one piece fails. A flush follows only if no piece has failed.
 */
static void test_split_write(void **state)
{
	begin_fua(fails);
	for (unsigned failing = 0; failing < 4; failing++) {
		struct iovec iov[12];

		for (unsigned i = 0; i < 12; i++)
			iov[i] = (struct iovec){ buffer + i * 2048, 512 };
		assert_int_equal(vublk_blk_writev(queue, 0, iov, 12, VUBLK_BLK_FUA, &tag, &error), 0);
		vublk_blk_submit(queue);
		for (unsigned i = 0; i < 3; i++) {
			expect_nothing();
			serve(VIRTIO_BLK_T_OUT, i == failing ? VIRTIO_BLK_S_IOERR :
							       VIRTIO_BLK_S_OK);
		}
		if (failing == 3) {
			expect_nothing();
			serve(VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_S_OK);
		}
		expect_result(failing < 3 ? -EIO : 0);
		expect_idle_ring();
	}
	end_fua();
}

static void test_zeroes_and_discard(void **state)
{
	begin_fua(fails);
	assert_int_equal(vublk_blk_write_zeroes(queue, 0, 512, VUBLK_BLK_FUA | VUBLK_BLK_NO_UNMAP,
						&tag, &error), 0);
	vublk_blk_submit(queue);
	serve(VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_S_OK);
	assert_int_equal(fake_last.range_flags, 0);
	expect_nothing();
	serve(VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_S_OK);
	expect_result(0);
	assert_int_equal(vublk_blk_discard(queue, 0, 512, VUBLK_BLK_FUA, &tag, &error), 0);
	vublk_blk_submit(queue);
	serve(VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_S_OK);
	expect_nothing();
	serve(VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_S_OK);
	expect_result(0);
	end_fua();
}

static void test_without_flush_a_plain_write(void **state)
{
	fake_init(DISK_BYTES);
	fake_plan.features &= ~VUBLK_BIT(VIRTIO_BLK_F_FLUSH);
	blk = open_disk_with(fails);
	queue = vublk_blk_queue(blk, 0);
	buffer = vublk_blk_alloc(blk, 4096, &error);
	add_fua(512);
	serve(VIRTIO_BLK_T_OUT, VIRTIO_BLK_S_OK);
	expect_result(0);
	expect_idle_ring();
	end_fua();
}

/*
 * The queue is full of FUA writes. Each of them is on the ring twice: first as a write, then as a
 * flush.
 */
static void test_full_queue(void **state)
{
	struct vublk_blk_completion c[16];
	unsigned n = 0;

	begin_fua(fails);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(vublk_blk_write(queue, i * 512, buffer, 512, VUBLK_BLK_FUA, NULL,
						 &error), 0);
	assert_int_equal(vublk_blk_write(queue, 0, buffer, 512, VUBLK_BLK_FUA, NULL, &error),
			 -EAGAIN);
	vublk_blk_submit(queue);
	while (n < 16) {
		int got = vublk_blk_poll(queue, c, 16);

		assert_true(got >= 0);
		for (int i = 0; i < got; i++)
			assert_int_equal(c[i].result, 0);
		n += (unsigned)got;
		assert_int_equal(vublk_blk_in_flight(queue), 16 - n);
		assert_true(n == 16 || fake_serve(0, 3));
	}
	assert_int_equal(fake_num_flushes, 16);
	end_fua();
}

/* --- the back-end is lost ------------------------------------------------------------------ */

/*
 * The back-end is lost before the write has completed. The next back-end executes both the write
 * and the flush.
 */
static void test_lost_before_the_write(void **state)
{
	begin_fua(fails);
	for (unsigned i = 0; i < 2; i++) {
		fake_plan.tracked = i; /* with an in-flight area, the rings are not replaced */
		add_fua(512);
		outage();
		serve(VIRTIO_BLK_T_OUT, VIRTIO_BLK_S_OK);
		expect_nothing();
		serve(VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_S_OK);
		expect_result(0);
	}
	end_fua();
}

/*
 * The back-end is lost after the write has completed. The application's poll, which sends the
 * flush, comes either before or after the loss.
 */
static void test_lost_before_the_flush(void **state)
{
	begin_fua(fails);
	for (unsigned i = 0; i < 4; i++) {
		fake_plan.tracked = i & 1;
		add_fua(512);
		serve(VIRTIO_BLK_T_OUT, VIRTIO_BLK_S_OK);
		if (i & 2)
			expect_nothing();
		outage();
		fake_serve(0, 1); /* completes the flush, if it was on a ring */
		expect_result(LOST);
		expect_idle_ring();
		/*
		 * The result of a write with FUA reports only the loss of that write. The next
		 * flush reports that other writes may be lost.
		 */
		assert_int_equal(vublk_blk_flush(queue, 0, NULL, &error), LOST);
		assert_int_equal(vublk_blk_flush(vublk_blk_queue(blk, 1), 0, NULL, &error), LOST);
	}
	end_fua();
}

/*
 * The lost back-end had completed one of three pieces. The next back-end does not execute that
 * piece again.
 */
static void test_lost_within_the_write(void **state)
{
	struct iovec iov[12];

	begin_fua(fails);
	for (unsigned i = 0; i < 12; i++)
		iov[i] = (struct iovec){ buffer + i * 2048, 512 };
	assert_int_equal(vublk_blk_writev(queue, 0, iov, 12, VUBLK_BLK_FUA, &tag, &error), 0);
	vublk_blk_submit(queue);
	serve(VIRTIO_BLK_T_OUT, VIRTIO_BLK_S_OK);
	outage();
	serve(VIRTIO_BLK_T_OUT, VIRTIO_BLK_S_OK);
	serve(VIRTIO_BLK_T_OUT, VIRTIO_BLK_S_OK);
	expect_result(LOST);
	expect_idle_ring();
	end_fua();
}

static void test_a_trusted_backend_keeps_the_write(void **state)
{
	begin_fua(trusts);
	for (unsigned i = 0; i < 4; i++) {
		fake_plan.tracked = i & 1;
		add_fua(512);
		serve(VIRTIO_BLK_T_OUT, VIRTIO_BLK_S_OK);
		if (i & 2)
			expect_nothing();
		outage();
		serve(VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_S_OK); /* without a call by the application */
		expect_result(0);
	}
	end_fua();
}

static void test_flushed_by_another_queue(void **state)
{
	struct vublk_blk_queue *other;
	struct vublk_blk_completion c;

	begin_fua(fails);
	other = vublk_blk_queue(blk, 1);
	add_fua(512);
	serve(VIRTIO_BLK_T_OUT, VIRTIO_BLK_S_OK);
	expect_nothing();
	assert_int_equal(vublk_blk_flush(other, 0, NULL, &error), 0);
	vublk_blk_submit(other);
	assert_int_equal(fake_serve(1, 1), 1);
	assert_int_equal(vublk_blk_wait(other, &c, 1, 1, -1, &error), 1);
	outage();
	serve(VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_S_OK);
	expect_result(0);
	end_fua();
}

static void test_lost_for_good(void **state)
{
	for (unsigned i = 0; i < 2; i++) {
		begin_fua(blk_fails_at_once);
		add_fua(512);
		if (i) {
			serve(VIRTIO_BLK_T_OUT, VIRTIO_BLK_S_OK);
			expect_nothing();
		}
		fake_disconnect("the back-end hung up");
		expect_result(-ENOTCONN);
		end_fua();
	}
}

/*
 * Requests fail during a long outage. If the write was completed but not flushed, it fails with
 * EOWNERDEAD instead of ETIMEDOUT.
 */
static void test_given_up_during_an_outage(void **state)
{
	static const struct vublk_option options[] = {
		{ "unflushed", "fail" }, { "fail-after-ms", "1" }, { NULL },
	};

	begin_fua(options);
	for (unsigned i = 0; i < 2; i++) {
		add_fua(512);
		if (i)
			serve(VIRTIO_BLK_T_OUT, VIRTIO_BLK_S_OK);
		lose();
		expect_result(i ? LOST : -ETIMEDOUT);
		find();
	}
	end_fua();
}

/* --- flags ------------------------------------------------------------------------------------ */

static void refuses(int result, const char *words)
{
	assert_int_equal(result, -EINVAL);
	assert_string_equal(error.text, words);
	assert_int_equal(vublk_blk_in_flight(queue), 0);
}

static void test_refused_flags(void **state)
{
	struct iovec iov = { NULL, 512 };
	char id[VUBLK_BLK_ID_SIZE];

	begin_fua(fails);
	iov.iov_base = buffer;
	refuses(vublk_blk_write(queue, 0, buffer, 512, 4 | VUBLK_BLK_FUA, NULL, &error),
		"write: flag 0x4 is unknown to this version of libvublk");
	refuses(vublk_blk_write(queue, 0, buffer, 512, VUBLK_BLK_NO_UNMAP, NULL, &error),
		"write: flag VUBLK_BLK_NO_UNMAP is not allowed");
	refuses(vublk_blk_read(queue, 0, buffer, 512, VUBLK_BLK_FUA, NULL, &error),
		"read: flag VUBLK_BLK_FUA is not allowed");
	refuses(vublk_blk_readv(queue, 0, &iov, 1, VUBLK_BLK_FUA, NULL, &error),
		"read: flag VUBLK_BLK_FUA is not allowed");
	refuses(vublk_blk_writev(queue, 0, &iov, 1, UINT32_C(1) << 31, NULL, &error),
		"write: flag 0x80000000 is unknown to this version of libvublk");
	refuses(vublk_blk_flush(queue, VUBLK_BLK_FUA, NULL, &error),
		"flush: flag VUBLK_BLK_FUA is not allowed");
	refuses(vublk_blk_discard(queue, 0, 512, VUBLK_BLK_NO_UNMAP, NULL, &error),
		"discard: flag VUBLK_BLK_NO_UNMAP is not allowed");
	refuses(vublk_blk_write_zeroes(queue, 0, 512, 4, NULL, &error),
		"write zeroes: flag 0x4 is unknown to this version of libvublk");
	refuses(vublk_blk_get_id(queue, id, 4, NULL, &error),
		"get-id: flag 0x4 is unknown to this version of libvublk");
	end_fua();
}

/* --- random orders, and threads ------------------------------------------------------------- */

/*
 * FUA writes of three pieces and a flush, with outages at random points. Each write fails if a lost
 * back-end had completed one of its pieces, and succeeds otherwise.
 */
static void test_random(void **state)
{
	unsigned seed = 1;

	begin_fua(fails);
	for (unsigned round = 0; round < 500; round++) {
		unsigned served = 0, polls;
		bool lost = false;
		struct iovec iov[12];
		struct vublk_blk_completion c;

		for (unsigned i = 0; i < 12; i++)
			iov[i] = (struct iovec){ buffer + i * 2048, 512 };
		assert_int_equal(vublk_blk_writev(queue, 0, iov, 12, VUBLK_BLK_FUA, &tag, &error), 0);
		vublk_blk_submit(queue);
		for (polls = 0; !(polls = (unsigned)vublk_blk_poll(queue, &c, 1));) {
			fake_plan.tracked = rand_r(&seed) % 2;
			if (rand_r(&seed) % 4)
				served += fake_serve(0, (unsigned)rand_r(&seed) % 3);
			else
				outage(), lost = lost || served;
		}
		assert_int_equal(c.result, lost ? LOST : 0);
		while (vublk_blk_flush(queue, 0, NULL, NULL) == LOST)
			;
		vublk_blk_submit(queue);
		assert_int_equal(fake_serve(0, 1), 1);
		assert_int_equal(vublk_blk_wait(queue, &c, 1, 1, -1, &error), 1);
		assert_int_equal(c.result, 0);
	}
	end_fua();
}

static unsigned rounds_done;

static void *work(void *opaque)
{
	struct vublk_blk_completion c;

	for (unsigned round = 0; round < 300; round++) {
		do {
			assert_int_equal(vublk_blk_write(queue, 0, buffer, 512, VUBLK_BLK_FUA, &tag,
							 NULL), 0);
			assert_int_equal(vublk_blk_wait(queue, &c, 1, 1, -1, NULL), 1);
			assert_true(!c.result || c.result == LOST);
		} while (c.result);
		vublk_store_release(&rounds_done, round + 1);
	}
	return NULL;
}

/*
 * In the end, a sleeping owner is always woken, whether the outage begins before the write has
 * completed or before the flush has.
 */
static void test_threads(void **state)
{
	pthread_t thread;

	begin_fua(fails);
	fake_start_threads();
	assert_int_equal(pthread_create(&thread, NULL, work, NULL), 0);
	while (vublk_load_acquire(&rounds_done) < 300)
		outage();
	pthread_join(thread, NULL);
	assert_int_equal(vublk_blk_close(blk, -1, NULL), 0);
	fake_stop_threads();
	fake_deinit();
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_write_and_then_flush),
		VUBLK_TEST(test_the_next_request_is_plain),
		VUBLK_TEST(test_no_flush_after_a_failed_write),
		VUBLK_TEST(test_a_failed_flush_fails_the_write),
		VUBLK_TEST(test_a_failed_flush_fails_the_next_flushes),
		VUBLK_TEST(test_a_failed_flush_fails_other_writes_with_fua),
		VUBLK_TEST(test_split_write),
		VUBLK_TEST(test_zeroes_and_discard),
		VUBLK_TEST(test_without_flush_a_plain_write),
		VUBLK_TEST(test_full_queue),
		VUBLK_TEST(test_lost_before_the_write),
		VUBLK_TEST(test_lost_before_the_flush),
		VUBLK_TEST(test_lost_within_the_write),
		VUBLK_TEST(test_a_trusted_backend_keeps_the_write),
		VUBLK_TEST(test_flushed_by_another_queue),
		VUBLK_TEST(test_lost_for_good),
		VUBLK_TEST(test_given_up_during_an_outage),
		VUBLK_TEST(test_refused_flags),
		VUBLK_TEST(test_random),
		VUBLK_TEST(test_threads),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
