/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The mirror's own flushes, of which the driver does not know, and the driver's flushes: how they
 * wait for each other, and what follows if one fails. They are never concurrent, because a back-end
 * may report a storage error to only one of two concurrent flushes, and complete that one last.
 *
 * With a state file, the mirror flushes about once per second. The cases have no state file, so
 * want_own_flush() requests the flush.
 */
#include "harness.h"
#include "plane-rig.h"

#include "util/checked.h"

#include <string.h>

#define INDIRECT VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC)
#define FLUSH VUBLK_BIT(VIRTIO_BLK_F_FLUSH)
#define DISK_BYTES (RIG_SECTORS * VUBLK_SECTOR_BYTES)

static struct plane_rig rig;
static struct rig_chain chain, own, target_chain;
static unsigned must_fail, failed;

static void on_side_broke(void *opaque, const struct vublk_error *error)
{
	rig.side_broke++;
}

static void on_queue_broke(void *opaque, unsigned index, const struct vublk_error *error)
{
	rig.queue_broke++;
}

static void on_flush_failed(void *opaque)
{
	failed++;
}

static void on_flush_must_fail(void *opaque)
{
	must_fail++;
}

static void on_mirror_failed(void *opaque, const struct vublk_error *error)
{
	rig.mirror_failed++;
	rig.error = *error;
}

static void on_mirror_synced(void *opaque)
{
	rig.mirror_synced++;
}

static const struct vublk_plane_ops ops = {
	.side_broke = on_side_broke,
	.queue_broke = on_queue_broke,
	.flush_failed = on_flush_failed,
	.flush_must_fail = on_flush_must_fail,
	.mirror_failed = on_mirror_failed,
	.mirror_synced = on_mirror_synced,
};

static void work(void)
{
	while (vublk_plane_work(&rig.plane))
		;
}

static bool source_has(struct rig_chain *taken, uint32_t type)
{
	work();
	if (!rig_backend_take(&rig, 0, taken))
		return false;
	assert_int_equal(taken->header.type, type);
	taken->chain.iov = taken->iov;
	return true;
}

static void source_answers(const struct rig_chain *taken, uint8_t status)
{
	rig_backend_push(&rig, 0, taken, status);
	rig_backend_publish(&rig, 0);
	work();
}

static void serve_target(void)
{
	work();
	while (rig_target_take(&rig, 0, &target_chain)) {
		rig_target_push(&rig, 0, &target_chain, VIRTIO_BLK_S_OK);
		rig_target_publish(&rig, 0);
		work();
	}
}

static void set_up(void)
{
	rig_init(&rig, 1, 32, 0, INDIRECT | FLUSH);
	rig.plane.ops = &ops;
	rig_connect(&rig);
	assert_int_equal(rig_mirror(&rig, DISK_BYTES, DISK_BYTES, 32, 0), 0);
	while (!rig.mirror_synced) {
		if (source_has(&chain, VIRTIO_BLK_T_IN))
			source_answers(&chain, VIRTIO_BLK_S_OK);
		serve_target();
	}
}

static void tear_down(void)
{
	rig_deinit(&rig);
}

static void want_own_flush(void)
{
	rig.plane.mirror->wants_flush = true;
}

static void add(uint16_t token, uint32_t type)
{
	const struct rig_request request = {
		.type = type, .num_sectors = type == VIRTIO_BLK_T_FLUSH ? 0 : 1, .id = token,
	};

	assert_int_equal(rig_add(&rig, 0, token, &request), 0);
}

static bool is_answered(uint16_t token, uint8_t status)
{
	uint16_t got;
	uint32_t bytes;

	work();
	if (!rig_take(&rig, 0, &got, &bytes))
		return false;
	assert_int_equal(got, token);
	assert_int_equal(*(uint8_t *)rig_host(&rig, rig_status(&rig, 0, token)), status);
	return true;
}

/*
 * Takes the mirror's flush off the source's ring. Then adds a flush of the driver, which must wait.
 */
static void flush_during_own(void)
{
	set_up();
	want_own_flush();
	assert_true(source_has(&own, VIRTIO_BLK_T_FLUSH));
	add(1, VIRTIO_BLK_T_FLUSH);
	assert_false(source_has(&chain, VIRTIO_BLK_T_FLUSH));
	add(2, VIRTIO_BLK_T_IN); /* other requests do not wait */
	assert_true(source_has(&chain, VIRTIO_BLK_T_IN));
	source_answers(&chain, VIRTIO_BLK_S_OK);
	assert_true(is_answered(2, VIRTIO_BLK_S_OK));
}

