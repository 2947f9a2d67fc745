/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One attempt to connect with libnbd, which negotiates the export and TLS.
 *
 * Key idea: a call of libnbd can block without a limit, because libnbd waits for the resolver of
 * names, and does not return while a server sends without a pause. So a thread makes these calls,
 * and the engine waits for the thread only until a deadline, or until the engine must end. Then the
 * engine shuts down the socket, which normally ends the thread. If the thread still does not end,
 * the engine begins no other attempt. If the engine is closed before the thread ends, the thread
 * frees the attempt itself.
 */
#include "engines/nbd/nbd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define END_MS 100 /* how long the thread may take to end */

struct nbd_attempt {
	pthread_t thread;
	char *uri;
	int done_fd, cancel_fd; /* eventfds */

	/* used by the thread, and by the caller when the thread has ended */
	struct nbd_handle *handle;
	int result;    /* 0 or a negative errno */
	char why[256]; /* why the attempt has failed */

	pthread_mutex_t lock;
	int socket;        /* a duplicate of the handle's socket; -1: none */
	bool has_ended;    /* the thread has stopped using the attempt, unless is_abandoned */
	bool is_abandoned; /* the engine is closed, so the thread frees the attempt */
};

static struct nbd_handle *new_handle(void)
{
	struct nbd_handle *handle = nbd_create();

	if (!handle)
		return NULL;
	nbd_set_uri_allow_local_file(handle, true); /* permits tls-psk-file=FILE */
	/*
	 * wire.c understands neither structured replies nor extended headers. libnbd asks for
	 * extended headers only if it asks for structured replies, so this call turns off both.
	 */
	nbd_set_request_structured_replies(handle, false);
	return handle;
}

static void free_attempt(struct nbd_attempt *attempt)
{
	nbd_close(attempt->handle); /* NULL is a no-op */
	if (attempt->socket >= 0)
		close(attempt->socket);
	if (attempt->done_fd >= 0)
		close(attempt->done_fd);
	if (attempt->cancel_fd >= 0)
		close(attempt->cancel_fd);
	pthread_mutex_destroy(&attempt->lock);
	free(attempt->uri);
	free(attempt);
}

/* --- the thread --------------------------------------------------------------- */

/* Lets the engine shut down the socket. libnbd may use another socket for each address of a name. */
static void share_socket(struct nbd_attempt *attempt)
{
	pthread_mutex_lock(&attempt->lock);
	if (attempt->socket >= 0)
		close(attempt->socket);
	attempt->socket = fcntl(nbd_aio_get_fd(attempt->handle), F_DUPFD_CLOEXEC, 0);
	pthread_mutex_unlock(&attempt->lock);
}

static int turn(struct nbd_attempt *attempt)
{
	unsigned direction = nbd_aio_get_direction(attempt->handle);
	struct pollfd fds[2] = {
		{ .fd = attempt->cancel_fd, .events = POLLIN },
		{ .fd = nbd_aio_get_fd(attempt->handle) },
	};

	if (direction & LIBNBD_AIO_DIRECTION_READ)
		fds[1].events |= POLLIN;
	if (direction & LIBNBD_AIO_DIRECTION_WRITE)
		fds[1].events |= POLLOUT;
	share_socket(attempt);
	if (poll(fds, 2, -1) <= 0)
		return 0;
	if (fds[0].revents)
		return -ECANCELED;
	if (direction & LIBNBD_AIO_DIRECTION_READ && fds[1].revents & (POLLIN | POLLHUP | POLLERR))
		nbd_aio_notify_read(attempt->handle);
	else
		nbd_aio_notify_write(attempt->handle);
	return 0;
}

static int handshake(struct nbd_attempt *attempt)
{
	int r = 0;

	if (nbd_aio_connect_uri(attempt->handle, attempt->uri) < 0)
		return nbd_get_errno() ? -nbd_get_errno() : -EIO;
	while (!r && nbd_aio_is_connecting(attempt->handle))
		r = turn(attempt);
	if (r)
		return r;
	return nbd_aio_is_ready(attempt->handle) ? 0 : -ECONNREFUSED;
}

static void *run(void *opaque)
{
	struct nbd_attempt *attempt = opaque;
	bool is_abandoned;

	attempt->result = handshake(attempt);
	if (attempt->result) /* libnbd keeps its last error per thread, so get it here */
		snprintf(attempt->why, sizeof(attempt->why), "%s",
			 nbd_get_error() ? nbd_get_error() : strerrordesc_np(-attempt->result));
	pthread_mutex_lock(&attempt->lock);
	attempt->has_ended = true;
	is_abandoned = attempt->is_abandoned;
	eventfd_write(attempt->done_fd, 1);
	pthread_mutex_unlock(&attempt->lock);
	if (is_abandoned)
		free_attempt(attempt);
	return NULL;
}

/* --- the engine's side -------------------------------------------------------- */

static struct nbd_attempt *new_attempt(const char *uri)
{
	struct nbd_attempt *attempt = calloc(1, sizeof(*attempt));

