/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opens a disk in a file or on a block device, and determines its geometry. step.c serves the
 * requests.
 *
 * Key idea: O_DIRECT is used by default if it can serve every request of a guest, that is, any
 * offset and length that are multiples of 512 bytes. On a device with larger blocks O_DIRECT is
 * used only if the user asks for it (cache=direct). The same holds on tmpfs, which has accepted
 * O_DIRECT since Linux 6.6, although O_DIRECT has no effect there. If O_DIRECT cannot use a
 * request's buffers, the data goes through a bounce buffer.
 */
#include "backend/engine/file/file.h"

#include "util/atomic.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"

#include <vublk/image.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/stat.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* --- the geometry ------------------------------------------------ */

/*
 * Reads a number about a block device from /sys; for a partition, the number is about the whole
 * disk. Returns 0 if /sys does not have the number.
 */
static uint64_t read_sysfs(dev_t device, const char *name)
{
	static const char *const formats[] = {
		"/sys/dev/block/%u:%u/queue/%s", "/sys/dev/block/%u:%u/../queue/%s",
	};
	unsigned long value = 0;
	char path[128];

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(formats); i++) {
		FILE *file;

		snprintf(path, sizeof(path), formats[i], major(device), minor(device), name);
		file = fopen(path, "re");
		if (!file)
			continue;
		if (fscanf(file, "%lu", &value) != 1)
			value = 0;
		fclose(file);
		break;
	}
	return value;
}

static uint32_t sane_block(uint32_t bytes, uint32_t otherwise)
{
	return bytes >= 512 && bytes <= 1u << 20 && vublk_is_power_of_two(bytes) ? bytes :
										   otherwise;
}

static int size_of(const struct vublk_file *file, uint64_t *bytes, struct vublk_error *error)
{
	struct stat st;

	if (file->block_device) {
		if (ioctl(file->fd, BLKGETSIZE64, bytes) < 0)
			return vublk_error_set_errno(error, errno, "cannot get the size of %s",
						     file->engine.description);
		return 0;
	}
	if (fstat(file->fd, &st) < 0)
		return vublk_error_set_errno(error, errno, "cannot get the size of %s",
					     file->engine.description);
	*bytes = (uint64_t)st.st_size;
	return 0;
}

static int check_size(const struct vublk_file *file, uint64_t bytes, struct vublk_error *error)
{
	if (bytes && !(bytes % 512))
		return 0;
	if (!bytes)
		return vublk_error_set(error, EMEDIUMTYPE, "%s is empty; a disk has at least 512 bytes",
				       file->engine.description);
	return vublk_error_set(error, EMEDIUMTYPE,
			       "%s has %" PRIu64 " bytes; expected a multiple of 512, so resize it "
			       "to %" PRIu64 " bytes (truncate -s %%512 FILE rounds up)",
			       file->engine.description, bytes, vublk_round_up(bytes, 512));
}

static int get_device_geometry(struct vublk_file *file, dev_t device)
{
	struct vublk_engine_geometry *geometry = &file->engine.geometry;
	unsigned physical = 0, optimal = 0;
	int logical = 0, read_only = 0;

	if (ioctl(file->fd, BLKSSZGET, &logical) < 0 || ioctl(file->fd, BLKROGET, &read_only) < 0)
		return -errno;
	ioctl(file->fd, BLKPBSZGET, &physical);
	ioctl(file->fd, BLKIOOPT, &optimal);
	geometry->block_bytes = sane_block((uint32_t)logical, 512);
	geometry->physical_block_bytes = sane_block(physical, geometry->block_bytes);
	geometry->optimal_io_bytes = optimal;
	geometry->discard_bytes = (uint32_t)read_sysfs(device, "discard_granularity");
	if (!read_sysfs(device, "discard_max_bytes"))
		geometry->discard_bytes = 0;
	geometry->zeroes_may_unmap = read_sysfs(device, "write_zeroes_max_bytes") != 0;
	geometry->read_only |= read_only != 0;
	file->memory_align = file->offset_align = geometry->block_bytes;
	return 0;
}

static void get_file_geometry(struct vublk_file *file, const struct stat *st)
{
	struct vublk_engine_geometry *geometry = &file->engine.geometry;

	geometry->block_bytes = 512;
	geometry->physical_block_bytes = sane_block((uint32_t)st->st_blksize, 4096);
	geometry->discard_bytes = geometry->physical_block_bytes;
	geometry->zeroes_may_unmap = true;
	file->memory_align = file->offset_align = 0;
}

