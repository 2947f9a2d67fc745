/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Divides the writes of a log into pieces; see write-replay.h. */
#include "virtio/write-replay.h"

#include "virtio/blk-format.h"

void vublk_write_replay_begin(struct vublk_write_replay *replay, struct vublk_write_log *log)
{
	*replay = (struct vublk_write_replay){ .log = log };
	vublk_write_log_rewind(log);
}

/* Returns whether the range overlaps a piece that is out. */
static bool overlaps(const struct vublk_write_replay *replay, uint64_t offset, uint64_t bytes)
{
	for (unsigned i = 0; i < VUBLK_WRITE_REPLAY_SLOTS; i++) {
		const struct vublk_write_replay_piece *piece = &replay->pieces[i];

		if (piece->is_out &&
		    vublk_ranges_overlap(piece->offset, piece->bytes, offset, bytes))
			return true;
	}
	return false;
}

/*
 * Unless a write is being divided, moves to the next write that has at least one byte. Returns
 * false if there is no such write.
 */
static bool next_entry(struct vublk_write_replay *replay)
{
	const void *data;

	while (!replay->has_entry) {
		if (!vublk_write_log_next(replay->log, &replay->entry, &data))
			return false;
		replay->data = data;
		replay->done_bytes = 0;
		replay->has_entry = replay->entry.bytes;
		replay->num_writes++;
		replay->num_bytes += replay->entry.bytes;
	}
	return true;
}

static int find_free(const struct vublk_write_replay *replay)
{
	for (unsigned i = 0; i < VUBLK_WRITE_REPLAY_SLOTS; i++)
		if (!replay->pieces[i].is_out)
			return (int)i;
	return -1;
}

enum vublk_write_replay_step vublk_write_replay_next(struct vublk_write_replay *replay,
						     uint64_t max_bytes, unsigned *slot)
{
	const struct vublk_write_log_entry *entry = &replay->entry;
	struct vublk_write_replay_piece piece = { 0 };
	int i = find_free(replay);

	if (replay->has_failed)
		return replay->num_out ? VUBLK_WRITE_REPLAY_WAIT : VUBLK_WRITE_REPLAY_FAILED;
	if (!next_entry(replay))
		return replay->num_out ? VUBLK_WRITE_REPLAY_WAIT : VUBLK_WRITE_REPLAY_DONE;
	piece.type = entry->type;
	piece.flags = entry->flags;
	piece.offset = entry->offset + replay->done_bytes;
	piece.bytes = entry->bytes - replay->done_bytes;
	if (piece.type == VIRTIO_BLK_T_OUT) {
		max_bytes = VUBLK_MIN(max_bytes, VUBLK_WRITE_REPLAY_BYTES) &
			    -(uint64_t)VUBLK_SECTOR_BYTES;
		piece.bytes = VUBLK_MIN(piece.bytes, max_bytes);
		piece.data = replay->data + replay->done_bytes;
	}
	if (i < 0 || overlaps(replay, piece.offset, piece.bytes))
		return VUBLK_WRITE_REPLAY_WAIT;
	replay->pieces[i] = piece;
	*slot = (unsigned)i;
	return VUBLK_WRITE_REPLAY_PIECE;
}

void vublk_write_replay_sent(struct vublk_write_replay *replay, unsigned slot)
{
	struct vublk_write_replay_piece *piece = &replay->pieces[slot];

	piece->is_out = true;
	replay->num_out++;
	replay->done_bytes += piece->bytes;
	replay->has_entry = replay->done_bytes < replay->entry.bytes;
}

void vublk_write_replay_returned(struct vublk_write_replay *replay, unsigned slot, uint8_t status)
{
	struct vublk_write_replay_piece *piece = &replay->pieces[slot];

	piece->is_out = false;
	replay->num_out--;
	/* After a discard any content is valid, so the failure of a discard does not matter. */
	if (status != VIRTIO_BLK_S_OK && piece->type != VIRTIO_BLK_T_DISCARD)
		replay->has_failed = true;
}
