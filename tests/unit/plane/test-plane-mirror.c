/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A mirror under a constant load: when its first pass ends, how far the target may be behind, and
 * what happens before a switch. Also the marks of a write that does not end.
 * test-plane-mirror-random.c checks the data.
 *
 * Key idea: in each round, both back-ends execute all requests that they have, so the number of
 * rounds says how much work there was.
 */
#include "harness.h"
#include "plane-rig.h"

#include "plane/mirror-state.h"
#include "util/checked.h"
#include "virtio/blk-format.h"

#include <stdio.h>
#include <string.h>

#define REGION_SECTORS 8
#define NUM_REGIONS (RIG_SECTORS / REGION_SECTORS)
#define DISK_BYTES (RIG_SECTORS * VUBLK_SECTOR_BYTES)
#define FEATURES VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC)

static struct plane_rig rig;
static uint64_t source[RIG_SECTORS], target[RIG_SECTORS]; /* the first word of each sector */
static unsigned num_discards; /* discards that the driver has submitted */
static unsigned num_at_source, num_reads; /* discards and reads that the source has executed */

/* A write to STUCK_SECTOR, which the target has taken and does not complete. */
#define STUCK_SECTOR 1
static struct rig_chain stuck;
static bool is_stuck;
static uint64_t now_ns;

/* --- the driver ---------------------------------------------------------------------- */

/* Submits a request of one sector, if the token is free. */
static void submit(uint16_t token, uint32_t type, uint64_t sector)
{
	const struct rig_request request = { .type = type, .sector = sector, .num_sectors = 1 };
	struct virtio_blk_discard_write_zeroes *ranges =
		rig_host(&rig, rig_data(&rig, 0, token));

	if (rig.requests[0][token].is_used)
		return;
	assert_int_equal(rig_add(&rig, 0, token, &request), 0);
	if (type != VIRTIO_BLK_T_DISCARD)
		return;
	memset(ranges, 0, VUBLK_SECTOR_BYTES);
	ranges[0].sector = sector;
	ranges[0].num_sectors = 1;
	num_discards++;
}

/* Keeps as many discards outstanding as there are regions. */
static void submit_discards(void)
{
	for (uint16_t i = 0; i < NUM_REGIONS; i++)
		submit(i, VIRTIO_BLK_T_DISCARD, num_discards % NUM_REGIONS * REGION_SECTORS);
}

/* Submits a discard in each region. */
static void discard_everywhere(void)
{
	for (uint16_t i = 0; i < NUM_REGIONS; i++)
		submit(i, VIRTIO_BLK_T_DISCARD, i * REGION_SECTORS);
}

static void take(void)
{
	uint16_t token;
	uint32_t bytes;

	while (rig_take(&rig, 0, &token, &bytes))
		assert_int_equal(*(uint8_t *)rig_host(&rig, rig_status(&rig, 0, token)), 0);
}

/* --- the back-ends --------------------------------------------------------------------- */

static void discard(const struct rig_chain *chain, uint64_t *disk)
{
	const struct virtio_blk_discard_write_zeroes *range = chain->iov[1].iov_base;

	assert_ptr_equal(disk, source);
	for (unsigned i = 0; i < range->num_sectors; i++)
		disk[range->sector + i] = ++num_at_source;
}

static void execute(const struct rig_chain *chain, uint64_t *disk)
{
	uint64_t sector = chain->header.sector;

	if (chain->header.type == VIRTIO_BLK_T_DISCARD) {
		discard(chain, disk);
		return;
	}
	num_reads += chain->header.type == VIRTIO_BLK_T_IN;
	for (unsigned i = 1; i + 1 < chain->chain.num_out + chain->chain.num_in; i++) {
		for (size_t at = 0; at < chain->iov[i].iov_len; at += VUBLK_SECTOR_BYTES) {
			uint64_t *data = (uint64_t *)((char *)chain->iov[i].iov_base + at);

			if (chain->header.type == VIRTIO_BLK_T_IN)
				*data = disk[sector++];
			else
				disk[sector++] = *data;
		}
	}
}

