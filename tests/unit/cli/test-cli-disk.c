/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The commands bench and copy on a fake disk, whose faults the case chooses. The commands must find
 * and report each fault, and must transfer all other data.
 */
#include "harness.h"

#include "fake-blk.h"

#include "cli/bench/bench.h"
#include "cli/cli.h"
#include "cli/copy/copy.h"
#include "cli/pattern.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

/*
 * Limits of the time without a completion. The first is long, because a disk that is slow on a busy
 * machine must not count as hung.
 */
#define STALL_MS 30000
#define SHORT_STALL_MS 100

/* --- bench -------------------------------------------------------------------- */

static struct vublk_bench_config load(const char *rw, enum vublk_bench_direction direction,
				      bool mixed, bool random)
{
	return (struct vublk_bench_config){
		.rw = rw, .direction = direction, .mixed = mixed, .random = random,
		.read_percent = 50, .block_bytes = 4096, .depth = 16, .num_jobs = 1,
		.stall_ms = STALL_MS,
	};
}

static int run_bench(struct fake_disk *disk, const struct vublk_bench_config *config,
		     struct vublk_bench_result *total, struct vublk_error *error)
{
	struct vublk_bench_result *results = calloc(config->num_jobs, sizeof(*results));
	struct vublk_blk *blk;
	int ret;

	assert_int_equal(vublk_blk_open(disk->path, NULL, NULL, 0, &blk, error), 0);
	ret = vublk_bench_run(blk, config, NULL, NULL, results, error);
	for (unsigned i = 0; total && i < config->num_jobs; i++)
		vublk_bench_add(total, &results[i]);
	free(results);
	assert_int_equal(vublk_blk_close(blk, 0, NULL), 0);
	return ret;
}

static void check_fails(struct fake_disk *disk, const struct vublk_bench_config *config, int code,
			const char *words)
{
	struct vublk_error e = { 0 };

	assert_int_equal(run_bench(disk, config, NULL, &e), -code);
	if (!strstr(e.text, words))
		fail_msg("'%s' does not contain '%s'", e.text, words);
}

static void test_bench_does_each_block_once(void **state)
{
	static const struct {
		const char *rw;
		enum vublk_bench_direction direction;
		bool random;
	} loads[] = {
		{ "read", VUBLK_BENCH_READ, false }, { "randread", VUBLK_BENCH_READ, true },
		{ "write", VUBLK_BENCH_WRITE, false }, { "randwrite", VUBLK_BENCH_WRITE, true },
		{ "trim", VUBLK_BENCH_TRIM, false },
	};
	struct fake_disk *disk = fake_disk_new("disk", MIB + 512, 4);

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(loads); i++)
		for (unsigned jobs = 1; jobs <= 3; jobs++) {
			struct vublk_bench_config config = load(loads[i].rw, loads[i].direction,
								false, loads[i].random);
			struct vublk_bench_result *total = calloc(1, sizeof(*total));
			struct vublk_error e = { 0 };

			config.num_jobs = jobs;
			config.poll = jobs == 2;
			assert_int_equal(run_bench(disk, &config, total, &e), 0);
			assert_int_equal(total->stats[loads[i].direction].requests, MIB / 4096);
			assert_int_equal(total->stats[loads[i].direction].bytes, MIB);
			assert_int_equal(total->stats[loads[i].direction].latency_ns.count,
					 MIB / 4096);
			free(total);
		}
	/* All whole blocks were written, and no byte after the last one. */
	for (uint64_t i = 0; i < MIB; i += 4096)
		assert_int_not_equal(disk->content[i] + disk->content[i + 4095], 2 * 0xdd);
	assert_int_equal(disk->content[MIB], 0xdd);
	fake_disk_free(disk);
}

