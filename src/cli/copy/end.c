/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The source and the destination of a copy. A path that leads to a socket stands for the disk
 * behind it; any other path is a file or a block device. The data path is in worker.c.
 *
 * Key idea: all checks that need no write are made here, before a byte of the destination changes.
 */
#include "cli/copy/copy.h"

#include "cli/cli.h"

#include <vublk/image.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *kind_of(const struct vublk_copy_end *end)
{
	return end->blk ? "disk" : end->block_device ? "block device" : "file";
}

/* --- opening ------------------------------------------------------------------ */

static int open_disk(struct vublk_copy_end *end, const struct vublk_disk_options *options,
		     struct vublk_error *error)
{
	int ret = vublk_disk_open_watched("copy", end->path, options, &end->watch, &end->blk,
					  error);

	if (ret)
		return ret;
	vublk_blk_get_info(end->blk, &end->info, sizeof(end->info));
	end->bytes = end->info.capacity_bytes;
	end->block_bytes = end->info.block_size_bytes;
	return 0;
}

static int measure_file(struct vublk_copy_end *end, struct vublk_error *error)
{
	struct stat st;
	int sector_bytes;

	if (fstat(end->fd, &st))
		return vublk_cli_error_errno(error, errno, "cannot read the status of '%s'", end->path);
	end->block_device = S_ISBLK(st.st_mode);
	end->bytes = (uint64_t)st.st_size;
	if (!end->block_device)
		return 0;
	if (ioctl(end->fd, BLKGETSIZE64, &end->bytes) || ioctl(end->fd, BLKSSZGET, &sector_bytes))
		return vublk_cli_error_errno(error, errno, "cannot read the size of '%s'",
					     end->path);
	end->block_bytes = (uint32_t)sector_bytes;
	return 0;
}

static int open_file(struct vublk_copy_end *end, unsigned flags, struct vublk_error *error)
{
	const struct vublk_log log = {
		.fn = vublk_cli_log, .opaque = (void *)"copy", .level = VUBLK_LOG_WARNING,
	};
	int ret = vublk_image_open(end->path, flags, &log, error);

	if (ret < 0)
		return ret;
	end->fd = ret;
	end->block_bytes = 1;
	return measure_file(end, error);
}

