/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The block API's fast path (src/blk/plain.h) compared with the general path. Two runs execute the
 * same random requests, step by step, each on a disk of its own.
 *
 * Key idea: in one run, each read or write has one buffer, so it takes the fast path if possible.
 * In the other run, each has an iovec of one element, so it always takes the general path. After
 * each step the run copies to its trace all that either end of the ring can see (rings, tables,
 * headers, results, kicks), and all that a later recovery needs (slots, requests). The traces of
 * both runs must be equal.
 *
 * test-blk.c tests the effects of requests.
 */
#include "blk/queue.h" /* first, because its parameters would shadow the rig's globals */

#include "blk-rig.h"

#include "util/fd.h"
#include "util/memfd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifdef VUBLK_TSAN
#define STEPS 100 /* with the sanitizer, comparing the traces takes about ten times as long */
#else
#define STEPS 800
#endif
#define MEMORY_BYTES (256 * KIB) /* two adjacent regions; unregistered memory follows */
#define REGION_BYTES (MEMORY_BYTES / 2)
#define MAX_QUEUE 32
#define MAX_SHARED_BYTES (24 * KIB)
#define MAX_TAKEN 8

enum path { FAST, GENERAL };

/* The data that a recovery would need about a piece on the ring. */
struct piece {
	int request; /* -1: the slot is free, and the other members are 0 */
	int cursor_index;
	uint64_t sequence, offset, bytes, cursor_offset;
};

struct request {
	int state; /* VUBLK_BLK_REQUEST_FREE: the other members are 0 */
	int result;
	uint32_t type;
	unsigned pieces;
	uint64_t offset, left;
	void *user_data;
};

/* The test's record of one step. It is zeroed before it is filled, so that padding is equal. */
struct step {
	unsigned op;
	int result;
	char text[VUBLK_ERROR_TEXT_BYTES];
	int num_taken;
	int results[MAX_TAKEN];
	void *user_data[MAX_TAKEN];
	unsigned in_flight, kicks;
	bool unpublished;
	uint64_t covering_flush;
	unsigned num_wide;
	unsigned narrow_sum;
	struct piece pieces[MAX_QUEUE];
	struct request requests[MAX_QUEUE];
	size_t shared_bytes;
	char shared[MAX_SHARED_BYTES];
};

struct run {
	enum path path;
	unsigned seed;
	struct vublk_blk *blk;
	struct vublk_blk_queue *queue;
	bool has_backend;
	unsigned kicks_before; /* the device's count at the start, which includes earlier runs */
	struct iovec iovs[STEPS]; /* must exist until the completion */
	char ids[STEPS][VUBLK_BLK_ID_SIZE];
	unsigned num_fast; /* how many requests took the fast path */
	struct step *steps;
	char disk[DISK_BYTES];
	char memory[MEMORY_BYTES];
};

static char *memory; /* at the same address in both runs */
static int memory_fd = -1;

static unsigned pick(struct run *run, unsigned below)
{
	return (unsigned)rand_r(&run->seed) % below;
}

/* --- what a step leaves behind ------------------------------------------------------------ */

static void append(struct step *step, const volatile void *data, size_t bytes)
{
	assert_true(step->shared_bytes + bytes <= sizeof(step->shared));
	memcpy(step->shared + step->shared_bytes, (const void *)(uintptr_t)data, bytes);
	step->shared_bytes += bytes;
}

static void record_shared(const struct vublk_blk_queue *queue, struct step *step)
{
	const struct vublk_split_ring *ring = &queue->inproc->ring;

	append(step, ring->desc, vublk_split_desc_bytes(queue->size));
	append(step, ring->avail, vublk_split_avail_bytes(queue->size));
	append(step, ring->used, vublk_split_used_bytes(queue->size));
	append(step, queue->shared,
	       vublk_blk_queue_shared_bytes(queue->size, queue->has_indirect));
}

static void record_private(const struct vublk_blk_queue *queue, struct step *step)
{
	for (unsigned i = 0; i < queue->size; i++) {
		const struct vublk_blk_slot *slot = &queue->slots[i];
		const struct vublk_blk_request *request = &queue->requests[i];

		step->pieces[i].request = -1;
		if (slot->request)
			step->pieces[i] = (struct piece){
				(int)(slot->request - queue->requests), slot->cursor.index,
				slot->sequence, slot->offset, slot->bytes, slot->cursor.offset,
			};
		if (request->state != VUBLK_BLK_REQUEST_FREE)
			step->requests[i] = (struct request){
				(int)request->state, request->result, request->type,
				request->pieces, request->offset, request->left,
				request->user_data,
			};
	}
	for (unsigned i = 0; i < VUBLK_BLK_OVERLAP_BUCKETS; i++)
		step->narrow_sum += queue->overlap.narrow[i] * (i + 1);
	step->num_wide = queue->overlap.num_wide;
	step->covering_flush = queue->covering_flush;
	step->unpublished = queue->unpublished;
}

/*
 * Records the state after a step. During an outage this is only the number of requests in flight,
 * because the disk's thread may replace the rings at any moment.
 */
