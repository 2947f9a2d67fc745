/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Starts and ends the back-end of a chaos run, and watches for the appearance of the back-end's
 * socket. run.c decides when to start and end the back-end.
 *
 * Key idea: the back-end and all its children are one process group, to which signals are sent as a
 * whole. The kernel kills the back-end when the thread that started it ends for any reason
 * (PR_SET_PDEATHSIG).
 */
#include "cli/chaos/chaos.h"

#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define OUTPUT_BYTES (64 << 10)
#define APPEARS (IN_CREATE | IN_MOVED_TO)

static const char *file_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* Closes the inotify instance. Without it, run.c checks the socket's file at intervals. */
static void close_watch(struct vublk_chaos_backend *backend)
{
	if (backend->watch_fd >= 0)
		close(backend->watch_fd);
	backend->watch_fd = -1;
}

static int watch(struct vublk_chaos_backend *backend, struct vublk_error *error)
{
	const char *path = backend->config->socket;
	size_t bytes = (size_t)(file_name(path) - path);
	char *directory = bytes ? strndup(path, bytes) : strdup(".");
	int ret = 0;

	if (!directory)
		return vublk_cli_error_errno(error, ENOMEM, "cannot watch for '%s'", path);
	if (access(directory, F_OK) < 0)
		ret = vublk_cli_error_errno(error, errno, "cannot watch the directory '%s'",
					    directory);
	else if (backend->watch_fd >= 0 &&
		 inotify_add_watch(backend->watch_fd, directory, APPEARS | IN_ONLYDIR) < 0)
		close_watch(backend);
	free(directory);
	return ret;
}

static bool is_in_config(const struct vublk_chaos_config *config, const char *pair)
{
	for (unsigned i = 0; i < config->num_env; i++)
		if (!strncmp(config->env[i], pair, (size_t)(strchr(config->env[i], '=') + 1 -
							    config->env[i])))
			return true;
	return false;
}

/*
 * Builds the environment of the back-end. A variable of config->env replaces this process's
 * variable of that name, because programs differ in which of two values they use.
 */
static int join_env(struct vublk_chaos_backend *backend)
{
	const struct vublk_chaos_config *config = backend->config;
	size_t count = 0, used = config->num_env;

	while (environ[count])
		count++;
	backend->env = calloc(config->num_env + count + 1, sizeof(*backend->env));
	if (!backend->env)
		return -ENOMEM;
	memcpy(backend->env, config->env, config->num_env * sizeof(*backend->env));
	for (size_t i = 0; i < count; i++)
		if (!is_in_config(config, environ[i]))
			backend->env[used++] = environ[i];
	return 0;
}

/*
 * Checks that the path is free for the back-end's socket. A process that already listens there may
 * serve a disk, which this run must not overwrite.
 */
static int check_is_free(const char *path, struct vublk_error *error)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct stat st;
	int fd, ret;

	if (strlen(path) >= sizeof(address.sun_path))
		return vublk_cli_error(error, ENAMETOOLONG, "the path of the socket '%s' has more "
				       "than %zu characters; use a shorter or a relative path",
				       path,
				       sizeof(address.sun_path) - 1);
	if (!lstat(path, &st) && !S_ISSOCK(st.st_mode))
		return vublk_cli_error(error, EEXIST, "'%s' exists and is not a socket; remove it or "
				       "choose another path", path);
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return vublk_cli_error_errno(error, errno, "cannot create a socket");
	ret = connect(fd, (struct sockaddr *)&address, sizeof(address));
	if (ret && errno != EAGAIN)
		ret = 0;
	else
		ret = vublk_cli_error(error, EADDRINUSE, "another process listens on '%s'; stop it "
				      "or choose another path", path);
	close(fd);
	return ret;
}

int vublk_chaos_backend_init(struct vublk_chaos_backend *backend,
			     const struct vublk_chaos_config *config, struct vublk_error *error)
{
	int ret;

	*backend = (struct vublk_chaos_backend){
		.config = config, .pid_fd = -1,
		.watch_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK),
		.output_fd = -1,
	};
	if (join_env(backend))
		return vublk_cli_error_errno(error, errno, "cannot prepare the environment of the back-end");
	ret = check_is_free(config->socket, error);
	return ret ? ret : watch(backend, error);
}

void vublk_chaos_backend_deinit(struct vublk_chaos_backend *backend)
{
	if (backend->pid) {
		vublk_chaos_backend_signal(backend, SIGKILL);
		vublk_chaos_backend_reap(backend);
	}
	if (backend->watch_fd >= 0)
		close(backend->watch_fd);
	if (backend->output_fd >= 0)
		close(backend->output_fd);
	backend->watch_fd = backend->output_fd = -1;
	free(backend->env);
	backend->env = NULL;
}

/* --- start ----------------------------------------------------------------- */

/*
 * Replaces this program with the back-end's program in the child process. If that fails, writes the
 * errno to the pipe `fd`.
 */
__attribute__((noreturn))
static void become_backend(const struct vublk_chaos_backend *backend, bool last, int fd,
			   pid_t parent)
{
	const struct vublk_chaos_config *config = backend->config;
	sigset_t none;
	int code;

	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(VUBLK_EXIT_FAILED);
	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (!config->verbose) {
		dup2(backend->output_fd, STDOUT_FILENO);
		dup2(backend->output_fd, STDERR_FILENO);
	} else {
		dup2(STDERR_FILENO, STDOUT_FILENO); /* standard output is for the report */
	}
	execvpe(config->command[0], config->command, last ? environ : backend->env);
	code = errno;
	if (write(fd, &code, sizeof(code)) != sizeof(code))
		_exit(VUBLK_EXIT_FAILED);
	_exit(VUBLK_EXIT_FAILED);
}

