/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The verifier of `vublk chaos`, with a simulated disk. If the disk keeps all guarantees, the
 * verifier must report no fault. If the disk breaks one guarantee once, the verifier must report
 * exactly this fault.
 */
#include "harness.h"

#include "cli/chaos/verify.h"
#include "cli/pattern.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define RUN 0x1234
#define FIRST 100 /* the first block of the tested part, which is not at the start of the disk */
#define BLOCKS 24
#define DEPTH 16
#define BLOCK VUBLK_CHAOS_BLOCK_BYTES
#define SECTOR VUBLK_CHAOS_SECTOR_BYTES

/* --- a disk, and a request on it ------------------------------------------------ */

struct verify_rig {
	struct vublk_chaos_verifier verifier;
	unsigned char disk[BLOCKS][BLOCK];
	uint64_t random;
};

struct request {
	struct vublk_chaos_request what;
	unsigned char buffer[VUBLK_CHAOS_MAX_BLOCKS * BLOCK];
	unsigned done; /* how many sectors the disk has transferred */
};

static struct verify_rig *verify_rig_new(uint64_t seed)
{
	struct verify_rig *rig = calloc(1, sizeof(*rig));

	assert_non_null(rig);
	rig->random = seed;
	assert_int_equal(vublk_chaos_verify_init(&rig->verifier, RUN, 3, FIRST, BLOCKS, NULL), 0);
	return rig;
}

static void verify_rig_free(struct verify_rig *rig)
{
	vublk_chaos_verify_deinit(&rig->verifier);
	free(rig);
}

static uint64_t pick(struct verify_rig *rig, uint64_t below)
{
	rig->random++;
	return vublk_mix(rig->random) % below;
}

static void begin(struct verify_rig *rig, struct request *r, enum vublk_chaos_op op, uint64_t block,
		  uint32_t count)
{
	r->what = (struct vublk_chaos_request){ .op = op, .block = FIRST + block, .count = count };
	r->done = 0;
	vublk_chaos_verify_begin(&rig->verifier, &r->what);
	vublk_chaos_verify_fill(&rig->verifier, &r->what, r->buffer);
}

static unsigned sectors(const struct request *r)
{
	return r->what.count * VUBLK_CHAOS_SECTORS;
}

/* Executes one sector of a request. */
static void transfer(struct verify_rig *rig, struct request *r, unsigned sector)
{
	unsigned char *place = &rig->disk[r->what.block - FIRST][0] + sector * SECTOR;
	unsigned char *buffer = r->buffer + sector * SECTOR;

	if (r->what.op == VUBLK_CHAOS_READ)
		memcpy(buffer, place, SECTOR);
	else if (r->what.op == VUBLK_CHAOS_WRITE)
		memcpy(place, buffer, SECTOR);
	else
		memset(place, 0, SECTOR);
}

static void execute(struct verify_rig *rig, struct request *r)
{
	for (; r->done < sectors(r); r->done++)
		transfer(rig, r, r->done);
}

static enum vublk_chaos_fault complete(struct verify_rig *rig, struct request *r)
{
	return vublk_chaos_verify_complete(&rig->verifier, &r->what, r->buffer);
}

static void change(struct verify_rig *rig, enum vublk_chaos_op op, uint64_t block, uint32_t count)
{
	struct request r;

	begin(rig, &r, op, block, count);
	execute(rig, &r);
	assert_int_equal(complete(rig, &r), VUBLK_CHAOS_NONE);
}

static enum vublk_chaos_fault read_back(struct verify_rig *rig, uint64_t block, uint32_t count)
{
	struct request r;

	begin(rig, &r, VUBLK_CHAOS_READ, block, count);
	execute(rig, &r);
	return complete(rig, &r);
}

