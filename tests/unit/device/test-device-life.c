/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The life of a device: the order of the messages to the back-end, events that overtake other
 * events, and unrealize at any moment.
 *
 * Key idea: the mock records every request, and answers only when the case runs it. So each case
 * can place an event between two messages, and compare the recorded requests with the expected
 * ones.
 */
#include "harness.h"

#include "mock/device-rig.h"

#include "util/checked.h"
#include "util/fd.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <string.h>

static int set_status(struct device_rig *rig, uint8_t status, struct vublk_error *error)
{
	return vublk_device_set_status(rig->device, status, error);
}

static void hang_up(struct mock *mock)
{
	vublk_channel_deinit(&mock->channel);
	mock->channel.fd = -1;
}

/* --- the order of messages ---------------------------------------------------------------- */

static void expect_log(const struct mock *mock, const uint32_t *expected, unsigned count)
{
	for (unsigned i = 0; i < count && i < mock->num_log; i++)
		if (mock->log[i] != expected[i])
			fail_msg("message %u is %s, not %s", i,
				 vublk_vu_request_name(VUBLK_VU_TO_BACKEND, mock->log[i]),
				 vublk_vu_request_name(VUBLK_VU_TO_BACKEND, expected[i]));
	assert_int_equal(mock->num_log, count);
}

#define EXPECT_LOG(mock, ...)                                                   \
	expect_log(mock, (const uint32_t[]){ __VA_ARGS__ },                     \
		   sizeof((const uint32_t[]){ __VA_ARGS__ }) / sizeof(uint32_t))

#define QUEUE VUBLK_VU_SET_VRING_NUM, VUBLK_VU_SET_VRING_BASE, VUBLK_VU_SET_VRING_ADDR, \
	VUBLK_VU_SET_VRING_ERR, VUBLK_VU_SET_VRING_CALL, VUBLK_VU_SET_VRING_KICK

static void test_order_of_messages(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, NULL);
	EXPECT_LOG(&mock, VUBLK_VU_SET_OWNER, VUBLK_VU_GET_FEATURES, VUBLK_VU_GET_PROTOCOL_FEATURES,
		   VUBLK_VU_SET_PROTOCOL_FEATURES, VUBLK_VU_GET_QUEUE_NUM,
		   VUBLK_VU_GET_MAX_MEM_SLOTS, VUBLK_VU_SET_BACKEND_REQ_FD, VUBLK_VU_GET_CONFIG);
	assert_int_equal(rig.round_trips, 3);
	for (unsigned i = 0; i < 3; i++) {
		mock_forget(&mock);
		rig_start(&rig, 2);
		if (!i)
			EXPECT_LOG(&mock, VUBLK_VU_SET_FEATURES, VUBLK_VU_SET_STATUS,
				   VUBLK_VU_GET_STATUS, VUBLK_VU_ADD_MEM_REG, QUEUE, QUEUE,
				   VUBLK_VU_SET_VRING_ENABLE, VUBLK_VU_SET_VRING_ENABLE,
				   VUBLK_VU_SET_STATUS);
		else /* the unchanged memory is not sent again */
			EXPECT_LOG(&mock, VUBLK_VU_SET_FEATURES, VUBLK_VU_SET_STATUS,
				   VUBLK_VU_GET_STATUS, VUBLK_VU_GET_FEATURES, QUEUE, QUEUE,
				   VUBLK_VU_SET_VRING_ENABLE, VUBLK_VU_SET_VRING_ENABLE,
				   VUBLK_VU_SET_STATUS);
		assert_int_equal(mock.status, 15);
		assert_int_equal(rig.round_trips, 2);
		mock_forget(&mock);
		rig_stop(&rig);
		EXPECT_LOG(&mock, VUBLK_VU_SET_VRING_ENABLE, VUBLK_VU_SET_VRING_ENABLE,
			   VUBLK_VU_GET_VRING_BASE, VUBLK_VU_GET_VRING_BASE, VUBLK_VU_SET_STATUS);
		assert_int_equal(mock.status, 0);
	}
	rig_end(&rig, &mock);
}

