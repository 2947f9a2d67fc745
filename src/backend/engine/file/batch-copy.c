/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Executes many short requests to a file in memory with one system call.
 *
 * Key idea: the image is mapped, but this program never touches the mapping. The kernel copies
 * between the mapping and the driver's buffers (process_vm_readv() of our own process), for all
 * requests of a batch at once. If the file or a driver's memory has been truncated, the kernel
 * returns a short count, where our own copy would raise SIGBUS. Plain calls execute the requests
 * that this call did not execute, and report their errors.
 *
 * Reading a hole must not fill the hole, but an access through a mapping would fill it. So the
 * mapping is registered with a userfaultfd that fails the kernel's faults in holes
 * (UFFD_FEATURE_SIGBUS, which needs no privilege). Without userfaultfd, and for a read-only image,
 * there is no mapping.
 *
 * A store to a mapping does not update the file's times, but backup programs rely on these times.
 * So the first write of each batch is a plain call.
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

/*
 * The longest request of a batch. A page costs more here than in a plain call, so long requests
 * gain nothing.
 */
#define MAX_BYTES (UINT64_C(16) << 10)
/* The smallest batch. Fewer requests are executed with one plain call each, which is not slower. */
#define MIN_REQUESTS 3u

/* --- the mapping ------------------------------------------------------------ */

/* Makes the kernel's accesses to holes in the file fail instead of filling the holes. */
static int keep_holes(struct vublk_file_mapping *mapping)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MISSING_SHMEM,
	};
	struct uffdio_register range = {
		.range = { .start = (uintptr_t)mapping->base, .len = mapping->bytes },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	mapping->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	if (mapping->uffd < 0 || ioctl(mapping->uffd, UFFDIO_API, &api) < 0 ||
	    ioctl(mapping->uffd, UFFDIO_REGISTER, &range) < 0)
		return -errno;
	return 0;
}

/*
 * Checks that the kernel permits process_vm_readv() on this process. A sandbox may forbid it.
 */
static int try_copy(const struct vublk_file_mapping *mapping)
{
	char byte;
	struct iovec local = { .iov_base = &byte, .iov_len = 1 };
	struct iovec remote = { .iov_base = mapping->base, .iov_len = 1 };

	if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) < 0 && errno != EFAULT)
		return -errno;
	return 0;
}

/*
 * Maps the image without access rights, and adds the rights after the userfaultfd is registered.
 * Otherwise, with all memory locked (mlockall), the kernel would fill the mapping immediately,
 * including holes.
 */
static int map_image(struct vublk_file_mapping *mapping, int fd)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	void *base;
	int r;

	mapping->bytes -= mapping->bytes % page;
	if (!mapping->bytes)
		return -EINVAL;
	base = mmap(NULL, mapping->bytes, PROT_NONE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (base == MAP_FAILED)
		return -errno;
	mapping->base = base;
	madvise(base, mapping->bytes, MADV_DONTFORK);
	madvise(base, mapping->bytes, MADV_DONTDUMP);
	r = keep_holes(mapping);
	if (!r && mprotect(base, mapping->bytes, PROT_READ | PROT_WRITE) < 0)
		r = -errno;
	return r ? r : try_copy(mapping);
}

void vublk_file_mapping_open(struct vublk_file *file)
{
	struct vublk_file_mapping *mapping = &file->mapping;
	int r;

	if (!file->in_memory || !file->inlined || file->direct || file->engine.geometry.read_only)
		return;
	mapping->bytes = file->engine.geometry.size_bytes;
	r = map_image(mapping, file->fd);
	if (!r)
		return;
	vublk_log(file->engine.host->log, VUBLK_LOG_DEBUG, "%s needs one system call per request, "
		  "because batches are not available (%s)", file->engine.description,
		  strerrordesc_np(-r));
	vublk_file_mapping_close(file);
}

void vublk_file_mapping_close(struct vublk_file *file)
{
	struct vublk_file_mapping *mapping = &file->mapping;

	if (mapping->base)
		munmap(mapping->base, mapping->bytes);
	vublk_fd_close(&mapping->uffd);
	*mapping = (struct vublk_file_mapping){ .uffd = -1 };
}

/* --- batches ---------------------------------------------------------------- */

bool vublk_file_mapping_takes(const struct vublk_file *file, const struct vublk_engine_io *io,
			     const struct vublk_file_step *step)
{
	return file->mapping.base && io->bytes <= MAX_BYTES && !step->flags &&
	       (step->call == VUBLK_FILE_READ || step->call == VUBLK_FILE_WRITE) &&
	       vublk_range_within(io->offset, io->bytes, file->mapping.bytes) &&
	       step->num_iov <= VUBLK_FILE_BATCH_IOV;
}

bool vublk_file_batch_add(struct vublk_file_batch *batch, const struct vublk_file *file,
			  struct vublk_engine_io *io, const struct vublk_file_step *step)
{
	unsigned n = batch->num_ios;

	if (n == VUBLK_FILE_BATCH || batch->num_iov + step->num_iov > VUBLK_FILE_BATCH_IOV)
		return false;
	batch->ios[n] = io;
	batch->image[n] = (struct iovec){ file->mapping.base + step->offset, step->bytes };
	memcpy(&batch->buffers[batch->num_iov], step->iov, step->num_iov * sizeof(*step->iov));
	if (!n)
		batch->first_iov = step->num_iov;
	batch->num_ios++;
	batch->num_iov += step->num_iov;
	return true;
}

/*
 * Executes the requests from index `from` on. Returns how many, in order, were executed completely.
 */
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

	if (batch->num_ios < MIN_REQUESTS || !vublk_file_backoff_try(&batch->backoff))
		return 0;
	n = move(batch, from);
	if (n < batch->num_ios - from)
		vublk_file_backoff_miss(&batch->backoff);
	else
		vublk_file_backoff_hit(&batch->backoff);
	return n;
}
