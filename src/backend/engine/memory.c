/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A disk in this process's memory. Its data is lost when the process ends, so a flush does nothing.
 * Small pages that were never written, or were discarded, take no memory.
 *
 * Key idea: a copy at a random offset first waits for memory, and more than half of that time is
 * spent on address translation. So each request is served only when the next one arrives or the
 * batch ends. In the meantime, the disk's memory at the request's offset is prefetched. The memory
 * consists of extents of 2 MiB. If the first write to an extent covers the extent's start and is
 * long, the extent becomes one huge page, because the rest of the extent will probably also be
 * written. Other extents consist of small pages, so that a short write allocates only the pages
 * that it touches.
 */
#include "backend/engine/engine.h"

#include "util/atomic.h"
#include "util/checked.h"
#include "util/error.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define EXTENT_BYTES (UINT64_C(2) << 20)
/*
 * An extent becomes a huge page if the first write to it covers the extent's start and ends at
 * least this many bytes later.
 */
#define HUGE_FROM_BYTES (UINT64_C(256) << 10)

struct memory_engine {
	struct vublk_engine engine;
	char *bytes; /* aligned to an extent */
	size_t page_bytes;
	uint8_t *begun; /* one per extent: whether the extent may have data; used by all workers,
			   relaxed */
	void *mapping;
	size_t mapping_bytes;
};

struct memory_queue {
	struct vublk_engine_queue queue;
	struct vublk_engine_list done;
	struct vublk_engine_io *last; /* the last submitted request, which the next submit() or
					 commit() serves */
};

/*
 * Maps the disk. Turns huge pages off for the whole mapping, so that the engine alone decides which
 * extents get them.
 */
static int map(struct memory_engine *memory, uint64_t bytes)
{
	uint64_t begin;

	if (__builtin_add_overflow(bytes, EXTENT_BYTES, &memory->mapping_bytes))
		return -ENOMEM;
	memory->mapping = mmap(NULL, memory->mapping_bytes, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory->mapping == MAP_FAILED)
		return -errno;
	madvise(memory->mapping, memory->mapping_bytes, MADV_NOHUGEPAGE);
	begin = vublk_round_up((uintptr_t)memory->mapping, EXTENT_BYTES);
	memory->bytes = (char *)memory->mapping + (begin - (uintptr_t)memory->mapping);
	return 0;
}

static int memory_open(const struct vublk_engine_params *params, struct vublk_engine **engine,
		       struct vublk_error *error)
{
	struct memory_engine *memory;
	int r = vublk_engine_check_size("memory", params, error);

	if (r)
		return r;
	memory = calloc(1, sizeof(*memory) + params->size_bytes / EXTENT_BYTES + 1);
	if (!memory)
		return vublk_error_set(error, ENOMEM, "engine memory: cannot allocate the table "
				       "of a disk of %" PRIu64 " bytes", params->size_bytes);
	memory->begun = (uint8_t *)&memory[1];
	r = map(memory, params->size_bytes);
	if (r) {
		free(memory);
		return vublk_error_set_errno(error, -r,
					     "cannot reserve %" PRIu64 " bytes for a memory disk",
					     params->size_bytes);
	}
	memory->page_bytes = (size_t)sysconf(_SC_PAGESIZE);
	memory->engine.geometry = (struct vublk_engine_geometry){
		.size_bytes = params->size_bytes,
		.block_bytes = 512,
		.physical_block_bytes = 512,
		.discard_bytes = (uint32_t)memory->page_bytes,
		.zeroes_may_unmap = true,
		.read_only = params->read_only,
	};
	snprintf(memory->engine.description, sizeof(memory->engine.description),
		 "a memory disk");
	*engine = &memory->engine;
	return 0;
}

