/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_COPY_UNFLUSHED_H
#define VUBLK_CLI_COPY_UNFLUSHED_H

/*
 * Keeps track of the pieces of a copy that are written but not stable, and of those that have
 * to be copied again because their back-end was lost. It does no I/O; the caller locks it.
 *
 * Key idea: a flush covers the pieces that were completed when it began. A piece is in `written`
 * until a flush begins, in `flushing` until that flush succeeds, and then in no list. If a flush
 * reports lost writes, the pieces of both lists are copied again. A piece that was in flight at
 * that time is also copied again, because the lost back-end may have completed it without the copy
 * having seen the completion. The number of losses identifies such pieces.
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
	bool tracks;               /* false: keep no lists, because a loss ends the copy */
	bool is_flushing;
	unsigned losses;
	uint64_t written_bytes;    /* since the last flush began */
	uint64_t interval_bytes;   /* after this number, the next flush begins */
	uint64_t most_bytes;       /* limit of interval_bytes */
	struct vublk_copy_pieces written, flushing, again;
};

/* `tracks` as above; a flush is wanted after `most_bytes` at the latest. */
void vublk_copy_unflushed_init(struct vublk_copy_unflushed *unflushed, bool tracks,
			       uint64_t most_bytes);
void vublk_copy_unflushed_deinit(struct vublk_copy_unflushed *unflushed);

/*
 * To be called when a piece was written; `losses` is the number of losses when its copying began.
 * Returns 1 if the piece counts as copied, 0 if it has to be copied again, or -ENOMEM.
 */
int vublk_copy_unflushed_add(struct vublk_copy_unflushed *unflushed,
			     const struct vublk_extent *piece, unsigned losses);
/* Removes a piece that has to be copied again from its list; false: there is none. */
bool vublk_copy_unflushed_take_again(struct vublk_copy_unflushed *unflushed,
				     struct vublk_extent *piece);

/* Whether a flush is due. */
bool vublk_copy_unflushed_wants_flush(const struct vublk_copy_unflushed *unflushed);
/* To be called when a flush has begun. */
void vublk_copy_unflushed_begin(struct vublk_copy_unflushed *unflushed);
/* To be called when that flush has succeeded. */
void vublk_copy_unflushed_succeeded(struct vublk_copy_unflushed *unflushed);
/* A flush reports lost writes. Returns how many bytes have to be copied again, or -ENOMEM. */
int64_t vublk_copy_unflushed_lose(struct vublk_copy_unflushed *unflushed);

#endif
