/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A storage engine in a module: a disk in memory, which is filled with one byte value at the start.
 *
 *   cc -shared -fPIC engine-ram.c -o libvublk-engine-ram.so $(pkg-config --cflags --libs vublk)
 *   VUBLK_ENGINE_PATH=$PWD vublk serve --socket-path disk.sock --engine ram --size 64M -o fill=7
 *
 * The engine executes each request in submit(), so it has no descriptor. An engine that has to wait
 * begins a request in submit() or commit(). Its descriptor becomes readable when a request is
 * complete. vublk serve then calls poll(), which returns the complete requests.
 */
#include <vublk/engine.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ram {
	struct vublk_engine engine; /* must be the first member, because pointers to it are cast */
	char *bytes;
};

/* A queue, with the list of complete requests that poll() has not returned. */
struct ram_queue {
	struct vublk_engine_queue queue; /* must be the first member */
	struct vublk_engine_io *first, *last;
};

/* --- requests ------------------------------------------------------------------- */

static void copy(char *at, const struct vublk_engine_io *io)
{
	for (unsigned i = 0; i < io->num_iov; i++) {
		if (io->op == VUBLK_OP_READ)
			memcpy(io->iov[i].iov_base, at, io->iov[i].iov_len);
		else
			memcpy(at, io->iov[i].iov_base, io->iov[i].iov_len);
		at += io->iov[i].iov_len;
	}
}

static int execute(struct ram *ram, const struct vublk_engine_io *io)
{
	switch (io->op) {
	case VUBLK_OP_READ:
	case VUBLK_OP_WRITE:
		copy(ram->bytes + io->offset, io);
		return 0;
	case VUBLK_OP_WRITE_ZEROES:
		memset(ram->bytes + io->offset, 0, io->bytes);
		return 0;
	case VUBLK_OP_FLUSH:
	case VUBLK_OP_DISCARD:
		return 0;
	}
	return -ENOTSUP;
}

static void ram_submit(struct vublk_engine_queue *base, struct vublk_engine_io *io)
{
	struct ram_queue *queue = (struct ram_queue *)base;

	io->result = execute((struct ram *)base->engine, io);
	io->next = NULL;
	if (queue->first)
		queue->last->next = io;
	else
		queue->first = io;
	queue->last = io;
}

static unsigned ram_poll(struct vublk_engine_queue *base, struct vublk_engine_io **ios, unsigned max)
{
	struct ram_queue *queue = (struct ram_queue *)base;
	unsigned n = 0;

	for (; queue->first && n < max; queue->first = queue->first->next)
		ios[n++] = queue->first;
	return n;
}

static void ram_queue_free(struct vublk_engine_queue *queue)
{
	free(queue);
}

static const struct vublk_engine_queue_ops queue_ops = {
	.free = ram_queue_free,
	.submit = ram_submit,
	.poll = ram_poll,
};

/* --- the engine ----------------------------------------------------------------- */

static int ram_queue_new(struct vublk_engine *engine, struct vublk_engine_queue **result,
			 struct vublk_error *error)
{
	struct ram_queue *queue = calloc(1, sizeof(*queue));

	if (!queue)
		return vublk_engine_fail(error, ENOMEM, "cannot allocate memory for a queue");
	queue->queue.ops = &queue_ops;
	queue->queue.engine = engine;
	queue->queue.fd = -1;
	*result = &queue->queue;
	return 0;
}

static void ram_close(struct vublk_engine *engine)
{
	free(((struct ram *)engine)->bytes);
	free(engine);
}

static int ram_open(const struct vublk_engine_params *params, struct vublk_engine **engine,
		    struct vublk_error *error)
{
	struct ram *ram;
	uint64_t fill;
	int r = vublk_engine_option_number(params, "fill", 0, 255, &fill, error);

	if (r)
		return r;
	if (!params->size_bytes)
		return vublk_engine_fail(error, EINVAL, "a disk in memory needs a size; set size=BYTES");
	ram = calloc(1, sizeof(*ram));
	if (ram)
		ram->bytes = malloc(params->size_bytes);
	if (!ram || !ram->bytes) {
		free(ram);
		return vublk_engine_fail(error, ENOMEM, "cannot allocate memory for the disk");
	}
	memset(ram->bytes, (int)fill, params->size_bytes);
	ram->engine.geometry.size_bytes = params->size_bytes;
	ram->engine.geometry.discard_bytes = 512;
	ram->engine.geometry.read_only = params->read_only;
	snprintf(ram->engine.description, sizeof(ram->engine.description),
		 "a disk in memory, filled with %d", (int)fill);
	vublk_engine_log(params->host, VUBLK_LOG_DEBUG, "the disk is filled with %d", (int)fill);
	*engine = &ram->engine;
	return 0;
}

/* The library checks that the value is a number; ram_open() checks its range. */
static const struct vublk_property options[] = {
	{ .name = "fill", .type = "number", .default_value = "0",
	  .description = "the byte with which the disk is filled at the start, 0 to 255" },
	{ .name = NULL },
};

static const struct vublk_engine_ops ram_ops = {
	.name = "ram",
	.flags = VUBLK_ENGINE_USES_SIZE,
	.options = options,
	.open = ram_open,
	.close = ram_close,
	.queue_new = ram_queue_new,
};

VUBLK_ENGINE_MODULE(ram_ops);
