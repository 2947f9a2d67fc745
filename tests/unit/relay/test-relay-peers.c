/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The relay with back-ends that behave differently from `vublk serve`. The mock acts as these
 * back-ends.
 */
#include "relay-mock.h"

#include <linux/virtio_config.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/stat.h>

/* --- rings that are returned with requests outstanding ----------------------------- */

/*
 * The VMM stops its queue. Of four requests, the back-end has taken three and completed only one.
 */
static void stop_undrained(struct relay_mock *mock, struct relay *relay, struct backend_rig *rig)
{
	relay_mock_init(mock);
	mock->mock.protocol_features &= ~VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD);
	relay_mock_open(mock, relay, NULL);
	relay_start_vmm(relay, rig, 1);
	rig->queues[0].ring.avail->idx = 4;
	rig->queues[0].ring.used->idx = 1;
	relay_mock_stop(mock);
	mock->mock.base = 3;
	relay_mock_continue(mock);
	assert_int_equal(rig_get_base(rig, 0), 3);
	relay_wait(relay, "returned queue 0 at index 3 with 2 requests outstanding");
	assert_int_equal(rig_set_u64(rig, VUBLK_VU_SET_STATUS, 0), 0);
}

static void start_again(struct backend_rig *rig)
{
	assert_int_equal(rig_tell_queue(rig, 0, 3), 0);
	relay_driver_ok(rig);
}

static void lose(struct relay_mock *mock, struct relay *relay)
{
	relay_mock_stop(mock);
	mock_hang_up(&mock->mock);
	relay_mock_continue(mock);
	relay_wait(relay, "is available again");
}

static void test_undrained_and_still_there(void **state)
{
	struct relay_mock mock;
	struct relay relay;
	struct backend_rig rig;

	stop_undrained(&mock, &relay, &rig);
	start_again(&rig);
	relay_wait(&relay, "starting, started -> running");
	relay_mock_stop(&mock);
	assert_int_equal(mock.mock.given_bases[0], 3);
	relay_mock_continue(&mock);
	assert_false(relay_has_said(&relay, "queue 0 cannot start"));
	relay_close_vmm(&relay, &rig);
	relay_mock_close(&mock, &relay);
}