static void record(struct run *run, struct step *step)
{
	step->in_flight = vublk_blk_in_flight(run->queue);
	if (!run->has_backend)
		return;
	step->kicks = fake_kicks(0) - run->kicks_before;
	record_private(run->queue, step);
	record_shared(run->queue, step);
}

/* --- one step ------------------------------------------------------------------------------- */

/*
 * Chooses a buffer. Most buffers suit the fast path. The others are unaligned, or extend over a
 * region's end.
 */
static void *choose_buffer(struct run *run, size_t bytes)
{
	switch (pick(run, 8)) {
	case 0:
		return memory + REGION_BYTES - bytes / 2; /* over two regions */
	case 1:
		return memory + MEMORY_BYTES - pick(run, 3) * 512; /* ends outside */
	case 2:
		return memory + pick(run, 100) * 7; /* not aligned, which is allowed */
	default:
		return memory + pick(run, 4) * 8192; /* used again and again */
	}
}

static size_t choose_bytes(struct run *run)
{
	switch (pick(run, 12)) {
	case 0:
		return pick(run, 3) * 100;
	case 1:
		return (1 + pick(run, 200)) * 512;
	default:
		return 4096u << pick(run, 2);
	}
}

static uint64_t choose_offset(struct run *run)
{
	switch (pick(run, 16)) {
	case 0:
		return pick(run, DISK_BYTES);
	case 1:
		return DISK_BYTES - pick(run, 4) * 4096; /* at the end, or past it */
	default:
		return pick(run, 32) * 4096; /* so that writes overlap */
	}
}

static int transfer(struct run *run, unsigned i, bool is_write)
{
	size_t bytes = choose_bytes(run);
	struct iovec *iov = &run->iovs[i];
	uint64_t offset = choose_offset(run);
	uint64_t sequence = run->queue->sequence;
	int r;

	*iov = (struct iovec){ choose_buffer(run, bytes), bytes };
	if (run->path == GENERAL)
		r = is_write ? vublk_blk_writev(run->queue, offset, iov, 1, 0, iov, &error) :
			       vublk_blk_readv(run->queue, offset, iov, 1, 0, iov, &error);
	else
		r = is_write ? vublk_blk_write(run->queue, offset, iov->iov_base, bytes, 0, iov,
					       &error) :
			       vublk_blk_read(run->queue, offset, iov->iov_base, bytes, 0, iov,
					      &error);
	/* Only the fast path stores a slot's `table_bytes`. */
	for (unsigned s = 0; s < run->queue->size; s++)
		run->num_fast += run->queue->slots[s].request &&
				 run->queue->slots[s].sequence == sequence &&
				 run->queue->slots[s].table_bytes;
	return r;
}

static int ask(struct run *run, unsigned i)
{
	uint64_t offset = pick(run, 64) * 4096;
	void *tag = &run->iovs[i];

	switch (pick(run, 4)) {
	case 0:
		return vublk_blk_discard(run->queue, offset, 65536, 0, tag, &error);
	case 1:
		return vublk_blk_write_zeroes(run->queue, offset, 8192,
					      pick(run, 2) ? 0 : VUBLK_BLK_NO_UNMAP, tag, &error);
	case 2:
		return vublk_blk_get_id(run->queue, run->ids[i], 0, tag, &error);
	default:
		return vublk_blk_flush(run->queue, 0, tag, &error);
	}
}

static int toggle_backend(struct run *run)
{
	if (run->has_backend)
		lose();
	else
		find();
	run->has_backend = !run->has_backend;
	return run->has_backend;
}

static int serve(struct run *run)
{
	static const uint8_t statuses[] = {
		VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_UNSUPP, 77, 0xff,
	};
	unsigned max = 1 + pick(run, 6);

	if (pick(run, 6))
		return (int)fake_serve(0, max);
	return (int)fake_serve_with(0, 1, statuses[pick(run, VUBLK_ARRAY_SIZE(statuses))]);
}

static void poll_some(struct run *run, struct step *step)
{
	struct vublk_blk_completion taken[MAX_TAKEN];

	step->num_taken = vublk_blk_poll(run->queue, taken, 1 + pick(run, MAX_TAKEN));
	for (int i = 0; i < step->num_taken; i++) {
		step->results[i] = taken[i].result;
		step->user_data[i] = taken[i].user_data;
	}
}

static int do_step(struct run *run, unsigned i, struct step *step)
{
	/* An outage is rare and short. */
	if (!pick(run, run->has_backend ? 150 : 8))
		return toggle_backend(run);
	step->op = pick(run, 16);
	switch (step->op) {
	case 0:
		return ask(run, i);
	case 1:
	case 2:
		vublk_blk_submit(run->queue);
		return 0;
	case 3:
	case 4:
	case 5:
		return serve(run);
	case 6:
	case 7:
	case 8:
		poll_some(run, step);
		return 0;
	case 9:
		return run->has_backend && vublk_blk_arm(run->queue);
	default:
		return transfer(run, i, step->op < 13);
	}
}

