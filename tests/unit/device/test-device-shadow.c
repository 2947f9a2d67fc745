/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The device with shadow rings, and a back-end that completes no request. A stop, a reset, a change
 * or a loss comes while a request is outstanding. The cases check what happens to the request and
 * to the driver's rings.
 */
#include "harness.h"

#include "mock/device-rig.h"

#include "device/device.h"
#include "util/atomic.h"
#include "util/checked.h"
#include "util/fd.h"
#include "util/loop.h"
#include "util/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define RIG_DIRTY_BYTES ((RIG_GUEST_ADDR + RIG_MEMORY_BYTES) / VUBLK_DIRTY_PAGE_BYTES / 8)
#define OUT 1 /* returned if a start or a stop is under way */
#define TIME_LIMIT_NS (UINT64_C(20) * 1000000000)

static void prepare(struct device_rig *rig, struct mock *mock, const char *timeout_ms)
{
	rig_prepare(rig, mock, "1");
	rig_set(rig, "shadow", "on");
	rig_set(rig, "request-timeout-ms", timeout_ms);
	rig_set(rig, "keepalive-ms", "0");
}

static void begin(struct device_rig *rig, struct mock *mock, const char *timeout_ms)
{
	prepare(rig, mock, timeout_ms);
	rig_realize(rig);
	rig_start(rig, 1);
}

static unsigned outstanding(const struct device_rig *rig)
{
	return vublk_plane_thread_outstanding(rig->device->shadow.thread);
}

/* Adds a request, and waits until the plane has taken it. The back-end does not complete it. */
static void send_request(struct device_rig *rig)
{
	const char data[512] = "data";
	uint64_t until = vublk_now_ns() + TIME_LIMIT_NS;

	rig_submit(rig, 0, VIRTIO_BLK_T_OUT, 0, data, sizeof(data));
	while (!outstanding(rig))
		assert_true(vublk_now_ns() < until);
}

/*
 * Checks that the rings run again, that the request is still outstanding, and that the driver did
 * not have to reset the device.
 */
static void expect_resumed(struct device_rig *rig)
{
	rig_wait(rig, RIG_STARTED, 2);
	assert_int_equal(rig->calls[RIG_NEEDS_RESET], 0);
	assert_int_equal(outstanding(rig), 1);
	assert_int_equal(vublk_device_state(rig->device), VUBLK_DEVICE_RUNNING);
}

/*
 * The driver's kick descriptor can no longer be watched. The call descriptor can be replaced
 * nevertheless, and a bus may then close the old one.
 */
static void test_call_is_replaced_in_any_case(void **state)
{
	struct mock mock;
	struct device_rig rig;
	int kick, call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	uint64_t signals;

	begin(&rig, &mock, "5000");
	kick = rig.device->queues[0].kick_fd;
	assert_int_equal(dup2(rig.memfd, kick), kick);
	assert_int_equal(vublk_device_set_queue_call(rig.device, 0, call, NULL), 0);
	assert_int_equal(read(call, &signals, sizeof(signals)), sizeof(signals));
	rig_end(&rig, &mock);
	close(call);
}

/* --- stops that a timeout or a loss ends ------------------------------------------ */

/*
 * A change of the memory waits too long for the request. The device treats the back-end as lost,
 * and there is no other effect.
 */
static void test_memory_change_waits_too_long(void **state)
{
	struct vublk_memory_region regions[2] = {
		{ .guest_addr = RIG_GUEST_ADDR, .size_bytes = RIG_MEMORY_BYTES },
		{ .guest_addr = 0x1000, .size_bytes = 4096 },
	};
	struct mock mock;
	struct device_rig rig;

	begin(&rig, &mock, "100");
	send_request(&rig);
	regions[0].fd = regions[1].fd = rig.memfd;
	assert_int_equal(vublk_device_set_memory(rig.device, regions, 2, NULL), 1);
	rig_wait(&rig, RIG_LOST, 1);
	assert_int_equal(rig.calls[RIG_MEMORY_CHANGED], 1);
	expect_resumed(&rig);
	rig_end(&rig, &mock);
}

static void test_resumed_stop_waits_too_long(void **state)
{
	struct mock mock;
	struct device_rig rig;

	begin(&rig, &mock, "100");
	send_request(&rig);
	assert_int_equal(vublk_device_set_vm_running(rig.device, false), OUT);
	assert_int_equal(vublk_device_set_vm_running(rig.device, true), OUT);
	rig_wait(&rig, RIG_LOST, 1);
	expect_resumed(&rig);
	rig_end(&rig, &mock);
}

