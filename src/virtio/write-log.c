/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Allocates, trims and reads the write log, and hands it over to another process.
 *
 * Key idea: a position counts bytes from the start of the stream, and does not wrap at the end of
 * the stream's memory. So the difference of two positions is the room between them. An empty stream
 * starts again at position 0, so a log that is flushed often uses the same few pages. All other
 * pages are returned to the kernel.
 */
#include "virtio/write-log.h"

#include "util/error.h"
#include "util/fd.h"
#include "util/memfd.h"
#include "util/sections.h"
#include "virtio/blk-format.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/*
 * An empty stream keeps up to this much memory, so that short bursts of writes do not fault pages
 * in again.
 */
#define KEPT_BYTES (UINT64_C(1) << 20)

/* --- life -------------------------------------------------------------------------- */

/*
 * Maps `bytes` bytes of the file at `offset` twice, at consecutive addresses. Returns NULL on
 * failure.
 */
static char *map_twice(int fd, uint64_t offset, uint64_t bytes)
{
	char *host = mmap(NULL, 2 * bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (host == MAP_FAILED)
		return NULL;
	for (unsigned i = 0; i < 2; i++) {
		if (mmap(host + i * bytes, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			 fd, (off_t)offset) == MAP_FAILED) {
			munmap(host, 2 * bytes);
			return NULL;
		}
	}
	return host;
}

static int map_streams(struct vublk_write_log *log, uint64_t bytes, struct vublk_error *error)
{
	for (unsigned i = 0; i < log->num_streams; i++) {
		struct vublk_write_log_stream *stream = &log->streams[i];

		stream->host = map_twice(log->fd, i * bytes, bytes);
		if (!stream->host)
			return vublk_error_set_errno(error, errno, "cannot map %" PRIu64
						     " bytes of the write log", bytes);
		stream->size_bytes = bytes;
	}
	return 0;
}

int vublk_write_log_init(struct vublk_write_log *log, unsigned num_streams, uint64_t bytes,
			 struct vublk_error *error)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t share = VUBLK_MAX(bytes / num_streams & ~(page - 1), page);
	int r;

	*log = (struct vublk_write_log){
		.fd = vublk_memfd_new("vublk-write-log", share * num_streams, error),
		.num_streams = num_streams,
	};
	if (log->fd < 0)
		return log->fd;
	log->streams = aligned_alloc(VUBLK_CACHE_LINE, num_streams * sizeof(*log->streams));
	if (!log->streams) {
		vublk_write_log_deinit(log);
		return vublk_error_set_errno(error, ENOMEM, "cannot allocate the write log");
	}
	memset(log->streams, 0, num_streams * sizeof(*log->streams));
	r = map_streams(log, share, error);
	if (r < 0)
		vublk_write_log_deinit(log);
	return r;
}

void vublk_write_log_deinit(struct vublk_write_log *log)
{
	if (!log->num_streams)
		return;
	for (unsigned i = 0; log->streams && i < log->num_streams; i++)
		vublk_unmap(log->streams[i].host, 2 * log->streams[i].size_bytes);
	free(log->streams);
	log->streams = NULL;
	log->num_streams = 0;
	vublk_fd_close(&log->fd);
}

/* --- entries ------------------------------------------------------------------------- */

static struct vublk_write_log_entry *entry_at(const struct vublk_write_log_stream *stream,
					      uint64_t position)
{
	return (struct vublk_write_log_entry *)(stream->host + position % stream->size_bytes);
}

void *vublk_write_log_append(struct vublk_write_log *log, struct vublk_write_log_stream *stream,
			     uint32_t type, uint32_t flags, uint64_t offset, uint64_t bytes)
{
	uint64_t room = vublk_write_log_room(type, bytes);
	struct vublk_write_log_entry *entry = entry_at(stream, stream->tail);

	*entry = (struct vublk_write_log_entry){
		.sequence = __atomic_fetch_add(&log->sequence, 1, __ATOMIC_ACQ_REL), /* S */
		.offset = offset,
		.bytes = bytes,
		.type = type,
		.flags = flags,
	};
	stream->reserved_bytes -= room;
	stream->tail += room;
	stream->touched = VUBLK_MAX(stream->touched, stream->tail);
	return entry + 1;
}

/* --- trimming ------------------------------------------------------------------------ */

/*
 * Starts an empty stream at position 0 again, and returns its memory after the first KEPT_BYTES to
 * the kernel. If that fails, the memory stays resident, which does no harm.
 */
static void shrink(struct vublk_write_log_stream *stream)
{
	uint64_t touched = VUBLK_MIN(stream->touched, stream->size_bytes);

	stream->head = stream->tail = stream->touched = 0;
	if (touched > KEPT_BYTES)
		madvise(stream->host + KEPT_BYTES, stream->size_bytes - KEPT_BYTES, MADV_REMOVE);
	else
		stream->touched = touched;
}

void vublk_write_log_collect(struct vublk_write_log *log, struct vublk_write_log_stream *stream)
{
	uint64_t stable = vublk_load_acquire(&log->stable);

	if (vublk_write_log_stream_is_empty(stream))
		return;
	while (!vublk_write_log_stream_is_empty(stream)) {
		const struct vublk_write_log_entry *entry = entry_at(stream, stream->head);

		if (entry->sequence >= stable)
			return;
		stream->head += vublk_write_log_room(entry->type, entry->bytes);
	}
	shrink(stream);
}

