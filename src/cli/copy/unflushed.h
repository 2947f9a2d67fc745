/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_COPY_UNFLUSHED_H
#define VUBLK_CLI_COPY_UNFLUSHED_H

/*
 * Which pieces of a copy were written and are not stable yet, and which have to be copied
 * again because the back-end that had completed them was lost. No I/O; the caller locks it.
 *
 * Key idea: a flush covers the pieces that were written when it began. A piece belongs to
 * `written` until a flush begins, to `flushing` until that succeeds, and then it is forgotten.
 * If the flush says that writes are lost, both lists are copied again. A piece that was being
 * written at that time is copied again, too: its completion may have been that of the lost
 * back-end and not have been looked at. The number of losses tells such pieces.
 */

#include "cli/copy/sparse.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vublk_copy_pieces {
	struct vublk_extent *list;
	size_t count, room;
};

struct vublk_copy_unflushed {
	bool tracks;               /* false: nothing is remembered, because no loss is survived */
	bool flush_under_way;
	unsigned losses;
	uint64_t written_bytes;    /* since the last flush began */
	uint64_t interval_bytes;   /* after so many the next begins */
	uint64_t most_bytes;       /* of the interval */
	struct vublk_copy_pieces written, flushing, again;
};

/* `tracks` as above; a flush is wanted after `most_bytes` at the latest. */
void vublk_copy_unflushed_init(struct vublk_copy_unflushed *unflushed, bool tracks,
			       uint64_t most_bytes);
void vublk_copy_unflushed_deinit(struct vublk_copy_unflushed *unflushed);

/*
 * A piece was written; `losses` as they were when it was handed out. 1: it counts; 0: it is
 * to be copied again; -ENOMEM.
 */
int vublk_copy_unflushed_add(struct vublk_copy_unflushed *unflushed,
			     const struct vublk_extent *piece, unsigned losses);
/* A piece that is to be copied again; false: there is none. */
bool vublk_copy_unflushed_take_again(struct vublk_copy_unflushed *unflushed,
				     struct vublk_extent *piece);

/* Whether a flush is due; it has begun; it has succeeded. */
bool vublk_copy_unflushed_wants_flush(const struct vublk_copy_unflushed *unflushed);
void vublk_copy_unflushed_begin(struct vublk_copy_unflushed *unflushed);
void vublk_copy_unflushed_succeeded(struct vublk_copy_unflushed *unflushed);
/* A flush says that writes may be lost. The bytes that are to be copied again; -ENOMEM. */
int64_t vublk_copy_unflushed_lose(struct vublk_copy_unflushed *unflushed);

#endif
