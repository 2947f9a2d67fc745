/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vublk attach: makes the disk of a back-end a block device of this host, and serves the block
 * device until it is detached. detach.c removes block devices, and list.c lists them.
 *
 * Key idea: when this process ends for any reason, the block device stays, and its requests wait
 * until `vublk attach` runs again. A signal runs `vublk detach`, which removes the device only if
 * no program uses it.
 */
#include "cli/attach/device.h"
#include "cli/attach/list.h"
#include "cli/signals.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define COMMAND "attach"
#define DEFAULT_DEPTH 64
#define DEFAULT_REQUEST_BYTES (512 << 10)
#define MIN_REQUEST_BYTES (4 << 10)
#define MAX_REQUEST_BYTES (8 << 20)

struct arguments {
	const char *socket;
	bool list;
	bool json;
	struct vublk_attach attach;
};

enum {
	KEY_ID = 0x100,
	KEY_DEPTH,
	KEY_REQUEST_SIZE,
	KEY_LIST,
	KEY_JSON,
};

static const struct argp_option options[] = {
	{ NULL, 0, NULL, 0, "The block device:", 1 },
	{ "id", KEY_ID, "N", 0, "Make /dev/ublkbN (default: the first free number)" },
	{ "depth", KEY_DEPTH, "N", 0, "Requests in flight per queue (default: 64)" },
	{ "request-size", KEY_REQUEST_SIZE, "SIZE", 0,
	  "The largest request, a power of two (default: 512k)" },
	{ NULL, 0, NULL, 0, "Instead of attaching:", 2 },
	{ "list", KEY_LIST, NULL, 0, "List the block devices that vublk attach has made" },
	{ "json", KEY_JSON, NULL, 0, "With --list: print JSON" },
	{ NULL },
};

/*
 * Used by the signal handler: an eventfd that wakes the main thread, and whether a signal has
 * arrived.
 */
static int wake_fd = -1;
static volatile sig_atomic_t is_signalled;

/* --- arguments ------------------------------------------------------------------- */

static void check(struct argp_state *state, const struct arguments *arguments)
{
	if (arguments->list && arguments->socket)
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "--list takes no SOCKET");
	else if (arguments->json && !arguments->list)
		argp_failure(state, VUBLK_EXIT_MISUSED, 0, "--json needs --list");
	else if (!arguments->list && !arguments->socket)
		vublk_cli_refuse_no_socket(state);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *arguments = state->input;
	struct vublk_attach *attach = &arguments->attach;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &attach->disk;
		return 0;
	case KEY_ID:
		attach->wanted_id = (int64_t)vublk_cli_number(state, "id", arg, 0, INT32_MAX);
		return 0;
	case KEY_DEPTH:
		attach->depth = (unsigned)vublk_cli_number(state, "depth", arg, 1,
							   UBLK_MAX_QUEUE_DEPTH);
		return 0;
	case KEY_REQUEST_SIZE:
		attach->request_bytes = vublk_cli_request_bytes(state, arg, MIN_REQUEST_BYTES,
								MAX_REQUEST_BYTES);
		return 0;
	case KEY_LIST:
		arguments->list = true;
		return 0;
	case KEY_JSON:
		arguments->json = true;
		return 0;
	case ARGP_KEY_ARG:
		vublk_cli_take_argument(state, &arguments->socket, arg);
		return 0;
	case ARGP_KEY_END:
		check(state, arguments);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* --- the end --------------------------------------------------------------------- */

static void on_signal(int number)
{
	eventfd_t one = 1;

	is_signalled = 1;
	if (write(wake_fd, &one, sizeof(one)) < 0)
		return; /* the counter is at its maximum, so the main thread will wake up */
}

/*
 * Starts `vublk detach` as a process of its own, because it may wait for the back-end in a system
 * call that no signal interrupts. Returns a pidfd of the process; negative: failed.
 */
static int start_detach(const struct vublk_attach *attach, pid_t *pid)
{
	char *argv[] = { "vublk", "detach", (char *)(uintptr_t)attach->node, NULL };
	posix_spawnattr_t attributes;
	sigset_t none;
	int ret;

	sigemptyset(&none);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
	ret = posix_spawn(pid, "/proc/self/exe", NULL, &attributes, argv, environ);
	posix_spawnattr_destroy(&attributes);
	return ret ? -ret : pidfd_open(*pid, 0);
}

