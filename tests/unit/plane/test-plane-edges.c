/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Edge cases of the plane: the dirty log of its owner, the notification flags of the driver's ring,
 * a back-end's ring that is smaller than the driver's, writes to the same place, and requests that
 * the plane answers itself.
 */
#include "harness.h"

#include "plane-rig.h"

#include "util/checked.h"
#include "virtio/dirty-log.h"

#include <string.h>

#define LOG_BYTES ((RIG_BASE + RIG_BYTES) / VUBLK_DIRTY_PAGE_BYTES / 8)

static struct plane_rig rig;

static void write_and_complete(void)
{
	const struct rig_request request = { .type = VIRTIO_BLK_T_OUT, .num_sectors = 1 };
	struct rig_chain chain;
	uint16_t token;
	uint32_t bytes;

	assert_int_equal(rig_add(&rig, 0, 0, &request), 0);
	vublk_plane_work(&rig.plane);
	assert_true(rig_backend_take(&rig, 0, &chain));
	rig_backend_push(&rig, 0, &chain, VIRTIO_BLK_S_OK);
	rig_backend_publish(&rig, 0);
	vublk_plane_work(&rig.plane);
	assert_true(rig_take(&rig, 0, &token, &bytes));
}

static bool is_marked(const uint8_t *bits, uint64_t addr)
{
	uint64_t page = addr / VUBLK_DIRTY_PAGE_BYTES;

	return bits[page / 8] >> page % 8 & 1;
}

/*
 * The plane copies the struct vublk_dirty_log, because the owner may change it while the plane's
 * thread marks pages.
 */
static void test_dirty_log_is_copied(void **state)
{
	static uint8_t bits[LOG_BYTES];
	struct vublk_dirty_log log = { bits, sizeof(bits) };

	rig_init(&rig, 1, 8, 0, 0);
	rig_connect(&rig);
	vublk_plane_set_dirty_log(&rig.plane, &log);
	log = (struct vublk_dirty_log){ NULL, sizeof(bits) };
	memset(bits, 0, sizeof(bits));
	write_and_complete();
	assert_true(is_marked(bits, rig_status(&rig, 0, 0)));
	vublk_plane_set_dirty_log(&rig.plane, NULL);
	memset(bits, 0, sizeof(bits));
	write_and_complete();
	assert_false(is_marked(bits, rig_status(&rig, 0, 0)));
	rig_deinit(&rig);
}

/*
 * When the plane stops, it leaves kicks enabled, because the device end that runs the ring next may
 * never write the flags.
 */
static void test_kicks_are_enabled_at_the_end(void **state)
{
	rig_init(&rig, 1, 8, 0, 0);
	rig_connect(&rig);
	write_and_complete();
	assert_int_equal(rig.drivers[0].memory.used->flags, VRING_USED_F_NO_NOTIFY);
	vublk_plane_stop(&rig.plane);
	for (unsigned i = 0; i < 3; i++) {
		vublk_plane_disable_notifications(&rig.plane);
		vublk_plane_work(&rig.plane);
		vublk_plane_enable_notifications(&rig.plane);
	}
	vublk_plane_disable_notifications(&rig.plane);
	assert_int_equal(rig.drivers[0].memory.used->flags, 0);
	vublk_plane_resume(&rig.plane);
	write_and_complete();
	rig_deinit(&rig);
}

/* --- a back-end's ring that is smaller than the driver's --------------------------------- */

static void init_with_side(unsigned size, unsigned side_size, uint64_t features)
{
	rig_init(&rig, 1, size, 0, features);
	rig.side_size = side_size;
	rig_connect(&rig);
}

static void add_at(uint16_t token, uint32_t type, unsigned num_sectors, uint64_t sector)
{
	const struct rig_request request = {
		.type = type, .num_sectors = num_sectors, .sector = sector,
	};

	assert_int_equal(rig_add(&rig, 0, token, &request), 0);
}

static void add(uint16_t token, uint32_t type, unsigned num_sectors)
{
	add_at(token, type, num_sectors, token * 16u);
}

/*
 * Executes and completes the back-end's next request, and checks that its sector is that of the
 * request `token`.
 */
static void execute(uint16_t token)
{
	struct rig_chain chain;

	assert_true(rig_backend_take(&rig, 0, &chain));
	assert_int_equal(chain.header.sector, token * 16u);
	rig_backend_push(&rig, 0, &chain, VIRTIO_BLK_S_OK);
	rig_backend_publish(&rig, 0);
	vublk_plane_work(&rig.plane);
}

static bool backend_has_chain(void)
{
	return vublk_device_ring_has_chain(&rig.devices[0]);
}