static void test_bench_ends(void **state)
{
	struct vublk_bench_config config = load("randrw", VUBLK_BENCH_READ, true, true);
	struct vublk_bench_result *total = calloc(1, sizeof(*total));
	struct fake_disk *disk = fake_disk_new("disk", MIB, 1);
	struct vublk_error e = { 0 };

	config.number_ios = 1000;
	config.fsync_every = 10;
	assert_int_equal(run_bench(disk, &config, total, &e), 0);
	assert_int_equal(total->stats[VUBLK_BENCH_READ].requests +
			 total->stats[VUBLK_BENCH_WRITE].requests, 1000);
	assert_true(total->stats[VUBLK_BENCH_SYNC].requests >=
		    total->stats[VUBLK_BENCH_WRITE].requests / 10 - 1);
	config.number_ios = 0;
	config.ramp_ms = 30;
	config.runtime_ms = 50;
	config.time_based = true;
	do { /* a slow machine may complete no request in that time */
		config.runtime_ms *= 2;
		memset(total, 0, sizeof(*total));
		assert_int_equal(run_bench(disk, &config, total, &e), 0);
	} while (!total->stats[VUBLK_BENCH_READ].requests);
	assert_true(total->runtime_ns > 0);
	free(total);
	fake_disk_free(disk);
}

static void test_bench_keeps_a_rate(void **state)
{
	struct vublk_bench_config config = load("randread", VUBLK_BENCH_READ, false, true);
	struct vublk_bench_result *total = calloc(1, sizeof(*total));
	const struct vublk_bench_stats *stats = &total->stats[VUBLK_BENCH_READ];
	struct fake_disk *disk = fake_disk_new("disk", MIB, 1);
	struct vublk_error e = { 0 };

	for (unsigned i = 0, tries = 0; i < 3; i++) {
		/* The last loop's job has one request at a time, and each one is late. */
		config.poll = i;
		config.depth = i < 2 ? 16 : 1;
		config.number_ios = i < 2 ? 100 : 1000;
		config.rate_iops = i < 2 ? 10000 : 1000000000;
		do {
			memset(total, 0, sizeof(*total));
			assert_int_equal(run_bench(disk, &config, total, &e), 0);
			assert_int_equal(stats->requests, config.number_ios);
			assert_true(tries++ < 100); /* a slow machine may need a few */
			assert_true(total->runtime_ns >= (config.number_ios - 1) * 1000000000 /
							 config.rate_iops);
			/* Counted from each start, the sum would never exceed the runtime. */
		} while (i == 2 && vublk_histogram_mean(&stats->latency_ns) * 1000 <=
				   (double)total->runtime_ns);
	}
	free(total);
	fake_disk_free(disk);
}

static void test_bench_verifies(void **state)
{
	struct fake_disk *disk = fake_disk_new("disk", 4 * MIB, 4);
	struct vublk_error e = { 0 };

	disk->no_overlap = true;
	for (unsigned i = 0; i < 8; i++) {
		struct vublk_bench_config config = load("rw", VUBLK_BENCH_READ, i & 1, i & 2);
		struct vublk_bench_result *total = calloc(1, sizeof(*total));

		if (!config.mixed)
			config.direction = VUBLK_BENCH_WRITE;
		config.verify = true;
		config.block_bytes = i & 1 ? 512 : 4096;
		config.depth = 64;
		disk->full_every = i & 4 ? 0 : 7;
		if (i & 4) { /* few blocks with many generations, so that requests could overlap */
			config.num_jobs = 4;
			config.number_ios = 3000;
			config.size_bytes = 4 * 70 * config.block_bytes;
		}
		if (run_bench(disk, &config, total, &e))
			fail_msg("%s", e.text);
		assert_true(total->verified_blocks > 0);
		free(total);
	}
	assert_true(disk->refused > 0);
	fake_disk_free(disk);
}

/* A run that only reads verifies the blocks that an earlier run has written. */
static void test_bench_verifies_what_was_written(void **state)
{
	struct fake_disk *disk = fake_disk_new("disk", MIB, 2);
	struct vublk_bench_config config = load("randread", VUBLK_BENCH_READ, false, true);
	struct vublk_error e = { 0 };

	config.verify = true;
	check_fails(disk, &config, EILSEQ, "which no run with --verify wrote");
	config.rw = "write";
	config.direction = VUBLK_BENCH_WRITE;
	config.num_jobs = 2;
	assert_int_equal(run_bench(disk, &config, NULL, &e), 0);
	config.rw = "read";
	config.direction = VUBLK_BENCH_READ;
	config.num_jobs = 1;
	assert_int_equal(run_bench(disk, &config, NULL, &e), 0);
	disk->content[40960 + 2000] ^= 4;
	check_fails(disk, &config, EILSEQ, "at byte 2000");
	fake_disk_free(disk);
}

