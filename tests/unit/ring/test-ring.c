/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Both ends of a ring, step by step: the effect of each call, also at the limits. */
#include "harness.h"
#include "ring-rig.h"

#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define EVENT_IDX VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX)
#define INDIRECT VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC)
#define ON_EMPTY VUBLK_BIT(VIRTIO_F_NOTIFY_ON_EMPTY)

static struct ring_rig rig;

static void set_up(unsigned size, uint16_t base, uint64_t features)
{
	rig_init(&rig, &(struct rig_config){ size, base, features, 1 << 16, 2 });
}

static void add_one(uint16_t token)
{
	struct vublk_ring_buffer buffers[2] = {
		{ RIG_GUEST_BASE + 16 * token, 16 },
		{ RIG_GUEST_BASE + 8192 + 512 * token, 512 },
	};

	assert_int_equal(vublk_driver_ring_add(&rig.driver, buffers, 1, 1, NULL, token), 0);
}

static int take(struct vublk_chain *chain)
{
	static struct iovec iov[8];

	*chain = (struct vublk_chain){ .max_iov = 8, .iov = iov };
	return vublk_device_ring_take(&rig.device, &rig.map, chain, NULL);
}

static void test_round_trip(void **state)
{
	struct vublk_chain chain;
	uint16_t token = 99;
	uint32_t bytes = 99;

	set_up(8, 65534, 0);
	for (unsigned i = 0; i < 20; i++) {
		assert_int_equal(take(&chain), 0);
		add_one(5);
		assert_int_equal(take(&chain), 0);
		assert_true(vublk_driver_ring_publish(&rig.driver));
		assert_false(vublk_driver_ring_publish(&rig.driver));
		assert_true(vublk_device_ring_has_chain(&rig.device));
		assert_int_equal(take(&chain), 1);
		assert_int_equal(chain.num_out, 1);
		assert_int_equal(chain.num_in, 1);
		assert_int_equal(chain.out_bytes, 16);
		assert_int_equal(chain.in_bytes, 512);
		assert_ptr_equal(chain.iov[0].iov_base, rig.regions[0].host + 80);
		assert_int_equal(take(&chain), 0);
		vublk_device_ring_push(&rig.device, chain.head, 513);
		assert_false(vublk_driver_ring_has_completion(&rig.driver));
		assert_true(vublk_device_ring_publish(&rig.device));
		assert_false(vublk_device_ring_publish(&rig.device));
		assert_true(vublk_driver_ring_has_completion(&rig.driver));
		assert_int_equal(vublk_driver_ring_outstanding(&rig.driver), 1);
		assert_int_equal(vublk_driver_ring_take(&rig.driver, &token, &bytes, NULL), 1);
		assert_int_equal(token, 5);
		assert_int_equal(bytes, 513);
		assert_int_equal(vublk_driver_ring_take(&rig.driver, &token, &bytes, NULL), 0);
		assert_int_equal(vublk_driver_ring_outstanding(&rig.driver), 0);
	}
	assert_int_equal(vublk_device_ring_base(&rig.device), (uint16_t)(65534 + 20));
	assert_int_equal(vublk_device_ring_used(&rig.device), (uint16_t)(65534 + 20));
	rig_deinit(&rig);
}

static void add_at(uint16_t token, uint64_t offset)
{
	const struct vublk_ring_buffer buffers[2] = {
		{ RIG_GUEST_BASE + offset, 16 },
		{ RIG_GUEST_BASE + offset + 16, 1 },
	};

	assert_int_equal(vublk_driver_ring_add(&rig.driver, buffers, 1, 1, NULL, token), 0);
	vublk_driver_ring_publish(&rig.driver);
}

