/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A relay with VMMs that break the rules. After each of these VMMs, the relay serves an honest one.
 *
 * Key idea: no VMM may cost the relay its back-end, so the relay forwards nothing that would make
 * the back-end disconnect.
 */
#include "relay-rig.h"
#include "rude-frontend.h"

#include "util/atomic.h"
#include "util/fd.h"
#include "util/memfd.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BLOCK 4096

static void check_whole(struct relay *relay)
{
	struct backend_rig rig;

	relay_start_vmm(relay, &rig, 2);
	for (unsigned q = 0; q < 2; q++)
		assert_int_equal(rig_io(&rig, q, VIRTIO_BLK_T_OUT, q * 8u, 0, BLOCK),
				 VIRTIO_BLK_S_OK);
	relay_close_vmm(relay, &rig);
	assert_false(relay_has_said(relay, "the disk waits for a back-end"));
}

static void test_bad_headers(void **state)
{
	struct relay relay;

	relay_open(&relay, NULL);
	rude_bad_headers(relay.socket);
	check_whole(&relay);
	relay_close(&relay);
}

static void test_gone_at_each_byte(void **state)
{
	struct relay relay;

	relay_open(&relay, NULL);
	rude_gone_at_each_byte(relay.socket);
	check_whole(&relay);
	relay_close(&relay);
}

static void test_silent(void **state)
{
	const struct vublk_option limit[] = { { "message-timeout-ms", "20" }, { 0 } };
	struct relay relay;

	relay_open(&relay, limit);
	rude_silent(relay.socket);
	check_whole(&relay);
	relay_close(&relay);
}

static void test_flat_after_many(void **state)
{
	uint64_t seed = 88172645463325252u;
	unsigned fds, mappings;
	struct relay relay;

	relay_open(&relay, NULL);
	rude_flood(relay.socket, 500, &seed);
	rude_check_served(relay.socket);
	fds = vublk_test_count_fds();
	mappings = vublk_test_count_mappings();
	rude_flood(relay.socket, 100000, &seed);
	rude_check_served(relay.socket);
	/* tolerances, because the relay may not have freed the last session yet */
	assert_true(vublk_test_count_fds() <= fds + 16);
	assert_true(vublk_test_count_mappings() <= mappings + 1);
	check_whole(&relay);
	relay_close(&relay);
}

/* --- one wrong message each, in a session that continues ------------------------------- */

static uint64_t set_inflight(struct backend_rig *rig, const struct rig_area *area, uint64_t size,
			     uint64_t offset, unsigned queues, unsigned entries)
{
	return rig_set_area_as(rig, area, size, offset, queues, entries);
}

static void test_refused_and_served_on(void **state)
{
	struct rig_area area;
	struct relay relay;
	struct backend_rig rig;

	relay_begin(&relay, &rig, 1);
	rig_get_area(&rig, &area);
	/* queues that do not exist, and invalid values */
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_NUM, 4, 128), 1);
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_NUM, UINT32_MAX, 128), 1);
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_NUM, 1, 0), 1);
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_NUM, 1, 100), 1);
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_NUM, 1, 2048), 1);
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_BASE, 1, 65536), 1);
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_ENABLE, 1, 2), 1);
	assert_int_equal(rig_set_vring_fd(&rig, VUBLK_VU_SET_VRING_KICK, 200, 1), 1);
	/* settings of a queue that runs */
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_NUM, 0, 64), 1);
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_BASE, 0, 7), 1);
	/* features that are not offered, and an invalid status */
	assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SET_FEATURES, UINT64_MAX), 1);
	assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SET_PROTOCOL_FEATURES, UINT64_MAX), 1);
	assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SET_STATUS, 0x100), 1);
	/*
	 * in-flight areas of a wrong size or for a wrong number of queues, or past the end of their
	 * file
	 */
	assert_int_equal(set_inflight(&rig, &area, area.bytes, 0, 5, RIG_SIZE), 1);
	assert_int_equal(set_inflight(&rig, &area, area.bytes, 0, 0, RIG_SIZE), 1);
	assert_int_equal(set_inflight(&rig, &area, area.bytes, 0, RIG_QUEUES, 0), 1);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 0, 0, BLOCK), VIRTIO_BLK_S_OK);
	assert_int_equal(set_inflight(&rig, &area, area.bytes, 0, RIG_QUEUES, 1024), 1);
	assert_int_equal(set_inflight(&rig, &area, area.bytes, 4096, RIG_QUEUES, RIG_SIZE), 1);
	assert_int_equal(set_inflight(&rig, &area, UINT64_MAX, 0, RIG_QUEUES, RIG_SIZE), 1);
	assert_int_equal(set_inflight(&rig, &area, area.bytes, UINT64_MAX, RIG_QUEUES, RIG_SIZE),
			 1);
	rig_drop_area(&area);
	relay_close_vmm(&relay, &rig);
	check_whole(&relay);
	relay_close(&relay);
}

