/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The commands bench and copy during an outage of their back-end, and when another back-end
 * connects. The fake disk stalls or reports events, and the case captures standard error.
 */
#include "harness.h"

#include "fake-blk.h"

#include "cli/bench/bench.h"
#include "cli/copy/copy.h"
#include "cli/disk-watch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define LONG_MS 3600000 /* longer than a case may take, so a wait of this length fails the case */

/* --- standard error --------------------------------------------------------------- */

static int real_stderr;

static void capture(void)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/stderr", vublk_test_folder());
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	fflush(stderr);
	real_stderr = dup(STDERR_FILENO);
	assert_int_equal(dup2(fd, STDERR_FILENO), STDERR_FILENO);
	close(fd);
}

static const char *captured(void)
{
	static char text[16384];
	ssize_t bytes;

	fflush(stderr);
	bytes = pread(STDERR_FILENO, text, sizeof(text) - 1, 0);
	assert_true(bytes >= 0);
	text[bytes] = '\0';
	assert_int_equal(dup2(real_stderr, STDERR_FILENO), STDERR_FILENO);
	close(real_stderr);
	return text;
}

static unsigned count(const char *text, const char *words)
{
	unsigned n = 0;

	for (; (text = strstr(text, words)); text += strlen(words))
		n++;
	return n;
}

static void assert_once(const char *text, const char *words)
{
	if (count(text, words) != 1)
		fail_msg("'%s' is %u times in '%s'", words, count(text, words), text);
}

/* --- the end during an outage ----------------------------------------------------- */

static bool stop_at_once(void *opaque, const struct vublk_bench_live *live)
{
	return true;
}

static struct vublk_bench_config new_load(struct vublk_disk_watch *watch)
{
	return (struct vublk_bench_config){
		.rw = "randread", .direction = VUBLK_BENCH_READ, .random = true,
		.block_bytes = 4096, .depth = 16, .num_jobs = 2, .time_based = true,
		.watch = watch, .stall_ms = LONG_MS,
	};
}

static struct vublk_blk *open_watched(struct fake_disk *disk, struct vublk_disk_watch *watch)
{
	const struct vublk_blk_handlers handlers = {
		.event = vublk_disk_watch_event, .opaque = watch,
	};
	struct vublk_blk *blk;

	vublk_disk_watch_init(watch, "bench", disk->path);
	assert_int_equal(vublk_blk_open(disk->path, NULL, &handlers, sizeof(handlers), &blk, NULL), 0);
	vublk_disk_watch_start(watch, blk, true);
	return blk;
}

static void test_bench_stops_without_a_backend(void **state)
{
	struct vublk_bench_result results[2] = { 0 };
	struct fake_disk *disk = fake_disk_new("disk", MIB, 2);
	struct vublk_error e = { 0 };
	struct vublk_disk_watch watch;
	struct vublk_blk *blk = open_watched(disk, &watch);
	struct vublk_bench_config config = new_load(&watch);

	disk->stall_after = 100;
	assert_int_equal(vublk_bench_run(blk, &config, stop_at_once, NULL, results, &e), 0);
	assert_int_equal(vublk_blk_close(blk, 0, NULL), 0);
	fake_disk_free(disk);
}

static void test_bench_keeps_to_its_time_during_an_outage(void **state)
{
	const struct vublk_error lost = { ENOTCONN, "lost" };
	struct vublk_bench_result results[2] = { 0 };
	struct fake_disk *disk = fake_disk_new("disk", MIB, 2);
	struct vublk_error e = { 0 };
	struct vublk_disk_watch watch;
	struct vublk_blk *blk = open_watched(disk, &watch);
	struct vublk_bench_config config = new_load(&watch);

	config.runtime_ms = 5;
	disk->stall_after = 1;
	capture();
	vublk_disk_watch_event(&watch, VUBLK_BLK_LOST, &lost);
	assert_once(captured(), "vublk bench: lost; requests wait for the next back-end\n");
	do { /* a slow machine may not begin a request in that time */
		config.runtime_ms *= 2;
		assert_int_equal(vublk_bench_run(blk, &config, NULL, NULL, results, &e), 0);
	} while (!results[0].abandoned && !results[1].abandoned);
	assert_int_equal(vublk_blk_close(blk, 0, NULL), 0);
	fake_disk_free(disk);
}

static bool stop_copy(void *opaque, const struct vublk_copy *copy)
{
	return true;
}

static int run_copy(struct fake_disk *from, struct fake_disk *to, vublk_copy_tick_fn *tick,
		    struct vublk_error *error)
{
	struct vublk_disk_options reconnects = { .list = {
		.list = { { "reconnect-ms", "10" } }, .count = 1,
	} };
	struct vublk_copy copy = {
		.request_bytes = 65536, .num_requests = 8, .num_queues = 2, .stall_ms = LONG_MS,
		.flush_bytes = MIB,
	};
	int ret = vublk_copy_open(&copy, from->path, to->path, 0, &reconnects, error);

	if (!ret)
		ret = vublk_copy_run(&copy, tick, NULL, error);
	vublk_copy_close(&copy);
	return ret;
}