static void expect_status(uint16_t token, uint8_t status)
{
	uint16_t taken;
	uint32_t bytes;

	assert_true(rig_take(&rig, 0, &taken, &bytes));
	assert_int_equal(taken, token);
	assert_int_equal(*(uint8_t *)rig_host(&rig, rig_status(&rig, 0, token)), status);
}

/*
 * The back-end's ring is full. The other chains stay in the driver's ring, and the plane sleeps
 * until a completion wakes it up.
 */
static void test_full_ring_sleeps(void **state)
{
	init_with_side(16, 2, VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC));
	for (uint16_t token = 0; token < 4; token++)
		add(token, VIRTIO_BLK_T_FLUSH, 0);
	assert_true(vublk_plane_work(&rig.plane));
	assert_int_equal(vublk_plane_outstanding(&rig.plane), 2);
	assert_false(vublk_plane_work(&rig.plane));
	assert_true(vublk_plane_enable_notifications(&rig.plane));
	rig.is_notified = false;
	add(4, VIRTIO_BLK_T_FLUSH, 0);
	assert_false(rig.is_notified);
	for (unsigned i = 0; i < 2; i++) {
		struct rig_chain chain;

		assert_true(rig_backend_take(&rig, 0, &chain));
		rig_backend_push(&rig, 0, &chain, VIRTIO_BLK_S_OK);
	}
	rig_backend_publish(&rig, 0);
	assert_true(rig.is_notified);
	assert_true(vublk_plane_work(&rig.plane));
	assert_int_equal(vublk_plane_outstanding(&rig.plane), 2);
	for (uint16_t token = 2; token < 5; token++)
		execute(token);
	for (uint16_t token = 0; token < 5; token++)
		expect_status(token, VIRTIO_BLK_S_OK);
	assert_true(vublk_plane_enable_notifications(&rig.plane));
	rig.is_notified = false;
	add(0, VIRTIO_BLK_T_FLUSH, 0);
	assert_true(rig.is_notified);
	rig_deinit(&rig);
}

/* A long request waits for free entries of the ring. Later short requests do not overtake it. */
static void test_long_request_is_next(void **state)
{
	init_with_side(32, 8, 0);
	add(0, VIRTIO_BLK_T_OUT, 1);
	add(1, VIRTIO_BLK_T_OUT, 1);
	add(2, VIRTIO_BLK_T_OUT, 5);
	add(3, VIRTIO_BLK_T_OUT, 1);
	vublk_plane_work(&rig.plane);
	assert_int_equal(vublk_plane_outstanding(&rig.plane), 3);
	execute(0);
	add(4, VIRTIO_BLK_T_OUT, 1);
	execute(1);
	execute(2);
	execute(3);
	execute(4);
	for (uint16_t token = 0; token < 5; token++)
		expect_status(token, VIRTIO_BLK_S_OK);
	rig_deinit(&rig);
}

/*
 * A write that waited for an earlier write to the same place does not overtake a long request
 * either.
 */
static void test_long_request_is_next_to_a_write(void **state)
{
	init_with_side(32, 8, 0);
	add(0, VIRTIO_BLK_T_OUT, 1);
	add(1, VIRTIO_BLK_T_OUT, 1);
	add_at(2, VIRTIO_BLK_T_OUT, 1, 0);
	add(3, VIRTIO_BLK_T_OUT, 5);
	vublk_plane_work(&rig.plane);
	execute(0);
	execute(1);
	execute(3);
	execute(0); /* the second write to this place */
	expect_status(0, VIRTIO_BLK_S_OK);
	expect_status(1, VIRTIO_BLK_S_OK);
	expect_status(3, VIRTIO_BLK_S_OK);
	expect_status(2, VIRTIO_BLK_S_OK);
	rig_deinit(&rig);
}

/*
 * The next back-end has a smaller ring. Nevertheless, it gets the requests in their original order.
 */
static void test_order_after_a_loss(void **state)
{
	init_with_side(32, 32, 0);
	for (uint16_t token = 0; token < 5; token++)
		add(token, VIRTIO_BLK_T_OUT, token % 2 ? 1 : 5);
	vublk_plane_work(&rig.plane);
	rig_lose(&rig);
	rig.side_size = 8;
	rig_connect(&rig);
	for (uint16_t token = 0; token < 5; token++) {
		execute(token);
		assert_true(token == 4 || backend_has_chain());
	}
	for (uint16_t token = 0; token < 5; token++)
		expect_status(token, VIRTIO_BLK_S_OK);
	rig_deinit(&rig);
}

/*
 * Without indirect descriptors, a back-end's ring of two entries has room only for flushes. The
 * plane fails other requests.
 */