/*
 * Returns whether the image is in memory. A block device is not in memory: only its node is on
 * devtmpfs, which is a tmpfs.
 */
static bool is_in_memory(const struct vublk_file *file)
{
	struct statfs fs;

	return !file->block_device && !fstatfs(file->fd, &fs) &&
	       (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
}

/*
 * Returns an identity that stays the same while the host runs, even if the file or device is
 * renamed.
 */
static uint64_t identity_of(const struct stat *st)
{
	bool is_device = S_ISBLK(st->st_mode);
	const uint64_t words[] = { is_device, is_device ? st->st_rdev : st->st_dev,
				   is_device ? 0 : st->st_ino };
	uint64_t hash = UINT64_C(0xcbf29ce484222325);

	/* FNV-1a */
	for (size_t i = 0; i < sizeof(words); i++)
		hash = (hash ^ ((const uint8_t *)words)[i]) * UINT64_C(0x100000001b3);
	return hash ? hash : 1;
}

static int get_geometry(struct vublk_file *file, struct vublk_error *error)
{
	struct vublk_engine_geometry *geometry = &file->engine.geometry;
	struct stat st;
	int r = 0;

	if (fstat(file->fd, &st) < 0)
		return vublk_error_set_errno(error, errno, "cannot read the status of %s",
					     file->engine.description);
	file->engine.identity = identity_of(&st);
	file->block_device = S_ISBLK(st.st_mode);
	file->in_memory = is_in_memory(file);
	if (file->block_device)
		r = get_device_geometry(file, st.st_rdev);
	else
		get_file_geometry(file, &st);
	if (r)
		return vublk_error_set_errno(error, -r, "cannot get the block size of %s",
					     file->engine.description);
	r = size_of(file, &geometry->size_bytes, error);
	return r ? r : check_size(file, geometry->size_bytes, error);
}

/* --- O_DIRECT -------------------------------------------------------------- */

/*
 * Asks the kernel for the alignment of direct I/O (since Linux 6.1). Returns false if the kernel
 * does not know the alignment.
 */
static bool ask_alignment(struct vublk_file *file)
{
#ifdef STATX_DIOALIGN
	struct statx stx;

	if (statx(file->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) < 0 ||
	    !(stx.stx_mask & STATX_DIOALIGN))
		return false;
	file->memory_align = stx.stx_dio_mem_align;
	file->offset_align = stx.stx_dio_offset_align;
	return true;
#else
	return false;
#endif
}

/* Finds the alignment by trying reads. The descriptor must have O_DIRECT. */
static void try_alignment(struct vublk_file *file)
{
	void *buffer;

	file->memory_align = file->offset_align = 0;
	if (posix_memalign(&buffer, 4096, 4096))
		return;
	for (uint32_t bytes = 512; bytes <= 4096 && !file->offset_align; bytes *= 2)
		if (pread(file->fd, buffer, bytes, 0) >= 0)
			file->memory_align = file->offset_align = bytes;
	free(buffer);
}

static int set_direct(int fd, bool on)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return -errno;
	flags = on ? flags | O_DIRECT : flags & ~O_DIRECT;
	return fcntl(fd, F_SETFL, flags) < 0 ? -errno : 0;
}

/*
 * Turns O_DIRECT on and returns NULL. If O_DIRECT cannot be used, returns the reason, but may leave
 * the flag set.
 */
static const char *try_direct(struct vublk_file *file, bool asked_for)
{
	struct vublk_engine_geometry *geometry = &file->engine.geometry;

	if (set_direct(file->fd, true))
		return "its file system does not support O_DIRECT";
	if (!ask_alignment(file))
		try_alignment(file);
	if (!file->offset_align || !vublk_is_power_of_two(file->offset_align) ||
	    !vublk_is_power_of_two(file->memory_align))
		return "its file system does not support O_DIRECT for this file";
	if (file->offset_align > 512 && !asked_for)
		return "O_DIRECT needs blocks of more than 512 bytes (cache=direct forces it)";
	if (geometry->size_bytes % file->offset_align)
		return "its size is not a multiple of its file system's blocks";
	geometry->min_block_bytes = file->offset_align;
	if (file->offset_align > geometry->block_bytes)
		geometry->block_bytes = file->offset_align;
	geometry->physical_block_bytes = VUBLK_MAX(geometry->physical_block_bytes,
						   geometry->block_bytes);
	return NULL;
}

