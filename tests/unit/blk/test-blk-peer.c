/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The block API against real back-ends: the disk's properties, requests of each kind, and verified
 * data. The cases are the same for each back-end. test-blk-endings-peer.c tests back-ends that die
 * or stall.
 */
#include "blk-peer.h"

#include "harness.h"

#include <vublk/blocking.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* --- the properties of the disk ---------------------------------------------------------- */

static void test_info(void **state)
{
	struct vublk_blk *blk = open_disk();
	struct vublk_device_info device;
	struct vublk_blk_info info;

	vublk_blk_get_info(blk, &info, sizeof(info));
	vublk_blk_get_device_info(blk, &device, sizeof(device));
	assert_int_equal(info.capacity_bytes, DISK_BYTES);
	assert_int_equal(info.num_queues, NUM_QUEUES);
	assert_int_equal(device.backend_max_queues, NUM_QUEUES);
	assert_true(info.flush);
	assert_false(info.read_only);
	assert_true(info.max_segments >= 16);
	assert_true(info.max_discard_bytes >= MIB);
	assert_true(info.max_write_zeroes_bytes >= MIB);
	assert_non_null(vublk_blk_queue(blk, NUM_QUEUES - 1));
	assert_null(vublk_blk_queue(blk, NUM_QUEUES));
	assert_int_equal(vublk_blk_close(blk, 0, NULL), 0);
	end_peer();
}

static void test_requests_of_each_kind(void **state)
{
	struct vublk_blk *blk = open_disk();
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 2);
	char *buffer = alloc(blk, 64 * KIB);
	char id[VUBLK_BLK_ID_SIZE];

	memset(buffer, 0x5a, 64 * KIB);
	memset(id, 1, sizeof(id));
	assert_int_equal(vublk_blk_write(queue, MIB, buffer, 64 * KIB, 0, NULL, &error), 0);
	assert_int_equal(wait_one(queue), 0);
	assert_int_equal(vublk_blk_flush(queue, 0, NULL, &error), 0);
	assert_int_equal(wait_one(queue), 0);
	assert_int_equal(vublk_blk_write_zeroes(queue, MIB + 4096, 8192, 0, NULL, &error), 0);
	assert_int_equal(wait_one(queue), 0);
	assert_int_equal(vublk_blk_discard(queue, 2 * MIB, 20 * MIB, 0, NULL, &error), 0);
	assert_int_equal(wait_one(queue), 0);
	assert_int_equal(vublk_blk_get_id(queue, id, 0, NULL, &error), 0);
	assert_int_equal(wait_one(queue), 0);
	assert_null(memchr(id, 1, sizeof(id)));
	assert_int_equal(vublk_blk_read(queue, MIB, buffer, 16 * KIB, 0, NULL, &error), 0);
	assert_int_equal(wait_one(queue), 0);
	for (int i = 0; i < 16 * KIB; i++)
		assert_int_equal(buffer[i], i >= 4096 && i < 12288 ? 0 : 0x5a);
	assert_int_equal(vublk_blk_close(blk, 0, NULL), 0);
	end_peer();
}

/*
 * Blocking calls, among them unaligned reads, with memory that is not shared. The application uses
 * no queue.
 */
static void test_blocking_calls(void **state)
{
	static char data[MIB], again[MIB];
	struct vublk_blk *blk = open_disk();

	for (unsigned i = 0; i < sizeof(data); i++)
		data[i] = (char)(i / 512 + i % 7);
	assert_int_equal(vublk_blk_pwrite(blk, MIB, data, MIB, 0, &error), 0);
	assert_int_equal(vublk_blk_pflush(blk, 0, &error), 0);
	assert_int_equal(vublk_blk_pread(blk, MIB + 777, again, MIB - 1000, 0, &error), 0);
	assert_memory_equal(again, data + 777, MIB - 1000);
	assert_int_equal(vublk_blk_pwrite_zeroes(blk, MIB + 4096, 8192, 0, &error), 0);
	assert_int_equal(vublk_blk_pdiscard(blk, 2 * MIB - 4096, 4096, 0, &error), 0);
	memset(data + 4096, 0, 8192);
	assert_int_equal(vublk_blk_pread(blk, MIB, again, MIB - 4096, 0, &error), 0);
	assert_memory_equal(again, data, MIB - 4096);
	assert_null(vublk_blk_queue(blk, NUM_QUEUES - 1));
	assert_int_equal(vublk_blk_close(blk, 0, NULL), 0);
	end_peer();
}

