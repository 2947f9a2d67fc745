/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The log of completed writes, step by step: which flushes the plane itself sends, and which writes
 * the next back-end gets. test-plane-random.c tests the order of many writes and losses.
 */
#include "harness.h"
#include "plane-rig.h"

#include "util/checked.h"

#include <vublk/limit.h>

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define INDIRECT VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC)
#define FLUSH VUBLK_BIT(VIRTIO_BLK_F_FLUSH)
#define LOG_BYTES (UINT64_C(1) << 20)

static struct plane_rig rig;
static struct rig_chain chain;

static void set_up(uint64_t features, uint64_t log_bytes)
{
	rig_init(&rig, 1, 32, 0, features);
	rig_keep_writes(&rig, log_bytes);
	rig_connect(&rig);
}

static void work(void)
{
	while (vublk_plane_work(&rig.plane))
		;
}

/* Takes the back-end's next request into `chain`, and checks its type. */
static void expect(uint32_t type)
{
	work();
	if (!rig_backend_take(&rig, 0, &chain))
		fail_msg("the back-end has no request of type %u", type);
	assert_int_equal(chain.header.type, type);
}

static void expect_nothing(void)
{
	work();
	assert_false(rig_backend_take(&rig, 0, &chain));
}

static void complete(uint8_t status)
{
	rig_backend_push(&rig, 0, &chain, status);
	rig_backend_publish(&rig, 0);
	work();
}

static void add(uint16_t token, uint32_t type, uint64_t sector, unsigned num_sectors)
{
	const struct rig_request request = {
		.type = type, .sector = sector, .num_sectors = num_sectors, .id = token + 1,
	};

	assert_int_equal(rig_add(&rig, 0, token, &request), 0);
}

/* Takes the driver's next completion, and checks its token and its status. */
static void expect_status(uint16_t token, uint8_t status)
{
	uint16_t got;
	uint32_t bytes;

	assert_true(rig_take(&rig, 0, &got, &bytes));
	assert_int_equal(got, token);
	assert_int_equal(*(uint8_t *)rig_host(&rig, rig_status(&rig, 0, token)), status);
}

static void expect_no_completion(void)
{
	uint16_t got;
	uint32_t bytes;

	assert_false(rig_take(&rig, 0, &got, &bytes));
}

static void write_one(uint16_t token, uint64_t sector, unsigned num_sectors)
{
	add(token, VIRTIO_BLK_T_OUT, sector, num_sectors);
	expect(VIRTIO_BLK_T_OUT);
	complete(VIRTIO_BLK_S_OK);
	expect_status(token, VIRTIO_BLK_S_OK);
}

/* Takes the back-end's next request, of this type, into `kept` for a later complete_kept(). */
static void keep(uint32_t type, struct rig_chain *kept)
{
	expect(type);
	*kept = chain;
	kept->chain.iov = kept->iov;
}

static void complete_kept(const struct rig_chain *kept)
{
	rig_backend_push(&rig, 0, kept, VIRTIO_BLK_S_OK);
	rig_backend_publish(&rig, 0);
	work();
}

static void replace_backend(void)
{
	rig_lose(&rig);
	rig_connect(&rig);
}

/* --- the driver's flushes ------------------------------------------------------------------ */

static void test_a_flush_covers_what_completed_before_it(void **state)
{
	struct rig_chain flush;

	set_up(FLUSH | INDIRECT, LOG_BYTES);
	write_one(0, 0, 1);
	add(1, VIRTIO_BLK_T_FLUSH, 0, 0);
	keep(VIRTIO_BLK_T_FLUSH, &flush);
	write_one(2, 8, 1); /* after the flush was submitted */
	complete_kept(&flush);
	expect_status(1, VIRTIO_BLK_S_OK);
	replace_backend();
	expect(VIRTIO_BLK_T_OUT);
	assert_int_equal(chain.header.sector, 8);
	complete(VIRTIO_BLK_S_OK);
	expect(VIRTIO_BLK_T_FLUSH);
	complete(VIRTIO_BLK_S_OK);
	expect_nothing();
	replace_backend();
	expect_nothing(); /* the flush of the first replay has emptied the log */
	rig_deinit(&rig);
}

