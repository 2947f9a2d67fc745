/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Connecting, listening and accepting by path.
 *
 * Key idea: each kind of invalid path has an error of its own, which names the path, and the remedy
 * if it is not obvious.
 */
#include "harness.h"

#include "proto/vhost-user/channel.h"
#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static char path[256];
static struct vublk_error error;

/* Returns the path of `name` in the scratch folder. The string is valid until the next call. */
static const char *in_folder(const char *name)
{
	snprintf(path, sizeof(path), "%s/%s", vublk_test_folder(), name);
	return path;
}

static void assert_text(const char *format, const char *argument)
{
	char text[VUBLK_ERROR_TEXT_BYTES];

	snprintf(text, sizeof(text), format, argument);
	assert_string_equal(error.text, text);
}

static void make_file(const char *name)
{
	int fd = open(in_folder(name), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	close(fd);
}

/* Leaves the file of a socket of this type without a listener. */
static void make_stale(const char *name, int type)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

	in_folder(name);
	memcpy(address.sun_path, path, strlen(path) + 1);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	close(fd);
}

static void assert_born_right(int fd)
{
	assert_true(fd >= 0);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
}

static void test_connect_and_accept(void **state)
{
	int listener = vublk_socket_listen(in_folder("s"), &error);
	int client, server;
	char byte = 0;

	assert_born_right(listener);
	assert_int_equal(vublk_socket_accept(listener, &error), -EAGAIN);
	client = vublk_socket_connect(in_folder("s"), &error);
	assert_born_right(client);
	server = vublk_socket_accept(listener, &error);
	assert_born_right(server);
	assert_int_equal(vublk_socket_accept(listener, NULL), -EAGAIN);
	assert_int_equal(write(client, "x", 1), 1);
	assert_int_equal(read(server, &byte, 1), 1);
	assert_int_equal(byte, 'x');
	close(client);
	close(server);
	close(listener);
}

static void test_connect_to_what_is_not_there(void **state)
{
	assert_int_equal(vublk_socket_connect(in_folder("none"), &error), -ENOENT);
	assert_text("the socket '%s' does not exist; check the path, and start the back-end if it "
		    "is not running", path);
	assert_int_equal(vublk_socket_connect("", &error), -EINVAL);
	assert_text("the path of the socket is empty; give a path", NULL);
	assert_int_equal(vublk_socket_connect(NULL, NULL), -EINVAL);
	make_file("file");
	assert_int_equal(vublk_socket_connect(in_folder("file/socket"), &error), -ENOTDIR);
	assert_text("cannot connect to the socket '%s': Not a directory", path);
}

static void test_connect_to_no_socket(void **state)
{
	make_file("file");
	assert_int_equal(vublk_socket_connect(in_folder("file"), &error), -ENOTSOCK);
	assert_text("'%s' is not a socket; check the path", path);
	assert_int_equal(vublk_socket_connect(vublk_test_folder(), &error), -ENOTSOCK);
	assert_text("'%s' is not a socket; check the path", vublk_test_folder());
}

static void test_connect_to_a_socket_of_nobody(void **state)
{
	make_stale("stale", SOCK_STREAM);
	assert_int_equal(vublk_socket_connect(in_folder("stale"), &error), -ECONNREFUSED);
	assert_text("no process listens on the socket '%s'; start the back-end", path);
}

static void test_connect_to_a_datagram_socket(void **state)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	in_folder("datagram");
	memcpy(address.sun_path, path, strlen(path) + 1);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(vublk_socket_connect(path, &error), -EPROTOTYPE);
	assert_text("'%s' is not a stream socket; check the path", path);
	assert_int_equal(vublk_socket_listen(path, &error), -EADDRINUSE);
	close(fd);
}

/*
 * A path may have up to 107 bytes. A path of that length is valid, so the only error is that the
 * file does not exist.
 */
