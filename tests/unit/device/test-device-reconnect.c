/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A back-end is lost and replaced at each moment of a device's life. The driver sees the same
 * device, and the rings resume. test-device-losses.c tests every combination of message and kind of
 * loss.
 *
 * Key idea: a case sets the indices of the rings as a back-end and a driver would leave them, and
 * checks the index at which the next back-end has to resume.
 */
#include "harness.h"

#include "mock/device-rig.h"

#include "device/device.h"
#include "util/checked.h"
#include "util/fd.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>

#define QUEUES 2

static void clear_notifications(struct device_rig *rig)
{
	for (unsigned i = 0; i < QUEUES; i++) {
		vublk_eventfd_clear(rig->kicks[i]);
		vublk_eventfd_clear(rig->callfds[i]);
	}
}

/* Makes a device that runs and has completed some requests on each queue. */
static void begin_running(struct device_rig *rig, struct mock *mock, const char *reconnect_ms)
{
	rig_begin(rig, mock, reconnect_ms);
	rig_start(rig, QUEUES);
	for (unsigned i = 0; i < QUEUES; i++)
		rig_set_indices(rig, i, (uint16_t)(7 + i), (uint16_t)(7 + i));
	clear_notifications(rig);
	mock_forget(mock);
}

/*
 * Checks that the rings resume at their indices, and that each ring gets the kick and the call that
 * may have been lost.
 */
static void expect_resumed(struct device_rig *rig, struct mock *mock)
{
	assert_int_equal(vublk_device_state(rig->device), VUBLK_DEVICE_RUNNING);
	for (unsigned i = 0; i < QUEUES; i++) {
		assert_int_equal(mock->given_bases[i], 7 + i);
		assert_int_equal(vublk_eventfd_clear(rig->kicks[i]), 1);
		assert_int_equal(vublk_eventfd_clear(rig->callfds[i]), 1);
	}
	assert_int_equal(vublk_device_status(rig->device), VIRTIO_CONFIG_S_DRIVER_OK);
}

/* --- every moment --------------------------------------------------------------- */

static void test_loss_in_each_state(void **state)
{
	for (unsigned stage = 0; stage < 4; stage++) {
		struct mock mock;
		struct device_rig rig;

		rig_begin(&rig, &mock, "10");
		rig_set_up(&rig, QUEUES);
		if (stage >= 1)
			vublk_device_set_status(rig.device, VIRTIO_CONFIG_S_DRIVER_OK, NULL);
		if (stage >= 2)
			rig_wait(&rig, RIG_STARTED, 1);
		if (stage >= 3)
			vublk_device_set_status(rig.device, 0, NULL);
		mock_hang_up(&mock);
		rig_wait(&rig, RIG_LOST, 1);
		assert_int_equal(rig.calls[RIG_STOPPED], stage ? 1 : 0);
		rig_wait(&rig, RIG_RECONNECTED, 1);
		if (stage == 1 || stage == 2)
			rig_wait(&rig, RIG_STARTED, stage);
		else
			assert_int_equal(vublk_device_state(rig.device), VUBLK_DEVICE_STOPPED);
		assert_int_equal(mock.num_connections, 2);
		assert_int_equal(rig.calls[RIG_NEEDS_RESET], 0);
		if (stage == 3)
			rig_start(&rig, QUEUES);
		rig_end(&rig, &mock);
	}
}

static void test_rings_go_on(void **state)
{
	struct mock mock;
	struct device_rig rig;

	begin_running(&rig, &mock, "10");
	for (unsigned i = 1; i <= 3; i++) {
		mock_hang_up(&mock);
		rig_wait(&rig, RIG_STARTED, 1 + i);
		expect_resumed(&rig, &mock);
		assert_int_equal(rig.calls[RIG_RECONNECTED], i);
	}
	assert_int_equal(rig.calls[RIG_CONFIG_CHANGED], 0);
	rig_stop(&rig);
	rig_end(&rig, &mock);
}

