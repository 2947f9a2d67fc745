/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The hand-over of a relay to another bus within one process, so that a case controls both ends.
 * tests/peers/upgrade.py tests upgrades of whole programs.
 */
#include "relay-rig.h"

#include "bus/bus.h"
#include "device/device.h"
#include "util/fd.h"

#include <vublk/upgrade.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct taker {
	pthread_t thread;
	int fd;
	struct vublk_bus *bus;
	struct vublk_upgrade_extra extra;
	struct vublk_error error;
	int result;
};

static void *take(void *opaque)
{
	struct taker *taker = opaque;

	taker->result = vublk_bus_take_over(taker->fd, NULL, &taker->bus, &taker->extra,
					    sizeof(taker->extra), &taker->error);
	return NULL;
}

/* Opens a bus with the same back-end as `relay`, and runs the bus until it listens. */
static struct vublk_bus *open_bus(struct relay *relay)
{
	const struct vublk_option options[] = {
		{ "chardev", relay->backend }, { "reconnect-ms", "20" }, { NULL },
	};
	struct vublk_bus_info info = { .state = "" };
	struct vublk_error error;
	struct vublk_bus *bus;
	char spec[200];

	snprintf(spec, sizeof(spec), "vhost-user:%s", relay->socket);
	if (vublk_bus_open(spec, options, NULL, &bus, &error))
		fail_msg("%s", error.text);
	while (strcmp(info.state, "listening")) {
		struct pollfd wait = { .fd = vublk_bus_fd(bus), .events = POLLIN };

		assert_int_equal(poll(&wait, 1, 20000), 1);
		assert_int_equal(vublk_bus_process(bus, &error), 1);
		vublk_bus_get_info(bus, &info, sizeof(info));
	}
	return bus;
}

/* Hands `bus` over, with `extra`, and returns the new bus. The caller frees both. */
static struct vublk_bus *upgrade(struct vublk_bus *bus, const struct vublk_upgrade_extra *extra,
				 struct taker *taker)
{
	struct vublk_error error;
	int ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	assert_int_equal(vublk_bus_hand_over(bus, ends[0], extra, sizeof(*extra), &error), 0);
	*taker = (struct taker){ .fd = ends[1] };
	assert_int_equal(pthread_create(&taker->thread, NULL, take, taker), 0);
	assert_int_equal(vublk_bus_run(bus, &error), 0);
	assert_int_equal(pthread_join(taker->thread, NULL), 0);
	if (taker->result)
		fail_msg("%s", taker->error.text);
	assert_true(vublk_bus_is_handed_over(bus));
	assert_false(vublk_bus_is_handed_over(taker->bus));
	assert_int_equal(vublk_bus_new_process(bus), getpid());
	assert_int_equal(vublk_bus_new_process(taker->bus), 0);
	return taker->bus;
}

/*
 * Begins to hand `bus` over, and then opens a mirror's state file. Checks that the upgrade is
 * refused when the new process is prepared.
 */
static void upgrade_with_mirror_state(struct vublk_bus *bus)
{
	struct vublk_device *device = bus->device;
	struct vublk_error error;
	struct taker taker = { 0 };
	char path[200];
	int ends[2];

	snprintf(path, sizeof(path), "%s/state", vublk_test_folder());
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	assert_int_equal(vublk_bus_hand_over(bus, ends[0], NULL, 0, &error), 0);
	taker.fd = ends[1];
	assert_int_equal(vublk_mirror_state_open(path, &device->mirror_state, NULL), 0);
	assert_int_equal(pthread_create(&taker.thread, NULL, take, &taker), 0);
	while (bus->upgrade.upgrade) {
		struct pollfd wait = { .fd = vublk_bus_fd(bus), .events = POLLIN };

		assert_int_equal(poll(&wait, 1, 20000), 1);
		assert_int_equal(vublk_bus_process(bus, &error), 1);
	}
	assert_int_equal(pthread_join(taker.thread, NULL), 0);
	assert_true(taker.result < 0);
	if (!strstr(taker.error.text, "has the property mirror-state"))
		fail_msg("%s", taker.error.text);
	assert_null(strstr(taker.error.text, "within"));
}

/* Starts the back-end and sets the paths of `relay`, but leaves no bus open. */
static void begin(struct relay *relay)
{
	relay_open(relay, NULL);
	vublk_bus_stop(relay->bus);
	relay_join(relay);
	vublk_bus_free(relay->bus);
	relay->bus = NULL;
}

