/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vublk demo: shows a disk in use, step by step, for newcomers. A back-end runs in a process of its
 * own, and the device runs in this process. The demo writes and verifies data through several
 * queues, resizes the disk, and measures its speed.
 *
 * Key idea: the demo leaves nothing behind. `scratch` names everything that has to be removed, and
 * every way out, including the signal handler, calls clean_up(). The kernel ends the back-end when
 * this process ends (PR_SET_PDEATHSIG).
 */
#include "cli/bench/bench.h"
#include "cli/cli.h"
#include "cli/disk.h"
#include "cli/pattern.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define DISK_BYTES (UINT64_C(64) << 20)
#define GROWN_BYTES (UINT64_C(96) << 20)
#define NUM_QUEUES 4
#define VERIFY_BLOCK_BYTES (64 << 10)
#define SPEED_MS 1000
#define LIMIT_MS 5000 /* the time limit for a resize, a request, closing the disk, and the end of
			 the back-end */
#define LINE_COLUMNS 76

/* --- cleaning up ----------------------------------------------------------------- */

static struct {
	char folder[64];
	char image[96];
	char socket[96];
	pid_t backend;         /* the process of the back-end; 0: the back-end does not run */
	sigset_t child_signal; /* only SIGCHLD, which is blocked so that sigtimedwait() can wait for
				  it */
} scratch;

/*
 * Ends the back-end and removes the files and the folder. May call only async-signal-safe
 * functions, because a signal handler calls clean_up().
 */
static void clean_up(void)
{
	if (scratch.backend)
		kill(scratch.backend, SIGTERM);
	if (scratch.folder[0]) {
		unlink(scratch.socket);
		unlink(scratch.image);
		rmdir(scratch.folder);
	}
}

static void clean_up_and_die(int number)
{
	clean_up();
	raise(number); /* the default action, which SA_RESETHAND has restored, ends the process when
			  this handler returns */
}

static void catch_signals(void)
{
	static const int numbers[] = { SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGQUIT, SIGSEGV,
				       SIGBUS, SIGABRT };
	struct sigaction action = { .sa_handler = clean_up_and_die, .sa_flags = (int)SA_RESETHAND };

	for (size_t i = 0; i < VUBLK_CLI_ARRAY_SIZE(numbers); i++)
		sigaction(numbers[i], &action, NULL);
	sigemptyset(&scratch.child_signal);
	sigaddset(&scratch.child_signal, SIGCHLD);
	sigprocmask(SIG_BLOCK, &scratch.child_signal, NULL);
}

/* --- printing ----------------------------------------------------------------- */

__attribute__((format(printf, 1, 2)))
static void say(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	fflush(stdout);
}

/*
 * Prints the names of the bits that are set in `bits`, without `prefix`, in lines of at most
 * LINE_COLUMNS. Leaves out bits without a name.
 */
static void say_features(const char *title, const char *prefix, const char *(*name)(unsigned bit),
			 uint64_t bits)
{
	int column = printf("     %-10s", title);

	for (unsigned bit = 0; bit < 64; bit++) {
		const char *word = bits & (UINT64_C(1) << bit) ? name(bit) : NULL;

		if (!word)
			continue;
		if (!strncmp(word, prefix, strlen(prefix)))
			word += strlen(prefix);
		if (column + (int)strlen(word) + 1 > LINE_COLUMNS)
			column = printf("\n%15s", "") - 1;
		column += printf(" %s", word);
	}
	say("\n");
}

/* --- the back-end ------------------------------------------------------------- */

static int make_disk(struct vublk_error *error)
{
	const char *where = getenv("TMPDIR");
	int fd;

	snprintf(scratch.folder, sizeof(scratch.folder), "%s/vublk-demo-XXXXXX",
		 where && where[0] && strlen(where) < 32 ? where : "/tmp");
	if (!mkdtemp(scratch.folder)) {
		fd = errno;
		scratch.folder[0] = '\0';
		return vublk_cli_error_errno(error, fd, "cannot create a temporary directory");
	}
	snprintf(scratch.image, sizeof(scratch.image), "%s/disk.img", scratch.folder);
	snprintf(scratch.socket, sizeof(scratch.socket), "%s/disk.sock", scratch.folder);
	fd = open(scratch.image, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, (off_t)DISK_BYTES))
		return vublk_cli_error_errno(error, errno, "cannot create '%s'", scratch.image);
	close(fd);
	say("1. An image for a scratch disk: the file %s, 64 MiB.\n\n", scratch.image);
	return 0;
}

/*
 * Creates the back-end's socket. It listens before the back-end runs, so the device can connect
 * immediately.
 */
