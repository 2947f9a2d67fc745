/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A device that listens, and back-ends that connect to it: the first one, unusable ones, one after
 * a loss, and a second one while the first is connected.
 *
 * Key idea: the mock connects only when the case says so. Between two connections, the device must
 * have nothing to do.
 */
#include "harness.h"

#include "mock/device-rig.h"
#include "mock/serve.h"

#include "device/device.h"
#include "util/checked.h"
#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define QUEUES 2

static char path[256];

static void begin(struct device_rig *rig, struct mock *mock)
{
	mock_init(mock);
	snprintf(path, sizeof(path), "%s/device", vublk_test_folder());
	rig_init(rig, path);
	rig->pump = mock_pump;
	rig->pump_opaque = mock;
	rig_set(rig, "server", "on");
}

/* Runs the device until it only waits, and checks its state. */
static void expect_waiting(struct device_rig *rig, enum vublk_device_state state)
{
	struct pollfd fd = { vublk_device_fd(rig->device), POLLIN, 0 };

	rig_settle(rig);
	assert_int_equal(vublk_device_state(rig->device), state);
	assert_int_equal(poll(&fd, 1, 0), 0);
}

static void begin_realize(struct device_rig *rig)
{
	assert_int_equal(vublk_device_realize(rig->device, NULL), 0);
	expect_waiting(rig, VUBLK_DEVICE_REALIZING);
}

static void realize(struct device_rig *rig, struct mock *mock)
{
	begin_realize(rig);
	mock_connect(mock, path);
	rig_wait(rig, RIG_REALIZED, rig->calls[RIG_REALIZED] + 1);
	assert_int_equal(rig->errors[RIG_REALIZED].code, 0);
}

/* --- realize -------------------------------------------------------------------------------- */

static void test_a_back_end_connects(void **state)
{
	struct mock mock;
	struct device_rig rig;

	begin(&rig, &mock);
	for (unsigned i = 0; i < 3; i++) {
		int other;

		realize(&rig, &mock);
		other = vublk_socket_connect(path, NULL);
		expect_waiting(&rig, VUBLK_DEVICE_STOPPED);
		close(other);
		rig_start(&rig, QUEUES);
		rig_stop(&rig);
		assert_int_equal(access(path, F_OK), 0);
		vublk_device_unrealize(rig.device);
		assert_int_equal(access(path, F_OK), -1);
	}
	rig_end(&rig, &mock);
}

static void test_unrealize_while_waiting(void **state)
{
	unsigned fds = vublk_test_count_fds();
	struct mock mock;
	struct device_rig rig;

	begin(&rig, &mock);
	for (unsigned i = 0; i < 3; i++) {
		begin_realize(&rig);
		if (i == 2) { /* a peer connects, but does not answer */
			mock_connect(&mock, path);
			vublk_device_process(rig.device);
		}
		vublk_device_unrealize(rig.device);
		assert_int_equal(access(path, F_OK), -1);
		rig_settle(&rig);
		assert_int_equal(rig.calls[RIG_REALIZED], 0);
	}
	rig_end(&rig, &mock);
	assert_int_equal(vublk_test_count_fds(), fds);
}

static void test_the_path(void **state)
{
	struct mock mock;
	struct device_rig rig;
	int fd;

	begin(&rig, &mock);
	fd = vublk_socket_listen(path, NULL);
	rig_realize_fails(&rig, EADDRINUSE);
	assert_non_null(strstr(rig.errors[RIG_REALIZED].text,
			       "another process listens on the socket"));
	assert_int_equal(access(path, F_OK), 0);
	close(fd); /* the socket's file remains */
	realize(&rig, &mock);
	vublk_device_unrealize(rig.device);
	fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	close(fd);
	rig_realize_fails(&rig, EEXIST);
	unlink(path);
	realize(&rig, &mock);
	unlink(path); /* another process uses the path from here on */
	fd = vublk_socket_listen(path, NULL);
	vublk_device_unrealize(rig.device);
	assert_int_equal(access(path, F_OK), 0);
	close(fd);
	rig_end(&rig, &mock);
}

/*
 * After an unusable back-end, the next one can connect. The number of warnings about unusable
 * back-ends is limited.
 */
