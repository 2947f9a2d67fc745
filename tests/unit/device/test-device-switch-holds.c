/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A switch to another path meets other events that also stop the plane or resume it: a change of the
 * guest's memory, and the operator's pause. Each of them has to reach its end, and the plane must not
 * take requests while the switch holds them back.
 *
 * The mocks answer the messages. The test plays the back-end at the plane's ring.
 */
#include "harness.h"

#include "mock/device-rig.h"
#include "mock/plane-end.h"

#include "device/device.h"
#include "plane/thread-private.h"
#include "util/checked.h"
#include "util/fd.h"
#include "util/loop.h"
#include "virtio/device-ring.h"

#include <vublk/paths.h>
#include <vublk/device.h>

#include <errno.h>
#include <linux/virtio_blk.h>
#include <string.h>

#define TIME_LIMIT_NS (UINT64_C(20) * 1000000000)

static struct mock a, b;
static struct device_rig rig;
static struct rig_plane_end backend;

/* --- the rig ---------------------------------------------------------------------------------- */

static bool pump(void *opaque)
{
	bool worked = mock_pump(&a);

	return mock_pump(&b) || worked;
}

static void on_callback(struct device_rig *at, enum rig_callback callback)
{
	if (callback == RIG_STARTED)
		rig_plane_end_start(&backend, &rig);
	else if (callback == RIG_STOPPED || callback == RIG_LOST)
		rig_plane_end_stop(&backend);
}

/* Starts a device with shadow rings. The back-ends lack FLUSH, so a switch ends without a flush. */
static void begin(void)
{
	mock_init_with_suffix(&b, "-b");
	mock_init(&a);
	a.features &= ~VUBLK_BIT(VIRTIO_BLK_F_FLUSH);
	b.features &= ~VUBLK_BIT(VIRTIO_BLK_F_FLUSH);
	rig_init_with_mock(&rig, &a);
	rig.pump = pump;
	rig.hook = on_callback;
	rig_set(&rig, "reconnect-ms", "5");
	rig_set(&rig, "chardev-2", b.path);
	rig_set(&rig, "failover-ms", "3600000");
	rig_set(&rig, "keepalive-ms", "0");
	rig_set(&rig, "shadow", "on");
	rig_realize(&rig);
	rig_start(&rig, 1);
}

static void end(void)
{
	rig_plane_end_stop(&backend);
	mock_deinit(&b);
	rig_end(&rig, &a);
}

static void change_memory(void)
{
	const struct vublk_memory_region region = {
		.guest_addr = RIG_GUEST_ADDR,
		.size_bytes = RIG_MEMORY_BYTES,
		.fd = rig.memfd,
	};

	assert_int_equal(vublk_device_set_memory(rig.device, &region, 1, NULL), 1);
}

static void begin_switch(void)
{
	assert_int_equal(vublk_device_switch(rig.device, b.path, NULL), 1);
}

static void run_until(bool (*is_done)(void))
{
	uint64_t until = vublk_now_ns() + TIME_LIMIT_NS;

	while (!is_done()) {
		assert_true(vublk_now_ns() < until);
		rig_turn(&rig, 1);
	}
}

static bool is_draining(void)
{
	return rig.device->path_switch.phase == VUBLK_DEVICE_SWITCH_DRAINING;
}

static bool is_paused(void)
{
	return vublk_device_is_paused(rig.device);
}

static void submit_read(void)
{
	rig_submit(&rig, 0, VIRTIO_BLK_T_IN, 0, NULL, 512);
}

/* Waits until the old back-end has the read, and returns the index of its first descriptor. */
static uint16_t take_read(void)
{
	struct iovec iov[16];
	struct vublk_chain chain = { .max_iov = 16, .iov = iov };
	uint64_t until = vublk_now_ns() + TIME_LIMIT_NS;

	while (vublk_device_ring_take(&backend.ring, &backend.map, &chain, NULL) != 1) {
		rig_turn(&rig, 1);
		assert_true(vublk_now_ns() < until);
	}
	*(uint8_t *)iov[chain.num_out + chain.num_in - 1].iov_base = VIRTIO_BLK_S_OK;
	return chain.head;
}

static void complete_read(uint16_t head)
{
	vublk_device_ring_push(&backend.ring, head, 513);
	vublk_device_ring_publish(&backend.ring);
	vublk_eventfd_signal(rig.device->shadow.side->queues[0].call_fd);
}

