/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_WRITE_REPLAY_H
#define VUBLK_VIRTIO_WRITE_REPLAY_H

/*
 * Decides in which order the writes of a log (write-log.h) are sent to a back-end.
 *
 * Key idea: writes are divided into pieces, of which several are outstanding at the same time. A
 * piece is "out" from when it is sent until it completes. Two pieces that overlap are never out at
 * the same time, so overlapping writes take effect in the order of the log. If a piece fails, or
 * the back-end is lost, the whole replay is repeated. The repetition is safe, because the same
 * writes in the same order result in the same disk.
 */
#include "virtio/write-log.h"

/* The largest number of pieces that are out at the same time, and of bytes of data in one piece. */
#define VUBLK_WRITE_REPLAY_SLOTS 8
#define VUBLK_WRITE_REPLAY_BYTES (UINT64_C(128) << 10)

struct vublk_write_replay_piece {
	bool is_out;
	uint32_t type, flags;
	uint64_t offset, bytes; /* of the disk */
	const char *data;       /* only for an OUT */
};

struct vublk_write_replay {
	struct vublk_write_log *log;
	struct vublk_write_replay_piece pieces[VUBLK_WRITE_REPLAY_SLOTS];
	unsigned num_out;
	bool has_failed;     /* at least one piece has failed */
	unsigned num_writes; /* how many writes of the log were begun */
	uint64_t num_bytes;  /* of these writes */

	/* the write that is being divided; done_bytes bytes of it have been sent */
	bool has_entry;
	struct vublk_write_log_entry entry;
	const char *data;
	uint64_t done_bytes;
};

/* Begins a replay with the first write of the log. No piece may be out. */
void vublk_write_replay_begin(struct vublk_write_replay *replay, struct vublk_write_log *log);

enum vublk_write_replay_step {
	VUBLK_WRITE_REPLAY_PIECE, /* pieces[*slot] can be sent */
	VUBLK_WRITE_REPLAY_WAIT,  /* a piece has to complete first */
	VUBLK_WRITE_REPLAY_DONE,  /* all pieces were sent and have completed */
	VUBLK_WRITE_REPLAY_FAILED, /* a piece has failed, and none is out */
};

/*
 * Returns what to do next. A piece has at most `max_bytes` (at least 512) and
 * VUBLK_WRITE_REPLAY_BYTES bytes of data. If the caller does not send the piece, the next call
 * returns it again.
 */
enum vublk_write_replay_step vublk_write_replay_next(struct vublk_write_replay *replay,
						     uint64_t max_bytes, unsigned *slot);
/* Called when the piece in `slot` was sent. */
void vublk_write_replay_sent(struct vublk_write_replay *replay, unsigned slot);
/* Called when the piece in `slot` has completed with `status`. */
void vublk_write_replay_returned(struct vublk_write_replay *replay, unsigned slot, uint8_t status);

#endif
