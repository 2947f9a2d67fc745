/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "harness.h"

#include "util/struct.h"
#include "util/checked.h"
#include "util/crc32c.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/log.h"
#include "util/loop.h"
#include "util/memfd.h"
#include "util/option.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

static void test_ranges(void **state)
{
	assert_true(vublk_range_within(0, 10, 10));
	assert_true(vublk_range_within(10, 0, 10));
	assert_false(vublk_range_within(1, 10, 10));
	assert_false(vublk_range_within(UINT64_MAX, 2, 10));
	assert_false(vublk_range_within(2, UINT64_MAX, UINT64_MAX));
	assert_true(vublk_ranges_overlap(0, 10, 9, 1));
	assert_false(vublk_ranges_overlap(0, 10, 10, 1));
	assert_true(vublk_ranges_overlap(5, 1, 0, 10));
	assert_false(vublk_ranges_overlap(5, 1, 0, 5));
}

/* The examples of RFC 3720, appendix B.4, and the usual check value of CRC-32C. */
static void test_crc32c(void **state)
{
	uint8_t bytes[32];

	assert_int_equal(vublk_crc32c("123456789", 9), 0xe3069283);
	assert_int_equal(vublk_crc32c("", 0), 0);
	memset(bytes, 0, sizeof(bytes));
	assert_int_equal(vublk_crc32c(bytes, sizeof(bytes)), 0x8a9136aa);
	memset(bytes, 0xff, sizeof(bytes));
	assert_int_equal(vublk_crc32c(bytes, sizeof(bytes)), 0x62a8ab43);
	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)i;
	assert_int_equal(vublk_crc32c(bytes, sizeof(bytes)), 0x46dd794e);
}

static void test_error_texts(void **state)
{
	struct vublk_error e = { 0 };
	char longer[VUBLK_ERROR_TEXT_BYTES * 2];

	assert_int_equal(vublk_error_set(&e, EPROTO, "queue %d: broken", 3), -EPROTO);
	assert_int_equal(e.code, EPROTO);
	assert_string_equal(e.text, "queue 3: broken");
	vublk_error_prepend(&e, "disk '%s'", "a");
	assert_int_equal(e.code, EPROTO);
	assert_string_equal(e.text, "disk 'a': queue 3: broken");
	vublk_error_prepend(NULL, "disk '%s'", "a");
	assert_int_equal(vublk_error_set_errno(&e, ENOENT, "cannot open x"), -ENOENT);
	assert_string_equal(e.text, "cannot open x: No such file or directory");
	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	vublk_error_set(&e, EINVAL, "%s", longer);
	assert_int_equal(strlen(e.text), VUBLK_ERROR_TEXT_BYTES - 1);
	assert_int_equal(vublk_error_set(NULL, EINVAL, "text that is not read"), -EINVAL);
}

static void test_options(void **state)
{
	struct vublk_error e = { 0 };
	static const char *const words[] = { "one", "two", "three", NULL };
	uint64_t v = 0;
	unsigned index;
	bool b = false;

	assert_int_equal(vublk_parse_u64("n", "128", 1, 1024, &v, &e), 0);
	assert_int_equal(v, 128);
	assert_int_equal(vublk_parse_u64("n", "0x10", 1, 1024, &v, &e), 0);
	assert_int_equal(v, 16);
	assert_int_equal(vublk_parse_u64("n", "-1", 0, UINT64_MAX, &v, &e), -EINVAL);
	assert_string_equal(e.text,
		"n must be a whole number from 0 to 18446744073709551615, not '-1'");
	assert_int_equal(vublk_parse_u64("n", "", 0, 9, &v, &e), -EINVAL);
	assert_int_equal(vublk_parse_u64("n", "9x", 0, 9, &v, &e), -EINVAL);
	assert_int_equal(vublk_parse_u64("n", "99999999999999999999999", 0, UINT64_MAX, &v, &e),
			 -EINVAL);
	assert_int_equal(vublk_parse_bytes("s", "4k", 0, UINT64_MAX, &v, &e), 0);
	assert_int_equal(v, 4096);
	assert_int_equal(vublk_parse_bytes("s", "2GiB", 0, UINT64_MAX, &v, &e), 0);
	assert_int_equal(v, UINT64_C(2) << 30);
	assert_int_equal(vublk_parse_bytes("s", "17000000T", 0, UINT64_MAX, &v, &e), -EINVAL);
	assert_int_equal(vublk_parse_bytes("s", "4q", 0, UINT64_MAX, &v, &e), -EINVAL);
	assert_int_equal(vublk_parse_word("w", "two", words, &index, &e), 0);
	assert_int_equal(index, 1);
	assert_int_equal(vublk_parse_word("w", "three!", words, &index, &e), -EINVAL);
	assert_string_equal(e.text, "w must be one, two or three, not 'three!'");
	assert_int_equal(vublk_parse_word("w", NULL, words + 1, &index, &e), -EINVAL);
	assert_string_equal(e.text, "w must be two or three, not ''");
	assert_int_equal(index, 1);
	assert_int_equal(vublk_parse_bool("b", "on", &b, &e), 0);
	assert_true(b);
	assert_int_equal(vublk_parse_bool("b", "maybe", &b, &e), -EINVAL);
	assert_string_equal(e.text, "b must be on or off, not 'maybe'");
}

