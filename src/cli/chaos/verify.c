/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The verifier of a chaos run; see verify.h for the rules.
 *
 * Key idea: a few numbers per block decide whether content is permitted. The history of changes
 * serves to name a fault, and to find the stable generation behind a volatile cache.
 */
#include "cli/chaos/verify.h"

#include "cli/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WHAT_BYTES 160

/* A change: the request that made one generation of a block. */
struct change {
	uint32_t life;    /* the life in which the change was started */
	uint8_t op;
	bool seen;        /* a read has returned this generation */
	bool completed;
	bool overlapped;         /* the next change was started before this one completed */
	bool interrupted; /* a back-end was lost while the change was in flight */
	uint32_t flush;   /* the number of the first flush that begins after the change completed;
			     0: no flush makes the change stable */
};

struct vublk_chaos_block {
	uint32_t newest;      /* the newest generation that was started */
	uint32_t floor;       /* the oldest generation that a read starting now may return */
	uint32_t newest_seen;
	uint32_t newest_zero; /* the generation that the newest write zeroes or discard made; 0:
				 there is none */
	/* stable, lost_floor and expected: used only with a volatile cache */
	uint32_t stable;      /* the stable generation, as of the last call of keep_stable() */
	uint32_t lost_floor;  /* the floor right after the last loss */
	uint32_t expected;    /* the highest floor that a loss since the last read has lowered; 0:
				 no loss since then */
	uint32_t reported_newest;    /* if `is_reported`: the block is not checked until its floor
					exceeds this generation */
	bool is_reported;
	struct change history[VUBLK_CHAOS_HISTORY];
};

const char *vublk_chaos_fault_name(enum vublk_chaos_fault fault)
{
	static const char *const names[VUBLK_CHAOS_NUM_FAULTS] = {
		"none", "lost", "repeated", "torn", "stale", "reordered", "misplaced", "corrupt",
	};

	return names[fault];
}

const char *vublk_chaos_op_name(enum vublk_chaos_op op)
{
	static const char *const names[VUBLK_CHAOS_NUM_OPS] = {
		"read", "write", "write-zeroes", "discard", "flush",
	};

	return names[op];
}

int vublk_chaos_verify_init(struct vublk_chaos_verifier *verifier, uint64_t run, uint16_t queue,
			    uint64_t first_block, uint64_t num_blocks, struct vublk_error *error)
{
	*verifier = (struct vublk_chaos_verifier){
		.run = run, .queue = queue, .first_block = first_block, .num_blocks = num_blocks,
		.blocks = calloc(num_blocks, sizeof(*verifier->blocks)),
	};
	if (verifier->blocks)
		return 0;
	return vublk_cli_error_errno(error, ENOMEM, "cannot allocate memory for the generations of "
				     "%" PRIu64 " blocks; use a smaller --size", num_blocks);
}

void vublk_chaos_verify_deinit(struct vublk_chaos_verifier *verifier)
{
	free(verifier->blocks);
	verifier->blocks = NULL;
}

bool vublk_chaos_verify_failed(const struct vublk_chaos_verifier *verifier)
{
	for (unsigned f = VUBLK_CHAOS_NONE + 1; f < VUBLK_CHAOS_NUM_FAULTS; f++)
		if (verifier->faults[f])
			return true;
	return false;
}

static struct vublk_chaos_block *block_of(const struct vublk_chaos_verifier *verifier,
					  const struct vublk_chaos_request *request, uint32_t index)
{
	return &verifier->blocks[request->block + index - verifier->first_block];
}

/*
 * Returns the change that made a generation; NULL if the history does not have it: generation 0, a
 * generation that is too old, or one that was never started.
 */
static struct change *change_of(struct vublk_chaos_block *block, uint32_t generation)
{
	if (!generation || generation > block->newest ||
	    block->newest - generation >= VUBLK_CHAOS_HISTORY)
		return NULL;
	return &block->history[generation % VUBLK_CHAOS_HISTORY];
}

/* --- a volatile cache --------------------------------------------------------- */

/*
 * Returns whether a flush that covers the change has completed in the current life. A discard is
 * never stable.
 */
static bool is_stable(const struct vublk_chaos_verifier *verifier, const struct change *change)
{
	return change->completed && change->op != VUBLK_CHAOS_DISCARD && change->flush &&
	       change->flush <= verifier->flushes_done;
}

