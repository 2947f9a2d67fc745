/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The block API over a stand-in device: how each request looks on the ring, and how each answer
 * reaches the application. Other files test threads, events and outages.
 */
#include "fake-device.h"
#include "harness.h"

#include "util/fd.h"
#include "util/memfd.h"

#include <vublk/blk.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define KIB 1024
#define DISK_BYTES (1024 * KIB)

static struct vublk_error error;

static struct vublk_blk *open_disk(const struct vublk_blk_handlers *handlers)
{
	struct vublk_blk *blk = NULL;

	assert_int_equal(vublk_blk_open("socket", NULL, handlers, sizeof(*handlers), &blk, &error), 0);
	return blk;
}

static struct vublk_blk *set_up(void)
{
	fake_init(DISK_BYTES);
	return open_disk(NULL);
}

static void tear_down(struct vublk_blk *blk)
{
	assert_int_equal(vublk_blk_close(blk, 0, NULL), 0);
	fake_deinit();
}

static void take_one(struct vublk_blk_queue *queue, void *user_data, int result)
{
	struct vublk_blk_completion completion;

	assert_int_equal(vublk_blk_poll(queue, &completion, 1), 1);
	assert_ptr_equal(completion.user_data, user_data);
	assert_int_equal(completion.result, result);
}

static void *alloc_filled(struct vublk_blk *blk, size_t bytes, char first)
{
	char *buffer = vublk_blk_alloc(blk, bytes, &error);

	assert_non_null(buffer);
	for (size_t i = 0; i < bytes; i++)
		buffer[i] = (char)(first + i / 512 + i % 7);
	return buffer;
}

/* --- one request of each kind -------------------------------------------------------- */

static void test_write_and_read(void **state)
{
	struct vublk_blk *blk = set_up();
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	char *buffer = alloc_filled(blk, 8 * KIB, 1);
	int tag;

	assert_null(vublk_blk_queue(blk, 1));
	assert_int_equal(vublk_blk_write(queue, 512, buffer, 4 * KIB, 0, &tag, &error), 0);
	assert_int_equal(vublk_blk_in_flight(queue), 1);
	assert_int_equal(fake_serve(0, 1), 0);
	vublk_blk_submit(queue);
	assert_int_equal(fake_serve(0, 1), 1);
	take_one(queue, &tag, 0);
	assert_int_equal(vublk_blk_in_flight(queue), 0);
	assert_memory_equal(fake_disk() + 512, buffer, 4 * KIB);
	assert_int_equal(vublk_blk_read(queue, 512, buffer + 4 * KIB, 4 * KIB, 0, NULL, &error), 0);
	vublk_blk_submit(queue);
	assert_int_equal(fake_serve(0, 1), 1);
	take_one(queue, NULL, 0);
	assert_memory_equal(buffer, buffer + 4 * KIB, 4 * KIB);
	tear_down(blk);
}

static void end_one(struct vublk_blk_queue *queue)
{
	vublk_blk_submit(queue);
	assert_int_equal(fake_serve(0, 2), 1);
	take_one(queue, NULL, 0);
}

/*
 * Changes a block of the disk, reads it into `buffer`, and checks that the buffer has the change.
 */
static void read_change(struct vublk_blk_queue *queue, char *buffer, unsigned block, size_t bytes)
{
	char *there = fake_disk() + block * 4 * KIB;

	memset(there, buffer[0] + 1, bytes);
	assert_int_equal(vublk_blk_read(queue, block * 4 * KIB, buffer, bytes, 0, NULL, &error), 0);
	end_one(queue);
	assert_int_equal(fake_last.data_bytes, bytes);
	assert_memory_equal(there, buffer, bytes);
}

/*
 * A read that is equal to the last request of its slot finds its descriptors already in shared
 * memory. Requests of other kinds in between use the same table, and leave other descriptors there.
 */