/* Runs until a switch waits for a read, and returns the index of the read's first descriptor. */
static uint16_t begin_drain(void)
{
	uint16_t head;

	submit_read();
	head = take_read();
	begin_switch();
	run_until(is_draining);
	return head;
}

static void check_moved(void)
{
	struct vublk_device_switch_info info;

	vublk_device_get_switch(rig.device, &info, sizeof(info));
	assert_false(info.is_under_way);
	assert_int_equal(info.code, 0);
	assert_int_equal(rig.device->paths.active, 1);
}

/* A request of the driver reaches the new back-end. */
static void check_served(void)
{
	submit_read();
	complete_read(take_read());
	assert_int_equal(rig_finish(&rig, 0), VIRTIO_BLK_S_OK);
}

static bool takes(void)
{
	return rig.device->shadow.thread->plane.takes;
}

/* --- tests -------------------------------------------------------------------------------------- */

/* The change begins after the switch, but before the switch stops the plane. */
static void test_memory_changes_before_the_drain(void **state)
{
	begin();
	begin_switch();
	change_memory();
	rig_wait(&rig, RIG_STARTED, 2);
	check_moved();
	assert_int_equal(rig.calls[RIG_MEMORY_CHANGED], 1);
	check_served();
	end();
}

/* The change begins while the old back-end executes a request. */
static void test_memory_changes_during_the_drain(void **state)
{
	uint16_t head;

	begin();
	head = begin_drain();
	change_memory();
	rig_settle(&rig);
	assert_int_equal(rig.calls[RIG_MEMORY_CHANGED], 0);
	complete_read(head);
	rig_wait(&rig, RIG_STARTED, 2);
	check_moved();
	assert_int_equal(rig.calls[RIG_MEMORY_CHANGED], 1);
	assert_int_equal(rig_finish(&rig, 0), VIRTIO_BLK_S_OK);
	check_served();
	end();
}

/* The operator pauses the disk while the old back-end executes a request. The switch comes first. */
static void test_a_pause_during_the_drain(void **state)
{
	uint16_t head;

	begin();
	head = begin_drain();
	vublk_device_set_paused(rig.device, true);
	rig_settle(&rig);
	complete_read(head);
	run_until(is_paused);
	check_moved();
	vublk_device_set_paused(rig.device, false);
	rig_wait(&rig, RIG_STARTED, 2);
	assert_int_equal(rig_finish(&rig, 0), VIRTIO_BLK_S_OK);
	check_served();
	end();
}

/*
 * A switch to the mirror's target flushes the target. Nothing writes to the target from now on, so a
 * write that the plane took would be missing there. The mocks cannot copy a disk, so the test sets
 * the phase.
 */
static void test_nothing_resumes_a_plane_that_a_switch_holds(void **state)
{
	begin();
	assert_true(takes());
	rig.device->path_switch.phase = VUBLK_DEVICE_SWITCH_FLUSHING_TARGET;
	change_memory();
	rig_wait(&rig, RIG_MEMORY_CHANGED, 1);
	assert_false(takes());
	vublk_device_set_paused(rig.device, true);
	rig_settle(&rig);
	vublk_device_set_paused(rig.device, false);
	rig_settle(&rig);
	assert_false(takes());
	rig.device->path_switch.phase = VUBLK_DEVICE_SWITCH_NONE;
	vublk_device_shadow_resume(rig.device);
	assert_true(takes());
	check_served();
	end();
}

/*
 * The VM runs again while the stop of its rings still waits for a request, and the operator's pause
 * begins and ends in this time. The end of the pause must not undo the stop's hold on the plane.
 */
static void test_a_pause_ends_during_a_stop(void **state)
{
	uint16_t head;

	begin();
	submit_read();
	head = take_read();
	vublk_device_set_vm_running(rig.device, false);
	rig_settle(&rig);
	assert_int_equal(rig.device->state, VUBLK_DEVICE_STOPPING);
	vublk_device_set_vm_running(rig.device, true);
	vublk_device_set_paused(rig.device, true);
	vublk_device_set_paused(rig.device, false);
	rig_settle(&rig);
	complete_read(head);
	rig_wait(&rig, RIG_STARTED, 2);
	assert_int_equal(rig_finish(&rig, 0), VIRTIO_BLK_S_OK);
	check_served();
	end();
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_memory_changes_before_the_drain),
		VUBLK_TEST(test_memory_changes_during_the_drain),
		VUBLK_TEST(test_a_pause_during_the_drain),
		VUBLK_TEST(test_nothing_resumes_a_plane_that_a_switch_holds),
		VUBLK_TEST(test_a_pause_ends_during_a_stop),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
