/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A running guest migrates to another process. Its memory is copied in rounds: the first round
 * copies every page, and each later round copies the pages that the disk or the processor has
 * written since. Then the device is paused, saved, loaded, and resumed with another back-end on the
 * same disk.
 *
 * Key idea: the guest checks everything that it has read and written, so at the destination it
 * notices a page that was not copied. Source and destination are two processes, connected by a
 * socket. Each starts its own vublk serve.
 */
#include "harness.h"

#include "mock/device-rig.h"
#include "mock/migrant.h"

#include "device/device.h"
#include "proto/vhost-user/channel.h"
#include "util/checked.h"
#include "util/fd.h"
#include "util/loop.h"
#include "util/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define FIRST_PAGE (MIGRANT_GUEST_ADDR / MIGRANT_PAGE)
#define WORDS (MIGRANT_PAGES / 64)
#define ROUNDS 4

/* How the source ends. */
enum way {
	DRAINED,   /* all requests of the source are complete */
	UNDRAINED, /* requests stay in flight (GET_VRING_BASE_INFLIGHT) */
	KILLED,    /* the back-end of the source is killed with requests in flight */
	DIED,      /* the back-end of the source kills itself at the point `dies` */
	FORGETFUL, /* like DRAINED, but one dirty page is not copied */
};

/* The exit status of the process at the destination. */
enum { ALL_WELL = 0, WRONG = 42 };

/* --- one side --------------------------------------------------------------------------------- */

struct side {
	char socket_path[300], disk_path[300];
	pid_t serve;
	/* The point at which this side's back-end kills itself (kill-point.h); NULL: none. */
	const char *dies;
	struct device_rig rig;
	int memfd, calls[MIGRANT_QUEUES];
	struct migrant guest;
};

/*
 * Waits until the kernel has released the lock of a killed back-end. Until then, a new back-end
 * would be refused.
 */
static void wait_for_lock(const struct side *side)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	int fd = open(side->disk_path, O_RDWR | O_CLOEXEC);

	assert_int_equal(fcntl(fd, F_OFD_SETLKW, &lock), 0);
	close(fd);
}

static void start_serve(struct side *side)
{
	char fd_option[40], file_option[350];
	int fd;

	wait_for_lock(side);
	fd = vublk_socket_listen(side->socket_path, NULL);
	assert_true(fd >= 0);
	snprintf(fd_option, sizeof(fd_option), "--fd=%d", fd);
	snprintf(file_option, sizeof(file_option), "--blk-file=%s", side->disk_path);
	side->serve = fork();
	if (!side->serve) {
		fcntl(fd, F_SETFD, 0);
		if (side->dies)
			setenv("VUBLK_KILL_POINT", side->dies, 1);
		execl(side->dies ? VUBLK_KILL_PROGRAM : VUBLK_PROGRAM, "vublk", "serve", "-q",
		      fd_option, file_option, "--num-queues=2", (char *)NULL);
		_exit(127);
	}
	close(fd);
}

static void end_serve(struct side *side, int signal)
{
	if (side->serve <= 0)
		return;
	kill(side->serve, signal);
	assert_int_equal(waitpid(side->serve, NULL, 0), side->serve);
	side->serve = 0;
}

/* Makes a side's paths, and the memory and eventfds of its guest, but no device. */
static void make_side(struct side *side, const char *name)
{
	snprintf(side->socket_path, sizeof(side->socket_path), "%s/%s", vublk_test_folder(), name);
	snprintf(side->disk_path, sizeof(side->disk_path), "%s/disk", vublk_test_folder());
	side->memfd = vublk_memfd_new("guest", MIGRANT_BYTES, NULL);
	assert_true(side->memfd >= 0);
	side->guest.memory = vublk_map_shared(side->memfd, 0, MIGRANT_BYTES, NULL);
	assert_non_null(side->guest.memory);
	for (unsigned i = 0; i < MIGRANT_QUEUES; i++) {
		side->guest.kicks[i] = vublk_eventfd_new();
		side->calls[i] = vublk_eventfd_new();
	}
}