static void test_same_buffer(void **state)
{
	struct vublk_blk *blk = set_up();
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	char *buffer = alloc_filled(blk, 4 * KIB, 1);
	char id[VUBLK_BLK_ID_SIZE];

	for (unsigned i = 0; i < 8; i++) {
		size_t bytes = i == 6 ? 512 : 4 * KIB;

		if (i % 4 == 0)
			assert_int_equal(vublk_blk_flush(queue, 0, NULL, &error), 0);
		else if (i == 2)
			assert_int_equal(vublk_blk_get_id(queue, id, 0, NULL, &error), 0);
		else if (i == 3)
			assert_int_equal(vublk_blk_discard(queue, 1 << 19, 4096, 0, NULL, &error), 0);
		if (vublk_blk_in_flight(queue))
			end_one(queue);
		read_change(queue, buffer, i, bytes);
		memset(buffer, 2 * (int)i + 1, 4 * KIB);
		assert_int_equal(vublk_blk_write(queue, i * 4 * KIB, buffer, bytes, 0, NULL, &error), 0);
		end_one(queue);
		assert_int_equal(fake_last.data_bytes, bytes);
		assert_memory_equal(fake_disk() + i * 4 * KIB, buffer, bytes);
		read_change(queue, buffer, i, bytes);
	}
	tear_down(blk);
}

static void test_other_requests(void **state)
{
	struct vublk_blk *blk = set_up();
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	char id[VUBLK_BLK_ID_SIZE];
	int a, b, c;

	memset(fake_disk(), 7, DISK_BYTES);
	assert_int_equal(vublk_blk_flush(queue, 0, &a, &error), 0);
	assert_int_equal(vublk_blk_get_id(queue, id, 0, &b, &error), 0);
	assert_int_equal(vublk_blk_write_zeroes(queue, 4096, 1024, 0, &c, &error), 0);
	vublk_blk_submit(queue);
	assert_int_equal(fake_serve(0, 3), 3);
	assert_int_equal(fake_last.range_flags, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
	take_one(queue, &a, 0);
	take_one(queue, &b, 0);
	take_one(queue, &c, 0);
	assert_string_equal(id, "fake disk of 20 byte");
	assert_int_equal(fake_num_flushes, 1);
	assert_int_equal(fake_disk()[4095], 7);
	assert_int_equal(fake_disk()[4096], 0);
	assert_int_equal(fake_disk()[4096 + 1023], 0);
	assert_int_equal(fake_disk()[4096 + 1024], 7);
	tear_down(blk);
}

/*
 * With the option "serial", the request for the serial is still sent, because an answer shows that
 * the back-end is alive. But the back-end's serial is not used.
 */
static void test_own_serial(void **state)
{
	const struct vublk_option options[] = { { "reconnect-ms", "0" }, { "serial", "disk 7" },
						{ NULL } };
	const struct { uint8_t status; int result; } cases[] = {
		{ VIRTIO_BLK_S_OK, 0 }, { VIRTIO_BLK_S_UNSUPP, 0 }, { VIRTIO_BLK_S_IOERR, 0 },
		{ 77, -EPROTO },
	};
	char id[VUBLK_BLK_ID_SIZE];
	struct vublk_blk_queue *queue;
	struct vublk_blk *blk;

	fake_init(DISK_BYTES);
	assert_int_equal(vublk_blk_open("socket", options, NULL, 0, &blk, &error), 0);
	queue = vublk_blk_queue(blk, 0);
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		memset(id, 'x', sizeof(id));
		assert_int_equal(vublk_blk_get_id(queue, id, 0, NULL, &error), 0);
		vublk_blk_submit(queue);
		assert_int_equal(fake_serve_with(0, 1, cases[i].status), 1);
		take_one(queue, NULL, cases[i].result);
		assert_memory_equal(id, cases[i].result ? "xxxxxxx" : "disk 7", 7);
	}
	tear_down(blk);
}

/* If FLUSH is not negotiated, a flush completes without the back-end, and a wait returns it. */
static void test_flush_not_negotiated(void **state)
{
	struct vublk_blk_completion completion;
	struct vublk_blk_info info;
	struct vublk_blk *blk;
	int tag;

	fake_init(DISK_BYTES);
	fake_plan.features &= ~VUBLK_BIT(VIRTIO_BLK_F_FLUSH);
	blk = open_disk(NULL);
	vublk_blk_get_info(blk, &info, sizeof(info));
	assert_false(info.flush);
	assert_int_equal(vublk_blk_flush(vublk_blk_queue(blk, 0), 0, &tag, &error), 0);
	assert_true(vublk_blk_arm(vublk_blk_queue(blk, 0)));
	assert_int_equal(vublk_blk_wait(vublk_blk_queue(blk, 0), &completion, 1, 1, -1, &error), 1);
	assert_ptr_equal(completion.user_data, &tag);
	assert_int_equal(completion.result, 0);
	assert_int_equal(fake_serve(0, 1), 0);
	tear_down(blk);
}

