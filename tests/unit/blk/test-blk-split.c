/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The parts of the block API that need no disk: how requests are cut into pieces, the table of
 * memory regions, and the reading of the configuration space.
 */
#include "harness.h"

#include "blk/config.h"
#include "blk/split.h"
#include "util/atomic.h"
#include "util/checked.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static struct vublk_inproc_regions regions;
static struct vublk_inproc_region_cache cache;

/* --- the table of regions ---------------------------------------------------------- */

static void *at(uint64_t address)
{
	return (void *)(uintptr_t)address;
}

static void expect_find(uint64_t address, uint64_t bytes, uint64_t guest_addr)
{
	uint64_t found = 1;

	assert_int_equal(vublk_inproc_regions_find(&regions, &cache, at(address), &found), bytes);
	if (bytes)
		assert_int_equal(found, guest_addr);
}

static void test_regions(void **state)
{
	expect_find(0, 0, 0);
	expect_find(0x5000, 0, 0);
	vublk_inproc_regions_insert(&regions, at(0x5000), 0x1000, 0x100000);
	vublk_inproc_regions_insert(&regions, at(0x9000), 0x2000, 0x200000);
	vublk_inproc_regions_insert(&regions, at(0x1000), 0x1000, 0x300000);
	expect_find(0xfff, 0, 0);
	expect_find(0x1000, 0x1000, 0x300000);
	expect_find(0x1fff, 1, 0x300fff);
	expect_find(0x2000, 0, 0);
	expect_find(0x5800, 0x800, 0x100800);
	expect_find(0xafff, 1, 0x201fff);
	expect_find(0xb000, 0, 0);
	assert_int_equal(vublk_inproc_regions_check(&regions, at(0x6000), 0x3000), 0);
	assert_int_equal(vublk_inproc_regions_check(&regions, at(0x6000), 0x3001), -EINVAL);
	assert_int_equal(vublk_inproc_regions_check(&regions, at(0x5fff), 1), -EINVAL);
	assert_int_equal(vublk_inproc_regions_remove(&regions, at(0x5001)), -EINVAL);
	assert_int_equal(vublk_inproc_regions_remove(&regions, at(0x5000)), 0);
	expect_find(0x5800, 0, 0);
	expect_find(0x9000, 0x2000, 0x200000);
	expect_find(0x1000, 0x1000, 0x300000);
	for (unsigned i = 2; i < VUBLK_MEMORY_MAX_REGIONS; i++)
		vublk_inproc_regions_insert(&regions, at(0x100000 + i * 0x1000), 0x1000, i << 20);
	assert_int_equal(vublk_inproc_regions_check(&regions, at(0x6000), 1), -ENOSPC);
	for (unsigned i = 2; i < VUBLK_MEMORY_MAX_REGIONS; i++)
		expect_find(0x100000 + i * 0x1000 + 5, 0xffb, (i << 20) + 5);
}

/*
 * Threads read the table while a writer inserts and removes regions. The region at 0x100000 is
 * always in the table. A reader never finds a mixture of two regions.
 */
static unsigned stop_readers;

static void *look_up(void *opaque)
{
	struct vublk_inproc_region_cache own = { 0 };
	uint64_t hits = 0;

	while (!vublk_load_relaxed(&stop_readers)) {
		uint64_t guest = 0, bytes;

		bytes = vublk_inproc_regions_find(&regions, &own, at(0x100010), &guest);
		assert_int_equal(bytes, 0xff0);
		assert_int_equal(guest, 0x200010);
		for (uint64_t host = 0x10000; host < 0x18000; host += 0x1000) {
			bytes = vublk_inproc_regions_find(&regions, &own, at(host), &guest);
			if (!bytes)
				continue;
			hits++;
			assert_int_equal(bytes, host >> 12);
			assert_int_equal(guest, host * 16);
		}
	}
	return (void *)(uintptr_t)hits;
}

static void test_regions_under_readers(void **state)
{
	pthread_t readers[2];

	vublk_inproc_regions_insert(&regions, at(0x100000), 0x1000, 0x200000);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&readers[i], NULL, look_up, NULL), 0);
	for (unsigned round = 0; round < 400000; round++) {
		uint64_t host = 0x10000 + (round * 5 % 8) * 0x1000;

		if (vublk_inproc_regions_remove(&regions, at(host)))
			vublk_inproc_regions_insert(&regions, at(host), host >> 12, host * 16);
	}
	vublk_store_relaxed(&stop_readers, 1);
	for (int i = 0; i < 2; i++)
		pthread_join(readers[i], NULL);
}

