/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pauses of the VM. The rings stop and resume at their indices, whatever the device does when the
 * pause comes, and the driver's set-up is kept.
 *
 * Key idea: the pause comes at different steps of a start, a stop, a change or a loss.
 */
#include "harness.h"

#include "mock/device-rig.h"

#include "device/device.h"
#include "util/checked.h"
#include "util/fd.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <string.h>

#define QUEUES 2
#define OUT 1 /* returned if a start or a stop is under way */

static int pause_vm(struct device_rig *rig)
{
	return vublk_device_set_vm_running(rig->device, false);
}

static int resume_vm(struct device_rig *rig)
{
	return vublk_device_set_vm_running(rig->device, true);
}

static void expect_state(const struct device_rig *rig, enum vublk_device_state state)
{
	if (vublk_device_state(rig->device) != state)
		fail_msg("the device is %s, not %s",
			 vublk_device_state_name(vublk_device_state(rig->device)),
			 vublk_device_state_name(state));
}

/* --- running -------------------------------------------------------------------------------- */

static void test_pause_and_resume(void **state)
{
	struct mock mock;
	struct device_rig rig;
	uint64_t inode;

	rig_begin(&rig, &mock, "10");
	rig_start(&rig, QUEUES);
	inode = mock.inflight_inode;
	assert_true(vublk_device_is_tracked(rig.device));
	for (unsigned i = 1; i <= 3; i++) {
		mock.base = (uint16_t)(40 + i);
		mock_forget(&mock);
		assert_int_equal(pause_vm(&rig), OUT);
		expect_state(&rig, VUBLK_DEVICE_STOPPING);
		rig_wait(&rig, RIG_STOPPED, i);
		assert_int_equal(rig.errors[RIG_STOPPED].code, 0);
		expect_state(&rig, VUBLK_DEVICE_STOPPED);
		assert_int_equal(mock.received[VUBLK_VU_GET_VRING_BASE], QUEUES);
		assert_int_equal(vublk_device_queue_base(rig.device, 1), 40 + i);
		assert_int_equal(vublk_device_status(rig.device), VIRTIO_CONFIG_S_DRIVER_OK);
		assert_int_equal(pause_vm(&rig), 0);
		rig_settle(&rig);
		expect_state(&rig, VUBLK_DEVICE_STOPPED);
		assert_int_equal(resume_vm(&rig), OUT);
		rig_wait(&rig, RIG_STARTED, 1 + i);
		assert_int_equal(resume_vm(&rig), 0);
		for (unsigned k = 0; k < QUEUES; k++)
			assert_int_equal(mock.given_bases[k], 40 + i);
		assert_int_equal(mock.received[VUBLK_VU_GET_INFLIGHT_FD], 0);
		assert_int_equal(mock.received[VUBLK_VU_SET_INFLIGHT_FD], 1);
		assert_int_equal(mock.inflight_inode, inode);
	}
	rig_stop(&rig);
	assert_false(vublk_device_is_tracked(rig.device));
	rig_end(&rig, &mock);
}

/*
 * The VM is paused and resumed before the back-end has answered. The device ends in the state that
 * was requested last.
 */
static void test_a_short_pause(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, "0");
	rig_start(&rig, QUEUES);
	assert_int_equal(pause_vm(&rig), OUT);
	assert_int_equal(resume_vm(&rig), OUT);
	rig_wait(&rig, RIG_STARTED, 2);
	assert_int_equal(rig.calls[RIG_STOPPED], 1);
	expect_state(&rig, VUBLK_DEVICE_RUNNING);
	pause_vm(&rig);
	resume_vm(&rig);
	pause_vm(&rig);
	rig_wait(&rig, RIG_STOPPED, 2);
	rig_settle(&rig);
	expect_state(&rig, VUBLK_DEVICE_STOPPED);
	assert_int_equal(rig.calls[RIG_STARTED], 2);
	rig_end(&rig, &mock);
}

static void test_reset_while_paused(void **state)
{
	for (unsigned stopping = 0; stopping < 2; stopping++) {
		struct mock mock;
		struct device_rig rig;

		rig_begin(&rig, &mock, "0");
		rig_start(&rig, QUEUES);
		pause_vm(&rig);
		if (!stopping)
			rig_wait(&rig, RIG_STOPPED, 1);
		assert_int_equal(vublk_device_set_status(rig.device, 0, NULL), 0);
		rig_wait(&rig, RIG_STOPPED, 1);
		resume_vm(&rig);
		rig_settle(&rig);
		expect_state(&rig, VUBLK_DEVICE_STOPPED);
		assert_int_equal(rig.calls[RIG_STARTED], 1);
		rig_start(&rig, QUEUES);
		rig_end(&rig, &mock);
	}
}