static int listen_for_backend(int *fd, struct vublk_error *error)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	memcpy(address.sun_path, scratch.socket, strlen(scratch.socket) + 1);
	*fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (*fd < 0 || bind(*fd, (struct sockaddr *)&address, sizeof(address)) || listen(*fd, 1))
		return vublk_cli_error_errno(error, errno, "cannot listen on '%s'", scratch.socket);
	return 0;
}

/* Replaces this program with `vublk serve` in the child process. */
__attribute__((noreturn))
static void become_backend(const char *program, int fd, pid_t parent)
{
	char fd_option[32], image_option[128], queues_option[32];

	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		_exit(VUBLK_EXIT_FAILED);
	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_DFL);
	sigprocmask(SIG_UNBLOCK, &scratch.child_signal, NULL);
	fcntl(fd, F_SETFD, 0);
	snprintf(fd_option, sizeof(fd_option), "--fd=%d", fd);
	snprintf(image_option, sizeof(image_option), "--blk-file=%s", scratch.image);
	snprintf(queues_option, sizeof(queues_option), "--num-queues=%d", NUM_QUEUES);
	execl(program, "vublk", "serve", "--quiet", fd_option, image_option, queues_option,
	      (char *)NULL);
	_exit(VUBLK_EXIT_FAILED);
}

static int start_backend(struct vublk_error *error)
{
	char program[4096];
	ssize_t length = readlink("/proc/self/exe", program, sizeof(program) - 1);
	pid_t parent = getpid();
	int fd = -1, ret;

	if (length < 0)
		return vublk_cli_error_errno(error, errno, "cannot find the path of this program");
	program[length] = '\0';
	ret = listen_for_backend(&fd, error);
	if (!ret) {
		scratch.backend = fork();
		if (!scratch.backend)
			become_backend(program, fd, parent);
		if (scratch.backend < 0) {
			ret = vublk_cli_error_errno(error, errno, "cannot start the back-end");
			scratch.backend = 0;
		}
	}
	if (fd >= 0)
		close(fd);
	if (ret)
		return ret;
	say("2. A back-end: another process (pid %d), which serves the file as a disk.\n"
	    "     vublk serve --socket-path %s \\\n"
	    "                 --blk-file %s --num-queues %d\n"
	    "   It shares nothing with this process but the socket, and the memory that\n"
	    "   this process passes over it.\n\n",
	    (int)scratch.backend, scratch.socket, scratch.image, NUM_QUEUES);
	return 0;
}

/*
 * Ends the back-end with SIGTERM, or with SIGKILL if it does not end within LIMIT_MS. Returns 0 if
 * the back-end has ended successfully.
 */
static int end_backend(struct vublk_error *error)
{
	const struct timespec limit = { .tv_sec = LIMIT_MS / 1000 };
	bool killed;
	int status = 0;

	kill(scratch.backend, SIGTERM);
	killed = sigtimedwait(&scratch.child_signal, NULL, &limit) < 0;
	if (killed)
		kill(scratch.backend, SIGKILL);
	waitpid(scratch.backend, &status, 0);
	scratch.backend = 0;
	if (killed)
		return vublk_cli_error(error, ETIMEDOUT, "the back-end did not end within %d s "
				       "after SIGTERM", LIMIT_MS / 1000);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		return vublk_cli_error(error, EIO, "the back-end ended with %s %d",
				       WIFEXITED(status) ? "status" : "signal",
				       WIFEXITED(status) ? WEXITSTATUS(status)
							 : WTERMSIG(status));
	return 0;
}

/* --- the device --------------------------------------------------------------- */

/* Reports a resize from the event handler, on the disk's own thread, to the main thread. */
struct resize_notice {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool resized;
};

static void on_event(void *opaque, enum vublk_blk_event event, const struct vublk_error *error)
{
	struct resize_notice *notice = opaque;

	if (event != VUBLK_BLK_RESIZED)
		return;
	pthread_mutex_lock(&notice->lock);
	notice->resized = true;
	pthread_cond_signal(&notice->changed);
	pthread_mutex_unlock(&notice->lock);
}

static bool wait_for_resize(struct resize_notice *notice)
{
	struct timespec deadline;
	bool resized;
	int ret = 0;

	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += LIMIT_MS / 1000;
	pthread_mutex_lock(&notice->lock);
	while (!notice->resized && !ret)
		ret = pthread_cond_timedwait(&notice->changed, &notice->lock, &deadline);
	resized = notice->resized;
	pthread_mutex_unlock(&notice->lock);
	return resized;
}

static int open_disk(struct resize_notice *notice, struct vublk_blk **blk,
		     struct vublk_error *error)
{
	struct vublk_disk_options options = { 0 };
	struct vublk_blk_handlers handlers = { .event = on_event, .opaque = notice };
	struct vublk_device_info device;
	struct vublk_blk_info info;
	int ret = vublk_disk_open("demo", scratch.socket, &options, &handlers, blk, error);

