/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The pieces of a copy that no flush has made stable; see unflushed.h.
 *
 * Key idea: a loss halves the interval between flushes, and a successful flush doubles it. With a
 * fixed interval, a copy would never advance if its back-end were lost more often than flushes are
 * due.
 */
#include "cli/copy/unflushed.h"

#include "cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MIN_INTERVAL_BYTES (UINT64_C(1) << 20)
#define MIN_ROOM 64

/* --- lists -------------------------------------------------------------------- */

static int reserve(struct vublk_copy_pieces *pieces, size_t count)
{
	size_t room = VUBLK_CLI_MAX(pieces->room, (size_t)MIN_ROOM);
	struct vublk_extent *list;

	while (room < pieces->count + count)
		room *= 2;
	if (room == pieces->room)
		return 0;
	list = realloc(pieces->list, room * sizeof(*list));
	if (!list)
		return -ENOMEM;
	pieces->list = list;
	pieces->room = room;
	return 0;
}

static int append(struct vublk_copy_pieces *pieces, const struct vublk_extent *piece)
{
	int ret = reserve(pieces, 1);

	if (!ret)
		pieces->list[pieces->count++] = *piece;
	return ret;
}

/*
 * Moves all pieces of `from` to `to`, which must have room. Returns the total size of these pieces
 * in bytes.
 */
static int64_t move_all(struct vublk_copy_pieces *to, struct vublk_copy_pieces *from)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < from->count; i++) {
		bytes += from->list[i].bytes;
		to->list[to->count++] = from->list[i];
	}
	from->count = 0;
	return (int64_t)bytes;
}

/* --- the pieces --------------------------------------------------------------- */

void vublk_copy_unflushed_init(struct vublk_copy_unflushed *unflushed, bool tracks,
			       uint64_t most_bytes)
{
	*unflushed = (struct vublk_copy_unflushed){
		.tracks = tracks, .interval_bytes = most_bytes, .most_bytes = most_bytes,
	};
}

void vublk_copy_unflushed_deinit(struct vublk_copy_unflushed *unflushed)
{
	free(unflushed->written.list);
	free(unflushed->flushing.list);
	free(unflushed->again.list);
	*unflushed = (struct vublk_copy_unflushed){ 0 };
}

int vublk_copy_unflushed_add(struct vublk_copy_unflushed *unflushed,
			     const struct vublk_extent *piece, unsigned losses)
{
	int ret;

	if (!unflushed->tracks)
		return 1;
	if (losses != unflushed->losses)
		return append(&unflushed->again, piece);
	ret = append(&unflushed->written, piece);
	unflushed->written_bytes += piece->bytes;
	return ret ? ret : 1;
}

bool vublk_copy_unflushed_take_again(struct vublk_copy_unflushed *unflushed,
				     struct vublk_extent *piece)
{
	if (!unflushed->again.count)
		return false;
	*piece = unflushed->again.list[--unflushed->again.count];
	return true;
}

/* --- flushes ------------------------------------------------------------------ */

bool vublk_copy_unflushed_wants_flush(const struct vublk_copy_unflushed *unflushed)
{
	return !unflushed->is_flushing &&
	       unflushed->written_bytes >= unflushed->interval_bytes;
}

void vublk_copy_unflushed_begin(struct vublk_copy_unflushed *unflushed)
{
	struct vublk_copy_pieces empty = unflushed->flushing;

	unflushed->flushing = unflushed->written;
	unflushed->written = empty;
	unflushed->written_bytes = 0;
	unflushed->is_flushing = true;
}

void vublk_copy_unflushed_succeeded(struct vublk_copy_unflushed *unflushed)
{
	unflushed->flushing.count = 0;
	unflushed->is_flushing = false;
	unflushed->interval_bytes = VUBLK_CLI_MIN(unflushed->interval_bytes * 2,
						  unflushed->most_bytes);
}

int64_t vublk_copy_unflushed_lose(struct vublk_copy_unflushed *unflushed)
{
	struct vublk_copy_pieces *again = &unflushed->again;
	int64_t bytes;

	if (reserve(again, unflushed->flushing.count + unflushed->written.count))
		return -ENOMEM;
	bytes = move_all(again, &unflushed->flushing) + move_all(again, &unflushed->written);
	unflushed->losses++;
	unflushed->written_bytes = 0;
	unflushed->is_flushing = false;
	if (unflushed->interval_bytes / 2 >= MIN_INTERVAL_BYTES)
		unflushed->interval_bytes /= 2;
	return bytes;
}
