/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A client that uses libblkio's driver virtio-blk-vhost-user. The benchmarks measure back-ends with
 * it, and compare vublk's own client with it. One call of libblkio submits all new requests and
 * returns the completions.
 *
 *     blkio-rate SOCKET [options of `vublk bench`]
 *
 * The program loads libblkio when it starts, and declares libblkio's functions itself, because the
 * system on which the program is compiled has no libblkio.
 *
 * In poll mode the program uses one of libblkio's poll queues, on which a wait spins. With one
 * request in flight this is faster, and takes fewer instructions, than polling an ordinary queue.
 * With more requests in flight both are equally fast.
 */
#include "disk-rate.h"

#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct blkio;
struct blkioq;

/* libblkio's ABI, as in <blkio.h> of version 1. */
struct blkio_mem_region {
	void *addr;
	size_t len;
	uint64_t iova;
	int64_t fd_offset;
	int fd;
	uint32_t flags;
};

struct blkio_completion {
	void *user_data;
	const char *error_msg;
	int ret;
	uint8_t reserved[12];
};

static struct {
	const char *(*get_error_msg)(void);
	int (*create)(const char *driver, struct blkio **disk);
	int (*connect)(struct blkio *disk);
	int (*start)(struct blkio *disk);
	void (*destroy)(struct blkio **disk);
	int (*set_int)(struct blkio *disk, const char *name, int value);
	int (*set_str)(struct blkio *disk, const char *name, const char *value);
	int (*get_uint64)(struct blkio *disk, const char *name, uint64_t *value);
	int (*alloc_mem_region)(struct blkio *disk, struct blkio_mem_region *region, size_t bytes);
	int (*map_mem_region)(struct blkio *disk, const struct blkio_mem_region *region);
	struct blkioq *(*get_queue)(struct blkio *disk, int index);
	struct blkioq *(*get_poll_queue)(struct blkio *disk, int index);
	void (*read)(struct blkioq *queue, uint64_t start, void *buffer, size_t bytes,
		     void *user_data, uint32_t flags);
	void (*write)(struct blkioq *queue, uint64_t start, const void *buffer, size_t bytes,
		      void *user_data, uint32_t flags);
	int (*do_io)(struct blkioq *queue, struct blkio_completion *completions, int min, int max,
		     struct timespec *timeout);
} blkio;

static const struct {
	const char *name;
	void *function;
} functions[] = {
	{ "blkio_get_error_msg", &blkio.get_error_msg },
	{ "blkio_create", &blkio.create },
	{ "blkio_connect", &blkio.connect },
	{ "blkio_start", &blkio.start },
	{ "blkio_destroy", &blkio.destroy },
	{ "blkio_set_int", &blkio.set_int },
	{ "blkio_set_str", &blkio.set_str },
	{ "blkio_get_uint64", &blkio.get_uint64 },
	{ "blkio_alloc_mem_region", &blkio.alloc_mem_region },
	{ "blkio_map_mem_region", &blkio.map_mem_region },
	{ "blkio_get_queue", &blkio.get_queue },
	{ "blkio_get_poll_queue", &blkio.get_poll_queue },
	{ "blkioq_read", &blkio.read },
	{ "blkioq_write", &blkio.write },
	{ "blkioq_do_io", &blkio.do_io },
};

struct disk {
	struct blkio *blkio;
	struct blkioq *queue;
	struct blkio_completion *completions;
};

static void load_library(void)
{
	void *library = dlopen("libblkio.so.1", RTLD_NOW);

	if (!library)
		rate_fail("cannot load libblkio: %s", dlerror());
	for (size_t i = 0; i < VUBLK_CLI_ARRAY_SIZE(functions); i++) {
		void *function = dlsym(library, functions[i].name);

		if (!function)
			rate_fail("libblkio has no %s", functions[i].name);
		memcpy(functions[i].function, &function, sizeof(function));
	}
}

static void check(int result, const char *what)
{
	if (result < 0)
		rate_fail("%s: %s", what, blkio.get_error_msg());
}

static void *open_disk(const struct rate *rate, uint64_t *capacity_bytes)
{
	struct disk *disk = calloc(1, sizeof(*disk));

	load_library();
	if (disk)
		disk->completions = calloc(rate->depth, sizeof(*disk->completions));
	if (!disk || !disk->completions)
		rate_fail("out of memory for %u requests", rate->depth);
	check(blkio.create("virtio-blk-vhost-user", &disk->blkio), "libblkio's driver");
	check(blkio.set_str(disk->blkio, "path", rate->path), rate->path);
	check(blkio.connect(disk->blkio), rate->path);
	check(blkio.set_int(disk->blkio, "num-queues", !rate->is_poll), "the number of queues");
	check(blkio.set_int(disk->blkio, "num-poll-queues", rate->is_poll), "poll queues");
	check(blkio.start(disk->blkio), rate->path);
	check(blkio.get_uint64(disk->blkio, "capacity", capacity_bytes), "the capacity");
	disk->queue = rate->is_poll ? blkio.get_poll_queue(disk->blkio, 0)
				    : blkio.get_queue(disk->blkio, 0);
	return disk;
}

static void *alloc(void *opaque, size_t bytes)
{
	struct disk *disk = opaque;
	struct blkio_mem_region region;

	check(blkio.alloc_mem_region(disk->blkio, &region, bytes), "the buffers");
	check(blkio.map_mem_region(disk->blkio, &region), "the buffers");
	return region.addr;
}

static void begin_read(void *opaque, uint64_t offset, void *buffer, size_t bytes, void *request)
{
	blkio.read(((struct disk *)opaque)->queue, offset, buffer, bytes, request, 0);
}

static void begin_write(void *opaque, uint64_t offset, void *buffer, size_t bytes, void *request)
{
	blkio.write(((struct disk *)opaque)->queue, offset, buffer, bytes, request, 0);
}

static unsigned wait_for_some(void *opaque, struct disk_rate_done *done, unsigned max)
{
	struct disk *disk = opaque;
	int n = blkio.do_io(disk->queue, disk->completions, 1, (int)max, NULL);

	if (n < 0)
		rate_fail("waiting for requests: %s", blkio.get_error_msg());
	for (int i = 0; i < n; i++)
		done[i] = (struct disk_rate_done){ disk->completions[i].user_data,
						   disk->completions[i].ret };
	return (unsigned)n;
}

static void close_disk(void *opaque)
{
	struct disk *disk = opaque;

	blkio.destroy(&disk->blkio);
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
			      "libblkio.", argc, argv);
}