/* Checks that only `fault` was found, and that the sentence about it begins with its name. */
static void check_fault(const struct verify_rig *rig, enum vublk_chaos_fault fault)
{
	const char *name = vublk_chaos_fault_name(fault);

	for (unsigned f = VUBLK_CHAOS_NONE; f < VUBLK_CHAOS_NUM_FAULTS; f++)
		if (rig->verifier.faults[f] != (f == fault && f != VUBLK_CHAOS_NONE))
			fail_msg("%s was found %u times, expected was 1 %s: %s",
				 vublk_chaos_fault_name(f), (unsigned)rig->verifier.faults[f], name,
				 rig->verifier.sentences[0]);
	assert_int_equal(vublk_chaos_verify_failed(&rig->verifier), fault != VUBLK_CHAOS_NONE);
	assert_int_equal(rig->verifier.num_sentences, fault != VUBLK_CHAOS_NONE);
	assert_int_equal(strncmp(rig->verifier.sentences[0], name, fault ? strlen(name) : 0), 0);
}

/* --- each fault, once ------------------------------------------------------------- */

static void lost(struct verify_rig *rig)
{
	struct request w;

	change(rig, VUBLK_CHAOS_WRITE, 2, 3);
	begin(rig, &w, VUBLK_CHAOS_WRITE, 3, 1);
	complete(rig, &w);
}

/* The first write to a block is lost, so the block still contains zeroes. */
static void lost_first(struct verify_rig *rig)
{
	struct request w;

	begin(rig, &w, VUBLK_CHAOS_WRITE, 3, 1);
	complete(rig, &w);
}

static void lost_zeroes(struct verify_rig *rig)
{
	struct request z;

	change(rig, VUBLK_CHAOS_WRITE, 3, 1);
	begin(rig, &z, VUBLK_CHAOS_ZEROES, 3, 1);
	complete(rig, &z);
}

/* A write after a discard is lost. The read returns the zeroes of the discard. */
static void lost_after_discard(struct verify_rig *rig)
{
	struct request w;

	change(rig, VUBLK_CHAOS_WRITE, 3, 1);
	change(rig, VUBLK_CHAOS_DISCARD, 3, 1);
	begin(rig, &w, VUBLK_CHAOS_WRITE, 3, 1);
	complete(rig, &w);
}

/*
 * Write 1 had completed when its back-end died. The next back-end executes it again, after write 2.
 */
static void repeated(struct verify_rig *rig)
{
	struct request first;

	begin(rig, &first, VUBLK_CHAOS_WRITE, 1, 4);
	execute(rig, &first);
	complete(rig, &first);
	change(rig, VUBLK_CHAOS_WRITE, 3, 1);
	assert_int_equal(read_back(rig, 3, 1), VUBLK_CHAOS_NONE);
	rig->verifier.life++;
	memcpy(rig->disk[3], first.buffer + 2 * BLOCK, BLOCK);
}

/*
 * Write 1 was in flight when its back-end died. The next back-end executes write 1, then write 2,
 * and then write 1 once more.
 */
static void repeated_unseen(struct verify_rig *rig)
{
	struct request first;

	begin(rig, &first, VUBLK_CHAOS_WRITE, 3, 1);
	rig->verifier.life++;
	execute(rig, &first);
	complete(rig, &first);
	change(rig, VUBLK_CHAOS_WRITE, 3, 1);
	memcpy(rig->disk[3], first.buffer, BLOCK);
}

static void repeated_zeroes(struct verify_rig *rig)
{
	change(rig, VUBLK_CHAOS_ZEROES, 3, 1);
	change(rig, VUBLK_CHAOS_WRITE, 3, 1);
	assert_int_equal(read_back(rig, 3, 1), VUBLK_CHAOS_NONE);
	rig->verifier.life++;
	memset(rig->disk[3], 0, BLOCK);
}

/* The repeated write is so old that the verifier's history no longer contains it. */
static void repeated_long_ago(struct verify_rig *rig)
{
	struct request first;

	begin(rig, &first, VUBLK_CHAOS_WRITE, 3, 1);
	execute(rig, &first);
	complete(rig, &first);
	for (unsigned i = 0; i < 2 * VUBLK_CHAOS_HISTORY; i++)
		change(rig, VUBLK_CHAOS_WRITE, 3, 1);
	assert_int_equal(read_back(rig, 3, 1), VUBLK_CHAOS_NONE);
	memcpy(rig->disk[3], first.buffer, BLOCK);
}

