/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Back-ends that kill themselves at a chosen point (src/util/kill-point.h), and the recovery by the
 * next back-end.
 *
 * Key idea: after a death the test overwrites the target of each request on the disk with other
 * data. A request whose completion the driver can see must not be executed again, so the other data
 * must stay. Any other request must still be executed, so its data must replace the other data. The
 * test also checks that each request completes once.
 */
#include "backend-rig.h"

#include "util/fd.h"

#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define REQUESTS 8
#define REQUEST_BYTES 1024
#define DISK_BYTES (1 << 20)
#define OVER_PUBLISHED 'P'
#define OVER_UNPUBLISHED 'U'

/* --- the back-end ----------------------------------------------------------- */

/* A back-end process, the front-end's end of its socket, and its output. */
struct child {
	pid_t pid;
	int socket_fd;
	int words_fd;
};

static const char *image_path(void)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/image", vublk_test_folder());
	return path;
}

static void exec_child(const char *point, const char *io, int socket_fd, int words_fd)
{
	char fd_option[32], file_option[160], io_option[32];

	prctl(PR_SET_PDEATHSIG, SIGKILL); /* so that the child ends with the case */
	fcntl(socket_fd, F_SETFD, 0);
	dup2(words_fd, STDERR_FILENO);
	if (point)
		setenv("VUBLK_KILL_POINT", point, 1);
	snprintf(fd_option, sizeof(fd_option), "--fd=%d", socket_fd);
	snprintf(file_option, sizeof(file_option), "--blk-file=%s", image_path());
	snprintf(io_option, sizeof(io_option), "io=%s", io);
	execl(VUBLK_KILL_PROGRAM, "vublk-kill", "serve", "-q", fd_option, file_option,
	      "--num-queues=4", "-o", "cache=buffered", "-o", io_option, NULL);
	_exit(127);
}

static void start_child(struct child *child, const char *point, const char *io)
{
	int sockets[2], words[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	assert_int_equal(pipe2(words, O_CLOEXEC), 0);
	child->socket_fd = sockets[0];
	child->words_fd = words[0];
	child->pid = fork();
	assert_true(child->pid >= 0);
	if (!child->pid)
		exec_child(point, io, sockets[1], words[1]);
	close(sockets[1]);
	close(words[1]);
}

/*
 * Waits until the process has ended, stores its output in `words`, and returns its wait status.
 * Leaves the socket open, because the rig that uses it closes it.
 */
static int end_child(struct child *child, char *words, size_t bytes)
{
	size_t length = 0;
	ssize_t n;
	int status;

	while ((n = read(child->words_fd, words + length, bytes - 1 - length)) > 0)
		length += (size_t)n;
	words[length] = '\0';
	vublk_fd_close(&child->words_fd);
	assert_int_equal(waitpid(child->pid, &status, 0), child->pid);
	return status;
}

/*
 * Checks that the process was killed, and waits for the lock of the image, because the kernel keeps
 * the lock until all I/O of the killed process has completed.
 */
static void expect_killed(struct child *child, const char *point)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	char words[1024];
	int status = end_child(child, words, sizeof(words));
	int fd;

	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
		fail_msg("%s: status 0x%x: %s", point, (unsigned)status, words);
	fd = open(image_path(), O_RDWR | O_CLOEXEC);
	assert_int_equal(fcntl(fd, F_OFD_SETLKW, &lock), 0);
	close(fd);
}

/* --- a driver's requests ------------------------------------------------------ */

struct scene {
	const char *io;
	unsigned num_queues;
	struct backend_rig rig;
	struct rig_area area;
	int image_fd;
	bool published[REQUESTS]; /* whether the driver could see the completion after the last
				     death */
};

/*
 * Requests are numbered across all queues. queue_of() returns the queue of request `i`, and
 * token_of() returns the request's token in that queue.
 */
static unsigned queue_of(const struct scene *scene, unsigned i)
{
	return i % scene->num_queues;
}

static uint16_t token_of(const struct scene *scene, unsigned i)
{
	return (uint16_t)(i / scene->num_queues);
}

static unsigned per_queue(const struct scene *scene)
{
	return REQUESTS / scene->num_queues;
}

