/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Eventfds and pipes whose peer has cleared O_NONBLOCK, and has filled or emptied them. No call may
 * block. A call that blocks makes the case exceed its time limit.
 */
#include "harness.h"

#include "util/atomic.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static bool is_readable(int fd)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };

	return poll(&pollfd, 1, 0) == 1;
}

static void test_signal(void **state)
{
	int fd = vublk_eventfd_new();

	for (unsigned i = 0; i < 10000; i++)
		vublk_eventfd_signal(fd);
	assert_int_equal(vublk_eventfd_clear(fd), 1);
	assert_int_equal(vublk_eventfd_clear(fd), 0);
	vublk_test_fill_eventfd(fd);
	for (unsigned i = 0; i < 10000; i++)
		vublk_eventfd_signal(fd);
	assert_true(is_readable(fd));
	vublk_fd_close(&fd);
	vublk_eventfd_signal(-1);
}

static void *signal_often(void *opaque)
{
	for (unsigned i = 0; i < 20000; i++)
		vublk_eventfd_signal(*(int *)opaque);
	return NULL;
}

/* Several threads signal one eventfd. Each signal counts. */
static void test_signal_from_many_threads(void **state)
{
	int fd = vublk_eventfd_new();
	pthread_t threads[4];
	uint64_t count;

	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, signal_often, &fd), 0);
	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(threads); i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(read(fd, &count, sizeof(count)), sizeof(count));
	assert_int_equal(count, 80000);
	vublk_fd_close(&fd);
}

static void test_signal_after_fork(void **state)
{
	int fd = vublk_eventfd_new(), status;
	pid_t child;

	vublk_eventfd_signal(fd);
	assert_int_equal(vublk_eventfd_clear(fd), 1);
	child = fork();
	if (!child) {
		vublk_test_fill_eventfd(fd);
		vublk_eventfd_signal(fd);
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(vublk_eventfd_clear(fd), 1);
	vublk_fd_close(&fd);
}

static void test_clear(void **state)
{
	int fd = eventfd(0, EFD_CLOEXEC); /* without O_NONBLOCK */

	assert_int_equal(vublk_eventfd_clear(fd), 0);
	vublk_test_fill_eventfd(fd);
	assert_int_equal(vublk_eventfd_clear(fd), 1);
	assert_int_equal(vublk_eventfd_clear(fd), 0);
	vublk_fd_close(&fd);
	assert_true(vublk_eventfd_clear(-1) < 0);
}

static void fill_pipe(int fd)
{
	char page[4096] = { 0 };

	assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	while (write(fd, page, sizeof(page)) > 0)
		;
	assert_int_equal(fcntl(fd, F_SETFL, 0), 0);
}

static void test_pipes(void **state)
{
	uint64_t count;
	int pipes[2];

	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	vublk_eventfd_signal(pipes[1]);
	assert_int_equal(read(pipes[0], &count, sizeof(count)), sizeof(count));
	assert_int_equal(count, 1);
	fill_pipe(pipes[1]);
	vublk_eventfd_signal(pipes[1]);
	vublk_fd_close(&pipes[0]);
	vublk_eventfd_signal(pipes[1]); /* no SIGPIPE is raised */
	vublk_fd_close(&pipes[1]);
}

static void test_kinds(void **state)
{
	int fd = vublk_eventfd_new(), pipes[2], before;
	struct vublk_error error;

	assert_int_equal(vublk_eventfd_check(fd, &error), 0);
	assert_int_equal(vublk_callfd_check(&fd, &error), 0);
	vublk_fd_close(&fd);
	fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	assert_int_equal(vublk_eventfd_check(fd, NULL), -EPROTO);
	assert_int_equal(vublk_callfd_check(&fd, &error), -EPROTO);
	assert_string_equal(error.text, "the descriptor is not an eventfd");
	vublk_fd_close(&fd);
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	assert_int_equal(vublk_eventfd_check(pipes[1], &error), -EPROTO);
	/*
	 * The library's own open file description does not block, whatever the peer does to its
	 * own.
	 */
	fill_pipe(pipes[1]);
	before = dup(pipes[1]);
	assert_int_equal(vublk_callfd_check(&pipes[1], &error), 0);
	assert_int_equal(fcntl(before, F_SETFL, 0), 0);
	vublk_eventfd_write(pipes[1]);
	vublk_fd_close(&before);
	vublk_fd_close(&pipes[0]);
	assert_int_equal(vublk_callfd_check(&pipes[1], &error), 0); /* also if there is no reader */
	vublk_eventfd_signal(pipes[1]);
	vublk_fd_close(&pipes[1]);
}

/* --- a writer that is blocked -------------------------------------------------------------- */

struct writer {
	int fd;
	bool returned; /* atomic */
};

static void *write_once(void *opaque)
{
	struct writer *writer = opaque;

	vublk_eventfd_write(writer->fd);
	vublk_store_release(&writer->returned, true);
	return NULL;
}

static void free_writer(int fd)
{
	struct writer writer = { .fd = fd };
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, write_once, &writer), 0);
	while (!vublk_load_acquire(&writer.returned)) {
		vublk_eventfd_unblock(fd);
		sched_yield();
	}
	pthread_join(thread, NULL);
}

static void test_unblock(void **state)
{
	int fd = vublk_eventfd_new();

	assert_false(vublk_eventfd_unblock(fd));
	vublk_eventfd_write(fd);
	assert_false(vublk_eventfd_unblock(fd)); /* an honest peer keeps its count */
	assert_int_equal(vublk_eventfd_clear(fd), 1);
	for (unsigned i = 0; i < 100; i++) {
		vublk_test_fill_eventfd(fd);
		free_writer(fd);
	}
	vublk_test_fill_eventfd(fd);
	assert_true(vublk_eventfd_unblock(fd));
	assert_false(vublk_eventfd_unblock(fd));
	assert_false(vublk_eventfd_unblock(-1));
	vublk_fd_close(&fd);
}

struct filler {
	int fd;
	bool stops; /* atomic; set to end the threads */
};

static void *keep_full(void *opaque)
{
	const uint64_t most = UINT64_MAX - 1;
	struct filler *filler = opaque;

	while (!vublk_load_acquire(&filler->stops))
		if (write(filler->fd, &most, sizeof(most)) < 0)
			break;
	return NULL;
}

/* Writers are unblocked although other threads of the peer keep the counter full. */
static void test_unblock_while_it_is_filled(void **state)
{
	struct filler filler = { .fd = eventfd(0, EFD_CLOEXEC) };
	pthread_t threads[4];

	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, keep_full, &filler), 0);
	for (unsigned i = 0; i < 20; i++)
		free_writer(filler.fd);
	vublk_store_release(&filler.stops, true);
	fcntl(filler.fd, F_SETFL, O_NONBLOCK);
	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(threads); i++)
		while (pthread_tryjoin_np(threads[i], NULL) == EBUSY)
			vublk_eventfd_clear(filler.fd);
	vublk_fd_close(&filler.fd);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_signal),
		VUBLK_TEST(test_signal_from_many_threads),
		VUBLK_TEST(test_signal_after_fork),
		VUBLK_TEST(test_clear),
		VUBLK_TEST(test_pipes),
		VUBLK_TEST(test_kinds),
		VUBLK_TEST(test_unblock),
		VUBLK_TEST(test_unblock_while_it_is_filled),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
