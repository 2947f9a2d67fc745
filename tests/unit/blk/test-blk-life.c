/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The block API over the stand-in device: waiting, threads, events, and each way to close a disk.
 * test-blk.c tests the format of requests.
 */
#include "blk-rig.h"

#include "util/atomic.h"
#include "util/fd.h"

#include <vublk/blk.h>

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- waiting ------------------------------------------------------------------------------- */

static void test_wait_gives_up_in_time(void **state)
{
	struct vublk_blk *blk = set_up();
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	struct vublk_blk_completion c[4];

	assert_int_equal(vublk_blk_wait(queue, c, 1, 1, -1, &error), 0); /* none in flight */
	read_many(blk, 0, 2);
	assert_int_equal(vublk_blk_wait(queue, c, 1, 4, 0, &error), 0);
	assert_int_equal(vublk_blk_wait(queue, c, 1, 4, 1, &error), 0);
	fake_call(0); /* a call without a completion wakes the caller, which sleeps again */
	assert_int_equal(vublk_blk_wait(queue, c, 1, 4, 1, &error), 0);
	assert_int_equal(fake_serve(0, 1), 1);
	assert_int_equal(vublk_blk_wait(queue, c, 2, 4, 1, &error), 1);
	assert_int_equal(fake_serve(0, 1), 1);
	assert_int_equal(vublk_blk_wait(queue, c, 9, 4, -1, &error), 1); /* only one was in flight */
	tear_down(blk);
}

static void test_arm_and_sleep(void **state)
{
	struct vublk_blk *blk = set_up();
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	struct pollfd pollfd = { .fd = vublk_blk_queue_fd(queue), .events = POLLIN };
	struct vublk_blk_completion c[4];

	read_many(blk, 0, 3);
	assert_false(vublk_blk_arm(queue));
	assert_int_equal(poll(&pollfd, 1, 0), 0);
	assert_int_equal(fake_serve(0, 1), 1);
	assert_int_equal(poll(&pollfd, 1, 0), 1);
	assert_int_equal(vublk_blk_poll(queue, c, 4), 1);
	assert_false(vublk_blk_arm(queue)); /* clears the signal */
	assert_int_equal(poll(&pollfd, 1, 0), 0);
	assert_int_equal(fake_serve(0, 1), 1);
	assert_true(vublk_blk_arm(queue)); /* a completion came before the arm */
	assert_int_equal(vublk_blk_poll(queue, c, 4), 1);
	/* A caller that polls does not enable calls. */
	assert_int_equal(vublk_blk_poll(queue, c, 4), 0);
	assert_int_equal(fake_serve(0, 1), 1);
	assert_int_equal(poll(&pollfd, 1, 0), 0);
	assert_int_equal(vublk_blk_poll(queue, c, 4), 1);
	tear_down(blk);
}

/* A submit kicks the device only if the device has asked for another kick. */
static void test_one_kick_a_batch(void **state)
{
	struct vublk_blk *blk = set_up();
	unsigned before = fake_kicks(0);

	read_many(blk, 0, 8);
	assert_int_equal(fake_kicks(0), before + 1);
	read_many(blk, 0, 8); /* the device has not asked for another kick */
	assert_int_equal(fake_kicks(0), before + 1);
	assert_int_equal(fake_serve(0, 16), 16);
	assert_int_equal(vublk_blk_poll(vublk_blk_queue(blk, 0),
					(struct vublk_blk_completion[16]){ 0 }, 16), 16);
	tear_down(blk);
}

/* --- no system call per request ----------------------------------------------------------- */

#if defined(__SANITIZE_ADDRESS__) || defined(VUBLK_TSAN)
#define SANITIZED
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED
#endif
#endif

static volatile sig_atomic_t num_traps;

static void on_trap(int signal)
{
	num_traps++;
}

/*
 * From now on, traps and counts the system calls of this thread, except exit_group() and
 * rt_sigreturn().
 */
