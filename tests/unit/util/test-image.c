/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opening images that other programs use: which pairs of users can share an image, according to the
 * bytes that QEMU locks, and which first bytes of an image cause a warning. tests/peers/images.py
 * uses real QEMU programs and mounted devices.
 */
#include "harness.h"

#include "util/fd.h"

#include <vublk/image.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char image[256];
static char warned[512];

static void keep_warning(void *opaque, enum vublk_log_level level, const char *text)
{
	assert_int_equal(level, VUBLK_LOG_WARNING);
	snprintf(warned, sizeof(warned), "%s", text);
}

static const struct vublk_log test_log = { .fn = keep_warning, .level = VUBLK_LOG_DEBUG };

static void make_image(const char *start, size_t bytes, off_t offset)
{
	int fd;

	snprintf(image, sizeof(image), "%s/image", vublk_test_folder());
	fd = open(image, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	assert_int_equal(pwrite(fd, start, bytes, offset), bytes);
	close(fd);
	warned[0] = '\0';
}

static int open_image(unsigned flags)
{
	struct vublk_error error = { 0 };
	int fd = vublk_image_open(image, flags, &test_log, &error);

	if (fd < 0)
		fail_msg("%s", error.text);
	return fd;
}

static void check_busy(unsigned flags, const char *words)
{
	struct vublk_error error = { 0 };

	assert_int_equal(vublk_image_open(image, flags, &test_log, &error), -EBUSY);
	assert_int_equal(error.code, EBUSY);
	if (!strstr(error.text, words))
		fail_msg("'%s' does not contain '%s'", error.text, words);
}

/*
 * Opens the image and locks these bytes, as another program does. Returns the descriptor, which
 * holds the locks.
 */
static int lock_bytes(const unsigned *bytes, unsigned count)
{
	int fd = open(image, O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	for (unsigned i = 0; i < count; i++) {
		struct flock lock = {
			.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = bytes[i], .l_len = 1,
		};

		assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
	}
	return fd;
}

static bool is_locked(unsigned byte)
{
	struct flock lock = {
		.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1,
	};
	VUBLK_FD int fd = open(image, O_RDWR | O_CLOEXEC);

	assert_int_equal(fcntl(fd, F_OFD_GETLK, &lock), 0);
	return lock.l_type != F_UNLCK;
}

/* Returns which bytes of the image are locked. Bit i is byte 100 + i; bit 8 + i is byte 200 + i. */
static unsigned locked_bytes(void)
{
	unsigned found = 0;

	for (unsigned i = 0; i < 8; i++)
		found |= is_locked(100 + i) << i | is_locked(200 + i) << (8 + i);
	return found;
}

static void test_bytes_are_those_of_qemu(void **state)
{
	static const struct {
		unsigned flags, locked;
	} rows[] = {
		{ 0, 0x0a01 },
		{ VUBLK_IMAGE_WRITE, 0x0a03 },
		{ VUBLK_IMAGE_REPLACE, 0x0a0b },
		{ VUBLK_IMAGE_WRITE | VUBLK_IMAGE_UNLOCKED, 0 },
	};

	make_image("", 0, 0);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(rows); i++) {
		int fd = open_image(rows[i].flags);

		assert_int_equal(locked_bytes(), rows[i].locked);
		close(fd);
		assert_int_equal(locked_bytes(), 0);
	}
}

static void test_our_own_users(void **state)
{
	int first, second;

	make_image("", 0, 0);
	first = open_image(0);
	second = open_image(0);
	check_busy(VUBLK_IMAGE_WRITE, "does not allow others to write to it; stop that program "
		   "first, or use the image read-only");
	check_busy(VUBLK_IMAGE_REPLACE, "does not allow others to write to it; stop that program");
	close(first);
	close(second);
	first = open_image(VUBLK_IMAGE_WRITE);
	check_busy(0, "is in use by a program that writes to it");
	check_busy(VUBLK_IMAGE_WRITE, "is in use by a program that writes to it");
	close(open_image(VUBLK_IMAGE_WRITE | VUBLK_IMAGE_UNLOCKED));
	close(first);
}

static void test_users_by_their_bytes(void **state)
{
	/*
	 * A reader that tolerates writers (`-U`), and a writer that tolerates other writers
	 * (`share-rw`).
	 */
	static const unsigned tolerant_reader[] = { 100 }, tolerant_writer[] = { 100, 101 };
	static const unsigned resizer[] = { 103 }, no_reader[] = { 200 };
	int fd;

	make_image("", 0, 0);
	fd = lock_bytes(tolerant_reader, 1);
	close(open_image(0));
	close(open_image(VUBLK_IMAGE_WRITE));
	close(open_image(VUBLK_IMAGE_REPLACE));
	close(fd);
	fd = lock_bytes(tolerant_writer, 2);
	check_busy(0, "writes to it");
	check_busy(VUBLK_IMAGE_WRITE, "writes to it");
	close(fd);
	fd = lock_bytes(resizer, 1);
	check_busy(VUBLK_IMAGE_WRITE, "does not allow others to write");
	close(fd);
	fd = lock_bytes(no_reader, 1);
	check_busy(0, "does not allow others to read it; stop that program first");
	close(fd);
	close(open_image(VUBLK_IMAGE_REPLACE));
}

/* A program locks the whole file, as older versions of vublk did. */
static void test_a_whole_lock(void **state)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	int fd;

	make_image("", 0, 0);
	fd = open(image, O_RDWR | O_CLOEXEC);
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
	check_busy(0, "is in use");
	check_busy(VUBLK_IMAGE_WRITE, "is in use");
	close(fd);
}

