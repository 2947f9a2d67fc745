/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Front-ends that break the rules. The back-end must not leak resources. It keeps listening, so the
 * next front-end shows whether an earlier one has done damage.
 */
#include "backend-rig.h"
#include "rude-frontend.h"

#include "util/atomic.h"
#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/mman.h>
#include <sys/un.h>
#include <unistd.h>

static void serve(struct backend_server *server)
{
	const struct vublk_option options[] = { { "message-timeout-ms", "20" }, { 0 } };

	backend_server_start(server, options);
}

/* --- what any server survives ------------------------------------------------------- */

static void test_bad_headers(void **state)
{
	struct backend_server server;

	serve(&server);
	rude_bad_headers(server.path);
	backend_server_stop(&server);
}

static void test_gone_at_each_byte(void **state)
{
	struct backend_server server;

	serve(&server);
	rude_gone_at_each_byte(server.path);
	backend_server_stop(&server);
}

/* Front-ends that send nothing or an incomplete message. The next front-end is served. */
static void test_silent(void **state)
{
	struct backend_server server;

	serve(&server);
	rude_silent(server.path);
	backend_server_stop(&server);
}

/* A front-end that has sent only complete messages may be silent for any time. */
static void test_idle_is_not_silent(void **state)
{
	struct pollfd nothing = { .fd = -1 };
	struct backend_server server;
	struct backend_rig rig;
	int next;

	serve(&server);
	rig_attach(&rig, rude_dial(server.path));
	rig_negotiate(&rig);
	next = rude_dial(server.path);
	assert_int_equal(poll(&nothing, 1, 100), 0); /* five times the time limit */
	assert_int_equal(rig_set_mem_table(&rig), 0);
	rig_start_queue(&rig, 0, RIG_SIZE, 0);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	rig_close(&rig);
	close(next);
	backend_server_stop(&server);
}

static void test_flat_after_many(void **state)
{
	uint64_t seed = 88172645463325252u;
	unsigned fds, mappings;
	struct backend_server server;

	serve(&server);
	rude_flood(server.path, 500, &seed);
	rude_check_served(server.path);
	fds = vublk_test_count_fds();
	mappings = vublk_test_count_mappings();
	rude_flood(server.path, 100000, &seed);
	rude_check_served(server.path);
	/*
	 * With a tolerance, because the session of the last front-end may not have been freed yet.
	 */
	assert_true(vublk_test_count_fds() <= fds + 16);
	assert_true(vublk_test_count_mappings() <= mappings + 1);
	backend_server_stop(&server);
}

static void test_same_message_many_times(void **state)
{
	unsigned fds = 0, mappings = 0;
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_start(&rig);
	for (unsigned i = 0; i < 1000; i++) {
		assert_int_equal(rig_set_mem_table(&rig), 0);
		assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_NUM, 1,
					       i % 2 ? 128 : 256), 0);
		assert_int_equal(rig_set_vring_fd(&rig, VUBLK_VU_SET_VRING_KICK, 1,
						  rig.queues[0].kick_fd), 0);
		assert_int_equal(rig_set_vring_fd(&rig, VUBLK_VU_SET_VRING_ERR, 0,
						  rig.queues[0].err_fd), 0);
		rig_get_u64(&rig, VUBLK_VU_GET_STATUS);
		if (!i) {
			fds = vublk_test_count_fds();
			mappings = vublk_test_count_mappings();
		}
	}
	assert_int_equal(vublk_test_count_fds(), fds);
	assert_int_equal(vublk_test_count_mappings(), mappings);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	rig_close(&rig);
}

/* --- a driver that rewrites descriptors --------------------------------------- */

struct scribbler {
	struct backend_rig *rig;
	bool stop; /* atomic; tells the thread to end */
};

static void *scribble(void *opaque)
{
	struct scribbler *scribbler = opaque;
	uint64_t *desc = (uint64_t *)scribbler->rig->queues[0].ring.desc;
	uint64_t seed = 42;

	while (!__atomic_load_n(&scribbler->stop, __ATOMIC_RELAXED)) {
		uint64_t word = rude_random(&seed);

		if (word % 4 == 0)
			word = RIG_GUEST + word % RIG_MEMORY;
		__atomic_store_n(&desc[rude_random(&seed) % (RIG_SIZE * 2)], word,
				 __ATOMIC_RELAXED);
	}
	return NULL;
}