/* The requests that a device sends when it reconnects, in their order. */
static const uint32_t asked[] = {
	VUBLK_VU_GET_FEATURES, VUBLK_VU_GET_PROTOCOL_FEATURES, VUBLK_VU_GET_QUEUE_NUM,
	VUBLK_VU_GET_MAX_MEM_SLOTS, VUBLK_VU_GET_CONFIG, VUBLK_VU_SET_FEATURES,
	VUBLK_VU_GET_STATUS, VUBLK_VU_SET_INFLIGHT_FD, VUBLK_VU_ADD_MEM_REG, VUBLK_VU_SET_VRING_ADDR,
	VUBLK_VU_SET_VRING_ERR, VUBLK_VU_SET_VRING_CALL, VUBLK_VU_SET_VRING_KICK,
	VUBLK_VU_SET_VRING_ENABLE, VUBLK_VU_SET_STATUS,
};

/* Loses the back-end and, by a fault, the next connection. Checks that the rings then resume. */
static void lose_again(struct device_rig *rig, struct mock *mock, enum mock_fault_kind kind,
		       uint32_t request, unsigned bytes)
{
	unsigned started = rig->calls[RIG_STARTED];

	mock_forget(mock);
	mock->fault = (struct mock_fault){ .kind = kind, .request = request, .bytes = bytes };
	mock_hang_up(mock);
	rig_wait(rig, RIG_STARTED, started + 1);
	if (mock->num_connections < 2)
		fail_msg("the fault %d in %s was not met", kind,
			 vublk_vu_request_name(VUBLK_VU_TO_BACKEND, request));
	expect_resumed(rig, mock);
}

static void test_loss_at_each_answer(void **state)
{
	const enum mock_fault_kind kinds[] = { MOCK_CUT, MOCK_WRONG_REQUEST, MOCK_NO_REPLY_FLAG,
					       MOCK_SHORT, MOCK_HUGE };
	struct mock mock;
	struct device_rig rig;

	begin_running(&rig, &mock, "1");
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(asked); i++) {
		for (size_t k = 0; k < VUBLK_ARRAY_SIZE(kinds); k++)
			lose_again(&rig, &mock, kinds[k], asked[i], 0);
		for (unsigned bytes = 1; bytes < 20; bytes += 6)
			lose_again(&rig, &mock, MOCK_CUT, asked[i], bytes);
	}
	assert_int_equal(rig.calls[RIG_NEEDS_RESET], 0);
	rig_end(&rig, &mock);
}

/* If the back-end refuses a message of the start, the device undoes the start and tries again. */
static void test_refused_starts(void **state)
{
	struct mock mock;
	struct device_rig rig;

	begin_running(&rig, &mock, "1");
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(asked); i++)
		if (asked[i] >= VUBLK_VU_SET_VRING_NUM && asked[i] != VUBLK_VU_GET_STATUS &&
		    !vublk_vu_request_info(VUBLK_VU_TO_BACKEND, asked[i])->has_reply) {
			mock.base = 7; /* the answer to GET_VRING_BASE when the start is undone */
			rig_set_indices(&rig, 1, 7, 7);
			mock_forget(&mock);
			mock.fault = (struct mock_fault){ .kind = MOCK_REFUSE, .request = asked[i] };
			mock_hang_up(&mock);
			rig_wait(&rig, RIG_STARTED, rig.calls[RIG_STARTED] + 1);
			assert_true(mock.num_connections >= 2);
		}
	rig_end(&rig, &mock);
}

static void test_silence_at_each_answer(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_prepare(&rig, &mock, "1");
	rig_set(&rig, "request-timeout-ms", "30");
	rig_realize(&rig);
	rig_start(&rig, QUEUES);
	for (unsigned i = 0; i < QUEUES; i++)
		rig_set_indices(&rig, i, (uint16_t)(7 + i), (uint16_t)(7 + i));
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(asked); i++)
		lose_again(&rig, &mock, MOCK_SILENCE, asked[i], 0);
	rig_end(&rig, &mock);
}

/* --- the offer of the new back-end ----------------------------------------------------------- */

/* Waits for `count` connections. By then, the log has the refusal of the previous connection. */
static void run_until_connections(struct device_rig *rig, struct mock *mock, unsigned count)
{
	while (mock->num_connections < count) {
		mock_pump(mock);
		vublk_device_process(rig->device);
	}
}

/*
 * Checks that the device refuses the mock's offer with `sentence`, and accepts the back-end once
 * the offer is that of `good` again.
 */
