/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The relay with shadow rings, and a back-end without an in-flight area. A VMM does not notice the
 * loss of the back-end, whatever was outstanding.
 *
 * To leave requests outstanding, a case freezes the back-end, sends the requests, and then kills
 * the back-end.
 */
#include "relay-rig.h"

#include "util/checked.h"
#include "util/fd.h"

#include <linux/virtio_config.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#define OUTAGES 4
#define BLOCK 4096

static void open_relay_with_size(struct relay *relay, const char *timeout_ms, const char *size)
{
	const struct vublk_option properties[] = {
		{ "shadow", "on" },
		{ "request-timeout-ms", timeout_ms },
		{ "shadow-queue-size", size },
		{ NULL, NULL },
	};

	relay_open_alone(relay, properties);
	relay_start_backend(relay, "inflight=off");
	relay_wait(relay, "listening on");
}

static void open_relay(struct relay *relay, const char *timeout_ms)
{
	open_relay_with_size(relay, timeout_ms, "auto");
}

static void begin(struct relay *relay, struct backend_rig *rig, unsigned num_queues,
		  const char *timeout_ms)
{
	open_relay(relay, timeout_ms);
	relay_start_vmm(relay, rig, num_queues);
}

/*
 * Waits until the plane has cleared the kick. The plane then takes the requests before it does
 * anything else.
 */
static void wait_until_taken(struct backend_rig *rig)
{
	struct pollfd kick = { .fd = rig->queues[0].kick_fd, .events = POLLIN };

	while (poll(&kick, 1, 0) == 1)
		sched_yield();
}

/* Freezes the back-end, and makes the relay take requests from queue 0, which stay outstanding. */
static void freeze_with_requests(struct relay *relay, struct backend_rig *rig)
{
	relay_wait_for_start(relay);
	relay_freeze_backend(relay);
	relay_send_requests(rig, 0);
	wait_until_taken(rig);
}

/* Like freeze_with_requests(), and then kills the back-end. */
static void lose_with_requests(struct relay *relay, struct backend_rig *rig)
{
	freeze_with_requests(relay, rig);
	relay_lose_backend(relay);
}

/* --- outages --------------------------------------------------------------- */

static void test_requests(void **state)
{
	struct relay relay;
	struct backend_rig rig;

	begin(&relay, &rig, 4, "5000");
	for (unsigned i = 0; i < 10; i++)
		relay_write_and_read(&rig, 0, 4, (char)('a' + i));
	relay_send_requests(&rig, 2);
	relay_take_requests(&rig, 2);
	relay_end(&relay, &rig);
}

static void test_outages(void **state)
{
	struct relay relay;
	struct backend_rig rig;

	begin(&relay, &rig, 2, "5000");
	for (unsigned i = 0; i < OUTAGES; i++) {
		relay_write_and_read(&rig, 0, 2, (char)('a' + i));
		lose_with_requests(&relay, &rig);
		relay_send_requests(&rig, 1);
		relay_start_backend(&relay, "inflight=off");
		relay_take_requests(&rig, 0);
		relay_take_requests(&rig, 1);
	}
	assert_false(relay_has_said(&relay, "must reset the device"));
	relay_end(&relay, &rig);
}

/* A queue starts, and another stops, while the remaining queue executes requests. */
static void test_queue_by_queue(void **state)
{
	struct relay relay;
	struct backend_rig rig;

	begin(&relay, &rig, 1, "5000");
	relay_write_and_read(&rig, 0, 1, 'a');
	rig_start_queue(&rig, 1, RIG_SIZE, 0);
	relay_write_and_read(&rig, 0, 2, 'b');
	assert_int_equal(rig_get_base(&rig, 0), 4);
	relay_write_and_read(&rig, 1, 1, 'c');
	relay_end(&relay, &rig);
}

/* --- policy ------------------------------------------------------------------------ */

