/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the plane leaves to others, and what it keeps of theirs: the dirty log, the driver's rings. */
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

/* The owner's thread may change its struct while the plane's thread marks pages. */
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

/* A device end that takes over the ring may leave the flags as they are, so kicks are enabled. */
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

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_dirty_log_is_copied),
		VUBLK_TEST(test_kicks_are_enabled_at_the_end),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
