/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CHAOS_VERIFY_H
#define VUBLK_CLI_CHAOS_VERIFY_H

/*
 * The verifier decides which content each block of a part of a disk may have, and whether a read
 * returned permitted content. It does no I/O: the caller reports each request when it starts and
 * when it completes.
 *
 * Every request that changes a block (write, write zeroes, discard) is a generation of that
 * block, numbered from 1 in the order in which the requests were started. Generation 0 is the
 * initial content, zeroes. All requests go through one queue, and the disk guarantees that
 * changes of the same block in one queue take effect in the order in which they were started.
 *
 * Key idea: therefore a read may return
 *
 *   - the block's floor: the newest generation that had been completed, or that a completed
 *     read had returned, when this read was started;
 *   - any newer generation that was started before this read completed.
 *
 * This holds for each byte: while several generations are possible, a block may be a mixture
 * of them. A discard leaves zeroes or the old content, so it never raises the floor.
 *
 * All other content is a fault, which has a name. A block is
 *
 *   corrupt    if a sector is not of this run: damaged, of another run, of a generation or
 *              a queue that never existed, or unchanged by the read
 *   misplaced  if a sector belongs to another block, or to another place in this one
 *   torn       if its sectors are of several generations, not all of them possible
 *
 * and, if all sectors are of one generation G, which is older than the floor:
 *
 *   repeated   if a read returned a newer generation before, and G is of an earlier life of
 *              the back-end; or if G was in flight when a back-end was lost, so that it was
 *              submitted again: it was executed again after a later change
 *   stale      if reads returned G and later a newer generation before, and no back-end was
 *              lost since G was started: an old copy came back
 *   reordered  if a read returned a newer generation before, but never G, and no back-end was
 *              lost since G was started: G took effect late; or if no read returned a newer
 *              one, and G was in flight when its successor was started: they were swapped
 *   lost       otherwise: a completed change was never visible
 *
 * A life is the time from one loss of a back-end to the next. A back-end with a volatile cache
 * (`is_volatile`) may lose completed changes that no flush made stable when its life ends. The
 * stable generation is the newest one that was completed before a flush was started which
 * completed in the same life; a discard is never stable. When a life ends, each block's floor
 * falls back to its stable generation. A request that was in flight across the end raises no
 * floor, because either the old or the new back-end may have executed it. A block that is
 * permitted to fall back, and did, is counted as forgotten.
 *
 * Each block remembers its last VUBLK_CHAOS_HISTORY generations; older generations count as
 * generations of an earlier life. A fault is counted once: the block is checked again after a
 * generation that was started after the fault has been completed.
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

/* One request, from start to completion. */
struct vublk_chaos_request {
	enum vublk_chaos_op op;
	uint32_t count;      /* blocks, at most VUBLK_CHAOS_MAX_BLOCKS; 0 for a flush */
	uint64_t block;      /* the first block, counted from the start of the disk */
	uint32_t life;       /* in which it was started */
	uint32_t flush;      /* the number of a flush */
	/* Per block: the floor for a read, the new generation for a change. */
	uint32_t generations[VUBLK_CHAOS_MAX_BLOCKS];
};

struct vublk_chaos_block;

struct vublk_chaos_verifier {
	uint64_t run;
	uint64_t first_block; /* of the part of the disk */
	uint64_t num_blocks;
	uint16_t queue;
	uint32_t life;        /* each loss of a back-end begins another */
	bool is_volatile;     /* set after init */
	uint32_t flushes_begun, flushes_done; /* done: the newest one completed in this life */
	struct vublk_chaos_block *blocks;

	uint64_t forgotten;   /* blocks of a volatile disk that fell back, which is permitted */
	uint64_t verified;    /* blocks that were read and correct */
	uint64_t overlapping; /* changes started while another of the same block was in flight */
	uint64_t faults[VUBLK_CHAOS_NUM_FAULTS];
	/* Descriptions of the first faults. */
	unsigned num_sentences;
	char sentences[VUBLK_CHAOS_MAX_SENTENCES][VUBLK_ERROR_TEXT_BYTES];
};

/* The blocks must be zeroes, with no request in flight. 0 or -ENOMEM. */
int vublk_chaos_verify_init(struct vublk_chaos_verifier *verifier, uint64_t run, uint16_t queue,
			    uint64_t first_block, uint64_t num_blocks, struct vublk_error *error);
void vublk_chaos_verify_deinit(struct vublk_chaos_verifier *verifier);

/* The present life; called after completions were taken and before they are reported. */
void vublk_chaos_verify_set_life(struct vublk_chaos_verifier *verifier, uint32_t life);

/*
 * To be called for each request before it goes to the disk, in the same order in which the requests
 * go there. The caller has set the fields op, block and count, which lie within the part of the
 * disk.
 */
void vublk_chaos_verify_begin(struct vublk_chaos_verifier *verifier,
			      struct vublk_chaos_request *request);

/* Fills the buffer of a started request: the data of a write, a mark for a read. */
void vublk_chaos_verify_fill(const struct vublk_chaos_verifier *verifier,
			     const struct vublk_chaos_request *request, void *buffer);

/* The request succeeded. Checks the data of a read and returns the worst fault. */
enum vublk_chaos_fault vublk_chaos_verify_complete(struct vublk_chaos_verifier *verifier,
						   const struct vublk_chaos_request *request,
						   const void *buffer);

/* Whether there was a fault. */
bool vublk_chaos_verify_failed(const struct vublk_chaos_verifier *verifier);

#endif
