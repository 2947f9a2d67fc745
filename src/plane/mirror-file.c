/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The file that stores a mirror's state; see mirror-file.h. The numbers in the header are
 * little-endian.
 *
 * Key idea: a new file is complete before it gets its name. It is written as PATH.new and then
 * renamed. So a process that is killed leaves no empty file at PATH, and an empty file at PATH
 * counts as damaged.
 */
#include "plane/mirror-file.h"

#include "util/checked.h"
#include "util/crc32c.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/kill-point.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define COPY_BYTES (VUBLK_MIRROR_FILE_HEADERS_BYTES / 2)
#define NUM_COPIES 2
#define MAGIC "vublk mirror\n\x1a\r\n" /* 16 bytes; any conversion of line endings damages it */
#define VERSION 1

#define WHAT_TO_DO "find out which disk is up to date, remove the file, and start with that disk"

struct stored_disk {
	char path[VUBLK_MIRROR_STATE_PATH_BYTES];
	char serial[VUBLK_MIRROR_STATE_SERIAL_BYTES];
	uint64_t bytes;
};

/*
 * A copy of the header as it is stored. `crc` is the CRC of the whole copy, computed while `crc` is
 * 0.
 */
struct stored_header {
	char magic[16];
	uint32_t version, crc;
	uint64_t sequence, generation, region_bytes;
	uint32_t phase, authoritative;
	struct stored_disk disks[2];
	char unused[COPY_BYTES - 632];
};

_Static_assert(sizeof(MAGIC) - 1 <= 16, "the magic fits");
_Static_assert(sizeof(struct stored_header) == COPY_BYTES, "no padding");

/* --- formats ---------------------------------------------------------------------------- */

static void encode(const struct vublk_mirror_header *header, struct stored_header *stored)
{
	*stored = (struct stored_header){
		.magic = MAGIC,
		.version = htole32(VERSION),
		.sequence = htole64(header->sequence),
		.generation = htole64(header->generation),
		.region_bytes = htole64(header->region_bytes),
		.phase = htole32(header->phase),
		.authoritative = htole32(header->authoritative),
	};
	for (unsigned i = 0; i < 2; i++) {
		const struct vublk_mirror_state_disk *disk = &header->disks[i];

		memcpy(stored->disks[i].path, disk->path, sizeof(disk->path));
		memcpy(stored->disks[i].serial, disk->serial, sizeof(disk->serial));
		stored->disks[i].bytes = htole64(disk->bytes);
	}
	stored->crc = htole32(vublk_crc32c(stored, sizeof(*stored)));
}

static void decode(const struct stored_header *stored, struct vublk_mirror_header *header)
{
	*header = (struct vublk_mirror_header){
		.sequence = le64toh(stored->sequence),
		.generation = le64toh(stored->generation),
		.region_bytes = le64toh(stored->region_bytes),
		.phase = le32toh(stored->phase),
		.authoritative = le32toh(stored->authoritative),
	};
	for (unsigned i = 0; i < 2; i++) {
		struct vublk_mirror_state_disk *disk = &header->disks[i];

		memcpy(disk->path, stored->disks[i].path, sizeof(disk->path) - 1);
		memcpy(disk->serial, stored->disks[i].serial, sizeof(disk->serial) - 1);
		disk->bytes = le64toh(stored->disks[i].bytes);
	}
}

static bool has_magic(const struct stored_header *stored)
{
	return !memcmp(stored->magic, MAGIC, sizeof(MAGIC) - 1);
}

static bool is_intact(const struct stored_header *stored)
{
	struct stored_header copy = *stored;

	copy.crc = 0;
	return has_magic(stored) && le32toh(stored->crc) == vublk_crc32c(&copy, sizeof(copy));
}

uint64_t vublk_mirror_header_num_regions(const struct vublk_mirror_header *header)
{
	uint64_t bytes = header->disks[header->authoritative].bytes;

	return header->region_bytes ?
		       bytes / header->region_bytes + !!(bytes % header->region_bytes) : 0;
}

uint64_t vublk_mirror_bitmap_bytes(uint64_t num_regions)
{
	return vublk_round_up(num_regions / 8 + 1, 4096);
}

