/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Many short requests to a file in memory by one system call.
 *
 * The idea to read it by: the image is mapped, but never touched by this program. The kernel
 * copies between the mapping and the driver's buffers (process_vm_readv() of ourselves), as
 * many requests as there are at once, and what cannot be had is a short count, where a copy
 * of our own would end the process with SIGBUS: the file may have been made shorter, and so
 * may a driver's memory. Whatever is missing goes the plain way, with its words.
 *
 * A hole in the file is to stay one when it is read, and a mapping would fill it. So the
 * mapping belongs to a userfaultfd that fails such faults of the kernel (UFFD_FEATURE_SIGBUS;
 * it needs no privilege, for faults of the kernel are all that it is asked about). Where
 * that cannot be had, and of an image that is not written, there is no window.
 *
 * A store to a mapping leaves the file's times alone, on which programs rely that copy what
 * has changed. So the first write of each batch is a plain one.
 */
#include "backend/engine/file/file.h"

#include "util/checked.h"
#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* A page costs more here than in a plain call, so that long requests gain nothing. */
#define MAX_BYTES (UINT64_C(16) << 10)
/* With fewer a plain call for each is no slower. */
#define MIN_REQUESTS 3u

/* --- the window ------------------------------------------------------------- */

/* Faults of the kernel on a page that the file does not have fail from now on. */
static int keep_holes(struct vublk_file_window *window)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MISSING_SHMEM,
	};
	struct uffdio_register range = {
		.range = { .start = (uintptr_t)window->base, .len = window->bytes },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	window->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	if (window->uffd < 0 || ioctl(window->uffd, UFFDIO_API, &api) < 0 ||
	    ioctl(window->uffd, UFFDIO_REGISTER, &range) < 0)
		return -errno;
	return 0;
}

/* Whether the kernel copies at all: a sandbox may forbid it. */
static int try_copy(const struct vublk_file_window *window)
{
	char byte;
	struct iovec local = { .iov_base = &byte, .iov_len = 1 };
	struct iovec remote = { .iov_base = window->base, .iov_len = 1 };

	if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) < 0 && errno != EFAULT)
		return -errno;
	return 0;
}

/*
 * Where all memory is to be locked a new mapping is filled at once, holes and all, unless
 * nothing of it may be touched; and later the userfaultfd is asked.
 */
static int map_image(struct vublk_file_window *window, int fd)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	void *base;
	int r;

	window->bytes -= window->bytes % page;
	if (!window->bytes)
		return -EINVAL;
	base = mmap(NULL, window->bytes, PROT_NONE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (base == MAP_FAILED)
		return -errno;
	window->base = base;
	madvise(base, window->bytes, MADV_DONTFORK);
	madvise(base, window->bytes, MADV_DONTDUMP);
	r = keep_holes(window);
	if (!r && mprotect(base, window->bytes, PROT_READ | PROT_WRITE) < 0)
		r = -errno;
	return r ? r : try_copy(window);
}

void vublk_file_window_open(struct vublk_file *file)
{
	struct vublk_file_window *window = &file->window;
	int r;

	if (!file->in_memory || !file->inlined || file->direct || file->engine.geometry.read_only)
		return;
	window->bytes = file->engine.geometry.size_bytes;
	r = map_image(window, file->fd);
	if (!r)
		return;
	vublk_log(file->engine.log, VUBLK_LOG_DEBUG, "%s takes a system call a request, for many "
		  "cannot be had by one here (%s)", file->engine.description,
		  strerrordesc_np(-r));
	vublk_file_window_close(file);
}

void vublk_file_window_close(struct vublk_file *file)
{
	struct vublk_file_window *window = &file->window;

	if (window->base)
		munmap(window->base, window->bytes);
	vublk_fd_close(&window->uffd);
	*window = (struct vublk_file_window){ .uffd = -1 };
}

/* --- batches ---------------------------------------------------------------- */

bool vublk_file_window_takes(const struct vublk_file *file, const struct vublk_engine_io *io,
			     const struct vublk_file_step *step)
{
	return file->window.base && io->bytes <= MAX_BYTES && !step->flags &&
	       (step->call == VUBLK_FILE_READ || step->call == VUBLK_FILE_WRITE) &&
	       vublk_range_within(io->offset, io->bytes, file->window.bytes) &&
	       step->num_iov <= VUBLK_FILE_BATCH_IOV;
}

bool vublk_file_batch_add(struct vublk_file_batch *batch, const struct vublk_file *file,
			  struct vublk_engine_io *io, const struct vublk_file_step *step)
{
	unsigned n = batch->num_ios;

	if (n == VUBLK_FILE_BATCH || batch->num_iov + step->num_iov > VUBLK_FILE_BATCH_IOV)
		return false;
	batch->ios[n] = io;
	batch->image[n] = (struct iovec){ file->window.base + step->offset, step->bytes };
	memcpy(&batch->buffers[batch->num_iov], step->iov, step->num_iov * sizeof(*step->iov));
	if (!n)
		batch->first_iov = step->num_iov;
	batch->num_ios++;
	batch->num_iov += step->num_iov;
	return true;
}

/* Of the requests from `from` on, how many were moved as a whole, in order. */
static unsigned move(struct vublk_file_batch *batch, unsigned from)
{
	unsigned skipped = from ? batch->first_iov : 0;
	const struct iovec *buffers = &batch->buffers[skipped], *image = &batch->image[from];
	unsigned num_iov = batch->num_iov - skipped, n = batch->num_ios - from;
	ssize_t left;

	left = batch->is_write ? process_vm_writev(batch->pid, buffers, num_iov, image, n, 0) :
				 process_vm_readv(batch->pid, buffers, num_iov, image, n, 0);
	for (unsigned i = 0; i < n; i++) {
		left -= (ssize_t)image[i].iov_len;
		if (left < 0)
			return i;
	}
	return n;
}

unsigned vublk_file_batch_move(struct vublk_file_batch *batch)
{
	unsigned from = batch->is_write, n;

	if (batch->num_ios < MIN_REQUESTS || !vublk_file_luck_try(&batch->luck))
		return 0;
	n = move(batch, from);
	if (n < batch->num_ios - from)
		vublk_file_luck_miss(&batch->luck);
	else
		vublk_file_luck_hit(&batch->luck);
	return n;
}
