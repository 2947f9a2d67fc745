/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The configuration of a disk: sizes, limits, serial. */
#include "backend-rig.h"

#include "backend/config.h"
#include "backend/engine/engine.h"
#include "util/checked.h"
#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* --- sizes for I/O ---------------------------------------------------------------- */

/*
 * The I/O sizes in the config are in blocks. A size in the config is 0 if the engine's size is
 * unknown, one block, not a multiple of a block, or too large.
 */
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

static void open_with_seg_max(struct backend_rig *rig, const char *seg_max)
{
	const struct vublk_option options[] = {
		{ "engine", "memory" }, { "size", "8M" }, { "num-queues", "4" },
		{ "seg-max", seg_max }, { 0 },
	};

	rig_open(rig, options);
	rig_negotiate(rig);
	assert_int_equal(rig_set_mem_table(rig), 0);
}

/*
 * Starts two small rings. The back-end learns their size only after the front-end has read the
 * config, so it can only log that seg_max exceeds the ring.
 */
static void start_small(struct backend_rig *rig, const char *seg_max, bool has_indirect)
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
	struct backend_rig rig;

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
	struct backend_rig rig;

	open_with_seg_max(&rig, "1024");
	rig_get_config(&rig, &config);
	assert_int_equal(config.seg_max, 1024);
	rig_close(&rig);
}

/* --- block sizes -------------------------------------------------------------------- */

/* Makes the image `name` of this size in the case's folder. */
static void make_image(char *path, size_t room, const char *name, off_t bytes)
{
	int fd;

	snprintf(path, room, "%s/%s", vublk_test_folder(), name);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, bytes), 0);
	vublk_fd_close(&fd);
}

static void test_block_sizes(void **state)
{
	const struct {
		const char *logical, *physical;
		unsigned block, exponent, min_io;
	} cases[] = {
		{ "4096", "auto", 4096, 0, 0 }, { "4k", "16384", 4096, 2, 4 },
		{ "512", "4096", 512, 3, 8 }, { "auto", "64k", 512, 7, 128 },
		{ "65536", "auto", 65536, 0, 0 },
	};
	char path[128];

	make_image(path, sizeof(path), "image", 8 << 20);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		const struct vublk_option options[] = {
			{ "blk-file", path }, { "num-queues", "4" }, { "cache", "buffered" },
			{ "logical-block-size", cases[i].logical },
			{ "physical-block-size", cases[i].physical }, { 0 },
		};
		struct virtio_blk_config config;
		struct backend_rig rig;

		rig_open(&rig, options);
		rig_negotiate(&rig);
		rig_get_config(&rig, &config);
		assert_int_equal(config.blk_size, cases[i].block);
		assert_int_equal(config.physical_block_exp, cases[i].exponent);
		assert_int_equal(config.min_io_size, cases[i].min_io);
		assert_int_equal(config.capacity, (8 << 20) / 512);
		rig_close(&rig);
	}
}

static void expect_refused(const char *path, const char *logical, const char *physical,
			   const char *words)
{
	const struct vublk_option options[] = {
		{ "blk-file", path }, { "socket-path", "unused" },
		{ "logical-block-size", logical }, { "physical-block-size", physical }, { 0 },
	};
	struct vublk_error error = { 0 };
	struct vublk_backend *backend;

	assert_int_equal(vublk_backend_open(options, NULL, &backend, &error), -EINVAL);
	if (!strstr(error.text, words))
		fail_msg("no '%s' in: %s", words, error.text);
}

static void test_refused_block_sizes(void **state)
{
	char path[128];

	make_image(path, sizeof(path), "image", (1 << 20) + 512);
	expect_refused(path, "256", "auto", "logical-block-size must be");
	expect_refused(path, "1536", "auto", "must be auto or a power of two from 512 to 2097152");
	expect_refused(path, "4M", "auto", "logical-block-size must be");
	expect_refused(path, "512", "1000", "physical-block-size must be auto or a power of two");
	expect_refused(path, "4096", "auto", "has 1049088 bytes, which is not a multiple");
	expect_refused(path, "4096", "auto", "resize it to 1052672 bytes");
	make_image(path, sizeof(path), "image", 1 << 20);
	expect_refused(path, "4096", "512", "expected at least the logical block size, 4096 bytes");
}

/* The disk keeps its size when its image grows by part of a block. */
static void test_block_size_of_a_new_size(void **state)
{
	char path[128];
	const struct vublk_engine_options options = { .path = path, .block_bytes = 4096 };
	struct vublk_error error = { 0 };
	struct vublk_engine *engine;

	make_image(path, sizeof(path), "image", 1 << 20);
	assert_int_equal(vublk_engine_open(&vublk_engine_file, &options, &engine, &error), 0);
	assert_int_equal(truncate(path, (1 << 20) + 512), 0);
	assert_int_equal(engine->ops->refresh(engine, &error), -EINVAL);
	assert_non_null(strstr(error.text, "not a multiple of its block size of 4096 bytes"));
	assert_int_equal(engine->geometry.size_bytes, 1 << 20);
	vublk_engine_close(engine);
}

