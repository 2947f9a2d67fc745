/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Executes a chaos run: starts the back-end, opens the disk, runs the load, and kills, stops or
 * replaces the back-end at random times. At the end the jobs read everything back twice, first
 * through the current back-end and then through a new one.
 *
 * Key idea: one thread executes all of these steps. Only the load has threads of its own. The main
 * thread waits in one function, wait_for(), for the first of several events. The disk reconnects to
 * a new back-end by itself.
 */
#include "cli/chaos/chaos.h"

#include "cli/cli.h"
#include "cli/pattern.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define COMMAND "chaos"
#define LOOK_MS 10         /* the time between two checks of the socket's file, without inotify */
#define OPEN_MS 20         /* the time between two attempts to open the disk */
#define TERM_MS 20000      /* how long a back-end may take to end after SIGTERM */
#define MAX_EXTRA_ENDS 8   /* after the actions, the run fails if the back-end has ended by itself
			      more than config->num_actions + MAX_EXTRA_ENDS times */

/* Events, as a set of bits. */
enum {
	LISTENS = 1,       /* the socket has appeared */
	ENDED = 2,         /* the back-end has ended */
	LOAD_ENDED = 4,
	SIGNALLED = 8,
	LOAD_BEGUN = 16,   /* each job has completed a change after the initial zeroing */
};

struct run {
	const struct vublk_chaos_config *config;
	struct vublk_chaos_result *result;
	struct vublk_chaos_backend backend;
	struct vublk_chaos_load load;
	int signal_fd;
	int signal;               /* the signal that ends the run; 0: no signal has arrived */
	uint64_t random;
	uint64_t deadline_ns;     /* when the actions end; 0: no limit */
	uint64_t listens_ns;      /* when the back-end's socket appeared; 0: not yet, or
				     count_outage() has used the time */
	unsigned num_actions;
};

const char *vublk_chaos_action_name(enum vublk_chaos_action action)
{
	static const char *const names[] = { "kill", "stop", "term", "replace", "own" };

	return names[action];
}

__attribute__((format(printf, 2, 3)))
static void log_verbose(const struct run *run, const char *format, ...)
{
	va_list args;

	if (!run->config->verbose)
		return;
	va_start(args, format);
	fprintf(stderr, "vublk " COMMAND ": ");
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
}

/* --- waiting ------------------------------------------------------------------ */

static void take_signal(struct run *run)
{
	struct signalfd_siginfo info;

	if (read(run->signal_fd, &info, sizeof(info)) == sizeof(info))
		run->signal = (int)info.ssi_signo;
}

/*
 * Polls once for the events in the set `events` and for a signal. Returns the set of events that
 * occurred. Returns LISTENS only once per appearance of the socket.
 */
static unsigned poll_events(struct run *run, unsigned events, int timeout_ms)
{
	struct pollfd fds[] = { /* poll() ignores negative descriptors */
		{ run->signal_fd, POLLIN, 0 },
		{ events & ENDED ? run->backend.pid_fd : -1, POLLIN, 0 },
		{ events & LISTENS ? run->backend.watch_fd : -1, POLLIN, 0 },
		{ events & LOAD_ENDED ? run->load.done_fd : -1, POLLIN, 0 },
		{ events & LOAD_BEGUN ? run->load.begun_fd : -1, POLLIN, 0 },
	};
	bool checks_file = events & LISTENS && run->backend.watch_fd < 0;
	unsigned found = 0;

	if (checks_file && (timeout_ms < 0 || timeout_ms > LOOK_MS))
		timeout_ms = LOOK_MS;
	if (poll(fds, VUBLK_CLI_ARRAY_SIZE(fds), timeout_ms) < 0)
		return 0;
	if (fds[0].revents)
		take_signal(run);
	if (fds[1].revents)
		found |= ENDED;
	if ((fds[2].revents || checks_file) && vublk_chaos_backend_appeared(&run->backend))
		found |= LISTENS;
	if (fds[3].revents)
		found |= LOAD_ENDED;
	if (fds[4].revents)
		found |= LOAD_BEGUN;
	return found;
}

