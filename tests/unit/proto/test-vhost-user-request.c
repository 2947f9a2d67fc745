/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The checks of a front-end's memory regions, dirty logs and in-flight areas. */
#include "harness.h"

#include "proto/vhost-user/request.h"
#include "util/checked.h"
#include "util/fd.h"
#include "util/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define TOP UINT64_MAX
#define FILE_BYTES (UINT64_C(1) << 20)

static void expect(const char *name, int r, const char *words, const struct vublk_error *error)
{
	if ((r < 0) != (words != NULL) || (words && !strstr(error->text, words)))
		fail_msg("%s: %d '%s'", name, r, r ? error->text : "");
	if (r < 0)
		assert_int_equal(error->code, -r);
}

static void test_regions(void **state)
{
	static const struct {
		const char *name;
		struct vublk_vu_region region; /* guest address, bytes, user address, offset */
		const char *words; /* a part of the error; NULL: accepted */
	} cases[] = {
		{ "whole file", { 0, FILE_BYTES, 0, 0 }, NULL },
		{ "end of the file", { 0x1000, 4096, 0x1000, FILE_BYTES - 4096 }, NULL },
		{ "not made of pages", { 1, 511, 3, 5 }, NULL },
		{ "up to the top", { TOP - 4095, 4096, TOP - 4095, 0 }, NULL },
		{ "empty", { 4096, 0, 4096, 0 }, "guest address 0x1000 and user address 0x1000 is empty" },
		{ "guest address wraps", { TOP - 4094, 4096, 0, 0 }, "exceeds the address space" },
		{ "user address wraps", { 0, 4096, TOP - 4094, 0 }, "exceeds the address space" },
		{ "size wraps", { 2, TOP, 0, 0 }, "exceeds the address space" },
		{ "offset at the end", { 0x1000, 1, 0, FILE_BYTES },
		  "guest address 0x1000: it needs 1 bytes at offset 1048576 of its file, which has only" },
		{ "a byte too long", { 0, FILE_BYTES, 0, 1 }, "which has only 1048576" },
		{ "offset wraps", { 0, 4096, 0, TOP - 4095 }, "which has only 1048576" },
	};
	VUBLK_FD int fd = vublk_memfd_new("request", FILE_BYTES, NULL);
	struct vublk_memory_file file;
	struct vublk_error error;

	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(cases); i++)
		expect(cases[i].name,
		       vublk_vu_check_region(&cases[i].region, fd, &file, &error),
		       cases[i].words, &error);
}

/* Checks each pair of regions in both orders. */
static void test_overlaps(void **state)
{
	static const struct {
		const char *name;
		struct vublk_vu_region a, b;
		bool overlap;
	} cases[] = {
		{ "adjoining", { 0, 4096, 0, 0 }, { 4096, 4096, 4096, 0 }, false },
		{ "adjoining in reverse", { 0, 4096, 4096, 0 }, { 4096, 4096, 0, 0 }, false },
		{ "up to the top", { TOP - 4095, 4096, TOP - 4095, 0 }, { 0, 4096, 0, 0 }, false },
		{ "same guest address", { 0, 4096, 0, 0 }, { 0, 4096, 8192, 0 }, true },
		{ "guest by a byte", { 4095, 4096, 0, 0 }, { 0, 4096, 8192, 0 }, true },
		{ "guest inside another", { 0, 65536, 0, 0 }, { 4096, 4096, 0x100000, 0 }, true },
		{ "user by a byte", { 0, 4096, 4095, 0 }, { 65536, 4096, 0, 0 }, true },
		{ "user inside another", { 0, 65536, 0, 0 }, { 0x100000, 4096, 4096, 0 }, true },
		{ "a byte at the top", { TOP, 1, 0, 0 }, { TOP - 7, 8, 8192, 0 }, true },
	};
	struct vublk_error error;

	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		const char *words = cases[i].overlap ? "overlap" : NULL;

		expect(cases[i].name,
		       vublk_vu_check_overlap(&cases[i].a, &cases[i].b, &error), words, &error);
		expect(cases[i].name,
		       vublk_vu_check_overlap(&cases[i].b, &cases[i].a, &error), words, &error);
	}
}