/* A loss ends a stop, whose timer must not expire during the outage. */
static void test_loss_ends_a_stop(void **state)
{
	struct vublk_memory_region region = { RIG_GUEST_ADDR, RIG_MEMORY_BYTES, -1, 0 };

	for (unsigned memory = 0; memory < 2; memory++) {
		struct mock mock;
		struct device_rig rig;

		begin(&rig, &mock, "20000");
		send_request(&rig);
		region.fd = rig.memfd;
		if (memory)
			assert_int_equal(vublk_device_set_memory(rig.device, &region, 1, NULL), 1);
		else
			vublk_device_set_vm_running(rig.device, false);
		vublk_device_set_vm_running(rig.device, true);
		assert_non_null(rig.device->shadow.timer.loop);
		mock_hang_up(&mock);
		rig_wait(&rig, RIG_LOST, 1);
		assert_null(rig.device->shadow.timer.loop);
		expect_resumed(&rig);
		rig_end(&rig, &mock);
	}
}

/* --- what the driver has set up --------------------------------------------------- */

/*
 * The plane keeps the rings as the driver has set them up, so new set-ups are refused until a
 * reset, even while a pause waits for a back-end.
 */
static void test_set_up_in_an_outage(void **state)
{
	struct mock mock;
	struct device_rig rig;

	begin(&rig, &mock, "20000");
	send_request(&rig);
	mock_die(&mock);
	rig_wait(&rig, RIG_LOST, 1);
	assert_int_equal(vublk_device_set_vm_running(rig.device, false), OUT);
	assert_int_equal(vublk_device_set_queue(rig.device, 0, NULL, 0, NULL), -EBUSY);
	assert_int_equal(vublk_device_ack_features(rig.device, vublk_device_features(rig.device),
						   NULL), -EBUSY);
	assert_int_equal(rig.calls[RIG_STOPPED], 0);
	assert_int_equal(vublk_device_set_status(rig.device, 0, NULL), 0);
	assert_int_equal(rig.calls[RIG_STOPPED], 1); /* the pause has ended */
	assert_int_equal(rig.errors[RIG_STOPPED].code, 0);
	assert_int_equal(vublk_device_set_queue(rig.device, 0, NULL, 0, NULL), 0);
	rig_end(&rig, &mock);
}

/* With reconnect-ms 0 the device looks for no other back-end, so a pause does not wait for one. */
static void test_pause_without_another_back_end(void **state)
{
	struct mock mock;
	struct device_rig rig;

	prepare(&rig, &mock, "20000");
	rig_set(&rig, "reconnect-ms", "0");
	rig_realize(&rig);
	rig_start(&rig, 1);
	send_request(&rig);
	mock_die(&mock);
	rig_wait(&rig, RIG_LOST, 1);
	assert_int_equal(vublk_device_set_queue(rig.device, 0, NULL, 0, NULL), -EBUSY);
	assert_int_equal(vublk_device_set_vm_running(rig.device, false), 0);
	assert_int_equal(rig.calls[RIG_STOPPED], 1);
	assert_int_equal(rig.errors[RIG_STOPPED].code, ETIMEDOUT);
	assert_int_equal(vublk_device_set_status(rig.device, 0, NULL), 0);
	assert_int_equal(rig.calls[RIG_STOPPED], 1);
	rig_end(&rig, &mock);
}

static void test_memory_at_the_planes_address(void **state)
{
	const uint64_t end = UINT64_C(1) << 53;
	struct vublk_memory_region regions[2] = {
		{ .guest_addr = RIG_GUEST_ADDR, .size_bytes = RIG_MEMORY_BYTES },
		{ .guest_addr = end - 8192, .size_bytes = 8192 },
	};
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;

	begin(&rig, &mock, "20000");
	regions[0].fd = regions[1].fd = rig.memfd;
	assert_int_equal(vublk_device_set_memory(rig.device, regions, 2, &error), 1);
	rig_wait(&rig, RIG_MEMORY_CHANGED, 1);
	regions[1].guest_addr += 4096;
	assert_int_equal(vublk_device_set_memory(rig.device, regions, 2, &error), -EINVAL);
	assert_non_null(strstr(error.text, "memory region 1 (at 0x1ffffffffff000, 8192 bytes)"));
	regions[1].guest_addr = UINT64_MAX - 8191;
	assert_int_equal(vublk_device_set_memory(rig.device, regions, 2, &error), -EINVAL);
	rig_end(&rig, &mock);
}