static void test_request_longer_than_the_ring(void **state)
{
	init_with_side(16, 2, 0);
	add(0, VIRTIO_BLK_T_IN, 1);
	add(1, VIRTIO_BLK_T_FLUSH, 0);
	vublk_plane_work(&rig.plane);
	expect_status(0, VIRTIO_BLK_S_IOERR);
	vublk_plane_work(&rig.plane);
	execute(1);
	expect_status(1, VIRTIO_BLK_S_OK);
	rig_deinit(&rig);
}

/* --- writes to the same place ----------------------------------------------------------- */

/*
 * Until it completes, a discard blocks writes to every place from the start of its lowest range to
 * the end of its highest. Empty ranges do not count.
 */
static void test_ranges(void **state)
{
	struct virtio_blk_discard_write_zeroes *ranges;

	init_with_side(32, 32, VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC));
	add(0, VIRTIO_BLK_T_DISCARD, 1);
	ranges = rig_host(&rig, rig_data(&rig, 0, 0));
	ranges[0] = (struct virtio_blk_discard_write_zeroes){ .sector = 60, .num_sectors = 8 };
	ranges[1] = (struct virtio_blk_discard_write_zeroes){ .sector = 40, .num_sectors = 8 };
	ranges[2] = (struct virtio_blk_discard_write_zeroes){ .sector = 100, .num_sectors = 8 };
	ranges[3] = (struct virtio_blk_discard_write_zeroes){ .sector = 500, .num_sectors = 0 };
	add_at(1, VIRTIO_BLK_T_OUT, 1, 39);
	add_at(2, VIRTIO_BLK_T_OUT, 1, 40);
	add_at(3, VIRTIO_BLK_T_OUT, 1, 107);
	add_at(4, VIRTIO_BLK_T_OUT, 1, 108);
	add_at(5, VIRTIO_BLK_T_IN, 1, 40);
	vublk_plane_work(&rig.plane);
	assert_int_equal(rig.plane.num_submitted, 4);
	assert_int_equal(rig.plane.num_held, 2);
	execute(0); /* the discard; the two blocked writes are then submitted */
	assert_int_equal(rig.plane.num_held, 0);
	rig_deinit(&rig);
}

/*
 * Of three writes to one place, the second fails because its memory is removed. The third must
 * still wait for the first.
 */
static void test_waiting_write_is_removed(void **state)
{
	struct vublk_memory_map_region region;
	const struct vublk_memory_map map = { 1, &region };

	init_with_side(64, 64, 0);
	add_at(0, VIRTIO_BLK_T_OUT, 1, 0);
	add_at(63, VIRTIO_BLK_T_OUT, 1, 0);
	add_at(1, VIRTIO_BLK_T_OUT, 1, 0);
	vublk_plane_work(&rig.plane);
	rig_lose(&rig);
	region = rig.region;
	region.size_bytes = rig_header(&rig, 0, 63) - RIG_BASE;
	assert_int_equal(vublk_plane_set_map(&rig.plane, &map, &rig.fault, NULL), 0);
	assert_int_equal(vublk_plane_outstanding(&rig.plane), 2);
	rig_connect(&rig);
	assert_int_equal(rig.plane.num_submitted, 1);
	execute(0);
	assert_int_equal(rig.plane.num_submitted, 1);
	execute(0);
	expect_status(63, 0x77); /* the plane could not write a status */
	expect_status(0, VIRTIO_BLK_S_OK);
	expect_status(1, VIRTIO_BLK_S_OK);
	rig_deinit(&rig);
}

/* The work per write does not depend on the number of writes that wait for each other. */
static void test_many_writes_to_one_place(void **state)
{
	const unsigned count = 128;

	init_with_side(1024, 128, VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC));
	for (uint16_t token = 0; token < count; token++)
		add_at(token, VIRTIO_BLK_T_OUT, 1, 0);
	for (unsigned i = 0; i < count; i++) {
		vublk_plane_work(&rig.plane);
		vublk_plane_work(&rig.plane);
		assert_int_equal(rig.plane.num_submitted, 1);
		execute(0);
	}
	for (uint16_t token = 0; token < count; token++)
		expect_status(token, VIRTIO_BLK_S_OK);
	assert_true(rig.plane.order.steps < count * 8);
	rig_deinit(&rig);
}

/* --- policy ------------------------------------------------------------------------------- */

/*
 * Adds a request. Checks that the plane completes it with `status` and `bytes` written, and that
 * the back-end does not see it.
 */