static void work_at_source(void)
{
	struct rig_chain chain;

	while (rig_backend_take(&rig, 0, &chain)) {
		execute(&chain, source);
		rig_backend_push(&rig, 0, &chain, VIRTIO_BLK_S_OK);
	}
	rig_backend_publish(&rig, 0);
}

static void work_at_target(void)
{
	struct rig_chain chain;

	while (rig_target_take(&rig, 0, &chain)) {
		execute(&chain, target);
		if (is_stuck && !stuck.status && chain.header.sector == STUCK_SECTOR) {
			stuck = chain;
			continue;
		}
		rig_target_push(&rig, 0, &chain, VIRTIO_BLK_S_OK);
	}
	rig_target_publish(&rig, 0);
}

static void work(void)
{
	while (vublk_plane_work(&rig.plane))
		;
	take();
}

static void round_of_all(void)
{
	work();
	work_at_source();
	work();
	work_at_target();
	work();
}

/* --- the cases ------------------------------------------------------------------------ */

static void begin(void)
{
	rig_init(&rig, 1, 32, 0, FEATURES);
	for (unsigned i = 0; i < RIG_SECTORS; i++) {
		source[i] = i;
		target[i] = 0;
	}
	num_discards = num_at_source = num_reads = 0;
	rig_connect(&rig);
	assert_int_equal(rig_mirror(&rig, DISK_BYTES, REGION_SECTORS * VUBLK_SECTOR_BYTES, 32, 0), 0);
}

static struct vublk_plane_mirror_info get_info(void)
{
	struct vublk_plane_mirror_info info;

	vublk_plane_mirror_get_info(&rig.plane, &info);
	return info;
}

/* The first pass ends, although there is a discard in each region all the time. */
static void test_synced_under_discards(void **state)
{
	begin();
	for (unsigned i = 0; i < 100; i++) {
		submit_discards();
		round_of_all();
		if (i >= 50)
			assert_int_equal(get_info().synced_bytes, DISK_BYTES);
	}
	assert_int_equal(rig.mirror_synced, 1);
	rig_deinit(&rig);
}

/* Before a switch, the target gets what it lacks, although the plane takes no new requests. */
static void test_catch_up(void **state)
{
	begin();
	for (unsigned i = 0; i < 100; i++) {
		submit_discards();
		round_of_all();
	}
	submit_discards();
	work();
	vublk_plane_mirror_catch_up(&rig.plane, true);
	vublk_plane_stop(&rig.plane);
	for (unsigned i = 0; i < 50 && !vublk_plane_is_settled(&rig.plane); i++)
		round_of_all();
	assert_true(vublk_plane_is_settled(&rig.plane));
	assert_int_equal(rig.outstanding, 0);
	assert_int_equal(get_info().behind_bytes, 0);
	assert_memory_equal(source, target, sizeof(source));
	rig_deinit(&rig);
}

/* While the target is far behind, discards wait, and other requests do not. */
static void test_far_behind(void **state)
{
	begin();
	for (unsigned i = 0; i < 50; i++)
		round_of_all();
	assert_int_equal(get_info().synced_bytes, DISK_BYTES);
	rig.plane.mirror->max_behind = 2;
	num_reads = 0;
	discard_everywhere();
	submit(NUM_REGIONS, VIRTIO_BLK_T_IN, 1);
	for (unsigned i = 0; i < 20; i++) {
		work();
		work_at_source();
	}
	assert_int_equal(num_at_source, 2);
	assert_false(rig.requests[0][NUM_REGIONS].is_used);
	assert_int_equal(get_info().behind_bytes, 2 * REGION_SECTORS * VUBLK_SECTOR_BYTES);
	assert_int_equal(get_info().synced_bytes, DISK_BYTES);
	for (unsigned i = 0; i < 50; i++)
		round_of_all();
	assert_int_equal(num_at_source, NUM_REGIONS);
	assert_int_equal(rig.outstanding, 0);
	assert_int_equal(get_info().behind_bytes, 0);
	rig_deinit(&rig);
}

