/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A device is saved and loaded into another one: the driver's set-up, and the requests in flight.
 * test-device-stream.c tests damaged and foreign streams.
 *
 * Key idea: make_saved() saves a device. Most cases load this state into a device that differs from
 * the saved one in one respect, or whose back-end does.
 */
#include "harness.h"

#include "mock/device-rig.h"

#include "device/device.h"
#include "util/checked.h"
#include "util/fd.h"
#include "util/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define QUEUES 2

/* --- saved, and loaded elsewhere -------------------------------------------------------------- */

struct saved {
	void *stream;
	size_t bytes;
	uint8_t area[8192]; /* the in-flight area, as the first back-end left it */
	uint64_t features;
};

static void read_area(struct device_rig *rig, uint8_t *area)
{
	assert_int_equal(rig->device->inflight.size_bytes, 8192);
	assert_int_equal(pread(rig->device->inflight.fd, area, 8192,
			       (off_t)rig->device->inflight.offset), 8192);
}

static void save(struct device_rig *rig, struct saved *saved)
{
	struct vublk_error error;

	if (vublk_device_save(rig->device, &saved->stream, &saved->bytes, &error) < 0)
		fail_msg("%s", error.text);
}

/*
 * Saves a device that has run and was then paused with requests in flight. The driver has switched
 * the disk's cache to write-through.
 */
static void make_saved(struct saved *saved)
{
	uint8_t wce = 0;
	struct mock mock;
	struct device_rig rig;

	rig_begin_movable(&rig, &mock);
	rig_start(&rig, QUEUES);
	assert_int_equal(vublk_device_config_write(rig.device, 32, &wce, 1, NULL), 1);
	rig_wait(&rig, RIG_CONFIG_WRITTEN, 1);
	for (unsigned i = 0; i < sizeof(saved->area); i++)
		saved->area[i] = (uint8_t)(i * 7);
	assert_int_equal(pwrite(mock.inflight_fd, saved->area, 8192, 0), 8192);
	mock.base = 41;
	rig_pause(&rig);
	save(&rig, saved);
	saved->features = rig.device->acked_features;
	assert_int_equal(vublk_device_config_generation(rig.device), 2);
	rig_end(&rig, &mock);
}

static void begin_paused(struct device_rig *rig, struct mock *mock)
{
	rig_begin_movable(rig, mock);
	vublk_device_set_vm_running(rig->device, false);
}

static int load(struct device_rig *rig, const struct saved *saved, struct vublk_error *error)
{
	return vublk_device_load(rig->device, saved->stream, saved->bytes, error);
}

static void load_well(struct device_rig *rig, const struct saved *saved, int expected)
{
	struct vublk_error error;
	int r = load(rig, saved, &error);

	if (r < 0)
		fail_msg("%s", error.text);
	assert_int_equal(r, expected);
}

/* Makes the guest's memory, and sets it in the device. */
static void bring_memory(struct device_rig *rig)
{
	struct vublk_memory_region region;

	rig->memfd = vublk_memfd_new("rig", RIG_MEMORY_BYTES, NULL);
	rig->memory = vublk_map_shared(rig->memfd, 0, RIG_MEMORY_BYTES, NULL);
	region = (struct vublk_memory_region){ RIG_GUEST_ADDR, RIG_MEMORY_BYTES, rig->memfd, 0 };
	assert_int_equal(vublk_device_set_memory(rig->device, &region, 1, NULL), 0);
}

static void bring_descriptors(struct device_rig *rig)
{
	for (unsigned i = 0; i < QUEUES; i++) {
		rig->kicks[i] = vublk_eventfd_new();
		rig->callfds[i] = vublk_eventfd_new();
		assert_int_equal(vublk_device_set_queue_kick(rig->device, i, rig->kicks[i], NULL), 0);
		assert_int_equal(vublk_device_set_queue_call(rig->device, i, rig->callfds[i], NULL),
				 0);
	}
}

static void drop_descriptors(struct device_rig *rig)
{
	vublk_fd_close_all(rig->kicks, QUEUES);
	vublk_fd_close_all(rig->callfds, QUEUES);
}

