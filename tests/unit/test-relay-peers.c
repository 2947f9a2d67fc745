/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The relay with back-ends that are unlike `vublk serve`, played by the mock.
 */
#include "relay-mock.h"

#include <linux/virtio_config.h>
#include <poll.h>
#include <string.h>

/* --- rings that are given back with requests outstanding --------------------------- */

static void expect_signal(int fd)
{
	struct pollfd wait = { .fd = fd, .events = POLLIN };

	assert_int_equal(poll(&wait, 1, 20000), 1);
}

/* Of four requests the back-end took three and completed one when the VMM stopped the queue. */
static void stop_undrained(struct relay_mock *mock, struct relay *relay, struct rig *rig)
{
	relay_mock_init(mock);
	mock->mock.protocol_features &= ~VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD);
	relay_mock_open(mock, relay, NULL);
	relay_start_vmm(relay, rig, 1);
	rig->queues[0].ring.avail->idx = 4;
	rig->queues[0].ring.used->idx = 1;
	relay_mock_stop(mock);
	mock->mock.base = 3;
	relay_mock_go_on(mock);
	assert_int_equal(rig_get_base(rig, 0), 3);
	relay_wait(relay, "queue 0 was given back at index 3 with 2 requests outstanding");
	assert_int_equal(rig_set_u64(rig, VUBLK_VU_SET_STATUS, 0), 0);
}

static void start_again(struct rig *rig)
{
	assert_int_equal(rig_tell_queue(rig, 0, 3), 0);
	relay_driver_ok(rig);
}

static void lose(struct relay_mock *mock, struct relay *relay)
{
	relay_mock_stop(mock);
	mock_hang_up(&mock->mock);
	relay_mock_go_on(mock);
	relay_wait(relay, "is there again");
}

static void test_undrained_and_still_there(void **state)
{
	struct relay_mock mock;
	struct relay relay;
	struct rig rig;

	stop_undrained(&mock, &relay, &rig);
	start_again(&rig);
	relay_wait(&relay, "starting, started -> running");
	relay_mock_stop(&mock);
	assert_int_equal(mock.mock.given_bases[0], 3);
	relay_mock_go_on(&mock);
	assert_false(relay_has_said(&relay, "queue 0 is not started"));
	relay_close_vmm(&relay, &rig);
	relay_mock_close(&mock, &relay);
}

static void test_undrained_and_lost(void **state)
{
	struct relay_mock mock;
	struct relay relay;
	struct rig rig;

	stop_undrained(&mock, &relay, &rig);
	lose(&mock, &relay);
	start_again(&rig);
	relay_wait(&relay, "queue 0 is not started: a back-end was lost with up to 3 requests");
	expect_signal(rig.queues[0].err_fd);
	assert_true(rig_get_u64(&rig, VUBLK_VU_GET_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
	relay_close_vmm(&relay, &rig);
	relay_mock_close(&mock, &relay);
}

/* The used index has reached the base: the fourth request no back-end has seen. */
static void test_undrained_and_completed_before_the_loss(void **state)
{
	struct relay_mock mock;
	struct relay relay;
	struct rig rig;

	stop_undrained(&mock, &relay, &rig);
	rig.queues[0].ring.used->idx = 3;
	lose(&mock, &relay);
	start_again(&rig);
	relay_wait(&relay, "starting, started -> running");
	relay_mock_stop(&mock);
	assert_int_equal(mock.mock.given_bases[0], 3);
	relay_mock_go_on(&mock);
	relay_close_vmm(&relay, &rig);
	relay_mock_close(&mock, &relay);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_undrained_and_still_there),
		VUBLK_TEST(test_undrained_and_lost),
		VUBLK_TEST(test_undrained_and_completed_before_the_loss),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