/* --- pauses during other events ---------------------------------------------------------- */

/*
 * DRIVER_OK is set while the VM is paused, as when a saved device is loaded. The rings start when
 * the VM runs.
 */
static void test_start_while_paused(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_prepare(&rig, &mock, NULL);
	assert_int_equal(pause_vm(&rig), 0);
	rig_realize(&rig);
	rig_set_up(&rig, QUEUES);
	assert_int_equal(vublk_device_set_status(rig.device, VIRTIO_CONFIG_S_DRIVER_OK, NULL), 0);
	rig_settle(&rig);
	expect_state(&rig, VUBLK_DEVICE_STOPPED);
	assert_int_equal(mock.received[VUBLK_VU_SET_FEATURES], 0);
	assert_int_equal(resume_vm(&rig), OUT);
	rig_wait(&rig, RIG_STARTED, 1);
	rig_end(&rig, &mock);
}

/* The VM is paused after each number of steps of a start. */
static void test_pause_at_each_step(void **state)
{
	unsigned starting = 0;

	for (unsigned steps = 0; steps < 30; steps++) {
		struct mock mock;
		struct device_rig rig;

		rig_begin(&rig, &mock, "0");
		rig_set_up(&rig, QUEUES);
		vublk_device_set_status(rig.device, VIRTIO_CONFIG_S_DRIVER_OK, NULL);
		for (unsigned i = 0; i < steps; i++) {
			mock_pump_once(&mock);
			vublk_device_process(rig.device);
		}
		starting += vublk_device_state(rig.device) == VUBLK_DEVICE_STARTING;
		assert_int_equal(pause_vm(&rig), OUT);
		rig_wait(&rig, RIG_STOPPED, 1);
		assert_int_equal(rig.errors[RIG_STOPPED].code, 0);
		rig_settle(&rig);
		expect_state(&rig, VUBLK_DEVICE_STOPPED);
		assert_int_equal(vublk_device_status(rig.device), VIRTIO_CONFIG_S_DRIVER_OK);
		assert_int_equal(mock.num_connections, 1);
		resume_vm(&rig);
		rig_wait(&rig, RIG_STARTED, rig.calls[RIG_STARTED] + 1);
		rig_end(&rig, &mock);
	}
	assert_true(starting >= 5);
}

static void test_pause_during_a_memory_change(void **state)
{
	struct vublk_memory_region regions[2] = {
		{ .guest_addr = RIG_GUEST_ADDR, .size_bytes = RIG_MEMORY_BYTES },
		{ .guest_addr = 0x1000, .size_bytes = 4096 },
	};
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, "0");
	rig_start(&rig, QUEUES);
	regions[0].fd = regions[1].fd = rig.memfd;
	assert_int_equal(vublk_device_set_memory(rig.device, regions, 2, NULL), 1);
	assert_int_equal(pause_vm(&rig), OUT);
	rig_wait(&rig, RIG_STOPPED, 1);
	assert_int_equal(rig.calls[RIG_MEMORY_CHANGED], 1);
	resume_vm(&rig);
	rig_wait(&rig, RIG_STARTED, 2);
	assert_int_equal(mock.num_regions, 2);
	rig_end(&rig, &mock);
}

/*
 * The back-end is lost before, during or after a stop for a pause. The device reconnects, and the
 * rings wait for the VM.
 */