/* --- cutting ------------------------------------------------------------------------- */

static struct vublk_ring_buffer buffers[256];
static unsigned num;

static int64_t cut(const struct vublk_blk_limits *limits, struct vublk_blk_cursor *cursor,
		   uint64_t left)
{
	num = 0;
	return vublk_blk_split_next(limits, &regions, &cache, cursor, left, buffers, &num);
}

/* Adjacent memory is one segment, no matter how the iovec divides it. */
static void test_cut_what_adjoins(void **state)
{
	struct vublk_blk_limits limits = { 1024, 1, 1024, 65536, 0, 0, 0 };
	struct iovec iov[] = { { at(0x1000), 512 }, { at(0x1200), 1536 } };
	struct vublk_blk_cursor cursor = { iov, 2, 0, 0 };

	vublk_inproc_regions_insert(&regions, at(0x1000), 0x10000, 0);
	assert_int_equal(cut(&limits, &cursor, 2048), 1024);
	assert_int_equal(num, 1);
	assert_int_equal(buffers[0].bytes, 1024);
	assert_int_equal(cut(&limits, &cursor, 1024), 1024);
	assert_int_equal(num, 1);
	assert_int_equal(buffers[0].addr, 0x400);
}

static void test_cut_by_segments_bytes_and_blocks(void **state)
{
	struct vublk_blk_limits limits = { 512, 3, 4096, 65536, 0, 0, 0 };
	struct iovec iov[] = { { at(0x1000), 100 }, { at(0x2000), 0 }, { at(0x3000), 924 },
			       { at(0x4000), 1000 }, { at(0x5000), 24 } };
	struct vublk_blk_cursor cursor = { iov, 5, 0, 0 };

	vublk_inproc_regions_insert(&regions, at(0x1000), 0x10000, 0);
	/* The segments have 100, 924 and 1,000 bytes, of which 1,536 bytes are whole blocks. */
	assert_int_equal(cut(&limits, &cursor, 2048), 1536);
	assert_int_equal(num, 3);
	assert_int_equal(buffers[2].bytes, 512);
	assert_int_equal(cut(&limits, &cursor, 512), 512);
	assert_int_equal(num, 2);
	assert_int_equal(buffers[0].addr, 0x3000 + 512);
	assert_int_equal(buffers[0].bytes, 488);
	assert_int_equal(buffers[1].bytes, 24);
	/* Adjacent buffers are one segment, and no segment exceeds its limit. */
	iov[0] = (struct iovec){ at(0x1000), 6000 };
	iov[1] = (struct iovec){ at(0x1000 + 6000), 2192 };
	cursor = (struct vublk_blk_cursor){ iov, 2, 0, 0 };
	assert_int_equal(cut(&limits, &cursor, 8192), 8192);
	assert_int_equal(num, 2);
	assert_int_equal(buffers[1].addr, 0x1000 - 0x1000 + 4096);
	/* No piece exceeds its limit. */
	limits.max_piece_bytes = 1024;
	cursor = (struct vublk_blk_cursor){ iov, 2, 0, 0 };
	assert_int_equal(cut(&limits, &cursor, 8192), 1024);
	assert_int_equal(num, 1);
}

static void test_cut_refuses(void **state)
{
	struct vublk_blk_limits limits = { 512, 2, 4096, 65536, 0, 0, 0 };
	struct iovec iov[] = { { at(0x1000), 100 }, { at(0x1100), 100 }, { at(0x1200), 312 } };
	struct vublk_blk_cursor cursor = { iov, 3, 0, 0 };

	vublk_inproc_regions_insert(&regions, at(0x1000), 0x1000, 0);
	assert_int_equal(cut(&limits, &cursor, 512), -E2BIG);
	iov[0].iov_base = at(0xfff);
	cursor = (struct vublk_blk_cursor){ iov, 3, 0, 0 };
	assert_int_equal(cut(&limits, &cursor, 512), -EFAULT);
	iov[0] = (struct iovec){ at(0x1f00), 512 };
	cursor = (struct vublk_blk_cursor){ iov, 1, 0, 0 };
	assert_int_equal(cut(&limits, &cursor, 512), -EFAULT);
	iov[0] = (struct iovec){ at(0x1000), 256 }; /* shorter than the given length */
	cursor = (struct vublk_blk_cursor){ iov, 1, 0, 0 };
	assert_int_equal(cut(&limits, &cursor, 512), -EFAULT);
}

