/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Rings step by step: what each call does, in both directions and at the edges. */
#include "harness.h"
#include "ring-rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct rig rig;

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

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_round_trip),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
