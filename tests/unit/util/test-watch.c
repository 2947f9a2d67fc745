/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Watches for files on several loops. The watches share one inotify instance, whichever loop reads
 * its events and whichever watch ends first. Without inotify, the cases are skipped.
 */
#include "harness.h"

#include "mock/inotify-limit.h"

#include "util/fd.h"
#include "util/watch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 4

struct waiter {
	struct vublk_loop loop;
	struct vublk_watch watch;
	pthread_t thread;
	char path[200];
	unsigned appeared, vanished;
};

static void on_watch(void *opaque, bool vanished)
{
	struct waiter *waiter = opaque;

	waiter->vanished += vanished;
	waiter->appeared += !vanished;
}

static void begin(struct waiter *waiter, const char *name)
{
	int fd = inotify_init1(IN_CLOEXEC);

	if (fd < 0)
		vublk_test_skip("no inotify instance is left (fs.inotify.max_user_instances)");
	close(fd);
	inotify_num_calls--; /* this call was not made by the code under test */
	memset(waiter, 0, sizeof(*waiter));
	snprintf(waiter->path, sizeof(waiter->path), "%s/%s", vublk_test_folder(), name);
	assert_int_equal(vublk_loop_init(&waiter->loop, NULL), 0);
	vublk_watch_init(&waiter->watch, on_watch, waiter);
	assert_int_equal(vublk_watch_start(&waiter->watch, &waiter->loop, waiter->path, NULL), 0);
}

static void end(struct waiter *waiter)
{
	vublk_watch_close(&waiter->watch);
	vublk_watch_close(&waiter->watch);
	vublk_loop_deinit(&waiter->loop);
}

static void make_file(const char *path)
{
	int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	close(fd);
}

static void *wait_for_file(void *opaque)
{
	struct waiter *waiter = opaque;

	while (!waiter->appeared)
		vublk_loop_process(&waiter->loop, -1);
	return NULL;
}

static void test_one_instance_for_all_loops(void **state)
{
	static struct waiter waiters[THREADS];
	char name[16];

	for (unsigned round = 0; round < 20; round++) {
		inotify_num_calls = 0;
		for (unsigned i = 0; i < THREADS; i++) {
			snprintf(name, sizeof(name), "file-%u", i);
			begin(&waiters[i], name);
			assert_int_equal(pthread_create(&waiters[i].thread, NULL, wait_for_file,
							&waiters[i]), 0);
		}
		for (unsigned i = 0; i < THREADS; i++)
			make_file(waiters[i].path);
		for (unsigned i = 0; i < THREADS; i++) {
			assert_int_equal(pthread_join(waiters[i].thread, NULL), 0);
			end(&waiters[i]);
			unlink(waiters[i].path);
		}
		assert_int_equal(inotify_num_calls, 1);
	}
}

/*
 * The loop of one watch may read the event of another watch. A watch still works after the other
 * one has ended.
 */
static void test_another_loop_reads(void **state)
{
	struct waiter a, b;

	begin(&a, "a");
	begin(&b, "b");
	make_file(a.path);
	while (!a.appeared) {
		vublk_loop_process(&b.loop, 0);
		vublk_loop_process(&a.loop, 0);
	}
	assert_int_equal(b.appeared, 0);
	end(&a);
	make_file(b.path);
	wait_for_file(&b);
	end(&b);
}

/*
 * A watch ends after another loop has read an event and posted it to the watch. The watch does not
 * report that event.
 */
static void test_an_end_with_a_posted_event(void **state)
{
	struct waiter a, b;

	begin(&a, "a");
	begin(&b, "b");
	make_file(a.path);
	assert_true(vublk_loop_process(&b.loop, 0) > 0);
	assert_true(a.watch.task.queued);
	vublk_watch_close(&a.watch);
	assert_false(a.watch.task.queued); /* so that the task's memory may be freed */
	while (vublk_loop_process(&a.loop, 0) > 0)
		;
	assert_int_equal(a.appeared, 0);
	end(&a);
	/* A watch that stops and starts again does not report the earlier event either. */
	make_file(b.path);
	begin(&a, "c");
	assert_true(vublk_loop_process(&a.loop, 0) > 0);
	vublk_watch_stop(&b.watch);
	assert_int_equal(vublk_watch_start(&b.watch, &b.loop, b.path, NULL), 0);
	while (vublk_loop_process(&b.loop, 0) > 0)
		;
	assert_int_equal(b.appeared, 0);
	end(&a);
	end(&b);
}

static unsigned read_limit(const char *path)
{
	FILE *file = fopen(path, "re");
	unsigned limit = 0;

	assert_non_null(file);
	assert_int_equal(fscanf(file, "%u", &limit), 1);
	fclose(file);
	return limit;
}

/*
 * The kernel's queue overflows. Any event may be among the lost ones, so every watch reports both
 * that its file appeared and that its directory vanished.
 */
