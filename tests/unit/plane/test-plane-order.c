/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The order of writes to the same place: which writes a write waits for, and how many steps it
 * takes to find them. The model searches all writes, so it also shows that the filter of order.h
 * misses no overlap.
 */
#include "harness.h"

#include "plane/order.h"
#include "util/checked.h"

#include <stdlib.h>
#include <string.h>

#define MANY 65536 /* 64 queues of 1024 entries */
#define BLOCK UINT64_C(4096)
/* Steps per write: a search in a list of 2 * MANY pieces, and a few changes of the list. */
#define FEW 60

static struct vublk_order order;

static struct vublk_order_write *make(unsigned count)
{
	assert_int_equal(vublk_order_init(&order, count, NULL), 0);
	return calloc(count, sizeof(struct vublk_order_write));
}

/* Checks that no write has left a trace. */
static void check_empty(void)
{
	assert_null(order.head.next[0]);
	assert_null(order.first_listed);
	assert_int_equal(order.num_listed, 0);
	assert_int_equal(order.filter.num_wide, 0);
	for (unsigned i = 0; i < VUBLK_BLK_OVERLAP_BUCKETS; i++)
		assert_int_equal(order.filter.narrow[i], 0);
}

static void drop(struct vublk_order_write *writes)
{
	check_empty();
	vublk_order_deinit(&order);
	free(writes);
}

/* --- bounded work ------------------------------------------------------------------ */

static void test_same_place(void **state)
{
	struct vublk_order_write *writes = make(MANY);

	for (unsigned i = 0; i < MANY; i++) {
		vublk_order_begin(&order, &writes[i], 0, BLOCK);
		assert_int_equal(writes[i].num_blockers, i > 0);
	}
	for (unsigned i = 0; i < MANY; i++) {
		struct vublk_order_write *free = vublk_order_end(&order, &writes[i]);

		assert_ptr_equal(free, i + 1 < MANY ? &writes[i + 1] : NULL);
		assert_true(!free || !free->next_free);
	}
	assert_true(order.steps < MANY * FEW);
	drop(writes);
}

/* Each write overlaps the one before it. */
static void test_staircase(void **state)
{
	struct vublk_order_write *writes = make(MANY);

	for (unsigned i = 0; i < MANY; i++)
		vublk_order_begin(&order, &writes[i], i * BLOCK, 2 * BLOCK);
	for (unsigned i = 0; i < MANY; i++)
		assert_ptr_equal(vublk_order_end(&order, &writes[i]),
				 i + 1 < MANY ? &writes[i + 1] : NULL);
	assert_true(order.steps < MANY * FEW);
	drop(writes);
}

/* Many small writes, and then as many large ones that each cover all small ones. */
static void test_large_over_small(void **state)
{
	struct vublk_order_write *writes = make(MANY);
	unsigned small = MANY / 2;

	for (unsigned i = 0; i < small; i++)
		vublk_order_begin(&order, &writes[i], i * BLOCK, BLOCK);
	for (unsigned i = small; i < MANY; i++)
		vublk_order_begin(&order, &writes[i], 0, small * BLOCK);
	for (unsigned i = 0; i < MANY; i++) {
		assert_int_equal(writes[i].num_blockers, 0);
		vublk_order_end(&order, &writes[i]);
	}
	assert_true(order.steps < MANY * FEW);
	drop(writes);
}

/* Writes to different places. They end in a different order from the one in which they began. */
static void test_scattered(void **state)
{
	struct vublk_order_write *writes = make(MANY);

	for (unsigned i = 0; i < MANY; i++) {
		vublk_order_begin(&order, &writes[i], i * 40503u % MANY * BLOCK, BLOCK);
		assert_int_equal(writes[i].num_blockers, 0);
	}
	for (unsigned i = 0; i < MANY; i++)
		assert_null(vublk_order_end(&order, &writes[i * 48271u % MANY]));
	assert_true(order.steps < MANY * FEW);
	drop(writes);
}

/*
 * While a wide write is outstanding, the filter excludes no overlap, so each new write needs a
 * search of the list. The bound includes these searches.
 */
static void test_wide_write(void **state)
{
	struct vublk_order_write *writes = make(MANY);

	for (unsigned i = 0; i < MANY; i++)
		vublk_order_begin(&order, &writes[i], i * BLOCK, i % 512 ? BLOCK : 64 * BLOCK);
	for (unsigned i = 0; i < MANY; i++) {
		assert_int_equal(writes[i].num_blockers, 0);
		vublk_order_end(&order, &writes[i]);
	}
	assert_true(order.steps < MANY * FEW);
	drop(writes);
}

/* --- against a model ----------------------------------------------------------------- */

#define COUNT 48
#define PLACES 40

static struct model {
	struct vublk_order_write write;
	uint64_t begun; /* 0: the slot has no write */
	uint64_t offset, bytes;
} models[COUNT];

static uint64_t seed, now;

static unsigned below(unsigned bound)
{
	seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (unsigned)(seed >> 33) % bound;
}

static bool must_wait(const struct model *model)
{
	for (unsigned i = 0; i < COUNT; i++)
		if (models[i].begun && models[i].begun < model->begun &&
		    vublk_ranges_overlap(models[i].offset, models[i].bytes, model->offset,
					 model->bytes))
			return true;
	return false;
}

static void check(void)
{
	uint64_t end = 0;

	for (unsigned i = 0; i < COUNT; i++)
		if (models[i].begun)
			assert_int_equal(must_wait(&models[i]), models[i].write.num_blockers > 0);
	for (struct vublk_order_piece *piece = order.head.next[0]; piece; piece = piece->next[0]) {
		assert_true(piece->start >= end && piece->start < piece->end);
		end = piece->end;
	}
	assert_true(order.used_pieces <= 2 * COUNT);
	assert_true(order.used_waiters <= 4 * COUNT);
}

