/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A connection with TLS: a thread that stands between the engine and libnbd, because only libnbd
 * can encrypt.
 *
 * Key idea: the thread acts as a small NBD server for wire.c, at the other end of a pair of
 * sockets. It executes each request with the functions of libnbd, and closes its socket when the
 * connection to the server ends. So the other files of the engine use connections with and without
 * TLS in the same way.
 */
#include "engines/nbd/nbd.h"

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_JOB_BYTES (UINT64_C(32) << 20) /* a bridge with this much data receives no requests */

/* A request, and the data that it sends or receives. */
struct job {
	struct nbd_bridge *bridge;
	struct job *later, **link; /* in the list of all jobs */
	struct job *next;          /* in the list of answers */
	struct nbd_request_header header;
	struct nbd_reply reply;
	size_t data_bytes;
	size_t moved_bytes; /* how many bytes of `data` were received from the engine or, in an
			       answer, sent to the engine */
	char data[];
};

struct nbd_bridge {
	pthread_t thread;
	struct nbd_handle *handle;
	int fd;
	bool is_over; /* the connection to the server or to the engine has ended */
	struct nbd_request_header header; /* of the next request */
	size_t header_bytes; /* how many bytes of `header` have arrived */
	struct job *jobs;    /* all jobs */
	struct job *incoming; /* the job whose data has not arrived completely; NULL: none */
	struct job *answers, *last_answer;
	uint64_t job_bytes;
};

static void free_job(struct job *job)
{
	*job->link = job->later;
	if (job->later)
		job->later->link = job->link;
	job->bridge->job_bytes -= job->data_bytes;
	free(job);
}

/* --- execution ---------------------------------------------------------------- */

static void answer(struct job *job, int error)
{
	struct nbd_bridge *bridge = job->bridge;

	job->reply = (struct nbd_reply){ .magic = htobe32(NBD_REPLY_MAGIC),
					 .error = htobe32((uint32_t)error),
					 .cookie = job->header.cookie };
	job->moved_bytes = 0;
	job->next = NULL;
	if (bridge->answers)
		bridge->last_answer->next = job;
	else
		bridge->answers = job;
	bridge->last_answer = job;
}

/* Called by libnbd when a command has ended. Returns 1, which makes libnbd free the command. */
static int on_command(void *opaque, int *error)
{
	struct job *job = opaque;

	if (*error == ENOTCONN || *error == ESHUTDOWN)
		job->bridge->is_over = true;
	else
		answer(job, *error);
	return 1;
}

static int64_t command(struct job *job)
{
	nbd_completion_callback done = { .callback = on_command, .user_data = job };
	struct nbd_handle *handle = job->bridge->handle;
	uint64_t offset = be64toh(job->header.offset), bytes = be32toh(job->header.bytes);
	uint32_t flags = be16toh(job->header.flags);

	switch (be16toh(job->header.command)) {
	case NBD_READ:
		return nbd_aio_pread(handle, job->data, bytes, offset, done, 0);
	case NBD_WRITE:
		return nbd_aio_pwrite(handle, job->data, bytes, offset, done, flags);
	case NBD_TRIM:
		return nbd_aio_trim(handle, bytes, offset, done, flags);
	case NBD_ZERO:
		return nbd_aio_zero(handle, bytes, offset, done, flags);
	}
	return nbd_aio_flush(handle, done, 0);
}

static void execute(struct job *job)
{
	struct nbd_bridge *bridge = job->bridge;
	int error;

	if (command(job) >= 0)
		return;
	/*
	 * libnbd has refused the command and does not call on_command(), so this function ends the
	 * job.
	 */
	error = nbd_get_errno() ? nbd_get_errno() : EIO;
	if (!nbd_aio_is_ready(bridge->handle) && !nbd_aio_is_processing(bridge->handle)) {
		bridge->is_over = true;
		return;
	}
	answer(job, error);
}

/* --- the engine's side -------------------------------------------------------- */

/*
 * Returns the number of received bytes. Returns 0 if no data has arrived, or if the engine has
 * closed its end, which also sets is_over.
 */
static size_t receive(struct nbd_bridge *bridge, void *to, size_t bytes)
{
	ssize_t n = recv(bridge->fd, to, bytes, MSG_DONTWAIT);

	if (n > 0)
		return (size_t)n;
	if (!n || (errno != EAGAIN && errno != EINTR))
		bridge->is_over = true;
	return 0;
}

static void new_job(struct nbd_bridge *bridge)
{
	uint16_t kind = be16toh(bridge->header.command);
	size_t bytes = kind == NBD_READ || kind == NBD_WRITE ? be32toh(bridge->header.bytes) : 0;
	struct job *job = calloc(1, sizeof(*job) + bytes);

	bridge->header_bytes = 0;
	if (!job) {
		bridge->is_over = true; /* the engine connects again */
		return;
	}
	job->bridge = bridge;
	job->header = bridge->header;
	job->data_bytes = bytes;
	job->later = bridge->jobs;
	job->link = &bridge->jobs;
	if (job->later)
		job->later->link = &job->later;
	bridge->jobs = job;
	bridge->job_bytes += bytes;
	if (kind == NBD_WRITE && bytes)
		bridge->incoming = job;
	else
		execute(job);
}