static void test_memfd_is_sealed(void **state)
{
	int fd = vublk_memfd_new("test", 8192, NULL);
	char *p;

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 4096), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(ftruncate(fd, 16384), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), -1);
	assert_int_equal(errno, EPERM);
	p = vublk_map_shared(fd, 4096, 4096, NULL);
	assert_non_null(p);
	assert_int_equal(p[4095], 0);
	vublk_unmap(p, 4096);
	vublk_fd_close(&fd);
	assert_int_equal(fd, -1);
}

/*
 * vublk_read_shared_u16() reads a word even from a file that is sealed against writable mappings,
 * but not past the end of the file.
 */
static void test_word_of_a_peers_memory(void **state)
{
	int fd = memfd_create("peer", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	const uint16_t stored = 0x1234;
	struct vublk_error error;
	uint16_t word = 0;

	assert_int_equal(ftruncate(fd, 8192), 0);
	assert_int_equal(pwrite(fd, &stored, sizeof(stored), 4096 + 6), sizeof(stored));
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), 0);
	assert_int_equal(vublk_read_shared_u16(fd, 4096, 4096, 6, &word, NULL), 0);
	assert_int_equal(word, stored);
	assert_int_equal(ftruncate(fd, 4096 + 7), 0);
	assert_int_equal(vublk_read_shared_u16(fd, 4096, 4096, 6, &word, NULL), -EIO);
	assert_int_equal(vublk_read_shared_u16(fd, 4096, 4096, 6, &word, &error), -EIO);
	assert_int_equal(error.code, EIO);
	vublk_fd_close(&fd);
	fd = open("/dev/zero", O_WRONLY | O_CLOEXEC); /* can be neither read nor mapped */
	assert_true(vublk_read_shared_u16(fd, 0, 4096, 6, &word, NULL) < 0);
	vublk_fd_close(&fd);
}

struct lines {
	unsigned count;
	char last[800];
};

static void collect(void *opaque, enum vublk_log_level level, const char *text)
{
	struct lines *lines = opaque;

	lines->count++;
	snprintf(lines->last, sizeof(lines->last), "%s", text);
}

/* Shifts the start of each window back, as if the interval had passed. */
static void forget_windows(struct vublk_log_limit *limit)
{
	for (unsigned i = 0; i < VUBLK_LOG_KINDS; i++)
		limit->kinds[i].window_start_ns -= VUBLK_LOG_INTERVAL_MS * UINT64_C(1000000);
}

static void test_log_is_limited(void **state)
{
	struct lines lines = { 0 };
	struct vublk_log log = { collect, &lines, VUBLK_LOG_WARNING };
	struct vublk_log_limit limit = { 0 };

	vublk_log(&log, VUBLK_LOG_INFO, "not wanted");
	vublk_log_limited(&log, &limit, VUBLK_LOG_INFO, "not wanted");
	assert_int_equal(lines.count, 0);
	for (int i = 0; i < 100; i++)
		vublk_log_limited(&log, &limit, VUBLK_LOG_WARNING, "line %d at 0x%x", i, 1000 - i);
	assert_int_equal(lines.count, VUBLK_LOG_BURST);
	for (int i = 0; i < 100; i++)
		vublk_log_limited(&log, &limit, VUBLK_LOG_WARNING, "another line %d", i);
	assert_int_equal(lines.count, 2 * VUBLK_LOG_BURST);
	forget_windows(&limit);
	vublk_log_limited(&log, &limit, VUBLK_LOG_WARNING, "line 100 at 0x0");
	assert_int_equal(lines.count, 2 * VUBLK_LOG_BURST + 2);
	assert_string_equal(lines.last, "line 100 at 0x0");
}

