/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How the properties and the device's own corrections change a back-end's offer.
 *
 * Key idea: the test sets the mock's offer, and compares it with the driver's view and with the
 * features that the device sends to the mock.
 */
#include "harness.h"

#include "mock/device-rig.h"

#include "device/device.h"
#include "util/checked.h"
#include "virtio/blk-format.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <string.h>

#define RO VUBLK_BIT(VIRTIO_BLK_F_RO)
#define WRITING (VUBLK_BIT(VIRTIO_BLK_F_DISCARD) | VUBLK_BIT(VIRTIO_BLK_F_WRITE_ZEROES))

static struct virtio_blk_config *config_of(struct mock *mock)
{
	return (struct virtio_blk_config *)mock->config;
}

static struct virtio_blk_config read_config(const struct device_rig *rig)
{
	struct virtio_blk_config config;

	vublk_device_config_read(rig->device, 0, &config, sizeof(config));
	return config;
}

static struct vublk_device_info get_info(const struct device_rig *rig)
{
	struct vublk_device_info info;

	vublk_device_get_info(rig->device, &info, sizeof(info));
	return info;
}

static void expect_line(const struct device_rig *rig, const char *words)
{
	if (!strstr(rig->last_line, words))
		fail_msg("'%s' is not in '%s'", words, rig->last_line);
}

static void hang_up_and_resume(struct device_rig *rig, struct mock *mock)
{
	unsigned started = rig->calls[RIG_STARTED];

	mock_hang_up(mock);
	rig_wait(rig, RIG_STARTED, started + 1);
}

/* --- read-only ------------------------------------------------------------------------------ */

static void test_read_only(void **state)
{
	struct mock mock;
	struct device_rig rig;
	uint64_t features;

	rig_prepare(&rig, &mock, "1");
	rig_set(&rig, "read-only", "on");
	rig_realize(&rig);
	features = vublk_device_features(rig.device);
	assert_int_equal(features & (RO | WRITING), RO);
	assert_true(features & VUBLK_BIT(VIRTIO_BLK_F_FLUSH));
	expect_line(&rig, "the disk is read-only, although the back-end permits writes, and these features are hidden: "
			  "VIRTIO_BLK_F_DISCARD (bit 13), VIRTIO_BLK_F_WRITE_ZEROES");
	rig_start(&rig, 2);
	assert_true(rig.device->acked_features & RO);
	assert_int_equal(mock.accepted_features & ~mock.features, 0);
	hang_up_and_resume(&rig, &mock);
	assert_int_equal(vublk_device_features(rig.device), features);
	assert_int_equal(mock.accepted_features & ~mock.features, 0);
	assert_int_equal(rig.calls[RIG_CONFIG_CHANGED], 0);
	/* The next back-end offers RO itself, so the device accepts RO there. */
	mock.features = (mock.features & ~WRITING) | RO;
	hang_up_and_resume(&rig, &mock);
	assert_int_equal(vublk_device_features(rig.device), features);
	assert_true(mock.accepted_features & RO);
	rig_end(&rig, &mock);
}

/*
 * Some drivers, such as SeaBIOS, never accept RO. Nevertheless, a new back-end must be able to
 * replace a lost one.
 */
static void test_driver_that_ignores_ro(void **state)
{
	struct mock mock;
	struct device_rig rig;

	for (int by_property = 0; by_property < 2; by_property++) {
		rig_prepare(&rig, &mock, "1");
		rig.refused_features = RO;
		if (by_property)
			rig_set(&rig, "read-only", "on");
		else
			mock.features |= RO;
		rig_realize(&rig);
		rig_start(&rig, 2);
		hang_up_and_resume(&rig, &mock);
		assert_false(mock.accepted_features & RO);
		rig_end(&rig, &mock);
	}
}

/* A writable back-end does not replace a read-only one. */
static void test_writable_again(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_prepare(&rig, &mock, "1");
	mock.features |= RO;
	rig_realize(&rig);
	rig_start(&rig, 2);
	mock.features &= ~RO;
	mock_forget(&mock);
	mock_hang_up(&mock);
	while (mock.num_connections < 3) {
		mock_pump(&mock);
		vublk_device_process(rig.device);
	}
	expect_line(&rig,
		    "the back-end is writable, but the driver relies on a read-only disk; set "
			  "read-only=on");
	assert_int_equal(get_info(&rig).features & RO, RO);
	rig_end(&rig, &mock);
}

/* --- hidden features -------------------------------------------------------------------------- */