static void open_scene(struct scene *scene, const char *io, unsigned num_queues)
{
	*scene = (struct scene){ .io = io, .num_queues = num_queues };
	scene->image_fd = open(image_path(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(scene->image_fd >= 0);
	assert_int_equal(ftruncate(scene->image_fd, DISK_BYTES), 0);
}

/* Enables a queue without an acknowledgement, because the back-end may already be dead. */
static void enable_queue(struct backend_rig *rig, unsigned index)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, VUBLK_VU_SET_VRING_ENABLE);
	message.payload.state.index = index;
	message.payload.state.num = 1;
	message.header.size = sizeof(message.payload.state);
	vublk_channel_send(&rig->channel, &message, NULL);
}

/* Starts the queues of the first back-end, and publishes all requests together. */
static void give_requests(struct scene *scene, const struct child *child)
{
	struct backend_rig *rig = &scene->rig;

	rig_attach(rig, child->socket_fd);
	rig_negotiate(rig);
	assert_int_equal(rig_set_mem_table(rig), 0);
	rig_get_area(rig, &scene->area);
	assert_int_equal(rig_set_area(rig, &scene->area), 0);
	for (unsigned q = 0; q < scene->num_queues; q++)
		rig_start_queue(rig, q, RIG_SIZE, 0);
	for (unsigned i = 0; i < REQUESTS; i++) {
		unsigned q = queue_of(scene, i);
		uint16_t token = token_of(scene, i);

		memset(rig_data(rig, q) + token * REQUEST_BYTES, 'a' + (char)i, REQUEST_BYTES);
		rig_add(rig, q, token, VIRTIO_BLK_T_OUT, i * REQUEST_BYTES / 512,
			token * REQUEST_BYTES, REQUEST_BYTES);
	}
	for (unsigned q = 0; q < scene->num_queues; q++)
		rig_kick(rig, q);
}

/* Connects the next back-end, with memory, rings and area as its predecessor has left them. */
static void hand_over(struct scene *scene, const struct child *child)
{
	struct backend_rig *rig = &scene->rig;

	rig_attach_again(rig, child->socket_fd);
	rig_negotiate(rig);
	assert_int_equal(rig_set_mem_table(rig), 0);
	assert_int_equal(rig_set_area(rig, &scene->area), 0);
	for (unsigned q = 0; q < scene->num_queues; q++) {
		assert_int_equal(rig_describe_queue(rig, q, rig->queues[q].ring.used->idx), 0);
		vublk_eventfd_clear(rig->queues[q].call_fd);
	}
	for (unsigned q = 0; q < scene->num_queues; q++)
		enable_queue(rig, q);
}

/* --- what a death leaves ------------------------------------------------------ */

static bool is_published(const struct scene *scene, unsigned i)
{
	const struct rig_queue *queue = &scene->rig.queues[queue_of(scene, i)];
	uint32_t head = queue->ring.avail->ring[token_of(scene, i)];

	for (unsigned k = 0; k < queue->ring.used->idx; k++)
		if (queue->ring.used->ring[k].id == head)
			return true;
	return false;
}

static void check_content(const struct scene *scene, unsigned i, char expected, const char *point)
{
	char got[REQUEST_BYTES];

	assert_int_equal(pread(scene->image_fd, got, sizeof(got), i * REQUEST_BYTES),
			 sizeof(got));
	for (unsigned k = 0; k < sizeof(got); k++)
		if (got[k] != expected)
			fail_msg("%s: request %u left '%c', not '%c'", point, i, got[k], expected);
}

/*
 * Checks the data of each request whose completion the driver can see, and overwrites the target of
 * every request on the disk with other data. Returns the number of requests whose completion the
 * driver cannot see.
 */
static unsigned write_over(struct scene *scene, const char *point)
{
	unsigned unpublished = 0;
	char over[REQUEST_BYTES];

	for (unsigned i = 0; i < REQUESTS; i++) {
		bool published = is_published(scene, i);

		if (published)
			check_content(scene, i,
				      scene->published[i] ? OVER_PUBLISHED : 'a' + (char)i, point);
		else
			unpublished++;
		memset(over, published ? OVER_PUBLISHED : OVER_UNPUBLISHED, sizeof(over));
		assert_int_equal(pwrite(scene->image_fd, over, sizeof(over), i * REQUEST_BYTES),
				 sizeof(over));
		scene->published[i] = published;
	}
	return unpublished;
}

