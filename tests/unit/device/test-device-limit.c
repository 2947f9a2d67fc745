/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The limits of a device: when they can be set, when they apply, and that a stop does not wait for
 * them.
 */
#include "harness.h"

#include "mock/device-rig.h"

#include "device/device.h"
#include "util/checked.h"
#include "util/loop.h"

#include <vublk/limit.h>
#include <vublk/shadow.h>

#include <errno.h>
#include <linux/virtio_blk.h>
#include <string.h>

#define NUM_QUEUES 4
#define TIME_LIMIT_NS (UINT64_C(20) * 1000000000)

static void prepare(struct device_rig *rig, struct mock *mock, const char *shadow)
{
	rig_prepare(rig, mock, "1");
	rig_set(rig, "shadow", shadow);
	rig_set(rig, "num-queues", "4");
	rig_set(rig, "request-timeout-ms", "20000");
	rig_set(rig, "keepalive-ms", "0");
}

/*
 * These tests set limits of one byte per second: the first request passes, and the next one would
 * pass 512 seconds later. A limit of one request per second could let a second one pass on a slow
 * machine.
 *
 * Sends one request on each queue, and waits until the plane has taken all of them. The back-end
 * completes no request.
 */
static void send_requests(struct device_rig *rig)
{
	const char data[512] = "data";
	uint64_t until = vublk_now_ns() + TIME_LIMIT_NS;

	for (unsigned i = 0; i < NUM_QUEUES; i++)
		rig_submit(rig, i, VIRTIO_BLK_T_OUT, i, data, sizeof(data));
	while (vublk_plane_thread_outstanding(rig->device->shadow.thread) < NUM_QUEUES)
		assert_true(vublk_now_ns() < until);
}

static int set(struct device_rig *rig, struct vublk_limits limits, struct vublk_error *error)
{
	return vublk_device_set_limits(rig->device, &limits, sizeof(limits), error);
}

static void test_stop_does_not_wait(void **state)
{
	struct mock mock;
	struct device_rig rig;

	prepare(&rig, &mock, "on");
	rig_set(&rig, "bps-write", "1");
	rig_set(&rig, "burst-ms", "1");
	rig_realize(&rig);
	rig_start(&rig, NUM_QUEUES);
	send_requests(&rig);
	assert_int_equal(vublk_device_count_limited(rig.device), NUM_QUEUES - 1);
	vublk_device_set_vm_running(rig.device, false);
	assert_int_equal(vublk_device_count_limited(rig.device), 0);
	rig_end(&rig, &mock);
}

static void test_removal(void **state)
{
	struct mock mock;
	struct device_rig rig;
	struct vublk_limits limits;

	prepare(&rig, &mock, "on");
	assert_int_equal(set(&rig, (struct vublk_limits){ .bps = 1 }, NULL), 0);
	vublk_device_get_limits(rig.device, &limits, sizeof(limits));
	assert_int_equal(limits.bps, 1);
	assert_int_equal(limits.burst_ms, 100);
	for (unsigned i = 0; i < 2; i++) { /* the limits outlive an unrealize */
		rig_realize(&rig);
		rig_start(&rig, NUM_QUEUES);
		send_requests(&rig);
		assert_int_equal(vublk_device_count_limited(rig.device), NUM_QUEUES - 1);
		if (i)
			break;
		vublk_device_unrealize(rig.device);
	}
	assert_int_equal(set(&rig, (struct vublk_limits){ 0 }, NULL), 0);
	assert_int_equal(vublk_device_count_limited(rig.device), 0);
	rig_end(&rig, &mock);
}

static bool is_shadowed(const struct device_rig *rig)
{
	struct vublk_shadow_info info;

	vublk_device_get_shadow(rig->device, &info, sizeof(info));
	return info.is_shadowed;
}

/* While any limit is set, shadow rings are on, whatever the property `shadow` says. */
static void test_shadow_rings_while_limited(void **state)
{
	struct mock mock;
	struct device_rig rig;

	prepare(&rig, &mock, "off");
	rig_realize(&rig);
	rig_start(&rig, NUM_QUEUES);
	assert_false(is_shadowed(&rig));
	assert_int_equal(set(&rig, (struct vublk_limits){ .burst_ms = 5 }, NULL), 0);
	rig_settle(&rig);
	assert_int_equal(rig.calls[RIG_STARTED], 1);
	assert_int_equal(set(&rig, (struct vublk_limits){ .bps_read = 1 }, NULL), 0);
	rig_wait(&rig, RIG_STARTED, 2);
	assert_true(is_shadowed(&rig));
	assert_int_equal(set(&rig, (struct vublk_limits){ 0 }, NULL), 0);
	rig_wait(&rig, RIG_STARTED, 3);
	assert_false(is_shadowed(&rig));
	rig_end(&rig, &mock);
}

static void test_property_switches_shadow_rings_on(void **state)
{
	struct mock mock;
	struct device_rig rig;

	prepare(&rig, &mock, "off");
	rig_set(&rig, "bps", "1");
	rig_realize(&rig);
	rig_start(&rig, NUM_QUEUES);
	send_requests(&rig);
	assert_int_equal(vublk_device_count_limited(rig.device), NUM_QUEUES - 1);
	rig_end(&rig, &mock);
}

static void test_ranges(void **state)
{
	const uint64_t too_high = UINT64_C(1000000000000001);
	const struct { struct vublk_limits limits; uint64_t later; } longer = { { 0 }, 1 };
	struct vublk_error error = { 0 };
	struct mock mock;
	struct device_rig rig;

	prepare(&rig, &mock, "on");
	assert_int_equal(set(&rig, (struct vublk_limits){ .bps_write = too_high }, &error), -EINVAL);
	assert_non_null(strstr(error.text, "bps-write is 1000000000000001"));
	assert_int_equal(set(&rig, (struct vublk_limits){ .burst_ms = 3600001 }, &error), -EINVAL);
	assert_non_null(strstr(error.text, "burst-ms"));
	assert_int_equal(vublk_device_set_limits(rig.device, &longer.limits, sizeof(longer), &error),
			 -EINVAL);
	assert_int_equal(vublk_device_set_property(rig.device, "iops", "1000000000000001", NULL),
			 -EINVAL);
	assert_int_equal(vublk_device_set_property(rig.device, "burst-ms", "0", NULL), -EINVAL);
	rig_end(&rig, &mock);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_stop_does_not_wait),
		VUBLK_TEST(test_removal),
		VUBLK_TEST(test_shadow_rings_while_limited),
		VUBLK_TEST(test_property_switches_shadow_rings_on),
		VUBLK_TEST(test_ranges),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