static void expect_refusal(struct device_rig *rig, struct mock *mock, const struct mock *good,
			   const char *sentence)
{
	unsigned started = rig->calls[RIG_STARTED];
	uint64_t features = vublk_device_features(rig->device);

	mock_hang_up(mock);
	mock_forget(mock);
	run_until_connections(rig, mock, 3);
	if (!strstr(rig->last_line, sentence))
		fail_msg("'%s' is not in '%s'", sentence, rig->last_line);
	assert_int_equal(rig->calls[RIG_STARTED], started);
	assert_int_equal(vublk_device_features(rig->device), features);
	mock->features = good->features;
	mock->max_queues = good->max_queues;
	mock->memory_slots = good->memory_slots;
	memcpy(mock->config, good->config, sizeof(mock->config));
	rig_wait(rig, RIG_STARTED, started + 1);
	expect_resumed(rig, mock);
}

static void test_smaller_offers(void **state)
{
	struct virtio_blk_config *config;
	struct mock mock, good;
	struct device_rig rig;

	begin_running(&rig, &mock, "1");
	good = mock;
	config = (struct virtio_blk_config *)mock.config;
	mock.features &= ~(VUBLK_BIT(VIRTIO_BLK_F_FLUSH) | VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX));
	expect_refusal(&rig, &mock, &good, "does not offer VIRTIO_BLK_F_FLUSH (bit 9), "
		       "VIRTIO_RING_F_EVENT_IDX (bit 29), which the driver accepted");
	mock.features |= VUBLK_BIT(VIRTIO_BLK_F_RO);
	expect_refusal(&rig, &mock, &good, "the back-end is read-only, but the previous one was "
		       "writable");
	mock.max_queues = 1;
	expect_refusal(&rig, &mock, &good, "the back-end has 1 queue, but the device has 4");
	config->blk_size = 4096;
	expect_refusal(&rig, &mock, &good, "the back-end reports 4096 for blk_size, but the driver "
		       "relies on 512");
	config->seg_max = 100;
	expect_refusal(&rig, &mock, &good, "the back-end reports 100 for seg_max, but the driver "
		       "relies on at least 126");
	config->seg_max = 0;
	expect_refusal(&rig, &mock, &good, "reports no valid value for VIRTIO_BLK_F_SEG_MAX");
	config->capacity = UINT64_MAX;
	expect_refusal(&rig, &mock, &good, "a capacity of 18446744073709551615 sectors");
	assert_int_equal(rig.calls[RIG_CONFIG_CHANGED], 0);
	rig_end(&rig, &mock);
}

/* The memory is set in an outage, so it is checked against the limit of the next back-end. */
static void test_too_few_memory_slots(void **state)
{
	struct vublk_memory_region regions[9];
	struct mock mock, good;
	struct device_rig rig;

	begin_running(&rig, &mock, "1");
	good = mock;
	mock_die(&mock);
	rig_wait(&rig, RIG_LOST, 1);
	regions[0] = (struct vublk_memory_region){ RIG_GUEST_ADDR, RIG_MEMORY_BYTES, rig.memfd, 0 };
	for (unsigned i = 1; i < VUBLK_ARRAY_SIZE(regions); i++)
		regions[i] = (struct vublk_memory_region){ i * 4096, 4096, rig.memfd, 0 };
	assert_int_equal(vublk_device_set_memory(rig.device, regions + 1, 1, NULL), -EINVAL);
	assert_int_equal(vublk_device_set_memory(rig.device, regions, 9, NULL), 0);
	mock.memory_slots = 8;
	mock_live_again(&mock);
	mock_forget(&mock);
	run_until_connections(&rig, &mock, 2);
	assert_non_null(strstr(rig.last_line, "the guest's memory has 9 regions, but the back-end "
			       "accepts only 8; use fewer, larger regions"));
	mock.memory_slots = good.memory_slots;
	rig_wait(&rig, RIG_STARTED, 2);
	assert_int_equal(mock.num_regions, 9);
	rig_end(&rig, &mock);
}

static void test_a_resized_disk(void **state)
{
	struct mock mock;
	struct device_rig rig;
	uint32_t generation;
	uint64_t capacity;

	begin_running(&rig, &mock, "1");
	generation = vublk_device_config_generation(rig.device);
	((struct virtio_blk_config *)mock.config)->capacity = 4096;
	mock_hang_up(&mock);
	rig_wait(&rig, RIG_STARTED, 2);
	assert_int_equal(rig.calls[RIG_CONFIG_CHANGED], 1);
	assert_int_equal(vublk_device_config_generation(rig.device), generation + 1);
	vublk_device_config_read(rig.device, 0, &capacity, sizeof(capacity));
	assert_int_equal(capacity, 4096);
	expect_resumed(&rig, &mock);
	rig_end(&rig, &mock);
}

