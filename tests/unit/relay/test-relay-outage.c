/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The relay during an outage, and with the next back-end.
 *
 * To leave requests outstanding, a case freezes the back-end, sends the requests, and then kills
 * the back-end.
 */
#include "relay-rig.h"

#include "util/fd.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 4096

static bool is_signalled(int fd)
{
	struct pollfd wait = { .fd = fd, .events = POLLIN };

	return poll(&wait, 1, 0) == 1;
}

/* --- the VMM sends no message ------------------------------------------------------ */

static void test_idle(void **state)
{
	struct relay relay;
	struct backend_rig rig;

	relay_begin(&relay, &rig, 4);
	for (unsigned i = 0; i < 5; i++) {
		relay_write_and_read(&rig, 0, 4, (char)('a' + i));
		relay_wait_for_start(&relay);
		relay_lose_backend(&relay);
		relay_start_backend(&relay, NULL);
	}
	relay_write_and_read(&rig, 0, 4, 'z');
	relay_end(&relay, &rig);
}

/*
 * Loses the back-end several times. Each time, the next back-end completes each waiting request
 * exactly once. `with_area`: the VMM has an in-flight area.
 */
static void go_through_outages(bool with_area)
{
	struct rig_area area = { .fd = -1 };
	struct relay relay;
	struct backend_rig rig;

	relay_open(&relay, NULL);
	relay_set_up_vmm(&relay, &rig);
	if (with_area) {
		rig_get_area(&rig, &area);
		assert_int_equal(rig_set_area(&rig, &area), 0);
	}
	for (unsigned q = 0; q < 2; q++)
		rig_start_queue(&rig, q, RIG_SIZE, 0);
	relay_driver_ok(&rig);
	for (unsigned i = 0; i < 4; i++) {
		relay_write_and_read(&rig, 0, 2, (char)('a' + i));
		relay_wait_for_start(&relay);
		relay_freeze_backend(&relay);
		relay_send_requests(&rig, 0);
		relay_lose_backend(&relay);
		relay_send_requests(&rig, 1);
		relay_start_backend(&relay, NULL);
		relay_take_requests(&rig, 0);
		relay_take_requests(&rig, 1);
	}
	if (with_area)
		rig_drop_area(&area);
	relay_end(&relay, &rig);
}

static void test_outstanding(void **state)
{
	go_through_outages(false);
}

static void test_outstanding_with_the_vmms_area(void **state)
{
	go_through_outages(true);
}

/* --- a VMM that connects in an outage ------------------------------------------------ */

static void test_vmm_comes_meanwhile(void **state)
{
	struct virtio_blk_config config;
	struct relay relay;
	struct backend_rig rig;

	relay_open(&relay, NULL);
	relay_lose_backend(&relay);
	relay_start_vmm(&relay, &rig, 2);
	rig_get_config(&rig, &config);
	assert_int_equal(config.capacity, RELAY_DISK_BYTES / 512);
	assert_true(rig.protocol_features & VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD));
	relay_send_requests(&rig, 0);
	relay_send_requests(&rig, 1);
	assert_int_equal(rig_set_wce(&rig, !config.wce), 1); /* no back-end can apply it now */
	relay_start_backend(&relay, NULL);
	relay_take_requests(&rig, 0);
	relay_take_requests(&rig, 1);
	relay_end(&relay, &rig);
}

/*
 * The VMM resumes a ring during an outage, so its driver may have turned the write cache off
 * before. The relay makes the next back-end write through.
 */
static void test_vmm_resumes_meanwhile(void **state)
{
	struct virtio_blk_config config;
	struct relay relay;
	struct backend_rig rig;

	relay_open(&relay, NULL);
	relay_lose_backend(&relay);
	relay_set_up_vmm(&relay, &rig);
	rig_make_ring(&rig, 0, RIG_SIZE, 1);
	rig.queues[0].ring.avail->idx = rig.queues[0].ring.used->idx = 1;
	assert_int_equal(rig_tell_queue(&rig, 0, 1), 0);
	relay_driver_ok(&rig);
	relay_send_requests(&rig, 0);
	relay_start_backend(&relay, NULL);
	relay_take_requests(&rig, 0);
	rig_get_config(&rig, &config);
	assert_int_equal(config.wce, 0);
	relay_end(&relay, &rig);
}

static void test_vmm_goes_meanwhile(void **state)
{
	struct relay relay;
	struct backend_rig rig;

	relay_open(&relay, NULL);
	for (unsigned i = 0; i < 3; i++) {
		relay_start_vmm(&relay, &rig, 2);
		relay_write_and_read(&rig, 0, 2, 'a');
		relay_wait_for_start(&relay);
		relay_freeze_backend(&relay);
		relay_send_requests(&rig, 0);
		relay_lose_backend(&relay);
		relay_close_vmm(&relay, &rig);
		relay_start_backend(&relay, NULL);
	}
	relay_start_vmm(&relay, &rig, 2);
	relay_write_and_read(&rig, 0, 2, 'b');
	relay_end(&relay, &rig);
}