/*
 * Waits up to `ms` milliseconds for one of `events` or a signal. Returns the set of events that
 * occurred; only SIGNALLED if a signal has arrived; 0 after a timeout.
 */
static unsigned wait_for(struct run *run, unsigned events, uint64_t ms)
{
	uint64_t now = vublk_cli_now_ns(), end = now + ms * 1000000;
	unsigned found = 0;

	for (;;) {
		uint64_t left_ms = now < end ? (end - now + 999999) / 1000000 : 0;

		found = poll_events(run, events, (int)VUBLK_CLI_MIN(left_ms, (uint64_t)INT32_MAX));
		if (run->signal)
			return SIGNALLED;
		now = vublk_cli_now_ns();
		if (found || now >= end)
			return found;
	}
}

static int interrupted(const struct run *run, struct vublk_error *error)
{
	return vublk_cli_error(error, EINTR, "interrupted by signal %d before the end",
			       run->signal);
}

static uint64_t random_ms(struct run *run)
{
	const struct vublk_chaos_config *config = run->config;

	run->random += UINT64_C(0x9e3779b97f4a7c15);
	return config->min_interval_ms + vublk_mix(run->random) %
	       (config->max_interval_ms - config->min_interval_ms + 1);
}

/* --- starting the back-end ----------------------------------------------------- */

static const char *describe_end(int status, char text[64])
{
	if (WIFSIGNALED(status))
		snprintf(text, 64, "signal %d", WTERMSIG(status));
	else
		snprintf(text, 64, "exit status %d", WEXITSTATUS(status));
	return text;
}

static int fail_start(struct run *run, unsigned events, struct vublk_error *error)
{
	const struct vublk_chaos_config *config = run->config;
	char end[64], text[256];
	const char *words;
	int status;

	if (events & SIGNALLED)
		return interrupted(run, error);
	words = vublk_chaos_backend_last_line(&run->backend, text, sizeof(text));
	if (!(events & ENDED))
		return vublk_cli_error(error, ETIMEDOUT, "'%s' did not create the socket '%s' "
				       "within %u ms%s%s",
				       config->command[0], config->socket, config->stuck_ms,
				       words[0] ? "; its last output: " : "", words);
	status = vublk_chaos_backend_reap(&run->backend);
	return vublk_cli_error(error, ECHILD, "'%s' ended with %s before it listened on '%s'%s%s",
			       config->command[0], describe_end(status, end), config->socket,
			       words[0] ? "; its last output: " : "", words);
}

static int start_backend(struct run *run, bool last, struct vublk_error *error)
{
	unsigned events;
	int ret;

	vublk_chaos_backend_appeared(&run->backend); /* discards earlier events */
	__atomic_store_n(&run->load.first_ns, 0, __ATOMIC_RELAXED);
	ret = vublk_chaos_backend_start(&run->backend, last, error);
	if (ret)
		return ret;
	events = wait_for(run, LISTENS | ENDED, run->config->stuck_ms);
	if (!(events & LISTENS))
		return fail_start(run, events, error);
	run->listens_ns = vublk_cli_now_ns();
	__atomic_store_n(&run->load.up_since_ns, run->listens_ns, __ATOMIC_RELAXED);
	return 0;
}

/* --- ending the back-end ------------------------------------------------------- */

static void set_down(struct run *run)
{
	__atomic_store_n(&run->load.up_since_ns, 0, __ATOMIC_RELAXED);
}

/*
 * Records the time from the appearance of the socket to the first completion, if both have happened
 * since the back-end was started.
 */
static void count_outage(struct run *run)
{
	uint64_t first = __atomic_load_n(&run->load.first_ns, __ATOMIC_RELAXED);

	/*
	 * The recorded time is 0 if this thread noticed the socket after a job noticed the first
	 * completion.
	 */
	if (run->listens_ns && first)
		vublk_histogram_add(&run->result->outage_ns,
				    first - VUBLK_CLI_MIN(run->listens_ns, first));
	run->listens_ns = 0;
}