/*
 * The driver relies on its setting of the write cache. A new back-end begins with its own default,
 * so the device writes the setting again.
 */
static void test_the_write_cache_is_kept(void **state)
{
	uint8_t wce = 0;
	struct mock mock;
	struct device_rig rig;

	begin_running(&rig, &mock, "1");
	assert_int_equal(vublk_device_config_write(rig.device, 32, &wce, 1, NULL), 1);
	rig_wait(&rig, RIG_CONFIG_WRITTEN, 1);
	assert_int_equal(mock.config[32], 0);
	for (unsigned i = 0; i < 2; i++) {
		mock.config[32] = 1;
		mock_hang_up(&mock);
		mock_forget(&mock);
		if (i)
			mock.fault = (struct mock_fault){ .kind = MOCK_REFUSE,
							  .request = VUBLK_VU_SET_CONFIG };
		rig_wait(&rig, RIG_STARTED, 2 + i);
		assert_int_equal(mock.config[32], 0);
		assert_int_equal(mock.num_connections, 1 + i);
		expect_resumed(&rig, &mock);
	}
	assert_int_equal(rig.calls[RIG_CONFIG_CHANGED], 0);
	rig_end(&rig, &mock);
}

/* --- requests that were outstanding --------------------------------------------------------- */

static void test_outstanding_requests(void **state)
{
	struct mock mock;
	struct device_rig rig;

	mock_init(&mock);
	mock.protocol_features &= ~VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD);
	rig_init_with_mock(&rig, &mock);
	rig_set(&rig, "reconnect-ms", "1");
	rig_realize(&rig);
	rig_start(&rig, QUEUES);
	rig_set_indices(&rig, 1, 8, 11);
	mock_forget(&mock);
	mock_hang_up(&mock);
	rig_wait(&rig, RIG_NEEDS_RESET, 1);
	assert_non_null(strstr(rig.errors[RIG_NEEDS_RESET].text,
			       "queue 1: the connection to the back-end was lost with up to 3 "));
	assert_int_equal(vublk_device_state(rig.device), VUBLK_DEVICE_STOPPED);
	mock_hang_up(&mock); /* another loss changes nothing */
	rig_wait(&rig, RIG_RECONNECTED, 2);
	rig_settle(&rig);
	assert_int_equal(rig.calls[RIG_NEEDS_RESET], 1);
	assert_int_equal(rig.calls[RIG_STARTED], 1);
	assert_int_equal(mock.received[VUBLK_VU_SET_VRING_KICK], 0);
	assert_int_equal(vublk_device_set_status(rig.device, 0, NULL), 0);
	rig_start(&rig, QUEUES);
	rig_end(&rig, &mock);
}

static unsigned late_used;

/*
 * Adds requests in the outage. The lost back-end, still alive, has completed `late_used` of them.
 */
static void add_requests(struct device_rig *rig, enum rig_callback callback)
{
	if (callback == RIG_LOST)
		rig_set_indices(rig, 1, (uint16_t)(8 + late_used), 11);
}

static void lose_without_area(struct device_rig *rig, struct mock *mock, unsigned used)
{
	mock_init(mock);
	mock->protocol_features &= ~VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD);
	rig_init_with_mock(rig, mock);
	rig_set(rig, "reconnect-ms", "1");
	rig_realize(rig);
	rig_start(rig, QUEUES);
	rig_set_indices(rig, 1, 8, 8);
	late_used = used;
	rig->hook = add_requests;
	mock_hang_up(mock);
}

static void test_requests_that_came_after_the_loss(void **state)
{
	struct mock mock;
	struct device_rig rig;

	lose_without_area(&rig, &mock, 0);
	rig_wait(&rig, RIG_STARTED, 2);
	assert_int_equal(mock.given_bases[1], 8);
	assert_int_equal(rig.calls[RIG_NEEDS_RESET], 0);
	rig_end(&rig, &mock);
	/*
	 * If the lost back-end has completed one of the new requests, it may have seen all of them.
	 */
	lose_without_area(&rig, &mock, 1);
	rig_wait(&rig, RIG_NEEDS_RESET, 1);
	assert_non_null(strstr(rig.errors[RIG_NEEDS_RESET].text, "up to 2 requests"));
	rig_end(&rig, &mock);
}