/*
 * For an upgrade: uses O_DIRECT if and only if the old process uses it, because the two processes
 * share the flag.
 */
static int keep_cache(struct vublk_file *file, struct vublk_error *error)
{
	struct vublk_engine_geometry *geometry = &file->engine.geometry;
	int flags = fcntl(file->fd, F_GETFL);

	file->direct = flags >= 0 && flags & O_DIRECT;
	if (!file->direct)
		return 0;
	if (!ask_alignment(file))
		try_alignment(file);
	if (!file->offset_align || !vublk_is_power_of_two(file->offset_align) ||
	    !vublk_is_power_of_two(file->memory_align))
		return vublk_error_set(error, ENOTSUP, "the old process uses O_DIRECT for %s, but "
				       "this process cannot find out which alignment that needs; stop "
				       "the old process and start this one without --take-over",
				       file->engine.description);
	geometry->min_block_bytes = file->offset_align;
	geometry->block_bytes = VUBLK_MAX(geometry->block_bytes, file->offset_align);
	geometry->physical_block_bytes = VUBLK_MAX(geometry->physical_block_bytes,
						   geometry->block_bytes);
	return 0;
}

static int choose_cache(struct vublk_file *file, const struct vublk_engine_options *options,
			struct vublk_error *error)
{
	bool asked_for = options->cache == VUBLK_CACHE_DIRECT;
	const char *why;

	if (options->has_image)
		return keep_cache(file, error);
	if (options->cache == VUBLK_CACHE_BUFFERED)
		return 0;
	why = file->in_memory && !asked_for ? "its file system is in memory" :
					      try_direct(file, asked_for);
	if (why && asked_for)
		return vublk_error_set(error, ENOTSUP,
				       "cache=direct is not possible for %s: %s; use cache=auto",
				       file->engine.description, why);
	if (why) {
		set_direct(file->fd, false);
		vublk_log(options->log, VUBLK_LOG_DEBUG, "%s uses the page cache: %s",
			  file->engine.description, why);
		return 0;
	}
	file->direct = true;
	return 0;
}

static int choose_method(struct vublk_file *file, const struct vublk_engine_options *options,
			 struct vublk_error *error)
{
	int r;

	file->blocking = options->method == VUBLK_IO_BLOCKING;
	file->inlined = options->method == VUBLK_IO_AUTO;
	if (file->blocking)
		return 0;
	r = vublk_file_uring_probe();
	if (!r)
		return 0;
	if (options->method == VUBLK_IO_URING)
		return vublk_error_set(error, -r, "io=io_uring is not available (%s): %s, or use "
				       "io=auto", strerrordesc_np(-r),
				       vublk_file_uring_cause(-r));
	vublk_log(options->log, VUBLK_LOG_WARNING, "the back-end uses blocking calls, which are "
		  "slower, because io_uring is not available (%s): %s", strerrordesc_np(-r),
		  vublk_file_uring_cause(-r));
	file->blocking = true;
	return 0;
}

/* --- open and close -------------------------------------------------------- */

static void file_close(struct vublk_engine *engine)
{
	struct vublk_file *file = (struct vublk_file *)engine;

	vublk_file_mapping_close(file);
	vublk_fd_close(&file->fd);
	vublk_file_syncs_deinit(&file->syncs);
	if (file->zeros)
		munmap(file->zeros, VUBLK_FILE_PIECE_BYTES);
	free(file);
}

/*
 * Returns a duplicate of the old process's descriptor of the image. Checks that the path still
 * leads to this image, because the user expects this process to serve the image at the path.
 */
static int use_image(const struct vublk_engine_options *options, struct vublk_error *error)
{
	VUBLK_FD int fd = fcntl(options->image_fd, F_DUPFD_CLOEXEC, 0);
	struct stat ours, there;

	if (fd < 0 || fstat(fd, &ours) < 0)
		return vublk_error_set_errno(error, errno, "cannot use the descriptor of the image '%s'",
					     options->path);
	if (stat(options->path, &there) < 0)
		return vublk_error_set_errno(error, errno, "cannot access '%s'; the image that the old "
					     "process serves must be at this path", options->path);
	if (S_ISBLK(ours.st_mode) ? !S_ISBLK(there.st_mode) || ours.st_rdev != there.st_rdev :
	    ours.st_dev != there.st_dev || ours.st_ino != there.st_ino)
		return vublk_error_set(error, ESTALE, "'%s' is no longer the image that the old "
				       "process serves; put that image back, or stop the old process "
				       "and start this one without --take-over", options->path);
	return vublk_fd_steal(&fd);
}