static void trap_system_calls(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_exit_group, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_rt_sigreturn, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
	};
	struct sock_fprog program = { VUBLK_ARRAY_SIZE(filter), filter };

	signal(SIGSYS, on_trap);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		_exit(77);
}

static void poll_without_system_calls(void)
{
	struct vublk_blk_completion c[4];
	struct vublk_blk_queue *queue;
	struct vublk_blk *blk;
	unsigned done = 0;
	char *buffer;

	fake_init(DISK_BYTES);
	fake_plan.queue_size = 64;
	blk = open_disk();
	queue = vublk_blk_queue(blk, 0);
	buffer = vublk_blk_alloc(blk, 64 * KIB, &error);
	read_many(blk, 0, 1); /* the first kick is always sent */
	fake_serve(0, 1);
	fake_disable_kicks(0);
	trap_system_calls();
	while (done < 20000) {
		vublk_blk_write(queue, 0, buffer, 512, 0, NULL, &error);
		vublk_blk_read(queue, 4096, buffer, 64 * KIB, 0, NULL, &error);
		vublk_blk_submit(queue);
		fake_serve(0, 9);
		for (int n = 1; n; done += (unsigned)n)
			n = vublk_blk_poll(queue, c, 4);
	}
	_exit(num_traps ? 1 : 0);
}

/* Runs in a child, because the filter cannot be removed. */
static void test_polling_makes_no_system_call(void **state)
{
	int status;
	pid_t pid;

#ifdef SANITIZED
	vublk_test_skip("a sanitizer makes system calls of its own");
#endif
	pid = fork();
	if (!pid)
		poll_without_system_calls();
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		vublk_test_skip("system calls cannot be filtered here");
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* --- threads --------------------------------------------------------------------------------- */

#define ROUNDS 400

struct worker {
	struct vublk_blk *blk;
	unsigned index;
	bool sleeps;
	pthread_t thread;
};

static void run_round(struct worker *w, char *buffer, uint64_t base, unsigned round)
{
	struct vublk_blk_queue *queue = vublk_blk_queue(w->blk, w->index);
	struct vublk_blk_completion c[4];
	uint64_t offset = base + round % 16 * 4096;
	unsigned n = 0;

	memset(buffer, (int)(round + w->index), 4096);
	assert_int_equal(vublk_blk_write(queue, offset, buffer, 4096, 0, NULL, NULL), 0);
	assert_int_equal(vublk_blk_write(queue, base + 65536, buffer + 8192, 512, 0, NULL, NULL), 0);
	vublk_blk_submit(queue);
	while (n < 2)
		n += (unsigned)(w->sleeps ? vublk_blk_wait(queue, c, 1, 4, -1, NULL) :
				vublk_blk_poll(queue, c, 4));
	assert_int_equal(vublk_blk_read(queue, offset, buffer + 4096, 4096, 0, NULL, NULL), 0);
	assert_int_equal(vublk_blk_wait(queue, c, 1, 4, -1, NULL), 1);
	assert_int_equal(c[0].result, 0);
	assert_memory_equal(buffer, buffer + 4096, 4096);
}

static void *work(void *opaque)
{
	struct worker *w = opaque;
	char *buffer = vublk_blk_alloc(w->blk, 3 * 4096, NULL);

	assert_non_null(buffer);
	for (unsigned round = 0; round < ROUNDS; round++)
		run_round(w, buffer, w->index * 128 * KIB, round);
	vublk_blk_release(w->blk, buffer, NULL);
	return NULL;
}

/* Several threads use queues while memory is added and released, and the disk is resized. */
static void test_threads(void **state)
{
	struct worker workers[4];
	struct vublk_blk *blk;

	fake_init(DISK_BYTES);
	fake_plan.num_queues = VUBLK_ARRAY_SIZE(workers);
	blk = open_disk();
	fake_start_threads();
	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(workers); i++) {
		workers[i] = (struct worker){ .blk = blk, .index = i, .sleeps = i & 1 };
		assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
	}
	for (unsigned i = 0; i < 50; i++) {
		void *buffer = vublk_blk_alloc(blk, 4096 * (1 + i % 3), NULL);
		struct vublk_blk_info info;

		vublk_blk_get_info(blk, &info, sizeof(info));
		if (i % 8 == 0)
			fake_resize(DISK_BYTES + i * 512);
		vublk_blk_release(blk, buffer, NULL);
	}
	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(workers); i++)
		pthread_join(workers[i].thread, NULL);
	assert_int_equal(vublk_blk_close(blk, -1, NULL), 0);
	fake_stop_threads();
	fake_deinit();
}