static void torn(struct verify_rig *rig)
{
	struct request w;

	change(rig, VUBLK_CHAOS_WRITE, 3, 1);
	begin(rig, &w, VUBLK_CHAOS_WRITE, 3, 1);
	for (unsigned s = 0; s < 5; s++)
		transfer(rig, &w, s);
	complete(rig, &w);
}

static void stale(struct verify_rig *rig)
{
	unsigned char old[BLOCK];

	change(rig, VUBLK_CHAOS_WRITE, 3, 1);
	assert_int_equal(read_back(rig, 3, 1), VUBLK_CHAOS_NONE);
	memcpy(old, rig->disk[3], BLOCK);
	change(rig, VUBLK_CHAOS_WRITE, 3, 1);
	assert_int_equal(read_back(rig, 3, 1), VUBLK_CHAOS_NONE);
	memcpy(rig->disk[3], old, BLOCK);
}

/* Content that a read has returned must not disappear, even if its write had not completed. */
static void stale_beginning(struct verify_rig *rig)
{
	struct request w;

	begin(rig, &w, VUBLK_CHAOS_WRITE, 3, 1);
	execute(rig, &w);
	assert_int_equal(read_back(rig, 3, 1), VUBLK_CHAOS_NONE);
	memset(rig->disk[3], 0, BLOCK);
}

/* Two writes completed in order, but were executed in the other order. */
static void reordered(struct verify_rig *rig)
{
	struct request first, second;

	begin(rig, &first, VUBLK_CHAOS_WRITE, 3, 1);
	complete(rig, &first);
	begin(rig, &second, VUBLK_CHAOS_WRITE, 3, 1);
	execute(rig, &second);
	complete(rig, &second);
	assert_int_equal(read_back(rig, 3, 1), VUBLK_CHAOS_NONE);
	execute(rig, &first);
}

static void reordered_in_flight(struct verify_rig *rig)
{
	struct request first, second;

	begin(rig, &first, VUBLK_CHAOS_WRITE, 2, 2);
	begin(rig, &second, VUBLK_CHAOS_WRITE, 3, 2);
	execute(rig, &second);
	execute(rig, &first);
	complete(rig, &first);
	complete(rig, &second);
}

static void misplaced(struct verify_rig *rig)
{
	change(rig, VUBLK_CHAOS_WRITE, 3, 2);
	memcpy(rig->disk[3], rig->disk[4], BLOCK);
}

static void misplaced_sector(struct verify_rig *rig)
{
	change(rig, VUBLK_CHAOS_WRITE, 3, 1);
	memcpy(rig->disk[3] + SECTOR, rig->disk[3], SECTOR);
}

static void corrupt(struct verify_rig *rig)
{
	change(rig, VUBLK_CHAOS_WRITE, 3, 1);
	rig->disk[3][4001] ^= 0x10;
}

static void corrupt_future(struct verify_rig *rig)
{
	struct vublk_chaos_stamp stamp = { RUN, FIRST + 3, 2, 3, 0 };

	change(rig, VUBLK_CHAOS_WRITE, 3, 1);
	vublk_chaos_stamp_fill(rig->disk[3], &stamp);
}

static void corrupt_foreign(struct verify_rig *rig)
{
	struct vublk_chaos_stamp stamp = { RUN + 1, FIRST + 3, 1, 3, 0 };

	change(rig, VUBLK_CHAOS_WRITE, 3, 1);
	vublk_chaos_stamp_fill(rig->disk[3], &stamp);
}