static void test_bench_finds_what_is_wrong(void **state)
{
	struct vublk_bench_config config = load("randwrite", VUBLK_BENCH_WRITE, false, true);
	struct fake_disk *disk;

	config.verify = true;
	disk = fake_disk_new("flips", MIB, 1);
	disk->flip_offset = 8192 + 100;
	check_fails(disk, &config, EILSEQ, "job 0: block at offset 8192, generation 1: expected");
	fake_disk_free(disk);

	/* The first write to a block arrives, but the second is lost. */
	disk = fake_disk_new("loses", MIB, 1);
	disk->lose_offset = 12288;
	disk->lose_after = 1;
	config.number_ios = 2 * MIB / 4096;
	check_fails(disk, &config, EILSEQ, "block at offset 12288: expected generation 2, found 1");
	fake_disk_free(disk);

	disk = fake_disk_new("forgets", MIB, 1);
	disk->lose_offset = 12288;
	check_fails(disk, &config, EILSEQ, "which no run with --verify wrote");
	fake_disk_free(disk);
}

/*
 * A read transfers fewer bytes than requested. Its buffer may still contain the expected block from
 * an earlier write, but the missing bytes must not count as read.
 */
static void test_bench_finds_what_was_not_read(void **state)
{
	struct vublk_bench_config config = load("write", VUBLK_BENCH_WRITE, false, false);
	struct fake_disk *disk = fake_disk_new("disk", MIB, 1);

	config.verify = true;
	config.depth = 1;
	config.size_bytes = 4096;
	disk->keep_offset = 0;
	check_fails(disk, &config, EILSEQ, "block at offset 0");
	disk->keep_after = 2048;
	check_fails(disk, &config, EILSEQ, "at byte 2048");
	fake_disk_free(disk);
}

static void test_bench_tells_failures(void **state)
{
	struct vublk_bench_config config = load("read", VUBLK_BENCH_READ, false, false);
	struct fake_disk *disk = fake_disk_new("disk", MIB, 2);

	config.num_jobs = 2;
	disk->fail_offset = MIB - 1;
	disk->fail_code = EIO;
	check_fails(disk, &config, EIO,
		    "job 1: read of 4096 bytes at offset 1044480 failed: Input/output error");
	disk->fail_offset = FAKE_NOWHERE;
	disk->die_after = disk->requests + 100;
	check_fails(disk, &config, ENOTCONN, "the back-end disconnected");
	disk->die_after = 0;
	config.stall_ms = SHORT_STALL_MS;
	disk->stall_after = disk->requests + 100;
	check_fails(disk, &config, ETIMEDOUT, "the back-end completed no request");
	fake_disk_free(disk);
}

static void test_bench_refuses(void **state)
{
	struct vublk_bench_config config = load("randwrite", VUBLK_BENCH_WRITE, false, true);
	struct fake_disk *disk = fake_disk_new("disk", MIB, 2);

	config.num_jobs = 3;
	check_fails(disk, &config, EINVAL, "--numjobs=3 needs one queue per job, but the disk has "
		    "2");
	config.num_jobs = 1;
	config.depth = 129;
	check_fails(disk, &config, EINVAL, "--iodepth=129 exceeds the 128 entries");
	config.depth = 1;
	config.block_bytes = 1000;
	check_fails(disk, &config, EINVAL, "--bs=1000 is not a multiple");
	config.block_bytes = 4096;
	config.offset_bytes = 100;
	check_fails(disk, &config, EINVAL, "--offset=100 is not a multiple");
	config.offset_bytes = 512;
	config.size_bytes = MIB;
	check_fails(disk, &config, EINVAL, "exceeds the disk");
	config.size_bytes = 512;
	check_fails(disk, &config, EINVAL, "too few for 1 job ");
	config.size_bytes = config.offset_bytes = 0;
	disk->info.read_only = true;
	check_fails(disk, &config, EROFS, "read-only");
	disk->info.read_only = false;
	disk->info.max_discard_bytes = 0;
	config.rw = "trim";
	config.direction = VUBLK_BENCH_TRIM;
	check_fails(disk, &config, ENOTSUP, "does not support discard");
	assert_int_equal(disk->requests, 0);
	fake_disk_free(disk);
}