static void test_wrong_back_ends(void **state)
{
	const struct mock_fault faults[] = {
		{ .kind = MOCK_CUT, .request = VUBLK_VU_GET_FEATURES },
		{ .kind = MOCK_CUT, .request = VUBLK_VU_GET_CONFIG, .bytes = 20 },
		{ .kind = MOCK_VALUE, .request = VUBLK_VU_GET_FEATURES, .value = 0 },
		{ .kind = MOCK_WRONG_VERSION, .request = VUBLK_VU_GET_QUEUE_NUM },
	};
	struct mock mock;
	struct device_rig rig;

	begin(&rig, &mock);
	begin_realize(&rig);
	for (unsigned i = 0; i < 100; i++) {
		mock_connect(&mock, path);
		mock_forget(&mock);
		mock.fault = faults[i % VUBLK_ARRAY_SIZE(faults)];
		expect_waiting(&rig, VUBLK_DEVICE_REALIZING);
	}
	assert_in_range(rig.num_warnings, 1, VUBLK_ARRAY_SIZE(faults) * VUBLK_LOG_BURST);
	assert_int_equal(rig.calls[RIG_REALIZED], 0);
	mock.fault.kind = MOCK_NO_FAULT;
	mock_connect(&mock, path);
	rig_wait(&rig, RIG_REALIZED, 1);
	assert_int_equal(rig.errors[RIG_REALIZED].code, 0);
	rig_end(&rig, &mock);
}

/* --- after a loss --------------------------------------------------------------------------------- */

static void test_the_next_back_end(void **state)
{
	struct mock mock;
	struct device_rig rig;
	uint64_t inode;

	begin(&rig, &mock);
	realize(&rig, &mock);
	rig_start(&rig, QUEUES);
	inode = mock.inflight_inode;
	for (unsigned i = 0; i < QUEUES; i++)
		rig_set_indices(&rig, i, (uint16_t)(7 + i), (uint16_t)(10 + i));
	for (unsigned i = 1; i <= 3; i++) {
		mock_hang_up(&mock);
		rig_wait(&rig, RIG_LOST, i);
		expect_waiting(&rig, VUBLK_DEVICE_LOST);
		mock_connect(&mock, path);
		rig_wait(&rig, RIG_STARTED, 1 + i);
		assert_int_equal(rig.calls[RIG_RECONNECTED], i);
		assert_int_equal(mock.given_bases[1], 8);
		assert_int_equal(mock.inflight_inode, inode);
	}
	rig_end(&rig, &mock);
}

/*
 * The device disconnects a back-end that cannot replace the lost one. After that, the next back-end
 * can connect.
 */
static void test_a_smaller_offer(void **state)
{
	struct mock mock;
	struct device_rig rig;
	uint64_t features;

	begin(&rig, &mock);
	realize(&rig, &mock);
	rig_start(&rig, QUEUES);
	features = mock.features;
	mock.features &= ~VUBLK_BIT(VIRTIO_BLK_F_FLUSH);
	mock_connect(&mock, path); /* first hangs up the old connection */
	rig_wait(&rig, RIG_LOST, 1);
	expect_waiting(&rig, VUBLK_DEVICE_LOST);
	assert_non_null(strstr(rig.last_line, "does not offer VIRTIO_BLK_F_FLUSH (bit 9)"));
	mock.features = features;
	mock_connect(&mock, path);
	rig_wait(&rig, RIG_STARTED, 2);
	rig_end(&rig, &mock);
}

/* A second back-end waits in the backlog until the device has lost the first. */
static void test_a_second_back_end(void **state)
{
	struct mock first, second;
	struct device_rig rig;

	begin(&rig, &first);
	realize(&rig, &first);
	rig_start(&rig, QUEUES);
	mock_die(&first);
	mock_init(&second);
	mock_connect(&second, path);
	rig.pump_opaque = &second;
	rig_wait(&rig, RIG_STARTED, 2);
	mock_connect(&first, path);
	mock_forget(&first);
	rig.pump_opaque = &first;
	expect_waiting(&rig, VUBLK_DEVICE_RUNNING);
	assert_int_equal(first.num_log, 0);
	mock_hang_up(&second);
	rig_wait(&rig, RIG_STARTED, 3);
	mock_deinit(&second);
	rig_end(&rig, &first);
}

