/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A compared client that uses vublk's block API. It adds as little to the API as blkio-rate.c adds
 * to libblkio.
 *
 *     vublk-rate SOCKET [options of `vublk bench`]
 */
#include "disk-rate.h"

#include "util/atomic.h"

#include <vublk/blk.h>

#include <stdlib.h>

struct disk {
	struct vublk_blk *blk;
	struct vublk_blk_queue *queue;
	struct vublk_blk_completion *completions;
	struct vublk_error error;
	bool is_poll;
};

static void *open_disk(const struct rate *rate, uint64_t *capacity_bytes)
{
	static const struct vublk_option options[] = {
		{ "num-queues", "1" }, { "queue-size", "256" }, { NULL },
	};
	struct disk *disk = calloc(1, sizeof(*disk));
	struct vublk_blk_info info;

	if (!disk)
		rate_fail("out of memory");
	if (vublk_blk_open(rate->path, options, NULL, 0, &disk->blk, &disk->error) < 0)
		rate_fail("%s", disk->error.text);
	vublk_blk_get_info(disk->blk, &info, sizeof(info));
	*capacity_bytes = info.capacity_bytes;
	disk->queue = vublk_blk_queue(disk->blk, 0);
	disk->completions = calloc(rate->depth, sizeof(*disk->completions));
	if (!disk->completions)
		rate_fail("out of memory for %u requests", rate->depth);
	disk->is_poll = rate->is_poll;
	return disk;
}

static void *alloc(void *opaque, size_t bytes)
{
	struct disk *disk = opaque;
	void *buffers = vublk_blk_alloc(disk->blk, bytes, &disk->error);

	if (!buffers)
		rate_fail("%s", disk->error.text);
	return buffers;
}

static void begin_read(void *opaque, uint64_t offset, void *buffer, size_t bytes, void *request)
{
	struct disk *disk = opaque;

	if (vublk_blk_read(disk->queue, offset, buffer, bytes, 0, request, &disk->error) < 0)
		rate_fail("%s", disk->error.text);
}

static void begin_write(void *opaque, uint64_t offset, void *buffer, size_t bytes, void *request)
{
	struct disk *disk = opaque;

	if (vublk_blk_write(disk->queue, offset, buffer, bytes, 0, request, &disk->error) < 0)
		rate_fail("%s", disk->error.text);
}

static int take(struct disk *disk, unsigned max)
{
	int n;

	if (!disk->is_poll)
		return vublk_blk_wait(disk->queue, disk->completions, 1, max, -1, &disk->error);
	vublk_blk_submit(disk->queue);
	while (!(n = vublk_blk_poll(disk->queue, disk->completions, max)))
		vublk_cpu_relax(); /* as libblkio does between two polls */
	return n;
}

static unsigned wait_for_some(void *opaque, struct disk_rate_done *done, unsigned max)
{
	struct disk *disk = opaque;
	int n = take(disk, max);

	if (n < 0)
		rate_fail("waiting for requests: %s", disk->error.text);
	for (int i = 0; i < n; i++)
		done[i] = (struct disk_rate_done){ disk->completions[i].user_data,
						   disk->completions[i].result };
	return (unsigned)n;
}

static void close_disk(void *opaque)
{
	struct disk *disk = opaque;

	vublk_blk_close(disk->blk, 0, NULL);
	free(disk->completions);
	free(disk);
}

int main(int argc, char **argv)
{
	static const struct disk_rate_driver driver = {
		.open = open_disk,
		.alloc = alloc,
		.read = begin_read,
		.write = begin_write,
		.wait = wait_for_some,
		.close = close_disk,
	};

	return disk_rate_main(&driver, "Measure the disk behind a vhost-user-blk socket with "
			      "libvublk.", argc, argv);
}