/* Starts the side's back-end, and makes a device for it. No other back-end may use the disk. */
static void open_side(struct side *side, enum way way)
{
	start_serve(side);
	rig_init(&side->rig, side->socket_path);
	rig_set(&side->rig, "reconnect-ms", "100");
	rig_set(&side->rig, "num-queues", "2");
	rig_set(&side->rig, "inflight-migration", way == UNDRAINED ? "on" : "off");
}

static void close_side(struct side *side)
{
	rig_deinit(&side->rig);
	end_serve(side, SIGTERM);
	vublk_unmap(side->guest.memory, MIGRANT_BYTES);
	vublk_fd_close(&side->memfd);
	vublk_fd_close_all(side->guest.kicks, MIGRANT_QUEUES);
	vublk_fd_close_all(side->calls, MIGRANT_QUEUES);
}

static void set_memory(struct side *side)
{
	struct vublk_memory_region region = { MIGRANT_GUEST_ADDR, MIGRANT_BYTES, side->memfd, 0 };

	assert_int_equal(vublk_device_set_memory(side->rig.device, &region, 1, NULL), 0);
}

/*
 * Sleeps until the device or a queue has an event, then processes it. If no event comes, the
 * harness's time limit ends the case.
 */
static void wait_for_news(struct side *side)
{
	struct pollfd fds[1 + MIGRANT_QUEUES] = { { vublk_device_fd(side->rig.device), POLLIN, 0 } };

	for (unsigned i = 0; i < MIGRANT_QUEUES; i++)
		fds[1 + i] = (struct pollfd){ side->calls[i], POLLIN, 0 };
	poll(fds, VUBLK_ARRAY_SIZE(fds), -1);
	for (unsigned i = 0; i < MIGRANT_QUEUES; i++)
		vublk_eventfd_clear(side->calls[i]);
	assert_int_equal(vublk_device_process(side->rig.device), 0);
}

/* Runs the guest until `requests` more requests are complete. */
static void run_guest(struct side *side, unsigned requests)
{
	uint64_t until = migrant_num_done(&side->guest) + requests;

	while (migrant_num_done(&side->guest) < until) {
		migrant_submit(&side->guest);
		if (!migrant_collect(&side->guest))
			wait_for_news(side);
	}
}

/* Runs the guest until the device has lost its back-end. */
static void run_guest_until_lost(struct side *side)
{
	while (!side->rig.calls[RIG_LOST]) {
		migrant_submit(&side->guest);
		if (!migrant_collect(&side->guest))
			wait_for_news(side);
	}
}

/* Runs the guest, without new requests, until no request is outstanding. */
static void let_guest_finish(struct side *side)
{
	while (!migrant_is_idle(&side->guest))
		if (!migrant_collect(&side->guest))
			wait_for_news(side);
}

/* --- the wire ----------------------------------------------------------------------------------- */

enum kind { PAGE, STREAM };

struct header {
	uint32_t kind, page;
	uint64_t bytes;
};

static void send_all(int fd, const void *data, size_t bytes)
{
	const char *at = data;

	while (bytes) {
		ssize_t n = send(fd, at, bytes, MSG_NOSIGNAL);

		assert_true(n > 0);
		at += n;
		bytes -= (size_t)n;
	}
}

static void receive_all(int fd, void *data, size_t bytes)
{
	if (bytes)
		assert_int_equal(recv(fd, data, bytes, MSG_WAITALL), bytes);
}

static void send_message(int fd, enum kind kind, unsigned page, const void *data, size_t bytes)
{
	struct header header = { kind, page, bytes };

	send_all(fd, &header, sizeof(header));
	send_all(fd, data, bytes);
}

/* --- the source ----------------------------------------------------------------------------------- */

struct copy {
	int fd;
	char *sent; /* the content that the destination has */
	unsigned num_pages;
	bool forgets; /* the copy omits one dirty page */
	bool has_forgotten;
};

