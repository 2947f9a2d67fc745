/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tests of a legacy driver, which may kick before it sets DRIVER_OK. The first such kick starts the
 * device. Only the back-end reads the kick's eventfd.
 *
 * Key idea: the device polls the eventfd but never reads it, so the signal is still pending after
 * the start.
 */
#include "harness.h"

#include "mock/device-rig.h"

#include "device/device.h"
#include "util/checked.h"
#include "util/fd.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <string.h>

#define QUEUES 2
#define DRIVER (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER)

static void set_status(struct device_rig *rig, uint8_t status)
{
	struct vublk_error error;

	if (vublk_device_set_status(rig->device, status, &error) < 0)
		fail_msg("%s", error.text);
}

static void begin(struct device_rig *rig, struct mock *mock, const char *reconnect_ms)
{
	rig_prepare(rig, mock, reconnect_ms);
	rig->refused_features = VUBLK_BIT(VIRTIO_F_VERSION_1);
	rig_realize(rig);
	set_status(rig, DRIVER);
}

static void begin_set_up(struct device_rig *rig, struct mock *mock, const char *reconnect_ms)
{
	begin(rig, mock, reconnect_ms);
	rig_set_up(rig, QUEUES);
	mock_forget(mock);
}

/*
 * Checks that the device is in `state` and has nothing to do, even if a kick eventfd is signalled.
 */
static void expect_idle(struct device_rig *rig, enum vublk_device_state state)
{
	struct pollfd fd = { vublk_device_fd(rig->device), POLLIN, 0 };

	rig_settle(rig);
	assert_int_equal(vublk_device_state(rig->device), state);
	assert_int_equal(poll(&fd, 1, 0), 0);
}

/*
 * Waits until started() has been called `times` times. Checks that each kick eventfd is signalled,
 * and that the device no longer polls these eventfds.
 */
static void expect_started(struct device_rig *rig, struct mock *mock, unsigned times)
{
	rig_wait(rig, RIG_STARTED, times);
	for (unsigned i = 0; i < QUEUES; i++)
		assert_int_equal(vublk_eventfd_clear(mock->kick_fds[i]), 1);
	expect_idle(rig, VUBLK_DEVICE_RUNNING);
}

/* --- the kick ------------------------------------------------------------------------------- */

static void test_kick_starts(void **state)
{
	for (unsigned by_call = 0; by_call < 2; by_call++) {
		struct mock mock;
		struct device_rig rig;

		begin_set_up(&rig, &mock, "0");
		expect_idle(&rig, VUBLK_DEVICE_STOPPED);
		if (by_call)
			assert_int_equal(vublk_device_kick(rig.device, 1), 0);
		else
			vublk_eventfd_signal(rig.kicks[1]);
		expect_started(&rig, &mock, 1);
		assert_int_equal(vublk_device_status(rig.device), DRIVER);
		assert_true(mock.accepted_features & VUBLK_BIT(VIRTIO_F_VERSION_1));
		set_status(&rig, DRIVER | VIRTIO_CONFIG_S_DRIVER_OK);
		expect_idle(&rig, VUBLK_DEVICE_RUNNING);
		assert_int_equal(mock.received[VUBLK_VU_SET_VRING_KICK], QUEUES);
		rig_stop(&rig);
		rig_end(&rig, &mock);
	}
}

/* Without an early kick, DRIVER_OK starts the device, which then does not poll for kicks. */
static void test_driver_ok_starts(void **state)
{
	struct mock mock;
	struct device_rig rig;

	begin_set_up(&rig, &mock, "0");
	set_status(&rig, DRIVER | VIRTIO_CONFIG_S_DRIVER_OK);
	rig_wait(&rig, RIG_STARTED, 1);
	vublk_eventfd_signal(rig.kicks[0]);
	expect_idle(&rig, VUBLK_DEVICE_RUNNING);
	assert_int_equal(vublk_device_kick(rig.device, 1), 0);
	assert_int_equal(vublk_eventfd_clear(mock.kick_fds[1]), 1);
	assert_int_equal(vublk_device_kick(rig.device, 2), -EINVAL);
	assert_int_equal(vublk_device_kick(rig.device, 99), -EINVAL);
	rig_end(&rig, &mock);
}

/*
 * A modern driver's kick has no effect. A legacy driver's kick stays pending until everything is
 * set up, and then starts the device.
 */