static void keep_stable(const struct vublk_chaos_verifier *verifier,
			struct vublk_chaos_block *block)
{
	for (uint32_t g = block->newest; g > block->stable; g--) {
		const struct change *change = change_of(block, g);

		if (!change)
			return;
		if (is_stable(verifier, change)) {
			block->stable = g;
			return;
		}
	}
}

static void fall_back(const struct vublk_chaos_verifier *verifier, struct vublk_chaos_block *block)
{
	keep_stable(verifier, block);
	block->expected = VUBLK_CLI_MAX(block->expected, block->floor);
	block->floor = block->lost_floor = block->stable;
	block->newest_seen = VUBLK_CLI_MIN(block->newest_seen, block->stable);
	for (unsigned i = 0; i < VUBLK_CHAOS_HISTORY; i++)
		block->history[i].flush = 0; /* no later flush can make the change stable */
}

void vublk_chaos_verify_set_life(struct vublk_chaos_verifier *verifier, uint32_t life)
{
	if (verifier->is_volatile && life != verifier->life)
		for (uint64_t i = 0; i < verifier->num_blocks; i++)
			fall_back(verifier, &verifier->blocks[i]);
	verifier->life = life;
}

/* --- start -------------------------------------------------------------------- */

static uint32_t begin_change(struct vublk_chaos_verifier *verifier,
			     struct vublk_chaos_block *block, enum vublk_chaos_op op)
{
	struct change *before = change_of(block, block->newest);

	if (before && !before->completed) {
		before->overlapped = true;
		verifier->overlapping++;
	}
	if (verifier->is_volatile)
		keep_stable(verifier, block); /* the new change overwrites the oldest one in the
						 history */
	block->newest++;
	*change_of(block, block->newest) = (struct change){ .life = verifier->life, .op = (uint8_t)op };
	if (op != VUBLK_CHAOS_WRITE)
		block->newest_zero = block->newest;
	return block->newest;
}

void vublk_chaos_verify_begin(struct vublk_chaos_verifier *verifier,
			      struct vublk_chaos_request *request)
{
	request->life = verifier->life;
	if (request->op == VUBLK_CHAOS_FLUSH)
		request->flush = ++verifier->flushes_begun;
	for (uint32_t i = 0; i < request->count; i++) {
		struct vublk_chaos_block *block = block_of(verifier, request, i);

		request->generations[i] = request->op == VUBLK_CHAOS_READ
						  ? block->floor
						  : begin_change(verifier, block, request->op);
	}
}

void vublk_chaos_verify_fill(const struct vublk_chaos_verifier *verifier,
			     const struct vublk_chaos_request *request, void *buffer)
{
	if (request->op == VUBLK_CHAOS_READ)
		vublk_chaos_stamp_clear(buffer, request->count * VUBLK_CHAOS_BLOCK_BYTES);
	for (uint32_t i = 0; request->op == VUBLK_CHAOS_WRITE && i < request->count; i++) {
		struct vublk_chaos_stamp stamp = {
			.run = verifier->run, .block = request->block + i,
			.generation = request->generations[i], .queue = verifier->queue,
		};

		vublk_chaos_stamp_fill((char *)buffer + i * VUBLK_CHAOS_BLOCK_BYTES, &stamp);
	}
}

/* --- faults ------------------------------------------------------------------ */

/* A block of a request that has completed. */
struct place {
	uint64_t number;
	struct vublk_chaos_block *block;
	uint32_t floor;
	bool survived; /* the request was in flight when a volatile cache was lost */
};

/*
 * Counts a fault, and marks the block so that later reads of the same content are not counted.
 * `what` describes the fault. Returns `fault`.
 */
static enum vublk_chaos_fault report_fault(struct vublk_chaos_verifier *verifier,
				      const struct place *place, enum vublk_chaos_fault fault,
				      const char *what)
{
	verifier->faults[fault]++;
	place->block->is_reported = true;
	place->block->reported_newest = place->block->newest;
	if (verifier->num_sentences < VUBLK_CHAOS_MAX_SENTENCES)
		snprintf(verifier->sentences[verifier->num_sentences++],
			 sizeof(verifier->sentences[0]), "%s: block %" PRIu64 " (offset %" PRIu64
			 ", queue %u): %s", vublk_chaos_fault_name(fault), place->number,
			 place->number * VUBLK_CHAOS_BLOCK_BYTES, verifier->queue, what);
	return fault;
}

