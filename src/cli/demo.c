/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vublk demo: the whole way once, on a scratch disk, in words for newcomers. A
 * back-end in a process of its own, a device in this one, data written and
 * verified through several queues, a resize, and how fast it is.
 *
 * It leaves nothing behind: the scene below is struck on every way out, signals
 * included, and the back-end goes when this process does, whatever ends it.
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
#define PATIENCE_MS 5000 /* with the back-end's end, and the news of a resize */
#define LINE_COLUMNS 76

/* --- the scene: what has to be struck ----------------------------------------- */

static struct {
	char folder[64];
	char image[96];
	char socket[96];
	pid_t backend;         /* 0: it does not run */
	sigset_t child_signal; /* SIGCHLD, which is waited for */
} scene;

/* Only what a signal handler may call. */
static void strike(void)
{
	if (scene.backend)
		kill(scene.backend, SIGTERM);
	if (scene.folder[0]) {
		unlink(scene.socket);
		unlink(scene.image);
		rmdir(scene.folder);
	}
}

static void strike_and_die(int number)
{
	strike();
	raise(number); /* its handler was reset: this is the end once it returns */
}

static void catch_signals(void)
{
	static const int numbers[] = { SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGQUIT, SIGSEGV,
				       SIGBUS, SIGABRT };
	struct sigaction action = { .sa_handler = strike_and_die, .sa_flags = (int)SA_RESETHAND };

	for (size_t i = 0; i < VUBLK_CLI_ARRAY_SIZE(numbers); i++)
		sigaction(numbers[i], &action, NULL);
	sigemptyset(&scene.child_signal);
	sigaddset(&scene.child_signal, SIGCHLD);
	sigprocmask(SIG_BLOCK, &scene.child_signal, NULL);
}

/* --- talking ------------------------------------------------------------------ */

__attribute__((format(printf, 1, 2)))
static void say(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	fflush(stdout);
}

/* The names of the bits, without the prefix that all of them have, in lines. */
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

	snprintf(scene.folder, sizeof(scene.folder), "%s/vublk-demo-XXXXXX",
		 where && where[0] && strlen(where) < 32 ? where : "/tmp");
	if (!mkdtemp(scene.folder)) {
		fd = errno;
		scene.folder[0] = '\0';
		return vublk_cli_error_errno(error, fd, "cannot make a scratch folder");
	}
	snprintf(scene.image, sizeof(scene.image), "%s/disk.img", scene.folder);
	snprintf(scene.socket, sizeof(scene.socket), "%s/disk.sock", scene.folder);
	fd = open(scene.image, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, (off_t)DISK_BYTES))
		return vublk_cli_error_errno(error, errno, "cannot make '%s'", scene.image);
	close(fd);
	say("1. A disk to play with: the file %s, 64 MiB.\n\n", scene.image);
	return 0;
}

/* Listening before the back-end runs: nobody has to wait for its socket to appear. */
static int listen_for_backend(int *fd, struct vublk_error *error)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	memcpy(address.sun_path, scene.socket, strlen(scene.socket) + 1);
	*fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (*fd < 0 || bind(*fd, (struct sockaddr *)&address, sizeof(address)) || listen(*fd, 1))
		return vublk_cli_error_errno(error, errno, "cannot listen at '%s'", scene.socket);
	return 0;
}

/* In the new process: becomes `vublk serve`. */
__attribute__((noreturn))
static void become_backend(const char *program, int fd, pid_t parent)
{
	char fd_option[32], image_option[128], queues_option[32];

	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		_exit(VUBLK_EXIT_FAILED);
	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_DFL);
	sigprocmask(SIG_UNBLOCK, &scene.child_signal, NULL);
	fcntl(fd, F_SETFD, 0);
	snprintf(fd_option, sizeof(fd_option), "--fd=%d", fd);
	snprintf(image_option, sizeof(image_option), "--blk-file=%s", scene.image);
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
		return vublk_cli_error_errno(error, errno, "cannot find the program itself");
	program[length] = '\0';
	ret = listen_for_backend(&fd, error);
	if (!ret) {
		scene.backend = fork();
		if (!scene.backend)
			become_backend(program, fd, parent);
		if (scene.backend < 0) {
			ret = vublk_cli_error_errno(error, errno, "cannot start the back-end");
			scene.backend = 0;
		}
	}
	if (fd >= 0)
		close(fd);
	if (ret)
		return ret;
	say("2. A back-end: another process (pid %d), which turns the file into a disk.\n"
	    "     vublk serve --socket-path %s \\\n"
	    "                 --blk-file %s --num-queues %d\n"
	    "   All that it shares with this process is the socket, and the memory that\n"
	    "   it is handed there.\n\n",
	    (int)scene.backend, scene.socket, scene.image, NUM_QUEUES);
	return 0;
}

