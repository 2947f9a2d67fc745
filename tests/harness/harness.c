/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The runner of the test programs; see harness.h.
 *
 * Key idea: each case runs in a process group of its own, and its descriptors, mappings and threads
 * are counted before and after it. No child process may be left.
 */
#include "harness.h"

#include "util/atomic.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define EXIT_SKIPPED 77

#if defined(VUBLK_TSAN) || defined(__SANITIZE_ADDRESS__)
#define IS_INSTRUMENTED 1
#elif defined(__has_feature)
#define IS_INSTRUMENTED __has_feature(address_sanitizer)
#else
#define IS_INSTRUMENTED 0
#endif
#define LIMIT_FACTOR (IS_INSTRUMENTED ? 3u : 1u)
#define ROUNDS_DIVISOR (IS_INSTRUMENTED ? 5u : 1u)

static char folder[64];

struct resources {
	unsigned fds, mappings, threads;
};

static unsigned count_entries(const char *path)
{
	DIR *dir = opendir(path);
	unsigned count = 0;

	if (!dir)
		return 0;
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

unsigned vublk_test_count_fds(void)
{
	return count_entries("/proc/self/fd");
}

unsigned vublk_test_count_mappings(void)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[512];
	unsigned count = 0;

	if (!maps)
		return 0;
	while (fgets(line, sizeof(line), maps))
		if (strstr(line, "/memfd:") || strstr(line, folder))
			count++;
	fclose(maps);
	return count;
}

void vublk_test_fill_eventfd(int fd)
{
	const uint64_t most = UINT64_MAX - 1;
	uint64_t before;

	assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	while (write(fd, &most, sizeof(most)) < 0 && errno == EAGAIN)
		if (read(fd, &before, sizeof(before)) < 0 && errno != EAGAIN)
			break;
	assert_int_equal(fcntl(fd, F_SETFL, 0), 0);
}

void vublk_test_suspend(pid_t pid)
{
	int status;

	kill(pid, SIGSTOP);
	assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
	assert_true(WIFSTOPPED(status));
}

static struct resources count_resources(void)
{
	return (struct resources){
		.fds = vublk_test_count_fds(),
		.mappings = vublk_test_count_mappings(),
		.threads = count_entries("/proc/self/task"),
	};
}

/*
 * Counts the resources. Waits up to a time limit for additional threads to disappear, because a
 * joined thread may still be listed in /proc for a moment.
 */
static struct resources settled_resources(const struct resources *before)
{
	struct resources now = count_resources();

	for (int i = 0; i < 200 && now.threads > before->threads; i++) {
		usleep(1000);
		now = count_resources();
	}
	return now;
}

static bool leaks(const struct resources *before)
{
	struct resources after = settled_resources(before);
	bool leaked = false;

	if (after.fds > before->fds)
		leaked = printf("leaked %u descriptors\n", after.fds - before->fds);
	if (after.mappings > before->mappings)
		leaked = printf("leaked %u mappings\n", after.mappings - before->mappings);
	if (after.threads > before->threads)
		leaked = printf("leaked %u threads\n", after.threads - before->threads);
	if (waitpid(-1, NULL, WNOHANG) >= 0 || errno != ECHILD)
		leaked = printf("leaked a child process\n");
	return leaked;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

static void remove_folder(void)
{
	nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static void make_folder(void)
{
	snprintf(folder, sizeof(folder), "/tmp/vublk-test-XXXXXX");
	if (!mkdtemp(folder)) {
		perror("vublk-test: cannot make a scratch folder");
		exit(1);
	}
}

const char *vublk_test_folder(void)
{
	return folder;
}

unsigned vublk_test_rounds(unsigned rounds)
{
	return rounds / ROUNDS_DIVISOR;
}

void vublk_test_skip(const char *reason)
{
	printf("SKIP %s\n", reason);
	fflush(stdout);
	_exit(EXIT_SKIPPED);
}

#ifdef VUBLK_TSAN
static void *do_nothing(void *opaque)
{
	return opaque;
}

/*
 * The sanitizer starts a thread of its own when the program starts its first thread. So that this
 * thread does not count as a leak, the runner starts a thread before it counts.
 */
static void start_sanitizer_thread(void)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, do_nothing, NULL) == 0)
		pthread_join(thread, NULL);
}
#else
static void start_sanitizer_thread(void)
{
}
#endif