/* The device accepts only the features that it implements, and bit 30 (protocol features). */
static void test_what_is_accepted(void **state)
{
	struct vublk_device_info info;
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, NULL);
	assert_int_equal(mock.accepted_protocol_features,
			 VUBLK_BIT(VUBLK_VU_F_MQ) | VUBLK_BIT(VUBLK_VU_F_REPLY_ACK) |
			 VUBLK_BIT(VUBLK_VU_F_BACKEND_REQ) | VUBLK_BIT(VUBLK_VU_F_CONFIG) |
			 VUBLK_BIT(VUBLK_VU_F_CONFIGURE_MEM_SLOTS) | VUBLK_BIT(VUBLK_VU_F_STATUS) |
			 VUBLK_BIT(VUBLK_VU_F_LOG_SHMFD));
	vublk_device_get_info(rig.device, &info, sizeof(info));
	assert_int_equal(info.protocol_features, mock.accepted_protocol_features);
	assert_int_equal(info.backend_protocol_features, mock.protocol_features);
	assert_int_equal(info.backend_features, mock.features);
	rig_start(&rig, 1);
	assert_int_equal(mock.accepted_features,
			 vublk_device_features(rig.device) | VUBLK_BIT(30));
	rig_end(&rig, &mock);
}

/* The simplest back-end has one queue, no confirmations, and a memory table instead of slots. */
static void test_a_simple_back_end(void **state)
{
	struct mock mock;
	struct device_rig rig;

	mock_init(&mock);
	mock.protocol_features = VUBLK_BIT(VUBLK_VU_F_CONFIG);
	rig_init_with_mock(&rig, &mock);
	rig_realize(&rig);
	assert_int_equal(vublk_device_num_queues(rig.device), 1);
	mock_forget(&mock);
	rig_start(&rig, 1);
	EXPECT_LOG(&mock, VUBLK_VU_SET_FEATURES, VUBLK_VU_GET_FEATURES, VUBLK_VU_SET_MEM_TABLE,
		   VUBLK_VU_GET_FEATURES, QUEUE, VUBLK_VU_SET_VRING_ENABLE, VUBLK_VU_GET_FEATURES);
	mock_forget(&mock);
	mock.base = 77;
	rig_stop(&rig);
	EXPECT_LOG(&mock, VUBLK_VU_SET_VRING_ENABLE, VUBLK_VU_GET_VRING_BASE);
	assert_int_equal(vublk_device_queue_base(rig.device, 0), 77);
	rig_end(&rig, &mock);
}

/* --- queues -------------------------------------------------------------------------------------- */

static void test_number_of_queues(void **state)
{
	struct mock mock;
	struct device_rig rig;

	mock_init(&mock);
	mock.max_queues = 128;
	rig_init_with_mock(&rig, &mock);
	rig_realize(&rig);
	assert_int_equal(vublk_device_num_queues(rig.device), 16);
	vublk_device_unrealize(rig.device);
	rig_set(&rig, "num-queues-limit", "256");
	rig_realize(&rig);
	assert_int_equal(vublk_device_num_queues(rig.device), 128);
	vublk_device_unrealize(rig.device);
	rig_set(&rig, "num-queues", "129");
	rig_realize_fails(&rig, EINVAL);
	assert_non_null(strstr(rig.errors[RIG_REALIZED].text,
			       "num-queues is 129, but the back-end has only 128"));
	rig_set(&rig, "num-queues", "auto");
	mock.features &= ~VUBLK_BIT(VIRTIO_BLK_F_MQ);
	rig_realize(&rig);
	assert_int_equal(vublk_device_num_queues(rig.device), 1);
	rig_end(&rig, &mock);
}

/*
 * 256 queues, with and without confirmations. The device sends the messages of the queues in
 * batches that fit into the socket.
 */
