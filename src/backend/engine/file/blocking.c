/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The file engine without io_uring: the worker's thread makes the calls, one at a time, and waits
 * for each. This method is slow, so file.c logs a warning if it is used because io_uring is not
 * available.
 */
#include "backend/engine/file/file.h"

#include "util/checked.h"
#include "util/error.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

int64_t vublk_file_call_blocking(const struct vublk_file *file,
				 const struct vublk_file_step *step)
{
	int num_iov = (int)VUBLK_MIN(step->num_iov, (unsigned)IOV_MAX);
	uint64_t range[2] = { step->offset, step->bytes };
	int64_t r = -1;

	switch (step->call) {
	case VUBLK_FILE_READ:
		r = preadv2(file->fd, step->iov, num_iov, (off_t)step->offset, step->flags);
		break;
	case VUBLK_FILE_WRITE:
		r = pwritev2(file->fd, step->iov, num_iov, (off_t)step->offset, step->flags);
		break;
	case VUBLK_FILE_SYNC:
		r = fdatasync(file->fd);
		break;
	case VUBLK_FILE_FALLOCATE:
		r = fallocate(file->fd, step->flags, (off_t)step->offset, (off_t)step->bytes);
		break;
	case VUBLK_FILE_DISCARD:
		r = ioctl(file->fd, BLKDISCARD, range);
		break;
	}
	return r < 0 ? -errno : r;
}

static void blocking_free(struct vublk_engine_queue *queue)
{
	free(queue);
}

/*
 * Makes a sync, or waits for the sync of another thread. Returns as vublk_file_begin() does. A
 * thread that only waits passes the result 0 to vublk_file_next(). If the sync failed, its leader
 * has recorded the failure, so finish() (step.c) fails the request.
 */
static int make_sync(struct vublk_file_queue *queue, struct vublk_engine_io *io,
		     struct vublk_file_step *step)
{
	struct vublk_file *file = (struct vublk_file *)queue->queue.engine;
	bool leads = vublk_file_syncs_wait(&file->syncs);
	int64_t result = leads ? vublk_file_call_blocking(file, step) : 0;
	int r = vublk_file_next(queue, io, result, step);

	if (leads)
		vublk_file_syncs_end(&file->syncs, NULL);
	return r;
}

static void blocking_submit(struct vublk_engine_queue *queue, struct vublk_engine_io *io)
{
	struct vublk_file_queue *blocking = (struct vublk_file_queue *)queue;
	struct vublk_file *file = (struct vublk_file *)queue->engine;
	struct vublk_file_step step;
	int r = vublk_file_begin(blocking, io, &step);

	while (r)
		r = step.call == VUBLK_FILE_SYNC ? make_sync(blocking, io, &step) :
			vublk_file_next(blocking, io, vublk_file_call_blocking(file, &step), &step);
	vublk_engine_list_add(&blocking->done, io);
}

static unsigned blocking_poll(struct vublk_engine_queue *queue, struct vublk_engine_io **ios,
			      unsigned max)
{
	return vublk_engine_list_take_many(&((struct vublk_file_queue *)queue)->done, ios, max);
}

static const struct vublk_engine_queue_ops blocking_ops = {
	.free = blocking_free,
	.submit = blocking_submit,
	.poll = blocking_poll,
};

int vublk_file_blocking_queue_new(struct vublk_file *file, struct vublk_engine_queue **queue,
				  struct vublk_error *error)
{
	struct vublk_file_queue *blocking = calloc(1, sizeof(*blocking));

	if (!blocking)
		return vublk_error_set(error, ENOMEM, "cannot allocate memory for a queue of the "
				       "engine 'file'");
	blocking->queue.ops = &blocking_ops;
	blocking->queue.engine = &file->engine;
	blocking->queue.fd = -1;
	*queue = &blocking->queue;
	return 0;
}