/* --- stops in an outage ---------------------------------------------------------------- */

static void go_on_from(struct backend_rig *rig, unsigned q, unsigned base)
{
	assert_int_equal(rig_tell_queue(rig, q, (uint16_t)base), 0);
	relay_driver_ok(rig);
}

/*
 * The VMM stops an idle ring during an outage. The used index is the exact base, because no request
 * is outstanding.
 */
static void test_stop_when_idle(void **state)
{
	struct relay relay;
	struct backend_rig rig;

	relay_begin(&relay, &rig, 1);
	relay_write_and_read(&rig, 0, 1, 'a');
	relay_lose_backend(&relay);
	assert_int_equal(rig_get_base(&rig, 0), 2);
	assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SET_STATUS, 0), 0);
	go_on_from(&rig, 0, 2);
	relay_start_backend(&relay, NULL);
	relay_write_and_read(&rig, 0, 1, 'b');
	relay_end(&relay, &rig);
}

/*
 * The VMM stops its ring during an outage and starts it again. The VMM's in-flight area shows which
 * requests are outstanding.
 */
static void test_stop_with_the_vmms_area(void **state)
{
	struct rig_area area;
	struct relay relay;
	struct backend_rig rig;

	relay_open(&relay, NULL);
	relay_start_vmm_with_area(&relay, &rig, &area, 1);
	relay_write_and_read(&rig, 0, 1, 'a');
	relay_freeze_backend(&relay);
	relay_send_requests(&rig, 0);
	relay_lose_backend(&relay);
	assert_int_equal(rig_get_base(&rig, 0), 2);
	relay_wait(&relay, "16 requests outstanding (recorded in the VMM's in-flight area)");
	assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SET_STATUS, 0), 0);
	assert_int_equal(rig_set_area(&rig, &area), 0);
	go_on_from(&rig, 0, 2);
	relay_start_backend(&relay, NULL);
	relay_take_requests(&rig, 0);
	rig_drop_area(&area);
	relay_end(&relay, &rig);
}

/*
 * The VMM has no in-flight area. So after a stop, the relay does not know which requests the lost
 * back-end had begun, and only a new ring can start.
 */
static void test_stop_without_an_area(void **state)
{
	struct relay relay;
	struct backend_rig rig;

	relay_begin(&relay, &rig, 1);
	relay_freeze_backend(&relay);
	relay_send_requests(&rig, 0);
	relay_lose_backend(&relay);
	assert_int_equal(rig_get_base(&rig, 0), 0);
	relay_start_backend(&relay, NULL);
	relay_wait(&relay, "is available again");
	go_on_from(&rig, 0, 0);
	relay_wait(&relay, "queue 0 cannot start");
	relay_expect_signal(rig.queues[0].err_fd);
	assert_true(rig_get_u64(&rig, VUBLK_VU_GET_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
	/* The driver resets the device. The new ring has the same address. */
	assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SET_STATUS, 0), 0);
	assert_int_equal(rig_get_u64(&rig, VUBLK_VU_GET_STATUS), 0);
	memset(rig.memory, 0, RIG_QUEUE_BYTES);
	rig_make_ring(&rig, 0, RIG_SIZE, 0);
	go_on_from(&rig, 0, 0);
	relay_write_and_read(&rig, 0, 1, 'a');
	relay_end(&relay, &rig);
}

/*
 * The VMM stops one of two rings during an outage. The other ring's outstanding requests still
 * complete.
 */
static void test_stop_one_of_two(void **state)
{
	struct relay relay;
	struct backend_rig rig;

	relay_begin(&relay, &rig, 2);
	relay_freeze_backend(&relay);
	relay_send_requests(&rig, 1);
	relay_lose_backend(&relay);
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_ENABLE, 0, 0), 0);
	assert_int_equal(rig_get_base(&rig, 0), 0);
	relay_start_backend(&relay, NULL);
	relay_take_requests(&rig, 1);
	assert_false(is_signalled(rig.queues[1].err_fd));
	relay_end(&relay, &rig);
}

/* --- back-ends without an area ----------------------------------------------------------- */

static void open_without_inflight(struct relay *relay)
{
	relay_open_alone(relay, NULL);
	relay_start_backend(relay, "inflight=off");
	relay_wait(relay, "listening on");
}

