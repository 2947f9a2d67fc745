/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Random requests and random losses of the back-end, against a model of what a driver may see.
 *
 * The disk outlives the back-ends. A back-end executes its requests in any order, publishes some of
 * the completions, and is lost with the others. Each request completes exactly once, and a sector
 * never returns to the content of a write that a later write has replaced: write W may not be read
 * once another write, which was submitted after W had completed, has completed itself. Nor is a
 * write executed again when another one has replaced it.
 */
#include "harness.h"
#include "plane-rig.h"

#include "util/checked.h"
#include "virtio/blk-format.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_WRITES 20000
#define MAX_TAKEN 4096

/* What the test knows of a write; times are steps of the test. */
struct write {
	uint64_t submitted, completed; /* completed 0: outstanding */
	uint64_t sector;
	unsigned num_sectors;
	bool is_executed;
};

static struct plane_rig rig;
static uint64_t disk[RIG_SECTORS]; /* the number of the write that wrote the sector last */
static struct write writes[MAX_WRITES];
static uint64_t num_writes, now;
static struct rig_chain *taken[RIG_MAX_QUEUES][MAX_TAKEN];
static unsigned num_taken[RIG_MAX_QUEUES];
static uint64_t state;

static unsigned below(unsigned bound)
{
	state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (unsigned)(state >> 33) % bound;
}

/* --- the model ----------------------------------------------------------------- */

/* Whether a read that was submitted at `since` may see write `id` in this sector. */
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
		request.num_sectors = 1 + below(6);
		request.sector = below(RIG_SECTORS - 6);
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

/* A write may be executed again only if no other write has replaced it meanwhile. */
static void execute_sector(uint64_t sector, uint64_t id)
{
	if (writes[id].is_executed && disk[sector] != id)
		fail_msg("write %u is executed again in sector %u, over write %u", (unsigned)id,
			 (unsigned)sector, (unsigned)disk[sector]);
	disk[sector] = id;
}

static void execute(const struct rig_chain *chain)
{
	uint64_t sector = chain->header.sector;
	bool is_read = chain->header.type == VIRTIO_BLK_T_IN;

	if (chain->header.type == VIRTIO_BLK_T_FLUSH)
		return;
	for (unsigned i = 0; i < chain->chain.num_out + chain->chain.num_in; i++) {
		struct iovec iov = chain->iov[i];

		if (i == 0 || iov.iov_base == chain->status)
			continue;
		assert_int_equal(iov.iov_len, VUBLK_SECTOR_BYTES);
		if (is_read)
			memcpy(iov.iov_base, &disk[sector++], sizeof(disk[0]));
		else
			execute_sector(sector++, *(uint64_t *)iov.iov_base);
	}
	if (chain->header.type == VIRTIO_BLK_T_OUT)
		writes[disk[chain->header.sector]].is_executed = true;
}

/* Executes one request, and perhaps completes it. */
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

static void forget_taken(void)
{
	for (unsigned queue = 0; queue < rig.num_queues; queue++)
		while (num_taken[queue])
			free(taken[queue][--num_taken[queue]]);
}

/* --- the run ------------------------------------------------------------------------ */

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
		vublk_plane_work(&rig.plane);
		break;
	case 6:
		take(queue);
		break;
	}
}

static void maybe_lose(void)
{
	if (rig.side && !below(200)) {
		rig_lose(&rig);
		forget_taken();
	} else if (!rig.side && !below(20)) {
		rig_connect(&rig);
	}
}

static void run(uint64_t seed, unsigned num_queues, unsigned size, uint64_t features)
{
	state = seed;
	now = num_writes = 0;
	memset(disk, 0, sizeof(disk));
	rig_init(&rig, num_queues, size, (uint16_t)seed, features);
	for (unsigned i = 0; i < 30000; i++) {
		step(true);
		maybe_lose();
	}
	if (!rig.side)
		rig_connect(&rig);
	for (unsigned i = 0; i < 1000000 && rig.outstanding; i++)
		step(false);
	assert_int_equal(rig.outstanding, 0);
	assert_int_equal(vublk_plane_outstanding(&rig.plane), 0);
	assert_int_equal(rig.side_broke, 0);
	assert_int_equal(rig.queue_broke, 0);
	now++;
	for (unsigned i = 0; i < RIG_SECTORS; i++)
		check_sector(i, disk[i], now);
	forget_taken();
	rig_deinit(&rig);
}

static void test_indirect(void **unused)
{
	for (uint64_t seed = 1; seed <= 10; seed++)
		run(seed, 4, 64, VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC) |
		    VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX));
}

static void test_direct(void **unused)
{
	for (uint64_t seed = 1; seed <= 10; seed++)
		run(seed, 2, 32, 0);
}

static void test_small_ring(void **unused)
{
	for (uint64_t seed = 1; seed <= 10; seed++)
		run(seed, 1, 8, VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC));
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_indirect),
		VUBLK_TEST(test_direct),
		VUBLK_TEST(test_small_ring),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