static void test_each_fault_has_its_name(void **state)
{
	static const struct {
		void (*inject)(struct verify_rig *rig);
		enum vublk_chaos_fault fault;
	} cases[] = {
		{ lost, VUBLK_CHAOS_LOST },
		{ lost_first, VUBLK_CHAOS_LOST },
		{ lost_zeroes, VUBLK_CHAOS_LOST },
		{ lost_after_discard, VUBLK_CHAOS_LOST },
		{ repeated, VUBLK_CHAOS_REPEATED },
		{ repeated_unseen, VUBLK_CHAOS_REPEATED },
		{ repeated_zeroes, VUBLK_CHAOS_REPEATED },
		{ repeated_long_ago, VUBLK_CHAOS_REPEATED },
		{ torn, VUBLK_CHAOS_TORN },
		{ stale, VUBLK_CHAOS_STALE },
		{ stale_beginning, VUBLK_CHAOS_STALE },
		{ reordered, VUBLK_CHAOS_REORDERED },
		{ reordered_in_flight, VUBLK_CHAOS_REORDERED },
		{ misplaced, VUBLK_CHAOS_MISPLACED },
		{ misplaced_sector, VUBLK_CHAOS_MISPLACED },
		{ corrupt, VUBLK_CHAOS_CORRUPT },
		{ corrupt_future, VUBLK_CHAOS_CORRUPT },
		{ corrupt_foreign, VUBLK_CHAOS_CORRUPT },
	};

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		struct verify_rig *rig = verify_rig_new(i);

		cases[i].inject(rig);
		check_fault(rig, VUBLK_CHAOS_NONE);
		/*
		 * The fault is found in the middle of a larger read. It is reported only once,
		 * however often the block is read.
		 */
		assert_int_equal(read_back(rig, 1, 4), cases[i].fault);
		assert_int_equal(read_back(rig, 3, 1), VUBLK_CHAOS_NONE);
		check_fault(rig, cases[i].fault);
		/* After the report, new content of the block is still checked. */
		change(rig, VUBLK_CHAOS_WRITE, 3, 1);
		assert_int_equal(read_back(rig, 0, 8), VUBLK_CHAOS_NONE);
		rig->disk[3][5] ^= 1;
		assert_int_equal(read_back(rig, 3, 1), VUBLK_CHAOS_CORRUPT);
		verify_rig_free(rig);
	}
}

static void test_a_read_that_brings_nothing(void **state)
{
	struct verify_rig *rig = verify_rig_new(1);
	struct request r;

	begin(rig, &r, VUBLK_CHAOS_READ, 3, 1);
	assert_int_equal(complete(rig, &r), VUBLK_CHAOS_CORRUPT);
	assert_non_null(strstr(rig->verifier.sentences[0], "returned no data"));
	verify_rig_free(rig);
}

/* --- what is allowed ---------------------------------------------------------------- */

/*
 * A read during a write may return old, new or mixed content. A read that begins after the write
 * must not return mixed content.
 */
static void test_torn_is_allowed_while_a_write_is_in_flight(void **state)
{
	struct verify_rig *rig = verify_rig_new(1);
	struct request w, r;

	change(rig, VUBLK_CHAOS_WRITE, 3, 1);
	begin(rig, &r, VUBLK_CHAOS_READ, 3, 1);
	begin(rig, &w, VUBLK_CHAOS_WRITE, 3, 1);
	for (unsigned s = 0; s < 3; s++)
		transfer(rig, &w, s);
	execute(rig, &r); /* the read began before the write, and ends after it */
	assert_int_equal(read_back(rig, 3, 1), VUBLK_CHAOS_NONE);
	complete(rig, &w);
	assert_int_equal(complete(rig, &r), VUBLK_CHAOS_NONE);
	check_fault(rig, VUBLK_CHAOS_NONE);
	assert_int_equal(read_back(rig, 3, 1), VUBLK_CHAOS_TORN);
	verify_rig_free(rig);
}

/*
 * During writes, a sector may mix bytes of several contents, but not of contents that were already
 * replaced.
 */