static void test_bench_json_is_fios(void **state)
{
	static const char *const words[] = {
		"\"jobs\":", "\"jobname\":", "\"read\":", "\"iops\":", "\"bw\":", "\"bw_bytes\":",
		"\"io_bytes\": 1048576", "\"total_ios\": 256", "\"runtime\":", "\"clat_ns\":",
		"\"stddev\":", "\"N\": 256", "\"percentile\":", "\"99.000000\":", "\"99.990000\":",
		"\"usr_cpu\":", "\"sys_cpu\":", "\"ctx\":", "\"write\":", "\"trim\":", "\"sync\":",
	};
	struct vublk_bench_config config = load("read", VUBLK_BENCH_READ, false, false);
	struct vublk_bench_result *total = calloc(1, sizeof(*total));
	struct fake_disk *disk = fake_disk_new("disk", MIB, 1);
	struct vublk_error e = { 0 };
	char *text = NULL;
	size_t bytes;
	FILE *out = open_memstream(&text, &bytes);

	assert_int_equal(run_bench(disk, &config, total, &e), 0);
	vublk_bench_print_json(out, "disk", &config, total, 1);
	vublk_bench_print_text(out, "disk", &config, total);
	fclose(out);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(words); i++)
		if (!strstr(text, words[i]))
			fail_msg("no %s in %s", words[i], text);
	assert_non_null(strstr(text, "1 MiB in "));
	free(text);
	free(total);
	fake_disk_free(disk);
}

/* After a loss of unflushed writes, the error is about lost writes, whatever the reads return. */
static void test_bench_on_a_volatile_disk(void **state)
{
	struct vublk_disk_watch watch;
	const struct vublk_blk_handlers handlers = {
		.event = vublk_disk_watch_event, .opaque = &watch,
	};

	for (unsigned i = 0; i < 20; i++) {
		struct fake_disk *disk = fake_disk_new("disk", 1 * MIB, 1);
		struct vublk_bench_config config = load("randrw", VUBLK_BENCH_READ, true, true);
		struct vublk_bench_result result = { 0 };
		struct vublk_error e = { 0 };
		struct vublk_blk *blk;

		config.verify = true;
		config.number_ios = 2000;
		config.seed = i;
		config.fsync_every = i % 2 ? 20 : 0;
		config.watch = &watch;
		vublk_disk_watch_init(&watch, "bench", disk->path);
		disk->forget_every = 300 + i;
		assert_int_equal(vublk_blk_open(disk->path, NULL, &handlers, sizeof(handlers), &blk,
						&e), 0);
		assert_int_equal(vublk_bench_run(blk, &config, NULL, NULL, &result, &e), -EOWNERDEAD);
		assert_non_null(strstr(e.text, "may be lost"));
		assert_int_equal(vublk_blk_close(blk, 0, NULL), 0);
		fake_disk_free(disk);
	}
}

/* --- copy --------------------------------------------------------------------- */

static char *scratch_path(const char *name)
{
	static char paths[4][256];
	static unsigned next;
	char *path = paths[next++ % 4];

	snprintf(path, sizeof(paths[0]), "%s/%s", vublk_test_folder(), name);
	return path;
}

/* Makes a file with data, a hole, written zeroes, and data again. */
static unsigned char *make_file(const char *path, size_t bytes)
{
	unsigned char *content = calloc(1, bytes + 1);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_non_null(content);
	assert_true(fd >= 0);
	for (size_t i = 0; i < bytes; i++)
		if ((i >> 18) % 3 != 1)
			content[i] = (unsigned char)(vublk_mix(i) | 1);
	memset(content + bytes / 2, 0, VUBLK_MIN(bytes / 2, (size_t)20000));
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	for (size_t i = 0; i < bytes; i += 4096)
		if ((i >> 18) % 3 != 1)
			assert_true(pwrite(fd, content + i, VUBLK_MIN(bytes - i, (size_t)4096),
					   (off_t)i) > 0);
	close(fd);
	return content;
}

