/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the file engine does on the worker's thread because it waits for no disk: one
 * system call, where io_uring takes an entry, a completion and a wake-up, and hands
 * what it takes for slow to a kernel thread.
 *
 * A file on tmpfs is in memory. tmpfs refuses RWF_NOWAIT, which is why io_uring gives
 * each of its calls to a kernel thread, but a plain call is a copy. Pages that were
 * swapped out are waited for; so are a guest's, which are memory of the same kind.
 *
 * Of another file the page cache may have what is asked for: RWF_NOWAIT moves what it
 * has, or says EAGAIN. A try in vain costs a system call, so after each miss more
 * requests are not tried, and after each hit fewer.
 *
 * A mapping would save even the system call, but a file that somebody shrinks would
 * end this process with SIGBUS, and only a memfd can be sealed against that.
 */
#include "backend/engine/file/file.h"

#include "util/atomic.h"
#include "util/checked.h"

#include <errno.h>
#include <limits.h>
#include <linux/fs.h>
#include <sys/uio.h>
#include <unistd.h>

/* Longer ones are given away: others wait meanwhile, and the hand-over is a small part. */
#define MAX_BYTES (UINT64_C(128) << 10)

static bool is_short_transfer(const struct vublk_engine_io *io,
			      const struct vublk_file_step *step)
{
	return io->bytes <= MAX_BYTES &&
	       (step->call == VUBLK_FILE_READ || step->call == VUBLK_FILE_WRITE);
}

/* --- files in memory ------------------------------------------------------- */

bool vublk_file_is_instant(const struct vublk_file *file, const struct vublk_engine_io *io,
			   const struct vublk_file_step *step)
{
	return file->in_memory && file->inlined &&
	       (is_short_transfer(io, step) || step->call == VUBLK_FILE_SYNC);
}

/* The calls without a vector and flags are a tenth cheaper. */
int64_t vublk_file_call_instant(const struct vublk_file *file,
				const struct vublk_file_step *step)
{
	const struct iovec *iov = step->iov;
	ssize_t n;

	if (step->call == VUBLK_FILE_SYNC || step->num_iov != 1 || step->flags)
		return vublk_file_call_blocking(file, step);
	n = step->call == VUBLK_FILE_READ ?
		    pread(file->fd, iov->iov_base, iov->iov_len, (off_t)step->offset) :
		    pwrite(file->fd, iov->iov_base, iov->iov_len, (off_t)step->offset);
	return n < 0 ? -errno : n;
}

/* --- the page cache -------------------------------------------------------- */

static unsigned direction_of(const struct vublk_file_step *step)
{
	return step->call == VUBLK_FILE_WRITE;
}

/* O_DIRECT waits for the disk even with RWF_NOWAIT, and so does RWF_DSYNC. */
bool vublk_file_may_be_cached(const struct vublk_file *file, const struct vublk_engine_io *io,
			      const struct vublk_file_step *step)
{
	return file->inlined && !file->direct && !file->in_memory &&
	       is_short_transfer(io, step) && !step->flags &&
	       !vublk_load_relaxed(&file->no_nowait[direction_of(step)]);
}

int vublk_file_try(struct vublk_file_queue *queue, struct vublk_file_tries *tries,
		   struct vublk_engine_io *io, struct vublk_file_step *step)
{
	struct vublk_file *file = (struct vublk_file *)queue->queue.engine;
	struct vublk_file_luck *luck = &tries->luck[direction_of(step)];
	int num_iov = (int)VUBLK_MIN(step->num_iov, (unsigned)IOV_MAX);
	ssize_t n;

	if (!vublk_file_luck_try(luck))
		return 1;
	n = step->call == VUBLK_FILE_READ ?
		    preadv2(file->fd, step->iov, num_iov, (off_t)step->offset, RWF_NOWAIT) :
		    pwritev2(file->fd, step->iov, num_iov, (off_t)step->offset, RWF_NOWAIT);
	if (n > 0) {
		vublk_file_luck_hit(luck);
		return vublk_file_next(queue, io, n, step);
	}
	/* Errors are io_uring's to find: this was but a try. Some kernels say EINVAL of writes. */
	if (n < 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL))
		vublk_store_relaxed(&file->no_nowait[direction_of(step)], true);
	vublk_file_luck_miss(luck);
	return 1;
}
