/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The disk and its connections; see disk.h. This file rounds requests to blocks, orders changes
 * (ranges.h), and flushes after a change with FUA (flush.h).
 */
#include "plugins/nbdkit/disk.h"

#include "plugins/nbdkit/error.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

/* --- opening and closing -------------------------------------------------------------------- */

static int start_queues(struct vublk_nbdkit_disk *disk, unsigned num_queues,
			struct vublk_error *error)
{
	uint64_t piece_bytes = VUBLK_NBDKIT_PIECE_BYTES;
	char *memory;

	if (piece_bytes < disk->block_bytes)
		piece_bytes = disk->block_bytes;
	disk->queues = calloc(num_queues, sizeof(*disk->queues));
	if (!disk->queues)
		return vublk_nbdkit_error(error, ENOMEM, "cannot allocate memory for the queues");
	memory = vublk_blk_alloc(disk->blk, num_queues * VUBLK_NBDKIT_PIECES * piece_bytes, error);
	if (!memory)
		return -ENOMEM;
	while (disk->num_queues < num_queues) {
		unsigned i = disk->num_queues;
		int r = vublk_nbdkit_queue_start(&disk->queues[i], vublk_blk_queue(disk->blk, i),
					      &disk->ranges,
					      memory + i * VUBLK_NBDKIT_PIECES * piece_bytes,
					      piece_bytes, error);

		if (r)
			return r;
		disk->num_queues++;
	}
	vublk_nbdkit_flusher_init(&disk->flusher, &disk->queues[0]);
	return 0;
}

int vublk_nbdkit_disk_open(struct vublk_nbdkit_disk *disk, const char *path,
			const struct vublk_option *options,
			const struct vublk_blk_handlers *handlers, struct vublk_error *error)
{
	struct vublk_blk_info info;
	int r;

	*disk = (struct vublk_nbdkit_disk){ 0 };
	r = vublk_blk_open(path, options, handlers, sizeof(*handlers), &disk->blk, error);
	if (r) {
		disk->blk = NULL;
		return r;
	}
	vublk_blk_get_info(disk->blk, &info, sizeof(info));
	disk->block_bytes = info.block_size_bytes;
	vublk_nbdkit_ranges_init(&disk->ranges);
	pthread_mutex_init(&disk->lock, NULL);
	r = start_queues(disk, info.num_queues, error);
	if (r)
		vublk_nbdkit_disk_close(disk, 0, NULL);
	return r;
}

int vublk_nbdkit_disk_close(struct vublk_nbdkit_disk *disk, int wait_ms, struct vublk_error *error)
{
	int r;

	if (!disk->blk)
		return 0;
	for (unsigned i = 0; i < disk->num_queues; i++)
		vublk_nbdkit_queue_stop(&disk->queues[i]);
	r = vublk_blk_close(disk->blk, wait_ms, error);
	free(disk->queues);
	vublk_nbdkit_ranges_deinit(&disk->ranges);
	pthread_mutex_destroy(&disk->lock);
	*disk = (struct vublk_nbdkit_disk){ 0 };
	return r;
}

struct vublk_nbdkit_connection *vublk_nbdkit_connection_open(struct vublk_nbdkit_disk *disk)
{
	struct vublk_nbdkit_connection *connection = calloc(1, sizeof(*connection));
	struct vublk_nbdkit_queue *queue = &disk->queues[0];

	if (!connection)
		return NULL;
	pthread_mutex_lock(&disk->lock);
	for (unsigned i = 1; i < disk->num_queues; i++)
		if (disk->queues[i].connections < queue->connections)
			queue = &disk->queues[i];
	queue->connections++;
	pthread_mutex_unlock(&disk->lock);
	pthread_mutex_init(&connection->pace.lock, NULL);
	connection->disk = disk;
	connection->queue = queue;
	connection->known_failures = vublk_nbdkit_flusher_failures(&disk->flusher);
	return connection;
}

void vublk_nbdkit_connection_close(struct vublk_nbdkit_connection *connection)
{
	pthread_mutex_lock(&connection->disk->lock);
	connection->queue->connections--;
	pthread_mutex_unlock(&connection->disk->lock);
	pthread_mutex_destroy(&connection->pace.lock);
	free(connection);
}

/* --- requests ------------------------------------------------------------------------------- */

struct blocks {
	uint64_t start;
	uint64_t end;
};

/*
 * Extends the range to whole blocks, but not past the end of the disk, which may be within a block.
 * An NBD client knows the size that the disk had when the client connected. The disk may have
 * become smaller since then, so the range is checked here.
 */
static int round_out(struct vublk_nbdkit_disk *disk, uint64_t bytes, uint64_t offset,
		     struct blocks *blocks, struct vublk_error *error)
{
	uint64_t block = disk->block_bytes, end = offset + bytes;
	struct vublk_blk_info info;