/*
 * The relay itself answers or fails the requests to which the properties `serial` and `read-only`
 * apply. The back-end sees only the read.
 */
static void test_policy(void **state)
{
	const struct vublk_option properties[] = {
		{ "shadow", "on" }, { "serial", "disk7" }, { "read-only", "on" }, { NULL, NULL },
	};
	struct relay relay;
	struct backend_rig rig;

	relay_open_alone(&relay, properties);
	relay_start_backend(&relay, "inflight=off");
	relay_wait(&relay, "listening on");
	relay_start_vmm(&relay, &rig, 1);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_GET_ID, 0, 0, VUBLK_BLK_ID_BYTES),
			 VIRTIO_BLK_S_OK);
	assert_string_equal(rig_data(&rig, 0), "disk7");
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 0, 0, RELAY_BLOCK), VIRTIO_BLK_S_IOERR);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_DISCARD, 0, 0, 16), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_IN, 0, 0, RELAY_BLOCK), VIRTIO_BLK_S_OK);
	relay_end(&relay, &rig);
}

/* --- rings of different size ---------------------------------------------------- */

#define MANY (VUBLK_RING_MAX_SIZE / 3) /* each request has three buffers */

static void add_writes(struct backend_rig *rig, unsigned count)
{
	for (uint16_t token = 0; token < count; token++)
		rig_add(rig, 0, token, VIRTIO_BLK_T_OUT, token * 8u, token * RELAY_BLOCK, RELAY_BLOCK);
}

static void take_writes(struct backend_rig *rig, unsigned count)
{
	bool taken[MANY] = { false };

	for (unsigned i = 0; i < count; i++) {
		uint16_t token = rig_take(rig, 0, NULL);

		assert_true(token < count && !taken[token]);
		taken[token] = true;
		assert_int_equal(rig_status(rig, 0, token), VIRTIO_BLK_S_OK);
	}
}

/*
 * Executes `count` writes through a driver's ring of `size` entries and a back-end's ring of `side`
 * entries. Then repeats the writes, and loses the back-end while they are outstanding.
 */
static void use_sizes(unsigned size, unsigned count, const char *side)
{
	struct relay relay;
	struct backend_rig rig;

	open_relay_with_size(&relay, "5000", side);
	relay_set_up_vmm(&relay, &rig);
	rig_start_queue(&rig, 0, size, 0);
	relay_driver_ok(&rig);
	relay_wait_for_start(&relay);
	add_writes(&rig, count);
	rig_kick(&rig, 0);
	take_writes(&rig, count);
	relay_freeze_backend(&relay);
	add_writes(&rig, count);
	rig_kick(&rig, 0);
	wait_until_taken(&rig);
	relay_lose_backend(&relay);
	relay_start_backend(&relay, "inflight=off");
	take_writes(&rig, count);
	relay_write_and_read(&rig, 0, 1, 'a');
	relay_end(&relay, &rig);
}

static void test_larger_than_the_back_end(void **state)
{
	use_sizes(1024, MANY, "128");
}

static void test_back_end_with_two_entries(void **state)
{
	use_sizes(1024, MANY, "2");
}

static void test_smaller_than_the_back_end(void **state)
{
	use_sizes(4, 1, "1024");
}

/* --- stops ------------------------------------------------------------------- */

/*
 * The VMM stops its ring during an outage. The next back-end executes the requests before the relay
 * returns the ring.
 */
static void test_stop_in_an_outage(void **state)
{
	struct vublk_vu_message message;
	struct relay relay;
	struct backend_rig rig;

	begin(&relay, &rig, 1, "60000");
	lose_with_requests(&relay, &rig);
	vublk_vu_message_init(&message, VUBLK_VU_GET_VRING_BASE);
	message.header.size = sizeof(message.payload.state);
	rig_send(&rig, &message);
	relay_wait(&relay, "relay rings: out, pause -> pausing");
	relay_start_backend(&relay, "inflight=off");
	rig_receive(&rig, &message);
	assert_int_equal(message.payload.state.num, RELAY_REQUESTS);
	relay_take_requests(&rig, 0);
	relay_end(&relay, &rig);
}

