/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The in-flight area: what it records while requests run, and how a back-end recovers from it
 * after its predecessor has died at any step that the specification lists.
 */
#include "backend-rig.h"

#include "util/fd.h"
#include "util/memfd.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define REQUESTS 3
#define SECTOR 40 /* all writes go here, so the content shows which write was executed last */

/* Opens a session, shares memory, and gets a new area. The case must then send SET_INFLIGHT_FD. */
static void open_with_area(struct backend_rig *rig, struct rig_area *area)
{
	rig_open_memory(rig);
	rig_negotiate(rig);
	assert_int_equal(rig_set_mem_table(rig), 0);
	rig_get_area(rig, area);
}

static void test_noted_and_cleared(void **state)
{
	struct rig_area area;
	struct backend_rig rig;

	open_with_area(&rig, &area);
	assert_int_equal(rig_set_area(&rig, &area), 0);
	rig_start_queue(&rig, 0, RIG_SIZE, 0);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 0, 0, 512), 0);
	assert_int_equal(rig_get_base(&rig, 0), 10);
	assert_int_equal(area.region->version, 1);
	assert_int_equal(area.region->desc_num, RIG_SIZE);
	assert_int_equal(area.region->features, 0);
	assert_int_equal(area.region->used_idx, 10);
	assert_int_equal(rig_count_inflight(&area, 0), 0);
	assert_int_equal(area.region->desc[area.region->last_batch_head].counter, 9);
	/* The queue continues where it stopped. */
	assert_int_equal(rig_tell_queue(&rig, 0, 10), 0);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 0, 0, 512), 0);
	rig_drop_area(&area);
	rig_close(&rig);
}

/* --- a predecessor that died ------------------------------------------------- */

/*
 * A scene: the driver has made three writes available, and the predecessor has died. `died` puts
 * the ring and the area into the state that the predecessor has left. `heads[i]` is the head of the
 * chain of write i.
 */
struct scene {
	const char *name;
	void (*died)(struct backend_rig *rig, struct vublk_inflight_split *region,
		     const uint16_t *heads);
	unsigned base;     /* the value of SET_VRING_BASE */
	unsigned executed; /* a bit mask of the writes that the next back-end must execute */
	unsigned last;     /* the write that it must execute last */
};

static void take(struct vublk_inflight_split *region, uint16_t head, uint64_t counter)
{
	region->desc[head].counter = counter;
	region->desc[head].inflight = 1;
}

static void push(struct backend_rig *rig, struct vublk_inflight_split *region, uint16_t head,
		 unsigned at)
{
	rig->queues[0].ring.used->ring[at].id = head;
	rig->queues[0].ring.used->ring[at].len = 1;
	region->desc[head].next = region->last_batch_head;
	region->last_batch_head = head;
}

static void before_all(struct backend_rig *rig, struct vublk_inflight_split *region,
		       const uint16_t *heads)
{
}

static void after_taking(struct backend_rig *rig, struct vublk_inflight_split *region,
			 const uint16_t *heads)
{
	for (unsigned i = 0; i < REQUESTS; i++)
		take(region, heads[i], 100 + i);
}

static void after_taking_in_other_order(struct backend_rig *rig,
					struct vublk_inflight_split *region, const uint16_t *heads)
{
	for (unsigned i = 0; i < REQUESTS; i++)
		take(region, heads[i], 100 - i);
}

static void after_taking_two(struct backend_rig *rig, struct vublk_inflight_split *region,
			     const uint16_t *heads)
{
	take(region, heads[0], 0);
	take(region, heads[1], 1);
}

static void after_pushing(struct backend_rig *rig, struct vublk_inflight_split *region,
			  const uint16_t *heads)
{
	after_taking(rig, region, heads);
	push(rig, region, heads[2], 0);
	push(rig, region, heads[1], 1);
}

static void after_publishing(struct backend_rig *rig, struct vublk_inflight_split *region,
			     const uint16_t *heads)
{
	after_pushing(rig, region, heads);
	rig->queues[0].ring.used->idx = 2;
}

static void after_clearing_one(struct backend_rig *rig, struct vublk_inflight_split *region,
			       const uint16_t *heads)
{
	after_publishing(rig, region, heads);
	region->desc[heads[2]].inflight = 0;
}

