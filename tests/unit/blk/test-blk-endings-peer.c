/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The block API against real back-ends that die, stall or do not answer: how a disk is opened, how
 * its requests end, and how it is closed. The cases are the same for each back-end.
 */
#include "blk-peer.h"

#include "harness.h"

#include <vublk/blocking.h>

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void fill_queues(struct vublk_blk *blk, void *buffer, unsigned count)
{
	for (unsigned q = 0; q < NUM_QUEUES; q++) {
		for (unsigned i = 0; i < count; i++)
			assert_int_equal(vublk_blk_read(vublk_blk_queue(blk, q), i * 4096, buffer,
							4096, 0, NULL, &error), 0);
		vublk_blk_submit(vublk_blk_queue(blk, q));
	}
}

static void test_killed_in_mid_flight(void **state)
{
	struct vublk_blk *blk = open_disk();
	struct vublk_blk_completion c[64];
	char *buffer = alloc(blk, 4096);

	stop_peer_running();
	fill_queues(blk, buffer, 64);
	end_peer();
	for (unsigned q = 0; q < NUM_QUEUES; q++) {
		struct vublk_blk_queue *queue = vublk_blk_queue(blk, q);

		assert_int_equal(vublk_blk_wait(queue, c, 64, 64, -1, &error), 64);
		for (unsigned i = 0; i < 64; i++)
			assert_true(c[i].result == -ENOTCONN || !c[i].result);
		assert_int_equal(vublk_blk_read(queue, 0, buffer, 512, 0, NULL, &error), -ENOTCONN);
		assert_non_null(strstr(error.text, peer.socket));
	}
	assert_int_equal(vublk_blk_set_write_cache(blk, true, &error), -ENOTCONN);
	assert_int_equal(vublk_blk_close(blk, -1, NULL), 0);
}

/*
 * Starts the back-end, and opens a disk with a short timeout. Before that, opens and closes a disk
 * with the default timeout, because the start of the back-end may take longer.
 */
static struct vublk_blk *open_impatiently(void)
{
	const struct vublk_option options[] = {
		{ "request-timeout-ms", "1000" }, { "reconnect-ms", "0" }, { NULL }
	};

	start_peer();
	assert_int_equal(vublk_blk_close(open_with(NULL), 0, NULL), 0);
	return open_with(options);
}

/* A back-end that does not answer is disconnected after the timeout, and its requests fail. */
static void test_stalled(void **state)
{
	struct vublk_blk *blk = open_impatiently();
	char *buffer = alloc(blk, 4096);

	stop_peer_running();
	assert_int_equal(vublk_blk_read(vublk_blk_queue(blk, 0), 0, buffer, 4096, 0, NULL, &error), 0);
	assert_null(vublk_blk_alloc(blk, 4096, &error));
	assert_int_equal(error.code, ETIMEDOUT);
	assert_true(wait_one(vublk_blk_queue(blk, 0)) == -ENOTCONN);
	assert_int_equal(vublk_blk_close(blk, -1, NULL), 0);
	end_peer();
}

/* The deadline applies to a request even while no message to the back-end is pending. */
static void test_request_deadline(void **state)
{
	const struct vublk_option options[] = {
		{ "request-deadline-ms", "100" }, { "request-timeout-ms", "5000" }, { NULL }
	};
	struct vublk_blk *blk;
	char data[512];

	start_peer();
	blk = open_with(options);
	/* On a slow machine this request may also be late. The next one is late in any case. */
	if (!vublk_blk_pread(blk, 0, data, sizeof(data), 0, &error)) {
		stop_peer_running();
		assert_int_equal(vublk_blk_pread(blk, 0, data, sizeof(data), 0, &error), -ETIME);
	}
	assert_non_null(strstr(error.text, "request-deadline-ms"));
	assert_int_equal(vublk_blk_close(blk, -1, NULL), 0);
	end_peer();
}

static void test_stalled_at_close(void **state)
{
	struct vublk_blk *blk = open_impatiently();
	char *buffer = alloc(blk, 4096);

	stop_peer_running();
	assert_int_equal(vublk_blk_read(vublk_blk_queue(blk, 0), 0, buffer, 4096, 0, NULL, &error), 0);
	assert_int_equal(vublk_blk_close(blk, 10, NULL), -ETIMEDOUT);
	end_peer();
}