static void test_statuses(void **state)
{
	static const struct { int status, result; } cases[] = {
		{ VIRTIO_BLK_S_OK, 0 }, { VIRTIO_BLK_S_IOERR, -EIO },
		{ VIRTIO_BLK_S_UNSUPP, -ENOTSUP }, { 3, -EPROTO }, { 0xfe, -EPROTO },
		{ 0xff, -EPROTO },
	};
	struct vublk_blk *blk = set_up();
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	char *buffer = vublk_blk_alloc(blk, 512, &error);

	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		assert_int_equal(vublk_blk_read(queue, 0, buffer, 512, 0, NULL, &error), 0);
		vublk_blk_submit(queue);
		assert_int_equal(fake_serve_with(0, 1, (uint8_t)cases[i].status), 1);
		take_one(queue, NULL, cases[i].result);
	}
	/*
	 * The next request leaves the status OK in the slot. If the back-end does not write the
	 * status byte of the request after that, this later request must not count as successful.
	 */
	assert_int_equal(vublk_blk_read(queue, 0, buffer, 512, 0, NULL, &error), 0);
	vublk_blk_submit(queue);
	assert_int_equal(fake_serve(0, 1), 1);
	take_one(queue, NULL, 0);
	assert_int_equal(vublk_blk_read(queue, 0, buffer, 512, 0, NULL, &error), 0);
	vublk_blk_submit(queue);
	assert_int_equal(fake_serve_without_status(0), 1);
	take_one(queue, NULL, -EPROTO);
	tear_down(blk);
}

/* --- splitting -------------------------------------------------------------------------- */

/*
 * Makes a request with more pieces than the ring has slots. The pieces are issued as slots become
 * free, and the request completes once.
 */
static void run_large(unsigned num_segments_max, uint64_t features)
{
	struct vublk_blk_queue *queue;
	unsigned served, pieces = 0;
	struct vublk_blk *blk;
	char *buffer;
	int tag, n;

	fake_init(DISK_BYTES);
	fake_plan.features = features;
	fake_plan.queue_size = 4;
	fake_plan.config.size_max = 4096;
	fake_plan.config.seg_max = num_segments_max;
	blk = open_disk(NULL);
	queue = vublk_blk_queue(blk, 0);
	buffer = alloc_filled(blk, 256 * KIB, 3);
	assert_int_equal(vublk_blk_write(queue, 1024, buffer, 256 * KIB, 0, &tag, &error), 0);
	vublk_blk_submit(queue);
	do {
		struct vublk_blk_completion completion;

		served = fake_serve(0, 1);
		assert_int_equal(served, 1);
		assert_true(fake_last.num_segments <= num_segments_max);
		assert_true(fake_last.data_bytes <= num_segments_max * 4096);
		pieces++;
		n = vublk_blk_poll(queue, &completion, 1);
		assert_int_equal(vublk_blk_in_flight(queue), !n);
		if (n)
			assert_ptr_equal(completion.user_data, &tag);
	} while (!n);
	assert_int_equal(pieces, 256 * KIB / 4096 / num_segments_max);
	assert_memory_equal(fake_disk() + 1024, buffer, 256 * KIB);
	tear_down(blk);
}

static void test_large_indirect(void **state)
{
	run_large(2, FAKE_FEATURES | VUBLK_BIT(VIRTIO_BLK_F_SIZE_MAX));
}

static void test_large_direct(void **state)
{
	run_large(2, (FAKE_FEATURES | VUBLK_BIT(VIRTIO_BLK_F_SIZE_MAX)) &
		     ~VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC));
}