static void send_page(struct side *side, struct copy *copy, unsigned page)
{
	size_t at = (size_t)page * MIGRANT_PAGE;

	memcpy(copy->sent + at, side->guest.memory + at, MIGRANT_PAGE);
	send_message(copy->fd, PAGE, page, copy->sent + at, MIGRANT_PAGE);
	copy->num_pages++;
}

/*
 * Returns whether to omit this page. The copy omits only one page, which has changed and which the
 * guest will check, so the guest must notice the omission.
 */
static bool forget(struct side *side, struct copy *copy, unsigned page)
{
	size_t at = (size_t)page * MIGRANT_PAGE;

	if (!copy->forgets || copy->has_forgotten || !migrant_remembers(&side->guest, page) ||
	    !memcmp(copy->sent + at, side->guest.memory + at, MIGRANT_PAGE))
		return false;
	copy->has_forgotten = true;
	return true;
}

/*
 * Copies the dirty pages. Takes and clears the log before it reads the pages, so that later writes
 * set the bits again.
 */
static void copy_dirty_pages(struct side *side, struct copy *copy)
{
	uint64_t bits[WORDS];

	assert_int_equal(vublk_device_dirty_log_take(side->rig.device, FIRST_PAGE, MIGRANT_PAGES,
						     bits, NULL), 0);
	for (unsigned i = 0; i < WORDS; i++) {
		bits[i] |= side->guest.written[i];
		side->guest.written[i] = 0;
	}
	for (unsigned page = 0; page < MIGRANT_PAGES; page++)
		if (bits[page / 64] & UINT64_C(1) << page % 64 && !forget(side, copy, page))
			send_page(side, copy, page);
}

static void start_guest(struct side *side)
{
	uint64_t features;

	rig_realize(&side->rig);
	set_memory(side);
	features = vublk_device_features(side->rig.device) &
		   ~(VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX) | VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC));
	assert_int_equal(vublk_device_ack_features(side->rig.device, features, NULL), 0);
	for (unsigned i = 0; i < MIGRANT_QUEUES; i++) {
		struct vublk_device_queue queue = {
			.size = MIGRANT_RING_SIZE,
			.desc_addr = migrant_desc_addr(i),
			.avail_addr = migrant_avail_addr(i),
			.used_addr = migrant_used_addr(i),
			.kick_fd = side->guest.kicks[i],
			.call_fd = side->calls[i],
		};

		assert_int_equal(vublk_device_set_queue(side->rig.device, i, &queue, sizeof(queue),
							NULL), 0);
	}
	migrant_boot(&side->guest);
	assert_int_equal(vublk_device_set_status(side->rig.device, VIRTIO_CONFIG_S_DRIVER_OK, NULL), 0);
	rig_wait(&side->rig, RIG_STARTED, 1);
}

/*
 * Stops the guest with as many requests outstanding as possible. The guest must not run again on
 * this side.
 */
static void stop_guest(struct side *side, enum way way)
{
	if (way == DIED)
		run_guest_until_lost(side);
	else
		migrant_submit(&side->guest);
	if (way == KILLED || way == DIED) {
		end_serve(side, SIGKILL);
		rig_wait(&side->rig, RIG_LOST, 1);
		wait_for_lock(side); /* the kernel may still execute the back-end's requests */
		vublk_device_set_vm_running(side->rig.device, false);
		return;
	}
	assert_int_equal(vublk_device_set_vm_running(side->rig.device, false), 1);
	rig_wait(&side->rig, RIG_STOPPED, 1);
	assert_int_equal(side->rig.errors[RIG_STOPPED].code, 0);
}

/*
 * Checks that all pages which the log did not name are unchanged. Does nothing if a page was
 * omitted, or if the back-end was killed, because the back-end may have written further pages.
 */