static void test_a_failed_flush_frees_nothing(void **state)
{
	set_up(FLUSH | INDIRECT, LOG_BYTES);
	write_one(0, 0, 1);
	add(1, VIRTIO_BLK_T_FLUSH, 0, 0);
	expect(VIRTIO_BLK_T_FLUSH);
	complete(VIRTIO_BLK_S_IOERR);
	expect_status(1, VIRTIO_BLK_S_IOERR);
	replace_backend();
	expect(VIRTIO_BLK_T_OUT);
	complete(VIRTIO_BLK_S_OK);
	rig_deinit(&rig);
}

/*
 * A flush of the plane fails. The back-end may have dropped the writes that preceded it, and the
 * next flush may succeed without them. So the plane repeats the writes before it relies on a flush.
 */
static void test_a_failed_own_flush(void **state)
{
	struct rig_chain held;

	set_up(FLUSH | INDIRECT, LOG_BYTES);
	write_one(0, 0, 1);
	add(1, VIRTIO_BLK_T_OUT, 0, 1);
	keep(VIRTIO_BLK_T_OUT, &held);
	rig.plane.replay->is_old = true;
	expect(VIRTIO_BLK_T_FLUSH);
	complete(VIRTIO_BLK_S_IOERR);
	add(2, VIRTIO_BLK_T_FLUSH, 0, 0);
	add(3, VIRTIO_BLK_T_IN, 0, 1);
	expect_nothing();
	expect_status(2, VIRTIO_BLK_S_IOERR);
	rig.plane.replay->retry_ns = 1;
	expect_nothing(); /* the second write is still outstanding */
	rig_backend_push(&rig, 0, &held, VIRTIO_BLK_S_OK);
	rig_backend_publish(&rig, 0);
	for (unsigned i = 0; i < 2; i++) {
		expect(VIRTIO_BLK_T_OUT);
		if (!i)
			expect_status(1, VIRTIO_BLK_S_OK);
		complete(VIRTIO_BLK_S_OK);
	}
	expect(VIRTIO_BLK_T_FLUSH);
	complete(VIRTIO_BLK_S_OK);
	expect(VIRTIO_BLK_T_IN);
	complete(VIRTIO_BLK_S_OK);
	expect_status(3, VIRTIO_BLK_S_OK);
	replace_backend();
	expect_nothing();
	rig_deinit(&rig);
}

/*
 * Until a flush has succeeded, a failed flush may have lost writes of a previous user of the disk,
 * of which the log has no copies. So if a flush of the plane fails during that time, one flush of
 * the driver fails, even if the replay has succeeded meanwhile. After a successful flush, the
 * copies suffice.
 */
static void test_the_first_own_flush_fails(void **state)
{
	for (unsigned has_flushed = 0; has_flushed < 2; has_flushed++) {
		set_up(FLUSH | INDIRECT, LOG_BYTES);
		rig.plane.replay->has_flushed = has_flushed;
		write_one(0, 0, 1);
		rig.plane.replay->is_old = true;
		expect(VIRTIO_BLK_T_FLUSH);
		complete(VIRTIO_BLK_S_IOERR);
		rig.plane.replay->retry_ns = 1;
		expect(VIRTIO_BLK_T_OUT);
		complete(VIRTIO_BLK_S_OK);
		expect(VIRTIO_BLK_T_FLUSH);
		complete(VIRTIO_BLK_S_OK);
		add(1, VIRTIO_BLK_T_FLUSH, 0, 0);
		if (!has_flushed) {
			expect_nothing();
			expect_status(1, VIRTIO_BLK_S_IOERR);
			add(1, VIRTIO_BLK_T_FLUSH, 0, 0);
		}
		expect(VIRTIO_BLK_T_FLUSH);
		complete(VIRTIO_BLK_S_OK);
		expect_status(1, VIRTIO_BLK_S_OK);
		rig_deinit(&rig);
	}
}