/* --- the serial --------------------------------------------------------------------- */

static void get_serial(const char *path, const char *serial, char id[VUBLK_BLK_ID_BYTES + 1])
{
	const struct vublk_option options[] = {
		{ "blk-file", path }, { "num-queues", "4" }, { serial ? "serial" : NULL, serial },
		{ 0 },
	};
	struct backend_rig rig;

	rig_open(&rig, options);
	rig_start(&rig);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_GET_ID, 0, 0, VUBLK_BLK_ID_BYTES), 0);
	memcpy(id, rig_data(&rig, 0), VUBLK_BLK_ID_BYTES);
	id[VUBLK_BLK_ID_BYTES] = '\0';
	rig_close(&rig);
}

/* By default, each image has a serial of its own, which survives a rename. */
static void test_serial(void **state)
{
	char first[128], second[128], moved[128];
	char a[VUBLK_BLK_ID_BYTES + 1], b[VUBLK_BLK_ID_BYTES + 1];

	make_image(first, sizeof(first), "first", 1 << 20);
	make_image(second, sizeof(second), "second", 1 << 20);
	get_serial(first, NULL, a);
	assert_int_equal(strlen(a), VUBLK_BLK_ID_BYTES);
	assert_int_equal(strspn(a, "vublk0123456789abcdef"), VUBLK_BLK_ID_BYTES);
	get_serial(first, "auto", b);
	assert_string_equal(a, b);
	get_serial(second, NULL, b);
	assert_string_not_equal(a, b);
	snprintf(moved, sizeof(moved), "%s/moved", vublk_test_folder());
	assert_int_equal(rename(first, moved), 0);
	get_serial(moved, NULL, b);
	assert_string_equal(a, b);
	get_serial(moved, "mine", b);
	assert_string_equal(b, "mine");
}

/* --- queues that are not used ---------------------------------------------------------- */

static unsigned long resident_kib(void)
{
	FILE *file = fopen("/proc/self/status", "re");
	unsigned long kib = 0;
	char line[256];

	assert_non_null(file);
	while (!kib && fgets(line, sizeof(line), file))
		sscanf(line, "RssAnon: %lu", &kib);
	fclose(file);
	assert_true(kib);
	return kib;
}

/* The default is the largest number of queues, because an unused queue needs hardly any memory. */
static void test_unused_queues(void **state)
{
	const struct vublk_option options[] = { { "engine", "memory" }, { "size", "8M" }, { 0 } };
	struct virtio_blk_config config;
	unsigned long before;
	struct backend_rig rig;

	mallopt(M_PERTURB, 0); /* otherwise meson's MALLOC_PERTURB_ writes to all memory that is
				  allocated */
	rig_open(&rig, options);
	rig_start(&rig);
	assert_int_equal(rig_get_u64(&rig, VUBLK_VU_GET_QUEUE_NUM), 256);
	rig_get_config(&rig, &config);
	assert_int_equal(config.num_queues, 256);
	before = resident_kib();
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_NUM, 255, RIG_SIZE), 0);
	assert_true(resident_kib() - before > 500);
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_NUM, 256, RIG_SIZE), 1);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), 0);
	rig_close(&rig);
}

/* Without protocol features a queue starts enabled, even if it is first used after SET_FEATURES. */
static void test_enabled_later(void **state)
{
	const struct vublk_option options[] = { { "engine", "memory" }, { "size", "8M" }, { 0 } };
	struct backend_rig rig;

	rig_open(&rig, options);
	rig_negotiate(&rig);
	assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SET_FEATURES, rig.features & ~VUBLK_BIT(30)), 0);
	assert_int_equal(rig_set_mem_table(&rig), 0);
	rig_make_ring(&rig, 3, RIG_SIZE, 0);
	assert_int_equal(rig_describe_queue(&rig, 3, 0), 0);
	assert_int_equal(rig_io(&rig, 3, VIRTIO_BLK_T_FLUSH, 0, 0, 0), 0);
	rig_close(&rig);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_io_sizes),
		VUBLK_TEST(test_seg_max_of_a_small_ring),
		VUBLK_TEST(test_seg_max),
		VUBLK_TEST(test_block_sizes),
		VUBLK_TEST(test_refused_block_sizes),
		VUBLK_TEST(test_block_size_of_a_new_size),
		VUBLK_TEST(test_serial),
		VUBLK_TEST(test_unused_queues),
		VUBLK_TEST(test_enabled_later),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