/* After a hand-over, the new bus refuses a further hand-over until the old bus is freed. */
static void test_while_the_old_one_is_open(void **state)
{
	struct vublk_upgrade_extra none = { .num_fds = 0 };
	struct vublk_bus *old, *new;
	struct vublk_error error;
	struct taker taker;
	struct relay relay;
	int ends[2];

	begin(&relay);
	old = open_bus(&relay);
	new = upgrade(old, &none, &taker);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	assert_int_equal(vublk_bus_hand_over(new, ends[0], &none, sizeof(none), &error), -EBUSY);
	assert_non_null(strstr(error.text, "is under way"));
	vublk_fd_close(&ends[1]);
	vublk_bus_free(old);
	assert_int_equal(access(relay.socket, F_OK), 0); /* the socket belongs to the new bus */
	assert_int_equal(vublk_bus_process(new, &error), 1);
	old = upgrade(new, &none, &taker);
	vublk_bus_free(new);
	vublk_bus_free(old);
	assert_int_equal(access(relay.socket, F_OK), -1);
	relay_close(&relay);
}

/* If the old bus is told to stop after the hand-over, it makes the new bus stop. */
static void test_stop_comes_late(void **state)
{
	struct vublk_upgrade_extra none = { .num_fds = 0 };
	struct vublk_bus *old, *new;
	struct vublk_error error;
	struct taker taker;
	struct relay relay;

	begin(&relay);
	old = open_bus(&relay);
	new = upgrade(old, &none, &taker);
	vublk_bus_stop(old);
	vublk_bus_free(old);
	assert_int_equal(vublk_bus_run(new, &error), 0);
	vublk_bus_free(new);
	assert_int_equal(access(relay.socket, F_OK), -1);
	relay_close(&relay);
}

static void test_extra_state(void **state)
{
	struct vublk_upgrade_extra extra = { .text = "a text", .num_fds = 2 };
	struct vublk_bus *old, *new;
	struct vublk_error error;
	struct taker taker;
	struct relay relay;
	char byte = 'x';
	int ends[2], pair[2];

	begin(&relay);
	old = open_bus(&relay);
	assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
	extra.fds[0] = pair[0];
	extra.fds[1] = pair[1];
	new = upgrade(old, &extra, &taker);
	vublk_bus_free(old);
	vublk_fd_close(&pair[0]);
	vublk_fd_close(&pair[1]);
	assert_string_equal(taker.extra.text, "a text");
	assert_int_equal(taker.extra.num_fds, 2);
	assert_int_equal(write(taker.extra.fds[1], &byte, 1), 1);
	assert_int_equal(read(taker.extra.fds[0], &byte, 1), 1);
	vublk_fd_close(&taker.extra.fds[0]);
	vublk_fd_close(&taker.extra.fds[1]);

	extra.num_fds = VUBLK_UPGRADE_MAX_FDS + 1;
	assert_int_equal(vublk_bus_process(new, &error), 1); /* notices that the old bus was freed */
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	assert_int_equal(vublk_bus_hand_over(new, ends[0], &extra, sizeof(extra), &error), -EINVAL);
	vublk_fd_close(&ends[1]);
	vublk_bus_free(new);
	relay_close(&relay);
}

/* A hand-over that cannot succeed is refused before the new process is asked for anything. */
static void test_certain_refusals(void **state)
{
	struct vublk_error error;
	struct vublk_bus *bus;
	struct relay relay;
	int ends[2];

	begin(&relay);
	bus = open_bus(&relay);
	upgrade_with_mirror_state(bus);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	assert_int_equal(vublk_bus_hand_over(bus, ends[0], NULL, 0, &error), -EBUSY);
	assert_non_null(strstr(error.text, "has the property mirror-state"));
	vublk_fd_close(&ends[1]);
	vublk_bus_free(bus);
	relay_close(&relay);
}

/* A descriptor that is not a connected socket is refused and closed. */
static void test_wrong_descriptors(void **state)
{
	struct vublk_error error;
	struct vublk_bus *bus, *none = NULL;
	struct relay relay;
	int ends[2];

	begin(&relay);
	bus = open_bus(&relay);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	assert_true(vublk_bus_hand_over(bus, ends[0], NULL, 0, &error) < 0);
	assert_true(vublk_bus_take_over(ends[1], NULL, &none, NULL, 0, &error) < 0);
	assert_null(none);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	vublk_fd_close(&ends[1]);
	assert_int_equal(vublk_bus_take_over(ends[0], NULL, &none, NULL, 0, &error), -EPIPE);
	vublk_bus_free(bus);
	relay_close(&relay);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_while_the_old_one_is_open),
		VUBLK_TEST(test_stop_comes_late),
		VUBLK_TEST(test_extra_state),
		VUBLK_TEST(test_certain_refusals),
		VUBLK_TEST(test_wrong_descriptors),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
