/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The device with real back-ends: qemu-storage-daemon (skipped if it is not installed) and vublk
 * serve.
 *
 * Key idea: most cases are the same for both back-ends. Only the functions that start and end a
 * back-end differ.
 */
#include "harness.h"

#include "mock/device-rig.h"
#include "mock/serve.h"

#include "device/device.h"
#include "proto/vhost-user/channel.h"
#include "proto/vhost-user/inflight.h"
#include "util/checked.h"
#include "util/fd.h"
#include "util/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/wait.h>
#include <unistd.h>

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

/* --- the back-ends ----------------------------------------------------------------------- */

struct peer {
	const char *name;
	pid_t (*start)(unsigned num_queues);
	void (*end)(pid_t pid);
	void (*resize)(pid_t pid, uint64_t bytes); /* NULL: the back-end does not report resizes */
};

/*
 * Waits for the daemon's pid file `path`, which the daemon writes after listen(). `watch` is an
 * inotify descriptor; -1: there is no inotify, so the file is polled.
 */
static void wait_for_file(int watch, const char *path, pid_t pid)
{
	while (access(path, F_OK) < 0) {
		struct pollfd fd = { watch, POLLIN, 0 };
		char events[4096];

		assert_int_equal(waitpid(pid, NULL, WNOHANG), 0);
		if (poll(&fd, 1, watch < 0 ? 10 : 20000) <= 0 && watch >= 0)
			fail_msg("the daemon does not listen");
		assert_true(watch < 0 || read(watch, events, sizeof(events)) > 0);
	}
}

static pid_t start_qsd(unsigned num_queues)
{
	char blockdev[600], export[700], pidfile[300];
	int watch;
	pid_t pid;

	if (system("command -v qemu-storage-daemon >/dev/null 2>&1"))
		vublk_test_skip("qemu-storage-daemon is not installed");
	make_disk();
	snprintf(blockdev, sizeof(blockdev), "driver=file,filename=%s,node-name=d", disk_path);
	snprintf(export, sizeof(export),
		 "type=vhost-user-blk,id=e,node-name=d,addr.type=unix,addr.path=%s,writable=on,"
		 "num-queues=%u", socket_path, num_queues);
	snprintf(pidfile, sizeof(pidfile), "%s/pid", vublk_test_folder());
	watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (watch >= 0)
		inotify_add_watch(watch, vublk_test_folder(), IN_CREATE | IN_MOVED_TO);
	pid = fork();
	if (!pid) {
		execlp("qemu-storage-daemon", "qemu-storage-daemon", "--blockdev", blockdev,
		       "--export", export, "--pidfile", pidfile, (char *)NULL);
		_exit(127);
	}
	wait_for_file(watch, pidfile, pid);
	if (watch >= 0)
		close(watch);
	return pid;
}

/*
 * Starts vublk serve with a socket that already listens, so the test does not have to wait for it.
 */
static pid_t start_serve(unsigned num_queues)
{
	make_disk();
	return serve_start(vublk_socket_listen(socket_path, NULL), disk_path, num_queues);
}

static void resize_serve(pid_t pid, uint64_t bytes)
{
	assert_int_equal(truncate(disk_path, (off_t)bytes), 0);
	kill(pid, SIGHUP);
}

/*
 * Ends the daemon. Repeats SIGTERM until the process has ended: the daemon's signal handler only
 * sets a flag, so a signal between the check of that flag and poll() has no effect before the next
 * event, which may never come.
 */
static void end_qsd(pid_t pid)
{
	pid_t ended;

	do {
		kill(pid, SIGTERM);
		poll(NULL, 0, 10);
		ended = waitpid(pid, NULL, WNOHANG);
	} while (!ended);
	assert_int_equal(ended, pid);
}