/* Waits until the back-end has ended, counts the loss, and returns the wait status. */
static int reap_backend(struct run *run)
{
	int status;

	set_down(run);
	run->result->in_flight += vublk_chaos_load_in_flight(&run->load);
	status = vublk_chaos_backend_reap(&run->backend);
	__atomic_add_fetch(&run->load.life, 1, __ATOMIC_RELAXED);
	count_outage(run);
	return status;
}

static bool is_last_start(const struct run *run)
{
	return run->config->num_actions && run->num_actions >= run->config->num_actions;
}

static void end_by_term(struct run *run)
{
	set_down(run);
	vublk_chaos_backend_signal(&run->backend, SIGTERM);
	if (!(wait_for(run, ENDED, TERM_MS) & (ENDED | SIGNALLED)))
		log_verbose(run, "killing the back-end, because it did not end within %d s after "
			    "SIGTERM",
		     TERM_MS / 1000);
	vublk_chaos_backend_signal(&run->backend, SIGKILL);
}

/*
 * Stops the back-end with SIGSTOP for a random time, then continues or kills it. Returns whether
 * the back-end was continued.
 */
static bool stop_for_a_while(struct run *run)
{
	unsigned events;

	set_down(run);
	vublk_chaos_backend_signal(&run->backend, SIGSTOP);
	events = wait_for(run, ENDED | LOAD_ENDED, random_ms(run));
	if (!events && random_ms(run) % 2) {
		vublk_chaos_backend_signal(&run->backend, SIGCONT);
		__atomic_store_n(&run->load.up_since_ns, vublk_cli_now_ns(), __ATOMIC_RELAXED);
		return true;
	}
	vublk_chaos_backend_signal(&run->backend, SIGKILL);
	return false;
}

static int do_action(struct run *run, enum vublk_chaos_action action, struct vublk_error *error)
{
	run->result->actions[action]++;
	run->num_actions++;
	log_verbose(run, "%u: %s, with %u requests in flight", run->num_actions,
	     vublk_chaos_action_name(action), vublk_chaos_load_in_flight(&run->load));
	switch (action) {
	case VUBLK_CHAOS_STOP:
		if (stop_for_a_while(run))
			return 0;
		break;
	case VUBLK_CHAOS_REPLACE:
		unlink(run->config->socket);
		wait_for(run, ENDED, random_ms(run));
		end_by_term(run);
		break;
	case VUBLK_CHAOS_TERM:
		end_by_term(run);
		break;
	default:
		vublk_chaos_backend_signal(&run->backend, SIGKILL);
		break;
	}
	reap_backend(run);
	return run->signal ? interrupted(run, error)
			   : start_backend(run, is_last_start(run), error);
}

/*
 * Called when the back-end has ended by itself, for example because of an error. Starts it again,
 * unless the actions are over (`last`) and it has ended too often.
 */
static int handle_own_end(struct run *run, bool last, struct vublk_error *error)
{
	int status = reap_backend(run);

	run->num_actions++;
	if (++run->result->actions[VUBLK_CHAOS_OWN] > run->config->num_actions + MAX_EXTRA_ENDS && last)
		return vublk_cli_error(error, ECHILD, "the disk cannot be read back, because the "
				       "back-end ended on its own %u times, the last time with %s",
				       run->result->actions[VUBLK_CHAOS_OWN],
				       describe_end(status, run->result->own_end));
	log_verbose(run, "%u: the back-end ended on its own with %s", run->num_actions,
	     describe_end(status, run->result->own_end));
	return start_backend(run, last || is_last_start(run), error);
}

/* --- the run ------------------------------------------------------------------ */

static enum vublk_chaos_action choose_action(struct run *run)
{
	for (;;) {
		enum vublk_chaos_action action;

		run->random += UINT64_C(0x9e3779b97f4a7c15);
		action = vublk_mix(run->random) % VUBLK_CHAOS_OWN;
		if (run->config->actions & 1u << action)
			return action;
	}
}