/*
 * The VMM stops its ring, and no back-end connects within request-timeout-ms. The relay then
 * returns the ring, although it does not know which requests were executed, so the ring cannot
 * start again.
 */
static void test_stop_that_waits_too_long(void **state)
{
	struct relay relay;
	struct backend_rig rig;

	begin(&relay, &rig, 1, "100");
	lose_with_requests(&relay, &rig);
	assert_int_equal(rig_get_base(&rig, 0), 0);
	assert_true(relay_has_said(&relay, "16 requests did not complete within 100 ms"));
	relay_start_backend(&relay, "inflight=off");
	relay_wait(&relay, "is available again");
	assert_int_equal(rig_tell_queue(&rig, 0, 0), 0);
	relay_driver_ok(&rig);
	relay_wait(&relay, "queue 0 cannot start");
	relay_end(&relay, &rig);
}

/* A reset waits at most request-timeout-ms for the back-end. */
static void test_reset_of_a_frozen_back_end(void **state)
{
	struct relay relay;
	struct backend_rig rig;

	begin(&relay, &rig, 1, "100");
	relay_write_and_read(&rig, 0, 1, 'a');
	freeze_with_requests(&relay, &rig);
	relay_reset_device(&rig);
	relay_kill_backend(&relay);
	relay_close_vmm(&relay, &rig);
	relay_start_backend(&relay, "inflight=off");
	relay_start_vmm(&relay, &rig, 1);
	relay_write_and_read(&rig, 0, 1, 'b');
	relay_end(&relay, &rig);
}

static void test_vmm_disconnects_in_an_outage(void **state)
{
	struct relay relay;
	struct backend_rig rig;

	begin(&relay, &rig, 2, "5000");
	for (unsigned i = 0; i < OUTAGES; i++) {
		lose_with_requests(&relay, &rig);
		relay_close_vmm(&relay, &rig);
		relay_start_backend(&relay, "inflight=off");
		relay_start_vmm(&relay, &rig, 2);
		relay_write_and_read(&rig, 0, 2, (char)('a' + i));
	}
	relay_end(&relay, &rig);
}

/* --- the in-flight area of the VMM ---------------------------------------------- */

static void go_on_from(struct backend_rig *rig, unsigned base)
{
	assert_int_equal(rig_tell_queue(rig, 0, (uint16_t)base), 0);
	relay_driver_ok(rig);
}

/*
 * A relay closes with requests that it has taken. The next relay finds them in the VMM's in-flight
 * area.
 */
static void test_another_relay(void **state)
{
	struct rig_area area;
	struct relay relay;
	struct backend_rig rig;
	int fd;

	open_relay(&relay, "100");
	relay_start_vmm_with_area(&relay, &rig, &area, 1);
	relay_write_and_read(&rig, 0, 1, 'a');
	lose_with_requests(&relay, &rig);
	relay_close(&relay);
	assert_int_equal(rig_count_inflight(&area, 0), RELAY_REQUESTS);
	open_relay(&relay, "100");
	fd = vublk_socket_connect(relay.socket, NULL);
	rig_attach_again(&rig, fd);
	rig_negotiate(&rig);
	assert_int_equal(rig_set_mem_table(&rig), 0);
	assert_int_equal(rig_set_area(&rig, &area), 0);
	go_on_from(&rig, rig.queues[0].ring.used->idx);
	relay_take_requests(&rig, 0);
	assert_int_equal(rig_count_inflight(&area, 0), 0);
	rig_drop_area(&area);
	relay_end(&relay, &rig);
}

/*
 * A stop that times out leaves the requests in the VMM's in-flight area, so the ring can start
 * again.
 */