/* The content of a sector. */
struct found {
	enum vublk_chaos_content content;
	uint32_t generation; /* 0: zeroes */
	bool mixed;          /* the bytes are of several generations, all of which are permitted */
};

static bool is_allowed(const struct place *place, const struct found *found)
{
	if (found->content == VUBLK_CHAOS_ZERO)
		return place->block->newest_zero >= place->floor;
	return found->mixed || found->generation >= place->floor;
}

/*
 * Returns the newest generation below the floor that is zeroes, or 0 for the initial zeroes. If the
 * history does not reach back to that generation, returns the newest generation that is too old
 * for the history.
 */
static uint32_t older_zero(struct vublk_chaos_block *block, uint32_t floor)
{
	if (!block->newest_zero)
		return 0;
	for (uint32_t g = floor; g-- > 1;) {
		const struct change *change = change_of(block, g);

		if (!change || change->op != VUBLK_CHAOS_WRITE)
			return g;
	}
	return 0;
}

static enum vublk_chaos_fault name_old(const struct vublk_chaos_verifier *verifier,
				       struct vublk_chaos_block *block, uint32_t generation)
{
	const struct change *change = change_of(block, generation);
	bool newer_seen = block->newest_seen > generation;

	if (!generation) /* generation 0 was not made by a request, so no request was repeated */
		return newer_seen ? VUBLK_CHAOS_STALE : VUBLK_CHAOS_LOST;
	if (newer_seen && (!change || change->life != verifier->life))
		return VUBLK_CHAOS_REPEATED;
	if (newer_seen)
		return change->seen ? VUBLK_CHAOS_STALE : VUBLK_CHAOS_REORDERED;
	if (change && (change->interrupted || (!change->completed && change->life != verifier->life)))
		return VUBLK_CHAOS_REPEATED;
	return change && change->overlapped ? VUBLK_CHAOS_REORDERED : VUBLK_CHAOS_LOST;
}

static enum vublk_chaos_fault report_old(struct vublk_chaos_verifier *verifier,
					  const struct place *place, const struct found *found)
{
	struct vublk_chaos_block *block = place->block;
	uint32_t floor = place->floor;
	bool zero = found->content == VUBLK_CHAOS_ZERO;
	uint32_t generation = zero ? older_zero(block, floor) : found->generation;
	char what[WHAT_BYTES];

	snprintf(what, sizeof(what), "expected generation %" PRIu32 " (%s)%s, but found %s%" PRIu32,
		 floor, block->newest_seen >= floor ? "read before" : "completed",
		 block->newest > floor ? " or a newer one" : "",
		 zero ? "the zeroes of generation " : "generation ", generation);
	return report_fault(verifier, place, name_old(verifier, block, generation), what);
}

/* --- sectors ------------------------------------------------------------------ */

/*
 * Returns whether each byte of the sector equals the byte of a permitted generation. A mixture of
 * permitted generations is correct content, because a read may overlap with a write in flight, and
 * the storage may copy in pieces that are smaller than a sector.
 */
static bool is_mixture(const struct vublk_chaos_verifier *verifier,
		       const struct vublk_chaos_block *block, uint32_t floor,
		       struct vublk_chaos_stamp stamp, const unsigned char *sector)
{
	unsigned char possible[VUBLK_CHAOS_SECTOR_BYTES];
	bool known[VUBLK_CHAOS_SECTOR_BYTES];
	size_t missing = 0;

	stamp.run = verifier->run;
	stamp.queue = verifier->queue;
	for (size_t i = 0; i < sizeof(known); i++)
		known[i] = block->newest_zero >= floor && !sector[i];
	for (stamp.generation = VUBLK_CLI_MAX(floor, 1u); stamp.generation <= block->newest;
	     stamp.generation++) {
		vublk_chaos_stamp_sector(possible, &stamp);
		for (size_t i = 0; i < sizeof(known); i++)
			known[i] |= sector[i] == possible[i];
	}
	for (size_t i = 0; i < sizeof(known); i++)
		missing += !known[i];
	return !missing;
}

/*
 * Checks whether the stamp belongs to this place and to a generation that exists. Returns the
 * fault, and describes it in `what`.
 */