static void test_so_are_mixed_bytes(void **state)
{
	struct verify_rig *rig = verify_rig_new(1);
	struct request old, first, second, r;

	change(rig, VUBLK_CHAOS_WRITE, 3, 1);
	begin(rig, &old, VUBLK_CHAOS_WRITE, 3, 1);
	execute(rig, &old);
	complete(rig, &old);
	begin(rig, &r, VUBLK_CHAOS_READ, 3, 1);
	begin(rig, &first, VUBLK_CHAOS_WRITE, 3, 1);
	begin(rig, &second, VUBLK_CHAOS_WRITE, 3, 1);
	execute(rig, &r);
	memcpy(r.buffer + 100, first.buffer + 100, 700);
	memcpy(r.buffer + 333, second.buffer + 333, 1000);
	assert_int_equal(complete(rig, &r), VUBLK_CHAOS_NONE);
	check_fault(rig, VUBLK_CHAOS_NONE);

	complete(rig, &first);
	begin(rig, &r, VUBLK_CHAOS_READ, 3, 1);
	memcpy(r.buffer, second.buffer, BLOCK);
	memcpy(r.buffer + 100, first.buffer + 100, 700);
	assert_int_equal(complete(rig, &r), VUBLK_CHAOS_NONE);

	begin(rig, &r, VUBLK_CHAOS_READ, 3, 1);
	memcpy(r.buffer, second.buffer, BLOCK);
	memcpy(r.buffer + 100, old.buffer + 100, 700);
	assert_int_equal(complete(rig, &r), VUBLK_CHAOS_CORRUPT);
	verify_rig_free(rig);
}

/* After a discard, zeroes, the old content and mixtures are permitted at any time. */
static void test_a_discard_promises_nothing(void **state)
{
	struct verify_rig *rig = verify_rig_new(1);
	unsigned char old[BLOCK];

	change(rig, VUBLK_CHAOS_WRITE, 3, 1);
	memcpy(old, rig->disk[3], BLOCK);
	for (unsigned i = 0; i < 3 * VUBLK_CHAOS_HISTORY; i++) {
		change(rig, VUBLK_CHAOS_DISCARD, 3, 1);
		assert_int_equal(read_back(rig, 3, 1), VUBLK_CHAOS_NONE);
		memcpy(rig->disk[3], old, BLOCK);
		assert_int_equal(read_back(rig, 3, 1), VUBLK_CHAOS_NONE);
		memset(rig->disk[3] + BLOCK / 2, 0, BLOCK / 2);
		assert_int_equal(read_back(rig, 3, 1), VUBLK_CHAOS_NONE);
	}
	change(rig, VUBLK_CHAOS_ZEROES, 3, 1);
	memcpy(rig->disk[3], old, BLOCK);
	read_back(rig, 3, 1);
	assert_true(vublk_chaos_verify_failed(&rig->verifier));
	verify_rig_free(rig);
}

/* --- random schedules ---------------------------------------------------------------- */

struct schedule {
	struct verify_rig *rig;
	struct request *requests[DEPTH]; /* in flight, in the order in which they began */
	unsigned num;
	unsigned lose_at;                /* the first write from this step on is lost; 0: none */
	struct request *kept;            /* a copy of the first write, which is repeated later */
	uint32_t lost_blocks;            /* in the lost write; if not 0, no more requests begin */
	uint32_t newest[BLOCKS];         /* the last write or write zeroes of each block */
};

static bool changes(const struct request *r)
{
	return r->what.op != VUBLK_CHAOS_READ;
}

static bool overlap(const struct request *a, const struct request *b)
{
	return a->what.block < b->what.block + b->what.count &&
	       b->what.block < a->what.block + a->what.count;
}

/*
 * Returns whether the disk may execute request `index`. A change must wait for earlier changes of
 * the same blocks.
 */
static bool may_run(const struct schedule *s, unsigned index)
{
	for (unsigned i = 0; changes(s->requests[index]) && i < index; i++)
		if (changes(s->requests[i]) && overlap(s->requests[i], s->requests[index]))
			return false;
	return true;
}

