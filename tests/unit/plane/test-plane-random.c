/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Random requests and random losses of the back-end, checked by a model of what a driver may see.
 *
 * The disk outlives the back-ends. A back-end executes its requests in any order, and publishes
 * some of the completions. The others are lost with it. Each request completes exactly once. A
 * sector never returns to the content of a write that a later write has replaced: if write B was
 * submitted after write A had completed, A must not be read any more once B has completed. Nor is a
 * write executed again after another one has replaced it.
 *
 * In some runs the back-ends have a cache, which is lost with the back-end. In these runs the plane
 * keeps completed writes, and reads must follow the same rules.
 *
 * In some runs another plane takes over at random points. Some of these planes are discarded, and
 * then the old plane continues. The model's rules stay the same.
 *
 * The plane sleeps when it has no work. In runs without limits, it wakes up only if it is kicked or
 * called.
 */
#include "harness.h"
#include "plane-rig.h"

#include "util/checked.h"
#include "virtio/blk-format.h"

#include <vublk/limit.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_WRITES 20000
#define MAX_TAKEN 4096

/* A write, as the model knows it. A time is the number of a step of the test. */
struct write {
	uint64_t submitted, completed; /* completed 0: the write is outstanding */
	uint64_t sector;
	unsigned num_sectors;
	bool is_executed;
};

static struct plane_rig rig;
static uint64_t disk[RIG_SECTORS]; /* the number of the last write to each sector; 0: none */
static uint64_t stable[RIG_SECTORS]; /* the sectors on the storage behind the cache */
static bool has_cache;
static unsigned longest; /* the longest request, in sectors */
static struct write writes[MAX_WRITES];
static uint64_t num_writes, now;
static struct rig_chain *taken[RIG_MAX_QUEUES][MAX_TAKEN];
static unsigned num_taken[RIG_MAX_QUEUES];
static uint64_t state;
static bool sleeps;
static bool has_handovers, has_limits;
static unsigned num_handovers, num_outstanding;

static uint64_t clock_ns(void)
{
	return now * 10000;
}

static unsigned below(unsigned bound)
{
	state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (unsigned)(state >> 33) % bound;
}

/* --- the model ----------------------------------------------------------------- */

/*
 * Checks that a read that was submitted at `since` may return the content of write `id` in
 * `sector`. `id` 0: the initial content.
 */
static void check_sector(uint64_t sector, uint64_t id, uint64_t since)
{
	if (id)
		assert_true(id < num_writes + 1 && sector - writes[id].sector < writes[id].num_sectors);
	for (uint64_t i = 1; i <= num_writes; i++) {
		const struct write *other = &writes[i];

		if (i == id || sector - other->sector >= other->num_sectors || !other->completed ||
		    other->completed >= since)
			continue;
		if (!id || (writes[id].completed && other->submitted > writes[id].completed))
			fail_msg("sector %u has write %u again, which write %u had replaced",
				 (unsigned)sector, (unsigned)id, (unsigned)i);
	}
}

static void check_read(unsigned queue, uint16_t token, const struct rig_request *request)
{
	const uint64_t *data = rig_host(&rig, rig_data(&rig, queue, token));

	for (unsigned i = 0; i < request->num_sectors; i++)
		check_sector(request->sector + i, data[i * VUBLK_SECTOR_BYTES / sizeof(*data)],
			     request->submitted);
}

/* --- the driver ------------------------------------------------------------------- */

static void submit(unsigned queue)
{
	struct rig_request request = { .submitted = ++now };
	uint16_t token = (uint16_t)below(rig.size);

	if (rig.requests[queue][token].is_used || num_writes + 1 >= MAX_WRITES)
		return;
	request.type = below(10) ? below(2) ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN :
				   VIRTIO_BLK_T_FLUSH;
	if (request.type != VIRTIO_BLK_T_FLUSH) {
		request.num_sectors = 1 + below(longest);
		request.sector = below(RIG_SECTORS - longest);
	}
	request.id = num_writes + 1;
	if (rig_add(&rig, queue, token, &request) == -ENOSPC || request.type != VIRTIO_BLK_T_OUT)
		return;
	writes[++num_writes] = (struct write){ now, 0, request.sector, request.num_sectors,
					       false };
}

