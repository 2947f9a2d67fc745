/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Stops a ring while the engine has a request of that ring. Tests which of the messages that stop a
 * ring also drain it, with and without the protocol features GET_VRING_BASE_INFLIGHT and
 * GET_VRING_BASE_SKIP_DRAIN.
 *
 * Key idea: the request writes zeroes to many ranges, which the engine receives one after the
 * other. The test intercepts the system call for each range, and decides when it returns.
 */
#include "backend-rig.h"

#include "util/atomic.h"
#include "util/fd.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define RANGES 32
#define TRIES 10

int __wrap_fallocate64(int fd, int mode, off_t offset, off_t bytes);

static struct {
	int begun_fd; /* signalled when a range begins */
	int go_fd;    /* a range ends only when this is signalled */
	bool is_open; /* ranges end without a signal */
	unsigned calls;
} gate = { .begun_fd = -1, .go_fd = -1 };

int __wrap_fallocate64(int fd, int mode, off_t offset, off_t bytes)
{
	struct pollfd wait = { .fd = gate.go_fd, .events = POLLIN };

	__atomic_add_fetch(&gate.calls, 1, __ATOMIC_RELAXED);
	if (vublk_load_relaxed(&gate.is_open))
		return 0;
	vublk_eventfd_signal(gate.begun_fd);
	while (poll(&wait, 1, -1) < 0)
		;
	vublk_eventfd_clear(gate.go_fd);
	return 0;
}

static void open_rig(struct backend_rig *rig, struct rig_area *area)
{
	char path[RIG_PATH_BYTES];
	const struct vublk_option options[] = {
		{ "blk-file", path }, { "num-queues", "4" }, { "io", "blocking" },
		{ "cache", "buffered" }, { 0 },
	};
	int fd = rig_make_image(path, 1 << 20);

	gate.begun_fd = vublk_eventfd_new();
	gate.go_fd = vublk_eventfd_new();
	vublk_fd_close(&fd);
	rig_open(rig, options);
	rig_negotiate(rig);
	assert_int_equal(rig_set_mem_table(rig), 0);
	rig_get_area(rig, area);
	assert_int_equal(rig_set_area(rig, area), 0);
	rig_start_queue(rig, 0, RIG_SIZE, 0);
}

static void close_rig(struct backend_rig *rig, struct rig_area *area)
{
	rig_drop_area(area);
	rig_close(rig);
	vublk_fd_close(&gate.begun_fd);
	vublk_fd_close(&gate.go_fd);
}

static void add_request(struct backend_rig *rig)
{
	struct virtio_blk_discard_write_zeroes *ranges = (void *)rig_data(rig, 0);

	for (unsigned i = 0; i < RANGES; i++)
		ranges[i] = (struct virtio_blk_discard_write_zeroes){
			.sector = i * 8, .num_sectors = 8,
		};
	vublk_store_relaxed(&gate.calls, 0);
	rig_add(rig, 0, 0, VIRTIO_BLK_T_WRITE_ZEROES, 0, 0, RANGES * sizeof(*ranges));
	rig_kick(rig, 0);
}

/* Ends the ranges one after the other until `fd` is readable. */
static void let_go_until(int fd)
{
	struct pollfd wait[] = {
		{ .fd = gate.begun_fd, .events = POLLIN }, { .fd = fd, .events = POLLIN },
	};

	while (!(wait[1].revents & POLLIN)) {
		assert_true(poll(wait, 2, -1) > 0);
		if (!(wait[0].revents & POLLIN))
			continue;
		vublk_eventfd_clear(gate.begun_fd);
		vublk_eventfd_signal(gate.go_fd);
	}
}

static void wait_until_begun(void)
{
	struct pollfd wait = { .fd = gate.begun_fd, .events = POLLIN };

	assert_int_equal(poll(&wait, 1, -1), 1);
}

/*
 * Adds a request, and stops the ring with the message `request` while the engine has the first
 * range. Then ends the ranges until the reply arrives. Returns the base in the reply.
 */
static unsigned stop_amid(struct backend_rig *rig, uint32_t request)
{
	struct vublk_vu_message message, reply;
	unsigned lines;

	add_request(rig);
	wait_until_begun();
	lines = rig_log_lines(rig);
	vublk_vu_message_init(&message, request);
	message.header.size = sizeof(message.payload.state);
	rig_send(rig, &message);
	while (rig_log_lines(rig) == lines) /* until the back-end logs that the queue has to stop */
		sched_yield();
	let_go_until(rig->channel.fd);
	rig_receive(rig, &reply);
	assert_int_equal(reply.header.request, request);
	return reply.payload.state.num;
}

/*
 * Starts the ring at `base`. Checks that the request completes once. If the stop has `left` it in
 * flight, all of its ranges must be executed again.
 */