/*
 * The plane itself marks pages, so it has to map the bitmap for writing. This descriptor is
 * read-only.
 */
static void test_dirty_log_that_cannot_be_written(void **state)
{
	struct vublk_device_dirty_log log = { .size_bytes = RIG_DIRTY_BYTES };
	char path[64];
	struct vublk_error error;
	struct mock mock;
	struct device_rig rig;
	int fd = vublk_memfd_new("log", log.size_bytes, NULL);

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	log.fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(log.fd >= 0);
	begin(&rig, &mock, "20000");
	assert_true(vublk_device_dirty_log_start(rig.device, &log, sizeof(log), &error) < 0);
	assert_int_equal(rig.calls[RIG_NEEDS_RESET], 0);
	assert_int_equal(vublk_device_dirty_log_take(rig.device, 0, 64, (uint64_t[1]){ 0 }, NULL),
			 -EBUSY);
	close(log.fd);
	log.fd = fd;
	assert_int_equal(vublk_device_dirty_log_start(rig.device, &log, sizeof(log), &error), 0);
	assert_int_equal(vublk_device_dirty_log_stop(rig.device, &error), 0);
	close(fd);
	rig_end(&rig, &mock);
}

/* --- peers that fill eventfds --------------------------------------------------------- */

/*
 * Fills the eventfd. Tries again if the plane's thread has signalled it in between, for the
 * previous request.
 */
static void fill(int fd)
{
	const uint64_t full = UINT64_MAX - 1;
	int flags = fcntl(fd, F_GETFL);

	assert_int_equal(fcntl(fd, F_SETFL, flags | O_NONBLOCK), 0);
	do
		vublk_eventfd_clear(fd);
	while (write(fd, &full, sizeof(full)) < 0);
	assert_int_equal(fcntl(fd, F_SETFL, flags & ~O_NONBLOCK), 0);
}

static void wait_for_avail(const struct device_rig *rig, uint16_t index)
{
	const struct vublk_plane_side *side = rig->device->shadow.side;
	const uint16_t *avail = &side->queues[0].memory->ring.avail->idx;
	uint64_t until = vublk_now_ns() + TIME_LIMIT_NS;

	while (vublk_load_acquire(avail) != index)
		if (vublk_now_ns() > until)
			fail_msg("the plane's thread is blocked");
}

/*
 * The back-end's kick eventfd is full, so the first signal may block the plane's thread until the
 * device makes a call to the thread. Later signals never block the thread.
 */
static void test_full_eventfd(void **state)
{
	const char data[512] = "data";
	struct mock mock;
	struct device_rig rig;

	prepare(&rig, &mock, "20000");
	rig.refused_features = VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX); /* every request is kicked */
	rig_realize(&rig);
	rig_start(&rig, 1);
	for (uint16_t i = 1; i <= 4; i++) {
		fill(rig.device->shadow.side->queues[0].kick_fd);
		rig_submit(&rig, 0, VIRTIO_BLK_T_IN, 0, (void *)data, sizeof(data));
		wait_for_avail(&rig, i);
		if (i == 1)
			assert_int_equal(outstanding(&rig), 1);
	}
	rig_end(&rig, &mock);
}

/* --- other back-ends ----------------------------------------------------------------- */

static struct virtio_blk_config *config_of(struct mock *mock)
{
	return (struct virtio_blk_config *)mock->config;
}

static uint32_t seg_max_of(const struct device_rig *rig)
{
	struct virtio_blk_config config;

	vublk_device_config_read(rig->device, 0, &config, sizeof(config));
	return config.seg_max;
}

/*
 * The next back-end accepts fewer segments per request. The plane's memory must still have room for
 * requests that the plane took before the loss.
 */
static void test_back_end_with_fewer_segments(void **state)
{
	struct mock mock;
	struct device_rig rig;

	prepare(&rig, &mock, "20000");
	config_of(&mock)->seg_max = 500;
	rig.refused_features = VUBLK_BIT(VIRTIO_BLK_F_SEG_MAX);
	rig_realize(&rig);
	rig_start(&rig, 1);
	assert_true(rig.device->shadow.max_segments >= 500);
	config_of(&mock)->seg_max = 4;
	mock_hang_up(&mock);
	rig_wait(&rig, RIG_STARTED, 2);
	assert_int_equal(rig.device->shadow.side->region.long_table,
			 rig.device->shadow.max_segments + 2);
	rig_end(&rig, &mock);
}

