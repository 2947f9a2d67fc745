/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tests the exchange between the direct path and shadow rings at random times. The random steps are
 * requests, calls of a bus, changes of the property `shadow` and of the features that need shadow
 * rings, losses of the back-end, and changes of the message that the back-end refuses. Each request
 * completes exactly once, unless the driver resets the device.
 *
 * The mock answers the messages. The test itself is the device end of the ring that the mock was
 * given: the driver's ring, or the plane's. This end takes chains only after a kick, and the driver
 * kicks only if the ring asks for a kick. Like qemu-storage-daemon, this end never clears the flags
 * of a used ring.
 */
#include "harness.h"

#include "mock/device-rig.h"

#include "device/device.h"
#include "util/atomic.h"
#include "util/checked.h"
#include "util/fd.h"
#include "util/loop.h"
#include "util/memfd.h"
#include "virtio/device-ring.h"
#include "virtio/memory-map.h"
#include "virtio/split.h"
#include "worker/inflight.h"

#include <linux/vhost_types.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define REQUESTS 4 /* outstanding at most; each has three buffers */
#define STEPS 3000
#define SEEDS 40
#define AREA_BYTES 4096
#define TIME_LIMIT_NS (UINT64_C(20) * 1000000000)

static struct mock mock;
static struct device_rig rig;
static uint64_t seed;
static bool is_dead, has_area;

static struct {
	struct vublk_device_ring ring;
	struct vublk_memory_map map;
	struct vublk_memory_map_region regions[2];
	struct vublk_inflight_queue inflight;
	struct vublk_inflight_split *area;
	bool runs, is_awake;
	int kick_fd, call_fd; /* owned by the mock */
	unsigned bases; /* number of GET_VRING_BASE messages before the start */
} backend;

/* The callbacks that the device still owes the bus. */
static struct {
	unsigned memory, log;
	bool notifiers;
} owed;
static unsigned num_exchanges;

static bool is_sent[REQUESTS];
static unsigned num_sent, num_completed;

static unsigned below(unsigned limit)
{
	seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
	return (unsigned)(seed >> 33) % limit;
}

/* --- the back-end ---------------------------------------------------------------- */

static void stop_backend(void)
{
	vublk_device_ring_deinit(&backend.ring);
	if (backend.area)
		munmap(backend.area, AREA_BYTES);
	backend.area = NULL;
	backend.inflight = (struct vublk_inflight_queue){ 0 };
	backend.runs = false;
}

/* Stores in `ring` the ring of queue 0 that the device has described to the mock. */
static void find_ring(struct vublk_split_ring *ring)
{
	const struct vublk_split_addrs addrs = {
		.desc = mock.given_addrs[0].desc_user_addr,
		.avail = mock.given_addrs[0].avail_user_addr,
		.used = mock.given_addrs[0].used_user_addr,
	};

	assert_int_equal(vublk_split_ring_find(&backend.map, vublk_memory_map_guest, &addrs,
					       RIG_QUEUE_SIZE, ring, NULL), 0);
}

/*
 * Maps the device's in-flight area, if it uses one, and begins to record requests there, as a
 * back-end does.
 */
static void begin_inflight(const struct vublk_split_ring *ring, uint16_t *base)
{
	struct vublk_inflight_pending pending = { 0 };
	struct vublk_error error;

	if (!vublk_device_uses_inflight(rig.device))
		return;
	backend.area = mmap(NULL, AREA_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
			    rig.device->inflight.fd, 0);
	assert_ptr_not_equal(backend.area, MAP_FAILED);
	if (vublk_inflight_queue_begin(&backend.inflight, backend.area, RIG_QUEUE_SIZE, ring,
				       RIG_QUEUE_SIZE, ring->used->idx, base, &pending, &error) < 0)
		fail_msg("%s", error.text);
	/* the test executes a direct request in one step, so no request was in flight */
	assert_int_equal(pending.count, 0);
}

static void start_backend(void)
{
	const struct vublk_plane_side *side = rig.device->shadow.side;
	struct vublk_split_ring ring;
	uint16_t base = mock.given_bases[0], flags;

	stop_backend();
	backend.regions[0] = (struct vublk_memory_map_region){
		RIG_GUEST_ADDR, RIG_GUEST_ADDR, RIG_MEMORY_BYTES, rig.memory,
	};
	if (side)
		backend.regions[1] = (struct vublk_memory_map_region){
			VUBLK_PLANE_REGION_ADDR, VUBLK_PLANE_REGION_ADDR, side->region.bytes,
			side->region.host,
		};
	backend.map = (struct vublk_memory_map){ side ? 2 : 1, backend.regions };
	find_ring(&ring);
	begin_inflight(&ring, &base);
	flags = vublk_load_relaxed(&ring.used->flags);
	assert_int_equal(vublk_device_ring_init(&backend.ring, &ring, RIG_QUEUE_SIZE, base,
						vublk_device_session_features(rig.device), NULL), 0);
	vublk_store_relaxed(&ring.used->flags, flags);
	backend.is_awake = false;
	backend.bases = mock.received[VUBLK_VU_GET_VRING_BASE];
	backend.runs = true;
	mock.base = base;
}