/* Returns the number of warnings at two losses of a back-end that lacks the given features. */
static unsigned count_warnings(uint64_t lacks_protocol, uint64_t lacks, const char *warn,
			       const char *inflight)
{
	struct mock mock;
	struct device_rig rig;
	unsigned count;

	mock_init(&mock);
	mock.protocol_features &= ~lacks_protocol;
	mock.features &= ~lacks;
	rig_init_with_mock(&rig, &mock);
	rig_set(&rig, "reconnect-ms", "1");
	rig_set(&rig, "warn-unflushed", warn);
	rig_set(&rig, "inflight", inflight);
	rig_realize(&rig);
	rig_start(&rig, QUEUES);
	for (unsigned i = 0; i < 2; i++) {
		mock_hang_up(&mock);
		rig_wait(&rig, RIG_STARTED, 2 + i);
	}
	count = rig.num_warnings;
	rig_end(&rig, &mock);
	return count;
}

static void test_unflushed_writes_are_warned_of_once(void **state)
{
	uint64_t area = VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD);
	uint64_t flush = VUBLK_BIT(VIRTIO_BLK_F_FLUSH);

	assert_int_equal(count_warnings(area, 0, "on", "on"), 1);
	assert_int_equal(count_warnings(area, 0, "off", "on"), 0);
	assert_int_equal(count_warnings(area, flush, "on", "on"), 0); /* the back-end has no cache */
	/* A back-end with an in-flight area is designed to survive a loss. */
	assert_int_equal(count_warnings(0, 0, "on", "on") + count_warnings(0, 0, "on", "off"), 0);
}

/* The reasons of the refusals alternate, so each differs from the previous one. Few are logged. */
static void test_each_refusal_is_told_once(void **state)
{
	uint64_t features, lacks[] = {
		VUBLK_BIT(VIRTIO_BLK_F_DISCARD), VUBLK_BIT(VIRTIO_BLK_F_WRITE_ZEROES),
	};
	struct mock mock;
	struct device_rig rig;

	begin_running(&rig, &mock, "1");
	features = mock.features;
	mock.features = features & ~lacks[0];
	mock_hang_up(&mock);
	for (unsigned i = 1; i <= 20; i++) {
		unsigned next = mock.num_connections + 1;

		while (mock.num_connections < next)
			rig_turn(&rig, 10);
		mock.features = features & ~lacks[i % 2];
	}
	assert_int_equal(rig.num_warnings, 2);
	for (unsigned bit = 0; bit < 40; bit++) {
		unsigned next = mock.num_connections + 1;

		mock.features = features & ~(VUBLK_BIT(VIRTIO_BLK_F_FLUSH) | bit % 2 * lacks[0] |
					     bit / 2 % 2 * lacks[1] |
					     bit / 4 % 2 * VUBLK_BIT(VIRTIO_BLK_F_SEG_MAX) |
					     bit / 8 % 2 * VUBLK_BIT(VIRTIO_BLK_F_TOPOLOGY) |
					     bit / 16 % 2 * VUBLK_BIT(VIRTIO_BLK_F_CONFIG_WCE));
		while (mock.num_connections < next)
			rig_turn(&rig, 10);
	}
	assert_in_range(rig.num_warnings, 3, 16);
	mock.features = features;
	rig_wait(&rig, RIG_STARTED, 2);
	rig_end(&rig, &mock);
}

/* --- the in-flight area ------------------------------------------------------------------- */

static unsigned position(const struct mock *mock, uint32_t request)
{
	for (unsigned i = 0; i < mock->num_log; i++)
		if (mock->log[i] == request)
			return i;
	fail_msg("%s was not sent", vublk_vu_request_name(VUBLK_VU_TO_BACKEND, request));
	return 0;
}