static void test_length_of_a_path(void **state)
{
	char longest[109];
	struct stat st;
	int fd;

	memset(longest, 'x', sizeof(longest));
	longest[108] = '\0';
	assert_int_equal(vublk_socket_connect(longest, &error), -ENAMETOOLONG);
	assert_text("the path of the socket has 108 bytes, but the maximum is 107 bytes; use a "
		    "shorter or a relative path, not '%s'", longest);
	assert_int_equal(vublk_socket_listen(longest, &error), -ENAMETOOLONG);
	longest[107] = '\0';
	assert_int_equal(vublk_socket_connect(longest, &error), -ENOENT);
	assert_int_equal(chdir(vublk_test_folder()), 0);
	fd = vublk_socket_listen(longest, &error);
	assert_true(fd >= 0);
	assert_int_equal(stat(longest, &st), 0);
	close(fd);
}

static void test_backlog_is_full(void **state)
{
	int listener = vublk_socket_listen(in_folder("s"), &error);
	int clients[64];
	unsigned count = 0;

	assert_true(listener >= 0);
	while (count < VUBLK_ARRAY_SIZE(clients)) {
		clients[count] = vublk_socket_connect(path, &error);
		if (clients[count] < 0)
			break;
		count++;
	}
	assert_in_range(count, 1, VUBLK_ARRAY_SIZE(clients) - 1);
	assert_int_equal(error.code, EAGAIN);
	assert_text("cannot connect to the socket '%s', because too many other clients are "
		    "waiting; try again later", path);
	assert_int_equal(vublk_socket_listen(path, &error), -EADDRINUSE); /* still in use */
	vublk_fd_close_all(clients, count);
	close(listener);
}

static void test_listen_replaces_a_stale_socket(void **state)
{
	int listener, client;

	make_stale("s", SOCK_STREAM);
	listener = vublk_socket_listen(in_folder("s"), &error);
	assert_born_right(listener);
	client = vublk_socket_connect(in_folder("s"), &error);
	assert_true(client >= 0);
	close(client);
	close(listener);
}

static void test_listen_where_somebody_does(void **state)
{
	int listener = vublk_socket_listen(in_folder("s"), &error);
	int client;

	assert_true(listener >= 0);
	assert_int_equal(vublk_socket_listen(in_folder("s"), &error), -EADDRINUSE);
	assert_text("another process listens on the socket '%s'; stop it or choose another path",
		    path);
	client = vublk_socket_connect(in_folder("s"), &error); /* the listener still works */
	assert_true(client >= 0);
	close(client);
	close(listener);
}

static void test_listen_spares_other_files(void **state)
{
	char link_path[256];
	struct stat st;

	make_file("file");
	assert_int_equal(vublk_socket_listen(in_folder("file"), &error), -EEXIST);
	assert_text("'%s' exists and is not a socket; remove it or choose another path", path);
	assert_int_equal(stat(path, &st), 0);
	make_stale("stale", SOCK_STREAM);
	snprintf(link_path, sizeof(link_path), "%s/link", vublk_test_folder());
	assert_int_equal(symlink(path, link_path), 0);
	assert_int_equal(vublk_socket_listen(link_path, &error), -EEXIST);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(vublk_socket_listen(in_folder("no/such/folder"), &error), -ENOENT);
	assert_text("cannot listen on the socket '%s' because its directory does not exist; create "
		    "the directory or choose another path", path);
}

/* --- checks before a path is used ----------------------------------------------------------- */

static void test_check_before_connecting(void **state)
{
	char longest[109] = { 0 };

	memset(longest, 'x', 108);
	assert_int_equal(vublk_socket_check_connect(longest, &error), -ENAMETOOLONG);
	longest[107] = '\0';
	assert_int_equal(vublk_socket_check_connect(longest, &error), 0);
	assert_int_equal(vublk_socket_check_connect("", NULL), -EINVAL);
	assert_int_equal(vublk_socket_check_connect(in_folder("not/yet/there"), &error), 0);
	make_stale("stale", SOCK_STREAM);
	assert_int_equal(vublk_socket_check_connect(path, &error), 0);
	make_file("file");
	assert_int_equal(vublk_socket_check_connect(path, &error), -ENOTSOCK);
	assert_int_equal(vublk_socket_check_connect(path, NULL), -ENOTSOCK);
	assert_int_equal(vublk_socket_check_connect(in_folder("file/s"), &error), -ENOTDIR);
	assert_int_equal(vublk_socket_check_connect(vublk_test_folder(), &error), -ENOTSOCK);
}

