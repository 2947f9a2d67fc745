/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tests of a back-end that hangs. No call to the device waits for it. The device continues when the
 * back-end does. An unanswered message ends the connection at the deadline. The back-end is a
 * `vublk serve` stopped by a signal, or a mock.
 *
 * Key idea: the test detects a waiting call without measuring time. Only the test's own thread can
 * make the back-end continue. So a call that waited for the stopped back-end would never return,
 * and the case would exceed its time limit.
 */
#include "harness.h"

#include "mock/device-rig.h"
#include "mock/serve.h"

#include "device/device.h"
#include "util/checked.h"
#include "util/fd.h"
#include "util/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define QUEUES 2
#define TIME_LIMIT_NS (UINT64_C(20) * 1000000000)

static void turn(struct device_rig *rig)
{
	struct pollfd fd = { vublk_device_fd(rig->device), POLLIN, 0 };

	if (poll(&fd, 1, 10) == 1)
		assert_int_equal(vublk_device_process(rig->device), 0);
}

/* Runs the loop until `callback` has been called `calls` times. Fails after a deadline. */
static void turn_until(struct device_rig *rig, enum rig_callback callback, unsigned calls)
{
	uint64_t until = vublk_now_ns() + TIME_LIMIT_NS;

	while (rig->calls[callback] < calls) {
		turn(rig);
		if (vublk_now_ns() > until)
			fail_msg("callback %d has come %u times, not %u", callback,
				 rig->calls[callback], calls);
	}
}

/* --- a back-end that is stopped ------------------------------------------------------------------ */