	if (ret)
		return ret;
	vublk_blk_get_info(*blk, &info, sizeof(info));
	vublk_blk_get_device_info(*blk, &device, sizeof(device));
	say("3. The device, in this process: it connects as a virtual machine would, and both\n"
	    "   sides agree on the features to use:\n");
	say_features("protocol", "", vublk_protocol_feature_name, device.protocol_features);
	say_features("disk", "VIRTIO_", vublk_feature_name, info.features);
	say("     %-10s %u, each a ring of %u entries in shared memory\n\n", "queues",
	    info.num_queues, info.queue_size);
	if (info.num_queues < NUM_QUEUES)
		return vublk_cli_error(error, ENOTSUP, "the disk has %u queues instead of %d",
				       info.num_queues, NUM_QUEUES);
	return 0;
}

/* --- the steps -------------------------------------------------------------- */

static int run_load(struct vublk_blk *blk, const struct vublk_bench_config *config,
		    struct vublk_bench_result *total, struct vublk_error *error)
{
	struct vublk_bench_result *results = calloc(config->num_jobs, sizeof(*results));
	int ret;

	if (!results)
		return vublk_cli_error_errno(error, ENOMEM, "cannot allocate memory for the "
					     "results");
	memset(total, 0, sizeof(*total));
	ret = vublk_bench_run(blk, config, NULL, NULL, results, error);
	for (unsigned i = 0; i < config->num_jobs; i++)
		vublk_bench_add(total, &results[i]);
	free(results);
	return ret;
}

static int write_and_verify(struct vublk_blk *blk, uint64_t offset, uint64_t bytes,
			    struct vublk_bench_result *total, struct vublk_error *error)
{
	const struct vublk_bench_config config = {
		.rw = "randwrite", .direction = VUBLK_BENCH_WRITE, .random = true,
		.block_bytes = VERIFY_BLOCK_BYTES, .offset_bytes = offset, .size_bytes = bytes,
		.depth = 16, .num_jobs = NUM_QUEUES, .verify = true, .stall_ms = LIMIT_MS,
	};

	return run_load(blk, &config, total, error);
}

/* Checks the blocks in the image file directly, not through the back-end. */
static int verify_file(uint64_t bytes, struct vublk_error *error)
{
	static uint64_t block[VERIFY_BLOCK_BYTES / 8];
	int fd = open(scratch.image, O_RDONLY | O_CLOEXEC), ret = 0;

	if (fd < 0)
		return vublk_cli_error_errno(error, errno, "cannot open '%s'", scratch.image);
	for (uint64_t offset = 0; offset < bytes && !ret; offset += sizeof(block)) {
		struct vublk_pattern pattern = { .offset = offset };

		if (pread(fd, block, sizeof(block), (off_t)offset) != sizeof(block))
			ret = vublk_cli_error(error, EIO, "cannot read '%s'", scratch.image);
		else
			ret = vublk_pattern_check(&pattern, block, sizeof(block), error);
	}
	close(fd);
	return ret;
}

static int show_data(struct vublk_blk *blk, struct vublk_bench_result *total,
		     struct vublk_error *error)
{
	int ret;

	say("4. Data: %d threads, each with a queue of its own, write 64 MiB in random order\n"
	    "   and read all of it back. Each block contains its offset and a version number.\n",
	    NUM_QUEUES);
	ret = write_and_verify(blk, 0, DISK_BYTES, total, error);
	if (ret)
		return ret;
	say("     %" PRIu64 " blocks of 64 KiB: all correct\n", total->verified_blocks);
	ret = verify_file(DISK_BYTES, error);
	if (ret)
		return ret;
	say("     the same blocks in the image file: all correct\n\n");
	return 0;
}

static int show_resize(struct vublk_blk *blk, struct resize_notice *notice,
		       struct vublk_bench_result *total, struct vublk_error *error)
{
	struct vublk_blk_info info = { 0 };
	char text[VUBLK_CLI_TEXT_BYTES];
	uint64_t start;
	int ret;

