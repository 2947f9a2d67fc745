/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The device with shadow rings under random calls of a bus. The back-end completes only some of its
 * requests, and is lost at any time. Each request completes exactly once, unless the driver has
 * reset the device.
 *
 * The mock answers the messages. The test plays the back-end at the plane's rings.
 */
#include "harness.h"

#include "mock/device-rig.h"
#include "mock/plane-end.h"

#include "device/device.h"
#include "util/checked.h"
#include "util/fd.h"
#include "util/loop.h"
#include "util/memfd.h"
#include "virtio/device-ring.h"

#include <linux/virtio_config.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define REQUESTS 4 /* outstanding at most; each request has three buffers */
#define STEPS 3000
#define LOG_BYTES ((RIG_GUEST_ADDR + RIG_MEMORY_BYTES) / VUBLK_DIRTY_PAGE_BYTES / 8)
#define TIME_LIMIT_NS (UINT64_C(20) * 1000000000)

static struct mock mock;
static struct device_rig rig;
static uint64_t seed;
static bool is_dead;

static struct rig_plane_end backend;

static bool is_sent[REQUESTS];
static unsigned num_sent, num_completed;

static unsigned below(unsigned limit)
{
	seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
	return (unsigned)(seed >> 33) % limit;
}

/* --- the back-end ---------------------------------------------------------------- */

static void execute(void)
{
	struct iovec iov[16];
	struct vublk_chain chain = { .max_iov = 16, .iov = iov };
	struct vublk_error error;
	int r;

	if (!backend.ring.size || !rig.device->shadow.side)
		return;
	r = vublk_device_ring_take(&backend.ring, &backend.map, &chain, &error);
	if (r < 0)
		fail_msg("%s", error.text);
	if (!r)
		return;
	*(uint8_t *)iov[chain.num_out + chain.num_in - 1].iov_base = VIRTIO_BLK_S_OK;
	vublk_device_ring_push(&backend.ring, chain.head, 1);
	vublk_device_ring_publish(&backend.ring);
	vublk_eventfd_signal(rig.device->shadow.side->queues[0].call_fd);
}

static void on_callback(struct device_rig *at, enum rig_callback callback)
{
	if (callback == RIG_STARTED)
		rig_plane_end_start(&backend, &rig);
	else if (callback == RIG_STOPPED || callback == RIG_LOST)
		rig_plane_end_stop(&backend);
	else if (callback == RIG_NEEDS_RESET)
		fail_msg("needs reset: %s", rig.errors[RIG_NEEDS_RESET].text);
}

/* --- the driver -------------------------------------------------------------------- */

static void send_one(void)
{
	uint16_t token = (uint16_t)below(REQUESTS);
	uint64_t at = RIG_DATA_OFFSET + token * 8192;
	struct virtio_blk_outhdr header = { .type = VIRTIO_BLK_T_OUT, .sector = token % 2 };
	struct vublk_ring_buffer buffers[] = {
		{ RIG_GUEST_ADDR + at, sizeof(header) },
		{ RIG_GUEST_ADDR + at + 4096, 512 },
		{ RIG_GUEST_ADDR + at + 64, 1 },
	};

	if (is_sent[token] || !rig.device->has_acked_features)
		return;
	memcpy(rig.memory + at, &header, sizeof(header));
	rig.memory[at + 64] = 0x55;
	assert_int_equal(vublk_driver_ring_add(&rig.rings[0], buffers, 2, 1, NULL, token), 0);
	vublk_driver_ring_publish(&rig.rings[0]);
	vublk_eventfd_signal(rig.kicks[0]);
	is_sent[token] = true;
	num_sent++;
}

static void take(void)
{
	struct vublk_error error;
	uint16_t token;
	uint32_t bytes;
	int r;

	while ((r = vublk_driver_ring_take(&rig.rings[0], &token, &bytes, &error)) == 1) {
		assert_true(is_sent[token]);
		assert_int_equal(rig.memory[RIG_DATA_OFFSET + token * 8192 + 64],
				 VIRTIO_BLK_S_OK);
		is_sent[token] = false;
		num_completed++;
	}
	if (r < 0)
		fail_msg("%s", error.text);
}

/* --- the bus ----------------------------------------------------------------------- */

static void set_memory(void)
{
	struct vublk_memory_region regions[2] = {
		{ RIG_GUEST_ADDR, RIG_MEMORY_BYTES, rig.memfd, 0 },
		{ 0x1000, 4096, rig.memfd, 0 },
	};

	vublk_device_set_memory(rig.device, regions, 1 + below(2), NULL);
}