/* --- files -------------------------------------------------------------------------------- */

int vublk_mirror_file_absolute(const char *path, char *absolute, size_t room,
			       struct vublk_error *error)
{
	char *folder = NULL;
	int length;

	if (path[0] != '/') {
		folder = getcwd(NULL, 0);
		if (!folder)
			return vublk_error_set_errno(error, errno, "cannot find the folder of '%s'",
						     path);
	}
	length = snprintf(absolute, room, "%s%s%s", folder ? folder : "", folder ? "/" : "", path);
	free(folder);
	if (length < 0 || (size_t)length >= room)
		return vublk_error_set(error, ENAMETOOLONG, "the path '%.64s...' is longer than %zu "
				       "bytes; use a shorter one", path, room - 1);
	return 0;
}

static int read_all(int fd, void *data, size_t bytes, off_t offset)
{
	char *at = data;

	while (bytes) {
		ssize_t n = pread(fd, at, bytes, offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -ENODATA;
		at += n;
		offset += n;
		bytes -= (size_t)n;
	}
	return 0;
}

static int write_all(int fd, const void *data, size_t bytes, off_t offset)
{
	const char *at = data;

	while (bytes) {
		ssize_t n = pwrite(fd, at, bytes, offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		at += n;
		offset += n;
		bytes -= (size_t)n;
	}
	return 0;
}

/* Returns whether the path leads to the file. Also returns true if that cannot be determined. */
static bool is_at(const struct vublk_mirror_file *file, const char *path)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return errno != ENOENT && errno != ENOTDIR;
	return st.st_dev == file->device && st.st_ino == file->inode;
}

int vublk_mirror_file_sync(const struct vublk_mirror_file *file, uint64_t bytes,
			   struct vublk_error *error)
{
	struct stat st;

	if (fdatasync(file->fd) < 0 || fstat(file->fd, &st) < 0)
		return vublk_error_set_errno(error, errno, "cannot write the mirror's state file "
					     "'%s'", file->path);
	if ((uint64_t)st.st_size < bytes)
		return vublk_error_set(error, EIO, "the mirror's state file '%s' was truncated to %lld "
				       "bytes; expected at least %" PRIu64 " bytes", file->path,
				       (long long)st.st_size, bytes);
	if (!is_at(file, file->path))
		return vublk_error_set(error, EIO, "the mirror's state file '%s' was removed or "
				       "renamed while in use", file->path);
	return 0;
}

static int write_copies(struct vublk_mirror_file *file, struct vublk_mirror_header *header,
			struct vublk_error *error)
{
	struct stored_header stored;
	int r;

	header->sequence++;
	encode(header, &stored);
	for (unsigned i = 0; i < NUM_COPIES; i++) {
		r = write_all(file->fd, &stored, sizeof(stored), i * COPY_BYTES);
		if (!r && fdatasync(file->fd) < 0)
			r = -errno;
		if (r)
			return vublk_error_set_errno(error, -r, "cannot write the mirror's state "
						     "file '%s'", file->path);
		vublk_kill_point(i ? "mirror-header" : "mirror-half-header");
	}
	return 0;
}

int vublk_mirror_file_write(struct vublk_mirror_file *file, struct vublk_mirror_header *header,
			    struct vublk_error *error)
{
	int r = write_copies(file, header, error);

	return r ? r : vublk_mirror_file_sync(file, VUBLK_MIRROR_FILE_HEADERS_BYTES, error);
}

/*
 * Changes the size of the file twice, so that each attempt has a change to write. If an earlier
 * attempt set the size, but writing it to the storage failed, the kernel may have dropped that
 * change.
 */
int vublk_mirror_file_invalidate(struct vublk_mirror_file *file)
{
	if (ftruncate(file->fd, 1) < 0 || ftruncate(file->fd, 0) < 0 || fdatasync(file->fd) < 0)
		return -errno;
	return 0;
}

/* --- opening --------------------------------------------------------------------------------- */

/*
 * Opens and locks the file at `path`, which is file->path, or file->path with ".new" appended.
 * Examines the file before opening it, because opening a device can have side effects.
 */
static int open_locked(struct vublk_mirror_file *file, const char *path, int flags,
		       struct vublk_error *error)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	struct stat st;

	if (!lstat(path, &st) && !S_ISREG(st.st_mode))
		return vublk_error_set(error, EINVAL, "the mirror's state file '%s' is %s; it must be "
				       "a regular file", path,
				       S_ISLNK(st.st_mode) ? "a symbolic link" : "a special file");
	file->fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | flags, 0600);
	if (file->fd < 0 && errno == ENOENT && !flags)
		return -ENOENT;
	if (file->fd < 0 || fstat(file->fd, &st) < 0)
		return vublk_error_set_errno(error, errno, "cannot open the mirror's state file '%s' "
					     "for writing", path);
	if (!S_ISREG(st.st_mode))
		return vublk_error_set(error, EINVAL, "the mirror's state file '%s' is not a regular "
				       "file; give the path of a regular file", path);
	file->device = st.st_dev;
	file->inode = st.st_ino;
	if (!fcntl(file->fd, F_OFD_SETLK, &lock))
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return vublk_error_set(error, EBUSY, "the mirror's state file '%s' is in use by "
				       "another device; each device needs a file of its own", path);
	return vublk_error_set_errno(error, errno, "cannot lock the mirror's state file '%s'; use a "
				     "file system that supports locks", path);
}