static bool runs(void)
{
	if (backend.bases != mock.received[VUBLK_VU_GET_VRING_BASE])
		stop_backend();
	return backend.runs;
}

static void execute(void)
{
	struct iovec iov[16];
	struct vublk_chain chain = { .max_iov = 16, .iov = iov };
	struct vublk_error error;
	int r;

	if (!runs())
		return;
	if (vublk_eventfd_clear(mock.kick_fds[0]) == 1)
		backend.is_awake = true;
	if (!backend.is_awake)
		return;
	r = vublk_device_ring_take(&backend.ring, &backend.map, &chain, &error);
	if (r < 0)
		fail_msg("%s", error.text);
	if (!r) {
		backend.is_awake = backend.ring.has_event_idx &&
				   !vublk_device_ring_enable_kicks(&backend.ring);
		return;
	}
	vublk_inflight_queue_take(&backend.inflight, chain.head);
	if (backend.ring.has_event_idx)
		vublk_device_ring_disable_kicks(&backend.ring);
	*(uint8_t *)iov[chain.num_out + chain.num_in - 1].iov_base = VIRTIO_BLK_S_OK;
	vublk_device_ring_push(&backend.ring, chain.head, 1);
	vublk_inflight_queue_push(&backend.inflight, chain.head);
	vublk_device_ring_publish(&backend.ring);
	vublk_inflight_queue_publish(&backend.inflight, backend.ring.used_published);
	mock.base = backend.ring.next;
	vublk_eventfd_signal(mock.call_fds[0]);
}

static void on_callback(struct device_rig *at, enum rig_callback callback)
{
	if (callback == RIG_STARTED)
		start_backend();
	else if (callback == RIG_STOPPED || callback == RIG_LOST)
		stop_backend();
	else if (callback == RIG_NEEDS_RESET)
		fail_msg("needs reset: %s", rig.errors[RIG_NEEDS_RESET].text);
	else if (callback == RIG_MEMORY_CHANGED)
		owed.memory--;
	else if (callback == RIG_DIRTY_LOG_CHANGED)
		owed.log--;
	if (callback == RIG_NOTIFIERS_CHANGED || callback == RIG_STOPPED)
		owed.notifiers = false;
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
	if (vublk_driver_ring_publish(&rig.rings[0]))
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

	if (vublk_device_set_memory(rig.device, regions, 1 + below(2), NULL) > 0)
		owed.memory++;
}

static void set_notifier(void)
{
	bool kick = below(2);
	int *fd = kick ? &rig.kicks[0] : &rig.callfds[0];
	int made = vublk_eventfd_new();
	int r = (kick ? vublk_device_set_queue_kick : vublk_device_set_queue_call)(
		rig.device, 0, made, NULL);

	if (r < 0) {
		vublk_fd_close(&made);
		return;
	}
	owed.notifiers |= r > 0;
	vublk_fd_close(fd);
	*fd = made;
	if (kick)
		vublk_eventfd_signal(made);
}

static void change_log(void)
{
	int r = vublk_device_dirty_log_stop(rig.device, NULL);

	owed.log += r > 0;
	if (!r && below(2))
		owed.log += vublk_device_dirty_log_start(rig.device, NULL, 0, NULL) > 0;
}

static void set_shadow(void)
{
	if (below(2))
		vublk_device_set_shadow(rig.device, (enum vublk_shadow)below(3), NULL);
	else
		vublk_device_want_shadow(rig.device, VUBLK_DEVICE_SHADOW_FOR_TRACE, below(2), NULL,
					 NULL);
}

/* Makes the mock refuse one kind of message from now on, or none. */
static void change_refusal(void)
{
	const uint32_t requests[] = {
		VUBLK_VU_ADD_MEM_REG, VUBLK_VU_SET_VRING_KICK, VUBLK_VU_SET_INFLIGHT_FD, 0, 0, 0,
	};

	if (has_area)
		mock.refused_request = requests[below(VUBLK_ARRAY_SIZE(requests))];
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
	stop_backend();
	memset(is_sent, 0, sizeof(is_sent));
	rig_set_up(&rig, 1);
	assert_int_equal(vublk_device_set_status(rig.device, VIRTIO_CONFIG_S_DRIVER_OK, NULL), 0);
}