/*
 * Checks that no piece exceeds the limits, and that the pieces together cover the memory of the
 * iovec.
 */
static void check_pieces(const struct vublk_blk_limits *limits, const struct iovec *iov,
			 int iovcnt, uint64_t bytes)
{
	struct vublk_blk_cursor cursor = { iov, iovcnt, 0, 0 };
	uint64_t position = 0;
	int i = 0;

	while (bytes) {
		int64_t n = cut(limits, &cursor, bytes);
		uint64_t sum = 0;

		if (n == -E2BIG)
			return;
		assert_true(n > 0 && (uint64_t)n <= bytes && n <= limits->max_piece_bytes);
		assert_int_equal(n % limits->block_bytes, 0);
		assert_in_range(num, 1, limits->max_segments);
		for (unsigned b = 0; b < num; b++) {
			assert_in_range(buffers[b].bytes, 1, limits->max_segment_bytes);
			sum += buffers[b].bytes;
			for (uint64_t k = 0; k < buffers[b].bytes; k++, position++) {
				for (; position == iov[i].iov_len; position = 0)
					i++;
				assert_int_equal(buffers[b].addr + k,
						 (uintptr_t)iov[i].iov_base + position);
			}
		}
		assert_int_equal(sum, n);
		bytes -= (uint64_t)n;
	}
}

static void test_cut_at_random(void **state)
{
	struct iovec iov[20];

	srand(7);
	vublk_inproc_regions_insert(&regions, at(0x10000), 0x10000, 0x10000);
	vublk_inproc_regions_insert(&regions, at(0x20000), 0x10000, 0x20000);
	for (unsigned round = 0; round < 2000; round++) {
		struct vublk_blk_limits limits = {
			.block_bytes = rand() % 2 ? 512 : 4096,
			.max_segments = 1 + (uint32_t)rand() % 16,
		};
		int iovcnt = 1 + rand() % 20;
		uint64_t bytes = 0, rest;

		limits.max_segment_bytes = limits.block_bytes + (uint32_t)rand() % 8192;
		limits.max_piece_bytes = limits.block_bytes * (1 + (uint32_t)rand() % 8);
		for (int i = 0; i < iovcnt; i++) {
			iov[i].iov_base = at(0x10000 + (unsigned)rand() % 0x1c000);
			iov[i].iov_len = (size_t)rand() % (rand() % 4 ? 600 : 6000);
			bytes += iov[i].iov_len;
		}
		rest = (limits.block_bytes - bytes % limits.block_bytes) % limits.block_bytes;
		iov[iovcnt - 1].iov_len += rest;
		if (bytes + rest)
			check_pieces(&limits, iov, iovcnt, bytes + rest);
	}
}

static void test_cut_ranges(void **state)
{
	assert_int_equal(vublk_blk_split_range(0, 512, 4096, 512), 512);
	assert_int_equal(vublk_blk_split_range(512, 8192, 4096, 512), 4096);
	/* A piece ends at a multiple of the device's alignment, so that the next one is aligned. */
	assert_int_equal(vublk_blk_split_range(512, 65536, 8192, 4096), 7680);
	assert_int_equal(vublk_blk_split_range(8192, 65536, 8192, 4096), 8192);
	assert_int_equal(vublk_blk_split_range(512, 65536, 1024, 4096), 1024);
	assert_int_equal(vublk_blk_split_range(512, 65536, 8192, 1), 8192);
}

/* --- config ---------------------------------------------------------------------------- */

static struct vublk_blk_info describe(struct virtio_blk_config config, uint64_t features,
				      unsigned queue_size)
{
	uint8_t bytes[VUBLK_BLK_CONFIG_BYTES] = { 0 };
	struct vublk_blk_info info = { 0 };

	memcpy(bytes, &config, sizeof(config));
	assert_int_equal(vublk_blk_config_describe(bytes, features, queue_size, &info, NULL), 0);
	return info;
}

