/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Stops that do not wait for the requests that the back-end has begun. Some are negotiated
 * (GET_VRING_BASE_INFLIGHT), and leave the requests in the in-flight area. In the other cases, the
 * back-end does not wait although this was not negotiated.
 *
 * Key idea: the mock's answer and the used index in memory are set independently, so each case can
 * choose the number of incomplete requests.
 */
#include "harness.h"

#include "mock/device-rig.h"

#include "device/device.h"
#include "util/checked.h"
#include "util/fd.h"

#include <string.h>

#define QUEUES 2

static void clear_notifications(struct device_rig *rig)
{
	for (unsigned i = 0; i < QUEUES; i++) {
		vublk_eventfd_clear(rig->kicks[i]);
		vublk_eventfd_clear(rig->callfds[i]);
	}
}

static uint64_t negotiate(bool wanted, bool inflight, uint64_t offered)
{
	struct mock mock;
	struct device_rig rig;
	uint64_t accepted;

	mock_init(&mock);
	mock.protocol_features = offered | VUBLK_BIT(VUBLK_VU_F_CONFIG);
	rig_init_with_mock(&rig, &mock);
	rig_set(&rig, "inflight", inflight ? "on" : "off");
	rig_set(&rig, "inflight-migration", wanted ? "on" : "off");
	rig_realize(&rig);
	accepted = mock.accepted_protocol_features & ~VUBLK_BIT(VUBLK_VU_F_CONFIG);
	rig_end(&rig, &mock);
	return accepted;
}

/*
 * Without the in-flight area, the device does not accept GET_VRING_BASE_INFLIGHT, because a stop
 * would then lose the requests.
 */
static void test_undrained_stops_are_negotiated(void **state)
{
	uint64_t area = VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD);
	uint64_t undrained = VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_INFLIGHT);
	uint64_t skip = VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_SKIP_DRAIN);

	assert_int_equal(negotiate(true, true, area | undrained), area | undrained);
	assert_int_equal(negotiate(true, true, area | undrained | skip), area | undrained | skip);
	assert_int_equal(negotiate(true, true, area | skip), area);
	assert_int_equal(negotiate(false, true, area | undrained | skip), 0);
	assert_int_equal(negotiate(true, true, area), area);
	assert_int_equal(negotiate(true, true, undrained), 0);
	assert_int_equal(negotiate(true, false, area | undrained), 0);
	assert_int_equal(negotiate(false, true, area | undrained), 0);
}

static void test_an_undrained_stop(void **state)
{
	struct mock mock;
	struct device_rig rig;
	uint64_t inode;

	rig_begin_movable(&rig, &mock);
	rig_start(&rig, QUEUES);
	inode = mock.inflight_inode;
	for (unsigned i = 1; i <= 3; i++) {
		rig_set_indices(&rig, 0, 5, 9);
		mock.base = 8;
		mock.base_asked_with = 99;
		rig_pause(&rig);
		assert_int_equal(mock.base_asked_with, 0);
		clear_notifications(&rig);
		mock_forget(&mock);
		vublk_device_set_vm_running(rig.device, true);
		rig_wait(&rig, RIG_STARTED, 1 + i);
		assert_int_equal(mock.received[VUBLK_VU_GET_INFLIGHT_FD], 0);
		assert_int_equal(mock.inflight_inode, inode);
		assert_int_equal(mock.given_bases[0], 8);
		rig_expect_notified_once(&rig, QUEUES);
	}
	rig_stop(&rig);
	mock_forget(&mock);
	rig_start(&rig, QUEUES); /* no request is in flight after a reset */
	assert_int_equal(mock.received[VUBLK_VU_GET_INFLIGHT_FD], 1);
	assert_int_equal(mock.given_bases[0], 0);
	rig_end(&rig, &mock);
}

/*
 * The message of a stop depends on whether the bus wants a drain, and on what the back-end offers.
 */