void vublk_write_log_trim(struct vublk_write_log *log, uint64_t mark)
{
	uint64_t before = vublk_load_relaxed(&log->stable);

	while (before < mark &&
	       !__atomic_compare_exchange_n(&log->stable, &before, mark, false, __ATOMIC_RELEASE,
					    __ATOMIC_RELAXED))
		;
}

/* --- reading -------------------------------------------------------------------------- */

void vublk_write_log_rewind(struct vublk_write_log *log)
{
	for (unsigned i = 0; i < log->num_streams; i++) {
		vublk_write_log_collect(log, &log->streams[i]);
		log->streams[i].next = log->streams[i].head;
	}
}

/* Returns the stream whose next entry is the oldest, or NULL if all entries have been read. */
static struct vublk_write_log_stream *find_oldest(struct vublk_write_log *log)
{
	struct vublk_write_log_stream *oldest = NULL;

	for (unsigned i = 0; i < log->num_streams; i++) {
		struct vublk_write_log_stream *stream = &log->streams[i];

		if (stream->next != stream->tail &&
		    (!oldest || entry_at(stream, stream->next)->sequence <
				entry_at(oldest, oldest->next)->sequence))
			oldest = stream;
	}
	return oldest;
}

bool vublk_write_log_next(struct vublk_write_log *log, struct vublk_write_log_entry *entry,
			  const void **data)
{
	struct vublk_write_log_stream *stream = find_oldest(log);
	const struct vublk_write_log_entry *found;

	if (!stream)
		return false;
	found = entry_at(stream, stream->next);
	*entry = *found;
	*data = found + 1;
	stream->next += vublk_write_log_room(found->type, found->bytes);
	return true;
}

bool vublk_write_log_is_empty(struct vublk_write_log *log)
{
	for (unsigned i = 0; i < log->num_streams; i++) {
		vublk_write_log_collect(log, &log->streams[i]);
		if (!vublk_write_log_stream_is_empty(&log->streams[i]))
			return false;
	}
	return true;
}

uint64_t vublk_write_log_end_of_disk(struct vublk_write_log *log)
{
	struct vublk_write_log_entry entry;
	const void *data;
	uint64_t end = 0;

	vublk_write_log_rewind(log);
	while (vublk_write_log_next(log, &entry, &data))
		end = VUBLK_MAX(end, entry.offset + entry.bytes);
	return end;
}

/* --- another process ------------------------------------------------------------------- */

static bool is_entry(const struct vublk_write_log_entry *entry)
{
	switch (entry->type) {
	case VIRTIO_BLK_T_OUT:
		return !(entry->bytes % VUBLK_SECTOR_BYTES);
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
	case VIRTIO_BLK_T_SECURE_ERASE:
		return true;
	default:
		return false;
	}
}

/*
 * Checks the entries of the only stream. The process that is being replaced could still change them
 * after this check. That is accepted, because it belongs to the same user and is about to end.
 */
static bool has_good_entries(const struct vublk_write_log *log)
{
	const struct vublk_write_log_stream *stream = &log->streams[0];
	uint64_t at = stream->head, next = 0;

	if (stream->tail < at || stream->tail - at > stream->size_bytes ||
	    stream->tail > INT64_MAX || at % sizeof(struct vublk_write_log_entry))
		return false;
	while (at != stream->tail) {
		struct vublk_write_log_entry entry;
		uint64_t left = stream->tail - at;

		if (left < sizeof(entry))
			return false;
		entry = *entry_at(stream, at);
		if (!is_entry(&entry) || entry.sequence < next || entry.sequence >= log->sequence ||
		    entry.offset > INT64_MAX || entry.bytes > INT64_MAX - entry.offset ||
		    entry.offset % VUBLK_SECTOR_BYTES ||
		    (entry.type == VIRTIO_BLK_T_OUT && entry.bytes > stream->size_bytes) ||
		    vublk_write_log_room(entry.type, entry.bytes) > left)
			return false;
		next = entry.sequence + 1;
		at += vublk_write_log_room(entry.type, entry.bytes);
	}
	return true;
}

static int replace_file(struct vublk_write_log *log, int fd, struct vublk_error *error)
{
	uint64_t bytes = log->streams[0].size_bytes;
	int r = vublk_memfd_check(fd, bytes, error);

	if (r < 0) {
		vublk_fd_close(&fd);
		return r;
	}
	vublk_unmap(log->streams[0].host, 2 * bytes);
	log->streams[0].host = NULL;
	vublk_fd_close(&log->fd);
	log->fd = fd;
	return map_streams(log, bytes, error);
}

int vublk_write_log_fields(struct vublk_write_log *log, struct vublk_fields *fields,
			   struct vublk_error *error)
{
	struct vublk_write_log_stream *stream = &log->streams[0];
	int fd = log->fd, r = 0;

	vublk_field_fd(fields, &fd);
	if (fields->from)
		r = replace_file(log, fd, error);
	VUBLK_FIELD(fields, stream->head);
	VUBLK_FIELD(fields, stream->tail);
	VUBLK_FIELD(fields, stream->touched);
	VUBLK_FIELD(fields, log->sequence);
	VUBLK_FIELD(fields, log->stable);
	if (fields->from && !r && !has_good_entries(log))
		r = vublk_error_set(error, EINVAL, "its entries are invalid");
	if (r < 0)
		vublk_error_prepend(error, "the log of completed writes");
	return r;
}