	say("5. A resize while the disk is in use: the file grows to 96 MiB; SIGHUP makes the\n"
	    "   back-end read its size again and notify the device.\n");
	if (truncate(scratch.image, (off_t)GROWN_BYTES))
		return vublk_cli_error_errno(error, errno, "cannot resize '%s'", scratch.image);
	start = vublk_cli_now_ns();
	kill(scratch.backend, SIGHUP);
	if (!wait_for_resize(notice))
		return vublk_cli_error(error, ETIMEDOUT, "the device was not notified of the "
				       "resize within %d s", LIMIT_MS / 1000);
	vublk_cli_format_ns(text, (double)(vublk_cli_now_ns() - start));
	vublk_blk_get_info(blk, &info, sizeof(info));
	if (info.capacity_bytes != GROWN_BYTES)
		return vublk_cli_error(error, EIO, "after the resize the disk has %" PRIu64
				       " bytes; expected %" PRIu64,
				       info.capacity_bytes, GROWN_BYTES);
	say("     the disk has 96 MiB after %s\n", text);
	ret = write_and_verify(blk, DISK_BYTES, GROWN_BYTES - DISK_BYTES, total, error);
	if (!ret)
		say("     the new part is written and verified: %" PRIu64 " blocks\n\n",
		    total->verified_blocks);
	return ret;
}

static int show_speed(struct vublk_blk *blk, struct vublk_bench_result *total,
		      struct vublk_error *error)
{
	struct vublk_bench_config config = {
		.random = true, .block_bytes = 4096, .depth = 16, .num_jobs = NUM_QUEUES,
		.runtime_ms = SPEED_MS, .time_based = true, .stall_ms = LIMIT_MS,
	};
	char iops[VUBLK_CLI_TEXT_BYTES], speed[VUBLK_CLI_TEXT_BYTES], time[VUBLK_CLI_TEXT_BYTES];

	say("6. Speed: random requests of 4 KiB, %d threads with %u requests in flight each, for\n"
	    "   one second. (`vublk bench` measures properly.)\n", NUM_QUEUES, config.depth);
	for (unsigned d = VUBLK_BENCH_READ; d <= VUBLK_BENCH_WRITE; d++) {
		const struct vublk_bench_stats *stats = &total->stats[d];
		double seconds;
		int ret;

		config.direction = d;
		config.rw = d == VUBLK_BENCH_READ ? "randread" : "randwrite";
		ret = run_load(blk, &config, total, error);
		if (ret)
			return ret;
		seconds = (double)total->runtime_ns / 1e9;
		say("     %-6s %s per second, %s/s; 99 %% of them within %s\n",
		    d == VUBLK_BENCH_READ ? "reads" : "writes",
		    vublk_cli_format_count(iops, (double)stats->requests / seconds),
		    vublk_cli_format_bytes(speed, (uint64_t)((double)stats->bytes / seconds)),
		    vublk_cli_format_ns(time, (double)vublk_histogram_percentile(&stats->latency_ns,
										99)));
	}
	say("\n");
	return 0;
}

/* --- the command -------------------------------------------------------------- */

static int run_steps(struct resize_notice *notice, struct vublk_blk **blk,
		     struct vublk_bench_result *total, struct vublk_error *error)
{
	int ret = make_disk(error);

	if (!ret)
		ret = start_backend(error);
	if (!ret)
		ret = open_disk(notice, blk, error);
	if (!ret)
		ret = show_data(*blk, total, error);
	if (!ret)
		ret = show_resize(*blk, notice, total, error);
	if (!ret)
		ret = show_speed(*blk, total, error);
	return ret;
}

static int refuse_arguments(int key, char *arg, struct argp_state *state)
{
	if (key != ARGP_KEY_ARG)
		return ARGP_ERR_UNKNOWN;
	vublk_cli_refuse_argument(state, arg);
	return 0;
}

int vublk_cmd_demo(int argc, char **argv)
{
	static const struct argp argp = {
		NULL, refuse_arguments, NULL,
		"Serve, use, verify, resize and measure a disk on a temporary file, which is "
		"removed at the end. It takes a few seconds.",
	};
	struct resize_notice notice = { .lock = PTHREAD_MUTEX_INITIALIZER,
			     .changed = PTHREAD_COND_INITIALIZER };
	struct vublk_bench_result *total;
	struct vublk_blk *blk = NULL;
	struct vublk_error error = { 0 }, end_error = { 0 };
	int ret;

	vublk_cli_parse(&argp, argc, argv, NULL);
	total = malloc(sizeof(*total));
	if (!total)
		return vublk_cli_fail("demo", "out of memory");
	catch_signals();
	ret = run_steps(&notice, &blk, total, &error);
	vublk_blk_close(blk, ret ? 0 : LIMIT_MS, NULL);
	if (scratch.backend && end_backend(&end_error) && !ret) {
		ret = -end_error.code;
		error = end_error;
	}
	clean_up();
	free(total);
	if (ret)
		return vublk_cli_fail("demo", "%s", error.text);
	say("7. The end: the device has disconnected, the back-end has ended on SIGTERM, and the\n"
	    "   scratch folder %s is removed.\n", scratch.folder);
	return VUBLK_EXIT_DONE;
}