/*
 * Writes one sector. Then the back-end takes a flush of the driver into `flush`, and a flush of the
 * plane into `chain`.
 */
static void begin_two_flushes(struct rig_chain *flush)
{
	write_one(0, 0, 1);
	add(1, VIRTIO_BLK_T_FLUSH, 0, 0);
	keep(VIRTIO_BLK_T_FLUSH, flush);
	rig.plane.replay->is_old = true;
	expect(VIRTIO_BLK_T_FLUSH);
}

/*
 * The driver's flush began before the plane's flush failed. The success of the driver's flush does
 * not prove that the writes are on the disk, so the plane fails that flush.
 */
static void test_a_flush_beside_a_failed_one(void **state)
{
	struct rig_chain flush;

	set_up(FLUSH | INDIRECT, LOG_BYTES);
	begin_two_flushes(&flush);
	complete(VIRTIO_BLK_S_IOERR);
	complete_kept(&flush);
	expect_status(1, VIRTIO_BLK_S_IOERR);
	assert_false(vublk_plane_is_settled(&rig.plane));
	rig_deinit(&rig);
}

/* The driver's flush completes during the plane's flush, and gets the result of the plane's. */
static void test_a_flush_before_one_that_fails(void **state)
{
	struct rig_chain flush;

	for (uint8_t status = VIRTIO_BLK_S_OK; status <= VIRTIO_BLK_S_IOERR; status++) {
		set_up(FLUSH | INDIRECT, LOG_BYTES);
		rig.plane.replay->has_flushed = true;
		begin_two_flushes(&flush);
		complete_kept(&flush);
		expect_no_completion();
		complete(status);
		expect_status(1, status);
		assert_int_equal(vublk_plane_is_settled(&rig.plane), status == VIRTIO_BLK_S_OK);
		rig_deinit(&rig);
	}
}

/*
 * A loss comes while the driver's flush waits. The next back-end gets the log and both flushes.
 */
static void test_a_loss_while_a_flush_awaits_another(void **state)
{
	struct rig_chain flush;

	set_up(FLUSH | INDIRECT, LOG_BYTES);
	begin_two_flushes(&flush);
	complete_kept(&flush);
	replace_backend();
	expect(VIRTIO_BLK_T_OUT);
	complete(VIRTIO_BLK_S_OK);
	expect(VIRTIO_BLK_T_FLUSH);
	complete(VIRTIO_BLK_S_OK);
	expect_no_completion();
	expect(VIRTIO_BLK_T_FLUSH);
	complete(VIRTIO_BLK_S_OK);
	expect_status(1, VIRTIO_BLK_S_OK);
	assert_true(vublk_plane_is_settled(&rig.plane));
	rig_deinit(&rig);
}

/*
 * A large write, of which the log has no copy, waits for a flush that fails. The plane then repeats
 * an older write to the same place, which overwrites the large write. So the large write fails.
 */
static void test_a_large_write_beside_a_failed_flush(void **state)
{
	struct rig_chain large;

	set_up(FLUSH | INDIRECT, 4096);
	write_one(0, 0, 1);
	add(1, VIRTIO_BLK_T_OUT, 0, 8);
	keep(VIRTIO_BLK_T_OUT, &large);
	rig.plane.replay->is_old = true;
	expect(VIRTIO_BLK_T_FLUSH);
	complete(VIRTIO_BLK_S_IOERR);
	rig_backend_push(&rig, 0, &large, VIRTIO_BLK_S_OK);
	rig_backend_publish(&rig, 0);
	work();
	rig.plane.replay->retry_ns = 1;
	expect(VIRTIO_BLK_T_OUT);
	assert_int_equal(chain.header.sector, 0);
	expect_status(1, VIRTIO_BLK_S_IOERR);
	complete(VIRTIO_BLK_S_OK);
	expect(VIRTIO_BLK_T_FLUSH);
	complete(VIRTIO_BLK_S_OK);
	assert_true(vublk_plane_is_settled(&rig.plane));
	rig_deinit(&rig);
}