/* --- the back-end is lost --------------------------------------------------------------------- */

static void test_disconnect_fails_what_is_in_flight(void **state)
{
	struct vublk_blk *blk = set_up();
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	struct vublk_blk_completion c[8];
	char *buffer = vublk_blk_alloc(blk, 4096, &error);

	read_many(blk, 0, 5);
	assert_int_equal(fake_serve(0, 2), 2);
	fake_disconnect("the back-end hung up");
	wait_for_event(VUBLK_BLK_GAVE_UP);
	assert_string_equal(told.text, "the back-end hung up");
	assert_int_equal(told.close_result, -EBUSY);
	/*
	 * The requests that the back-end has completed come first, and then those that failed. Each
	 * wait returns at most `max`.
	 */
	for (int i = 0; i < 5; i++) {
		assert_int_equal(vublk_blk_wait(queue, c, 1, 1, -1, &error), 1);
		assert_int_equal(c[0].result, i < 2 ? 0 : -ENOTCONN);
		assert_ptr_equal(c[0].user_data, &told);
	}
	assert_int_equal(vublk_blk_in_flight(queue), 0);
	assert_int_equal(vublk_blk_wait(queue, c, 1, 8, -1, &error), 0);
	assert_int_equal(vublk_blk_read(queue, 0, buffer, 512, 0, NULL, &error), -ENOTCONN);
	assert_string_equal(error.text, "read: the back-end hung up");
	assert_false(vublk_blk_arm(queue));
	vublk_blk_submit(queue);
	/* Memory can still be allocated. */
	assert_non_null(vublk_blk_alloc(blk, 4096, &error));
	vublk_blk_release(blk, buffer, NULL);
	tear_down(blk);
	assert_int_equal(fake_num_stops, 0);
}

struct sleeper {
	struct vublk_blk_queue *queue;
	int got;
	struct vublk_blk_completion taken[4];
};

static void *sleep_for_completion(void *opaque)
{
	struct sleeper *s = opaque;

	s->got = vublk_blk_wait(s->queue, s->taken, 4, 4, -1, NULL);
	return NULL;
}

static void test_disconnect_wakes_who_waits(void **state)
{
	struct vublk_blk *blk = set_up();
	struct sleeper s = { .queue = vublk_blk_queue(blk, 0) };
	pthread_t thread;

	read_many(blk, 0, 4);
	assert_int_equal(pthread_create(&thread, NULL, sleep_for_completion, &s), 0);
	fake_disconnect("gone");
	pthread_join(thread, NULL);
	assert_int_equal(s.got, 4);
	for (int i = 0; i < 4; i++)
		assert_int_equal(s.taken[i].result, -ENOTCONN);
	tear_down(blk);
}

/* The back-end is lost while pieces of a request wait for room. The request fails, once. */
static void test_disconnect_with_pieces_waiting(void **state)
{
	struct vublk_blk_completion c[4];
	struct vublk_blk *blk;
	struct vublk_blk_queue *queue;
	char *buffer;

	fake_init(DISK_BYTES);
	fake_plan.queue_size = 4;
	fake_plan.features |= VUBLK_BIT(VIRTIO_BLK_F_SIZE_MAX);
	fake_plan.config.size_max = 512;
	fake_plan.config.seg_max = 1;
	blk = open_disk();
	queue = vublk_blk_queue(blk, 0);
	buffer = vublk_blk_alloc(blk, 64 * KIB, &error);
	for (int i = 0; i < 3; i++)
		assert_int_equal(vublk_blk_read(queue, 0, buffer, 64 * KIB, 0, NULL, &error), 0);
	vublk_blk_submit(queue);
	assert_int_equal(fake_serve(0, 3), 3);
	fake_disconnect("gone");
	wait_for_event(VUBLK_BLK_GAVE_UP);
	assert_int_equal(vublk_blk_wait(queue, c, 4, 4, -1, &error), 3);
	for (int i = 0; i < 3; i++)
		assert_int_equal(c[i].result, -ENOTCONN);
	tear_down(blk);
}