/* Makes the file's name stable on the storage, by a sync of its folder. */
static int sync_folder(const char *path)
{
	const char *slash = strrchr(path, '/');
	char folder[VUBLK_MIRROR_FILE_PATH_BYTES];
	VUBLK_FD int fd = -1;

	snprintf(folder, sizeof(folder), "%.*s", (int)(slash - path) + 1, path);
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

/* Gives the complete file at `path` its final name. The caller holds the lock on the file. */
static int give_name(struct vublk_mirror_file *file, const char *path, struct vublk_error *error)
{
	struct stat st;
	int r = 0;

	if (!is_at(file, path) || !lstat(file->path, &st))
		return vublk_error_set(error, EBUSY, "the mirror's state file '%s' was created by "
				       "another process at the same time; give each device a file of its "
				       "own", file->path);
	vublk_kill_point("mirror-unnamed");
	if (rename(path, file->path) < 0)
		r = -errno;
	vublk_kill_point("mirror-named");
	if (!r)
		r = sync_folder(file->path);
	return r ? vublk_error_set_errno(error, -r, "cannot create the mirror's state file '%s'",
					 file->path) : 0;
}

static int create(struct vublk_mirror_file *file, struct vublk_error *error)
{
	char path[VUBLK_MIRROR_FILE_PATH_BYTES + 4];
	struct vublk_mirror_header header = { .phase = VUBLK_MIRROR_STATE_NEW };
	int r;

	snprintf(path, sizeof(path), "%s.new", file->path);
	r = open_locked(file, path, O_CREAT, error);
	if (r)
		return r;
	vublk_kill_point("mirror-created");
	if (is_at(file, path) && ftruncate(file->fd, 0) < 0)
		return vublk_error_set_errno(error, errno, "cannot truncate '%s'", path);
	r = is_at(file, path) ? write_copies(file, &header, error) : 0;
	if (!r)
		r = give_name(file, path, error);
	if (r && is_at(file, path))
		unlink(path);
	return r;
}

static int damaged(const struct vublk_mirror_file *file, const char *how, struct vublk_error *error)
{
	return vublk_error_set(error, EINVAL, "the mirror's state file '%s' %s; " WHAT_TO_DO,
			       file->path, how);
}

/* Checks the contents of a header. Its CRC is right, but another program may have written it. */
static int check_header(const struct vublk_mirror_file *file, const struct stored_header *stored,
			const struct vublk_mirror_header *header, struct vublk_error *error)
{
	uint64_t region_bytes = header->region_bytes;
	const struct vublk_mirror_state_disk *disk;

	if (le32toh(stored->version) != VERSION)
		return vublk_error_set(error, EINVAL, "the mirror's state file '%s' has version %u, "
				       "but this program knows only version %u; use the program that "
				       "wrote it", file->path, le32toh(stored->version), VERSION);
	if (header->phase > VUBLK_MIRROR_STATE_MIRRORING || header->authoritative > 1)
		return damaged(file, "contains an invalid header", error);
	disk = &header->disks[header->authoritative];
	if (header->phase != VUBLK_MIRROR_STATE_NEW && disk->path[0] != '/')
		return damaged(file, "does not name the disk that is up to date", error);
	if (header->phase == VUBLK_MIRROR_STATE_MIRRORING &&
	    (!vublk_is_power_of_two(region_bytes) ||
	     disk->bytes / region_bytes >= VUBLK_MIRROR_STATE_MAX_REGIONS))
		return damaged(file, "contains an invalid size", error);
	return 0;
}

/* In phases other than MIRRORING, the bitmap has no meaning and may have any size. */
static int check_size(const struct vublk_mirror_file *file, const struct vublk_mirror_header *header,
		      struct vublk_error *error)
{
	uint64_t bytes = VUBLK_MIRROR_FILE_HEADERS_BYTES +
			 vublk_mirror_bitmap_bytes(vublk_mirror_header_num_regions(header));
	struct stat st;

	if (header->phase != VUBLK_MIRROR_STATE_MIRRORING)
		return 0;
	if (fstat(file->fd, &st) < 0)
		return vublk_error_set_errno(error, errno, "cannot examine '%s'", file->path);
	if ((uint64_t)st.st_size == bytes)
		return 0;
	return vublk_error_set(error, EINVAL, "the mirror's state file '%s' has %lld bytes instead of "
			       "%" PRIu64 "; " WHAT_TO_DO, file->path, (long long)st.st_size, bytes);
}

/* Chooses the newer one of the intact copies. Returns NULL if both are damaged. */
static const struct stored_header *choose(const struct stored_header *copies)
{
	bool first = is_intact(&copies[0]), second = is_intact(&copies[1]);

	if (first && second)
		return &copies[le64toh(copies[1].sequence) > le64toh(copies[0].sequence)];
	return first ? &copies[0] : second ? &copies[1] : NULL;
}

static int read_header(struct vublk_mirror_file *file, struct vublk_mirror_header *header,
		       bool *was_repaired, struct vublk_error *error)
{
	struct stored_header copies[NUM_COPIES];
	const struct stored_header *chosen;
	int r = read_all(file->fd, copies, sizeof(copies), 0);

	if (r == -ENODATA)
		return damaged(file, "is too short for a header", error);
	if (r)
		return vublk_error_set_errno(error, -r, "cannot read the mirror's state file '%s'",
					     file->path);
	if (!has_magic(&copies[0]) && !has_magic(&copies[1]))
		return vublk_error_set(error, EINVAL, "'%s' is not the state file of a mirror; give "
				       "the path of one, or of a file that does not exist yet",
				       file->path);
	chosen = choose(copies);
	if (!chosen)
		return damaged(file, "is damaged: both copies of its header have a wrong CRC", error);
	decode(chosen, header);
	r = check_header(file, chosen, header, error);
	if (!r)
		r = check_size(file, header, error);
	if (r || !memcmp(&copies[0], &copies[1], sizeof(copies[0])))
		return r;
	*was_repaired = !is_intact(&copies[0]) || !is_intact(&copies[1]);
	return vublk_mirror_file_write(file, header, error);
}

int vublk_mirror_file_open(struct vublk_mirror_file *file, const char *path,
			   struct vublk_mirror_header *header, bool *was_repaired,
			   struct vublk_error *error)
{
	int r;

	*file = (struct vublk_mirror_file){ .fd = -1 };
	*was_repaired = false;
	r = vublk_mirror_file_absolute(path, file->path, sizeof(file->path) - sizeof(".new"), error);
	if (!r)
		r = open_locked(file, file->path, 0, error);
	if (r == -ENOENT)
		r = create(file, error);
	if (!r)
		r = read_header(file, header, was_repaired, error);
	if (r)
		vublk_mirror_file_close(file);
	return r;
}

void vublk_mirror_file_close(struct vublk_mirror_file *file)
{
	vublk_fd_close(&file->fd);
}
