/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The device against a real back-end, qemu-storage-daemon; skipped where there is none. */
#include "harness.h"

#include "mock/device-rig.h"

#include "util/checked.h"
#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <poll.h>
#include <unistd.h>

#define PROGRAM "qemu-storage-daemon"
#define DISK_BYTES (1 << 20)

static char socket_path[256], disk_path[256];

static void make_disk(void)
{
	int fd;

	snprintf(disk_path, sizeof(disk_path), "%s/disk", vublk_test_folder());
	snprintf(socket_path, sizeof(socket_path), "%s/socket", vublk_test_folder());
	fd = open(disk_path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
	assert_int_equal(pwrite(fd, "seven", 5, 7 * 512), 5);
	close(fd);
}

static bool program_exists(void)
{
	return !system("command -v " PROGRAM " >/dev/null 2>&1");
}

/* The daemon listens before it writes its pid file, for which the folder is watched. */
static void wait_for_file(int watch, const char *name, pid_t pid)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/%s", vublk_test_folder(), name);
	while (access(path, F_OK) < 0) {
		struct pollfd fd = { watch, POLLIN, 0 };
		char events[4096];

		assert_int_equal(waitpid(pid, NULL, WNOHANG), 0);
		if (poll(&fd, 1, 20000) <= 0)
			fail_msg("the daemon does not listen");
		assert_true(read(watch, events, sizeof(events)) > 0);
	}
}

static pid_t start_daemon(const char *options)
{
	int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	char blockdev[600], export[600], pidfile[300];
	pid_t pid;

	if (!program_exists())
		vublk_test_skip(PROGRAM " is not installed");
	make_disk();
	snprintf(blockdev, sizeof(blockdev), "driver=file,filename=%s,node-name=d", disk_path);
	snprintf(export, sizeof(export),
		 "type=vhost-user-blk,id=e,node-name=d,addr.type=unix,addr.path=%s,%s",
		 socket_path, options);
	snprintf(pidfile, sizeof(pidfile), "%s/pid", vublk_test_folder());
	inotify_add_watch(watch, vublk_test_folder(), IN_CREATE | IN_MOVED_TO);
	pid = fork();
	if (!pid) {
		execlp(PROGRAM, PROGRAM, "--blockdev", blockdev, "--export", export, "--pidfile",
		       pidfile, (char *)NULL);
		_exit(127);
	}
	wait_for_file(watch, "pid", pid);
	close(watch);
	return pid;
}