static void expect_session(const struct device_rig *rig, const struct saved *saved)
{
	struct vublk_device_queue queue;
	uint8_t wce = 99;

	assert_int_equal(vublk_device_status(rig->device), VIRTIO_CONFIG_S_DRIVER_OK);
	assert_int_equal(rig->device->acked_features, saved->features);
	vublk_device_config_read(rig->device, 32, &wce, 1);
	assert_int_equal(wce, 0);
	assert_int_equal(vublk_device_config_generation(rig->device), 2);
	for (unsigned i = 0; i < QUEUES; i++) {
		assert_int_equal(vublk_device_get_queue(rig->device, i, &queue, sizeof(queue)), 0);
		assert_int_equal(queue.size, RIG_QUEUE_SIZE);
		assert_int_equal(queue.base, 41);
		assert_int_equal(queue.desc_addr, RIG_GUEST_ADDR + i * RIG_QUEUE_BYTES);
		assert_int_equal(queue.avail_addr, queue.desc_addr + RIG_QUEUE_SIZE * 16);
		assert_int_equal(queue.used_addr, queue.desc_addr + RIG_QUEUE_BYTES / 2);
	}
	vublk_device_get_queue(rig->device, QUEUES, &queue, sizeof(queue));
	assert_int_equal(queue.size, 0);
}

static void test_a_session_goes_on_elsewhere(void **state)
{
	uint8_t area[8192];
	struct saved saved;
	struct mock mock;
	struct device_rig rig;

	make_saved(&saved);
	begin_paused(&rig, &mock);
	load_well(&rig, &saved, 0);
	expect_session(&rig, &saved);
	bring_memory(&rig);
	bring_descriptors(&rig);
	assert_int_equal(rig.calls[RIG_STARTED], 0);
	assert_int_equal(vublk_device_set_vm_running(rig.device, true), 1);
	rig_wait(&rig, RIG_STARTED, 1);
	assert_int_equal(mock.accepted_features & saved.features, saved.features);
	assert_int_equal(mock.config[32], 0);
	assert_int_equal(mock.received[VUBLK_VU_GET_INFLIGHT_FD], 0);
	assert_int_equal(mock.received[VUBLK_VU_SET_INFLIGHT_FD], 1);
	assert_int_equal(mock.inflight.num_queues, 4);
	assert_int_equal(mock.inflight.queue_size, RIG_QUEUE_SIZE);
	read_area(&rig, area);
	assert_memory_equal(area, saved.area, sizeof(area));
	assert_true(fcntl(rig.device->inflight.fd, F_GET_SEALS) & F_SEAL_SHRINK);
	assert_int_equal(mock.given_bases[0], 41);
	assert_int_equal(mock.given_bases[1], 41);
	rig_expect_notified_once(&rig, QUEUES);
	assert_int_equal(rig.calls[RIG_CONFIG_WRITTEN] + rig.calls[RIG_CONFIG_CHANGED], 0);
	expect_session(&rig, &saved);
	drop_descriptors(&rig);
	rig_end(&rig, &mock);
	free(saved.stream);
}

/* Saving a device twice gives the same bytes, and the device can still run afterwards. */
static void test_saving_changes_nothing(void **state)
{
	struct saved saved, again;
	struct mock mock;
	struct device_rig rig;

	make_saved(&saved);
	begin_paused(&rig, &mock);
	load_well(&rig, &saved, 0);
	rig_settle(&rig); /* the device restores the write cache setting */
	for (unsigned i = 0; i < 2; i++) {
		save(&rig, &again);
		assert_int_equal(again.bytes, saved.bytes);
		assert_memory_equal(again.stream, saved.stream, saved.bytes);
		free(again.stream);
	}
	bring_memory(&rig);
	vublk_device_set_vm_running(rig.device, true);
	rig_wait(&rig, RIG_STARTED, 1);
	rig_end(&rig, &mock);
	free(saved.stream);
}

static void test_a_disk_that_was_resized(void **state)
{
	struct saved saved;
	struct mock mock;
	struct device_rig rig;
	uint64_t capacity;

	make_saved(&saved);
	mock_init(&mock);
	((struct virtio_blk_config *)mock.config)->capacity = 4096;
	rig_init_movable(&rig, &mock);
	vublk_device_set_vm_running(rig.device, false);
	rig_realize(&rig);
	load_well(&rig, &saved, 1);
	assert_int_equal(vublk_device_config_generation(rig.device), 3);
	vublk_device_config_read(rig.device, 0, &capacity, sizeof(capacity));
	assert_int_equal(capacity, 4096);
	rig_end(&rig, &mock);
	free(saved.stream);
}

/*
 * The property read-only is not part of the saved state. The state says that the driver was shown a
 * read-only disk, so a device without the property refuses the state.
 */
