/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sorting of a table of memory regions, and translation of addresses with it. */
#include "harness.h"

#include "virtio/blk-format.h"
#include "virtio/memory-map.h"

#include <vublk/device.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TOP UINT64_MAX

static void test_place_sorts(void **state)
{
	static const uint64_t addrs[] = { 0x5000, 0x9000, 0x1000, 0x7000 };
	static const unsigned places[] = { 0, 1, 0, 2 };
	struct vublk_memory_map_region regions[VUBLK_ARRAY_SIZE(addrs)];
	struct vublk_memory_map map = { 0, regions };

	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(addrs); i++) {
		regions[map.num_regions++] = (struct vublk_memory_map_region){
			addrs[i], addrs[i], 0x1000, NULL };
		assert_int_equal(vublk_memory_map_place(&map), places[i]);
	}
	for (unsigned i = 1; i < map.num_regions; i++)
		assert_true(regions[i - 1].guest_addr < regions[i].guest_addr);
}

/*
 * 0x1000-0x2fff in two adjacent regions, then a gap, then 0x5000-0x5fff, and the last page of the
 * address space.
 */
static char first[0x1000], second[0x1000], third[0x1000], top[0x1000];
static struct vublk_memory_map_region regions[] = {
	{ 0x1000, 0x91000, 0x1000, first },
	{ 0x2000, 0x82000, 0x1000, second },
	{ 0x5000, 0x75000, 0x1000, third },
	{ TOP - 0xfff, 0xff000, 0x1000, top },
};
static struct vublk_memory_map map = { VUBLK_ARRAY_SIZE(regions), regions };

static void test_one_region(void **state)
{
	assert_ptr_equal(vublk_memory_map_guest(&map, 0x1000, 0x1000), first);
	assert_ptr_equal(vublk_memory_map_guest(&map, 0x1fff, 1), first + 0xfff);
	assert_null(vublk_memory_map_guest(&map, 0x1fff, 2));
	assert_null(vublk_memory_map_guest(&map, 0xfff, 2));
	assert_null(vublk_memory_map_guest(&map, 0x3000, 1));
	assert_null(vublk_memory_map_guest(&map, 0x5001, TOP));
	assert_ptr_equal(vublk_memory_map_guest(&map, TOP, 1), top + 0xfff);
	assert_null(vublk_memory_map_guest(&map, TOP, 2));
	assert_ptr_equal(vublk_memory_map_user(&map, 0x91010, 0xff0), first + 0x10);
	assert_null(vublk_memory_map_user(&map, 0x91010, 0xff1));
	assert_null(vublk_memory_map_user(&map, 0x1000, 1));
	assert_null(vublk_memory_map_user(&map, 0x91001, TOP));
	assert_ptr_equal(vublk_memory_map_user(&map, 0x82000, 1), second);
}

struct iov_case {
	uint64_t addr, bytes;
	unsigned max;
	int expected;
	const char *bases[2];
	size_t lengths[2];
};

static const struct iov_case iov_cases[] = {
	{ 0x1000, 0x1000, 1, 1, { first }, { 0x1000 } },
	{ 0x1ff0, 0x20, 2, 2, { first + 0xff0, second }, { 0x10, 0x10 } },
	{ 0x1000, 0x2000, 2, 2, { first, second }, { 0x1000, 0x1000 } },
	{ 0x1000, 0x2000, 1, -E2BIG, { NULL }, { 0 } },
	{ 0x1000, 1, 0, -E2BIG, { NULL }, { 0 } },
	{ 0x1000, 0x2001, 8, -EFAULT, { NULL }, { 0 } },
	{ 0x1000, 0x4001, 8, -EFAULT, { NULL }, { 0 } },
	{ 0xfff, 1, 8, -EFAULT, { NULL }, { 0 } },
	{ 0x3000, 1, 8, -EFAULT, { NULL }, { 0 } },
	{ 0x1000, 0, 8, -EFAULT, { NULL }, { 0 } },
	{ 0x1000, TOP, 8, -EFAULT, { NULL }, { 0 } },
	{ TOP, 1, 8, 1, { top + 0xfff }, { 1 } },
	{ TOP - 0xfff, 0x1000, 8, 1, { top }, { 0x1000 } },
	{ TOP, 2, 8, -EFAULT, { NULL }, { 0 } },
	{ 0, TOP, 8, -EFAULT, { NULL }, { 0 } },
};

static void test_iov(void **state)
{
	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(iov_cases); i++) {
		const struct iov_case *c = &iov_cases[i];
		struct iovec iov[8];
		int n = vublk_memory_map_iov(&map, c->addr, c->bytes, iov, c->max);

		if (n != c->expected)
			fail_msg("case %u: %d", i, n);
		for (int k = 0; k < n; k++) {
			assert_ptr_equal(iov[k].iov_base, c->bases[k]);
			assert_int_equal(iov[k].iov_len, c->lengths[k]);
		}
	}
}

static void test_read(void **state)
{
	char to[4] = "";

	memcpy(first + 0xffe, "ab", 2);
	memcpy(second, "cd", 2);
	assert_int_equal(vublk_memory_map_read(&map, 0x1ffe, to, 4), 0);
	assert_memory_equal(to, "abcd", 4);
	assert_int_equal(vublk_memory_map_read(&map, 0x2ffe, to, 4), -EFAULT);
	assert_int_equal(vublk_memory_map_read(&map, TOP, to, 4), -EFAULT);
	assert_int_equal(vublk_memory_map_read(&map, 0x1000, to, 0), -EFAULT);
}

static void test_no_regions(void **state)
{
	struct vublk_memory_map none = { 0, NULL };
	struct iovec iov[1];

	assert_null(vublk_memory_map_guest(&none, 0, 1));
	assert_null(vublk_memory_map_user(&none, 0, 1));
	assert_int_equal(vublk_memory_map_iov(&none, 0, 1, iov, 1), -EFAULT);
}

static void test_feature_names(void **state)
{
	assert_string_equal(vublk_feature_name(9), "VIRTIO_BLK_F_FLUSH");
	assert_string_equal(vublk_feature_name(17), "VIRTIO_BLK_F_ZONED");
	assert_string_equal(vublk_feature_name(32), "VIRTIO_F_VERSION_1");
	assert_string_equal(vublk_feature_name(40), "VIRTIO_F_RING_RESET");
	assert_null(vublk_feature_name(3));
	assert_null(vublk_feature_name(63));
	assert_null(vublk_feature_name(UINT32_MAX));
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_place_sorts),
		VUBLK_TEST(test_one_region),
		VUBLK_TEST(test_iov),
		VUBLK_TEST(test_read),
		VUBLK_TEST(test_no_regions),
		VUBLK_TEST(test_feature_names),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