static void take(unsigned queue)
{
	uint16_t token;
	uint32_t bytes;

	while (rig_take(&rig, queue, &token, &bytes)) {
		const struct rig_request *request = &rig.requests[queue][token];
		uint8_t status = *(uint8_t *)rig_host(&rig, rig_status(&rig, queue, token));

		now++;
		assert_int_equal(status, VIRTIO_BLK_S_OK);
		assert_int_equal(bytes, request->type == VIRTIO_BLK_T_IN ?
				 request->num_sectors * VUBLK_SECTOR_BYTES + 1 : 1);
		if (request->type == VIRTIO_BLK_T_OUT)
			writes[request->id].completed = now;
		if (request->type == VIRTIO_BLK_T_IN)
			check_read(queue, token, request);
	}
}

/* --- the back-end ------------------------------------------------------------------ */

static void backend_take(unsigned queue)
{
	struct rig_chain *chain = malloc(sizeof(*chain));

	if (!rig_backend_take(&rig, queue, chain)) {
		free(chain);
		return;
	}
	assert_true(num_taken[queue] < MAX_TAKEN);
	taken[queue][num_taken[queue]++] = chain;
}

/*
 * Writes one sector. Without a cache, a write must not be executed again after another write has
 * replaced it. With a cache, a replay may do so, because it also executes the other write again.
 */
static void execute_sector(uint64_t sector, uint64_t id)
{
	if (!has_cache && writes[id].is_executed && disk[sector] != id)
		fail_msg("write %u is executed again in sector %u, over write %u", (unsigned)id,
			 (unsigned)sector, (unsigned)disk[sector]);
	disk[sector] = id;
}

static void execute(const struct rig_chain *chain)
{
	uint64_t sector = chain->header.sector;
	bool is_read = chain->header.type == VIRTIO_BLK_T_IN;

	if (chain->header.type == VIRTIO_BLK_T_FLUSH) {
		memcpy(stable, disk, sizeof(disk));
		return;
	}
	for (unsigned i = 0; i < chain->chain.num_out + chain->chain.num_in; i++) {
		struct iovec iov = chain->iov[i];

		if (i == 0 || iov.iov_base == chain->status)
			continue;
		assert_int_equal(iov.iov_len % VUBLK_SECTOR_BYTES, 0);
		for (size_t at = 0; at < iov.iov_len; at += VUBLK_SECTOR_BYTES) {
			uint64_t *data = (uint64_t *)((char *)iov.iov_base + at);

			if (is_read)
				*data = disk[sector++];
			else
				execute_sector(sector++, *data);
		}
	}
	if (chain->header.type == VIRTIO_BLK_T_OUT)
		writes[disk[chain->header.sector]].is_executed = true;
}

/* Executes one of the taken requests, and usually completes it. */
static void backend_execute(unsigned queue)
{
	unsigned i;

	if (!num_taken[queue])
		return;
	i = below(num_taken[queue]);
	execute(taken[queue][i]);
	if (!below(4))
		return;
	rig_backend_push(&rig, queue, taken[queue][i], VIRTIO_BLK_S_OK);
	free(taken[queue][i]);
	taken[queue][i] = taken[queue][--num_taken[queue]];
}

/* Loses a random part of the cache. The rest reaches the storage. */
static void lose_cache(void)
{
	for (unsigned i = 0; has_cache && i < RIG_SECTORS; i++)
		if (below(2))
			disk[i] = stable[i];
	memcpy(stable, disk, sizeof(disk));
}

static void forget_taken(void)
{
	for (unsigned queue = 0; queue < rig.num_queues; queue++)
		while (num_taken[queue])
			free(taken[queue][--num_taken[queue]]);
}

/* --- the run ------------------------------------------------------------------------ */