static void test_check_before_listening(void **state)
{
	char longest[109] = { 0 };
	int listener;

	memset(longest, 'x', 108);
	assert_int_equal(vublk_socket_check_listen(longest, &error), -ENAMETOOLONG);
	assert_int_equal(vublk_socket_check_listen(in_folder("none/s"), &error), -ENOENT);
	assert_int_equal(vublk_socket_check_listen(in_folder("s/"), NULL), -EISDIR);
	make_file("file");
	assert_int_equal(vublk_socket_check_listen(path, &error), -EEXIST);
	assert_int_equal(vublk_socket_check_listen(in_folder("file/s"), &error), -ENOTDIR);
	assert_int_equal(vublk_socket_check_listen(in_folder("s"), &error), 0);
	assert_int_equal(access(path, F_OK), -1);
	listener = vublk_socket_listen(path, &error);
	assert_int_equal(vublk_socket_check_listen(path, &error), -EADDRINUSE);
	close(listener);
	assert_int_equal(vublk_socket_check_listen(path, &error), 0);
	assert_int_equal(access(path, F_OK), 0); /* nothing was changed */
}

static void test_the_same_socket(void **state)
{
	char relative[256];

	assert_int_equal(chdir(vublk_test_folder()), 0);
	assert_true(vublk_socket_is_same("s", in_folder("s")));
	snprintf(relative, sizeof(relative), "%s/./s", vublk_test_folder());
	assert_true(vublk_socket_is_same("s", relative));
	assert_false(vublk_socket_is_same("s", "t"));
	assert_false(vublk_socket_is_same("none/s", "s"));
	assert_true(vublk_socket_is_same("none/s", "none/s"));
	make_stale("s", SOCK_STREAM);
	assert_int_equal(symlink("s", "link"), 0);
	assert_true(vublk_socket_is_same("link", "s"));
	assert_false(vublk_socket_is_same("link", "t"));
}

static void test_out_of_descriptors(void **state)
{
	int listener = vublk_socket_listen(in_folder("s"), &error);
	int client = vublk_socket_connect(in_folder("s"), &error);
	struct rlimit limit, none;
	int accepted, connected, listened;

	assert_true(listener >= 0 && client >= 0);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = limit;
	none.rlim_cur = 0;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	accepted = vublk_socket_accept(listener, &error);
	connected = vublk_socket_connect(path, NULL);
	listened = vublk_socket_listen(path, NULL);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_int_equal(accepted, -EMFILE);
	assert_text("cannot accept a connection: Too many open files", NULL);
	assert_int_equal(connected, -EMFILE);
	assert_int_equal(listened, -EMFILE);
	close(client);
	close(listener);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_connect_and_accept),
		VUBLK_TEST(test_connect_to_what_is_not_there),
		VUBLK_TEST(test_connect_to_no_socket),
		VUBLK_TEST(test_connect_to_a_socket_of_nobody),
		VUBLK_TEST(test_connect_to_a_datagram_socket),
		VUBLK_TEST(test_length_of_a_path),
		VUBLK_TEST(test_backlog_is_full),
		VUBLK_TEST(test_listen_replaces_a_stale_socket),
		VUBLK_TEST(test_listen_where_somebody_does),
		VUBLK_TEST(test_listen_spares_other_files),
		VUBLK_TEST(test_check_before_connecting),
		VUBLK_TEST(test_check_before_listening),
		VUBLK_TEST(test_the_same_socket),
		VUBLK_TEST(test_out_of_descriptors),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