static void expect_answer(uint32_t type, unsigned num_sectors, uint8_t status, uint32_t bytes)
{
	uint32_t written;
	uint16_t token;

	add(0, type, num_sectors);
	vublk_plane_work(&rig.plane);
	assert_false(backend_has_chain());
	assert_true(rig_take(&rig, 0, &token, &written));
	assert_int_equal(*(uint8_t *)rig_host(&rig, rig_status(&rig, 0, token)), status);
	assert_int_equal(written, bytes);
}

static void expect_passage(uint32_t type, unsigned num_sectors)
{
	add(0, type, num_sectors);
	vublk_plane_work(&rig.plane);
	execute(0);
	expect_status(0, VIRTIO_BLK_S_OK);
}

static void test_read_only(void **state)
{
	init_with_side(16, 16, 0);
	vublk_plane_set_policy(&rig.plane, &(struct vublk_plane_policy){ .is_read_only = true });
	expect_answer(VIRTIO_BLK_T_OUT, 1, VIRTIO_BLK_S_IOERR, 1);
	expect_answer(VIRTIO_BLK_T_OUT, 0, VIRTIO_BLK_S_IOERR, 1);
	expect_answer(VIRTIO_BLK_T_DISCARD, 1, VIRTIO_BLK_S_IOERR, 1);
	expect_answer(VIRTIO_BLK_T_SECURE_ERASE, 1, VIRTIO_BLK_S_IOERR, 1);
	expect_passage(VIRTIO_BLK_T_IN, 1);
	expect_passage(VIRTIO_BLK_T_FLUSH, 0);
	vublk_plane_set_policy(&rig.plane, &(struct vublk_plane_policy){ 0 });
	expect_passage(VIRTIO_BLK_T_OUT, 1);
	rig_deinit(&rig);
}

static void test_hidden_features(void **state)
{
	const struct vublk_plane_policy policy = {
		.hidden_features = VUBLK_BIT(VIRTIO_BLK_F_WRITE_ZEROES) |
				   VUBLK_BIT(VIRTIO_BLK_F_CONFIG_WCE),
	};

	init_with_side(16, 16, 0);
	vublk_plane_set_policy(&rig.plane, &policy);
	expect_answer(VIRTIO_BLK_T_WRITE_ZEROES, 1, VIRTIO_BLK_S_UNSUPP, 1);
	expect_passage(VIRTIO_BLK_T_DISCARD, 1);
	expect_passage(VIRTIO_BLK_T_OUT, 1);
	vublk_plane_set_policy(&rig.plane, &(struct vublk_plane_policy){
		.hidden_features = VUBLK_BIT(VIRTIO_BLK_F_CONFIG_WCE),
	});
	assert_int_equal(rig.plane.hooks, 0);
	rig_deinit(&rig);
}

/* The answer to GET_ID is 20 bytes of the serial, without a NUL if the serial has 20 bytes. */
static void test_serial(void **state)
{
	static uint8_t bits[LOG_BYTES];
	const struct vublk_dirty_log log = { bits, sizeof(bits) };
	const struct vublk_plane_policy policy = { .serial = "01234567890123456789" };
	char *data;

	init_with_side(16, 16, 0);
	vublk_plane_set_policy(&rig.plane, &policy);
	vublk_plane_set_dirty_log(&rig.plane, &log);
	memset(bits, 0, sizeof(bits));
	data = rig_host(&rig, rig_data(&rig, 0, 0));
	memset(data, 'x', 64);
	data[20] = 'y';
	expect_answer(VIRTIO_BLK_T_GET_ID, 8, VIRTIO_BLK_S_OK, 21); /* reaches into the next page */
	assert_memory_equal(data, policy.serial, 20);
	assert_int_equal(data[20], 'y');
	assert_true(is_marked(bits, rig_data(&rig, 0, 0) + VUBLK_DIRTY_PAGE_BYTES));
	assert_true(is_marked(bits, rig_status(&rig, 0, 0)));
	rig_deinit(&rig);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_dirty_log_is_copied),
		VUBLK_TEST(test_kicks_are_enabled_at_the_end),
		VUBLK_TEST(test_full_ring_sleeps),
		VUBLK_TEST(test_long_request_is_next),
		VUBLK_TEST(test_long_request_is_next_to_a_write),
		VUBLK_TEST(test_order_after_a_loss),
		VUBLK_TEST(test_request_longer_than_the_ring),
		VUBLK_TEST(test_ranges),
		VUBLK_TEST(test_waiting_write_is_removed),
		VUBLK_TEST(test_many_writes_to_one_place),
		VUBLK_TEST(test_read_only),
		VUBLK_TEST(test_hidden_features),
		VUBLK_TEST(test_serial),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
