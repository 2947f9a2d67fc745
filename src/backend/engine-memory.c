/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A disk in this process's memory: gone when the process ends, so a flush has
 * nothing to do. Pages that were never written, or were discarded, take no room.
 *
 * The idea to read it by: at random places a copy begins by waiting for memory, so
 * each request is done when the next one has come, whose memory is fetched meanwhile.
 * Huge pages would wait less, too, but take 2 MiB where a page is written.
 */
#include "backend/engine.h"

#include "util/checked.h"
#include "util/error.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct memory_engine {
	struct vublk_engine engine;
	char *bytes;
	size_t page_bytes;
};

struct memory_queue {
	struct vublk_engine_queue queue;
	struct vublk_engine_list done;
	struct vublk_engine_io *last; /* submitted, to be done with the next or by commit() */
};

static int memory_open(const struct vublk_engine_options *options, struct vublk_engine **engine,
		       struct vublk_error *error)
{
	struct memory_engine *memory;
	int r = vublk_engine_check_size("memory", options, error);
	void *bytes;

	if (r)
		return r;
	bytes = mmap(NULL, options->size_bytes, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (bytes == MAP_FAILED)
		return vublk_error_set_errno(error, errno,
					     "cannot reserve %" PRIu64 " bytes for a memory disk",
					     options->size_bytes);
	memory = calloc(1, sizeof(*memory));
	if (!memory) {
		munmap(bytes, options->size_bytes);
		return vublk_error_set(error, ENOMEM, "no memory for the engine memory");
	}
	memory->bytes = bytes;
	memory->page_bytes = (size_t)sysconf(_SC_PAGESIZE);
	memory->engine.geometry = (struct vublk_engine_geometry){
		.size_bytes = options->size_bytes,
		.block_bytes = 512,
		.physical_block_bytes = 512,
		.discard_bytes = (uint32_t)memory->page_bytes,
		.zeroes_may_unmap = true,
		.read_only = options->read_only,
	};
	snprintf(memory->engine.description, sizeof(memory->engine.description),
		 "a memory disk");
	*engine = &memory->engine;
	return 0;
}

static void memory_close(struct vublk_engine *engine)
{
	struct memory_engine *memory = (struct memory_engine *)engine;

	munmap(memory->bytes, engine->geometry.size_bytes);
	free(memory);
}

static int memory_queue_new(struct vublk_engine *engine, struct vublk_engine_queue **queue,
			    struct vublk_error *error)
{
	struct memory_queue *memory = calloc(1, sizeof(*memory));

	if (!memory)
		return vublk_error_set(error, ENOMEM,
				       "no memory for a queue of the engine memory");
	memory->queue.engine = engine;
	memory->queue.fd = -1;
	*queue = &memory->queue;
	return 0;
}

static void memory_queue_free(struct vublk_engine_queue *queue)
{
	free(queue);
}

static void copy_out(char *from, const struct vublk_engine_io *io)
{
	for (unsigned i = 0; i < io->num_iov; i++) {
		memcpy(io->iov[i].iov_base, from, io->iov[i].iov_len);
		from += io->iov[i].iov_len;
	}
}

static void copy_in(char *to, const struct vublk_engine_io *io)
{
	for (unsigned i = 0; i < io->num_iov; i++) {
		memcpy(to, io->iov[i].iov_base, io->iov[i].iov_len);
		to += io->iov[i].iov_len;
	}
}

/* Whole pages are given back, which zeroes them; what is left at the ends is cleared. */
static void clear(const struct memory_engine *memory, uint64_t offset, uint64_t bytes)
{
	uint64_t end = offset + bytes;
	uint64_t first = vublk_round_up(offset, memory->page_bytes);
	uint64_t last = end & ~(uint64_t)(memory->page_bytes - 1);

	if (first >= last ||
	    madvise(memory->bytes + first, last - first, MADV_DONTNEED) < 0) {
		memset(memory->bytes + offset, 0, bytes);
		return;
	}
	memset(memory->bytes + offset, 0, first - offset);
	memset(memory->bytes + last, 0, end - last);
}

static void serve(const struct memory_engine *memory, struct vublk_engine_io *io)
{
	char *at = memory->bytes + io->offset;

	switch (io->op) {
	case VUBLK_OP_READ:
		copy_out(at, io);
		break;
	case VUBLK_OP_WRITE:
		copy_in(at, io);
		break;
	case VUBLK_OP_DISCARD:
	case VUBLK_OP_WRITE_ZEROES:
		clear(memory, io->offset, io->bytes);
		break;
	case VUBLK_OP_FLUSH:
		break;
	}
	io->result = 0;
}

static void memory_commit(struct vublk_engine_queue *queue)
{
	struct memory_queue *memory = (struct memory_queue *)queue;

	if (!memory->last)
		return;
	serve((const struct memory_engine *)queue->engine, memory->last);
	vublk_engine_list_add(&memory->done, memory->last);
	memory->last = NULL;
}

static void memory_submit(struct vublk_engine_queue *queue, struct vublk_engine_io *io)
{
	__builtin_prefetch(((const struct memory_engine *)queue->engine)->bytes + io->offset);
	memory_commit(queue);
	((struct memory_queue *)queue)->last = io;
}

static unsigned memory_poll(struct vublk_engine_queue *queue, struct vublk_engine_io **ios,
			    unsigned max)
{
	return vublk_engine_list_take_many(&((struct memory_queue *)queue)->done, ios, max);
}

const struct vublk_engine_ops vublk_engine_memory = {
	.name = "memory",
	.open = memory_open,
	.close = memory_close,
	.queue_new = memory_queue_new,
	.queue_free = memory_queue_free,
	.submit = memory_submit,
	.commit = memory_commit,
	.poll = memory_poll,
};