static void after_clearing_all(struct backend_rig *rig, struct vublk_inflight_split *region,
			       const uint16_t *heads)
{
	after_clearing_one(rig, region, heads);
	region->desc[heads[1]].inflight = 0;
}

static void after_everything(struct backend_rig *rig, struct vublk_inflight_split *region,
			     const uint16_t *heads)
{
	after_clearing_all(rig, region, heads);
	region->used_idx = 2;
}

static const struct scene scenes[] = {
	{ "before all", before_all, 0, 7, 2 },
	{ "after taking", after_taking, 0, 7, 2 },
	{ "after taking, base says so", after_taking, 3, 7, 2 },
	{ "after taking in another order", after_taking_in_other_order, 0, 7, 0 },
	{ "after taking two", after_taking_two, 0, 7, 2 },
	{ "after pushing", after_pushing, 0, 7, 2 },
	{ "after publishing", after_publishing, 2, 1, 0 },
	{ "after clearing one", after_clearing_one, 2, 1, 0 },
	{ "after clearing all", after_clearing_all, 2, 1, 0 },
	{ "after everything", after_everything, 2, 1, 0 },
};

static void prepare(struct backend_rig *rig, struct rig_area *area, const struct scene *scene)
{
	uint16_t heads[REQUESTS];

	for (uint16_t i = 0; i < REQUESTS; i++) {
		memset(rig_data(rig, 0) + i * 512, '0' + i, 512);
		rig_add(rig, 0, i, VIRTIO_BLK_T_OUT, SECTOR, i * 512u, 512);
	}
	vublk_driver_ring_publish(&rig->queues[0].driver);
	for (unsigned i = 0; i < REQUESTS; i++)
		heads[i] = rig->queues[0].ring.avail->ring[i];
	memset(area->region, 0, area->bytes);
	area->region->version = 1;
	area->region->desc_num = RIG_SIZE;
	scene->died(rig, area->region, heads);
}

static void check(struct backend_rig *rig, const struct rig_area *area, const struct scene *scene)
{
	unsigned executed = 0;

	for (unsigned i = 0; i < REQUESTS; i++)
		rig_take(rig, 0, NULL);
	for (uint16_t i = 0; i < REQUESTS; i++)
		executed |= (unsigned)(rig_status(rig, 0, i) == VIRTIO_BLK_S_OK) << i;
	if (executed != scene->executed)
		fail_msg("%s: executed 0x%x, not 0x%x", scene->name, executed, scene->executed);
	assert_int_equal(rig_io(rig, 0, VIRTIO_BLK_T_IN, SECTOR, 4096, 512), 0);
	if (rig_data(rig, 0)[4096] != '0' + (char)scene->last)
		fail_msg("%s: the last was '%c'", scene->name, rig_data(rig, 0)[4096]);
	assert_int_equal(rig_get_base(rig, 0), REQUESTS + 1);
	assert_int_equal(area->region->used_idx, REQUESTS + 1);
	assert_int_equal(rig_count_inflight(area, 0), 0);
	assert_false(vublk_driver_ring_has_completion(&rig->queues[0].driver));
}

static void test_died_at_each_step(void **state)
{
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(scenes); i++) {
		struct rig_area area;
		struct backend_rig rig;

		open_with_area(&rig, &area);
		rig_make_ring(&rig, 0, RIG_SIZE, 0);
		prepare(&rig, &area, &scenes[i]);
		assert_int_equal(rig_set_area(&rig, &area), 0);
		assert_int_equal(rig_tell_queue(&rig, 0, (uint16_t)scenes[i].base), 0);
		check(&rig, &area, &scenes[i]);
		rig_drop_area(&area);
		rig_close(&rig);
	}
}

/*
 * The predecessor has published all completions, but died before it updated the area. When the next
 * back-end starts the queue, it records in the area that no request is in flight.
 */
static void test_died_after_the_last(void **state)
{
	struct rig_area area;
	struct backend_rig rig;

	open_with_area(&rig, &area);
	rig_make_ring(&rig, 0, RIG_SIZE, 0);
	prepare(&rig, &area, &(struct scene){ .died = after_publishing });
	push(&rig, area.region, rig.queues[0].ring.avail->ring[0], 2);
	rig.queues[0].ring.used->idx = 3;
	assert_int_equal(rig_set_area(&rig, &area), 0);
	assert_int_equal(rig_tell_queue(&rig, 0, 3), 0);
	assert_int_equal(area.region->used_idx, 3);
	assert_int_equal(rig_count_inflight(&area, 0), 0);
	assert_int_equal(rig_get_base(&rig, 0), 3);
	rig_drop_area(&area);
	rig_close(&rig);
}