static void test_many_queues(void **state)
{
	for (unsigned blind = 0; blind < 2; blind++) {
		struct mock mock;
		struct device_rig rig;

		mock_init(&mock);
		mock.max_queues = 256;
		if (blind)
			mock.protocol_features = VUBLK_BIT(VUBLK_VU_F_CONFIG) |
						 VUBLK_BIT(VUBLK_VU_F_MQ);
		rig_init_with_mock(&rig, &mock);
		rig_set(&rig, "num-queues", "256");
		rig_realize(&rig);
		rig_set_up(&rig, 1);
		for (unsigned i = 1; i < 256; i++) {
			struct vublk_device_queue queue = {
				.size = 2, .desc_addr = RIG_GUEST_ADDR, .avail_addr = RIG_GUEST_ADDR,
				.used_addr = RIG_GUEST_ADDR, .kick_fd = rig.kicks[0], .call_fd = -1,
			};

			assert_int_equal(vublk_device_set_queue(rig.device, i, &queue,
								sizeof(queue), NULL), 0);
		}
		mock_forget(&mock);
		assert_int_equal(set_status(&rig, VIRTIO_CONFIG_S_DRIVER_OK, NULL), 0);
		rig_wait(&rig, RIG_STARTED, 1);
		assert_int_equal(mock.received[VUBLK_VU_SET_VRING_KICK], 256);
		assert_int_equal(mock.received[VUBLK_VU_SET_VRING_ENABLE], 256);
		rig_stop(&rig);
		assert_int_equal(mock.received[VUBLK_VU_GET_VRING_BASE], 256);
		rig_end(&rig, &mock);
	}
}

static void test_bad_queues(void **state)
{
	struct vublk_device_queue queue;
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, NULL);
	rig_set_up(&rig, 1);
	queue = (struct vublk_device_queue){ .size = 8, .kick_fd = -1, .call_fd = -1 };
	assert_int_equal(vublk_device_set_queue(rig.device, 4, &queue, sizeof(queue), &error), -EINVAL);
	assert_string_equal(error.text, "there is no queue 4; the device has 4 queues");
	queue.size = 12;
	assert_int_equal(vublk_device_set_queue(rig.device, 1, &queue, sizeof(queue), &error), -EINVAL);
	assert_string_equal(error.text,
			    "queue 1: the size must be a power of two from 2 to 16, not 12");
	queue.size = 32;
	assert_int_equal(vublk_device_set_queue(rig.device, 1, &queue, sizeof(queue), &error), -EINVAL);
	queue.size = 8;
	queue.used_addr = 2;
	assert_int_equal(vublk_device_set_queue(rig.device, 1, &queue, sizeof(queue), &error), -EINVAL);
	assert_non_null(strstr(error.text, "aligned to 16, 2 and 4 bytes"));
	queue.used_addr = RIG_GUEST_ADDR;
	/* The given size excludes call_fd. Unchecked, call_fd would be read as descriptor 0. */
	assert_int_equal(vublk_device_set_queue(rig.device, 1, &queue,
						offsetof(struct vublk_device_queue, call_fd), &error),
			 -EINVAL);
	assert_string_equal(error.text, "the size passed for struct vublk_device_queue, 36 bytes, "
			    "does not include its member call_fd; pass the sizeof of the struct");
	queue.used_addr = RIG_GUEST_ADDR + RIG_MEMORY_BYTES - 8;
	assert_int_equal(vublk_device_set_queue(rig.device, 1, &queue, sizeof(queue), &error), 0);
	assert_int_equal(set_status(&rig, VIRTIO_CONFIG_S_DRIVER_OK, &error), -EINVAL);
	assert_non_null(strstr(error.text, "queue 1: the parts of the ring, at 0x0"));
	assert_int_equal(vublk_device_set_queue(rig.device, 1, NULL, 0, &error), 0);
	assert_int_equal(set_status(&rig, VIRTIO_CONFIG_S_DRIVER_OK, &error), 0);
	assert_int_equal(vublk_device_set_queue(rig.device, 1, NULL, 0, &error), -EBUSY);
	assert_string_equal(error.text,
			    "setting up a queue is not possible while the device "
			    "is starting");
	rig_end(&rig, &mock);
}

/* --- events that overtake others ------------------------------------------------------------------------- */

