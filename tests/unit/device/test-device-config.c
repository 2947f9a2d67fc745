/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tests of a disk's config: reads, checks, changes, writes, and the back channel that reports
 * changes.
 *
 * Key idea: the mock's config is a field that each case can set. The case compares the field with
 * what the driver sees.
 */
#include "harness.h"

#include "mock/device-rig.h"

#include "util/checked.h"
#include "util/fd.h"
#include "util/log.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <string.h>

static struct virtio_blk_config *config_of(struct mock *mock)
{
	return (struct virtio_blk_config *)mock->config;
}

static struct virtio_blk_config read_config(struct device_rig *rig)
{
	struct virtio_blk_config config;

	vublk_device_config_read(rig->device, 0, &config, sizeof(config));
	return config;
}

/* --- checks ---------------------------------------------------------------------------- */

static void test_reads(void **state)
{
	uint8_t bytes[100];
	struct mock mock;
	struct device_rig rig;

	rig_prepare(&rig, &mock, NULL);
	vublk_device_config_read(rig.device, 0, bytes, sizeof(bytes));
	assert_int_equal(bytes[1], 0);
	rig_realize(&rig);
	assert_int_equal(read_config(&rig).capacity, 2048);
	assert_int_equal(read_config(&rig).num_queues, 4); /* not the back-end's 99 */
	memset(bytes, 0xee, sizeof(bytes));
	vublk_device_config_read(rig.device, 95, bytes, 3);
	assert_memory_equal(bytes, "\0\0\0\xee", 4);
	vublk_device_config_read(rig.device, UINT32_MAX, bytes, 3);
	assert_memory_equal(bytes, "\0\0\0\xee", 4);
	rig_end(&rig, &mock);
}

static void expect_refused(struct device_rig *rig, const char *words)
{
	rig_realize_fails(rig, EPROTO);
	if (!strstr(rig->errors[RIG_REALIZED].text, words))
		fail_msg("no '%s' in: %s", words, rig->errors[RIG_REALIZED].text);
	rig_settle(rig);
}

static void test_absurd_configs_are_refused(void **state)
{
	const uint32_t sizes[] = { 0, 1, 256, 513, 768, 4 << 20, 1u << 31, UINT32_MAX };
	char words[100];
	struct mock mock;
	struct device_rig rig;

	rig_prepare(&rig, &mock, NULL);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(sizes); i++) {
		config_of(&mock)->blk_size = sizes[i];
		snprintf(words, sizeof(words), "block size of %u bytes", sizes[i]);
		expect_refused(&rig, words);
	}
	config_of(&mock)->blk_size = 4096;
	config_of(&mock)->capacity = UINT64_C(1) << 54;
	expect_refused(&rig, "capacity of 18014398509481984 sectors");
	config_of(&mock)->capacity = UINT64_MAX;
	expect_refused(&rig, "capacity of 18446744073709551615 sectors");
	config_of(&mock)->capacity = (UINT64_C(1) << 54) - 1;
	rig_realize(&rig);
	rig_end(&rig, &mock);
}

static void test_senseless_limits_cost_their_feature(void **state)
{
	uint64_t bits = VUBLK_BIT(VIRTIO_BLK_F_SIZE_MAX) | VUBLK_BIT(VIRTIO_BLK_F_SEG_MAX) |
			VUBLK_BIT(VIRTIO_BLK_F_TOPOLOGY);
	struct mock mock;
	struct device_rig rig;

	mock_init(&mock);
	mock.features |= bits;
	config_of(&mock)->size_max = 65536;
	rig_init_with_mock(&rig, &mock);
	rig_realize(&rig);
	assert_true((vublk_device_features(rig.device) & bits) == bits);
	vublk_device_unrealize(rig.device);
	config_of(&mock)->size_max = 0;
	config_of(&mock)->seg_max = 0;
	config_of(&mock)->physical_block_exp = 200;
	rig_realize(&rig);
	assert_int_equal(vublk_device_features(rig.device) & bits, 0);
	rig_end(&rig, &mock);
}

/*
 * If the back-end refuses to send the whole config, the device requests fewer and fewer bytes. It
 * does not offer the features whose fields are missing.
 */