static void test_undrained_and_lost(void **state)
{
	struct relay_mock mock;
	struct relay relay;
	struct backend_rig rig;

	stop_undrained(&mock, &relay, &rig);
	lose(&mock, &relay);
	start_again(&rig);
	relay_wait(&relay, "queue 0 cannot start: the connection to a back-end was lost with up to "
			   "3 requests");
	relay_expect_signal(rig.queues[0].err_fd);
	assert_true(rig_get_u64(&rig, VUBLK_VU_GET_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
	relay_close_vmm(&relay, &rig);
	relay_mock_close(&mock, &relay);
}

/*
 * The back-end completes its requests after the stop and before the loss. No back-end has seen the
 * fourth request, so the ring can resume.
 */
static void test_undrained_and_completed_before_the_loss(void **state)
{
	struct relay_mock mock;
	struct relay relay;
	struct backend_rig rig;

	stop_undrained(&mock, &relay, &rig);
	rig.queues[0].ring.used->idx = 3;
	lose(&mock, &relay);
	start_again(&rig);
	relay_wait(&relay, "starting, started -> running");
	relay_mock_stop(&mock);
	assert_int_equal(mock.mock.given_bases[0], 3);
	relay_mock_continue(&mock);
	relay_close_vmm(&relay, &rig);
	relay_mock_close(&mock, &relay);
}

/* --- the layout of the in-flight area ---------------------------------------------------- */

#define TIGHT_BYTES (RIG_QUEUES * (16 + 16 * RIG_SIZE))
#define ALIGNED_BYTES (RIG_QUEUES * (64 + 16 * RIG_SIZE))

static void open_insisting(struct relay_mock *mock, struct relay *relay, bool is_tight)
{
	relay_mock_init(mock);
	mock->mock.insists_on_area = true;
	mock->mock.has_tight_areas = is_tight;
	relay_mock_open(mock, relay, NULL);
}

static uint64_t inode_of(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return st.st_ino;
}

static void expect_area(struct relay_mock *mock, const struct rig_area *area)
{
	relay_mock_stop(mock);
	assert_int_equal(mock->mock.inflight_inode, inode_of(area->fd));
	assert_int_equal(mock->mock.inflight.mmap_size, area->bytes);
	assert_int_equal(mock->mock.inflight.num_queues, RIG_QUEUES);
	assert_int_equal(mock->mock.inflight.queue_size, RIG_SIZE);
	relay_mock_continue(mock);
}

/*
 * The back-end makes the in-flight area that the VMM gets. Later back-ends get the same area
 * unchanged.
 */
static void test_an_area_of_the_back_end_s_layout(void **state)
{
	for (unsigned is_tight = 0; is_tight < 2; is_tight++) {
		struct relay_mock mock;
		struct rig_area area;
		struct relay relay;
		struct backend_rig rig;

		open_insisting(&mock, &relay, is_tight);
		relay_start_vmm_with_area(&relay, &rig, &area, 1);
		assert_int_equal(area.bytes, is_tight ? TIGHT_BYTES : ALIGNED_BYTES);
		relay_wait(&relay, "starting, started -> running");
		expect_area(&mock, &area);
		lose(&mock, &relay);
		relay_wait(&relay, "starting, started -> running");
		expect_area(&mock, &area);
		rig_drop_area(&area);
		relay_close_vmm(&relay, &rig);
		relay_mock_close(&mock, &relay);
	}
}

/*
 * During an outage, the relay itself makes the in-flight area, with the layout of the last
 * back-end.
 */
static void test_an_area_without_a_back_end(void **state)
{
	struct relay_mock mock;
	struct rig_area area;
	struct relay relay;
	struct backend_rig rig;

	open_insisting(&mock, &relay, true);
	relay_start_vmm_with_area(&relay, &rig, &area, 1);
	relay_wait(&relay, "starting, started -> running");
	rig_drop_area(&area);
	relay_close_vmm(&relay, &rig);
	relay_wait(&relay, "is available again"); /* the relay reconnects after each VMM */
	relay_mock_stop(&mock);
	mock_die(&mock.mock);
	relay_mock_continue(&mock);
	relay_wait(&relay, "the disk waits for a back-end");
	relay_start_vmm_with_area(&relay, &rig, &area, 1);
	assert_int_equal(area.bytes, TIGHT_BYTES);
	relay_mock_stop(&mock);
	mock_live_again(&mock.mock);
	relay_mock_continue(&mock);
	relay_wait(&relay, "starting, started -> running");
	expect_area(&mock, &area);
	rig_drop_area(&area);
	relay_close_vmm(&relay, &rig);
	relay_mock_close(&mock, &relay);
}

/*
 * The next back-end uses another layout of the in-flight area, and hangs up. The relay logs the
 * layout as a possible reason.
 */
static void test_an_area_of_another_layout(void **state)
{
	struct relay_mock mock;
	struct rig_area area;
	struct relay relay;
	struct backend_rig rig;

	open_insisting(&mock, &relay, false);
	relay_start_vmm_with_area(&relay, &rig, &area, 1);
	relay_wait(&relay, "starting, started -> running");
	relay_mock_stop(&mock);
	mock_hang_up(&mock.mock);
	mock.mock.has_tight_areas = true;
	relay_mock_continue(&mock);
	relay_wait(&relay, "refused an in-flight area of 8448 bytes for 4 queues of 128 entries, "
			   "possibly because its own layout differs");
	relay_mock_stop(&mock);
	mock.mock.has_tight_areas = false;
	relay_mock_continue(&mock);
	relay_wait(&relay, "starting, started -> running");
	rig_drop_area(&area);
	relay_close_vmm(&relay, &rig);
	relay_mock_close(&mock, &relay);
}

/* --- back-ends that refuse to start ---------------------------------------------------- */

static unsigned count_said(struct relay *relay, const char *words)
{
	unsigned count = 0;

	pthread_mutex_lock(&relay->lock);
	for (const char *at = relay->loud; (at = strstr(at, words)); at++)
		count++;
	pthread_mutex_unlock(&relay->lock);
	return count;
}

/* Waits until the mock has had `count` connections since mock_forget(). */
static void wait_for_connections(struct relay_mock *mock, unsigned count)
{
	bool is_there = false;

	while (!is_there) {
		relay_mock_stop(mock);
		is_there = mock->mock.num_connections >= count;
		relay_mock_continue(mock);
		sched_yield();
	}
}

/*
 * The back-end refuses every start, first for one reason and then for another. The relay logs each
 * reason only once.
 */
static void test_a_refusal_is_said_once(void **state)
{
	static const struct vublk_option quick[] = { { "reconnect-ms", "1" }, { NULL } };
	const uint32_t refused[] = { VUBLK_VU_SET_VRING_KICK, VUBLK_VU_SET_VRING_CALL };
	struct relay_mock mock;
	struct relay relay;
	struct backend_rig rig;

	relay_mock_init(&mock);
	relay_mock_open(&mock, &relay, quick);
	relay_start_vmm(&relay, &rig, 1);
	relay_wait(&relay, "starting, started -> running");
	relay_mock_stop(&mock);
	mock_hang_up(&mock.mock);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(refused); i++) {
		mock.mock.refused_request = refused[i];
		mock_forget(&mock.mock);
		relay_mock_continue(&mock);
		wait_for_connections(&mock, 6);
		relay_mock_stop(&mock);
	}
	mock.mock.refused_request = 0;
	relay_mock_continue(&mock);
	relay_wait(&relay, "starting, started -> running");
	relay_close_vmm(&relay, &rig);
	assert_int_equal(count_said(&relay, "the back-end refused SET_VRING_KICK"), 1);
	assert_int_equal(count_said(&relay, "the back-end refused SET_VRING_CALL"), 1);
	assert_int_equal(count_said(&relay, "the disk waits for a back-end"), 3);
	assert_int_equal(count_said(&relay, "is available again"), 2);
	relay_mock_close(&mock, &relay);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_undrained_and_still_there),
		VUBLK_TEST(test_undrained_and_lost),
		VUBLK_TEST(test_undrained_and_completed_before_the_loss),
		VUBLK_TEST(test_an_area_of_the_back_end_s_layout),
		VUBLK_TEST(test_an_area_without_a_back_end),
		VUBLK_TEST(test_an_area_of_another_layout),
		VUBLK_TEST(test_a_refusal_is_said_once),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
