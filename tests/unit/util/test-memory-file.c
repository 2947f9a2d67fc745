/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which files may be shared memory, and how parts of them are mapped.
 *
 * Key idea: machines with a DAX device are rare, so a memfd poses as one. The replaced fstat() says
 * that it is a character device, and the replaced open() finds its sysfs folder in a temporary
 * folder.
 */
#include "harness.h"

#include "util/checked.h"
#include "util/fd.h"
#include "util/memfd.h"
#include "util/memory-file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define FILE_BYTES (8 * MIB)

/* --- the device ------------------------------------------------------------ */

static struct {
	int fd; /* this descriptor poses as a character device */
	char folder[64];
} dax = { .fd = -1 };

int __real_fstat64(int fd, struct stat *st);
int __wrap_fstat64(int fd, struct stat *st);
int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);

int __wrap_fstat64(int fd, struct stat *st)
{
	int r = __real_fstat64(fd, st);

	if (fd != dax.fd)
		return r;
	st->st_mode = (st->st_mode & ~(mode_t)S_IFMT) | S_IFCHR;
	st->st_rdev = makedev(252, 3);
	st->st_size = 0;
	return r;
}

/* Ignores the mode, because no tested function creates a file. */
int __wrap_open64(const char *path, int flags, ...)
{
	return __real_open64(strcmp(path, "/sys/dev/char/252:3") ? path : dax.folder, flags);
}

static void put(const char *name, const char *text)
{
	char path[96];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", dax.folder, name);
	file = fopen(path, "w");
	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

static void begin(const char *subsystem)
{
	char link[96];

	snprintf(dax.folder, sizeof(dax.folder), "/tmp/vublk-dax-XXXXXX");
	assert_non_null(mkdtemp(dax.folder));
	snprintf(link, sizeof(link), "%s/subsystem", dax.folder);
	assert_int_equal(symlink(subsystem, link), 0);
	dax.fd = vublk_memfd_new("dax", FILE_BYTES, NULL);
	assert_true(dax.fd >= 0);
}

static void end(void)
{
	static const char *const names[] = { "subsystem", "size", "align" };
	char path[96];

	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", dax.folder, names[i]);
		unlink(path);
	}
	assert_int_equal(rmdir(dax.folder), 0);
	vublk_fd_close(&dax.fd);
}

/* --- cases ----------------------------------------------------------------- */

static void test_dax_device(void **state)
{
	struct vublk_fault fault = { .fd = -1 };
	struct vublk_memory_part part;
	struct vublk_memory_file file;
	struct vublk_error error;
	char bytes[4];

	begin("../../../../bus/dax");
	put("size", "8388608\n");
	put("align", "2097152\n");
	assert_int_equal(vublk_memory_file_check(dax.fd, 3 * MIB, 5 * MIB, &file, &error), 0);
	assert_int_equal(file.size_bytes, FILE_BYTES);
	assert_int_equal(file.align, 2 * MIB);
	assert_int_equal(vublk_memory_file_map(dax.fd, &file, 3 * MIB, MIB, &fault,
					       VUBLK_FAULT_MEMORY, &part, &error), 0);
	assert_int_equal(part.mapping_bytes, 2 * MIB);
	assert_ptr_equal(part.start, (char *)part.mapping + MIB);
	strcpy(part.start, "dax");
	assert_int_equal(pread(dax.fd, bytes, 4, 3 * MIB), 4);
	assert_string_equal(bytes, "dax");
	vublk_unmap(part.mapping, part.mapping_bytes);
	assert_int_equal(vublk_memory_file_check(dax.fd, 3 * MIB, 5 * MIB + 1, &file, &error),
			 -EINVAL);
	assert_non_null(strstr(error.text, "of its file, which has only 8388608"));
	end();
}

/*
 * Old kernels lack the sysfs file `align`. The library then uses the page size. A device without
 * the file `size` counts as empty.
 */
static void test_dax_device_with_missing_files(void **state)
{
	struct vublk_memory_file file;
	struct vublk_error error;

	begin("../../../../bus/dax");
	assert_int_equal(vublk_memory_file_check(dax.fd, 0, 1, &file, &error), -EINVAL);
	assert_non_null(strstr(error.text, "of its file, which has only 0"));
	put("size", "8388608\n");
	assert_int_equal(vublk_memory_file_check(dax.fd, 0, FILE_BYTES, &file, &error), 0);
	assert_int_equal(file.align, (uint64_t)sysconf(_SC_PAGESIZE));
	put("align", "3\n");
	assert_int_equal(vublk_memory_file_check(dax.fd, 0, FILE_BYTES, &file, &error), 0);
	assert_int_equal(file.align, (uint64_t)sysconf(_SC_PAGESIZE));
	end();
}

static void test_other_character_devices(void **state)
{
	static const char *const subsystems[] = { "../../../../class/mem", "notdax", "dax" };

	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(subsystems); i++) {
		struct vublk_memory_file file;
		struct vublk_error error;

		begin(subsystems[i]);
		put("size", "8388608\n");
		assert_int_equal(vublk_memory_file_check(dax.fd, 0, 1, &file, &error), -EINVAL);
		assert_non_null(strstr(error.text, "is not a memory file"));
		end();
	}
}

/*
 * The mapping of a part of a regular file begins at a page boundary and contains the part's bytes.
 */
static void test_part_of_a_file(void **state)
{
	VUBLK_FD int fd = vublk_memfd_new("part", FILE_BYTES, NULL);
	struct vublk_fault fault = { .fd = -1 };
	struct vublk_memory_part part;
	struct vublk_memory_file file;

	assert_int_equal(pwrite(fd, "words", 5, 12345), 5);
	assert_int_equal(vublk_memory_file_check(fd, 12345, 5, &file, NULL), 0);
	assert_int_equal(vublk_memory_file_map(fd, &file, 12345, 5, &fault, VUBLK_FAULT_MEMORY,
					       &part, NULL), 0);
	assert_memory_equal(part.start, "words", 5);
	assert_int_equal((uintptr_t)part.mapping % (uintptr_t)sysconf(_SC_PAGESIZE), 0);
	vublk_unmap(part.mapping, part.mapping_bytes);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_dax_device),
		VUBLK_TEST(test_dax_device_with_missing_files),
		VUBLK_TEST(test_other_character_devices),
		VUBLK_TEST(test_part_of_a_file),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
