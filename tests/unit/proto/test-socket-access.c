/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Permissions and group of a listening socket.
 *
 * Key idea: clients can connect as soon as listen() is called. A replacement for listen() examines
 * the socket's file at that moment, so the test sees whether the mode and the group are already
 * set.
 */
#include "harness.h"

#include "proto/vhost-user/channel.h"
#include "util/checked.h"
#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define SOME_GROUP 12345

static char path[256];
static struct stat at_listen; /* the socket's file at the time of listen() */
static int refused;           /* the negative errno of a client's connect() at that time */
static void (*after_bind)(void);

static const char *make_path(const char *name)
{
	snprintf(path, sizeof(path), "%s/%s", vublk_test_folder(), name);
	return path;
}

int __real_listen(int fd, int backlog);
int __wrap_listen(int fd, int backlog);
int __wrap_listen(int fd, int backlog)
{
	assert_int_equal(lstat(path, &at_listen), 0);
	refused = vublk_socket_connect(path, NULL);
	return __real_listen(fd, backlog);
}

int __real_bind(int fd, const struct sockaddr *address, socklen_t bytes);
int __wrap_bind(int fd, const struct sockaddr *address, socklen_t bytes);
int __wrap_bind(int fd, const struct sockaddr *address, socklen_t bytes)
{
	int r = __real_bind(fd, address, bytes);

	if (!r && after_bind)
		after_bind();
	return r;
}

/* Returns a group to which this process may assign its files. */
static gid_t usable_group(void)
{
	gid_t groups[1];

	if (!geteuid())
		return SOME_GROUP;
	return getgroups(0, NULL) == 1 && getgroups(1, groups) == 1 ? groups[0] : getegid();
}

static void expect_file(const struct vublk_socket_access *access, mode_t mask)
{
	mode_t mode = access->has_mode ? access->mode : 0777 & ~mask;
	struct vublk_error error;
	int fd = vublk_socket_listen_with(make_path("socket"), access, &error);

	if (fd < 0)
		fail_msg("%s", error.text);
	assert_int_equal(at_listen.st_mode, S_IFSOCK | mode);
	assert_int_equal(at_listen.st_gid, access->has_group ? access->group : getegid());
	assert_true(refused == -ECONNREFUSED || refused == -EACCES);
	close(fd); /* the file remains, and the next listener replaces it */
}

static void test_mode_and_group_hold_before_a_client(void **state)
{
	static const mode_t masks[] = { 0, 022, 077, 0777 };
	static const mode_t modes[] = { 0, 0600, 0660, 0666, 0777 };

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(masks); i++) {
		struct vublk_socket_access access = { .group = usable_group() };

		umask(masks[i]);
		expect_file(&access, masks[i]);
		access.has_group = true;
		expect_file(&access, masks[i]);
		access.has_mode = true;
		for (size_t j = 0; j < VUBLK_ARRAY_SIZE(modes); j++) {
			access.mode = modes[j];
			expect_file(&access, masks[i]);
		}
		access.has_group = false;
		expect_file(&access, masks[i]);
	}
	umask(022);
}

static void test_values(void **state)
{
	static const char *const bad_modes[] = { NULL, "", "8", "0888", "01000", "1777", "-1", "+7",
						 " 7", "7 ", "0x1ff", "rw", "77777777777777777777777" };
	static const char *const bad_groups[] = { NULL, "", "no such group", "-1", "4294967295",
						  "99999999999999999999", "0x10" };
	struct vublk_socket_access access = { 0 };
	struct vublk_error error;

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(bad_modes); i++) {
		assert_int_equal(vublk_socket_access_parse_mode(bad_modes[i], &access, &error), -EINVAL);
		assert_non_null(strstr(error.text, "socket-mode must be octal"));
	}
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(bad_groups); i++) {
		assert_int_equal(vublk_socket_access_parse_group(bad_groups[i], &access, &error), -EINVAL);
		assert_non_null(strstr(error.text, "socket-group must be "));
	}
	assert_false(access.has_mode || access.has_group);
	assert_int_equal(vublk_socket_access_parse_mode("00660", &access, &error), 0);
	assert_int_equal(access.mode, 0660);
	assert_int_equal(vublk_socket_access_parse_mode("0", &access, &error), 0);
	assert_int_equal(access.mode, 0);
	assert_int_equal(vublk_socket_access_parse_group("4294967294", &access, &error), 0);
	assert_int_equal(access.group, 4294967294);
	assert_int_equal(vublk_socket_access_parse_group("root", &access, &error), 0);
	assert_int_equal(access.group, 0);
}

static bool exists(const char *name)
{
	return !access(name, F_OK);
}

/* A group to which this process may not assign files is refused. No file is made. */
static void test_a_foreign_group(void **state)
{
	struct vublk_socket_access access = { .has_group = true, .group = SOME_GROUP };
	struct vublk_error error;

	if (!geteuid()) {
		assert_int_equal(chown(vublk_test_folder(), 65534, 65534), 0);
		assert_int_equal(setgroups(0, NULL), 0);
		assert_int_equal(setresgid(65534, 65534, 65534), 0);
		assert_int_equal(setresuid(65534, 65534, 65534), 0);
	}
	assert_int_equal(vublk_socket_access_check(&access, &error), -EPERM);
	assert_non_null(strstr(error.text, "12345 (only root and members"));
	assert_int_equal(vublk_socket_listen_with(make_path("socket"), &access, &error), -EPERM);
	assert_false(exists(path));
	access.group = getegid();
	assert_int_equal(vublk_socket_access_check(&access, &error), 0);
}

static void replace_by_link(void)
{
	assert_int_equal(unlink(path), 0);
	assert_int_equal(symlink("precious", path), 0);
}

/*
 * Another user replaces the socket's file with a link. The target of the link must not be changed.
 */
static void test_a_replaced_file(void **state)
{
	struct vublk_socket_access access = { .has_mode = true, .mode = 0777 };
	struct vublk_error error;
	struct stat st;
	int fd = open(make_path("precious"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	after_bind = replace_by_link;
	assert_int_equal(vublk_socket_listen_with(make_path("socket"), &access, &error), -EEXIST);
	assert_non_null(strstr(error.text, "another file replaced the new socket"));
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_mode, S_IFREG | 0600);
	close(fd);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_mode_and_group_hold_before_a_client),
		VUBLK_TEST(test_values),
		VUBLK_TEST(test_a_foreign_group),
		VUBLK_TEST(test_a_replaced_file),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