static void test_short_configs(void **state)
{
	const struct { unsigned max, got; uint64_t without; } cases[] = {
		{ 256, 60, 0 },
		{ 60, 60, 0 },
		{ 59, 36, VUBLK_BIT(VIRTIO_BLK_F_DISCARD) | VUBLK_BIT(VIRTIO_BLK_F_WRITE_ZEROES) },
		{ 8, 8, VUBLK_BIT(VIRTIO_BLK_F_CONFIG_WCE) | VUBLK_BIT(VIRTIO_BLK_F_BLK_SIZE) },
	};
	struct vublk_device_info info;
	struct mock mock;
	struct device_rig rig;

	rig_prepare(&rig, &mock, NULL);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		mock.max_config_bytes = cases[i].max;
		rig_realize(&rig);
		vublk_device_get_info(rig.device, &info, sizeof(info));
		assert_int_equal(info.backend_config_bytes, cases[i].got);
		assert_int_equal(vublk_device_features(rig.device) & cases[i].without, 0);
		assert_int_equal(read_config(&rig).capacity, 2048);
		vublk_device_unrealize(rig.device);
		rig_settle(&rig);
	}
	mock.max_config_bytes = 7;
	expect_refused(&rig, "answers each GET_CONFIG with an empty configuration");
	rig_end(&rig, &mock);
}

/*
 * The back-end offers a feature whose fields are beyond the first 60 bytes, so the device requests
 * these fields, too. If the back-end's config ends before these fields, the device does not offer
 * the feature.
 */
static void test_long_config(void **state)
{
	struct vublk_device_info info;
	struct mock mock;
	struct device_rig rig;

	mock_init(&mock);
	mock.features |= VUBLK_BIT(VUBLK_BLK_F_SECURE_ERASE);
	mock.config[60] = 7;
	rig_init_with_mock(&rig, &mock);
	rig_realize(&rig);
	vublk_device_get_info(rig.device, &info, sizeof(info));
	assert_int_equal(info.backend_config_bytes, 60);
	assert_false(vublk_device_features(rig.device) & VUBLK_BIT(VUBLK_BLK_F_SECURE_ERASE));
	vublk_device_unrealize(rig.device);
	mock.max_config_bytes = 256;
	rig_realize(&rig);
	vublk_device_get_info(rig.device, &info, sizeof(info));
	assert_int_equal(info.backend_config_bytes, 96);
	assert_true(vublk_device_features(rig.device) & VUBLK_BIT(VUBLK_BLK_F_SECURE_ERASE));
	assert_int_equal(read_config(&rig).max_secure_erase_sectors, 7);
	mock_send_config_change(&mock, false);
	mock.config[60] = 8;
	rig_wait(&rig, RIG_CONFIG_CHANGED, 1);
	assert_int_equal(read_config(&rig).max_secure_erase_sectors, 8);
	rig_end(&rig, &mock);
}

static void test_seg_max_adjust(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, NULL);
	assert_int_equal(read_config(&rig).seg_max, 126);
	vublk_device_unrealize(rig.device);
	rig_set(&rig, "seg-max-adjust", "on");
	rig_realize(&rig);
	assert_int_equal(read_config(&rig).seg_max, 14);
	rig_end(&rig, &mock);
}

static uint32_t seg_max_after_accepting(struct device_rig *rig, uint64_t features)
{
	struct vublk_error error;

	if (vublk_device_ack_features(rig->device, features, &error))
		fail_msg("%s", error.text);
	return read_config(rig).seg_max;
}

/*
 * Without indirect descriptors, the ring needs two entries for a request's header and status, so
 * seg_max is two less than the size of the ring.
 */
static void test_seg_max_without_indirect(void **state)
{
	uint64_t indirect = VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC), all;
	struct mock mock;
	struct device_rig rig;

	mock_init(&mock);
	mock.features |= indirect;
	rig_init_with_mock(&rig, &mock);
	rig_realize(&rig);
	all = vublk_device_features(rig.device);
	assert_int_equal(read_config(&rig).seg_max, 126);
	assert_int_equal(seg_max_after_accepting(&rig, all & ~indirect), 14);
	assert_int_equal(seg_max_after_accepting(&rig, all), 126);
	vublk_device_unrealize(rig.device);
	rig_set(&rig, "indirect_desc", "off");
	rig_realize(&rig);
	assert_int_equal(read_config(&rig).seg_max, 14);
	vublk_device_unrealize(rig.device);
	rig_set(&rig, "shadow-queue-size", "8");
	rig_realize(&rig);
	assert_int_equal(read_config(&rig).seg_max, 14);
	vublk_device_unrealize(rig.device);
	rig_set(&rig, "shadow", "on");
	rig_realize(&rig);
	assert_int_equal(read_config(&rig).seg_max, 6);
	rig_end(&rig, &mock);
}