/* --- invalid areas ---------------------------------------- */

static void test_refused_areas(void **state)
{
	struct rig_area area;
	struct backend_rig rig;

	open_with_area(&rig, &area);
	assert_int_equal(rig_set_area_as(&rig, &area, area.bytes - 1, 0, RIG_QUEUES, RIG_SIZE), 1);
	assert_int_equal(rig_set_area_as(&rig, &area, UINT64_MAX, 64, RIG_QUEUES, RIG_SIZE), 1);
	assert_true(rig_log_has(&rig, "of its file, which has"));
	assert_int_equal(rig_set_area_as(&rig, &area, area.bytes, UINT64_MAX - 63, RIG_QUEUES,
					 RIG_SIZE), 1);
	assert_int_equal(rig_set_area_as(&rig, &area, area.bytes, 4, 1, RIG_SIZE), 1);
	assert_int_equal(rig_set_area_as(&rig, &area, area.bytes, 0, RIG_QUEUES + 1, 1), 1);
	assert_int_equal(rig_set_area_as(&rig, &area, area.bytes, 0, 0, RIG_SIZE), 1);
	assert_int_equal(rig_set_area_as(&rig, &area, area.bytes, 0, 1, 0), 1);
	assert_int_equal(rig_set_area_as(&rig, &area, area.bytes, 0, 1, 65535), 1);
	/* Accepted: an area that does not begin at the start of its file. */
	assert_int_equal(rig_set_area_as(&rig, &area, area.bytes - 64, 64, 1, RIG_SIZE), 0);
	/* Refused: the ring is larger than the area's regions, or the queue is not in the area. */
	assert_int_equal(rig_set_area_as(&rig, &area, area.bytes, 0, 1, 64), 0);
	rig_make_ring(&rig, 0, RIG_SIZE, 0);
	assert_int_equal(rig_tell_queue(&rig, 0, 0), 1);
	assert_true(rig_log_has(&rig, "the in-flight area, which is for 1 queue, numbered "
				       "from 0, of at most 64 entries"));
	rig_make_ring(&rig, 1, 64, 0);
	assert_int_equal(rig_tell_queue(&rig, 1, 0), 1);
	rig_drop_area(&area);
	rig_close(&rig);
}

static void test_scribbled_areas(void **state)
{
	struct rig_area area;
	struct backend_rig rig;

	open_with_area(&rig, &area);
	assert_int_equal(rig_set_area(&rig, &area), 0);
	/* Refused: the area belongs to another ring. */
	area.region->version = 1;
	area.region->used_idx = 1000;
	rig_make_ring(&rig, 0, RIG_SIZE, 0);
	assert_int_equal(rig_tell_queue(&rig, 0, 0), 1);
	assert_true(rig_log_has(&rig, "does not belong to this ring"));
	/* Refused: a list that leads out of the area. */
	area.region->used_idx = 0;
	area.region->last_batch_head = RIG_SIZE;
	rig.queues[0].ring.used->idx = 5;
	assert_int_equal(rig_tell_queue(&rig, 0, 5), 1);
	assert_true(rig_log_has(&rig, "last batch in the in-flight area names entry 128"));
	/*
	 * A circular list must not hang the back-end. The area is refused, because it marks chains
	 * as in flight that the driver did not make available.
	 */
	area.region->last_batch_head = 7;
	area.region->desc[7].next = 7;
	for (unsigned i = 0; i < RIG_SIZE; i++)
		area.region->desc[i].inflight = 0xff;
	assert_int_equal(rig_tell_queue(&rig, 0, 5), 1);
	assert_true(rig_log_has(&rig, "does not belong to this ring"));
	rig_drop_area(&area);
	rig_close(&rig);
}

/* --- an area of another ring ---------------------------------------------------- */

/*
 * The history of a ring whose indices start at `first`. The driver has made the chains in
 * `available` available, and the device has completed those in `completed`, in the order of the
 * letters.
 */