static void test_statistics(void **state)
{
	const struct vublk_option options[] = { { "statistics", "on" }, { NULL } };
	struct vublk_blk_queue *queue;
	struct vublk_blk_stats stats;
	struct vublk_blk *blk;
	char *buffer;

	start_peer();
	blk = open_with(options);
	queue = vublk_blk_queue(blk, 0);
	buffer = alloc(blk, 8192);
	assert_int_equal(vublk_blk_write(queue, 0, buffer, 8192, VUBLK_BLK_FUA, NULL, &error), 0);
	assert_int_equal(wait_one(queue), 0);
	assert_int_equal(vublk_blk_read(queue, 0, buffer, 4096, 0, NULL, &error), 0);
	assert_int_equal(wait_one(queue), 0);
	assert_int_equal(vublk_blk_queue_get_stats(queue, &stats, sizeof(stats)), 0);
	assert_int_equal(stats.writes, 1);
	assert_int_equal(stats.written_bytes, 8192);
	assert_int_equal(stats.reads, 1);
	assert_int_equal(stats.read_bytes, 4096);
	assert_int_equal(stats.flushes + stats.errors + stats.in_flight, 0);
	assert_int_equal(vublk_blk_close(blk, 0, NULL), 0);
	end_peer();
}

static void test_write_cache(void **state)
{
	struct vublk_blk *blk = open_disk();
	struct vublk_blk_info info;

	for (int on = 1; on >= 0; on--) {
		assert_int_equal(vublk_blk_set_write_cache(blk, on, &error), 0);
		vublk_blk_get_info(blk, &info, sizeof(info));
		assert_true(info.can_set_write_cache);
		assert_int_equal(info.write_cache, on);
	}
	assert_int_equal(vublk_blk_close(blk, 0, NULL), 0);
	end_peer();
}

static void test_read_only(void **state)
{
	struct vublk_blk_info info;
	struct vublk_blk *blk;
	char *buffer;

	start_peer_as(false);
	blk = open_with(NULL);
	buffer = alloc(blk, 4096);
	vublk_blk_get_info(blk, &info, sizeof(info));
	assert_true(info.read_only);
	assert_int_equal(vublk_blk_write(vublk_blk_queue(blk, 0), 0, buffer, 4096, 0, NULL, &error),
			 -EROFS);
	assert_int_equal(vublk_blk_read(vublk_blk_queue(blk, 0), 0, buffer, 4096, 0, NULL, &error), 0);
	assert_int_equal(wait_one(vublk_blk_queue(blk, 0)), 0);
	assert_int_equal(vublk_blk_close(blk, 0, NULL), 0);
	end_peer();
}

/* Signals the eventfd when the disk has been resized. */
static void on_event(void *opaque, enum vublk_blk_event event, const struct vublk_error *why)
{
	if (event == VUBLK_BLK_RESIZED)
		assert_int_equal(eventfd_write(*(int *)opaque, 1), 0);
}

static void test_resize(void **state)
{
	int fd = eventfd(0, EFD_CLOEXEC);
	struct vublk_blk_handlers handlers = { .event = on_event, .opaque = &fd };
	struct vublk_blk_info info;
	struct vublk_blk *blk;
	eventfd_t count;
	char *buffer;

	start_peer();
	if (peer.is_qemu) {
		end_peer();
		close(fd);
		vublk_test_skip("qemu-storage-daemon is resized by QMP");
	}
	assert_int_equal(vublk_blk_open(peer.socket, NULL, &handlers, sizeof(handlers), &blk,
					&error), 0);
	buffer = alloc(blk, 4096);
	assert_int_equal(vublk_blk_write(vublk_blk_queue(blk, 0), DISK_BYTES, buffer, 4096, 0, NULL,
					 &error), -EINVAL);
	assert_int_equal(truncate(peer.image, (off_t)DISK_BYTES + 4096), 0);
	kill(peer.pid, SIGHUP);
	assert_int_equal(eventfd_read(fd, &count), 0);
	vublk_blk_get_info(blk, &info, sizeof(info));
	assert_int_equal(info.capacity_bytes, DISK_BYTES + 4096);
	assert_int_equal(vublk_blk_write(vublk_blk_queue(blk, 0), DISK_BYTES, buffer, 4096, 0, NULL,
					 &error), 0);
	assert_int_equal(wait_one(vublk_blk_queue(blk, 0)), 0);
	assert_int_equal(vublk_blk_close(blk, 0, NULL), 0);
	close(fd);
	end_peer();
}

/* --- data ---------------------------------------------------------------------------------- */