static void test_first_error_wins(void **state)
{
	struct vublk_blk *blk;
	struct vublk_blk_queue *queue;
	char *buffer;
	int tag;

	fake_init(DISK_BYTES);
	fake_plan.features |= VUBLK_BIT(VIRTIO_BLK_F_SIZE_MAX);
	fake_plan.config.size_max = 512;
	fake_plan.config.seg_max = 1;
	fake_plan.queue_size = 4;
	blk = open_disk(NULL);
	queue = vublk_blk_queue(blk, 0);
	buffer = vublk_blk_alloc(blk, 64 * KIB, &error);
	assert_int_equal(vublk_blk_read(queue, 0, buffer, 64 * KIB, 0, &tag, &error), 0);
	vublk_blk_submit(queue);
	/* Four of 128 pieces are on the ring. After one has failed, no more are issued. */
	assert_int_equal(fake_serve(0, 1), 1);
	assert_int_equal(fake_serve_with(0, 1, VIRTIO_BLK_S_UNSUPP), 1);
	assert_int_equal(fake_serve_with(0, 1, VIRTIO_BLK_S_IOERR), 1);
	assert_int_equal(vublk_blk_poll(queue, &(struct vublk_blk_completion){ 0 }, 1), 0);
	assert_int_equal(fake_serve(0, 9), 1);
	take_one(queue, &tag, -ENOTSUP);
	assert_int_equal(fake_serve(0, 9), 0);
	/* The queue still works. */
	assert_int_equal(vublk_blk_flush(queue, 0, &tag, &error), 0);
	vublk_blk_submit(queue);
	assert_int_equal(fake_serve(0, 9), 1);
	take_one(queue, &tag, 0);
	tear_down(blk);
}

/* Requests that wait for room are issued in their order, so none waits forever. */
static void test_waiting_requests_keep_their_order(void **state)
{
	struct vublk_blk_completion completion;
	struct vublk_blk *blk;
	struct vublk_blk_queue *queue;
	char *buffer;
	int tags[8];

	fake_init(DISK_BYTES);
	fake_plan.features &= ~VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC);
	fake_plan.queue_size = 8;
	blk = open_disk(NULL);
	queue = vublk_blk_queue(blk, 0);
	buffer = vublk_blk_alloc(blk, 64 * KIB, &error);
	/*
	 * A read needs three of the eight descriptors, and a flush needs two. So after two reads
	 * the flush would fit, but not the read that was added before it.
	 */
	for (int i = 0; i < 8; i++)
		assert_int_equal(i == 3 ? vublk_blk_flush(queue, 0, &tags[i], &error) :
				 vublk_blk_read(queue, 0, buffer, 512, 0, &tags[i], &error), 0);
	assert_int_equal(vublk_blk_read(queue, 0, buffer, 512, 0, NULL, &error), -EAGAIN);
	assert_string_equal(error.text, "read: queue 0 already has 8 requests in flight, as many "
			    "as it has entries; take completions first");
	vublk_blk_submit(queue);
	for (int i = 0; i < 8; i++) {
		assert_int_equal(fake_serve(0, 1), 1);
		assert_int_equal(vublk_blk_poll(queue, &completion, 1), 1);
		assert_ptr_equal(completion.user_data, &tags[i]);
	}
	tear_down(blk);
}

static void test_ranges_are_split(void **state)
{
	struct vublk_blk *blk = set_up();
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	struct vublk_blk_completion completion;
	int n = 0;

	/*
	 * The disk has 2,048 sectors. A discard is cut into pieces of 64 sectors, and a write
	 * zeroes into pieces of 32.
	 */
	assert_int_equal(vublk_blk_discard(queue, 0, DISK_BYTES, 0, NULL, &error), 0);
	vublk_blk_submit(queue);
	while (!n) {
		assert_int_equal(fake_serve(0, 1), 1);
		n = vublk_blk_poll(queue, &completion, 1);
	}
	assert_int_equal(fake_num_discards, 32);
	memset(fake_disk(), 1, DISK_BYTES);
	assert_int_equal(vublk_blk_write_zeroes(queue, 512, DISK_BYTES - 1024, VUBLK_BLK_NO_UNMAP, NULL,
						&error), 0);
	vublk_blk_submit(queue);
	for (n = 0; !n; n = vublk_blk_poll(queue, &completion, 1)) {
		assert_int_equal(fake_serve(0, 1), 1);
		assert_int_equal(fake_last.range_flags, 0);
	}
	assert_int_equal(fake_num_zeroes, 64);
	assert_int_equal(fake_disk()[511], 1);
	assert_int_equal(fake_disk()[DISK_BYTES - 512], 1);
	for (unsigned i = 512; i < DISK_BYTES - 512; i++)
		assert_int_equal(fake_disk()[i], 0);
	tear_down(blk);
}