/* Checks that all requests have completed exactly once, and that the last back-end still serves. */
static void check_recovery(struct scene *scene, const char *point)
{
	struct backend_rig *rig = &scene->rig;
	unsigned taken[REQUESTS] = { 0 };

	for (unsigned i = 0; i < REQUESTS; i++) {
		unsigned q = queue_of(scene, i);

		taken[rig_take(rig, q, NULL) * scene->num_queues + q]++;
	}
	for (unsigned i = 0; i < REQUESTS; i++) {
		assert_int_equal(taken[i], 1);
		assert_int_equal(rig_status(rig, queue_of(scene, i), token_of(scene, i)),
				 VIRTIO_BLK_S_OK);
	}
	for (unsigned q = 0; q < scene->num_queues; q++) {
		assert_int_equal(rig_io(rig, q, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
		assert_int_equal(rig_get_base(rig, q), per_queue(scene) + 1);
		assert_false(vublk_driver_ring_has_completion(&rig->queues[q].driver));
		assert_int_equal(rig_count_inflight(&scene->area, q), 0);
		assert_int_equal(rig_area_region(&scene->area, q)->used_idx,
				 per_queue(scene) + 1);
	}
	for (unsigned i = 0; i < REQUESTS; i++)
		check_content(scene, i, scene->published[i] ? OVER_PUBLISHED : 'a' + (char)i,
			      point);
}

/* Checks that the next back-end calls the driver even if no request was left. */
static void check_called(struct scene *scene)
{
	for (unsigned q = 0; q < scene->num_queues; q++) {
		struct pollfd wait = { .fd = scene->rig.queues[q].call_fd, .events = POLLIN };

		assert_int_equal(poll(&wait, 1, -1), 1);
	}
}

static void recover(struct scene *scene, const char *point)
{
	struct child child;
	char words[1024];
	int status;

	start_child(&child, NULL, scene->io);
	hand_over(scene, &child);
	check_called(scene);
	check_recovery(scene, point);
	rig_close(&scene->rig);
	status = end_child(&child, words, sizeof(words));
	if (status)
		fail_msg("%s: the last back-end ended with 0x%x: %s", point, (unsigned)status,
			 words);
	rig_drop_area(&scene->area);
	close(scene->image_fd);
}

/* --- cases -------------------------------------------------------------------- */

/*
 * The state that a death at `point` leaves. It is always the same, because all requests are one
 * batch, which the blocking method executes in ring order.
 */
struct left {
	const char *point;
	unsigned used_idx;   /* the ring's used index */
	unsigned inflight;   /* the number of requests in flight according to the area */
	unsigned noted_used; /* the used index that the area has recorded */
};

static const struct left lefts[] = {
	{ "after-fetch", 0, 1, 0 },
	{ "after-fetch:5", 0, 5, 0 },
	{ "after-fetch:8", 0, 8, 0 },
	{ "after-io", 0, 8, 0 },
	{ "after-io:8", 0, 8, 0 },
	{ "after-status", 0, 8, 0 },
	{ "after-status:8", 0, 8, 0 },
	{ "after-used-element", 0, 8, 0 },
	{ "after-used-element:5", 0, 8, 0 },
	{ "after-used-element:8", 0, 8, 0 },
	{ "after-used-index", 8, 8, 0 },
	{ "after-inflight-clear", 8, 7, 0 },
	{ "after-inflight-clear:5", 8, 3, 0 },
	{ "after-inflight-clear:8", 8, 0, 0 },
	{ "before-call", 8, 0, 8 },
};

static void test_left_by_a_batch(void **state)
{
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(lefts); i++) {
		const struct left *left = &lefts[i];
		struct scene scene;
		struct child child;

		open_scene(&scene, "blocking", 1);
		start_child(&child, left->point, scene.io);
		give_requests(&scene, &child);
		expect_killed(&child, left->point);
		if (scene.rig.queues[0].ring.used->idx != left->used_idx ||
		    rig_count_inflight(&scene.area, 0) != left->inflight ||
		    scene.area.region->used_idx != left->noted_used)
			fail_msg("%s left %u published, %u in flight, %u noted as published",
				 left->point, scene.rig.queues[0].ring.used->idx,
				 rig_count_inflight(&scene.area, 0), scene.area.region->used_idx);
		assert_int_equal(write_over(&scene, left->point), REQUESTS - left->used_idx);
		recover(&scene, left->point);
	}
}

static const char *const points[] = {
	"after-fetch", "after-fetch:5", "after-io", "after-io:5", "after-status", "after-status:8",
	"after-used-element", "after-used-element:3", "after-used-index", "after-inflight-clear",
	"after-inflight-clear:3", "before-call",
};

/*
 * Uses two queues. The first back-end dies at `first`. If requests are left, the next back-end dies
 * at `second`.
 */
static void die_twice(const char *io, const char *first, const char *second)
{
	struct scene scene;
	struct child child;
	unsigned left;
	char both[64];

	snprintf(both, sizeof(both), "%s, %s", first, second);
	open_scene(&scene, io, 2);
	start_child(&child, first, io);
	give_requests(&scene, &child);
	expect_killed(&child, both);
	left = write_over(&scene, both);
	if (left) {
		start_child(&child, second, io);
		hand_over(&scene, &child);
		expect_killed(&child, both);
		write_over(&scene, both);
	}
	recover(&scene, both);
}

/*
 * Runs die_twice() for each pair of points. A point with a count N is never the second, because the
 * second back-end may have fewer than N requests.
 */
static void die_at_each_two(const char *io)
{
	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(points); i++)
		for (size_t k = 0; k < VUBLK_ARRAY_SIZE(points); k++)
			if (!strchr(points[k], ':'))
				die_twice(io, points[i], points[k]);
}