/* One request for a third of the disk is split into pieces, and completes once. */
static void test_large_request(void **state)
{
	struct vublk_blk *blk = open_disk();
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	size_t bytes = 10 * MIB + 512;
	uint32_t *buffer = alloc(blk, bytes);
	uint32_t *file = malloc(bytes);
	int fd = open(peer.image, O_RDONLY);

	for (size_t i = 0; i < bytes / 4; i++)
		buffer[i] = (uint32_t)i * 2654435761u;
	assert_int_equal(vublk_blk_write(queue, 512, buffer, bytes, 0, NULL, &error), 0);
	assert_int_equal(wait_one(queue), 0);
	assert_int_equal(vublk_blk_flush(queue, 0, NULL, &error), 0);
	assert_int_equal(wait_one(queue), 0);
	assert_int_equal(pread(fd, file, bytes, 512), bytes);
	assert_memory_equal(file, buffer, bytes);
	memset(buffer, 0, bytes);
	assert_int_equal(vublk_blk_read(queue, 512, buffer, bytes, 0, NULL, &error), 0);
	assert_int_equal(wait_one(queue), 0);
	assert_memory_equal(file, buffer, bytes);
	close(fd);
	free(file);
	assert_int_equal(vublk_blk_close(blk, 0, NULL), 0);
	end_peer();
}

#define WORKER_BYTES (DISK_BYTES / NUM_QUEUES)
#define WORKER_DEPTH 8
#define WORKER_REQUEST_BYTES ((size_t)128 * KIB)

struct worker {
	struct vublk_blk *blk;
	struct vublk_blk_queue *queue;
	uint64_t base;
	unsigned seed;
	bool polls;
	char *model; /* the expected content of this part of the disk */
	pthread_t thread;
};

struct piece {
	struct iovec iov[5];
	char *buffer;
	uint64_t offset;
	size_t bytes;
	bool is_write;
};

/*
 * Adds a random request. Each of the WORKER_DEPTH requests has its own part of the disk, so that no
 * two overlap.
 */
static void add_piece(struct worker *w, struct piece *piece, unsigned slot)
{
	uint64_t part = WORKER_BYTES / WORKER_DEPTH;
	size_t at = 0;

	piece->bytes = 512 * (1 + (size_t)rand_r(&w->seed) % (WORKER_REQUEST_BYTES / 512));
	piece->offset = slot * part +
			512 * ((uint64_t)rand_r(&w->seed) % ((part - piece->bytes) / 512 + 1));
	piece->is_write = rand_r(&w->seed) % 2;
	for (int i = 0; i < 5; i++) {
		size_t bytes = i < 4 ? (size_t)rand_r(&w->seed) % (piece->bytes - at + 1) :
				       piece->bytes - at;

		piece->iov[i] = (struct iovec){ piece->buffer + at, bytes };
		at += bytes;
	}
	if (piece->is_write) {
		for (size_t i = 0; i < piece->bytes; i += 4)
			*(int *)(piece->buffer + i) = rand_r(&w->seed);
		memcpy(w->model + piece->offset, piece->buffer, piece->bytes);
		assert_int_equal(vublk_blk_writev(w->queue, w->base + piece->offset, piece->iov,
						  5, 0, piece, NULL), 0);
	} else {
		memset(piece->buffer, 0xee, piece->bytes);
		assert_int_equal(vublk_blk_readv(w->queue, w->base + piece->offset, piece->iov, 5, 0,
						 piece, NULL), 0);
	}
}

static void check_piece(const struct worker *w, const struct vublk_blk_completion *c)
{
	const struct piece *piece = c->user_data;

	assert_int_equal(c->result, 0);
	if (!piece->is_write)
		assert_memory_equal(piece->buffer, w->model + piece->offset, piece->bytes);
}

static int take(struct worker *w, struct vublk_blk_completion *completions)
{
	if (!w->polls)
		return vublk_blk_wait(w->queue, completions, 1, WORKER_DEPTH, -1, NULL);
	vublk_blk_submit(w->queue);
	return vublk_blk_poll(w->queue, completions, WORKER_DEPTH);
}

