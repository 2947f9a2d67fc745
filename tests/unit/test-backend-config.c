/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a driver is told of a disk: sizes, limits, and who the disk is. */
#include "backend-rig.h"

#include "backend/config.h"
#include "util/checked.h"

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

/* --- sizes for I/O ---------------------------------------------------------------- */

/* In blocks; 0 where nothing is known, or what is known is no number of blocks. */
static void test_io_sizes(void **state)
{
	const struct {
		uint32_t block, physical, optimal;
		unsigned min_io, opt_io;
	} cases[] = {
		{ 512, 512, 0, 0, 0 },
		{ 512, 512, 512, 0, 0 },
		{ 512, 4096, 0, 8, 0 },
		{ 4096, 4096, 65536, 0, 16 },
		{ 4096, 16384, 4096, 4, 0 },
		{ 4096, 4096, 1000, 0, 0 },
		{ 4096, 4096, 6144, 0, 0 },
		{ 512, 64u << 20, 0, 0, 0 },
	};

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		struct vublk_engine_geometry geometry = {
			.size_bytes = 1 << 20, .block_bytes = cases[i].block,
			.physical_block_bytes = cases[i].physical,
			.optimal_io_bytes = cases[i].optimal,
		};
		struct virtio_blk_config config;

		vublk_backend_config_fill(&geometry, 1, 126, true, &config);
		if (config.min_io_size != cases[i].min_io || config.opt_io_size != cases[i].opt_io)
			fail_msg("case %zu: min_io_size %u, opt_io_size %u", i, config.min_io_size,
				 config.opt_io_size);
	}
}

/* --- segments ----------------------------------------------------------------------- */

static void open_with_seg_max(struct rig *rig, const char *seg_max)
{
	const struct vublk_option options[] = {
		{ "engine", "memory" }, { "size", "8M" }, { "num-queues", "4" },
		{ "seg-max", seg_max }, { 0 },
	};

	rig_open(rig, options);
	rig_negotiate(rig);
	assert_int_equal(rig_set_mem_table(rig), 0);
}

/* The ring's size comes after the config: a limit that does not fit can only be said. */
static void start_small(struct rig *rig, const char *seg_max, bool has_indirect)
{
	uint64_t indirect = VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC);

	open_with_seg_max(rig, seg_max);
	if (!has_indirect)
		assert_int_equal(rig_set_u64(rig, VUBLK_VU_SET_FEATURES,
					     rig->features & ~indirect), 0);
	for (unsigned i = 0; i < 2; i++)
		rig_start_queue(rig, i, 16, 0);
}

static void test_seg_max_of_a_small_ring(void **state)
{
	struct rig rig;

	start_small(&rig, "126", false);
	assert_true(rig_log_has(&rig, "queue 0 has 16 entries"));
	assert_true(rig_log_has(&rig, "-o seg-max=14"));
	rig_close(&rig);
	start_small(&rig, "14", false);
	assert_string_equal(rig.log.last, "");
	rig_close(&rig);
	start_small(&rig, "126", true);
	assert_string_equal(rig.log.last, "");
	rig_close(&rig);
}

static void test_seg_max(void **state)
{
	struct virtio_blk_config config;
	struct rig rig;

	open_with_seg_max(&rig, "1024");
	rig_get_config(&rig, &config);
	assert_int_equal(config.seg_max, 1024);
	rig_close(&rig);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_io_sizes),
		VUBLK_TEST(test_seg_max_of_a_small_ring),
		VUBLK_TEST(test_seg_max),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