static uint64_t ms_left(const struct run *run)
{
	uint64_t now = vublk_cli_now_ns();

	if (!run->deadline_ns)
		return UINT64_MAX;
	return now < run->deadline_ns ? (run->deadline_ns - now + 999999) / 1000000 : 0;
}

/*
 * Waits until each job has completed a change after the initial zeroing, because an action during
 * the zeroing would test little. If the back-end ends by itself meanwhile, its end counts as an
 * action. Returns 0 if the actions may begin or are all done, or if the load has ended.
 */
static int wait_for_begin(struct run *run, struct vublk_error *error)
{
	const struct vublk_chaos_config *config = run->config;
	int ret = 0;

	while (!ret && (!config->num_actions || run->num_actions < config->num_actions)) {
		unsigned events = wait_for(run, ENDED | LOAD_ENDED | LOAD_BEGUN, UINT32_MAX);

		if (events & SIGNALLED)
			return interrupted(run, error);
		if (events & (LOAD_ENDED | LOAD_BEGUN))
			break;
		if (events & ENDED)
			ret = handle_own_end(run, false, error);
	}
	return ret;
}

/*
 * Executes the actions at random times. Returns 0 when all actions are done, the time is over, or
 * the load has ended (end_load() then returns the error of the load).
 */
static int disturb_backend(struct run *run, struct vublk_error *error)
{
	const struct vublk_chaos_config *config = run->config;
	int ret = 0;

	while (!ret && ms_left(run) && (!config->num_actions || run->num_actions < config->num_actions)) {
		uint64_t ms = config->actions ? random_ms(run) : UINT32_MAX;
		unsigned events = wait_for(run, ENDED | LOAD_ENDED,
					   VUBLK_CLI_MIN(ms, ms_left(run)));

		if (events & SIGNALLED)
			return interrupted(run, error);
		if (events & LOAD_ENDED)
			return 0;
		if (events & ENDED)
			ret = handle_own_end(run, false, error);
		else if (config->actions && ms_left(run))
			ret = do_action(run, choose_action(run), error);
	}
	return ret;
}

/*
 * Waits for the end of the load, after aborting the load if `ret` is an error. Returns the error of
 * a job, or else `ret`. An error of a job takes precedence, because it is the cause of other
 * errors.
 */
static int end_load(struct run *run, int ret, struct vublk_error *error)
{
	struct vublk_error found = { 0 };

	if (ret)
		vublk_chaos_load_advance(&run->load, VUBLK_CHAOS_ABORT);
	if (!vublk_chaos_load_join(&run->load, &found))
		return ret;
	return vublk_cli_error(error, found.code, "%s", found.text);
}

/*
 * Waits until the jobs have read everything back. Executes no more actions, but starts a back-end
 * that has ended by itself.
 */
static int wait_for_load(struct run *run, struct vublk_error *error)
{
	int ret = 0;

	while (!ret) {
		unsigned events = wait_for(run, ENDED | LOAD_ENDED, UINT32_MAX);

		if (events & SIGNALLED)
			return interrupted(run, error);
		if (events & LOAD_ENDED)
			return 0;
		if (events & ENDED)
			ret = handle_own_end(run, true, error);
	}
	return ret;
}

static int run_load(struct run *run, struct vublk_error *error)
{
	int ret = vublk_chaos_load_start(&run->load, VUBLK_CHAOS_RUN, error);

	if (ret)
		return ret;
	ret = wait_for_begin(run, error);
	if (run->config->runtime_ms)
		run->deadline_ns = vublk_cli_now_ns() + run->config->runtime_ms * 1000000;
	if (!ret)
		ret = disturb_backend(run, error);
	vublk_chaos_load_advance(&run->load, VUBLK_CHAOS_READ_BACK);
	if (!ret)
		ret = wait_for_load(run, error);
	return end_load(run, ret, error);
}