	vublk_blk_get_info(disk->blk, &info, sizeof(info));
	if (end > info.capacity_bytes)
		return vublk_nbdkit_error(error, ENOSPC, "a request ends at byte %" PRIu64
				       ", but the disk now has only %" PRIu64 " bytes; connect "
				       "again to get its new size", end, info.capacity_bytes);
	blocks->start = offset - offset % block;
	blocks->end = end;
	if (end % block) {
		blocks->end += block - end % block;
		if (blocks->end > info.capacity_bytes)
			blocks->end = info.capacity_bytes;
	}
	return 0;
}

/*
 * Reduces `blocks`, the result of round_out(), to the blocks that are completely within the range.
 * Returns false if there are none.
 */
static bool round_in(struct vublk_nbdkit_disk *disk, uint64_t offset, uint64_t end,
		     struct blocks *blocks)
{
	uint64_t block = disk->block_bytes;

	if (offset > blocks->start)
		blocks->start += block;
	if (end < blocks->end)
		blocks->end = end - end % block;
	return blocks->start < blocks->end;
}

static int enter(struct vublk_nbdkit_disk *disk, const struct blocks *blocks,
		 struct vublk_nbdkit_range **range, struct vublk_error *error)
{
	int r = vublk_nbdkit_ranges_enter(&disk->ranges, blocks->start, blocks->end, range);

	return r == -ENOMEM ?
		       vublk_nbdkit_error(error, ENOMEM, "cannot allocate memory for a request") : r;
}

/*
 * Ends a change whose result is `r`. If it has succeeded and `fua` is set, makes it stable with a
 * flush. `failures` is the number of flushes that had failed when the change began. If another
 * flush has failed since then, the data of the change may be lost, so the result is an error.
 */
static int leave(struct vublk_nbdkit_connection *connection, struct vublk_nbdkit_range *range, int r,
		 bool fua, uint64_t failures, struct vublk_error *error)
{
	vublk_nbdkit_ranges_leave(&connection->disk->ranges, range);
	if (!r && fua)
		r = vublk_nbdkit_flush(&connection->disk->flusher, &failures, error);
	return r;
}

int vublk_nbdkit_read(struct vublk_nbdkit_connection *connection, void *buffer, size_t bytes,
		   uint64_t offset, struct vublk_error *error)
{
	struct blocks blocks;
	int r = round_out(connection->disk, bytes, offset, &blocks, error);

	if (r)
		return r;
	return vublk_nbdkit_queue_read(connection->queue, blocks.start, blocks.end, buffer, bytes,
				    offset, error);
}

int vublk_nbdkit_write(struct vublk_nbdkit_connection *connection, const void *buffer, size_t bytes,
		    uint64_t offset, bool fua, struct vublk_error *error)
{
	struct vublk_nbdkit_disk *disk = connection->disk;
	uint64_t failures = fua ? vublk_nbdkit_flusher_failures(&disk->flusher) : 0;
	struct vublk_nbdkit_range *range;
	struct blocks blocks;
	int r = round_out(disk, bytes, offset, &blocks, error);

	if (!r)
		r = enter(disk, &blocks, &range, error);
	if (r)
		return r;
	r = vublk_nbdkit_queue_write(connection->queue, range, buffer, bytes, offset, error);
	return leave(connection, range, r, fua, failures, error);
}

int vublk_nbdkit_trim(struct vublk_nbdkit_connection *connection, uint64_t bytes, uint64_t offset,
		   bool fua, struct vublk_error *error)
{
	struct vublk_nbdkit_disk *disk = connection->disk;
	uint64_t failures = fua ? vublk_nbdkit_flusher_failures(&disk->flusher) : 0;
	struct vublk_nbdkit_range *range = NULL;
	struct blocks blocks;
	int r = round_out(disk, bytes, offset, &blocks, error);

	if (!r && round_in(disk, offset, offset + bytes, &blocks)) {
		r = enter(disk, &blocks, &range, error);
		if (r)
			return r;
		r = vublk_nbdkit_queue_discard(connection->queue, range, error);
	}
	return leave(connection, range, r, fua, failures, error);
}

int vublk_nbdkit_zero(struct vublk_nbdkit_connection *connection, uint64_t bytes, uint64_t offset,
		   uint32_t flags, bool fua, struct vublk_error *error)
{
	struct vublk_nbdkit_disk *disk = connection->disk;
	uint64_t failures = fua ? vublk_nbdkit_flusher_failures(&disk->flusher) : 0;
	struct vublk_nbdkit_range *range;
	struct blocks blocks;
	int r = round_out(disk, bytes, offset, &blocks, error);

	if (!r && (blocks.start != offset || blocks.end != offset + bytes))
		r = vublk_nbdkit_error(error, ENOTSUP, "the range does not begin and end at a block "
				    "boundary");
	if (!r)
		r = enter(disk, &blocks, &range, error);
	if (r)
		return r;
	r = vublk_nbdkit_queue_zero(connection->queue, range, flags, error);
	return leave(connection, range, r, fua, failures, error);
}