static void test_stop_with_an_area(void **state)
{
	struct rig_area area;
	struct relay relay;
	struct backend_rig rig;

	open_relay(&relay, "100");
	relay_start_vmm_with_area(&relay, &rig, &area, 1);
	relay_write_and_read(&rig, 0, 1, 'a');
	lose_with_requests(&relay, &rig);
	assert_int_equal(rig_get_base(&rig, 0), 2);
	assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SET_STATUS, 0), 0);
	assert_int_equal(rig_set_area(&rig, &area), 0);
	go_on_from(&rig, 2);
	relay_start_backend(&relay, "inflight=off");
	relay_take_requests(&rig, 0);
	rig_drop_area(&area);
	relay_end(&relay, &rig);
}

/* --- changes while the rings run ------------------------------------------------ */

static void test_memory(void **state)
{
	const uint64_t guest = UINT64_C(1) << 40, bytes = 1 << 20;
	struct relay relay;
	struct backend_rig rig;
	int fd = rig_unsealed_memfd(1 << 20);

	begin(&relay, &rig, 2, "5000");
	relay_send_requests(&rig, 0);
	assert_int_equal(rig_add_mem_reg(&rig, fd, guest, guest, bytes, 0), 0);
	relay_take_requests(&rig, 0);
	relay_write_and_read(&rig, 0, 2, 'a');
	lose_with_requests(&relay, &rig);
	relay_start_backend(&relay, "inflight=off");
	relay_take_requests(&rig, 0);
	close(fd);
	relay_end(&relay, &rig);
}

static void test_notifiers(void **state)
{
	struct relay relay;
	struct backend_rig rig;
	struct rig_queue *queue = &rig.queues[0];

	begin(&relay, &rig, 1, "5000");
	for (unsigned i = 0; i < 20; i++) {
		vublk_fd_close(&queue->call_fd);
		queue->call_fd = vublk_eventfd_new();
		assert_int_equal(rig_set_vring_fd(&rig, VUBLK_VU_SET_VRING_CALL, 0, queue->call_fd),
				 0);
		vublk_fd_close(&queue->kick_fd);
		queue->kick_fd = vublk_eventfd_new();
		assert_int_equal(rig_set_vring_fd(&rig, VUBLK_VU_SET_VRING_KICK, 0, queue->kick_fd),
				 0);
		relay_write_and_read(&rig, 0, 1, (char)('a' + i));
	}
	relay_end(&relay, &rig);
}

/* --- a driver that breaks the rules --------------------------------------------------- */

static void test_driver_breaks_a_ring(void **state)
{
	struct relay relay;
	struct backend_rig rig;

	begin(&relay, &rig, 2, "5000");
	rig.queues[0].ring.avail->idx += RIG_SIZE + 1;
	vublk_eventfd_signal(rig.queues[0].kick_fd);
	relay_wait(&relay, "the driver broke the ring of queue 0");
	relay_expect_signal(rig.queues[0].err_fd);
	relay_write_and_read(&rig, 1, 1, 'a');
	relay_end(&relay, &rig);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_requests),
		VUBLK_TEST(test_outages),
		VUBLK_TEST(test_queue_by_queue),
		VUBLK_TEST(test_policy),
		VUBLK_TEST(test_larger_than_the_back_end),
		VUBLK_TEST(test_back_end_with_two_entries),
		VUBLK_TEST(test_smaller_than_the_back_end),
		VUBLK_TEST(test_stop_in_an_outage),
		VUBLK_TEST(test_stop_that_waits_too_long),
		VUBLK_TEST(test_reset_of_a_frozen_back_end),
		VUBLK_TEST(test_vmm_disconnects_in_an_outage),
		VUBLK_TEST(test_another_relay),
		VUBLK_TEST(test_stop_with_an_area),
		VUBLK_TEST(test_memory),
		VUBLK_TEST(test_notifiers),
		VUBLK_TEST(test_driver_breaks_a_ring),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