static void check_file(const char *path, const unsigned char *content, size_t bytes)
{
	unsigned char *found = malloc(bytes + 1);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t done = 0;
	ssize_t n;

	assert_true(fd >= 0);
	while ((n = read(fd, found + done, bytes + 1 - done)) > 0)
		done += (size_t)n;
	assert_int_equal(done, bytes);
	assert_memory_equal(found, content, bytes);
	close(fd);
	free(found);
}

static struct vublk_copy new_copy(void)
{
	return (struct vublk_copy){
		.request_bytes = 65536, .num_requests = 8, .num_queues = 3,
		.stall_ms = STALL_MS, .flush_bytes = MIB,
	};
}

static int run_copy_as(struct vublk_copy copy, const char *from, const char *to, uint64_t size,
		       struct vublk_error *error)
{
	struct vublk_disk_options none = { 0 };
	int ret = vublk_copy_open(&copy, from, to, size, &none, error);

	if (!ret)
		ret = vublk_copy_begin(&copy, error);
	if (!ret)
		ret = vublk_copy_run(&copy, NULL, NULL, error);
	if (!ret)
		assert_int_equal(copy.done, copy.bytes);
	vublk_copy_close(&copy);
	return ret;
}

static void run_copy(const char *from, const char *to, uint64_t size)
{
	struct vublk_error e = { 0 };

	if (run_copy_as(new_copy(), from, to, size, &e))
		fail_msg("%s", e.text);
}

static void check_copy_fails_as(struct vublk_copy copy, const char *from, const char *to,
				uint64_t size, int code, const char *words)
{
	struct vublk_error e = { 0 };

	assert_int_equal(run_copy_as(copy, from, to, size, &e), -code);
	if (!strstr(e.text, words))
		fail_msg("'%s' does not contain '%s'", e.text, words);
}

static void check_copy_fails(const char *from, const char *to, uint64_t size, int code,
			     const char *words)
{
	check_copy_fails_as(new_copy(), from, to, size, code, words);
}

static void test_copy_round_trip(void **state)
{
	static const size_t sizes[] = { 0, 1, 511, 512, 513, 4095, 65537, 262144, 1000003, 3000000 };
	const char *file = scratch_path("file"), *back = scratch_path("back");

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(sizes); i++)
		for (unsigned kind = 0; kind < 4; kind++) {
			struct fake_disk *disk = fake_disk_new("disk", 4 * MIB, 4);
			unsigned char *content = make_file(file, sizes[i]);
			uint32_t block = kind & 1 ? 4096 : 512;
			size_t end = (sizes[i] + block - 1) / block * block;

			disk->info.block_size_bytes = block;
			disk->info.max_write_zeroes_bytes = kind & 2 ? 0 : 1 << 20;
			disk->full_every = 5;
			run_copy(file, disk->path, 0);
			assert_memory_equal(disk->content, content, sizes[i]);
			for (size_t j = sizes[i]; j < end; j++)
				assert_int_equal(disk->content[j], 0);
			assert_int_equal(disk->content[end], 0xdd);
			assert_true(disk->flushes > 0);
			assert_true(kind & 2 || sizes[i] < MIB || disk->zeroes > 0);
			if (sizes[i]) {
				run_copy(disk->path, back, sizes[i]);
				check_file(back, content, sizes[i]);
			}
			if (!i) { /* the whole disk, once for each kind */
				run_copy(disk->path, back, 0);
				check_file(back, disk->content, 4 * MIB);
			}
			free(content);
			fake_disk_free(disk);
		}
}

static void test_copy_disk_to_disk(void **state)
{
	struct fake_disk *a = fake_disk_new("a", 3 * MIB, 4), *b = fake_disk_new("b", 4 * MIB, 2);

	for (size_t i = 0; i < 3 * MIB; i++)
		a->content[i] = (i >> 18) % 3 == 1 ? 0 : (unsigned char)vublk_mix(i);
	b->info.block_size_bytes = 4096;
	a->full_every = 7;
	b->full_every = 5;
	run_copy(a->path, b->path, 0);
	assert_memory_equal(a->content, b->content, 3 * MIB);
	assert_int_equal(b->content[3 * MIB], 0xdd);
	assert_true(b->zeroes > 0);
	run_copy(a->path, b->path, 100);
	assert_memory_equal(a->content, b->content, 100);
	for (unsigned i = 100; i < 4096; i++)
		assert_int_equal(b->content[i], 0);
	fake_disk_free(a);
	fake_disk_free(b);
}