/* --- a run ------------------------------------------------------------------------------------ */

/* Makes a plan for the device. Different seeds lead to different branches of either path. */
static void make_plan(unsigned seed)
{
	fake_init(DISK_BYTES);
	fake_plan.queue_size = seed & 1 ? 8 : MAX_QUEUE;
	switch (seed / 2 % 5) {
	case 1:
		fake_plan.features |= VUBLK_BIT(VIRTIO_BLK_F_SIZE_MAX);
		fake_plan.config.size_max = 6144;
		break;
	case 2:
		fake_plan.features &= ~VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC);
		break;
	case 3:
		fake_plan.features |= VUBLK_BIT(VIRTIO_BLK_F_RO);
		break;
	case 4:
		fake_plan.config.blk_size = 4096;
		fake_plan.features &= ~VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX);
		break;
	}
}

static void fill(char *data, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		data[i] = (char)(i / 512 + i % 11);
}

static void begin_run(struct run *run)
{
	make_plan(run->seed);
	fill(fake_disk(), DISK_BYTES);
	fill(memory, MEMORY_BYTES);
	run->blk = open_disk_with(NULL);
	run->queue = vublk_blk_queue(run->blk, 0);
	run->has_backend = true;
	run->kicks_before = fake_kicks(0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(vublk_blk_register(run->blk, memory + i * REGION_BYTES,
						    REGION_BYTES, memory_fd, i * REGION_BYTES,
						    &error), 0);
}

static struct run *run_path(enum path path, unsigned seed)
{
	struct run *run = calloc(1, sizeof(*run));

	run->path = path;
	run->seed = seed;
	run->steps = calloc(STEPS, sizeof(*run->steps));
	begin_run(run);
	for (unsigned i = 0; i < STEPS; i++) {
		struct step *step = &run->steps[i];

		memset(&error, 0, sizeof(error));
		step->result = do_step(run, i, step);
		memcpy(step->text, error.text, sizeof(step->text));
		record(run, step);
	}
	memcpy(run->disk, fake_disk(), DISK_BYTES);
	memcpy(run->memory, memory, MEMORY_BYTES);
	vublk_blk_close(run->blk, 0, NULL);
	fake_deinit();
	return run;
}

static void free_run(struct run *run)
{
	free(run->steps);
	free(run);
}

/* Replaces user data, which are pointers into the run, by numbers that are equal in both runs. */
static void number_user_data(struct run *run)
{
	for (unsigned i = 0; i < STEPS; i++) {
		struct step *step = &run->steps[i];

		for (unsigned j = 0; j < MAX_QUEUE; j++)
			if (step->requests[j].user_data)
				step->requests[j].user_data = (void *)((uintptr_t)
					step->requests[j].user_data - (uintptr_t)run->iovs);
		for (int j = 0; j < step->num_taken; j++)
			step->user_data[j] = (void *)((uintptr_t)step->user_data[j] -
						      (uintptr_t)run->iovs);
	}
}

static void compare(struct run *fast, struct run *general, unsigned seed)
{
	number_user_data(fast);
	number_user_data(general);
	for (unsigned i = 0; i < STEPS; i++) {
		const char *a = (const char *)&fast->steps[i], *b = (char *)&general->steps[i];
		size_t at = 0;

		if (!memcmp(a, b, sizeof(struct step)))
			continue;
		while (a[at] == b[at])
			at++;
		print_error("seed %u, step %u (operation %u): byte %zu of struct step differs, "
			    "results %d and %d, errors '%s' and '%s'\n", seed, i,
			    fast->steps[i].op, at, fast->steps[i].result,
			    general->steps[i].result, fast->steps[i].text, general->steps[i].text);
		assert_memory_equal(a, b, sizeof(struct step));
	}
	assert_memory_equal(fast->disk, general->disk, DISK_BYTES);
	assert_memory_equal(fast->memory, general->memory, MEMORY_BYTES);
}

static void map_memory(void)
{
	memory_fd = vublk_memfd_new("memory", MEMORY_BYTES, &error);
	memory = mmap(NULL, 2 * MEMORY_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(mmap(memory, MEMORY_BYTES, PROT_READ | PROT_WRITE,
				  MAP_SHARED | MAP_FIXED, memory_fd, 0), MAP_FAILED);
}

static void test_fast_path_is_the_general_path(void **state)
{
	unsigned num_fast = 0, num_slow = 0;

	map_memory();
	for (unsigned seed = 0; seed < 20; seed++) {
		struct run *fast = run_path(FAST, seed);
		struct run *general = run_path(GENERAL, seed);

		compare(fast, general, seed);
		num_fast += fast->num_fast;
		num_slow += general->num_fast;
		free_run(fast);
		free_run(general);
	}
	munmap(memory, 2 * MEMORY_BYTES);
	vublk_fd_close(&memory_fd);
	/* Each run has taken the intended path. */
	assert_true(num_fast > STEPS);
	assert_int_equal(num_slow, 0);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_fast_path_is_the_general_path),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