static void test_failed_writes_are_not_kept(void **state)
{
	set_up(FLUSH | INDIRECT, LOG_BYTES);
	add(0, VIRTIO_BLK_T_OUT, 0, 1);
	expect(VIRTIO_BLK_T_OUT);
	complete(VIRTIO_BLK_S_IOERR);
	expect_status(0, VIRTIO_BLK_S_IOERR);
	assert_int_equal(rig.plane.replay->log.streams[0].reserved_bytes, 0);
	replace_backend();
	expect_nothing();
	rig_deinit(&rig);
}

static void test_without_flush_there_is_no_log(void **state)
{
	set_up(INDIRECT, LOG_BYTES);
	write_one(0, 0, 1);
	assert_true(vublk_plane_is_settled(&rig.plane));
	replace_backend();
	expect_nothing();
	rig_deinit(&rig);
}

/*
 * The driver has not accepted FLUSH, so each of its writes must be stable when it completes. But
 * the back-end has FLUSH, because an earlier driver left writes that were not flushed. So the plane
 * completes each write only after a flush.
 */
static void test_a_driver_without_flush(void **state)
{
	set_up(FLUSH | INDIRECT, LOG_BYTES);
	write_one(0, 0, 1);
	rig_lose(&rig);
	rig.plane.driver_flushes = false;
	rig_connect(&rig);
	expect(VIRTIO_BLK_T_OUT);
	complete(VIRTIO_BLK_S_OK);
	expect(VIRTIO_BLK_T_FLUSH);
	complete(VIRTIO_BLK_S_OK);
	assert_true(vublk_plane_is_settled(&rig.plane));
	add(1, VIRTIO_BLK_T_OUT, 8, 1);
	expect(VIRTIO_BLK_T_OUT);
	complete(VIRTIO_BLK_S_OK);
	expect_no_completion();
	expect(VIRTIO_BLK_T_FLUSH);
	complete(VIRTIO_BLK_S_OK);
	expect_status(1, VIRTIO_BLK_S_OK);
	rig_deinit(&rig);
}

/* --- flushes of the plane's own --------------------------------------------------------------- */

static void test_a_flush_at_half_the_bound(void **state)
{
	unsigned n = 0;

	set_up(FLUSH | INDIRECT, 16384);
	for (; !vublk_write_log_is_half_full(&rig.plane.replay->log.streams[0]); n++)
		write_one(0, n, 1);
	assert_int_equal(n, 16); /* 544 bytes of the log per write */
	expect(VIRTIO_BLK_T_FLUSH);
	complete(VIRTIO_BLK_S_OK);
	expect_no_completion();
	assert_true(vublk_plane_is_settled(&rig.plane));
	rig_deinit(&rig);
}

static void test_a_flush_when_the_oldest_write_has_waited(void **state)
{
	set_up(FLUSH | INDIRECT, LOG_BYTES);
	assert_int_equal(vublk_plane_replay_sleep_ms(&rig.plane), 0);
	write_one(0, 0, 1);
	assert_in_range(vublk_plane_replay_sleep_ms(&rig.plane), 1, 5001);
	expect_nothing();
	rig.plane.replay->deadline_ns = 1; /* the time has passed */
	expect(VIRTIO_BLK_T_FLUSH);
	assert_int_equal(vublk_plane_replay_sleep_ms(&rig.plane), 0);
	complete(VIRTIO_BLK_S_IOERR);
	expect_nothing(); /* the next attempt comes only after a pause */
	assert_in_range(vublk_plane_replay_sleep_ms(&rig.plane), 1, 101);
	rig.plane.replay->retry_ns = 1;
	expect(VIRTIO_BLK_T_OUT); /* the back-end may have dropped the write */
	complete(VIRTIO_BLK_S_OK);
	expect(VIRTIO_BLK_T_FLUSH);
	complete(VIRTIO_BLK_S_OK);
	assert_true(vublk_plane_is_settled(&rig.plane));
	assert_int_equal(vublk_plane_replay_sleep_ms(&rig.plane), 0);
	rig_deinit(&rig);
}