static void work(void)
{
	if (sleeps && !rig.is_notified && !has_limits)
		return;
	if (sleeps)
		vublk_plane_disable_notifications(&rig.plane);
	rig.is_notified = false;
	sleeps = !vublk_plane_work(&rig.plane) && vublk_plane_enable_notifications(&rig.plane);
}

static void step(bool submits)
{
	unsigned queue = below(rig.num_queues);

	switch (below(7)) {
	case 0:
	case 1:
		if (submits)
			submit(queue);
		break;
	case 2:
		if (rig.side)
			backend_take(queue);
		break;
	case 3:
		if (rig.side)
			backend_execute(queue);
		break;
	case 4:
		if (rig.side)
			rig_backend_publish(&rig, queue);
		break;
	case 5:
		work();
		break;
	case 6:
		take(queue);
		break;
	}
}

/*
 * Connects a back-end with rings of a random size of at least `least`, or, if `least` is 0, of the
 * size of the driver's rings.
 */
static void connect_any(unsigned least)
{
	rig.side_size = least ? least << below(6) : rig.size;
	rig_connect(&rig);
}

static void maybe_lose(unsigned least)
{
	if (rig.side && !below(200)) {
		rig_lose(&rig);
		forget_taken();
		lose_cache();
	} else if (!rig.side && !below(20)) {
		connect_any(least);
	}
}

/* Returns a checksum of the driver's rings and the start of the memory shared with the back-end. */
static uint64_t checksum(void)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < rig.num_queues * RIG_RING_BYTES / 8; i++)
		sum = sum * 31 + ((const uint64_t *)rig.region.host)[i];
	for (uint64_t i = 0; rig.side && i < rig.num_queues * UINT64_C(32768) / 8; i++)
		sum = sum * 31 + ((const uint64_t *)rig.side->region.host)[i];
	return sum;
}

/*
 * Hands the plane over, which must not change shared memory. One in four new planes is discarded
 * afterwards.
 */
static void hand_over(void)
{
	struct vublk_sections_writer given;
	struct rig_successor next;
	uint64_t before;

	if (vublk_plane_handover_obstacle(&rig.plane) || rig.num_old_sides == RIG_MAX_HANDOVERS)
		return;
	vublk_plane_publish(&rig.plane);
	before = checksum();
	num_outstanding += vublk_plane_outstanding(&rig.plane);
	rig_give(&rig, &given);
	if (rig_take_over(&rig, &given, &next) < 0)
		fail_msg("%s", next.error.text);
	vublk_sections_writer_deinit(&given);
	assert_true(checksum() == before);
	assert_int_equal(vublk_plane_outstanding(&next.plane), vublk_plane_outstanding(&rig.plane));
	assert_int_equal(next.plane.num_submitted, rig.plane.num_submitted);
	assert_int_equal(next.plane.limits.num_waiting, rig.plane.limits.num_waiting);
	if (!below(4)) {
		rig_discard(&rig, &next);
		return;
	}
	rig_install(&rig, &next);
	sleeps = false;
	num_handovers++;
}

/*
 * Stops the plane, as the device does before it returns the rings to the driver. Then drops the
 * cache, so the disk has only what was flushed. The caller must find all completed writes there.
 */
static void check_stop(void)
{
	vublk_plane_stop(&rig.plane);
	rig.is_notified = true;
	for (unsigned i = 0; i < 1000000 && !vublk_plane_is_settled(&rig.plane); i++)
		step(false);
	assert_true(vublk_plane_is_settled(&rig.plane));
	memcpy(disk, stable, sizeof(disk));
}

/*
 * Runs one random case, with back-end rings of at least `least` entries. `log_bytes` 0: the
 * back-ends have no cache.
 */