static void receive_requests(struct nbd_bridge *bridge)
{
	struct job *job;
	size_t n = 1;

	while (n && !bridge->is_over && bridge->job_bytes < MAX_JOB_BYTES) {
		job = bridge->incoming;
		if (job) {
			n = receive(bridge, job->data + job->moved_bytes, job->data_bytes - job->moved_bytes);
			job->moved_bytes += n;
			if (job->moved_bytes == job->data_bytes) {
				bridge->incoming = NULL;
				execute(job);
			}
			continue;
		}
		n = receive(bridge, (char *)&bridge->header + bridge->header_bytes,
			    sizeof(bridge->header) - bridge->header_bytes);
		bridge->header_bytes += n;
		if (bridge->header_bytes == sizeof(bridge->header))
			new_job(bridge);
	}
}

/* Sends the oldest answer or a part of it. Returns false if the socket has no room. */
static bool send_answer(struct nbd_bridge *bridge)
{
	struct job *job = bridge->answers;
	bool has_data = be16toh(job->header.command) == NBD_READ && !job->reply.error;
	size_t at = job->moved_bytes, all = sizeof(job->reply) + (has_data ? job->data_bytes : 0);
	const char *from = at < sizeof(job->reply) ? (const char *)&job->reply + at :
						     job->data + (at - sizeof(job->reply));
	size_t bytes = (at < sizeof(job->reply) ? sizeof(job->reply) : all) - at;
	ssize_t n = send(bridge->fd, from, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n < 0 && errno != EAGAIN && errno != EINTR)
		bridge->is_over = true;
	if (n < 0)
		return false;
	job->moved_bytes += (size_t)n;
	if (job->moved_bytes < all)
		return true;
	bridge->answers = job->next;
	free_job(job);
	return true;
}

/* --- the thread --------------------------------------------------------------- */

static void turn(struct nbd_bridge *bridge)
{
	unsigned direction = nbd_aio_get_direction(bridge->handle);
	struct pollfd fds[2] = {
		{ .fd = bridge->fd },
		{ .fd = nbd_aio_get_fd(bridge->handle) },
	};

	if (bridge->job_bytes < MAX_JOB_BYTES)
		fds[0].events |= POLLIN;
	if (bridge->answers)
		fds[0].events |= POLLOUT;
	if (direction & LIBNBD_AIO_DIRECTION_READ)
		fds[1].events |= POLLIN;
	if (direction & LIBNBD_AIO_DIRECTION_WRITE)
		fds[1].events |= POLLOUT;
	if (poll(fds, 2, -1) <= 0)
		return;
	if (direction & LIBNBD_AIO_DIRECTION_READ && fds[1].revents & (POLLIN | POLLHUP | POLLERR))
		nbd_aio_notify_read(bridge->handle);
	else if (fds[1].revents & (POLLOUT | POLLHUP | POLLERR))
		nbd_aio_notify_write(bridge->handle);
	if (nbd_aio_is_dead(bridge->handle) || nbd_aio_is_closed(bridge->handle))
		bridge->is_over = true;
	/*
	 * Without this test, a bridge whose memory is used up would not notice the end of the
	 * engine's socket, and poll() would return again and again.
	 */
	if (fds[0].revents & (POLLHUP | POLLERR))
		bridge->is_over = true;
	if (fds[0].revents & POLLIN)
		receive_requests(bridge);
	while (bridge->answers && !bridge->is_over && send_answer(bridge))
		;
}

static void *run(void *opaque)
{
	struct nbd_bridge *bridge = opaque;

	while (!bridge->is_over)
		turn(bridge);
	shutdown(bridge->fd, SHUT_RDWR);
	return NULL;
}

int vublk_nbd_bridge_new(struct nbd_handle *handle, struct nbd_bridge **result, int *fd,
			 struct vublk_error *error)
{
	struct nbd_bridge *bridge = calloc(1, sizeof(*bridge));
	int fds[2], r = ENOMEM;
	sigset_t all, before;

	if (!bridge || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds)) {
		r = bridge ? errno : ENOMEM;
		free(bridge);
		return vublk_engine_fail(error, r, "cannot create the sockets of a TLS connection: %s",
					 strerrordesc_np(r));
	}
	bridge->handle = handle;
	bridge->fd = fds[0];
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&bridge->thread, NULL, run, bridge);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r) {
		close(fds[0]);
		close(fds[1]);
		free(bridge);
		return vublk_engine_fail(error, r, "cannot start the thread of a TLS connection: %s",
					 strerrordesc_np(r));
	}
	*result = bridge;
	*fd = fds[1];
	return 0;
}

void vublk_nbd_bridge_free(struct nbd_bridge *bridge)
{
	if (!bridge)
		return;
	pthread_join(bridge->thread, NULL);
	if (!bridge->jobs)
		nbd_aio_disconnect(bridge->handle, 0);
	nbd_close(bridge->handle); /* also ends the outstanding commands, with an error */
	while (bridge->jobs)
		free_job(bridge->jobs);
	close(bridge->fd);
	free(bridge);
}
