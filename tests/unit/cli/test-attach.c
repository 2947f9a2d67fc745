/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What `vublk attach` tells the kernel about a disk, which disks it refuses, and how it finds the
 * device of a socket. The guest tests use a kernel with the driver.
 */
#include "cli/attach/params.h"
#include "cli/attach/ublk.h"

#include "harness.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct vublk_blk_info a_disk(void)
{
	return (struct vublk_blk_info){
		.capacity_bytes = 1 << 20, .block_size_bytes = 512, .physical_block_bytes = 4096,
		.flush = true, .max_discard_bytes = 1 << 20, .discard_alignment_bytes = 4096,
		.max_write_zeroes_bytes = UINT64_C(1) << 40,
	};
}

static struct ublk_params params_of(const struct vublk_blk_info *info)
{
	struct ublk_params params;
	struct vublk_error error = { 0 };

	assert_int_equal(vublk_attach_params(info, 128 << 10, &params, &error), 0);
	return params;
}

static void test_sizes(void **state)
{
	struct vublk_blk_info info = a_disk();
	struct ublk_params params = params_of(&info);

	assert_int_equal(params.basic.logical_bs_shift, 9);
	assert_int_equal(params.basic.physical_bs_shift, 12);
	assert_int_equal(params.basic.io_opt_shift, 12);
	assert_int_equal(params.basic.dev_sectors, 2048);
	assert_int_equal(params.basic.max_sectors, 256);
	assert_int_equal(params.basic.attrs, UBLK_ATTR_VOLATILE_CACHE | UBLK_ATTR_FUA);
	assert_int_equal(params.discard.discard_granularity, 4096);
	assert_int_equal(params.discard.max_discard_sectors, 2048);
	/* The kernel counts in 32 bits. */
	assert_int_equal(params.discard.max_write_zeroes_sectors, (UINT32_MAX & ~511u) >> 9);
}

static void test_large_blocks(void **state)
{
	struct vublk_blk_info info = a_disk();
	struct vublk_error error = { 0 };
	struct ublk_params params;

	info.block_size_bytes = 4096;
	info.physical_block_bytes = 512; /* smaller than a block */
	info.optimal_io_bytes = 96 << 10;
	info.capacity_bytes += 512;
	params = params_of(&info);
	assert_int_equal(params.basic.logical_bs_shift, 12);
	assert_int_equal(params.basic.physical_bs_shift, 12);
	assert_int_equal(params.basic.io_opt_shift, 16);
	assert_int_equal(params.basic.dev_sectors, 2048);
	info.block_size_bytes = 8192;
	assert_int_equal(vublk_attach_params(&info, 128 << 10, &params, &error), -ENOTSUP);
	assert_non_null(strstr(error.text, "8192"));
}

static void test_features(void **state)
{
	struct vublk_blk_info info = a_disk();
	struct vublk_error error = { 0 };
	struct ublk_params params;

	info.read_only = true;
	info.flush = false;
	info.max_discard_bytes = info.max_write_zeroes_bytes = 0;
	params = params_of(&info);
	assert_int_equal(params.basic.attrs, UBLK_ATTR_READ_ONLY);
	assert_int_equal(params.types, UBLK_PARAM_TYPE_BASIC);
	info.capacity_bytes = 0;
	assert_int_equal(vublk_attach_params(&info, 128 << 10, &params, &error), -ENOTSUP);
}

static void test_resume(void **state)
{
	struct vublk_blk_info info = a_disk();
	struct ublk_params before = params_of(&info), now = before;
	struct vublk_error error = { 0 };

	assert_int_equal(vublk_attach_check_params(&before, &now, &error), 0);
	now.basic.dev_sectors++; /* the disk may have grown */
	assert_int_equal(vublk_attach_check_params(&before, &now, &error), 0);
	now.basic.dev_sectors = before.basic.dev_sectors - 1;
	assert_int_equal(vublk_attach_check_params(&before, &now, &error), -ENOTSUP);
	now = before;
	now.basic.logical_bs_shift = 12;
	assert_int_equal(vublk_attach_check_params(&before, &now, &error), -ENOTSUP);
	now = before;
	now.basic.attrs |= UBLK_ATTR_READ_ONLY;
	assert_int_equal(vublk_attach_check_params(&before, &now, &error), -ENOTSUP);
	now = before;
	before.basic.attrs = 0;
	assert_int_equal(vublk_attach_check_params(&before, &now, &error), -ENOTSUP);
}

static void test_marks(void **state)
{
	struct ublksrv_ctrl_dev_info info = { .ublksrv_flags = vublk_ublk_mark("/run/a") };
	char *one = vublk_ublk_canonical("/usr/../usr/socket"), *two = vublk_ublk_canonical("/usr/socket");

	assert_true(vublk_ublk_is_ours(&info));
	assert_true(info.ublksrv_flags != vublk_ublk_mark("/run/b"));
	info.ublksrv_flags = 1;
	assert_false(vublk_ublk_is_ours(&info));
	assert_string_equal(one, two);
	assert_string_equal(one, "/usr/socket");
	assert_null(vublk_ublk_canonical("/no/such/folder/socket"));
	free(one);
	free(two);
}

static void test_names(void **state)
{
	char node[VUBLK_UBLK_NODE_BYTES];

	assert_int_equal(vublk_ublk_parse("/dev/ublkb12"), 12);
	assert_int_equal(vublk_ublk_parse("ublkb0"), 0);
	assert_int_equal(vublk_ublk_parse("7"), 7);
	assert_int_equal(vublk_ublk_parse("/dev/vda"), -1);
	assert_int_equal(vublk_ublk_parse("-1"), -1);
	assert_int_equal(vublk_ublk_parse(""), -1);
	assert_int_equal(vublk_ublk_parse("ublkb"), -1);
	assert_string_equal(vublk_ublk_node(node, 'c', 3), "/dev/ublkc3");
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_sizes),
		VUBLK_TEST(test_large_blocks),
		VUBLK_TEST(test_features),
		VUBLK_TEST(test_resume),
		VUBLK_TEST(test_marks),
		VUBLK_TEST(test_names),
	};

	return vublk_test_main(tests, VUBLK_CLI_ARRAY_SIZE(tests), argc, argv);
}