static void test_features_off(void **state)
{
	const struct { const char *text; uint64_t features; } cases[] = {
		{ "discard+TOPOLOGY", VUBLK_BIT(VIRTIO_BLK_F_DISCARD) |
				      VUBLK_BIT(VIRTIO_BLK_F_TOPOLOGY) },
		{ "VIRTIO_BLK_F_BLK_SIZE", VUBLK_BIT(VIRTIO_BLK_F_BLK_SIZE) },
		{ "virtio_ring_f_event_idx", VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX) },
		{ "0x204", VUBLK_BIT(VIRTIO_BLK_F_FLUSH) | VUBLK_BIT(VIRTIO_BLK_F_SEG_MAX) },
		{ "", 0 },
	};
	struct mock mock;
	struct device_rig rig;
	uint64_t all;

	rig_begin(&rig, &mock, NULL);
	all = vublk_device_features(rig.device);
	assert_int_equal(get_info(&rig).features, all);
	assert_int_equal(get_info(&rig).hidden_features, 0);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		vublk_device_unrealize(rig.device);
		rig_settle(&rig);
		rig_set(&rig, "features-off", cases[i].text);
		rig_realize(&rig);
		assert_int_equal(vublk_device_features(rig.device), all & ~cases[i].features);
		assert_int_equal(get_info(&rig).hidden_features, cases[i].features);
	}
	rig_start(&rig, 2);
	rig_end(&rig, &mock);
}

static void test_one_queue_without_mq(void **state)
{
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;

	rig_prepare(&rig, &mock, NULL);
	rig_set(&rig, "features-off", "mq");
	rig_realize(&rig);
	assert_int_equal(vublk_device_num_queues(rig.device), 1);
	vublk_device_unrealize(rig.device);
	rig_set(&rig, "num-queues", "2");
	assert_int_equal(vublk_device_realize(rig.device, &error), -EINVAL);
	assert_string_equal(error.text, "features-off hides VIRTIO_BLK_F_MQ, without which a "
			    "driver uses only one queue, but num-queues is 2; set num-queues to 1");
	rig_end(&rig, &mock);
}

static void test_what_cannot_be_hidden(void **state)
{
	const struct { const char *text, *set, *realize; } cases[] = {
		{ "version_1", NULL, "features-off contains VIRTIO_F_VERSION_1 (bit 32), which the "
				     "device either requires or never offers; remove it from" },
		{ "ro+discard", NULL, "features-off contains VIRTIO_BLK_F_RO (bit 5), which" },
		{ "0x8000000000000000", NULL, "features-off contains no name (bit 63), which" },
		{ "ring_packed", NULL, "features-off contains VIRTIO_F_RING_PACKED (bit 34), which" },
		{ "discord", "there is no feature 'discord'; 'vublk info SOCKET' shows the names", NULL },
		{ "discard+", "there is no feature ''", NULL },
		{ "discard++flush", "there is no feature ''", NULL },
		{ "+", "there is no feature ''", NULL },
		{ "0x", "features-off must be a whole number", NULL },
	};
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;

	rig_prepare(&rig, &mock, NULL);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		const char *words = cases[i].set ? cases[i].set : cases[i].realize;
		int r = vublk_device_set_property(rig.device, "features-off", cases[i].text,
						  &error);

		assert_int_equal(r, cases[i].set ? -EINVAL : 0);
		if (!r)
			assert_int_equal(vublk_device_realize(rig.device, &error), -EINVAL);
		if (!strstr(error.text, words))
			fail_msg("'%s' is not in '%s'", words, error.text);
	}
	rig_end(&rig, &mock);
}

static void test_a_mask_is_told(void **state)
{
	struct mock mock;
	struct device_rig rig;
	char value[32];

	rig_prepare(&rig, &mock, NULL);
	rig_set(&rig, "features-off", "discard+blk_size");
	assert_int_equal(vublk_device_get_property(rig.device, "features-off", value, sizeof(value),
						   NULL), 0);
	assert_string_equal(value, "0x2040");
	rig_set(&rig, "features-off", value);
	assert_int_equal(rig.device->settings.features_off, 0x2040);
	rig_end(&rig, &mock);
}

/* --- the config ------------------------------------------------------------------------------- */

/*
 * The config fields of features that the device does not offer are zero, and stay zero when the
 * device reads the config again.
 */