/* --- events ----------------------------------------------------------------------------------- */

static void test_resize(void **state)
{
	struct vublk_blk *blk = set_up();
	struct vublk_blk_queue *queue = vublk_blk_queue(blk, 0);
	char *buffer = vublk_blk_alloc(blk, 4096, &error);
	struct vublk_blk_info info;

	vublk_blk_get_info(blk, &info, sizeof(info));
	assert_int_equal(info.capacity_bytes, DISK_BYTES);
	assert_int_equal(info.config_generation, 0);
	assert_int_equal(vublk_blk_read(queue, DISK_BYTES, buffer, 512, 0, NULL, &error), -EINVAL);
	fake_resize(DISK_BYTES + 1024);
	wait_for_event(VUBLK_BLK_RESIZED);
	assert_int_equal(told.capacity_bytes, DISK_BYTES + 1024);
	vublk_blk_get_info(blk, &info, sizeof(info));
	assert_int_equal(info.config_generation, 1);
	assert_int_equal(vublk_blk_read(queue, DISK_BYTES, buffer, 512, 0, NULL, &error), 0);
	fake_resize(DISK_BYTES + 1024); /* the same capacity again is not a resize */
	wait_for_event(VUBLK_BLK_CONFIG_CHANGED);
	assert_int_equal(told.events[VUBLK_BLK_RESIZED], 0);
	assert_int_equal(vublk_blk_close(blk, 0, NULL), -ETIMEDOUT);
	fake_deinit();
}

static void test_write_cache(void **state)
{
	struct vublk_blk *blk = set_up();
	struct vublk_blk_info info;

	vublk_blk_get_info(blk, &info, sizeof(info));
	assert_true(info.write_cache);
	assert_int_equal(vublk_blk_set_write_cache(blk, true, &error), 0);
	assert_int_equal(vublk_blk_set_write_cache(blk, false, &error), 0);
	vublk_blk_get_info(blk, &info, sizeof(info));
	assert_false(info.write_cache);
	fake_plan.wce_error = EIO;
	assert_int_equal(vublk_blk_set_write_cache(blk, true, &error), -EIO);
	assert_string_equal(error.text, "no wce");
	tear_down(blk);
}

/* --- open and close --------------------------------------------------------------------------- */

static void open_fails(int code, const char *text)
{
	struct vublk_blk *blk = NULL;

	assert_int_equal(vublk_blk_open("socket", NULL, NULL, 0, &blk, &error), -code);
	assert_string_equal(error.text, text);
	assert_null(blk);
}