/*
 * Returns whether the test may lose the back-end now. On the direct path without an in-flight area,
 * a loss with an outstanding request would require a reset.
 */
static bool may_lose(void)
{
	bool is_open = false;

	for (unsigned i = 0; i < REQUESTS; i++)
		is_open |= is_sent[i];
	return !is_open || has_area || vublk_device_is_shadowed(rig.device);
}

static void lose(void)
{
	unsigned lost = rig.calls[RIG_LOST] + vublk_device_is_connected(rig.device);

	if (is_dead)
		mock_live_again(&mock);
	else if (!may_lose())
		return;
	else if (below(2))
		mock_hang_up(&mock);
	else
		mock_die(&mock);
	is_dead = !is_dead && mock.listen_fd < 0;
	/*
	 * Without an area, waits until the device notices the loss. Until then, a new request would
	 * count as begun.
	 */
	while (!has_area && rig.calls[RIG_LOST] < lost)
		rig_turn(&rig, 1);
}

static void step(void)
{
	switch (below(34)) {
	case 30 ... 32:
		set_shadow();
		break;
	case 33:
		change_refusal();
		break;
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
	mock.refused_request = 0;
	vublk_device_set_vm_running(rig.device, true);
	while (is_left || vublk_device_state(rig.device) != VUBLK_DEVICE_RUNNING || owed.memory ||
	       owed.log || owed.notifiers) {
		rig_turn(&rig, 1);
		execute();
		take();
		is_left = false;
		for (unsigned i = 0; i < REQUESTS; i++)
			is_left |= is_sent[i];
		if (vublk_now_ns() > until)
			fail_msg("a request is left, or an answer (%u, %u, %u); the device is %s, the "
				 "exchange %s", owed.memory, owed.log, owed.notifiers,
				 vublk_device_state_name(vublk_device_state(rig.device)),
				 vublk_device_exchange_phase_name(rig.device->exchange.phase));
	}
}

/*
 * Waits until no exchange is under way. Checks that the path is the wanted one, unless the mock has
 * refused the exchange.
 */
static void expect_settled(void)
{
	struct vublk_shadow_info info;

	vublk_device_get_shadow(rig.device, &info, sizeof(info));
	while (info.is_changing) {
		rig_turn(&rig, 1);
		execute();
		vublk_device_get_shadow(rig.device, &info, sizeof(info));
	}
	if (!info.refusal[0])
		assert_int_equal(info.is_shadowed, info.reasons[0] != 0);
}

static void prepare(uint64_t number)
{
	seed = number;
	num_sent = num_completed = num_exchanges = 0;
	is_dead = false;
	has_area = number % 2;
	memset(is_sent, 0, sizeof(is_sent));
	memset(&owed, 0, sizeof(owed));
	rig_prepare(&rig, &mock, "1");
	if (!has_area)
		mock.protocol_features &= ~VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD);
	mock.keeps_base = true;
	mock.features |= VUBLK_BIT(VHOST_F_LOG_ALL);
	mock.insists_on_area = true; /* makes a new area for each GET_INFLIGHT_FD */
	if (number % 3 == 0)
		rig.refused_features = VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX);
	rig.quiet = !getenv("RIG_VERBOSE");
	rig_set(&rig, "request-timeout-ms", "60000");
	rig.hook = on_callback;
	rig_realize(&rig);
	rig_start(&rig, 1);
}

static void run(uint64_t number)
{
	enum vublk_device_path path;

	prepare(number);
	path = rig.device->exchange.path;
	for (unsigned i = 0; i < STEPS; i++) {
		step();
		num_exchanges += path != rig.device->exchange.path;
		path = rig.device->exchange.path;
	}
	if (number % 4) {
		finish();
		expect_settled();
	}
	printf("# %u sent, %u complete; %u exchanges, %u starts, %u stops, %u losses, %u changes of the "
	       "memory\n", num_sent, num_completed, num_exchanges, rig.calls[RIG_STARTED],
	       rig.calls[RIG_STOPPED], rig.calls[RIG_LOST], rig.calls[RIG_MEMORY_CHANGED]);
	assert_true(num_exchanges > 0);
	stop_backend();
	rig_end(&rig, &mock);
}

static void test_random(void **state)
{
	const char *only = getenv("VUBLK_TEST_SEED");
	uint64_t first = only ? strtoul(only, NULL, 10) : 1, last = only ? first : SEEDS;

	for (uint64_t number = first; number <= last; number++) {
		printf("# seed %lu\n", (unsigned long)number);
		run(number);
	}
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_random),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