/*
 * The next back-end accepts more segments per request. The plane's memory is made only once, so the
 * driver sees the earlier limit until the device is realized again.
 */
static void test_back_end_with_more_segments(void **state)
{
	struct mock mock;
	struct device_rig rig;

	prepare(&rig, &mock, "20000");
	rig_set(&rig, "seg-max-adjust", "off");
	config_of(&mock)->seg_max = 200;
	rig_realize(&rig);
	assert_int_equal(seg_max_of(&rig), 200);
	config_of(&mock)->seg_max = 100000;
	mock_hang_up(&mock);
	rig_wait(&rig, RIG_RECONNECTED, 1);
	assert_int_equal(seg_max_of(&rig), 200);
	vublk_device_unrealize(rig.device);
	rig_realize(&rig);
	assert_int_equal(seg_max_of(&rig), VUBLK_RING_MAX_INDIRECT - 2);
	assert_true(rig.device->shadow.max_segments <= VUBLK_PLANE_MAX_IOV);
	rig_end(&rig, &mock);
}

/* --- resets ------------------------------------------------------------------------ */

/*
 * A reset during the restart discards the request, so the device does not wait until the new
 * back-end has completed it.
 */
static void test_reset_at_each_step_of_a_restart(void **state)
{
	unsigned starting = 0;

	for (unsigned steps = 0; steps < 30; steps++) {
		struct mock mock;
		struct device_rig rig;

		begin(&rig, &mock, "20000");
		send_request(&rig);
		mock_hang_up(&mock);
		rig_wait(&rig, RIG_RECONNECTED, 1);
		for (unsigned i = 0; i < steps; i++) {
			mock_pump_once(&mock);
			vublk_device_process(rig.device);
		}
		if (vublk_device_state(rig.device) == VUBLK_DEVICE_STARTING) {
			starting++;
			assert_int_equal(vublk_device_set_status(rig.device, 0, NULL), 0);
			rig_wait(&rig, RIG_STOPPED, 1);
			assert_int_equal(rig.errors[RIG_STOPPED].code, 0);
			assert_int_equal(rig.calls[RIG_LOST], 1);
			rig_start(&rig, 1);
			assert_int_equal(outstanding(&rig), 0);
		}
		rig_end(&rig, &mock);
	}
	assert_true(starting >= 5);
}

/* No back-end has the rings during an outage, so a forced shutdown causes no callback. */
static void test_forced_shutdown_in_an_outage(void **state)
{
	for (unsigned skip = 0; skip < 2; skip++) {
		struct mock mock;
		struct device_rig rig;

		prepare(&rig, &mock, "20000");
		rig_set(&rig, "skip-get-vring-base-on-force-shutdown", skip ? "on" : "off");
		rig_realize(&rig);
		rig_start(&rig, 1);
		send_request(&rig);
		mock_die(&mock);
		rig_wait(&rig, RIG_LOST, 1);
		assert_int_equal(vublk_device_force_shutdown(rig.device), 0);
		assert_false(vublk_device_has_rings_out(rig.device));
		rig_settle(&rig);
		assert_int_equal(rig.calls[RIG_STOPPED], 0);
		rig_end(&rig, &mock);
	}
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_call_is_replaced_in_any_case),
		VUBLK_TEST(test_memory_change_waits_too_long),
		VUBLK_TEST(test_resumed_stop_waits_too_long),
		VUBLK_TEST(test_loss_ends_a_stop),
		VUBLK_TEST(test_set_up_in_an_outage),
		VUBLK_TEST(test_pause_without_another_back_end),
		VUBLK_TEST(test_memory_at_the_planes_address),
		VUBLK_TEST(test_dirty_log_that_cannot_be_written),
		VUBLK_TEST(test_full_eventfd),
		VUBLK_TEST(test_back_end_with_fewer_segments),
		VUBLK_TEST(test_back_end_with_more_segments),
		VUBLK_TEST(test_reset_at_each_step_of_a_restart),
		VUBLK_TEST(test_forced_shutdown_in_an_outage),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