static enum vublk_chaos_fault judge_stamp(const struct vublk_chaos_verifier *verifier,
					  const struct place *place, unsigned sector,
					  const struct vublk_chaos_stamp *stamp,
					  char what[WHAT_BYTES])
{
	if (stamp->block != place->number || stamp->sector != sector) {
		snprintf(what, WHAT_BYTES, "expected sector %u to have its own content, but found "
			 "sector %u of block %" PRIu64 ", generation %" PRIu32,
			 sector, stamp->sector, stamp->block, stamp->generation);
		return VUBLK_CHAOS_MISPLACED;
	}
	if (!stamp->generation || stamp->generation > place->block->newest ||
	    stamp->queue != verifier->queue) {
		snprintf(what, WHAT_BYTES, "sector %u has generation %" PRIu32 " of queue %u, which was "
			 "never written", sector, stamp->generation, stamp->queue);
		return VUBLK_CHAOS_CORRUPT;
	}
	return VUBLK_CHAOS_NONE;
}

static enum vublk_chaos_fault judge_sector(const struct vublk_chaos_verifier *verifier,
					   const struct place *place, unsigned sector,
					   const char *memory, struct found *found,
					   char what[WHAT_BYTES])
{
	struct vublk_chaos_stamp stamp = { 0 }, own = { .block = place->number, .sector = sector };
	uint64_t word;

	*found = (struct found){ vublk_chaos_stamp_read(memory, verifier->run, &stamp), 0, false };
	switch (found->content) {
	case VUBLK_CHAOS_STAMPED:
		found->generation = stamp.generation;
		return judge_stamp(verifier, place, sector, &stamp, what);
	case VUBLK_CHAOS_ZERO:
		return VUBLK_CHAOS_NONE;
	case VUBLK_CHAOS_UNREAD:
		snprintf(what, WHAT_BYTES, "the read succeeded but returned no data for sector %u",
			 sector);
		return VUBLK_CHAOS_CORRUPT;
	case VUBLK_CHAOS_FOREIGN:
		snprintf(what, WHAT_BYTES, "sector %u has data that another run (0x%016" PRIx64 ") "
			 "wrote to block %" PRIu64, sector, stamp.run, stamp.block);
		return VUBLK_CHAOS_CORRUPT;
	case VUBLK_CHAOS_GARBAGE:
		break;
	}
	found->mixed = is_mixture(verifier, place->block, place->floor, own,
				  (const unsigned char *)memory);
	if (found->mixed)
		return VUBLK_CHAOS_NONE;
	memcpy(&word, memory, sizeof(word));
	snprintf(what, WHAT_BYTES, "sector %u is damaged or was not written by this run; it starts "
		 "with 0x%016" PRIx64, sector, word);
	return VUBLK_CHAOS_CORRUPT;
}

/* --- blocks ------------------------------------------------------------------- */

static void set_seen(struct vublk_chaos_block *block, uint32_t generation)
{
	struct change *change = change_of(block, generation);

	block->newest_seen = VUBLK_CLI_MAX(block->newest_seen, generation);
	if (change)
		change->seen = true;
	/* After a discard, one read may return zeroes and the next one the old content. */
	if (!change || change->op != VUBLK_CHAOS_DISCARD)
		block->floor = VUBLK_CLI_MAX(block->floor, generation);
}

/*
 * Records that a read returned zeroes. Several of the permitted generations may be zeroes, so only
 * the oldest of these counts as seen.
 */
static void set_seen_zero(struct vublk_chaos_block *block, uint32_t floor)
{
	for (uint32_t g = floor; g <= block->newest_zero; g++) {
		const struct change *change = change_of(block, g);

		if (g && !change)
			return;
		if (g && change->op == VUBLK_CHAOS_WRITE)
			continue;
		set_seen(block, g);
		return;
	}
}

static enum vublk_chaos_fault report_torn(struct vublk_chaos_verifier *verifier,
					   const struct place *place, const struct found *found)
{
	char what[WHAT_BYTES];
	size_t used = (size_t)snprintf(what, sizeof(what), "expected generation %" PRIu32 "%s, "
				       "but found generations", place->floor,
				       place->block->newest > place->floor ? " or newer" : "");

	for (unsigned s = 0; s < VUBLK_CHAOS_SECTORS; s++)
		used += (size_t)snprintf(what + used, sizeof(what) - used,
					 found[s].mixed ? " a mixture" : " %" PRIu32,
					 found[s].generation);
	return report_fault(verifier, place, VUBLK_CHAOS_TORN, what);
}