static void test_logs(void **state)
{
	static const struct { const char *name; struct vublk_vu_log log; const char *words; } cases[] = {
		{ "whole file", { FILE_BYTES, 0 }, NULL },
		{ "a byte", { 1, 12345 }, NULL },
		{ "empty", { 0, 0 }, "gives a dirty log of 0 bytes" },
		{ "a byte too long", { FILE_BYTES, 1 }, "the dirty log of SET_LOG_BASE: it needs" },
		{ "offset wraps", { 4096, TOP - 4095 }, "which has only 1048576" },
	};
	VUBLK_FD int fd = vublk_memfd_new("request", FILE_BYTES, NULL);
	struct vublk_vu_message message;
	struct vublk_memory_file file;
	struct vublk_error error;

	vublk_vu_message_init(&message, VUBLK_VU_SET_LOG_BASE);
	message.header.size = sizeof(message.payload.log);
	message.fds[0] = fd;
	message.num_fds = 1;
	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		message.payload.log = cases[i].log;
		expect(cases[i].name,
		       vublk_vu_check_log_base(&message, VUBLK_BIT(VUBLK_VU_F_LOG_SHMFD), &file,
					       &error), cases[i].words, &error);
	}
	expect("no LOG_SHMFD", vublk_vu_check_log_base(&message, 0, &file, &error),
	       "needs the protocol feature LOG_SHMFD", &error);
}

static void test_inflight_areas(void **state)
{
	static const struct {
		const char *name;
		struct vublk_vu_inflight area; /* bytes, offset, queues, entries */
		const char *words;
	} cases[] = {
		{ "whole file", { FILE_BYTES, 0, 4, 128 }, NULL },
		{ "announced larger than its file", { 2 * FILE_BYTES, FILE_BYTES - 4096, 1, 1 }, NULL },
		{ "no queue", { FILE_BYTES, 0, 0, 128 }, "for 0 queues of 128 entries; expected" },
		{ "too many queues", { FILE_BYTES, 0, 5, 128 }, "expected 1 to 4 queues of 1 to" },
		{ "no entry", { FILE_BYTES, 0, 4, 0 }, "of 0 entries; expected 1" },
		{ "too many entries", { FILE_BYTES, 0, 4, 129 }, "of 129 entries; expected 1" },
		{ "a byte too small", { 4095, 0, 4, 128 },
		  "of 4095 bytes, but 4 queues of 128 entries need 4096" },
		{ "not aligned", { 4096, 32, 4, 128 }, "the offset 32; expected a multiple of 64" },
		{ "past the end", { 4096, FILE_BYTES - 4032, 4, 128 }, "which has only 1048576" },
		{ "offset wraps", { 4096, TOP - 4095, 4, 128 }, "which has only 1048576" },
	};
	VUBLK_FD int fd = vublk_memfd_new("request", FILE_BYTES, NULL);
	struct vublk_vu_message message;
	struct vublk_memory_file file;
	struct vublk_error error;

	vublk_vu_message_init(&message, VUBLK_VU_SET_INFLIGHT_FD);
	message.fds[0] = fd;
	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		int r;

		message.payload.inflight = cases[i].area;
		r = vublk_vu_check_inflight(&message, 4, 128, &error);
		if (!r)
			r = vublk_vu_check_inflight_file(&message, 4096, 64, &file, &error);
		expect(cases[i].name, r, cases[i].words, &error);
	}
}

/*
 * The checks do not accept every file that can be mapped, because the driver of a character device
 * can do anything in mmap().
 */
static void test_files_that_are_no_memory(void **state)
{
	static const char *const paths[] = { "/dev/zero", "/dev/null", "/proc/self", "/dev" };
	const struct vublk_vu_region region = { 0x1000, 4096, 0x1000, 0 };
	struct vublk_memory_file file;
	struct vublk_error error;

	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(paths); i++) {
		VUBLK_FD int fd = open(paths[i], O_RDONLY | O_CLOEXEC);

		expect(paths[i], vublk_vu_check_region(&region, fd, &file, &error),
		       "is not a memory file", &error);
	}
	expect("no descriptor", vublk_vu_check_region(&region, -1, &file, &error),
	       "cannot read the status of descriptor -1", &error);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_regions),
		VUBLK_TEST(test_overlaps),
		VUBLK_TEST(test_logs),
		VUBLK_TEST(test_inflight_areas),
		VUBLK_TEST(test_files_that_are_no_memory),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