/* Rings at invalid addresses. The relay tells the back-end nothing about them. */
static void test_bad_rings(void **state)
{
	struct relay relay;
	struct backend_rig rig;

	relay_open(&relay, NULL);
	relay_set_up_vmm(&relay, &rig);
	rig_make_ring(&rig, 0, RIG_SIZE, 0);
	/*
	 * The relay refuses a misaligned ring only when the ring would start. For a ring that is
	 * outside of the memory, the relay waits for more memory.
	 */
	assert_int_equal(rig_describe_queue(&rig, 0, 0), 0);
	assert_int_equal(rig_set_addr(&rig, 0, RIG_USER + 1, RIG_USER + 4096, RIG_USER + 8192), 0);
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_ENABLE, 0, 1), 0);
	assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SET_STATUS, 0xf), 1);
	assert_int_equal(rig_set_addr(&rig, 0, RIG_USER - 4096, RIG_USER, RIG_USER + 4096), 0);
	assert_int_equal(rig_set_vring_fd(&rig, VUBLK_VU_SET_VRING_KICK, 0,
					  rig.queues[0].kick_fd), 0);
	assert_int_equal(rig_set_addr(&rig, 0, RIG_USER + RIG_MEMORY - 16, RIG_USER,
				      RIG_USER + 4096), 0);
	assert_int_equal(rig_set_addr(&rig, 0, UINT64_MAX - 15, RIG_USER, RIG_USER), 0);
	assert_int_equal(rig_get_base(&rig, 0), 0);
	assert_int_equal(rig_tell_queue(&rig, 0, 0), 0);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 0, 0, BLOCK), VIRTIO_BLK_S_OK);
	relay_close_vmm(&relay, &rig);
	check_whole(&relay);
	relay_close(&relay);
}

/* The VMM sends the messages of a start and of a stop in unusual orders. */
static void test_any_order(void **state)
{
	struct relay relay;
	struct backend_rig rig;

	relay_open(&relay, NULL);
	relay_connect(&relay, &rig);
	rig_negotiate(&rig);
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_ENABLE, 0, 1), 0);
	assert_int_equal(rig_get_base(&rig, 0), 0);
	assert_int_equal(rig_get_base(&rig, 0), 0);
	relay_driver_ok(&rig);
	assert_int_equal(rig_set_vring_fd(&rig, VUBLK_VU_SET_VRING_KICK, 0, -1), 0);
	assert_int_equal(rig_get_base(&rig, 0), 0);
	assert_int_equal(rig_set_mem_table(&rig), 0);
	rig_start_queue(&rig, 0, RIG_SIZE, 0);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 0, 0, BLOCK), VIRTIO_BLK_S_OK);
	assert_int_equal(rig_get_base(&rig, 0), 1);
	assert_int_equal(rig_get_base(&rig, 0), 1);
	assert_int_equal(rig_tell_queue(&rig, 0, 1), 0);
	relay_end(&relay, &rig);
}