static void finish(struct schedule *s, unsigned index)
{
	struct request *r = s->requests[index];

	execute(s->rig, r);
	complete(s->rig, r);
	s->num--;
	memmove(&s->requests[index], &s->requests[index + 1],
		(s->num - index) * sizeof(s->requests[0]));
	s->requests[s->num] = r;
}

static void begin_any(struct schedule *s, unsigned step)
{
	struct verify_rig *rig = s->rig;
	uint32_t count = 1 + (uint32_t)pick(rig, VUBLK_CHAOS_MAX_BLOCKS);
	uint64_t kind = pick(rig, 10);
	enum vublk_chaos_op op = kind < 4   ? VUBLK_CHAOS_READ
				 : kind < 8 ? VUBLK_CHAOS_WRITE
				 : kind < 9 ? VUBLK_CHAOS_ZEROES
					    : VUBLK_CHAOS_DISCARD;
	struct request *r = s->requests[s->num++];

	begin(rig, r, op, pick(rig, BLOCKS - count + 1), count);
	for (uint32_t i = 0; i < count && (op == VUBLK_CHAOS_WRITE || op == VUBLK_CHAOS_ZEROES); i++)
		s->newest[r->what.block - FIRST + i] = r->what.generations[i];
	if (op != VUBLK_CHAOS_WRITE)
		return;
	if (!s->kept->what.count)
		*s->kept = *r;
	if (!s->lose_at || step < s->lose_at)
		return;
	r->done = sectors(r); /* completed without an effect */
	s->lost_blocks = count;
}

/* The back-end dies. Requests that it had not completed begin again. */
static void die(struct schedule *s)
{
	s->rig->verifier.life++;
	for (unsigned i = 0; i < s->num; i++)
		if (s->requests[i]->done < sectors(s->requests[i]))
			s->requests[i]->done = 0;
}

static void run_schedule(struct schedule *s, unsigned steps)
{
	for (unsigned step = 1; step < steps && !s->lost_blocks; step++) {
		uint64_t what = pick(s->rig, 100);
		unsigned index = s->num ? (unsigned)pick(s->rig, s->num) : 0;

		if (what == 0)
			die(s);
		else if (what < 30 && s->num < DEPTH)
			begin_any(s, step);
		else if (s->num && may_run(s, index) && what < 60)
			finish(s, index);
		else if (s->num && may_run(s, index) &&
			 s->requests[index]->done < sectors(s->requests[index]))
			transfer(s->rig, s->requests[index], s->requests[index]->done++);
	}
	while (s->num)
		finish(s, 0);
	for (uint64_t block = 0; block < BLOCKS; block += 4)
		read_back(s->rig, block, 4);
}

static struct schedule *schedule_new(uint64_t seed)
{
	struct schedule *s = calloc(1, sizeof(*s));

	assert_non_null(s);
	s->rig = verify_rig_new(seed * 1000003);
	s->kept = calloc(1, sizeof(*s->kept));
	for (unsigned i = 0; i < DEPTH; i++)
		s->requests[i] = calloc(1, sizeof(struct request));
	assert_true(s->kept && s->requests[DEPTH - 1]);
	return s;
}

static void schedule_free(struct schedule *s)
{
	for (unsigned i = 0; i < DEPTH; i++)
		free(s->requests[i]);
	free(s->kept);
	verify_rig_free(s->rig);
	free(s);
}

static uint64_t count_faults(const struct schedule *s)
{
	uint64_t count = 0;

	for (unsigned f = VUBLK_CHAOS_NONE + 1; f < VUBLK_CHAOS_NUM_FAULTS; f++)
		count += s->rig->verifier.faults[f];
	return count;
}

static void test_a_good_disk_is_never_blamed(void **state)
{
	for (unsigned i = 0; i < 1000; i++) {
		struct schedule *s = schedule_new(i);

		run_schedule(s, 1000);
		check_fault(s->rig, VUBLK_CHAOS_NONE);
		assert_true(s->rig->verifier.verified > 0 && s->rig->verifier.overlapping > 0);
		schedule_free(s);
	}
}