static void test_what_may_be_opened(void **state)
{
	struct vublk_error error = { 0 };
	char path[300];
	int fd;

	make_image("", 0, 0);
	assert_int_equal(vublk_image_open("/dev/null", 0, NULL, &error), -ENOTBLK);
	assert_non_null(strstr(error.text, "neither a file nor a block device"));
	assert_int_equal(vublk_image_open(image, 0x8, NULL, &error), -EINVAL);
	assert_string_equal(strstr(error.text, "with"), "with the unknown flags 0x8");
	snprintf(path, sizeof(path), "%s/pipe", vublk_test_folder());
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(vublk_image_open(path, VUBLK_IMAGE_WRITE, NULL, &error), -ENOTBLK);
	assert_int_equal(vublk_image_open(path, 0, NULL, NULL), -ENOTBLK);
	snprintf(path, sizeof(path), "%s/new", vublk_test_folder());
	assert_int_equal(vublk_image_open(path, VUBLK_IMAGE_WRITE, NULL, &error), -ENOENT);
	fd = vublk_image_open(path, VUBLK_IMAGE_REPLACE, NULL, &error);
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
	assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	close(fd);
}

static void check_format(const char *start, size_t bytes, off_t offset, const char *format)
{
	make_image(start, bytes, offset);
	close(open_image(VUBLK_IMAGE_WRITE));
	if (!format) {
		assert_string_equal(warned, "");
		return;
	}
	if (!strstr(warned, format) || !strstr(warned, "used as raw data"))
		fail_msg("the warning is '%s'", warned);
	close(open_image(VUBLK_IMAGE_REPLACE));
	assert_non_null(strstr(warned, "overwritten with raw data"));
}

static void test_formats_draw_a_warning(void **state)
{
	check_format("QFI\xfb\0\0\0\3", 8, 0, "a qcow2 image");
	check_format("KDMV\1\0\0\0", 8, 0, "a VMDK image");
	check_format("# Disk DescriptorFile\n", 22, 0, "a VMDK image");
	check_format("vhdxfile", 8, 0, "a VHDX image");
	check_format("\x7f\x10\xda\xbe", 4, 64, "a VDI image");
	check_format("QFI", 4, 0, NULL);
	check_format("vhdxfile", 8, 512, NULL);
	check_format("\xeb\x63\x90", 3, 0, NULL);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_bytes_are_those_of_qemu),
		VUBLK_TEST(test_our_own_users),
		VUBLK_TEST(test_users_by_their_bytes),
		VUBLK_TEST(test_a_whole_lock),
		VUBLK_TEST(test_what_may_be_opened),
		VUBLK_TEST(test_formats_draw_a_warning),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
