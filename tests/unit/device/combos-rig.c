/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The rig of test-device-combos.c; see the header. */
#include "harness.h"

#include "combos-rig.h"

#include "device/device.h"
#include "util/checked.h"
#include "util/fd.h"
#include "util/loop.h"

#include <endian.h>
#include <linux/vhost_types.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS 4 /* requests that are outstanding at most; each slot has a sector of its own */
#define SLOT_BYTES 8192
#define TIME_LIMIT_NS (UINT64_C(20) * 1000000000)

struct device_rig combos_rig;
struct mock combos_mocks[COMBOS_BACKENDS];
struct executor combos_executors[COMBOS_BACKENDS];
uint64_t combos_seed;
char combos_run[400];
bool combos_is_resetting, combos_is_quiet, combos_awaits_notifiers;
static char disk[EXECUTOR_DISK_BYTES], copy[EXECUTOR_DISK_BYTES];

unsigned combos_below(unsigned limit)
{
	combos_seed = combos_seed * UINT64_C(6364136223846793005) + 1442695040888963407;
	return (unsigned)(combos_seed >> 33) % limit;
}

/* --- the driver ------------------------------------------------------------------------------ */

enum { EMPTY, READS, WRITES, FLUSHES };

static struct {
	int sent; /* EMPTY: no request is outstanding */
	uint32_t value;   /* of the last write that is complete or was sent */
	bool is_known;    /* false: a reset has made the value unknown */
} slots[SLOTS];
static bool sleeps; /* the driver waits for a call */
static unsigned num_completed;

static char *area_of(unsigned slot)
{
	return combos_rig.memory + RIG_DATA_OFFSET + slot * SLOT_BYTES;
}

static void send_one(unsigned slot, int kind)
{
	static const uint32_t types[] = { 0, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH };
	uint64_t at = RIG_GUEST_ADDR + RIG_DATA_OFFSET + slot * SLOT_BYTES;
	struct virtio_blk_outhdr header = { .type = types[kind], .sector = kind == FLUSHES ? 0 : slot };
	struct vublk_ring_buffer buffers[] = {
		{ at, sizeof(header) }, { at + 4096, 512 }, { at + 64, 1 },
	};
	char *area = area_of(slot);

	memcpy(area, &header, sizeof(header));
	area[64] = 0x55;
	if (kind == WRITES)
		slots[slot].value++;
	for (unsigned i = 0; i < 512; i += sizeof(uint32_t))
		*(uint32_t *)(area + 4096 + i) = kind == WRITES ? slots[slot].value : ~0u;
	if (kind == FLUSHES)
		buffers[1] = buffers[2];
	assert_int_equal(vublk_driver_ring_add(&combos_rig.rings[0], buffers, kind == WRITES ? 2 : 1,
					       kind == READS ? 2 : 1, NULL, (uint16_t)slot), 0);
	if (vublk_driver_ring_publish(&combos_rig.rings[0]))
		vublk_eventfd_signal(combos_rig.kicks[0]);
	slots[slot].sent = kind;
}

static void check(unsigned slot)
{
	const char *area = area_of(slot);
	const uint32_t *data = (const void *)(area + 4096);

	if (area[64] != VIRTIO_BLK_S_OK)
		fail_msg("%s: a request failed with status %u", combos_run, (unsigned)area[64]);
	if (slots[slot].sent == WRITES)
		slots[slot].is_known = true;
	for (unsigned i = 0; slots[slot].sent == READS && slots[slot].is_known && i < 128; i++)
		if (data[i] != slots[slot].value)
			fail_msg("%s: slot %u has %u, expected %u", combos_run, slot, data[i],
				 slots[slot].value);
	slots[slot].sent = EMPTY;
	num_completed++;
}

/* Like a driver, sleeps until there is a call. */
static void take(void)
{
	struct vublk_error error;
	uint16_t slot;
	uint32_t bytes;
	int r = 1;

	if (sleeps && vublk_eventfd_clear(combos_rig.callfds[0]) != 1)
		return;
	sleeps = false;
	while (r == 1) {
		r = vublk_driver_ring_take(&combos_rig.rings[0], &slot, &bytes, &error);
		if (r < 0)
			fail_msg("%s: %s", combos_run, error.text);
		if (r && (slot >= SLOTS || !slots[slot].sent))
			fail_msg("%s: slot %u completes twice", combos_run, slot);
		if (r)
			check(slot);
		else if (!vublk_driver_ring_enable_calls(&combos_rig.rings[0]))
			r = 1;
	}
	sleeps = true;
}

static bool has_requests(void)
{
	for (unsigned i = 0; i < SLOTS; i++)
		if (slots[i].sent)
			return true;
	return false;
}

static void send_some(void)
{
	unsigned slot = combos_below(SLOTS);

	if (!slots[slot].sent)
		send_one(slot, combos_below(8) ? READS + (int)combos_below(2) : FLUSHES);
}

static bool may_set_up(void)
{
	return !vublk_device_has_rings_out(combos_rig.device) && !combos_rig.device->memory_change_under_way &&
	       (combos_rig.device->state == VUBLK_DEVICE_STOPPED || combos_rig.device->state == VUBLK_DEVICE_LOST ||
		combos_rig.device->state == VUBLK_DEVICE_RECONNECTING);
}

/* Starts the driver again after a reset, when the device permits it. */
static void set_up_again(void)
{
	struct vublk_error error;

	if (!may_set_up())
		return;
	combos_is_resetting = false;
	sleeps = false;
	rig_set_up(&combos_rig, 1);
	if (vublk_device_set_status(combos_rig.device, VIRTIO_CONFIG_S_DRIVER_OK, &error) < 0)
		fail_msg("%s: %s", combos_run, error.text);
}

