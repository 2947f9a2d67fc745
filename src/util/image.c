/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opens a raw image or a block device that other programs may be using.
 *
 * Key idea: a program takes a read lock on one byte of the image for each kind of access that it
 * needs, and on another byte for each kind of access that other programs must not have. Then it
 * checks whether another program has locked a conflicting byte. The bytes are those of QEMU's
 * block/file-posix.c, and each stands for one permission of QEMU's block layer. On a block device
 * O_EXCL also detects the users that the kernel knows of: mounts, partitions, swap, RAID.
 */
#include <vublk/image.h>

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/log.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

/*
 * A program that locks the byte HELD_BASE + permission uses this permission. A program that locks
 * the byte UNSHARED_BASE + permission does not allow others to use it.
 */
#define HELD_BASE 100
#define UNSHARED_BASE 200

/* The numbers of QEMU's permissions. */
enum permission {
	PERMISSION_READ = 0,
	PERMISSION_WRITE = 1,
	PERMISSION_RESIZE = 3,
};

#define NUM_PERMISSIONS 4
#define BIT(permission) (1u << (permission))

/*
 * How many times to try to lock a busy image; the pauses add up to 3 seconds. The kernel may
 * release the files of a killed program only after a while, because io_uring ends its requests in
 * the background.
 */
#define LOCK_TRIES 300
#define LOCK_PAUSE_NS 10000000

struct image {
	const char *path;
	unsigned flags;
	const struct vublk_log *log;
	int fd;
	int claim; /* a reader's O_EXCL descriptor while the image is being opened; -1: none */
	bool is_claimed; /* a mount or a loop device uses the image, so waiting does not help */
};

/* --- block devices ----------------------------------------------------------- */

static bool is_device(const char *source, dev_t device)
{
	struct stat st;

	return source[0] == '/' && !stat(source, &st) && S_ISBLK(st.st_mode) &&
	       st.st_rdev == device;
}

/*
 * Finds in /proc/self/mountinfo where the file system on `device` is mounted, and stores the path
 * in `where`. Returns false if the file system is not mounted.
 */
static bool find_mount(dev_t device, char where[256])
{
	FILE *file = fopen("/proc/self/mountinfo", "re");
	char line[4096], source[1024];
	unsigned major_number, minor_number;
	const char *dash;
	bool found = false;

	while (file && !found && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%*u %*u %u:%u %*s %255s", &major_number, &minor_number,
			   where) != 3)
			continue;
		/*
		 * Btrfs and some other file systems report a device number of their own, so the
		 * mount's source is compared, too.
		 */
		dash = strstr(line, " - ");
		found = makedev(major_number, minor_number) == device ||
			(dash && sscanf(dash, " - %*s %1023s", source) == 1 &&
			 is_device(source, device));
	}
	if (file)
		fclose(file);
	return found;
}

static int device_is_busy(struct image *image, struct vublk_error *error)
{
	char where[256];
	struct stat st;

	image->is_claimed = !stat(image->path, &st) && find_mount(st.st_rdev, where);
	if (image->is_claimed)
		return vublk_error_set(error, EBUSY, "the block device '%s' is mounted on '%s'; "
				       "unmount it first", image->path, where);
	return vublk_error_set(error, EBUSY, "the block device '%s' is in use by another program, "
			       "a mounted partition, swap, LVM or RAID (see lsblk); release it "
			       "first", image->path);
}

/* --- opening ------------------------------------------------------------------ */

/* Refuses the image, and names what helps: the reader may be root, and the process another user. */
static int open_failed(const struct image *image, int code, struct vublk_error *error)
{
	bool writes = image->flags & VUBLK_IMAGE_WRITE;
	const char *for_what = writes ? " for writing" : "";
	const char *or_read = writes && !(image->flags & VUBLK_IMAGE_REPLACE) ? ", or use read-only" : "";

	if (code == EACCES)
		return vublk_error_set(error, code, "cannot open the image '%s'%s as user %u: %s; give "
				       "this user access to the file and its folders%s", image->path,
				       for_what, (unsigned)geteuid(), strerrordesc_np(code), or_read);
	if (code == EROFS)
		return vublk_error_set(error, code, "cannot open the image '%s'%s: %s; make it writable "
				       "(with ReadWritePaths= for a service of systemd)%s",
				       image->path, for_what, strerrordesc_np(code), or_read);
	return vublk_error_set_errno(error, code, "cannot open the image '%s'", image->path);
}

/*
 * Opens the image. O_NONBLOCK keeps open() from waiting for the other end of a pipe; check_kind()
 * refuses the pipe later. O_EXCL without O_CREAT affects only block devices. A reader keeps its
 * exclusive descriptor only while the image is being opened.
 */