/* A drain does not wait for copies. The waiting discards go to the source. */
static void test_drain_far_behind(void **state)
{
	begin();
	for (unsigned i = 0; i < 50; i++)
		round_of_all();
	rig.plane.mirror->max_behind = 2;
	discard_everywhere();
	for (unsigned i = 0; i < 20; i++) {
		work();
		work_at_source();
	}
	assert_int_equal(num_at_source, 2);
	vublk_plane_stop(&rig.plane);
	for (unsigned i = 0; i < 20; i++) {
		work();
		work_at_source();
	}
	assert_int_equal(num_at_source, NUM_REGIONS);
	assert_int_equal(rig.outstanding, 0);
	rig_deinit(&rig);
}

/* --- marks ----------------------------------------------------------------------------- */

static uint64_t get_now(void)
{
	return now_ns;
}

static struct vublk_mirror_state *open_file(void)
{
	struct vublk_mirror_state_disk disks[2];
	struct vublk_mirror_state *state;
	char path[200];
	bool resumed;

	snprintf(path, sizeof(path), "%s/state", vublk_test_folder());
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(vublk_mirror_state_disk_init(&disks[i], i ? "/b" : "/a", NULL,
							      DISK_BYTES, NULL), 0);
	assert_int_equal(vublk_mirror_state_open(path, &state, NULL), 0);
	assert_int_equal(vublk_mirror_state_begin(state, &disks[0], &disks[1],
						  REGION_SECTORS * VUBLK_SECTOR_BYTES, &resumed,
						  NULL), 0);
	return state;
}

static void begin_with_file(struct vublk_mirror_state *state)
{
	rig_init(&rig, 1, 32, 0, FEATURES);
	rig.plane.now_ns = get_now;
	rig.mirror_state = state;
	rig_connect(&rig);
	assert_int_equal(rig_mirror(&rig, DISK_BYTES, REGION_SECTORS * VUBLK_SECTOR_BYTES, 32, 0), 0);
}

/* Lets some seconds pass, with a sync of the file in each second. */
static void let_marks_age(struct vublk_mirror_state *state)
{
	for (unsigned i = 0; i < 10; i++) {
		now_ns += UINT64_C(1000000000);
		round_of_all();
		assert_int_equal(vublk_mirror_state_sync(state, NULL), 0);
		round_of_all();
	}
}

/*
 * Two writes to one region, one of which does not end. The region keeps its mark, although the
 * completion of the other write made the mark a candidate for removal.
 */
static void test_mark_of_stuck_write(void **unused)
{
	struct vublk_mirror_state *state = open_file();

	begin_with_file(state);
	let_marks_age(state);
	assert_int_equal(vublk_mirror_state_num_marked(state), 0);
	is_stuck = true;
	stuck.status = NULL;
	submit(0, VIRTIO_BLK_T_OUT, STUCK_SECTOR);
	submit(1, VIRTIO_BLK_T_OUT, STUCK_SECTOR + 1);
	submit(2, VIRTIO_BLK_T_OUT, REGION_SECTORS);
	let_marks_age(state);
	assert_non_null(stuck.status);
	assert_int_equal(rig.outstanding, 1);
	assert_true(vublk_mirror_state_is_marked(state, 0));
	assert_int_equal(vublk_mirror_state_num_marked(state), 1);
	rig_target_push(&rig, 0, &stuck, VIRTIO_BLK_S_OK);
	let_marks_age(state);
	assert_int_equal(rig.outstanding, 0);
	assert_int_equal(vublk_mirror_state_num_marked(state), 0);
	rig_deinit(&rig);
	vublk_mirror_state_close(state);
	is_stuck = false;
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_synced_under_discards),
		VUBLK_TEST(test_catch_up),
		VUBLK_TEST(test_far_behind),
		VUBLK_TEST(test_drain_far_behind),
		VUBLK_TEST(test_mark_of_stuck_write),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
