/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CHAOS_VERIFY_H
#define VUBLK_CLI_CHAOS_VERIFY_H

/*
 * The verifier decides which content the blocks in its part of the disk may have, and whether a
 * read returned permitted content. The verifier does no I/O: the caller reports each request to it,
 * once before the request starts and once when it has completed.
 *
 * Every request that changes a block (write, write zeroes, discard) makes a generation of that
 * block. The generations of a block are numbered from 1 in the order in which these requests were
 * started. Generation 0 is the initial content, zeroes. All requests go through one queue, and the
 * disk guarantees that changes of the same block in one queue take effect in the order in which
 * they were started.
 *
 * Key idea: therefore a read may return
 *
 *   - the block's floor: the newest generation that had been completed, or that a completed
 *     read had returned, when this read was started;
 *   - any newer generation that was started before this read completed.
 *
 * This rule holds for each byte: while several generations are permitted, a block may be a mixture
 * of them. A discard leaves either zeroes or the old content, so it never raises the floor.
 *
 * All other content is a fault, which has a name. A block is
 *
 *   corrupt    if a sector is damaged, is of another run or another queue, has a generation
 *              that was never started, or is unchanged by the read
 *   misplaced  if a sector belongs to another block, or to another place in this one
 *   torn       if its sectors are of several generations, not all of them permitted
 *
 * and, if all sectors are of one generation G, which is older than the floor (generation 0 is only
 * ever stale or lost, because no request made it):
 *
 *   repeated   if an earlier read returned a newer generation, and G is of an earlier life of
 *              the back-end; or if G was in flight when a back-end was lost, so that the disk
 *              submitted it again: G was executed again after a later change
 *   stale      if earlier reads returned both G and a newer generation, and no back-end was
 *              lost since G was started: an old copy came back
 *   reordered  if an earlier read returned a newer generation, but none returned G, and no
 *              back-end was lost since G was started: G took effect late; or if no read
 *              returned a newer generation, and G was in flight when its successor was
 *              started: the two were swapped
 *   lost       otherwise: a completed change was never visible
 *
 * A life is the time from one loss of a back-end to the next. At the end of a life, a back-end with
 * a volatile cache (`is_volatile`) may lose completed changes that no flush made stable. A
 * generation is stable if it was completed before the start of a flush, and that flush completed in
 * the same life. A discard is never stable. The stable generation of a block is the newest one that
 * is stable. At the end of a life, the floor of each block falls back to the block's stable
 * generation. A request that was in flight at that time raises no floor, because the old or the new
 * back-end may have executed it. If a read shows that a block did fall back, the block is counted
 * as forgotten.
 *
 * Each block remembers its last VUBLK_CHAOS_HISTORY generations; older generations count as
 * generations of an earlier life. A fault is counted once: the verifier ignores the block until a
 * generation that was started after the fault has completed.
 */

#include "cli/chaos/stamp.h"

#include <vublk/error.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VUBLK_CHAOS_MAX_BLOCKS 8 /* the largest number of blocks of a request */
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

/* Returns the name of a fault, such as "lost", as a static string. */
const char *vublk_chaos_fault_name(enum vublk_chaos_fault fault);
/* Returns the name of an operation, such as "read", as a static string. */
const char *vublk_chaos_op_name(enum vublk_chaos_op op);

/* A request, from its start to its completion. */
struct vublk_chaos_request {
	enum vublk_chaos_op op;
	uint32_t count;      /* blocks, at most VUBLK_CHAOS_MAX_BLOCKS; 0: a flush */
	uint64_t block;      /* the first block, counted from the start of the disk */
	uint32_t life;       /* the life in which the request was started */
	uint32_t flush;      /* if the request is a flush: its number, from 1 */
	/*
	 * For each block: the block's floor if the request is a read, or the new generation if the
	 * request is a change.
	 */
	uint32_t generations[VUBLK_CHAOS_MAX_BLOCKS];
};

struct vublk_chaos_block;

struct vublk_chaos_verifier {
	uint64_t run;
	uint64_t first_block; /* where this verifier's part of the disk begins */
	uint64_t num_blocks;
	uint16_t queue;
	uint32_t life;        /* increases with each loss of a back-end */
	bool is_volatile;     /* a volatile cache may lose changes; set by the owner after
				 vublk_chaos_verify_init() */
	uint32_t flushes_begun, flushes_done; /* flushes_done: the newest flush that completed in
						 the life in which it began */
	struct vublk_chaos_block *blocks;

	uint64_t forgotten;   /* blocks that fell back to older content, as the volatile cache
				 permits */
	uint64_t verified;    /* blocks that were read and found correct */
	uint64_t overlapping; /* changes that were started while another change of the same block
				 was in flight */
	uint64_t faults[VUBLK_CHAOS_NUM_FAULTS];
	/* The sentences that describe the first faults. */
	unsigned num_sentences;
	char sentences[VUBLK_CHAOS_MAX_SENTENCES][VUBLK_ERROR_TEXT_BYTES];
};

/*
 * Initializes a verifier for `num_blocks` blocks from `first_block` on. Each block must contain
 * zeroes or be changed before it is read, and no request may be in flight. Returns 0 or -ENOMEM.
 */
int vublk_chaos_verify_init(struct vublk_chaos_verifier *verifier, uint64_t run, uint16_t queue,
			    uint64_t first_block, uint64_t num_blocks, struct vublk_error *error);
void vublk_chaos_verify_deinit(struct vublk_chaos_verifier *verifier);

/*
 * Sets the current life. Must be called each time after completions were taken from the queue, and
 * before they are reported to the verifier.
 */
void vublk_chaos_verify_set_life(struct vublk_chaos_verifier *verifier, uint32_t life);

/*
 * Must be called for each request before the request is added to the disk's queue, in the same
 * order as the requests are added. The caller must have set the fields op, block and count. The
 * blocks must lie within the verifier's part of the disk.
 */
void vublk_chaos_verify_begin(struct vublk_chaos_verifier *verifier,
			      struct vublk_chaos_request *request);

/*
 * Fills the buffer of a request for which vublk_chaos_verify_begin() was called: with the data if
 * the request is a write, or with the mark "unread" if it is a read.
 */
void vublk_chaos_verify_fill(const struct vublk_chaos_verifier *verifier,
			     const struct vublk_chaos_request *request, void *buffer);

/*
 * Must be called when a request has succeeded. Checks `buffer`, the data of a read, and returns the
 * worst fault that it found. Returns VUBLK_CHAOS_NONE for other requests.
 */
enum vublk_chaos_fault vublk_chaos_verify_complete(struct vublk_chaos_verifier *verifier,
						   const struct vublk_chaos_request *request,
						   const void *buffer);

/* Returns whether a fault was found. */
bool vublk_chaos_verify_failed(const struct vublk_chaos_verifier *verifier);

#endif