static int open_node(struct image *image, struct vublk_error *error)
{
	int flags = (image->flags & VUBLK_IMAGE_WRITE ? O_RDWR : O_RDONLY) | O_CLOEXEC |
		    O_NONBLOCK | O_NOCTTY;
	bool exclusive = !(image->flags & VUBLK_IMAGE_UNLOCKED);

	image->fd = open(image->path, flags | (exclusive ? O_EXCL : 0));
	if (image->fd < 0 && errno == ENOENT && (image->flags & VUBLK_IMAGE_REPLACE))
		image->fd = open(image->path, flags | O_CREAT, 0666);
	if (image->fd >= 0 && exclusive && !(image->flags & VUBLK_IMAGE_WRITE)) {
		image->claim = image->fd;
		image->fd = open(image->path, flags);
	}
	if (image->fd < 0)
		return errno == EBUSY ? device_is_busy(image, error) :
					open_failed(image, errno, error);
	fcntl(image->fd, F_SETFL, fcntl(image->fd, F_GETFL) & ~O_NONBLOCK);
	return 0;
}

static int check_kind(const struct image *image, struct vublk_error *error)
{
	struct stat st;

	if (fstat(image->fd, &st) < 0)
		return vublk_error_set_errno(error, errno, "cannot read the status of '%s'",
					     image->path);
	if (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode))
		return 0;
	return vublk_error_set(error, ENOTBLK, "'%s' is neither a file nor a block device",
			       image->path);
}

/* --- loop devices ----------------------------------------------------------------- */

/* Reads the first line of a file in sysfs. */
static bool read_line(const char *path, char *line, size_t bytes)
{
	FILE *file = fopen(path, "re");
	bool found = file && fgets(line, (int)bytes, file);

	if (file)
		fclose(file);
	if (found)
		line[strcspn(line, "\n")] = '\0';
	return found;
}

/*
 * Returns true if the loop device that has this `backing_file` in sysfs uses the image, and if this
 * program or the loop device writes to the image.
 */
static bool is_loop_of(const char *backing_file, const struct stat *image, bool we_write)
{
	const size_t folder_bytes = strlen(backing_file) - strlen("loop/backing_file");
	char path[4096], is_read_only[8];
	struct stat st;

	if (!read_line(backing_file, path, sizeof(path)) || stat(path, &st) < 0 ||
	    st.st_dev != image->st_dev || st.st_ino != image->st_ino)
		return false;
	snprintf(path, sizeof(path), "%.*sro", (int)folder_bytes, backing_file);
	return we_write || !read_line(path, is_read_only, sizeof(is_read_only)) ||
	       is_read_only[0] != '1';
}

/*
 * Checks that no loop device uses the image, unless both sides only read. A loop device takes no
 * lock on its file, even if a file system on the loop device is mounted.
 */
static int check_loops(struct image *image, struct vublk_error *error)
{
	glob_t found = { 0 };
	struct stat st;
	int r = 0;

	if (fstat(image->fd, &st) < 0 || !S_ISREG(st.st_mode))
		return 0;
	glob("/sys/block/loop*/loop/backing_file", 0, NULL, &found);
	for (size_t i = 0; i < found.gl_pathc && !r; i++) {
		const char *name = found.gl_pathv[i] + strlen("/sys/block/");
		int bytes = (int)strcspn(name, "/");

		if (!is_loop_of(found.gl_pathv[i], &st, image->flags & VUBLK_IMAGE_WRITE))
			continue;
		image->is_claimed = true;
		r = vublk_error_set(error, EBUSY, "'%s' is in use by the loop device /dev/%.*s; "
				    "use that device instead, or detach it first (losetup -d "
				    "/dev/%.*s)", image->path, bytes, name, bytes, name);
	}
	globfree(&found);
	return r;
}

/* --- locks ---------------------------------------------------------------------- */

static struct flock byte_lock(short type, unsigned byte)
{
	return (struct flock){
		.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1,
	};
}

/* Returns whether another program has locked the byte, shared or exclusively. */
static bool is_locked(const struct image *image, unsigned byte)
{
	struct flock lock = byte_lock(F_WRLCK, byte);

	return !fcntl(image->fd, F_OFD_GETLK, &lock) && lock.l_type != F_UNLCK;
}

static int image_is_busy(const struct image *image, struct vublk_error *error)
{
	bool we_write = image->flags & VUBLK_IMAGE_WRITE;
	bool we_replace = image->flags & VUBLK_IMAGE_REPLACE;

	if (is_locked(image, HELD_BASE + PERMISSION_WRITE))
		return vublk_error_set(error, EBUSY, "'%s' is in use by a program that writes to "
				       "it, such as a virtual machine or a back-end; stop that "
				       "program first", image->path);
	return vublk_error_set(error, EBUSY, "'%s' is in use by a program that does not allow "
			       "others to %s it; stop that program first%s", image->path,
			       we_write ? "write to" : "read",
			       we_write && !we_replace ? ", or use the image read-only" : "");
}

/*
 * Takes a read lock on the byte of each permission. -EAGAIN: another program has locked one of the
 * bytes exclusively. Any other error: the file cannot be locked.
 */