static enum vublk_chaos_fault judge_generations(struct vublk_chaos_verifier *verifier,
						const struct place *place,
						const struct found *found)
{
	bool whole = true, allowed = true;

	for (unsigned s = 0; s < VUBLK_CHAOS_SECTORS; s++) {
		allowed &= is_allowed(place, &found[s]);
		whole &= !found[s].mixed && found[s].generation == found[0].generation;
	}
	if (!allowed)
		return whole ? report_old(verifier, place, found)
			     : report_torn(verifier, place, found);
	verifier->verified++;
	if (place->survived)
		return VUBLK_CHAOS_NONE; /* it is unknown whether the read was executed before or
					    after the loss */
	if (whole && place->block->expected) {
		verifier->forgotten += found->content == VUBLK_CHAOS_ZERO ?
				       place->block->newest_zero < place->block->expected :
				       found->generation < place->block->expected;
		place->block->expected = 0;
	}
	if (whole && found->content == VUBLK_CHAOS_ZERO)
		set_seen_zero(place->block, place->floor);
	else if (whole)
		set_seen(place->block, found->generation);
	return VUBLK_CHAOS_NONE;
}

/*
 * Checks a block that was read, and returns its worst fault. A damaged sector is worse than a
 * misplaced one, and a misplaced sector is worse than an old one.
 */
static enum vublk_chaos_fault judge_block(struct vublk_chaos_verifier *verifier,
					  const struct place *place, const char *memory)
{
	enum vublk_chaos_fault worst = VUBLK_CHAOS_NONE;
	struct found found[VUBLK_CHAOS_SECTORS];
	char what[WHAT_BYTES], worst_what[WHAT_BYTES] = "";

	if (place->block->is_reported && place->floor <= place->block->reported_newest)
		return VUBLK_CHAOS_NONE;
	place->block->is_reported = false;
	for (unsigned s = 0; s < VUBLK_CHAOS_SECTORS; s++) {
		enum vublk_chaos_fault fault =
			judge_sector(verifier, place, s, memory + s * VUBLK_CHAOS_SECTOR_BYTES,
				     &found[s], what);

		if (fault <= worst)
			continue;
		worst = fault;
		memcpy(worst_what, what, sizeof(what));
	}
	if (worst != VUBLK_CHAOS_NONE)
		return report_fault(verifier, place, worst, worst_what);
	return judge_generations(verifier, place, found);
}

/* --- completion --------------------------------------------------------------- */

static void complete_change(const struct vublk_chaos_verifier *verifier,
			    struct vublk_chaos_block *block, uint32_t generation,
			    enum vublk_chaos_op op)
{
	struct change *change = change_of(block, generation);

	if (change) {
		change->completed = true;
		change->interrupted = change->life != verifier->life;
		change->flush = change->interrupted ? 0 : verifier->flushes_begun + 1;
	}
	if (verifier->is_volatile && (!change || change->interrupted))
		return;
	if (op != VUBLK_CHAOS_DISCARD)
		block->floor = VUBLK_CLI_MAX(block->floor, generation);
}

enum vublk_chaos_fault vublk_chaos_verify_complete(struct vublk_chaos_verifier *verifier,
						   const struct vublk_chaos_request *request,
						   const void *buffer)
{
	bool survived = verifier->is_volatile && request->life != verifier->life;
	enum vublk_chaos_fault worst = VUBLK_CHAOS_NONE;

	if (request->op == VUBLK_CHAOS_FLUSH && request->life == verifier->life)
		verifier->flushes_done = VUBLK_CLI_MAX(verifier->flushes_done, request->flush);
	for (uint32_t i = 0; i < request->count; i++) {
		struct place place = {
			request->block + i, block_of(verifier, request, i), request->generations[i],
			survived,
		};
		const char *memory = (const char *)buffer + i * VUBLK_CHAOS_BLOCK_BYTES;

		if (request->op == VUBLK_CHAOS_READ && survived)
			place.floor = VUBLK_CLI_MIN(place.floor, place.block->lost_floor);
		if (request->op == VUBLK_CHAOS_READ)
			worst = VUBLK_CLI_MAX(worst, judge_block(verifier, &place, memory));
		else
			complete_change(verifier, place.block, place.floor, request->op);
	}
	return worst;
}