static void expect_copied(const struct side *side, const struct copy *copy, enum way way)
{
	for (unsigned page = 0; page < MIGRANT_PAGES && way <= UNDRAINED; page++)
		if (memcmp(copy->sent + (size_t)page * MIGRANT_PAGE,
			   side->guest.memory + (size_t)page * MIGRANT_PAGE, MIGRANT_PAGE))
			fail_msg("page %u was written, and is not in the dirty log", page);
}

static void send_device(struct side *side, int fd)
{
	struct vublk_error error;
	size_t bytes;
	void *stream;

	if (vublk_device_save(side->rig.device, &stream, &bytes, &error) < 0)
		fail_msg("%s", error.text);
	vublk_device_unrealize(side->rig.device);
	end_serve(side, SIGTERM); /* the destination uses the disk from here on */
	send_message(fd, STREAM, 0, stream, bytes);
	free(stream);
}

static void run_source(int fd, enum way way, const char *dies)
{
	struct side side = { .dies = dies };
	struct copy copy = { .fd = fd, .sent = calloc(1, MIGRANT_BYTES) };
	struct vublk_error error;
	int r;

	make_side(&side, "source");
	open_side(&side, way);
	start_guest(&side);
	run_guest(&side, 200);
	r = vublk_device_dirty_log_start(side.rig.device, NULL, 0, &error);
	if (r < 0)
		fail_msg("%s", error.text);
	rig_wait(&side.rig, RIG_DIRTY_LOG_CHANGED, 1);
	for (unsigned page = 0; page < MIGRANT_PAGES; page++) {
		send_page(&side, &copy, page);
		if (page % 16 == 0)
			run_guest(&side, 10);
	}
	for (unsigned i = 0; i < ROUNDS; i++) {
		copy_dirty_pages(&side, &copy);
		run_guest(&side, 50);
	}
	assert_true(copy.num_pages < MIGRANT_PAGES * 3); /* later rounds copy only a part */
	stop_guest(&side, way);
	copy.forgets = way == FORGETFUL;
	copy_dirty_pages(&side, &copy);
	assert_int_equal(copy.has_forgotten, copy.forgets);
	expect_copied(&side, &copy, way);
	assert_int_equal(migrant_num_wrong(&side.guest), 0);
	printf("%u pages were sent, %u of them after the first round\n", copy.num_pages,
	       copy.num_pages - MIGRANT_PAGES);
	send_device(&side, fd);
	free(copy.sent);
	close_side(&side);
}

/* --- the destination --------------------------------------------------------------------------------- */

/* Receives pages until the device's stream arrives. Returns the stream, which the caller frees. */
static void *receive_guest(struct side *side, int fd, size_t *bytes)
{
	for (;;) {
		struct header header;

		receive_all(fd, &header, sizeof(header));
		if (header.kind == STREAM) {
			void *stream = malloc(header.bytes);

			receive_all(fd, stream, header.bytes);
			*bytes = header.bytes;
			return stream;
		}
		assert_true(header.page < MIGRANT_PAGES && header.bytes == MIGRANT_PAGE);
		receive_all(fd, side->guest.memory + header.page * MIGRANT_PAGE, MIGRANT_PAGE);
	}
}

static void load_device(struct side *side, const void *stream, size_t bytes)
{
	struct vublk_device *device = side->rig.device;
	struct vublk_error error;

	vublk_device_set_vm_running(device, false);
	rig_realize(&side->rig);
	if (vublk_device_load(device, stream, bytes, &error) < 0)
		fail_msg("%s", error.text);
	set_memory(side);
	for (unsigned i = 0; i < MIGRANT_QUEUES; i++) {
		assert_int_equal(vublk_device_set_queue_kick(device, i, side->guest.kicks[i], NULL), 0);
		assert_int_equal(vublk_device_set_queue_call(device, i, side->calls[i], NULL), 0);
	}
	assert_int_equal(vublk_device_set_vm_running(device, true), 1);
	rig_wait(&side->rig, RIG_STARTED, 1);
	assert_int_equal(side->rig.calls[RIG_NEEDS_RESET], 0);
}