static int mark(const struct image *image, unsigned base, unsigned permissions)
{
	for (unsigned i = 0; i < NUM_PERMISSIONS; i++) {
		struct flock lock = byte_lock(F_RDLCK, base + i);

		if ((permissions & BIT(i)) && fcntl(image->fd, F_OFD_SETLK, &lock) < 0)
			return errno == EACCES ? -EAGAIN : -errno;
	}
	return 0;
}

static bool is_marked(const struct image *image, unsigned base, unsigned permissions)
{
	for (unsigned i = 0; i < NUM_PERMISSIONS; i++)
		if ((permissions & BIT(i)) && is_locked(image, base + i))
			return true;
	return false;
}

static int lock_image(const struct image *image, struct vublk_error *error)
{
	const unsigned unshared = BIT(PERMISSION_WRITE) | BIT(PERMISSION_RESIZE);
	unsigned held = BIT(PERMISSION_READ);
	int r;

	if (image->flags & VUBLK_IMAGE_WRITE)
		held |= BIT(PERMISSION_WRITE);
	if (image->flags & VUBLK_IMAGE_REPLACE)
		held |= BIT(PERMISSION_RESIZE);
	r = mark(image, HELD_BASE, held);
	if (!r)
		r = mark(image, UNSHARED_BASE, unshared);
	if (r && r != -EAGAIN) {
		vublk_log(image->log, VUBLK_LOG_WARNING, "'%s' cannot be locked on its file system "
			  "(%s); make sure that no other program writes to it",
			  image->path, strerrordesc_np(-r));
		return 0;
	}
	if (r || is_marked(image, UNSHARED_BASE, held) || is_marked(image, HELD_BASE, unshared))
		return image_is_busy(image, error);
	return 0;
}

/* --- formats ------------------------------------------------------------------- */

/* The signatures of image formats other than raw. */
static const struct {
	const char *format;
	unsigned offset;
	const char *magic;
} formats[] = {
	{ "qcow2", 0, "QFI\xfb" },
	{ "VMDK", 0, "KDMV" },
	{ "VMDK", 0, "COWD" },
	{ "VMDK", 0, "# Disk DescriptorFile" },
	{ "VHDX", 0, "vhdxfile" },
	{ "VHD", 0, "conectix" },
	{ "VDI", 64, "\x7f\x10\xda\xbe" },
};

static const char *format_of(int fd)
{
	char start[512];
	ssize_t got = pread(fd, start, sizeof(start), 0);

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(formats); i++) {
		size_t bytes = strlen(formats[i].magic);

		if (got >= (ssize_t)(formats[i].offset + bytes) &&
		    !memcmp(start + formats[i].offset, formats[i].magic, bytes))
			return formats[i].format;
	}
	return NULL;
}

/*
 * Warns if the image looks as if it were not raw. Does not refuse the image, because a guest can
 * write anything to a raw disk.
 */
static void warn_of_format(const struct image *image)
{
	const char *format = format_of(image->fd);

	if (!format)
		return;
	if (image->flags & VUBLK_IMAGE_REPLACE)
		vublk_log(image->log, VUBLK_LOG_WARNING, "'%s' looks like a %s image and will be "
			  "overwritten with raw data", image->path, format);
	else
		vublk_log(image->log, VUBLK_LOG_WARNING, "'%s' looks like a %s image but is used "
			  "as raw data; if it is one, convert it first (qemu-img convert -O raw)",
			  image->path, format);
}

/* --- the call -------------------------------------------------------------------- */

static int try_open(struct image *image, struct vublk_error *error)
{
	bool is_locked_here = !(image->flags & VUBLK_IMAGE_UNLOCKED);
	int r = open_node(image, error);

	if (!r)
		r = check_kind(image, error);
	if (!r && is_locked_here)
		r = check_loops(image, error);
	if (!r && is_locked_here)
		r = lock_image(image, error);
	vublk_fd_close(&image->claim);
	if (r)
		vublk_fd_close(&image->fd);
	return r;
}

int vublk_image_open(const char *path, unsigned flags, const struct vublk_log *log,
		     struct vublk_error *error)
{
	const struct timespec pause = { .tv_nsec = LOCK_PAUSE_NS };
	struct image image = { .path = path, .flags = flags, .log = log, .fd = -1, .claim = -1 };
	struct vublk_error last = { 0 };
	int r;

	if (flags & ~(VUBLK_IMAGE_WRITE | VUBLK_IMAGE_REPLACE | VUBLK_IMAGE_UNLOCKED))
		return vublk_error_set(error, EINVAL, "cannot open '%s' with the unknown flags 0x%x",
				       path, flags);
	if (flags & VUBLK_IMAGE_REPLACE)
		image.flags |= VUBLK_IMAGE_WRITE;
	r = try_open(&image, &last);
	for (int i = 0; i < LOCK_TRIES && r == -EBUSY && !image.is_claimed; i++) {
		nanosleep(&pause, NULL);
		r = try_open(&image, &last);
	}
	if (r)
		return vublk_error_set(error, -r, "%s", last.text);
	warn_of_format(&image);
	return image.fd;
}