static void memory_close(struct vublk_engine *engine)
{
	struct memory_engine *memory = (struct memory_engine *)engine;

	munmap(memory->mapping, memory->mapping_bytes);
	free(memory);
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

/*
 * Makes an extent a huge page: permits huge pages, and touches the first byte, which the request is
 * about to write. Then undoes the madvise(), because the kernel needs one more mapping for each
 * range whose advice differs from its neighbours'.
 */
static void make_huge(char *extent)
{
	if (madvise(extent, EXTENT_BYTES, MADV_HUGEPAGE) < 0)
		return;
	vublk_store_relaxed(extent, 0);
	madvise(extent, EXTENT_BYTES, MADV_NOHUGEPAGE);
}

/*
 * Prepares the extents in the range that have no data yet: records that they may have data, and
 * makes an extent a huge page if a long write covers its start.
 */
static void begin_extents(struct memory_engine *memory, uint64_t offset, uint64_t bytes)
{
	uint64_t end = offset + bytes;
	uint64_t size = memory->engine.geometry.size_bytes;

	for (uint64_t i = offset / EXTENT_BYTES; i * EXTENT_BYTES < end; i++) {
		uint64_t begin = i * EXTENT_BYTES;

		if (vublk_load_relaxed(&memory->begun[i]))
			continue;
		vublk_store_relaxed(&memory->begun[i], 1);
		if (begin >= offset && end - begin >= HUGE_FROM_BYTES &&
		    size - begin >= EXTENT_BYTES)
			make_huge(memory->bytes + begin);
	}
}

static void copy_in(char *to, const struct vublk_engine_io *io)
{
	for (unsigned i = 0; i < io->num_iov; i++) {
		memcpy(to, io->iov[i].iov_base, io->iov[i].iov_len);
		to += io->iov[i].iov_len;
	}
}

/* Zeroes a range: frees the whole pages in it, and clears the rest at both ends. */
static void clear(struct memory_engine *memory, uint64_t offset, uint64_t bytes)
{
	uint64_t end = offset + bytes;
	uint64_t first = vublk_round_up(offset, memory->page_bytes);
	uint64_t last = end & ~(uint64_t)(memory->page_bytes - 1);

	if (first >= last ||
	    madvise(memory->bytes + first, last - first, MADV_DONTNEED) < 0) {
		memset(memory->bytes + offset, 0, bytes);
		return;
	}
	for (uint64_t i = vublk_round_up(first, EXTENT_BYTES) / EXTENT_BYTES;
	     (i + 1) * EXTENT_BYTES <= last; i++)
		vublk_store_relaxed(&memory->begun[i], 0);
	memset(memory->bytes + offset, 0, first - offset);
	memset(memory->bytes + last, 0, end - last);
}

static void serve(struct memory_engine *memory, struct vublk_engine_io *io)
{
	char *at = memory->bytes + io->offset;

	switch (io->op) {
	case VUBLK_OP_READ:
		copy_out(at, io);
		break;
	case VUBLK_OP_WRITE:
		begin_extents(memory, io->offset, io->bytes);
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
	serve((struct memory_engine *)queue->engine, memory->last);
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

static const struct vublk_engine_queue_ops memory_queue_ops = {
	.free = memory_queue_free,
	.submit = memory_submit,
	.commit = memory_commit,
	.poll = memory_poll,
};

static int memory_queue_new(struct vublk_engine *engine, struct vublk_engine_queue **queue,
			    struct vublk_error *error)
{
	struct memory_queue *memory = calloc(1, sizeof(*memory));

	if (!memory)
		return vublk_error_set(error, ENOMEM,
				       "cannot allocate memory for a queue of the engine memory");
	memory->queue.ops = &memory_queue_ops;
	memory->queue.engine = engine;
	memory->queue.fd = -1;
	*queue = &memory->queue;
	return 0;
}

const struct vublk_engine_ops vublk_engine_memory = {
	.name = "memory",
	.flags = VUBLK_ENGINE_USES_SIZE,
	.open = memory_open,
	.close = memory_close,
	.queue_new = memory_queue_new,
};