static void test_start_needs_what_it_needs(void **state)
{
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;

	rig_prepare(&rig, &mock, NULL);
	assert_int_equal(set_status(&rig, 1, &error), -EBUSY);
	rig_realize(&rig);
	assert_int_equal(set_status(&rig, 3, &error), 0);
	assert_int_equal(vublk_device_status(rig.device), 3);
	assert_int_equal(set_status(&rig, 7, &error), -EINVAL);
	assert_non_null(strstr(error.text, "has not accepted features"));
	vublk_device_ack_features(rig.device, vublk_device_features(rig.device), NULL);
	assert_int_equal(set_status(&rig, 7, &error), -EINVAL);
	assert_non_null(strstr(error.text, "memory has not been set"));
	assert_int_equal(vublk_device_status(rig.device), 3);
	rig_end(&rig, &mock);
}

/*
 * A reset comes during the start. The device stops the rings when the start is done, and never
 * calls started().
 */
static void test_reset_while_starting(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, NULL);
	for (unsigned i = 1; i <= 2; i++) {
		rig_set_up(&rig, 2);
		assert_int_equal(set_status(&rig, VIRTIO_CONFIG_S_DRIVER_OK, NULL), 0);
		for (unsigned k = 1; k < i; k++) { /* in round 2, the reset comes later during the start */
			mock_pump(&mock);
			vublk_device_process(rig.device);
		}
		assert_int_equal(vublk_device_state(rig.device), VUBLK_DEVICE_STARTING);
		assert_int_equal(set_status(&rig, 0, NULL), 0);
		assert_int_equal(set_status(&rig, 1, NULL), -EBUSY);
		rig_wait(&rig, RIG_STOPPED, i);
		assert_int_equal(rig.calls[RIG_STARTED], 0);
		assert_int_equal(vublk_device_state(rig.device), VUBLK_DEVICE_STOPPED);
	}
	rig_start(&rig, 2);
	rig_end(&rig, &mock);
}

/* A reset discards the queues and the features, but keeps the memory and the connection. */
static void test_reset_forgets(void **state)
{
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, NULL);
	rig_start(&rig, 2);
	mock.base = 5;
	rig_stop(&rig);
	assert_int_equal(vublk_device_queue_base(rig.device, 1), 5);
	assert_int_equal(set_status(&rig, VIRTIO_CONFIG_S_DRIVER_OK, &error), -EINVAL);
	vublk_device_ack_features(rig.device, vublk_device_features(rig.device), NULL);
	mock_forget(&mock);
	assert_int_equal(set_status(&rig, VIRTIO_CONFIG_S_DRIVER_OK, &error), 0);
	rig_wait(&rig, RIG_STARTED, 2);
	assert_int_equal(mock.received[VUBLK_VU_SET_VRING_NUM], 0);
	assert_int_equal(mock.num_connections, 0);
	rig_end(&rig, &mock);
}

static void test_loss_in_each_state(void **state)
{
	for (unsigned stage = 0; stage < 4; stage++) {
		struct vublk_error error;
		struct mock mock;
		struct device_rig rig;

		rig_begin(&rig, &mock, NULL);
		rig_set_up(&rig, 2);
		if (stage >= 1)
			set_status(&rig, VIRTIO_CONFIG_S_DRIVER_OK, NULL);
		if (stage >= 2)
			rig_wait(&rig, RIG_STARTED, 1);
		if (stage >= 3)
			set_status(&rig, 0, NULL);
		hang_up(&mock);
		rig_wait(&rig, RIG_LOST, 1);
		assert_int_equal(rig.errors[RIG_LOST].code, ENOTCONN);
		assert_int_equal(rig.calls[RIG_STOPPED], stage ? 1 : 0);
		assert_int_equal(vublk_device_state(rig.device), VUBLK_DEVICE_LOST);
		assert_int_equal(vublk_device_realize(rig.device, &error), -EBUSY);
		assert_string_equal(error.text,
				    "realizing is only possible while the device is created; it is "
				    "lost");
		set_status(&rig, 0, NULL);
		assert_int_equal(set_status(&rig, VIRTIO_CONFIG_S_DRIVER_OK, &error), -ENOTCONN);
		vublk_device_unrealize(rig.device);
		rig_realize(&rig);
		rig_end(&rig, &mock);
	}
}