static void test_a_stop_empties_the_log(void **state)
{
	set_up(FLUSH | INDIRECT, LOG_BYTES);
	write_one(0, 0, 1);
	assert_false(vublk_plane_is_settled(&rig.plane));
	vublk_plane_stop(&rig.plane);
	expect(VIRTIO_BLK_T_FLUSH);
	complete(VIRTIO_BLK_S_OK);
	assert_true(vublk_plane_is_settled(&rig.plane));
	rig_deinit(&rig);
}

/*
 * Submits a write that is larger than the log, and checks that the driver sees its completion, with
 * `flush_status`, only after a flush. A log of 4096 bytes has no room for 8 sectors.
 */
static void large_write(uint8_t flush_status)
{
	set_up(FLUSH | INDIRECT, 4096);
	add(0, VIRTIO_BLK_T_OUT, 0, 8);
	expect(VIRTIO_BLK_T_OUT);
	complete(VIRTIO_BLK_S_OK);
	expect_no_completion();
	expect(VIRTIO_BLK_T_FLUSH);
	expect_no_completion();
	complete(flush_status);
	expect_status(0, flush_status);
	rig_deinit(&rig);
}

static void test_a_large_write_is_flushed_before_it_completes(void **state)
{
	large_write(VIRTIO_BLK_S_OK);
	large_write(VIRTIO_BLK_S_IOERR);
}

/*
 * A flush of the plane fails while the log has no copies. Its error may be about a write that the
 * back-end had completed before the flush, although the plane takes the completion of that write
 * later. So such a write fails or, if there is a copy, is repeated.
 */
static void check_writes_beside_a_failed_flush(bool has_small)
{
	struct rig_chain kept[3];

	set_up(FLUSH | INDIRECT, 4096);
	rig.plane.replay->has_flushed = true;
	for (uint16_t i = 0; i < 2u + has_small; i++) {
		add(i, VIRTIO_BLK_T_OUT, i * 8, i < 2 ? 8 : 1);
		keep(VIRTIO_BLK_T_OUT, &kept[i]);
	}
	complete_kept(&kept[0]);
	expect(VIRTIO_BLK_T_FLUSH);
	complete_kept(&kept[1]);
	complete(VIRTIO_BLK_S_IOERR);
	expect_status(0, VIRTIO_BLK_S_IOERR);
	if (has_small) {
		complete_kept(&kept[2]);
		expect_status(2, VIRTIO_BLK_S_OK);
	}
	expect_no_completion();
	rig.plane.replay->retry_ns = 1;
	work();
	expect_status(1, VIRTIO_BLK_S_IOERR);
	if (has_small) {
		expect(VIRTIO_BLK_T_OUT);
		complete(VIRTIO_BLK_S_OK);
		expect(VIRTIO_BLK_T_FLUSH);
		complete(VIRTIO_BLK_S_OK);
	}
	assert_true(vublk_plane_is_settled(&rig.plane));
	add(3, VIRTIO_BLK_T_FLUSH, 0, 0);
	expect(VIRTIO_BLK_T_FLUSH);
	complete(VIRTIO_BLK_S_OK);
	expect_status(3, VIRTIO_BLK_S_OK);
	rig_deinit(&rig);
}

static void test_writes_beside_a_failed_flush(void **state)
{
	check_writes_beside_a_failed_flush(false);
	check_writes_beside_a_failed_flush(true);
}

static void test_a_large_write_is_executed_again(void **state)
{
	set_up(FLUSH | INDIRECT, 4096);
	add(0, VIRTIO_BLK_T_OUT, 0, 8);
	expect(VIRTIO_BLK_T_OUT);
	complete(VIRTIO_BLK_S_OK);
	replace_backend();
	expect(VIRTIO_BLK_T_OUT);
	complete(VIRTIO_BLK_S_OK);
	expect(VIRTIO_BLK_T_FLUSH);
	complete(VIRTIO_BLK_S_OK);
	expect_status(0, VIRTIO_BLK_S_OK);
	rig_deinit(&rig);
}