/*
 * The device reports an I/O size of one block as 0. The size has no meaning, but slows some guests
 * down.
 */
static void test_io_sizes(void **state)
{
	struct mock mock;
	struct device_rig rig;

	mock_init(&mock);
	config_of(&mock)->min_io_size = 1;
	config_of(&mock)->opt_io_size = 1;
	rig_init_with_mock(&rig, &mock);
	rig_realize(&rig);
	assert_int_equal(read_config(&rig).min_io_size, 0);
	assert_int_equal(read_config(&rig).opt_io_size, 0);
	vublk_device_unrealize(rig.device);
	config_of(&mock)->min_io_size = 8;
	config_of(&mock)->opt_io_size = 16;
	rig_realize(&rig);
	assert_int_equal(read_config(&rig).min_io_size, 8);
	assert_int_equal(read_config(&rig).opt_io_size, 16);
	rig_end(&rig, &mock);
}

static void test_features(void **state)
{
	const struct { const char *property; unsigned bit; } cases[] = {
		{ "config-wce", VIRTIO_BLK_F_CONFIG_WCE }, { "discard", VIRTIO_BLK_F_DISCARD },
		{ "write-zeroes", VIRTIO_BLK_F_WRITE_ZEROES },
		{ "event_idx", VIRTIO_RING_F_EVENT_IDX },
		{ "indirect_desc", VIRTIO_RING_F_INDIRECT_DESC },
	};
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;
	uint64_t all;

	rig_begin(&rig, &mock, NULL);
	all = vublk_device_features(rig.device);
	assert_int_equal(all & ~mock.features, 0);
	assert_false(all & VUBLK_BIT(VIRTIO_F_RING_PACKED));
	assert_false(all & VUBLK_BIT(30));
	assert_true(all & VUBLK_BIT(VIRTIO_BLK_F_MQ));
	assert_int_equal(vublk_device_ack_features(rig.device, all | VUBLK_BIT(34), &error), -EINVAL);
	assert_non_null(strstr(error.text, "feature bit 34 (VIRTIO_F_RING_PACKED), which was not "
					   "offered"));
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		vublk_device_unrealize(rig.device);
		rig_set(&rig, cases[i].property, "off");
		rig_realize(&rig);
		all &= ~VUBLK_BIT(cases[i].bit);
		assert_int_equal(vublk_device_features(rig.device), all);
	}
	vublk_device_unrealize(rig.device);
	rig_set(&rig, "num-queues", "1");
	rig_realize(&rig);
	assert_int_equal(vublk_device_features(rig.device), all & ~VUBLK_BIT(VIRTIO_BLK_F_MQ));
	rig_end(&rig, &mock);
}

/* --- changing ------------------------------------------------------------------------------- */

static void test_resize(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, NULL);
	for (unsigned i = 1; i <= 3; i++) {
		uint32_t generation = vublk_device_config_generation(rig.device);

		config_of(&mock)->capacity += 100;
		mock_send_config_change(&mock, true);
		rig_wait(&rig, RIG_CONFIG_CHANGED, i);
		assert_int_equal(vublk_device_config_generation(rig.device), generation + 1);
		assert_int_equal(read_config(&rig).capacity, 2048 + 100 * i);
		assert_int_equal(read_config(&rig).num_queues, 4);
		assert_int_equal(mock_take_backend_answers(&mock), 1);
		if (i == 1)
			rig_start(&rig, 2);
	}
	/* A read that returns the same config is not a change. */
	mock_send_config_change(&mock, true);
	rig_settle(&rig);
	assert_int_equal(rig.calls[RIG_CONFIG_CHANGED], 3);
	rig_end(&rig, &mock);
}