static void test_an_overflow(void **state)
{
	unsigned limit = read_limit("/proc/sys/fs/inotify/max_queued_events");
	struct waiter a, b;

	begin(&a, "a");
	begin(&b, "b");
	make_file(a.path);
	make_file(b.path);
	vublk_watch_stop(&b.watch); /* from now on, b has a kernel watch of its own */
	assert_int_equal(vublk_watch_start(&b.watch, &b.loop, "/tmp/no-such-file", NULL), 0);
	/* Uses two files in turn, because the kernel merges consecutive equal events. */
	for (unsigned i = 0; i <= limit; i++)
		assert_int_equal(chmod(i & 1 ? a.path : b.path, 0600), 0);
	while (!b.vanished) {
		vublk_loop_process(&a.loop, 0);
		vublk_loop_process(&b.loop, 0);
	}
	end(&a);
	end(&b);
}

/* The directory of the file is renamed, and a new directory gets the old name. */
static void test_another_directory(void **state)
{
	char directory[160], aside[170];
	struct waiter waiter;

	snprintf(directory, sizeof(directory), "%s/directory", vublk_test_folder());
	snprintf(aside, sizeof(aside), "%s-aside", directory);
	assert_int_equal(mkdir(directory, 0700), 0);
	begin(&waiter, "directory/a");
	assert_int_equal(rename(directory, aside), 0);
	while (!waiter.vanished)
		vublk_loop_process(&waiter.loop, -1);
	vublk_watch_stop(&waiter.watch);
	assert_int_equal(vublk_watch_start(&waiter.watch, &waiter.loop, waiter.path, NULL), -ENOENT);
	assert_int_equal(mkdir(directory, 0700), 0);
	assert_int_equal(vublk_watch_start(&waiter.watch, &waiter.loop, waiter.path, NULL), 0);
	make_file(waiter.path);
	wait_for_file(&waiter);
	end(&waiter);
}

static void *start_and_stop(void *opaque)
{
	struct waiter *waiter = opaque;

	for (unsigned i = 0; i < 200; i++) {
		assert_int_equal(vublk_watch_start(&waiter->watch, &waiter->loop, waiter->path,
						   NULL), 0);
		make_file(waiter->path);
		unlink(waiter->path);
		if (i & 1)
			vublk_loop_process(&waiter->loop, 0);
		if (i & 2)
			vublk_watch_close(&waiter->watch);
		else
			vublk_watch_stop(&waiter->watch);
	}
	return NULL;
}

/* Each thread may read events for the others, while all of them start, stop and close watches. */
static void test_starts_and_stops_on_each_thread(void **state)
{
	static struct waiter waiters[THREADS];
	char name[16];

	for (unsigned i = 0; i < THREADS; i++) {
		snprintf(name, sizeof(name), "file-%u", i);
		begin(&waiters[i], name);
	}
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&waiters[i].thread, NULL, start_and_stop,
						&waiters[i]), 0);
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_join(waiters[i].thread, NULL), 0);
	for (unsigned i = 0; i < THREADS; i++)
		end(&waiters[i]);
}

static void test_none_is_left(void **state)
{
	struct vublk_error error;
	struct waiter waiter;

	begin(&waiter, "a");
	end(&waiter);
	inotify_is_used_up = true;
	assert_int_equal(vublk_loop_init(&waiter.loop, NULL), 0);
	assert_int_equal(vublk_watch_start(&waiter.watch, &waiter.loop, waiter.path, &error),
			 -EMFILE);
	assert_non_null(strstr(error.text, "cannot watch the directory"));
	assert_null(waiter.watch.loop);
	inotify_is_used_up = false;
	assert_int_equal(vublk_watch_start(&waiter.watch, &waiter.loop, waiter.path, &error), 0);
	make_file(waiter.path);
	wait_for_file(&waiter);
	end(&waiter);
}

/*
 * After a fork, the child opens an inotify instance of its own, and the parent still gets its own
 * events.
 */
static void test_fork(void **state)
{
	struct waiter waiter, own;
	int status;
	pid_t pid;

	begin(&waiter, "a");
	pid = fork();
	if (!pid) {
		begin(&own, "b");
		make_file(own.path);
		wait_for_file(&own);
		end(&own);
		_exit(inotify_num_calls == 2 ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	make_file(waiter.path);
	wait_for_file(&waiter);
	end(&waiter);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_one_instance_for_all_loops),
		VUBLK_TEST(test_another_loop_reads),
		VUBLK_TEST(test_an_end_with_a_posted_event),
		VUBLK_TEST(test_an_overflow),
		VUBLK_TEST(test_another_directory),
		VUBLK_TEST(test_starts_and_stops_on_each_thread),
		VUBLK_TEST(test_none_is_left),
		VUBLK_TEST(test_fork),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