static void test_loss_while_paused(void **state)
{
	enum { STOPPED, STOPPING, LOST, RECONNECTING, MOMENTS };

	for (unsigned moment = 0; moment < MOMENTS; moment++) {
		struct mock mock;
		struct device_rig rig;

		rig_begin(&rig, &mock, "1");
		rig_start(&rig, QUEUES);
		mock.base = 7;
		rig_set_indices(&rig, 0, 7, 7);
		rig_set_indices(&rig, 1, 7, 9); /* two requests are in the in-flight area */
		if (moment <= STOPPING)
			pause_vm(&rig);
		if (moment == STOPPED)
			rig_wait(&rig, RIG_STOPPED, 1);
		mock_hang_up(&mock);
		rig_wait(&rig, RIG_LOST, 1);
		while (moment == RECONNECTING &&
		       vublk_device_state(rig.device) != VUBLK_DEVICE_RECONNECTING)
			vublk_device_process(rig.device);
		if (moment >= LOST)
			assert_int_equal(pause_vm(&rig), 0);
		rig_wait(&rig, RIG_RECONNECTED, 1);
		rig_settle(&rig);
		expect_state(&rig, VUBLK_DEVICE_STOPPED);
		assert_int_equal(rig.calls[RIG_STARTED], 1);
		assert_int_equal(vublk_device_set_queue(rig.device, 0, NULL, 0, NULL),
				 moment == STOPPED ? 0 : -EBUSY);
		assert_int_equal(resume_vm(&rig), OUT);
		rig_wait(&rig, RIG_STARTED, 2);
		assert_int_equal(rig.calls[RIG_NEEDS_RESET], 0);
		assert_int_equal(mock.given_bases[1], 7);
		rig_end(&rig, &mock);
	}
}

/*
 * Requests are outstanding at a loss, without an in-flight area. The driver has to reset the
 * device, but learns that only when the VM runs again.
 */
static void test_outstanding_requests(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_prepare(&rig, &mock, "1");
	rig_set(&rig, "inflight", "off");
	rig_realize(&rig);
	rig_start(&rig, QUEUES);
	assert_false(vublk_device_is_tracked(rig.device));
	rig_set_indices(&rig, 1, 7, 9);
	mock_hang_up(&mock);
	rig_wait(&rig, RIG_LOST, 1);
	pause_vm(&rig);
	rig_wait(&rig, RIG_RECONNECTED, 1);
	rig_settle(&rig);
	assert_int_equal(rig.calls[RIG_NEEDS_RESET], 0);
	assert_int_equal(resume_vm(&rig), 0);
	assert_int_equal(rig.calls[RIG_NEEDS_RESET], 1);
	expect_state(&rig, VUBLK_DEVICE_STOPPED);
	rig_end(&rig, &mock);
}

/* --- set-up during a pause --------------------------------------------------------------- */

static void test_set_up_while_paused(void **state)
{
	struct vublk_device_queue queue = {
		.size = RIG_QUEUE_SIZE, .desc_addr = RIG_GUEST_ADDR, .avail_addr = RIG_GUEST_ADDR,
		.used_addr = RIG_GUEST_ADDR, .kick_fd = -1, .call_fd = -1, .base = 300,
	};
	struct vublk_memory_region region = { RIG_GUEST_ADDR, RIG_MEMORY_BYTES, -1, 0 };
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, "1");
	rig_start(&rig, QUEUES);
	pause_vm(&rig);
	assert_int_equal(vublk_device_set_queue(rig.device, 0, &queue, sizeof(queue), &error), -EBUSY);
	rig_wait(&rig, RIG_STOPPED, 1);
	assert_int_equal(vublk_device_set_queue(rig.device, 1, &queue, sizeof(queue), &error), 0);
	queue.used_addr = RIG_GUEST_ADDR + RIG_MEMORY_BYTES;
	assert_int_equal(vublk_device_set_queue(rig.device, 1, &queue, sizeof(queue), &error), -EINVAL);
	assert_non_null(strstr(error.text, "queue 1: the parts of the ring, at"));
	assert_int_equal(vublk_device_queue_base(rig.device, 1), 300);
	region.fd = rig.memfd;
	assert_int_equal(vublk_device_set_memory(rig.device, &region, 1, &error), 0);
	region.guest_addr += 4096;
	region.size_bytes -= 4096;
	assert_int_equal(vublk_device_set_memory(rig.device, &region, 1, &error), -EINVAL);
	resume_vm(&rig);
	rig_wait(&rig, RIG_STARTED, 2);
	assert_int_equal(mock.given_bases[1], 300);
	rig_end(&rig, &mock);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_pause_and_resume),
		VUBLK_TEST(test_a_short_pause),
		VUBLK_TEST(test_reset_while_paused),
		VUBLK_TEST(test_start_while_paused),
		VUBLK_TEST(test_pause_at_each_step),
		VUBLK_TEST(test_pause_during_a_memory_change),
		VUBLK_TEST(test_loss_while_paused),
		VUBLK_TEST(test_outstanding_requests),
		VUBLK_TEST(test_set_up_while_paused),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