static void end_serve(pid_t pid)
{
	int status;

	kill(pid, SIGTERM);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static const struct peer qsd = { "qemu-storage-daemon", start_qsd, end_qsd, NULL };
static const struct peer serve = { "vublk serve", start_serve, end_serve, resize_serve };

/* --- the cases ----------------------------------------------------------------------------- */

static void realize_and_look(const struct peer *peer)
{
	pid_t pid = peer->start(4);
	struct vublk_device_info info;
	struct virtio_blk_config config;
	struct device_rig rig;

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
	peer->end(pid);
}

static void requests(const struct peer *peer)
{
	pid_t pid = peer->start(2);
	char data[512], got[512];
	struct device_rig rig;

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
	peer->end(pid);
}

static void start_again(const struct peer *peer)
{
	pid_t pid = peer->start(4);
	char data[512];
	struct device_rig rig;

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
	peer->end(pid);
}

static void write_cache(const struct peer *peer)
{
	pid_t pid = peer->start(1);
	uint8_t wce, other;
	struct device_rig rig;

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
	peer->end(pid);
}

static void too_many_queues(const struct peer *peer)
{
	pid_t pid = peer->start(2);
	struct device_rig rig;

	rig_init(&rig, socket_path);
	rig_set(&rig, "num-queues", "4");
	rig_realize_fails(&rig, EINVAL);
	assert_non_null(strstr(rig.errors[RIG_REALIZED].text,
			       "num-queues is 4, but the back-end has only 2"));
	rig_deinit(&rig);
	peer->end(pid);
}

static void daemon_dies(const struct peer *peer)
{
	pid_t pid = peer->start(1);
	struct device_rig rig;

	rig_init(&rig, socket_path);
	rig_realize(&rig);
	rig_start(&rig, 1);
	kill(pid, SIGKILL);
	rig_wait(&rig, RIG_LOST, 1);
	assert_int_equal(rig.calls[RIG_STOPPED], 1);
	assert_int_equal(rig.errors[RIG_STOPPED].code, ENOTCONN);
	assert_int_equal(rig.errors[RIG_LOST].code, ENOTCONN);
	assert_int_equal(vublk_device_state(rig.device), VUBLK_DEVICE_LOST);
	rig_deinit(&rig);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/*
 * Waits until the kernel has released the disk lock of a killed process, which it does when the
 * requests of the process are complete. Until then, a new back-end would be refused.
 */
static void wait_for_lock(void)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	int fd = open(disk_path, O_RDWR | O_CLOEXEC);

	assert_int_equal(fcntl(fd, F_OFD_SETLKW, &lock), 0);
	close(fd);
}

static pid_t replace(const struct peer *peer, pid_t pid)
{
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	wait_for_lock();
	return peer->start(2);
}

/* The back-end is killed and started again. The driver notices only a delay. */
static void daemon_is_replaced(const struct peer *peer)
{
	pid_t pid = peer->start(2);
	char data[512], got[512];
	struct device_rig rig;

	rig_init(&rig, socket_path);
	rig_set(&rig, "reconnect-ms", "100");
	rig_realize(&rig);
	rig_start(&rig, 2);
	for (unsigned i = 1; i <= 5; i++) {
		memset(data, (int)i, sizeof(data));
		for (unsigned q = 0; q < 2; q++)
			assert_int_equal(rig_request(&rig, q, VIRTIO_BLK_T_OUT, 20 + q, data, 512), 0);
		pid = replace(peer, pid);
		rig_wait(&rig, RIG_STARTED, 1 + i);
		for (unsigned q = 0; q < 2; q++) {
			assert_int_equal(rig_request(&rig, 1 - q, VIRTIO_BLK_T_IN, 20 + q, got, 512), 0);
			assert_memory_equal(got, data, 512);
		}
	}
	assert_int_equal(rig.calls[RIG_NEEDS_RESET], 0);
	rig_deinit(&rig);
	peer->end(pid);
}

/* --- requests in flight when the back-end is killed -------------------------------------- */

#define DEPTH 5 /* at most five chains of three descriptors fit into a ring of sixteen */
#define SLOT_BYTES 4096
/* The first sector that submit() writes. Sector 7 is written at each start of a back-end. */
#define FIRST 20

static char *slot(const struct device_rig *rig, unsigned queue, unsigned i)
{
	return rig->memory + RIG_DATA_OFFSET + (1 + queue * DEPTH + i) * SLOT_BYTES;
}

/*
 * Adds a write of `value` to the sector of slot `i` of a queue. The completion changes the status
 * byte of the slot.
 */
static void submit(struct device_rig *rig, unsigned queue, unsigned i, uint8_t value)
{
	char *at = slot(rig, queue, i);
	uint64_t addr = RIG_GUEST_ADDR + (uint64_t)(at - rig->memory);
	struct virtio_blk_outhdr header = {
		.type = VIRTIO_BLK_T_OUT, .sector = FIRST + queue * DEPTH + i,
	};
	struct vublk_ring_buffer buffers[] = {
		{ addr, sizeof(header) }, { addr + 512, 512 }, { addr + 64, 1 },
	};

	memcpy(at, &header, sizeof(header));
	memset(at + 512, value, 512);
	at[64] = 0x55;
	assert_int_equal(vublk_driver_ring_add(&rig->rings[queue], buffers, 2, 1, NULL,
					       (uint16_t)i), 0);
}

/*
 * Takes the completions of both queues. Returns `done` plus their number. A repeated completion
 * breaks the ring, and fails the test.
 */
static unsigned collect(struct device_rig *rig, unsigned done)
{
	for (unsigned q = 0; q < 2; q++) {
		struct vublk_error error;
		uint32_t written;
		uint16_t token;
		int r;

		while ((r = vublk_driver_ring_take(&rig->rings[q], &token, &written, &error)) > 0) {
			assert_int_equal(slot(rig, q, token)[64], VIRTIO_BLK_S_OK);
			done++;
		}
		if (r < 0)
			fail_msg("%s", error.text);
	}
	return done;
}

static void submit_all(struct device_rig *rig, uint8_t value)
{
	for (unsigned q = 0; q < 2; q++) {
		for (unsigned i = 0; i < DEPTH; i++)
			submit(rig, q, i, (uint8_t)(value + q * DEPTH + i));
		vublk_driver_ring_publish(&rig->rings[q]);
		vublk_eventfd_signal(rig->kicks[q]);
	}
}

static void expect_on_disk(uint8_t value)
{
	int fd = open(disk_path, O_RDONLY | O_CLOEXEC);
	uint8_t data[512], expected[512];

	for (unsigned i = 0; i < 2 * DEPTH; i++) {
		memset(expected, value + (int)i, sizeof(expected));
		assert_int_equal(pread(fd, data, sizeof(data), (FIRST + i) * 512), 512);
		assert_memory_equal(data, expected, sizeof(data));
	}
	close(fd);
}

/* The back-end is killed before it sees a request, and after each number of completions. */
static void test_serve_requests_in_flight(void **state)
{
	pid_t pid = serve.start(2);
	struct device_rig rig;

	rig_init(&rig, socket_path);
	rig_set(&rig, "reconnect-ms", "100");
	rig_realize(&rig);
	rig_start(&rig, 2);
	for (unsigned i = 1; i <= 3 * (2 * DEPTH + 1); i++) {
		unsigned done = 0, before = (i - 1) / 3;

		if (!before)
			vublk_test_suspend(pid);
		submit_all(&rig, (uint8_t)i);
		while (done < before)
			done = collect(&rig, done);
		pid = replace(&serve, pid);
		rig_wait(&rig, RIG_STARTED, 1 + i);
		while (done < 2 * DEPTH)
			done = collect(&rig, done);
		assert_int_equal(done, 2 * DEPTH);
		expect_on_disk((uint8_t)i);
	}
	assert_int_equal(rig.calls[RIG_NEEDS_RESET], 0);
	assert_int_equal(rig.calls[RIG_LOST], 3 * (2 * DEPTH + 1));
	rig_stop(&rig);
	rig_deinit(&rig);
	end_serve(pid);
}

/*
 * Changes the ring and the in-flight area like a back-end that has begun two requests and has
 * completed only the second.
 */
static void complete_second(struct device_rig *rig)
{
	const struct vublk_device_inflight *area = &rig->device->inflight;
	struct vublk_inflight_split *region = vublk_map_shared(area->fd, area->offset,
							       area->size_bytes, NULL);
	struct vublk_split_ring *ring = &rig->rings[0].memory;
	uint16_t used = ring->used->idx;
	uint16_t first = ring->avail->ring[used % RIG_QUEUE_SIZE];

	assert_non_null(region);
	assert_int_equal(region->version, VUBLK_INFLIGHT_VERSION);
	region->desc[first].inflight = 1;
	region->desc[first].counter = 1000;
	slot(rig, 0, 1)[64] = VIRTIO_BLK_S_OK;
	ring->used->ring[used % RIG_QUEUE_SIZE] = (struct vring_used_elem){
		ring->avail->ring[(used + 1) % RIG_QUEUE_SIZE], 1,
	};
	region->used_idx = (uint16_t)(used + 1);
	ring->used->idx = (uint16_t)(used + 1);
	vublk_unmap(region, area->size_bytes);
}

/*
 * Only the in-flight area says which request has completed. Judging by the used index alone, the
 * next back-end would lose the first request and repeat the second.
 */
static void test_serve_out_of_order(void **state)
{
	pid_t pid = serve.start(2);
	uint8_t data[1024], expected[1024] = { 0 };
	unsigned done = 0;
	struct device_rig rig;
	int fd;

	rig_init(&rig, socket_path);
	rig_set(&rig, "reconnect-ms", "100");
	rig_realize(&rig);
	rig_start(&rig, 2);
	assert_int_equal(rig_request(&rig, 0, VIRTIO_BLK_T_IN, 7, data, 512), 0);
	vublk_test_suspend(pid);
	submit(&rig, 0, 0, 0xa1);
	submit(&rig, 0, 1, 0xa2);
	vublk_driver_ring_publish(&rig.rings[0]);
	complete_second(&rig);
	pid = replace(&serve, pid);
	rig_wait(&rig, RIG_STARTED, 2);
	while (done < 2)
		done = collect(&rig, done);
	/*
	 * The second write was reported as complete without being executed, so no back-end may
	 * execute it.
	 */
	memset(expected, 0xa1, 512);
	fd = open(disk_path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread(fd, data, sizeof(data), FIRST * 512), (int)sizeof(data));
	close(fd);
	assert_memory_equal(data, expected, sizeof(data));
	rig_deinit(&rig);
	end_serve(pid);
}

/*
 * qemu-storage-daemon has no in-flight area. So the device does not know which requests the daemon
 * had begun, and asks the driver for a reset.
 */
static void test_qsd_requests_in_flight(void **state)
{
	pid_t pid = qsd.start(2);
	char data[512];
	struct device_rig rig;

	rig_init(&rig, socket_path);
	rig_set(&rig, "reconnect-ms", "100");
	rig_realize(&rig);
	rig_start(&rig, 2);
	for (unsigned i = 1; i <= 3; i++) {
		vublk_test_suspend(pid);
		submit_all(&rig, (uint8_t)i);
		pid = replace(&qsd, pid);
		rig_wait(&rig, RIG_NEEDS_RESET, i);
		assert_non_null(strstr(rig.errors[RIG_NEEDS_RESET].text,
				       "up to 5 requests outstanding"));
		assert_int_equal(vublk_device_state(rig.device), VUBLK_DEVICE_STOPPED);
		assert_int_equal(vublk_device_set_status(rig.device, 0, NULL), 0);
		rig_start(&rig, 2);
		assert_int_equal(rig_request(&rig, 0, VIRTIO_BLK_T_IN, 0, data, 512), 0);
	}
	rig_deinit(&rig);
	end_qsd(pid);
}

static void resize(const struct peer *peer)
{
	uint64_t capacity;
	struct device_rig rig;
	pid_t pid;

	if (!peer->resize)
		vublk_test_skip("qemu-storage-daemon before 8.0 does not announce a resize");
	pid = peer->start(2);
	rig_init(&rig, socket_path);
	rig_realize(&rig);
	rig_start(&rig, 2); /* a back-end reports a resize only after a start */
	for (unsigned i = 1; i <= 2; i++) {
		uint32_t generation = vublk_device_config_generation(rig.device);

		peer->resize(pid, DISK_BYTES * (1 + i));
		rig_wait(&rig, RIG_CONFIG_CHANGED, i);
		assert_true(vublk_device_config_generation(rig.device) > generation);
		vublk_device_config_read(rig.device, 0, &capacity, sizeof(capacity));
		assert_int_equal(capacity, DISK_BYTES / 512 * (1 + i));
	}
	rig_deinit(&rig);
	peer->end(pid);
}

/* Reads sector 7, and checks that it begins with the text that make_disk() wrote there. */
static void expect_seven(struct device_rig *rig, unsigned queue)
{
	char data[512];

	assert_int_equal(rig_request(rig, queue, VIRTIO_BLK_T_IN, 7, data, 512), 0);
	assert_memory_equal(data, "seven", 5);
}

/* Memory is added and removed while the rings run. */
static void memory_changes(const struct peer *peer)
{
	pid_t pid = peer->start(1);
	struct vublk_memory_region regions[2];
	struct device_rig rig;

	rig_init(&rig, socket_path);
	rig_realize(&rig);
	rig_start(&rig, 1);
	regions[0] = (struct vublk_memory_region){ RIG_GUEST_ADDR, RIG_MEMORY_BYTES, rig.memfd, 0 };
	regions[1] = (struct vublk_memory_region){ 0x10000, 0x10000, rig.memfd, 0 };
	for (unsigned i = 1; i <= 20; i++) {
		assert_int_equal(vublk_device_set_memory(rig.device, regions, 1 + i % 2, NULL), 1);
		rig_wait(&rig, RIG_MEMORY_CHANGED, i);
		assert_int_equal(rig.errors[RIG_MEMORY_CHANGED].code, 0);
		expect_seven(&rig, 0);
	}
	rig_deinit(&rig);
	peer->end(pid);
}

/* The rings stop while the VM is paused, and then resume at their indices. */
static void pauses(const struct peer *peer)
{
	pid_t pid = peer->start(2);
	struct device_rig rig;

	rig_init(&rig, socket_path);
	rig_realize(&rig);
	rig_start(&rig, 2);
	for (unsigned i = 1; i <= 10; i++) {
		expect_seven(&rig, i % 2);
		assert_int_equal(vublk_device_set_vm_running(rig.device, false), 1);
		rig_wait(&rig, RIG_STOPPED, i);
		assert_int_equal(vublk_device_queue_base(rig.device, 1), (i + 1) / 2);
		assert_int_equal(vublk_device_set_vm_running(rig.device, true), 1);
		rig_wait(&rig, RIG_STARTED, 1 + i);
	}
	rig_deinit(&rig);
	peer->end(pid);
}

/* The eventfds of a queue are replaced while the rings run. The old ones are closed. */
static void notifiers_change(const struct peer *peer)
{
	pid_t pid = peer->start(2);
	struct device_rig rig;

	rig_init(&rig, socket_path);
	rig_realize(&rig);
	rig_start(&rig, 2);
	for (unsigned i = 1; i <= 10; i++) {
		unsigned q = i % 2;

		vublk_fd_close(&rig.kicks[q]);
		vublk_fd_close(&rig.callfds[q]);
		rig.kicks[q] = vublk_eventfd_new();
		rig.callfds[q] = vublk_eventfd_new();
		assert_int_equal(vublk_device_set_queue_kick(rig.device, q, rig.kicks[q], NULL), 1);
		assert_int_equal(vublk_device_set_queue_call(rig.device, q, rig.callfds[q], NULL),
				 1);
		rig_wait(&rig, RIG_NOTIFIERS_CHANGED, i);
		expect_seven(&rig, q);
	}
	rig_deinit(&rig);
	peer->end(pid);
}

/* A legacy driver kicks without setting DRIVER_OK. Only the back-end reads the kick. */
static void legacy_driver(const struct peer *peer)
{
	pid_t pid = peer->start(2);
	struct device_rig rig;

	rig_init(&rig, socket_path);
	rig.refused_features = VUBLK_BIT(VIRTIO_F_VERSION_1);
	rig_realize(&rig);
	vublk_device_set_status(rig.device, VIRTIO_CONFIG_S_DRIVER, NULL);
	rig_set_up(&rig, 2);
	vublk_eventfd_signal(rig.kicks[1]);
	rig_wait(&rig, RIG_STARTED, 1);
	expect_seven(&rig, 0);
	rig_stop(&rig);
	rig_deinit(&rig);
	peer->end(pid);
}

#define CASES(X) \
	X(realize_and_look) \
	X(requests) \
	X(start_again) \
	X(write_cache) \
	X(too_many_queues) \
	X(daemon_dies) \
	X(daemon_is_replaced) \
	X(resize) \
	X(memory_changes) \
	X(pauses) \
	X(notifiers_change) \
	X(legacy_driver)

#define DEFINE(name)                                                            \
	static void test_qsd_##name(void **state) { name(&qsd); }              \
	static void test_serve_##name(void **state) { name(&serve); }
CASES(DEFINE)

#define LIST(name) VUBLK_TEST(test_qsd_##name), VUBLK_TEST(test_serve_##name),

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		CASES(LIST)
		VUBLK_TEST(test_serve_requests_in_flight),
		VUBLK_TEST(test_serve_out_of_order),
		VUBLK_TEST(test_qsd_requests_in_flight),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