/*
 * Copies while the back-end is lost again and again, each time with its unflushed writes. The copy
 * must complete, and must be correct.
 */
static void copy_with_losses(struct fake_disk *disk, const char *from, struct vublk_copy copy,
			     const unsigned char *content, size_t bytes)
{
	struct vublk_disk_options reconnects = { .list = {
		.list = { { "reconnect-ms", "10" } }, .count = 1,
	} };
	struct vublk_error e = { 0 };
	int ret = vublk_copy_open(&copy, from, disk->path, 0, &reconnects, &e);

	if (!ret)
		ret = vublk_copy_run(&copy, NULL, NULL, &e);
	if (ret)
		fail_msg("%s", e.text);
	assert_int_equal(copy.done, copy.bytes);
	vublk_copy_close(&copy);
	assert_memory_equal(disk->content, content, bytes);
	assert_memory_equal(disk->stable, content, bytes);
}

static void test_copy_to_a_volatile_disk(void **state)
{
	const size_t bytes = 3 * MIB / 2 + 4096;
	const char *file = scratch_path("file");

	for (unsigned every = 3; every < 64; every = every * 2 + 1)
		for (unsigned queues = 1; queues <= 4; queues += 3)
			for (unsigned zeroes = 0; zeroes < 2; zeroes++) {
				struct fake_disk *disk = fake_disk_new("disk", 2 * MIB, queues);
				unsigned char *content = make_file(file, bytes);
				struct vublk_copy copy = new_copy();

				copy.request_bytes = 8192; /* many requests with few bytes each */
				copy.num_queues = queues;
				copy.flush_bytes = 128 << 10;
				disk->info.max_write_zeroes_bytes = zeroes ? 1 << 20 : 0;
				disk->forget_every = every;
				disk->max_losses = 30;
				disk->full_every = 11; /* the queue is full now and then */
				copy_with_losses(disk, file, copy, content, bytes);
				assert_true(disk->losses > 0);
				free(content);
				fake_disk_free(disk);
			}
}

/* The source is also a disk. The copy makes progress if it can flush between two losses. */
static void test_copy_makes_progress_between_losses(void **state)
{
	struct fake_disk *a = fake_disk_new("a", 8 * MIB, 2), *b = fake_disk_new("b", 8 * MIB, 2);
	struct vublk_copy copy = new_copy();

	for (size_t i = 0; i < 8 * MIB; i++)
		a->content[i] = (unsigned char)(vublk_mix(i >> 9) | 1);
	copy.num_queues = 2;
	copy.flush_bytes = 64 * MIB; /* at first more than the disk; losses lower it */
	b->forget_every = 90;        /* without a limit */
	copy_with_losses(b, a->path, copy, a->content, 8 * MIB);
	assert_true(b->losses > 0);
	fake_disk_free(a);
	fake_disk_free(b);
}

/* Without reconnect-ms, a loss would end the copy, so the copy flushes only once, at the end. */
static void test_copy_flushes_once(void **state)
{
	struct fake_disk *disk = fake_disk_new("disk", 4 * MIB, 4);
	const char *file = scratch_path("file");

	free(make_file(file, 4 * MIB));
	run_copy(file, disk->path, 0);
	assert_int_equal(disk->flushes, 1);
	fake_disk_free(disk);
}

/*
 * A disk ends within a block. The copy transfers all bytes, or none if it cannot read the last
 * ones.
 */