static void test_writes_wait_for_room(void **state)
{
	struct rig_chain first;

	set_up(FLUSH | INDIRECT, 4096);
	add(0, VIRTIO_BLK_T_OUT, 0, 5);
	add(1, VIRTIO_BLK_T_OUT, 8, 5);
	add(2, VIRTIO_BLK_T_OUT, 16, 1); /* the log has room for it, but an earlier write waits */
	keep(VIRTIO_BLK_T_OUT, &first);
	expect_nothing();
	rig_backend_push(&rig, 0, &first, VIRTIO_BLK_S_OK);
	rig_backend_publish(&rig, 0);
	expect(VIRTIO_BLK_T_FLUSH);
	expect_status(0, VIRTIO_BLK_S_OK);
	complete(VIRTIO_BLK_S_OK);
	expect(VIRTIO_BLK_T_OUT);
	assert_int_equal(chain.header.sector, 8);
	expect(VIRTIO_BLK_T_OUT);
	assert_int_equal(chain.header.sector, 16);
	rig_deinit(&rig);
}

/* --- the replay ------------------------------------------------------------------------------- */

/*
 * The replay writes the original data, although the driver has reused the buffer of the completed
 * write.
 */
static void test_the_replay_has_the_data_that_was_written(void **state)
{
	set_up(FLUSH | INDIRECT, LOG_BYTES);
	write_one(3, 5, 1);
	memset(rig_host(&rig, rig_data(&rig, 0, 3)), 0xee, 512);
	replace_backend();
	expect(VIRTIO_BLK_T_OUT);
	assert_int_equal(chain.header.sector, 5);
	assert_int_equal(*(uint64_t *)chain.iov[1].iov_base, 4); /* the id of the write */
	rig_deinit(&rig);
}

static void test_all_else_waits_for_the_replay(void **state)
{
	set_up(FLUSH | INDIRECT, LOG_BYTES);
	write_one(0, 0, 1);
	rig_lose(&rig);
	add(1, VIRTIO_BLK_T_IN, 0, 1);
	rig_connect(&rig);
	expect(VIRTIO_BLK_T_OUT);
	expect_nothing();
	complete(VIRTIO_BLK_S_OK);
	expect(VIRTIO_BLK_T_FLUSH);
	expect_nothing();
	complete(VIRTIO_BLK_S_OK);
	expect(VIRTIO_BLK_T_IN);
	rig_deinit(&rig);
}

static void test_a_failed_replay_is_repeated(void **state)
{
	set_up(FLUSH | INDIRECT, LOG_BYTES);
	write_one(0, 0, 1);
	replace_backend();
	add(1, VIRTIO_BLK_T_FLUSH, 0, 0);
	for (unsigned i = 0; i < 4; i++) { /* the write and the flush fail alternately */
		expect(VIRTIO_BLK_T_OUT);
		if (i % 2) {
			complete(VIRTIO_BLK_S_OK);
			expect(VIRTIO_BLK_T_FLUSH);
		}
		complete(VIRTIO_BLK_S_IOERR);
		expect_nothing(); /* during the pause before the next attempt */
		assert_non_null(rig.plane.replay->failure);
		if (!i)
			expect_status(1, VIRTIO_BLK_S_IOERR);
		assert_true(vublk_plane_replay_sleep_ms(&rig.plane) > 0);
		rig.plane.replay->retry_ns = 1;
	}
	add(2, VIRTIO_BLK_T_FLUSH, 0, 0);
	expect(VIRTIO_BLK_T_OUT);
	expect_status(2, VIRTIO_BLK_S_IOERR); /* the back-end does not have the log yet */
	complete(VIRTIO_BLK_S_OK);
	expect(VIRTIO_BLK_T_FLUSH);
	complete(VIRTIO_BLK_S_OK);
	add(3, VIRTIO_BLK_T_FLUSH, 0, 0);
	expect(VIRTIO_BLK_T_FLUSH);
	complete(VIRTIO_BLK_S_OK);
	expect_status(3, VIRTIO_BLK_S_OK);
	assert_null(rig.plane.replay->failure);
	rig_deinit(&rig);
}