/* The device's end caches regions of the memory map, and must notice that it gets another map. */
static void test_another_map(void **state)
{
	struct vublk_memory_map_region *last = NULL;
	struct vublk_memory_map first;
	struct vublk_chain chain;

	set_up(32, 0, 0);
	first = rig.map;
	for (uint16_t token = 0; token < 12; token++)
		add_one(token);
	vublk_driver_ring_publish(&rig.driver);
	for (unsigned i = 0; i < 12; i++) {
		struct vublk_memory_map_region *regions = calloc(2, sizeof(*regions));

		/* one or two regions; the host address of the first one alternates */
		memcpy(regions, first.regions, 2 * sizeof(*regions));
		regions[0].host = first.regions[i % 2].host;
		rig.map = (struct vublk_memory_map){ 1 + i / 2 % 2, regions };
		assert_int_equal(take(&chain), 1);
		assert_ptr_equal(chain.iov[0].iov_base, regions[0].host + 16 * i);
		assert_ptr_equal(chain.iov[1].iov_base, regions[0].host + 8192 + 512 * i);
		free(last);
		last = regions;
	}
	free(last);
	rig.map = first;
	rig_deinit(&rig);
}

static void test_removed_region(void **state)
{
	struct vublk_chain chain;

	set_up(32, 0, 0);
	for (uint16_t token = 0; token < 2; token++) {
		add_at(token, rig.regions[1].guest_addr - RIG_GUEST_BASE);
		assert_int_equal(take(&chain), 1);
	}
	rig.map.num_regions = 1;
	add_at(2, rig.regions[1].guest_addr - RIG_GUEST_BASE);
	assert_int_equal(take(&chain), -EBADMSG);
	rig.map.num_regions = 2;
	rig_deinit(&rig);
}

static void test_no_region(void **state)
{
	struct vublk_memory_map map;
	struct vublk_chain chain;

	set_up(32, 0, 0);
	map = rig.map;
	rig.map = (struct vublk_memory_map){ 0 };
	add_at(0, 0);
	assert_int_equal(take(&chain), -EBADMSG);
	rig.map = map;
	rig_deinit(&rig);
}

/*
 * Transfers one request and its completion. Checks whether the driver has to kick (`want_kick`) and
 * the device has to call (`want_call`).
 */
static void transfer(bool want_kick, bool want_call)
{
	struct vublk_chain chain;
	uint16_t token;
	uint32_t bytes;

	add_one(3);
	if (vublk_driver_ring_publish(&rig.driver) != want_kick)
		fail_msg("at %u: kick", vublk_device_ring_base(&rig.device));
	assert_int_equal(take(&chain), 1);
	vublk_device_ring_push(&rig.device, chain.head, 0);
	if (vublk_device_ring_publish(&rig.device) != want_call)
		fail_msg("at %u: call", vublk_device_ring_base(&rig.device));
	assert_int_equal(vublk_driver_ring_take(&rig.driver, &token, &bytes, NULL), 1);
}

static void test_indices_wrap_many_times(void **state)
{
	set_up(4, 0, EVENT_IDX);
	for (unsigned i = 0; i < 200000; i++) {
		assert_true(vublk_driver_ring_enable_calls(&rig.driver));
		assert_true(vublk_device_ring_enable_kicks(&rig.device));
		transfer(true, true);
	}
	rig_deinit(&rig);
}

/*
 * An end that never enables notifications gets one for the first transfer, and then one for every
 * 65,536th.
 */
static void test_event_idx_suppresses(void **state)
{
	set_up(4, 0, EVENT_IDX);
	for (unsigned i = 0; i < 200000; i++) {
		bool at_event = i % 65536 == 0;

		vublk_driver_ring_disable_calls(&rig.driver);
		vublk_device_ring_disable_kicks(&rig.device);
		transfer(at_event, at_event);
	}
	rig_deinit(&rig);
}

static void test_flags_suppress(void **state)
{
	set_up(4, 65535, 0);
	vublk_driver_ring_disable_calls(&rig.driver);
	vublk_device_ring_disable_kicks(&rig.device);
	transfer(true, true); /* the first publish after init always notifies */
	transfer(false, false);
	vublk_driver_ring_enable_calls(&rig.driver);
	transfer(false, true);
	vublk_device_ring_enable_kicks(&rig.device);
	transfer(true, true);
	rig_deinit(&rig);
}

/*
 * The first publish of an end always notifies, whatever the memory contains. A device that has died
 * may have left that content, or the device may not have started yet.
 */
static void test_first_publish_always_tells(void **state)
{
	set_up(4, 0, EVENT_IDX);
	rig.memory.avail->ring[4] = 1000;
	*(uint16_t *)&rig.memory.used->ring[4] = 1000;
	transfer(true, true);
	transfer(false, false);
	rig_deinit(&rig);
}