static void test_no_area(void **state)
{
	struct relay relay;
	struct backend_rig rig;

	open_without_inflight(&relay);
	relay_start_vmm(&relay, &rig, 1);
	assert_false(rig.protocol_features & VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD));
	relay_write_and_read(&rig, 0, 1, 'a');
	relay_lose_backend(&relay);
	relay_start_backend(&relay, "inflight=off");
	relay_wait_for_start(&relay);
	relay_write_and_read(&rig, 0, 1, 'b');
	relay_freeze_backend(&relay);
	relay_send_requests(&rig, 0);
	relay_lose_backend(&relay);
	relay_start_backend(&relay, "inflight=off");
	relay_expect_signal(rig.queues[0].err_fd);
	assert_true(rig_get_u64(&rig, VUBLK_VU_GET_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
	relay_reset_device(&rig);
	assert_int_equal(rig_get_u64(&rig, VUBLK_VU_GET_STATUS), 0);
	assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SET_FEATURES, rig.features), 0);
	memset(rig.memory, 0, RIG_QUEUE_BYTES);
	rig_start_queue(&rig, 0, RIG_SIZE, 0);
	relay_driver_ok(&rig);
	relay_write_and_read(&rig, 0, 1, 'c');
	relay_end(&relay, &rig);
}

/* --- another relay ------------------------------------------------------------------------- */

/*
 * The VMM passes its in-flight area to the next relay, as it would to the next back-end. The
 * outstanding requests complete.
 */
static void test_another_relay(void **state)
{
	struct rig_area area;
	struct relay relay;
	struct backend_rig rig;
	int fd;

	relay_open(&relay, NULL);
	relay_start_vmm_with_area(&relay, &rig, &area, 1);
	relay_write_and_read(&rig, 0, 1, 'a');
	relay_freeze_backend(&relay);
	relay_send_requests(&rig, 0);
	relay_lose_backend(&relay);
	relay_close(&relay);
	relay_open(&relay, NULL);
	fd = vublk_socket_connect(relay.socket, NULL);
	rig_attach_again(&rig, fd);
	rig_negotiate(&rig);
	assert_int_equal(rig_set_mem_table(&rig), 0);
	assert_int_equal(rig_set_area(&rig, &area), 0);
	go_on_from(&rig, 0, rig.queues[0].ring.used->idx);
	relay_take_requests(&rig, 0);
	rig_drop_area(&area);
	relay_end(&relay, &rig);
}

/* --- permanent losses ------------------------------------------------------------------------- */

static void test_reconnect_off(void **state)
{
	const struct vublk_option options[] = { { "reconnect-ms", "0" }, { NULL } };
	struct relay relay;
	struct backend_rig rig;

	relay_open(&relay, options);
	relay_start_vmm(&relay, &rig, 1);
	relay_kill_backend(&relay);
	rig_wait_for_end(&rig);
	relay_join(&relay);
	assert_int_equal(relay.result, -ENOTCONN);
	assert_non_null(strstr(relay.error.text, "closed the connection"));
	rig_close(&rig);
	relay_close(&relay);
}

static void test_deadline(void **state)
{
	const struct vublk_option options[] = { { "reconnect-deadline-ms", "50" }, { NULL } };
	struct relay relay;

	relay_open(&relay, options);
	relay_kill_backend(&relay);
	relay_join(&relay);
	assert_true(relay.result < 0);
	assert_non_null(strstr(relay.error.text, "gave up reconnecting"));
	relay_close(&relay);
}

/* The relay treats a back-end that does not answer within request-timeout-ms as lost. */
static void test_frozen_backend(void **state)
{
	const struct vublk_option options[] = { { "request-timeout-ms", "1000" }, { NULL } };
	struct relay relay;
	struct backend_rig rig;

	relay_open(&relay, options);
	relay_start_vmm(&relay, &rig, 2);
	relay_write_and_read(&rig, 0, 2, 'a');
	relay_freeze_backend(&relay);
	assert_int_equal(rig_get_base(&rig, 0), 2);
	assert_int_equal(rig_get_base(&rig, 1), 2);
	relay_kill_backend(&relay);
	relay_start_backend(&relay, NULL);
	go_on_from(&rig, 0, 2);
	relay_write_and_read(&rig, 0, 1, 'b');
	relay_end(&relay, &rig);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_idle),
		VUBLK_TEST(test_outstanding),
		VUBLK_TEST(test_outstanding_with_the_vmms_area),
		VUBLK_TEST(test_vmm_comes_meanwhile),
		VUBLK_TEST(test_vmm_resumes_meanwhile),
		VUBLK_TEST(test_vmm_goes_meanwhile),
		VUBLK_TEST(test_stop_when_idle),
		VUBLK_TEST(test_stop_with_the_vmms_area),
		VUBLK_TEST(test_stop_without_an_area),
		VUBLK_TEST(test_stop_one_of_two),
		VUBLK_TEST(test_no_area),
		VUBLK_TEST(test_another_relay),
		VUBLK_TEST(test_reconnect_off),
		VUBLK_TEST(test_deadline),
		VUBLK_TEST(test_frozen_backend),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