/*
 * The back-end signals a queue's error eventfd. The device reports the error once, and there is no
 * other effect.
 */
static void test_ring_error(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, NULL);
	for (unsigned i = 1; i <= 2; i++) {
		rig_start(&rig, 2);
		vublk_eventfd_signal(mock.err_fds[1]);
		rig_wait(&rig, RIG_NEEDS_RESET, i);
		assert_non_null(strstr(rig.errors[RIG_NEEDS_RESET].text, "the ring of queue 1 is broken"));
		vublk_eventfd_signal(mock.err_fds[1]);
		rig_settle(&rig);
		assert_int_equal(rig.calls[RIG_NEEDS_RESET], i);
		rig_stop(&rig);
	}
	rig_end(&rig, &mock);
}

/* --- forced shutdown -------------------------------------------------------------------------- */

/* The back-end hangs. A forced shutdown does not wait for it, in any state of the rings. */
static void test_forced_shutdown(void **state)
{
	for (unsigned moment = 0; moment < 3; moment++) {
		struct mock mock;
		struct device_rig rig;

		rig_prepare(&rig, &mock, NULL);
		rig_set(&rig, "skip-get-vring-base-on-force-shutdown", "on");
		rig_set(&rig, "reconnect-ms", "1");
		assert_int_equal(vublk_device_force_shutdown(rig.device), 0);
		rig_realize(&rig);
		rig_set_up(&rig, 2);
		set_status(&rig, VIRTIO_CONFIG_S_DRIVER_OK, NULL);
		if (moment >= 1)
			rig_wait(&rig, RIG_STARTED, 1);
		if (moment >= 2)
			set_status(&rig, 0, NULL);
		mock_forget(&mock);
		rig.pump = NULL; /* the back-end answers nothing from here on */
		assert_int_equal(vublk_device_force_shutdown(rig.device), 1);
		rig_wait(&rig, RIG_LOST, 1);
		assert_int_equal(rig.errors[RIG_STOPPED].code, ECANCELED);
		assert_int_equal(rig.errors[RIG_LOST].code, ECANCELED);
		rig.pump = mock_pump;
		rig_settle(&rig);
		assert_int_equal(vublk_device_state(rig.device), VUBLK_DEVICE_LOST);
		assert_int_equal(mock.num_connections, 0);
		if (moment < 2)
			assert_int_equal(mock.received[VUBLK_VU_GET_VRING_BASE], 0);
		vublk_device_unrealize(rig.device);
		rig_realize(&rig);
		rig_start(&rig, 2);
		rig_end(&rig, &mock);
	}
}

/*
 * Without skip-get-vring-base-on-force-shutdown, a forced shutdown is a normal stop. It ends at the
 * deadline at the latest.
 */
static void test_forced_shutdown_that_asks(void **state)
{
	for (unsigned hangs = 0; hangs < 2; hangs++) {
		struct mock mock;
		struct device_rig rig;

		rig_prepare(&rig, &mock, NULL);
		rig_set(&rig, "request-timeout-ms", hangs ? "30" : "5000");
		rig_set(&rig, "reconnect-ms", "1");
		rig_realize(&rig);
		rig_start(&rig, 2);
		mock_forget(&mock);
		if (hangs)
			mock.fault = (struct mock_fault){ .kind = MOCK_SILENCE,
							  .request = VUBLK_VU_GET_VRING_BASE };
		assert_int_equal(vublk_device_force_shutdown(rig.device), 1);
		rig_wait(&rig, RIG_STOPPED, 1);
		rig_settle(&rig);
		assert_int_equal(rig.errors[RIG_STOPPED].code, hangs ? ETIMEDOUT : 0);
		assert_int_equal(mock.received[VUBLK_VU_GET_VRING_BASE], 2);
		assert_int_equal(mock.num_connections, 0);
		assert_int_equal(vublk_device_force_shutdown(rig.device), 0);
		rig_end(&rig, &mock);
	}
}