static void test_read_only_by_property(void **state)
{
	struct vublk_error error;
	struct saved saved;
	struct mock mock;
	struct device_rig rig;

	mock_init(&mock);
	rig_init_movable(&rig, &mock);
	rig_set(&rig, "read-only", "on");
	rig_realize(&rig);
	rig_start(&rig, QUEUES);
	rig_pause(&rig);
	save(&rig, &saved);
	vublk_device_unrealize(rig.device);
	rig_settle(&rig);
	rig_set(&rig, "read-only", "off");
	rig_realize(&rig);
	assert_int_equal(load(&rig, &saved, &error), -ENOTSUP);
	assert_non_null(strstr(error.text, "the back-end is writable, but the driver relies on a "
					   "read-only disk; set read-only=on"));
	vublk_device_unrealize(rig.device);
	rig_settle(&rig);
	rig_set(&rig, "read-only", "on");
	rig_realize(&rig);
	load_well(&rig, &saved, 0);
	rig_end(&rig, &mock);
	free(saved.stream);
}

/* Checks that the device refuses the stream with this code and sentence, and does not change. */
static void expect_refusal(struct device_rig *rig, const struct saved *saved, int code,
			   const char *sentence)
{
	struct saved before, after;
	struct vublk_error error = { 0 };

	save(rig, &before);
	assert_int_equal(load(rig, saved, &error), -code);
	assert_int_equal(error.code, code);
	if (!strstr(error.text, sentence))
		fail_msg("'%s' is not in '%s'", sentence, error.text);
	save(rig, &after);
	assert_int_equal(before.bytes, after.bytes);
	assert_memory_equal(before.stream, after.stream, before.bytes);
	free(before.stream);
	free(after.stream);
}

static void expect_refusal_by(const struct saved *saved, struct mock *mock, const char *property,
			      const char *value, int code, const char *sentence)
{
	struct device_rig rig;

	rig_init_movable(&rig, mock);
	vublk_device_set_vm_running(rig.device, false);
	if (property)
		rig_set(&rig, property, value);
	rig_realize(&rig);
	expect_refusal(&rig, saved, code, sentence);
	rig_deinit(&rig);
	mock_hang_up(mock);
}

static void test_devices_and_back_ends_that_will_not_do(void **state)
{
	struct virtio_blk_config *config;
	struct saved saved;
	struct mock mock, good;

	make_saved(&saved);
	mock_init(&mock);
	good = mock;
	config = (struct virtio_blk_config *)mock.config;
	expect_refusal_by(&saved, &mock, "num-queues", "3", EINVAL,
			  "has 4 queues, but this one has 3; set num-queues to 4");
	expect_refusal_by(&saved, &mock, "queue-size", "32", EINVAL, "set queue-size to 16");
	expect_refusal_by(&saved, &mock, "inflight", "off", ENOTSUP,
			  "requests of the saved device are in flight");
	mock.protocol_features &= ~VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD);
	expect_refusal_by(&saved, &mock, NULL, NULL, ENOTSUP,
			  "use a back-end that offers INFLIGHT_SHMFD");
	mock.protocol_features = good.protocol_features;
	mock.features &= ~(VUBLK_BIT(VIRTIO_BLK_F_FLUSH) | VUBLK_BIT(VIRTIO_BLK_F_DISCARD));
	expect_refusal_by(&saved, &mock, NULL, NULL, ENOTSUP,
			  "does not offer VIRTIO_BLK_F_FLUSH (bit 9), VIRTIO_BLK_F_DISCARD");
	mock.features = good.features;
	expect_refusal_by(&saved, &mock, "discard", "off", ENOTSUP,
			  "the driver of the saved device uses VIRTIO_BLK_F_DISCARD (bit 13), "
			  "which this device's properties hide; use the properties of the saved "
			  "device");
	expect_refusal_by(&saved, &mock, "features-off", "flush+event_idx", ENOTSUP,
			  "VIRTIO_BLK_F_FLUSH (bit 9), VIRTIO_RING_F_EVENT_IDX (bit 29), which this");
	expect_refusal_by(&saved, &mock, "read-only", "on", EROFS,
			  "the driver of the saved device uses a writable disk");
	mock.features = good.features | VUBLK_BIT(VIRTIO_BLK_F_RO);
	expect_refusal_by(&saved, &mock, NULL, NULL, EROFS, "the back-end is read-only");
	mock.features = good.features;
	config->seg_max = 100;
	expect_refusal_by(&saved, &mock, NULL, NULL, ENOTSUP,
			  "reports 100 for seg_max, but the driver relies on at least 126");
	config->seg_max = 126;
	config->blk_size = 4096;
	expect_refusal_by(&saved, &mock, NULL, NULL, ENOTSUP, "reports 4096 for blk_size");
	mock_deinit(&mock);
	free(saved.stream);
}