/*
 * The VMM sends descriptors that are not eventfds. The relay accepts them only as call descriptors.
 */
static void test_odd_descriptors(void **state)
{
	char page[4096] = { 0 };
	struct relay relay;
	struct backend_rig rig;
	int pipes[2];

	relay_begin(&relay, &rig, 1);
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	assert_int_equal(fcntl(pipes[1], F_SETFL, O_NONBLOCK), 0);
	while (write(pipes[1], page, sizeof(page)) > 0)
		;
	assert_int_equal(fcntl(pipes[1], F_SETFL, 0), 0);
	assert_int_equal(rig_set_vring_fd(&rig, VUBLK_VU_SET_VRING_ERR, 0, pipes[1]), 1);
	assert_int_equal(rig_set_vring_fd(&rig, VUBLK_VU_SET_VRING_KICK, 0, pipes[1]), 1);
	assert_int_equal(rig_set_vring_fd(&rig, VUBLK_VU_SET_VRING_CALL, 0, pipes[1]), 0);
	close(pipes[0]);
	assert_int_equal(rig_set_vring_fd(&rig, VUBLK_VU_SET_VRING_CALL, 0, pipes[1]), 0);
	close(pipes[1]);
	relay_close_vmm(&relay, &rig);
	check_whole(&relay);
	relay_close(&relay);
}

struct filler {
	struct rig_queue *queue;
	bool stops; /* atomic; set to end the thread */
};

/*
 * Fills the eventfd without reading it, because a read would unblock a process that writes to it.
 */
static void fill_up(int fd)
{
	uint64_t add = UINT64_MAX - 1;

	fcntl(fd, F_SETFL, O_NONBLOCK);
	for (unsigned i = 0; i < 8 && write(fd, &add, sizeof(add)) < 0; i++)
		add--;
	fcntl(fd, F_SETFL, 0);
}

static void *keep_full(void *opaque)
{
	struct filler *filler = opaque;

	while (!vublk_load_relaxed(&filler->stops)) {
		fill_up(filler->queue->kick_fd);
		fill_up(filler->queue->call_fd);
		fill_up(filler->queue->err_fd);
	}
	return NULL;
}

/*
 * The relay signals a queue's eventfds after an outage. A thread keeps them full, so a plain write
 * to one of them would block.
 */
static void test_full_descriptors(void **state)
{
	struct filler filler = { 0 };
	struct relay relay;
	pthread_t thread;
	struct backend_rig rig;

	relay_begin(&relay, &rig, 1);
	filler.queue = &rig.queues[0];
	assert_int_equal(pthread_create(&thread, NULL, keep_full, &filler), 0);
	for (unsigned i = 0; i < 3; i++) {
		relay_kill_backend(&relay);
		relay_wait(&relay, "the disk waits for a back-end");
		relay_start_backend(&relay, NULL);
		relay_wait(&relay, "starting, started -> running");
	}
	vublk_store_relaxed(&filler.stops, true);
	pthread_join(thread, NULL);
	relay_close_vmm(&relay, &rig);
	relay_start_vmm(&relay, &rig, 1);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 0, 0, BLOCK), VIRTIO_BLK_S_OK);
	relay_end(&relay, &rig);
}

/* The VMM repeats the same messages many times. No descriptor or mapping leaks. */
static void test_same_messages(void **state)
{
	unsigned fds = 0, mappings = 0;
	struct rig_area area;
	struct relay relay;
	struct backend_rig rig;

	relay_begin(&relay, &rig, 1);
	for (unsigned i = 0; i < 200; i++) {
		rig_get_area(&rig, &area);
		rig_drop_area(&area);
		assert_int_equal(rig_set_mem_table(&rig), 0);
		assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_NUM, 1,
					       i % 2 ? 128 : 256), 0);
		assert_int_equal(rig_set_vring_fd(&rig, VUBLK_VU_SET_VRING_KICK, 1,
						  rig.queues[0].kick_fd), 0);
		assert_int_equal(rig_set_vring_fd(&rig, VUBLK_VU_SET_VRING_ERR, 0,
						  rig.queues[0].err_fd), 0);
		if (i == 1) {
			fds = vublk_test_count_fds();
			mappings = vublk_test_count_mappings();
		}
	}
	assert_int_equal(vublk_test_count_fds(), fds);
	assert_int_equal(vublk_test_count_mappings(), mappings);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 0, 0, BLOCK), VIRTIO_BLK_S_OK);
	relay_end(&relay, &rig);
}

