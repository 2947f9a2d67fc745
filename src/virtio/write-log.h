/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_WRITE_LOG_H
#define VUBLK_VIRTIO_WRITE_LOG_H

/*
 * A bounded log of copies of completed writes that no flush has made stable yet. After the loss of
 * a back-end, the user of the log sends these writes again, to the next back-end.
 *
 * Key idea: each thread that takes completions owns a stream, which is a first-in first-out buffer,
 * so appending needs no lock. The entries of all streams are ordered by one sequence number for the
 * whole disk. The mark of a flush is the value of this number before the flush was submitted. When
 * the flush has succeeded, all entries with lower numbers are stable, in every stream. The owner of
 * a stream frees the stream's stable entries.
 *
 * The memory is one file, mapped at init. A stream is mapped twice, at consecutive addresses, so
 * that an entry that wraps around is contiguous. No back-end gets the file.
 *
 * The pair of accesses:
 *
 *   S  The owner of a stream takes a completion from its ring before it takes a sequence number.
 *      The thread that loads the mark publishes its flush afterwards. So the back-end had completed
 *      each write below the mark when it began the flush.
 */
#include "util/atomic.h"
#include "util/checked.h"

#include <vublk/error.h>

#include <linux/virtio_blk.h>
#include <stdbool.h>
#include <stdint.h>

/* A write. If `type` is VIRTIO_BLK_T_OUT, the data follows the entry in the stream. */
struct vublk_write_log_entry {
	uint64_t sequence;
	uint64_t offset, bytes; /* of the disk */
	uint32_t type;          /* OUT, DISCARD, WRITE_ZEROES or SECURE_ERASE */
	uint32_t flags;         /* the flags of the request's range, if the type is not OUT */
};

struct vublk_write_log_stream {
	char *host;          /* mapped twice */
	uint64_t size_bytes;
	uint64_t head, tail; /* positions; the entries are between them */
	uint64_t reserved_bytes;
	uint64_t touched;    /* the highest `tail` since memory was last returned to the kernel */
	uint64_t next;       /* the position for vublk_write_log_next() */
} __attribute__((aligned(VUBLK_CACHE_LINE)));

struct vublk_write_log {
	int fd;
	unsigned num_streams;
	struct vublk_write_log_stream *streams;
	/* atomic: the next entry's number, and the number below which all entries are stable */
	uint64_t sequence __attribute__((aligned(VUBLK_CACHE_LINE)));
	uint64_t stable;
};

/*
 * Divides `bytes` equally among the streams, in whole pages, at least one per stream. Only pages
 * that are used become resident. Errors: ENOMEM and others; the log is then freed.
 */
int vublk_write_log_init(struct vublk_write_log *log, unsigned num_streams, uint64_t bytes,
			 struct vublk_error *error);
/* Frees the log. Idempotent; a no-op for a zeroed log. */
void vublk_write_log_deinit(struct vublk_write_log *log);

struct vublk_fields;

/*
 * Writes the file and the positions of a log with one stream, or replaces those of `log` with the
 * ones that another process has written. For reading, `log` must be an empty log of the same size.
 * Reservations are not handed over. Errors: EINVAL if the file or an entry is invalid; ENOMEM and
 * others.
 */
int vublk_write_log_fields(struct vublk_write_log *log, struct vublk_fields *fields,
			   struct vublk_error *error);

/* --- the owner of a stream --------------------------------------------------------------- */

/*
 * Returns how many bytes a write takes in a stream: its entry, and the data of a VIRTIO_BLK_T_OUT,
 * which has `bytes` bytes.
 */
static inline uint64_t vublk_write_log_room(uint32_t type, uint64_t bytes)
{
	uint64_t header = sizeof(struct vublk_write_log_entry);

	return header + (type == VIRTIO_BLK_T_OUT ? vublk_round_up(bytes, header) : 0);
}

