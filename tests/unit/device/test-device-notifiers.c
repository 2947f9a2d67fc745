/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Kick and call descriptors are replaced at each moment. Afterwards the back-end has the new
 * descriptor, and no notification was lost.
 *
 * Key idea: the replaced descriptor is closed immediately, so any later use of it fails.
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

typedef int set_fn(struct vublk_device *device, unsigned index, int fd, struct vublk_error *error);

/* Most tests run once with kick descriptors and once with call descriptors. */
static const struct kind {
	set_fn *set;
	uint32_t request;
	bool is_kick;
} kinds[] = {
	{ vublk_device_set_queue_kick, VUBLK_VU_SET_VRING_KICK, true },
	{ vublk_device_set_queue_call, VUBLK_VU_SET_VRING_CALL, false },
};

static int *theirs(struct mock *mock, const struct kind *kind, unsigned queue)
{
	return kind->is_kick ? &mock->kick_fds[queue] : &mock->call_fds[queue];
}

/*
 * Replaces the rig's descriptor of a queue, and closes the old one, which the device must no longer
 * use. Returns the result of the device's function.
 */
static int exchange(struct device_rig *rig, const struct kind *kind, unsigned queue)
{
	int *own = kind->is_kick ? &rig->kicks[queue] : &rig->callfds[queue];
	int before = *own, r;

	*own = vublk_eventfd_new();
	r = kind->set(rig->device, queue, *own, NULL);
	vublk_fd_close(&before);
	return r;
}

static int own_fd(const struct device_rig *rig, const struct kind *kind, unsigned queue)
{
	return kind->is_kick ? rig->kicks[queue] : rig->callfds[queue];
}

/* Checks that the driver and the back-end have the same eventfd for this queue. */
static void expect_same(struct device_rig *rig, struct mock *mock, const struct kind *kind,
			unsigned queue)
{
	int fd = own_fd(rig, kind, queue);

	vublk_eventfd_clear(fd);
	vublk_eventfd_signal(*theirs(mock, kind, queue));
	assert_int_equal(vublk_eventfd_clear(fd), 1);
}

/* --- one change at a time -------------------------------------------------------------------- */

static void test_while_running(void **state)
{
	for (size_t k = 0; k < VUBLK_ARRAY_SIZE(kinds); k++)
		for (unsigned blind = 0; blind < 2; blind++) {
			struct mock mock;
			struct device_rig rig;

			mock_init(&mock);
			if (blind)
				mock.protocol_features &= ~VUBLK_BIT(VUBLK_VU_F_REPLY_ACK);
			rig_init_with_mock(&rig, &mock);
			rig_realize(&rig);
			rig_start(&rig, QUEUES);
			mock_forget(&mock);
			assert_int_equal(exchange(&rig, &kinds[k], 1), 1);
			assert_int_equal(vublk_eventfd_clear(own_fd(&rig, &kinds[k], 1)), 0);
			rig_wait(&rig, RIG_NOTIFIERS_CHANGED, 1);
			assert_int_equal(vublk_eventfd_clear(own_fd(&rig, &kinds[k], 1)), 1);
			expect_same(&rig, &mock, &kinds[k], 1);
			assert_int_equal(mock.received[kinds[k].request], 1);
			assert_int_equal(mock.num_log, 1 + blind);
			assert_int_equal(kinds[k].set(rig.device, 1, -1, NULL), 1);
			rig_wait(&rig, RIG_NOTIFIERS_CHANGED, 2);
			assert_int_equal(*theirs(&mock, &kinds[k], 1), -1);
			rig_end(&rig, &mock);
		}
}