static void run_with_log(uint64_t seed, unsigned num_queues, unsigned size, unsigned least,
			 uint64_t features, uint64_t log_bytes)
{
	const struct vublk_limits limits = {
		.iops = 30000, .bps_write = 20000000, .burst_ms = 1,
	};

	state = seed;
	now = num_writes = 0;
	sleeps = false;
	memset(disk, 0, sizeof(disk));
	memset(stable, 0, sizeof(stable));
	has_cache = log_bytes;
	rig_init(&rig, num_queues, size, (uint16_t)seed, features);
	if (has_cache)
		rig_keep_writes(&rig, log_bytes);
	rig.plane.now_ns = clock_ns;
	if (has_limits)
		vublk_plane_set_limits(&rig.plane, &limits);
	for (unsigned i = 0; i < 30000; i++) {
		step(true);
		maybe_lose(least);
		if (has_handovers && !below(100))
			hand_over();
	}
	if (!rig.side)
		connect_any(least);
	for (unsigned i = 0; i < 1000000 && rig.outstanding; i++)
		step(false);
	assert_int_equal(rig.outstanding, 0);
	assert_int_equal(vublk_plane_outstanding(&rig.plane), 0);
	if (has_cache)
		check_stop();
	assert_int_equal(rig.side_broke, 0);
	assert_int_equal(rig.queue_broke, 0);
	now++;
	for (unsigned i = 0; i < RIG_SECTORS; i++)
		check_sector(i, disk[i], now);
	forget_taken();
	rig_deinit(&rig);
}

static void run(uint64_t seed, unsigned num_queues, unsigned size, unsigned least,
		uint64_t features)
{
	longest = 6;
	run_with_log(seed, num_queues, size, least, features, 0);
}

static void test_indirect(void **unused)
{
	for (uint64_t seed = 1; seed <= 10; seed++)
		run(seed, 4, 64, 0, VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC) |
		    VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX));
}

static void test_direct(void **unused)
{
	for (uint64_t seed = 1; seed <= 10; seed++)
		run(seed, 2, 32, 0, 0);
}

static void test_small_ring(void **unused)
{
	for (uint64_t seed = 1; seed <= 10; seed++)
		run(seed, 1, 8, 0, VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC));
}

/* --- rings of different size ----------------------------------------------------------- */

static void test_sizes_indirect(void **unused)
{
	for (uint64_t seed = 1; seed <= 20; seed++)
		run(seed, 1 + seed % 4, 8u << seed % 4, 2,
		    VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC) |
		    (seed % 2 ? VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX) : 0));
}

/*
 * Without indirect tables, each back-end's ring must have room for the longest request, which has 8
 * buffers.
 */
static void test_sizes_direct(void **unused)
{
	for (uint64_t seed = 1; seed <= 20; seed++)
		run(seed, 1 + seed % 4, 8u << seed % 4, 8,
		    seed % 2 ? VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX) : 0);
}

/* --- caches ----------------------------------------------------------------------------- */

#define CACHE_FEATURES (VUBLK_BIT(VIRTIO_BLK_F_FLUSH) | VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX))

static void test_cache(void **unused)
{
	longest = 6;
	for (uint64_t seed = 1; seed <= 10; seed++)
		run_with_log(seed, 1 + seed % 4, 64, 0,
			     CACHE_FEATURES | VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC), 65536);
}

/* The log has room for only one write, or not even for that. */
static void test_cache_and_a_small_log(void **unused)
{
	longest = 10;
	for (uint64_t seed = 1; seed <= 10; seed++)
		run_with_log(seed, 1 + seed % 4, 32, 0,
			     CACHE_FEATURES | VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC), 4096);
}

static void test_cache_and_small_rings(void **unused)
{
	longest = 6;
	for (uint64_t seed = 1; seed <= 10; seed++)
		run_with_log(seed, 1 + seed % 4, 16, 8, CACHE_FEATURES, 16384);
	for (uint64_t seed = 1; seed <= 10; seed++)
		run_with_log(seed, 1 + seed % 4, 16, 2,
			     CACHE_FEATURES | VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC), 16384);
}

/* --- handovers ------------------------------------------------------------------------------ */

static void run_with_handovers(uint64_t seed, uint64_t features, uint64_t log_bytes)
{
	has_handovers = true;
	has_limits = seed % 3 == 0;
	run_with_log(seed, 1 + seed % 4, 8u << seed % 4, seed % 2 ? 0 : 8, features, log_bytes);
	has_handovers = has_limits = false;
}