/* Each block of a lost write is reported, whatever else is in flight. */
static void test_a_lost_write_is_always_found(void **state)
{
	for (unsigned i = 0; i < 1000; i++) {
		struct schedule *s = schedule_new(i);

		s->lose_at = 1 + i;
		run_schedule(s, 2000);
		assert_true(s->lost_blocks > 0);
		assert_int_equal(count_faults(s), s->lost_blocks);
		assert_int_equal(s->rig->verifier.faults[VUBLK_CHAOS_CORRUPT] +
				 s->rig->verifier.faults[VUBLK_CHAOS_MISPLACED], 0);
		schedule_free(s);
	}
}

/*
 * All blocks have been written and read back. Then the back-end dies, and the next back-end repeats
 * an earlier write.
 */
static void test_a_repeated_write_is_always_found(void **state)
{
	for (unsigned i = 0; i < 1000; i++) {
		struct schedule *s = schedule_new(i);
		uint32_t overtaken = 0;

		run_schedule(s, 1000);
		check_fault(s->rig, VUBLK_CHAOS_NONE);
		s->rig->verifier.life++;
		s->kept->done = 0;
		execute(s->rig, s->kept);
		for (uint32_t b = 0; b < s->kept->what.count; b++)
			overtaken += s->newest[s->kept->what.block - FIRST + b] >
				     s->kept->what.generations[b];
		for (uint64_t block = 0; block < BLOCKS; block += 4)
			read_back(s->rig, block, 4);
		assert_int_equal(s->rig->verifier.faults[VUBLK_CHAOS_REPEATED], overtaken);
		assert_int_equal(count_faults(s), overtaken);
		schedule_free(s);
	}
}

/* --- a volatile cache ------------------------------------------------------------- */

#define SLOTS 6 /* each has its own blocks, so that no two requests overlap */
#define SLOT_BLOCKS (BLOCKS / SLOTS)

struct volatile_disk {
	struct verify_rig *rig;
	struct request slots[SLOTS], flush;
	bool in_flight[SLOTS], flushing;
	unsigned char stable[BLOCKS][BLOCK];      /* the next back-end has this content or newer */
	unsigned char flushed[BLOCKS][BLOCK];     /* the content when the flush began */
	unsigned char older[BLOCKS][BLOCK];       /* the stable content before the last flush */
	bool forgets_flushed;
	uint32_t life;
};

static void step_slot(struct volatile_disk *disk, unsigned i)
{
	static const enum vublk_chaos_op ops[] = {
		VUBLK_CHAOS_READ, VUBLK_CHAOS_READ, VUBLK_CHAOS_WRITE, VUBLK_CHAOS_WRITE,
		VUBLK_CHAOS_ZEROES, VUBLK_CHAOS_DISCARD,
	};
	struct verify_rig *rig = disk->rig;
	unsigned first = (unsigned)pick(rig, SLOT_BLOCKS);

	if (!disk->in_flight[i]) {
		begin(rig, &disk->slots[i], ops[pick(rig, VUBLK_ARRAY_SIZE(ops))],
		      i * SLOT_BLOCKS + first, 1 + (uint32_t)pick(rig, SLOT_BLOCKS - first));
		disk->in_flight[i] = true;
	} else if (pick(rig, 2)) {
		execute(rig, &disk->slots[i]);
	} else {
		execute(rig, &disk->slots[i]);
		vublk_chaos_verify_set_life(&rig->verifier, disk->life);
		complete(rig, &disk->slots[i]);
		disk->in_flight[i] = false;
	}
}