/* --- memory -------------------------------------------------------------------------------- */

/* Two files are mapped next to each other, as two regions. A buffer may extend over both. */
static void test_buffer_over_two_regions(void **state)
{
	struct vublk_blk *blk = set_up();
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	int fds[2] = { vublk_memfd_new("a", 8192, &error), vublk_memfd_new("b", 8192, &error) };
	char *memory = mmap(NULL, 16384, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (int i = 0; i < 2; i++) {
		assert_ptr_not_equal(mmap(memory + i * 8192, 8192, PROT_READ | PROT_WRITE,
					  MAP_SHARED | MAP_FIXED, fds[i], 0), MAP_FAILED);
		assert_int_equal(vublk_blk_register(blk, memory + i * 8192, 8192, fds[i], 0,
						    &error), 0);
		vublk_fd_close(&fds[i]);
	}
	memset(memory, 1, 8192);
	memset(memory + 8192, 2, 8192);
	assert_int_equal(vublk_blk_write(queue, 0, memory + 4000, 8192, 0, NULL, &error), 0);
	vublk_blk_submit(queue);
	assert_int_equal(fake_serve(0, 2), 1);
	assert_int_equal(fake_last.num_segments, 2);
	take_one(queue, NULL, 0);
	assert_memory_equal(fake_disk(), memory + 4000, 8192);
	assert_int_equal(vublk_blk_unregister(blk, memory, &error), 0);
	assert_int_equal(vublk_blk_write(queue, 0, memory + 4096, 8192, 0, NULL, &error), -EINVAL);
	assert_int_equal(vublk_blk_unregister(blk, memory, &error), -EINVAL);
	assert_int_equal(vublk_blk_write(queue, 0, memory + 8192, 8192, 0, NULL, &error), 0);
	vublk_blk_submit(queue);
	assert_int_equal(fake_serve(0, 2), 1);
	take_one(queue, NULL, 0);
	tear_down(blk);
	munmap(memory, 16384);
}

static void test_register_refuses(void **state)
{
	struct vublk_blk *blk = set_up();
	char *memory = vublk_blk_alloc(blk, 16384, &error);
	char text[VUBLK_ERROR_TEXT_BYTES];
	int fd = vublk_memfd_new("a", 65536, &error), unsealed;

	assert_int_equal(vublk_blk_register(blk, memory, 4096, fd, 0, &error), -EINVAL);
	snprintf(text, sizeof(text), "cannot register 4096 bytes at %p: they overlap memory that "
		 "is already registered", (void *)memory);
	assert_string_equal(error.text, text);
	assert_int_equal(vublk_blk_register(blk, (void *)0x100001, 4096, fd, 0, &error), -EINVAL);
	assert_string_equal(error.text, "cannot register 4096 bytes at 0x100001 from offset 0 of "
			    "their file: expected multiples of the page size (4096 bytes) for all "
			    "three, and at least one page");
	assert_int_equal(vublk_blk_register(blk, (void *)0x100000, 0, fd, 0, &error), -EINVAL);
	assert_int_equal(vublk_blk_register(blk, (void *)0x100000, 4096, fd, 1, &error), -EINVAL);
	assert_int_equal(vublk_blk_register(blk, (void *)0x100000, 4096, -1, 0, &error), -EBADF);
	unsealed = memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(ftruncate(unsealed, 4096), 0);
	assert_int_equal(vublk_blk_register(blk, (void *)0x100000, 4096, unsealed, 0, &error),
			 -EINVAL);
	assert_non_null(strstr(error.text, "use a memfd that is sealed against shrinking"));
	vublk_fd_close(&unsealed);
	assert_int_equal(vublk_blk_unregister(blk, (void *)0x100000, &error), -EINVAL);
	assert_string_equal(error.text, "no registered memory starts at 0x100000");
	assert_null(vublk_blk_alloc(blk, 0, &error));
	vublk_fd_close(&fd);
	tear_down(blk);
}

static void run_memory_slots(bool asks_backend)
{
	struct vublk_blk *blk;
	void *buffers[8];

	fake_init(DISK_BYTES);
	fake_plan.memory_slots = 4;
	fake_plan.memory_asks_backend = asks_backend;
	blk = open_disk(NULL);
	for (int i = 0; i < 3; i++)
		assert_non_null(buffers[i] = vublk_blk_alloc(blk, 4096, &error));
	assert_null(vublk_blk_alloc(blk, 4096, &error));
	assert_int_equal(error.code, ENOSPC);
	assert_string_equal(error.text, "cannot register more memory: all 4 memory slots of the "
			    "back-end are in use; register fewer, larger pieces");
	vublk_blk_release(blk, buffers[1], NULL);
	assert_non_null(vublk_blk_alloc(blk, 4096, &error));
	vublk_blk_release(blk, NULL, NULL);
	vublk_blk_release(blk, &error, NULL);
	tear_down(blk);
}

static void test_memory_slots(void **state)
{
	run_memory_slots(false);
	run_memory_slots(true);
}

static void test_memory_that_the_backend_refuses(void **state)
{
	struct vublk_blk *blk;
	char *buffer;

	fake_init(DISK_BYTES);
	fake_plan.memory_asks_backend = true;
	blk = open_disk(NULL);
	fake_plan.memory_error = EIO;
	assert_null(vublk_blk_alloc(blk, 4096, &error));
	assert_int_equal(error.code, EIO);
	assert_string_equal(error.text, "no memory");
	fake_plan.memory_error = EINVAL;
	assert_null(vublk_blk_alloc(blk, 4096, &error));
	assert_string_equal(error.text, "the device does not like the memory");
	/* Memory can be unregistered even if the message to the back-end fails. */
	fake_plan.memory_error = 0;
	assert_non_null(buffer = vublk_blk_alloc(blk, 4096, &error));
	fake_plan.memory_error = EIO;
	assert_int_equal(vublk_blk_unregister(blk, buffer, &error), 0);
	assert_int_equal(vublk_blk_unregister(blk, buffer, &error), -EINVAL);
	fake_plan.memory_error = 0;
	assert_non_null(buffer = vublk_blk_alloc(blk, 4096, &error));
	assert_int_equal(vublk_blk_read(vublk_blk_queue(blk, 0), 0, buffer, 512, 0, NULL, &error), 0);
	vublk_blk_submit(vublk_blk_queue(blk, 0));
	assert_int_equal(fake_serve(0, 1), 1);
	take_one(vublk_blk_queue(blk, 0), NULL, 0);
	tear_down(blk);
}

/* --- arguments ----------------------------------------------------------------------------- */

static void refuses(int r, int code, const char *text)
{
	assert_int_equal(r, -code);
	assert_int_equal(error.code, code);
	assert_string_equal(error.text, text);
	memset(&error, 0, sizeof(error));
}

static void complete_all(struct vublk_blk_queue *queue, unsigned count)
{
	vublk_blk_submit(queue);
	while (fake_serve(0, 16)) /* the other pieces are issued when there is room */
		while (count && vublk_blk_in_flight(queue)) {
			struct vublk_blk_completion c;

			if (!vublk_blk_poll(queue, &c, 1))
				break;
			assert_int_equal(c.result, 0);
			count--;
		}
	assert_int_equal(count, 0);
}

/* The protocol counts the capacity in sectors, so a disk may end within a block. */
static void test_capacity_that_ends_within_a_block(void **state)
{
	const uint64_t last = DISK_BYTES, bytes = DISK_BYTES + 512; /* not whole blocks of 4 KiB */
	struct vublk_blk_queue *queue;
	struct vublk_blk *blk;
	struct iovec iov[2];
	char *b;

	fake_init(bytes);
	fake_plan.config.blk_size = 4096;
	blk = open_disk(NULL);
	queue = vublk_blk_queue(blk, 0);
	b = vublk_blk_alloc(blk, 16 * KIB, &error);
	memset(b, 7, 16 * KIB);
	assert_int_equal(vublk_blk_write(queue, last, b, 512, 0, NULL, &error), 0);
	assert_int_equal(vublk_blk_write(queue, last - 8192, b, 8704, 0, NULL, &error), 0);
	assert_int_equal(vublk_blk_write_zeroes(queue, last, 512, 0, NULL, &error), 0);
	assert_int_equal(vublk_blk_write_zeroes(queue, last - 65536, 66048, 0, NULL, &error), 0);
	assert_int_equal(vublk_blk_discard(queue, last - 4096, 4608, 0, NULL, &error), 0);
	complete_all(queue, 5);
	for (uint64_t i = last - 65536; i < bytes; i++)
		assert_int_equal(fake_disk()[i], 0);
	iov[0] = (struct iovec){ b, 100 };
	iov[1] = (struct iovec){ b + 8192, 4508 };
	assert_int_equal(vublk_blk_writev(queue, last - 4096, iov, 2, 0, NULL, &error), 0);
	complete_all(queue, 1);
	assert_int_equal(fake_disk()[last - 4096], 7);
	assert_int_equal(fake_disk()[bytes - 1], 7);
	fake_disk()[bytes - 1] = 9;
	assert_int_equal(vublk_blk_read(queue, last, b, 512, 0, NULL, &error), 0);
	complete_all(queue, 1);
	assert_int_equal(b[511], 9);
	refuses(vublk_blk_write(queue, last - 4096, b, 512, 0, NULL, &error), EINVAL,
		"write of 512 bytes at byte 1044480: expected multiples of the block size, "
		"4096 bytes, for both numbers (a request up to the end of the disk may be "
		"shorter)");
	refuses(vublk_blk_read(queue, last - 512, b, 1024, 0, NULL, &error), EINVAL,
		"read of 1024 bytes at byte 1048064: expected multiples of the block size, "
		"4096 bytes, for both numbers (a request up to the end of the disk may be "
		"shorter)");
	refuses(vublk_blk_read(queue, last, b, 4096, 0, NULL, &error), EINVAL,
		"read of 4096 bytes at byte 1048576: the disk ends at byte 1049088");
	tear_down(blk);
}

static void test_bad_arguments(void **state)
{
	struct vublk_blk *blk = set_up();
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	char *b = vublk_blk_alloc(blk, 4096, &error);
	struct iovec iov[6] = { { b, 512 }, { NULL, SIZE_MAX } };
	char text[VUBLK_ERROR_TEXT_BYTES];

	refuses(vublk_blk_read(queue, 1, b, 512, 0, NULL, &error), EINVAL,
		"read of 512 bytes at byte 1: expected multiples of the block size, 512 "
		"bytes, for both numbers");
	refuses(vublk_blk_write(queue, 512, b, 100, 0, NULL, &error), EINVAL,
		"write of 100 bytes at byte 512: expected multiples of the block size, 512 "
		"bytes, for both numbers");
	refuses(vublk_blk_read(queue, 0, b, 0, 0, NULL, &error), EINVAL,
		"read of 0 bytes at byte 0: expected at least 1 byte");
	refuses(vublk_blk_write(queue, DISK_BYTES, b, 512, 0, NULL, &error), EINVAL,
		"write of 512 bytes at byte 1048576: the disk ends at byte 1048576");
	refuses(vublk_blk_discard(queue, DISK_BYTES - 512, 1024, 0, NULL, &error), EINVAL,
		"discard of 1024 bytes at byte 1048064: the disk ends at byte 1048576");
	refuses(vublk_blk_write_zeroes(queue, UINT64_MAX - 511, 1024, 0, NULL, &error), EINVAL,
		"write zeroes of 1024 bytes at byte 18446744073709551104: the disk ends at byte "
		"1048576");
	snprintf(text, sizeof(text), "write: the buffer at %p is not in memory from "
		 "vublk_blk_alloc() or vublk_blk_register()", (void *)(b + 4096));
	refuses(vublk_blk_write(queue, 0, b + 512, 4096, 0, NULL, &error), EINVAL, text);
	refuses(vublk_blk_readv(queue, 0, iov, 2, 0, NULL, &error), EINVAL,
		"read of more than 1073741824 bytes, which is the maximum; split it into several "
		"requests");
	refuses(vublk_blk_readv(queue, 0, iov, -1, 0, NULL, &error), EINVAL,
		"read: the iovec count is -1, but must be at least 0");
	refuses(vublk_blk_writev(queue, 0, NULL, 1, 0, NULL, &error), EINVAL,
		"write: the iovec count is 1, but the array of iovecs is NULL");
	refuses(vublk_blk_writev(queue, 0, iov, 0, 0, NULL, &error), EINVAL,
		"write of 0 bytes at byte 0: expected at least 1 byte");
	for (int i = 0; i < 6; i++)
		iov[i] = (struct iovec){ b + 200 * i, i == 5 ? 12 : 100 };
	refuses(vublk_blk_writev(queue, 0, iov, 6, 0, NULL, &error), EINVAL,
		"write: a block of 512 bytes is spread over too many buffers, because the back-end "
		"accepts at most 4 segments per request; use larger buffers");
	assert_int_equal(vublk_blk_in_flight(queue), 0);
	tear_down(blk);
}

static void test_not_offered(void **state)
{
	struct vublk_blk *blk;
	struct vublk_blk_queue *queue;

	fake_init(DISK_BYTES);
	fake_plan.features &= ~(VUBLK_BIT(VIRTIO_BLK_F_DISCARD) |
				VUBLK_BIT(VIRTIO_BLK_F_WRITE_ZEROES) |
				VUBLK_BIT(VIRTIO_BLK_F_CONFIG_WCE));
	blk = open_disk(NULL);
	queue = vublk_blk_queue(blk, 0);
	refuses(vublk_blk_discard(queue, 0, 512, 0, NULL, &error), ENOTSUP,
		"discard: the back-end does not support this request");
	refuses(vublk_blk_write_zeroes(queue, 0, 512, 0, NULL, &error), ENOTSUP,
		"write zeroes: the back-end does not support this request");
	refuses(vublk_blk_set_write_cache(blk, true, &error), ENOTSUP,
		"cannot turn the write cache on, because the back-end does not offer CONFIG_WCE");
	tear_down(blk);
}

static void test_read_only(void **state)
{
	struct vublk_blk *blk;
	struct vublk_blk_queue *queue;
	char *b;

	fake_init(DISK_BYTES);
	fake_plan.features |= VUBLK_BIT(VIRTIO_BLK_F_RO);
	blk = open_disk(NULL);
	queue = vublk_blk_queue(blk, 0);
	b = vublk_blk_alloc(blk, 4096, &error);
	refuses(vublk_blk_write(queue, 0, b, 512, 0, NULL, &error), EROFS,
		"write: the disk is read-only");
	refuses(vublk_blk_discard(queue, 0, 512, 0, NULL, &error), EROFS,
		"discard: the disk is read-only");
	refuses(vublk_blk_write_zeroes(queue, 0, 512, VUBLK_BLK_NO_UNMAP, NULL, &error), EROFS,
		"write zeroes: the disk is read-only");
	assert_int_equal(vublk_blk_read(queue, 0, b, 512, 0, NULL, &error), 0);
	vublk_blk_submit(queue);
	assert_int_equal(fake_serve(0, 1), 1);
	take_one(queue, NULL, 0);
	tear_down(blk);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_write_and_read),
		VUBLK_TEST(test_same_buffer),
		VUBLK_TEST(test_other_requests),
		VUBLK_TEST(test_own_serial),
		VUBLK_TEST(test_flush_not_negotiated),
		VUBLK_TEST(test_statuses),
		VUBLK_TEST(test_large_indirect),
		VUBLK_TEST(test_large_direct),
		VUBLK_TEST(test_first_error_wins),
		VUBLK_TEST(test_waiting_requests_keep_their_order),
		VUBLK_TEST(test_ranges_are_split),
		VUBLK_TEST(test_buffer_over_two_regions),
		VUBLK_TEST(test_register_refuses),
		VUBLK_TEST(test_memory_slots),
		VUBLK_TEST(test_memory_that_the_backend_refuses),
		VUBLK_TEST(test_capacity_that_ends_within_a_block),
		VUBLK_TEST(test_bad_arguments),
		VUBLK_TEST(test_not_offered),
		VUBLK_TEST(test_read_only),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
