/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CHAOS_VERIFY_H
#define VUBLK_CLI_CHAOS_VERIFY_H

/*
 * Which content each block of a part of a disk may have, and whether what was read
 * is it. No I/O: whoever does that tells what begins, and what is completed.
 *
 * Everything that changes a block (write, write zeroes, discard) is a generation of
 * it, numbered from 1 in the order in which it was begun. Generation 0 is what the
 * block is before: zeroes. One queue does it all, and the disk guarantees that in a
 * queue changes of the same block take effect in the order in which they were begun.
 * From that follows the whole rule. A read may bring
 *
 *   - the block's floor, which is the newest generation that had been completed, or
 *     seen by a read that had been completed, when the read was begun;
 *   - every newer one that was begun before the read was completed.
 *
 * Byte by byte: while more than one is possible, a block may be part this, part that.
 * A discard leaves zeroes or what it found, and is therefore never a floor.
 * What may not be has a name. Of a block:
 *
 *   corrupt    a sector is no sector of this run: damaged, of another run, of a
 *              generation or queue that never was, or the read brought nothing
 *   misplaced  a sector belongs to another block, or to another place in this one
 *   torn       its sectors are of several generations, and not all of these may be
 *
 * and where all sectors are of one generation G, which is older than the floor:
 *
 *   repeated   a generation newer than G had been seen, and G is of an earlier life
 *              of the back-end; or G was in flight when a back-end was lost, and so
 *              was handed over once more: it was done again after what overtook it
 *   stale      a newer one had been seen, and so had G before, and no back-end was
 *              lost since G was begun: an old copy came back
 *   reordered  a newer one had been seen, G never, and no back-end was lost since G
 *              was begun: G took effect late; or nothing newer was ever seen, and G was
 *              still in flight when its successor was begun: they changed places
 *   lost       otherwise: what was completed has never been there
 *
 * A back-end with a volatile cache (`is_volatile`) may lose with its life what it completed and no
 * flush made stable. Stable is the newest generation that had been completed when a flush was
 * begun which was completed in the same life of the back-end; a discard never is. When a life
 * ends, each block's floor falls back to that, and what a request brings that lived to see the
 * end raises no floor: whether the old back-end or the new one did it is not known. A block
 * that fell back, as it may, is counted as forgotten.
 *
 * Each block remembers its last VUBLK_CHAOS_HISTORY generations; one that is older
 * counts as of an earlier life. After a fault a block is judged again when a
 * generation has been completed that was begun after it: a fault is counted once.
 */

#include "cli/chaos/stamp.h"

#include <vublk/error.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VUBLK_CHAOS_MAX_BLOCKS 8 /* of one request */
#define VUBLK_CHAOS_HISTORY 8    /* a power of two */
#define VUBLK_CHAOS_MAX_SENTENCES 8

enum vublk_chaos_op {
	VUBLK_CHAOS_READ,
	VUBLK_CHAOS_WRITE,
	VUBLK_CHAOS_ZEROES,
	VUBLK_CHAOS_DISCARD,
	VUBLK_CHAOS_FLUSH,
	VUBLK_CHAOS_NUM_OPS,
};

enum vublk_chaos_fault {
	VUBLK_CHAOS_NONE,
	VUBLK_CHAOS_LOST,
	VUBLK_CHAOS_REPEATED,
	VUBLK_CHAOS_TORN,
	VUBLK_CHAOS_STALE,
	VUBLK_CHAOS_REORDERED,
	VUBLK_CHAOS_MISPLACED,
	VUBLK_CHAOS_CORRUPT,
	VUBLK_CHAOS_NUM_FAULTS,
};

/* "lost"; static. */
const char *vublk_chaos_fault_name(enum vublk_chaos_fault fault);
/* "read"; static. */
const char *vublk_chaos_op_name(enum vublk_chaos_op op);

/* One request, from its beginning to its completion. */
struct vublk_chaos_request {
	enum vublk_chaos_op op;
	uint32_t count;      /* blocks, at most VUBLK_CHAOS_MAX_BLOCKS; of a flush 0 */
	uint64_t block;      /* the first, counted from the beginning of the disk */
	uint32_t life;       /* of the back-end, when it was begun */
	uint32_t flush;      /* of a flush: its number */
	/* Of a read the floors, else what it makes of each block. */
	uint32_t generations[VUBLK_CHAOS_MAX_BLOCKS];
};

struct vublk_chaos_block;

struct vublk_chaos_verifier {
	uint64_t run;
	uint64_t first_block; /* the part of the disk */
	uint64_t num_blocks;
	uint16_t queue;
	uint32_t life;        /* of the back-end; each loss begins another */
	bool is_volatile;     /* set after init */
	uint32_t flushes_begun, flushes_done; /* done: the newest, in this life */
	struct vublk_chaos_block *blocks;

	uint64_t forgotten;   /* blocks of a volatile disk that fell back, as they may */
	uint64_t verified;    /* blocks that were read and found right */
	uint64_t overlapping; /* changes of a block begun while another was in flight */
	uint64_t faults[VUBLK_CHAOS_NUM_FAULTS];
	/* What the first of them were, in words. */
	unsigned num_sentences;
	char sentences[VUBLK_CHAOS_MAX_SENTENCES][VUBLK_ERROR_TEXT_BYTES];
};

/* -ENOMEM. The blocks are zeroes, and nothing is in flight. */
int vublk_chaos_verify_init(struct vublk_chaos_verifier *verifier, uint64_t run, uint16_t queue,
			    uint64_t first_block, uint64_t num_blocks, struct vublk_error *error);
void vublk_chaos_verify_deinit(struct vublk_chaos_verifier *verifier);

/* The life of the back-end as it is when completions have been taken, before they are told. */
void vublk_chaos_verify_set_life(struct vublk_chaos_verifier *verifier, uint32_t life);

/*
 * Before the request goes to the disk, in the order in which requests go; op, block
 * and count are set and within the part.
 */
void vublk_chaos_verify_begin(struct vublk_chaos_verifier *verifier,
			      struct vublk_chaos_request *request);

/* What a write that has begun writes, or what a read finds in its buffer before. */
void vublk_chaos_verify_fill(const struct vublk_chaos_verifier *verifier,
			     const struct vublk_chaos_request *request, void *buffer);

/* The request succeeded; what a read brought is judged. Returns the worst fault of it. */
enum vublk_chaos_fault vublk_chaos_verify_complete(struct vublk_chaos_verifier *verifier,
						   const struct vublk_chaos_request *request,
						   const void *buffer);

/* Whether anything was wrong. */
bool vublk_chaos_verify_failed(const struct vublk_chaos_verifier *verifier);

#endif