static void test_the_own_flush_succeeds(void **state)
{
	flush_during_own();
	source_answers(&own, VIRTIO_BLK_S_OK);
	serve_target();
	assert_false(is_answered(1, VIRTIO_BLK_S_OK));
	assert_true(source_has(&chain, VIRTIO_BLK_T_FLUSH));
	source_answers(&chain, VIRTIO_BLK_S_OK);
	serve_target();
	assert_true(is_answered(1, VIRTIO_BLK_S_OK));
	assert_int_equal(rig.mirror_failed, 0);
	tear_down();
}

/*
 * The mirror's flush fails, and so does the driver's flush that waits. Then the driver knows of the
 * error, so its next flush succeeds.
 */
static void test_the_own_flush_fails(void **state)
{
	flush_during_own();
	source_answers(&own, VIRTIO_BLK_S_IOERR);
	assert_true(is_answered(1, VIRTIO_BLK_S_IOERR));
	assert_int_equal(rig.mirror_failed, 1);
	assert_non_null(strstr(rig.error.text, "flush of the source failed"));
	assert_int_equal(failed, 1);
	assert_int_equal(must_fail, 0);
	rig_end_mirror(&rig);
	add(3, VIRTIO_BLK_T_FLUSH);
	assert_true(source_has(&chain, VIRTIO_BLK_T_FLUSH));
	source_answers(&chain, VIRTIO_BLK_S_OK);
	assert_true(is_answered(3, VIRTIO_BLK_S_OK));
	tear_down();
}

/* The target fails the mirror's flush, so only the mirror fails. */
static void test_the_own_flush_fails_at_the_target(void **state)
{
	flush_during_own();
	source_answers(&own, VIRTIO_BLK_S_OK);
	assert_true(rig_target_take(&rig, 0, &target_chain));
	rig_target_push(&rig, 0, &target_chain, VIRTIO_BLK_S_IOERR);
	rig_target_publish(&rig, 0);
	work();
	assert_int_equal(rig.mirror_failed, 1);
	assert_non_null(strstr(rig.error.text, "flush of the target failed"));
	assert_int_equal(failed, 0);
	assert_int_equal(must_fail, 0);
	rig_end_mirror(&rig);
	assert_true(source_has(&chain, VIRTIO_BLK_T_FLUSH));
	source_answers(&chain, VIRTIO_BLK_S_OK);
	assert_true(is_answered(1, VIRTIO_BLK_S_OK));
	tear_down();
}

/*
 * The mirror's flush fails while no flush of the driver waits. So the driver's next flush fails,
 * even if the mirror was ended in between.
 */
static void test_the_next_flush_fails(void **state)
{
	for (unsigned i = 0; i < 2; i++) {
		must_fail = failed = 0;
		set_up();
		want_own_flush();
		assert_true(source_has(&own, VIRTIO_BLK_T_FLUSH));
		if (i)
			rig_end_mirror(&rig);
		source_answers(&own, VIRTIO_BLK_S_IOERR);
		assert_int_equal(must_fail, 1);
		add(1, VIRTIO_BLK_T_FLUSH);
		assert_true(is_answered(1, VIRTIO_BLK_S_IOERR));
		assert_int_equal(failed, 1);
		rig_end_mirror(&rig);
		tear_down();
		rig = (struct plane_rig){ 0 };
	}
}

/* The driver's flush begins first, and the mirror's flush waits for it. */
static void test_the_drivers_flush_is_first(void **state)
{
	set_up();
	add(1, VIRTIO_BLK_T_FLUSH);
	assert_true(source_has(&chain, VIRTIO_BLK_T_FLUSH));
	want_own_flush();
	assert_false(source_has(&own, VIRTIO_BLK_T_FLUSH));
	source_answers(&chain, VIRTIO_BLK_S_OK);
	serve_target();
	assert_true(is_answered(1, VIRTIO_BLK_S_OK));
	assert_true(source_has(&own, VIRTIO_BLK_T_FLUSH));
	source_answers(&own, VIRTIO_BLK_S_OK);
	serve_target();
	tear_down();
}

/* The source is lost during the mirror's flush. The next source gets the driver's flush. */
static void test_a_loss(void **state)
{
	flush_during_own();
	rig_lose(&rig);
	rig_connect(&rig);
	work();
	assert_true(source_has(&chain, VIRTIO_BLK_T_FLUSH));
	source_answers(&chain, VIRTIO_BLK_S_OK);
	serve_target();
	assert_true(is_answered(1, VIRTIO_BLK_S_OK));
	tear_down();
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_the_own_flush_succeeds),
		VUBLK_TEST(test_the_own_flush_fails),
		VUBLK_TEST(test_the_own_flush_fails_at_the_target),
		VUBLK_TEST(test_the_next_flush_fails),
		VUBLK_TEST(test_the_drivers_flush_is_first),
		VUBLK_TEST(test_a_loss),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
