/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The records that a worker keeps in a ring's region of the in-flight area. test-backend-inflight.c
 * tests how a back-end recovers with these records.
 */
#include "harness.h"

#include "util/checked.h"
#include "worker/inflight.h"

#include <string.h>

#define SIZE 4u

/* A ring in which the driver has made heads 0 to 3 available, in this order. */
struct rig {
	uint16_t avail_words[2 + SIZE + 1];
	uint32_t used_words[1 + 2 * SIZE + 1];
	struct vublk_split_ring ring;
	struct vublk_inflight_queue queue;
	struct vublk_inflight_pending pending;
	uint16_t base;
};

static void begin_ring(struct rig *rig)
{
	memset(rig, 0, sizeof(*rig));
	rig->ring.avail = (void *)rig->avail_words;
	rig->ring.used = (void *)rig->used_words;
	for (uint16_t i = 0; i < SIZE; i++)
		rig->ring.avail->ring[i] = i;
	rig->ring.avail->idx = SIZE;
}

static void complete(struct rig *rig, uint16_t head)
{
	rig->ring.used->ring[rig->ring.used->idx % SIZE].id = head;
	rig->ring.used->idx++;
}

/* Starts the ring with this region, as a new process does after its predecessor has died. */
static void start(struct rig *rig, struct vublk_inflight_split *region)
{
	struct vublk_error error = { 0 };

	rig->base = 0;
	assert_int_equal(vublk_inflight_queue_begin(&rig->queue, region, SIZE, &rig->ring, SIZE,
						    rig->ring.used->idx, &rig->base, &rig->pending,
						    &error), 0);
}

static struct vublk_inflight_split *region_new(unsigned more_bytes)
{
	void *region = test_calloc(1, vublk_inflight_split_least_bytes(SIZE) + more_bytes);

	assert_non_null(region);
	return region;
}

static void test_repeats_what_is_not_complete(void **state)
{
	struct vublk_inflight_split *region = region_new(0);
	struct rig rig;

	begin_ring(&rig);
	start(&rig, region);
	assert_int_equal(rig.pending.count, 0);
	for (uint16_t head = 0; head < 3; head++)
		vublk_inflight_queue_take(&rig.queue, head);
	vublk_inflight_queue_push(&rig.queue, 1);
	complete(&rig, 1);
	vublk_inflight_queue_publish(&rig.queue, 1);

	start(&rig, region);
	assert_int_equal(rig.pending.count, 2);
	assert_int_equal(rig.pending.heads[0], 0);
	assert_int_equal(rig.pending.heads[1], 2);
	assert_int_equal(rig.base, 3);
	test_free(region);
}

/* The process has died after it published the used index and before it recorded that index. */
static void test_finishes_the_last_batch(void **state)
{
	struct vublk_inflight_split *region = region_new(0);
	struct rig rig;

	begin_ring(&rig);
	start(&rig, region);
	vublk_inflight_queue_take(&rig.queue, 0);
	vublk_inflight_queue_take(&rig.queue, 1);
	vublk_inflight_queue_push(&rig.queue, 0);
	complete(&rig, 0);

	start(&rig, region);
	assert_int_equal(rig.pending.count, 1);
	assert_int_equal(rig.pending.heads[0], 1);
	assert_int_equal(region->desc[0].inflight, 0);
	assert_int_equal(region->used_idx, 1);
	test_free(region);
}

/*
 * No byte after the region is written, because the next region may follow immediately, without
 * alignment.
 */
static void test_leaves_the_next_region_alone(void **state)
{
	uint64_t bytes = vublk_inflight_split_least_bytes(SIZE);
	struct vublk_inflight_split *region = region_new(VUBLK_INFLIGHT_ALIGN);
	uint8_t *next = (uint8_t *)region + bytes;
	struct rig rig;

	memset(next, 0xa5, VUBLK_INFLIGHT_ALIGN);
	begin_ring(&rig);
	start(&rig, region);
	assert_int_equal(region->version, VUBLK_INFLIGHT_VERSION);
	assert_int_equal(region->desc_num, SIZE);
	for (unsigned i = 0; i < VUBLK_INFLIGHT_ALIGN; i++)
		assert_int_equal(next[i], 0xa5);
	test_free(region);
}

static void test_without_a_region(void **state)
{
	struct rig rig;

	begin_ring(&rig);
	rig.pending.count = 1;
	start(&rig, NULL);
	vublk_inflight_queue_take(&rig.queue, 0);
	vublk_inflight_queue_push(&rig.queue, 0);
	vublk_inflight_queue_publish(&rig.queue, 1);
	assert_int_equal(rig.pending.count, 0);
	assert_int_equal(rig.queue.num_batch, 0);
	assert_int_equal(rig.base, 0);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_repeats_what_is_not_complete),
		VUBLK_TEST(test_finishes_the_last_batch),
		VUBLK_TEST(test_leaves_the_next_region_alone),
		VUBLK_TEST(test_without_a_region),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