static void test_copy_stops_without_a_backend(void **state)
{
	struct fake_disk *from = fake_disk_new("from", 4 * MIB, 2);
	struct fake_disk *to = fake_disk_new("to", 4 * MIB, 2);
	struct vublk_error e = { 0 };

	from->stall_after = 10;
	assert_int_equal(run_copy(from, to, stop_copy, &e), -ECANCELED);
	fake_disk_free(from);
	fake_disk_free(to);
}

/* The thread that waits for the last flush must still react to a signal. */
static void test_copy_stops_during_the_last_flush(void **state)
{
	struct vublk_copy copy = { .stall_ms = LONG_MS };
	struct fake_disk *disk = fake_disk_new("disk", MIB, 1);
	struct vublk_error e = { 0 };

	assert_int_equal(vublk_blk_open(disk->path, NULL, NULL, 0, &copy.to.blk, &e), 0);
	copy.from.fd = copy.to.fd = -1;
	copy.to.path = disk->path;
	disk->requests = 1;
	disk->stall_after = 1;
	assert_int_equal(vublk_copy_flush(&copy, stop_copy, NULL, &e), -ECANCELED);
	vublk_copy_close(&copy);
	fake_disk_free(disk);
}

/* --- what is printed -------------------------------------------------------------- */

static void test_outages_are_limited(void **state)
{
	const struct vublk_error lost = { ENOTCONN, "lost" };
	struct vublk_disk_watch watch;
	const char *text;

	vublk_disk_watch_init(&watch, "bench", "disk.sock");
	capture();
	for (unsigned i = 0; i < 100; i++) {
		vublk_disk_watch_event(&watch, VUBLK_BLK_LOST, &lost);
		assert_true(vublk_disk_watch_has_outage(&watch));
		vublk_disk_watch_event(&watch, VUBLK_BLK_RECONNECTED, NULL);
		assert_false(vublk_disk_watch_has_outage(&watch));
	}
	/* as if a minute had passed, for the limit */
	watch.outage_limit.window_start_ns -= UINT64_C(60000000000);
	vublk_disk_watch_event(&watch, VUBLK_BLK_LOST, &lost);
	text = captured();
	assert_int_equal(count(text, "lost; requests wait"), VUBLK_CLI_LIMIT_LINES + 1);
	assert_int_equal(count(text, "is connected again"), VUBLK_CLI_LIMIT_LINES);
	assert_once(text, "vublk bench: 95 lines like the next one were left out\n");
}

static const char *bench_with_next(uint64_t capacity_bytes, const char *serial, unsigned times)
{
	struct fake_disk *disk = fake_disk_new("disk", MIB, 2);
	struct vublk_bench_result results[2] = { 0 };
	struct vublk_error e = { 0 };
	struct vublk_disk_watch watch;
	struct vublk_blk *blk = open_watched(disk, &watch);
	struct vublk_bench_config config = new_load(&watch);
	const char *text;

	config.num_jobs = 1; /* this job has read the serial long before the outage */
	config.time_based = false;
	config.number_ios = 2000;
	config.size_bytes = MIB / 2;
	disk->next_capacity_bytes = capacity_bytes;
	disk->next_serial = serial;
	capture();
	for (unsigned i = 0; i < times; i++) {
		disk->replace_after = disk->requests + 1000;
		assert_int_equal(vublk_bench_run(blk, &config, NULL, NULL, results, &e), 0);
	}
	text = captured();
	assert_int_equal(vublk_blk_close(blk, 0, NULL), 0);
	fake_disk_free(disk);
	return text;
}

static void test_another_disk_is_noticed(void **state)
{
	const char *text = bench_with_next(0, NULL, 1);

	assert_int_equal(count(text, "warning"), 0);
	text = bench_with_next(MIB / 2, NULL, 2);
	assert_once(text, "warning: the capacity of the disk at ");
	assert_once(text, "changed from 1048576 to 524288 bytes when the new back-end connected");
	assert_int_equal(count(text, "the serial of"), 0);
	text = bench_with_next(0, "  other  ", 2);
	assert_once(text, "warning: the serial of the disk at ");
	assert_once(text, "changed from 'fake?[2Jdisk' to 'other' when");
	assert_int_equal(count(text, "the capacity of"), 0);
}

static void test_copy_notices_another_disk(void **state)
{
	struct fake_disk *from = fake_disk_new("from", 4 * MIB, 1);
	struct fake_disk *to = fake_disk_new("to", 4 * MIB, 1);
	struct vublk_error e = { 0 };
	const char *text;

	/* One queue, whose worker has read both serials long before the outages. */
	from->replace_after = 40;
	from->next_serial = "another";
	to->next_capacity_bytes = 4 * MIB + 512;
	to->replace_after = 40;
	capture();
	if (run_copy(from, to, NULL, &e))
		fail_msg("%s", e.text);
	text = captured();
	assert_once(text, "vublk copy: warning: the serial of the disk at ");
	assert_once(text, "changed from 4194304 to 4194816 bytes");
	fake_disk_free(from);
	fake_disk_free(to);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_bench_stops_without_a_backend),
		VUBLK_TEST(test_bench_keeps_to_its_time_during_an_outage),
		VUBLK_TEST(test_copy_stops_without_a_backend),
		VUBLK_TEST(test_copy_stops_during_the_last_flush),
		VUBLK_TEST(test_outages_are_limited),
		VUBLK_TEST(test_another_disk_is_noticed),
		VUBLK_TEST(test_copy_notices_another_disk),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