/*
 * Frees the stable entries of the stream. If the stream is empty afterwards, returns most of its
 * memory to the kernel.
 */
void vublk_write_log_collect(struct vublk_write_log *log, struct vublk_write_log_stream *stream);

/*
 * Reserves room for entries that the caller will append when their writes have completed. Returns
 * false if the stream does not have enough free room now. Always fails if `room` is larger than the
 * stream.
 */
static inline bool vublk_write_log_reserve(struct vublk_write_log_stream *stream, uint64_t room)
{
	uint64_t used = stream->tail - stream->head + stream->reserved_bytes;

	if (!vublk_range_within(used, room, stream->size_bytes))
		return false;
	stream->reserved_bytes += room;
	return true;
}

/* Cancels a reservation. */
static inline void vublk_write_log_release(struct vublk_write_log_stream *stream, uint64_t room)
{
	stream->reserved_bytes -= room;
}

/*
 * Appends an entry, for which the caller must have reserved room. Must be called after the owner
 * has taken the completion of the write from its ring, and before the driver or the application
 * sees the completion. Returns the place for the data, which the caller fills in.
 */
void *vublk_write_log_append(struct vublk_write_log *log, struct vublk_write_log_stream *stream,
			     uint32_t type, uint32_t flags, uint64_t offset, uint64_t bytes);

/*
 * Removes the entry that the owner has just appended, because its data is not valid. Must be called
 * before the owner does anything else with the log.
 */
static inline void vublk_write_log_retract(struct vublk_write_log_stream *stream, uint32_t type,
					   uint64_t bytes)
{
	stream->tail -= vublk_write_log_room(type, bytes);
}

static inline bool vublk_write_log_stream_is_empty(const struct vublk_write_log_stream *stream)
{
	return stream->head == stream->tail;
}

/* Stores the sequence number of the oldest entry. Returns false if the stream is empty. */
static inline bool vublk_write_log_oldest(const struct vublk_write_log_stream *stream,
					  uint64_t *sequence)
{
	const char *entry = stream->host + stream->head % stream->size_bytes;

	if (!vublk_write_log_stream_is_empty(stream))
		*sequence = ((const struct vublk_write_log_entry *)entry)->sequence;
	return !vublk_write_log_stream_is_empty(stream);
}

/*
 * Returns whether the stream is at least half full. A flush is then due, so that later writes do
 * not have to wait for room.
 */
static inline bool vublk_write_log_is_half_full(const struct vublk_write_log_stream *stream)
{
	return stream->tail - stream->head >= stream->size_bytes / 2;
}

/* --- any thread ---------------------------------------------------------------------------- */

/*
 * Returns the mark for a flush that the caller publishes afterwards. The flush covers the entries
 * whose numbers are below the mark.
 */
static inline uint64_t vublk_write_log_mark(const struct vublk_write_log *log)
{
	return vublk_load_acquire(&log->sequence); /* S */
}

/* Called when a flush with this mark has succeeded. Marks all entries below the mark as stable. */
void vublk_write_log_trim(struct vublk_write_log *log, uint64_t mark);

/* --- while no owner uses its stream ---------------------------------------------------------- */

/* Returns whether all entries of all streams are stable. */
bool vublk_write_log_is_empty(struct vublk_write_log *log);

/*
 * Returns the highest end, in bytes, of a range of the disk that an entry covers; 0 if there are no
 * entries. Ends any pass that vublk_write_log_rewind() has begun.
 */
uint64_t vublk_write_log_end_of_disk(struct vublk_write_log *log);

/* Begins to read the entries of all streams, in the order of their sequence numbers. */
void vublk_write_log_rewind(struct vublk_write_log *log);
/*
 * Reads the next entry. Stores the address of its data in `data`; the address is valid until the
 * entry is freed. Returns false if there are no more entries.
 */
bool vublk_write_log_next(struct vublk_write_log *log, struct vublk_write_log_entry *entry,
			  const void **data);

#endif