static void *work(void *opaque)
{
	struct vublk_blk_completion completions[WORKER_DEPTH];
	struct piece pieces[WORKER_DEPTH];
	struct worker *w = opaque;
	char *memory = vublk_blk_alloc(w->blk, WORKER_DEPTH * WORKER_REQUEST_BYTES, NULL);
	unsigned left = 600;

	assert_non_null(memory);
	for (unsigned i = 0; i < WORKER_DEPTH; i++) {
		pieces[i].buffer = memory + i * WORKER_REQUEST_BYTES;
		add_piece(w, &pieces[i], i);
	}
	while (vublk_blk_in_flight(w->queue)) {
		int n = take(w, completions);

		assert_true(n >= 0);
		for (int i = 0; i < n; i++) {
			struct piece *piece = completions[i].user_data;

			check_piece(w, &completions[i]);
			if (left) {
				left--;
				add_piece(w, piece, (unsigned)(piece - pieces));
			}
		}
	}
	vublk_blk_release(w->blk, memory, NULL);
	return NULL;
}

/* One thread per queue makes random reads and writes with iovecs, and verifies the data. */
static void verify_on_all_queues(const struct vublk_option *options)
{
	char *model = calloc(1, DISK_BYTES), *file = malloc(DISK_BYTES);
	struct worker workers[NUM_QUEUES];
	struct vublk_blk *blk;
	int fd;

	start_peer();
	blk = open_with(options);
	for (unsigned i = 0; i < NUM_QUEUES; i++) {
		workers[i] = (struct worker){
			.blk = blk, .queue = vublk_blk_queue(blk, i), .base = i * WORKER_BYTES,
			.seed = i + 1, .polls = i & 1, .model = model + i * WORKER_BYTES,
		};
		assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
	}
	for (unsigned i = 0; i < NUM_QUEUES; i++)
		pthread_join(workers[i].thread, NULL);
	assert_int_equal(vublk_blk_close(blk, 0, NULL), 0);
	fd = open(peer.image, O_RDONLY);
	assert_int_equal(pread(fd, file, DISK_BYTES, 0), DISK_BYTES);
	assert_memory_equal(file, model, DISK_BYTES);
	close(fd);
	free(file);
	free(model);
	end_peer();
}

static void test_verify(void **state)
{
	verify_on_all_queues(NULL);
}

static void test_verify_with_direct_descriptors(void **state)
{
	const struct vublk_option options[] = { { "indirect_desc", "off" }, { NULL } };

	verify_on_all_queues(options);
}

static void test_verify_without_event_idx(void **state)
{
	const struct vublk_option options[] = { { "event_idx", "off" }, { NULL } };

	verify_on_all_queues(options);
}

/* The queues are so small that requests and pieces of requests often wait for room. */
static void test_verify_on_small_queues(void **state)
{
	const struct vublk_option options[] = {
		{ "queue-size", "8" }, { "indirect_desc", "off" }, { NULL },
	};

	verify_on_all_queues(options);
}

static void test_verify_on_large_queues(void **state)
{
	const struct vublk_option options[] = { { "queue-size", "1024" }, { NULL } };

	verify_on_all_queues(options);
}

/* Does what an event loop does: polls the queue, arms it, and sleeps on its descriptor. */
static void test_event_loop(void **state)
{
	struct vublk_blk *blk = open_disk();
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 1);
	struct pollfd pollfd = { .fd = vublk_blk_queue_fd(queue), .events = POLLIN };
	char *buffer = alloc(blk, 4096);
	struct vublk_blk_completion c[16];
	unsigned done = 0;

	for (unsigned round = 0; round < 500; round++) {
		for (int i = 0; i < 3; i++)
			assert_int_equal(vublk_blk_read(queue, 0, buffer, 4096, 0, NULL, &error), 0);
		vublk_blk_submit(queue);
		while (vublk_blk_in_flight(queue)) {
			int n = vublk_blk_poll(queue, c, 16);

			done += (unsigned)n;
			if (!n && !vublk_blk_arm(queue))
				assert_int_equal(poll(&pollfd, 1, -1), 1);
		}
	}
	assert_int_equal(done, 1500);
	assert_int_equal(vublk_blk_close(blk, 0, NULL), 0);
	end_peer();
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_info),
		VUBLK_TEST(test_requests_of_each_kind),
		VUBLK_TEST(test_blocking_calls),
		VUBLK_TEST(test_statistics),
		VUBLK_TEST(test_write_cache),
		VUBLK_TEST(test_read_only),
		VUBLK_TEST(test_resize),
		VUBLK_TEST(test_large_request),
		VUBLK_TEST(test_verify),
		VUBLK_TEST(test_verify_with_direct_descriptors),
		VUBLK_TEST(test_verify_without_event_idx),
		VUBLK_TEST(test_verify_on_small_queues),
		VUBLK_TEST(test_verify_on_large_queues),
		VUBLK_TEST(test_event_loop),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