static void test_copy_of_part_of_a_block(void **state)
{
	const size_t bytes = 1 * MIB + 512;
	struct fake_disk *disk = fake_disk_new("disk", bytes, 2);
	const char *file = scratch_path("file"), *back = scratch_path("back");
	unsigned char *content = make_file(file, bytes);

	disk->info.block_size_bytes = 4096;
	run_copy(file, disk->path, 0);
	assert_memory_equal(disk->content, content, bytes);
	run_copy(disk->path, back, 0);
	check_file(back, content, bytes);
	run_copy(file, disk->path, bytes - 100);
	memset(content + bytes - 100, 0, 100);
	assert_memory_equal(disk->content, content, bytes);
	disk->writes = disk->zeroes = 0;
	disk->fail_offset = bytes - 1;
	disk->fail_code = EIO;
	check_copy_fails(file, disk->path, 0, EIO, "its size of 1049088 bytes is not a multiple of its "
			 "block size of 4096 bytes");
	check_copy_fails(disk->path, back, 0, EIO, "--size=1048576");
	assert_int_equal(disk->writes + disk->zeroes, 0);
	run_copy(file, disk->path, 1 * MIB);
	free(content);
	fake_disk_free(disk);
}

static uint64_t allocated_bytes(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void test_copy_makes_holes(void **state)
{
	struct fake_disk *disk = fake_disk_new("disk", 4 * MIB, 1);
	const char *back = scratch_path("back"), *empty = scratch_path("empty");
	struct vublk_copy copy = new_copy();
	struct vublk_error e = { 0 };
	int fd;

	memset(disk->content, 0, 4 * MIB);
	memset(disk->content + MIB, 1, 4096);
	run_copy(disk->path, back, 0);
	check_file(back, disk->content, 4 * MIB);
	assert_true(allocated_bytes(back) <= 65536);
	/* The file exists, and its content must disappear. */
	free(make_file(back, 5 * MIB));
	run_copy(disk->path, back, 0);
	check_file(back, disk->content, 4 * MIB);
	copy.allocated = true;
	assert_int_equal(run_copy_as(copy, disk->path, back, 0, &e), 0);
	check_file(back, disk->content, 4 * MIB);
	assert_true(allocated_bytes(back) >= 4 * MIB);
	/* A file that is one hole needs only a few requests. */
	fd = open(empty, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(fd, 4 * MIB), 0);
	close(fd);
	disk->writes = disk->zeroes = 0;
	run_copy(empty, disk->path, 0);
	assert_int_equal(disk->writes, 0);
	assert_true(disk->zeroes <= 4);
	check_file(empty, disk->content, 4 * MIB);
	fake_disk_free(disk);
}

static void test_copy_refuses(void **state)
{
	struct fake_disk *disk = fake_disk_new("disk", MIB, 1);
	const char *file = scratch_path("file"), *other = scratch_path("other");
	const char *none = scratch_path("none");

	free(make_file(file, MIB + 1));
	free(make_file(other, 100));
	check_copy_fails(file, disk->path, 0, ENOSPC, "has only 1048576 bytes, which is less than the 1048577");
	check_copy_fails(other, disk->path, 101, EINVAL, "--size=101 exceeds the 100 bytes");
	check_copy_fails(file, other, 0, ENOTSOCK, "is the socket of a back-end");
	check_copy_fails(file, none, 0, ENOTSOCK, none);
	check_copy_fails(none, disk->path, 0, ENOENT, none);
	check_copy_fails(disk->path, disk->path, 0, EINVAL, "are the same file");
	check_copy_fails(vublk_test_folder(), disk->path, 0, ENOTBLK, "neither a file");
	check_copy_fails(disk->path, vublk_test_folder(), 0, EISDIR, "cannot open");
	check_copy_fails("/dev/null", disk->path, 0, ENOTBLK, "neither a file");
	disk->info.read_only = true;
	check_copy_fails(other, disk->path, 0, EROFS, "is read-only");
	assert_int_equal(disk->requests, 0);
	fake_disk_free(disk);
}

/*
 * A copy to a locked file is refused, because the file may be the image of the source disk. A copy
 * from a locked file is refused only if another program may write to the file.
 */
static void test_copy_spares_what_is_locked(void **state)
{
	struct flock writer = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	struct flock reader = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 201, .l_len = 1 };
	struct fake_disk *disk = fake_disk_new("disk", MIB, 1);
	const char *image = scratch_path("image");
	unsigned char *content = make_file(image, MIB);
	int fd = open(image, O_RDWR | O_CLOEXEC);

	assert_int_equal(fcntl(fd, F_OFD_SETLK, &writer), 0);
	check_copy_fails(disk->path, image, 0, EBUSY, "is in use by a program that writes");
	check_copy_fails(image, disk->path, 0, EBUSY, "is in use by a program that writes");
	writer.l_type = F_UNLCK;
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &writer), 0);
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &reader), 0);
	check_copy_fails(disk->path, image, 0, EBUSY, "does not allow others to write to it");
	run_copy(image, disk->path, 0);
	check_file(image, content, MIB);
	close(fd);
	run_copy(disk->path, image, 0);
	check_file(image, disk->content, MIB);
	free(content);
	fake_disk_free(disk);
}