/* Asks it to go and waits for that; it is killed when it takes too long. */
static int end_backend(struct vublk_error *error)
{
	const struct timespec patience = { .tv_sec = PATIENCE_MS / 1000 };
	bool killed;
	int status = 0;

	kill(scene.backend, SIGTERM);
	killed = sigtimedwait(&scene.child_signal, NULL, &patience) < 0;
	if (killed)
		kill(scene.backend, SIGKILL);
	waitpid(scene.backend, &status, 0);
	scene.backend = 0;
	if (killed)
		return vublk_cli_error(error, ETIMEDOUT, "the back-end did not end within %d s of "
				       "SIGTERM", PATIENCE_MS / 1000);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		return vublk_cli_error(error, EIO, "the back-end ended with %s %d",
				       WIFEXITED(status) ? "status" : "signal",
				       WIFEXITED(status) ? WEXITSTATUS(status)
							 : WTERMSIG(status));
	return 0;
}

/* --- the device --------------------------------------------------------------- */

/* What the disk's own thread tells. */
struct news {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool resized;
};

static void hear(void *opaque, enum vublk_blk_event event, const struct vublk_error *error)
{
	struct news *news = opaque;

	if (event != VUBLK_BLK_RESIZED)
		return;
	pthread_mutex_lock(&news->lock);
	news->resized = true;
	pthread_cond_signal(&news->changed);
	pthread_mutex_unlock(&news->lock);
}

static bool wait_for_resize(struct news *news)
{
	struct timespec deadline;
	bool resized;
	int ret = 0;

	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += PATIENCE_MS / 1000;
	pthread_mutex_lock(&news->lock);
	while (!news->resized && !ret)
		ret = pthread_cond_timedwait(&news->changed, &news->lock, &deadline);
	resized = news->resized;
	pthread_mutex_unlock(&news->lock);
	return resized;
}

static int open_disk(struct news *news, struct vublk_blk **blk, struct vublk_error *error)
{
	struct vublk_disk_options options = { 0 };
	struct vublk_blk_handlers handlers = { .event = hear, .opaque = news };
	struct vublk_blk_info info = { 0 };
	int ret = vublk_disk_open("demo", scene.socket, &options, &handlers, blk, error);

	if (ret)
		return ret;
	vublk_blk_get_info(*blk, &info, sizeof(info));
	say("3. The device, in this process: it connects as that of a virtual machine would,\n"
	    "   and the two sides agree on what they will use:\n");
	say_features("protocol", "", vublk_protocol_feature_name, info.device.protocol_features);
	say_features("disk", "VIRTIO_", vublk_feature_name, info.features);
	say("     %-10s %u, each a ring of %u entries in shared memory\n\n", "queues",
	    info.num_queues, info.queue_size);
	if (info.num_queues < NUM_QUEUES)
		return vublk_cli_error(error, ENOTSUP, "there are only %u queues of %d",
				       info.num_queues, NUM_QUEUES);
	return 0;
}

/* --- what is shown ------------------------------------------------------------ */

static int run_load(struct vublk_blk *blk, const struct vublk_bench_config *config,
		    struct vublk_bench_result *total, struct vublk_error *error)
{
	struct vublk_bench_result *results = calloc(config->num_jobs, sizeof(*results));
	int ret;

	if (!results)
		return vublk_cli_error_errno(error, ENOMEM, "cannot keep the results");
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
		.depth = 16, .num_jobs = NUM_QUEUES, .verify = true, .stall_ms = PATIENCE_MS,
	};

	return run_load(blk, &config, total, error);
}