static void test_notify_on_empty(void **state)
{
	struct vublk_chain chain;

	set_up(4, 0, EVENT_IDX | ON_EMPTY);
	transfer(true, true);
	transfer(false, true);
	add_one(0);
	add_one(1);
	vublk_driver_ring_publish(&rig.driver);
	assert_int_equal(take(&chain), 1);
	vublk_device_ring_push(&rig.device, chain.head, 0);
	assert_false(vublk_device_ring_publish(&rig.device));
	assert_int_equal(take(&chain), 1);
	vublk_device_ring_push(&rig.device, chain.head, 0);
	assert_true(vublk_device_ring_publish(&rig.device));
	rig_deinit(&rig);
}

/* Enabling notifications returns false if the other end has already published something. */
static void test_enable_sees_what_waits(void **state)
{
	struct vublk_chain chain;

	set_up(4, 0, EVENT_IDX);
	assert_true(vublk_device_ring_enable_kicks(&rig.device));
	add_one(0);
	assert_true(vublk_device_ring_enable_kicks(&rig.device));
	vublk_driver_ring_publish(&rig.driver);
	assert_false(vublk_device_ring_enable_kicks(&rig.device));
	assert_int_equal(take(&chain), 1);
	assert_true(vublk_device_ring_enable_kicks(&rig.device));
	assert_true(vublk_driver_ring_enable_calls(&rig.driver));
	vublk_device_ring_push(&rig.device, chain.head, 0);
	assert_true(vublk_driver_ring_enable_calls(&rig.driver));
	vublk_device_ring_publish(&rig.device);
	assert_false(vublk_driver_ring_enable_calls(&rig.driver));
	rig_deinit(&rig);
}

/* Even the smallest ring accepts a table of VUBLK_RING_MAX_INDIRECT descriptors. */
static void test_longest_indirect(void **state)
{
	static struct vublk_ring_buffer buffers[VUBLK_RING_MAX_INDIRECT + 1];
	static struct iovec iov[VUBLK_RING_MAX_INDIRECT];
	struct vublk_chain chain = { .max_iov = VUBLK_RING_MAX_INDIRECT, .iov = iov };
	struct vublk_ring_indirect indirect = { NULL, RIG_GUEST_BASE };

	set_up(1, 0, INDIRECT);
	indirect.table = rig_data(&rig, indirect.addr);
	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(buffers); i++)
		buffers[i] = (struct vublk_ring_buffer){ RIG_GUEST_BASE + 32768 + i, 1 };
	assert_int_equal(vublk_driver_ring_add(&rig.driver, buffers, 1, VUBLK_RING_MAX_INDIRECT - 1,
					       &indirect, 0), 0);
	vublk_driver_ring_publish(&rig.driver);
	assert_int_equal(vublk_device_ring_take(&rig.device, &rig.map, &chain, NULL), 1);
	assert_int_equal(chain.num_out, 1);
	assert_int_equal(chain.in_bytes, VUBLK_RING_MAX_INDIRECT - 1);
	rig_deinit(&rig);
}

static void test_add_refuses(void **state)
{
	struct vublk_ring_buffer buffers[5] = { { RIG_GUEST_BASE, 1 } };
	struct vring_desc table[2];
	struct vublk_ring_indirect indirect = { table, RIG_GUEST_BASE };

	set_up(4, 0, 0);
	assert_int_equal(vublk_driver_ring_add(&rig.driver, buffers, 0, 0, NULL, 0), -EINVAL);
	assert_int_equal(vublk_driver_ring_add(&rig.driver, buffers, 1, 0, NULL, 4), -EINVAL);
	assert_int_equal(vublk_driver_ring_add(&rig.driver, buffers, UINT32_MAX, 2, NULL, 0),
			 -EINVAL);
	assert_int_equal(vublk_driver_ring_add(&rig.driver, buffers, 1, 0, &indirect, 0), -ENOTSUP);
	assert_int_equal(vublk_driver_ring_add(&rig.driver, buffers, 3, 2, NULL, 0), -ENOSPC);
	assert_int_equal(vublk_driver_ring_add(&rig.driver, buffers, 1, 2, NULL, 0), 0);
	assert_int_equal(vublk_driver_ring_add(&rig.driver, buffers, 1, 1, NULL, 1), -ENOSPC);
	assert_int_equal(vublk_driver_ring_add(&rig.driver, buffers, 0, 1, NULL, 1), 0);
	assert_int_equal(vublk_driver_ring_add(&rig.driver, buffers, 0, 1, NULL, 2), -ENOSPC);
	assert_int_equal(vublk_driver_ring_outstanding(&rig.driver), 2);
	rig_deinit(&rig);
}