static int open_image(struct vublk_file *file, const struct vublk_engine_options *options,
		      struct vublk_error *error)
{
	unsigned flags = (options->read_only ? 0 : VUBLK_IMAGE_WRITE) |
			 (options->unlocked ? VUBLK_IMAGE_UNLOCKED : 0);
	int r = options->has_image ? use_image(options, error) :
				     vublk_image_open(options->path, flags, options->log, error);

	if (r < 0)
		return r;
	file->fd = r;
	file->zeros = mmap(NULL, VUBLK_FILE_PIECE_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS,
			   -1, 0);
	if (file->zeros == MAP_FAILED) {
		file->zeros = NULL;
		return vublk_error_set_errno(error, errno, "cannot map a page of zeroes");
	}
	return 0;
}

static int set_up(struct vublk_file *file, const struct vublk_engine_options *options,
		  struct vublk_error *error)
{
	int r = open_image(file, options, error);

	if (!r)
		r = get_geometry(file, error);
	if (!r)
		r = choose_cache(file, options, error);
	if (!r)
		r = choose_method(file, options, error);
	file->dsync = file->direct || file->in_memory;
	if (!r)
		vublk_file_mapping_open(file);
	return r;
}

static int file_open(const struct vublk_engine_params *params, struct vublk_engine **engine,
		     struct vublk_error *error)
{
	const struct vublk_engine_options *options = params->host->options;
	struct vublk_file *file;
	int r;

	if (!options->path)
		return vublk_error_set(error, EINVAL, "the engine 'file' needs an image; set "
				       "blk-file=PATH");
	if (options->size_bytes)
		return vublk_error_set(error, EINVAL, "the size of '%s' is given by the file "
				       "itself; remove the option size",
				       options->path);
	file = calloc(1, sizeof(*file));
	if (!file)
		return vublk_error_set(error, ENOMEM, "cannot allocate memory for the engine 'file'");
	file->fd = -1;
	vublk_file_syncs_init(&file->syncs);
	file->mapping.uffd = -1;
	file->engine.host = params->host;
	file->engine.geometry.read_only = options->read_only;
	snprintf(file->engine.description, sizeof(file->engine.description), "'%s'",
		 options->path);
	r = set_up(file, options, error);
	if (r) {
		file_close(&file->engine);
		return r;
	}
	*engine = &file->engine;
	return 0;
}

static int file_refresh(struct vublk_engine *engine, struct vublk_error *error)
{
	struct vublk_file *file = (struct vublk_file *)engine;
	uint64_t bytes;
	int r = size_of(file, &bytes, error);

	if (!r)
		r = check_size(file, bytes, error);
	if (r)
		return r;
	if (bytes % engine->geometry.block_bytes)
		return vublk_error_set(error, EINVAL,
				       "%s now has %" PRIu64 " bytes, which is not a multiple of "
				       "its block size of %u bytes; resize it again",
				       engine->description, bytes, engine->geometry.block_bytes);
	engine->geometry.size_bytes = bytes;
	return 0;
}

/* Creates a queue of the chosen method (blocking.c or uring.c), which sets the queue's ops. */
static int file_queue_new(struct vublk_engine *engine, struct vublk_engine_queue **queue,
			  struct vublk_error *error)
{
	struct vublk_file *file = (struct vublk_file *)engine;

	return file->blocking ? vublk_file_blocking_queue_new(file, queue, error) :
				vublk_file_uring_queue_new(file, queue, error);
}

static int file_image_fd(const struct vublk_engine *engine)
{
	return ((const struct vublk_file *)engine)->fd;
}

static bool file_has_lost_writes(const struct vublk_engine *engine)
{
	return vublk_file_has_lost_writes((const struct vublk_file *)engine);
}

static void file_lose_writes(struct vublk_engine *engine)
{
	vublk_store_relaxed(&((struct vublk_file *)engine)->lost_writes, true);
}

const struct vublk_engine_ops vublk_engine_file = {
	.name = "file",
	.flags = VUBLK_ENGINE_USES_PATH | VUBLK_ENGINE_USES_SIZE,
	.open = file_open,
	.close = file_close,
	.refresh = file_refresh,
	.image_fd = file_image_fd,
	.has_lost_writes = file_has_lost_writes,
	.lose_writes = file_lose_writes,
	.queue_new = file_queue_new,
};
