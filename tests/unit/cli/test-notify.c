/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tests of the environment of a supervised process: NOTIFY_SOCKET, WATCHDOG_USEC and LISTEN_FDS. */
#include "harness.h"

#include "cli/activation.h"
#include "cli/control/report.h"
#include "cli/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define NAME "vublk-test-notify"

/* Returns a socket with an abstract name of this process, which is stored in `text` with an '@'. */
static int new_receiver(char text[64])
{
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	assert_true(fd >= 0);
	snprintf(text, 64, "@" NAME "-%d", getpid());
	memcpy(address.sun_path + 1, text + 1, strlen(text) - 1);
	assert_int_equal(bind(fd, (struct sockaddr *)&address,
			      offsetof(struct sockaddr_un, sun_path) + strlen(text)), 0);
	return fd;
}

static void check_watchdog(const char *usec, const char *pid, uint64_t expected_ns)
{
	struct vublk_notify notify;

	setenv("NOTIFY_SOCKET", "@" NAME, 1);
	setenv("WATCHDOG_USEC", usec, 1);
	if (pid)
		setenv("WATCHDOG_PID", pid, 1);
	vublk_notify_open(&notify);
	assert_true(notify.fd >= 0);
	assert_int_equal(notify.watchdog_ns, expected_ns);
	assert_null(getenv("NOTIFY_SOCKET"));
	assert_null(getenv("WATCHDOG_USEC"));
	assert_null(getenv("WATCHDOG_PID"));
	vublk_notify_close(&notify);
}

static void test_watchdog(void **state)
{
	char pid[16];

	snprintf(pid, sizeof(pid), "%d", getpid());
	check_watchdog("30000000", pid, 30000000000);
	check_watchdog("1", NULL, 1000);
	check_watchdog("30000000", "1", 0);
	check_watchdog("30000000", "x", 0);
	check_watchdog("30000000", "", 0);
	check_watchdog("0", NULL, 0);
	check_watchdog("-1", NULL, 0);
	check_watchdog("1s", NULL, 0);
	check_watchdog("18446744073709551615", NULL, 0);
}

static void check_no_address(const char *address)
{
	struct vublk_notify notify;

	if (address)
		setenv("NOTIFY_SOCKET", address, 1);
	setenv("WATCHDOG_USEC", "1000", 1);
	vublk_notify_open(&notify);
	assert_int_equal(notify.fd, -1);
	assert_int_equal(notify.watchdog_ns, 0);
	assert_int_equal(vublk_notify_send(&notify, "READY=1"), 0);
	vublk_notify_close(&notify);
}

static void test_no_address(void **state)
{
	char text[200];

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	check_no_address(text); /* relative */
	text[0] = '/';
	check_no_address(text); /* too long */
	check_no_address("/");
	check_no_address("@");
	check_no_address("");
	check_no_address(NULL);
}

/* A message arrives as it was sent. A full queue, or no receiver, is an errno and no wait. */
static void test_send(void **state)
{
	struct vublk_notify notify;
	char name[64], text[64] = "";
	int receiver = new_receiver(name), r;

	setenv("NOTIFY_SOCKET", name, 1);
	vublk_notify_open(&notify);
	assert_int_equal(vublk_notify_send(&notify, "READY=1\nSTATUS=x"), 0);
	assert_int_equal(recv(receiver, text, sizeof(text), 0), strlen("READY=1\nSTATUS=x"));
	assert_string_equal(text, "READY=1\nSTATUS=x");
	do
		r = vublk_notify_send(&notify, "STATUS=x");
	while (!r);
	assert_int_equal(r, -EAGAIN);
	close(receiver);
	assert_int_equal(vublk_notify_send(&notify, "STATUS=x"), -ECONNREFUSED);
	vublk_notify_close(&notify);
}

/* --- the watchdog -------------------------------------------------------------------------- */

static int process(void *owner, struct vublk_error *error)
{
	return 1;
}

static enum vublk_service_phase get_status(void *owner, char *text, size_t bytes)
{
	snprintf(text, bytes, "Ready");
	return VUBLK_SERVICE_READY;
}

/* WATCHDOG=1 that did not fit into the supervisor's queue is sent again long before the period ends. */
static void test_full_queue(void **state)
{
	const struct vublk_service service = { .process = process, .get_status = get_status };
	struct vublk_error error = { 0 };
	struct vublk_notify notify;
	struct vublk_report report;
	char name[64];
	int receiver = new_receiver(name);

	setenv("NOTIFY_SOCKET", name, 1);
	setenv("WATCHDOG_USEC", "3600000000", 1);
	vublk_notify_open(&notify);
	vublk_report_init(&report, &service, &notify);
	while (!vublk_notify_send(&notify, "FILLER=1"))
		;
	assert_int_equal(vublk_report_process(&report, &error), 1);
	report.retry_ns = 0; /* of the status */
	assert_in_range(vublk_report_timeout_ms(&report), 0, 1000);
	close(receiver);
	vublk_notify_close(&notify);
}

/* --- LISTEN_FDS -------------------------------------------------------------------------- */

static int take(const char *pid, const char *fds, struct vublk_activation *activation,
		struct vublk_error *error)
{
	char own[16];
	int r;

	snprintf(own, sizeof(own), "%d", getpid());
	setenv("LISTEN_PID", pid ? pid : own, 1);
	setenv("LISTEN_FDS", fds, 1);
	setenv("LISTEN_FDNAMES", "name", 1);
	r = vublk_activation_take(activation, error);
	assert_null(getenv("LISTEN_PID"));
	assert_null(getenv("LISTEN_FDS"));
	assert_null(getenv("LISTEN_FDNAMES"));
	return r;
}

static void test_activation(void **state)
{
	struct vublk_activation activation;
	struct vublk_error error = { 0 };
	int null = open("/dev/null", O_RDONLY);

	assert_int_equal(dup2(null, 3), 3);
	assert_int_equal(take(NULL, "1", &activation, &error), 0);
	assert_int_equal(activation.fd, 3);
	assert_int_equal(fcntl(3, F_GETFD), FD_CLOEXEC);
	assert_int_equal(take(NULL, "2", &activation, &error), -EINVAL);
	assert_non_null(strstr(error.text, "passes 2 sockets (name)"));
	assert_int_equal(activation.fd, -1);
	assert_int_equal(take(NULL, "one", &activation, &error), -EINVAL);
	assert_int_equal(take("1", "2", &activation, &error), 0);
	assert_int_equal(activation.fd, -1);
	assert_int_equal(take("x", "2", &activation, &error), 0);
	close(3);
	if (null != 3)
		close(null);
	assert_int_equal(take(NULL, "1", &activation, &error), -EINVAL);
	assert_non_null(strstr(error.text, "not open"));
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_watchdog),
		VUBLK_TEST(test_no_address),
		VUBLK_TEST(test_send),
		VUBLK_TEST(test_full_queue),
		VUBLK_TEST(test_activation),
	};

	return vublk_test_main(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
