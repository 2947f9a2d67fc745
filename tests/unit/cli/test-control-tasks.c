/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tests of tasks, which the thread of the served object runs while other threads wait for the
 * results.
 */
#include "harness.h"

#include "cli/control/ask.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static struct vublk_control_tasks tasks;
static struct vublk_error error;
static int object_fd; /* readable: the object has ended */
static unsigned runs, runs_needed;

static int process(void *owner, struct vublk_error *why)
{
	uint64_t count;

	return read(object_fd, &count, sizeof(count)) < 0;
}

/* A task that is complete when it has been run `runs_needed` times. */
static int run_command(void *owner, void *copy, struct vublk_error *why)
{
	*(int *)copy = 7;
	return ++runs < runs_needed;
}

static int fail_command(void *owner, void *copy, struct vublk_error *why)
{
	why->code = EBUSY;
	strcpy(why->text, "not now");
	return -EBUSY;
}

static struct json_object *format_command(void *owner, const void *copy)
{
	return json_object_new_int(*(const int *)copy);
}

static const struct vublk_control_command good = {
	"good", NULL, sizeof(int), NULL, run_command, format_command,
};
static const struct vublk_control_command bad = {
	"bad", NULL, sizeof(int), NULL, fail_command, format_command,
};

static void *run_object(void *unused)
{
	const struct vublk_control_loop loop = { .fd = object_fd, .process = process };

	vublk_control_tasks_run(&tasks, &loop, NULL);
	return NULL;
}

static void end_object(void)
{
	vublk_control_wake(object_fd);
}

static void init(void)
{
	runs = 0;
	runs_needed = 1;
	object_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_true(object_fd >= 0);
	assert_int_equal(vublk_control_tasks_init(&tasks, NULL, &error), 0);
}

static void deinit(void)
{
	vublk_control_tasks_deinit(&tasks);
	close(object_fd);
}

static void test_result(void **state)
{
	struct json_object *result;
	pthread_t thread;

	init();
	runs_needed = 2;
	assert_int_equal(pthread_create(&thread, NULL, run_object, NULL), 0);
	result = vublk_control_ask_tasks(&tasks, &good, 60000, &error);
	assert_int_equal(json_object_get_int(result), 7);
	assert_int_equal(runs, 2);
	json_object_put(result);
	assert_null(vublk_control_ask_tasks(&tasks, &bad, 60000, &error));
	assert_string_equal(error.text, "not now");
	end_object();
	pthread_join(thread, NULL);
	deinit();
}

/*
 * The object's thread hangs. The asking thread returns at its time limit. The object's thread frees
 * the task later.
 */
static void test_timeout(void **state)
{
	init();
	assert_null(vublk_control_ask_tasks(&tasks, &good, 1, &error));
	assert_int_equal(error.code, ETIMEDOUT);
	assert_int_equal(runs, 0);
	/* after its first run the task is still incomplete, and the end of the object frees it */
	runs_needed = 2;
	end_object();
	run_object(NULL);
	deinit();
}

static void on_done(void *opaque)
{
	*(unsigned *)opaque += 1;
}

/* The object ends when the task has been run `runs_needed` times. */
static int end_after_task(void *owner, struct vublk_error *why)
{
	return runs < runs_needed;
}

static const struct vublk_control_task *running;
static unsigned num_begun;

static void on_run(void *opaque, const struct vublk_control_task *task)
{
	assert_ptr_equal(opaque, &tasks);
	assert_true(!running == !!task);
	num_begun += task != NULL;
	running = task;
}

static int look_at_running(void *owner, void *copy, struct vublk_error *why)
{
	assert_non_null(running);
	assert_int_equal(running->client_pid, 7);
	return ++runs < runs_needed;
}

/* The object's thread knows the task of a command only while the command runs. */
static void test_running_task(void **state)
{
	static const struct vublk_control_command command = {
		"look", NULL, 0, NULL, look_at_running, NULL,
	};
	unsigned num_done = 0;
	struct vublk_control_task task = {
		.command = &command, .done = on_done, .opaque = &num_done, .client_pid = 7,
	};
	struct vublk_control_loop loop = { .process = end_after_task };

	init();
	loop.fd = object_fd;
	tasks.runs = on_run;
	tasks.opaque = &tasks;
	runs_needed = 2;
	assert_int_equal(vublk_control_tasks_post(&tasks, &task), 0);
	end_object(); /* wakes the object's thread, even while the command waits */
	vublk_control_tasks_run(&tasks, &loop, NULL);
	assert_int_equal(num_done, 1);
	assert_int_equal(num_begun, 2);
	assert_null(running);
	deinit();
}

/* The same is true of the run after the object's end. */
static void test_running_task_at_end(void **state)
{
	static const struct vublk_control_command command = {
		"look", NULL, 0, NULL, look_at_running, NULL, .is_about_the_end = true,
	};
	unsigned num_done = 0;
	struct vublk_control_task task = {
		.command = &command, .done = on_done, .opaque = &num_done, .client_pid = 7,
	};

	init();
	tasks.runs = on_run;
	tasks.opaque = &tasks;
	assert_int_equal(vublk_control_tasks_post(&tasks, &task), 0);
	end_object();
	run_object(NULL);
	assert_int_equal(num_done, 1);
	assert_int_equal(task.result, 0);
	assert_int_equal(num_begun, 1);
	assert_null(running);
	deinit();
}

/* When the object ends, pending tasks fail. Later tasks are refused. */
static void test_end(void **state)
{
	unsigned num_done = 0;
	int copy = 0;
	struct vublk_control_task task = {
		.command = &good, .copy = &copy, .done = on_done, .opaque = &num_done,
	};

	init();
	assert_int_equal(vublk_control_tasks_post(&tasks, &task), 0);
	end_object();
	run_object(NULL);
	assert_int_equal(num_done, 1);
	assert_int_equal(task.result, -ENOTCONN);
	assert_int_equal(vublk_control_tasks_post(&tasks, &task), -ENOTCONN);
	assert_null(vublk_control_ask_tasks(&tasks, &good, 60000, &error));
	assert_int_equal(error.code, ENOTCONN);
	assert_int_equal(num_done, 1);
	deinit();
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_result),
		VUBLK_TEST(test_timeout),
		VUBLK_TEST(test_end),
		VUBLK_TEST(test_running_task),
		VUBLK_TEST(test_running_task_at_end),
	};

	return vublk_test_main(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