static void check_init(const struct vublk_split_ring *memory, unsigned size, const char *words)
{
	struct vublk_driver_ring driver = { 0 };
	struct vublk_device_ring device = { 0 };
	struct vublk_error error = { 0 };

	assert_int_equal(vublk_driver_ring_init(&driver, memory, size, 0, 0, &error), -EINVAL);
	assert_non_null(strstr(error.text, words));
	error.text[0] = '\0';
	assert_int_equal(vublk_device_ring_init(&device, memory, size, 0, 0, &error), -EINVAL);
	assert_non_null(strstr(error.text, words));
}

static void test_init_refuses(void **state)
{
	struct vublk_split_ring wrong;

	set_up(8, 0, 0);
	check_init(&rig.memory, 0, "0 entries");
	check_init(&rig.memory, 3, "power of two");
	check_init(&rig.memory, 2048, "up to 1024");
	wrong = rig.memory;
	wrong.desc = (struct vring_desc *)((char *)wrong.desc + 8);
	check_init(&wrong, 8, "descriptor table");
	wrong = rig.memory;
	wrong.avail = (struct vring_avail *)((char *)wrong.avail + 1);
	check_init(&wrong, 8, "available ring");
	wrong = rig.memory;
	wrong.used = (struct vring_used *)((char *)wrong.used + 2);
	check_init(&wrong, 8, "used ring");
	wrong.used = NULL;
	check_init(&wrong, 8, "used ring");
	rig_deinit(&rig);
	rig_deinit(&rig); /* a second deinit, or one of NULL, is a no-op */
	vublk_driver_ring_deinit(NULL);
	vublk_device_ring_deinit(NULL);
}

static bool no_memory;

void *__wrap_calloc(size_t count, size_t bytes);
void *__real_calloc(size_t count, size_t bytes);

void *__wrap_calloc(size_t count, size_t bytes)
{
	return no_memory ? NULL : __real_calloc(count, bytes);
}

static void test_init_without_memory(void **state)
{
	struct vublk_driver_ring driver = { 0 };
	struct vublk_device_ring device = { 0 };
	struct vublk_error error = { 0 };
	int driver_ret, device_ret;

	set_up(8, 0, 0);
	no_memory = true;
	driver_ret = vublk_driver_ring_init(&driver, &rig.memory, 8, 0, 0, &error);
	device_ret = vublk_device_ring_init(&device, &rig.memory, 8, 0, 0, &error);
	no_memory = false;
	assert_int_equal(driver_ret, -ENOMEM);
	assert_int_equal(device_ret, -ENOMEM);
	assert_string_equal(error.text, "cannot allocate memory for a ring of 8 entries");
	rig_deinit(&rig);
}

static void test_part_sizes(void **state)
{
	assert_int_equal(vublk_split_desc_bytes(256), 4096);
	assert_int_equal(vublk_split_avail_bytes(256), 6 + 2 * 256);
	assert_int_equal(vublk_split_used_bytes(256), 6 + 8 * 256);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_round_trip),
		VUBLK_TEST(test_another_map),
		VUBLK_TEST(test_removed_region),
		VUBLK_TEST(test_no_region),
		VUBLK_TEST(test_indices_wrap_many_times),
		VUBLK_TEST(test_event_idx_suppresses),
		VUBLK_TEST(test_flags_suppress),
		VUBLK_TEST(test_first_publish_always_tells),
		VUBLK_TEST(test_notify_on_empty),
		VUBLK_TEST(test_enable_sees_what_waits),
		VUBLK_TEST(test_longest_indirect),
		VUBLK_TEST(test_add_refuses),
		VUBLK_TEST(test_init_refuses),
		VUBLK_TEST(test_init_without_memory),
		VUBLK_TEST(test_part_sizes),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