static pid_t begin(struct device_rig *rig, const char *keepalive_ms)
{
	char path[256], disk[256];
	int fd;
	pid_t pid;

	snprintf(path, sizeof(path), "%s/socket", vublk_test_folder());
	snprintf(disk, sizeof(disk), "%s/disk", vublk_test_folder());
	fd = open(disk, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	close(fd);
	pid = serve_start(vublk_socket_listen(path, NULL), disk, QUEUES);
	rig_init(rig, path);
	rig->quiet = true;
	rig_set(rig, "reconnect-ms", "20");
	rig_set(rig, "request-timeout-ms", "3600000");
	rig_set(rig, "keepalive-ms", keepalive_ms);
	rig_realize(rig);
	rig_start(rig, QUEUES);
	return pid;
}

static void end(struct device_rig *rig, pid_t pid)
{
	rig_deinit(rig);
	kill(pid, SIGTERM);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void expect_data(struct device_rig *rig, unsigned queue, uint64_t sector, char byte)
{
	char data[512];

	assert_int_equal(rig_request(rig, queue, VIRTIO_BLK_T_IN, sector, data, 512), 0);
	assert_int_equal(data[0], byte);
	assert_int_equal(data[511], byte);
}

/* Makes the calls that need the back-end while the rings run. No call may wait for it. */
static void make_calls(struct device_rig *rig)
{
	struct vublk_memory_region regions[] = {
		{ RIG_GUEST_ADDR, RIG_MEMORY_BYTES, rig->memfd, 0 },
		{ 0x1000, 0x1000, rig->memfd, 0 },
	};
	uint8_t wce = 0;

	assert_int_equal(vublk_device_set_queue_kick(rig->device, 0, rig->kicks[0], NULL), 1);
	assert_int_equal(vublk_device_set_queue_call(rig->device, 1, rig->callfds[1], NULL),
			 1);
	assert_int_equal(vublk_device_set_memory(rig->device, regions, 2, NULL), 1);
	assert_int_equal(vublk_device_config_write(rig->device, 32, &wce, 1, NULL), 1);
	vublk_device_refresh_config(rig->device);
	assert_int_equal(vublk_device_set_vm_running(rig->device, false), 1);
	assert_int_equal(vublk_device_set_vm_running(rig->device, true), 0);
	assert_int_equal(vublk_device_process(rig->device), 0);
}

/*
 * The back-end continues before the deadline. Requests take longer, and there is no other effect.
 */
static void test_a_short_hang(void **state)
{
	char data[512];
	struct device_rig rig;
	pid_t pid = begin(&rig, "1");

	for (unsigned i = 1; i <= 3; i++) {
		vublk_test_suspend(pid);
		memset(data, (int)i, sizeof(data));
		rig_submit(&rig, 0, VIRTIO_BLK_T_OUT, i, data, 512);
		if (i == 1)
			make_calls(&rig);
		for (unsigned k = 0; k < 20; k++)
			turn(&rig);
		assert_int_equal(vublk_device_state(rig.device), VUBLK_DEVICE_RUNNING);
		kill(pid, SIGCONT);
		assert_int_equal(rig_finish(&rig, 0), 0);
		expect_data(&rig, 1, i, (char)i);
	}
	turn_until(&rig, RIG_CONFIG_WRITTEN, 1);
	turn_until(&rig, RIG_MEMORY_CHANGED, 1);
	assert_int_equal(rig.errors[RIG_MEMORY_CHANGED].code, 0);
	assert_int_equal(rig.calls[RIG_LOST], 0);
	end(&rig, pid);
}

/*
 * The back-end hangs beyond the deadline, which ends the connection. New connections get no answer
 * until the back-end continues. Then the device reconnects. `ask`: a message is unanswered, so the
 * deadline does not depend on the keepalive.
 */
static void hang_long(const char *keepalive_ms, bool ask)
{
	char data[512];
	struct device_rig rig;
	pid_t pid = begin(&rig, keepalive_ms);

	for (unsigned i = 1; i <= 2; i++) {
		unsigned started, disconnected = rig.calls[RIG_LOST];

		vublk_test_suspend(pid);
		rig.device->frontend.timeout_ms = 300; /* applies to this connection only */
		memset(data, (int)i, sizeof(data));
		rig_submit(&rig, 0, VIRTIO_BLK_T_OUT, i, data, 512);
		if (ask)
			vublk_device_refresh_config(rig.device);
		turn_until(&rig, RIG_LOST, disconnected + 1);
		assert_int_equal(rig.errors[RIG_LOST].code, ETIMEDOUT);
		started = rig.calls[RIG_STARTED];
		for (unsigned k = 0; k < 20; k++)
			turn(&rig);
		assert_int_equal(rig.calls[RIG_STARTED], started);
		kill(pid, SIGCONT);
		turn_until(&rig, RIG_STARTED, started + 1);
		assert_int_equal(rig_finish(&rig, 0), 0);
		expect_data(&rig, 1, i, (char)i);
	}
	assert_int_equal(rig.calls[RIG_NEEDS_RESET], 0);
	end(&rig, pid);
}

static void test_a_hang_during_a_question(void **state)
{
	hang_long("0", true);
}

static void test_a_hang_of_rings_only(void **state)
{
	hang_long("20", false);
}

/*
 * The time limit for an answer starts at the previous answer, so the device does not lose a slow
 * back-end just because many messages are outstanding.
 */
static void test_slow_answers(void **state)
{
	struct vublk_frontend *frontend;
	struct mock mock;
	struct device_rig rig;

	rig_begin(&rig, &mock, "0");
	rig.pump = NULL;
	frontend = &rig.device->frontend;
	for (unsigned i = 0; i < 3; i++)
		vublk_frontend_ping(frontend);
	for (unsigned i = 0; i < 2; i++) {
		uint64_t answers = frontend->num_answers, sent_ns = vublk_now_ns();

		while (!mock_pump_once(&mock))
			;
		while (frontend->num_answers == answers)
			rig_turn(&rig, 100);
		assert_true(frontend->deadline.deadline_ns >=
			    sent_ns + frontend->timeout_ms * UINT64_C(1000000));
	}
	rig.pump = mock_pump;
	rig_end(&rig, &mock);
}

/*
 * To move requests to shadow rings, the device gives the back-end other kick descriptors. The
 * answers take longer than request-timeout-ms in total, but the requests are moved nevertheless.
 */
static void test_slow_answers_in_an_exchange(void **state)
{
	struct vublk_device_exchange *exchange;
	struct vublk_shadow_info info;
	struct device_rig rig;
	struct mock mock;

	rig_prepare(&rig, &mock, "1");
	rig_set(&rig, "shadow", "off");
	rig_set(&rig, "keepalive-ms", "0");
	mock.keeps_base = true;
	rig_realize(&rig);
	rig_start(&rig, 1);
	exchange = &rig.device->exchange;
	rig.pump = NULL;
	assert_true(vublk_device_set_shadow(rig.device, VUBLK_SHADOW_ON, NULL) >= 0);
	while (!rig.device->num_notifiers)
		rig_turn(&rig, 1);
	exchange->deadline_ns = 0; /* as if request-timeout-ms had passed */
	vublk_loop_timer_arm(&rig.device->loop, &exchange->timer, 0);
	for (unsigned i = 0; i < 5; i++)
		rig_turn(&rig, 1);
	assert_int_equal(exchange->phase, VUBLK_DEVICE_EXCHANGE_PARKING);
	rig.pump = mock_pump;
	do {
		rig_turn(&rig, 1);
		vublk_device_get_shadow(rig.device, &info, sizeof(info));
	} while (info.is_changing);
	assert_true(info.is_shadowed);
	rig_end(&rig, &mock);
}

/* --- keepalive ----------------------------------------------------------------------------------- */

static void test_keepalive(void **state)
{
	struct mock mock;
	struct device_rig rig;

	mock_init(&mock);
	rig_init_with_mock(&rig, &mock);
	rig_set(&rig, "request-timeout-ms", "30");
	rig_set(&rig, "keepalive-ms", "2");
	rig_realize(&rig);
	rig_start(&rig, QUEUES);
	mock_forget(&mock);
	while (mock.received[VUBLK_VU_GET_FEATURES] < 5)
		rig_turn(&rig, 100);
	assert_int_equal(vublk_device_state(rig.device), VUBLK_DEVICE_RUNNING);
	rig_stop(&rig);
	assert_true(vublk_frontend_is_idle(&rig.device->frontend));
	rig_start(&rig, QUEUES);
	rig.pump = NULL;
	rig_wait(&rig, RIG_LOST, 1);
	assert_int_equal(rig.errors[RIG_LOST].code, ETIMEDOUT);
	assert_non_null(strstr(rig.errors[RIG_LOST].text,
			       "the back-end did not answer GET_FEATURES within 30 ms"));
	rig_end(&rig, &mock);
}

/*
 * The keepalive timer runs only while the rings run. keepalive-ms 0 disables it, and "auto" does so
 * if reconnect-ms is 0.
 */
static void test_keepalive_timer(void **state)
{
	const struct { const char *reconnect_ms, *keepalive_ms; bool is_asked; } cases[] = {
		{ "0", "auto", false }, { "10", "auto", true }, { "10", "0", false },
		{ "0", "10", true },
	};

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		struct mock mock;
		struct device_rig rig;

		mock_init(&mock);
		rig_init_with_mock(&rig, &mock);
		rig_set(&rig, "reconnect-ms", cases[i].reconnect_ms);
		rig_set(&rig, "keepalive-ms", cases[i].keepalive_ms);
		rig_realize(&rig);
		assert_null(rig.device->keepalive_timer.loop);
		rig_start(&rig, QUEUES);
		assert_int_equal(rig.device->keepalive_timer.loop != NULL, cases[i].is_asked);
		rig_end(&rig, &mock);
	}
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_a_short_hang),
		VUBLK_TEST(test_a_hang_during_a_question),
		VUBLK_TEST(test_a_hang_of_rings_only),
		VUBLK_TEST(test_slow_answers),
		VUBLK_TEST(test_slow_answers_in_an_exchange),
		VUBLK_TEST(test_keepalive),
		VUBLK_TEST(test_keepalive_timer),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