/*
 * While the replay fails, the plane takes flushes from the driver's ring and fails them. They wait
 * neither for an earlier read, which waits for the replay, nor for the limits.
 */
static void later_flushes_fail(bool is_limited)
{
	const struct vublk_limits limits = { .iops = 1, .burst_ms = 1 };

	set_up(FLUSH | INDIRECT, LOG_BYTES);
	write_one(0, 0, 1);
	rig_lose(&rig);
	add(1, VIRTIO_BLK_T_IN, 0, 1);
	rig_connect(&rig);
	if (is_limited)
		vublk_plane_set_limits(&rig.plane, &limits);
	expect(VIRTIO_BLK_T_OUT);
	complete(VIRTIO_BLK_S_IOERR);
	for (uint16_t token = 2; token < 5; token++) {
		add(token, VIRTIO_BLK_T_FLUSH, 0, 0);
		expect_nothing();
		expect_status(token, VIRTIO_BLK_S_IOERR);
	}
	rig_deinit(&rig);
}

static void test_later_flushes_fail(void **state)
{
	later_flushes_fail(false);
	later_flushes_fail(true);
}

/*
 * A write needs three entries of a ring without indirect tables. A back-end whose ring has only two
 * entries is disconnected, because the replay could never begin.
 */
static void test_a_ring_that_is_too_small(void **state)
{
	set_up(FLUSH, LOG_BYTES);
	write_one(0, 0, 1);
	rig_lose(&rig);
	rig.side_size = 2;
	rig_connect(&rig);
	expect_nothing();
	assert_int_equal(rig.side_broke, 1);
	assert_non_null(strstr(rig.error.text, "the largest shadow ring has 2"));
	rig_lose(&rig);
	rig.side_size = 4;
	rig_connect(&rig);
	expect(VIRTIO_BLK_T_OUT);
	rig_deinit(&rig);
}

/* --- lost pages ------------------------------------------------------------------------------- */

/*
 * The VMM truncates its memory while the back-end has a write of 15 sectors. A copy of its data
 * would have zeroes, so the log keeps none, and the write is flushed before it completes.
 */
static void test_data_that_is_lost_during_the_copy(void **state)
{
	uint64_t page;
	void *lost;
	int fd;

	set_up(FLUSH | INDIRECT, LOG_BYTES);
	page = vublk_round_up((uintptr_t)rig_host(&rig, rig_data(&rig, 0, 3)), 4096);
	lost = (void *)(uintptr_t)page;
	fd = memfd_create("vublk-test", MFD_CLOEXEC);
	assert_true(fd >= 0 && !ftruncate(fd, 4096));
	assert_ptr_equal(mmap(lost, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0), lost);
	assert_int_equal(vublk_fault_guard(lost, 4096, fd, &rig.fault, VUBLK_FAULT_MEMORY, NULL), 0);
	add(3, VIRTIO_BLK_T_OUT, 0, 15);
	expect(VIRTIO_BLK_T_OUT);
	assert_int_equal(ftruncate(fd, 0), 0);
	complete(VIRTIO_BLK_S_OK);
	assert_true(vublk_fault_happened(&rig.fault));
	expect_no_completion();
	assert_int_equal(vublk_plane_keep_end(&rig.plane), 0);
	assert_int_equal(rig.plane.replay->log.streams[0].reserved_bytes, 0);
	expect(VIRTIO_BLK_T_FLUSH);
	complete(VIRTIO_BLK_S_OK);
	expect_status(3, VIRTIO_BLK_S_OK);
	vublk_fault_unguard(lost);
	close(fd);
	rig_deinit(&rig);
}

/* --- other types ------------------------------------------------------------------------------ */

static void add_ranges(uint16_t token, uint32_t type, uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes ranges[2] = {
		{ .sector = 8, .num_sectors = 16, .flags = flags },
		{ .sector = 100, .num_sectors = 1, .flags = 0 },
	};

	add(token, type, 0, 1);
	memcpy(rig_host(&rig, rig_data(&rig, 0, token)), ranges, sizeof(ranges));
}

