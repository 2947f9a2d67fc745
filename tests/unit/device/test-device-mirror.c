/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The mirror of a disk to a second back-end: which targets are refused, and what is refused while
 * there is a mirror. The mocks complete no request, so no region is ever copied.
 */
#include "harness.h"

#include "mock/device-rig.h"

#include "util/checked.h"
#include "util/loop.h"

#include <vublk/mirror.h>
#include <vublk/paths.h>

#include <endian.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <string.h>

#define LIMIT_NS (UINT64_C(20) * 1000000000)

struct pair {
	struct device_rig rig;
	struct mock source, target;
};

static bool pump(void *opaque)
{
	struct pair *pair = opaque;
	bool worked = mock_pump(&pair->source);

	return mock_pump(&pair->target) || worked;
}

static void begin(struct pair *pair)
{
	mock_init(&pair->target); /* all mocks of a process begin with the same path */
	mock_die(&pair->target);
	strcat(pair->target.path, "-b");
	mock_live_again(&pair->target);
	mock_init(&pair->source);
	rig_init_with_mock(&pair->rig, &pair->source);
	pair->rig.pump = pump;
	pair->rig.pump_opaque = pair;
	rig_set(&pair->rig, "reconnect-ms", "5");
	rig_set(&pair->rig, "shadow", "on");
	rig_realize(&pair->rig);
	rig_start(&pair->rig, 1);
}

/* The source does not complete the reads of the copies, so a stop of the rings would not end. */
static void end(struct pair *pair)
{
	vublk_device_unrealize(pair->rig.device);
	mock_deinit(&pair->target);
	rig_end(&pair->rig, &pair->source);
}

static struct vublk_device_mirror_info info_of(const struct pair *pair)
{
	struct vublk_device_mirror_info info;

	vublk_device_get_mirror(pair->rig.device, &info, sizeof(info));
	return info;
}

/* Begins a mirror, and runs until it is set up or has failed. Returns its state then. */
static struct vublk_device_mirror_info mirror(struct pair *pair)
{
	uint64_t end_ns = vublk_now_ns() + LIMIT_NS;
	struct vublk_device_mirror_info info;

	assert_int_equal(vublk_device_mirror(pair->rig.device, pair->target.path, 0, NULL), 1);
	while (info = info_of(pair), info.is_active && !info.is_copying) {
		assert_true(vublk_now_ns() < end_ns);
		rig_turn(&pair->rig, 1000);
	}
	return info;
}

static void expect_refused(struct pair *pair, int code, const char *words)
{
	struct vublk_device_mirror_info info = mirror(pair);

	assert_false(info.is_active);
	assert_int_equal(info.code, code);
	if (!strstr(info.reason, words))
		fail_msg("the reason is not '%s': %s", words, info.reason);
}

static void test_targets(void **state)
{
	struct virtio_blk_config *config;
	struct pair pair = { 0 };
	char other_name[220];
	uint64_t features;

	begin(&pair);
	assert_int_equal(vublk_device_mirror(pair.rig.device, pair.source.path, 0, NULL), -EINVAL);
	snprintf(other_name, sizeof(other_name), "/.%s", pair.source.path); /* the same socket */
	assert_int_equal(vublk_device_mirror(pair.rig.device, other_name, 0, NULL), -EINVAL);
	config = (void *)pair.target.config;
	features = pair.target.features;
	config->capacity = htole64(le64toh(config->capacity) - 1);
	expect_refused(&pair, ENOSPC, "at least as large");
	config->capacity = htole64(le64toh(config->capacity) + 1);
	pair.target.features = features | VUBLK_BIT(VIRTIO_BLK_F_RO);
	expect_refused(&pair, EROFS, "read-only");
	pair.target.features = features & ~VUBLK_BIT(VIRTIO_BLK_F_FLUSH);
	expect_refused(&pair, ENOTSUP, "FLUSH");
	pair.target.features = features;
	assert_true(mirror(&pair).is_copying);
	end(&pair);
}

static void test_refusals(void **state)
{
	struct vublk_error error;
	struct pair pair = { 0 };

	begin(&pair);
	assert_int_equal(vublk_device_switch(pair.rig.device, NULL, &error), -EBUSY);
	assert_non_null(strstr(error.text, "not mirrored"));
	assert_true(mirror(&pair).is_copying);
	assert_int_equal(vublk_device_mirror(pair.rig.device, pair.target.path, 1000, NULL), 0);
	assert_int_equal(info_of(&pair).rate, 1000);
	assert_int_equal(vublk_device_mirror(pair.rig.device, "other", 0, NULL), -EBUSY);
	assert_int_equal(vublk_device_switch(pair.rig.device, NULL, &error), -EBUSY);
	assert_non_null(strstr(error.text, "when it is synced"));
	assert_int_equal(vublk_device_dirty_log_start(pair.rig.device, NULL, 0, &error), -EBUSY);
	assert_non_null(strstr(error.text, "mirrored"));
	vublk_device_stop_mirror(pair.rig.device);
	assert_false(info_of(&pair).is_active);
	assert_int_equal(vublk_device_dirty_log_start(pair.rig.device, NULL, 0, NULL), 0);
	assert_int_equal(vublk_device_mirror(pair.rig.device, pair.target.path, 0, &error), -EBUSY);
	assert_non_null(strstr(error.text, "migrated"));
	end(&pair);
}

static void test_loss_of_the_target(void **state)
{
	uint64_t end_ns = vublk_now_ns() + LIMIT_NS;
	struct pair pair = { 0 };

	begin(&pair);
	assert_true(mirror(&pair).is_copying);
	mock_die(&pair.target);
	while (info_of(&pair).is_active) {
		assert_true(vublk_now_ns() < end_ns);
		rig_turn(&pair.rig, 1000);
	}
	assert_int_not_equal(info_of(&pair).code, 0);
	assert_int_equal(pair.rig.calls[RIG_LOST], 0);
	end(&pair);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_targets),
		VUBLK_TEST(test_refusals),
		VUBLK_TEST(test_loss_of_the_target),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