static void test_the_message_of_a_stop(void **state)
{
	uint64_t skip = VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_SKIP_DRAIN);
	static const struct {
		bool drains, is_old; /* is_old: the back-end lacks GET_VRING_BASE_SKIP_DRAIN */
		uint32_t request;
	} stops[] = {
		{ false, false, VUBLK_VU_GET_VRING_BASE_SKIP_DRAIN },
		{ true, false, VUBLK_VU_GET_VRING_BASE },
		{ false, true, VUBLK_VU_GET_VRING_BASE },
		{ true, true, VUBLK_VU_GET_VRING_BASE },
	};

	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(stops); i++) {
		struct vublk_device_place place;
		struct mock mock;
		struct device_rig rig;

		mock_init(&mock);
		mock.protocol_features &= ~(stops[i].is_old ? skip : 0);
		rig_init_movable(&rig, &mock);
		vublk_device_set_drains(rig.device, stops[i].drains);
		rig_realize(&rig);
		rig_start(&rig, QUEUES);
		rig_set_indices(&rig, 0, 5, 9);
		mock.base = 8;
		rig_pause(&rig);
		assert_int_equal(mock.received[stops[i].request], QUEUES);
		assert_int_equal(vublk_device_queue_place(rig.device, 0, &place, sizeof(place),
							  NULL), 0);
		assert_int_equal(place.base, 8);
		assert_int_equal(place.undrained, 3);
		rig_end(&rig, &mock);
	}
}

static void test_a_back_end_with_the_draft_number(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_begin_movable(&rig, &mock);
	rig_start(&rig, QUEUES);
	mock.fault = (struct mock_fault){ .kind = MOCK_CUT,
					  .request = VUBLK_VU_GET_VRING_BASE_SKIP_DRAIN };
	vublk_device_set_vm_running(rig.device, false);
	rig_wait(&rig, RIG_STOPPED, 1);
	assert_non_null(strstr(rig.errors[RIG_STOPPED].text,
			       "message 45 (if the back-end expects this message as number 44"));
	rig_end(&rig, &mock);
}

/*
 * The device kicks each ring once at a start, because some back-ends start a ring only at a kick.
 */
static void test_each_start_kicks_once(void **state)
{
	struct mock mock;
	struct device_rig rig;

	rig_begin_movable(&rig, &mock);
	clear_notifications(&rig);
	rig_start(&rig, QUEUES);
	for (unsigned i = 0; i < QUEUES; i++) {
		assert_int_equal(vublk_eventfd_clear(rig.kicks[i]), 1);
		assert_int_equal(vublk_eventfd_clear(rig.callfds[i]), 0);
	}
	rig_end(&rig, &mock);
}

/*
 * The stop may have left requests in the in-flight area, but the next back-end does not support
 * such areas. If there are such requests, the driver has to reset the device.
 */
static void test_a_back_end_without_the_area_after_it(void **state)
{
	for (unsigned outstanding = 0; outstanding < 3; outstanding += 2) {
		struct mock mock;
		struct device_rig rig;

		rig_begin_movable(&rig, &mock);
		rig_start(&rig, QUEUES);
		rig_set_indices(&rig, 1, 5, (uint16_t)(5 + outstanding));
		mock.base = 7;
		rig_pause(&rig);
		mock.protocol_features &= ~VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD);
		mock_hang_up(&mock);
		rig_wait(&rig, RIG_RECONNECTED, 1);
		vublk_device_set_vm_running(rig.device, true);
		if (outstanding) {
			rig_wait(&rig, RIG_NEEDS_RESET, 1);
			assert_non_null(strstr(rig.errors[RIG_NEEDS_RESET].text,
					       "queue 1: the previous back-end left an in-flight area "
					       "with up to 2 requests"));
		} else {
			/*
			 * The VM is paused again. No back-end has seen the requests that the driver
			 * adds after that.
			 */
			vublk_device_set_vm_running(rig.device, false);
			rig_wait(&rig, RIG_STOPPED, 2);
			rig_set_indices(&rig, 1, 5, 6);
			vublk_device_set_vm_running(rig.device, true);
			rig_wait(&rig, RIG_STARTED, 2);
			assert_int_equal(mock.given_bases[1], 5);
		}
		rig_end(&rig, &mock);
	}
}

/* --- back-ends that do not wait for their requests, although this was not negotiated ------- */

#define TAKEN 7 /* the available index at which the back-end stops */

/*
 * Pauses the VM. The back-end, which lacks the protocol features `without`, stops with two requests
 * of queue 1 incomplete.
 */
static void pause_undrained(struct device_rig *rig, struct mock *mock, uint64_t without)
{
	mock_init(mock);
	mock->protocol_features &= ~without;
	rig_init_with_mock(rig, mock);
	rig_set(rig, "reconnect-ms", "1");
	rig_realize(rig);
	rig_start(rig, QUEUES);
	for (unsigned i = 0; i < QUEUES; i++)
		rig_set_indices(rig, i, TAKEN, TAKEN);
	rig_set_indices(rig, 1, TAKEN - 2, TAKEN + 3);
	mock->base = TAKEN;
	rig_pause(rig);
	assert_non_null(strstr(rig->last_line, "returned queue 1 at index 7 with 2 requests "
					       "outstanding"));
	assert_int_equal(rig->num_warnings, 1);
}