static void set_notifier(void)
{
	bool kick = below(2);
	int *fd = kick ? &rig.kicks[0] : &rig.callfds[0];
	int made = vublk_eventfd_new();

	if ((kick ? vublk_device_set_queue_kick : vublk_device_set_queue_call)(
		rig.device, 0, made, NULL) < 0) {
		vublk_fd_close(&made);
		return;
	}
	vublk_fd_close(fd);
	*fd = made;
	if (kick)
		vublk_eventfd_signal(made);
}

static void change_log(void)
{
	if (vublk_device_dirty_log_stop(rig.device, NULL) < 0 || below(2))
		vublk_device_dirty_log_start(rig.device, NULL, 0, NULL);
}

/* Resets the device and starts it again. The driver forgets the old requests. */
static void reset(void)
{
	uint64_t until = vublk_now_ns() + TIME_LIMIT_NS;

	assert_int_equal(vublk_device_set_status(rig.device, 0, NULL), 0);
	while (vublk_device_has_rings_out(rig.device) || rig.device->memory_change_under_way) {
		rig_turn(&rig, 10);
		execute();
		assert_true(vublk_now_ns() < until);
	}
	rig_plane_end_stop(&backend);
	memset(is_sent, 0, sizeof(is_sent));
	rig_set_up(&rig, 1);
	assert_int_equal(vublk_device_set_status(rig.device, VIRTIO_CONFIG_S_DRIVER_OK, NULL), 0);
}

static void lose(void)
{
	if (is_dead)
		mock_live_again(&mock);
	else if (below(2))
		mock_hang_up(&mock);
	else
		mock_die(&mock);
	is_dead = !is_dead && mock.listen_fd < 0;
}

static void step(void)
{
	switch (below(30)) {
	case 0:
		vublk_device_set_vm_running(rig.device, below(4));
		break;
	case 1:
		if (is_dead || !below(8))
			lose();
		break;
	case 2:
		set_memory();
		break;
	case 3:
		set_notifier();
		break;
	case 4:
		change_log();
		break;
	case 5:
		if (!below(10) && !is_dead)
			reset();
		break;
	case 6 ... 12:
		send_one();
		break;
	case 13 ... 18:
		execute();
		break;
	case 19 ... 24:
		/* The pause before the next attempt to connect takes some time. */
		rig_turn(&rig, vublk_device_is_connected(rig.device) || is_dead ? 0 : 5);
		take();
		break;
	default:
		if (below(2))
			mock_pump_once(&mock);
		vublk_device_process(rig.device);
		take();
		break;
	}
}

static void finish(void)
{
	uint64_t until = vublk_now_ns() + TIME_LIMIT_NS;
	bool is_left = true;

	if (is_dead)
		lose();
	is_dead = false;
	vublk_device_set_vm_running(rig.device, true);
	while (is_left || vublk_device_state(rig.device) != VUBLK_DEVICE_RUNNING) {
		rig_turn(&rig, 1);
		execute();
		take();
		is_left = false;
		for (unsigned i = 0; i < REQUESTS; i++)
			is_left |= is_sent[i];
		if (vublk_now_ns() > until)
			fail_msg("a request is left; the device is %s",
				 vublk_device_state_name(vublk_device_state(rig.device)));
	}
}

static void run(uint64_t number, const char *unflushed)
{
	seed = number;
	num_sent = num_completed = 0;
	is_dead = false;
	memset(is_sent, 0, sizeof(is_sent));
	rig_prepare(&rig, &mock, "1");
	rig.quiet = true;
	rig_set(&rig, "shadow", "on");
	rig_set(&rig, "unflushed", unflushed);
	rig_set(&rig, "request-timeout-ms", "60000");
	rig.hook = on_callback;
	rig_realize(&rig);
	rig_start(&rig, 1);
	for (unsigned i = 0; i < STEPS; i++)
		step();
	if (number % 4)
		finish();
	printf("# %u sent, %u complete; %u starts, %u stops, %u losses, %u changes of the memory\n",
	       num_sent, num_completed, rig.calls[RIG_STARTED], rig.calls[RIG_STOPPED],
	       rig.calls[RIG_LOST], rig.calls[RIG_MEMORY_CHANGED]);
	rig_plane_end_stop(&backend);
	rig_end(&rig, &mock);
}

static void test_random(void **state)
{
	for (uint64_t number = 1; number <= 40; number++) {
		printf("# seed %lu\n", (unsigned long)number);
		run(number, "auto");
	}
}

/* With unflushed=replay, the plane also sends its own requests, and a stop waits for them. */
static void test_random_with_replay(void **state)
{
	for (uint64_t number = 1; number <= 40; number++) {
		printf("# seed %lu\n", (unsigned long)number);
		run(number, "replay");
	}
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_random),
		VUBLK_TEST(test_random_with_replay),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