struct history {
	const char *name;
	uint16_t first;
	const char *available, *completed; /* each letter is a chain */
	const char *in_flight;             /* the chains in flight according to the area */
	const char *refused;               /* words of the error; NULL: the area is accepted */
};

#define SIXTEEN_TIMES_A "aaaaaaaaaaaaaaaa"
#define ALL_THE_SAME                                                                           \
	SIXTEEN_TIMES_A SIXTEEN_TIMES_A SIXTEEN_TIMES_A SIXTEEN_TIMES_A SIXTEEN_TIMES_A         \
	SIXTEEN_TIMES_A SIXTEEN_TIMES_A SIXTEEN_TIMES_A

_Static_assert(sizeof(ALL_THE_SAME) - 1 == RIG_SIZE, "it fills the ring");

static const struct history histories[] = {
	{ "nothing available", 0, "", "", "b",
	  "marks 1 request as in flight, but the ring's indexes leave 0 of" },
	{ "all are completed", 0, "abc", "abc", "b",
	  "marks 1 request as in flight, but the ring's indexes leave 0 of" },
	{ "more than outstanding", 0, "abc", "ab", "cd", "marks 2 requests as in flight" },
	{ "never available", 0, "ab", "a", "z", "never made available" },
	{ "prepared again", 0, "abc", "ab", "a", "has completed since" },
	{ "prepared again, out of order", 0, "abc", "ba", "b", "has completed since" },
	{ "not taken yet", 0, "abc", "a", "c", "cannot have taken this entry" },
	{ "prepared again, in a long run", 1000, "abc", "ab", "b", "has completed since" },
	{ "not taken yet, in a long run", 1000, "abc", "a", "c", "cannot have taken this entry" },
	{ "all are outstanding", 0, "abc", "", "abc", NULL },
	{ "the first is", 0, "abc", "cb", "a", NULL },
	{ "two of them were taken", 0, "abcd", "b", "ac", NULL },
	{ "made available again", 0, "abab", "ba", "ba", NULL },
	{ "over the end", 65534, "abcd", "dc", "ab", NULL },
	{ "one chain fills the ring", 0, ALL_THE_SAME, "", "bcd",
	  "does not mark entry 0 as in flight" },
	{ "it is among them", 0, ALL_THE_SAME, "", "abc", "cannot have taken this entry" },
	{ "another was taken", 1000, "abcd", "b", "ad", "cannot have taken this entry" },
	{ "another was taken, and made available before", 1000, "adbce", "d", "ad", "does not mark" },
	{ "over the end, not taken yet", 65534, "abcd", "b", "d", "cannot have taken this entry" },
};

static uint16_t head_of(char letter)
{
	return (uint16_t)(3 * (letter - 'a'));
}

static void set_history(struct backend_rig *rig, struct rig_area *area,
			const struct history *history)
{
	const struct vublk_split_ring *ring = &rig->queues[0].ring;
	size_t num_available = strlen(history->available);
	size_t num_completed = strlen(history->completed);

	for (unsigned i = 0; history->first && i < RIG_SIZE; i++) {
		/* The ring has wrapped before, so its older entries name another chain. */
		ring->avail->ring[i] = RIG_SIZE - 1;
		ring->used->ring[i].id = RIG_SIZE - 1;
		ring->used->ring[i].len = 1;
	}
	for (size_t i = 0; i < num_available; i++)
		ring->avail->ring[(history->first + i) % RIG_SIZE] = head_of(history->available[i]);
	for (size_t i = 0; i < num_completed; i++) {
		ring->used->ring[(history->first + i) % RIG_SIZE].id =
			head_of(history->completed[i]);
		ring->used->ring[(history->first + i) % RIG_SIZE].len = 1;
	}
	ring->avail->idx = (uint16_t)(history->first + num_available);
	ring->used->idx = (uint16_t)(history->first + num_completed);
	memset(area->region, 0, area->bytes);
	area->region->version = 1;
	area->region->desc_num = RIG_SIZE;
	area->region->used_idx = ring->used->idx;
	for (unsigned i = 0; history->in_flight[i]; i++)
		take(area->region, head_of(history->in_flight[i]), i);
}