static void test_open_failures(void **state)
{
	const struct vublk_option chardev[] = { { "chardev", "x" }, { NULL } };
	const struct vublk_option fail_after[] = { { "fail-after-ms", "soon" }, { NULL } };
	const struct vublk_option unknown[] = { { "queue-size", "16" }, { "x", "y" }, { NULL } };
	const struct vublk_option bad_fd[] = { { "fd", "-1" }, { NULL } };
	const struct vublk_option small[] = { { "queue-size", "2" }, { NULL } };
	struct vublk_blk *blk = NULL;

	fake_init(DISK_BYTES);
	assert_int_equal(vublk_blk_open(NULL, NULL, NULL, 0, &blk, &error), -EINVAL);
	assert_int_equal(vublk_blk_open("", NULL, NULL, 0, &blk, &error), -EINVAL);
	assert_string_equal(error.text, "cannot open a disk without a socket; pass the path of a "
			    "socket, or a connected descriptor (option fd)");
	assert_int_equal(vublk_blk_open(NULL, bad_fd, NULL, 0, &blk, &error), -EINVAL);
	assert_string_equal(error.text, "fd must be a whole number from 0 to 2147483647, not '-1'");
	assert_int_equal(vublk_blk_open("s", chardev, NULL, 0, &blk, &error), -EINVAL);
	assert_string_equal(error.text, "chardev is not an option here, because the path argument "
			    "names the socket");
	assert_int_equal(vublk_blk_open("s", fail_after, NULL, 0, &blk, &error), -EINVAL);
	assert_int_equal(vublk_blk_open("s", unknown, NULL, 0, &blk, &error), -EINVAL);
	fake_plan.realize_error = ECONNREFUSED;
	assert_int_equal(vublk_blk_open("s", small, NULL, 0, &blk, &error), -EINVAL);
	assert_string_equal(error.text, "queue-size must be a whole number from 4 to 1024, not '2'");
	open_fails(ECONNREFUSED, "no realize");
	fake_plan.realize_error = 0;
	fake_plan.start_error = ETIMEDOUT;
	open_fails(ETIMEDOUT, "no start");
	fake_plan.start_error = 0;
	fake_plan.breaks_at_start = true;
	open_fails(EPROTO, "broken at the start");
	fake_plan.breaks_at_start = false;
	fake_plan.queue_size = 4;
	fake_plan.features |= VUBLK_BIT(VIRTIO_BLK_F_SIZE_MAX);
	fake_plan.config.seg_max = 1;
	fake_plan.config.size_max = 256;
	open_fails(ENOTSUP, "the back-end accepts at most 1 segment of 256 bytes per request, "
		   "which is less than one block (512 bytes)");
	fake_plan.config.capacity = UINT64_MAX;
	open_fails(EPROTO, "the back-end reports a capacity of 18446744073709551615 sectors, but a "
		   "disk can have at most 18014398509481983");
	fake_deinit();
}

/*
 * test_open_without_memory() makes each allocation of vublk_blk_open() fail in turn. Each time, the
 * open must fail with an error text and without a leak.
 */
static int allocations_left = -1; /* allocations until one fails; -1: none fails */

void *__real_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);

static bool allocation_fails(void)
{
	return allocations_left >= 0 && !allocations_left--;
}

void *__wrap_calloc(size_t count, size_t bytes)
{
	return allocation_fails() ? NULL : __real_calloc(count, bytes);
}

void *__wrap_aligned_alloc(size_t alignment, size_t bytes)
{
	return allocation_fails() ? NULL : __real_aligned_alloc(alignment, bytes);
}

static void test_open_without_memory(void **state)
{
	struct vublk_blk *blk = NULL;
	int r = -1;

	fake_init(DISK_BYTES);
	fake_plan.num_queues = 3;
	for (int n = 0; r; n++) {
		assert_true(n < 100);
		error.text[0] = '\0';
		allocations_left = n;
		r = vublk_blk_open("socket", NULL, NULL, 0, &blk, &error);
		assert_int_equal(r, allocations_left < 0 ? -ENOMEM : 0);
		assert_true(!r || error.text[0]);
	}
	allocations_left = 0;
	assert_null(vublk_blk_alloc(blk, 4096, &error));
	assert_int_equal(error.code, ENOMEM);
	allocations_left = -1;
	tear_down(blk);
}

static void test_close_gives_up(void **state)
{
	struct vublk_blk *blk = set_up();

	assert_int_equal(vublk_blk_close(NULL, 0, NULL), 0);
	read_many(blk, 0, 3);
	assert_int_equal(vublk_blk_close(blk, 5, NULL), -ETIMEDOUT);
	assert_int_equal(fake_num_stops, 1);
	fake_deinit();
}

static void test_close_waits(void **state)
{
	struct vublk_blk *blk = set_up();

	fake_start_threads();
	read_many(blk, 0, 16);
	assert_int_equal(vublk_blk_close(blk, -1, NULL), 0);
	fake_stop_threads();
	fake_deinit();
}

