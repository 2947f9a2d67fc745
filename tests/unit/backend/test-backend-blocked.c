/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Front-ends that fill their eventfds and clear O_NONBLOCK, so that a plain write() to them would
 * block. If a call to the driver blocks a worker, the session ends, and the next front-end is
 * served.
 */
#include "backend-rig.h"
#include "rude-frontend.h"

#include "util/atomic.h"
#include "util/fd.h"

#include <vublk/notice.h>

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Makes the worker of queue 0 call the driver, which blocks the worker. */
static void block_worker(struct backend_rig *rig)
{
	vublk_test_fill_eventfd(rig->queues[0].call_fd);
	rig_add(rig, 0, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	rig_kick(rig, 0);
	while (!vublk_load_acquire(&rig->queues[0].ring.used->idx))
		sched_yield();
}

/* Counts the notices that a front-end was refused because of the call descriptor. */
static void count_refusals(void *opaque, const struct vublk_notice *notice, size_t notice_bytes)
{
	unsigned *count = opaque;

	if (notice->kind == VUBLK_NOTICE_CLIENT_REFUSED &&
	    strstr(notice->reason, "keeps the call descriptor of queue 0 full"))
		(*count)++;
}

/*
 * The front-end stops the queue while a call blocks the worker. The stop succeeds, and the session
 * ends.
 */
static void test_call(void **state)
{
	struct backend_rig rig;
	unsigned refusals = 0;

	rig_open_memory(&rig);
	vublk_backend_set_notice_handler(rig.backend, count_refusals, &refusals);
	rig_start(&rig);
	block_worker(&rig);
	assert_int_equal(rig_get_base(&rig, 0), 1);
	rig_wait_for_end(&rig);
	assert_true(rig_log_has(&rig, "keeps the call descriptor of queue 0 full"));
	rig_close_expecting_end(&rig);
	assert_int_equal(refusals, 1);
}

static void test_call_and_the_front_end_goes(void **state)
{
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_start(&rig);
	block_worker(&rig);
	rig_close(&rig);
}

/* The back-end stops while a call blocks its worker, as after SIGTERM. */
static void test_call_and_the_back_end_stops(void **state)
{
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_start(&rig);
	block_worker(&rig);
	vublk_backend_stop(rig.backend);
	rig_wait_for_end(&rig);
	rig_close_expecting_end(&rig);
}

static void test_the_next_is_served(void **state)
{
	struct backend_server server;

	backend_server_start(&server, NULL);
	for (unsigned i = 0; i < 5; i++) {
		struct backend_rig rig;
		int kept;

		rig_attach(&rig, rude_dial(server.path));
		rig_start(&rig);
		block_worker(&rig);
		kept = dup(rig.queues[0].call_fd);
		rig_close(&rig);
		rude_check_served(server.path);
		vublk_fd_close(&kept);
	}
	backend_server_stop(&server);
}

/* The eventfd for errors is full. The report of a broken ring must not block the worker. */
static void test_error(void **state)
{
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_start(&rig);
	vublk_test_fill_eventfd(rig.queues[0].err_fd);
	vublk_store_release(&rig.queues[0].ring.avail->idx, RIG_SIZE + 1);
	vublk_eventfd_signal(rig.queues[0].kick_fd);
	while (!rig_log_has(&rig, "broke the ring"))
		sched_yield();
	assert_int_equal(rig_get_base(&rig, 0), 0);
	rig_close(&rig);
}

struct thief {
	int fd;
	bool stops; /* atomic; tells the other thread to end */
};

static void *steal(void *opaque)
{
	struct thief *thief = opaque;

	while (!vublk_load_relaxed(&thief->stops))
		vublk_eventfd_clear(thief->fd);
	return NULL;
}

/*
 * A kick wakes the worker, but another thread reads the eventfd first. The worker's read() of the
 * eventfd must not block.
 */
static void test_stolen_kicks(void **state)
{
	struct thief thief = { 0 };
	pthread_t thread;
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_start(&rig);
	thief.fd = rig.queues[0].kick_fd;
	assert_int_equal(fcntl(thief.fd, F_SETFL, 0), 0);
	assert_int_equal(pthread_create(&thread, NULL, steal, &thief), 0);
	for (unsigned i = 0; i < 20000; i++)
		vublk_eventfd_write(thief.fd);
	rig_get_base(&rig, 0);
	vublk_store_relaxed(&thief.stops, true);
	pthread_join(thread, NULL);
	rig_close(&rig);
}

/*
 * The back-end accepts eventfds, and pipes as call descriptors. It refuses other kinds of files,
 * which could block it.
 */
static void test_kinds(void **state)
{
	const uint32_t requests[] = {
		VUBLK_VU_SET_VRING_KICK, VUBLK_VU_SET_VRING_CALL, VUBLK_VU_SET_VRING_ERR,
	};
	int pair[2], pipes[2], file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	struct backend_rig rig;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	rig_open_memory(&rig);
	rig_start(&rig);
	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(requests); i++) {
		assert_int_equal(rig_set_vring_fd(&rig, requests[i], 0, file), 1);
		assert_int_equal(rig_set_vring_fd(&rig, requests[i], 0, pair[0]), 1);
		assert_true(rig_log_has(&rig, "of queue 0: the descriptor is not an eventfd"));
		assert_int_equal(rig_set_vring_fd(&rig, requests[i], 0, pipes[1]),
				 requests[i] != VUBLK_VU_SET_VRING_CALL);
	}
	assert_int_equal(rig_set_vring_fd(&rig, VUBLK_VU_SET_VRING_CALL, 0,
					  rig.queues[0].call_fd), 0);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	vublk_fd_close(&file);
	vublk_fd_close_all(pair, 2);
	vublk_fd_close_all(pipes, 2);
	rig_close(&rig);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_call),
		VUBLK_TEST(test_call_and_the_front_end_goes),
		VUBLK_TEST(test_call_and_the_back_end_stops),
		VUBLK_TEST(test_the_next_is_served),
		VUBLK_TEST(test_error),
		VUBLK_TEST(test_stolen_kicks),
		VUBLK_TEST(test_kinds),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