/*
 * Checks that the back-end accepts or refuses the area as `history` says. The descriptors are
 * invalid, so a chain that the back-end takes completes with an error.
 */
static void check_history(const struct history *history)
{
	struct rig_area area;
	struct backend_rig rig;
	uint64_t r;

	open_with_area(&rig, &area);
	rig_make_ring(&rig, 0, RIG_SIZE, 0);
	set_history(&rig, &area, history);
	assert_int_equal(rig_set_area(&rig, &area), 0);
	r = rig_tell_queue(&rig, 0, rig.queues[0].ring.used->idx);
	if (r != !!history->refused)
		fail_msg("%s: %s", history->name, r ? rig.log.last : "it was taken");
	if (history->refused && !rig_log_has(&rig, history->refused))
		fail_msg("%s", history->name);
	if (history->refused)
		assert_int_equal(rig.queues[0].ring.used->idx,
				 (uint16_t)(history->first + strlen(history->completed)));
	rig_drop_area(&area);
	rig_close(&rig);
}

static void test_area_of_another_ring(void **state)
{
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(histories); i++)
		check_history(&histories[i]);
}

/*
 * A request takes so long that later requests have overwritten its entry in the avail ring. The
 * back-end accepts such an area. It refuses the area if the ring has never wrapped, because then
 * the request was never made available.
 */
static void test_entry_overwritten(void **state)
{
	const struct history one = { "one", 999, "cb", "b", "a", NULL };
	const struct history fresh = { "fresh", 0, "b", "", "a", "never made available" };

	check_history(&one);
	check_history(&fresh);
}

/* Waits until the back-end has closed the descriptors of the last message. */
static void finish_last_message(struct backend_rig *rig)
{
	rig_get_u64(rig, VUBLK_VU_GET_FEATURES);
}

static void test_asked_again_and_again(void **state)
{
	unsigned fds = 0, mappings = 0;
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_negotiate(&rig);
	for (unsigned i = 0; i < 500; i++) {
		struct rig_area area;

		rig_get_area(&rig, &area);
		assert_int_equal(rig_set_area(&rig, &area), 0);
		rig_drop_area(&area);
		/* The answer shows that the back-end has finished the previous message. */
		rig_get_u64(&rig, VUBLK_VU_GET_STATUS);
		if (!i) {
			finish_last_message(&rig);
			fds = vublk_test_count_fds();
			mappings = vublk_test_count_mappings();
		}
	}
	finish_last_message(&rig);
	assert_int_equal(vublk_test_count_fds(), fds);
	assert_int_equal(vublk_test_count_mappings(), mappings);
	rig_close(&rig);
}

/* A front-end can neither get nor set an area if the back-end does not offer the feature. */
static void test_not_offered(void **state)
{
	const struct vublk_option options[] = {
		{ "engine", "memory" }, { "size", "8M" }, { "num-queues", "4" },
		{ "inflight", "off" }, { 0 },
	};
	struct vublk_vu_message message;
	struct backend_rig rig;

	rig_open(&rig, options);
	rig_start(&rig);
	assert_false(rig.protocol_features & (VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD) |
					      VUBLK_BIT(VUBLK_VU_F_GET_VRING_BASE_INFLIGHT)));
	assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SET_PROTOCOL_FEATURES,
				     rig.protocol_features |
				     VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD)), 1);
	assert_true(rig_log_has(&rig, "which were not offered"));
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 0, 0, 512), VIRTIO_BLK_S_OK);
	vublk_vu_message_init(&message, VUBLK_VU_GET_INFLIGHT_FD);
	message.payload.inflight.num_queues = RIG_QUEUES;
	message.payload.inflight.queue_size = RIG_SIZE;
	message.header.size = sizeof(message.payload.inflight);
	rig_send(&rig, &message);
	rig_close_expecting_end(&rig);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_noted_and_cleared),
		VUBLK_TEST(test_not_offered),
		VUBLK_TEST(test_died_at_each_step),
		VUBLK_TEST(test_died_after_the_last),
		VUBLK_TEST(test_refused_areas),
		VUBLK_TEST(test_scribbled_areas),
		VUBLK_TEST(test_area_of_another_ring),
		VUBLK_TEST(test_entry_overwritten),
		VUBLK_TEST(test_asked_again_and_again),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