static bool has_failed(pid_t pid)
{
	int status;

	return waitpid(pid, &status, 0) != pid || status;
}

/* Ends the process. The kernel keeps the device and its requests. */
static void leave(const struct vublk_attach *attach)
{
	vublk_cli_fail(COMMAND, "%s stays, and its requests wait; to continue it, run 'vublk attach %s'",
		       attach->node, attach->socket);
	_exit(VUBLK_EXIT_DONE);
}

/* Clears an eventfd. Returns whether it was signalled. */
static bool drain(int fd)
{
	eventfd_t count;

	return read(fd, &count, sizeof(count)) > 0;
}

/*
 * Serves the device until the kernel has stopped it. If a signal arrives and the device cannot be
 * detached, ends the process.
 */
static void serve(struct vublk_attach *attach)
{
	struct pollfd fds[] = { { .fd = wake_fd, .events = POLLIN }, { .fd = -1, .events = POLLIN },
				{ .fd = attach->resize_fd, .events = POLLIN } };
	pid_t detach = 0;

	while (!vublk_attach_has_ended(attach)) {
		if (is_signalled && !detach) {
			fds[1].fd = start_detach(attach, &detach);
			if (fds[1].fd < 0)
				leave(attach);
		}
		poll(fds, VUBLK_CLI_ARRAY_SIZE(fds), -1);
		drain(wake_fd);
		if (drain(attach->resize_fd))
			vublk_attach_resize(attach);
		if (fds[1].revents && has_failed(detach))
			leave(attach);
	}
	if (fds[1].fd >= 0)
		close(fds[1].fd);
}

/* --- the command ----------------------------------------------------------------- */

/*
 * Tells the kernel that this process serves a block device. Otherwise a memory allocation in this
 * process could wait until the kernel has written dirty pages to that same device. Needs
 * CAP_SYS_RESOURCE, which a process that may use the ublk driver usually has.
 */
static void become_io_flusher(void)
{
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
}

static int prepare(struct arguments *arguments)
{
	struct vublk_attach *attach = &arguments->attach;

	attach->socket = vublk_ublk_canonical(arguments->socket);
	if (!attach->socket)
		return vublk_cli_fail(COMMAND, "the directory of the socket '%s' does not exist or cannot be read",
				      arguments->socket);
	attach->wake_fd = wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	attach->resize_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (wake_fd < 0 || attach->resize_fd < 0)
		return vublk_cli_fail(COMMAND, "cannot create an eventfd: too few descriptors or too little memory");
	become_io_flusher();
	return VUBLK_EXIT_DONE;
}

static int attach_device(struct arguments *arguments)
{
	struct vublk_attach *attach = &arguments->attach;
	struct vublk_cli_signals signals;
	struct vublk_error error = { 0 };
	int status = prepare(arguments);

	if (status != VUBLK_EXIT_DONE)
		return status;
	vublk_cli_signals_init(&signals, 0);
	vublk_cli_signals_handle(&signals, on_signal);
	if (vublk_attach_start(attach, &error)) {
		status = vublk_cli_fail_open(COMMAND, &error);
		vublk_attach_abandon(attach);
		return status;
	}
	printf("%s\n", attach->node);
	fflush(stdout);
	serve(attach);
	vublk_attach_finish(attach);
	return VUBLK_EXIT_DONE;
}

int vublk_cmd_attach(int argc, char **argv)
{
	static const struct argp_child children[] = { { &vublk_disk_argp, 0, NULL, 0 }, { NULL } };
	static const struct argp argp = {
		options, parse, "SOCKET\n--list",
		"Make the disk of the back-end at SOCKET a block device of this host, "
		"/dev/ublkbN, and serve it until it is detached. The path of the block device is "
		"printed when programs can use it. Needs root and the kernel's ublk driver.\v"
		"If this process ends, the block device stays, and its requests wait until you run "
		"the same command again. SIGTERM and SIGINT detach the block device if no program uses it.",
		children,
	};
	struct arguments arguments = { .attach = {
		.disk.reconnects = true, .wanted_id = -1, .depth = DEFAULT_DEPTH,
		.request_bytes = DEFAULT_REQUEST_BYTES,
	} };

	vublk_cli_parse(&argp, argc, argv, &arguments);
	return arguments.list ? vublk_attach_list(arguments.json) : attach_device(&arguments);
}
