/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Makes the calls of the file engine that do not wait for a disk, on the worker's thread.
 *
 * Key idea: such a call costs one system call. io_uring needs an entry, a completion and a wake-up,
 * and it passes calls that may wait to a kernel thread.
 *
 * A file on tmpfs is in memory. tmpfs refuses RWF_NOWAIT, so io_uring would pass each call to a
 * kernel thread. A plain call only copies, and waits only for pages that were swapped out, as an
 * access to guest memory does.
 *
 * For other files the page cache may have the data: RWF_NOWAIT moves what is cached, or fails with
 * EAGAIN. A failed try costs a system call, so each miss makes more of the following requests skip
 * the try, and each hit makes fewer skip it.
 *
 * Copying from and to a mapping would save even the system call. But if another program shrank the
 * file, SIGBUS would end this process, and only a memfd can be sealed against shrinking.
 */
#include "backend/engine/file/file.h"

#include "util/atomic.h"
#include "util/checked.h"

#include <errno.h>
#include <limits.h>
#include <linux/fs.h>
#include <sys/uio.h>
#include <unistd.h>

/*
 * The longest request that is served here. Longer requests go to io_uring, because other requests
 * would have to wait for the copy, and because io_uring costs little in comparison with such a
 * copy.
 */
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

/* pread() and pwrite() are 10% cheaper than the calls with a vector and flags. */
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

/* With O_DIRECT or RWF_DSYNC, RWF_NOWAIT does not prevent a wait for the disk. */
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
	struct vublk_file_backoff *backoff = &tries->backoff[direction_of(step)];
	int num_iov = (int)VUBLK_MIN(step->num_iov, (unsigned)IOV_MAX);
	ssize_t n;

	if (!vublk_file_backoff_try(backoff))
		return 1;
	n = step->call == VUBLK_FILE_READ ?
		    preadv2(file->fd, step->iov, num_iov, (off_t)step->offset, RWF_NOWAIT) :
		    pwritev2(file->fd, step->iov, num_iov, (off_t)step->offset, RWF_NOWAIT);
	if (n > 0) {
		vublk_file_backoff_hit(backoff);
		return vublk_file_next(queue, io, n, step);
	}
	/*
	 * io_uring makes the call again and reports any error. Some kernels refuse RWF_NOWAIT for
	 * writes with EINVAL.
	 */
	if (n < 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL))
		vublk_store_relaxed(&file->no_nowait[direction_of(step)], true);
	vublk_file_backoff_miss(backoff);
	return 1;
}