/*
 * If there are more kinds of lines than rows in the table, some kinds share the last row, and the
 * limit still holds.
 */
static void test_log_has_many_kinds(void **state)
{
	struct lines lines = { 0 };
	struct vublk_log log = { collect, &lines, VUBLK_LOG_WARNING };
	struct vublk_log_limit limit = { 0 };

	for (int i = 0; i < 10 * VUBLK_LOG_KINDS * 26; i++)
		vublk_log_limited(&log, &limit, VUBLK_LOG_WARNING, "kind %c%c", 'a' + i % 26,
				  'a' + i / 26 % 26);
	assert_int_equal(lines.count, VUBLK_LOG_KINDS * VUBLK_LOG_BURST);
	forget_windows(&limit);
	vublk_log_limited(&log, &limit, VUBLK_LOG_WARNING, "something new");
	assert_string_equal(lines.last, "something new");
}

struct counter {
	struct vublk_loop *loop;
	struct vublk_loop_source a, b;
	struct vublk_loop_timer early, late;
	struct vublk_loop_task task;
	int calls, order[8];
};

static void on_removes_other(void *opaque, uint32_t events)
{
	struct counter *c = opaque;

	c->calls++;
	vublk_loop_remove(&c->a);
	vublk_loop_remove(&c->b);
}

static void test_loop_removal_inside_callback(void **state)
{
	struct vublk_loop loop;
	struct counter c = { .loop = &loop };
	int fd_a = vublk_eventfd_new(), fd_b = vublk_eventfd_new();

	assert_int_equal(vublk_loop_init(&loop, NULL), 0);
	c.a.fn = c.b.fn = on_removes_other;
	c.a.opaque = c.b.opaque = &c;
	assert_int_equal(vublk_loop_add(&loop, &c.a, fd_a, EPOLLIN, NULL), 0);
	assert_int_equal(vublk_loop_add(&loop, &c.b, fd_b, EPOLLIN, NULL), 0);
	vublk_eventfd_signal(fd_a);
	vublk_eventfd_signal(fd_b);
	assert_int_equal(vublk_loop_process(&loop, 1000), 1);
	assert_int_equal(c.calls, 1);
	assert_int_equal(vublk_loop_process(&loop, 0), 0);
	vublk_loop_deinit(&loop);
	vublk_fd_close(&fd_a);
	vublk_fd_close(&fd_b);
}

static void on_early(void *opaque)
{
	struct counter *c = opaque;

	c->order[c->calls++] = 1;
	vublk_loop_timer_disarm(&c->late);
	vublk_loop_timer_arm(c->loop, &c->late, vublk_now_ns());
}

static void on_late(void *opaque)
{
	struct counter *c = opaque;

	c->order[c->calls++] = 2;
}

static void test_loop_timers(void **state)
{
	struct vublk_loop loop;
	struct counter c = { .loop = &loop };

	assert_int_equal(vublk_loop_init(&loop, NULL), 0);
	c.early = (struct vublk_loop_timer){ .fn = on_early, .opaque = &c };
	c.late = (struct vublk_loop_timer){ .fn = on_late, .opaque = &c };
	vublk_loop_timer_arm(&loop, &c.late, vublk_now_ns() + UINT64_C(3600000000000));
	vublk_loop_timer_arm(&loop, &c.early, vublk_now_ns() + 1000000);
	while (c.calls < 2)
		assert_true(vublk_loop_process(&loop, 10000) >= 0);
	assert_int_equal(c.order[0], 1);
	assert_int_equal(c.order[1], 2);
	assert_null(loop.timers);
	vublk_loop_deinit(&loop);
}

static void on_task(void *opaque)
{
	struct counter *c = opaque;

	c->calls++;
}

static void *post_from_thread(void *opaque)
{
	struct counter *c = opaque;

	for (int i = 0; i < 1000; i++)
		vublk_loop_post(c->loop, &c->task);
	return NULL;
}

static void test_loop_tasks(void **state)
{
	struct vublk_loop loop;
	struct counter c = { .loop = &loop };
	struct vublk_loop_task cancelled = { .fn = on_task, .opaque = &c };
	pthread_t thread;

	assert_int_equal(vublk_loop_init(&loop, NULL), 0);
	c.task = (struct vublk_loop_task){ .fn = on_task, .opaque = &c };
	vublk_loop_post(&loop, &cancelled);
	vublk_loop_cancel(&loop, &cancelled);
	assert_int_equal(pthread_create(&thread, NULL, post_from_thread, &c), 0);
	while (!c.calls)
		assert_true(vublk_loop_process(&loop, 10000) >= 0);
	pthread_join(thread, NULL);
	while (vublk_loop_process(&loop, 0) > 0)
		;
	assert_in_range(c.calls, 1, 1000);
	assert_false(c.task.queued);
	vublk_loop_deinit(&loop);
}