/*
 * Waits until exec() has succeeded, which closes the pipe, or has failed. Returns 0 or the errno
 * from the pipe.
 */
static int wait_for_program(int fd)
{
	int code = 0;
	ssize_t bytes;

	do
		bytes = read(fd, &code, sizeof(code));
	while (bytes < 0 && errno == EINTR);
	close(fd);
	return bytes == sizeof(code) ? code : 0;
}

static int fork_backend(struct vublk_chaos_backend *backend, bool last)
{
	pid_t parent = getpid();
	int fds[2], code;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return errno;
	backend->pid = fork();
	if (!backend->pid)
		become_backend(backend, last, fds[1], parent);
	code = backend->pid < 0 ? errno : 0;
	close(fds[1]);
	if (code) {
		backend->pid = 0;
		close(fds[0]);
		return code;
	}
	setpgid(backend->pid, backend->pid); /* both parent and child do this, because either may
						be first */
	backend->pid_fd = (int)syscall(SYS_pidfd_open, backend->pid, 0);
	if (backend->pid_fd < 0)
		code = errno;
	else
		fcntl(backend->pid_fd, F_SETFD, FD_CLOEXEC);
	return code ? (close(fds[0]), code) : wait_for_program(fds[0]);
}

/*
 * Opens a file in memory for the back-end's output. The file is sealed, so that the output cannot
 * grow without limit. Returns 0 or an errno.
 */
static int open_output(struct vublk_chaos_backend *backend)
{
	if (backend->output_fd >= 0)
		close(backend->output_fd);
	backend->output_fd = memfd_create("output", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (backend->output_fd < 0 || ftruncate(backend->output_fd, OUTPUT_BYTES) ||
	    fcntl(backend->output_fd, F_ADD_SEALS, F_SEAL_GROW))
		return errno;
	return 0;
}

int vublk_chaos_backend_start(struct vublk_chaos_backend *backend, bool last,
			      struct vublk_error *error)
{
	const char *program = backend->config->command[0];
	int code = open_output(backend);

	if (!code)
		code = fork_backend(backend, last);
	if (!code) {
		backend->starts++;
		return 0;
	}
	if (backend->pid) {
		vublk_chaos_backend_signal(backend, SIGKILL);
		vublk_chaos_backend_reap(backend);
	}
	return vublk_cli_error_errno(error, code, "cannot start the back-end '%s'", program);
}

/* --- end ---------------------------------------------------------------------- */

void vublk_chaos_backend_signal(struct vublk_chaos_backend *backend, int number)
{
	if (backend->pid)
		kill(-backend->pid, number);
}

int vublk_chaos_backend_reap(struct vublk_chaos_backend *backend)
{
	int status = 0;

	/*
	 * Kills the children of the back-end, which could keep the back-end's files open. They must
	 * be killed before the back-end is reaped, because the process group may not exist
	 * afterwards.
	 */
	if (backend->pid_fd >= 0) {
		siginfo_t info;

		while (waitid(P_PID, (id_t)backend->pid, &info, WEXITED | WNOWAIT) < 0 &&
		       errno == EINTR)
			;
		kill(-backend->pid, SIGKILL);
		close(backend->pid_fd);
	}
	while (waitpid(backend->pid, &status, 0) < 0 && errno == EINTR)
		;
	backend->pid_fd = -1;
	backend->pid = 0;
	return status;
}

/* --- socket and output--------------------------------------------------------- */

/*
 * Returns whether the socket's file exists and is not the one of the previous check. Used only if
 * inotify is not available. Inode numbers are reused, so the times are compared as well.
 */
static bool is_another_file(struct vublk_chaos_backend *backend)
{
	struct stat before = backend->file;

	if (stat(backend->config->socket, &backend->file) < 0) {
		memset(&backend->file, 0, sizeof(backend->file));
		return false;
	}
	return before.st_ino != backend->file.st_ino ||
	       before.st_ctim.tv_sec != backend->file.st_ctim.tv_sec ||
	       before.st_ctim.tv_nsec != backend->file.st_ctim.tv_nsec;
}

bool vublk_chaos_backend_appeared(struct vublk_chaos_backend *backend)
{
	char buffer[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	const char *name = file_name(backend->config->socket);
	bool appeared = false;
	ssize_t bytes;

	if (backend->watch_fd < 0)
		return is_another_file(backend);
	while ((bytes = read(backend->watch_fd, buffer, sizeof(buffer))) > 0)
		for (ssize_t at = 0; at < bytes;) {
			const struct inotify_event *event = (const void *)(buffer + at);

			if (event->mask & IN_Q_OVERFLOW ||
			    (event->len && !strcmp(event->name, name)))
				appeared = true;
			at += (ssize_t)(sizeof(*event) + event->len);
		}
	return appeared;
}

const char *vublk_chaos_backend_last_line(const struct vublk_chaos_backend *backend,
					   char *text, size_t bytes)
{
	/*
	 * The back-end shares the file offset of this descriptor, so the offset is the end of the
	 * output.
	 */
	off_t size = lseek(backend->output_fd, 0, SEEK_CUR);
	off_t from = VUBLK_CLI_MAX(size - (off_t)bytes + 1, 0);
	ssize_t got = size > from ? pread(backend->output_fd, text, (size_t)(size - from), from) : 0;
	char *newline;

	text[VUBLK_CLI_MAX(got, 0)] = '\0';
	while (got > 0 && text[got - 1] == '\n')
		text[--got] = '\0';
	newline = strrchr(text, '\n');
	return newline ? newline + 1 : text;
}