static void test_absurd_change_is_not_taken(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, NULL);
	config_of(&mock)->blk_size = 3;
	config_of(&mock)->capacity = 1;
	mock_send_config_change(&mock, false);
	rig_settle(&rig);
	assert_int_equal(rig.calls[RIG_CONFIG_CHANGED], 0);
	assert_int_equal(read_config(&rig).capacity, 2048);
	assert_non_null(strstr(rig.last_line, "block size of 3 bytes"));
	config_of(&mock)->blk_size = 512;
	mock_send_config_change(&mock, false);
	rig_wait(&rig, RIG_CONFIG_CHANGED, 1);
	assert_int_equal(read_config(&rig).capacity, 1);
	rig_end(&rig, &mock);
}

/*
 * Each invalid config differs from the previous one, so each warning has a different text.
 * Nevertheless, the number of warnings is limited.
 */
static void test_absurd_changes_are_limited(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, NULL);
	for (unsigned i = 0; i < 100; i++) {
		config_of(&mock)->blk_size = 3 + 2 * i;
		mock_send_config_change(&mock, false);
		rig_settle(&rig);
	}
	assert_in_range(rig.num_warnings, 1, VUBLK_LOG_BURST);
	rig_end(&rig, &mock);
}

/*
 * However many messages report a change, only one read of the config is under way at a time. Each
 * message is answered.
 */
static void test_storm_of_changes(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, NULL);
	mock_forget(&mock);
	for (unsigned i = 0; i < 100; i++)
		mock_send_config_change(&mock, true);
	config_of(&mock)->capacity = 4096;
	rig_settle(&rig);
	assert_int_equal(rig.calls[RIG_CONFIG_CHANGED], 1);
	assert_true(mock.received[VUBLK_VU_GET_CONFIG] >= 1 &&
		    mock.received[VUBLK_VU_GET_CONFIG] < 20);
	assert_int_equal(mock_take_backend_answers(&mock), 100);
	rig_end(&rig, &mock);
}

/* Without a back channel the device polls the config. */
static void test_resize_that_is_not_told(void **state)
{
	struct mock mock;
	struct device_rig rig;

	mock_init(&mock);
	mock.protocol_features &= ~VUBLK_BIT(VUBLK_VU_F_BACKEND_REQ);
	rig_init_with_mock(&rig, &mock);
	rig_set(&rig, "config-poll-ms", "5");
	rig_realize(&rig);
	config_of(&mock)->capacity = 1;
	rig_wait(&rig, RIG_CONFIG_CHANGED, 1);
	config_of(&mock)->capacity = 2;
	rig_wait(&rig, RIG_CONFIG_CHANGED, 2);
	assert_int_equal(read_config(&rig).capacity, 2);
	vublk_channel_deinit(&mock.channel);
	mock.channel.fd = -1;
	rig_wait(&rig, RIG_LOST, 1);
	rig_end(&rig, &mock);
}

/* --- the back channel ---------------------------------------------------------------------- */

static void test_garbage_on_the_channel(void **state)
{
	const struct { const char *bytes; unsigned num_bytes; const char *words; } cases[] = {
		{ "xxxxxxxxxxxxxxxxxxxxxxxx", 24, "protocol version" },
		{ "\2\0\0\0\1\0\0\0\xff\xff\xff\x7f", 12, "announces a payload" },
		{ "\2\0\0\0\1\0\0\0\4\0\0\0abcd", 16, "CONFIG_CHANGE_MSG has a payload" },
		{ "\3\0\0\0\1\0\0\0\0\0\0\0", 12, "VRING_HOST_NOTIFIER_MSG" },
		{ "\x63\0\0\0\1\0\0\0\0\0\0\0", 12, "request number 99" },
		{ "\2\0\0\0\5\0\0\0\0\0\0\0", 12, "marked as a reply" },
	};
	struct mock mock;
	struct device_rig rig;

	rig_prepare(&rig, &mock, NULL);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		rig_realize(&rig);
		mock_send_on_back_channel(&mock, cases[i].bytes, cases[i].num_bytes);
		rig_settle(&rig);
		if (!strstr(rig.last_line, cases[i].words))
			fail_msg("no '%s' in: %s", cases[i].words, rig.last_line);
		rig_start(&rig, 2);
		rig_stop(&rig);
		vublk_device_unrealize(rig.device);
		rig_settle(&rig);
	}
	rig_end(&rig, &mock);
}

