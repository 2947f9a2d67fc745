/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tests of several socket paths, and of the process behind each: where the device looks for a
 * back-end after a loss, and when it must stay at its path. tests/peers/failover.py uses real
 * back-ends.
 *
 * Key idea: the kernel reports the process that called listen() as a connection's peer. A mock is
 * in the test's own process. So a child calls listen() for the mock, and the end of the child
 * stands for the end of the back-end.
 */
#include "harness.h"

#include "mock/device-rig.h"

#include "util/checked.h"
#include "util/loop.h"

#include <vublk/paths.h>

#include <endian.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

#define LIMIT_NS (UINT64_C(20) * 1000000000)

/* the errno with which getsockopt(SO_PEERPIDFD) fails; 0: the kernel handles the call */
static int refusal;
static bool hides_pid;

int __real_getsockopt(int fd, int level, int name, void *value, socklen_t *bytes);
int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *bytes);

int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *bytes)
{
	int r;

	if (refusal && level == SOL_SOCKET && name == SO_PEERPIDFD) {
		errno = refusal;
		return -1;
	}
	r = __real_getsockopt(fd, level, name, value, bytes);
	if (!r && hides_pid && level == SOL_SOCKET && name == SO_PEERCRED)
		((struct ucred *)value)->pid = 0;
	return r;
}

/* --- two mocks ------------------------------------------------------------------------ */

struct pair {
	struct device_rig rig;
	struct mock a, b;
};

static bool pump(void *opaque)
{
	struct pair *pair = opaque;
	bool worked = mock_pump(&pair->a);

	return mock_pump(&pair->b) || worked;
}

static void begin(struct pair *pair)
{
	mock_init_with_suffix(&pair->b, "-b");
	mock_init(&pair->a);
	rig_init_with_mock(&pair->rig, &pair->a);
	pair->rig.pump = pump;
	pair->rig.pump_opaque = pair;
	rig_set(&pair->rig, "reconnect-ms", "5");
	rig_set(&pair->rig, "chardev-2", pair->b.path);
	rig_set(&pair->rig, "failover-ms", "0");
}

static void end(struct pair *pair)
{
	mock_deinit(&pair->b);
	rig_end(&pair->rig, &pair->a);
}

