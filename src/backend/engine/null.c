/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A disk that stores nothing: it ignores writes, and reads leave the buffers unchanged. It is for
 * measurements of everything except the storage. This file is also the example to copy for a new
 * engine.
 */
#include "backend/engine/engine.h"

#include "util/error.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct null_queue {
	struct vublk_engine_queue queue;
	struct vublk_engine_list done;
};

static int null_open(const struct vublk_engine_params *params, struct vublk_engine **engine,
		     struct vublk_error *error)
{
	struct vublk_engine *null;
	int r = vublk_engine_check_size("null", params, error);

	if (r)
		return r;
	null = calloc(1, sizeof(*null));
	if (!null)
		return vublk_error_set(error, ENOMEM, "cannot allocate memory for the engine null");
	null->geometry = (struct vublk_engine_geometry){
		.size_bytes = params->size_bytes,
		.block_bytes = 512,
		.physical_block_bytes = 512,
		.discard_bytes = 512,
		.zeroes_may_unmap = true,
		.read_only = params->read_only,
	};
	snprintf(null->description, sizeof(null->description), "a null disk");
	*engine = null;
	return 0;
}

static void null_close(struct vublk_engine *engine)
{
	free(engine);
}

static void null_queue_free(struct vublk_engine_queue *queue)
{
	free(queue);
}

static void null_submit(struct vublk_engine_queue *queue, struct vublk_engine_io *io)
{
	io->result = 0;
	vublk_engine_list_add(&((struct null_queue *)queue)->done, io);
}

static unsigned null_poll(struct vublk_engine_queue *queue, struct vublk_engine_io **ios,
			  unsigned max)
{
	return vublk_engine_list_take_many(&((struct null_queue *)queue)->done, ios, max);
}

static const struct vublk_engine_queue_ops null_queue_ops = {
	.free = null_queue_free,
	.submit = null_submit,
	.poll = null_poll,
};

static int null_image_fd(const struct vublk_engine *engine)
{
	return -1;
}

static int null_queue_new(struct vublk_engine *engine, struct vublk_engine_queue **queue,
			  struct vublk_error *error)
{
	struct null_queue *null = calloc(1, sizeof(*null));

	if (!null)
		return vublk_error_set(error, ENOMEM, "cannot allocate memory for a queue of the "
				       "engine null");
	null->queue.ops = &null_queue_ops;
	null->queue.engine = engine;
	null->queue.fd = -1;
	*queue = &null->queue;
	return 0;
}

const struct vublk_engine_ops vublk_engine_null = {
	.name = "null",
	.flags = VUBLK_ENGINE_USES_SIZE,
	.open = null_open,
	.close = null_close,
	.image_fd = null_image_fd,
	.queue_new = null_queue_new,
};