static void test_giving_up(void **state)
{
	struct mock mock;
	struct device_rig rig;

	begin(&rig, &mock);
	rig_set(&rig, "reconnect-deadline-ms", "30");
	realize(&rig, &mock);
	rig_start(&rig, QUEUES);
	mock_hang_up(&mock);
	rig_wait(&rig, RIG_GAVE_UP, 1);
	assert_non_null(strstr(rig.errors[RIG_GAVE_UP].text,
			       "the device gave up reconnecting after 30 ms: no back-end has connected"));
	mock_connect(&mock, path);
	expect_waiting(&rig, VUBLK_DEVICE_LOST);
	vublk_device_unrealize(rig.device);
	assert_int_equal(access(path, F_OK), -1);
	rig_end(&rig, &mock);
}

/* The deadline of the outage does not apply during a handshake, which has its own deadline. */
static void test_deadline_during_a_handshake(void **state)
{
	struct mock mock;
	struct device_rig rig;

	begin(&rig, &mock);
	rig_set(&rig, "reconnect-deadline-ms", "50");
	realize(&rig, &mock);
	mock_connect(&mock, path);
	vublk_device_process(rig.device);
	while (vublk_device_state(rig.device) != VUBLK_DEVICE_RECONNECTING)
		vublk_device_process(rig.device);
	assert_null(rig.device->connect_timer.loop);
	rig_wait(&rig, RIG_RECONNECTED, 1);
	rig_end(&rig, &mock);
}

/* --- no descriptors -------------------------------------------------------------------------- */

/* Without a free descriptor, a connection waits until there is one. */
static void test_no_descriptors(void **state)
{
	struct rlimit limit, before;
	struct mock mock;
	struct device_rig rig;

	begin(&rig, &mock);
	begin_realize(&rig);
	mock_connect(&mock, path);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	limit = before;
	limit.rlim_cur = 3;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(vublk_device_process(rig.device), 0);
	expect_waiting(&rig, VUBLK_DEVICE_REALIZING);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	assert_non_null(strstr(rig.last_line, "back-ends cannot connect to '"));
	rig_wait(&rig, RIG_REALIZED, 1);
	assert_int_equal(rig.errors[RIG_REALIZED].code, 0);
	rig_end(&rig, &mock);
}

/* --- a real back-end ------------------------------------------------------------------------------- */

static void test_vublk_serve_connects(void **state)
{
	char data[512], disk[256];
	struct mock mock;
	struct device_rig rig;
	int fd;

	begin(&rig, &mock);
	snprintf(disk, sizeof(disk), "%s/disk", vublk_test_folder());
	fd = open(disk, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	close(fd);
	begin_realize(&rig);
	for (unsigned i = 1; i <= 5; i++) {
		/* The back-end gets a socket that is already connected to the device. */
		pid_t pid = serve_start(vublk_socket_connect(path, NULL), disk, QUEUES);

		if (i == 1) {
			rig_wait(&rig, RIG_REALIZED, 1);
			rig_start(&rig, QUEUES);
		}
		rig_wait(&rig, RIG_STARTED, i);
		if (i > 1) {
			assert_int_equal(rig_request(&rig, i % 2, VIRTIO_BLK_T_IN, i - 1, data, 512),
					 0);
			assert_int_equal(data[0], (char)(i - 1));
		}
		memset(data, (int)i, sizeof(data));
		assert_int_equal(rig_request(&rig, 0, VIRTIO_BLK_T_OUT, i, data, 512), 0);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		rig_wait(&rig, RIG_LOST, i);
	}
	rig_end(&rig, &mock);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_a_back_end_connects),
		VUBLK_TEST(test_unrealize_while_waiting),
		VUBLK_TEST(test_the_path),
		VUBLK_TEST(test_wrong_back_ends),
		VUBLK_TEST(test_the_next_back_end),
		VUBLK_TEST(test_a_smaller_offer),
		VUBLK_TEST(test_a_second_back_end),
		VUBLK_TEST(test_giving_up),
		VUBLK_TEST(test_deadline_during_a_handshake),
		VUBLK_TEST(test_no_descriptors),
		VUBLK_TEST(test_vublk_serve_connects),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
