/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs the back-end in a process of its own; see blk-peer.h.
 *
 * Key idea: the process inherits a listening socket, so a case never has to wait for the socket to
 * appear.
 */
#include "blk-peer.h"

#include "harness.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

struct vublk_error error;
struct peer peer;

static int listen_at(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	assert_true(fd >= 0);
	memcpy(address.sun_path, path, strlen(path) + 1);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 4), 0);
	return fd;
}

static void exec_peer(const char *program, int fd, bool writable)
{
	char file[256], export[256], blk_file[160], fd_option[32];

	prctl(PR_SET_PDEATHSIG, SIGKILL); /* no back-end remains if the case dies */
	snprintf(file, sizeof(file), "driver=file,filename=%s,node-name=f,discard=unmap",
		 peer.image);
	snprintf(export, sizeof(export), "type=vhost-user-blk,id=e,node-name=d,addr.type=fd,"
		 "addr.str=%d,writable=%s,num-queues=%d", fd, writable ? "on" : "off", NUM_QUEUES);
	snprintf(blk_file, sizeof(blk_file), "--blk-file=%s", peer.image);
	snprintf(fd_option, sizeof(fd_option), "--fd=%d", fd);
	if (peer.is_qemu)
		execlp(program, program, "--blockdev", file, "--blockdev",
		       "driver=raw,file=f,node-name=d", "--export", export, NULL);
	else
		execl(program, program, "serve", "--quiet", fd_option, blk_file,
		      "--num-queues=4", writable ? NULL : "--read-only", NULL);
	_exit(127);
}

void start_peer_as(bool writable)
{
	const char *program = getenv("VUBLK_TEST_PEER");
	int fd;

	if (!program)
		vublk_test_skip("VUBLK_TEST_PEER names no back-end");
	peer.is_qemu = strstr(program, "qemu-storage-daemon");
	if (peer.is_qemu && system("command -v qemu-storage-daemon >/dev/null 2>&1"))
		vublk_test_skip("qemu-storage-daemon is not installed");
	snprintf(peer.image, sizeof(peer.image), "%s/image", vublk_test_folder());
	snprintf(peer.socket, sizeof(peer.socket), "%s/socket", vublk_test_folder());
	fd = open(peer.image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(fd, (off_t)DISK_BYTES), 0);
	close(fd);
	fd = listen_at(peer.socket);
	peer.pid = fork();
	assert_true(peer.pid >= 0);
	if (!peer.pid)
		exec_peer(program, fd, writable);
	close(fd);
}

void start_peer(void)
{
	start_peer_as(true);
}

void end_peer(void)
{
	int status;

	kill(peer.pid, SIGKILL);
	assert_int_equal(waitpid(peer.pid, &status, 0), peer.pid);
}

void stop_peer_running(void)
{
	vublk_test_suspend(peer.pid);
}

struct vublk_blk *open_with(const struct vublk_option *options)
{
	struct vublk_blk *blk = NULL;
	int r = vublk_blk_open(peer.socket, options, NULL, 0, &blk, &error);

	if (r)
		print_error("%s\n", error.text);
	assert_int_equal(r, 0);
	return blk;
}

struct vublk_blk *open_disk(void)
{
	const struct vublk_option options[] = {
		{ "num-queues", "4" }, { "reconnect-ms", "0" }, { NULL }
	};

	start_peer();
	return open_with(options);
}

void *alloc(struct vublk_blk *blk, size_t bytes)
{
	void *buffer = vublk_blk_alloc(blk, bytes, &error);

	assert_non_null(buffer);
	return buffer;
}

int wait_one(struct vublk_blk_queue *queue)
{
	struct vublk_blk_completion c;

	assert_int_equal(vublk_blk_wait(queue, &c, 1, 1, -1, &error), 1);
	return c.result;
}