static void test_while_stopped(void **state)
{
	struct vublk_device_queue queue;
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, "0");
	for (size_t k = 0; k < VUBLK_ARRAY_SIZE(kinds); k++) {
		assert_int_equal(kinds[k].set(rig.device, 0, -1, &error), -EINVAL);
		assert_int_equal(kinds[k].set(rig.device, 4, -1, &error), -EINVAL);
	}
	assert_string_equal(error.text, "queue 4 is not set up, so its call descriptor cannot be "
			    "replaced");
	rig_set_up(&rig, QUEUES);
	for (size_t k = 0; k < VUBLK_ARRAY_SIZE(kinds); k++)
		assert_int_equal(exchange(&rig, &kinds[k], 0), 0);
	assert_int_equal(vublk_device_get_queue(rig.device, 0, &queue, sizeof(queue)), 0);
	assert_int_equal(queue.size, RIG_QUEUE_SIZE);
	assert_int_equal(queue.kick_fd, rig.kicks[0]);
	assert_int_equal(queue.call_fd, rig.callfds[0]);
	assert_int_equal(queue.base, 0);
	vublk_device_set_status(rig.device, VIRTIO_CONFIG_S_DRIVER_OK, NULL);
	rig_wait(&rig, RIG_STARTED, 1);
	for (size_t k = 0; k < VUBLK_ARRAY_SIZE(kinds); k++)
		expect_same(&rig, &mock, &kinds[k], 0);
	assert_int_equal(rig.calls[RIG_NOTIFIERS_CHANGED], 0);
	vublk_device_set_vm_running(rig.device, false);
	mock.base = 900;
	rig_wait(&rig, RIG_STOPPED, 1);
	assert_int_equal(vublk_device_get_queue(rig.device, 1, &queue, sizeof(queue)), 0);
	assert_int_equal(queue.base, 900);
	assert_int_equal(vublk_device_get_queue(rig.device, 4, &queue, sizeof(queue)), -EINVAL);
	rig_end(&rig, &mock);
}

/* --- during other changes --------------------------------------------------------------- */

/*
 * The descriptor is replaced after each number of steps of a start. The back-end gets the new one,
 * even if it already had the old one.
 */
static void test_at_each_step_of_a_start(void **state)
{
	for (size_t k = 0; k < VUBLK_ARRAY_SIZE(kinds); k++)
		for (unsigned steps = 0; steps < 26; steps++) {
			struct mock mock;
			struct device_rig rig;

			rig_begin(&rig, &mock, "0");
			rig_set_up(&rig, QUEUES);
			vublk_device_set_status(rig.device, VIRTIO_CONFIG_S_DRIVER_OK, NULL);
			for (unsigned i = 0; i < steps; i++) {
				mock_pump_once(&mock);
				vublk_device_process(rig.device);
			}
			assert_int_equal(exchange(&rig, &kinds[k], 1), 1);
			rig_wait(&rig, RIG_NOTIFIERS_CHANGED, 1);
			assert_int_equal(vublk_eventfd_clear(own_fd(&rig, &kinds[k], 1)), 1);
			expect_same(&rig, &mock, &kinds[k], 1);
			rig_stop(&rig);
			rig_end(&rig, &mock);
		}
}

/*
 * A call descriptor is replaced during a stop. The device signals the new one, because the calls
 * for the last completions may have gone to the old one.
 */
static void test_during_a_stop(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, "0");
	rig_start(&rig, QUEUES);
	vublk_device_set_vm_running(rig.device, false);
	assert_int_equal(exchange(&rig, &kinds[1], 0), 1);
	rig_wait(&rig, RIG_STOPPED, 1);
	assert_int_equal(vublk_eventfd_clear(rig.callfds[0]), 1);
	vublk_device_set_vm_running(rig.device, true);
	rig_wait(&rig, RIG_STARTED, 2);
	expect_same(&rig, &mock, &kinds[1], 0);
	assert_int_equal(rig.calls[RIG_NOTIFIERS_CHANGED], 0);
	rig_end(&rig, &mock);
}

/*
 * A stop waits for a change of the descriptors, because a kick descriptor after the stop would
 * start the ring again.
 */
static void test_stop_during_a_change(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, "0");
	rig_start(&rig, QUEUES);
	mock_forget(&mock);
	exchange(&rig, &kinds[0], 0);
	exchange(&rig, &kinds[1], 0);
	vublk_device_set_vm_running(rig.device, false);
	rig_wait(&rig, RIG_STOPPED, 1);
	assert_int_equal(mock.log[0], VUBLK_VU_SET_VRING_KICK);
	assert_int_equal(mock.received[VUBLK_VU_SET_VRING_KICK], 1);
	assert_int_equal(mock.log[mock.num_log - 1], VUBLK_VU_SET_STATUS);
	assert_int_equal(vublk_eventfd_clear(rig.kicks[0]), 1);
	assert_int_equal(vublk_eventfd_clear(rig.callfds[0]), 1);
	vublk_device_set_vm_running(rig.device, true);
	rig_wait(&rig, RIG_STARTED, 2);
	expect_same(&rig, &mock, &kinds[0], 0);
	expect_same(&rig, &mock, &kinds[1], 0);
	rig_end(&rig, &mock);
}