static void test_descriptors_rewritten(void **state)
{
	struct scribbler scribbler;
	pthread_t thread;
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_start(&rig);
	scribbler = (struct scribbler){ .rig = &rig };
	assert_int_equal(pthread_create(&thread, NULL, scribble, &scribbler), 0);
	for (unsigned i = 0; i < 20000; i++) {
		struct vring_avail *avail = rig.queues[0].ring.avail;

		__atomic_store_n(&avail->ring[i % RIG_SIZE], (uint16_t)(i % RIG_SIZE),
				 __ATOMIC_RELAXED);
		__atomic_store_n(&avail->idx, (uint16_t)(i + 1), __ATOMIC_RELEASE);
		if (i % 8 == 0) {
			vublk_eventfd_signal(rig.queues[0].kick_fd);
			rig_get_u64(&rig, VUBLK_VU_GET_STATUS);
		}
		if (i % 64 == 0 && i) {
			/*
			 * The scribbler has probably broken the ring, so the ring is started again.
			 */
			rig_get_base(&rig, 0);
			assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_BASE, 0,
						       (i + 1) & 0xffff), 0);
			assert_int_equal(rig_set_vring_fd(&rig, VUBLK_VU_SET_VRING_KICK, 0,
							  rig.queues[0].kick_fd), 0);
		}
	}
	__atomic_store_n(&scribbler.stop, true, __ATOMIC_RELAXED);
	assert_int_equal(pthread_join(thread, NULL), 0);
	rig_get_base(&rig, 0);
	memset(rig.memory, 0, RIG_MEMORY);
	rig_start_queue(&rig, 0, RIG_SIZE, 0);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	rig_close(&rig);
}

/* --- connecting and disconnecting ----------------------------------------------------------- */

static void test_front_ends_come_and_go(void **state)
{
	struct backend_server server;
	int waiting[8];

	serve(&server);
	for (unsigned i = 0; i < 200; i++)
		rude_check_served(server.path);
	/* These front-ends disconnect before they are accepted, or soon afterwards. */
	for (unsigned i = 0; i < 8; i++)
		waiting[i] = rude_dial(server.path);
	for (unsigned i = 0; i < 8; i++)
		close(waiting[i]);
	rude_check_served(server.path);
	backend_server_stop(&server);
}

/*
 * QEMU does not read the configuration again when it reconnects. So the write cache setting that
 * the guest has seen must also apply in the next session.
 */
static void test_write_cache_outlives_a_front_end(void **state)
{
	struct vublk_vu_message message;
	struct {
		struct vublk_vu_header header;
		uint32_t offset, size_bytes, flags;
		uint8_t wce;
	} __attribute__((packed)) reply;
	struct backend_server server;

	serve(&server);
	for (unsigned i = 0; i < 2; i++) {
		int fd = rude_dial(server.path);

		vublk_vu_message_init(&message, VUBLK_VU_SET_CONFIG);
		message.payload.config.offset = offsetof(struct virtio_blk_config, wce);
		message.payload.config.size_bytes = 1;
		message.header.size = VUBLK_VU_CONFIG_HEADER_BYTES + 1;
		for (unsigned k = i; k < 2; k++) { /* the first front-end sets and reads wce, and
						      the second one only reads it */
			message.header.request = k ? VUBLK_VU_GET_CONFIG : VUBLK_VU_SET_CONFIG;
			rude_send(fd, &message.header, sizeof(message.header));
			rude_send(fd, &message.payload, message.header.size);
		}
		assert_int_equal(recv(fd, &reply, sizeof(reply), MSG_WAITALL), sizeof(reply));
		assert_int_equal(reply.wce, 0);
		close(fd);
	}
	backend_server_stop(&server);
}

/*
 * A program that passes a listening socket to the back-end may itself accept connections from the
 * socket. If it accepts the connection that has woken the back-end, the back-end's accept() must
 * not block. So the back-end makes the socket non-blocking.
 */
static void test_given_listener(void **state)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct backend_server server;
	char number[16];
	struct vublk_option options[] = {
		{ "fd", number }, { "engine", "memory" }, { "size", "8M" }, { 0 },
	};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(server.path, sizeof(server.path), "%s/given", vublk_test_folder());
	memcpy(address.sun_path, server.path, sizeof(server.path));
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 4), 0);
	snprintf(number, sizeof(number), "%d", fd);
	assert_int_equal(vublk_backend_open(options, NULL, &server.backend, NULL), 0);
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	backend_server_run(&server);
	rude_check_served(server.path);
	rude_check_served(server.path);
	vublk_backend_stop(server.backend);
	assert_int_equal(pthread_join(server.thread, NULL), 0);
	vublk_backend_free(server.backend);
}