static void test_close_without_a_backend(void **state)
{
	struct vublk_blk *blk = set_up();

	read_many(blk, 0, 3);
	fake_disconnect("gone");
	wait_for_event(VUBLK_BLK_GAVE_UP);
	assert_int_equal(vublk_blk_close(blk, -1, NULL), -ENOTCONN);
	fake_deinit();
}

static void test_close_of_a_backend_that_does_not_stop(void **state)
{
	struct vublk_blk *blk;

	fake_init(DISK_BYTES);
	fake_plan.never_stops = true;
	blk = open_disk();
	assert_int_equal(vublk_blk_close(blk, 0, NULL), 0);
	fake_deinit();
}

/* Many writes of random lengths, with random iovecs. A part of each is read back. */
static void test_random(void **state)
{
	struct vublk_blk *blk;
	struct vublk_blk_queue *queue;
	struct vublk_blk_completion c;
	char *model = calloc(1, DISK_BYTES), *buffer, *back;

	fake_init(DISK_BYTES);
	blk = open_disk();
	queue = vublk_blk_queue(blk, 0);
	fake_start_threads();
	buffer = vublk_blk_alloc(blk, 256 * KIB, &error);
	back = vublk_blk_alloc(blk, 256 * KIB, &error);
	srand(1);
	for (unsigned round = 0; round < 300; round++) {
		uint64_t bytes = 512 * (1 + (uint64_t)rand() % (round % 8 ? 16 : 512));
		uint64_t offset = 512 * ((uint64_t)rand() % ((DISK_BYTES - bytes) / 512));
		struct iovec iov[9];
		size_t at = 0;

		for (int i = 0; i < 8; i++) {
			size_t part = at < bytes ? (size_t)rand() % (bytes - at) / 2 : 0;

			iov[i] = (struct iovec){ buffer + at, part };
			at += part;
		}
		iov[8] = (struct iovec){ buffer + at, bytes - at };
		for (size_t i = 0; i < bytes; i++)
			buffer[i] = (char)rand();
		memcpy(model + offset, buffer, bytes);
		assert_int_equal(vublk_blk_writev(queue, offset, iov, 9, 0, NULL, &error), 0);
		assert_int_equal(vublk_blk_wait(queue, &c, 1, 1, -1, &error), 1);
		assert_int_equal(c.result, 0);
		assert_int_equal(vublk_blk_read(queue, offset & ~4095u, back, 4096, 0, NULL, &error), 0);
		assert_int_equal(vublk_blk_wait(queue, &c, 1, 1, -1, &error), 1);
		assert_int_equal(c.result, 0);
		assert_memory_equal(back, model + (offset & ~4095u), 4096);
	}
	assert_memory_equal(model, fake_disk(), DISK_BYTES);
	assert_int_equal(vublk_blk_close(blk, -1, NULL), 0);
	fake_stop_threads();
	fake_deinit();
	free(model);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_wait_gives_up_in_time),
		VUBLK_TEST(test_arm_and_sleep),
		VUBLK_TEST(test_one_kick_a_batch),
		VUBLK_TEST(test_polling_makes_no_system_call),
		VUBLK_TEST(test_threads),
		VUBLK_TEST(test_disconnect_fails_what_is_in_flight),
		VUBLK_TEST(test_disconnect_wakes_who_waits),
		VUBLK_TEST(test_disconnect_with_pieces_waiting),
		VUBLK_TEST(test_resize),
		VUBLK_TEST(test_write_cache),
		VUBLK_TEST(test_open_failures),
		VUBLK_TEST(test_open_without_memory),
		VUBLK_TEST(test_close_gives_up),
		VUBLK_TEST(test_close_waits),
		VUBLK_TEST(test_close_without_a_backend),
		VUBLK_TEST(test_close_of_a_backend_that_does_not_stop),
		VUBLK_TEST(test_random),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