static void test_dies_twice(void **state)
{
	die_at_each_two("auto");
}

static void test_dies_twice_blocking(void **state)
{
	die_at_each_two("blocking");
}

/* --- a front-end that leaves a stopped back-end ------------------------------------- */

/* Returns whether each thread of a process is in state S of /proc/PID/task/TID/stat. */
static bool sleeps(pid_t pid)
{
	char path[64], line[512];
	bool all = true;
	glob_t tasks;

	snprintf(path, sizeof(path), "/proc/%d/task/*/stat", (int)pid);
	assert_int_equal(glob(path, 0, NULL, &tasks), 0);
	for (size_t i = 0; i < tasks.gl_pathc; i++) {
		FILE *stat = fopen(tasks.gl_pathv[i], "r");

		assert_non_null(stat);
		assert_non_null(fgets(line, sizeof(line), stat));
		all &= !strncmp(strrchr(line, ')'), ") S", 3);
		fclose(stat);
	}
	globfree(&tasks);
	return all;
}

/* Waits until the back-end has read the last kick and all its threads sleep. */
static void wait_until_asleep(const struct backend_rig *rig, const struct child *child)
{
	struct pollfd kick = { .fd = rig->queues[0].kick_fd, .events = POLLIN };

	while (poll(&kick, 1, 0) || !sleeps(child->pid))
		sched_yield();
}

/*
 * A front-end disconnects from a back-end whose process is stopped. When the process continues, the
 * back-end must not take the chains that the driver has added meanwhile.
 */
static void leave_while_stopped(const char *io)
{
	struct scene scene;
	struct child child;
	char words[1024];

	open_scene(&scene, io, 1);
	start_child(&child, NULL, io);
	rig_attach(&scene.rig, child.socket_fd);
	rig_start(&scene.rig);
	assert_int_equal(rig_io(&scene.rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	wait_until_asleep(&scene.rig, &child);
	vublk_test_suspend(child.pid);
	memset(rig_data(&scene.rig, 0), 'x', REQUEST_BYTES);
	for (uint16_t i = 0; i < REQUESTS; i++)
		rig_add(&scene.rig, 0, i, VIRTIO_BLK_T_OUT, i * REQUEST_BYTES / 512, 0,
			REQUEST_BYTES);
	rig_kick(&scene.rig, 0);
	shutdown(scene.rig.channel.fd, SHUT_RDWR);
	kill(child.pid, SIGCONT);
	assert_int_equal(end_child(&child, words, sizeof(words)), 0);
	assert_int_equal(scene.rig.queues[0].ring.used->idx, 1);
	for (unsigned i = 0; i < REQUESTS; i++)
		check_content(&scene, i, '\0', "left while stopped");
	rig_close(&scene.rig);
	close(scene.image_fd);
}

static void test_left_while_stopped(void **state)
{
	for (unsigned i = 0; i < 20; i++)
		leave_while_stopped(i % 2 ? "auto" : "blocking");
}

/* --- the points ----------------------------------------------------------------- */

static void check_refused(const char *point, const char *expected)
{
	struct child child;
	char words[1024];
	int status;

	start_child(&child, point, "auto");
	status = end_child(&child, words, sizeof(words));
	vublk_fd_close(&child.socket_fd);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 2);
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
		VUBLK_TEST(test_left_by_a_batch),
		VUBLK_TEST(test_left_while_stopped),
		VUBLK_TEST_LONG(test_dies_twice, 240),
		VUBLK_TEST_LONG(test_dies_twice_blocking, 240),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