static void check_handovers(void)
{
	print_message("%u handovers, of %u requests\n", num_handovers, num_outstanding);
	assert_true(num_handovers > 100 && num_outstanding > num_handovers);
}

static void test_handover(void **unused)
{
	longest = 6;
	for (uint64_t seed = 1; seed <= 8; seed++)
		run_with_handovers(seed, (seed % 2 ? VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX) : 0) |
				   VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC), 0);
	check_handovers();
}

static void test_handover_direct(void **unused)
{
	longest = 6;
	for (uint64_t seed = 1; seed <= 8; seed++)
		run_with_handovers(seed, seed % 2 ? VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX) : 0, 0);
	check_handovers();
}

static void test_handover_with_cache(void **unused)
{
	longest = 6;
	for (uint64_t seed = 1; seed <= 8; seed++)
		run_with_handovers(seed, CACHE_FEATURES | VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC),
				   seed % 2 ? 4096 : 65536);
	check_handovers();
}

/*
 * Changes some bytes or fields of a state that was written at a random point of a run. Such a state
 * must either be refused with a sentence, or result in a plane that can work.
 */
static void corrupt(struct vublk_sections_writer *given)
{
	for (unsigned i = 1 + below(3); i--;) {
		size_t at = 32 + below((unsigned)given->num_bytes - 40);
		uint64_t value = below(2) ? below(8) : UINT64_MAX >> below(64);

		if (below(2))
			given->bytes[at] ^= (uint8_t)(1u << below(8));
		else
			memcpy(given->bytes + at / 8 * 8, &value, sizeof(value));
	}
}

/* Returns whether the corrupt state was refused. */
static bool take_corrupt(const struct vublk_sections_writer *given)
{
	struct rig_successor next;
	bool is_refused = rig_take_over(&rig, given, &next) < 0;

	if (is_refused) {
		assert_true(strlen(next.error.text) > 10);
	} else {
		for (unsigned i = 0; i < 20; i++)
			vublk_plane_work(&next.plane);
		vublk_plane_enable_notifications(&next.plane);
	}
	rig_discard(&rig, &next);
	return is_refused;
}

static void test_handover_corrupt(void **unused)
{
	unsigned refused = 0, accepted = 0;

	longest = 6;
	for (uint64_t seed = 1; seed <= 400; seed++) {
		bool caches = seed % 2;

		state = seed;
		now = num_writes = 0;
		memset(disk, 0, sizeof(disk));
		memset(stable, 0, sizeof(stable));
		has_cache = caches;
		has_limits = false;
		sleeps = false;
		rig_init(&rig, 2, 16, (uint16_t)seed, CACHE_FEATURES |
			 (seed % 4 < 2 ? VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC) : 0));
		if (caches)
			rig_keep_writes(&rig, 16384);
		rig_connect(&rig);
		for (unsigned i = 200 + below(200); i--;)
			step(true);
		if (!vublk_plane_handover_obstacle(&rig.plane)) {
			struct vublk_sections_writer given;

			rig_give(&rig, &given);
			corrupt(&given);
			*(take_corrupt(&given) ? &refused : &accepted) += 1;
			vublk_sections_writer_deinit(&given);
		}
		forget_taken();
		rig_deinit(&rig);
	}
	print_message("%u refused, %u accepted\n", refused, accepted);
	assert_true(refused > 50 && accepted > 10);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_indirect),
		VUBLK_TEST(test_direct),
		VUBLK_TEST(test_small_ring),
		VUBLK_TEST(test_sizes_indirect),
		VUBLK_TEST(test_sizes_direct),
		VUBLK_TEST(test_cache),
		VUBLK_TEST(test_cache_and_a_small_log),
		VUBLK_TEST(test_cache_and_small_rings),
		VUBLK_TEST(test_handover),
		VUBLK_TEST(test_handover_direct),
		VUBLK_TEST(test_handover_with_cache),
		VUBLK_TEST(test_handover_corrupt),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