/*
 * The call descriptors of the queues change a thousand times before the back-end reads a message.
 * For each queue, the device sends at most the first and the last.
 */
static void test_a_storm(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, "0");
	rig_start(&rig, QUEUES);
	mock_forget(&mock);
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(exchange(&rig, &kinds[1], i % QUEUES), 1);
	rig_wait(&rig, RIG_NOTIFIERS_CHANGED, 1);
	assert_in_range(mock.received[VUBLK_VU_SET_VRING_CALL], QUEUES, 2 * QUEUES);
	for (unsigned i = 0; i < QUEUES; i++) {
		assert_int_equal(vublk_eventfd_clear(rig.callfds[i]), 1);
		expect_same(&rig, &mock, &kinds[1], i);
	}
	rig_end(&rig, &mock);
}

/* --- a back-end that refuses or is lost --------------------------------------------------- */

static void test_refused(void **state)
{
	for (unsigned reconnect = 0; reconnect < 2; reconnect++) {
		struct mock mock;
		struct device_rig rig;

		rig_begin(&rig, &mock, reconnect ? "1" : "0");
		rig_start(&rig, QUEUES);
		mock_forget(&mock);
		mock.fault = (struct mock_fault){ .kind = MOCK_REFUSE,
						  .request = VUBLK_VU_SET_VRING_KICK };
		exchange(&rig, &kinds[0], 1);
		rig_wait(&rig, RIG_LOST, 1);
		assert_non_null(strstr(rig.errors[RIG_LOST].text,
				       "queue 1: cannot replace a kick or call descriptor while the ring runs: the "
				       "back-end refused SET_VRING_KICK (it replied 1)"));
		if (reconnect) {
			rig_wait(&rig, RIG_STARTED, 2);
			expect_same(&rig, &mock, &kinds[0], 1);
		}
		assert_int_equal(rig.calls[RIG_NOTIFIERS_CHANGED], 0);
		rig_end(&rig, &mock);
	}
}

static void test_lost_on_the_way(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, "1");
	rig_start(&rig, QUEUES);
	exchange(&rig, &kinds[1], 1);
	mock_hang_up(&mock);
	rig_wait(&rig, RIG_LOST, 1);
	assert_int_equal(exchange(&rig, &kinds[0], 1), 0);
	rig_wait(&rig, RIG_STARTED, 2);
	for (size_t k = 0; k < VUBLK_ARRAY_SIZE(kinds); k++) {
		assert_int_equal(vublk_eventfd_clear(own_fd(&rig, &kinds[k], 1)), 1);
		expect_same(&rig, &mock, &kinds[k], 1);
	}
	rig_settle(&rig);
	assert_int_equal(rig.calls[RIG_NOTIFIERS_CHANGED], 0);
	rig_end(&rig, &mock);
}

/*
 * The VM is paused while one change is under way and another waits, and runs again before the stop
 * has begun. The device still sends the waiting change.
 */
static void test_a_pause_that_ends_before_the_stop(void **state)
{
	for (size_t k = 0; k < VUBLK_ARRAY_SIZE(kinds); k++) {
		struct mock mock;
		struct device_rig rig;

		rig_begin(&rig, &mock, "0");
		rig_start(&rig, QUEUES);
		exchange(&rig, &kinds[k], 0);
		exchange(&rig, &kinds[k], 1);
		vublk_device_process(rig.device); /* sends the first change */
		assert_int_equal(vublk_device_set_vm_running(rig.device, false), 1);
		while (rig.device->num_notifiers)
			rig_turn(&rig, 100);
		assert_int_equal(vublk_device_state(rig.device), VUBLK_DEVICE_RUNNING);
		vublk_device_set_vm_running(rig.device, true);
		rig_wait(&rig, RIG_NOTIFIERS_CHANGED, 1);
		rig_settle(&rig);
		expect_same(&rig, &mock, &kinds[k], 1);
		assert_int_equal(rig.calls[RIG_STOPPED], 0);
		rig_end(&rig, &mock);
	}
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_while_running),
		VUBLK_TEST(test_while_stopped),
		VUBLK_TEST(test_at_each_step_of_a_start),
		VUBLK_TEST(test_during_a_stop),
		VUBLK_TEST(test_stop_during_a_change),
		VUBLK_TEST(test_a_storm),
		VUBLK_TEST(test_refused),
		VUBLK_TEST(test_lost_on_the_way),
		VUBLK_TEST(test_a_pause_that_ends_before_the_stop),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
