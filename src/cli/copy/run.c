/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs all workers of a copy. This file gives each worker its queues, slots and buffers, starts the
 * workers and waits for them. worker.c has the code of one worker.
 *
 * Key idea: the calling thread does not copy. It shows the progress, checks for signals, and issues
 * the last flush.
 */
#include "cli/copy/worker.h"

#include "cli/cli.h"
#include "cli/crew.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/*
 * Creates and maps the memory of the buffers, which is shared with the back-ends. The seals keep a
 * back-end from truncating the memory's file.
 */
static int map_buffers(struct vublk_copy_run *run, int *fd, struct vublk_error *error)
{
	const struct vublk_copy *copy = run->copy;

	run->buffer_bytes = (size_t)copy->num_queues * copy->num_requests * copy->request_bytes;
	*fd = memfd_create("vublk-copy", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (*fd < 0)
		return vublk_cli_error_errno(error, errno, "cannot create shared memory");
	if (ftruncate(*fd, (off_t)run->buffer_bytes) ||
	    fcntl(*fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return vublk_cli_error_errno(error, errno, "cannot set the size of the shared "
					     "memory to %zu bytes",
					     run->buffer_bytes);
	run->buffers = mmap(NULL, run->buffer_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	if (run->buffers == MAP_FAILED) {
		run->buffers = NULL;
		return vublk_cli_error_errno(error, errno, "cannot map %zu bytes of shared memory",
					     run->buffer_bytes);
	}
	return 0;
}

static int share_buffers(struct vublk_copy_run *run, struct vublk_error *error)
{
	struct vublk_blk *disks[] = { run->copy->from.blk, run->copy->to.blk };
	int fd = -1, ret;

	ret = map_buffers(run, &fd, error);
	for (unsigned i = 0; !ret && i < 2; i++)
		if (disks[i])
			ret = vublk_blk_register(disks[i], run->buffers, run->buffer_bytes, fd, 0,
						 error);
	if (fd >= 0)
		close(fd);
	return ret;
}

static int init_run(struct vublk_copy_run *run, struct vublk_error *error)
{
	struct vublk_copy *copy = run->copy;
	unsigned num_slots = copy->num_queues * copy->num_requests;
	const struct vublk_copy_end *to = &copy->to;

	pthread_mutex_init(&run->lock, NULL);
	vublk_sparse_init(&run->pieces, copy->from.fd, copy->bytes,
			  VUBLK_CLI_MAX(to->block_bytes, (uint32_t)VUBLK_COPY_ZERO_UNIT_BYTES));
	vublk_copy_unflushed_init(&run->unflushed, copy->resumes && to->blk && to->info.flush,
				  copy->flush_bytes);
	run->zeroes = to->blk ? to->info.max_write_zeroes_bytes > 0 : !copy->allocated;
	run->workers = calloc(copy->num_queues, sizeof(*run->workers));
	run->slots = calloc(num_slots, sizeof(*run->slots));
	if (!run->workers || !run->slots)
		return vublk_cli_error_errno(error, ENOMEM, "cannot allocate memory for %u "
					     "requests", num_slots);
	for (unsigned i = 0; i < copy->num_queues; i++)
		run->workers[i] = (struct vublk_copy_worker){
			.run = run, .slots = run->slots + i * copy->num_requests,
			.from = copy->from.blk ? vublk_blk_queue(copy->from.blk, i) : NULL,
			.to = to->blk ? vublk_blk_queue(to->blk, i) : NULL,
		};
	return share_buffers(run, error);
}

static void assign_buffers(struct vublk_copy_run *run)
{
	unsigned num_slots = run->copy->num_queues * run->copy->num_requests;

	for (unsigned i = 0; i < num_slots; i++)
		run->slots[i].buffer = run->buffers + (size_t)i * run->copy->request_bytes;
}

/*
 * Closes the disks and frees the run. The disks must be closed before the memory is unmapped,
 * because requests may still be in flight.
 */
static void deinit_run(struct vublk_copy_run *run)
{
	vublk_blk_close(run->copy->from.blk, 0, NULL);
	vublk_blk_close(run->copy->to.blk, 0, NULL);
	run->copy->from.blk = run->copy->to.blk = NULL;
	if (run->buffers)
		munmap(run->buffers, run->buffer_bytes);
	vublk_copy_unflushed_deinit(&run->unflushed);
	free(run->slots);
	free(run->workers);
	pthread_mutex_destroy(&run->lock);
}

static void stop_run(void *opaque)
{
	__atomic_store_n(&((struct vublk_copy_run *)opaque)->stop, 1, __ATOMIC_RELAXED);
}

static int first_error(const struct vublk_copy_run *run, struct vublk_error *error)
{
	for (unsigned i = 0; i < run->copy->num_queues; i++) {
		const struct vublk_error *found = &run->workers[i].error;

		if (found->code)
			return vublk_cli_error(error, found->code, "%s", found->text);
	}
	if (run->stop)
		return vublk_cli_error(error, ECANCELED, "the copy was interrupted");
	return 0;
}

/*
 * Runs the workers until no pieces are left, `tick` returns true, or a worker fails. Returns 0, the
 * error of the first worker in the list that has failed, or -ECANCELED if only `tick` ended the
 * run.
 */
static int run_workers(struct vublk_copy_run *run, vublk_copy_tick_fn *tick, void *opaque,
		       struct vublk_error *error)
{
	const struct vublk_copy *copy = run->copy;
	struct vublk_crew crew;
	int ret = vublk_crew_start(&crew, copy->num_queues, vublk_copy_work, run->workers,
				   sizeof(*run->workers), stop_run, run, error);

	if (ret)
		return ret;
	while (!vublk_crew_wait(&crew, VUBLK_COPY_TICK_MS))
		if (tick && tick(opaque, copy))
			stop_run(run);
	vublk_crew_finish(&crew);
	return first_error(run, error);
}

/*
 * Runs the workers until everything is copied, and then flushes the destination. If the flush
 * reports lost writes, repeats both steps.
 */
static int run_to_the_end(struct vublk_copy_run *run, vublk_copy_tick_fn *tick, void *opaque,
			  struct vublk_error *error)
{
	int ret;

	for (;;) {
		ret = run_workers(run, tick, opaque, error);
		if (ret)
			return ret;
		if (run->unflushed.again.count)
			continue;
		ret = vublk_copy_flush(run->copy, tick, opaque, error);
		if (ret != -EOWNERDEAD)
			return ret;
		ret = vublk_copy_redo_unflushed(run, error);
		if (ret)
			return ret;
	}
}

int vublk_copy_run(struct vublk_copy *copy, vublk_copy_tick_fn *tick, void *opaque,
		   struct vublk_error *error)
{
	struct vublk_copy_run run = { .copy = copy };
	int ret = init_run(&run, error);

	if (!ret) {
		assign_buffers(&run);
		ret = run_to_the_end(&run, tick, opaque, error);
	}
	deinit_run(&run);
	return ret;
}