static void test_stop_with_a_front_end(void **state)
{
	struct backend_rig rig;

	rig_open_memory(&rig);
	rig_start(&rig);
	for (uint16_t token = 0; token < 40; token++)
		rig_add(&rig, 0, token, VIRTIO_BLK_T_OUT, token, token * 512u, 512);
	rig_kick(&rig, 0);
	vublk_backend_stop(rig.backend);
	rig_close_expecting_end(&rig);
}

static void test_one_back_end_a_socket(void **state)
{
	struct vublk_error error = { 0 };
	struct vublk_backend *second;
	struct backend_server server;

	serve(&server);
	assert_int_equal(vublk_backend_open((struct vublk_option[]){
			{ "socket-path", server.path }, { "engine", "null" }, { "size", "8M" },
			{ 0 } }, NULL, &second, &error), -EADDRINUSE);
	assert_non_null(strstr(error.text, server.path));
	rude_check_served(server.path);
	backend_server_stop(&server);
}

static void test_options(void **state)
{
	static const struct {
		struct vublk_option options[4];
		const char *words;
	} cases[] = {
		{ { { "engine", "null" } }, "needs a socket" },
		{ { { "socket-path", "x" }, { "fd", "1000" } }, "cannot be used together" },
		{ { { "socket-path", "x" }, { "engine", "tape" } }, "file, memory, null" },
		{ { { "socket-path", "x" }, { "engine", "null" } }, "needs a size" },
		{ { { "socket-path", "x" }, { "engine", "null" }, { "size", "1000" } },
		  "multiple of 512" },
		{ { { "socket-path", "x" }, { "speed", "fast" } }, "no option 'speed'" },
		{ { { "socket-path", "x" }, { "poll", "always" } }, "adaptive, off or busy" },
		{ { { "socket-path", "x" }, { "poll-budget", "101" } }, "from 0 to 100" },
		{ { { "socket-path", "x" }, { "poll-budget", "-1" } }, "from 0 to 100" },
		{ { { "socket-path", "x" }, { "poll-budget", "" } }, "from 0 to 100" },
		{ { { "socket-path", "x" }, { "num-queues", "257" } }, "num-queues must be" },
		{ { { "socket-path", "x" }, { "num-queues", "1" }, { "threads", "2" } },
		  "there is only 1 queue" },
		{ { { "socket-path", "x" } }, "needs an image" },
		{ { { "socket-path", "x" }, { "blk-file", "/no/such" } }, "/no/such" },
		{ { { "socket-path", "x" }, { "serial", "123456789012345678901" } },
		  "at most 20" },
	};

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		struct vublk_error error = { 0 };
		struct vublk_backend *backend = NULL;
		int r = vublk_backend_open(cases[i].options, NULL, &backend, &error);

		assert_true(r < 0);
		assert_null(backend);
		if (!strstr(error.text, cases[i].words))
			fail_msg("case %zu: %s", i, error.text);
	}
	assert_string_equal(vublk_backend_options()->name, "socket-path");
}

/* vublk_backend_open() closes the descriptor in the option "fd" even if it fails. */
static void test_descriptor_is_taken(void **state)
{
	struct vublk_backend *backend;
	char number[16];
	int pipes[2];

	for (unsigned i = 0; i < 2; i++) {
		struct vublk_option options[] = {
			{ "engine", i ? "null" : "wrong" }, { "fd", number }, { "size", "8M" },
			{ 0 },
		};

		assert_int_equal(pipe(pipes), 0);
		snprintf(number, sizeof(number), "%d", pipes[0]);
		assert_true(vublk_backend_open(options, NULL, &backend, NULL) < 0);
		assert_int_equal(close(pipes[0]), -1);
		close(pipes[1]);
	}
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_bad_headers),
		VUBLK_TEST(test_gone_at_each_byte),
		VUBLK_TEST(test_silent),
		VUBLK_TEST(test_idle_is_not_silent),
		VUBLK_TEST_LONG(test_flat_after_many, 300),
		VUBLK_TEST(test_same_message_many_times),
		VUBLK_TEST_LONG(test_descriptors_rewritten, 300),
		VUBLK_TEST(test_front_ends_come_and_go),
		VUBLK_TEST(test_write_cache_outlives_a_front_end),
		VUBLK_TEST(test_given_listener),
		VUBLK_TEST(test_stop_with_a_front_end),
		VUBLK_TEST(test_one_back_end_a_socket),
		VUBLK_TEST(test_options),
		VUBLK_TEST(test_descriptor_is_taken),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