/*
 * Checks which ranges the replay repeats. The request's data is one sector, so it has 32 ranges.
 * Only the two of add_ranges() are repeated, because the others are empty.
 */
static void check_ranges(uint32_t type, uint32_t flags)
{
	const struct virtio_blk_discard_write_zeroes *range;

	set_up(FLUSH | INDIRECT, LOG_BYTES);
	memset(rig_host(&rig, rig_data(&rig, 0, 0)), 0, 512);
	add_ranges(0, type, flags);
	expect(type);
	complete(VIRTIO_BLK_S_OK);
	expect_status(0, VIRTIO_BLK_S_OK);
	replace_backend();
	for (unsigned i = 0; i < 2; i++) {
		expect(type);
		range = chain.iov[1].iov_base;
		assert_int_equal(chain.iov[1].iov_len, sizeof(*range));
		assert_int_equal(range->sector, i ? 100 : 8);
		assert_int_equal(range->num_sectors, i ? 1 : 16);
		assert_int_equal(range->flags, i ? 0 : flags);
		/* A replayed discard may fail, because any content is right after a discard. */
		complete(type == VIRTIO_BLK_T_DISCARD ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK);
	}
	expect(VIRTIO_BLK_T_FLUSH);
	complete(VIRTIO_BLK_S_OK);
	rig_deinit(&rig);
}

static void test_ranges(void **state)
{
	check_ranges(VIRTIO_BLK_T_DISCARD, 0);
	check_ranges(VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
	check_ranges(VIRTIO_BLK_T_SECURE_ERASE, 0);
}

static void test_long_writes_are_divided(void **state)
{
	uint64_t sector = 0;

	set_up(FLUSH | INDIRECT, LOG_BYTES);
	write_one(0, 0, 8);
	rig_lose(&rig);
	rig_connect(&rig);
	rig.side->max_segment_bytes = 1500;
	for (; sector < 8; sector += 2) {
		expect(VIRTIO_BLK_T_OUT);
		assert_int_equal(chain.header.sector, sector);
		assert_int_equal(chain.iov[1].iov_len, 1024);
		assert_int_equal(*(uint64_t *)chain.iov[1].iov_base, 1);
	}
	rig_deinit(&rig);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_a_flush_covers_what_completed_before_it),
		VUBLK_TEST(test_a_failed_flush_frees_nothing),
		VUBLK_TEST(test_a_failed_own_flush),
		VUBLK_TEST(test_the_first_own_flush_fails),
		VUBLK_TEST(test_a_flush_beside_a_failed_one),
		VUBLK_TEST(test_a_flush_before_one_that_fails),
		VUBLK_TEST(test_a_loss_while_a_flush_awaits_another),
		VUBLK_TEST(test_a_large_write_beside_a_failed_flush),
		VUBLK_TEST(test_failed_writes_are_not_kept),
		VUBLK_TEST(test_without_flush_there_is_no_log),
		VUBLK_TEST(test_a_driver_without_flush),
		VUBLK_TEST(test_a_flush_at_half_the_bound),
		VUBLK_TEST(test_a_flush_when_the_oldest_write_has_waited),
		VUBLK_TEST(test_a_stop_empties_the_log),
		VUBLK_TEST(test_a_large_write_is_flushed_before_it_completes),
		VUBLK_TEST(test_writes_beside_a_failed_flush),
		VUBLK_TEST(test_a_large_write_is_executed_again),
		VUBLK_TEST(test_writes_wait_for_room),
		VUBLK_TEST(test_the_replay_has_the_data_that_was_written),
		VUBLK_TEST(test_all_else_waits_for_the_replay),
		VUBLK_TEST(test_a_failed_replay_is_repeated),
		VUBLK_TEST(test_later_flushes_fail),
		VUBLK_TEST(test_a_ring_that_is_too_small),
		VUBLK_TEST(test_data_that_is_lost_during_the_copy),
		VUBLK_TEST(test_ranges),
		VUBLK_TEST(test_long_writes_are_divided),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
