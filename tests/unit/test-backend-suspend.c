/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Stopping a ring while the engine has a request of it, with and without
 * GET_VRING_BASE_INFLIGHT.
 *
 * The request zeroes many ranges, of which the engine gets each after the last. Its
 * system call is taken over, so that the test decides when a range is done.
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
	int go_fd;    /* and waited for before it ends */
	bool is_open; /* nobody waits */
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

static void open_rig(struct rig *rig, struct rig_area *area)
{
	char path[128];
	const struct vublk_option options[] = {
		{ "blk-file", path }, { "num-queues", "4" }, { "io", "blocking" },
		{ "cache", "buffered" }, { 0 },
	};
	int fd;

	gate.begun_fd = vublk_eventfd_new();
	gate.go_fd = vublk_eventfd_new();
	snprintf(path, sizeof(path), "%s/image", vublk_test_folder());
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	vublk_fd_close(&fd);
	rig_open(rig, options);
	rig_negotiate(rig);
	assert_int_equal(rig_set_mem_table(rig), 0);
	rig_get_area(rig, area);
	assert_int_equal(rig_set_area(rig, area), 0);
	rig_start_queue(rig, 0, RIG_SIZE, 0);
}

static void close_rig(struct rig *rig, struct rig_area *area)
{
	rig_drop_area(area);
	rig_close(rig);
	vublk_fd_close(&gate.begun_fd);
	vublk_fd_close(&gate.go_fd);
}

static void add_request(struct rig *rig)
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

/* Lets one range after the other go until `fd` is readable. */
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

/* GET_VRING_BASE comes while the engine has the first range; the base. */
static unsigned stop_amid(struct rig *rig)
{
	struct vublk_vu_message message, reply;
	unsigned lines;

	add_request(rig);
	wait_until_begun();
	lines = rig_log_lines(rig);
	vublk_vu_message_init(&message, VUBLK_VU_GET_VRING_BASE);
	message.header.size = sizeof(message.payload.state);
	rig_send(rig, &message);
	while (rig_log_lines(rig) == lines) /* it says that the queue is to stop */
		sched_yield();
	let_go_until(rig->channel.fd);
	rig_receive(rig, &reply);
	assert_int_equal(reply.header.request, VUBLK_VU_GET_VRING_BASE);
	return reply.payload.state.num;
}

/* The next start does all of it, and completes it once. */
static void check_start(struct rig *rig, unsigned base, unsigned left)
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

/* How many requests a stop left; whatever it is, ring and area say the same. */
static unsigned stop_and_start(struct rig *rig, const struct rig_area *area)
{
	unsigned base = stop_amid(rig);
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

/*
 * A worker looks for tasks now and then, and at times not before the last range: the
 * other requests are to move it on.
 */
static void test_leaves_the_rest(void **state)
{
	unsigned left = 0;
	struct rig_area area;
	struct rig rig;

	open_rig(&rig, &area);
	for (unsigned i = 0; i < TRIES; i++) {
		for (unsigned k = 0; k < i; k++)
			assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), 0);
		left += stop_and_start(&rig, &area);
	}
	assert_int_not_equal(left, 0);
	close_rig(&rig, &area);
}

static void test_without_it_waits(void **state)
{
	struct rig_area area;
	struct rig rig;

	open_rig(&rig, &area);
	assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SET_PROTOCOL_FEATURES, rig.protocol_features &
				     ~VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_INFLIGHT)), 0);
	for (unsigned i = 0; i < TRIES; i++)
		assert_int_equal(stop_and_start(&rig, &area), 0);
	close_rig(&rig, &area);
}

static void test_needs_inflight(void **state)
{
	struct rig_area area;
	struct rig rig;

	open_rig(&rig, &area);
	assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SET_PROTOCOL_FEATURES,
				     rig.protocol_features &
				     ~VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD)), 1);
	assert_true(rig_log_has(&rig, "GET_VRING_BASE_INFLIGHT without INFLIGHT_SHMFD"));
	close_rig(&rig, &area);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_leaves_the_rest),
		VUBLK_TEST(test_without_it_waits),
		VUBLK_TEST(test_needs_inflight),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