static void expect_area(const struct mock *mock, uint64_t inode)
{
	assert_int_equal(mock->received[VUBLK_VU_SET_INFLIGHT_FD], 1);
	assert_int_equal(mock->inflight_inode, inode);
	assert_int_equal(mock->inflight.mmap_size, 8192);
	assert_int_equal(mock->inflight.mmap_offset, 0);
	assert_int_equal(mock->inflight.num_queues, 4);
	assert_int_equal(mock->inflight.queue_size, RIG_QUEUE_SIZE);
}

/*
 * The in-flight area is made once per session, after the features are set. Each back-end gets it
 * after the sizes of all queues and before the memory.
 */
static void test_the_area_outlives_back_ends(void **state)
{
	struct mock mock;
	struct device_rig rig;
	uint64_t inode;

	rig_begin(&rig, &mock, "1");
	mock_forget(&mock);
	rig_start(&rig, QUEUES);
	assert_int_equal(mock.received[VUBLK_VU_GET_INFLIGHT_FD], 1);
	assert_true(position(&mock, VUBLK_VU_SET_FEATURES) <
		    position(&mock, VUBLK_VU_GET_INFLIGHT_FD));
	assert_int_equal(mock.log[position(&mock, VUBLK_VU_SET_INFLIGHT_FD) - 1],
			 VUBLK_VU_SET_VRING_NUM);
	assert_int_equal(mock.log[position(&mock, VUBLK_VU_SET_INFLIGHT_FD) - 2],
			 VUBLK_VU_SET_VRING_NUM);
	assert_true(position(&mock, VUBLK_VU_SET_INFLIGHT_FD) <
		    position(&mock, VUBLK_VU_ADD_MEM_REG));
	inode = mock.inflight_inode;
	expect_area(&mock, inode);
	for (unsigned i = 0; i < QUEUES; i++)
		rig_set_indices(&rig, i, (uint16_t)(7 + i), (uint16_t)(10 + i));
	for (unsigned i = 0; i < 3; i++) {
		clear_notifications(&rig);
		mock_forget(&mock);
		vublk_fd_close(&mock.inflight_fd); /* a new process would make another area */
		mock_hang_up(&mock);
		rig_wait(&rig, RIG_STARTED, 2 + i);
		assert_int_equal(mock.received[VUBLK_VU_GET_INFLIGHT_FD], 0);
		expect_area(&mock, inode);
		expect_resumed(&rig, &mock);
	}
	assert_int_equal(rig.calls[RIG_NEEDS_RESET], 0);
	rig_stop(&rig); /* by a reset */
	mock_forget(&mock);
	rig_start(&rig, QUEUES);
	assert_int_equal(mock.received[VUBLK_VU_GET_INFLIGHT_FD], 1);
	assert_int_not_equal(mock.inflight_inode, inode);
	rig_end(&rig, &mock);
}

/* A back-end without the in-flight area makes the records in the area out of date. */
static void test_a_back_end_without_the_area_in_between(void **state)
{
	uint64_t features, inode;
	struct mock mock;
	struct device_rig rig;

	begin_running(&rig, &mock, "1");
	features = mock.protocol_features;
	inode = mock.inflight_inode;
	mock.protocol_features &= ~VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD);
	mock_hang_up(&mock);
	rig_wait(&rig, RIG_STARTED, 2);
	expect_resumed(&rig, &mock);
	assert_int_equal(mock.received[VUBLK_VU_SET_INFLIGHT_FD], 0);
	assert_int_equal(rig.device->inflight.fd, -1);
	mock.protocol_features = features;
	vublk_fd_close(&mock.inflight_fd);
	mock_hang_up(&mock);
	rig_wait(&rig, RIG_STARTED, 3);
	assert_int_equal(mock.received[VUBLK_VU_GET_INFLIGHT_FD], 1);
	assert_int_not_equal(mock.inflight_inode, inode);
	/*
	 * With requests outstanding, the device does not know which of them the back-end without
	 * the area has begun.
	 */
	mock.protocol_features &= ~VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD);
	rig_set_indices(&rig, 0, 8, 9);
	mock_hang_up(&mock);
	rig_wait(&rig, RIG_NEEDS_RESET, 1);
	mock.protocol_features = features;
	mock_hang_up(&mock);
	rig_wait(&rig, RIG_RECONNECTED, 4);
	rig_settle(&rig);
	assert_int_equal(rig.calls[RIG_STARTED], 3);
	rig_end(&rig, &mock);
}