static const uint64_t no_area = VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD);

/* The VM runs again with the same back-end, which still has the two requests. */
static void test_the_same_back_end_goes_on(void **state)
{
	struct mock mock;
	struct device_rig rig;

	pause_undrained(&rig, &mock, no_area);
	vublk_device_set_vm_running(rig.device, true);
	rig_wait(&rig, RIG_STARTED, 2);
	assert_int_equal(mock.given_bases[1], TAKEN);
	assert_int_equal(rig.calls[RIG_NEEDS_RESET], 0);
	rig_end(&rig, &mock);
}

static void test_a_loss_with_requests_it_took(void **state)
{
	struct mock mock;
	struct device_rig rig;

	pause_undrained(&rig, &mock, no_area);
	mock_hang_up(&mock);
	rig_wait(&rig, RIG_RECONNECTED, 1);
	vublk_device_set_vm_running(rig.device, true);
	rig_wait(&rig, RIG_NEEDS_RESET, 1);
	assert_non_null(strstr(rig.errors[RIG_NEEDS_RESET].text,
			       "queue 1: the connection to the back-end was lost with up to 2 requests "
			       "outstanding"));
	assert_int_equal(vublk_device_set_status(rig.device, 0, NULL), 0);
	rig_start(&rig, QUEUES);
	rig_end(&rig, &mock);
}

/*
 * The back-end has completed the two requests before it is lost, and no back-end has seen the
 * driver's later requests. So no reset is needed.
 */
static void test_a_loss_after_they_were_completed(void **state)
{
	struct mock mock;
	struct device_rig rig;

	pause_undrained(&rig, &mock, no_area);
	rig_set_indices(&rig, 1, TAKEN, TAKEN + 3);
	mock_hang_up(&mock);
	rig_wait(&rig, RIG_RECONNECTED, 1);
	vublk_device_set_vm_running(rig.device, true);
	rig_wait(&rig, RIG_STARTED, 2);
	assert_int_equal(mock.given_bases[1], TAKEN);
	assert_int_equal(rig.calls[RIG_NEEDS_RESET], 0);
	rig_end(&rig, &mock);
}

/*
 * The back-end is lost during the next start, before it has a ring again. The driver has to reset
 * the device.
 */
static void test_a_loss_before_it_has_the_rings_again(void **state)
{
	struct mock mock;
	struct device_rig rig;

	pause_undrained(&rig, &mock, no_area);
	mock_forget(&mock);
	mock.fault = (struct mock_fault){ .kind = MOCK_CUT, .request = VUBLK_VU_SET_FEATURES };
	vublk_device_set_vm_running(rig.device, true);
	rig_wait(&rig, RIG_NEEDS_RESET, 1);
	assert_int_equal(mock.received[VUBLK_VU_SET_VRING_KICK], 0);
	rig_end(&rig, &mock);
}

/*
 * The two requests are in an in-flight area. A reset is needed only if the next back-end does not
 * support it.
 */
static void test_a_loss_with_an_area(void **state)
{
	for (unsigned has_area = 0; has_area < 2; has_area++) {
		struct mock mock;
		struct device_rig rig;

		pause_undrained(&rig, &mock, VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_INFLIGHT));
		if (!has_area)
			mock.protocol_features &= ~no_area;
		mock_hang_up(&mock);
		rig_wait(&rig, RIG_RECONNECTED, 1);
		vublk_device_set_vm_running(rig.device, true);
		rig_wait(&rig, has_area ? RIG_STARTED : RIG_NEEDS_RESET, 1 + has_area);
		if (has_area)
			assert_int_equal(mock.given_bases[1], TAKEN);
		assert_int_equal(rig.calls[RIG_NEEDS_RESET], !has_area);
		rig_end(&rig, &mock);
	}
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_undrained_stops_are_negotiated),
		VUBLK_TEST(test_an_undrained_stop),
		VUBLK_TEST(test_the_message_of_a_stop),
		VUBLK_TEST(test_a_back_end_with_the_draft_number),
		VUBLK_TEST(test_each_start_kicks_once),
		VUBLK_TEST(test_a_back_end_without_the_area_after_it),
		VUBLK_TEST(test_the_same_back_end_goes_on),
		VUBLK_TEST(test_a_loss_with_requests_it_took),
		VUBLK_TEST(test_a_loss_after_they_were_completed),
		VUBLK_TEST(test_a_loss_before_it_has_the_rings_again),
		VUBLK_TEST(test_a_loss_with_an_area),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
