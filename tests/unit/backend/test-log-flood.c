/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Peers that connect again and again and break the same rule. The limit of log lines must apply to
 * all connections together, and separately to each kind of line.
 */
#include "backend-rig.h"
#include "rude-frontend.h"

#include "util/error.h"
#include "util/fd.h"
#include "util/log.h"

#include <vublk/bus.h>

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TIMES 100
#define KINDS 12 /* an upper bound on the kinds of lines that these peers cause */

/* The log lines of a program, without debug lines. */
struct lines {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned count;
	char text[1 << 16];
	size_t length;
};

struct programs {
	char backend_path[160], relay_path[160];
	struct lines backend_lines, relay_lines;
	struct vublk_backend *backend;
	struct vublk_bus *relay; /* NULL: it was not started */
	pthread_t backend_thread, relay_thread;
};

static void collect(void *opaque, enum vublk_log_level level, const char *text)
{
	struct lines *lines = opaque;

	pthread_mutex_lock(&lines->lock);
	lines->count++;
	lines->length += (size_t)snprintf(lines->text + lines->length,
					  sizeof(lines->text) - lines->length, "%s\n", text);
	assert_true(lines->length < sizeof(lines->text));
	pthread_cond_broadcast(&lines->changed);
	pthread_mutex_unlock(&lines->lock);
}

static void wait_for_line(struct lines *lines, const char *words)
{
	pthread_mutex_lock(&lines->lock);
	while (!strstr(lines->text, words))
		pthread_cond_wait(&lines->changed, &lines->lock);
	pthread_mutex_unlock(&lines->lock);
}

static void check_lines(struct lines *lines)
{
	pthread_mutex_lock(&lines->lock);
	if (lines->count > KINDS * VUBLK_LOG_BURST)
		fail_msg("%u lines:\n%s", lines->count, lines->text);
	pthread_mutex_unlock(&lines->lock);
}

/* Checks that there are no lines except the `at_start` lines of the program's start. */
static void check_silence(struct lines *lines, unsigned at_start)
{
	pthread_mutex_lock(&lines->lock);
	if (lines->count > at_start)
		fail_msg("%u lines:\n%s", lines->count, lines->text);
	pthread_mutex_unlock(&lines->lock);
}

static void *run_backend(void *opaque)
{
	assert_int_equal(vublk_backend_run(opaque, NULL), 0);
	return NULL;
}

static void *run_relay(void *opaque)
{
	assert_int_equal(vublk_bus_run(opaque, NULL), 0);
	return NULL;
}

static void init_lines(struct lines *lines)
{
	pthread_mutex_init(&lines->lock, NULL);
	pthread_cond_init(&lines->changed, NULL);
}

static void start_backend(struct programs *programs)
{
	const struct vublk_option options[] = {
		{ "engine", "memory" }, { "size", "8M" }, { "num-queues", "4" },
		{ "socket-path", programs->backend_path }, { NULL },
	};
	struct vublk_log log = { collect, &programs->backend_lines, VUBLK_LOG_INFO };

	memset(programs, 0, sizeof(*programs));
	signal(SIGPIPE, SIG_IGN);
	init_lines(&programs->backend_lines);
	snprintf(programs->backend_path, sizeof(programs->backend_path), "%s/backend",
		 vublk_test_folder());
	assert_int_equal(vublk_backend_open(options, &log, &programs->backend, NULL), 0);
	assert_int_equal(pthread_create(&programs->backend_thread, NULL, run_backend,
					programs->backend), 0);
}

static void start_relay(struct programs *programs)
{
	const struct vublk_option options[] = {
		{ "chardev", programs->backend_path }, { "reconnect-ms", "1" }, { NULL },
	};
	struct vublk_log log = { collect, &programs->relay_lines, VUBLK_LOG_INFO };
	char spec[200];

	init_lines(&programs->relay_lines);
	snprintf(programs->relay_path, sizeof(programs->relay_path), "%s/relay",
		 vublk_test_folder());
	snprintf(spec, sizeof(spec), "vhost-user:%s", programs->relay_path);
	assert_int_equal(vublk_bus_open(spec, options, &log, &programs->relay, NULL), 0);
	assert_int_equal(pthread_create(&programs->relay_thread, NULL, run_relay,
					programs->relay), 0);
	wait_for_line(&programs->relay_lines, "listening on");
}

static void stop_backend(struct programs *programs)
{
	vublk_backend_stop(programs->backend);
	assert_int_equal(pthread_join(programs->backend_thread, NULL), 0);
	vublk_backend_free(programs->backend);
}

static void stop_relay(struct programs *programs)
{
	vublk_bus_stop(programs->relay);
	assert_int_equal(pthread_join(programs->relay_thread, NULL), 0);
	vublk_bus_free(programs->relay);
}

/* Connects a front-end to `path`, and starts a ring. */
static void connect_with_ring(struct backend_rig *rig, const char *path)
{
	rig_attach(rig, rude_dial(path));
	rig_negotiate(rig);
	assert_int_equal(rig_set_mem_table(rig), 0);
	rig_start_queue(rig, 0, RIG_SIZE, 0);
}