static void test_unserved_requests_are_answered_and_limited(void **state)
{
	const struct vublk_vu_header header = { VUBLK_VU_BACKEND_SHMEM_UNMAP, 1 | 8, 0 };
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, NULL);
	for (unsigned i = 0; i < 100; i++)
		mock_send_on_back_channel(&mock, &header, sizeof(header));
	rig_settle(&rig);
	assert_int_equal(mock_take_backend_answers(&mock), 100);
	assert_true(rig.num_warnings >= 1 && rig.num_warnings < 10);
	config_of(&mock)->capacity = 1;
	mock_send_config_change(&mock, false);
	rig_wait(&rig, RIG_CONFIG_CHANGED, 1);
	rig_end(&rig, &mock);
}

/*
 * If the back-end does not read the answers on the back channel, the device closes the channel.
 * This limits the memory for answers.
 */
static void test_answers_that_are_not_read(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, NULL);
	for (unsigned i = 0; i < 200 && !rig.num_warnings; i++) {
		for (unsigned k = 0; k < 50; k++)
			mock_send_config_change(&mock, true);
		rig_settle(&rig);
	}
	assert_non_null(strstr(rig.last_line, "closed the back channel: "));
	rig_start(&rig, 2);
	rig_end(&rig, &mock);
}

/* While no ring is started, a back-end must not report a resize, so the device polls the config. */
static void test_resize_while_stopped(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_prepare(&rig, &mock, NULL);
	rig_set(&rig, "config-poll-ms", "5");
	rig_realize(&rig);
	config_of(&mock)->capacity = 1;
	rig_wait(&rig, RIG_CONFIG_CHANGED, 1);
	rig_start(&rig, 2);
	rig_stop(&rig);
	config_of(&mock)->capacity = 2;
	rig_wait(&rig, RIG_CONFIG_CHANGED, 2);
	assert_int_equal(read_config(&rig).capacity, 2);
	rig_end(&rig, &mock);
}

static void test_end_of_the_channel(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_prepare(&rig, &mock, NULL);
	rig_set(&rig, "config-poll-ms", "5");
	rig_realize(&rig);
	rig_set_up(&rig, 2);
	vublk_fd_close(&mock.back_channel);
	rig_settle(&rig);
	assert_int_equal(rig.num_warnings, 0);
	config_of(&mock)->capacity = 1; /* only polling can find this change */
	rig_wait(&rig, RIG_CONFIG_CHANGED, 1);
	rig_start(&rig, 2);
	rig_end(&rig, &mock);
}

/* --- writing --------------------------------------------------------------------------------- */

static int write_wce(struct device_rig *rig, uint8_t wce, struct vublk_error *error)
{
	return vublk_device_config_write(rig->device, 32, &wce, 1, error);
}

static void test_wce(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, NULL);
	rig_set_up(&rig, 1);
	assert_int_equal(write_wce(&rig, 1, NULL), 0);
	assert_int_equal(mock.received[VUBLK_VU_SET_CONFIG], 0);
	assert_int_equal(write_wce(&rig, 0, NULL), 1);
	/* the driver reads the old value until the write has ended */
	assert_int_equal(read_config(&rig).wce, 1);
	assert_int_equal(write_wce(&rig, 0, NULL), -EBUSY);
	rig_wait(&rig, RIG_CONFIG_WRITTEN, 1);
	assert_int_equal(rig.errors[RIG_CONFIG_WRITTEN].code, 0);
	assert_int_equal(read_config(&rig).wce, 0);
	assert_int_equal(rig.calls[RIG_CONFIG_CHANGED], 0);
	/* The read that confirms the write also finds a resize, which the device reports. */
	config_of(&mock)->capacity = 1;
	assert_int_equal(write_wce(&rig, 1, NULL), 1);
	rig_wait(&rig, RIG_CONFIG_WRITTEN, 2);
	assert_int_equal(rig.calls[RIG_CONFIG_CHANGED], 1);
	rig_end(&rig, &mock);
}