static void test_kicks_that_start_nothing(void **state)
{
	struct vublk_memory_region region = { RIG_GUEST_ADDR, RIG_MEMORY_BYTES, -1, 0 };
	struct mock mock;
	struct device_rig rig;

	begin(&rig, &mock, "0");
	rig.refused_features = 0;
	rig_set_up(&rig, QUEUES);
	vublk_eventfd_signal(rig.kicks[0]);
	assert_int_equal(vublk_device_kick(rig.device, 0), 0);
	expect_idle(&rig, VUBLK_DEVICE_STOPPED);
	set_status(&rig, 0);
	vublk_device_ack_features(rig.device, 0, NULL);
	region.fd = rig.memfd;
	vublk_device_set_memory(rig.device, &region, 1, NULL);
	expect_idle(&rig, VUBLK_DEVICE_STOPPED);
	rig.refused_features = VUBLK_BIT(VIRTIO_F_VERSION_1);
	rig_set_up(&rig, QUEUES);
	expect_idle(&rig, VUBLK_DEVICE_STOPPED); /* the driver has set no status */
	set_status(&rig, DRIVER);
	expect_started(&rig, &mock, 1);
	rig_end(&rig, &mock);
}

/* After a reset, a kick starts the device only once the driver has set it up again. */
static void test_reset(void **state)
{
	struct mock mock;
	struct device_rig rig;

	begin_set_up(&rig, &mock, "0");
	for (unsigned i = 1; i <= 3; i++) {
		vublk_eventfd_signal(rig.kicks[0]);
		expect_started(&rig, &mock, i);
		rig_stop(&rig);
		vublk_eventfd_signal(rig.kicks[0]);
		set_status(&rig, DRIVER);
		expect_idle(&rig, VUBLK_DEVICE_STOPPED);
		vublk_eventfd_clear(rig.kicks[0]);
		rig_set_up(&rig, QUEUES);
	}
	rig_end(&rig, &mock);
}

static void test_reset_while_starting(void **state)
{
	struct mock mock;
	struct device_rig rig;

	begin_set_up(&rig, &mock, "0");
	vublk_device_kick(rig.device, 0);
	assert_int_equal(vublk_device_state(rig.device), VUBLK_DEVICE_STARTING);
	set_status(&rig, 0);
	rig_wait(&rig, RIG_STOPPED, 1);
	expect_idle(&rig, VUBLK_DEVICE_STOPPED);
	assert_int_equal(rig.calls[RIG_STARTED], 0);
	rig_end(&rig, &mock);
}

/*
 * The driver's set-up is invalid. However many kicks come, the device reports the error only once
 * until the next reset.
 */
static void test_a_kick_that_cannot_start(void **state)
{
	struct vublk_device_queue queue = {
		.size = RIG_QUEUE_SIZE, .desc_addr = 4096, .avail_addr = 4096, .used_addr = 4096,
		.call_fd = -1,
	};
	struct mock mock;
	struct device_rig rig;

	begin_set_up(&rig, &mock, "0");
	queue.kick_fd = rig.kicks[1];
	assert_int_equal(vublk_device_set_queue(rig.device, 1, &queue, sizeof(queue), NULL), 0);
	vublk_eventfd_signal(rig.kicks[0]);
	rig_wait(&rig, RIG_NEEDS_RESET, 1);
	assert_non_null(strstr(rig.errors[RIG_NEEDS_RESET].text,
			       "a legacy driver kicked a queue before DRIVER_OK, but the device "
			       "cannot start: queue 1: the parts of the ring, at 0x1000"));
	expect_idle(&rig, VUBLK_DEVICE_STOPPED);
	vublk_device_kick(rig.device, 0);
	assert_int_equal(rig.calls[RIG_NEEDS_RESET], 1);
	set_status(&rig, 0);
	set_status(&rig, DRIVER);
	rig_set_up(&rig, QUEUES);
	expect_started(&rig, &mock, 1);
	rig_end(&rig, &mock);
}

/*
 * --- kicks at other times ------------------------------------------------------------------------
 */

/*
 * A kick comes while the device cannot start. The signal stays in the eventfd, so the device starts
 * as soon as it can.
 */