static int check_ends(const char *from, const char *to, struct vublk_error *error)
{
	struct stat a, b;

	if (stat(from, &a))
		return vublk_cli_error_errno(error, errno, "cannot open '%s'", from);
	if (!stat(to, &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino)
		return vublk_cli_error(error, EINVAL, "'%s' and '%s' are the same file", from, to);
	if (!vublk_disk_is_socket(from) && !vublk_disk_is_socket(to))
		return vublk_cli_error(error, ENOTSOCK, "neither '%s' nor '%s' is the socket of a "
				       "back-end; at least one of them must be", from, to);
	return 0;
}

/* --- checks ------------------------------------------------------------------- */

static int check_sizes(struct vublk_copy *copy, uint64_t size, struct vublk_error *error)
{
	const struct vublk_copy_end *from = &copy->from, *to = &copy->to;
	bool fixed = to->blk || to->block_device;

	if (size > from->bytes)
		return vublk_cli_error(error, EINVAL, "--size=%" PRIu64 " exceeds the %" PRIu64
				       " bytes of the %s '%s'", size, from->bytes, kind_of(from),
				       from->path);
	copy->bytes = size ? size : from->bytes;
	if (to->blk && to->info.read_only)
		return vublk_cli_error(error, EROFS, "the disk '%s' is read-only", to->path);
	if (fixed && copy->bytes > to->bytes)
		return vublk_cli_error(error, ENOSPC, "nothing was written, because the %s '%s' "
				       "has only %" PRIu64 " bytes, which is less than the "
				       "%" PRIu64 " bytes to copy from the %s '%s'",
				       kind_of(to), to->path, to->bytes, copy->bytes,
				       kind_of(from), from->path);
	return 0;
}

/*
 * Reads the last `bytes` bytes of the disk, to check that the back-end serves them. The capacity is
 * counted in sectors, so the last block may be incomplete. A request for such a block is legal, but
 * some back-ends refuse it.
 */
static int read_end(const struct vublk_copy *copy, const struct vublk_copy_end *end,
		    uint64_t bytes, struct vublk_error *error)
{
	struct vublk_blk_queue *queue = vublk_blk_queue(end->blk, 0);
	struct vublk_blk_completion completion = { .result = -ETIMEDOUT };
	void *buffer = vublk_blk_alloc(end->blk, bytes, error);
	int ret;

	if (!buffer)
		return -ENOMEM;
	ret = vublk_blk_read(queue, end->bytes - bytes, buffer, bytes, 0, NULL, error);
	if (!ret)
		ret = vublk_blk_wait(queue, &completion, 1, 1, (int)copy->stall_ms, error);
	if (ret < 0)
		return ret;
	if (completion.result != -ETIMEDOUT) /* after a timeout the buffer is kept, because the
						back-end may write to it later */
		vublk_blk_release(end->blk, buffer, NULL);
	return completion.result;
}

static int check_end(const struct vublk_copy *copy, const struct vublk_copy_end *end,
		     struct vublk_error *error)
{
	uint64_t bytes = end->blk ? end->bytes % end->block_bytes : 0;
	int ret;

	if (!bytes || copy->bytes <= end->bytes - bytes)
		return 0;
	ret = read_end(copy, end, bytes, error);
	if (!ret)
		return 0;
	return vublk_cli_error(error, -ret, "nothing was written, because the last %" PRIu64
			       " bytes of the disk '%s' cannot be read (%s): its size of %" PRIu64
			       " bytes is not a multiple of its block size of %" PRIu32 " bytes; "
			       "copy less with --size=%" PRIu64, bytes, end->path,
			       strerrordesc_np(-ret), end->bytes, end->block_bytes,
			       end->bytes - bytes);
}

static void fit_requests(struct vublk_copy *copy)
{
	const struct vublk_copy_end *ends[] = { &copy->from, &copy->to };

	for (unsigned i = 0; i < 2; i++) {
		const struct vublk_copy_end *end = ends[i];

		copy->request_bytes = VUBLK_CLI_MAX(copy->request_bytes, end->block_bytes);
		if (!end->blk)
			continue;
		copy->num_queues = VUBLK_CLI_MIN(copy->num_queues, end->info.num_queues);
		copy->num_requests = VUBLK_CLI_MIN(copy->num_requests, end->info.queue_size);
	}
}

int vublk_copy_open(struct vublk_copy *copy, const char *from, const char *to, uint64_t size,
		    const struct vublk_disk_options *disk, struct vublk_error *error)
{
	int ret;

	copy->resumes = vublk_disk_reconnects(disk);
	copy->from = (struct vublk_copy_end){ .path = from, .fd = -1 };
	copy->to = (struct vublk_copy_end){ .path = to, .fd = -1 };
	ret = check_ends(from, to, error);
	if (ret)
		return ret;
	ret = vublk_disk_is_socket(from) ? open_disk(&copy->from, disk, error)
					 : open_file(&copy->from, 0, error);
	if (ret)
		return ret;
	ret = vublk_disk_is_socket(to) ? open_disk(&copy->to, disk, error)
				       : open_file(&copy->to, VUBLK_IMAGE_REPLACE, error);
	if (ret)
		return ret;
	ret = check_sizes(copy, size, error);
	if (!ret)
		ret = check_end(copy, &copy->from, error);
	if (!ret)
		ret = check_end(copy, &copy->to, error);
	if (!ret)
		fit_requests(copy);
	return ret;
}

/* --- beginning and end -------------------------------------------------------- */

int vublk_copy_begin(struct vublk_copy *copy, struct vublk_error *error)
{
	const struct vublk_copy_end *to = &copy->to;

	if (copy->from.fd >= 0)
		posix_fadvise(copy->from.fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	if (to->blk || to->block_device)
		return 0;
	if (ftruncate(to->fd, 0) || ftruncate(to->fd, (off_t)copy->bytes))
		return vublk_cli_error_errno(error, errno, "cannot set the size of '%s' to "
					     "%" PRIu64 " bytes", to->path, copy->bytes);
	return 0;
}

/*
 * Waits for the completion of the only request on the queue. Returns 1 if the request has
 * completed, 0 if it has not completed within stall_ms, or a negative errno, which is -ECANCELED if
 * `tick` has returned true.
 */
static int wait_for_flush(struct vublk_copy *copy, struct vublk_blk_queue *queue,
			  struct vublk_blk_completion *completion, vublk_copy_tick_fn *tick,
			  void *opaque, struct vublk_error *error)
{
	uint64_t end = vublk_cli_now_ns() + (uint64_t)copy->stall_ms * 1000000;
	int ret;

	do {
		ret = vublk_blk_wait(queue, completion, 1, 1, VUBLK_COPY_TICK_MS, error);
		if (!ret && tick && tick(opaque, copy))
			return vublk_cli_error(error, ECANCELED, "the copy was interrupted");
	} while (!ret && vublk_cli_now_ns() < end);
	return ret;
}

int vublk_copy_flush(struct vublk_copy *copy, vublk_copy_tick_fn *tick, void *opaque,
		     struct vublk_error *error)
{
	const struct vublk_copy_end *to = &copy->to;
	struct vublk_blk_completion completion = { 0 };
	char text[VUBLK_CLI_TEXT_BYTES];
	int ret;

	if (!to->blk) {
		if (!fsync(to->fd))
			return 0;
		return vublk_cli_error_errno(error, errno, "cannot flush '%s'", to->path);
	}
	ret = vublk_blk_flush(vublk_blk_queue(to->blk, 0), 0, NULL, error);
	if (ret)
		return ret;
	ret = wait_for_flush(copy, vublk_blk_queue(to->blk, 0), &completion, tick, opaque, error);
	if (ret < 0)
		return ret;
	if (!ret)
		return vublk_cli_error(error, ETIMEDOUT, "'%s' was not flushed within %s",
				       to->path, vublk_cli_format_ns(text, copy->stall_ms * 1e6));
	if (completion.result)
		return vublk_cli_error_errno(error, -completion.result, "cannot flush '%s'",
					     to->path);
	return 0;
}

void vublk_copy_close(struct vublk_copy *copy)
{
	struct vublk_copy_end *ends[] = { &copy->from, &copy->to };

	for (unsigned i = 0; i < 2; i++) {
		vublk_blk_close(ends[i]->blk, 0, NULL);
		if (ends[i]->fd >= 0)
			close(ends[i]->fd);
		ends[i]->blk = NULL;
		ends[i]->fd = -1;
	}
}