static void check_start(struct backend_rig *rig, unsigned base, unsigned left)
{
	vublk_store_relaxed(&gate.calls, 0);
	vublk_store_relaxed(&gate.is_open, true);
	assert_int_equal(rig_tell_queue(rig, 0, (uint16_t)base), 0);
	assert_int_equal(rig_take(rig, 0, NULL), 0);
	assert_int_equal(rig_status(rig, 0, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(vublk_load_relaxed(&gate.calls), left ? RANGES : 0);
	assert_false(vublk_driver_ring_has_completion(&rig->queues[0].driver));
	vublk_store_relaxed(&gate.is_open, false);
}

/*
 * Stops the ring with the message `request`, and starts it again. Returns how many requests the
 * stop has left in flight. The ring and the area must agree on this number.
 */
static unsigned stop_and_start(struct backend_rig *rig, const struct rig_area *area,
			       uint32_t request)
{
	unsigned base = stop_amid(rig, request);
	unsigned left = rig_count_inflight(area, 0);
	uint16_t used = rig->queues[0].ring.used->idx;

	assert_int_equal(area->region->used_idx, used);
	assert_int_equal((uint16_t)(base - used), left);
	assert_int_equal(rig_status(rig, 0, 0), left ? 0xee : VIRTIO_BLK_S_OK);
	assert_true(left ? vublk_load_relaxed(&gate.calls) < RANGES :
			   vublk_load_relaxed(&gate.calls) == RANGES);
	check_start(rig, base, left);
	assert_int_equal(rig_count_inflight(area, 0), 0);
	return left;
}

#define UNDRAINED VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_INFLIGHT)
#define SKIP_DRAIN VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_SKIP_DRAIN)

static uint64_t accept_without(struct backend_rig *rig, uint64_t bits)
{
	return rig_set_u64(rig, VUBLK_VU_SET_PROTOCOL_FEATURES, rig->protocol_features & ~bits);
}

/*
 * Stops a ring TRIES times with the message `request`. The front-end does not accept the protocol
 * features `without`. Returns how many requests the stops have left in flight. A worker executes
 * tasks only every few rounds, so it may see a stop only after the last range. Therefore a
 * different number of flushes precedes each stop.
 */
static unsigned count_left(uint64_t without, uint32_t request)
{
	unsigned left = 0;
	struct rig_area area;
	struct backend_rig rig;

	open_rig(&rig, &area);
	assert_int_equal(accept_without(&rig, without), 0);
	for (unsigned i = 0; i < TRIES; i++) {
		for (unsigned k = 0; k < i; k++)
			assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), 0);
		left += stop_and_start(&rig, &area, request);
	}
	close_rig(&rig, &area);
	return left;
}

static void test_skip_drain_leaves_the_rest(void **state)
{
	assert_int_not_equal(count_left(0, VUBLK_VU_GET_VRING_BASE_SKIP_DRAIN), 0);
}

static void test_the_plain_message_drains(void **state)
{
	assert_int_equal(count_left(0, VUBLK_VU_GET_VRING_BASE), 0);
	assert_int_equal(count_left(UNDRAINED | SKIP_DRAIN, VUBLK_VU_GET_VRING_BASE), 0);
}

/*
 * An earlier version of the specification has GET_VRING_BASE_INFLIGHT, but no
 * GET_VRING_BASE_SKIP_DRAIN. QEMU 11.1 implements that version.
 */
static void test_without_skip_drain_the_plain_message_leaves_the_rest(void **state)
{
	assert_int_not_equal(count_left(SKIP_DRAIN, VUBLK_VU_GET_VRING_BASE), 0);
}

static void test_features_that_need_others(void **state)
{
	uint64_t area_bit = VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD);
	struct rig_area area;
	struct backend_rig rig;

	open_rig(&rig, &area);
	assert_int_equal(accept_without(&rig, area_bit | SKIP_DRAIN), 1);
	assert_true(rig_log_has(&rig, "GET_VRING_BASE_INFLIGHT, which requires INFLIGHT_SHMFD"));
	assert_int_equal(accept_without(&rig, area_bit), 1);
	assert_true(rig_log_has(&rig, "GET_VRING_BASE_SKIP_DRAIN, which requires"));
	assert_int_equal(accept_without(&rig, UNDRAINED), 1);
	assert_true(rig_log_has(&rig, "GET_VRING_BASE_SKIP_DRAIN, which requires"));
	close_rig(&rig, &area);
}

static void refuse_message(uint64_t without, uint32_t request, const char *words)
{
	struct vublk_vu_message message;
	struct rig_area area;
	struct backend_rig rig;

	open_rig(&rig, &area);
	assert_int_equal(accept_without(&rig, without), 0);
	vublk_vu_message_init(&message, request);
	message.header.size = sizeof(message.payload.state);
	rig_send(&rig, &message);
	rig_wait_for_end(&rig);
	assert_true(rig_log_has(&rig, words));
	rig_drop_area(&area);
	rig_close_expecting_end(&rig);
	vublk_fd_close(&gate.begun_fd);
	vublk_fd_close(&gate.go_fd);
}

static void test_messages_that_are_refused(void **state)
{
	refuse_message(SKIP_DRAIN, VUBLK_VU_GET_VRING_BASE_SKIP_DRAIN, "(bit 23), which the");
	refuse_message(0, VUBLK_VU_GET_SHMEM_CONFIG, "in a draft of the protocol");
}

/* The back-end is told to stop while the storage hangs. It logs what it waits for. */
static void test_end_waits_for_storage(void **state)
{
	struct rig_area area;
	struct backend_rig rig;

	open_rig(&rig, &area);
	add_request(&rig);
	wait_until_begun();
	vublk_backend_stop(rig.backend);
	rig_wait_for_log(&rig, "the stop waits for the storage to complete the "
			 "requests of 1 queue");
	vublk_store_relaxed(&gate.is_open, true);
	vublk_eventfd_signal(gate.go_fd);
	rig_wait_for_end(&rig);
	close_rig(&rig, &area);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_skip_drain_leaves_the_rest),
		VUBLK_TEST(test_the_plain_message_drains),
		VUBLK_TEST(test_without_skip_drain_the_plain_message_leaves_the_rest),
		VUBLK_TEST(test_features_that_need_others),
		VUBLK_TEST(test_messages_that_are_refused),
		VUBLK_TEST(test_end_waits_for_storage),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
