/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The back-end fails a flush that the device itself has issued. The back-end may have dropped
 * writes, and a later flush may succeed without them, so the driver's next flush must fail.
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

#include <vublk/limit.h>
#include <vublk/paths.h>
#include <vublk/shadow.h>

#include <errno.h>
#include <linux/virtio_blk.h>
#include <string.h>

#define TIME_LIMIT_NS (UINT64_C(20) * 1000000000)

static struct mock a, b;
static struct device_rig rig;

static struct rig_plane_end backend;

/* --- the back-end ------------------------------------------------------------------------- */

static bool pump(void *opaque)
{
	bool worked = mock_pump(&a);

	return mock_pump(&b) || worked;
}

static void start_backend(void)
{
	if (vublk_device_is_shadowed(rig.device))
		rig_plane_end_start(&backend, &rig);
	else
		rig_plane_end_stop(&backend);
}

static void on_callback(struct device_rig *at, enum rig_callback callback)
{
	if (callback == RIG_STARTED)
		start_backend();
	else if (callback == RIG_STOPPED || callback == RIG_LOST)
		rig_plane_end_stop(&backend);
}

static bool has_request(struct vublk_chain *chain)
{
	return backend.ring.size && vublk_device_ring_take(&backend.ring, &backend.map, chain, NULL) == 1;
}

/* Waits for the back-end's next request, which must be a flush, and completes it with `status`. */
static void complete_flush(uint8_t status)
{
	struct iovec iov[16];
	struct vublk_chain chain = { .max_iov = 16, .iov = iov };
	uint64_t until = vublk_now_ns() + TIME_LIMIT_NS;
	struct virtio_blk_outhdr header;

	while (!has_request(&chain)) {
		rig_turn(&rig, 1);
		assert_true(vublk_now_ns() < until);
	}
	memcpy(&header, iov[0].iov_base, sizeof(header));
	assert_int_equal(header.type, VIRTIO_BLK_T_FLUSH);
	*(uint8_t *)iov[chain.num_out + chain.num_in - 1].iov_base = status;
	vublk_device_ring_push(&backend.ring, chain.head, 1);
	vublk_device_ring_publish(&backend.ring);
	vublk_eventfd_signal(rig.device->shadow.side->queues[0].call_fd);
}

/* --- the driver ------------------------------------------------------------------------------ */

static void begin(const char *shadow)
{
	mock_init_with_suffix(&b, "-b");
	mock_init(&a);
	rig_init_with_mock(&rig, &a);
	rig.pump = pump;
	rig.hook = on_callback;
	rig_set(&rig, "reconnect-ms", "5");
	rig_set(&rig, "chardev-2", b.path);
	rig_set(&rig, "failover-ms", "3600000");
	rig_set(&rig, "keepalive-ms", "0");
	rig_set(&rig, "shadow", shadow);
	rig_realize(&rig);
	rig_start(&rig, 1);
}

static void end(void)
{
	rig_plane_end_stop(&backend);
	mock_deinit(&b);
	rig_end(&rig, &a);
}

/*
 * Begins a switch whose final flush the back-end fails. Waits until the rings run at the old path
 * again.
 */
static void fail_switch(unsigned started)
{
	struct vublk_device_switch_info info;

	assert_int_equal(vublk_device_switch(rig.device, b.path, NULL), 1);
	complete_flush(VIRTIO_BLK_S_IOERR);
	rig_wait(&rig, RIG_LOST, 1);
	vublk_device_get_switch(rig.device, &info, sizeof(info));
	assert_true(info.is_under_way); /* the disk has no back-end */
	rig_wait(&rig, RIG_STARTED, started);
	vublk_device_get_switch(rig.device, &info, sizeof(info));
	assert_false(info.is_under_way);
	assert_int_equal(info.code, EIO);
	assert_non_null(strstr(info.reason, "the disk stays at"));
	assert_non_null(strstr(info.reason, "the final flush of a switch failed"));
	assert_int_equal(rig.calls[RIG_NEEDS_RESET], 0);
}

static uint8_t flush(void)
{
	rig_submit(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, NULL, 0);
	return (uint8_t)rig_finish(&rig, 0);
}

/* --- tests -------------------------------------------------------------------------------------- */

static void test_the_next_flush_fails(void **state)
{
	struct iovec iov[16];
	struct vublk_chain chain = { .max_iov = 16, .iov = iov };

	begin("on");
	fail_switch(2);
	assert_int_equal(flush(), VIRTIO_BLK_S_IOERR);
	assert_false(has_request(&chain)); /* the plane itself has answered */
	rig_submit(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, NULL, 0);
	complete_flush(VIRTIO_BLK_S_OK);
	assert_int_equal(rig_finish(&rig, 0), VIRTIO_BLK_S_OK);
	end();
}

/*
 * Shadow rings are used only for the switch. They stay in use until a flush of the driver has
 * failed, even across a reset.
 */
static void test_on_the_direct_path(void **state)
{
	struct vublk_shadow_info info;

	begin("off");
	fail_switch(3); /* starts: direct, shadow rings, old path again */
	vublk_device_get_shadow(rig.device, &info, sizeof(info));
	assert_true(info.is_shadowed);
	assert_string_equal(info.reasons, "failed flush");
	rig_stop(&rig);
	rig_start(&rig, 1);
	assert_int_equal(flush(), VIRTIO_BLK_S_IOERR);
	rig_wait(&rig, RIG_STARTED, 5);
	vublk_device_get_shadow(rig.device, &info, sizeof(info));
	assert_false(info.is_shadowed);
	end();
}

static void limit(uint64_t iops)
{
	const struct vublk_limits limits = { .iops = iops };

	assert_int_equal(vublk_device_set_limits(rig.device, &limits, sizeof(limits), NULL), 0);
}

/*
 * The plane itself finds that the driver's next flush has to fail (test-plane-mirror-flush.c). The
 * shadow rings stay in use until that flush has failed, although the feature that needed them has
 * ended.
 */
static void test_the_plane_makes_a_flush_fail(void **state)
{
	struct vublk_shadow_info info;
	struct vublk_plane_thread *thread;

	begin("off");
	limit(1000000);
	rig_wait(&rig, RIG_STARTED, 2);
	thread = rig.device->shadow.thread;
	vublk_plane_thread_fail_next_flush(thread);
	thread->plane.ops->flush_must_fail(thread->plane.opaque);
	while (vublk_device_get_shadow(rig.device, &info, sizeof(info)), !strstr(info.reasons, "flush"))
		rig_turn(&rig, 1);
	limit(0);
	vublk_device_get_shadow(rig.device, &info, sizeof(info));
	assert_true(info.is_shadowed);
	assert_string_equal(info.reasons, "failed flush");
	assert_int_equal(flush(), VIRTIO_BLK_S_IOERR);
	rig_wait(&rig, RIG_STARTED, 3);
	vublk_device_get_shadow(rig.device, &info, sizeof(info));
	assert_false(info.is_shadowed);
	end();
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_the_next_flush_fails),
		VUBLK_TEST(test_on_the_direct_path),
		VUBLK_TEST(test_the_plane_makes_a_flush_fail),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