/* Chooses a place near the start of the disk, so that most writes overlap another one. */
static void choose_dense(struct model *model)
{
	model->offset = below(PLACES);
	model->bytes = below(8) ? below(4) : below(PLACES);
}

#define UNIT (UINT64_C(1) << VUBLK_BLK_OVERLAP_SHIFT)
#define ROUND (UNIT * VUBLK_BLK_OVERLAP_BUCKETS) /* places at this distance share a bucket */
#define LAST_BYTE (UINT64_C(1) << 63)            /* no disk is larger */

/*
 * The place of a request with many ranges extends from the start of the lowest range to the end of
 * the highest.
 */
static void choose_ranges(struct model *model)
{
	uint64_t start = UINT64_MAX, end = 0;

	for (unsigned i = 1 + below(256); i; i--) {
		uint64_t first = below(4) * ROUND + below(64) * UNIT;

		start = VUBLK_MIN(start, first);
		end = VUBLK_MAX(end, first + 512 * (1 + below(64)));
	}
	model->offset = start;
	model->bytes = end - start;
}

/*
 * Chooses a place of any size. Most places begin or end near the border of a unit of the filter.
 * Some are in another round of its buckets or at the end of the largest disk, or are the whole
 * disk.
 */
static void choose_scattered(struct model *model)
{
	uint64_t sizes[] = {
		1, 512, UNIT, 1 + below(2 * UNIT), UNIT * below(17),
		UNIT * VUBLK_BLK_OVERLAP_MAX_UNITS, UNIT * VUBLK_BLK_OVERLAP_MAX_UNITS + 1,
		ROUND, below(3) ? UNIT : LAST_BYTE,
	};
	uint64_t unit = below(1000) * UNIT + below(3) * ROUND;

	if (!below(200)) {
		choose_ranges(model);
		return;
	}
	model->bytes = sizes[below(below(200) ? 5 : VUBLK_ARRAY_SIZE(sizes))];
	model->offset = below(2) ? unit : unit + below(3) - (unit ? 1 : 0);
	if (!below(200))
		model->offset = LAST_BYTE - model->bytes;
	if (model->bytes > LAST_BYTE - model->offset)
		model->offset = 0;
}

static unsigned num_listed, num_waiting; /* how many writes were listed, and how many had to wait */

static void begin(struct model *model, void (*choose)(struct model *model))
{
	model->begun = ++now;
	choose(model);
	vublk_order_begin(&order, &model->write, model->offset, model->bytes);
	num_listed += model->write.state == VUBLK_ORDER_LISTED;
	num_waiting += model->write.num_blockers > 0;
}

/*
 * Ends a write. Checks that the writes that vublk_order_end() returns no longer have to wait, and
 * are in the order in which they began.
 */
static void end(struct model *model)
{
	uint64_t last = 0;

	model->begun = 0;
	for (struct vublk_order_write *write = vublk_order_end(&order, &model->write); write;
	     write = write->next_free) {
		struct model *next = vublk_container_of(write, struct model, write);

		assert_true(next->begun > last);
		assert_false(must_wait(next));
		last = next->begun;
	}
}

static void end_all(void)
{
	for (unsigned left = COUNT; left;) {
		left = 0;
		for (unsigned i = 0; i < COUNT; i++) {
			if (models[i].begun && !models[i].write.num_blockers)
				end(&models[i]);
			left += models[i].begun > 0;
		}
	}
}

static void run_model(void (*choose)(struct model *model), unsigned count)
{
	num_listed = num_waiting = 0;
	for (seed = 1; seed <= 5;) {
		uint64_t first = seed;

		assert_int_equal(vublk_order_init(&order, COUNT, NULL), 0);
		memset(models, 0, sizeof(models));
		for (unsigned i = 0; i < 20000; i++) {
			struct model *model = &models[below(count)];

			if (!model->begun)
				begin(model, choose);
			else if (!model->write.num_blockers)
				end(model);
			check();
		}
		end_all();
		check_empty();
		vublk_order_deinit(&order);
		seed = first + 1;
	}
}

static void test_model(void **state)
{
	run_model(choose_dense, COUNT);
	assert_true(num_waiting > 0);
}

/* Runs the model with few writes at the same time, and with many. */
static void test_model_of_the_filter(void **state)
{
	run_model(choose_scattered, 6);
	assert_true(num_listed > 10000 && num_waiting > 500);
	run_model(choose_scattered, COUNT);
	assert_true(num_listed > 10000 && num_waiting > 5000);
}

static void test_reset(void **state)
{
	struct vublk_order_write *writes = make(2);

	for (unsigned i = 0; i < 100; i++) {
		vublk_order_begin(&order, &writes[0], 0, 10);
		vublk_order_begin(&order, &writes[1], 5, 10);
		assert_int_equal(writes[1].num_blockers, 1);
		vublk_order_reset(&order);
		memset(writes, 0, 2 * sizeof(*writes));
		vublk_order_begin(&order, &writes[0], 5, 10);
		assert_int_equal(writes[0].num_blockers, 0);
		assert_null(vublk_order_end(&order, &writes[0]));
	}
	drop(writes);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_same_place),
		VUBLK_TEST(test_staircase),
		VUBLK_TEST(test_large_over_small),
		VUBLK_TEST(test_scattered),
		VUBLK_TEST(test_wide_write),
		VUBLK_TEST(test_model),
		VUBLK_TEST(test_model_of_the_filter),
		VUBLK_TEST(test_reset),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