/* --- unrealize and free --------------------------------------------------------------------------------------- */

static enum rig_callback unrealize_in;
static bool given_up; /* the hook has unrealized the device, so no callback may follow */

static void unrealize_hook(struct device_rig *rig, enum rig_callback callback)
{
	assert_false(given_up);
	if (callback != unrealize_in)
		return;
	vublk_device_unrealize(rig->device);
	given_up = true;
}

static void unrealize_and_realize_hook(struct device_rig *rig, enum rig_callback callback)
{
	if (callback != unrealize_in)
		return;
	vublk_device_unrealize(rig->device);
	rig->hook = NULL;
	assert_int_equal(vublk_device_realize(rig->device, NULL), 0);
}

/*
 * Triggers the callbacks one after the other. Returns early when a callback has unrealized the
 * device.
 */
static void live(struct device_rig *rig, struct mock *mock)
{
	struct vublk_memory_region regions[2];
	uint8_t wce = 0;

	assert_int_equal(vublk_device_realize(rig->device, NULL), 0);
	rig_wait(rig, RIG_REALIZED, 1);
	if (vublk_device_state(rig->device) != VUBLK_DEVICE_STOPPED)
		return;
	rig_set_up(rig, 2);
	set_status(rig, VIRTIO_CONFIG_S_DRIVER_OK, NULL);
	rig_wait(rig, RIG_STARTED, 1);
	regions[0] = (struct vublk_memory_region){ RIG_GUEST_ADDR, RIG_MEMORY_BYTES, rig->memfd, 0 };
	regions[1] = (struct vublk_memory_region){ 0x1000, 4096, rig->memfd, 0 };
	if (vublk_device_set_memory(rig->device, regions, 2, NULL) < 0)
		return;
	rig_wait(rig, RIG_MEMORY_CHANGED, 1);
	if (vublk_device_config_write(rig->device, 32, &wce, 1, NULL) < 0)
		return;
	mock->config[0]++;
	rig_wait(rig, RIG_CONFIG_WRITTEN, 1);
	if (vublk_device_state(rig->device) != VUBLK_DEVICE_RUNNING)
		return;
	rig_wait(rig, RIG_CONFIG_CHANGED, 1);
	if (vublk_device_state(rig->device) != VUBLK_DEVICE_RUNNING)
		return;
	wce = 1;
	regions[1].guest_addr = 0x2000;
	vublk_device_config_write(rig->device, 32, &wce, 1, NULL);
	vublk_device_set_memory(rig->device, regions, 2, NULL);
	vublk_eventfd_signal(mock->err_fds[0]);
	vublk_device_process(rig->device);
	hang_up(mock);
	rig_settle(rig);
}

static void test_unrealize_in_each_callback(void **state)
{
	for (unsigned again = 0; again < 2; again++)
		for (unsigned callback = 0; callback <= RIG_NEEDS_RESET; callback++) {
			struct mock mock;
			struct device_rig rig;

			rig_prepare(&rig, &mock, NULL);
			unrealize_in = callback;
			given_up = false;
			rig.hook = again ? unrealize_and_realize_hook : unrealize_hook;
			live(&rig, &mock);
			assert_true(rig.calls[callback] >= 1);
			rig_settle(&rig);
			assert_int_equal(vublk_device_state(rig.device),
					 again ? VUBLK_DEVICE_STOPPED : VUBLK_DEVICE_CREATED);
			rig.hook = NULL;
			if (!again)
				rig_realize(&rig);
			rig_start(&rig, 2);
			rig_end(&rig, &mock);
		}
}

/*
 * Frees the device after each number of turns of the loop, up to the number that a whole life
 * needs. Nothing leaks.
 */