static void test_wce_that_is_not_taken(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, NULL);
	rig_set_up(&rig, 1);
	mock.fault = (struct mock_fault){ MOCK_REFUSE, VUBLK_VU_SET_CONFIG };
	mock.ignore_set_config = true;
	assert_int_equal(write_wce(&rig, 0, NULL), 1);
	rig_wait(&rig, RIG_CONFIG_WRITTEN, 1);
	assert_int_equal(rig.errors[RIG_CONFIG_WRITTEN].code, EIO);
	assert_non_null(strstr(rig.errors[RIG_CONFIG_WRITTEN].text, "refused SET_CONFIG"));
	/* The back-end accepts the write, but changes nothing. */
	assert_int_equal(write_wce(&rig, 0, NULL), 1);
	rig_wait(&rig, RIG_CONFIG_WRITTEN, 2);
	assert_int_equal(rig.errors[RIG_CONFIG_WRITTEN].code, EIO);
	assert_non_null(strstr(rig.errors[RIG_CONFIG_WRITTEN].text, "ignored the value 0"));
	assert_int_equal(read_config(&rig).wce, 1);
	rig_end(&rig, &mock);
}

/* A read of the config that began before the write does not confirm the write. */
static void test_wce_during_a_change(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, NULL);
	rig_set_up(&rig, 1);
	mock_send_config_change(&mock, false);
	while (!mock_pump(&mock)) /* until the device has requested the config */
		assert_int_equal(vublk_device_process(rig.device), 0);
	assert_int_equal(write_wce(&rig, 0, NULL), 1);
	rig_wait(&rig, RIG_CONFIG_WRITTEN, 1);
	assert_int_equal(rig.errors[RIG_CONFIG_WRITTEN].code, 0);
	assert_int_equal(read_config(&rig).wce, 0);
	rig_end(&rig, &mock);
}

static void test_bad_writes(void **state)
{
	struct vublk_error error;
	uint32_t word = 0;
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, NULL);
	assert_int_equal(write_wce(&rig, 0, &error), -ENOTSUP);
	rig_set_up(&rig, 1);
	assert_int_equal(vublk_device_config_write(rig.device, 0, &word, 4, &error), -EINVAL);
	assert_string_equal(error.text, "the driver wrote 4 bytes at offset 0 of the "
			    "configuration; only the byte at offset 32 (wce) is writable");
	assert_int_equal(vublk_device_config_write(rig.device, 32, &word, 4, &error), -EINVAL);
	assert_int_equal(write_wce(&rig, 2, &error), -EINVAL);
	assert_int_equal(write_wce(&rig, 0, &error), 1);
	vublk_channel_deinit(&mock.channel);
	mock.channel.fd = -1;
	rig_wait(&rig, RIG_LOST, 1);
	assert_int_equal(rig.calls[RIG_CONFIG_WRITTEN], 1);
	assert_int_equal(rig.errors[RIG_CONFIG_WRITTEN].code, ENOTCONN);
	assert_int_equal(write_wce(&rig, 0, &error), -ENOTCONN);
	rig_end(&rig, &mock);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_reads),
		VUBLK_TEST(test_absurd_configs_are_refused),
		VUBLK_TEST(test_senseless_limits_cost_their_feature),
		VUBLK_TEST(test_short_configs),
		VUBLK_TEST(test_long_config),
		VUBLK_TEST(test_seg_max_adjust),
		VUBLK_TEST(test_seg_max_without_indirect),
		VUBLK_TEST(test_io_sizes),
		VUBLK_TEST(test_features),
		VUBLK_TEST(test_resize),
		VUBLK_TEST(test_resize_that_is_not_told),
		VUBLK_TEST(test_absurd_change_is_not_taken),
		VUBLK_TEST(test_absurd_changes_are_limited),
		VUBLK_TEST(test_storm_of_changes),
		VUBLK_TEST(test_garbage_on_the_channel),
		VUBLK_TEST(test_unserved_requests_are_answered_and_limited),
		VUBLK_TEST(test_answers_that_are_not_read),
		VUBLK_TEST(test_resize_while_stopped),
		VUBLK_TEST(test_end_of_the_channel),
		VUBLK_TEST(test_wce),
		VUBLK_TEST(test_wce_that_is_not_taken),
		VUBLK_TEST(test_wce_during_a_change),
		VUBLK_TEST(test_bad_writes),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