void combos_forget_requests(void)
{
	combos_is_resetting = true;
	for (unsigned i = 0; i < SLOTS; i++) {
		if (slots[i].sent == WRITES)
			slots[i].is_known = false;
		slots[i].sent = EMPTY;
	}
}

/* --- turns ------------------------------------------------------------------------------------- */

static bool is_created(void)
{
	return combos_rig.device->state == VUBLK_DEVICE_CREATED;
}

static bool pump(void *opaque)
{
	bool worked = false;

	for (unsigned i = 0; i < COMBOS_BACKENDS; i++)
		worked |= executor_turn(&combos_executors[i]);
	return worked;
}

void combos_turn(void)
{
	struct pollfd fd = { vublk_device_fd(combos_rig.device), POLLIN, 0 };
	bool worked = pump(NULL);

	if (combos_is_resetting && !is_created())
		set_up_again();
	if (!combos_is_resetting) {
		take();
		if (!combos_is_quiet)
			send_some();
	}
	if (poll(&fd, 1, worked ? 0 : 1) > 0)
		assert_int_equal(vublk_device_process(combos_rig.device), 0);
}

/* --- the back-ends ----------------------------------------------------------------------------- */

struct executor *combos_active(void)
{
	for (unsigned i = 0; i < COMBOS_BACKENDS; i++)
		if (!strcmp(vublk_device_path(combos_rig.device), combos_mocks[i].path))
			return &combos_executors[i];
	return &combos_executors[0];
}

void combos_revive(void)
{
	for (unsigned i = 0; i < COMBOS_BACKENDS; i++)
		if (combos_mocks[i].listen_fd < 0)
			mock_live_again(&combos_mocks[i]);
}

static void on_callback(struct device_rig *at, enum rig_callback callback)
{
	if (callback == RIG_NOTIFIERS_CHANGED || callback == RIG_STOPPED)
		combos_awaits_notifiers = false;
	if (callback == RIG_NEEDS_RESET)
		fail_msg("%s: needs reset: %s", combos_run, combos_rig.errors[RIG_NEEDS_RESET].text);
}

static void init_mock(unsigned index)
{
	static const char *const suffixes[] = { "-a", "-b", "-c" };
	struct virtio_blk_config *config;

	mock_init_with_suffix(&combos_mocks[index], suffixes[index]);
	config = (void *)combos_mocks[index].config;
	config->capacity = EXECUTOR_DISK_BYTES / 512;
	combos_mocks[index].max_queues = 1;
	combos_mocks[index].features |= VUBLK_BIT(VHOST_F_LOG_ALL);
	combos_executors[index] = (struct executor){
		.mock = &combos_mocks[index], .rig = &combos_rig, .disk = index == COMBOS_TARGET ? copy : disk, .delay = 2,
	};
}

/* --- life ---------------------------------------------------------------------------------------- */

void combos_begin(const char *shadow)
{
	memset(slots, 0, sizeof(slots));
	memset(disk, 0, sizeof(disk));
	memset(copy, 0, sizeof(copy));
	combos_is_resetting = combos_is_quiet = sleeps = combos_awaits_notifiers = false;
	for (unsigned i = 0; i < COMBOS_BACKENDS; i++)
		init_mock(i);
	rig_init_with_mock(&combos_rig, &combos_mocks[0]);
	combos_rig.quiet = !getenv("VUBLK_COMBOS_LOG");
	combos_rig.hook = on_callback;
	combos_rig.pump = pump;
	rig_set(&combos_rig, "reconnect-ms", "1");
	rig_set(&combos_rig, "chardev-2", combos_mocks[1].path);
	rig_set(&combos_rig, "failover-ms", "3600000");
	rig_set(&combos_rig, "request-timeout-ms", "600000");
	rig_set(&combos_rig, "keepalive-ms", "0");
	rig_set(&combos_rig, "shadow", shadow);
	rig_realize(&combos_rig);
	rig_start(&combos_rig, 1);
	for (unsigned i = 0; i < SLOTS; i++)
		slots[i].is_known = true;
}

void combos_end(void)
{
	vublk_device_unrealize(combos_rig.device);
	for (unsigned i = 0; i < COMBOS_BACKENDS; i++) {
		executor_stop(&combos_executors[i]);
		mock_deinit(&combos_mocks[i]);
	}
	rig_deinit(&combos_rig);
}

/* --- waiting ------------------------------------------------------------------------------------- */

static void describe_stall(const char *why)
{
	const struct vublk_device *device = combos_rig.device;

	fail_msg("%s: %s; the device is %s, exchange %s, switch phase %u, mirror phase %u, log phase "
		 "%u, %d requests outstanding, %u complete; memory %d, paused %d/%d", combos_run, why,
		 vublk_device_state_name(device->state),
		 vublk_device_exchange_phase_name(device->exchange.phase), device->path_switch.phase,
		 device->mirror.phase, device->dirty.phase, has_requests(), num_completed,
		 device->memory_change_under_way, device->pause.is_wanted, device->pause.stops);
}

void combos_wait_until(bool (*is_done)(void), const char *why)
{
	uint64_t until = vublk_now_ns() + TIME_LIMIT_NS;

	while (!is_done()) {
		combos_turn();
		if (vublk_now_ns() > until)
			describe_stall(why);
	}
}

bool combos_is_idle(void)
{
	return combos_rig.device->state == VUBLK_DEVICE_RUNNING && !combos_is_resetting && !has_requests();
}

static void send_to_all(int kind)
{
	for (unsigned i = 0; i < SLOTS; i++)
		send_one(i, kind);
	combos_wait_until(combos_is_idle, "the disk does not serve requests");
}

void combos_check_disk(void)
{
	send_to_all(WRITES);
	send_to_all(READS);
}