/* --- vublk serve ------------------------------------------------------------------------ */

static void test_clients_that_reconnect(void **state)
{
	struct programs programs;

	start_backend(&programs);
	for (unsigned i = 0; i < TIMES; i++)
		rude_bad_headers(programs.backend_path);
	rude_check_served(programs.backend_path);
	check_lines(&programs.backend_lines);
	stop_backend(&programs);
}

static void test_rings_that_break(void **state)
{
	struct programs programs;

	start_backend(&programs);
	for (unsigned i = 0; i < TIMES; i++) {
		struct pollfd wait;
		struct backend_rig rig;

		connect_with_ring(&rig, programs.backend_path);
		rig.queues[0].ring.avail->idx = 1000;
		vublk_eventfd_signal(rig.queues[0].kick_fd);
		wait = (struct pollfd){ .fd = rig.queues[0].err_fd, .events = POLLIN };
		assert_int_equal(poll(&wait, 1, -1), 1);
		rig_close(&rig);
	}
	wait_for_line(&programs.backend_lines, "broke the ring");
	rude_bad_headers(programs.backend_path);
	/* a line of another kind, which must still be logged */
	wait_for_line(&programs.backend_lines, "the connection is closed");
	check_lines(&programs.backend_lines);
	stop_backend(&programs);
}

/* --- vublk device ----------------------------------------------------------------------- */

static void test_vmms_that_reconnect(void **state)
{
	struct programs programs;

	start_backend(&programs);
	start_relay(&programs);
	for (unsigned i = 0; i < TIMES; i++)
		rude_bad_headers(programs.relay_path);
	rude_check_served(programs.relay_path);
	check_lines(&programs.relay_lines);
	stop_relay(&programs);
	check_lines(&programs.backend_lines);
	stop_backend(&programs);
}

/* Each VMM breaks its ring. The logs of the relay and of the back-end must stay short. */
static void test_vmms_with_broken_rings(void **state)
{
	struct programs programs;

	start_backend(&programs);
	start_relay(&programs);
	for (unsigned i = 0; i < TIMES; i++) {
		struct pollfd wait;
		struct backend_rig rig;

		connect_with_ring(&rig, programs.relay_path);
		rig_set_u64(&rig, VUBLK_VU_SET_STATUS, 15);
		rig.queues[0].ring.avail->idx = 1000;
		vublk_eventfd_signal(rig.queues[0].kick_fd);
		wait = (struct pollfd){ .fd = rig.queues[0].err_fd, .events = POLLIN };
		assert_int_equal(poll(&wait, 1, -1), 1);
		rig_close(&rig);
	}
	rude_check_served(programs.relay_path);
	check_lines(&programs.relay_lines);
	stop_relay(&programs);
	check_lines(&programs.backend_lines);
	stop_backend(&programs);
}

/* A back-end is found and lost again and again. */
static void test_back_ends_that_flap(void **state)
{
	struct programs programs, other;

	start_backend(&programs);
	start_relay(&programs);
	stop_backend(&programs);
	wait_for_line(&programs.relay_lines, "waits for a back-end");
	for (unsigned i = 0; i < TIMES; i++) {
		start_backend(&other);
		rude_check_served(programs.relay_path);
		stop_backend(&other);
	}
	check_lines(&programs.relay_lines);
	stop_relay(&programs);
}

/* --- clients that do not wait for the answer --------------------------------------------- */

static void leave_early(const char *path)
{
	struct vublk_vu_header ask = { VUBLK_VU_GET_FEATURES, VUBLK_VU_VERSION, 0 };
	int fd = rude_dial(path);
	struct pollfd wait = { .fd = fd, .events = 0 };

	/* Makes the sending of the answer fail as after a disconnection, but without a race. */
	assert_int_equal(shutdown(fd, SHUT_RD), 0);
	rude_send(fd, &ask, sizeof(ask));
	assert_int_equal(poll(&wait, 1, -1), 1);
	close(fd);
}

/* A client that disconnects before it gets its answer causes no log line. */
static void test_clients_that_leave_early(void **state)
{
	struct programs programs;

	start_backend(&programs);
	start_relay(&programs);
	leave_early(programs.relay_path);
	rude_check_served(programs.relay_path);
	check_silence(&programs.relay_lines, 1);
	stop_relay(&programs);
	leave_early(programs.backend_path);
	rude_check_served(programs.backend_path);
	check_silence(&programs.backend_lines, 1);
	stop_backend(&programs);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_clients_that_reconnect),
		VUBLK_TEST(test_rings_that_break),
		VUBLK_TEST(test_vmms_that_reconnect),
		VUBLK_TEST(test_vmms_with_broken_rings),
		VUBLK_TEST(test_back_ends_that_flap),
		VUBLK_TEST(test_clients_that_leave_early),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
