/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What `vublk bench` is compared with, and the client that all back-ends have in common:
 * libblkio's driver virtio-blk-vhost-user, with as many requests in flight as were asked
 * for, and one call of the library for all that is begun and completed together.
 *
 *     blkio-rate SOCKET [options as those of `vublk bench`]
 *
 * The library is loaded when the program starts, and declared here, so that nothing of it
 * is needed to compile: it comes from another root than the one that the compiler is of.
 *
 * In poll mode it has one of libblkio's poll queues, on which waiting spins: that is faster
 * with one request in flight, and takes fewer instructions, than asking an ordinary queue
 * again and again for what is complete, and is as fast with more of them.
 */
#include "rate.h"

#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct blkio;
struct blkioq;

/* The library's ABI: <blkio.h> of version 1. */
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

struct slot {
	uint64_t start_ns;
	void *buffer;
};

struct client {
	struct rate rate;
	struct blkio *disk;
	struct blkioq *queue;
	struct slot *slots;
	struct slot **free;
	unsigned num_free;
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

static void open_disk(struct client *client)
{
	struct rate *rate = &client->rate;
	uint64_t capacity;

	check(blkio.create("virtio-blk-vhost-user", &client->disk), "libblkio's driver");
	check(blkio.set_str(client->disk, "path", rate->path), rate->path);
	check(blkio.connect(client->disk), rate->path);
	check(blkio.set_int(client->disk, "num-queues", !rate->is_poll), "the number of queues");
	check(blkio.set_int(client->disk, "num-poll-queues", rate->is_poll), "poll queues");
	check(blkio.start(client->disk), rate->path);
	check(blkio.get_uint64(client->disk, "capacity", &capacity), "the capacity");
	rate->num_blocks = capacity / rate->block_bytes;
	if (!rate->num_blocks)
		rate_fail("%s: the disk is smaller than a request", rate->path);
	client->queue = rate->is_poll ? blkio.get_poll_queue(client->disk, 0)
				      : blkio.get_queue(client->disk, 0);
}

static void prepare(struct client *client)
{
	unsigned depth = client->rate.depth;
	struct blkio_mem_region region;

	check(blkio.alloc_mem_region(client->disk, &region,
				     (size_t)depth * client->rate.block_bytes), "the buffers");
	check(blkio.map_mem_region(client->disk, &region), "the buffers");
	memset(region.addr, 0x5a, region.len);
	client->slots = calloc(depth, sizeof(*client->slots));
	client->free = calloc(depth, sizeof(struct slot *));
	client->completions = calloc(depth, sizeof(*client->completions));
	if (!client->slots || !client->free || !client->completions)
		rate_fail("out of memory for %u requests", depth);
	for (unsigned i = 0; i < depth; i++) {
		client->slots[i].buffer = (char *)region.addr +
					  (size_t)i * client->rate.block_bytes;
		client->free[client->num_free++] = &client->slots[i];
	}
}

static void begin(struct client *client)
{
	struct rate *rate = &client->rate;
	struct slot *slot = client->free[--client->num_free];
	uint64_t offset = rate_next_block(rate) * rate->block_bytes;

	slot->start_ns = vublk_cli_now_ns();
	rate->begun++;
	if (rate->is_write)
		blkio.write(client->queue, offset, slot->buffer, rate->block_bytes, slot, 0);
	else
		blkio.read(client->queue, offset, slot->buffer, rate->block_bytes, slot, 0);
}

static void complete(struct client *client, unsigned n, uint64_t now)
{
	for (unsigned i = 0; i < n; i++) {
		const struct blkio_completion *completion = &client->completions[i];
		struct slot *slot = completion->user_data;

		if (completion->ret < 0)
			rate_fail("a request failed: %s", strerrordesc_np(-completion->ret));
		vublk_histogram_add(&client->rate.latency_ns, now - slot->start_ns);
		client->free[client->num_free++] = slot;
	}
}

static void run(struct client *client)
{
	struct rate *rate = &client->rate;
	uint64_t now;
	int n;

	rate_begin(rate);
	now = rate->start_ns;
	for (;;) {
		while (client->num_free && rate_wants_more(rate, now))
			begin(client);
		if (client->num_free == rate->depth)
			break;
		n = blkio.do_io(client->queue, client->completions, 1, (int)rate->depth, NULL);
		if (n < 0)
			rate_fail("waiting for requests: %s", blkio.get_error_msg());
		now = vublk_cli_now_ns();
		complete(client, (unsigned)n, now);
	}
	rate_end(rate);
}

int main(int argc, char **argv)
{
	struct client client = { 0 };

	rate_parse(&client.rate, "SOCKET", "Measure the disk behind a vhost-user-blk socket by "
		   "libblkio.", argc, argv);
	if (!client.rate.path)
		rate_fail("the SOCKET of a back-end is missing, see --help");
	load_library();
	open_disk(&client);
	prepare(&client);
	run(&client);
	rate_print(&client.rate);
	blkio.destroy(&client.disk);
	free(client.completions);
	free(client.free);
	free(client.slots);
	return 0;
}
