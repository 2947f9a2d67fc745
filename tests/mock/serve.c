/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Starts a real back-end for tests; see the header. */
#include "harness.h"

#include "serve.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

pid_t serve_start(int fd, const char *disk, unsigned num_queues)
{
	char fd_option[40], file_option[300], queues_option[40];
	pid_t pid;

	if (access(VUBLK_PROGRAM, X_OK) < 0) {
		close(fd);
		vublk_test_skip("the tool is not built");
	}
	assert_true(fd >= 0);
	snprintf(fd_option, sizeof(fd_option), "--fd=%d", fd);
	snprintf(file_option, sizeof(file_option), "--blk-file=%s", disk);
	snprintf(queues_option, sizeof(queues_option), "--num-queues=%u", num_queues);
	pid = fork();
	if (!pid) {
		fcntl(fd, F_SETFD, 0);
		execl(VUBLK_PROGRAM, "vublk", "serve", "-q", fd_option, file_option, queues_option,
		      (char *)NULL);
		_exit(127);
	}
	close(fd);
	return pid;
}
