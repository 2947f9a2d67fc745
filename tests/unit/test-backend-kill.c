/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A back-end that kills itself at a chosen place (src/backend/kill-point.h), and
 * what the next one makes of what it leaves.
 */
#include "backend-rig.h"

#include "util/fd.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* A back-end on a memory disk, with its front-end's end of the socket and its words. */
struct child {
	pid_t pid;
	int socket_fd;
	int words_fd;
};

static void exec_child(const char *point, int socket_fd, int words_fd)
{
	char fd_option[32];

	prctl(PR_SET_PDEATHSIG, SIGKILL); /* a case that dies leaves no back-end behind */
	fcntl(socket_fd, F_SETFD, 0);
	dup2(words_fd, STDERR_FILENO);
	setenv("VUBLK_KILL_POINT", point, 1);
	snprintf(fd_option, sizeof(fd_option), "--fd=%d", socket_fd);
	execl(VUBLK_KILL_PROGRAM, "vublk-kill", "serve", "-q", fd_option, "--engine=memory",
	      "--size=1M", NULL);
	_exit(127);
}

static void start_child(struct child *child, const char *point)
{
	int sockets[2], words[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	assert_int_equal(pipe2(words, O_CLOEXEC), 0);
	child->socket_fd = sockets[0];
	child->words_fd = words[0];
	child->pid = fork();
	assert_true(child->pid >= 0);
	if (!child->pid)
		exec_child(point, sockets[1], words[1]);
	close(sockets[1]);
	close(words[1]);
}

/* Waits until it ends; what it said. */
static int end_child(struct child *child, char *words, size_t bytes)
{
	size_t length = 0;
	ssize_t n;
	int status;

	while ((n = read(child->words_fd, words + length, bytes - 1 - length)) > 0)
		length += (size_t)n;
	words[length] = '\0';
	assert_int_equal(waitpid(child->pid, &status, 0), child->pid);
	vublk_fd_close(&child->socket_fd);
	vublk_fd_close(&child->words_fd);
	return status;
}

static void check_refused(const char *point, const char *expected)
{
	struct child child;
	char words[1024];
	int status;

	start_child(&child, point);
	status = end_child(&child, words, sizeof(words));
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 1);
	if (!strstr(words, expected))
		fail_msg("'%s' is refused with '%s', not '%s'", point, words, expected);
}

static void test_unknown_points(void **state)
{
	const char *names = "VUBLK_KILL_POINT must be one of after-fetch, after-io, "
			    "after-status, after-used-element, after-used-index, "
			    "after-inflight-clear, before-call, ";

	check_refused("", names);
	check_refused("after", names);
	check_refused("after-fetch2", names);
	check_refused(":1", names);
	check_refused("after-io:", "N of VUBLK_KILL_POINT must be a whole number from 1");
	check_refused("after-io:0", "N of VUBLK_KILL_POINT must be a whole number from 1");
	check_refused("after-io:1:1", "N of VUBLK_KILL_POINT must be a whole number from 1");
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_unknown_points),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