static void test_stalled_at_open(void **state)
{
	const struct vublk_option options[] = { { "request-timeout-ms", "50" }, { NULL } };
	struct vublk_blk *blk = NULL;

	start_peer();
	stop_peer_running();
	assert_int_equal(vublk_blk_open(peer.socket, options, NULL, 0, &blk, &error), -ETIMEDOUT);
	assert_non_null(strstr(error.text, peer.socket));
	end_peer();
}

static void test_close_with_requests_in_flight(void **state)
{
	const struct vublk_option options[] = { { "num-queues", "4" }, { NULL } };
	struct vublk_blk *blk;
	int r;

	start_peer();
	for (unsigned round = 0; round < 8; round++) {
		blk = open_with(options);
		fill_queues(blk, alloc(blk, 4096), 100);
		r = vublk_blk_close(blk, round & 1 ? -1 : 0, NULL);
		assert_true(!r || (!(round & 1) && r == -ETIMEDOUT));
	}
	end_peer();
}

/* If too few descriptors are left, opening a disk fails with an error text and without a leak. */
static void test_out_of_descriptors(void **state)
{
	struct rlimit limit;
	unsigned failures = 0;
	int r = -1;

	start_peer();
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	for (unsigned most = vublk_test_count_fds(); r; most++) {
		struct vublk_blk *blk = NULL;

		limit.rlim_cur = most;
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
		error.text[0] = '\0';
		r = vublk_blk_open(peer.socket, NULL, NULL, 0, &blk, &error);
		if (r) {
			assert_true(error.text[0]);
			failures++;
			continue;
		}
		assert_int_equal(vublk_blk_close(blk, 0, NULL), 0);
	}
	assert_true(failures > 5);
	end_peer();
}

/* If the application makes the connection, the disk cannot reconnect after a loss. */
static void test_open_by_descriptor(void **state)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct vublk_option options[] = { { "fd", NULL }, { NULL }, { NULL } };
	struct vublk_blk *blk;
	char text[16], sector[512];
	int fd;

	start_peer();
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	memcpy(address.sun_path, peer.socket, strlen(peer.socket) + 1);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	snprintf(text, sizeof(text), "%d", fd);
	options[0].value = text;
	options[1] = (struct vublk_option){ "reconnect-ms", "1000" };
	assert_int_equal(vublk_blk_open(NULL, options, NULL, 0, &blk, &error), -EINVAL);
	assert_non_null(strstr(error.text, "set reconnect-ms=0"));
	options[1].name = NULL;
	assert_int_equal(vublk_blk_open(NULL, options, NULL, 0, &blk, &error), 0);
	close(fd);
	assert_int_equal(vublk_blk_pread(blk, 0, sector, sizeof(sector), 0, &error), 0);
	end_peer();
	assert_int_equal(vublk_blk_pread(blk, 0, sector, sizeof(sector), 0, &error), -ENOTCONN);
	vublk_blk_close(blk, 0, NULL);
}

/* While the back-end does not answer, the functions that open a disk in steps do not block. */
static void test_open_in_steps(void **state)
{
	struct pollfd pollfd = { .events = POLLIN };
	struct vublk_blk *blk;
	char sector[512];

	start_peer();
	stop_peer_running();
	assert_int_equal(vublk_blk_open_start(peer.socket, NULL, NULL, 0, &blk, &error), 0);
	assert_int_equal(vublk_blk_open_finish(blk, &error), -EAGAIN);
	assert_int_equal(vublk_blk_close(blk, -1, &error), 0); /* cancels the open */
	assert_int_equal(vublk_blk_open_start(peer.socket, NULL, NULL, 0, &blk, &error), 0);
	assert_int_equal(vublk_blk_open_finish(blk, &error), -EAGAIN);
	kill(peer.pid, SIGCONT);
	pollfd.fd = vublk_blk_opening_fd(blk);
	while (poll(&pollfd, 1, -1) != 1)
		;
	assert_int_equal(vublk_blk_open_finish(blk, &error), 0);
	assert_int_equal(vublk_blk_pread(blk, 0, sector, sizeof(sector), 0, &error), 0);
	assert_int_equal(vublk_blk_close(blk, -1, &error), 0);
	end_peer();
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_killed_in_mid_flight),
		VUBLK_TEST(test_stalled),
		VUBLK_TEST(test_request_deadline),
		VUBLK_TEST(test_stalled_at_close),
		VUBLK_TEST(test_stalled_at_open),
		VUBLK_TEST(test_close_with_requests_in_flight),
		VUBLK_TEST(test_out_of_descriptors),
		VUBLK_TEST(test_open_by_descriptor),
		VUBLK_TEST(test_open_in_steps),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