static void test_fields_of_hidden_features(void **state)
{
	struct virtio_blk_config config;
	struct mock mock;
	struct device_rig rig;

	rig_prepare(&rig, &mock, "1");
	config_of(&mock)->geometry.heads = 16; /* a field whose feature is not offered */
	rig_set(&rig, "discard", "off");
	rig_set(&rig, "features-off", "write_zeroes+seg_max+config_wce");
	rig_realize(&rig);
	rig_start(&rig, 2);
	for (int round = 0; round < 3; round++) {
		config = read_config(&rig);
		assert_int_equal(config.max_discard_sectors, 0);
		assert_int_equal(config.max_discard_seg, 0);
		assert_int_equal(config.max_write_zeroes_sectors, 0);
		assert_int_equal(config.max_write_zeroes_seg, 0);
		assert_int_equal(config.seg_max, 0);
		assert_int_equal(config.geometry.heads, 0);
		assert_int_equal(config.blk_size, 512);
		assert_int_equal(config.wce, 1);
		assert_memory_equal(get_info(&rig).backend_config, mock.config, 60);
		config_of(&mock)->capacity += 8;
		if (round)
			hang_up_and_resume(&rig, &mock);
		else
			mock_send_config_change(&mock, false);
		rig_wait(&rig, RIG_CONFIG_CHANGED, (unsigned)round + 1);
	}
	assert_int_equal(mock.received[VUBLK_VU_SET_CONFIG], 0);
	rig_end(&rig, &mock);
}

/*
 * The driver sees preferred I/O sizes only if they are multiples of the physical block, as Linux
 * requires; otherwise it sees 0, which means unknown.
 */
static void test_topology(void **state)
{
	const struct {
		uint32_t block_bytes;
		uint8_t exp, alignment;
		uint16_t min;
		uint32_t opt;
		uint8_t alignment_shown;
		uint16_t min_shown;
		uint32_t opt_shown;
	} cases[] = {
		{ 512, 0, 0, 8, 16, 0, 8, 16 },
		{ 512, 3, 7, 8, 2048, 7, 8, 2048 },
		{ 512, 3, 8, 1, 1, 0, 0, 0 },
		{ 512, 3, 0, 4, 2047, 0, 0, 0 },
		{ 4096, 0, 1, 3, 4096, 0, 3, 4096 },
		{ 4096, 0, 0, 0, 1u << 20, 0, 0, 0 }, /* 4 GiB does not fit into 32 bits */
		{ 512, 16, 0, 1, 1u << 16, 0, 0, 1u << 16 },
	};
	struct mock mock;
	struct device_rig rig;

	rig_prepare(&rig, &mock, NULL);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		config_of(&mock)->blk_size = cases[i].block_bytes;
		config_of(&mock)->physical_block_exp = cases[i].exp;
		config_of(&mock)->alignment_offset = cases[i].alignment;
		config_of(&mock)->min_io_size = cases[i].min;
		config_of(&mock)->opt_io_size = cases[i].opt;
		rig_realize(&rig);
		assert_int_equal(read_config(&rig).physical_block_exp, cases[i].exp);
		assert_int_equal(read_config(&rig).alignment_offset, cases[i].alignment_shown);
		assert_int_equal(read_config(&rig).min_io_size, cases[i].min_shown);
		assert_int_equal(read_config(&rig).opt_io_size, cases[i].opt_shown);
		vublk_device_unrealize(rig.device);
		rig_settle(&rig);
	}
	rig_end(&rig, &mock);
}

/*
 * The device does not offer TOPOLOGY if the size of the physical block in bytes would overflow in
 * the driver.
 */
static void test_physical_block(void **state)
{
	const struct { uint32_t block_bytes; uint8_t exp; bool offered; } cases[] = {
		{ 512, 16, true }, { 512, 17, false }, { 4096, 13, true }, { 4096, 14, false },
		{ 2 << 20, 4, true }, { 2 << 20, 5, false }, { 2 << 20, 255, false },
	};
	struct mock mock;
	struct device_rig rig;

	rig_prepare(&rig, &mock, NULL);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		config_of(&mock)->blk_size = cases[i].block_bytes;
		config_of(&mock)->physical_block_exp = cases[i].exp;
		rig_realize(&rig);
		assert_int_equal(!!(vublk_device_features(rig.device) &
				    VUBLK_BIT(VIRTIO_BLK_F_TOPOLOGY)), cases[i].offered);
		assert_int_equal(read_config(&rig).physical_block_exp,
				 cases[i].offered ? cases[i].exp : 0);
		vublk_device_unrealize(rig.device);
		rig_settle(&rig);
	}
	rig_end(&rig, &mock);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_read_only),
		VUBLK_TEST(test_driver_that_ignores_ro),
		VUBLK_TEST(test_writable_again),
		VUBLK_TEST(test_features_off),
		VUBLK_TEST(test_one_queue_without_mq),
		VUBLK_TEST(test_what_cannot_be_hidden),
		VUBLK_TEST(test_a_mask_is_told),
		VUBLK_TEST(test_fields_of_hidden_features),
		VUBLK_TEST(test_topology),
		VUBLK_TEST(test_physical_block),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