/* --- states in which a device cannot be saved or loaded ------------------------------------- */

static void expect_busy(int r, const struct vublk_error *error, const char *sentence)
{
	assert_int_equal(r, -EBUSY);
	if (!strstr(error->text, sentence))
		fail_msg("'%s' is not in '%s'", sentence, error->text);
}

static void test_when_it_is_saved(void **state)
{
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;
	size_t bytes = 7;
	void *stream = &bytes;
	uint8_t wce = 0;

	mock_init(&mock);
	rig_init_movable(&rig, &mock);
	expect_busy(vublk_device_save(rig.device, &stream, &bytes, &error), &error,
		    "saving is only possible while the device is stopped; it is created");
	rig_realize(&rig);
	rig_start(&rig, QUEUES);
	expect_busy(vublk_device_save(rig.device, &stream, &bytes, &error), &error,
		    "(the device is running); pause the VM");
	vublk_device_set_vm_running(rig.device, false);
	expect_busy(vublk_device_save(rig.device, &stream, &bytes, &error), &error,
		    "(the device is stopping)");
	rig_wait(&rig, RIG_STOPPED, 1);
	assert_int_equal(vublk_device_config_write(rig.device, 32, &wce, 1, NULL), 1);
	expect_busy(vublk_device_save(rig.device, &stream, &bytes, &error), &error,
		    "wait for config_written()");
	assert_true(stream == &bytes && bytes == 7);
	rig_wait(&rig, RIG_CONFIG_WRITTEN, 1);
	assert_int_equal(vublk_device_save(rig.device, &stream, &bytes, NULL), 0);
	free(stream);
	rig_end(&rig, &mock);
}

static void test_when_it_is_loaded(void **state)
{
	struct vublk_error error;
	struct saved saved;
	struct mock mock;
	struct device_rig rig;

	make_saved(&saved);
	mock_init(&mock);
	rig_init_movable(&rig, &mock);
	expect_busy(load(&rig, &saved, &error), &error, "it is created");
	rig_realize(&rig);
	expect_busy(load(&rig, &saved, &error), &error, "while its VM is paused");
	vublk_device_set_vm_running(rig.device, false);
	assert_int_equal(vublk_device_set_status(rig.device, 1, NULL), 0);
	expect_busy(load(&rig, &saved, &error), &error, "its status is 0x1");
	assert_int_equal(vublk_device_set_status(rig.device, 0, NULL), 0);
	load_well(&rig, &saved, 0);
	expect_busy(load(&rig, &saved, &error), &error, "its status is 0x4");
	assert_int_equal(vublk_device_set_status(rig.device, 0, NULL), 0);
	load_well(&rig, &saved, 0);
	expect_session(&rig, &saved);
	vublk_device_set_vm_running(rig.device, true);
	rig_wait(&rig, RIG_NEEDS_RESET, 1); /* no memory was set */
	assert_non_null(strstr(rig.errors[RIG_NEEDS_RESET].text, "not all in the guest's memory"));
	rig_end(&rig, &mock);
	free(saved.stream);
}

/* --- without a back-end, at the source or at the destination -------------------------- */

/*
 * A device is saved during an outage. The rings resume at their used indices, and the in-flight
 * area lists the incomplete requests. Without an area (`tracked` 0), the driver has to reset the
 * device.
 */
static void test_saved_without_a_back_end(void **state)
{
	for (unsigned tracked = 0; tracked < 2; tracked++) {
		struct saved saved;
		struct mock mock;
		struct device_rig rig;

		rig_begin_movable(&rig, &mock);
		if (!tracked) {
			mock.protocol_features &= ~VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD);
			vublk_device_unrealize(rig.device);
			rig_realize(&rig);
		}
		rig_start(&rig, QUEUES);
		mock_die(&mock);
		rig_wait(&rig, RIG_LOST, 1);
		save(&rig, &saved);
		rig_end(&rig, &mock);
		begin_paused(&rig, &mock);
		load_well(&rig, &saved, 0);
		bring_memory(&rig);
		rig_set_indices(&rig, 1, 11, 13);
		vublk_device_set_vm_running(rig.device, true);
		rig_wait(&rig, tracked ? RIG_STARTED : RIG_NEEDS_RESET, 1);
		if (tracked)
			assert_int_equal(mock.given_bases[1], 11);
		else
			assert_non_null(strstr(rig.errors[RIG_NEEDS_RESET].text, "up to 2 requests"));
		rig_end(&rig, &mock);
		free(saved.stream);
	}
}