/* The VMM sends requests but never reads an answer. The relay closes the connection. */
static void test_does_not_read(void **state)
{
	struct vublk_vu_message message;
	struct relay relay;
	int fd;

	relay_open(&relay, NULL);
	fd = rude_dial(relay.socket);
	vublk_vu_message_init(&message, VUBLK_VU_GET_FEATURES);
	for (unsigned i = 0; i < 100000; i++)
		if (write(fd, &message.header, sizeof(message.header)) < 0)
			break;
	relay_wait(&relay, "the connection to the VMM is closed");
	close(fd);
	check_whole(&relay);
	relay_close(&relay);
}

/*
 * The first VMM maps its memory privately, and the second VMM sends no memory at all. In both cases
 * the relay logs why no request arrives.
 */
static void test_memory_that_is_not_shared(void **state)
{
	for (unsigned i = 0; i < 2; i++) {
		struct relay relay;
		struct backend_rig rig;

		relay_open(&relay, NULL);
		relay_connect(&relay, &rig);
		rig.memory_fd = vublk_memfd_new("rig", RIG_MEMORY, NULL);
		rig.memory = mmap(NULL, RIG_MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE,
				  rig.memory_fd, 0);
		assert_ptr_not_equal(rig.memory, MAP_FAILED);
		rig_negotiate(&rig);
		if (!i)
			assert_int_equal(rig_set_mem_table(&rig), 0);
		rig_start_queue(&rig, 0, RIG_SIZE, 0);
		relay_driver_ok(&rig);
		relay_wait(&relay, i ? "shares no memory with this process" :
			   "memory is probably not shared with this process");
		assert_true(relay_has_said(&relay, "share=on"));
		relay_close_vmm(&relay, &rig);
		relay_close(&relay);
	}
}

/*
 * The guest and user addresses are equal, so the driver is a library, not a VM. The relay does not
 * warn that the memory is blank.
 */
static void test_library_that_is_idle(void **state)
{
	struct relay relay;
	struct backend_rig rig;

	relay_open(&relay, NULL);
	relay_connect(&relay, &rig);
	rig.memory_fd = vublk_memfd_new("rig", RIG_MEMORY, NULL);
	rig.memory = mmap(NULL, RIG_MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE, rig.memory_fd, 0);
	assert_ptr_not_equal(rig.memory, MAP_FAILED);
	rig_negotiate(&rig);
	assert_int_equal(rig_add_mem_reg(&rig, rig.memory_fd, RIG_USER, RIG_USER, RIG_MEMORY, 0), 0);
	rig_start_queue(&rig, 0, RIG_SIZE, 0);
	relay_driver_ok(&rig);
	assert_false(relay_has_said(&relay, "not shared"));
	relay_end(&relay, &rig);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_bad_headers),
		VUBLK_TEST(test_gone_at_each_byte),
		VUBLK_TEST(test_silent),
		VUBLK_TEST_LONG(test_flat_after_many, 240),
		VUBLK_TEST(test_refused_and_served_on),
		VUBLK_TEST(test_bad_rings),
		VUBLK_TEST(test_any_order),
		VUBLK_TEST(test_odd_descriptors),
		VUBLK_TEST(test_full_descriptors),
		VUBLK_TEST(test_same_messages),
		VUBLK_TEST(test_does_not_read),
		VUBLK_TEST(test_memory_that_is_not_shared),
		VUBLK_TEST(test_library_that_is_idle),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