/* --- structs of the ABI ------------------------------------------------------------------ */

struct shorter {
	uint32_t a, b;
};

struct longer {
	uint32_t a, b, c;
	unsigned char d[4];
};

static void test_struct_in(void **state)
{
	struct longer longer = { 1, 2, 0, { 0 } }, own_longer;
	struct shorter shorter = { 1, 2 }, own_shorter = { 8, 9 };
	struct vublk_error error;

	memset(&own_longer, 0xff, sizeof(own_longer));
	assert_int_equal(vublk_struct_in(&own_longer, sizeof(own_longer), &shorter,
					 sizeof(shorter), "thing", &error), 0);
	assert_memory_equal(&own_longer, &longer, sizeof(longer));
	assert_int_equal(vublk_struct_in(&own_shorter, sizeof(own_shorter), &longer,
					 sizeof(longer), "thing", &error), 0);
	assert_memory_equal(&own_shorter, &shorter, sizeof(shorter));
	for (size_t i = sizeof(shorter); i < sizeof(longer); i++) {
		((char *)&longer)[i] = 1;
		assert_int_equal(vublk_struct_in(&own_shorter, sizeof(own_shorter), &longer,
						 sizeof(longer), "thing", &error), -EINVAL);
		assert_string_equal(error.text, "struct thing sets a member that this version of "
				    "libvublk does not know; use the version of libvublk for which "
				    "the program was built, or a newer one");
		assert_memory_equal(&own_shorter, &shorter, sizeof(shorter));
		((char *)&longer)[i] = 0;
	}
	assert_int_equal(vublk_struct_in(&own_longer, sizeof(own_longer), NULL, 99, "thing",
					 &error), 0);
	for (size_t i = 0; i < sizeof(own_longer); i++)
		assert_int_equal(((char *)&own_longer)[i], 0);
}

static void test_struct_needs(void **state)
{
	const struct longer longer = { 0 }, *given = &longer;
	struct vublk_error error;

	assert_int_equal(vublk_struct_needs(struct longer, b, given, sizeof(longer), &error), 0);
	assert_int_equal(vublk_struct_needs(struct longer, b, given, 8, &error), 0);
	assert_int_equal(vublk_struct_needs(struct longer, b, NULL, 0, &error), 0);
	assert_int_equal(vublk_struct_needs(struct longer, b, given, 7, &error), -EINVAL);
	assert_string_equal(error.text, "the size passed for struct longer, 7 bytes, does not "
			    "include its member b; pass the sizeof of the struct");
}

static void test_struct_out(void **state)
{
	struct longer longer = { 1, 2, 3, { 4 } }, got_longer;
	struct shorter shorter = { 1, 2 }, got_shorter[2] = { { 9, 9 }, { 9, 9 } };

	vublk_struct_out(&got_shorter, sizeof(shorter), &longer, sizeof(longer));
	assert_memory_equal(&got_shorter[0], &shorter, sizeof(shorter));
	assert_int_equal(got_shorter[1].a, 9);
	memset(&got_longer, 0xff, sizeof(got_longer));
	vublk_struct_out(&got_longer, sizeof(got_longer), &shorter, sizeof(shorter));
	longer.c = longer.d[0] = 0;
	assert_memory_equal(&got_longer, &longer, sizeof(longer));
	vublk_struct_out(NULL, 0, &longer, sizeof(longer)); /* a no-op, which UBSan accepts */
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_ranges),
		VUBLK_TEST(test_crc32c),
		VUBLK_TEST(test_error_texts),
		VUBLK_TEST(test_options),
		VUBLK_TEST(test_memfd_is_sealed),
		VUBLK_TEST(test_word_of_a_peers_memory),
		VUBLK_TEST(test_log_is_limited),
		VUBLK_TEST(test_log_has_many_kinds),
		VUBLK_TEST(test_loop_removal_inside_callback),
		VUBLK_TEST(test_loop_timers),
		VUBLK_TEST(test_loop_tasks),
		VUBLK_TEST(test_struct_in),
		VUBLK_TEST(test_struct_needs),
		VUBLK_TEST(test_struct_out),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