static void step_flush(struct volatile_disk *disk)
{
	struct verify_rig *rig = disk->rig;

	if (!disk->flushing) {
		begin(rig, &disk->flush, VUBLK_CHAOS_FLUSH, 0, 0);
		memcpy(disk->flushed, rig->disk, sizeof(rig->disk));
	} else {
		memcpy(disk->older, disk->stable, sizeof(disk->older));
		memcpy(disk->stable, disk->flushed, sizeof(disk->stable));
		vublk_chaos_verify_set_life(&rig->verifier, disk->life);
		complete(rig, &disk->flush);
	}
	disk->flushing = !disk->flushing;
}

/*
 * Loses the cache: random blocks fall back to older content. Each request in flight is executed
 * again, unless it was complete and a random choice keeps its result.
 */
static void lose_cache(struct volatile_disk *disk)
{
	struct verify_rig *rig = disk->rig;

	disk->life++;
	for (unsigned b = 0; b < BLOCKS; b++)
		if (pick(rig, 2))
			memcpy(rig->disk[b], disk->forgets_flushed ? disk->older[b] : disk->stable[b],
			       BLOCK);
	for (unsigned i = 0; i < SLOTS; i++)
		if (disk->in_flight[i] && (disk->slots[i].done < sectors(&disk->slots[i]) ||
					   pick(rig, 2)))
			disk->slots[i].done = 0;
	memcpy(disk->stable, rig->disk, sizeof(disk->stable)); /* as if reads had returned it */
	memcpy(disk->older, rig->disk, sizeof(disk->older));
	memcpy(disk->flushed, rig->disk, sizeof(disk->flushed));
}

/*
 * Runs random steps on a disk with a cache. `is_volatile`: the verifier knows about the cache.
 * `forgets_flushed`: the disk also loses flushed content. Returns the number of faults that the
 * verifier has found. Adds to `forgotten` the number of blocks that the verifier saw fall back to
 * older content.
 */
static unsigned run_volatile(uint64_t seed, bool is_volatile, bool forgets_flushed,
			     uint64_t *forgotten)
{
	struct volatile_disk disk = { .rig = verify_rig_new(seed), .forgets_flushed = forgets_flushed };
	struct verify_rig *rig = disk.rig;
	unsigned found = 0;

	rig->verifier.is_volatile = is_volatile;
	for (unsigned i = 0; i < 3000; i++) {
		uint64_t dice = pick(rig, 100);

		if (dice < 2)
			lose_cache(&disk);
		else if (dice < 8)
			step_flush(&disk);
		else
			step_slot(&disk, (unsigned)pick(rig, SLOTS));
	}
	for (unsigned f = VUBLK_CHAOS_NONE + 1; f < VUBLK_CHAOS_NUM_FAULTS; f++)
		found += (unsigned)rig->verifier.faults[f];
	if (found && !forgets_flushed && is_volatile)
		fail_msg("seed %u: %s", (unsigned)seed, rig->verifier.sentences[0]);
	*forgotten += rig->verifier.forgotten;
	verify_rig_free(rig);
	return found;
}

/* Unflushed writes may be lost, but flushed ones may not. */
static void test_volatile_cache(void **state)
{
	uint64_t forgotten = 0, none = 0;

	for (uint64_t seed = 1000; seed < 40000; seed += 1000) {
		assert_int_equal(run_volatile(seed, true, false, &forgotten), 0);
		assert_true(run_volatile(seed, true, true, &none) > 0);
		assert_true(run_volatile(seed, false, false, &none) > 0);
	}
	assert_true(forgotten > 0);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_each_fault_has_its_name),
		VUBLK_TEST(test_a_read_that_brings_nothing),
		VUBLK_TEST(test_torn_is_allowed_while_a_write_is_in_flight),
		VUBLK_TEST(test_so_are_mixed_bytes),
		VUBLK_TEST(test_a_discard_promises_nothing),
		VUBLK_TEST(test_a_good_disk_is_never_blamed),
		VUBLK_TEST(test_a_lost_write_is_always_found),
		VUBLK_TEST(test_a_repeated_write_is_always_found),
		VUBLK_TEST(test_volatile_cache),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