static void test_free_after_each_step(void **state)
{
	unsigned fds = vublk_test_count_fds();
	unsigned steps = 0;
	bool whole = false;

	for (; !whole; steps++) {
		struct mock mock;
		struct device_rig rig;

		rig_prepare(&rig, &mock, NULL);
		assert_int_equal(vublk_device_realize(rig.device, NULL), 0);
		for (unsigned i = 0; i < steps && !whole; i++) {
			if (i % 2)
				mock_pump(&mock);
			else
				vublk_device_process(rig.device);
			if (vublk_device_state(rig.device) == VUBLK_DEVICE_STOPPED &&
			    !rig.calls[RIG_STARTED]) {
				rig_set_up(&rig, 2);
				set_status(&rig, VIRTIO_CONFIG_S_DRIVER_OK, NULL);
			}
			if (vublk_device_state(rig.device) == VUBLK_DEVICE_RUNNING)
				set_status(&rig, 0, NULL);
			whole = rig.calls[RIG_STOPPED];
		}
		rig_end(&rig, &mock);
		assert_int_equal(vublk_test_count_fds(), fds);
		assert_true(steps < 200);
	}
	assert_true(steps > 10);
}

/* --- further tries ------------------------------------------------------------------------------------------ */

static void test_retries(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_prepare(&rig, &mock, NULL);
	rig_set(&rig, "realize-retries", "3");
	mock.close_first = 3;
	rig_realize(&rig);
	assert_int_equal(mock.num_connections, 4);
	assert_int_equal(rig.num_failed_tries, 3);
	assert_non_null(strstr(rig.last_failed_try,
			       "attempt 3 of 4 to set up the device failed: "));
	vublk_device_unrealize(rig.device);
	rig_settle(&rig);
	mock_forget(&mock);
	mock.close_first = 100;
	rig_realize_fails(&rig, ENOTCONN);
	assert_int_equal(mock.num_connections, 4);
	assert_in_range(rig.num_failed_tries, 4, 7); /* a limit applies to the log lines */
	rig_end(&rig, &mock);
}

static void test_unrealize_between_tries(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_prepare(&rig, &mock, NULL);
	rig_set(&rig, "realize-retries", "1000");
	mock.close_first = 1;
	assert_int_equal(vublk_device_realize(rig.device, NULL), 0);
	while (!rig.num_failed_tries) {
		mock_pump(&mock);
		vublk_device_process(rig.device);
	}
	vublk_device_unrealize(rig.device);
	assert_int_equal(rig.calls[RIG_REALIZED], 0);
	rig_realize(&rig);
	rig_end(&rig, &mock);
}

static void test_bad_paths(void **state)
{
	char path[256];
	struct device_rig rig;

	snprintf(path, sizeof(path), "%s/nothing", vublk_test_folder());
	rig_init(&rig, path);
	rig_set(&rig, "realize-retries", "3");
	rig_realize_fails(&rig, ENOENT);
	assert_int_equal(rig.num_failed_tries, 1); /* another try would fail in the same way */
	assert_non_null(strstr(rig.errors[RIG_REALIZED].text, "the socket '"));
	rig_set(&rig, "chardev", "/etc/passwd");
	rig_realize_fails(&rig, ENOTSOCK);
	memset(path, 'x', 200);
	path[200] = '\0';
	rig_set(&rig, "chardev", path);
	rig_realize_fails(&rig, ENAMETOOLONG);
	rig_deinit(&rig);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_order_of_messages),
		VUBLK_TEST(test_what_is_accepted),
		VUBLK_TEST(test_a_simple_back_end),
		VUBLK_TEST(test_number_of_queues),
		VUBLK_TEST(test_many_queues),
		VUBLK_TEST(test_bad_queues),
		VUBLK_TEST(test_start_needs_what_it_needs),
		VUBLK_TEST(test_reset_while_starting),
		VUBLK_TEST(test_reset_forgets),
		VUBLK_TEST(test_loss_in_each_state),
		VUBLK_TEST(test_ring_error),
		VUBLK_TEST(test_forced_shutdown),
		VUBLK_TEST(test_forced_shutdown_that_asks),
		VUBLK_TEST(test_unrealize_in_each_callback),
		VUBLK_TEST(test_free_after_each_step),
		VUBLK_TEST(test_retries),
		VUBLK_TEST(test_unrealize_between_tries),
		VUBLK_TEST(test_bad_paths),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