static void test_a_kick_that_waits(void **state)
{
	struct mock mock;
	struct device_rig rig;

	begin_set_up(&rig, &mock, "1");
	vublk_device_set_vm_running(rig.device, false);
	vublk_eventfd_signal(rig.kicks[0]);
	expect_idle(&rig, VUBLK_DEVICE_STOPPED);
	vublk_device_set_vm_running(rig.device, true);
	expect_started(&rig, &mock, 1);
	vublk_device_set_vm_running(rig.device, false);
	rig_wait(&rig, RIG_STOPPED, 1);
	vublk_device_set_vm_running(rig.device, true);
	expect_started(&rig, &mock, 2);
	rig_stop(&rig);
	mock_die(&mock);
	rig_wait(&rig, RIG_LOST, 1);
	set_status(&rig, DRIVER);
	rig_set_up(&rig, QUEUES);
	vublk_device_kick(rig.device, 1);
	assert_int_equal(vublk_device_state(rig.device), VUBLK_DEVICE_LOST);
	mock_live_again(&mock);
	expect_started(&rig, &mock, 3);
	rig_end(&rig, &mock);
}

/*
 * After a loss, a device that was started by a kick resumes like one that was started by DRIVER_OK.
 */
static void test_loss(void **state)
{
	struct mock mock;
	struct device_rig rig;

	begin_set_up(&rig, &mock, "1");
	vublk_eventfd_signal(rig.kicks[0]);
	expect_started(&rig, &mock, 1);
	for (unsigned i = 2; i <= 4; i++) {
		mock_hang_up(&mock);
		expect_started(&rig, &mock, i);
	}
	assert_int_equal(vublk_device_set_queue(rig.device, 0, NULL, 0, NULL), -EBUSY);
	rig_end(&rig, &mock);
}

static void test_queues_that_share_a_descriptor(void **state)
{
	struct vublk_device_queue queue;
	struct mock mock;
	struct device_rig rig;

	begin_set_up(&rig, &mock, "0");
	assert_int_equal(vublk_device_get_queue(rig.device, 1, &queue, sizeof(queue)), 0);
	queue.kick_fd = rig.kicks[0];
	assert_int_equal(vublk_device_set_queue(rig.device, 1, &queue, sizeof(queue), NULL), 0);
	vublk_eventfd_signal(rig.kicks[0]);
	rig_wait(&rig, RIG_STARTED, 1);
	expect_idle(&rig, VUBLK_DEVICE_RUNNING);
	rig_end(&rig, &mock);
}

/*
 * The bus replaces a kick eventfd with another one that has the same descriptor number. The device
 * polls the new eventfd.
 */
static void test_another_descriptor_with_the_same_number(void **state)
{
	struct mock mock;
	struct device_rig rig;
	int before;

	begin_set_up(&rig, &mock, "0");
	before = rig.kicks[0];
	vublk_fd_close(&rig.kicks[0]);
	rig.kicks[0] = vublk_eventfd_new();
	assert_int_equal(rig.kicks[0], before);
	assert_int_equal(vublk_device_set_queue_kick(rig.device, 0, rig.kicks[0], NULL), 0);
	vublk_eventfd_signal(rig.kicks[0]);
	expect_started(&rig, &mock, 1);
	rig_end(&rig, &mock);
}

static void unrealize_hook(struct device_rig *rig, enum rig_callback callback)
{
	vublk_device_unrealize(rig->device);
}

static void test_unrealize(void **state)
{
	for (unsigned bad = 0; bad < 2; bad++) {
		struct vublk_device_queue queue = { .size = 2, .kick_fd = -1, .call_fd = -1 };
		struct mock mock;
		struct device_rig rig;

		begin_set_up(&rig, &mock, "0");
		rig.hook = unrealize_hook;
		if (bad) /* the ring of queue 1 is not in the memory */
			vublk_device_set_queue(rig.device, 1, &queue, sizeof(queue), NULL);
		vublk_eventfd_signal(rig.kicks[0]);
		rig_wait(&rig, bad ? RIG_NEEDS_RESET : RIG_STARTED, 1);
		expect_idle(&rig, VUBLK_DEVICE_CREATED);
		assert_int_equal(vublk_device_kick(rig.device, 0), -EINVAL);
		rig_end(&rig, &mock);
	}
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_kick_starts),
		VUBLK_TEST(test_driver_ok_starts),
		VUBLK_TEST(test_kicks_that_start_nothing),
		VUBLK_TEST(test_reset),
		VUBLK_TEST(test_reset_while_starting),
		VUBLK_TEST(test_a_kick_that_cannot_start),
		VUBLK_TEST(test_a_kick_that_waits),
		VUBLK_TEST(test_loss),
		VUBLK_TEST(test_queues_that_share_a_descriptor),
		VUBLK_TEST(test_another_descriptor_with_the_same_number),
		VUBLK_TEST(test_unrealize),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
