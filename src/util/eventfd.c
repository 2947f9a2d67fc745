/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Signals and clears eventfds, most of which a peer also holds.
 *
 * Key idea: O_NONBLOCK belongs to the open file description, which the peer shares. The peer may
 * clear the flag and fill the counter at any time, so neither the flag nor poll() makes read() or
 * write() safe. RWF_NOWAIT makes a single read non-blocking. There is no such flag for a write. But
 * the completion of an asynchronous read can signal an eventfd inside the kernel, and such a signal
 * never waits. So this file begins a read of the eventfd itself, with a buffer that is too short.
 * The read fails and changes nothing, but its completion signals the eventfd.
 *
 * Such a signal costs 1.0 us, and write() costs 0.4 us. Where the difference matters, callers use
 * write(), and another thread frees a blocked writer by reading the eventfd, which makes room.
 */
#include "util/fd.h"

#include "util/atomic.h"
#include "util/error.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static const uint64_t one = 1;

int vublk_eventfd_new(void)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	return fd < 0 ? -errno : fd;
}

void vublk_eventfd_write(int fd)
{
	ssize_t n;

	do
		n = write(fd, &one, sizeof(one));
	while (n < 0 && errno == EINTR);
}

/*
 * Returns whether the errno value `code` says that RWF_NOWAIT is not supported: by the file (a
 * timerfd), or by the kernel (before Linux 5.8). In that case O_NONBLOCK must suffice.
 */
static bool is_flag_unsupported(int code)
{
	return code == EOPNOTSUPP || code == ENOSYS;
}

/*
 * Makes the system call directly, so that the result does not depend on the C library's support of
 * the flag.
 */
int vublk_eventfd_clear(int fd)
{
	uint64_t count;
	struct iovec part = { &count, sizeof(count) };
	ssize_t n;

	do
		n = syscall(SYS_preadv2, fd, &part, 1L, -1L, -1L, RWF_NOWAIT);
	while (n < 0 && errno == EINTR);
	while (n < 0 && (is_flag_unsupported(errno) || errno == EINTR))
		n = read(fd, &count, sizeof(count));
	if (n < 0 && errno != EAGAIN)
		return -errno;
	return n ? n == (ssize_t)sizeof(count) : -EPIPE;
}

bool vublk_eventfd_unblock(int fd)
{
	struct pollfd room = { .fd = fd, .events = POLLOUT };

	if (fd < 0 || poll(&room, 1, 0) < 0 || room.revents & (POLLOUT | POLLNVAL))
		return false;
	return vublk_eventfd_clear(fd) > 0;
}

/* --- signalling through the kernel ------------------------------------------------------ */

#define CONTEXT_EVENTS 64
#define MAX_TRIES 100 /* how many times to try while other threads use all events */
#define RING_MAGIC 0xa10a10a1u

/* The header of the ring that the kernel maps; see fs/aio.c in Linux. The events follow it. */
struct ring {
	uint32_t id, num_events, head, tail, magic;
};

enum { UNTRIED, READY, UNAVAILABLE };

/*
 * The asynchronous I/O context. There is one per process. It is created when it is first needed and
 * never destroyed, because its destruction takes milliseconds. Any thread may use it.
 */
static struct {
	pthread_mutex_t lock; /* held while the context is created */
	unsigned state; /* S: `context` is stored before READY, and loaded after READY */
	bool forks;     /* forget_context() has been registered for fork() */
	aio_context_t context;
} asynchronous = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* Called after fork(), in the child, because a child does not inherit the context. */
static void forget_context(void)
{
	pthread_mutex_init(&asynchronous.lock, NULL);
	vublk_store_relaxed(&asynchronous.state, UNTRIED);
}

static bool make_context(void)
{
	pthread_mutex_lock(&asynchronous.lock);
	if (vublk_load_relaxed(&asynchronous.state) == UNTRIED) {
		asynchronous.context = 0;
		if (!asynchronous.forks)
			asynchronous.forks = !pthread_atfork(NULL, NULL, forget_context);
		if (!asynchronous.forks ||
		    syscall(SYS_io_setup, CONTEXT_EVENTS, &asynchronous.context) < 0)
			vublk_store_release(&asynchronous.state, UNAVAILABLE);
		else
			vublk_store_release(&asynchronous.state, READY); /* S */
	}
	pthread_mutex_unlock(&asynchronous.lock);
	return asynchronous.state == READY;
}

static bool has_context(void)
{
	unsigned state = vublk_load_acquire(&asynchronous.state); /* S */

	return state == UNTRIED ? make_context() : state == READY;
}

/*
 * Removes the completions, which carry no information, from the ring. The load of the tail is an
 * acquire, because the kernel stores the completions before it stores the tail.
 */