	if (!attempt)
		return NULL;
	attempt->socket = -1;
	pthread_mutex_init(&attempt->lock, NULL);
	attempt->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	attempt->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	attempt->uri = strdup(uri);
	attempt->handle = new_handle();
	if (attempt->done_fd >= 0 && attempt->cancel_fd >= 0 && attempt->uri && attempt->handle)
		return attempt;
	free_attempt(attempt);
	return NULL;
}

static int start(struct nbd_engine *engine, struct vublk_error *error)
{
	struct nbd_attempt *attempt = new_attempt(engine->uri);
	sigset_t all, before;
	int r;

	if (!attempt)
		return vublk_engine_fail(error, ENOMEM, "cannot allocate memory to connect to the NBD "
					 "server at %s", engine->uri);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&attempt->thread, NULL, run, attempt);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r) {
		free_attempt(attempt);
		return vublk_engine_fail(error, r, "cannot start a thread that connects to the NBD "
					 "server at %s: %s", engine->uri, strerrordesc_np(r));
	}
	engine->connector.attempt = attempt;
	return 0;
}

/* Waits until the thread has ended. */
static int wait_for_end(struct nbd_engine *engine, int timeout_ms)
{
	int64_t end = vublk_nbd_now_ms() + timeout_ms, left = timeout_ms;
	int r = 0;

	for (; left > 0 && !r; left = end - vublk_nbd_now_ms()) {
		if (vublk_nbd_connector_wait(engine, engine->connector.attempt->done_fd, POLLIN,
					     (int)left))
			return 0;
		r = vublk_nbd_connector_check(engine);
	}
	return r ? r : -ETIMEDOUT;
}

/* Joins the thread, which is about to end. The returned attempt belongs to the caller. */
static struct nbd_attempt *take(struct nbd_engine *engine)
{
	struct nbd_attempt *attempt = engine->connector.attempt;

	pthread_join(attempt->thread, NULL);
	engine->connector.attempt = NULL;
	return attempt;
}

/* Makes the thread end. Keeps the attempt if the thread does not end soon. */
static void cancel(struct nbd_engine *engine)
{
	struct nbd_attempt *attempt = engine->connector.attempt;
	struct pollfd done = { .fd = attempt->done_fd, .events = POLLIN };

	eventfd_write(attempt->cancel_fd, 1);
	pthread_mutex_lock(&attempt->lock);
	if (attempt->socket >= 0)
		shutdown(attempt->socket, SHUT_RDWR);
	pthread_mutex_unlock(&attempt->lock);
	if (poll(&done, 1, END_MS) > 0)
		free_attempt(take(engine));
}

void vublk_nbd_attempt_abandon(struct nbd_engine *engine)
{
	struct nbd_attempt *attempt = engine->connector.attempt;
	bool has_ended;

	if (!attempt)
		return;
	pthread_mutex_lock(&attempt->lock);
	has_ended = attempt->has_ended;
	attempt->is_abandoned = !has_ended;
	if (!has_ended)
		pthread_detach(attempt->thread);
	pthread_mutex_unlock(&attempt->lock);
	if (has_ended)
		free_attempt(take(engine));
	engine->connector.attempt = NULL;
}

static int refuse(const struct nbd_engine *engine, int r, const char *why,
		  struct vublk_error *error)
{
	if (r == -EINTR)
		return vublk_engine_fail(error, EINTR, "interrupted while connecting to the NBD server "
					 "at %s", engine->uri);
	return vublk_engine_fail(error, -r, "cannot connect to the NBD server at %s: %s", engine->uri,
				 why);
}

/* Waits until a cancelled attempt has ended. A no-op if no attempt is pending. */
static int wait_for_last(struct nbd_engine *engine, int timeout_ms, struct vublk_error *error)
{
	int r = 0;

	if (!engine->connector.attempt)
		return 0;
	r = wait_for_end(engine, timeout_ms);
	if (r)
		return refuse(engine, r, "the previous attempt still runs, because the name server does "
			      "not answer or the NBD server sends without a pause", error);
	free_attempt(take(engine));
	return 0;
}

/* Returns the result of an attempt that has ended, and its handle if it has succeeded. */
static int finish(struct nbd_engine *engine, struct nbd_handle **handle, struct vublk_error *error)
{
	struct nbd_attempt *attempt = take(engine);
	int r = attempt->result;

	if (r) {
		refuse(engine, r, attempt->why, error);
	} else {
		*handle = attempt->handle;
		attempt->handle = NULL;
	}
	free_attempt(attempt);
	return r;
}

int vublk_nbd_attempt(struct nbd_engine *engine, int timeout_ms, struct nbd_handle **handle,
		      struct vublk_error *error)
{
	int r = wait_for_last(engine, timeout_ms, error);

	if (!r)
		r = start(engine, error);
	if (r)
		return r;
	r = wait_for_end(engine, timeout_ms);
	if (r) {
		cancel(engine);
		return refuse(engine, r, strerrordesc_np(-r), error);
	}
	return finish(engine, handle, error);
}