/* If the answer to GET_INFLIGHT_FD is invalid, the device asks again on another connection. */
static void test_bad_areas(void **state)
{
	const struct mock_fault faults[] = {
		{ .kind = MOCK_VALUE, .value = 0 }, { .kind = MOCK_VALUE, .value = 8193 },
		{ .kind = MOCK_VALUE, .value = UINT64_MAX }, { .kind = MOCK_WITH_FDS },
		{ .kind = MOCK_EMPTY }, { .kind = MOCK_CUT, .bytes = 15 },
		{ .kind = MOCK_WITH_MANY_FDS }, { .kind = MOCK_TWICE },
	};

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(faults); i++) {
		struct mock mock;
		struct device_rig rig;

		rig_begin(&rig, &mock, "1");
		mock.fault = faults[i];
		mock.fault.request = VUBLK_VU_GET_INFLIGHT_FD;
		rig_set_up(&rig, QUEUES);
		assert_int_equal(vublk_device_set_status(rig.device, VIRTIO_CONFIG_S_DRIVER_OK,
							 NULL), 0);
		rig_wait(&rig, RIG_STARTED, 1);
		assert_int_equal(mock.num_connections, 2);
		assert_int_equal(mock.inflight.mmap_size, 8192);
		assert_int_equal(rig.calls[RIG_NEEDS_RESET], 0);
		rig_end(&rig, &mock);
	}
}

/* During an outage, the driver can reset the device and start it with the next back-end. */
static void test_the_driver_goes_on(void **state)
{
	struct vublk_device_queue queue = { .size = RIG_QUEUE_SIZE };
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;

	begin_running(&rig, &mock, "1");
	mock_die(&mock);
	rig_wait(&rig, RIG_LOST, 1);
	assert_int_equal(vublk_device_set_queue(rig.device, 0, &queue, sizeof(queue), &error), -EBUSY);
	assert_string_equal(error.text, "setting up a queue is possible only after the driver has "
			    "reset the device, because its rings are in use and resume when a "
			    "back-end connects");
	assert_int_equal(vublk_device_set_status(rig.device, 0, NULL), 0);
	rig_set_up(&rig, 1);
	assert_int_equal(vublk_device_set_status(rig.device, VIRTIO_CONFIG_S_DRIVER_OK, &error), 0);
	mock_live_again(&mock);
	rig_wait(&rig, RIG_STARTED, 2);
	assert_int_equal(mock.received[VUBLK_VU_SET_VRING_KICK], 1);
	assert_int_equal(mock.given_bases[0], 0);
	rig_end(&rig, &mock);
}

/* --- the next try -------------------------------------------------------------------- */

/* Returns whether inotify is available. Without it, only the timer can wake the device. */
static bool has_inotify(void)
{
	int fd = inotify_init1(IN_CLOEXEC);
	bool has = fd >= 0;

	vublk_fd_close(&fd);
	return has;
}

static void test_a_new_socket_wakes(void **state)
{
	struct mock mock;
	struct device_rig rig;

	/* Without inotify only the timer remains, which test-device-scarce.c covers. */
	begin_running(&rig, &mock, has_inotify() ? "3600000" : "10");
	for (unsigned i = 1; i <= 3; i++) {
		mock_die(&mock);
		rig_wait(&rig, RIG_LOST, i);
		if (rig.device->reconnect.watch.loop) {
			rig_settle(&rig);
			vublk_loop_timer_disarm(&rig.device->connect_timer);
		}
		mock_live_again(&mock);
		rig_wait(&rig, RIG_STARTED, 1 + i);
		expect_resumed(&rig, &mock);
		assert_null(rig.device->reconnect.watch.loop);
	}
	rig_end(&rig, &mock);
}

static void test_giving_up(void **state)
{
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;

	rig_prepare(&rig, &mock, "5");
	rig_set(&rig, "reconnect-deadline-ms", "40");
	rig_realize(&rig);
	rig_start(&rig, QUEUES);
	mock_die(&mock);
	rig_wait(&rig, RIG_GAVE_UP, 1);
	assert_int_equal(rig.errors[RIG_GAVE_UP].code, ENOENT);
	assert_non_null(strstr(rig.errors[RIG_GAVE_UP].text,
			       "the device gave up reconnecting after 40 ms: the socket '"));
	assert_int_equal(vublk_device_state(rig.device), VUBLK_DEVICE_LOST);
	vublk_device_set_status(rig.device, 0, NULL);
	rig_set_up(&rig, 1);
	assert_int_equal(vublk_device_set_status(rig.device, VIRTIO_CONFIG_S_DRIVER_OK, &error),
			 -ENOTCONN);
	mock_live_again(&mock);
	rig_settle(&rig);
	assert_int_equal(mock.num_connections, 1);
	vublk_device_unrealize(rig.device);
	rig_realize(&rig);
	rig_end(&rig, &mock);
}