static void test_loaded_without_a_back_end(void **state)
{
	struct saved saved;
	struct mock mock;
	struct device_rig rig;

	make_saved(&saved);
	begin_paused(&rig, &mock);
	mock_die(&mock);
	rig_wait(&rig, RIG_LOST, 1);
	load_well(&rig, &saved, 0);
	bring_memory(&rig);
	vublk_device_set_vm_running(rig.device, true);
	expect_session(&rig, &saved);
	mock_live_again(&mock);
	rig_wait(&rig, RIG_STARTED, 1);
	assert_int_equal(mock.config[32], 0);
	assert_int_equal(mock.given_bases[0], 41);
	expect_session(&rig, &saved);
	rig_end(&rig, &mock);
	free(saved.stream);
}

/*
 * The new back-end refuses the saved setting of the write cache, so the device disconnects and
 * tries again. The second attempt succeeds.
 */
static void test_a_write_cache_that_cannot_be_restored(void **state)
{
	struct saved saved;
	struct mock mock;
	struct device_rig rig;

	make_saved(&saved);
	begin_paused(&rig, &mock);
	mock.fault = (struct mock_fault){ .kind = MOCK_REFUSE, .request = VUBLK_VU_SET_CONFIG };
	load_well(&rig, &saved, 0);
	rig_wait(&rig, RIG_LOST, 1);
	assert_non_null(strstr(rig.errors[RIG_LOST].text, "cannot set the write cache"));
	assert_int_equal(rig.calls[RIG_CONFIG_WRITTEN], 0);
	rig_wait(&rig, RIG_RECONNECTED, 1); /* after the second attempt */
	assert_int_equal(mock.config[32], 0);
	expect_session(&rig, &saved);
	rig_end(&rig, &mock);
	free(saved.stream);
}

/* A legacy driver has kicked without setting DRIVER_OK. The device runs again after the load. */
static void test_a_legacy_driver(void **state)
{
	uint64_t legacy = VUBLK_BIT(VIRTIO_BLK_F_FLUSH);
	struct saved saved;
	struct mock mock;
	struct device_rig rig;

	rig_begin_movable(&rig, &mock);
	rig_set_up(&rig, QUEUES);
	assert_int_equal(vublk_device_ack_features(rig.device, legacy, NULL), 0);
	assert_int_equal(vublk_device_set_status(rig.device, VIRTIO_CONFIG_S_DRIVER, NULL), 0);
	assert_int_equal(vublk_device_kick(rig.device, 0), 0);
	rig_wait(&rig, RIG_STARTED, 1);
	mock.base = 41;
	rig_pause(&rig);
	save(&rig, &saved);
	rig_end(&rig, &mock);
	begin_paused(&rig, &mock);
	load_well(&rig, &saved, 0);
	assert_int_equal(vublk_device_status(rig.device), VIRTIO_CONFIG_S_DRIVER);
	assert_int_equal(rig.device->acked_features, legacy);
	bring_memory(&rig);
	vublk_device_set_vm_running(rig.device, true);
	rig_wait(&rig, RIG_STARTED, 1);
	assert_int_equal(mock.given_bases[1], 41);
	rig_end(&rig, &mock);
	free(saved.stream);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_a_session_goes_on_elsewhere),
		VUBLK_TEST(test_saving_changes_nothing),
		VUBLK_TEST(test_a_disk_that_was_resized),
		VUBLK_TEST(test_read_only_by_property),
		VUBLK_TEST(test_devices_and_back_ends_that_will_not_do),
		VUBLK_TEST(test_when_it_is_saved),
		VUBLK_TEST(test_when_it_is_loaded),
		VUBLK_TEST(test_saved_without_a_back_end),
		VUBLK_TEST(test_loaded_without_a_back_end),
		VUBLK_TEST(test_a_write_cache_that_cannot_be_restored),
		VUBLK_TEST(test_a_legacy_driver),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
