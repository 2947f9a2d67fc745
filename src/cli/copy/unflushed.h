/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_COPY_UNFLUSHED_H
#define VUBLK_CLI_COPY_UNFLUSHED_H

/*
 * Keeps track of the pieces of a copy that are written but not stable, and of those that have to be
 * copied again because their back-end was lost. The functions do no I/O, and the caller must hold
 * the lock of the copy.
 *
 * Key idea: a flush covers the pieces that were completed when it began. A completed piece is in
 * the list `written` until a flush begins, in `flushing` until that flush succeeds, and then in no
 * list. If a flush reports lost writes, the pieces of both lists are copied again. A piece that is
 * in flight at that time is copied again when it has completed, because the lost back-end may have
 * executed its write. Such a piece is recognized because a back-end was lost since its copying began.
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
	bool tracks;               /* false: the lists stay empty, because completed writes cannot
				      be lost or a loss ends the copy */
	bool is_flushing;
	unsigned losses;
	uint64_t written_bytes;    /* the bytes of the pieces in `written` */
	uint64_t interval_bytes;   /* a flush is due after this many written bytes */
	uint64_t most_bytes;       /* the largest value of interval_bytes */
	struct vublk_copy_pieces written, flushing, again;
};

/*
 * Initializes the struct with empty lists. `tracks` is the value for the member `tracks`. A flush
 * is due after at most `most_bytes` written bytes.
 */
void vublk_copy_unflushed_init(struct vublk_copy_unflushed *unflushed, bool tracks,
			       uint64_t most_bytes);
void vublk_copy_unflushed_deinit(struct vublk_copy_unflushed *unflushed);

/*
 * Must be called when a piece has been written. `losses` is the value of unflushed->losses when the
 * copying of the piece began. Returns 1 if the piece counts as copied, 0 if it has to be copied
 * again, or -ENOMEM.
 */
int vublk_copy_unflushed_add(struct vublk_copy_unflushed *unflushed,
			     const struct vublk_extent *piece, unsigned losses);
/*
 * Removes a piece from the list `again` and stores it in `piece`. Returns false if the list is
 * empty.
 */
bool vublk_copy_unflushed_take_again(struct vublk_copy_unflushed *unflushed,
				     struct vublk_extent *piece);

/* Returns whether a flush should begin. */
bool vublk_copy_unflushed_wants_flush(const struct vublk_copy_unflushed *unflushed);
/* Must be called when a flush has begun. */
void vublk_copy_unflushed_begin(struct vublk_copy_unflushed *unflushed);
/* Must be called when the flush has succeeded. */
void vublk_copy_unflushed_succeeded(struct vublk_copy_unflushed *unflushed);
/*
 * Must be called when a flush reports lost writes. Moves the pieces of `written` and `flushing` to
 * `again`. Returns the total size of these pieces in bytes, or -ENOMEM.
 */
int64_t vublk_copy_unflushed_lose(struct vublk_copy_unflushed *unflushed);

#endif