static void end_daemon(pid_t pid)
{
	kill(pid, SIGTERM);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void test_realize_and_look(void **state)
{
	pid_t pid = start_daemon("writable=on,num-queues=4");
	struct vublk_device_info info;
	struct virtio_blk_config config;
	struct rig rig;

	rig_init(&rig, socket_path);
	rig_realize(&rig);
	assert_int_equal(vublk_device_num_queues(rig.device), 4);
	assert_int_equal(vublk_device_queue_size(rig.device), 16);
	vublk_device_config_read(rig.device, 0, &config, sizeof(config));
	assert_int_equal(config.capacity, DISK_BYTES / 512);
	assert_int_equal(config.num_queues, 4);
	assert_int_equal(vublk_device_config_generation(rig.device), 1);
	vublk_device_get_info(rig.device, &info, sizeof(info));
	assert_string_equal(info.chardev, socket_path);
	assert_int_equal(info.backend_max_queues, 4);
	assert_true(info.backend_config_bytes >= 60);
	assert_true(info.backend_memory_slots > 8);
	rig_deinit(&rig);
	end_daemon(pid);
}

static void test_requests(void **state)
{
	pid_t pid = start_daemon("writable=on,num-queues=2");
	char data[512], got[512];
	struct rig rig;

	rig_init(&rig, socket_path);
	rig_realize(&rig);
	rig_start(&rig, 2);
	assert_int_equal(rig_request(&rig, 0, VIRTIO_BLK_T_IN, 7, data, 512), VIRTIO_BLK_S_OK);
	assert_memory_equal(data, "seven", 5);
	for (unsigned i = 0; i < 40; i++) {
		memset(data, (int)i, sizeof(data));
		assert_int_equal(rig_request(&rig, i % 2, VIRTIO_BLK_T_OUT, i, data, 512),
				 VIRTIO_BLK_S_OK);
		assert_int_equal(rig_request(&rig, 1 - i % 2, VIRTIO_BLK_T_IN, i, got, 512),
				 VIRTIO_BLK_S_OK);
		assert_memory_equal(data, got, 512);
	}
	assert_int_equal(rig_request(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
	rig_stop(&rig);
	assert_int_equal(vublk_device_queue_base(rig.device, 0) +
			 vublk_device_queue_base(rig.device, 1), 82);
	rig_deinit(&rig);
	end_daemon(pid);
}

static void test_start_again(void **state)
{
	pid_t pid = start_daemon("writable=on,num-queues=4");
	char data[512];
	struct rig rig;

	rig_init(&rig, socket_path);
	rig_realize(&rig);
	for (unsigned i = 0; i < 5; i++) {
		rig_start(&rig, 4);
		for (unsigned q = 0; q < 4; q++)
			assert_int_equal(rig_request(&rig, q, VIRTIO_BLK_T_IN, 7, data, 512), 0);
		rig_stop(&rig);
	}
	vublk_device_unrealize(rig.device);
	rig_realize(&rig);
	rig_start(&rig, 1);
	assert_int_equal(rig_request(&rig, 0, VIRTIO_BLK_T_IN, 7, data, 512), 0);
	rig_deinit(&rig);
	end_daemon(pid);
}

static void test_write_cache(void **state)
{
	pid_t pid = start_daemon("writable=on");
	uint8_t wce, other;
	struct rig rig;

	rig_init(&rig, socket_path);
	rig_realize(&rig);
	rig_start(&rig, 1);
	vublk_device_config_read(rig.device, 32, &wce, 1);
	assert_int_equal(vublk_device_config_write(rig.device, 32, &wce, 1, NULL), 0);
	for (unsigned i = 1; i <= 2; i++) {
		other = !wce;
		assert_int_equal(vublk_device_config_write(rig.device, 32, &other, 1, NULL), 1);
		rig_wait(&rig, RIG_CONFIG_WRITTEN, i);
		assert_int_equal(rig.errors[RIG_CONFIG_WRITTEN].code, 0);
		vublk_device_config_read(rig.device, 32, &wce, 1);
		assert_int_equal(wce, other);
	}
	assert_int_equal(rig.calls[RIG_CONFIG_CHANGED], 0);
	rig_deinit(&rig);
	end_daemon(pid);
}

static void test_too_many_queues(void **state)
{
	pid_t pid = start_daemon("writable=on,num-queues=2");
	struct rig rig;

	rig_init(&rig, socket_path);
	rig_set(&rig, "num-queues", "4");
	rig_realize_fails(&rig, EINVAL);
	assert_non_null(strstr(rig.errors[RIG_REALIZED].text,
			       "num-queues is 4, and the back-end has 2"));
	rig_deinit(&rig);
	end_daemon(pid);
}

static void test_daemon_dies(void **state)
{
	pid_t pid = start_daemon("writable=on");
	struct rig rig;

	rig_init(&rig, socket_path);
	rig_realize(&rig);
	rig_start(&rig, 1);
	kill(pid, SIGKILL);
	rig_wait(&rig, RIG_DISCONNECTED, 1);
	assert_int_equal(rig.calls[RIG_STOPPED], 1);
	assert_int_equal(rig.errors[RIG_STOPPED].code, ENOTCONN);
	assert_int_equal(rig.errors[RIG_DISCONNECTED].code, ENOTCONN);
	assert_int_equal(vublk_device_state(rig.device), VUBLK_DEVICE_DISCONNECTED);
	rig_deinit(&rig);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_realize_and_look),
		VUBLK_TEST(test_requests),
		VUBLK_TEST(test_start_again),
		VUBLK_TEST(test_write_cache),
		VUBLK_TEST(test_too_many_queues),
		VUBLK_TEST(test_daemon_dies),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