/* The source is truncated during the copy. The missing part must not be copied as zeroes. */
static void test_copy_notices_a_cut_source(void **state)
{
	struct fake_disk *disk = fake_disk_new("disk", 4 * MIB, 2);
	struct vublk_disk_options none = { 0 };
	const char *file = scratch_path("file");
	struct vublk_copy copy = new_copy();
	struct vublk_error e = { 0 };

	free(make_file(file, 3 * MIB));
	assert_int_equal(vublk_copy_open(&copy, file, disk->path, 0, &none, &e), 0);
	assert_int_equal(truncate(file, MIB), 0);
	assert_int_equal(vublk_copy_begin(&copy, &e), 0);
	assert_int_equal(vublk_copy_run(&copy, NULL, NULL, &e), -EIO);
	assert_non_null(strstr(e.text, "smaller during the copy"));
	vublk_copy_close(&copy);
	fake_disk_free(disk);
}

static void test_copy_tells_failures(void **state)
{
	struct fake_disk *disk = fake_disk_new("disk", 4 * MIB, 2);
	const char *file = scratch_path("file"), *back = scratch_path("back");
	struct vublk_copy impatient = new_copy();

	free(make_file(file, 3 * MIB));
	disk->fail_offset = MIB;
	disk->fail_code = EIO;
	check_copy_fails(file, disk->path, 0, EIO, "cannot write to '");
	check_copy_fails(disk->path, back, 0, EIO, "cannot read '");
	check_copy_fails(disk->path, back, 0, EIO, "at offset 1048576: Input/output error");
	disk->fail_offset = FAKE_NOWHERE;
	check_copy_fails(disk->path, "/dev/full", 0, ENOTBLK, "neither a file");
	disk->die_after = disk->requests + 10;
	check_copy_fails(disk->path, back, 0, ENOTCONN, "disconnected");
	disk->die_after = 0;
	disk->stall_after = disk->requests + 10;
	impatient.stall_ms = SHORT_STALL_MS;
	check_copy_fails_as(impatient, file, disk->path, 0, ETIMEDOUT, "no request completed");
	fake_disk_free(disk);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_bench_does_each_block_once),
		VUBLK_TEST(test_bench_ends),
		VUBLK_TEST(test_bench_keeps_a_rate),
		VUBLK_TEST(test_bench_verifies),
		VUBLK_TEST(test_bench_verifies_what_was_written),
		VUBLK_TEST(test_bench_finds_what_is_wrong),
		VUBLK_TEST(test_bench_finds_what_was_not_read),
		VUBLK_TEST(test_bench_tells_failures),
		VUBLK_TEST(test_bench_refuses),
		VUBLK_TEST(test_bench_json_is_fios),
		VUBLK_TEST(test_bench_on_a_volatile_disk),
		VUBLK_TEST(test_copy_to_a_volatile_disk),
		VUBLK_TEST(test_copy_makes_progress_between_losses),
		VUBLK_TEST(test_copy_flushes_once),
		VUBLK_TEST(test_copy_of_part_of_a_block),
		VUBLK_TEST(test_copy_round_trip),
		VUBLK_TEST(test_copy_disk_to_disk),
		VUBLK_TEST(test_copy_makes_holes),
		VUBLK_TEST(test_copy_refuses),
		VUBLK_TEST(test_copy_spares_what_is_locked),
		VUBLK_TEST(test_copy_notices_a_cut_source),
		VUBLK_TEST(test_copy_tells_failures),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