static void drop_completions(void)
{
	struct ring *ring = (struct ring *)asynchronous.context;
	struct timespec now = { 0 };
	struct io_event events[8];

	if (vublk_load_relaxed(&ring->magic) == RING_MAGIC)
		vublk_store_relaxed(&ring->head, vublk_load_acquire(&ring->tail));
	else
		syscall(SYS_io_getevents, asynchronous.context, 0, 8, events, &now);
}

/*
 * Signals `fd` by an asynchronous read. Returns false if `fd` is not an eventfd, if asynchronous
 * I/O is not available, or if other threads use all events.
 */
static bool signal_by_completion(int fd)
{
	struct iocb read_nothing = {
		.aio_lio_opcode = IOCB_CMD_PREAD,
		.aio_fildes = (uint32_t)fd,
		.aio_flags = IOCB_FLAG_RESFD,
		.aio_resfd = (uint32_t)fd,
	};
	struct iocb *list = &read_nothing;
	long n = -1;

	if (!has_context())
		return false;
	for (unsigned i = 0; i < MAX_TRIES && n < 0; i++) {
		n = syscall(SYS_io_submit, asynchronous.context, 1, &list);
		if (n < 0 && errno != EAGAIN)
			return false;
		drop_completions();
	}
	return n == 1;
}

/* --- other descriptors ---------------------------------------------------------------------- */

static void take_sigpipe(const sigset_t *before)
{
	const struct timespec now = { 0 };
	sigset_t sigpipe;

	sigemptyset(&sigpipe);
	sigaddset(&sigpipe, SIGPIPE);
	if (!sigismember(before, SIGPIPE))
		sigtimedwait(&sigpipe, NULL, &now);
}

/*
 * Writes to a pipe. Suppresses SIGPIPE if the pipe has no reader, because the application might not
 * ignore it.
 */
static void signal_pipe(int fd)
{
	struct iovec part = { (void *)&one, sizeof(one) };
	sigset_t sigpipe, before;

	sigemptyset(&sigpipe);
	sigaddset(&sigpipe, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &sigpipe, &before);
	if (vmsplice(fd, &part, 1, SPLICE_F_NONBLOCK) < 0 && errno == EPIPE)
		take_sigpipe(&before);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static bool is_pipe(int fd)
{
	struct stat st;

	return !fstat(fd, &st) && S_ISFIFO(st.st_mode);
}

void vublk_eventfd_signal(int fd)
{
	struct pollfd room = { .fd = fd, .events = POLLOUT };
	int saved = errno;

	if (!signal_by_completion(fd)) {
		if (is_pipe(fd))
			signal_pipe(fd);
		else if (poll(&room, 1, 0) == 1 && room.revents & POLLOUT)
			vublk_eventfd_write(fd);
	}
	errno = saved;
}

/* --- descriptors that a peer sent -------------------------------------------------------- */

static void name_in_proc(int fd, char *path, size_t bytes)
{
	snprintf(path, bytes, "/proc/self/fd/%d", fd);
}

/*
 * Returns whether `fd` is an eventfd. If /proc is not mounted, every anonymous inode (no S_IFMT
 * bits) counts as an eventfd. A wrong guess does no harm, because write() to any other kind of
 * anonymous inode fails.
 */
static bool is_eventfd(int fd)
{
	static const char wanted[] = "anon_inode:[eventfd]";
	char path[64], target[sizeof(wanted)];
	struct stat st;
	ssize_t bytes;

	name_in_proc(fd, path, sizeof(path));
	bytes = readlink(path, target, sizeof(target));
	if (bytes < 0)
		return !fstat(fd, &st) && !(st.st_mode & S_IFMT);
	return bytes == (ssize_t)strlen(wanted) && !memcmp(target, wanted, strlen(wanted));
}

int vublk_eventfd_check(int fd, struct vublk_error *error)
{
	if (!is_eventfd(fd))
		return vublk_error_set(error, EPROTO, "the descriptor is not an eventfd");
	/* With an honest peer, this flag makes vublk_eventfd_unblock() unnecessary. */
	vublk_fd_set_nonblocking(fd);
	return 0;
}

int vublk_callfd_check(int *fd, struct vublk_error *error)
{
	char path[64];
	int own;

	if (!is_pipe(*fd))
		return vublk_eventfd_check(*fd, error);
	name_in_proc(*fd, path, sizeof(path));
	own = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	if (own < 0)
		return vublk_error_set_errno(error, errno, "the descriptor is a pipe that cannot "
					     "be opened for writing without blocking");
	vublk_fd_close(fd);
	*fd = own;
	return 0;
}