/* The device is unrealized after each number of steps of an outage and a reconnection. */
static void test_unrealize_at_each_step(void **state)
{
	for (unsigned steps = 0; steps < 60; steps++) {
		unsigned fds = vublk_test_count_fds();
		struct mock mock;
		struct device_rig rig;

		begin_running(&rig, &mock, "1");
		if (steps % 2)
			mock_hang_up(&mock);
		else
			mock_die(&mock);
		for (unsigned i = 0; i < steps / 2; i++) {
			mock_pump(&mock);
			vublk_device_process(rig.device);
		}
		vublk_device_unrealize(rig.device);
		assert_int_equal(vublk_device_state(rig.device), VUBLK_DEVICE_CREATED);
		memset(rig.calls, 0, sizeof(rig.calls));
		rig_settle(&rig);
		for (unsigned i = 0; i < RIG_NUM_CALLBACKS; i++)
			assert_int_equal(rig.calls[i], 0);
		rig_end(&rig, &mock);
		assert_int_equal(vublk_test_count_fds(), fds);
	}
}

static enum rig_callback unrealize_in;

static void unrealize_hook(struct device_rig *rig, enum rig_callback callback)
{
	if (callback == unrealize_in)
		vublk_device_unrealize(rig->device);
}

static void test_unrealize_in_callbacks(void **state)
{
	const enum rig_callback callbacks[] = { RIG_STOPPED, RIG_LOST, RIG_RECONNECTED,
						RIG_CONFIG_CHANGED, RIG_NEEDS_RESET, RIG_GAVE_UP };

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(callbacks); i++) {
		struct mock mock;
		struct device_rig rig;

		rig_prepare(&rig, &mock, "1");
		rig_set(&rig, "reconnect-deadline-ms", "20");
		rig_set(&rig, "inflight", "off");
		rig_realize(&rig);
		rig_start(&rig, QUEUES);
		rig_set_indices(&rig, 0, 0, 1);
		unrealize_in = callbacks[i];
		rig.hook = unrealize_hook;
		mock.config[0]++;
		if (callbacks[i] == RIG_GAVE_UP)
			mock_die(&mock);
		else
			mock_hang_up(&mock);
		rig_wait(&rig, callbacks[i], 1);
		assert_int_equal(vublk_device_state(rig.device), VUBLK_DEVICE_CREATED);
		rig.hook = NULL;
		if (callbacks[i] == RIG_GAVE_UP)
			mock_live_again(&mock);
		rig_realize(&rig);
		rig_end(&rig, &mock);
	}
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_loss_in_each_state),
		VUBLK_TEST(test_rings_go_on),
		VUBLK_TEST(test_loss_at_each_answer),
		VUBLK_TEST(test_refused_starts),
		VUBLK_TEST(test_silence_at_each_answer),
		VUBLK_TEST(test_smaller_offers),
		VUBLK_TEST(test_too_few_memory_slots),
		VUBLK_TEST(test_a_resized_disk),
		VUBLK_TEST(test_the_write_cache_is_kept),
		VUBLK_TEST(test_outstanding_requests),
		VUBLK_TEST(test_requests_that_came_after_the_loss),
		VUBLK_TEST(test_unflushed_writes_are_warned_of_once),
		VUBLK_TEST(test_each_refusal_is_told_once),
		VUBLK_TEST(test_the_area_outlives_back_ends),
		VUBLK_TEST(test_a_back_end_without_the_area_in_between),
		VUBLK_TEST(test_bad_areas),
		VUBLK_TEST(test_the_driver_goes_on),
		VUBLK_TEST(test_a_new_socket_wakes),
		VUBLK_TEST(test_giving_up),
		VUBLK_TEST(test_unrealize_at_each_step),
		VUBLK_TEST(test_unrealize_in_callbacks),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