static pid_t listen_in_child(struct mock *mock)
{
	int ready[2];
	char byte;
	pid_t pid;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	if (!pid) {
		if (listen(mock->listen_fd, 8) < 0 || write(ready[1], "", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	close(ready[1]);
	return pid;
}

static void end_child(pid_t pid)
{
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void run_until_logged(struct pair *pair, const char *words)
{
	uint64_t end_ns = vublk_now_ns() + LIMIT_NS;

	while (!strstr(pair->rig.last_line, words)) {
		if (vublk_now_ns() > end_ns)
			fail_msg("the log does not say '%s': %s", words, pair->rig.last_line);
		rig_turn(&pair->rig, 1000);
	}
}

static unsigned active_path(const struct pair *pair)
{
	struct vublk_device_path_info info;

	for (unsigned i = 0; i < vublk_device_num_paths(pair->rig.device); i++) {
		assert_int_equal(vublk_device_get_path(pair->rig.device, i, &info, sizeof(info)), 0);
		if (info.is_active)
			return i;
	}
	fail_msg("no path is active");
	return 0;
}

/* --- the fence ------------------------------------------------------------------------ */

/*
 * Checks that the device stays at its path while the process of the lost back-end is alive, and
 * uses the other path when the process has ended. `old_kernel`: the kernel lacks SO_PEERPIDFD.
 */
static void check_fenced(bool old_kernel)
{
	struct pair pair = { 0 };
	pid_t child;

	refusal = old_kernel ? ENOPROTOOPT : 0;
	begin(&pair);
	child = listen_in_child(&pair.a);
	rig_realize(&pair.rig);
	rig_start(&pair.rig, 1);
	mock_die(&pair.a);
	run_until_logged(&pair, "of the previous back-end is alive");
	assert_int_equal(pair.b.num_connections, 0);
	assert_int_equal(active_path(&pair), 0);
	end_child(child);
	rig_wait(&pair.rig, RIG_STARTED, 2);
	assert_int_equal(pair.b.num_connections, 1);
	assert_int_equal(active_path(&pair), 1);
	rig_stop(&pair.rig);
	end(&pair);
	refusal = 0;
}

static void test_the_process_has_to_end(void **state)
{
	check_fenced(false);
}

static void test_an_old_kernel(void **state)
{
	check_fenced(true);
}

/*
 * Checks that the device continues only at the same path, because it does not know the process of
 * the lost back-end. `why` is the reason in the log.
 */
static void check_unknown(struct pair *pair, const char *why)
{
	rig_realize(&pair->rig);
	rig_start(&pair->rig, 1);
	mock_die(&pair->a);
	run_until_logged(pair, "the process of the previous back-end cannot be found");
	if (!strstr(pair->rig.last_line, why))
		fail_msg("the log does not say '%s': %s", why, pair->rig.last_line);
	mock_live_again(&pair->a);
	rig_wait(&pair->rig, RIG_STARTED, 2);
	assert_int_equal(pair->b.num_connections, 0);
	rig_stop(&pair->rig);
	end(pair);
}

/*
 * The process that called listen() has ended before the loss, as with a daemon that listens and
 * then forks.
 */
static void test_the_listener_has_ended_before(void **state)
{
	struct pair pair = { 0 };

	begin(&pair);
	end_child(listen_in_child(&pair.a));
	check_unknown(&pair, "has ended, and another one serves it");
}

/*
 * The process that called listen() has ended, but another process holds the connection, as after an
 * upgrade of the back-end. That process hangs, and may still write to the disk.
 */
static void test_the_connection_was_handed_over(void **state)
{
	struct pair pair = { 0 };
	pid_t child;

	begin(&pair);
	rig_set(&pair.rig, "request-timeout-ms", "50");
	rig_set(&pair.rig, "keepalive-ms", "10");
	child = listen_in_child(&pair.a);
	rig_realize(&pair.rig);
	rig_start(&pair.rig, 1);
	end_child(child);
	assert_int_equal(unlink(pair.a.path), 0); /* so the device cannot reconnect */
	pair.a.silent = true;
	run_until_logged(&pair, "the process of the previous back-end cannot be found");
	assert_non_null(strstr(pair.rig.last_line, "has handed the connection to another one"));
	assert_int_equal(pair.b.num_connections, 0);
	pair.a.silent = false;
	mock_die(&pair.a);
	mock_live_again(&pair.a);
	rig_wait(&pair.rig, RIG_STARTED, 2);
	assert_int_equal(pair.b.num_connections, 0);
	rig_stop(&pair.rig);
	end(&pair);
}

static void test_another_pid_namespace_on_an_old_kernel(void **state)
{
	struct pair pair = { 0 };

	refusal = ENOPROTOOPT;
	hides_pid = true;
	begin(&pair);
	check_unknown(&pair, "in another PID namespace");
	refusal = 0;
	hides_pid = false;
}

/*
 * On a new kernel, the device gets a pidfd for a process in another PID namespace, and waits for
 * the end of that process.
 */
static void test_another_pid_namespace(void **state)
{
	struct pair pair = { 0 };
	pid_t child;

	hides_pid = true;
	begin(&pair);
	child = listen_in_child(&pair.a);
	rig_realize(&pair.rig);
	rig_start(&pair.rig, 1);
	mock_die(&pair.a);
	run_until_logged(&pair, "in another PID namespace, is alive");
	end_child(child);
	rig_wait(&pair.rig, RIG_STARTED, 2);
	assert_int_equal(active_path(&pair), 1);
	rig_stop(&pair.rig);
	end(&pair);
	hides_pid = false;
}

/* --- fence=exit ------------------------------------------------------------------------- */

/*
 * There is only one path. The back-end hangs. The device connects again only after the back-end's
 * process has ended.
 */
static void test_a_hung_process_has_to_end(void **state)
{
	struct pair pair = { 0 };
	pid_t child;

	begin(&pair);
	rig_set(&pair.rig, "chardev-2", "");
	rig_set(&pair.rig, "fence", "exit");
	rig_set(&pair.rig, "request-timeout-ms", "50");
	rig_set(&pair.rig, "keepalive-ms", "10");
	child = listen_in_child(&pair.a);
	rig_realize(&pair.rig);
	rig_start(&pair.rig, 1);
	pair.a.silent = true;
	run_until_logged(&pair, "cannot reconnect yet: process ");
	pair.a.silent = false;
	for (unsigned i = 0; i < 20; i++) /* each try fails before it connects */
		rig_turn(&pair.rig, 10);
	assert_int_equal(pair.a.num_connections, 1);
	end_child(child);
	rig_wait(&pair.rig, RIG_STARTED, 2);
	rig_stop(&pair.rig);
	end(&pair);
}

/* A process that closed the connection itself may serve the disk again. */
static void test_a_process_that_hung_up(void **state)
{
	struct pair pair = { 0 };

	begin(&pair);
	rig_set(&pair.rig, "chardev-2", "");
	rig_set(&pair.rig, "fence", "exit");
	rig_realize(&pair.rig);
	rig_start(&pair.rig, 1);
	mock_hang_up(&pair.a);
	rig_wait(&pair.rig, RIG_STARTED, 2);
	rig_stop(&pair.rig);
	end(&pair);
}

/*
 * A process closes its connection but stays alive, and another process replaces it at the same
 * path. After the loss of the second process, the disk continues at path B only when both processes
 * have ended, in either order.
 */
static void check_two_owners(bool first_ends_first)
{
	struct pair pair = { 0 };
	pid_t children[2];

	begin(&pair);
	rig_set(&pair.rig, "fence", "exit");
	children[0] = listen_in_child(&pair.a);
	rig_realize(&pair.rig);
	rig_start(&pair.rig, 1);
	mock_hang_up(&pair.a); /* the process of this back-end may serve the disk again */
	rig_wait(&pair.rig, RIG_STARTED, 2);
	mock_die(&pair.a);
	mock_live_again(&pair.a); /* another process may serve it now */
	children[1] = listen_in_child(&pair.a);
	rig_wait(&pair.rig, RIG_STARTED, 3);
	mock_die(&pair.a);
	end_child(children[!first_ends_first]);
	run_until_logged(&pair, first_ends_first ?
			 "of the previous back-end is alive" : "of an earlier back-end is alive");
	assert_int_equal(pair.b.num_connections, 0);
	end_child(children[first_ends_first]);
	rig_wait(&pair.rig, RIG_STARTED, 4);
	assert_int_equal(active_path(&pair), 1);
	rig_stop(&pair.rig);
	end(&pair);
}

static void test_two_processes_have_to_end(void **state)
{
	check_two_owners(false);
	check_two_owners(true);
}

/* --- the order ------------------------------------------------------------------------ */

/*
 * No back-end has had the rings, so the device does not wait for a process to end. It uses path B
 * after the loss of A, and path A after the loss of B.
 */
static void test_in_turn(void **state)
{
	struct pair pair = { 0 };

	begin(&pair);
	rig_realize(&pair.rig);
	mock_die(&pair.a);
	rig_wait(&pair.rig, RIG_RECONNECTED, 1);
	assert_int_equal(active_path(&pair), 1);
	mock_live_again(&pair.a);
	rig_settle(&pair.rig);
	assert_int_equal(active_path(&pair), 1); /* the device stays at path B */
	mock_die(&pair.b);
	rig_wait(&pair.rig, RIG_RECONNECTED, 2);
	assert_int_equal(active_path(&pair), 0);
	end(&pair);
}

static void set_sectors(struct mock *mock, uint64_t sectors)
{
	((struct virtio_blk_config *)mock->config)->capacity = htole64(sectors);
}

/*
 * The device refuses a smaller disk at another path, and continues when its own path has a back-end
 * again.
 */
static void test_sizes(void **state)
{
	struct pair pair = { 0 };
	uint64_t sectors;

	begin(&pair);
	rig_realize(&pair.rig);
	set_sectors(&pair.a, 2048);
	set_sectors(&pair.b, 1024);
	mock_hang_up(&pair.a);
	rig_wait(&pair.rig, RIG_RECONNECTED, 1);
	mock_die(&pair.a);
	run_until_logged(&pair, "the back-end has 1024 sectors, but the disk had 2048");
	set_sectors(&pair.a, 4096);
	mock_live_again(&pair.a);
	rig_wait(&pair.rig, RIG_RECONNECTED, 2);
	vublk_device_config_read(pair.rig.device, 0, &sectors, sizeof(sectors));
	assert_int_equal(le64toh(sectors), 4096);
	end(&pair);
}

/* --- switch ---------------------------------------------------------------------------- */

static void expect_switch_failed(struct pair *pair, int code, const char *words)
{
	struct vublk_device_switch_info info;

	vublk_device_get_switch(pair->rig.device, &info, sizeof(info));
	assert_false(info.is_under_way);
	assert_int_equal(info.code, code);
	if (!strstr(info.reason, words))
		fail_msg("the reason is not '%s': %s", words, info.reason);
}

static void expect_switch_under_way(struct pair *pair, uint64_t number)
{
	struct vublk_device_switch_info info;

	vublk_device_get_switch(pair->rig.device, &info, sizeof(info));
	assert_true(info.is_under_way);
	assert_int_equal(info.code, 0);
	assert_int_equal(info.number, number);
}

/*
 * Starts a device with shadow rings. The mocks complete no request, so a switch of the path
 * succeeds only if the back-ends lack FLUSH. Otherwise the switch waits for the flush.
 */
static void begin_switch(struct pair *pair, bool has_flush)
{
	begin(pair);
	rig_set(&pair->rig, "shadow", "on");
	rig_set(&pair->rig, "failover-ms", "3600000");
	if (!has_flush) {
		pair->a.features &= ~VUBLK_BIT(VIRTIO_BLK_F_FLUSH);
		pair->b.features &= ~VUBLK_BIT(VIRTIO_BLK_F_FLUSH);
	}
	rig_realize(&pair->rig);
	rig_start(&pair->rig, 1);
}

static void finish_at(struct pair *pair, unsigned index, unsigned started)
{
	rig_wait(&pair->rig, RIG_STARTED, started);
	assert_int_equal(active_path(pair), index);
	assert_int_equal(pair->rig.calls[RIG_STOPPED], 0);
	assert_int_equal(pair->rig.calls[RIG_NEEDS_RESET], 0);
	rig_stop(&pair->rig);
	end(pair);
}

static void test_switch(void **state)
{
	struct vublk_device_switch_info info;
	struct pair pair = { 0 };

	begin_switch(&pair, false);
	assert_int_equal(vublk_device_switch(pair.rig.device, pair.a.path, NULL), 0);
	assert_int_equal(vublk_device_switch(pair.rig.device, pair.b.path, NULL), 1);
	assert_int_equal(vublk_device_switch(pair.rig.device, pair.b.path, NULL), -EBUSY);
	rig_wait(&pair.rig, RIG_STARTED, 2);
	assert_int_equal(pair.b.num_connections, 1);
	vublk_device_get_switch(pair.rig.device, &info, sizeof(info));
	assert_true(!info.is_under_way && !info.code && !info.reason[0]);
	finish_at(&pair, 1, 2);
}

static void test_switch_on_the_direct_path(void **state)
{
	struct pair pair = { 0 };

	begin(&pair);
	pair.a.features &= ~VUBLK_BIT(VIRTIO_BLK_F_FLUSH);
	pair.b.features &= ~VUBLK_BIT(VIRTIO_BLK_F_FLUSH);
	rig_realize(&pair.rig);
	rig_start(&pair.rig, 1);
	assert_int_equal(vublk_device_switch(pair.rig.device, pair.b.path, NULL), 1);
	rig_wait(&pair.rig, RIG_STARTED, 4); /* shadow rings, the new back-end, direct again */
	assert_int_equal(pair.b.given_addrs[0].desc_user_addr >> 53, 0);
	finish_at(&pair, 1, 4);
}

/*
 * The new back-end hangs up at a message of the handshake or of the start. The switch fails, and
 * the disk stays at the old path.
 */
static void test_the_new_back_end_hangs_up(void **state)
{
	const uint32_t requests[] = { VUBLK_VU_GET_FEATURES, VUBLK_VU_GET_CONFIG, VUBLK_VU_ADD_MEM_REG,
				      VUBLK_VU_SET_VRING_ADDR, VUBLK_VU_SET_VRING_KICK,
				      VUBLK_VU_SET_VRING_ENABLE };

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(requests); i++) {
		struct pair pair = { 0 };

		begin_switch(&pair, false);
		pair.b.fault = (struct mock_fault){ .kind = MOCK_CUT, .request = requests[i] };
		assert_int_equal(vublk_device_switch(pair.rig.device, pair.b.path, NULL), 1);
		rig_wait(&pair.rig, RIG_STARTED, 2);
		expect_switch_failed(&pair, ENOTCONN, "the disk stays at '");
		finish_at(&pair, 0, 2);
	}
}

static void test_the_new_back_end_refuses_the_rings(void **state)
{
	struct pair pair = { 0 };

	begin_switch(&pair, false);
	pair.b.refused_request = VUBLK_VU_SET_VRING_ENABLE;
	assert_int_equal(vublk_device_switch(pair.rig.device, pair.b.path, NULL), 1);
	rig_wait(&pair.rig, RIG_STARTED, 2);
	expect_switch_failed(&pair, EIO, "SET_VRING_ENABLE");
	finish_at(&pair, 0, 2);
}

/*
 * The VM is paused while the old back-end flushes. The switch fails, and the disk stays at the old
 * path.
 */
static void test_a_pause_ends_the_switch(void **state)
{
	struct pair pair = { 0 };

	begin_switch(&pair, true);
	assert_int_equal(vublk_device_switch(pair.rig.device, pair.b.path, NULL), 1);
	rig_settle(&pair.rig);
	rig_pause(&pair.rig);
	expect_switch_failed(&pair, EBUSY, "the rings are being stopped");
	vublk_device_set_vm_running(pair.rig.device, true);
	rig_wait(&pair.rig, RIG_STARTED, 2);
	assert_int_equal(active_path(&pair), 0);
	assert_int_equal(pair.a.num_connections, 1);
	rig_stop(&pair.rig);
	end(&pair);
}

/*
 * The flush takes too long, so the device treats the old back-end as lost. The process of that
 * back-end is alive, so the disk stays at its path.
 */
static void test_a_flush_that_is_not_answered(void **state)
{
	struct pair pair = { 0 };

	begin(&pair);
	rig_set(&pair.rig, "request-timeout-ms", "50");
	rig_set(&pair.rig, "keepalive-ms", "0");
	rig_set(&pair.rig, "shadow", "on");
	rig_realize(&pair.rig);
	rig_start(&pair.rig, 1);
	assert_int_equal(vublk_device_switch(pair.rig.device, pair.b.path, NULL), 1);
	rig_wait(&pair.rig, RIG_STARTED, 2);
	expect_switch_failed(&pair, ETIMEDOUT, "did not complete the final flush of a switch");
	assert_int_equal(active_path(&pair), 0);
	assert_int_equal(pair.b.num_connections, 1); /* closed without a message */
	assert_int_equal(pair.b.num_log, 0);
	rig_stop(&pair.rig);
	end(&pair);
}

/*
 * The old back-end is lost before it has flushed. The switch fails, and the disk stays at the old
 * path.
 */
static void test_the_old_back_end_is_lost(void **state)
{
	struct pair pair = { 0 };

	begin_switch(&pair, true);
	assert_int_equal(vublk_device_switch(pair.rig.device, pair.b.path, NULL), 1);
	rig_settle(&pair.rig);
	mock_hang_up(&pair.a);
	rig_wait(&pair.rig, RIG_STARTED, 2);
	expect_switch_failed(&pair, ENOTCONN, "closed the connection");
	finish_at(&pair, 0, 2);
}

/*
 * The driver sets DRIVER_OK during a switch, so the rings start at the new back-end, without shadow
 * rings. The new back-end hangs once it has the rings. It may still write, so the disk must not
 * return to the old path while the new back-end's process is alive.
 */
static void test_the_new_back_end_has_the_rings(void **state)
{
	struct pair pair = { 0 };
	pid_t child;

	begin(&pair);
	rig_set(&pair.rig, "request-timeout-ms", "50");
	child = listen_in_child(&pair.b);
	pair.b.fault = (struct mock_fault){ .kind = MOCK_SILENCE, .request = VUBLK_VU_SET_VRING_ENABLE };
	rig_realize(&pair.rig);
	rig_set_up(&pair.rig, 1);
	assert_int_equal(vublk_device_switch(pair.rig.device, pair.b.path, NULL), 1);
	assert_int_equal(vublk_device_set_status(pair.rig.device, VIRTIO_CONFIG_S_DRIVER_OK, NULL), 0);
	run_until_logged(&pair, "cannot switch the disk");
	expect_switch_under_way(&pair, 1);
	mock_die(&pair.b);
	run_until_logged(&pair, "of the previous back-end is alive");
	assert_int_equal(active_path(&pair), 1);
	assert_int_equal(pair.a.received[VUBLK_VU_SET_VRING_KICK], 0);
	end_child(child);
	rig_wait(&pair.rig, RIG_STARTED, 1);
	assert_int_equal(active_path(&pair), 0);
	expect_switch_failed(&pair, ETIMEDOUT, "did not answer");
	rig_stop(&pair.rig);
	end(&pair);
}

/*
 * Two callers switch the disk in an outage. The second switch replaces the first. Each caller gets
 * its own result, the second one when the disk is at the new path.
 */
static void test_switches_in_an_outage(void **state)
{
	struct vublk_device_switch_info info;
	struct pair pair = { 0 };

	begin(&pair);
	rig_set(&pair.rig, "failover-ms", "3600000");
	rig_realize(&pair.rig);
	mock_die(&pair.a);
	rig_wait(&pair.rig, RIG_LOST, 1);
	assert_int_equal(vublk_device_switch(pair.rig.device, pair.a.path, NULL), 1);
	expect_switch_under_way(&pair, 1);
	assert_int_equal(vublk_device_switch(pair.rig.device, pair.b.path, NULL), 1);
	expect_switch_under_way(&pair, 2);
	assert_int_equal(vublk_device_get_switch_result(pair.rig.device, 1, &info, sizeof(info)), 0);
	assert_int_equal(info.code, EBUSY);
	assert_string_equal(info.reason, "another switch was requested");
	rig_wait(&pair.rig, RIG_RECONNECTED, 1);
	rig_settle(&pair.rig);
	assert_int_equal(vublk_device_get_switch_result(pair.rig.device, 2, &info, sizeof(info)), 0);
	assert_true(!info.is_under_way && !info.code);
	assert_int_equal(active_path(&pair), 1);
	assert_int_equal(vublk_device_get_switch_result(pair.rig.device, 0, &info, sizeof(info)),
			 -ENOENT);
	assert_int_equal(vublk_device_get_switch_result(pair.rig.device, 3, &info, sizeof(info)),
			 -ENOENT);
	end(&pair);
}

/*
 * No back-end is at the requested path. The switch fails when the device tries the next path, and
 * the result of the switch comes when the disk continues there.
 */
static void test_a_switch_to_an_absent_back_end(void **state)
{
	struct pair pair = { 0 };

	begin(&pair);
	rig_set(&pair.rig, "failover-ms", "20");
	rig_realize(&pair.rig);
	mock_die(&pair.b);
	mock_die(&pair.a);
	rig_wait(&pair.rig, RIG_LOST, 1);
	assert_int_equal(vublk_device_switch(pair.rig.device, pair.b.path, NULL), 1);
	run_until_logged(&pair, "cannot switch the disk");
	expect_switch_under_way(&pair, 1);
	mock_live_again(&pair.a);
	rig_wait(&pair.rig, RIG_RECONNECTED, 1);
	rig_settle(&pair.rig);
	expect_switch_failed(&pair, ENOENT, "the disk stays at '");
	end(&pair);
}

static void test_properties(void **state)
{
	struct vublk_device_path_info info;
	struct pair pair = { 0 };
	struct vublk_error error;

	begin(&pair);
	assert_int_equal(vublk_device_num_paths(pair.rig.device), 2);
	assert_int_equal(vublk_device_get_path(pair.rig.device, 1, &info, sizeof(info)), 0);
	assert_string_equal(info.chardev, pair.b.path);
	assert_int_equal(vublk_device_get_path(pair.rig.device, 2, &info, sizeof(info)), -EINVAL);
	rig_set(&pair.rig, "chardev-4", "/fourth");
	assert_int_equal(vublk_device_realize(pair.rig.device, &error), -EINVAL);
	assert_string_equal(error.text, "chardev-4 is set, but chardev-3 is not; set the paths in "
			    "order");
	rig_set(&pair.rig, "chardev-4", "");
	assert_int_equal(vublk_device_set_property(pair.rig.device, "fence", "maybe", &error), -EINVAL);
	assert_string_equal(error.text, "fence must be none or exit, not 'maybe'");
	rig_realize(&pair.rig);
	end(&pair);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_the_process_has_to_end),
		VUBLK_TEST(test_an_old_kernel),
		VUBLK_TEST(test_the_listener_has_ended_before),
		VUBLK_TEST(test_the_connection_was_handed_over),
		VUBLK_TEST(test_another_pid_namespace_on_an_old_kernel),
		VUBLK_TEST(test_another_pid_namespace),
		VUBLK_TEST(test_a_hung_process_has_to_end),
		VUBLK_TEST(test_a_process_that_hung_up),
		VUBLK_TEST(test_two_processes_have_to_end),
		VUBLK_TEST(test_in_turn),
		VUBLK_TEST(test_sizes),
		VUBLK_TEST(test_switch),
		VUBLK_TEST(test_switch_on_the_direct_path),
		VUBLK_TEST(test_the_new_back_end_hangs_up),
		VUBLK_TEST(test_the_new_back_end_refuses_the_rings),
		VUBLK_TEST(test_a_pause_ends_the_switch),
		VUBLK_TEST(test_a_flush_that_is_not_answered),
		VUBLK_TEST(test_the_old_back_end_is_lost),
		VUBLK_TEST(test_the_new_back_end_has_the_rings),
		VUBLK_TEST(test_switches_in_an_outage),
		VUBLK_TEST(test_a_switch_to_an_absent_back_end),
		VUBLK_TEST(test_properties),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