static void expect_disk(const struct side *side)
{
	int fd = open(side->disk_path, O_RDONLY | O_CLOEXEC);
	static char page[MIGRANT_PAGE];

	for (unsigned i = 0; i < MIGRANT_QUEUES * MIGRANT_SLOTS; i++) {
		assert_int_equal(pread(fd, page, sizeof(page), i * MIGRANT_PAGE), sizeof(page));
		assert_true(migrant_owns(&side->guest, i / MIGRANT_SLOTS, i % MIGRANT_SLOTS, page));
	}
	close(fd);
}

/*
 * Runs the guest at the destination: its outstanding requests and new ones have to complete, with
 * the right data. Returns ALL_WELL or WRONG.
 */
static int run_destination(int fd, enum way way)
{
	struct side side = { 0 };
	unsigned wrong;
	size_t bytes;
	void *stream;

	make_side(&side, "destination");
	stream = receive_guest(&side, fd, &bytes);
	open_side(&side, way);
	load_device(&side, stream, bytes);
	free(stream);
	run_guest(&side, 300);
	let_guest_finish(&side);
	migrant_verify(&side.guest);
	wrong = migrant_num_wrong(&side.guest);
	printf("%u of the guest's requests were complete, %u things were wrong\n",
	       (unsigned)migrant_num_done(&side.guest), wrong);
	if (!wrong)
		expect_disk(&side);
	close_side(&side);
	return wrong ? WRONG : ALL_WELL;
}

/* --- both -------------------------------------------------------------------------------------------- */

static int migrate(enum way way, const char *dies)
{
	int sockets[2], status;
	pid_t destination;
	char disk_path[300];
	int disk;

	if (access(VUBLK_PROGRAM, X_OK) < 0)
		vublk_test_skip("the tool is not built");
	snprintf(disk_path, sizeof(disk_path), "%s/disk", vublk_test_folder());
	disk = open(disk_path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(disk, MIGRANT_DISK_BYTES), 0);
	close(disk);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	fflush(stdout);
	destination = fork();
	if (!destination) {
		close(sockets[0]);
		status = run_destination(sockets[1], way);
		fflush(stdout);
		_exit(status);
	}
	close(sockets[1]);
	run_source(sockets[0], way, dies);
	close(sockets[0]);
	assert_int_equal(waitpid(destination, &status, 0), destination);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void test_drained(void **state)
{
	assert_int_equal(migrate(DRAINED, NULL), ALL_WELL);
}

static void test_with_requests_in_flight(void **state)
{
	assert_int_equal(migrate(UNDRAINED, NULL), ALL_WELL);
}

static void test_after_the_loss_of_the_back_end(void **state)
{
	assert_int_equal(migrate(KILLED, NULL), ALL_WELL);
}

/*
 * The source's back-end dies at each of its kill points, late enough to be in the last round. The
 * destination's back-end executes the requests that had begun, but does not repeat a write that a
 * later write has overtaken.
 */
static void test_a_back_end_that_dies_anywhere(void **state)
{
	static const char *const places[] = {
		"after-fetch", "after-io", "after-status", "after-used-element",
		"after-used-index", "after-inflight-clear", "before-call",
	};

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(places); i++) {
		char dies[40];

		printf("the source's back-end dies %s\n", places[i]);
		snprintf(dies, sizeof(dies), "%s:700", places[i]);
		assert_int_equal(migrate(DIED, dies), ALL_WELL);
	}
}

/* Checks the test itself: the guest notices that a page was omitted. */
static void test_a_page_that_is_not_copied(void **state)
{
	assert_int_equal(migrate(FORGETFUL, NULL), WRONG);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_drained),
		VUBLK_TEST(test_with_requests_in_flight),
		VUBLK_TEST(test_after_the_loss_of_the_back_end),
		VUBLK_TEST_LONG(test_a_back_end_that_dies_anywhere, 240),
		VUBLK_TEST(test_a_page_that_is_not_copied),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
