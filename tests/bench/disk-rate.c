/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The loop that all compared clients share; see disk-rate.h. */
#include "disk-rate.h"

#include <stdlib.h>
#include <string.h>

struct slot {
	uint64_t start_ns;
	void *buffer;
};

struct client {
	struct rate rate;
	const struct disk_rate_driver *driver;
	void *disk;
	struct slot *slots;
	struct slot **free;
	unsigned num_free;
	struct disk_rate_done *done;
};

static void prepare(struct client *client)
{
	unsigned depth = client->rate.depth;
	size_t bytes = client->rate.block_bytes;
	char *buffers = client->driver->alloc(client->disk, depth * bytes);

	memset(buffers, 0x5a, depth * bytes);
	client->slots = calloc(depth, sizeof(*client->slots));
	client->free = calloc(depth, sizeof(struct slot *));
	client->done = calloc(depth, sizeof(*client->done));
	if (!client->slots || !client->free || !client->done)
		rate_fail("out of memory for %u requests", depth);
	for (unsigned i = 0; i < depth; i++) {
		client->slots[i].buffer = buffers + i * bytes;
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
		client->driver->write(client->disk, offset, slot->buffer, rate->block_bytes, slot);
	else
		client->driver->read(client->disk, offset, slot->buffer, rate->block_bytes, slot);
}

static void complete(struct client *client, unsigned n, uint64_t now)
{
	for (unsigned i = 0; i < n; i++) {
		struct slot *slot = client->done[i].request;

		if (client->done[i].result < 0)
			rate_fail("a request failed: %s", strerrordesc_np(-client->done[i].result));
		vublk_histogram_add(&client->rate.latency_ns, now - slot->start_ns);
		client->free[client->num_free++] = slot;
	}
}

static void run(struct client *client)
{
	struct rate *rate = &client->rate;
	uint64_t now;
	unsigned n;

	rate_begin(rate);
	now = rate->start_ns;
	for (;;) {
		while (client->num_free && rate_wants_more(rate, now))
			begin(client);
		if (client->num_free == rate->depth)
			break;
		n = client->driver->wait(client->disk, client->done, rate->depth);
		now = vublk_cli_now_ns();
		complete(client, n, now);
	}
	rate_end(rate);
}

int disk_rate_main(const struct disk_rate_driver *driver, const char *doc, int argc, char **argv)
{
	struct client client = { .driver = driver };
	uint64_t capacity_bytes;

	rate_parse(&client.rate, "SOCKET", doc, argc, argv);
	if (!client.rate.path)
		rate_fail("the SOCKET of a back-end is missing, see --help");
	client.disk = driver->open(&client.rate, &capacity_bytes);
	client.rate.num_blocks = capacity_bytes / client.rate.block_bytes;
	if (!client.rate.num_blocks)
		rate_fail("%s: the disk is smaller than a request", client.rate.path);
	prepare(&client);
	run(&client);
	rate_print(&client.rate);
	driver->close(client.disk);
	free(client.done);
	free(client.free);
	free(client.slots);
	return 0;
}