static void test_config_without_features(void **state)
{
	struct virtio_blk_config config;
	struct vublk_blk_info info;

	memset(&config, 0xff, sizeof(config));
	config.capacity = 100;
	info = describe(config, 0, 128);
	assert_int_equal(info.capacity_bytes, 51200);
	assert_int_equal(info.block_size_bytes, 512);
	assert_int_equal(info.physical_block_bytes, 512);
	assert_int_equal(info.optimal_io_bytes, 0);
	assert_int_equal(info.max_segments, 1);
	assert_int_equal(info.max_discard_bytes, 0);
	assert_int_equal(info.max_write_zeroes_bytes, 0);
	assert_false(info.write_zeroes_may_unmap || info.write_cache || info.flush ||
		     info.read_only || info.can_set_write_cache);
	/* FLUSH without CONFIG_WCE means a write cache (5.2.6.2). */
	assert_true(describe(config, VUBLK_BIT(VIRTIO_BLK_F_FLUSH), 128).write_cache);
}

static void test_config_with_absurd_values(void **state)
{
	struct virtio_blk_config config;
	struct vublk_blk_limits limits;
	struct vublk_blk_info info;

	memset(&config, 0xff, sizeof(config));
	config.capacity = 1;
	info = describe(config, UINT64_MAX, 128);
	assert_int_equal(info.block_size_bytes, 512);
	assert_int_equal(info.physical_block_bytes, 512);
	assert_int_equal(info.optimal_io_bytes, 0);
	assert_int_equal(info.max_segments, 126);
	assert_int_equal(info.max_discard_bytes, UINT64_C(512) * UINT32_MAX);
	assert_int_equal(vublk_blk_config_limits(&info, &limits, NULL), 0);
	assert_true(limits.max_segment_bytes <= limits.max_piece_bytes);
	memset(&config, 0, sizeof(config));
	info = describe(config, UINT64_MAX, 4);
	assert_int_equal(info.block_size_bytes, 512);
	assert_int_equal(info.max_segments, 1);
	assert_int_equal(info.max_discard_bytes, UINT64_C(512) * UINT32_MAX);
	assert_int_equal(info.discard_alignment_bytes, 512);
	assert_int_equal(vublk_blk_config_limits(&info, &limits, NULL), 0);
	for (uint32_t block = 0; block < 200000; block += 511) {
		config.blk_size = block;
		config.size_max = 1000;
		config.seg_max = block;
		info = describe(config, UINT64_MAX, 1024);
		assert_true(vublk_is_power_of_two(info.block_size_bytes));
		assert_in_range(info.max_segments, 1, 254);
	}
}

static void test_config_of_4k_blocks(void **state)
{
	struct virtio_blk_config config = {
		.capacity = 8000, .blk_size = 4096, .physical_block_exp = 1, .opt_io_size = 16,
		.max_discard_sectors = 15, .discard_sector_alignment = 1,
		.max_write_zeroes_sectors = 7, .seg_max = 1000, .size_max = 65536,
	};
	struct vublk_blk_info info = describe(config, UINT64_MAX, 256);

	assert_int_equal(info.block_size_bytes, 4096);
	assert_int_equal(info.physical_block_bytes, 8192);
	assert_int_equal(info.optimal_io_bytes, 65536);
	assert_int_equal(info.max_segments, 254);
	assert_int_equal(info.max_segment_bytes, 65536);
	assert_int_equal(info.max_discard_bytes, 4096); /* 7,680, rounded down to blocks */
	assert_int_equal(info.discard_alignment_bytes, 4096);
	assert_int_equal(info.max_write_zeroes_bytes, 0); /* the limit is less than a block */
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_regions),
		VUBLK_TEST(test_regions_under_readers),
		VUBLK_TEST(test_cut_what_adjoins),
		VUBLK_TEST(test_cut_by_segments_bytes_and_blocks),
		VUBLK_TEST(test_cut_refuses),
		VUBLK_TEST(test_cut_at_random),
		VUBLK_TEST(test_cut_ranges),
		VUBLK_TEST(test_config_without_features),
		VUBLK_TEST(test_config_with_absurd_values),
		VUBLK_TEST(test_config_of_4k_blocks),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
