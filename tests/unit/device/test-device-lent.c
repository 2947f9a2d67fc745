/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A device that uses a connection lent to it by the bus, instead of connecting to chardev itself.
 *
 * Key idea: the mock listens, and the case connects to it. The mock's number of connections shows
 * whether the device has also connected to chardev.
 */
#include "harness.h"

#include "mock/device-rig.h"

#include "util/checked.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int connect_to(const struct mock *mock)
{
	int fd = vublk_socket_connect(mock->path, NULL);

	assert_true(fd >= 0);
	return fd;
}

/* The device duplicates the lent descriptor, and always closes the duplicate. */
static void test_lent_connection(void **state)
{
	struct mock mock;
	struct device_rig rig;
	int fd;

	rig_prepare(&rig, &mock, NULL);
	rig_set(&rig, "chardev", "the connection");
	fd = connect_to(&mock);
	assert_int_equal(vublk_device_lend_connection(rig.device, fd, NULL), 0);
	close(fd);
	rig_realize(&rig);
	assert_int_equal(vublk_device_lend_connection(rig.device, 0, NULL), -EBUSY);
	rig_start(&rig, 1);
	assert_int_equal(mock.num_connections, 1);
	rig_stop(&rig);
	vublk_device_unrealize(rig.device);
	rig_settle(&rig);
	rig_realize_fails(&rig, ENOENT); /* the lent connection was for one realize only */
	fd = connect_to(&mock);
	assert_int_equal(vublk_device_lend_connection(rig.device, fd, NULL), 0);
	assert_int_equal(vublk_device_lend_connection(rig.device, fd, NULL), 0);
	close(fd);
	rig_end(&rig, &mock); /* also closes the unused lent connection */
}

static void test_lent_connection_that_breaks(void **state)
{
	struct mock mock;
	struct device_rig rig;
	int fd;

	rig_prepare(&rig, &mock, NULL);
	rig_set(&rig, "realize-retries", "3");
	fd = connect_to(&mock);
	assert_int_equal(vublk_device_lend_connection(rig.device, fd, NULL), 0);
	close(fd);
	mock.close_first = 1;
	rig_realize_fails(&rig, ENOTCONN);
	assert_int_equal(rig.num_failed_tries, 1); /* the device makes no second attempt */
	assert_int_equal(mock.num_connections, 1);
	rig_end(&rig, &mock);
}

static void expect_refused(struct device_rig *rig, int fd, int code, const char *words)
{
	struct vublk_error error = { 0 };

	assert_int_equal(vublk_device_lend_connection(rig->device, fd, &error), -code);
	assert_non_null(strstr(error.text, words));
	if (fd >= 0)
		close(fd);
}

static void test_descriptors_that_cannot_be_lent(void **state)
{
	struct device_rig rig;
	int pair[2];

	rig_init(&rig, "nothing");
	expect_refused(&rig, -1, EINVAL, "cannot use descriptor -1: ");
	expect_refused(&rig, open("/dev/null", O_RDWR | O_CLOEXEC), ENOTSOCK, "is not a socket; ");
	expect_refused(&rig, socket(AF_UNIX, SOCK_STREAM, 0), ENOTCONN, "is not connected; ");
	expect_refused(&rig, socket(AF_INET, SOCK_STREAM, 0), EINVAL, "is another kind of socket; ");
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	expect_refused(&rig, pair[0], EINVAL, "is another kind of socket; ");
	expect_refused(&rig, pair[1], EINVAL, "is another kind of socket; ");
	rig_deinit(&rig);
}

static void test_lent_connection_cannot_reconnect(void **state)
{
	struct vublk_error error = { 0 };
	struct device_rig rig;
	int pair[2];

	rig_init(&rig, "nothing");
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	assert_int_equal(vublk_device_lend_connection(rig.device, pair[0], NULL), 0);
	rig_set(&rig, "reconnect-ms", "1000");
	assert_int_equal(vublk_device_realize(rig.device, &error), -EINVAL);
	assert_non_null(strstr(error.text, "set reconnect-ms=0 and server=off"));
	close(pair[0]);
	close(pair[1]);
	rig_deinit(&rig);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_lent_connection),
		VUBLK_TEST(test_lent_connection_that_breaks),
		VUBLK_TEST(test_descriptors_that_cannot_be_lent),
		VUBLK_TEST(test_lent_connection_cannot_reconnect),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