/* Kills the back-end and reads everything back through a new one. */
static int read_back_again(struct run *run, struct vublk_error *error)
{
	int ret;

	vublk_chaos_backend_signal(&run->backend, SIGKILL);
	reap_backend(run);
	ret = start_backend(run, true, error);
	if (!ret)
		ret = vublk_chaos_load_start(&run->load, VUBLK_CHAOS_READ_BACK, error);
	return ret ? ret : end_load(run, wait_for_load(run, error), error);
}

/* --- beginning and end -------------------------------------------------------- */

/*
 * Opens the disk. Tries until stuck_ms have passed, because the socket appears a moment before the
 * back-end listens.
 */
static int open_disk(struct run *run, vublk_chaos_open_fn *open_disk_fn, void *opaque,
		     struct vublk_blk **blk, struct vublk_error *error)
{
	uint64_t end = vublk_cli_now_ns() + (uint64_t)run->config->stuck_ms * 1000000;
	unsigned events;
	int ret;

	for (;;) {
		ret = open_disk_fn(opaque, blk, error);
		if ((ret != -ECONNREFUSED && ret != -ENOENT) || vublk_cli_now_ns() > end)
			return ret;
		events = wait_for(run, ENDED, OPEN_MS);
		if (events)
			return fail_start(run, events, error);
	}
}

static int run_all(struct run *run, struct vublk_blk *blk, struct vublk_error *error)
{
	int ret = vublk_chaos_load_init(&run->load, run->config, blk, error);

	/* Restores the time at which the back-end came up, which vublk_chaos_load_init() reset. */
	__atomic_store_n(&run->load.up_since_ns, run->listens_ns, __ATOMIC_RELAXED);
	run->listens_ns = 0; /* this start is not an outage, because no request waited for it */
	if (!ret)
		ret = run_load(run, error);
	if (!ret)
		ret = read_back_again(run, error);
	vublk_chaos_load_counts(&run->load, &run->result->counts);
	return ret;
}

static int run_signalled(struct run *run, vublk_chaos_open_fn *open_disk_fn, void *opaque,
			 struct vublk_error *error)
{
	struct vublk_blk *blk = NULL;
	uint64_t start = vublk_cli_now_ns();
	int ret = vublk_chaos_backend_init(&run->backend, run->config, error);

	if (!ret && run->backend.watch_fd < 0)
		fprintf(stderr, "vublk " COMMAND ": inotify is not available "
			"(fs.inotify.max_user_instances limits it); checking the socket every %u "
			"ms instead\n", LOOK_MS);
	if (!ret)
		ret = start_backend(run, false, error);
	if (!ret)
		ret = open_disk(run, open_disk_fn, opaque, &blk, error);
	if (!ret)
		ret = run_all(run, blk, error);
	/*
	 * Kills the back-end before the disk is closed, because a back-end that SIGSTOP has stopped
	 * would not return the rings.
	 */
	vublk_chaos_backend_deinit(&run->backend);
	vublk_blk_close(blk, 0, NULL);
	vublk_chaos_load_deinit(&run->load);
	run->result->starts = run->backend.starts;
	run->result->runtime_ns = vublk_cli_now_ns() - start;
	return ret;
}

int vublk_chaos_run(const struct vublk_chaos_config *config, vublk_chaos_open_fn *open_disk_fn,
		    void *opaque, struct vublk_chaos_result *result, struct vublk_error *error)
{
	struct run run = {
		.config = config, .result = result, .random = config->seed,
		.load = { .config = config, .done_fd = -1, .begun_fd = -1 },
	};
	sigset_t signals, before;
	int ret;

	*result = (struct vublk_chaos_result){ 0 };
	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGHUP);
	run.signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
	if (run.signal_fd < 0)
		return vublk_cli_error_errno(error, errno, "cannot wait for signals");
	pthread_sigmask(SIG_BLOCK, &signals, &before);
	ret = run_signalled(&run, open_disk_fn, opaque, error);
	close(run.signal_fd);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return ret;
}