/* The same blocks, seen by whoever looks at the file and knows nothing of disks. */
static int verify_file(uint64_t bytes, struct vublk_error *error)
{
	static uint64_t block[VERIFY_BLOCK_BYTES / 8];
	int fd = open(scene.image, O_RDONLY | O_CLOEXEC), ret = 0;

	if (fd < 0)
		return vublk_cli_error_errno(error, errno, "cannot open '%s'", scene.image);
	for (uint64_t offset = 0; offset < bytes && !ret; offset += sizeof(block)) {
		struct vublk_pattern pattern = { .offset = offset };

		if (pread(fd, block, sizeof(block), (off_t)offset) != sizeof(block))
			ret = vublk_cli_error(error, EIO, "cannot read '%s'", scene.image);
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
	    "   and read all of it back. Each block says where and when it was written.\n",
	    NUM_QUEUES);
	ret = write_and_verify(blk, 0, DISK_BYTES, total, error);
	if (ret)
		return ret;
	say("     %" PRIu64 " blocks of 64 KiB: all as they should be\n", total->verified_blocks);
	ret = verify_file(DISK_BYTES, error);
	if (ret)
		return ret;
	say("     the same in the file, read as any program reads it: all there\n\n");
	return 0;
}

static int show_resize(struct vublk_blk *blk, struct news *news, struct vublk_bench_result *total,
		       struct vublk_error *error)
{
	struct vublk_blk_info info = { 0 };
	char text[VUBLK_CLI_TEXT_BYTES];
	uint64_t start;
	int ret;

	say("5. A resize under way: the file grows to 96 MiB, the back-end is told to look\n"
	    "   (SIGHUP), and tells the device.\n");
	if (truncate(scene.image, (off_t)GROWN_BYTES))
		return vublk_cli_error_errno(error, errno, "cannot resize '%s'", scene.image);
	start = vublk_cli_now_ns();
	kill(scene.backend, SIGHUP);
	if (!wait_for_resize(news))
		return vublk_cli_error(error, ETIMEDOUT, "the device did not hear of the resize "
				       "within %d s", PATIENCE_MS / 1000);
	vublk_cli_format_ns(text, (double)(vublk_cli_now_ns() - start));
	vublk_blk_get_info(blk, &info, sizeof(info));
	if (info.capacity_bytes != GROWN_BYTES)
		return vublk_cli_error(error, EIO, "after the resize the disk has %" PRIu64
				       " bytes, not %" PRIu64, info.capacity_bytes, GROWN_BYTES);
	say("     the disk has 96 MiB, %s later\n", text);
	ret = write_and_verify(blk, DISK_BYTES, GROWN_BYTES - DISK_BYTES, total, error);
	if (!ret)
		say("     what is new is written and verified as well: %" PRIu64 " blocks\n\n",
		    total->verified_blocks);
	return ret;
}

static int show_speed(struct vublk_blk *blk, struct vublk_bench_result *total,
		      struct vublk_error *error)
{
	struct vublk_bench_config config = {
		.random = true, .block_bytes = 4096, .depth = 16, .num_jobs = NUM_QUEUES,
		.runtime_ms = SPEED_MS, .time_based = true, .stall_ms = PATIENCE_MS,
	};
	char iops[VUBLK_CLI_TEXT_BYTES], speed[VUBLK_CLI_TEXT_BYTES], time[VUBLK_CLI_TEXT_BYTES];

	say("6. Speed: 4 KiB at a time, at random, %d threads with %u requests each in flight,\n"
	    "   for a second. (`vublk bench` measures properly.)\n", NUM_QUEUES, config.depth);
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
		say("     %-6s %s a second, %s/s; 99 %% of them within %s\n",
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

static int play(struct news *news, struct vublk_blk **blk, struct vublk_bench_result *total,
		struct vublk_error *error)
{
	int ret = make_disk(error);

	if (!ret)
		ret = start_backend(error);
	if (!ret)
		ret = open_disk(news, blk, error);
	if (!ret)
		ret = show_data(*blk, total, error);
	if (!ret)
		ret = show_resize(*blk, news, total, error);
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
		"Show a disk being served, used, verified, resized and measured, on a scratch file "
		"that is removed at the end. It takes some seconds.",
	};
	struct news news = { .lock = PTHREAD_MUTEX_INITIALIZER,
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
	ret = play(&news, &blk, total, &error);
	vublk_blk_close(blk, ret ? 0 : PATIENCE_MS);
	if (scene.backend && end_backend(&end_error) && !ret) {
		ret = -end_error.code;
		error = end_error;
	}
	strike();
	free(total);
	if (ret)
		return vublk_cli_fail("demo", "%s", error.text);
	say("7. The end: the device has let go, the back-end was asked to go (SIGTERM) and went,\n"
	    "   and nothing of it is left in %s.\n", scene.folder);
	return VUBLK_EXIT_DONE;
}