static int run_case(const struct vublk_test *test)
{
	const struct CMUnitTest unit = { .name = test->name, .test_func = test->fn };
	struct resources before;
	int failed;

	start_sanitizer_thread();
	before = count_resources();
	failed = _cmocka_run_group_tests(test->name, &unit, 1, NULL, NULL);

	return failed || leaks(&before);
}

static void print_output(FILE *output)
{
	char line[1024];

	rewind(output);
	while (fgets(line, sizeof(line), output))
		printf("# %s", line);
}

static void skip_reason(FILE *output, char *reason, size_t bytes)
{
	char line[1024];

	reason[0] = '\0';
	rewind(output);
	while (fgets(line, sizeof(line), output))
		if (!strncmp(line, "SKIP ", 5)) {
			line[strcspn(line, "\n")] = '\0';
			snprintf(reason, bytes, "%.*s", (int)bytes - 1, line + 5);
		}
}

/*
 * Waits until the case ends or exceeds its time limit. Then kills the whole process group, so that
 * the children of the case end, too.
 */
static int wait_for_case(pid_t pid, unsigned seconds)
{
	sigset_t child;
	struct timespec limit = { .tv_sec = seconds };
	int status;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	while (!waitpid(pid, &status, WNOHANG)) {
		if (sigtimedwait(&child, NULL, &limit) < 0 && errno == EAGAIN) {
			printf("# still running after %u seconds\n", seconds);
			kill(-pid, SIGABRT);
			waitpid(pid, &status, 0);
			break;
		}
	}
	kill(-pid, SIGKILL);
	return status;
}

static int fork_case(const struct vublk_test *test, unsigned number)
{
	FILE *output = tmpfile();
	char reason[256];
	int status;
	pid_t pid;

	make_folder();
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		sigset_t none;

		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		setpgid(0, 0);
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* the case must not outlive the program */
		dup2(fileno(output), STDOUT_FILENO);
		dup2(fileno(output), STDERR_FILENO);
		fclose(output);
		exit(run_case(test));
	}
	setpgid(pid, pid);
	status = wait_for_case(pid, LIMIT_FACTOR *
			       (test->seconds ? test->seconds : VUBLK_TEST_SECONDS));
	remove_folder();
	if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SKIPPED) {
		skip_reason(output, reason, sizeof(reason));
		printf("ok %u - %s # SKIP %s\n", number, test->name, reason);
		status = 0;
	} else if (status) {
		print_output(output);
		if (WIFSIGNALED(status))
			printf("# ended by signal %d (%s)\n", WTERMSIG(status),
			       strsignal(WTERMSIG(status)));
		printf("not ok %u - %s\n", number, test->name);
	} else {
		printf("ok %u - %s\n", number, test->name);
	}
	fclose(output);
	return status != 0;
}

int vublk_test_main(const struct vublk_test *tests, size_t count, int argc, char **argv)
{
	bool list = argc > 1 && !strcmp(argv[1], "-l");
	bool here = argc > 1 && !strcmp(argv[1], "-f");
	const char *filter = argc > 1 + here && !list ? argv[1 + here] : "";
	unsigned number = 0, failed = 0;
	sigset_t child;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	if (!here)
		sigprocmask(SIG_BLOCK, &child, NULL);
	for (size_t i = 0; i < count; i++) {
		if (!strstr(tests[i].name, filter))
			continue;
		number++;
		if (list) {
			printf("%s\n", tests[i].name);
		} else if (here) {
			make_folder();
			failed += run_case(&tests[i]) != 0;
			remove_folder();
		} else {
			failed += fork_case(&tests[i], number) != 0;
		}
	}
	if (!list)
		printf("1..%u\n", number);
	return failed != 0;
}
